//! Central operations without the cloud mode: keys, signed inbox messages and commands straight into Pulsar, and what all
//! gateways report.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use pulsar::consumer::InitialPosition;
use tidegate::downlink::artefact::{
    Assignment, Command, Digest, DocumentRef, Envelope, Keyring, Kind, Message, ModelAssigned, SecretKey,
};
use tidegate::downlink::report::{Claim, ModelOutcome, NodeReport, Outcome, What};
use tidegate::event::Timestamp;
use tidegate::pulsar::names;
use tidegate::sys::clock::Clock;
use tidegate::sys::tasks::Tasks;

use super::broker::Broker;
use super::provision;
use super::pulsar_client::{Client, client, send};

/// Longer than anything takes on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Who signs what.
pub struct Keys {
    pub root: SecretKey,
    pub artefact: SecretKey,
    pub controller: SecretKey,
}

/// Key number `n`: the same in every test.
pub fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32]).unwrap()
}

impl Keys {
    /// Whom all gateways of the tests trust.
    pub fn usual() -> Self {
        Self { root: key(1), artefact: key(2), controller: key(3) }
    }

    /// `[downlink]` of a gateway that trusts these keys.
    pub fn trusted(&self, confirm: &str) -> String {
        let [root, artefact, controller] =
            [&self.root, &self.artefact, &self.controller].map(|key| key.public().to_string());
        format!(
            "[downlink]\nroots = [\"{root}\"]\nartefact_keys = [\"{artefact}\"]\ncontroller_keys = [\"{controller}\"]\n\
             confirm = \"{confirm}\"\n"
        )
    }
}

/// Now, `seconds` later.
pub fn in_seconds(seconds: i64) -> Timestamp {
    Timestamp::from_unix_ms(Clock::system().unix_ms() + seconds * 1000)
}

/// A decision as it was reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    pub number: u64,
    pub outcome: Outcome,
    pub reason: String,
    pub detail: String,
    /// What the gateway said that it runs.
    pub committed: u64,
}

/// See the module. One per tenant.
pub struct Central {
    client: Client,
    tenant: String,
    pub keys: Keys,
    numbers: BTreeMap<String, u64>,
    heard: Arc<Mutex<Vec<NodeReport>>>,
    tasks: Tasks,
}

impl Central {
    /// Provisions `tenant` and listens to its gateways, which are called `nodes`.
    pub async fn start(broker: &Broker, tenant: &str, nodes: &[&str]) -> Self {
        let mut config = provision::config_for(broker, tenant);
        config.lanes.push(tidegate::config::cloud::Lane { name: "alarms".into(), ..config.lanes[0].clone() });
        tokio::task::spawn_blocking(move || provision::provision(&config, false).unwrap()).await.unwrap();
        // Whatever the namespace says about topics that are not there.
        let mine =
            nodes.iter().flat_map(|node| [names::inbox_topic(tenant, node), names::commands_topic(tenant, node)]);
        for topic in mine.chain([names::reports_topic(tenant)]) {
            broker.admin("PUT", &topic.replace("persistent://", "persistent/"), "");
        }
        let client = client(&broker.service_url()).await;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let options = pulsar::ConsumerOptions::default().with_initial_position(InitialPosition::Earliest);
        let mut reports: pulsar::Consumer<Vec<u8>, _> = client
            .consumer()
            .with_topic(names::reports_topic(tenant))
            .with_subscription("central")
            .with_subscription_type(pulsar::SubType::Exclusive)
            .with_options(options)
            .build()
            .await
            .unwrap();
        let kept = heard.clone();
        let tasks = Tasks::new();
        let stopping = tasks.stopping().clone();
        tasks.spawn_contained("reports of gateways", async move {
            while let Some(Some(Ok(message))) = stopping.run_until_cancelled(reports.next()).await {
                let claim = Claim::of(&message.payload.data).expect("a gateway proves what it reports");
                assert!(claim.is_proven());
                let report = serde_json::from_slice(claim.report).unwrap();
                kept.lock().unwrap().push(report);
                let _ = reports.ack(&message).await;
            }
        });
        let (tenant, numbers) = (tenant.to_owned(), BTreeMap::new());
        Self { client, tenant, keys: Keys::usual(), numbers, heard, tasks }
    }

