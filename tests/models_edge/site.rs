//! A gateway of the real binary, and whoever assigns models to it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tidegate::downlink::artefact::{Mode, ModelAssigned};
use tidegate::downlink::report::{ModelOutcome, NodeReport, What};

use crate::support::broker::{Broker, Options};
use crate::support::central::Central;
use crate::support::models::Version;
use crate::support::process::run;
use crate::support::pulsar_client::{Client, client};
use crate::support::tried::Node;

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

/// Longer than anything takes on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(60);

pub const MIB: usize = 1 << 20;

/// A gateway, the broker that is shared by all tests of this file, and central operations.
pub struct Site {
    pub broker: Arc<Broker>,
    pub client: Client,
    pub central: Central,
    pub node: Node,
}

/// One for all: to start one takes longer than most tests. All of it goes through its proxy, which one of them makes slow.
static BROKER: Mutex<Weak<Broker>> = Mutex::new(Weak::new());

fn broker() -> Arc<Broker> {
    let mut shared = BROKER.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let broker = Arc::new(Broker::start_with(Options { proxied: true, ..Options::default() }));
        *shared = Arc::downgrade(&broker);
        broker
    })
}

impl Site {
    pub async fn start(tenant: &str, more: &str) -> Self {
        let broker = tokio::task::spawn_blocking(broker).await.unwrap();
        let central = Central::start(&broker, tenant, &[tenant]).await;
        let (downlink, url) = (central.keys.trusted("20s"), broker.service_url());
        let own = format!("{downlink}{more}[uplink]\npulsar = [\"{url}\"]\ntenant = \"{tenant}\"\n");
        let node = Node::start(Path::new(BINARY), tenant, &own);
        let client = client(&url).await;
        Self { broker, client, central, node }
    }

    pub fn version(&self, name: &str, version: u64, file: Vec<u8>, kept: &[&Version]) -> Version {
        Version::new(&self.central.keys.artefact, name, version, file, kept)
    }

    /// All that was told of a version by one assignment, with what is for people.
    pub fn told(&self, number: u64, version: u64) -> Vec<(ModelOutcome, String, String)> {
        let of = |report: NodeReport| match report.what {
            What::Model { seq, number: n, version: v, outcome, reason, detail, .. } if (n, v) == (number, version) => {
                Some((seq, (outcome, reason, detail)))
            }
            _ => None,
        };
        let told: BTreeMap<u64, _> = self.central.reports(&self.node.name).into_iter().filter_map(of).collect();
        told.into_values().collect()
    }

    /// Runs `tidegate model …` as an operator on the gateway does: exit code, output, errors.
    pub fn cli(&self, what: &[&str]) -> (i32, String, String) {
        let file = self.node.file().display().to_string();
        run(Path::new(BINARY), &[&["model"], what, &["--config", &file]].concat())
    }

    pub async fn publish(&self, version: &Version) {
        version.publish(&self.broker, &self.client, &self.node.name).await;
    }

    pub async fn assign(&mut self, models: Vec<ModelAssigned>) -> u64 {
        self.central.push_models(&self.node.name, models).await
    }

    pub async fn outcome(&mut self, number: u64, version: &Version) -> (ModelOutcome, String) {
        let name = self.node.name.clone();
        self.central.wait_model(&name, (number, version.version), || self.node.alive()).await
    }

    /// Publishes, assigns, and waits for what becomes of it.
    pub async fn try_out(&mut self, version: &Version) -> (ModelOutcome, String) {
        self.publish(version).await;
        let number = self.assign(vec![version.assigned(Mode::Active)]).await;
        self.outcome(number, version).await
    }

    /// What programs see of a model.
    pub fn current(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.node.models().join(name).join("current/model")).ok()
    }
}

/// In use and well.
pub fn active() -> (ModelOutcome, String) {
    (ModelOutcome::Active, String::new())
}
