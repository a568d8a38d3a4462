//! A journal that refuses: what it does not take is never acknowledged.

use std::time::Duration;

use tidegate::config::edge::Mapping;
use tidegate::journal::AppendError;

use crate::harness::Gate;
use crate::kill::Edge;
use crate::support::mqtt::{Client, Options, Reply, packet, text};

/// Nothing that promises anything may come, and the connection ends (5.0: with a word).
async fn is_not_answered(mut client: Client, what: &str) {
    loop {
        match client.next_or_end().await {
            None => return,
            Some(Reply::Disconnect { reason }) if reason >= 0x80 => {}
            Some(other) => panic!("{what}: {other:?} although nothing is on disk"),
        }
    }
}

/// Somebody who is away and has subscribed to everything with quality of service 1.
async fn absent(gate: &Gate) {
    let mut client = gate.connect(Options::new("absent").stays()).await;
    client.subscribe("#", 1).await;
    client.disconnect().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_journal_does_not_take_is_not_acknowledged() {
    let gate = Gate::start(|c| {
        c.mappings = vec![Mapping { topic: "local/#".into(), upstream: false, ..Mapping::default() }];
    });
    absent(&gate).await;
    let options = |name: &str, v5: bool| if v5 { Options::new(name) } else { Options::v311(name) };
    let mut clients = Vec::new();
    for v5 in [true, false] {
        for topic in ["devices/d/reading", "local/x"] {
            for (qos, retain) in [(1, false), (2, false), (1, true)] {
                let client = gate.connect(options(&format!("{v5} {topic} {qos} {retain}"), v5)).await;
                clients.push((client, topic, qos, retain));
            }
        }
    }
    let mut subscriber = gate.connect(Options::new("subscriber").stays()).await;
    let mut other = gate.connect(Options::new("other")).await;
    gate.hub.journal().close().await;
    assert!(matches!(gate.hub.journal().append(&[b"x"]), Err(AppendError::Closed)));

    for (mut client, topic, qos, retain) in clients {
        // One more behind it, which needs no record of its own.
        let mut bytes = client.publish_bytes(topic, b"x", qos, retain, false, 1);
        bytes.extend(client.publish_bytes(topic, b"x", qos, retain, false, 2));
        client.write(&bytes).await;
        is_not_answered(client, &format!("{topic} with {qos}, retain {retain}")).await;
    }
    let filter = [&[0, 9, 0][..], &text("a/b"), &[1]].concat();
    subscriber.write(&packet(0x82, &filter)).await;
    is_not_answered(subscriber, "SUBSCRIBE").await;
    // What promises nothing goes on.
    other.ping().await;

    let sessions = gate.hub.counts().sessions;
    for (options, refused) in
        [(Options::new("kept").stays(), 0x88), (Options { clean: false, ..Options::v311("old") }, 3)]
    {
        let stream = tokio::net::TcpStream::connect(gate.address(tidegate::ingest::mqtt::transport::Kind::Tcp)).await;
        let mut client = Client::raw(stream.unwrap(), options.v5);
        client.write(&options.bytes()).await;
        assert_eq!(client.next().await, Reply::Connack { present: false, reason: refused });
    }
    assert_eq!(gate.hub.counts().sessions, sessions, "a client that was told no has no session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_fails_is_seen_and_works_again_with_its_disk() {
    let edge = Edge::start();
    let warnings =
        |page: &str| edge.process.get(page).map_or(usize::MAX, |p| p["warnings"].as_array().map_or(0, Vec::len));
    let patience = Duration::from_secs(60);
    assert_eq!((warnings("/readyz"), warnings("/v1/status")), (0, 0));
    let journal = edge.dir.path().join("data/mqtt");
    std::fs::remove_dir_all(&journal).unwrap();
    // The next segment cannot be made.
    let mut client = Client::connect(edge.mqtt, Options::v311("a")).await;
    let payload = vec![b'x'; 900_000];
    loop {
        client.retain("site/x", &payload).await;
        if client.next_or_end().await.is_none() {
            break;
        }
    }
    crate::support::eventually("it is said", patience, || warnings("/readyz"), |n| *n == 1).await;
    assert_eq!(warnings("/v1/status"), 1);
    let mut other = Client::connect(edge.mqtt, Options::new("clean")).await;
    other.publish_and_wait("devices/d/r", "events go on").await;
    std::fs::create_dir(&journal).unwrap();
    crate::support::eventually("it works again", patience, || warnings("/readyz"), |n| *n == 0).await;
    let id = other.retain("site/new", "1").await;
    other.puback(id).await;
}
