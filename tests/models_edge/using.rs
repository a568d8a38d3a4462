//! What becomes of models that are well, of one that is not, and of the way back.

use std::fs;
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde_json::{Value, json};
use tidegate::downlink::artefact::Mode;
use tidegate::downlink::report::{ModelOutcome, NodeReport, What};

use crate::site::{MIB, SOON, Site, active};
use crate::support::eventually;
use crate::support::models::{messages_out, noise};
use crate::support::mqtt;

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_fetched_told_of_and_used_and_one_that_is_not_well_is_undone() {
    let dir = tempfile::tempdir().unwrap();
    let heard = dir.path().join("heard");
    let hook = format!("echo $TIDEGATE_MODEL_NAME $TIDEGATE_MODEL_VERSION >> {}", heard.display());
    let model = format!(
        "[[model]]\nname = \"anomaly\"\nhook = [\"/bin/sh\", \"-c\", {hook:?}]\n\
         health = [\"/bin/sh\", \"-c\", \"! grep -q BROKEN $TIDEGATE_MODEL_PATH\"]\nhealth_timeout = \"3s\"\n"
    );
    let mut site = Site::start("models-used", &model).await;
    let heard = || fs::read_to_string(&heard).unwrap_or_default();

    let one = site.version("anomaly", 1, noise(1, 3 * MIB), &[]);
    assert_eq!(site.try_out(&one).await, active());
    assert!(site.current("anomaly").as_ref() == Some(&one.file));
    assert_eq!(heard(), "anomaly 1\n");

    // A change of it costs what has changed.
    let mut file = one.file.clone();
    file[MIB..MIB + 1000].copy_from_slice(&noise(2, 1000));
    let two = site.version("anomaly", 2, file, &[&one]);
    assert!(two.messages.len() <= 3, "{}", two.messages.len());
    assert_eq!(site.try_out(&two).await, active());
    assert!(site.current("anomaly").as_ref() == Some(&two.file));
    assert!(messages_out(&site.broker, &one.topic(&site.node.name)) <= one.messages.len() as u64);

    // An operator on the gateway goes back, and central operations forth again.
    let begun = Instant::now();
    let (code, out, err) = site.cli(&["rollback", "anomaly"]);
    println!("rollback on a running gateway: {:?}, with the start of the command", begun.elapsed());
    assert_eq!((code, out.as_str()), (0, "version 1 of anomaly is in use\n"), "{err}\n{}", site.node.alive());
    assert!(site.current("anomaly").as_ref() == Some(&one.file));
    let (code, _, err) = site.cli(&["rollback", "anomaly"]);
    assert!(code == 75 && err.contains("no version before"), "{code} {err}");
    eventually("the hook", SOON, heard, |heard| heard == "anomaly 1\nanomaly 2\nanomaly 1\n").await;
    let number = site.assign(vec![two.assigned(Mode::Active)]).await;
    assert_eq!(site.outcome(number, &two).await, active());
    assert!(messages_out(&site.broker, &two.topic(&site.node.name)) <= two.messages.len() as u64);
    let (_, out, _) = site.cli(&["status"]);
    assert!(out.lines().nth(1).is_some_and(|line| line.starts_with("anomaly  2       1")), "{out}");

    // One that is not well.
    let mut file = two.file.clone();
    file[..6].copy_from_slice(b"BROKEN");
    let three = site.version("anomaly", 3, file, &[&one, &two]);
    assert_eq!(site.try_out(&three).await, (ModelOutcome::Reverted, "unhealthy".to_owned()));
    assert!(site.current("anomaly").as_ref() == Some(&two.file));
    assert!(heard().ends_with("anomaly 1\nanomaly 2\nanomaly 3\nanomaly 2\n"), "{}", heard());

    // Beside the one in use, and off.
    let number = site.assign(vec![two.assigned(Mode::Active), one.assigned(Mode::Shadow)]).await;
    assert_eq!(site.outcome(number, &one).await, (ModelOutcome::Shadowing, String::new()));
    let shadow = || fs::read(site.node.models().join("anomaly/shadow/model")).ok();
    assert!(shadow().as_ref() == Some(&one.file) && site.current("anomaly").as_ref() == Some(&two.file));
    assert_eq!((site.outcome(number, &two).await, heard().lines().count()), (active(), 7));
    // What is in use as assigned already is only reported.
    let number = site.assign(vec![two.assigned(Mode::Active), one.assigned(Mode::Shadow)]).await;
    assert_eq!((site.outcome(number, &two).await, heard().lines().count()), (active(), 7));
    assert_eq!(site.outcome(number, &one).await, (ModelOutcome::Shadowing, String::new()));

    // What was decided stays so over a kill, and is acknowledged: nothing is told again.
    let name = site.node.name.clone();
    let told = |site: &Site| {
        let seq = |report: &NodeReport| match report.what {
            What::Model { seq, .. } => Some(seq),
            _ => None,
        };
        site.central.reports(&name).iter().filter_map(seq).max().unwrap()
    };
    let before = told(&site);
    site.node.power_cut();
    assert!(site.current("anomaly").as_ref() == Some(&two.file));
    let present = |site: &Site| site.node.status()["models"][0].clone();
    eventually("the model on the status page", SOON, || present(&site), |m| m["version"] == 2).await;
    assert_eq!(present(&site)["shadow"], 1, "{}", present(&site));
    let number = site.assign(vec![two.assigned(Mode::Off)]).await;
    assert_eq!(site.outcome(number, &two).await, (ModelOutcome::Off, String::new()));
    assert!(site.current("anomaly").is_none());
    assert_eq!((told(&site), heard().lines().last().unwrap()), (before + 1, "anomaly"));
}

