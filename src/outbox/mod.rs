//! The promise, on disk: events are acknowledged when they are durable, and stay until they are confirmed.
//! Nothing outside knows what lies below `append`, `read`, `confirm` and `status`.
//!
//! ```text
//! outbox/identity, identity.copy      who this outbox is
//! outbox/<lane>/<first sequence>/     a store: one small sled database, written once, removed whole
//! outbox/<lane>/next/                 the store after the one being filled
//! outbox/<lane>/mark                  last acknowledged and confirmed sequence
//! outbox/<lane>/reserve, ledger       sequences never to use again; sequences lost, and why
//! ```
//! An event goes `Writer` → [`commit`] (one thread per lane, one flush per group) → [`store`] → [`segment`] (sled),
//! and comes back through [`reader`] → [`scan`], which reads the stores' files without sled. [`survey`] and
//! [`recovery`] take stock at a start, [`keeper`] tidies. [pure]: [`block`], [`cursor`], [`window`].

mod block;
mod budget;
mod commit;
mod cursor;
mod inspect;
mod keeper;
mod lane;
mod mark;
mod meter;
mod notes;
mod reader;
mod recovery;
mod room;
mod scan;
mod segment;
mod store;
mod survey;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod window;
mod writer;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::EdgeConfig;
use crate::config::edge::Durability;
use crate::observe::metrics::Metrics;
use crate::sys::clock::Clock;
use crate::sys::files::{self, DirLock};
use crate::sys::{sync_barrier, tasks};
use budget::Budget;
use lane::{Lane, Settings};
use meter::Meters;
use notes::Identity;
use window::Fingerprints;

pub use inspect::{InspectedLane, Inspection, inspect};
pub use reader::Reader;
pub use writer::{Batch, Receipt, Writer};

/// Position of an event in its lane: 1, 2, 3 … without gaps.
pub type Seq = u64;

/// Directory of the outbox in the data directory.
const DIR: &str = "outbox";

/// Sizes a store can have. 8 MB is small enough to be given back soon and read in a moment; below 1 MB the
/// making of stores would dominate. A small budget has room for eight per lane.
const STORE_BYTES: (u64, u64) = (1 << 20, 8 << 20);
const STORES_PER_LANE: u64 = 8;

/// A process that was just killed, or one that was forked and not yet replaced, may hold the lock for a moment.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(400);

/// Closing waits so long for the disk at most.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// Proof that events are on disk. Only the outbox makes it; only it may be answered to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Events that are on disk now because of this append or an earlier one with the same ids: all of the append.
    pub accepted: u64,
    /// Of these, how many were there already: brought by an earlier append, or earlier in this one.
    pub repeated: u64,
    /// Sequence of the first new event; if all are repeated, the lowest they were stored under.
    pub first: Seq,
    /// Sequence of the last new event; if all are repeated, the highest they were stored under.
    pub last: Seq,
}

/// Why events were not taken. Nothing of the batch is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The budget or the disk is full.
    #[error("lane {lane} is full: {reason}")]
    Full {
        /// The lane's name.
        lane: String,
        /// What is full, and what would help.
        reason: String,
    },
    /// The queue before the disk is full: the sender should come back in a moment.
    #[error("lane {lane} has too many events waiting for the disk")]
    Busy {
        /// The lane's name.
        lane: String,
    },
    /// An event is larger than the outbox takes.
    #[error("event {index} has {bytes} bytes as stored; at most {max} are taken")]
    TooLarge {
        /// Which of the batch, from 0.
        index: usize,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: u64,
    },
    /// The disk refused; the lane tries to recover by itself.
    #[error("lane {lane}: the disk failed: {reason}")]
    Disk {
        /// The lane's name.
        lane: String,
        /// The system's words.
        reason: String,
    },
    /// The outbox is closing.
    #[error("the gateway is shutting down")]
    Closed,
}

/// Why the outbox could not be opened; a sentence that names the path, the reason and the way out.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

