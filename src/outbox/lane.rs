//! What the parts of one lane share: its stores, its newest events in memory, its position and its numbers.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use super::block::Head;
use super::budget::Budget;
use super::commit::Queue;
use super::cursor::{Cursor, Gap};
use super::keeper::Bell;
use super::mark::{Mark, MarkFile};
use super::meter::Meter;
use super::notes::{Loss, Seal, add_loss};
use super::segment::{self, Active, Spare};
use super::{LaneStatus, Seq};
use crate::sys::clock::Clock;

/// Newest events kept in memory, by payload: a reader that keeps up never touches the disk.
pub const TAIL_BYTES_MAX: usize = 1 << 20;

/// Settings of a lane.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its directory.
    pub dir: PathBuf,
    /// Marks its blocks.
    pub tag: u64,
    /// Wait for the disk.
    pub durable: bool,
    /// The sync barrier is known to be reached; else the first store proves it.
    pub proven: Arc<AtomicBool>,
    /// Largest record.
    pub record_bytes_max: u64,
    /// A store is full at this many bytes.
    pub store_bytes_max: u64,
    /// How long a repeated event gets the first answer.
    pub window: Duration,
    /// Wakes the keeper.
    pub keeper: Arc<Bell>,
}

/// One lane.
#[derive(Debug)]
pub struct Lane {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: Settings,
    /// Labels events.
    pub clock: Clock,
    /// Appends on their way to the disk.
    pub queue: Queue,
    /// Disk space of all lanes.
    pub budget: Arc<Budget>,
    /// Its metrics.
    pub meter: Meter,
    /// Told after every commit.
    pub grew: Notify,
    /// The store that is ready to be the next one.
    pub spare: Mutex<Option<Spare>>,
    /// Sequences up to here are reserved on disk.
    pub reserved: Mutex<Seq>,
    /// Held while stores are removed, so that only one thread does.
    pub tidying: Mutex<()>,
    /// Full stores whose databases are still open: closing one takes time that a commit should not.
    retired: Mutex<Vec<Active>>,
    mark: Mutex<MarkFile>,
    book: Mutex<Book>,
}

/// What changes with every commit and confirmation. Locked only for a moment.
#[derive(Debug, Default)]
pub struct Book {
    /// The stores that have events, oldest first. While `active`, the last of them still grows.
    pub stores: VecDeque<Store>,
    /// The last store still grows.
    pub active: bool,
    /// It is more than half full.
    pub half_full: bool,
    /// The last sequence on disk, or known to be lost.
    pub last: Seq,
    /// The confirmed position.
    pub cursor: Cursor,
    /// Why the lane takes no events.
    pub refusing: Option<String>,
    tail: VecDeque<Recent>,
    tail_bytes: usize,
}

/// A store on disk.
#[derive(Clone, Debug)]
pub struct Store {
    /// First sequence; names the directory.
    pub first: Seq,
    /// What is in it.
    pub seal: Seal,
    /// What it takes on disk, as counted in the budget.
    pub disk: u64,
    /// The seal is written.
    pub sealed: bool,
    /// When its last event was accepted, on the steady clock.
    pub newest: Instant,
}

/// A block, or a large event, in memory.
#[derive(Clone, Debug)]
pub struct Recent {
    /// Its sequences and time.
    pub head: Head,
    /// Its records.
    pub payload: Bytes,
}

/// Where an event can be read.
#[derive(Debug)]
pub enum Place {
    /// In memory: these and no others, in order.
    Memory(Vec<Recent>),
    /// In the store of this name, which has events up to this sequence.
    Store(Seq, Seq),
    /// Nowhere yet.
    Future,
}

impl Lane {
    #[allow(clippy::too_many_arguments)] // the parts of a lane, each made elsewhere
    pub(super) fn new(
        name: String,
        settings: Settings,
        clock: Clock,
        budget: Arc<Budget>,
        meter: Meter,
        mark: MarkFile,
        book: Book,
        reserved: Seq,
    ) -> Self {
        Self {
            name,
            settings,
            clock,
            queue: Queue::default(),
            budget,
            meter,
            grew: Notify::new(),
            spare: Mutex::default(),
            reserved: Mutex::new(reserved),
            tidying: Mutex::default(),
            retired: Mutex::default(),
            mark: Mutex::new(mark),
            book: Mutex::new(book),
        }
    }

    /// The book. A panic elsewhere leaves it usable: every change to it is complete in one step.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Directory of the store whose first sequence is `first`.
    pub fn store_dir(&self, first: Seq) -> PathBuf {
        self.settings.dir.join(segment::dir_name(first))
    }

