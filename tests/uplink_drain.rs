//! Drain rate of a backlog, on its own only: `cargo test --release --test uplink_drain -- --ignored --nocapture`.
//! Its counterpart is tests/support/produce.py, Pulsar's own client on the same broker.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::broker::Broker;
use support::edge::{Edge, config};
use support::python::python;

const EVENTS: u64 = 1_000_000;

/// TIDEGATE_DRAIN_AGAINST names another program with produce.py's arguments, such as one with the Go client.
fn client() -> Command {
    match std::env::var_os("TIDEGATE_DRAIN_AGAINST") {
        Some(program) => Command::new(program),
        None => {
            let mut command = Command::new(python());
            command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/produce.py"));
            command
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a test"]
async fn drain_of_a_million_events_against_pulsars_own_client() {
    let broker = Broker::start();
    broker.create_namespace("drain/telemetry");
    for round in 1..=3 {
        for partitions in [1, 4] {
            let tenant = format!("drain-{round}-{partitions}");
            broker.create_namespace(&format!("{tenant}/telemetry"));
            broker.create_partitioned_topic(&format!("{tenant}/telemetry/telemetry"), partitions);
            let mut config = config(&broker.service_url(), &tenant);
            config.uplink.pulsar.clear();
            let mut edge = Edge::start(config.clone());
            edge.append(EVENTS, 50, 256).await;
            config.uplink.pulsar = vec![broker.service_url()];
            let begun = Instant::now();
            edge.connect(&config);
            while edge.confirmed() < EVENTS {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let ours = EVENTS as f64 / begun.elapsed().as_secs_f64();
            edge.disconnect().await;
            let topic = format!("drain/telemetry/client-{round}-{partitions}");
            broker.create_partitioned_topic(&topic, partitions);
            let topic = format!("persistent://{topic}");
            let out = client().args([&broker.service_url(), &topic, &EVENTS.to_string(), "256"]).output().unwrap();
            assert!(out.status.success(), "{out:?}");
            let theirs: f64 = String::from_utf8_lossy(&out.stdout).trim().parse().unwrap();
            println!(
                "round {round}, {partitions} partitions: uplink {ours:.0}/s, pulsar-client {theirs:.0}/s, ratio {:.2}",
                ours / theirs
            );
        }
    }
}