/// Why events could not be read back.
#[derive(Debug, Clone, thiserror::Error)]
#[error("lane {lane}: cannot read back stored events: {reason}")]
pub struct ReadError {
    /// The lane's name.
    pub lane: String,
    /// What happened.
    pub reason: String,
}

/// An event as stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its sequence in the lane.
    pub seq: Seq,
    /// When it was accepted, in ms since 1970, by this machine's clock.
    pub accepted_ms: i64,
    /// Its record; checksum verified. See [`record::decode`].
    pub record: Bytes,
}

/// A lane in numbers.
#[derive(Clone, Debug, Default)]
pub struct LaneStatus {
    /// Its name.
    pub lane: String,
    /// Last sequence on disk; 0: none yet.
    pub last: Seq,
    /// Everything up to here is confirmed by Pulsar.
    pub confirmed: Seq,
    /// Events on disk and not confirmed.
    pub backlog_events: u64,
    /// Their bytes.
    pub backlog_bytes: u64,
    /// When the oldest of them was accepted, ms since 1970.
    pub oldest_ms: Option<i64>,
    /// Bytes this lane takes on disk.
    pub disk_bytes: u64,
    /// Why it takes no events now, if it does not.
    pub refusing: Option<String>,
}

/// All lanes of this gateway. Cheap to clone; the last one dropped ends it as a crash would, but in order.
#[derive(Clone)]
pub struct Outbox(Arc<Inner>);

struct Inner {
    incarnation: String,
    fingerprints: Fingerprints,
    lanes: Vec<Arc<Lane>>,
    keeper: Arc<keeper::Bell>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    barrier: sync_barrier::Say,
    lock: DirLock,
}

impl Outbox {
    /// Opens or makes the outbox below `config.node.data_dir`.
    pub fn open(config: &EdgeConfig, clock: &Clock, metrics: &Metrics) -> Result<Self, OpenError> {
        let data = &config.node.data_dir;
        let dir = data.join(DIR);
        let durable = config.outbox.durability == Durability::Disk;
        files::create_dir_durable(&dir).map_err(|e| no_place("make", &dir, &e))?;
        let lock = lock(data)?;
        let barrier = if durable { sync_barrier::Say::strict() } else { sync_barrier::Say::lax() };
        let proven = Arc::new(AtomicBool::new(!durable || prove(&dir)?));
        let identity = Identity::open(&dir)?;
        let budget = Arc::new(Budget::new(dir.clone(), config.outbox.max_bytes));
        let meters = Meters::new(metrics);
        let fingerprints = Fingerprints::default();
        inspect::warn_of_strangers(&dir, config);
        let store_share = config.outbox.max_bytes / (STORES_PER_LANE * config.lanes.len().max(1) as u64);
        let keeper: Arc<keeper::Bell> = Arc::default();
        let mut lanes = Vec::new();
        let mut windows = Vec::new();
        for lane in &config.lanes {
            let settings = Settings {
                dir: dir.join(&lane.name),
                tag: identity.tag(&lane.name),
                durable,
                proven: proven.clone(),
                record_bytes_max: config.outbox.max_event.min(block::RECORD_BYTES_MAX as u64),
                store_bytes_max: store_share.clamp(STORE_BYTES.0, STORE_BYTES.1),
                window: config.outbox.dedup_window,
                keeper: keeper.clone(),
            };
            let meter = meters.lane(&lane.name);
            let (lane, window) = recovery::open_lane(&lane.name, settings, clock, &budget, meter, &fingerprints)?;
            lanes.push(lane);
            windows.push(window);
        }
        if durable {
            // A process that was killed may have made them and not synced their names.
            for place in [&dir, data] {
                files::sync_dir(place).map_err(|e| no_place("sync", place, &e))?;
            }
        }
        let outbox = Inner {
            incarnation: identity.incarnation,
            fingerprints,
            lanes,
            keeper,
            threads: Mutex::default(),
            barrier,
            lock,
        };
        outbox.start(windows, meters).map_err(|e| OpenError(format!("cannot start the outbox's threads: {e}")))?;
        Ok(Self(Arc::new(outbox)))
    }

