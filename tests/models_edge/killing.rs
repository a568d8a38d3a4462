//! A fetch that is killed: what it costs.

use std::fs;
use std::time::{Duration, Instant};

use tidegate::downlink::artefact::Mode;
use tidegate::downlink::report::ModelOutcome;
use tidegate::models::plan::Plan;

use crate::site::{MIB, Site, active};
use crate::support::models::{Version, messages_out, noise};
use crate::support::random::Random;
use crate::support::setting;
use crate::support::tried::Node;

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_is_killed_at_any_moment_goes_on_where_it_was() {
    let kills = setting("TIDEGATE_TEST_MODEL_KILLS", 6);
    let mut random = Random::from_environment();
    let mut site = Site::start("models-killed", "").await;
    let (mut killed, mut n, mut versions) = (0, 0, Vec::<Version>::new());
    // Messages that came twice: in all, and for one kill.
    let (mut twice, mut twice_most) = (0, 0);
    while killed < kills {
        n += 1;
        let version = site.version("anomaly", n, noise(100 + n, 6 * MIB), &[]);
        site.broker.proxy().slow(0);
        site.publish(&version).await;
        // Six megabytes in four seconds.
        site.broker.proxy().slow(3 * MIB as u64 / 2);
        let number = site.assign(vec![version.assigned(Mode::Active)]).await;
        versions.push(version.clone());
        let name = site.node.name.clone();
        let mut of_this = 0;
        while site.central.model(&name, number, n).last().is_none_or(|(outcome, _)| *outcome == ModelOutcome::Fetched) {
            if killed >= kills {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200 + random.below(1500))).await;
            site.node.process.kill9();
            killed += 1;
            // What the broker has been asked for is on its way.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let out = messages_out(&site.broker, &version.topic(&name));
            let more = out.saturating_sub(on_disk(&site.node, &version) + of_this);
            // The one under way, for nothing is asked for ahead on a link like this.
            assert!(more <= 1, "kill {killed} of version {n}: {more} messages come again");
            (of_this, twice_most) = (of_this + more, twice_most.max(more));
            let seen = site.current("anomaly");
            let whole = seen.is_none() || versions.iter().any(|version| seen.as_ref() == Some(&version.file));
            assert!(whole, "after kill {killed}: current/model is no version that was published");
            site.node.restart();
        }
        assert_eq!(site.outcome(number, &version).await, active());
        assert!(site.current("anomaly").as_ref() == Some(&version.file));
        let (out, places) = (messages_out(&site.broker, &version.topic(&name)), version.messages.len() as u64);
        assert!(out <= places + of_this, "version {n}: {out} messages for {places}, {of_this} of them twice");
        twice += of_this;
    }
    let mean = twice as f64 / killed as f64;
    println!("{killed} kills, {n} versions: for a kill {mean:.2} messages come twice, at most {twice_most}");

    // On a fast link more is asked for ahead, and nothing comes twice either.
    site.broker.proxy().slow(0);
    let megabytes = setting("TIDEGATE_TEST_MODEL_MB", 8);
    let fast = site.version("fast", 1000, noise(99, megabytes as usize * 1_000_000), &[]);
    site.publish(&fast).await;
    let (number, begun) = (site.assign(vec![fast.assigned(Mode::Active)]).await, Instant::now());
    assert_eq!(site.outcome(number, &fast).await, active());
    let seconds = begun.elapsed().as_secs_f64();
    println!("{megabytes} MB in use after {seconds:.2} s: {:.1} MB/s", megabytes as f64 / seconds);
    assert!(messages_out(&site.broker, &fast.topic(&site.node.name)) <= fast.messages.len() as u64);
}

/// Messages of a version's pack that a start finds on disk.
fn on_disk(node: &Node, version: &Version) -> u64 {
    let dir = node.models().join(version.name.as_str());
    let read = |of: String, file: &str| fs::read(dir.join(of).join(file)).ok();
    if let Some(data) = read(format!("partial-{}", version.version), "data") {
        let placed: Vec<_> =
            version.index.placed().map(|(at, e)| at as usize..at as usize + e.length as usize).collect();
        let has =
            |n: u32| placed.get(n as usize).is_some_and(|at| data.get(at.clone()) == version.file.get(at.clone()));
        return (version.messages.len() - Plan::of(&version.index, has).messages()) as u64;
    }
    let is_whole = dir.join(version.version.to_string()).exists();
    if is_whole { version.messages.len() as u64 } else { 0 }
}
