//! The store alone: what it acknowledges and when, what it keeps across a sudden end, and how fast it is.

use pulsar::message::proto::{KeyValue, MessageMetadata};

use super::*;
use crate::cloud::meters::AllMeters;
use crate::observe::metrics::Metrics;

struct Bench {
    dir: tempfile::TempDir,
    meters: Meters,
    board: LaneBoard,
    live: Live,
}

impl Bench {
    fn new() -> Self {
        let clock = Clock::set_to(0).0;
        let meters = AllMeters::new(&Metrics::default()).of("lane");
        Self { dir: tempfile::tempdir().unwrap(), meters, board: LaneBoard::new("lane", clock), live: Live::default() }
    }

    fn open(&self) -> Store {
        let config = FilesSink { dir: self.dir.path().to_owned(), ..FilesSink::default() };
        let clock = Clock::set_to(0).0;
        Store::open(&config, &clock, self.board.clone(), self.meters.clone(), self.live.clone()).unwrap()
    }

    fn stored(&self) -> String {
        let mut text = Vec::new();
        for entry in std::fs::read_dir(self.dir.path().join("lane")).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().contains(".ndjson.zst") {
                text.extend(zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap());
            }
        }
        String::from_utf8(text).unwrap()
    }
}

/// Message `index` of entry `entry`, which has `of` messages.
fn message(stream: &str, seq: u64, entry: u64, index: u32, of: u32) -> Received {
    let properties = [
        ("tg_stream", stream),
        ("tg_seq", &seq.to_string()),
        ("ce_specversion", "1.0"),
        ("ce_id", "0198c6f0-7d8a-7cc2-b3a1-5f1d2e3c4b5a"),
        ("ce_source", "/devices/press-7"),
        ("ce_type", "reading"),
        ("ce_subject", "press-7"),
        ("ce_time", "2026-11-23T06:00:00.123Z"),
        ("content-type", "application/json"),
    ];
    let properties = properties.map(|(k, v)| KeyValue { key: k.into(), value: v.into() }).into();
    let metadata = MessageMetadata { properties, ..MessageMetadata::default() };
    let data = format!(
        r#"{{"n":{seq},"temperature":{}.5,"humidity":45.25,"state":"running","note":"{}"}}"#,
        seq % 37,
        "simulated reading of a machine on the shop floor ".repeat(4)
    );
    let at = Position { entry: Entry { ledger: 1, entry }, index };
    Received { at, ends_entry: index + 1 == of, payload: Payload { metadata, data: data.into_bytes() } }
}

fn chunk(acks: &Arc<watch::Sender<Option<Entry>>>, messages: Vec<Received>) -> Chunk {
    Chunk { partition: 0, acks: acks.clone(), messages }
}

#[test]
fn only_entries_that_are_stored_whole_are_acknowledged_and_only_after_the_commit() {
    let bench = Bench::new();
    let mut store = bench.open();
    let (acks, stored) = watch::channel(None);
    let acks = Arc::new(acks);
    store.take(chunk(&acks, (0..3).map(|i| message("a.b.c", u64::from(i) + 1, 5, i, 3)).collect())).unwrap();
    store.take(chunk(&acks, (0..2).map(|i| message("a.b.c", u64::from(i) + 4, 6, i, 3)).collect())).unwrap();
    assert_eq!(*stored.borrow(), None);
    store.commit().unwrap();
    assert_eq!(*stored.borrow(), Some(Entry { ledger: 1, entry: 5 }), "entry 6 has one more message");
    store.take(chunk(&acks, vec![message("a.b.c", 6, 6, 2, 3)])).unwrap();
    store.commit().unwrap();
    assert_eq!(*stored.borrow(), Some(Entry { ledger: 1, entry: 6 }));
    assert_eq!(bench.meters.acknowledged.get(), 2);
    assert_eq!(bench.stored().lines().count(), 6);
}

#[test]
fn after_a_sudden_end_what_comes_again_is_stored_once_and_not_called_a_duplicate() {
    let bench = Bench::new();
    let acks = Arc::new(watch::channel(None).0);
    let mut store = bench.open();
    store.take(chunk(&acks, vec![message("a.b.c", 1, 1, 0, 1), message("a.b.c", 2, 2, 0, 1)])).unwrap();
    store.commit().unwrap();
    store.take(chunk(&acks, vec![message("a.b.c", 3, 3, 0, 1)])).unwrap();
    drop(store);

    let mut store = bench.open();
    let again = (1..=3).map(|n| message("a.b.c", n, n, 0, 1));
    let duplicate = message("a.b.c", 2, 4, 0, 1);
    store.take(chunk(&acks, again.chain([duplicate]).collect())).unwrap();
    store.commit().unwrap();
    assert_eq!(bench.stored().lines().count(), 3);
    let (streams, _) = bench.board.audit(|_| true);
    assert_eq!((streams[0].1.delivered, streams[0].1.duplicates_removed), (3, 1));
    assert_eq!(bench.meters.redelivered.get(), 2);
}

#[tokio::test]
async fn listeners_get_the_line_and_of_a_huge_one_its_head() {
    use futures_util::StreamExt;
    let bench = Bench::new();
    let mut events = Box::pin(bench.live.events(Default::default(), Default::default()));
    assert_eq!(events.next().await.unwrap().unwrap(), ": listening\n\n");
    let acks = Arc::new(watch::channel(None).0);
    let mut huge = message("a.b.c", 2, 2, 0, 1);
    huge.payload.data = format!("[{}1]", "1,".repeat(LINE_BYTES_MAX)).into_bytes();
    let mut store = bench.open();
    store.take(chunk(&acks, vec![message("a.b.c", 1, 1, 0, 1), huge])).unwrap();
    let frame = String::from_utf8(events.next().await.unwrap().unwrap().to_vec()).unwrap();
    let lines: Vec<serde_json::Value> = frame
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((&lines[0]["data"]["n"], &lines[1]["seq"]), (&1.into(), &2.into()));
    assert_eq!((lines[1].get("data"), &lines[1]["data_left_out"]), (None, &true.into()));
}

/// `cargo test --release --lib -- --ignored --nocapture events_per_second_of_the_store`
#[test]
#[ignore = "a figure, not a test"]
fn events_per_second_of_the_store() {
    const CHUNKS: u64 = 1200;
    const EACH: u64 = 500;
    let bench = Bench::new();
    let acks = Arc::new(watch::channel(None).0);
    let streams: Vec<String> = (0..50).map(|n| format!("press-{n}.0123456789abcdef.lane")).collect();
    let mut chunks: Vec<Chunk> = (0..CHUNKS)
        .map(|entry| {
            let messages = (0..EACH).map(|i| {
                let stream = &streams[(i % 50) as usize];
                message(stream, (entry * EACH + i) / 50 + 1, entry, i as u32, EACH as u32)
            });
            chunk(&acks, messages.collect())
        })
        .collect();
    let bytes: usize = chunks.iter().flat_map(|c| &c.messages).map(|m| m.payload.data.len()).sum();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (send, receive) = mpsc::channel(CHUNKS as usize);
    chunks.drain(..).for_each(|c| send.try_send(c).unwrap());
    drop(send);
    let store = bench.open();
    let begun = Instant::now();
    store.run(receive, runtime.handle()).unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    let events = CHUNKS * EACH;
    println!(
        "{:.0} events/s of {} B; {} B raw and {} B compressed per event",
        events as f64 / seconds,
        bytes as u64 / events,
        bench.meters.raw_bytes.get() / events,
        bench.meters.compressed_bytes.get() / events
    );
}
