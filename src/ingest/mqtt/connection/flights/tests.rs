//! Against a disk that answers when the test says so.

use std::time::Duration;

use futures_util::task::noop_waker;
use tokio::time::advance;

use super::*;
use crate::event::Event;
use crate::event::tests::sample;
use crate::ingest::http::budget::Budget;
use crate::ingest::mqtt::packet::Reason;
use crate::ingest::mqtt::upstream::Why;
use crate::journal::{Meters, Settings};
use crate::observe::metrics::Metrics;
use crate::outbox::testing::Hung;

struct World {
    hung: Hung,
    journal: Journal,
    flights: Flights,
    memory: Budget,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let meter = Meters::new(&Metrics::default()).of("test");
        let journal = Journal::open(dir.path(), Settings::default(), meter, |_| {}).unwrap();
        let memory = Budget::new(u64::MAX, prometheus_client::metrics::gauge::Gauge::default());
        Self { hung: Hung::new("a"), journal, flights: Flights::default(), memory, _dir: dir }
    }

    fn load(&self, ids: std::ops::Range<u16>, bytes: usize) -> Load {
        let mut load = Load::new(self.hung.writer().batch());
        for id in ids {
            load.batch.push(&Event { data: vec![0; bytes].into(), ..sample("x") }).unwrap();
            load.carries(QoS::AtLeastOnce, PacketId::new(id));
        }
        load
    }

    fn push(&mut self, load: Load) {
        let lease = self.memory.lease();
        self.flights.push(load, Instant::now(), lease);
    }

    fn poll(&mut self) -> Poll<Landed> {
        let waker = noop_waker();
        self.flights.poll(&mut Context::from_waker(&waker), &self.journal)
    }

    fn landed(&mut self) -> Landed {
        match self.poll() {
            Poll::Ready(landed) => landed,
            Poll::Pending => panic!("still in the air"),
        }
    }
}

fn ids(landed: &Landed) -> Vec<u16> {
    landed.ids.iter().map(|id| id.get()).collect()
}

#[tokio::test]
async fn nothing_lands_before_the_disk_has_answered_and_then_in_order() {
    let mut world = World::new();
    world.push(world.load(1..4, 10));
    world.push(world.load(4..6, 10));
    assert!(world.poll().is_pending());
    assert_eq!(world.hung.answer(), [3, 2], "both were handed over without waiting for each other");
    let landed = world.landed();
    assert_eq!((ids(&landed), landed.result, landed.counts), (vec![1, 2, 3], Ok(()), [0, 3, 0]));
    assert_eq!(ids(&world.landed()), [4, 5]);
    assert!(world.flights.is_empty() && world.flights.has_room());
}

#[tokio::test]
async fn too_many_or_too_large_flights_stop_the_reading() {
    let mut world = World::new();
    for _ in 0..FLIGHTS_MAX {
        assert!(world.flights.has_room());
        world.push(world.load(1..2, 10));
    }
    assert!(!world.flights.has_room());
    let mut world = World::new();
    world.push(world.load(1..2, BYTES_MAX));
    assert!(!world.flights.has_room());
}

#[tokio::test]
async fn what_needs_its_name_on_disk_waits_for_the_journal_and_holds_back_what_came_later() {
    let mut world = World::new();
    let position = world.journal.append(&[b"intent"]).unwrap();
    let mut first = world.load(1..2, 10);
    first.after = Some(position);
    world.push(first);
    world.push(world.load(2..3, 10));
    // Written is not enough: after a power cut the message would come again under another name.
    world.journal.written(position).await.unwrap();
    let begun = std::time::Instant::now();
    while world.poll().is_pending() && world.flights.sent == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        if world.journal.durable_now() < position {
            assert!(world.hung.answer().is_empty());
        }
        tokio::task::yield_now().await;
    }
    assert!(world.journal.durable_now() >= position);
    assert_eq!(world.hung.answer(), [1, 1]);
    assert_eq!(ids(&world.landed()), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_tried_again_and_then_refused() {
    let mut world = World::new();
    let mut stuffing = world.hung.writer().batch();
    for _ in 0..34 {
        stuffing.push(&Event { data: vec![0; 1_000_000].into(), ..sample("x") }).unwrap();
    }
    let _receipt = stuffing.submit().unwrap();
    world.push(world.load(1..2, 10));
    assert!(world.poll().is_pending());
    assert!(!world.flights.has_room(), "the sender waits");
    assert_eq!(world.flights.deadline(), Some(Instant::now() + BUSY_RETRY));
    // There is room again.
    world.hung.answer();
    assert!(world.poll().is_pending());
    advance(BUSY_RETRY).await;
    assert!(world.poll().is_pending());
    assert_eq!(world.hung.answer(), [1]);
    assert_eq!(world.landed().result, Ok(()));
    // There is none for too long.
    stuffing = world.hung.writer().batch();
    for _ in 0..34 {
        stuffing.push(&Event { data: vec![0; 1_000_000].into(), ..sample("x") }).unwrap();
    }
    let _receipt = stuffing.submit().unwrap();
    world.push(world.load(2..3, 10));
    assert!(world.poll().is_pending());
    advance(BUSY_MAX + Duration::from_millis(1)).await;
    let refused = world.landed().result.unwrap_err();
    assert_eq!((refused.why, refused.reason), (Why::Busy, Reason::QUOTA_EXCEEDED));
}

#[tokio::test]
async fn a_closed_outbox_is_an_answer() {
    let mut world = World::new();
    world.hung.close();
    world.push(world.load(1..2, 10));
    assert_eq!(world.landed().result.unwrap_err().why, Why::Closed);
}

#[tokio::test]
async fn who_waits_for_scores_holds_back_what_came_later() {
    let mut world = World::new();
    let (scored, is_scored) = tokio::sync::oneshot::channel();
    let mut first = world.load(1..3, 10);
    first.scored_bytes = BYTES_MAX;
    let empty = first.batch.emptied();
    let batch = std::mem::replace(&mut first.batch, empty);
    first.scoring = Some(Box::pin(async move {
        is_scored.await.unwrap();
        batch
    }));
    world.push(first);
    assert!(!world.flights.has_room(), "what is away for its scores counts");
    world.push(world.load(3..4, 10));
    assert!(world.poll().is_pending());
    assert_eq!(world.flights.sent, 0);
    scored.send(()).unwrap();
    assert!(world.poll().is_pending());
    assert_eq!(world.hung.answer(), [2, 1]);
    assert_eq!(ids(&world.landed()), [1, 2]);
    assert_eq!(ids(&world.landed()), [3]);
}
