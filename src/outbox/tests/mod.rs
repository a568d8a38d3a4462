//! The outbox as a whole.

mod damage;
mod disk;
mod kill;
mod power;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::commit::Append;
use super::testing::{config, open};
use super::*;
use crate::event::tests::sample;
use crate::event::{Event, record};

fn ours(data: impl Into<Bytes>) -> Event {
    Event { id_is_ours: true, data: data.into(), ..sample("x") }
}

/// Everything in the lane from `from` on, as sequence and data.
async fn read_all(reader: &mut Reader, from: Seq) -> Vec<(Seq, Bytes)> {
    let mut out = Vec::new();
    let mut from = from;
    while from <= reader.last_durable() {
        let Ok(read) = tokio::time::timeout(Duration::from_secs(5), reader.read(from, 100_000)).await else { break };
        for stored in read.unwrap() {
            assert!(stored.seq >= from);
            from = stored.seq + 1;
            let (event, used) = record::decode(&stored.record).unwrap();
            assert_eq!(used, stored.record.len());
            out.push((stored.seq, Bytes::copy_from_slice(event.data)));
        }
    }
    out
}

fn stores(config: &EdgeConfig, lane: &str) -> Vec<PathBuf> {
    let dir = config.node.data_dir.join(DIR).join(lane);
    survey::store_names(&dir).unwrap().into_iter().map(|first| dir.join(segment::dir_name(first))).collect()
}

#[tokio::test]
async fn events_of_all_sizes_come_back_in_order_live_and_after_a_restart() {
    let (_dir, config) = config(&["a", "b"]);
    let outbox = open(&config);
    let writer = outbox.writer("a").unwrap();
    let mut expected = Vec::new();
    for i in 0..400_u64 {
        let len = if i % 97 == 3 { 1_000_000 } else { usize::try_from(i * 7919 % 3000).unwrap() };
        let data = Bytes::from(vec![u8::try_from(i % 251).unwrap(); len]);
        let durable = writer.append(vec![ours(data.clone()), ours("second")]).await.unwrap();
        assert_eq!(durable, Durable { accepted: 2, repeated: 0, first: 2 * i + 1, last: 2 * i + 2 });
        expected.push((2 * i + 1, data));
        expected.push((2 * i + 2, Bytes::from("second")));
    }
    let mut reader = outbox.reader("a").unwrap();
    assert!(read_all(&mut reader, 1).await == expected, "live, from the stores and from memory");
    assert_eq!(outbox.status()[0].backlog_events, 800);
    outbox.close().await;
    assert_eq!(writer.append(vec![ours("late")]).await, Err(AppendError::Closed));
    drop((outbox, writer, reader));

    let outbox = open(&config);
    let mut reader = outbox.reader("a").unwrap();
    assert!(read_all(&mut reader, 1).await == expected, "after a restart");
    assert_eq!(outbox.writer("a").unwrap().append(vec![ours("next")]).await.unwrap().first, 801);
    assert!(outbox.writer("c").is_none());
    assert_eq!(outbox.status()[1].last, 0);
}

#[tokio::test]
async fn an_append_waits_for_nothing_and_a_reader_for_the_next_event() {
    let (_dir, config) = config(&["a"]);
    let outbox = open(&config);
    let mut reader = outbox.reader("a").unwrap();
    assert_eq!((reader.first_unconfirmed(), reader.last_durable()), (1, 0));
    assert!(tokio::time::timeout(Duration::from_millis(20), reader.read(1, 10)).await.is_err(), "nothing there yet");
    let writer = outbox.writer("a").unwrap();
    let (read, _) = tokio::join!(reader.read(1, 10), writer.append(vec![ours("x"), ours("y")]));
    assert_eq!(read.unwrap().len(), 1, "more than max_bytes, but at least one");
    assert_eq!(reader.read(2, 10).await.unwrap()[0].seq, 2);
    assert_eq!(reader.read(1, 1000).await.unwrap().len(), 2, "a reader may go back");
}

#[tokio::test]
async fn a_repeated_event_gets_the_first_answer_also_after_a_restart() {
    let (_dir, config) = config(&["a"]);
    let outbox = open(&config);
    let writer = outbox.writer("a").unwrap();
    let batch = |ids: &[&str]| ids.iter().map(|id| sample(id)).collect::<Vec<_>>();
    let durable = |accepted, repeated, first, last| Durable { accepted, repeated, first, last };
    assert_eq!(writer.append(batch(&["1", "2", "3"])).await.unwrap(), durable(3, 0, 1, 3));
    assert_eq!(writer.append(batch(&["1", "2", "3"])).await.unwrap(), durable(3, 3, 1, 3));
    assert_eq!(writer.append(batch(&["2"])).await.unwrap(), durable(1, 1, 2, 2));
    assert_eq!(writer.append(batch(&["3", "4", "4", "5"])).await.unwrap(), durable(4, 2, 4, 5));
    let (a, b) = tokio::join!(writer.append(batch(&["6"])), writer.append(batch(&["6"])));
    assert_eq!((a.unwrap().first, b.unwrap().first), (6, 6));
    assert_eq!(writer.append(vec![Event { id_is_ours: true, ..sample("1") }]).await.unwrap(), durable(1, 0, 7, 7));
    // Confirmed and drained, the ids must still be known.
    outbox.reader("a").unwrap().confirm(7);
    drop((outbox, writer));
    for _ in 0..2 {
        let outbox = open(&config);
        tokio::time::sleep(Duration::from_millis(250)).await; // the keeper has looked around
        let writer = outbox.writer("a").unwrap();
        assert_eq!(writer.append(batch(&["1", "2", "3"])).await.unwrap(), durable(3, 3, 1, 3));
        assert_eq!(writer.append(batch(&["5", "6"])).await.unwrap(), durable(2, 2, 5, 6));
    }
}

