//! Numbers that a gateway has taken and the log does not know: a log that was lost, a controller key that was stolen. Both
//! are mended without a visit.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::downlink::artefact::assignment::NUMBER_MAX;
use tidegate::downlink::artefact::{Assignment, Message, SecretKey};
use tidegate::pulsar::names;

use crate::site::{Site, key};
use crate::support::central::in_seconds;
use crate::support::process::Tidegate;
use crate::support::pulsar_client::{client, send};

/// The site's controller key, and the one that takes its place.
const CONTROLLER: u8 = 2;
const NEXT: u8 = 12;

/// Longest that a cloud takes to stop.
const STOP: Duration = Duration::from_secs(60);

fn gateway(site: &Site) -> Tidegate {
    let [artefact, controller, root] = [1, CONTROLLER, 3].map(|n| key(n).public().to_string());
    let dir = site.dir.path().join("edge");
    let toml = format!(
        "[node]\nid = \"press-7\"\ndata_dir = {:?}\n\n[uplink]\npulsar = [\"{}\"]\ntenant = \"{}\"\n\n\
         [downlink]\nroots = [\"{root}\"]\nartefact_keys = [\"{artefact}\"]\ncontroller_keys = [\"{controller}\"]\n",
        dir.join("data"),
        site.broker.service_url(),
        site.tenant,
    );
    Tidegate::start(Path::new(env!("CARGO_BIN_EXE_tidegate")), "edge", &dir, &toml)
}

fn push(site: &Site, text: &str, more: &[&str]) -> (i32, String, String) {
    let sign = site.dir.path().join("anna.key").display().to_string();
    let file = site.file("press.toml", text).display().to_string();
    site.cli(0, &[&["config", "push", &file, "--sign", &sign, "--node", "press-7"], more].concat())
}

/// What the cloud says is wrong, once it says something with `words` in it.
fn problem(site: &Site, words: &str) -> String {
    let of = |status: &Value| {
        let problems = status["control"]["problems"].as_array().cloned().unwrap_or_default();
        problems.iter().filter_map(Value::as_str).find(|text| text.contains(words)).map(str::to_owned)
    };
    of(&site.wait(0, "/v1/status", |status| of(status).is_some())).unwrap()
}

