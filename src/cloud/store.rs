//! The store of one lane: takes what its consumers read, removes duplicates, writes lines, and at every commit first
//! makes files and audit durable, then lets the consumers acknowledge. One thread per lane, so that compression and
//! disk never hold up anything else.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pulsar::message::Payload;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::audit::{Arrival, Audit, SnapshotError, Verdict};
use super::board::LaneBoard;
use super::line::{self, Attributes, Place};
use super::meters::Meters;
use super::sinks::files::{FilesError, LaneFiles};
use super::stream::{LINE_BYTES_MAX, Live, LiveEvent};
use crate::config::cloud::FilesSink;
use crate::sys::clock::Clock;

/// Lines gathered before they are compressed: large enough that the calls do not count.
const LINES_BYTES: usize = 128 << 10;

/// Commit after so many bytes of lines, whatever the time: what a crash repeats at most, with what is in flight.
const COMMIT_BYTES: u64 = 16 << 20;

/// The part of the status that says whether events can be stored.
pub const STORING: &str = "files";

const SNAPSHOT_VERSION: u8 = 1;

/// A message's place in its partition, in the order of the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The entry (a batch or a single message).
    pub entry: Entry,
    /// Which message of the entry.
    pub index: u32,
}

/// An entry of a partition; what Pulsar acknowledges as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The ledger it is in.
    pub ledger: u64,
    /// Its number in the ledger.
    pub entry: u64,
}

/// One message.
#[derive(Debug)]
pub struct Received {
    /// Where it stood.
    pub at: Position,
    /// No message of its entry comes after it.
    pub ends_entry: bool,
    /// Metadata and data.
    pub payload: Payload,
}

/// Messages of one partition, in order.
#[derive(Debug)]
pub struct Chunk {
    /// The partition.
    pub partition: u32,
    /// Where to say up to which entry everything is stored.
    pub acks: Arc<watch::Sender<Option<Entry>>>,
    /// The messages.
    pub messages: Vec<Received>,
}

/// Why the store stopped. Nothing that was not stored is acknowledged: it comes again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The files failed.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The state's snapshot cannot be used.
    #[error(
        "the state file in {}: {source}; use the version that wrote it, or remove the file to go on without it: \
         then events that Pulsar delivers again are stored a second time", dir.display()
    )]
    Snapshot {
        /// The lane's directory.
        dir: PathBuf,
        /// What is wrong.
        source: SnapshotError,
    },
}

/// The store of one lane.
pub struct Store {
    files: LaneFiles,
    commit_after: Duration,
    audit: Audit,
    /// Events that came without stream or sequence.
    without_stream: u64,
    partitions: BTreeMap<u32, Partition>,
    lines: Vec<u8>,
    raw_bytes: u64,
    stored: u64,
    dirty_since: Option<Instant>,
    snapshot: Vec<u8>,
    board: LaneBoard,
    meters: Meters,
    live: Live,
}

#[derive(Debug, Default)]
struct Partition {
    /// The highest message handled: what comes at or below it again was delivered again.
    through: Option<Position>,
    /// The last entry of which every message was handled since the last commit, and how many such entries.
    complete: Option<Entry>,
    entries: u64,
    acks: Option<Arc<watch::Sender<Option<Entry>>>>,
}

impl Store {
    /// Opens the lane at its last commit.
    pub fn open(
        config: &FilesSink,
        clock: &Clock,
        board: LaneBoard,
        meters: Meters,
        live: Live,
    ) -> Result<Self, StoreError> {
        let (files, snapshot) = LaneFiles::open(config, board.lane(), clock)?;
        let mut store = Self {
            files,
            commit_after: config.commit_after,
            audit: Audit::default(),
            without_stream: 0,
            partitions: BTreeMap::new(),
            lines: Vec::with_capacity(2 * LINES_BYTES),
            raw_bytes: 0,
            stored: 0,
            dirty_since: None,
            snapshot: Vec::new(),
            board,
            meters,
            live,
        };
        if let Some(snapshot) = snapshot {
            let dir = config.dir.join(&**store.board.lane());
            store.restore(&snapshot).map_err(|source| StoreError::Snapshot { dir, source })?;
        }
        let missing = store.board.streams(store.audit.summaries(), store.without_stream);
        store.meters.missing.set(missing.try_into().unwrap_or(i64::MAX));
        Ok(store)
    }

