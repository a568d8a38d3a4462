//! Configuration pushed to a real gateway through a real broker: what proves itself is kept, what does not is undone by
//! itself and reported, and no event is lost on the way.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use support::broker::Broker;
use support::central::{Central, assignment, document_envelope, in_seconds, key, versioned};
use support::count::count;
use support::mqtt::{Client, Options, Reply};
use support::tried::{Node, Step};
use tidegate::downlink::artefact::{Command, Message};
use tidegate::downlink::report::{Outcome, What};

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");
const SOON: Duration = Duration::from_secs(90);

/// Nothing listens there.
const NOWHERE: &str = "[uplink]\npulsar = [\"pulsar://127.0.0.1:9\"]\n";

struct Site {
    broker: Arc<Broker>,
    central: Central,
    node: Node,
}

impl Site {
    /// A tenant with one gateway, which has `confirm` to prove a configuration.
    async fn start(tenant: &str, confirm: &str, more: &str) -> Self {
        let broker = tokio::task::spawn_blocking(Broker::shared).await.unwrap();
        let central = Central::start(&broker, tenant, &[tenant]).await;
        let downlink = central.keys.trusted(confirm);
        let url = broker.service_url();
        let own = format!("{downlink}{more}[uplink]\npulsar = [\"{url}\"]\ntenant = \"{tenant}\"\n");
        let node = Node::start(Path::new(BINARY), tenant, &own);
        Self { broker, central, node }
    }

    async fn push(&mut self, document: &str) -> u64 {
        self.central.push(&self.node.name, document).await
    }

    /// What becomes of assignment `number`.
    async fn outcome(&mut self, number: u64) -> (Outcome, String, String) {
        let name = self.node.name.clone();
        let decided = self.central.wait_report(&name, number, || self.node.alive()).await;
        (decided.outcome, decided.reason, decided.detail)
    }

    async fn refused(&mut self, reason: &str) {
        let name = self.node.name.clone();
        self.central.wait_refused(&name, reason, || self.node.alive()).await;
    }

