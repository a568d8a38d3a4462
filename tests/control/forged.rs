//! Reports that somebody else sends in a gateway's name decide nothing, and are counted and shown.

use std::time::Duration;

use serde_json::json;
use tidegate::cloud::control::wire::{Cluster, Outgoing, Writer};
use tidegate::downlink::report::{Lane, NodeReport, Outcome, Running, What};
use tidegate::pulsar::names;
use tidegate::sys::clock::Clock;
use tidegate::sys::tasks::Tasks;

use crate::fleet::{BAD, key_of};
use crate::site::{Site, document, plan};
use crate::support::provision::config_for;

const TENANT: &str = "forged";

fn decided(node: &str, number: u64, outcome: Outcome) -> NodeReport {
    NodeReport {
        node: node.to_owned(),
        incarnation: "00ff".into(),
        at_ms: None,
        software: "evil".into(),
        groups: Vec::new(),
        committed: Running { epoch: 0, number, sha256: None },
        trial: None,
        accepted: None,
        what: What::Decided { seq: 1, epoch: 0, number, outcome, reason: "evil".into(), detail: String::new() },
    }
}

/// One number of the cloud's metrics.
fn metric(site: &Site, name: &str) -> u64 {
    let text = ureq::get(format!("{}/metrics", site.url(0))).call().unwrap().body_mut().read_to_string().unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_report_decides_nothing_and_a_replaced_disk_is_believed_when_an_operator_says_so() {
    let mut site = Site::start(TENANT, 1, "");
    site.wait_ready(0);
    site.fleet.install(["press-7".to_owned()], "plant-7");
    let heard = site.wait(0, "/v1/nodes/press-7", |node| node["present"] == true);
    assert_eq!(heard["key"], json!(key_of("press-7", false).public().id().to_string()));
    let config = config_for(&site.broker, TENANT);
    let (tasks, cluster) = (Tasks::new(), Cluster::of(&config.pulsar).unwrap());
    let (writer, work) = Writer::new(cluster, names::reports_topic(TENANT), Clock::system(), tasks.stopping().clone());
    tasks.spawn_contained("evil", work);
    let send = async |payload: Vec<u8>| {
        let message = Outgoing { key: "press-7".into(), properties: Vec::new(), payload: payload.into() };
        writer.write(message).await.unwrap();
    };

    // It is away, so nobody but the forger says anything.
    site.fleet.online(&["press-7"], false);
    let bad = site.store(0, &document(1, BAD));
    site.push(0, "one", Some(&bad), &json!({ "nodes": ["press-7"] }), &plan(&[100], 0));
    let node = site.wait(0, "/v1/nodes/press-7", |node| node["assignment"]["outstanding"] == true);
    let number = node["assignment"]["number"].as_u64().unwrap();
    for (number, outcome) in
        [(u64::MAX, Outcome::Superseded), (number, Outcome::Committed), (number, Outcome::Reverted)]
    {
        let report = decided("press-7", number, outcome);
        send(report.message(None)).await;
        send(report.message(Some(&key_of("press-7", true)))).await;
        // Under the gateway's own key, with the proof of another report.
        let (own, lie) = (heard_message(), report.message(None));
        let proof = own.splitn(2, |byte| *byte == b'\n').nth(1).unwrap();
        send([&lie[..], b"\n", proof].concat()).await;
    }
    let dropped = |reason: &str| metric(&site, &format!("tidegate_cloud_reports_dropped_total{{reason=\"{reason}\"}}"));
    let begun = std::time::Instant::now();
    while [dropped("unsigned"), dropped("stranger"), dropped("forged")] != [3, 3, 3] {
        assert!(begun.elapsed() < crate::site::PATIENCE, "not all of them were counted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Time for a controller that believes it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let rollout = site.get(0, "/v1/rollouts/one");
    assert_eq!(
        (&rollout["stage"], &rollout["succeeded"], &rollout["failed"]),
        (&json!("running"), &json!(0), &json!(0)),
        "{rollout:#}"
    );
    let node = site.get(0, "/v1/nodes/press-7");
    assert_eq!((&node["decided"], &node["software"]), (&json!(null), &json!("test")), "{node:#}");
    assert_eq!(node["stranger"]["reports"], 3, "{node:#}");
    let (code, out, err) = site.cli(0, &["nodes", "press-7"]);
    assert!(code == 0 && out.contains("--reset-key"), "{out}{err}");

    // A number that nobody has assigned, proven: the gateway was another cloud's, or is in a stranger's hands.
    send(decided("press-7", u64::MAX, Outcome::Superseded).message(Some(&key_of("press-7", false)))).await;
    site.fleet.online(&["press-7"], true);
    let done = site.wait(0, "/v1/rollouts/one", |r| r["stage"].get("aborted").is_some());
    assert_eq!(done["failed"], 1, "what the gateway itself says counts: {done:#}");
    assert_eq!(dropped("ahead"), 1);

    // Its disk is replaced; the pin is as old as the tenant, whichever process asks.
    site.wait(0, "/v1/nodes/press-7", |node| node["assignment"]["outstanding"] == false);
    site.fleet.replace_disk("press-7");
    site.clouds[0].kill9();
    site.clouds[0].restart();
    site.wait_ready(0);
    let node = site.wait(0, "/v1/nodes/press-7", |node| node["stranger"]["reports"].as_u64() > Some(0));
    assert_eq!(node["key"], heard["key"], "{node:#}");
    let (code, out, err) = site.cli(0, &["nodes", "press-7", "--reset-key"]);
    assert_eq!(code, 0, "{out}{err}");
    let new = json!(key_of("press-7", true).public().id().to_string());
    site.wait(0, "/v1/nodes/press-7", |node| node["key"] == new && node["stranger"].is_null());
    tasks.stop(Duration::from_secs(5)).await;
}

/// More than one page may hold.
const TALKERS: usize = 400;

#[tokio::test(flavor = "multi_thread")]
async fn gateways_that_say_much_come_in_more_pages() {
    let tenant = "talkers";
    let site = Site::start(tenant, 1, "");
    site.wait_ready(0);
    let config = config_for(&site.broker, tenant);
    let (tasks, cluster) = (Tasks::new(), Cluster::of(&config.pulsar).unwrap());
    let (writer, work) = Writer::new(cluster, names::reports_topic(tenant), Clock::system(), tasks.stopping().clone());
    tasks.spawn_contained("talkers", work);
    let name = |n: usize| format!("{n:03}{}", "\"".repeat(80));
    let lanes: Vec<Lane> = (0..40).map(|n| Lane { name: name(n), events: u64::MAX, bytes: u64::MAX }).collect();
    for n in 0..TALKERS {
        let node = format!("talker-{n}");
        let what = What::Present { uptime_s: 1, next_s: 60, lanes: lanes.clone(), models: Vec::new() };
        let report = NodeReport { groups: (0..80).map(name).collect(), what, ..decided(&node, 0, Outcome::Committed) };
        let payload = report.message(Some(&key_of(&node, false))).into();
        writer.write(Outgoing { key: node, properties: Vec::new(), payload }).await.unwrap();
    }
    site.wait(0, "/v1/status", |status| status["control"]["nodes"] == json!(TALKERS));
    let page = site.get(0, "/v1/nodes?limit=1000");
    let shown = page["items"].as_array().unwrap().len();
    assert!(shown < TALKERS && page["next"].is_string(), "{shown}");
    assert!(page.to_string().len() < 9 << 20, "{}", page.to_string().len());
    let (code, out, err) = site.cli(0, &["nodes", "--json"]);
    assert_eq!((code, out.lines().count()), (0, TALKERS), "{err}");
    tasks.stop(Duration::from_secs(5)).await;
}

/// Something that the gateway has signed.
fn heard_message() -> Vec<u8> {
    decided("press-7", 1, Outcome::Refused).message(Some(&key_of("press-7", false)))
}