/// Somebody on the gateway who follows a model by MQTT.
struct Follower {
    events: EventLoop,
    _client: AsyncClient,
}

impl Follower {
    async fn new(site: &Site, name: &str) -> Self {
        let mut options = MqttOptions::new(name, "127.0.0.1", site.node.mqtt.port());
        options.set_keep_alive(Duration::from_secs(30));
        let (client, events) = AsyncClient::new(options, 10);
        client.subscribe("plant/models/anomaly", QoS::AtLeastOnce).await.unwrap();
        Self { events, _client: client }
    }

    /// The next message, and whether it was retained before.
    async fn next(&mut self) -> (Value, bool) {
        let next = async {
            loop {
                if let Event::Incoming(Packet::Publish(publish)) = self.events.poll().await.unwrap() {
                    assert_eq!(publish.qos, QoS::AtLeastOnce);
                    return (serde_json::from_slice(&publish.payload).unwrap(), publish.retain);
                }
            }
        };
        tokio::time::timeout(SOON, next).await.expect("a message in time")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_taken_back_leaves_a_way_back_and_followers_on_mqtt_know() {
    let model = "[[model]]\nname = \"anomaly\"\ntopic = \"plant/models/anomaly\"\n\
                 health = [\"/bin/sh\", \"-c\", \"! grep -q BROKEN $TIDEGATE_MODEL_PATH\"]\nhealth_timeout = \"1s\"\n";
    let mut site = Site::start("models-followed", model).await;
    let path = |site: &Site, version: u64| site.node.models().join(format!("anomaly/{version}/model"));
    let said = |site: &Site, version: u64, previous: Option<u64>| json!({ "name": "anomaly", "version": version, "path": path(site, version), "previous": previous });
    let mut follower = Follower::new(&site, "program").await;
    let none = json!({ "name": "anomaly", "version": null, "path": null, "previous": null });
    assert_eq!(follower.next().await, (none, true), "there is none yet");

    // Each is small, and differs from the others all over.
    let file = |n: u64| noise(200 + n, 64 << 10);
    let (one, two) = (site.version("anomaly", 1, file(1), &[]), site.version("anomaly", 2, file(2), &[]));
    assert_eq!(site.try_out(&one).await, active());
    assert_eq!(follower.next().await, (said(&site, 1, None), false));
    assert_eq!(site.try_out(&two).await, active());
    assert_eq!(follower.next().await, (said(&site, 2, Some(1)), false));
    let three = site.version("anomaly", 3, [b"BROKEN".to_vec(), file(3)].concat(), &[]);
    assert_eq!(site.try_out(&three).await, (ModelOutcome::Reverted, "unhealthy".to_owned()));
    assert_eq!(follower.next().await, (said(&site, 3, Some(2)), false));
    assert_eq!(follower.next().await, (said(&site, 2, Some(1)), false), "it went back by itself");

    // No client can say so, whatever its rights, and what it says is not passed on.
    let mut liar = mqtt::Client::connect(site.node.mqtt, mqtt::Options::new("liar")).await;
    let id = liar.publish("plant/models/anomaly", "{\"version\":9}", 1).await;
    let mqtt::Reply::Puback { id: answered, reason, .. } = liar.next().await else { panic!("no PUBACK") };
    assert_eq!((answered, reason), (id, 0x87), "not authorized (MQTT 5.0 section 3.4.2.1)");
    let will = mqtt::Options::new("dying").will("plant/models/anomaly", "{\"version\":9}");
    let mut dying = mqtt::Client::raw(tokio::net::TcpStream::connect(site.node.mqtt).await.unwrap(), true);
    dying.write(&will.bytes()).await;
    let refused = dying.next_or_end().await;
    assert!(!matches!(refused, Some(mqtt::Reply::Connack { reason: 0, .. })), "a will on it: {refused:?}");

    // An operator goes back once more: to the one before the one that the gateway went back to.
    let begun = Instant::now();
    let (code, out, err) = site.cli(&["rollback", "anomaly"]);
    println!("rollback after the gateway had gone back: {:?}", begun.elapsed());
    assert_eq!((code, out.as_str()), (0, "version 1 of anomaly is in use\n"), "{err}");
    assert_eq!(follower.next().await, (said(&site, 1, None), false));
    assert!(site.current("anomaly").as_ref() == Some(&one.file));
    let (code, _, err) = site.cli(&["rollback", "anomaly"]);
    assert!(code == 75 && err.contains("no version before the one in use; assign the one that it should be"), "{err}");

    // On a stopped gateway, and what is retained is right when it runs again.
    let number = site.assign(vec![two.assigned(Mode::Active)]).await;
    assert_eq!(site.outcome(number, &two).await, active());
    assert_eq!(site.node.process.terminate(SOON), Some(0));
    let begun = Instant::now();
    let (code, out, err) = site.cli(&["rollback", "anomaly"]);
    println!("rollback on a stopped gateway: {:?}", begun.elapsed());
    assert_eq!((code, out.as_str()), (0, "version 1 of anomaly is in use\n"), "{err}");
    let (code, _, err) = site.cli(&["rollback", "other"]);
    assert!(code == 75 && err.contains("other has no version before the one in use"), "{code} {err}");
    site.node.restart();
    assert_eq!(Follower::new(&site, "another").await.next().await, (said(&site, 1, None), true));
    assert!(site.current("anomaly").as_ref() == Some(&one.file), "a start does not undo it");
}
