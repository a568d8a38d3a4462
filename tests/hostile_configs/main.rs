//! A library of hostile configurations, each pushed to a real gateway through a real broker while devices send events, with
//! kill -9 meanwhile: no gateway is stranded, each verdict is reported with its reason, and no acknowledged event is lost
//! or doubled.
//!
//! Each entry is killed once at a random moment. `TIDEGATE_TEST_HOSTILE=1 cargo test --test hostile_configs -- --nocapture`
//! is the whole campaign: each entry at every step of its trial (each change of the trial's files), at two random moments, after
//! its report, and without a kill; with 2 all of it twice, and so on. `TIDEGATE_TEST_HOSTILE_GATEWAYS` says how many run
//! at once, `TIDEGATE_TEST_HOSTILE_ONLY=lane` takes the entries with that in their names. A failing run prints its seed; `TIDEGATE_TEST_SEED=…` repeats the schedule of kills.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test; its tasks are joined

#[path = "../support/mod.rs"]
mod support;

mod campaign;
mod library;
mod places;
mod site;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use campaign::{Campaign, Figures, Kills, name_of};
use places::Places;
use support::central::Central;
use support::random::Random;
use support::setting;

const TENANT: &str = "hostile";

#[test]
fn the_library_is_large_and_each_entry_has_its_own_name() {
    let all = library::all();
    let names: BTreeSet<&str> = all.iter().map(|entry| entry.name).collect();
    assert!(names.len() == all.len() && names.len() >= 80, "{} entries, {} names", all.len(), names.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hostile_configuration_strands_a_gateway_or_loses_an_event() {
    let mut random = Random::from_environment();
    let times = setting("TIDEGATE_TEST_HOSTILE", 0);
    let gateways = usize::try_from(setting("TIDEGATE_TEST_HOSTILE_GATEWAYS", 12)).unwrap().max(2);
    let begun = Instant::now();
    let places = Places::start(TENANT).await;
    let nodes: Vec<String> = (0..gateways).map(name_of).collect();
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let central = Central::start(&places.broker, TENANT, &nodes).await;
    println!("brokers are up after {:?}", begun.elapsed());
    let campaign = Arc::new(Campaign {
        places,
        central,
        tenant: TENANT.to_owned(),
        confirm: Duration::from_millis(setting("TIDEGATE_TEST_HOSTILE_CONFIRM_MS", 5000)),
        figures: Mutex::new(Figures::default()),
    });
    let only = std::env::var("TIDEGATE_TEST_HOSTILE_ONLY").unwrap_or_default();
    let entries = (0..times.max(1)).flat_map(|_| library::all()).filter(|entry| entry.name.contains(&only));
    let work = entries.map(|entry| (entry, if times > 0 { Kills::Every } else { Kills::Random })).collect();
    campaign.run(work, gateways, &mut random).await;
    let figures = campaign.figures.lock().unwrap();
    println!("{figures:#?}\nin {:?}", begun.elapsed());
    assert!(figures.stranded.is_empty(), "stranded, seed {}: {:#?}", random.seed(), figures.stranded);
    assert!(figures.unreported.is_empty(), "not as it should, seed {}: {:#?}", random.seed(), figures.unreported);
    let counts = figures.counts;
    assert_eq!(
        (counts.lost, counts.duplicates, counts.altered, counts.gaps),
        (0, 0, 0, 0),
        "seed {}: {counts:?}",
        random.seed()
    );
    assert!(counts.acknowledged > 0);
}
