//! Two real clusters, made known to each other in one run: an event sent at the first arrives once at the second.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use serde_json::json;
use support::broker::{Broker, Options};
use support::provision::{api, config_for, everything, provision};
use support::pulsar_client::{client, receive, send};
use tidegate::config::CloudConfig;
use tidegate::config::cloud::{Cluster, Lane};

/// Most time two brokers take to deliver the rest once the first events are there.
const QUIET: Duration = Duration::from_secs(2);
const EVENTS: usize = 200;

/// The way in at the first cluster, so that an edge can take its place: events of one lane as (key, payload), each
/// acknowledged when this returns. Called twice with the same events, as a gateway repeats what it has no answer for.
trait WayIn {
    async fn deliver(&mut self, lane: &str, events: &[(String, String)]);
}

/// A producer with a fixed name whose sequence begins at 0 each time: what it repeats has the same sequence ids.
struct PlainProducer<'a> {
    service: &'a str,
    tenant: &'a str,
}

impl WayIn for PlainProducer<'_> {
    async fn deliver(&mut self, lane: &str, events: &[(String, String)]) {
        let topic = tidegate::pulsar::names::lane_topic(self.tenant, lane);
        send(&client(self.service).await, &topic, "node-1.0123456789abcdef.telemetry@east", events).await;
    }
}

fn config_of(clusters: &[&Broker], tenant: &str) -> CloudConfig {
    let mut config = config_for(clusters[0], tenant);
    config.clusters = clusters
        .iter()
        .map(|b| Cluster { name: b.cluster().to_owned(), service: b.service_url(), admin: b.admin_url() })
        .collect();
    config.pulsar.clusters = clusters.iter().map(|b| b.cluster().to_owned()).collect();
    config
}

async fn arrives_once_and_in_order_per_key(way_in: &mut impl WayIn, from: &Broker, to: &Broker, tenant: &str) {
    let events: Vec<_> = (0..EVENTS).map(|i| (format!("device-{}", i % 10), format!("{i:05} of {tenant}"))).collect();
    way_in.deliver("telemetry", &events).await;
    way_in.deliver("telemetry", &events).await;
    for broker in [to, from] {
        let topic = tidegate::pulsar::names::lane_topic(tenant, "telemetry");
        let got = receive(&client(&broker.service_url()).await, &topic, "tidegate-cloud", EVENTS, QUIET).await;
        let of = |all: &[(String, String)], key: &str| -> Vec<String> {
            all.iter().filter(|(k, _)| k == key).map(|(_, payload)| payload.clone()).collect()
        };
        for device in 0..10 {
            let key = format!("device-{device}");
            assert_eq!(of(&got, &key), of(&events, &key), "{key} at {}", broker.cluster());
        }
        assert_eq!(got.len(), EVENTS, "at {}", broker.cluster());
    }
}

#[test]
fn an_event_acknowledged_at_one_cluster_arrives_once_at_the_other() {
    let [east, west] =
        ["east", "west"].map(|name| Broker::start_with(Options { name: Some(name), ..Options::default() }));
    let mut config = config_of(&[&east, &west], "geo");
    let first = provision(&config, false).unwrap();
    assert!(first.contains("east: register cluster west at pulsar://"), "{first}");
    assert!(first.contains("west: register cluster east at pulsar://"), "{first}");
    assert!(provision(&config, false).unwrap().contains("nothing to do"));
    for broker in [&east, &west] {
        let there = everything(&api(broker));
        assert_eq!(there["namespaces"]["geo/telemetry"]["replication_clusters"], json!(["east", "west"]));
        assert_eq!(there["namespaces"]["geo/telemetry"]["deduplicationEnabled"], true);
        assert_eq!(there["tenants"]["geo"]["allowedClusters"], json!(["east", "west"]));
        assert_eq!(there["topics"]["persistent://geo/telemetry/telemetry-partition-3"], json!(["tidegate-cloud"]));
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut way_in = PlainProducer { service: &east.service_url(), tenant: "geo" };
    runtime.block_on(arrives_once_and_in_order_per_key(&mut way_in, &east, &west, "geo"));

    // A further lane and more partitions, on both, in one run.
    config.lanes =
        vec![Lane { name: "telemetry".into(), partitions: 6 }, Lane { name: "alarms".into(), partitions: 1 }];
    provision(&config, false).unwrap();
    for broker in [&east, &west] {
        let topics = &everything(&api(broker))["topics"];
        assert_eq!(topics["persistent://geo/telemetry/telemetry-partition-5"], json!(["tidegate-cloud"]));
        assert_eq!(topics["persistent://geo/telemetry/alarms-partition-0"], json!(["tidegate-cloud"]));
    }
    assert!(provision(&config, false).unwrap().contains("nothing to do"));

    // A tenant that had one cluster gets a second.
    let mut alone = config_of(&[&east], "later");
    assert!(provision(&alone, false).unwrap().contains("done"));
    alone = config_of(&[&east, &west], "later");
    let text = provision(&alone, false).unwrap();
    assert!(text.contains("east: replicate later/telemetry to west as well"), "{text}");
    assert!(provision(&alone, false).unwrap().contains("nothing to do"));
    let mut way_in = PlainProducer { service: &east.service_url(), tenant: "later" };
    runtime.block_on(arrives_once_and_in_order_per_key(&mut way_in, &east, &west, "later"));
}