fn runs(site: &Site, version: u64) -> Value {
    site.wait(0, "/v1/nodes/press-7", |node| {
        node["committed"]["version"] == json!(version) && node["assignment"]["outstanding"] == false
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_log_is_lost_an_operator_raises_the_numbers_and_the_push_arrives() {
    let mut site = Site::start("numbers-log", 1, "");
    site.wait_ready(0);
    let edge = gateway(&site);
    site.wait(0, "/v1/nodes/press-7", |node| node["present"] == true);
    for batch in [5, 6] {
        let (code, out, err) = push(&site, &format!("[http]\nmax_batch = {batch}\n"), &["--wait"]);
        assert_eq!(code, 0, "{out}{err}\n{}", edge.log_tail());
    }
    let (code, out, err) = site.cli(0, &["rollout", "raise"]);
    assert!(code == 64 && err.contains("no gateway says"), "{out}{err}");
    let begun = site.get(0, "/v1/status")["control"]["log_id"].clone();
    assert!(begun.is_string(), "{begun}");

    site.clouds[0].terminate(STOP);
    let topic = names::rollouts_topic(&site.tenant).replace("persistent://", "persistent/");
    let url = format!("{}/admin/v2/{topic}?force=true", site.broker.admin_url());
    ureq::delete(url).call().unwrap();
    site.clouds[0].restart();
    site.wait_ready(0);
    let (code, out, err) = push(&site, "[http]\nmax_batch = 7\n", &[]);
    assert_eq!(code, 0, "{out}{err}");
    assert_ne!(site.get(0, "/v1/status")["control"]["log_id"], begun, "another log");

    let text = problem(&site, "tidegate rollout raise --to ");
    assert!(text.contains("gateway press-7 says that it has taken assignments up to"), "{text}");
    site.clouds[0].wait_for("the warning", STOP, |cloud| cloud.log().contains("tidegate rollout raise --to "));
    let (_, out, _) = site.cli(0, &["nodes"]);
    assert!(out.contains("which this cloud never gave: tidegate rollout raise"), "{out}");
    let node = site.get(0, "/v1/nodes/press-7");
    assert_eq!((&node["ahead"], &node["committed"]["version"]), (&json!("log"), &json!(2)), "{node:#}");

    let (code, out, err) = site.cli(0, &["rollout", "raise", "--to", &(NUMBER_MAX - 1).to_string()]);
    assert!(code == 64 && err.contains("keyring of a higher epoch"), "{out}{err}");
    let (code, out, err) = site.cli(0, &["rollout", "raise"]);
    assert!(code == 0 && out.contains("numbers go on above"), "{out}{err}");
    let node = runs(&site, 3);
    assert_eq!(node["ahead"], json!(null), "{node:#}");
    assert_eq!(site.get(0, "/v1/status")["control"]["problems"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_controller_key_was_stolen_a_keyring_of_a_higher_epoch_heals_without_a_visit() {
    let mut site = Site::start("numbers-stolen", 1, "");
    site.wait_ready(0);
    let edge = gateway(&site);
    site.wait(0, "/v1/nodes/press-7", |node| node["present"] == true);
    let (code, out, err) = push(&site, "[http]\nmax_batch = 5\n", &["--wait"]);
    assert_eq!(code, 0, "{out}{err}\n{}", edge.log_tail());

    // The highest number that there is, for the gateway's own file.
    let stolen = Assignment {
        node: "press-7".to_owned(),
        epoch: 0,
        number: NUMBER_MAX,
        issued_at: in_seconds(0),
        expires_at: None,
        document: None,
        models: Vec::new(),
        reason: String::new(),
        by: String::new(),
    };
    let assignment = stolen.to_envelope().signed_by(&key(CONTROLLER));
    let message = Message { keyring: None, assignment, document: None }.encode();
    let pulsar = client(&site.broker.service_url()).await;
    let topic = names::inbox_topic(&site.tenant, "press-7");
    send(&pulsar, &topic, "thief", &[("press-7".to_owned(), message)]).await;
    let text = problem(&site, "which no log gets to");
    assert!(text.contains("tidegate config keyring --epoch 1") && !text.contains("rollout raise"), "{text}");
    assert_eq!(site.cli(0, &["rollout", "raise"]).0, 64);

    let (old, next) = (key(CONTROLLER).public().id().to_string(), key(NEXT).public().to_string());
    let [root, out] = ["root.key", "keyring.signed"].map(|name| site.dir.path().join(name).display().to_string());
    let keyring = ["config", "keyring", "--version", "1", "--epoch", "1", "--controller-key", &next, "--revoke", &old];
    let (code, out, err) = site.cli(0, &[&keyring[..], &["--key", &root, "--out", &out, "--push"]].concat());
    assert!(code == 0 && err.contains("the cloud has keyring 1, epoch 1"), "{out}{err}");
    site.clouds[0].terminate(STOP);
    std::fs::write(site.dir.path().join("controller.key"), SecretKey::pem_of_seed(&[NEXT; 32]).as_bytes()).unwrap();
    site.clouds[0].restart();
    site.wait_ready(0);
    let (code, out, err) = push(&site, "[http]\nmax_batch = 6\n", &["--wait"]);
    assert_eq!(code, 0, "{out}{err}\n{}", edge.log_tail());
    let node = runs(&site, 2);
    assert_eq!((&node["accepted"]["epoch"], &node["ahead"]), (&json!(1), &json!(null)), "{node:#}");
    let status = site.get(0, "/v1/status")["control"].clone();
    assert_eq!((&status["keyring_epoch"], &status["problems"]), (&json!(1), &json!([])), "{status:#}");
}
