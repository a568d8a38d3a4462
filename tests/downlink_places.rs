//! Where a pushed document sends a gateway's events, and when it is taken back: with two clusters that both take events,
//! and an address that dies after its document was committed.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use support::broker::Broker;
use support::central::{Central, Decided};
use support::count::count;
use support::ports::free_ports;
use support::proxy::Proxy;
use support::tried::Node;
use tidegate::downlink::report::Outcome;

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");
const SOON: Duration = Duration::from_secs(90);

/// One gateway, and a proxy before its broker.
struct Site {
    broker: Arc<Broker>,
    proxy: Proxy,
    central: Central,
    node: Node,
}

impl Site {
    async fn start(tenant: &str, confirm: &str, more: &str) -> Self {
        let broker = tokio::task::spawn_blocking(Broker::shared).await.unwrap();
        let central = Central::start(&broker, tenant, &[tenant]).await;
        let trusted = central.keys.trusted(confirm);
        let url = broker.service_url();
        let [port] = free_ports();
        let proxy = Proxy::start(port, url.rsplit_once(':').unwrap().1.parse().unwrap());
        let own =
            format!("{trusted}{more}[uplink]\npulsar = [\"{url}\"]\ntenant = \"{tenant}\"\nretry_max = \"500ms\"\n");
        let node = Node::start(Path::new(BINARY), tenant, &own);
        Self { broker, proxy, central, node }
    }

    /// Of the proxy.
    fn url(&self) -> String {
        format!("pulsar://127.0.0.1:{}", self.proxy.port())
    }

    async fn push(&mut self, document: &str) -> u64 {
        self.central.push(&self.node.name, document).await
    }

    async fn outcome(&mut self, number: u64) -> (Outcome, String, String) {
        let name = self.node.name.clone();
        let decided = self.central.wait_report(&name, number, || self.node.alive()).await;
        (decided.outcome, decided.reason, decided.detail)
    }

