//! The committer's side of the stores: fills the active one, moves on to the next, and starts anew after a failure.
//!
//! After any failure the store is never written again: when fdatasync fails, the kernel forgets which pages it
//! could not write, and a later success says nothing about them. What was acknowledged lies before the failure
//! and stays; the failed commit's events are passed over, because the next store is named after the last
//! acknowledged event and a store ends where the next begins.

use std::any::Any;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::block::{Head, Packed};
use super::keeper;
use super::lane::{Lane, Recent, Store};
use super::notes::{Seal, write_reserve};
use super::segment::{self, Active, EVENTS_MAX, Spare};
use super::{Seq, is_full};
use crate::sys::tasks::panic_message;

/// Name of the store that is prepared to be the next one.
pub const SPARE: &str = "next";

/// After a failure the disk is tried again at most this often.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What sled adds to an append at most: a list of trees (128 names), two empty pages, headers.
const APPEND_OVERHEAD_BYTES: u64 = 4096;

/// Why a commit was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitError {
    /// No space.
    Full(String),
    /// The disk failed.
    Disk(String),
}

impl CommitError {
    fn of(error: &io::Error) -> Self {
        match is_full(error) {
            true => Self::Full(format!("{error}; make room on the disk")),
            false => Self::Disk(error.to_string()),
        }
    }

    fn reason(&self) -> &str {
        let (Self::Full(reason) | Self::Disk(reason)) = self;
        reason
    }
}

/// The stores as the committer sees them.
pub struct Stores {
    lane: Arc<Lane>,
    active: Option<Active>,
    /// Bytes of the budget that the active store takes.
    counted: u64,
    /// Bytes of the budget that this commit has reserved.
    reserved: u64,
    failed: Option<(CommitError, Instant)>,
}

/// What a commit put into one store.
struct Filled {
    first: Seq,
    last: Seq,
    payload: u64,
    disk: u64,
}

impl Stores {
    /// No store is open yet; the first commit opens one.
    pub fn new(lane: Arc<Lane>) -> Self {
        Self { lane, active: None, counted: 0, reserved: 0, failed: None }
    }

    /// Reserves space for an append of so many bytes, to be followed by [`Stores::commit`].
    pub fn admit(&mut self, bytes: u64) -> Result<(), CommitError> {
        if bytes == 0 {
            return Ok(());
        }
        if let Some((error, at)) = &self.failed
            && at.elapsed() < RETRY_AFTER
        {
            return Err(error.clone());
        }
        let wanted = bytes + bytes / 8 + APPEND_OVERHEAD_BYTES;
        let reserved = self.lane.budget.reserve(wanted).or_else(|_| {
            keeper::reclaim(&self.lane);
            self.lane.budget.reserve(wanted)
        });
        match reserved {
            Ok(()) => {
                self.reserved += wanted;
                Ok(())
            }
            Err(reason) => {
                self.lane.book().refusing = Some(reason.clone());
                Err(CommitError::Full(reason))
            }
        }
    }

    /// Puts `blocks` on disk. Afterwards readers see them; after an error nobody ever does.
    pub fn commit(&mut self, blocks: &[Packed], accepted_ms: i64, named: bool) -> Result<(), CommitError> {
        if blocks.is_empty() {
            self.settle();
            return Ok(());
        }
        // sled asserts in places; a panic of it is a failed commit.
        let result = catch_unwind(AssertUnwindSafe(|| self.write(blocks)))
            .unwrap_or_else(|panic| Err(io::Error::other(format!("sled: {}", panic_message(panic.as_ref())))));
        match result {
            Ok(filled) => {
                self.enter(&filled, blocks, accepted_ms, named);
                self.settle();
                Ok(())
            }
            Err(e) => Err(self.fail(&e)),
        }
    }