    /// Everything that was accepted is in the topic, once.
    fn all_arrived(&mut self, accepted: u64) {
        self.node.process.wait_drained(SOON);
        let topic = format!("persistent://{}/telemetry/telemetry", self.node.name);
        let counted = count(&self.broker.service_url(), &topic);
        assert_eq!((counted.distinct, counted.missing), (counted.messages, 0), "{counted:?}");
        assert!(counted.messages >= accepted && accepted > 0, "{accepted} accepted, {counted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_document_is_kept_and_a_bad_one_undone_while_a_device_posts() {
    let mut site = Site::start("trial-kept", "6s", "").await;
    let device = site.node.device();
    let two = "[[lane]]\nname = \"alarms\"\ntypes = [\"*.alarm\"]\n[[lane]]\nname = \"telemetry\"\n[log]\nlevel = \"debug\"\n";
    let good = site.push(two).await;
    assert_eq!(site.outcome(good).await, (Outcome::Committed, String::new(), String::new()));
    let status = site.node.status();
    assert_eq!((status["committed"]["number"].as_u64(), status["committed"]["version"].as_u64()), (Some(1), Some(1)));
    assert_eq!((status["last"]["outcome"].as_str(), status["trial"].is_null()), (Some("committed"), true), "{status}");

    // It survives kill -9, and what it says is in effect then.
    site.node.power_cut();
    let lanes = |node: &Node| node.process.get("/v1/status").unwrap()["lanes"].as_array().unwrap().len();
    assert_eq!((site.node.status()["committed"]["number"].as_u64(), lanes(&site.node)), (Some(1), 2));

    // Limits take effect at once, and with the trial they go.
    let limits = |node: &Node| node.process.get("/v1/status").unwrap()["limits"]["batch_events_max"].as_u64();
    let limited = site.push(&format!("{two}[http]\nmax_batch = 7\n")).await;
    assert_eq!((site.outcome(limited).await.0, limits(&site.node)), (Outcome::Committed, Some(7)));

    // A broker that is not there: back to the one before, which still reaches ours.
    let bad = site.push(NOWHERE).await;
    let (outcome, reason, detail) = site.outcome(bad).await;
    assert_eq!((outcome, reason.as_str()), (Outcome::Reverted, "not-connected"), "{detail}");
    assert!(detail.contains("127.0.0.1:9"), "{detail}");
    assert_eq!((site.node.record().committed.number.n, limits(&site.node)), (limited, Some(7)));

    // A lane that Pulsar does not have would keep its events here for ever.
    let lane = site.push("[[lane]]\nname = \"nowhere\"\ntypes = [\"x\"]\n[[lane]]\nname = \"telemetry\"\n").await;
    let (outcome, reason, detail) = site.outcome(lane).await;
    assert_eq!((outcome, reason.as_str()), (Outcome::Reverted, "not-acknowledged"), "{detail}");
    assert!(detail.contains("lane nowhere"), "{detail}");

    // What is wrong in itself is not even tried; nor what cannot take effect without a restart.
    let restart = site.push("[commands]\nmax_waiting = 7\n").await;
    let (outcome, reason, detail) = site.outcome(restart).await;
    assert_eq!((outcome, reason.as_str()), (Outcome::Refused, "invalid"), "{detail}");
    assert!(detail.contains("commands.max_waiting = 7"), "{detail}");
    let wrong = site.push("[uplink]\nretry_mux = \"1s\"\n").await;
    let (outcome, reason, detail) = site.outcome(wrong).await;
    assert_eq!((outcome, reason.as_str()), (Outcome::Refused, "invalid"), "{detail}");
    assert!(detail.contains("retry_mux"), "{detail}");
    let never = site.push("[node]\nid = \"other\"\n").await;
    assert_eq!(site.outcome(never).await.1, "invalid");

    // Back to the gateway's own file.
    let name = site.node.name.clone();
    let own = site.central.push_own_file(&name).await;
    assert_eq!(site.outcome(own).await.0, Outcome::Committed);
    site.node.power_cut();
    assert_eq!(site.node.status()["committed"]["sha256"], serde_json::Value::Null);
    let accepted = device.stop();
    site.all_arrived(accepted);
    let committed: Vec<u64> = site.central.reports(&name).iter().map(|report| report.committed.number).collect();
    assert!(committed.contains(&good) && committed.contains(&own), "{committed:?}");

    // An orderly stop is said.
    assert_eq!(site.node.process.terminate(SOON), Some(0));
    let left = || site.central.reports(&name).iter().any(|report| report.what == What::Leaving);
    support::eventually("a good-bye", SOON, left, |left| *left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_survives_kill_9_at_every_step() {
    let mut site = Site::start("trial-killed", "20s", "").await;
    let device = site.node.device();
    for (n, step) in Step::ALL.into_iter().enumerate() {
        let number = site.push(&format!("[uplink]\nbatch_events = {}\n", 500 + n)).await;
        site.node.kill_at(step, number);
        site.node.restart();
        let (outcome, reason, detail) = site.outcome(number).await;
        // Nothing but a doubt about whose fault it was can keep a good one from being kept.
        assert_eq!(outcome, Outcome::Committed, "{step:?}: {reason}: {detail}");
        assert_eq!(site.node.record().committed.number.n, number, "{step:?}");
    }
    let accepted = device.stop();
    site.all_arrived(accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_may_assign_is_refused_and_reported_once() {
    let mut site = Site::start("trial-refused", "20s", "").await;
    let name = site.node.name.clone();
    let document = "[log]\nlevel = \"debug\"\n";
    let good = site.push(document).await;
    assert_eq!(site.outcome(good).await.0, Outcome::Committed);

    let text = versioned(document, 9);
    let of = |node: &str, number: u64| assignment(node, number, Some(&text));
    let (central, keys) = (&site.central, &site.central.keys);
    let signed = document_envelope(&text).signed_by(&keys.artefact);
    let with = |assignment, document| Message { keyring: None, assignment, document: Some(document) }.encode();
    let mut expired = of(&name, 9);
    expired.expires_at = Some(in_seconds(-60));
    let ours =
        |assignment: tidegate::downlink::artefact::Assignment| assignment.to_envelope().signed_by(&keys.controller);
    let stranger = key(9);
    let messages = [
        ("no-message", "no message at all".to_owned()),
        ("unsigned", with(of(&name, 9).to_envelope(), signed.clone())),
        ("unknown-key", with(of(&name, 9).to_envelope().signed_by(&stranger), signed.clone())),
        ("wrong-role", with(of(&name, 9).to_envelope().signed_by(&keys.artefact), signed.clone())),
        ("foreign-node", with(ours(of("another", 9)), signed.clone())),
        ("expired", with(ours(expired), signed.clone())),
        ("number-reused", with(ours(of(&name, good)), signed.clone())),
        ("digest-mismatch", with(ours(of(&name, 9)), document_envelope("x = 1").signed_by(&keys.artefact))),
    ];
    for (reason, message) in messages {
        central.send(&name, message).await;
        central.wait_refused(&name, reason, || site.node.alive()).await;
    }
    // A key that a keyring revokes is trusted no more, not even for the message that brings the keyring.
    let mut last = site.central.message(&name, 10, Some(document));
    last.keyring = Some(site.central.keyring(1, &[&site.central.keys.controller]));
    site.central.send(&name, last.encode()).await;
    site.refused("revoked-key").await;
    let status = site.node.status();
    assert_eq!(
        (status["keyring_version"].as_u64(), status["keys"]["controller_keys"].as_array().map(Vec::len)),
        (Some(1), Some(0))
    );
    // It stays so after a restart; and what was refused is not told again for being read again.
    site.node.power_cut();
    site.node.process.wait_for("the keyring", SOON, |p| {
        p.get("/v1/status").is_some_and(|status| status["downlink"]["keyring_version"] == 1)
    });
    let refused = site.central.refused(&name);
    assert_eq!(refused.iter().filter(|reason| *reason == "number-reused").count(), 1, "{refused:?}");
    assert_eq!(site.node.record().committed.number.n, good);
    assert!(site.central.reports(&name).iter().all(|report| report.committed.number <= good));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_command_decides_and_the_own_file_can_run_alone() {
    let dir = tempfile::tempdir().unwrap();
    let flag = dir.path().join("healthy");
    let health = format!("health_command = [\"/usr/bin/test\", \"-e\", {flag:?}]\nhealth_timeout = \"1s\"\n");
    let mut site = Site::start("trial-health", "4s", &health).await;
    let sick = site.push("[uplink]\nbatch_events = 11\n").await;
    let (outcome, reason, detail) = site.outcome(sick).await;
    assert_eq!((outcome, reason.as_str()), (Outcome::Reverted, "unhealthy"), "{detail}");
    assert!(detail.contains("exit status: 1"), "{detail}");
    std::fs::write(&flag, "").unwrap();
    let good = site.push("[uplink]\nbatch_events = 12\n[http]\nmax_batch = 12\n").await;
    assert_eq!(site.outcome(good).await.0, Outcome::Committed);

    // What is in effect is told by `check`.
    let file = site.node.file().display().to_string();
    let (code, out, _) = support::process::run(Path::new(BINARY), &["check", &file]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("uplink.batch_events = 12") && out.contains("assignment 2"), "{out}");
    let metrics = ureq::get(format!("{}/metrics", site.node.process.url())).call().unwrap();
    let metrics = metrics.into_body().read_to_string().unwrap();
    assert!(metrics.contains("\ntidegate_downlink_committed_number 2\n"), "{metrics}");

    // The own file changes under it: what the document says stays.
    let limits = |node: &Node| {
        let limits = node.process.get("/v1/status").unwrap()["limits"].take();
        (limits["batch_events_max"].as_u64(), limits["body_bytes_max"].as_u64())
    };
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("[http]\n", "[http]\nmax_body = \"1MiB\"\nmax_batch = 5\n");
    std::fs::write(&file, text).unwrap();
    site.node.hang_up();
    support::eventually("the own file's change", SOON, || limits(&site.node), |l| *l == (Some(12), Some(1 << 20)))
        .await;

    // The own file alone, for once.
    site.node.process.kill9();
    site.node.process.restart_with(&["--local"]);
    site.node.process.wait_ready(SOON);
    assert_eq!((limits(&site.node).0, &site.node.status()["local_only"]), (Some(5), &true.into()));
    assert!(site.node.process.log().contains("started with --local"));
    site.node.power_cut();
    assert_eq!(limits(&site.node).0, Some(12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_reaches_its_device_and_its_answer_comes_back() {
    let mut site = Site::start("trial-command", "20s", "").await;
    let name = site.node.name.clone();
    let command = |id: &str, expires: i64| Command {
        node: name.clone(),
        device: "valve".to_owned(),
        id: id.to_owned(),
        name: "open".to_owned(),
        content_type: Some("application/json".to_owned()),
        payload: br#"{"percent":30}"#.to_vec(),
        issued_at: in_seconds(-600),
        expires_at: in_seconds(expires),
        by: "anna".to_owned(),
    };
    let controller = key(3);
    // What is not fit is refused and does not block what comes after it.
    site.central.command(&command("forged", 600), &key(9)).await;
    site.central.command(&command("old", -60), &controller).await;
    site.central.command(&command("c-1", 600), &controller).await;
    // The same again is the same.
    site.central.command(&command("c-1", 600), &controller).await;
    site.refused("unknown-key").await;
    site.refused("expired").await;
    let mut device = Client::connect(site.node.mqtt, Options::new("valve")).await;
    device.subscribe("devices/valve/commands/+", 1).await;
    let Reply::Publish { topic, payload, id, .. } = device.next().await else { panic!("no command") };
    assert_eq!((topic.as_str(), payload.as_slice()), ("devices/valve/commands/c-1", &br#"{"percent":30}"#[..]));
    device.answer(0x40, id).await;
    assert!(device.within(Duration::from_millis(500)).await.is_none(), "there is one command");
    device.publish_and_wait("devices/valve/commands/c-1/result", r#"{"status":"done"}"#).await;
    site.central.event("telemetry", "\"status\":\"done\"").await;
    // It was acknowledged: it does not come again.
    site.node.power_cut();
    assert_eq!(site.node.process.get("/v1/status").unwrap()["commands"]["waiting"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_shuts_out_every_device_is_undone_where_there_are_any() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = dir.path().join("nobody.toml");
    std::fs::write(&nobody, "").unwrap();
    let mut site = Site::start("trial-shut", "8s", "").await;
    let device = site.node.device();
    // Samples of what was accepted before.
    support::eventually("events", SOON, || device.accepted(), |n| *n > 20).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let shut = format!("[identity]\nmode = \"required\"\ndevices_file = {nobody:?}\n");
    let number = site.push(&shut).await;
    let (outcome, reason, detail) = site.outcome(number).await;
    assert_eq!((outcome, reason.as_str()), (Outcome::Reverted, "unhealthy"), "{detail}");
    assert!(detail.contains("all are refused: ") && detail.contains("no-credential"), "{detail}");
    let before = device.accepted();
    support::eventually("events again", SOON, || device.accepted(), |n| *n > before).await;
    // What lets them in is kept, and so is anything where nobody sends.
    let good = site.push("[http]\nmax_batch = 7\n").await;
    assert_eq!(site.outcome(good).await.0, Outcome::Committed);
    let accepted = device.stop();
    tokio::time::sleep(Duration::from_secs(12)).await;
    let quiet = site.push(&shut).await;
    let (outcome, _, detail) = site.outcome(quiet).await;
    assert_eq!(outcome, Outcome::Committed, "{detail}");
    site.all_arrived(accepted);
}