#[tokio::test]
async fn the_confirmed_position_survives_and_never_passes_the_last_event() {
    let (_dir, config) = config(&["a"]);
    let outbox = open(&config);
    outbox.writer("a").unwrap().append((0..10).map(|_| ours("x")).collect()).await.unwrap();
    let reader = outbox.reader("a").unwrap();
    reader.confirm(6);
    reader.confirm(3);
    assert_eq!(reader.first_unconfirmed(), 7);
    drop((outbox, reader));
    let outbox = open(&config);
    let reader = outbox.reader("a").unwrap();
    assert_eq!(reader.first_unconfirmed(), 7);
    reader.confirm(Seq::MAX);
    assert_eq!((reader.first_unconfirmed(), reader.last_durable()), (11, 10));
    assert_eq!(outbox.status()[0].backlog_events, 0);
    assert_eq!(outbox.status()[0].backlog_bytes, 0);
}

#[tokio::test]
async fn too_large_an_event_is_refused_and_names_itself() {
    let (_dir, mut config) = config(&["a"]);
    config.outbox.max_event = 1000;
    let outbox = open(&config);
    let error = outbox.writer("a").unwrap().append(vec![ours("x"), ours(vec![0; 1000])]).await.unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { index: 1, max: 1000, .. }), "{error}");
    assert_eq!(outbox.status()[0].last, 0);
}

#[tokio::test]
async fn a_directory_has_one_process_and_can_be_looked_at_when_it_stopped() {
    let (_dir, config) = config(&["a"]);
    let data = &config.node.data_dir;
    assert_eq!(inspect(data).unwrap().incarnation, None);
    let outbox = open(&config);
    let incarnation = outbox.incarnation().to_owned();
    assert_eq!(incarnation.len(), 16);
    outbox.writer("a").unwrap().append(vec![ours("x"); 5]).await.unwrap();
    outbox.reader("a").unwrap().confirm(2);
    let second = Outbox::open(&config, &Clock::system(), &Metrics::default()).err().unwrap();
    assert!(second.0.contains("another running process"), "{second}");
    assert!(inspect(data).unwrap_err().0.contains("another running process"));
    drop(outbox);
    let before = listing(data);
    let found = inspect(data).unwrap();
    assert_eq!(listing(data), before);
    assert_eq!(found.incarnation, Some(incarnation));
    let status = &found.lanes[0].status;
    assert_eq!((status.last, status.confirmed, status.backlog_events), (5, 2, 3));
    assert!(status.backlog_bytes > 0 && status.disk_bytes > 0 && status.oldest_ms.is_some());
    assert_eq!((found.lanes[0].stores, found.lanes[0].lost), (1, 0));
}

/// All files below `dir` with their lengths.
fn listing(dir: &std::path::Path) -> Vec<(PathBuf, u64)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            out.extend(listing(&entry.path()));
        }
        out.push((entry.path(), meta.len()));
    }
    out.sort();
    out
}

