//! Where a pushed document sends a gateway's events, and when it is taken back: with two clusters that both take events,
//! and an address that dies after its document was committed.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use support::broker::{Broker, free_ports};
use support::central::Central;
use support::count::count;
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
