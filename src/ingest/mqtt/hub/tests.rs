//! The hub with a journal that is too small.

use std::num::NonZeroU16;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::config::EdgeConfig;
use crate::inference::Inference;
use crate::ingest::mqtt::broker::tests::{anybody, connect};
use crate::ingest::mqtt::broker::{Published, Rules, Who};
use crate::ingest::mqtt::packet::{Connect, PacketId, Publish, QoS, Version, Will};
use crate::ingest::mqtt::upstream::Upstream;
use crate::ingest::router::Router;
use crate::journal::{Meter, Meters, Settings};
use crate::observe::metrics::Metrics;
use crate::outbox::{Outbox, testing};
use crate::sys::clock::Clock;

/// A third of it is 128 KiB.
const SETTINGS: Settings = Settings { durable: true, segment_bytes_max: 64 << 10, total_bytes_max: 384 << 10 };

fn open(dir: &Path) -> (Hub, Meter) {
    let meter = Meters::new(&Metrics::default()).of("mqtt");
    let mut broker = Broker::new(start::limits(&EdgeConfig::default()), 1);
    let restore = |record| broker.restore(record);
    let shelf = Shelf::open(dir, SETTINGS, meter.clone(), &Clock::system(), restore).unwrap();
    (Hub::new(broker, shelf), meter)
}

fn with_will(n: usize, payload: usize) -> Connect {
    let message = Publish { topic: "will".into(), payload: vec![0; payload].into(), ..Publish::default() };
    Connect {
        bridge: false,
        version: Version::V5,
        clean_start: true,
        keep_alive_s: 0,
        client_id: n.to_string(),
        will: Some(Will { message, delay_s: 0 }),
        user_name: None,
        password: None,
        session_expiry_s: None,
        receive_maximum: NonZeroU16::MAX,
        maximum_packet_size: None,
        topic_alias_maximum: 0,
        request_response_information: false,
        request_problem_information: true,
        authentication_method: None,
        user_properties: Vec::new(),
    }
}

#[derive(Debug)]
struct Everything;

impl Rules for Everything {
    fn may_publish(&self, _: &str) -> bool {
        true
    }
    fn may_subscribe(&self, _: &str) -> bool {
        true
    }
}

#[tokio::test]
async fn wills_on_their_way_upstream_are_bounded_in_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, _) = open(dir.path());
    for n in 0..400 {
        let seat = hub.enter();
        let who = Who { owner: "".into(), rules: Arc::new(Everything) };
        let ((), effects) = seat.turn(|turn| turn.connect(with_will(n, 60_000), who));
        assert_eq!(effects.close, None);
    }
    let mut unstored = hub.0.unstored.lock().unwrap().take().unwrap();
    let mut bytes = 0;
    while let Ok((will, _lease)) = unstored.try_recv() {
        bytes += will.bytes as u64;
    }
    assert!((PUBLISHED_BYTES_MAX - 100_000..=PUBLISHED_BYTES_MAX).contains(&bytes), "{bytes}");
    assert!(hub.0.published_bytes.lease().grow(PUBLISHED_BYTES_MAX as usize).is_ok(), "it is given back");
}

fn retained(n: u8, payload: Vec<u8>) -> Message {
    let (topic, payload) = (n.to_string().into(), Bytes::from(payload));
    Message { topic, qos: QoS::AtLeastOnce, retain: true, payload, properties: None, expires_at: None }
}

async fn eventually(what: &str, is: impl Fn() -> bool) {
    for _ in 0..2000 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 20 s: {what}");
}

/// It was stored, and the gateway was killed before anybody heard of it. The client comes back when the outbox has forgotten.
#[tokio::test]
async fn a_qos_2_message_that_is_stored_is_known_after_the_window() {
    let (_dir, mut config) = testing::config(&["telemetry"]);
    let (clock, hand) = Clock::set_to(1_800_000_000_000);
    let connect = || Connect { clean_start: false, session_expiry_s: Some(86_400), ..connect("press/7") };
    let publish = |topic: &str, id| Publish {
        qos: QoS::ExactlyOnce,
        topic: topic.into(),
        packet_id: PacketId::new(id),
        payload: Bytes::from_static(b"1"),
        ..Publish::default()
    };
    for run in 0..3 {
        let outbox = Outbox::open(&config, &clock, &Metrics::default()).unwrap();
        let inference = Inference::new(&config, &Metrics::default());
        let router = Router::new(&config.lanes, &outbox).unwrap();
        let upstream = Upstream::new(&config, &router, clock.clone(), inference);
        let hub = Hub::open(&config, &clock, &Meters::new(&Metrics::default())).unwrap();
        hub.resolve(&upstream, &outbox.recalled());
        let seat = hub.enter();
        seat.turn(|turn| turn.connect(connect(), anybody()));
        let (stored, _) = seat.turn(|turn| turn.publish(publish("devices/d/stored", 1)));
        let (lost, effects) = seat.turn(|turn| turn.publish(publish("devices/d/lost", 2)));
        assert!(matches!(lost, Published::New { .. }), "of this one nobody knows");
        match stored {
            Published::New { message, name } if run == 0 => {
                hub.journal().durable(effects.after.unwrap()).await.unwrap();
                let stored = upstream.store(&upstream.origin("d", "press/7"), &message, name).await;
                assert_eq!(stored, Ok(true));
            }
            Published::Answered if run > 0 => {}
            other => panic!("{run} {other:?}"),
        }
        drop(seat);
        hub.close().await;
        outbox.close().await;
        hand.fetch_add(3_600_000, Ordering::Relaxed);
        config.outbox.dedup_window = Duration::ZERO;
    }
}

#[tokio::test]
async fn what_does_not_fit_is_written_anew_only_when_there_is_less_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (hub, meter) = open(dir.path());
    let tidying = async {
        let Ok(()) = hub.clone().tidying().await;
    };
    let story = async {
        for n in 0..20 {
            hub.publish_soon(Source::Gateway, retained(n, vec![n; 10_000]));
        }
        assert!(hub.journal().trouble().is_some());
        eventually("a rewriting was tried", || meter.errors.get() >= 3).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (written, errors) = (meter.written_bytes.get(), meter.errors.get());
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!((meter.written_bytes.get(), meter.errors.get()), (written, errors), "it writes for nothing");
        assert!(hub.journal().trouble().is_some());
        for n in 0..15 {
            hub.publish_soon(Source::Gateway, retained(n, Vec::new()));
        }
        eventually("it works again", || hub.journal().trouble().is_none()).await;
        hub.publish(retained(30, vec![1; 10]), true).await.unwrap();
    };
    tokio::select! {
        () = tidying => {}
        () = story => {}
    }
    hub.close().await;
    drop(hub);
    assert_eq!(open(dir.path()).0.counts().retained, 6);
}
