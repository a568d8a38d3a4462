//! The uplink against a real broker: nothing is lost, doubled or out of order, whatever happens to the connection.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::broker::Broker;
use support::count::count;
use support::edge::{Edge, config};
use support::eventually;

const TOPIC: &str = "telemetry/telemetry";

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_with_their_attributes_and_after_a_restart_nothing_is_sent_twice() {
    let broker = Broker::shared();
    broker.create_namespace("plain/telemetry");
    broker.create_partitioned_topic(&format!("plain/{TOPIC}"), 4);
    let config = config(&broker.service_url(), "plain");
    let mut edge = Edge::start(config.clone());
    for _ in 0..3 {
        edge.append(10_000, 50, 200).await;
        eventually(
            "all confirmed",
            Duration::from_secs(60),
            || (edge.confirmed(), edge.link()),
            |s| s.0 == edge.appended,
        )
        .await;
        assert_eq!(edge.link().warning, None);
        edge.disconnect().await;
        edge.connect(&config);
    }
    edge.disconnect().await;
    let counted = count(&broker.service_url(), &format!("persistent://plain/{TOPIC}"));
    assert_eq!((counted.messages, counted.distinct, counted.missing), (30_000, 30_000, 0), "{counted:?}");
    assert_eq!((counted.out_of_order, counted.altered, counted.partitions), (0, 0, 4), "{counted:?}");
    let first = &counted.first;
    let seq = first["properties"]["tg_seq"].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(first["key"], format!("dev-{}", seq % 50));
    assert_eq!(first["event_time"], 1_700_000_000_000 + seq);
    assert_eq!(first["properties"]["ce_id"], format!("e-{seq}"));
    assert_eq!(first["properties"]["ce_type"], "reading");
    assert_eq!(first["properties"]["ce_site"], "plant-7");
    assert_eq!(first["properties"]["content-type"], "application/json");
}
