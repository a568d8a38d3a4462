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

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

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
use recovery::Opened;
use window::Fingerprints;

pub use inspect::{InspectedLane, Inspection, inspect};
pub use reader::Reader;
pub use window::Recalled;
pub use writer::{Batch, Receipt, Writer};

/// Position of an event in its lane: 1, 2, 3 … without gaps.
pub type Seq = u64;

/// Directory of the outbox in the data directory.
const DIR: &str = "outbox";

/// Sizes a store can have. 8 MB is small enough to be given back soon and read in a moment; below 1 MB the
/// making of stores would dominate. A small budget has room for eight per lane.
const STORE_BYTES: (u64, u64) = (1 << 20, 8 << 20);
const STORES_PER_LANE: u64 = 8;

/// Most lanes open at once: each has a thread. A configuration may have fewer.
const OPEN_MAX: usize = 64;

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
    ground: Ground,
    lanes: Lanes,
    threads: Mutex<Vec<JoinHandle<()>>>,
    recalled: Mutex<Recalled>,
    barrier: sync_barrier::Say,
    lock: DirLock,
}

/// Open lanes: those of the configuration in its order, then others that still have events to deliver.
type Lanes = Arc<RwLock<Vec<Arc<Lane>>>>;

/// What a lane is opened on.
struct Ground {
    dir: PathBuf,
    identity: Identity,
    durable: bool,
    proven: Arc<AtomicBool>,
    record_bytes_max: u64,
    window: Duration,
    fingerprints: Fingerprints,
    budget: Arc<Budget>,
    keeper: Arc<keeper::Bell>,
    meters: Arc<Meters>,
    clock: Clock,
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
        let ground = Ground {
            identity: Identity::open(&dir)?,
            durable,
            proven,
            record_bytes_max: config.outbox.max_event.min(block::RECORD_BYTES_MAX as u64),
            window: config.outbox.dedup_window,
            fingerprints: Fingerprints::default(),
            budget: Arc::new(Budget::new(dir.clone(), config.outbox.max_bytes)),
            keeper: Arc::default(),
            meters: Arc::new(Meters::new(metrics)),
            clock: clock.clone(),
            dir,
        };
        let mut names: Vec<_> = config.lanes.iter().map(|l| l.name.clone()).collect();
        names.extend(inspect::abandoned(&ground.dir, &ground.identity, &names)?);
        let opened: Vec<_> = names.iter().map(|name| ground.open(name, names.len())).collect::<Result<_, _>>()?;
        if durable {
            // A process that was killed may have made them and not synced their names.
            for place in [&ground.dir, data] {
                files::sync_dir(place).map_err(|e| no_place("sync", place, &e))?;
            }
        }
        let mut opened = opened;
        let last = opened.iter_mut().flat_map(|opened| std::mem::take(&mut opened.last));
        let recalled = Mutex::new(Recalled::new(ground.fingerprints.clone(), last));
        let outbox = Inner { ground, lanes: Lanes::default(), threads: Mutex::default(), recalled, barrier, lock };
        let started = opened.into_iter().try_for_each(|lane| outbox.start(lane)).and_then(|()| outbox.keep());
        started.map_err(|e| no_threads(&e))?;
        Ok(Self(Arc::new(outbox)))
    }

    /// Opens the lane `name` beside the others, or does nothing if it is open. Reads and writes the disk: not for async code.
    pub fn add(&self, name: &str) -> Result<(), OpenError> {
        let inner = &*self.0;
        // Held throughout: two callers must not open the same directory.
        let mut threads = inner.threads();
        let open = inner.lanes();
        if open.iter().any(|l| l.name == name) {
            return Ok(());
        }
        if threads.is_empty() {
            return Err(OpenError(format!("lane {name}: the gateway is shutting down")));
        }
        if open.len() >= OPEN_MAX {
            return Err(OpenError(format!(
                "lane {name}: {OPEN_MAX} lanes are open already, those that were taken out of the configuration included; \
                 restart the gateway once these are drained"
            )));
        }
        let opened = inner.ground.open(name, open.len() + 1)?;
        if inner.ground.durable {
            files::sync_dir(&inner.ground.dir).map_err(|e| no_place("sync", &inner.ground.dir, &e))?;
        }
        inner.begin(opened, &mut threads).map_err(|e| no_threads(&e))
    }

    /// From here on `outbox.max_bytes`. Lanes that are open keep the size of their stores until the next start.
    pub fn set_budget(&self, max_bytes: u64) {
        self.0.ground.budget.set(max_bytes);
    }

    /// Random name of this outbox's life: a replaced disk gets a new one. 16 hexadecimal characters.
    pub fn incarnation(&self) -> &str {
        &self.0.ground.identity.incarnation
    }

    /// The names of what was stored last before this start, ten minutes of it or `outbox.dedup_window`, as far as the window's
    /// limits go: also if the gateway stood still for longer, when the window knows them no more. Only the first call gets them.
    pub fn recalled(&self) -> Recalled {
        std::mem::take(&mut *self.0.recalled.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The way in for one lane; `None`: there is no such lane.
    pub fn writer(&self, lane: &str) -> Option<Writer> {
        Some(Writer::new(self.0.lane(lane)?, self.0.ground.fingerprints.clone()))
    }

    /// The way out for one lane; there should be one reader per lane.
    pub fn reader(&self, lane: &str) -> Option<Reader> {
        self.0.lane(lane).map(Reader::new)
    }

    /// The ways out of all open lanes, also of those that are in the configuration no more and have events to deliver.
    pub fn readers(&self) -> Vec<Reader> {
        self.0.lanes().into_iter().map(Reader::new).collect()
    }

    /// All open lanes in numbers: those of the configuration in its order at the start, then others.
    pub fn status(&self) -> Vec<LaneStatus> {
        self.0.lanes().iter().map(|l| l.status()).collect()
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

impl Ground {
    /// Opens a lane, one of `lanes` that share the budget.
    fn open(&self, name: &str, lanes: usize) -> Result<Opened, OpenError> {
        let store_share = self.budget.max() / (STORES_PER_LANE * lanes.max(1) as u64);
        let settings = Settings {
            dir: self.dir.join(name),
            tag: self.identity.tag(name),
            durable: self.durable,
            proven: self.proven.clone(),
            record_bytes_max: self.record_bytes_max,
            store_bytes_max: store_share.clamp(STORE_BYTES.0, STORE_BYTES.1),
            window: self.window,
            keeper: self.keeper.clone(),
        };
        recovery::open_lane(name, settings, &self.clock, &self.budget, self.meters.lane(name), &self.fingerprints)
    }
}

impl Inner {
    fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lane(&self, name: &str) -> Option<Arc<Lane>> {
        self.lanes().into_iter().find(|l| l.name == name)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, opened: Opened) -> std::io::Result<()> {
        self.begin(opened, &mut self.threads())
    }

    /// A lane takes events from here on.
    fn begin(&self, opened: Opened, threads: &mut Vec<JoinHandle<()>>) -> std::io::Result<()> {
        let Opened { lane, window, .. } = opened;
        let committer = lane.clone();
        threads.push(tasks::thread(&format!("commit-{}", lane.name), move || commit::run(&committer, window))?);
        self.lanes.write().unwrap_or_else(PoisonError::into_inner).push(lane);
        Ok(())
    }

    fn keep(&self) -> std::io::Result<()> {
        let (lanes, meters, bell) = (self.lanes.clone(), self.ground.meters.clone(), self.ground.keeper.clone());
        self.threads().push(tasks::thread("outbox-keeper", move || keeper::run(&lanes, &meters, &bell))?);
        Ok(())
    }

    /// Ends the threads; the second call finds nothing to do.
    fn stop(&self) {
        let mut threads = self.threads(); // first: no lane is added from here on
        self.lanes().iter().for_each(|l| l.queue.close());
        self.ground.keeper.stop();
        for thread in threads.drain(..) {
            if let Err(panic) = thread.join() {
                tracing::error!(reason = tasks::panic_message(panic.as_ref()), "a thread of the outbox panicked");
                continue;
            }
        }
        for lane in self.lanes() {
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

fn no_threads(error: &std::io::Error) -> OpenError {
    OpenError(format!("cannot start the outbox's threads: {error}; the system's limit of threads or memory is reached"))
}

fn no_place(what: &str, dir: &Path, error: &std::io::Error) -> OpenError {
    let way_out = "node.data_dir must name a directory on a writable disk in which this user may write";
    OpenError(format!("cannot {what} {}: {error}; {way_out}", dir.display()))
}

/// Takes the right to be the only process in `data`.
fn lock(data: &Path) -> Result<DirLock, OpenError> {
    DirLock::claim(data).map_err(|e| no_place("lock", data, &e))?.ok_or_else(|| {
        OpenError(format!(
            "{} is in use by another running process; stop it, or give this one its own node.data_dir",
            data.display()
        ))
    })
}
