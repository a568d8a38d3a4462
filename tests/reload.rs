//! A running gateway whose configuration changes, with the real binary and a real broker: what can take effect at a
//! SIGHUP does, connections stay, and no event is lost on the way.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::broker::Broker;
use support::count::count;
use support::mosquitto::Mosquitto;
use support::mqtt::{Client, Options};
use support::ports::free_port;
use support::process::Tidegate;
use support::provision;

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");
const SOON: Duration = Duration::from_secs(60);

struct Edge {
    process: Tidegate,
    mqtt: SocketAddr,
    file: PathBuf,
    head: String,
    dir: tempfile::TempDir,
}

impl Edge {
    fn start(rest: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mqtt = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let head =
            format!("[node]\nid = \"hot\"\ndata_dir = {:?}\n[mqtt]\nlisten = \"{mqtt}\"\n", dir.path().join("data"));
        let mut process = Tidegate::start(Path::new(BINARY), "edge", dir.path(), &format!("{head}{rest}"));
        process.wait_ready(SOON);
        let file = dir.path().join("edge.toml");
        assert!(file.exists(), "the file that is changed is the one that is read");
        // What the harness has added stays.
        let head = std::fs::read_to_string(&file).unwrap().replace(rest, "");
        Self { process, mqtt, file, head, dir }
    }

    /// Writes the file anew, asks for it to be read, and waits until the log says so.
    fn reload(&mut self, rest: &str, said: &str) {
        std::fs::write(&self.file, format!("{}{rest}", self.head)).unwrap();
        self.hang_up(said);
    }

    fn hang_up(&mut self, said: &str) {
        let before = self.process.log().matches(said).count();
        let pid = Pid::from_raw(self.process.pid().unwrap() as i32).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
        self.process.wait_for(said, SOON, |process| process.log().matches(said).count() > before);
    }

    fn post(&self, device: &str, ty: &str, n: u32) -> serde_json::Value {
        let url = format!("{}/v1/devices/{device}/events?type={ty}", self.process.url());
        let mut answer =
            ureq::post(&url).header("content-type", "application/json").send(format!("{{\"n\":{n}}}")).unwrap();
        answer.body_mut().read_json().unwrap()
    }

    fn lane(&self, name: &str) -> serde_json::Value {
        let status = self.process.get("/v1/status").unwrap();
        let lanes = status["lanes"].as_array().unwrap();
        lanes.iter().find(|lane| lane["name"] == name).unwrap_or(&serde_json::Value::Null).clone()
    }
}

/// `[[lane]]` and `[uplink]`.
fn config(lanes: &str, url: &str, tenant: &str) -> String {
    format!("{lanes}[uplink]\npulsar = [\"{url}\"]\ntenant = \"{tenant}\"\nretry_max = \"1s\"\n")
}

const ONE: &str = "[[lane]]\nname = \"telemetry\"\n";
const TWO: &str =
    "[[lane]]\nname = \"alarms\"\ntypes = [\"*.alarm\"]\nmqtt = [\"+/alarm\"]\n[[lane]]\nname = \"telemetry\"\n";
/// Nothing listens there.
const NOWHERE: &str = "pulsar://127.0.0.1:9";
const RELOADED: &str = "configuration reloaded";
const WRONG: &str = "the configuration is wrong; the one before stays in effect";