    /// Turns the clockwork when nothing is appended: finds out whether a refusing lane could take events again.
    pub fn idle(&mut self) {
        if self.lane.book().refusing.is_none() || self.admit(APPEND_OVERHEAD_BYTES).is_err() {
            return;
        }
        let next = self.lane.book().last + 1;
        let ready = if self.active.is_some() { Ok(()) } else { self.open(next) };
        match ready {
            Ok(()) => {
                self.failed = None;
                self.lane.book().refusing = None;
                self.settle();
            }
            Err(e) => drop(self.fail(&e)),
        }
    }

    /// Closes the active store: nothing more will come.
    pub fn seal(&mut self) {
        if let Some(active) = self.active.take() {
            drop(active);
            self.lane.book().active = false;
        }
        keeper::seal(&self.lane);
    }

    fn write(&mut self, blocks: &[Packed]) -> io::Result<Vec<Filled>> {
        let mut filled: Vec<Filled> = Vec::new();
        let mut started = true; // a new entry in `filled` is due
        for block in blocks {
            if self.active.as_ref().is_none_or(|a| a.is_full_for(block, self.lane.settings.store_bytes_max)) {
                if let Some(full) = self.active.take() {
                    full.flush()?;
                    if let Some(entry) = filled.last_mut() {
                        entry.disk = full.disk_bytes();
                    }
                    self.lane.retire(full);
                    self.open_next(block.first)?;
                } else {
                    self.open(block.first)?;
                }
                started = true;
            }
            let Some(active) = &mut self.active else { continue };
            active.insert(block)?;
            if started {
                filled.push(Filled { first: active.first(), last: 0, payload: 0, disk: 0 });
                started = false;
            }
            if let Some(entry) = filled.last_mut() {
                entry.last = block.last;
                entry.payload += block.payload().len() as u64;
            }
        }
        if let Some(active) = &self.active {
            active.flush()?;
            if let Some(entry) = filled.last_mut() {
                entry.disk = active.disk_bytes();
            }
        }
        Ok(filled)
    }

    /// Opens a store when there is none: at the start, and after a failure.
    fn open(&mut self, first: Seq) -> io::Result<()> {
        // A store with this or a later name holds nothing that was acknowledged; left there, it would hide what follows.
        clear_from(&self.lane.settings.dir, first)?;
        self.open_next(first)
    }

    fn open_next(&mut self, first: Seq) -> io::Result<()> {
        let settings = &self.lane.settings;
        if !settings.proven.load(Ordering::Acquire) {
            segment::prove_barrier(&settings.dir)?;
            settings.proven.store(true, Ordering::Release);
        }
        reserve(&self.lane, first + EVENTS_MAX)?;
        // Locked until the spare has its own name: the keeper makes the next one in its place.
        let mut slot = self.lane.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let spare = match slot.take() {
            Some(spare) => spare,
            None => {
                let spare = Spare::create(&settings.dir.join(SPARE), settings.durable)?;
                self.lane.budget.add(spare.disk_bytes());
                spare
            }
        };
        self.counted = spare.disk_bytes();
        self.active = Some(spare.adopt(&settings.dir, first, settings.durable)?);
        Ok(())
    }

    /// Makes a finished commit visible.
    fn enter(&mut self, filled: &[Filled], blocks: &[Packed], accepted_ms: i64, named: bool) {
        let recent = recent(blocks, accepted_ms);
        let store_bytes_max = self.lane.settings.store_bytes_max;
        let half_full = self.active.as_ref().is_some_and(|a| a.is_half_full(store_bytes_max));
        let mut book = self.lane.book();
        for entry in filled {
            let grows = book.active && book.stores.back().is_some_and(|s| s.first == entry.first);
            if !grows {
                let seal = Seal { last: 0, payload: 0, oldest_ms: accepted_ms, newest_ms: 0, named: false };
                let counted = self.counted.min(entry.disk);
                let newest = Instant::now();
                book.stores.push_back(Store { first: entry.first, seal, disk: counted, sealed: false, newest });
            }
            if let Some(store) = book.stores.back_mut() {
                store.seal.last = entry.last;
                store.seal.payload += entry.payload;
                store.seal.newest_ms = accepted_ms;
                store.seal.named |= named;
                store.newest = Instant::now();
                // The commit's reservation covers what the store has grown by; settle() gives back the rest.
                let grown = entry.disk.saturating_sub(store.disk);
                store.disk += grown;
                let covered = grown.min(self.reserved);
                self.reserved -= covered;
                self.lane.budget.add(grown - covered);
            }
        }
        self.counted = 0;
        book.active = true;
        book.half_full = half_full;
        book.refusing = None;
        if let Some(last) = blocks.last() {
            book.last = last.last;
        }
        recent.into_iter().for_each(|r| book.remember(r));
        drop(book);
        self.failed = None;
        if let Err(e) = self.lane.write_mark(false) {
            tracing::warn!(lane = self.lane.name, error = %e, "cannot write the lane's mark");
        }
        self.lane.grew.notify_waiters();
    }

