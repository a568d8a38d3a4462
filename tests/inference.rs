//! A gateway of the real binary that scores events with real models: by HTTP and MQTT, while versions are switched, and
//! when a model is no model. `cargo test --features inference --test inference`.

#![cfg(feature = "inference")]
#![allow(clippy::unwrap_used)] // a test

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::central::key;
use support::mqtt::{Client, Options};
use support::ports::free_port;
use support::process::Tidegate;
use tidegate::config::EdgeConfig;
use tidegate::config::edge::Lane;
use tidegate::event::{Event, record};
use tidegate::models::hash::Hash;
use tidegate::models::manifest::{Format, Manifest, Name};
use tidegate::models::store::active::Active;
use tidegate::observe::metrics::Metrics;
use tidegate::outbox::Outbox;
use tidegate::sys::clock::Clock;

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");
const SOON: Duration = Duration::from_secs(60);

/// Signs models.
const ARTEFACT: u8 = 2;

const SECTIONS: &str = r#"
[[mapping]]
topic = "devices/{device}/telemetry"
type = "press.telemetry"
content_type = "application/json"

[[inference]]
model = "anomaly"
types = ["*.telemetry"]
fields = ["/a", "/b"]
alarm_above = 10
alarm_type = "press.alarm"
latency_max = "5s"

[[lane]]
name = "alarms"
types = ["*.alarm"]
[[lane]]
name = "telemetry"
"#;

struct Gateway {
    process: Tidegate,
    mqtt: SocketAddr,
    dir: tempfile::TempDir,
}

/// Puts a version among the models, signed, as the store does when it is whole.
fn put(data: &Path, version: u64, model: &[u8]) {
    let dir = data.join("models/anomaly").join(version.to_string());
    let manifest = Manifest {
        name: Name::parse("anomaly").unwrap(),
        version,
        format: Format::Onnx,
        size: model.len() as u64,
        blake3: Hash::of(model),
        parent: None,
        metadata: BTreeMap::new(),
    };
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("model"), model).unwrap();
    fs::write(dir.join("manifest"), manifest.sign(&key(ARTEFACT)).unwrap().encode()).unwrap();
}

/// Leads a link to a version, as the store does.
fn switch(data: &Path, link: &str, version: u64) {
    let dir = data.join("models/anomaly");
    symlink(version.to_string(), dir.join("new")).unwrap();
    fs::rename(dir.join("new"), dir.join(link)).unwrap();
}

fn model(name: &str) -> Vec<u8> {
    fs::read(Path::new("tests/models").join(name)).unwrap()
}

impl Gateway {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mqtt = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let keys = format!(
            "[downlink]\nartefact_keys = [\"{}\"]\ncontroller_keys = [\"{}\"]\n",
            key(ARTEFACT).public(),
            key(3).public()
        );
        let config =
            format!("[node]\nid = \"edge\"\ndata_dir = {data:?}\n[mqtt]\nlisten = \"{mqtt}\"\n{keys}{SECTIONS}");
        // A start proves what is in use, the version before, and the one beside it: only what is proven is run.
        put(&data, 1, &model("sum.onnx"));
        put(&data, 2, &model("one-row.onnx"));
        put(&data, 3, b"no model");
        put(&data, 4, &model("sum.onnx"));
        let active = Active { current: Some(1), previous: Some(2), before: None };
        fs::write(data.join("models/anomaly/active"), active.encode()).unwrap();
        switch(&data, "current", 1);
        switch(&data, "shadow", 3);
        let mut process = Tidegate::start(Path::new(BINARY), "edge", dir.path(), &config);
        process.wait_ready(SOON);
        // Nothing is waited for: a gateway that is ready scores.
        Self { process, mqtt, dir }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn post(&self, id: &str, a: f32, b: f32) {
        let body = format!(
            "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"urn:test\",\"type\":\"press.telemetry\",\
             \"subject\":\"press\",\"data\":{{\"a\":{a},\"b\":{b}}}}}"
        );
        let url = format!("{}/v1/events", self.process.url());
        ureq::post(&url).header("content-type", "application/cloudevents+json").send(body).unwrap();
    }

    fn wait_said(&mut self, what: &str) {
        self.process.wait_for(what, SOON, |process| process.log().contains(what));
    }