#[tokio::test(flavor = "multi_thread")]
async fn lanes_mappings_and_the_uplink_change_under_connections_that_stay() {
    let broker = Broker::shared();
    let tenant = "reload";
    let mut cloud = provision::config_for(&broker, tenant);
    cloud.lanes.push(tidegate::config::cloud::Lane { name: "alarms".into(), ..cloud.lanes[0].clone() });
    provision::provision(&cloud, false).unwrap();
    let url = broker.service_url();
    let topic = |lane: &str| format!("persistent://{tenant}/telemetry/{lane}");

    let mut edge = Edge::start(&config(ONE, NOWHERE, tenant));
    let mut client = Client::connect(edge.mqtt, Options::new("stays")).await;
    client.publish_and_wait("d/alarm", "{}").await;
    assert_eq!(edge.post("d", "fire.alarm", 1)["lane"], "telemetry");
    assert_eq!(edge.lane("telemetry")["backlog_events"], 2);

    // Another broker: what waits goes there.
    edge.reload(&config(ONE, &url, tenant), RELOADED);
    edge.process.wait_drained(SOON);

    // Another lane: new events of its types and topics go there, at once and over the same connection.
    edge.reload(&config(TWO, &url, tenant), RELOADED);
    client.publish_and_wait("d/alarm", "{}").await;
    assert_eq!(edge.post("d", "fire.alarm", 2)["lane"], "alarms");
    assert_eq!(edge.post("d", "reading", 3)["lane"], "telemetry");
    edge.process.wait_drained(SOON);

    // A mistake changes nothing and says what it is.
    edge.reload(&config(TWO, &url, tenant).replace("retry_max", "retry_mux"), WRONG);
    assert!(edge.process.log().contains("retry_mux"), "{}", edge.process.log_tail());
    assert_eq!(edge.post("d", "fire.alarm", 4)["lane"], "alarms");

    // What needs a restart is named, the rest takes effect.
    let local = config(TWO, &url, tenant)
        + "[[mapping]]\ntopic = \"local/#\"\nupstream = false\n[outbox]\ndedup_window = \"30s\"\n";
    edge.reload(&local, "outbox.dedup_window");
    client.publish_and_wait("local/alarm", "{}").await;
    edge.process.wait_drained(SOON);

    // The lane is gone, its backlog is not: neither at once nor after a kill -9.
    edge.reload(&config(TWO, NOWHERE, tenant), RELOADED);
    assert_eq!(edge.post("d", "fire.alarm", 5)["lane"], "alarms");
    edge.reload(&config(ONE, NOWHERE, tenant), RELOADED);
    assert_eq!(edge.post("d", "fire.alarm", 6)["lane"], "telemetry");
    assert_eq!(edge.lane("alarms")["backlog_events"], 1);
    edge.process.kill9();
    edge.process.restart();
    edge.process.wait_ready(SOON);
    assert_eq!(edge.lane("alarms")["backlog_events"], 1);
    edge.reload(&config(ONE, &url, tenant), RELOADED);
    edge.process.wait_drained(SOON);
    edge.process.terminate(SOON);

    for (lane, events) in [("telemetry", 4), ("alarms", 4)] {
        let counted = count(&url, &topic(lane));
        assert_eq!((counted.messages, counted.distinct, counted.missing), (events, events, 0), "{lane}");
    }
    drop(edge.dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_level_follows_and_a_bridge_comes_and_goes() {
    let mosquitto = Mosquitto::start();
    let mut edge = Edge::start("[log]\nlevel = \"warn\"\n");
    assert!(!edge.process.log().contains("edge started"));
    let bridge = |topic: &str| {
        let url = format!("mqtt://127.0.0.1:{}", mosquitto.port());
        format!("[log]\nlevel = \"info\"\n[[bridge]]\nname = \"plc\"\nurl = \"{url}\"\ntopics = [\"{topic}\"]\n")
    };
    edge.reload(&bridge("a/#"), RELOADED);
    let connected = |process: &Tidegate| process.get("/v1/status").unwrap()["bridges"]["plc"]["connected"] == true;
    edge.process.wait_for("a bridge", SOON, connected);
    mosquitto.publish(&["-q", "1", "-t", "a/x", "-m", "1"]);
    edge.process.wait_for("an event", SOON, |process| process.backlog() == Some(1));
    edge.reload(&bridge("b/#"), RELOADED);
    edge.process.wait_for("the other bridge", SOON, connected);
    mosquitto.publish(&["-q", "1", "-t", "b/x", "-m", "2"]);
    edge.process.wait_for("an event", SOON, |process| process.backlog() == Some(2));
    edge.reload("[log]\nlevel = \"info\"\n", RELOADED);
    let status = edge.process.get("/v1/status").unwrap();
    assert!(status["bridges"].get("plc").is_none(), "{status}");
}
