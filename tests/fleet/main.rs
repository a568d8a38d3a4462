//! Pushes to a whole fleet: simulated gateways with the real way down, a real broker, a real cloud. Prints how long each
//! stage took, and what broker and cloud used; docs/fleet.md holds such figures. Nothing timed is asserted.
//!
//! `TIDEGATE_FLEET` sets the number of gateways (50), `TIDEGATE_FLEET_CONFIRM` the seconds that each has to prove a
//! configuration (10). 2,000 of them want an optimised build: CARGO_PROFILE_DEV_OPT_LEVEL=2 cargo test --test fleet -- --nocapture
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod site;

use std::time::Duration;

use serde_json::json;
use site::{Site, plan};
use support::setting;
use support::simulated::BAD;

/// Whole percents of the fleet, rounded up.
fn share(percent: usize, of: usize) -> usize {
    (of * percent).div_ceil(100)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_reaches_the_whole_fleet_and_a_bad_one_stops_in_its_first_wave() {
    let fleet = usize::try_from(setting("TIDEGATE_FLEET", 50)).unwrap();
    let confirm = setting("TIDEGATE_FLEET_CONFIRM", 10);
    let mut site = Site::start(fleet, confirm);

    let stage = site.begin("start");
    site.start_gateways(0..fleet);
    site.wait_present(fleet).await;
    site.end(stage);
    site.tell_topics();

    // To all at once.
    let stage = site.begin("push to all");
    let push = site.push("good", 101, &plan(&[100]));
    let done = site.wait_rollout(&push, fleet, |p| p["stage"] == "completed").await;
    site.end(stage);
    assert_eq!((&done["succeeded"], &done["failed"]), (&json!(fleet), &json!(0)), "{done:#}");
    assert_eq!(site.kept(&push), fleet);
    site.tell(&push);
    site.tell_topics();

    // A tenth is away.
    let away = share(10, fleet);
    site.stop_gateways(0..away).await;
    let stage = site.begin("push while a tenth is away");
    let push = site.push("away", 102, &plan(&[100]));
    site.wait_rollout(&push, fleet - away, |p| p["succeeded"] == json!(fleet - away)).await;
    site.end(stage);
    site.tell(&push);
    let stage = site.begin("the tenth comes back");
    let back = site.now("away", 102);
    site.start_gateways(0..away);
    let done = site.wait_rollout(&back, fleet, |p| p["stage"] == "completed").await;
    site.end(stage);
    assert_eq!((&done["succeeded"], &done["failed"]), (&json!(fleet), &json!(0)), "{done:#}");
    assert_eq!(site.kept(&back), fleet);
    site.tell(&back);

    // One that no gateway can keep.
    let first = share(2, fleet);
    let stage = site.begin("bad push in waves of 2, 10, 50, 100 %");
    let push = site.push("bad", BAD, &plan(&[2, 10, 50, 100]));
    let done = site.wait_rollout(&push, fleet, |p| p["stage"] != "running" && p["stage"] != "draft").await;
    site.end(stage);
    assert!(done["stage"]["aborted"].is_object(), "{done:#}");
    assert_eq!(
        (&done["wave"], &done["exposed"], &done["succeeded"]),
        (&json!(0), &json!(first), &json!(0)),
        "{done:#}"
    );
    // Whoever has not heard of it by now never will.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((site.tried(&push), site.kept(&push)), (first, 0));
    site.wait_settled(102).await;
    site.tell(&push);
}
