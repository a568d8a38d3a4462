//! The promise, on disk. PLACEHOLDER in memory with the final interface; the outbox work replaces it.
//!
//! Nothing outside knows what lies below `append`, `read`, `confirm` and `status`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::config::EdgeConfig;
use crate::event::{Event, record};
use crate::observe::metrics::Metrics;
use crate::sys::clock::Clock;

/// Position of an event in its lane: 1, 2, 3 … without gaps.
pub type Seq = u64;

/// Proof that events are on disk. Only the outbox makes it; only it may be answered to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Events that are on disk now because of this append or an earlier one with the same ids.
    pub accepted: u64,
    /// Of these, how many an earlier append had brought.
    pub repeated: u64,
    /// Sequence of the first event (of the earlier append if all are repeated).
    pub first: Seq,
    /// Sequence of the last one.
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

/// All lanes of this gateway.
#[derive(Clone)]
pub struct Outbox {
    incarnation: String,
    lanes: Arc<Vec<Arc<LaneState>>>,
}

struct LaneState {
    name: String,
    clock: Clock,
    events: Mutex<Vec<Stored>>,
    confirmed: AtomicU64,
    grew: Notify,
}

impl Outbox {
    /// Opens or makes the outbox below `config.node.data_dir`.
    pub fn open(config: &EdgeConfig, clock: &Clock, _metrics: &Metrics) -> Result<Self, OpenError> {
        let lanes = config
            .lanes
            .iter()
            .map(|l| {
                Arc::new(LaneState {
                    name: l.name.clone(),
                    clock: clock.clone(),
                    events: Mutex::default(),
                    confirmed: AtomicU64::new(0),
                    grew: Notify::new(),
                })
            })
            .collect();
        Ok(Self { incarnation: crate::sys::random::hex16(), lanes: Arc::new(lanes) })
    }

    /// Random name of this outbox's life: a replaced disk gets a new one. 16 hexadecimal characters.
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// The way in for one lane; `None`: there is no such lane.
    pub fn writer(&self, lane: &str) -> Option<Writer> {
        self.lanes.iter().find(|l| l.name == lane).map(|l| Writer(l.clone()))
    }

    /// The way out for one lane; there should be one reader per lane.
    pub fn reader(&self, lane: &str) -> Option<Reader> {
        self.lanes.iter().find(|l| l.name == lane).map(|l| Reader(l.clone()))
    }

    /// All lanes in numbers, in the order of the configuration.
    pub fn status(&self) -> Vec<LaneStatus> {
        self.lanes
            .iter()
            .map(|l| {
                let events = l.events.lock().unwrap_or_else(PoisonError::into_inner);
                let confirmed = l.confirmed.load(Ordering::Relaxed);
                let last = events.last().map_or(0, |e| e.seq);
                LaneStatus {
                    lane: l.name.clone(),
                    last,
                    confirmed,
                    backlog_events: last - confirmed,
                    ..LaneStatus::default()
                }
            })
            .collect()
    }

    /// Commits what waits and closes the files. Appends after it get [`AppendError::Closed`].
    pub async fn close(&self) {}
}

/// The way in for one lane. Cheap to clone.
#[derive(Clone)]
pub struct Writer(Arc<LaneState>);

impl Writer {
    /// The lane's name.
    pub fn lane(&self) -> &str {
        &self.0.name
    }

    /// Puts all of `events` on disk or none. They must have passed [`Event::check`].
    /// Dropping the future does not undo the append: the events may still be stored.
    pub async fn append(&self, events: Vec<Event>) -> Result<Durable, AppendError> {
        let mut stored = self.0.events.lock().unwrap_or_else(PoisonError::into_inner);
        let first = stored.len() as u64 + 1;
        for event in &events {
            let mut out = Vec::new();
            record::encode(event, &mut out);
            let seq = stored.len() as u64 + 1;
            stored.push(Stored { seq, accepted_ms: self.0.clock.unix_ms(), record: out.into() });
        }
        self.0.grew.notify_waiters();
        Ok(Durable { accepted: events.len() as u64, repeated: 0, first, last: stored.len() as u64 })
    }
}

/// Why events could not be read back.
#[derive(Debug, Clone, thiserror::Error)]
#[error("lane {lane}: cannot read back stored events: {reason}")]
pub struct ReadError {
    /// The lane's name.
    pub lane: String,
    /// What happened.
    pub reason: String,
}

/// The way out for one lane.
pub struct Reader(Arc<LaneState>);

impl Reader {
    /// The lane's name.
    pub fn lane(&self) -> &str {
        &self.0.name
    }

    /// The next events at or after `from`, in order, about `max_bytes` of records (at least one event).
    /// Waits until there is one. Sequences may jump over what was lost to damage or given up.
    /// Cancel-safe: a dropped call takes nothing away.
    pub async fn read(&mut self, from: Seq, max_bytes: usize) -> Result<Vec<Stored>, ReadError> {
        loop {
            let grew = self.0.grew.notified();
            tokio::pin!(grew);
            grew.as_mut().enable();
            {
                let events = self.0.events.lock().unwrap_or_else(PoisonError::into_inner);
                let start = usize::try_from(from.max(1) - 1).unwrap_or(usize::MAX);
                if start < events.len() {
                    let mut bytes = 0;
                    return Ok(events[start..]
                        .iter()
                        .take_while(|e| {
                            bytes += e.record.len();
                            bytes <= max_bytes || bytes == e.record.len()
                        })
                        .cloned()
                        .collect());
                }
            }
            grew.await;
        }
    }

    /// Everything up to and including `through` has arrived at Pulsar; its space may be reused. Never goes back.
    pub fn confirm(&self, through: Seq) {
        self.0.confirmed.fetch_max(through, Ordering::Relaxed);
    }

    /// First sequence that is not confirmed (F of the resume rule); one past the last if all are.
    pub fn first_unconfirmed(&self) -> Seq {
        self.0.confirmed.load(Ordering::Relaxed) + 1
    }

    /// Last sequence on disk; 0: none yet.
    pub fn last_durable(&self) -> Seq {
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner).last().map_or(0, |e| e.seq)
    }
}