    /// Assigns `document` (TOML without `[document]`) to `node`, everything as it should be. The assignment's number.
    pub async fn push(&mut self, node: &str, document: &str) -> u64 {
        let number = self.next(node);
        let message = self.message(node, number, Some(document));
        self.send(node, message.encode()).await;
        number
    }

    /// Assigns the gateway's own file alone.
    pub async fn push_own_file(&mut self, node: &str) -> u64 {
        let number = self.next(node);
        let message = self.message(node, number, None);
        self.send(node, message.encode()).await;
        number
    }

    /// Assigns models beside the gateway's own file. The assignment's number.
    pub async fn push_models(&mut self, node: &str, models: Vec<ModelAssigned>) -> u64 {
        let number = self.next(node);
        self.send(node, self.models_message(node, number, models)).await;
        number
    }

    /// The message that assigns models by this number.
    pub fn models_message(&self, node: &str, number: u64, models: Vec<ModelAssigned>) -> String {
        let assignment = Assignment { models, ..assignment(node, number, None) };
        let assignment = assignment.to_envelope().signed_by(&self.keys.controller);
        Message { keyring: None, assignment, document: None }.encode()
    }

    /// What `node` has reported of version `version` by assignment `number`: outcome and reason, in order, each once.
    pub fn model(&self, node: &str, number: u64, version: u64) -> Vec<(ModelOutcome, String)> {
        let mut told = BTreeMap::new();
        for report in self.reports(node) {
            if let What::Model { seq, number: n, version: v, outcome, reason, .. } = report.what
                && (n, v) == (number, version)
            {
                told.insert(seq, (outcome, reason));
            }
        }
        told.into_values().collect()
    }

    /// Waits for what becomes of it in the end.
    pub async fn wait_model(
        &self,
        node: &str,
        (number, version): (u64, u64),
        alive: impl FnMut() -> String,
    ) -> (ModelOutcome, String) {
        let last = || self.model(node, number, version).pop().filter(|(outcome, _)| *outcome != ModelOutcome::Fetched);
        self.wait(&format!("what becomes of version {version} by assignment {number}"), alive, last).await
    }

    /// The next number for `node`; used up.
    pub fn next(&mut self, node: &str) -> u64 {
        let number = self.numbers.entry(node.to_owned()).or_default();
        *number += 1;
        *number
    }

    /// A message that is in order, to be spoiled by a test.
    pub fn message(&self, node: &str, number: u64, document: Option<&str>) -> Message {
        let text = document.map(|text| versioned(text, number));
        let assignment = assignment(node, number, text.as_deref());
        Message {
            keyring: None,
            assignment: assignment.to_envelope().signed_by(&self.keys.controller),
            document: text.map(|text| document_envelope(&text).signed_by(&self.keys.artefact)),
        }
    }

    /// Puts `message` into the inbox of `node`, whatever it is.
    pub async fn send(&self, node: &str, message: String) {
        self.put(&names::inbox_topic(&self.tenant, node), node, message).await;
    }

    /// A keyring that is in order.
    pub fn keyring(&self, version: u64, revoked: &[&SecretKey]) -> Envelope {
        let keyring = Keyring {
            version,
            epoch: 0,
            issued_at: in_seconds(0),
            artefact_keys: Vec::new(),
            controller_keys: Vec::new(),
            revoked: revoked.iter().map(|key| key.public().id()).collect(),
        };
        keyring.to_envelope().signed_by(&self.keys.root)
    }

    /// Sends a command, signed by `key`.
    pub async fn command(&self, command: &Command, key: &SecretKey) {
        let envelope = command.to_envelope().signed_by(key);
        let topic = names::commands_topic(&self.tenant, &command.node);
        self.put(&topic, &command.node, envelope.encode()).await;
    }

