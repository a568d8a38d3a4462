//! What an operator sees who waits, and what is left of orders that come to nothing.

use std::io::Read as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::fleet::BAD;
use crate::site::{PATIENCE, Site, document, plan};
use crate::support::eventually;

impl Site {
    /// Pushes `text` as a document of `version`, and waits.
    fn push_of(&self, version: u64, text: &str, more: &[&str]) -> (i32, String) {
        let file = self.file(&format!("v{version}.toml"), &format!("[http]\n{text}\n")).display().to_string();
        let (sign, version) = (self.dir.path().join("anna.key").display().to_string(), version.to_string());
        let args = ["config", "push", &file, "--sign", &sign, "--version", &version, "--wait"];
        let (code, out, err) = self.cli(0, &[&args[..], more].concat());
        (code, out + &err)
    }

    fn heard(&self, n: usize) {
        self.wait(0, "/v1/nodes", |nodes| nodes["items"].as_array().is_some_and(|nodes| nodes.len() == n));
    }
}

fn created(site: &Site) -> usize {
    let history = site.get(0, "/v1/history?limit=1000");
    history["lines"].as_array().unwrap().iter().filter(|line| line["what"] == "created").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_pushes_leave_nothing_and_a_rollback_has_a_place_whatever_runs() {
    let site = Site::start("no-room", 1, "");
    site.wait_ready(0);
    site.fleet.install(["press-1".to_owned()], "plant-7");
    site.heard(1);
    let digest = site.store(0, &document(1, "max_batch = 5"));
    let order = |id: &str, to: Value| {
        let mut order = json!({ "id": id, "document": digest, "plan": plan(&[100], 0), "start": true });
        to.as_object().unwrap().iter().for_each(|(key, value)| order[key] = value.clone());
        site.ask(0, "POST", "/v1/rollouts", &order.to_string())
    };
    for n in 0..20 {
        let (status, answer) = order(&format!("typo-{n}"), json!({ "groups": ["newplant"] }));
        assert_eq!(status, 409, "{answer:#}");
        assert!(answer["detail"].as_str().unwrap().contains("no gateway to go to"), "{answer:#}");
    }
    assert_eq!(created(&site), 0, "nothing of them is in the log");
    let (code, text) = site.push_of(2, "max_batch = 6", &["--node", "press-1"]);
    assert_eq!(code, 0, "{text}");
    // Gateways that were never heard hold all the places there are.
    for n in 0..8 {
        assert_eq!(order(&format!("far-{n}"), json!({ "nodes": [format!("far-{n}")] })).0, 201);
    }
    let (status, answer) = order("one-more", json!({ "nodes": ["press-1"] }));
    assert!(status == 409 && answer["detail"].as_str().unwrap().contains("8 roll-outs are running"), "{answer:#}");
    let (code, out, err) = site.cli(0, &["config", "rollback", "--node", "press-1", "--wait"]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(site.fleet.all()["press-1"].committed.version, None, "its own file");
    assert_eq!(created(&site), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_and_tells_what_is_not_done() {
    let site = Site::start("waits", 1, "present_for = \"6s\"\nabsent_after = \"6s\"");
    site.wait_ready(0);
    site.fleet.install(["good", "deaf", "busy", "away"].map(str::to_owned), "plant-7");
    site.heard(4);
    site.fleet.distrusts("deaf");
    site.fleet.online(&["away", "busy"], false);

    let (code, text) = site.push_of(1, "max_batch = 5", &["--node", "deaf"]);
    assert!(code == 1 && text.contains("failed: deaf: refused: unknown-key"), "{code} {text}");

    let (code, text) = site.push_of(2, "max_batch = 6", &["--node", "busy", "--id", "held", "--timeout", "1s"]);
    assert!(code == 75 && text.contains("tidegate rollout abort held"), "{code} {text}");
    let (code, text) = site.push_of(3, "max_batch = 7", &["--node", "good", "--node", "busy"]);
    assert!(code == 64 && text.contains("busy in held") && text.contains("--skip-busy"), "{code} {text}");
    let (code, text) = site.push_of(3, "max_batch = 7", &["--node", "good", "--node", "busy", "--skip-busy"]);
    assert!(code == 0 && text.contains("passed over"), "what it was told to pass over: {code} {text}");

    let (code, text) = site.push_of(4, "max_batch = 8", &["--node", "good", "--node", "away"]);
    assert!(code == 2 && text.contains("1 are away") && text.contains("not done: away"), "{code} {text}");
    assert_eq!(site.fleet.all()["good"].committed.version, Some(4));

    let args = ["rollout", "show", "held", "--wait", "--cloud", &site.url(0)];
    let mut waits = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(args).stderr(Stdio::piped()).spawn().unwrap();
    let mut heard = [0; 1];
    let mut stderr = waits.stderr.take().unwrap();
    stderr.read_exact(&mut heard).unwrap(); // It waits.
    assert!(Command::new("kill").args(["-INT", &waits.id().to_string()]).status().unwrap().success());
    let mut text = String::new();
    stderr.read_to_string(&mut text).unwrap();
    assert_eq!(waits.wait().unwrap().code(), Some(130), "{text}");
    assert!(text.contains("goes on") && text.contains("tidegate rollout abort held"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_waits_for_nobody_and_late_joiners_get_what_stood_before() {
    let site = Site::start("rollbacks", 1, "");
    site.wait_ready(0);
    site.fleet.install(["gate-a".to_owned()], "gg");
    site.heard(1);
    for version in [1, 2] {
        let (code, text) =
            site.push_of(version, "max_batch = 5", &["--group", "gg", "--waves", "100%", "--soak", "0s"]);
        assert_eq!(code, 0, "{text}");
    }
    let (code, out, err) = site.cli(0, &["config", "rollback", "--group", "gg", "--wait"]);
    assert!(code == 0 && err.contains("stands no more"), "{out}{err}");
    assert_eq!(site.fleet.running(Some(1)), 1);
    site.fleet.install(["gate-b".to_owned()], "gg");
    eventually("the late joiner", PATIENCE, || site.fleet.running(Some(1)), |n| *n == 2).await;
    assert_eq!(site.fleet.all()["gate-b"].decided.len(), 1, "it was never given version 2");

    // Two that go back to different documents; the first roll-out's is away.
    let (code, text) = site.push_of(3, "max_batch = 7", &["--node", "gate-a"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = site.push_of(4, "max_batch = 8", &["--node", "gate-a", "--node", "gate-b"]);
    assert_eq!(code, 0, "{text}");
    for (away, there, version) in [("gate-a", "gate-b", 1), ("gate-b", "gate-a", 3)] {
        site.fleet.online(&[away], false);
        let nodes = ["--node", away, "--node", there, "--wait", "--timeout", "8s"];
        let (code, out, err) = site.cli(0, &[&["config", "rollback"], &nodes[..]].concat());
        assert!(code == 75 && err.contains("goes on"), "{code} {out}{err}");
        assert_eq!(site.fleet.all()[there].committed.version, Some(version));
        site.fleet.online(&[away], true);
        eventually(
            "both",
            PATIENCE,
            || site.get(0, "/v1/rollouts"),
            |rollouts| rollouts["items"].as_array().unwrap().iter().all(|r| r["stage"] == "completed"),
        )
        .await;
        if away == "gate-a" {
            let (code, text) = site.push_of(5, "max_batch = 9", &["--node", "gate-a", "--node", "gate-b"]);
            assert_eq!(code, 0, "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_puts_back_what_the_gateway_ran_and_not_what_failed_there() {
    let site = Site::start("put-back", 1, "");
    site.wait_ready(0);
    site.fleet.install(["press-1".to_owned()], "plant-7");
    site.heard(1);
    let (code, text) = site.push_of(1, "max_batch = 5", &["--node", "press-1"]);
    assert_eq!(code, 0, "{text}");
    // It completes although the document fails there.
    let bad = site.store(0, &document(2, BAD));
    let mut lenient = plan(&[100], 0);
    lenient["on_failure"] = json!("pause");
    site.push(0, "bad", Some(&bad), &json!({ "nodes": ["press-1"] }), &lenient);
    site.wait(0, "/v1/rollouts/bad", |r| r["paused"].is_string());
    assert_eq!(site.ask(0, "POST", "/v1/rollouts/bad/pass", "{}").0, 200);
    assert_eq!(site.ask(0, "POST", "/v1/rollouts/bad/resume", "{}").0, 200);
    site.wait(0, "/v1/rollouts/bad", |r| r["stage"] == "completed");
    let (code, text) = site.push_of(3, BAD, &["--node", "press-1"]);
    assert!(code == 1 && text.contains("not-connected"), "{code} {text}");
    let node = site.wait(0, "/v1/nodes/press-1", |node| node["assignment"]["outstanding"] == false);
    assert_eq!(node["assignment"]["version"], 1, "{node:#}");
    let decided: Vec<_> = site.fleet.all()["press-1"].decided.iter().map(|(_, version, _)| *version).collect();
    assert_eq!(decided, [Some(1), Some(2), Some(3), Some(1)]);
}
