//! What the operator is told: every way in which a link can be wrong is said in words with the way out, loses
//! nothing, and delivers by itself once it is mended.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::broker::Broker;
use support::edge::{Edge, config};
use support::eventually;
use tidegate::observe::status::LinkState;

const WITHIN: Duration = Duration::from_secs(30);

async fn says(edge: &Edge, words: &str) {
    let told = |e: &Option<String>| e.as_deref().is_some_and(|e| e.contains(words));
    eventually(words, WITHIN, || edge.link().last_error, told).await;
}

async fn delivers(edge: &Edge) {
    let all = |s: &(u64, _)| s.0 == edge.appended;
    eventually("all confirmed", WITHIN, || (edge.confirmed(), edge.link()), all).await;
    assert_eq!(edge.link().state, LinkState::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_without_deduplication_is_warned_about() {
    let broker = Broker::shared();
    broker.create_namespace("nodedup/telemetry");
    broker.set_dedup("nodedup/telemetry", false);
    broker.create_partitioned_topic("nodedup/telemetry/telemetry", 2);
    let config = config(&broker.service_url(), "nodedup");
    let mut edge = Edge::start(config.clone());
    edge.append(100, 9, 100).await;
    let warned = |w: &Option<String>| w.as_deref().is_some_and(|w| w.contains("deduplication is OFF"));
    let warning = eventually("a warning", WITHIN, || edge.link().warning, warned).await.unwrap();
    assert!(warning.contains("nodedup/telemetry") && warning.contains("tidegate provision"), "{warning}");
    edge.append(100, 9, 100).await;
    delivers(&edge).await;
    edge.disconnect().await;
    broker.set_dedup("nodedup/telemetry", true);
    broker.unload("nodedup/telemetry/telemetry");
    edge.connect(&config);
    edge.append(100, 9, 100).await;
    delivers(&edge).await;
    eventually("the warning goes", WITHIN, || edge.link().warning, |w| w.is_none()).await;
    edge.disconnect().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_asks_for_provision_and_is_used_once_it_exists() {
    let broker = Broker::shared();
    broker.create_namespace("notopic/telemetry");
    let mut edge = Edge::start(config(&broker.service_url(), "notopic"));
    edge.append(10, 3, 100).await;
    says(&edge, "run `tidegate provision`").await;
    broker.create_partitioned_topic("notopic/telemetry/telemetry", 3);
    delivers(&edge).await;
    edge.disconnect().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_addresses_are_named_and_the_next_one_is_tried() {
    let broker = Broker::shared();
    broker.create_namespace("address/telemetry");
    broker.create_partitioned_topic("address/telemetry/telemetry", 1);
    let [nobody] = support::ports::free_ports();
    for (url, words) in [
        (format!("pulsar://127.0.0.1:{nobody}"), "cannot connect to 127.0.0.1"),
        ("pulsar://no-such-host.invalid:6650".to_owned(), "cannot find the address of no-such-host.invalid"),
        (broker.admin_url().replace("http", "pulsar"), "really Pulsar's binary port"),
        (broker.service_url().replace("pulsar:", "pulsar+ssl:"), "check that this port speaks TLS"),
    ] {
        let mut config = config(&url, "address");
        let mut edge = Edge::start(config.clone());
        edge.append(10, 3, 100).await;
        says(&edge, words).await;
        assert_eq!(edge.confirmed(), 0);
        edge.disconnect().await;
        config.uplink.pulsar.push(broker.service_url());
        edge.connect(&config);
        delivers(&edge).await;
        edge.disconnect().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_gateway_with_the_same_identity_is_fenced_until_the_first_is_gone() {
    let broker = Broker::shared();
    broker.create_namespace("twin/telemetry");
    broker.create_partitioned_topic("twin/telemetry/telemetry", 2);
    let config = config(&broker.service_url(), "twin");
    let mut first = Edge::start(config.clone());
    first.append(10, 3, 100).await;
    delivers(&first).await;
    // The same outbox a second time: a copied disk.
    let mut second = Edge { outbox: first.outbox.clone(), ..Edge::start(config.clone()) };
    second.disconnect().await;
    second.connect(&config);
    says(&second, "another process uses this gateway's identity").await;
    first.disconnect().await;
    eventually("the second takes over", WITHIN, || second.link().state, |s| *s == LinkState::Up).await;
    second.disconnect().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_larger_than_the_broker_takes_stops_the_lane_with_a_reason() {
    let broker = Broker::shared();
    broker.create_namespace("large/telemetry");
    broker.create_partitioned_topic("large/telemetry/telemetry", 1);
    let mut config = config(&broker.service_url(), "large");
    config.outbox.max_event = 8 << 20; // more than the configuration file allows, and more than a broker takes
    let mut edge = Edge::start(config);
    edge.append(3, 1, 4 << 20).await;
    delivers(&edge).await;
    edge.append(1, 1, 6 << 20).await;
    edge.append(1, 1, 100).await;
    says(&edge, "event 4 cannot be sent").await;
    assert_eq!(edge.link().state, LinkState::Down);
    assert_eq!(edge.confirmed(), 3);
    edge.disconnect().await;
}