    /// Takes a full store, everything in it flushed, to be closed later.
    pub fn retire(&self, store: Active) {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(store);
        self.settings.keeper.ring();
    }

    /// Removes the store that was prepared and is not needed.
    pub fn discard_spare(&self) {
        if let Some(spare) = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.budget.release(spare.disk_bytes());
            spare.discard();
        }
    }

    /// Closes the databases of full stores.
    pub fn drop_retired(&self) {
        let stores = std::mem::take(&mut *self.retired.lock().unwrap_or_else(PoisonError::into_inner));
        drop(stores);
    }

    /// Hands the lane's position to the kernel; `clean`: nothing will follow.
    pub fn write_mark(&self, clean: bool) -> io::Result<()> {
        let mut file = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = {
            let book = self.book();
            Mark { last: book.last, confirmed: book.cursor.confirmed(), clean }
        };
        file.write(&mark)
    }

    /// Puts the lane's position on disk.
    pub fn sync_mark(&self, clean: bool) -> io::Result<()> {
        let confirmed = self.book().cursor.confirmed();
        self.write_mark(clean)?;
        let file: Arc<File> = self.mark.lock().unwrap_or_else(PoisonError::into_inner).turn_over();
        if self.settings.durable {
            file.sync_data()?;
        }
        self.book().cursor.mark_synced(confirmed);
        Ok(())
    }

    /// Enters sequences that are gone into the ledger, and passes over them.
    pub fn lose(&self, gap: Gap, reason: &str) {
        tracing::error!(lane = self.name, first = gap.0, last = gap.1, reason, "events are lost");
        let loss = Loss { first: gap.0, last: gap.1, reason: reason.to_owned(), at_ms: self.clock.unix_ms() };
        if let Err(e) = add_loss(&self.settings.dir, &loss) {
            tracing::error!(lane = self.name, error = %e, "cannot write the ledger of losses");
        }
        self.meter.lost.inc_by(gap.1 - gap.0 + 1);
        self.book().cursor.lose(gap);
    }

    /// As [`Lane::lose`], unless the loss is known already.
    pub fn lose_once(&self, gap: Gap, reason: &str) {
        if !self.book().cursor.knows(gap) {
            self.lose(gap, reason);
        }
    }

    /// The lane in numbers.
    pub fn status(&self) -> LaneStatus {
        let book = self.book();
        let confirmed = book.cursor.confirmed();
        LaneStatus {
            lane: self.name.clone(),
            last: book.last,
            confirmed,
            backlog_events: book.cursor.waiting(book.last),
            backlog_bytes: book.stores.iter().map(|s| s.seal.payload_after(s.first, confirmed)).sum(),
            oldest_ms: book.stores.iter().find(|s| s.seal.last > confirmed).map(|s| s.seal.oldest_ms),
            disk_bytes: book.stores.iter().map(|s| s.disk).sum(),
            refusing: book.refusing.clone(),
        }
    }
}

impl Book {
    /// The book of a lane that was found on disk.
    pub fn new(stores: VecDeque<Store>, last: Seq, cursor: Cursor) -> Self {
        Self { stores, last, cursor, ..Self::default() }
    }

    /// Keeps what was committed last in memory, as much as is allowed.
    pub fn remember(&mut self, recent: Recent) {
        self.tail_bytes += recent.payload.len();
        self.tail.push_back(recent);
        while self.tail_bytes > TAIL_BYTES_MAX
            && let Some(oldest) = self.tail.pop_front()
        {
            self.tail_bytes -= oldest.payload.len();
        }
    }

    /// Where the events at or after `from` are; about `max_bytes` of them if in memory.
    pub fn locate(&self, from: Seq, max_bytes: usize) -> Place {
        if from > self.last {
            return Place::Future;
        }
        if self.tail.front().is_some_and(|t| t.head.first <= from) {
            let start = self.tail.partition_point(|t| t.head.last < from);
            let mut bytes = 0;
            let recent = self.tail.iter().skip(start).take_while(|t| {
                let wanted = bytes < max_bytes;
                bytes += t.payload.len();
                wanted
            });
            let recent: Vec<_> = recent.cloned().collect();
            return if recent.is_empty() { Place::Future } else { Place::Memory(recent) };
        }
        let at = self.stores.partition_point(|s| s.seal.last < from);
        self.stores.get(at).map_or(Place::Future, |s| Place::Store(s.first, s.seal.last))
    }
}