    fn topic(&self) -> String {
        format!("persistent://{}/telemetry/telemetry", self.node.name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_to_no_cluster_that_has_not_assigned_them() {
    let other = tokio::task::spawn_blocking(Broker::start);
    let mut site = Site::start("places-two", "30s", "").await;
    let other = other.await.unwrap();
    // As staging and production: it takes everything.
    let _theirs = Central::start(&other, "places-two", &["places-two"]).await;
    let device = site.node.device();
    let (ours, theirs) = (site.url(), other.service_url());

    // The control link comes through, the lanes do not at first: there is another address, which would take them.
    site.proxy.let_through(&[true, false, false, false, false]);
    let both = site.push(&format!("[uplink]\npulsar = [\"{ours}\", \"{theirs}\"]\n")).await;
    let (outcome, _, detail) = site.outcome(both).await;
    assert_eq!((outcome, site.proxy.refused()), (Outcome::Committed, 4), "{detail}");

    // Nor after a start, when the control link has to go elsewhere first.
    site.node.process.kill9();
    site.proxy.cut();
    site.proxy.let_through(&[false; 6]);
    site.node.restart();
    let through = || site.proxy.refused();
    support::eventually("connections that are refused", SOON, through, |refused| *refused == 10).await;

    // In the other order the control link has to find out which one is ours.
    let turned = site.push(&format!("[uplink]\npulsar = [\"{theirs}\", \"{ours}\"]\n")).await;
    let (outcome, _, detail) = site.outcome(turned).await;
    assert_eq!(outcome, Outcome::Committed, "{detail}");
    let before = device.accepted();
    support::eventually("a hundred events more", SOON, || device.accepted(), |n| *n > before + 100).await;

    let accepted = device.stop();
    site.node.process.wait_drained(SOON);
    let counted = count(&site.broker.service_url(), &site.topic());
    assert_eq!((counted.distinct, counted.missing), (counted.messages, 0), "{counted:?}");
    assert!(counted.messages >= accepted && accepted > 100, "{accepted} accepted, {counted:?}");
    let elsewhere = count(&theirs, &site.topic());
    assert_eq!(elsewhere.messages, 0, "{elsewhere:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_document_whose_address_dies_is_taken_back() {
    let mut site = Site::start("places-dead", "20s", "lost_after = \"5s\"\n").await;
    let device = site.node.device();
    let ours = site.url();
    // Everything is proven, and then the address is given up.
    let first = site.push("[http]\nmax_batch = 7\n").await;
    assert_eq!(site.outcome(first).await.0, Outcome::Committed);
    let doomed = site.push(&format!("[uplink]\npulsar = [\"{ours}\"]\n[http]\nmax_batch = 8\n")).await;
    assert_eq!(site.outcome(doomed).await.0, Outcome::Committed);
    let limit = |node: &Node| node.process.get("/v1/status").unwrap()["limits"]["batch_events_max"].as_u64();
    assert_eq!(limit(&site.node), Some(8));
    site.proxy.close();
    site.node.power_cut();

    // The document before has the own file's address.
    let decisions = || site.central.decisions(&site.node.name, doomed).into_iter().last();
    let is_taken_back = |last: &Option<Decided>| last.as_ref().is_some_and(|last| last.outcome == Outcome::Fallback);
    let last = support::eventually("a fallback", SOON, decisions, is_taken_back).await.unwrap();
    assert_eq!(
        (last.outcome, last.reason.as_str(), last.committed),
        (Outcome::Fallback, "link-lost", first),
        "{last:?}"
    );
    assert!(last.detail.contains(&site.proxy.port().to_string()), "{last:?}");
    assert_eq!(limit(&site.node), Some(7));

    // It is remembered, events arrive, and the next document is taken.
    site.node.power_cut();
    assert_eq!((site.node.record().committed.number, limit(&site.node)), (first.into(), Some(7)));
    let next = site.push("[http]\nmax_batch = 9\n").await;
    assert_eq!(site.outcome(next).await.0, Outcome::Committed);
    let accepted = device.stop();
    site.node.process.wait_drained(SOON);
    let counted = count(&site.broker.service_url(), &site.topic());
    assert_eq!((counted.distinct, counted.missing), (counted.messages, 0), "{counted:?}");
    assert!(counted.messages >= accepted && accepted > 0, "{accepted} accepted, {counted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_at_the_start_are_taken_up_when_they_can_be() {
    let mut site = Site::start("places-later", "20s", "").await;
    let committed = site.push("[http]\nmax_batch = 7\n").await;
    assert_eq!(site.outcome(committed).await.0, Outcome::Committed);
    let (pushed, away) = (site.node.pushed(), site.node.pushed().with_extension("away"));
    site.node.process.kill9();
    std::fs::rename(&pushed, &away).unwrap();
    std::fs::write(&pushed, "no directory").unwrap();
    site.node.restart();
    let limit = |node: &Node| node.process.get("/v1/status").unwrap()["limits"]["batch_events_max"].as_u64();
    assert_ne!(limit(&site.node), Some(7), "the own file runs");
    assert_eq!(site.node.status()["open"], false);
    // It comes while nothing can be taken.
    let next = site.push("[http]\nmax_batch = 8\n").await;
    std::fs::remove_file(&pushed).unwrap();
    std::fs::rename(&away, &pushed).unwrap();
    assert_eq!(site.outcome(next).await.0, Outcome::Committed);
    let record = site.node.record();
    assert_eq!(
        (record.committed.number, record.previous.map(|before| before.number)),
        (next.into(), Some(committed.into()))
    );
    assert_eq!(limit(&site.node), Some(8));

    // What cannot be stored is told once, and taken when it can be.
    std::fs::create_dir(pushed.join("accepted.new")).unwrap();
    let waits = site.push("[http]\nmax_batch = 9\n").await;
    let name = site.node.name.clone();
    site.central.wait_refused(&name, "not-stored", || site.node.alive()).await;
    std::fs::remove_dir(pushed.join("accepted.new")).unwrap();
    assert_eq!(site.outcome(waits).await.0, Outcome::Committed);
    let told = site.central.refused(&name).iter().filter(|reason| *reason == "not-stored").count();
    assert_eq!(told, 1);
}