    /// Stores what comes from `chunks` until all senders are gone; commits the rest before it returns.
    pub fn run(mut self, mut chunks: mpsc::Receiver<Chunk>, runtime: &Handle) -> Result<(), StoreError> {
        loop {
            match self.next(&mut chunks, runtime) {
                Next::Chunk(chunk) => {
                    self.take(chunk)?;
                    if self.raw_bytes >= COMMIT_BYTES || self.due().is_some_and(|at| at <= Instant::now()) {
                        self.commit()?;
                    }
                }
                Next::Due => self.commit()?,
                Next::End => {
                    return if self.dirty_since.is_some() { self.commit() } else { Ok(()) };
                }
            }
        }
    }

    fn next(&self, chunks: &mut mpsc::Receiver<Chunk>, runtime: &Handle) -> Next {
        match (chunks.try_recv(), self.due()) {
            (Ok(chunk), _) => Next::Chunk(chunk),
            (Err(mpsc::error::TryRecvError::Disconnected), _) => Next::End,
            (Err(mpsc::error::TryRecvError::Empty), due) => runtime.block_on(async {
                let chunk = match due {
                    None => chunks.recv().await,
                    Some(at) => match tokio::time::timeout_at(at.into(), chunks.recv()).await {
                        Ok(chunk) => chunk,
                        Err(_) => return Next::Due,
                    },
                };
                chunk.map_or(Next::End, Next::Chunk)
            }),
        }
    }

    /// When the next commit must be.
    fn due(&self) -> Option<Instant> {
        let commit = self.dirty_since.map(|since| since + self.commit_after);
        commit.into_iter().chain(self.files.rotate_at()).min()
    }

    fn take(&mut self, chunk: Chunk) -> Result<(), FilesError> {
        self.dirty_since.get_or_insert_with(Instant::now);
        self.meters.received.inc_by(chunk.messages.len() as u64);
        let mut partition = self.partitions.remove(&chunk.partition).unwrap_or_default();
        partition.acks = Some(chunk.acks);
        for message in chunk.messages {
            let again = partition.through.is_some_and(|through| message.at <= through);
            self.handle(chunk.partition, &message, again)?;
            partition.through = partition.through.max(Some(message.at));
            if message.ends_entry {
                partition.complete = partition.complete.max(Some(message.at.entry));
                partition.entries += u64::from(!again);
            }
        }
        self.partitions.insert(chunk.partition, partition);
        Ok(())
    }

    fn handle(&mut self, partition: u32, message: &Received, again: bool) -> Result<(), FilesError> {
        let payload = &message.payload;
        let attributes = Attributes::of(payload);
        let position = attributes.position();
        match position {
            None => {
                self.without_stream += 1;
                self.meters.unchecked.inc();
            }
            Some((stream, seq)) => {
                let at_ms = i64::try_from(payload.metadata.publish_time).unwrap_or(i64::MAX);
                match self.audit.observe(stream, seq, Arrival { partition, at_ms, again }) {
                    Verdict::New => {}
                    Verdict::Unchecked => _ = self.meters.unchecked.inc(),
                    Verdict::Duplicate => {
                        let counter = if again { &self.meters.redelivered } else { &self.meters.duplicates };
                        counter.inc();
                        return Ok(());
                    }
                }
            }
        }
        self.store(position, &attributes, payload)
    }

    fn store(
        &mut self,
        position: Option<(&str, u64)>,
        attributes: &Attributes<'_>,
        payload: &Payload,
    ) -> Result<(), FilesError> {
        let (stream, seq) = position.unzip();
        let place = Place { lane: self.board.lane(), stream, seq: seq.unwrap_or(0) };
        let start = self.lines.len();
        let data_at = line::write(&mut self.lines, place, attributes, payload);
        if self.live.wanted() {
            self.show(start, data_at, stream, attributes);
        }
        self.raw_bytes += (self.lines.len() - start) as u64;
        self.stored += 1;
        if self.lines.len() >= LINES_BYTES {
            self.files.write(&self.lines)?;
            self.lines.clear();
        }
        Ok(())
    }

