//! How long a cloud process reads a long log before it answers.

use std::time::Instant;

use serde_json::json;
use tidegate::cloud::control::wire::{Cluster, Outgoing, Writer};
use tidegate::pulsar::names;
use tidegate::sys::clock::Clock;
use tidegate::sys::tasks::Tasks;

use crate::site::Site;
use crate::support::provision::config_for;
use crate::support::setting;

/// Writers at the same time: each waits for the receipt of its message.
const WRITERS: usize = 64;

/// `TIDEGATE_TEST_LOG=150000 cargo test --test control startup -- --nocapture` measures.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_starts_has_read_all_of_the_log_before_it_says_so() {
    let entries = usize::try_from(setting("TIDEGATE_TEST_LOG", 2_000)).unwrap();
    let mut site = Site::start("startup", 1, "");
    site.wait_ready(0);
    site.leader();
    site.clouds[0].kill9();
    let cluster = Cluster::of(&config_for(&site.broker, "startup").pulsar).unwrap();
    let (tasks, topic) = (Tasks::new(), names::rollouts_topic("startup"));
    let reports: Vec<_> =
        (0..5).map(|n| json!({ "node": format!("press-{n}"), "number": 4, "verdict": "success" })).collect();
    let author = json!({ "controller": { "epoch": 1, "name": "x" } });
    let event = json!({ "at_ms": 1, "by": author, "what": { "reported": { "reports": reports } } }).to_string();
    let begun = Instant::now();
    let mut writing = Vec::new();
    for writer_of in 0..WRITERS {
        let (writer, work) = Writer::new(cluster.clone(), topic.clone(), Clock::system(), tasks.stopping().clone());
        tasks.spawn_contained("writer", work);
        let event = event.clone();
        writing.push(async move {
            for _ in (writer_of..entries).step_by(WRITERS) {
                let message = Outgoing { key: "event".into(), properties: Vec::new(), payload: event.clone().into() };
                writer.write(message).await.unwrap();
            }
        });
    }
    futures_util::future::join_all(writing).await;
    println!("{entries} entries of {} bytes written in {:?}", event.len(), begun.elapsed());
    let begun = Instant::now();
    site.clouds[0].restart();
    let log = site.wait(0, "/v1/status", |status| status["control"]["reading"] == false)["control"]["log"].clone();
    let took = begun.elapsed();
    assert!(log.as_u64().unwrap() >= entries as u64, "it says that it has read all: {log} of {entries}");
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", site.clouds[0].pid().unwrap())).unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    println!("started and read {log} entries in {took:?}; {} MB resident", (pages * 4096) >> 20);
    tasks.stop(std::time::Duration::from_secs(5)).await;
}
