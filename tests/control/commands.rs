//! `tidegate config push|history|rollback`, `rollout`, `nodes`: what operators type, what they are told, and exit codes.

use crate::fleet::BAD;
use crate::site::{Site, document};

fn told(done: &(i32, String, String), code: i32, words: &[&str]) {
    let (is, out, err) = done;
    assert_eq!(*is, code, "{out}{err}");
    for word in words {
        assert!(out.contains(word) || err.contains(word), "{word:?} is not in:\n{out}{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_followed_to_its_end_seen_in_the_history_and_rolled_back() {
    let site = Site::start("commands", 1, "");
    site.fleet.install(["press-1", "press-2", "press-3"].map(str::to_owned), "plant-7");
    site.wait(0, "/v1/nodes", |nodes| nodes["items"].as_array().is_some_and(|n| n.len() == 3));
    site.wait_ready(0);
    let key = site.dir.path().join("anna.key").display().to_string();
    let path = |name: &str, text: &str| site.file(name, text).display().to_string();
    let good = path("good.toml", "[http]\nmax_batch = 5\n");

    // Everything that can be wrong before anything is sent.
    told(&site.cli(0, &["config", "push", &good, "--all"]), 64, &["is not signed", "--sign"]);
    let wrong = path("wrong.toml", "[http]\nmax_bach = 5\n");
    told(&site.cli(0, &["config", "push", &wrong, "--sign", &key, "--all"]), 64, &["max_bach", "max_batch"]);
    let root = site.dir.path().join("root.key").display().to_string();
    told(
        &site.cli(0, &["config", "push", &good, "--sign", &root, "--all"]),
        64,
        &["wrong-role", "control.artefact_keys"],
    );

    let push =
        |file: &str, more: &[&str]| site.cli(0, &[&["config", "push", file, "--sign", &key, "--wait"], more].concat());
    let done = push(&good, &["--group", "plant-7", "--waves", "50%,100%", "--soak", "200ms", "--reason", "first"]);
    told(&done, 0, &["stored as version 1", "wave 1 of 2", "completed: 3 of 3 gateways"]);
    let done = push(&path("next.toml", "[http]\nmax_batch = 6\n"), &["--node", "press-2", "--node", "press-3"]);
    told(&done, 0, &["stored as version 2", "completed: 2 of 2"]);
    assert_eq!((site.fleet.running(Some(1)), site.fleet.running(Some(2))), (1, 2));

    let done = push(&path("bad.toml", &document(3, BAD)), &["--node", "press-2"]);
    told(&done, 1, &["aborted", "1 failed", "failed: press-2: not-connected"]);
    site.wait(0, "/v1/nodes/press-2", |node| node["assignment"]["outstanding"] == false);
    let nodes = site.cli(0, &["nodes", "--group", "plant-7"]);
    told(&nodes, 0, &["press-1", "version 2", "ok"]);
    assert_eq!(nodes.1.lines().filter(|line| line.ends_with("ok")).count(), 3, "{}", nodes.1);
    told(&site.cli(0, &["nodes", "press-9"]), 64, &["press-9", "never heard"]);

    let done = site.cli(0, &["config", "history"]);
    told(&done, 0, &["first", "created version 1", "aborted", "(unverified)", "controller"]);
    let done = site.cli(0, &["config", "history", "--node", "press-2"]);
    told(&done, 0, &["failure", "not-connected", "version 3", "success"]);

    let done = site.cli(0, &["config", "rollback", "--node", "press-3", "--wait"]);
    told(&done, 0, &["press-3: back to version 1", "completed: 1 of 1"]);
    assert_eq!((site.fleet.running(Some(1)), site.fleet.running(Some(2))), (2, 1));
    let done = site.cli(0, &["config", "rollback", "--all", "--to", "own", "--wait"]);
    told(&done, 0, &["own file, completed: 3 of 3"]);
    assert_eq!(site.fleet.running(None), 3);
    told(&site.cli(0, &["config", "rollback", "--all", "--to", "99"]), 64, &["no such document"]);

    let held = site.cli(
        0,
        &["config", "push", &good, "--sign", &key, "--version", "1", "--group", "plant-7", "--approve", "--id", "slow"],
    );
    told(&held, 0, &["slow", "running"]);
    told(&site.cli(0, &["config", "rollback", "--node", "press-1"]), 64, &["in roll-out slow", "rollout abort slow"]);
    told(&site.cli(0, &["rollout", "list"]), 0, &["slow", "running", "completed"]);
    told(&site.cli(0, &["rollout", "pause", "slow", "--reason", "lunch"]), 0, &["paused: lunch"]);
    told(&site.cli(0, &["rollout", "show", "slow", "--wait"]), 1, &["paused: lunch"]);
    told(&site.cli(0, &["rollout", "resume", "slow"]), 0, &["running"]);
    told(&site.cli(0, &["rollout", "approve", "slow"]), 0, &["slow"]);
    told(&site.cli(0, &["rollout", "abort", "slow"]), 0, &["all are put back"]);
    told(&site.cli(0, &["rollout", "show", "slower"]), 64, &["no roll-out"]);
    let nobody = crate::support::process::run(
        std::path::Path::new(env!("CARGO_BIN_EXE_tidegate")),
        &["nodes", "--cloud", "http://127.0.0.1:1"],
    );
    told(&nobody, 75, &["cannot reach the cloud"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_operators_file_the_token_says_who_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (operators, token) = (dir.path().join("operators.toml"), dir.path().join("token"));
    std::fs::write(&token, "anna-s3cret\n").unwrap();
    let hash = crate::site::sha256("anna-s3cret");
    std::fs::write(&operators, format!("anna = \"{hash}\"\n")).unwrap();
    let site = Site::start("operators", 1, &format!("operators_file = {operators:?}"));
    site.wait_ready(0);
    let key = site.dir.path().join("anna.key").display().to_string();
    let file = site.file("press.toml", "[http]\nmax_batch = 5\n").display().to_string();
    let push = ["config", "push", &file, "--sign", &key, "--node", "press-1", "--id", "one"];
    told(&site.cli(0, &push), 64, &["needs a token", "--token-file"]);
    let token = token.display().to_string();
    let with_token = [&push[..], &["--token-file", &token]].concat();
    told(&site.cli(0, &with_token), 0, &["one", "never heard"]);
    told(&site.cli(0, &with_token), 0, &["one"]);
    let done = site.cli(0, &["config", "history"]);
    told(&done, 0, &["anna"]);
    assert!(!done.1.contains("unverified"), "{}", done.1);
    // Whoever is taken out of the file gives no more orders.
    std::fs::write(&operators, "").unwrap();
    let abort = ["rollout", "abort", "one", "--token-file", &token];
    told(&site.cli(0, &abort), 64, &["401"]);
}
