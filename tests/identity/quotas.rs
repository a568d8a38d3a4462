//! Rates of events and bytes, of one device and of all: who sends more waits or is told, and nobody else notices.

use std::time::{Duration, Instant};

use crate::harness::{Answer, Http, Site, bearer, device, publish, with_token};
use crate::support::mqtt::{Client, Options, Reply};

/// Posts until it is told to wait.
async fn until_told(http: &mut Http, name: &str, body: &str) -> (usize, Answer) {
    for sent in 0..10_000 {
        let answer = http.call(&format!("POST /v1/devices/{name}/events"), &bearer(name), body).await;
        if answer.status != 202 {
            return (sent, answer);
        }
    }
    panic!("10,000 were taken");
}

fn check_told(answer: &Answer, of_whom: &str) {
    assert_eq!(answer.problem(), (429, "quota-exceeded".to_owned()));
    assert!(answer.body.contains(of_whom), "{answer:?}");
    assert!(answer.retry_after() >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_http_too_much_is_refused_with_the_time_to_wait() {
    let devices = device("few", "max_events = 3") + &device("small", "max_bytes = 1000") + &device("free", "");
    let mut site = Site::required(&devices);
    let mut http = site.connect().await;
    let (sent, told) = until_told(&mut http, "few", "{}").await;
    check_told(&told, "this device's events");
    assert!(sent >= 3, "a second's worth at once");
    site.was_refused("quota", "few", "this device's events a second");
    let body = format!("\"{}\"", "x".repeat(598));
    let (sent, told) = until_told(&mut http, "small", &body).await;
    check_told(&told, "this device's bytes");
    assert!(sent >= 1);
    assert_eq!(site.post("free", &bearer("free")).await.status, 202);
    tokio::time::sleep(Duration::from_secs(told.retry_after())).await;
    assert_eq!(http.call("POST /v1/devices/small/events", &bearer("small"), &body).await.status, 202, "as it was told");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_devices_together_have_a_quota_too() {
    let devices = device("a", "") + &device("b", "");
    let site = Site::start("mode = \"required\"\ntotal_events = 4", &devices, "");
    let mut http = site.connect().await;
    let (_, told) = until_told(&mut http, "a", "{}").await;
    check_told(&told, "all devices' events");
    let mut other = site.client(with_token(Options::new("b"), "b")).await;
    let reasons = flood(&mut other, "b", 30).await;
    assert!(reasons.contains(&0x97), "{reasons:?}");
}

/// Publishes so many with QoS 1 at once, and returns what each PUBACK says.
async fn flood(client: &mut Client, name: &str, messages: u16) -> Vec<u8> {
    let mut all = Vec::new();
    for id in 1..=messages {
        all.extend(client.publish_bytes(&format!("devices/{name}/x"), b"{}", 1, false, false, id));
    }
    all.extend([0xC0, 0]);
    client.write(&all).await;
    let (mut reasons, mut alive) = (Vec::new(), None);
    while reasons.len() < usize::from(messages) || alive.is_none() {
        match client.next().await {
            Reply::Pingresp => alive = Some(reasons.len()),
            Reply::Puback { id, reason, text } => {
                assert_eq!(usize::from(id), reasons.len() + 1, "in order");
                assert!(reason == 0 || text.contains("quota of"), "{reason:#x} {text:?}");
                reasons.push(reason);
            }
            other => panic!("{other:?}"),
        }
    }
    if messages > 40 {
        assert!(alive < Some(reasons.len()), "PINGREQ does not wait for the quota");
    }
    reasons
}

#[tokio::test(flavor = "multi_thread")]
async fn by_mqtt_5_what_would_wait_too_long_is_told_and_the_connection_stays() {
    let devices = device("few", "max_events = 5") + &device("free", "");
    let mut site = Site::required(&devices);
    let mut free = site.client(with_token(Options::new("f"), "free")).await;
    let mut few = site.client(with_token(Options::new("c"), "few")).await;
    let reasons = flood(&mut few, "few", 60).await;
    let taken = reasons.iter().filter(|reason| **reason == 0).count();
    assert!(reasons[..5] == [0; 5] && reasons.contains(&0x97), "{reasons:?}");
    assert_eq!(site.status()["lanes"][0]["last_seq"], taken, "what was refused was not stored");
    let counted = site.metric("tidegate_mqtt_refused_total{reason=\"quota\"}");
    assert!(counted as usize == 60 - taken, "{counted}");
    site.was_refused("quota", "few", "this device's events a second");
    for _ in 0..100 {
        free.publish_and_wait("devices/free/x", "{}").await;
    }
    crate::harness::eventually("a quota to be there again", async || {
        publish(&mut few, "devices/few/x", "{}").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_mqtt_3_who_sends_too_much_is_slowed_down_and_loses_nothing() {
    let devices = device("few", "max_events = 20") + &device("free", "");
    let site = Site::required(&devices);
    let mut free = site.client(with_token(Options::v311("f"), "free")).await;
    let mut few = site.client(with_token(Options::v311("c"), "few")).await;
    let begun = Instant::now();
    let (reasons, ()) = tokio::join!(flood(&mut few, "few", 100), async {
        for _ in 0..100 {
            free.publish_and_wait("devices/free/x", "{}").await;
        }
    });
    assert_eq!(reasons, [0; 100]);
    // A second's worth at once, the rest at 20 a second.
    assert!(begun.elapsed() >= Duration::from_millis(3900), "{:?}", begun.elapsed());
    assert_eq!(site.status()["lanes"][0]["last_seq"], 200);
}
