//! How packs are read: within the rate, and wherever the broker has put them.

use std::time::{Duration, Instant};

use pulsar::producer::Message;
use tidegate::downlink::artefact::Mode;
use tidegate::models::pack::PIECE_BYTES_MAX;

use crate::site::{MIB, Site, active};
use crate::support::models::{messages_out, noise};

const RATE: u64 = 512 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_keeps_to_its_rate_and_finds_a_pack_in_two_ledgers() {
    let mut site = Site::start("models-rate", "[models]\nrate = \"512KiB\"\n").await;
    let name = site.node.name.clone();
    // The broker closes a topic's ledger when the topic moves, and begins another.
    let one = site.version("anomaly", 1, noise(500, MIB), &[]);
    let topic = one.topic(&name);
    site.broker.admin("PUT", &topic.replace("persistent://", "persistent/"), "");
    let (first, second) = one.messages.split_at(one.messages.len() / 2);
    for (n, half) in [first, second].into_iter().enumerate() {
        let producer = site.client.producer().with_topic(&topic).with_name(format!("half-{n}"));
        let mut producer = producer.build().await.unwrap();
        for payload in half {
            let message = Message { payload: payload.clone(), ..Message::default() };
            producer.send_non_blocking(message).await.unwrap().await.unwrap();
        }
        producer.close().await.unwrap();
        site.broker.unload(topic.trim_start_matches("persistent://"));
    }
    let ledgers = site.broker.admin("GET", &format!("{}/internalStats", topic.replace("://", "/")), "");
    let ledgers: serde_json::Value = serde_json::from_str(&ledgers).unwrap();
    let used = ledgers["ledgers"].as_array().unwrap().iter().filter(|ledger| ledger["entries"] != 0).count();
    assert_eq!(used, 2, "{ledgers}");
    let number = site.assign(vec![one.assigned(Mode::Active)]).await;
    assert_eq!(site.outcome(number, &one).await, active());
    assert!(site.current("anomaly").as_ref() == Some(&one.file));
    // Where the second place lies nobody can tell: the head is passed over.
    let (out, places) = (messages_out(&site.broker, &topic), one.messages.len() as u64);
    assert!(out <= places + 1, "{out} messages for {places}");

    // What the broker has sent at each time, for as long as it takes.
    let two = site.version("anomaly", 2, noise(501, 7 * MIB / 2), &[]);
    site.publish(&two).await;
    let (number, begun) = (site.assign(vec![two.assigned(Mode::Active)]).await, Instant::now());
    let path = format!("{}/stats", two.topic(&name).replace("://", "/"));
    let (mut sent, mut ended) = (vec![(Duration::ZERO, 0)], false);
    while !ended {
        tokio::time::sleep(Duration::from_millis(100)).await;
        ended = site.central.model(&name, number, 2).last().is_some_and(|last| *last == active());
        let (broker, path) = (site.broker.clone(), path.clone());
        let stats = tokio::task::spawn_blocking(move || broker.admin("GET", &path, "")).await.unwrap();
        let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
        sent.push((begun.elapsed(), stats["bytesOutCounter"].as_u64().unwrap()));
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", site.node.alive());
    }
    // A burst is a second's; what was asked for within it may be counted by the broker a moment later.
    let slack = RATE + PIECE_BYTES_MAX as u64 + (PIECE_BYTES_MAX as u64 / 4);
    for (n, (from, before)) in sent.iter().enumerate() {
        for (to, after) in &sent[n..] {
            let most = slack + (RATE as f64 * (*to - *from).as_secs_f64()) as u64;
            assert!(after - before <= most, "{} bytes in {:?}, at most {most}", after - before, *to - *from);
        }
    }
    let (took, bytes) = (begun.elapsed().as_secs_f64(), sent.last().unwrap().1);
    println!("{bytes} bytes in {took:.1} s at {RATE} bytes/s");
    assert!(took >= 5.0, "{took} s");
}
