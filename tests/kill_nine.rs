//! kill -9 of the edge at random moments under load, with a broker restart in every tenth round: every
//! acknowledged event is in the topic once and in order, as Pulsar's own client counts it.
//!
//! `TIDEGATE_TEST_KILL_ROUNDS=200 deploy/test.sh acknowledged_events_survive` is the long version.
//! A failing run prints its seed; `TIDEGATE_TEST_SEED=… ` repeats the schedule of faults.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::path::Path;
use std::time::Duration;

use support::broker::Broker;
use support::fleet::{Fleet, Plan, simulated};
use support::oracle::judge;
use support::process::Tidegate;
use support::random::Random;
use support::system;
use support::witness::{Witness, arrivals};

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");
const ROUNDS_IN_CI: u64 = 20;
const DEVICES: usize = 16;

#[test]
fn acknowledged_events_survive_kill_nine_of_edge_and_broker() {
    let rounds = support::setting("TIDEGATE_TEST_KILL_ROUNDS", ROUNDS_IN_CI);
    let mut random = Random::from_environment();
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start();
    system::provision(Path::new(BINARY), dir.path(), &broker, 4);
    let topic = "persistent://tidegate/telemetry/telemetry";
    let witness = Witness::start(&broker.service_url(), topic, &dir.path().join("seen.tsv"));
    let mut edge = Tidegate::start(Path::new(BINARY), "edge", dir.path(), &system::edge_toml(dir.path(), &broker));
    edge.wait_ready(Duration::from_secs(30));
    let fleet = Fleet::start(Plan {
        url: edge.url(),
        devices: DEVICES,
        events_per_device: u64::MAX,
        rate: 0,
        data: std::sync::Arc::new(simulated),
        prefix: "device".into(),
    });
    for round in 1..=rounds {
        std::thread::sleep(Duration::from_millis(random.below(400)));
        edge.kill9();
        if round % 10 == 0 {
            broker.kill9();
        }
        edge.restart();
        if round % 10 == 0 {
            std::thread::sleep(Duration::from_millis(random.below(500)));
            broker.restart();
        }
        edge.wait_ready(Duration::from_secs(30));
        println!("round {round} of {rounds}: {} acknowledged", fleet.acknowledged());
    }
    let ledger = fleet.stop();
    edge.wait_drained(Duration::from_secs(120));
    let acknowledged: u64 = ledger.values().map(|d| d.acknowledged.len() as u64).sum();
    let seen = witness.settle(acknowledged, Duration::from_secs(60));
    let verdict = judge(&ledger, arrivals(&seen));
    println!("{rounds} rounds: {verdict:?}");
    assert!(verdict.is_clean(), "seed {}: {verdict:#?}\n{}", random.seed(), edge.log_tail());
    assert!(verdict.acknowledged > rounds * 10, "too little load to mean anything: {verdict:?}");
    assert_sequences_increase(&seen);
}

/// Within a partition, a stream's sequences increase: the broker can have dropped or doubled nothing.
fn assert_sequences_increase(seen: &[support::witness::Seen]) {
    let mut last = std::collections::HashMap::new();
    for message in seen {
        let before = last.insert((message.topic.clone(), message.stream.clone()), message.seq);
        assert!(
            before.is_none_or(|b| b < message.seq),
            "sequence {} after {before:?} in {}",
            message.seq,
            message.topic
        );
    }
}
