//! Sessions, wills, retained messages, and who takes over from whom.

use std::time::{Duration, Instant};

use crate::harness::Gate;
use crate::support::mqtt::{Client, Options, Reply};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_takes_over_and_the_first_is_told() {
    let gate = Gate::start(|_| {});
    let mut first = gate.connect(Options::new("a").stays()).await;
    let second = gate.connect(Options::new("a").stays()).await;
    assert!(second.present);
    assert_eq!(first.next().await, Reply::Disconnect { reason: 0x8E });
    assert!(first.ends().await);
    let mut old = gate.connect(Options::v311("b")).await;
    let _new = gate.connect(Options::v311("b")).await;
    assert!(old.ends().await, "3.1.1 is not told");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_will_of_a_client_that_vanishes_reaches_subscribers_and_the_outbox() {
    let gate = Gate::start(|_| {});
    let mut witness = gate.connect(Options::new("witness")).await;
    witness.subscribe("devices/d/#", 1).await;
    let client = gate.connect(Options::new("a").will("devices/d/state", "gone")).await;
    drop(client);
    assert_eq!(witness.next().await.payload(), b"gone");
    // Subscribers need not wait for the disk.
    tokio::time::timeout(Duration::from_secs(10), async {
        while gate.last("telemetry") < 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    // One that says goodbye leaves none.
    gate.connect(Options::new("b").will("devices/d/state", "not said")).await.disconnect().await;
    witness.publish_and_wait("other", "").await;
    let stored = gate.stored("telemetry").await;
    assert_eq!(stored.len(), 2);
    assert_eq!((&stored[0].data[..], stored[0].subject.as_deref()), (&b"gone"[..], Some("d")));
    assert_eq!(stored[0].source, "/nodes/press-7/mqtt/a", "its sender's name, as if it had said so itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_beyond_the_keep_alive_ends_the_connection_with_its_will() {
    let gate = Gate::start(|_| {});
    let mut witness = gate.connect(Options::new("witness")).await;
    witness.subscribe("will", 0).await;
    let begun = Instant::now();
    let mut silent = gate.connect(Options { keep_alive: 1, ..Options::new("a").will("will", "w") }).await;
    let mut lively = gate.connect(Options { keep_alive: 1, ..Options::new("b") }).await;
    let pings = async {
        loop {
            tokio::time::sleep(Duration::from_millis(700)).await;
            lively.ping().await;
        }
    };
    tokio::select! {
        told = silent.next() => assert_eq!(told, Reply::Disconnect { reason: 0x8D }),
        () = pings => {}
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1400) && took < Duration::from_secs(5), "{took:?}");
    assert!(silent.ends().await);
    assert_eq!(witness.next().await.payload(), b"w");
    lively.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_and_queued_messages_wait_for_their_subscriber() {
    let gate = Gate::start(|_| {});
    let mut client = gate.connect(Options::new("a").stays()).await;
    client.subscribe("site/#", 1).await;
    client.disconnect().await;
    let mut other = gate.connect(Options::new("b")).await;
    other.publish_and_wait("site/x", "queued").await;
    let id = other.retain("state", "kept").await;
    other.puback(id).await;
    let mut client = gate.connect(Options::new("a").stays()).await;
    assert!(client.present);
    assert_eq!(client.next().await.payload(), b"queued");
    client.subscribe("state", 1).await;
    match client.next().await {
        Reply::Publish { topic, payload, retain: true, .. } => {
            assert_eq!((&*topic, &*payload), ("state", &b"kept"[..]))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_tells_about_itself() {
    let gate = Gate::start(|c| c.mqtt.sys_interval = Duration::from_millis(50));
    let mut client = gate.connect(Options::new("a")).await;
    client.subscribe("$SYS/broker/clients/connected", 0).await;
    loop {
        if client.next().await.payload() == b"1" {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_come_by_http_reach_local_subscribers() {
    let edge = crate::kill::Edge::start();
    let mut client = Client::connect(edge.mqtt, Options::new("a")).await;
    client.subscribe("http/#", 1).await;
    let url = format!("{}/v1/devices/d-1/events?type=reading", edge.process.url());
    tokio::task::spawn_blocking(move || ureq::post(&url).content_type("application/json").send("{}").unwrap())
        .await
        .unwrap();
    match client.next().await {
        Reply::Publish { topic, payload, .. } => assert_eq!((&*topic, &*payload), ("http/d-1/reading", &b"{}"[..])),
        other => panic!("{other:?}"),
    }
    let status = edge.process.get("/v1/status").unwrap();
    assert_eq!((&status["mqtt"]["connections"], &status["mqtt"]["subscriptions"]), (&1.into(), &1.into()));
    assert_eq!(status["lanes"][0]["last_seq"], 1, "it went upstream once");
}
