//! The log of refusals, `node.data_dir/audit/refusals.ndjson`: who was refused what and why. Bounded in size and rate;
//! whoever refuses never waits for it. No secret is ever in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use tokio::sync::mpsc;

use super::limiter::{Key, Limiter};
use super::throttle;
use crate::event::Timestamp;
use crate::sys::clock::Clock;
use crate::sys::files;
use crate::sys::tasks::Tasks;

/// Lines that wait to be written; a disk that hangs loses more, counted.
const QUEUE_MAX: usize = 1024;

/// Lines written at once.
const BATCH_MAX: usize = 256;

/// How often windows that are over are looked for.
const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// Longest text of somebody else's in a line, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// How much of a name that belongs to no device is written: it may be a secret in the wrong field.
const UNKNOWN_NAME_CHARS_MAX: usize = 12;

const NAME: &str = "refusals.ndjson";
const OLD_NAME: &str = "refusals.1.ndjson";

/// One refusal.
#[derive(Debug, Default)]
pub struct Entry<'a> {
    /// The reason's stable word.
    pub reason: &'static str,
    /// Where it came from.
    pub source: Option<IpAddr>,
    /// The device, where it is known.
    pub device: Option<&'a str>,
    /// The name that was given, where it belongs to no device.
    pub unknown: Option<&'a str>,
    /// What was refused: a topic, a subject, a sentence of ours.
    pub what: Option<&'a str>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<&'a str>,
    /// Like ones that were not written, in the ten seconds before.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<u64>,
}

/// The log's entrance. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limiter: Mutex<Limiter>,
    lines: Option<mpsc::Sender<Vec<u8>>>,
    clock: Clock,
    started: Instant,
    lost: Counter,
}

impl Audit {
    /// A log that nobody keeps.
    pub fn none() -> Self {
        Self::new(None, Clock::system(), Counter::default())
    }

    fn new(lines: Option<mpsc::Sender<Vec<u8>>>, clock: Clock, lost: Counter) -> Self {
        let limiter = Mutex::default();
        Self(Arc::new(Inner { limiter, lines, clock, started: Instant::now(), lost }))
    }

    /// Starts writing to `dir`, which may be missing; at most `bytes_max` are kept. `lost` counts lines that were not
    /// written because the disk was too slow or refused.
    pub fn start(tasks: &Tasks, dir: PathBuf, bytes_max: u64, clock: Clock, lost: Counter) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let audit = Self::new(Some(sender), clock, lost.clone());
        let log = Log { dir, bytes_max, file: None, trouble: false };
        tasks.spawn("audit log", write_all(audit.clone(), receiver, log, tasks.clone()));
        audit
    }

    /// Notes a refusal. Never waits.
    pub fn note(&self, entry: &Entry<'_>) {
        let Some(lines) = &self.0.lines else { return };
        let (source, device) = (entry.source.map(throttle::source), entry.device.map(Arc::from));
        let key = Key { reason: entry.reason, source, device };
        let now = self.0.started.elapsed();
        let mut limiter = self.0.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let written = limiter.note(key, now);
        drop(limiter);
        if written {
            self.send(lines, &self.line(entry, None));
        }
    }

    /// Writes down what windows that are over have left out.
    fn flush(&self, now: Duration) {
        let Some(lines) = &self.0.lines else { return };
        let over = self.0.limiter.lock().unwrap_or_else(PoisonError::into_inner).over(now);
        for left_out in over {
            let Key { reason, source, device } = left_out.key;
            let entry = Entry { reason, source, device: device.as_deref(), ..Entry::default() };
            self.send(lines, &self.line(&entry, Some(left_out.count)));
        }
    }

    fn line<'a>(&self, entry: &Entry<'a>, left_out: Option<u64>) -> Line<'a> {
        Line {
            time: Timestamp::from_unix_ms(self.0.clock.unix_ms()).to_string(),
            reason: entry.reason,
            source: entry.source,
            device: entry.device.map(cut),
            unknown: entry.unknown.map(start_of),
            what: entry.what.map(cut),
            left_out,
        }
    }

    fn send(&self, lines: &mpsc::Sender<Vec<u8>>, line: &Line<'_>) {
        let Ok(mut text) = serde_json::to_vec(line) else { return };
        text.push(b'\n');
        if lines.try_send(text).is_err() {
            self.0.lost.inc();
        }
    }
}

/// The beginning of a text, at a character's end.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn start_of(name: &str) -> String {
    let mut start: String = name.chars().take(UNKNOWN_NAME_CHARS_MAX).collect();
    if start.len() < name.len() {
        start.push('…');
    }
    start
}

