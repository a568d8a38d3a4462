//! Two clusters, one edge: what a device got a 202 for at the first cluster's edge arrives once, in order, at a
//! consumer of the second, also when the edge is killed in between.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use support::broker::Broker;
use support::fleet::{Fleet, Plan, simulated};
use support::oracle::judge;
use support::process::{Tidegate, run};
use support::system;
use support::witness::{Witness, arrivals};

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

#[test]
fn an_event_acknowledged_at_one_cluster_arrives_once_at_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let (west, east) = (Broker::start(), Broker::start());
    let file = dir.path().join("provision.toml");
    let mut toml = system::cloud_toml(&west, &["telemetry"], 2);
    toml = toml.replace(
        &format!("clusters = [\"{}\"]", west.cluster()),
        &format!("clusters = [\"{}\", \"{}\"]", west.cluster(), east.cluster()),
    );
    for cluster in [&west, &east] {
        toml += &format!(
            "\n[[cluster]]\nname = \"{}\"\nservice = \"{}\"\nadmin = \"{}\"\n",
            cluster.cluster(),
            cluster.service_url(),
            cluster.admin_url()
        );
    }
    std::fs::write(&file, toml).unwrap();
    let (code, out, err) = run(Path::new(BINARY), &["provision", "--config", &file.to_string_lossy()]);
    assert_eq!(code, 0, "{out}{err}");

    let topic = "persistent://tidegate/telemetry/telemetry";
    let there = Witness::start(&east.service_url(), topic, &dir.path().join("east.tsv"));
    let mut edge = Tidegate::start(Path::new(BINARY), "edge", dir.path(), &system::edge_toml(dir.path(), &west));
    edge.wait_ready(Duration::from_secs(30));
    let fleet = Fleet::start(Plan {
        url: edge.url(),
        devices: 8,
        events_per_device: 100,
        rate: 400,
        data: Arc::new(simulated),
        prefix: "geo".into(),
    });
    while fleet.acknowledged() < 300 {
        std::thread::sleep(Duration::from_millis(10));
    }
    edge.kill9();
    edge.restart();
    while !fleet.done() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let ledger = fleet.stop();
    edge.wait_drained(Duration::from_secs(60));
    let verdict = judge(&ledger, arrivals(&there.settle(800, Duration::from_secs(60))));
    println!("at the other cluster: {verdict:?}");
    assert!(verdict.is_clean() && verdict.delivered == 800, "{verdict:#?}\n{}", edge.log_tail());
}
