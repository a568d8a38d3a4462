//! The outbox against the disk it stands on: `BENCH_DIR=… cargo bench --bench outbox -- [single] [many] [backlog]`.
//!
//! Every figure is a ratio of two things measured in turns in this run: the outbox, and a bare file with the
//! same bytes, one `write` and one `fdatasync` per commit.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate::config::EdgeConfig;
use tidegate::config::edge::Durability;
use tidegate::event::{Event, Timestamp, record};
use tidegate::observe::metrics::Metrics;
use tidegate::outbox::Outbox;
use tidegate::sys::clock::Clock;
use tidegate::sys::sync_barrier;
use tidegate::sys::tasks::Tasks;

const ROUNDS: usize = 5;
const WRITERS: usize = 256;
const BACKLOG_BYTES: u64 = 1 << 30;

fn main() {
    let parts: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    let dir = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("tidegate-bench-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("the directory can be made");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    runtime.block_on(async {
        if wanted("single") {
            single_writer(&dir).await;
        }
        if wanted("many") {
            many_writers(&dir).await;
        }
        if wanted("backlog") {
            backlog(&dir).await;
        }
    });
    fs::remove_dir_all(&dir).expect("the directory can be removed");
}

/// An event of about 330 bytes as stored.
fn event(n: u64) -> Event {
    Event {
        id: format!("{n:032}"),
        id_is_ours: true,
        source: "urn:bench".into(),
        ty: "reading".into(),
        subject: Some(format!("device-{}", n % 50)),
        time: Timestamp::from_unix_ms(1_700_000_000_000),
        datacontenttype: Some("application/json".into()),
        dataschema: None,
        extensions: Vec::new(),
        data: Bytes::from(vec![b'7'; 215]),
    }
}

fn open(dir: &Path, durability: Durability) -> Outbox {
    let mut config = EdgeConfig::default();
    config.node.data_dir = dir.to_owned();
    config.outbox.durability = durability;
    config.outbox.max_bytes = 4 << 30;
    Outbox::open(&config, &Clock::system(), &Metrics::default()).expect("the outbox opens")
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

/// Median time of one write and one fdatasync of `bytes` bytes.
fn raw(dir: &Path, bytes: usize, commits: usize) -> f64 {
    let path = dir.join("raw");
    let mut file = File::create(&path).expect("a file can be made");
    let block = vec![7; bytes];
    let times = (0..commits).map(|_| {
        let start = Instant::now();
        file.write_all(&block).and_then(|()| file.sync_data()).expect("the disk takes it");
        start.elapsed()
    });
    let times = median(times.collect());
    fs::remove_file(path).expect("the file can be removed");
    times
}

async fn single_writer(dir: &Path) {
    let outbox = open(&dir.join("single"), Durability::Disk);
    println!("resident, open and idle: {} KB", resident_kb());
    let writer = outbox.writer("telemetry").expect("the default lane");
    let mut file = File::create(dir.join("raw")).expect("a file can be made");
    let block = vec![7; record::encoded_len(&event(1)) + 100]; // about what sled writes for it
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let syncs = sync_barrier::counts();
    for n in 0..1500 {
        let start = Instant::now();
        writer.append(vec![event(n)]).await.expect("taken");
        ours.push(start.elapsed());
        let start = Instant::now();
        file.write_all(&block).and_then(|()| file.sync_data()).expect("the disk takes it");
        bare.push(start.elapsed());
    }
    let after = sync_barrier::counts();
    let (calls, nanos) = (after.calls - syncs.calls, after.nanos - syncs.nanos);
    let (ours, bare) = (median(ours), median(bare));
    println!("one writer, median: {:.0} µs; bare {:.0} µs; ratio {:.2}", ours * 1e6, bare * 1e6, ours / bare);
    println!(
        "syncs per commit {:.2}, {:.0} µs each on average",
        calls as f64 / 1500.0,
        nanos as f64 / calls as f64 / 1e3
    );
    outbox.close().await;
}

async fn many_writers(dir: &Path) {
    let outbox = open(&dir.join("many"), Durability::Disk);
    let record_len = record::encoded_len(&event(1));
    for round in 0..ROUNDS {
        let bare = WRITERS as f64 / raw(dir, WRITERS * record_len, 300);
        let before = outbox.status()[0].last;
        let tasks = Tasks::new();
        let start = Instant::now();
        for w in 0..WRITERS as u64 {
            let writer = outbox.writer("telemetry").expect("the default lane");
            let stop = tasks.stopping().clone();
            tasks.spawn("writer", async move {
                let mut n = w << 32;
                while !stop.is_cancelled() {
                    writer.append(vec![event(n)]).await?;
                    n += 1;
                }
                Ok::<_, tidegate::outbox::AppendError>(())
            });
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        let ours = (outbox.status()[0].last - before) as f64 / start.elapsed().as_secs_f64();
        assert!(tasks.stop(Duration::from_secs(10)).await && tasks.failure().is_none());
        println!(
            "{WRITERS} writers of {record_len} bytes, round {round}: {ours:.0}/s; bare {bare:.0}/s; ratio {:.2}",
            ours / bare
        );
    }
    let status = &outbox.status()[0];
    println!("resident: {} KB", resident_kb());
    println!("bytes on disk / bytes of events: {:.3}", status.disk_bytes as f64 / status.backlog_bytes as f64);
    outbox.close().await;
}

async fn backlog(dir: &Path) {
    let place = dir.join("backlog");
    println!("resident: {} KB before", resident_kb());
    let outbox = open(&place, Durability::Os);
    let writer = outbox.writer("telemetry").expect("the default lane");
    let start = Instant::now();
    let mut n = 0;
    while outbox.status()[0].backlog_bytes < BACKLOG_BYTES {
        writer.append((n..n + 1000).map(event).collect()).await.expect("taken");
        n += 1000;
    }
    println!("{n} events into memory in {:.1} s; resident {} KB", start.elapsed().as_secs_f64(), resident_kb());
    outbox.close().await;
    drop((outbox, writer));

    let start = Instant::now();
    let outbox = open(&place, Durability::Disk);
    println!("open with {n} events waiting: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let mut reader = outbox.reader("telemetry").expect("the default lane");
    for run in ["first", "second"] {
        let (start, mut from, mut bytes) = (Instant::now(), 1, 0);
        while from <= n {
            let events = reader.read(from, 128 << 10).await.expect("readable");
            bytes += events.iter().map(|e| e.record.len()).sum::<usize>();
            from = events.last().map_or(from, |e| e.seq + 1);
        }
        let seconds = start.elapsed().as_secs_f64();
        let (rate, mega) = (n as f64 / seconds, bytes as f64 / seconds / 1e6);
        println!("reader, {run} run: {rate:.0} events/s, {mega:.0} MB/s; resident {} KB", resident_kb());
    }
    let start = Instant::now();
    reader.confirm(n);
    while outbox.status()[0].disk_bytes > 16 << 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!(
        "drained and removed: {:.1} s, {} bytes left",
        start.elapsed().as_secs_f64(),
        outbox.status()[0].disk_bytes
    );
    outbox.close().await;
}

fn resident_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}
