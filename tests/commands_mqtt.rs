//! Commands and configurations for devices that speak MQTT, with the real binary: retained until they are answered, also
//! across kill -9, and answered by a message.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use support::mqtt::{Client, Options, Reply};
use support::ports::free_port;
use support::process::Tidegate;

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");
const SOON: Duration = Duration::from_secs(30);

struct Edge {
    process: Tidegate,
    mqtt: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Edge {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mqtt = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let data = dir.path().join("data");
        let config = format!("[node]\ndata_dir = {data:?}\n\n[mqtt]\nlisten = \"{mqtt}\"\n");
        let mut process = Tidegate::start(Path::new(BINARY), "edge", dir.path(), &config);
        process.wait_ready(SOON);
        Self { process, mqtt, _dir: dir }
    }

    fn send(&self, command: &Value) {
        let url = format!("{}/v1/devices/d/commands", self.process.url());
        let sent = ureq::post(&url).header("content-type", "application/json").send(command.to_string()).unwrap();
        assert_eq!(sent.status(), 201);
    }

    fn state(&self, id: &str) -> String {
        let path = format!("/v1/devices/d/commands/{id}?wait=10s");
        self.process.get(&path).unwrap()["state"].as_str().unwrap().to_owned()
    }

    async fn listen(&self, options: Options) -> Client {
        let mut client = Client::connect(self.mqtt, options).await;
        client.subscribe("devices/d/commands/+", 1).await;
        client
    }
}

/// The next message: topic and payload. It is acknowledged.
async fn next(client: &mut Client) -> (String, String) {
    match client.next().await {
        Reply::Publish { topic, payload, id, .. } => {
            client.answer(0x40, id).await;
            (topic, String::from_utf8(payload).unwrap())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_gets_its_commands_whenever_it_comes_and_answers_by_a_message() {
    let mut edge = Edge::start();
    edge.send(&json!({ "id": "early", "name": "open", "data": { "valve": 3 } }));
    edge.process.kill9();
    edge.process.restart();
    edge.process.wait_ready(SOON);
    let mut device = edge.listen(Options::new("device")).await;
    let early = ("devices/d/commands/early".to_owned(), "{\"valve\":3}".to_owned());
    assert_eq!(next(&mut device).await, early);
    edge.send(&json!({ "id": "late", "name": "reboot" }));
    assert_eq!(next(&mut device).await, ("devices/d/commands/late".into(), "null".into()));
    // Not answered yet: it comes again to who comes again, in the old protocol as well.
    let mut old = edge.listen(Options::v311("old")).await;
    let mut found = [next(&mut old).await.0, next(&mut old).await.0];
    found.sort();
    assert_eq!(found, ["devices/d/commands/early", "devices/d/commands/late"]);
    device.publish_and_wait("devices/d/commands/early/result", r#"{"status":"failed","detail":"stuck"}"#).await;
    assert_eq!(edge.state("early"), "failed", "it was over before it was acknowledged");
    old.publish_and_wait("devices/d/commands/late/result", "").await;
    assert_eq!(edge.state("late"), "done");
    // What is not known or not understood is acknowledged: a repetition would help nobody.
    old.publish_and_wait("devices/d/commands/none/result", "").await;
    old.publish_and_wait("devices/d/commands/late/result", "done!").await;
    edge.process.wait_for("to have two results", SOON, |p| p.backlog() == Some(2));
    edge.process.kill9();
    edge.process.restart();
    edge.process.wait_ready(SOON);
    let mut again = edge.listen(Options::new("again")).await;
    assert!(again.within(Duration::from_millis(500)).await.is_none(), "what was answered is not retained");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_retained_until_it_is_another_one() {
    let edge = Edge::start();
    let url = format!("{}/v1/devices/d/config", edge.process.url());
    let put = |text: &str| ureq::put(&url).header("content-type", "text/plain").send(text.to_owned()).unwrap();
    put("rate = 1");
    let mut device = Client::connect(edge.mqtt, Options::new("device")).await;
    device.subscribe("devices/d/config", 1).await;
    assert_eq!(next(&mut device).await, ("devices/d/config".into(), "rate = 1".into()));
    put("rate = 2");
    assert_eq!(next(&mut device).await.1, "rate = 2");
    assert_eq!(ureq::delete(&url).call().unwrap().status(), 204);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut other = Client::connect(edge.mqtt, Options::new("other")).await;
    other.subscribe("devices/d/config", 1).await;
    assert!(other.within(Duration::from_millis(300)).await.is_none());
}

/// Another implementation reads the properties.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_5_0_is_told_name_id_type_and_expiry() {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::Packet;
    use rumqttc::v5::{AsyncClient, Event, MqttOptions};

    let edge = Edge::start();
    edge.send(&json!({ "id": "a", "name": "open", "data": { "valve": 3 }, "expires_in": "1h" }));
    let (client, mut events) = AsyncClient::new(MqttOptions::new("device", "127.0.0.1", edge.mqtt.port()), 10);
    client.subscribe("devices/d/commands/+", QoS::AtLeastOnce).await.unwrap();
    let message = loop {
        let event = tokio::time::timeout(SOON, events.poll()).await.unwrap().unwrap();
        if let Event::Incoming(Packet::Publish(message)) = event {
            break message;
        }
    };
    let properties = message.properties.unwrap();
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    let left = properties.message_expiry_interval.unwrap();
    assert!((3500..=3600).contains(&left), "{left}");
    let user = |name: &str| properties.user_properties.iter().find(|(n, _)| n == name).unwrap().1.clone();
    assert_eq!((user("id"), user("name")), ("a".to_owned(), "open".to_owned()));
    assert!(user("expires").ends_with('Z'));
}

/// Found by a client that stayed away for five restarts and got six copies.
#[tokio::test(flavor = "multi_thread")]
async fn an_absent_session_gets_a_command_and_a_configuration_once_however_often_the_gateway_starts() {
    let mut edge = Edge::start();
    let mut device = edge.listen(Options::new("device").stays()).await;
    device.subscribe("devices/d/config", 1).await;
    device.disconnect().await;
    edge.send(&json!({ "id": "a", "name": "open", "data": 1 }));
    let url = format!("{}/v1/devices/d/config", edge.process.url());
    ureq::put(&url).header("content-type", "text/plain").send("rate = 1").unwrap();
    for restart in 0..4 {
        // Until both are published: a fresh client finds them.
        for topic in ["devices/d/commands/+", "devices/d/config"] {
            let mut fresh = Client::connect(edge.mqtt, Options::new("fresh")).await;
            fresh.subscribe(topic, 1).await;
            next(&mut fresh).await;
        }
        // A little later that is on disk.
        tokio::time::sleep(Duration::from_millis(500)).await;
        if restart % 2 == 0 {
            edge.process.kill9();
        } else {
            edge.process.terminate(SOON).unwrap();
        }
        edge.process.restart();
        edge.process.wait_ready(SOON);
    }
    let mut device = Client::connect(edge.mqtt, Options::new("device").stays()).await;
    assert!(device.present);
    let mut found = [next(&mut device).await, next(&mut device).await];
    found.sort();
    assert_eq!(found.map(|(topic, _)| topic), ["devices/d/commands/a", "devices/d/config"]);
    assert_eq!(device.within(Duration::from_millis(500)).await, None, "one copy only");
    // What changes is told.
    ureq::put(&url).header("content-type", "text/plain").send("rate = 2").unwrap();
    assert_eq!(next(&mut device).await.1, "rate = 2");
}