#[tokio::test]
async fn drained_stores_go_and_a_churning_lane_stays_small() {
    let (_dir, mut config) = config(&["a"]);
    config.outbox.max_bytes = 16 << 20;
    let outbox = open(&config);
    let (writer, reader) = (outbox.writer("a").unwrap(), outbox.reader("a").unwrap());
    for _ in 0..600 {
        let batch = (0..100).map(|_| ours(vec![7; 1000])).collect();
        let durable = writer.append(batch).await.unwrap();
        reader.confirm(durable.last);
        assert!(outbox.status()[0].disk_bytes < 16 << 20);
    }
    let start = Instant::now();
    while stores(&config, "a").len() > 1 {
        assert!(start.elapsed() < Duration::from_secs(20), "60 MB went through; {:?} are left", stores(&config, "a"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(outbox.status()[0].last, 60_000);
}

#[tokio::test]
async fn a_full_budget_refuses_and_draining_opens_it_again() {
    let (_dir, mut config) = config(&["a"]);
    config.outbox.max_bytes = 16 << 20;
    let outbox = open(&config);
    let (writer, mut reader) = (outbox.writer("a").unwrap(), outbox.reader("a").unwrap());
    let batch = || (0..100).map(|_| ours(vec![7; 1000])).collect::<Vec<_>>();
    let mut last = 0;
    let full = loop {
        match writer.append(batch()).await {
            Ok(durable) => last = durable.last,
            Err(e) => break e,
        }
        assert!(last < 20_000, "16 MiB cannot hold 20 MB");
    };
    assert!(matches!(&full, AppendError::Full { reason, .. } if reason.contains("outbox.max_bytes")), "{full}");
    assert!(last >= 12_000, "most of the budget is usable, only {last} fit");
    let used: u64 = listing(&config.node.data_dir).iter().map(|(_, len)| len).sum();
    assert!(used < 16 << 20, "{used}");
    assert!(outbox.status()[0].refusing.is_some());
    assert_eq!(read_all(&mut reader, 1).await.len() as u64, last, "reading needs no space");
    reader.confirm(last);
    assert_eq!(writer.append(batch()).await.unwrap().first, last + 1, "at once");
    assert!(outbox.status()[0].refusing.is_none());
}

#[tokio::test]
async fn the_counters_say_what_happened() {
    let (_dir, config) = config(&["a"]);
    let metrics = Metrics::default();
    let outbox = Outbox::open(&config, &Clock::system(), &metrics).unwrap();
    let writer = outbox.writer("a").unwrap();
    writer.append(vec![sample("1"), sample("2"), sample("3")]).await.unwrap();
    writer.append(vec![sample("3")]).await.unwrap();
    outbox.reader("a").unwrap().confirm(1);
    outbox.close().await;
    drop((outbox, writer));
    let text = metrics.text().unwrap();
    for line in [
        "tidegate_outbox_committed_events_total{lane=\"a\"} 3",
        "tidegate_outbox_repeated_events_total{lane=\"a\"} 1",
        "tidegate_outbox_refused_events_total{lane=\"a\"} 0",
        "tidegate_outbox_backlog_events{lane=\"a\"} 2",
        "tidegate_outbox_commit_seconds_count{lane=\"a\"} 2",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_panic_of_the_committer_is_an_answer_and_not_the_end() {
    let (_dir, config) = config(&["a"]);
    let outbox = open(&config);
    let writer = outbox.writer("a").unwrap();
    assert_eq!(writer.append(vec![ours("1")]).await.unwrap().last, 1);
    let (answer, answered) = oneshot::channel();
    let unfit = Append { records: Vec::new(), ends: vec![5], names: vec![None], answer };
    writer.lane.queue.push(unfit).unwrap();
    assert!(answered.await.is_err(), "an append whose records are not there must panic for this test to mean anything");
    let soon = Duration::from_secs(10);
    let next = tokio::time::timeout(soon, async {
        loop {
            match writer.append(vec![ours("2")]).await {
                Err(AppendError::Disk { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
                other => return other,
            }
        }
    });
    assert_eq!(next.await.unwrap().unwrap().first, 2);
    assert_eq!(read_all(&mut outbox.reader("a").unwrap(), 1).await.len(), 2);
}

#[tokio::test]
async fn damage_behind_which_the_store_has_grown_costs_only_the_block_it_hits() {
    let (_dir, config) = config(&["a"]);
    let outbox = open(&config);
    let writer = outbox.writer("a").unwrap();
    let mut reader = outbox.reader("a").unwrap();
    // More than memory and one reading ahead hold, so that both readings come from the file.
    for _ in 0..30 {
        writer.append((0..100).map(|_| ours(vec![7; 1000])).collect()).await.unwrap();
    }
    let first = reader.read(1, 1000).await.unwrap();
    let known = reader.index.as_ref().map(|k| k.through);
    assert_eq!((first[0].seq, known), (1, Some(3000)));
    // As if the blocks up to the end of what was known were unreadable.
    if let Some(known) = &mut reader.index {
        known.through = 1500;
        known.index.restrict(1..=1000);
    }
    assert!(read_all(&mut reader, 1400).await.iter().any(|(seq, _)| *seq < 2000), "1501 and on are not damaged");
}

#[tokio::test]
async fn a_lane_is_added_beside_the_others_and_one_that_is_configured_no_more_is_still_read() {
    let (_dir, config) = config(&["a"]);
    let outbox = open(&config);
    assert!(outbox.writer("b").is_none());
    outbox.add("a").unwrap();
    outbox.add("b").unwrap();
    outbox.add("b").unwrap();
    assert_eq!(outbox.status().iter().map(|l| &l.lane).collect::<Vec<_>>(), ["a", "b"]);
    outbox.writer("b").unwrap().append(vec![ours("1"), ours("2")]).await.unwrap();
    (2..OPEN_MAX).for_each(|n| outbox.add(&format!("l{n}")).unwrap());
    let refused = outbox.add("more").unwrap_err().to_string();
    assert!(refused.contains("64 lanes are open"), "{refused}");
    outbox.close().await;
    assert!(outbox.add("more").unwrap_err().to_string().contains("shutting down"));
    drop(outbox);

    let outbox = open(&config);
    let mut readers = outbox.readers();
    assert_eq!(readers.iter().map(Reader::lane).collect::<Vec<_>>(), ["a", "b"], "empty lanes are left alone");
    assert_eq!(read_all(&mut readers[1], 1).await.len(), 2);
    readers[1].confirm(2);
    outbox.close().await;
    drop((readers, outbox));
    assert_eq!(open(&config).status().len(), 1, "it is delivered and gone");
}