async fn write_all(
    audit: Audit,
    mut receiver: mpsc::Receiver<Vec<u8>>,
    mut log: Log,
    tasks: Tasks,
) -> Result<(), io::Error> {
    let mut every = tokio::time::interval(FLUSH_EVERY);
    let mut batch = Vec::new();
    loop {
        let stopping = tokio::select! {
            _ = receiver.recv_many(&mut batch, BATCH_MAX) => false,
            _ = every.tick() => { audit.flush(audit.0.started.elapsed()); false }
            () = tasks.stopping().cancelled() => true,
        };
        if stopping {
            while let Ok(line) = receiver.try_recv() {
                batch.push(line);
            }
        }
        if !batch.is_empty() {
            let lines = std::mem::take(&mut batch);
            let count = lines.len() as u64;
            let (back, written) = tokio::task::spawn_blocking(move || {
                let written = log.write(&lines);
                (log, written)
            })
            .await
            .map_err(io::Error::other)?;
            log = back;
            if let Err(reason) = written {
                audit.0.lost.inc_by(count);
                if !std::mem::replace(&mut log.trouble, true) {
                    tracing::warn!(dir = %log.dir.display(), %reason, "the log of refusals cannot be written");
                }
            } else {
                log.trouble = false;
            }
        }
        if stopping {
            return Ok(());
        }
    }
}

/// The files.
#[derive(Debug)]
struct Log {
    dir: PathBuf,
    bytes_max: u64,
    file: Option<(File, u64)>,
    /// The last write failed, and that was said.
    trouble: bool,
}

impl Log {
    /// Appends; with the file at half of what is allowed, it becomes the old one. Not synced: a refusal is no promise.
    fn write(&mut self, lines: &[Vec<u8>]) -> io::Result<()> {
        for line in lines {
            let (_, size) = self.open()?;
            if *size > 0 && *size + line.len() as u64 > self.bytes_max / 2 {
                self.file = None;
                fs::rename(self.dir.join(NAME), self.dir.join(OLD_NAME))?;
            }
            let (file, size) = self.open()?;
            if let Err(e) = file.write_all(line) {
                self.file = None;
                return Err(e);
            }
            *size += line.len() as u64;
        }
        Ok(())
    }

    fn open(&mut self) -> io::Result<&mut (File, u64)> {
        if self.file.is_none() {
            files::create_dir_durable(&self.dir)?;
            let path = self.dir.join(NAME);
            let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
            let mut size = file.metadata()?.len();
            // A line that a crash cut short is ended, so that it takes no other with it.
            if size > 0 {
                file.write_all(b"\n")?;
                size += 1;
            }
            self.file = Some((file, size));
        }
        self.file.as_mut().ok_or_else(|| io::Error::other("the log of refusals is not open"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(dir: &std::path::Path) -> Vec<serde_json::Value> {
        let text = [OLD_NAME, NAME].map(|name| fs::read_to_string(dir.join(name)).unwrap_or_default()).concat();
        text.lines().filter(|l| !l.is_empty()).map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[tokio::test]
    async fn a_refusal_is_a_line_and_a_flood_is_a_count() {
        let dir = tempfile::tempdir().unwrap();
        let (tasks, (clock, _)) = (Tasks::new(), Clock::set_to(1_700_000_000_000));
        let audit = Audit::start(&tasks, dir.path().join("audit"), 1 << 20, clock, Counter::default());
        let entry = Entry {
            reason: "bad-credential",
            source: Some(IpAddr::from([10, 0, 0, 1])),
            unknown: Some("tgd_0123456789abcdef"),
            ..Entry::default()
        };
        for _ in 0..100 {
            audit.note(&entry);
        }
        audit.flush(audit.0.started.elapsed() + super::super::limiter::WINDOW);
        tasks.stop(Duration::from_secs(5)).await;
        let lines = all(&dir.path().join("audit"));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!(lines[0]["time"], "2023-11-14T22:13:20Z");
        assert_eq!(lines[0]["source"], "10.0.0.1");
        assert_eq!(lines[0]["unknown"], "tgd_01234567…");
        assert_eq!(lines[1]["left_out"], 99);
    }

    #[test]
    fn the_files_stay_within_their_bound_and_go_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Log { dir: dir.path().into(), bytes_max: 1000, file: None, trouble: false };
        let line = |n: u32| format!("{{\"n\":{n},\"x\":\"{}\"}}\n", "x".repeat(40)).into_bytes();
        for restart in 0..10 {
            let mut log = open();
            for n in 0..7 {
                log.write(&[line(restart * 7 + n)]).unwrap();
                let size = |name| fs::metadata(dir.path().join(name)).map_or(0, |m| m.len());
                assert!(size(NAME) + size(OLD_NAME) <= 1000 && size(NAME) > 0);
            }
        }
        let lines = all(dir.path());
        assert_eq!(lines.last().unwrap()["n"], 69);
        assert!(lines.len() > 8);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut(&"ä".repeat(200)).len(), TEXT_BYTES_MAX);
        assert_eq!(cut(&format!("x{}", "ä".repeat(200))).len(), TEXT_BYTES_MAX - 1);
        assert_eq!(start_of("short"), "short");
    }
}