    /// Random name of this outbox's life: a replaced disk gets a new one. 16 hexadecimal characters.
    pub fn incarnation(&self) -> &str {
        &self.0.incarnation
    }

    /// The way in for one lane; `None`: there is no such lane.
    pub fn writer(&self, lane: &str) -> Option<Writer> {
        let lane = self.0.lanes.iter().find(|l| l.name == lane)?.clone();
        Some(Writer::new(lane, self.0.fingerprints.clone()))
    }

    /// The way out for one lane; there should be one reader per lane.
    pub fn reader(&self, lane: &str) -> Option<Reader> {
        self.0.lanes.iter().find(|l| l.name == lane).map(|l| Reader::new(l.clone()))
    }

    /// All lanes in numbers, in the order of the configuration.
    pub fn status(&self) -> Vec<LaneStatus> {
        self.0.lanes.iter().map(|l| l.status()).collect()
    }

    /// Commits what waits and closes the files. Appends after it get [`AppendError::Closed`].
    pub async fn close(&self) {
        let inner = self.0.clone();
        let ended = tokio::task::spawn_blocking(move || inner.stop());
        if tokio::time::timeout(CLOSE_MAX, ended).await.is_err() {
            tracing::error!("the disk did not take what waits within {CLOSE_MAX:?}; leaving it");
        }
    }
}

impl Inner {
    fn start(&self, windows: Vec<window::Window>, meters: Meters) -> std::io::Result<()> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for (lane, window) in self.lanes.iter().zip(windows) {
            let lane = lane.clone();
            threads.push(tasks::thread(&format!("commit-{}", lane.name), move || commit::run(&lane, window))?);
        }
        let (lanes, bell) = (self.lanes.clone(), self.keeper.clone());
        threads.push(tasks::thread("outbox-keeper", move || keeper::run(&lanes, &meters, &bell))?);
        Ok(())
    }

    /// Ends the threads; the second call finds nothing to do.
    fn stop(&self) {
        self.lanes.iter().for_each(|l| l.queue.close());
        self.keeper.stop();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            if let Err(panic) = thread.join() {
                tracing::error!(reason = tasks::panic_message(panic.as_ref()), "a thread of the outbox panicked");
                continue;
            }
        }
        for lane in &self.lanes {
            lane.discard_spare();
            lane.drop_retired();
            if let Err(e) = lane.sync_mark(true) {
                tracing::warn!(lane = lane.name, error = %e, "cannot write the lane's mark");
            }
            lane.meter.show(&lane.status(), lane.clock.unix_ms());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
        tracing::debug!(lock = ?self.lock, barrier = ?self.barrier, "outbox closed");
    }
}

/// `false`: the disk is too full to tell. What it holds can be delivered nevertheless, which makes room.
fn prove(dir: &Path) -> Result<bool, OpenError> {
    match segment::prove_barrier(dir) {
        Ok(()) => Ok(true),
        Err(e) if is_full(&e) => {
            tracing::error!(reason = %e, "the disk is full: stored events are delivered, and new ones refused");
            Ok(false)
        }
        Err(e) => Err(OpenError(e.to_string())),
    }
}

/// There is no space, by the disk's or a quota's word.
fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

fn no_place(what: &str, dir: &Path, error: &std::io::Error) -> OpenError {
    let way_out = "node.data_dir must name a directory on a writable disk in which this user may write";
    OpenError(format!("cannot {what} {}: {error}; {way_out}", dir.display()))
}

/// Takes the right to be the only process in `data`.
fn lock(data: &Path) -> Result<DirLock, OpenError> {
    let start = Instant::now();
    loop {
        match DirLock::take(data) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) if start.elapsed() < LOCK_WAIT_MAX => std::thread::sleep(LOCK_WAIT_MAX / 20),
            Ok(None) => {
                return Err(OpenError(format!(
                    "{} is in use by another running process; stop it, or give this one its own node.data_dir",
                    data.display()
                )));
            }
            Err(e) => return Err(no_place("lock", data, &e)),
        }
    }
}