    async fn put(&self, topic: &str, key: &str, message: String) {
        // Producers count from 0 again: in a namespace with deduplication each needs a name of its own.
        let name = format!("central-{}", uuid::Uuid::new_v4());
        send(&self.client, topic, &name, &[(key.to_owned(), message)]).await;
    }

    /// The data of events of `lane`, from the first one on, until one has `wanted` in it.
    pub async fn event(&self, lane: &str, wanted: &str) -> String {
        let options = pulsar::ConsumerOptions::default().with_initial_position(InitialPosition::Earliest);
        let mut events: pulsar::Consumer<Vec<u8>, _> = self
            .client
            .consumer()
            .with_topic(names::lane_topic(&self.tenant, lane))
            .with_subscription(format!("look-{}", uuid::Uuid::new_v4()))
            .with_subscription_type(pulsar::SubType::Exclusive)
            .with_options(options)
            .build()
            .await
            .unwrap();
        let found = async {
            loop {
                let message = events.next().await.unwrap().unwrap();
                let data = String::from_utf8_lossy(&message.payload.data).into_owned();
                if data.contains(wanted) {
                    return data;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no event with {wanted}"))
    }

    /// All that `node` has reported.
    pub fn reports(&self, node: &str) -> Vec<NodeReport> {
        self.heard.lock().unwrap().iter().filter(|report| report.node == node).cloned().collect()
    }

    /// What `node` has reported of assignment `number`, repetitions left out.
    pub fn decided(&self, node: &str, number: u64) -> Option<Decided> {
        self.decisions(node, number).into_iter().next()
    }

    /// All that was decided of it, as often as it was told.
    pub fn decisions(&self, node: &str, number: u64) -> Vec<Decided> {
        let decided = self.reports(node).into_iter().filter_map(|report| match report.what {
            What::Decided { number: of, outcome, reason, detail, .. } if of == number => {
                Some(Decided { number, outcome, reason, detail, committed: report.committed.number })
            }
            _ => None,
        });
        decided.collect()
    }

    /// Reasons for which `node` has refused messages and commands.
    pub fn refused(&self, node: &str) -> Vec<String> {
        let refused = self.reports(node).into_iter().filter_map(|report| match report.what {
            What::Refused { reason, .. } => Some(reason),
            _ => None,
        });
        refused.collect()
    }

    /// Waits for what becomes of assignment `number`. `alive` is called now and then, and may fail the test.
    pub async fn wait_report(&self, node: &str, number: u64, alive: impl FnMut() -> String) -> Decided {
        self.wait(&format!("the report of assignment {number}"), alive, || self.decided(node, number)).await
    }

    /// Waits until `node` has refused something for `reason`.
    pub async fn wait_refused(&self, node: &str, reason: &str, alive: impl FnMut() -> String) {
        let refused = || self.refused(node).contains(&reason.to_owned()).then_some(());
        self.wait(&format!("a refusal: {reason}"), alive, refused).await;
    }

    async fn wait<T>(&self, what: &str, mut alive: impl FnMut() -> String, done: impl Fn() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = done() {
                return found;
            }
            let log = alive();
            assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Central {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

/// `document` with its version.
pub fn versioned(document: &str, version: u64) -> String {
    format!("{document}\n[document]\nversion = {version}\n")
}

/// The document's envelope, not signed.
pub fn document_envelope(text: &str) -> Envelope {
    Envelope::new(Kind::Config, text.as_bytes().to_vec())
}

/// An assignment of the document `text`, whose version is its number.
pub fn assignment(node: &str, number: u64, text: Option<&str>) -> Assignment {
    Assignment {
        node: node.to_owned(),
        epoch: 0,
        number,
        issued_at: in_seconds(0),
        expires_at: None,
        document: text.map(|text| DocumentRef { sha256: Digest::of(text.as_bytes()), version: number }),
        models: Vec::new(),
        reason: "a test".to_owned(),
        by: "anna".to_owned(),
    }
}
