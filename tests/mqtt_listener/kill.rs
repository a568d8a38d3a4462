//! What survives kill -9 of the process.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::mqtt::{Client, Options, Reply};
use crate::support::ports::free_port;
use crate::support::process::Tidegate;
use crate::support::setting;

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");
const READY: Duration = Duration::from_secs(30);

pub struct Edge {
    pub process: Tidegate,
    pub mqtt: SocketAddr,
    pub dir: TempDir,
}

impl Edge {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mqtt = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = format!(
            "[node]\ndata_dir = {:?}\n[mqtt]\nlisten = \"{mqtt}\"\nhttp_topic = \"http/{{device}}/{{type}}\"\n[[mapping]]\ntopic = \"site/#\"\nupstream = false\n",
            dir.path().join("data")
        );
        let mut process = Tidegate::start(Path::new(BINARY), "edge", dir.path(), &config);
        process.wait_ready(READY);
        Self { process, mqtt, dir }
    }

    fn kill9_and_restart(&mut self) {
        self.process.kill9();
        self.process.restart();
        self.process.wait_ready(READY);
    }

    async fn connect(&self, options: Options) -> Client {
        Client::connect(self.mqtt, options).await
    }

    fn stored(&self) -> u64 {
        self.process.get("/v1/status").unwrap()["lanes"][0]["last_seq"].as_u64().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_2_is_stored_once_whenever_the_process_is_killed() {
    let mut edge = Edge::start();
    let rounds = setting("TIDEGATE_TEST_KILL_ROUNDS", 6);
    for round in 1..=rounds {
        let mut client = edge.connect(Options::new("a").stays()).await;
        let publish = client.publish_bytes("devices/d/r", b"1", 2, false, false, 9);
        client.write(&publish).await;
        // Before, while and after it is stored.
        tokio::time::sleep(Duration::from_micros(300 * (round - 1))).await;
        edge.kill9_and_restart();
        let mut client = edge.connect(Options::new("a").stays()).await;
        let again = client.publish_bytes("devices/d/r", b"1", 2, false, true, 9);
        client.write(&again).await;
        assert!(matches!(client.next().await, Reply::Pubrec { id: 9, reason: 0 | 0x10, .. }));
        assert_eq!(edge.stored(), round, "sent twice, stored once");
        // Received and not yet released: also that survives.
        edge.kill9_and_restart();
        let mut client = edge.connect(Options::new("a").stays()).await;
        assert!(client.present);
        client.write(&again).await;
        assert!(matches!(client.next().await, Reply::Pubrec { id: 9, reason: 0 | 0x10, .. }));
        client.answer(0x62, 9).await;
        assert_eq!(client.next().await, Reply::Pubcomp { id: 9, reason: 0 });
        assert_eq!(edge.stored(), round);
        client.disconnect().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_queued_and_subscribed_survive() {
    let mut edge = Edge::start();
    let mut client = edge.connect(Options::new("a").stays()).await;
    client.subscribe("site/#", 1).await;
    client.disconnect().await;
    let mut other = edge.connect(Options::new("b")).await;
    for n in 0..20 {
        other.publish_and_wait("site/x", n.to_string()).await;
    }
    let id = other.retain("site/state", "kept").await;
    other.puback(id).await;
    edge.kill9_and_restart();
    let mut client = edge.connect(Options::new("a").stays()).await;
    assert!(client.present);
    for n in 0..20 {
        let message = client.next().await;
        assert_eq!(message.payload(), n.to_string().as_bytes());
        let Reply::Publish { id, .. } = message else { panic!("not a message") };
        client.answer(0x40, id).await;
    }
    assert_eq!(client.next().await.payload(), b"kept", "queued as well");
    let mut fresh = edge.connect(Options::new("c")).await;
    fresh.subscribe("site/state", 0).await;
    assert!(matches!(fresh.next().await, Reply::Publish { retain: true, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_will_of_a_lasting_session_is_published_after_the_process_was_killed() {
    let mut edge = Edge::start();
    let mut witness = edge.connect(Options::new("witness").stays()).await;
    witness.subscribe("devices/#", 1).await;
    let _client = edge.connect(Options::new("a").stays().will("devices/a/state", "gone")).await;
    edge.kill9_and_restart();
    let mut witness = edge.connect(Options::new("witness").stays()).await;
    assert!(witness.present);
    assert_eq!(witness.next().await.payload(), b"gone");
    let mut process = edge.process;
    process.wait_for("to store the will", READY, |p| p.backlog() == Some(1));
}
