//! Gateways, as far as the cloud sees them: each reads its inbox, judges it with the real code, and says what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate::cloud::control::wire::{Cluster, Heard, Outgoing, Writer, follow};
use tidegate::downlink::artefact::{Accepted, Digest, Offer, SecretKey, Situation, Trust, judge};
use tidegate::downlink::report::{NodeReport, Outcome, Running, What};
use tidegate::pulsar::names;
use tidegate::sys::clock::Clock;
use tidegate::sys::tasks::Tasks;
use tokio::sync::mpsc;

/// A document with this in it is one that no gateway can keep.
pub const BAD: &str = "max_batch = 666";

/// How often a gateway says that it is there.
const PRESENT_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default)]
pub struct Gateway {
    pub online: bool,
    /// It has nobody's keys.
    pub distrusts: bool,
    pub groups: Vec<String>,
    pub accepted: Accepted,
    pub committed: Running0,
    /// Every number that it decided, with what it brought.
    pub decided: Vec<(u64, Option<u64>, &'static str)>,
    pub refused: Vec<String>,
    /// What came while it was away: only the newest counts.
    waiting: Option<Vec<u8>>,
}

/// [`Running`] with a default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Running0 {
    pub epoch: u64,
    pub number: u64,
    pub version: Option<u64>,
    sha256: Option<tidegate::downlink::artefact::Digest>,
}

pub struct Fleet {
    tasks: Tasks,
    trust: Trust,
    tenant: String,
    gateways: Arc<Mutex<BTreeMap<String, Gateway>>>,
    reports: mpsc::UnboundedSender<NodeReport>,
    /// Disks that were replaced: gateways that speak with another key than at first.
    replaced: Arc<Mutex<BTreeSet<String>>>,
    cluster: Cluster,
}

/// The key of a gateway, or of the one whose disk was replaced.
pub fn key_of(node: &str, is_replaced: bool) -> SecretKey {
    SecretKey::from_seed(&Digest::of(format!("{node} {is_replaced}").as_bytes()).bytes()).unwrap()
}

