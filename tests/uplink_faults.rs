//! Connections cut at random and a broker killed with -9, under load: every event once and in order.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::broker::{Broker, Options};
use support::count::count;
use support::edge::{Edge, config};
use support::eventually;

const TOPIC: &str = "telemetry/telemetry";
const EVENTS: u64 = 200_000;
const CUTS: u64 = 25;

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_and_a_killed_broker_cost_no_event_and_double_none() {
    let broker = Broker::start_with(Options { proxied: true, ..Options::default() });
    let proxy = broker.proxy();
    broker.create_namespace("faults/telemetry");
    broker.create_partitioned_topic(&format!("faults/{TOPIC}"), 4);
    let mut config = config(&broker.service_url(), "faults");
    // Small batches: more of them are in flight when the connection goes.
    config.uplink.batch_events = 50;
    let mut edge = Edge::start(config);
    let (mut cuts, mut killed) = (0, false);
    let mut cut_after = 0;
    let begun = Instant::now();
    while edge.confirmed() < EVENTS {
        // A backlog that keeps the window full, and is not gone between two cuts.
        if edge.appended < EVENTS && edge.appended < edge.confirmed() + 3 * EVENTS / CUTS {
            edge.append(1_000, 50, 200).await;
        }
        // By progress, not by the clock: the same on a slow machine. Each cut meets a connection that works.
        if edge.counter("connects") > cuts && edge.confirmed() >= cut_after && cuts < CUTS {
            proxy.cut();
            cuts += 1;
            cut_after = edge.confirmed() + EVENTS / CUTS / 2;
        }
        if !killed && edge.confirmed() > EVENTS / 2 {
            broker.kill9();
            broker.restart();
            killed = true;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(begun.elapsed() < Duration::from_secs(240), "stuck at {}: {:?}", edge.confirmed(), edge.link());
    }
    let (connects, resumed, recognised) =
        (edge.counter("connects"), edge.counter("resumed_events"), edge.counter("duplicate_events"));
    println!("{cuts} cuts, {connects} connects, {resumed} sent alone, {recognised} of them recognised as stored");
    edge.disconnect().await;
    let counted = count(&broker.service_url(), &format!("persistent://faults/{TOPIC}"));
    assert_eq!((counted.messages, counted.distinct, counted.missing), (EVENTS, EVENTS, 0), "{counted:?}");
    assert_eq!((counted.out_of_order, counted.altered, counted.highest), (0, 0, EVENTS), "{counted:?}");
    assert!(killed && cuts > CUTS / 2 && connects > cuts, "too few faults happened: {cuts} cuts, {connects} connects");
    assert!(recognised > 0, "no event was ever repeated: the resume rule was not exercised");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_goes_silent_is_found_and_replaced() {
    let broker = Broker::start_with(Options { proxied: true, ..Options::default() });
    let proxy = broker.proxy();
    broker.create_namespace("silent/telemetry");
    broker.create_partitioned_topic(&format!("silent/{TOPIC}"), 1);
    let mut edge = Edge::start(config(&broker.service_url(), "silent"));
    edge.append(100, 5, 100).await;
    eventually("first events", Duration::from_secs(30), || edge.confirmed(), |c| *c == 100).await;
    proxy.silence(true);
    edge.append(100, 5, 100).await;
    let found = |s: &Option<String>| s.as_deref().is_some_and(|e| e.contains("has said nothing for"));
    eventually("the silence is noticed", Duration::from_secs(30), || edge.link().last_error, found).await;
    proxy.silence(false);
    // What was half open at the broker keeps the producer's name for up to 5 s.
    eventually("delivery again", Duration::from_secs(30), || edge.confirmed(), |c| *c == 200).await;
    edge.disconnect().await;
    let counted = count(&broker.service_url(), &format!("persistent://silent/{TOPIC}"));
    assert_eq!((counted.messages, counted.distinct, counted.missing), (200, 200, 0), "{counted:?}");
}