    /// Gives back what was reserved and not used.
    fn settle(&mut self) {
        self.lane.budget.release(std::mem::take(&mut self.reserved));
    }

    /// A panic has left the commit in the middle: as after a failure of the disk, the store is never written again.
    pub fn give_up(&mut self, panic: &(dyn Any + Send)) {
        self.fail(&io::Error::other(format!("the committer panicked: {}", panic_message(panic))));
    }

    fn fail(&mut self, error: &io::Error) -> CommitError {
        let failure = CommitError::of(error);
        tracing::error!(
            lane = self.lane.name,
            reason = failure.reason(),
            "commit failed; nothing of it is acknowledged"
        );
        let acknowledged = {
            let mut book = self.lane.book();
            book.active = false;
            book.refusing = Some(failure.reason().to_owned());
            book.last
        };
        // sled may wait for its own threads here; they have failed already.
        drop(self.active.take());
        self.lane.drop_retired();
        if clear_from(&self.lane.settings.dir, acknowledged + 1).is_ok() {
            self.lane.budget.release(std::mem::take(&mut self.counted));
        }
        self.settle();
        keeper::recount(&self.lane);
        self.failed = Some((failure.clone(), Instant::now()));
        failure
    }
}

/// Makes sure that sequences up to `through` are reserved, and well beyond, so that the next store finds it done.
pub fn reserve(lane: &Lane, through: Seq) -> io::Result<()> {
    let mut reserved = lane.reserved.lock().unwrap_or_else(PoisonError::into_inner);
    if *reserved < through {
        write_reserve(&lane.settings.dir, through + EVENTS_MAX)?;
        *reserved = through + EVENTS_MAX;
    }
    Ok(())
}

/// Removes every store in `lane_dir` whose first sequence is `first` or later.
fn clear_from(lane_dir: &Path, first: Seq) -> io::Result<()> {
    for entry in fs::read_dir(lane_dir)? {
        let entry = entry?;
        let name = segment::parse_dir_name(&entry.file_name().to_string_lossy());
        if name.is_some_and(|n| n >= first) && !segment::remove(&entry.path()) {
            return Err(io::Error::other(format!("cannot remove {}", entry.path().display())));
        }
    }
    Ok(())
}

/// The blocks of a commit as readers want them: large events whole.
fn recent(blocks: &[Packed], accepted_ms: i64) -> Vec<Recent> {
    let mut out = Vec::with_capacity(blocks.len());
    let mut whole = BytesMut::new();
    for block in blocks {
        let payload = if block.part.1 > 1 {
            whole.extend_from_slice(&block.payload());
            if block.part.0 + 1 < block.part.1 {
                continue;
            }
            std::mem::take(&mut whole).freeze()
        } else {
            block.payload()
        };
        out.push(Recent { head: head(block, &payload, accepted_ms), payload });
    }
    out
}

fn head(block: &Packed, payload: &Bytes, accepted_ms: i64) -> Head {
    let (first, last) = (block.first, block.last);
    Head { first, last, part: (0, 1), group: (first, last), accepted_ms, payload: payload.len() }
}