    async fn stop(&mut self) -> (Vec<Event>, Vec<Event>) {
        assert_eq!(self.process.terminate(SOON), Some(0), "{}", self.process.log_tail());
        (read(&self.data(), "telemetry").await, read(&self.data(), "alarms").await)
    }
}

async fn read(data: &Path, lane: &str) -> Vec<Event> {
    let mut config = EdgeConfig::default();
    config.node.data_dir = data.to_owned();
    config.lanes = vec![Lane { name: lane.to_owned(), types: Vec::new(), mqtt: Vec::new() }];
    let outbox = Outbox::open(&config, &Clock::system(), &Metrics::default()).unwrap();
    let last = outbox.status()[0].last;
    let mut reader = outbox.reader(lane).unwrap();
    let mut events = Vec::new();
    while (events.len() as u64) < last {
        let stored = reader.read(events.len() as u64 + 1, 1 << 20).await.unwrap();
        events.extend(stored.iter().map(|s| record::decode(&s.record).unwrap().0.to_event()));
    }
    outbox.close().await;
    events
}

fn attribute<'e>(event: &'e Event, name: &str) -> Option<&'e str> {
    event.extensions.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_every_way_in_are_scored_and_an_alarm_is_made_once() {
    let mut gateway = Gateway::start();
    gateway.post("h-1", 1.0, 2.5);
    for _ in 0..3 {
        gateway.post("h-2", 20.0, 1.0);
    }
    let mut client = Client::connect(gateway.mqtt, Options::new("press")).await;
    let mut ids = Vec::new();
    for i in 0..20 {
        ids.push(client.publish("devices/press/telemetry", format!("{{\"a\":{i},\"b\":0.5}}"), 1).await);
    }
    for id in ids {
        client.puback(id).await;
    }
    client.publish_and_wait("devices/press/telemetry", "no JSON").await;

    switch(&gateway.data(), "shadow", 2);
    gateway.wait_said("version=2");
    gateway.post("h-3", 1.0, 1.0);
    let refused = |process: &Tidegate| {
        let log = process.log();
        log.lines().any(|line| line.contains("a model is not used") && line.contains("current"))
    };
    assert!(!refused(&gateway.process));
    switch(&gateway.data(), "current", 3);
    gateway.process.wait_for("a model is not used", SOON, refused);
    gateway.post("h-4", 2.0, 2.0);
    // Signed, and a model, and not proven by this process: it is not even tried.
    switch(&gateway.data(), "current", 4);
    tokio::time::sleep(Duration::from_secs(2)).await;
    gateway.post("h-5", 3.0, 3.0);

    let (telemetry, alarms) = gateway.stop().await;
    let of = |id: &str| telemetry.iter().find(|event| event.id == id).unwrap();
    assert_eq!((attribute(of("h-1"), "tgmodel"), attribute(of("h-1"), "tgscore")), (Some("anomaly@1"), Some("3.5")));
    assert_eq!(attribute(of("h-3"), "tgshadowmodel"), Some("anomaly@2"));
    assert_eq!(attribute(of("h-3"), "tgshadowscore"), Some("2"));
    assert_eq!(attribute(of("h-4"), "tgmodel"), Some("anomaly@1"), "what cannot be loaded is not used");
    assert_eq!(attribute(of("h-5"), "tgmodel"), Some("anomaly@1"), "what is not proven is not used");
    let mqtt: Vec<&Event> = telemetry.iter().filter(|event| event.source.contains("/mqtt/")).collect();
    let expected: Vec<String> = (0..20).map(|i| format!("{}", i as f32 + 0.5)).collect();
    let scores: Vec<_> = mqtt.iter().filter_map(|event| attribute(event, "tgscore")).collect();
    assert_eq!(scores, expected, "in the order in which they came");
    assert_eq!(mqtt.len(), 21, "what cannot be scored is stored as well");
    // h-2 once, though it was sent three times; of MQTT those with 10 and more.
    assert_eq!(alarms.len(), 1 + 10, "{alarms:?}");
    assert!(alarms.iter().all(|alarm| alarm.ty == "press.alarm" && alarm.subject.as_deref() == Some("press")));
    let sources: BTreeSet<&str> = alarms.iter().map(|alarm| alarm.source.as_str()).collect();
    assert_eq!(sources, BTreeSet::from(["/nodes/edge/models/anomaly"]));
}
