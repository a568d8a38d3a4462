//! Roll-outs to gateways: waves, a bad document that stops in its first wave, late joiners, and the leader killed in every
//! wave.

use serde_json::json;

use crate::fleet::BAD;
use crate::site::{PATIENCE, Site, document, plan};
use crate::support::eventually;

fn names(n: usize) -> Vec<String> {
    (0..n).map(|n| format!("press-{n}")).collect()
}

fn is(stage: &'static str) -> impl Fn(&serde_json::Value) -> bool {
    move |rollout| rollout["stage"] == stage || rollout["stage"].get(stage).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_goes_in_waves_a_bad_one_stops_in_its_first_and_late_joiners_come_along() {
    let site = Site::start("waves", 1, "present_for = \"5s\"\nabsent_after = \"5s\"");
    site.fleet.install(names(10), "plant-7");
    site.wait(0, "/v1/nodes?group=plant-7", |nodes| nodes["items"].as_array().is_some_and(|n| n.len() == 10));
    site.fleet.online(&["press-3"], false);

    let first = site.store(0, &document(1, "max_batch = 5"));
    let to = json!({ "groups": ["plant-7"] });
    site.push(0, "one", Some(&first), &to, &plan(&[10, 50, 100], 500));
    let done = site.wait(0, "/v1/rollouts/one", is("completed"));
    assert_eq!((&done["members"], &done["failed"]), (&json!(10), &json!(0)), "{done:#}");
    eventually("the nine", PATIENCE, || site.fleet.running(Some(1)), |n| *n == 9).await;
    // It was away, and finds its inbox when it comes back.
    site.fleet.online(&["press-3"], true);
    eventually("the tenth", PATIENCE, || site.fleet.running(Some(1)), |n| *n == 10).await;
    // Later ones of the group join what stands.
    site.fleet.install(["press-new".to_owned()], "plant-7");
    eventually("the new one", PATIENCE, || site.fleet.running(Some(1)), |n| *n == 11).await;

    let bad = site.store(0, &document(2, BAD));
    site.push(0, "two", Some(&bad), &to, &plan(&[20, 100], 500));
    let aborted = site.wait(0, "/v1/rollouts/two", is("aborted"));
    assert!(aborted["failures"][0][1].as_str().unwrap().contains("not-connected"), "{aborted:#}");
    assert_eq!(aborted["wave"], 0, "{aborted:#}");
    let tried = |version| {
        let all = site.fleet.all();
        all.values().filter(|g| g.decided.iter().any(|(_, v, _)| *v == Some(version))).count()
    };
    assert_eq!(tried(2), 3, "the first wave of 11");
    assert_eq!(site.fleet.running(Some(1)), 11);
    // The three were put back under a higher number, and say so.
    site.wait(0, "/v1/nodes?limit=1000", |nodes| {
        nodes["items"].as_array().unwrap().iter().all(|n| n["assignment"]["outstanding"] == false)
    });
    let node = site.get(0, "/v1/nodes");
    let node = node["items"].as_array().unwrap().iter().find(|n| n["assignment"]["rollout"] == "two").unwrap().clone();
    assert_eq!(node["assignment"]["version"], 1, "{node:#}");
    let history = site.get(0, &format!("/v1/history?node={}", node["node"].as_str().unwrap()));
    let outcomes: Vec<_> = history["assignments"].as_array().unwrap().iter().map(|a| a["outcome"].clone()).collect();
    assert_eq!(outcomes, [json!("success"), json!("failure"), json!("success")], "{history:#}");
    assert!(site.fleet.all().values().all(|g| g.refused.iter().all(|code| code == "replayed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_killed_in_every_wave_and_the_roll_out_ends_right() {
    let mut site = Site::start("failover", 2, "");
    site.fleet.install(names(10), "plant-7");
    for n in 0..2 {
        site.wait_ready(n);
        site.wait(n, "/v1/nodes", |nodes| nodes["items"].as_array().is_some_and(|n| n.len() == 10));
    }
    let first = site.store(0, &document(1, "max_batch = 5"));
    let waves = [10, 30, 60, 100];
    site.push(1, "one", Some(&first), &json!({ "all": true }), &plan(&waves, 1_000));
    for wave in 0..waves.len() {
        let leader = site.leader();
        let is_there = |r: &serde_json::Value| r["wave"].as_u64() >= Some(wave as u64) || r["stage"] == "completed";
        site.wait(leader, "/v1/rollouts/one", is_there);
        site.clouds[leader].kill9();
        println!("killed cloud {leader} in wave {wave}");
        site.wait(1 - leader, "/v1/status", |status| status["control"]["leads"] == true);
        site.clouds[leader].restart();
    }
    for n in 0..2 {
        let done = site.wait(n, "/v1/rollouts/one", is("completed"));
        assert_eq!((&done["members"], &done["failed"], &done["held"]), (&json!(10), &json!(0), &json!(0)), "{done:#}");
    }
    eventually("all run it", PATIENCE, || site.fleet.running(Some(1)), |n| *n == 10).await;
    let history = site.get(0, "/v1/history?limit=1000");
    let lines = history["lines"].as_array().unwrap();
    let counted = |what: &str| {
        let of = lines.iter().filter(|line| line["what"] == what && line["void"].is_null());
        of.map(|line| line["wave"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(counted("advanced"), [json!(3), json!(2), json!(1)], "each once: {lines:#?}");
    assert_eq!(counted("completed").len(), 1);
    assert!(counted("claimed").len() > waves.len(), "the lead went to and fro");
    for (name, gateway) in site.fleet.all() {
        assert_eq!(gateway.decided.len(), 1, "{name} was told once: {gateway:?}");
        assert!(gateway.refused.iter().all(|code| code == "replayed"), "{name}: {:?}", gateway.refused);
    }
}