impl Fleet {
    pub fn start(cluster: &Cluster, tenant: &str, trust: Trust) -> Self {
        let tasks = Tasks::new();
        let topic = names::reports_topic(tenant);
        let (writer, work) = Writer::new(cluster.clone(), topic, Clock::system(), tasks.stopping().clone());
        tasks.spawn_contained("reports", work);
        let (reports, mut sends) = mpsc::unbounded_channel::<NodeReport>();
        let replaced = Arc::new(Mutex::new(BTreeSet::<String>::new()));
        let of = replaced.clone();
        tasks.spawn_contained("reporter", async move {
            while let Some(report) = sends.recv().await {
                let is_replaced = of.lock().unwrap().contains(&report.node);
                let payload = report.message(Some(&key_of(&report.node, is_replaced)));
                let message = Outgoing { key: report.node, properties: Vec::new(), payload: payload.into() };
                // A gateway repeats it until it has the receipt.
                while writer.write(message.clone()).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        });
        let gateways = Arc::new(Mutex::new(BTreeMap::new()));
        Self { tasks, trust, tenant: tenant.to_owned(), gateways, reports, replaced, cluster: cluster.clone() }
    }

    /// Gateways of this group appear.
    pub fn install(&self, names: impl IntoIterator<Item = String>, group: &str) {
        for name in names {
            let gateway = Gateway { online: true, groups: vec![group.to_owned()], ..Gateway::default() };
            self.gateways.lock().unwrap().insert(name.clone(), gateway);
            self.run(name);
        }
    }

    fn run(&self, name: String) {
        let (gateways, reports, trust) = (self.gateways.clone(), self.reports.clone(), self.trust.clone());
        let of = name.clone();
        let heard = move |heard| {
            let Heard::Message(entry) = heard else { return };
            assert_eq!(entry.key.as_deref(), Some(&*of), "a message of somebody else");
            let mut gateways = gateways.lock().unwrap();
            let gateway = gateways.get_mut(&of).unwrap();
            gateway.waiting = entry.payload;
            take(gateway, &of, &trust, &reports);
        };
        let topic = names::inbox_topic(&self.tenant, &name);
        let inbox = follow(self.cluster.clone(), topic, self.tasks.stopping().clone(), heard);
        self.tasks.spawn_contained("inbox", inbox);
        let (gateways, reports, stop) = (self.gateways.clone(), self.reports.clone(), self.tasks.stopping().clone());
        self.tasks.spawn_contained("presence", async move {
            while !stop.is_cancelled() {
                let gateway = gateways.lock().unwrap()[&name].clone();
                if gateway.online {
                    let present = What::Present { uptime_s: 1, next_s: 1, lanes: Vec::new(), models: Vec::new() };
                    let _ = reports.send(report(&name, &gateway, present));
                }
                let _ = tokio::time::timeout(PRESENT_EVERY, stop.cancelled()).await;
            }
        });
    }

    /// The link of these gateways is cut, or comes back.
    pub fn online(&self, names: &[&str], online: bool) {
        let mut gateways = self.gateways.lock().unwrap();
        for name in names {
            let gateway = gateways.get_mut(*name).unwrap();
            gateway.online = online;
            take(gateway, name, &self.trust, &self.reports);
        }
    }

    /// Another disk: the gateway makes another key.
    pub fn replace_disk(&self, name: &str) {
        self.replaced.lock().unwrap().insert(name.to_owned());
    }

    /// This gateway's keys are not those of the others.
    pub fn distrusts(&self, name: &str) {
        self.gateways.lock().unwrap().get_mut(name).unwrap().distrusts = true;
    }

    pub fn all(&self) -> BTreeMap<String, Gateway> {
        self.gateways.lock().unwrap().clone()
    }

    /// How many run the document of this version.
    pub fn running(&self, version: Option<u64>) -> usize {
        self.gateways.lock().unwrap().values().filter(|g| g.committed.version == version).count()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

fn take(gateway: &mut Gateway, name: &str, trust: &Trust, reports: &mpsc::UnboundedSender<NodeReport>) {
    if !gateway.online {
        return;
    }
    let Some(bytes) = gateway.waiting.take() else { return };
    let nobody = Trust::default();
    let trust = if gateway.distrusts { &nobody } else { trust };
    let situation = Situation { node: name, trust, accepted: gateway.accepted, now: None };
    let offer = match judge(&bytes, &situation).state {
        Ok(offer) => offer,
        Err(refusal) => {
            gateway.refused.push(refusal.code().to_owned());
            if refusal.is_news() {
                let what = What::Refused { reason: refusal.code().to_owned(), detail: refusal.to_string() };
                let _ = reports.send(report(name, gateway, what));
            }
            return;
        }
    };
    let Offer { assignment, document, accepted } = offer;
    assert!(assignment.at() > gateway.accepted.at(), "numbers only grow");
    gateway.accepted = accepted;
    let version = document.as_ref().map(|document| document.version);
    let works = document.as_ref().is_none_or(|document| !document.text.contains(BAD));
    let (outcome, reason) = match works {
        true => (Outcome::Committed, ""),
        false => (Outcome::Reverted, "not-connected"),
    };
    if works {
        let sha256 = document.as_ref().map(|document| document.sha256);
        gateway.committed = Running0 { epoch: assignment.epoch, number: assignment.number, version, sha256 };
    }
    gateway.decided.push((assignment.number, version, if works { "committed" } else { "reverted" }));
    let (seq, epoch, number) = (gateway.decided.len() as u64, assignment.epoch, assignment.number);
    let what = What::Decided { seq, epoch, number, outcome, reason: reason.to_owned(), detail: String::new() };
    let _ = reports.send(report(name, gateway, what));
}

pub fn report(name: &str, gateway: &Gateway, what: What) -> NodeReport {
    NodeReport {
        node: name.to_owned(),
        incarnation: "00ff".into(),
        at_ms: None,
        software: "test".into(),
        groups: gateway.groups.clone(),
        committed: Running {
            epoch: gateway.committed.epoch,
            number: gateway.committed.number,
            sha256: gateway.committed.sha256,
        },
        trial: None,
        accepted: Some(gateway.accepted.at()),
        what,
    }
}