    /// Gives the line that begins at `start` to the listeners.
    fn show(&self, start: usize, data_at: usize, stream: Option<&str>, attributes: &Attributes<'_>) {
        let line = &self.lines[start..self.lines.len() - 1];
        let line = if line.len() <= LINE_BYTES_MAX {
            Bytes::copy_from_slice(line)
        } else {
            let mut head = self.lines[start..data_at].to_vec();
            head.extend_from_slice(b",\"data_left_out\":true}");
            head.into()
        };
        self.live.send(LiveEvent {
            lane: self.board.lane().clone(),
            node: stream.and_then(|s| s.split('.').next()).map(Into::into),
            device: attributes.subject.map(Into::into),
            ty: attributes.ty.map(Into::into),
            line,
        });
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        let started = Instant::now();
        self.files.write(&self.lines)?;
        self.lines.clear();
        let mut snapshot = std::mem::take(&mut self.snapshot);
        snapshot.clear();
        self.save(&mut snapshot);
        let committed = self.files.commit(&snapshot)?;
        self.snapshot = snapshot;

        let missing = self.board.streams(self.audit.take_changed(), self.without_stream);
        for partition in self.partitions.values_mut() {
            if let (Some(entry), Some(acks)) = (partition.complete.take(), &partition.acks) {
                acks.send_replace(Some(entry));
                self.meters.acknowledged.inc_by(std::mem::take(&mut partition.entries));
            }
        }
        self.meters.missing.set(missing.try_into().unwrap_or(i64::MAX));
        self.meters.stored.inc_by(std::mem::take(&mut self.stored));
        self.meters.raw_bytes.inc_by(std::mem::take(&mut self.raw_bytes));
        self.meters.compressed_bytes.inc_by(committed.bytes);
        self.meters.files.inc_by(committed.rotated.into());
        self.meters.commit_seconds.observe(started.elapsed().as_secs_f64());
        self.dirty_since = None;
        if committed.bytes > 0 {
            self.board.solved(STORING);
        }
        Ok(())
    }

    fn save(&self, out: &mut Vec<u8>) {
        out.push(SNAPSHOT_VERSION);
        out.extend_from_slice(&self.without_stream.to_le_bytes());
        let through: Vec<_> = self.partitions.iter().filter_map(|(p, s)| Some((*p, s.through?))).collect();
        out.extend_from_slice(&(through.len() as u32).to_le_bytes());
        for (partition, at) in through {
            out.extend_from_slice(&partition.to_le_bytes());
            out.extend_from_slice(&at.entry.ledger.to_le_bytes());
            out.extend_from_slice(&at.entry.entry.to_le_bytes());
            out.extend_from_slice(&at.index.to_le_bytes());
        }
        self.audit.snapshot(out);
    }

    fn restore(&mut self, mut bytes: &[u8]) -> Result<(), SnapshotError> {
        if take::<1>(&mut bytes)? != [SNAPSHOT_VERSION] {
            return Err(SnapshotError);
        }
        self.without_stream = u64::from_le_bytes(take(&mut bytes)?);
        for _ in 0..u32::from_le_bytes(take(&mut bytes)?) {
            let partition = u32::from_le_bytes(take(&mut bytes)?);
            let entry =
                Entry { ledger: u64::from_le_bytes(take(&mut bytes)?), entry: u64::from_le_bytes(take(&mut bytes)?) };
            let through = Some(Position { entry, index: u32::from_le_bytes(take(&mut bytes)?) });
            self.partitions.insert(partition, Partition { through, ..Partition::default() });
        }
        self.audit = Audit::restore(bytes)?;
        Ok(())
    }
}

enum Next {
    Chunk(Chunk),
    Due,
    End,
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], SnapshotError> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or(SnapshotError)?;
    *bytes = rest;
    Ok(*head)
}

#[cfg(test)]
mod tests;
