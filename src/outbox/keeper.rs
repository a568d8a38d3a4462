//! Keeps the lanes tidy, off the commit path: prepares next stores, writes positions down, removes what was drained.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::lane::{Book, Lane};
use super::meter::Meters;
use super::segment::{self, EVENTS_MAX, Spare};
use super::store::{self, SPARE};
use crate::sys::tasks::panic_message;

/// How often the keeper looks around: often enough that the next store is ready before a fast lane needs it.
const TICK: Duration = Duration::from_millis(100);

/// A confirmed position is on disk at most this long after it was confirmed. What lies between is sent once
/// more after a power cut, and the broker drops it.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// A next store that could not be made is tried again after this long: a full disk is not kept busy by it.
const PREPARE_AGAIN: Duration = Duration::from_secs(1);

/// Drained stores that are kept per lane so that repeated events can be told after a restart.
pub const KEEP_BYTES_MAX: u64 = 64 << 20;

/// The keeper's bell.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Rung {
    look: bool,
    stop: bool,
}

impl Bell {
    /// The keeper looks around now rather than at its next turn.
    pub fn ring(&self) {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner).look = true;
        self.changed.notify_all();
    }

    /// The keeper ends after what it does now.
    pub fn stop(&self) {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.changed.notify_all();
    }

    fn wait(&self, at_most: Duration) -> bool {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = |r: &mut Rung| !r.look && !r.stop;
        let (mut rung, _) =
            self.changed.wait_timeout_while(rung, at_most, quiet).unwrap_or_else(PoisonError::into_inner);
        rung.look = false;
        rung.stop
    }
}

/// The keeper's thread.
pub fn run(lanes: &RwLock<Vec<Arc<Lane>>>, meters: &Meters, bell: &Bell) {
    let mut turns: Vec<Turn> = Vec::new();
    loop {
        // Lanes are added at the end and never taken away.
        let lanes = lanes.read().unwrap_or_else(PoisonError::into_inner).clone();
        turns.resize_with(lanes.len(), || Turn { synced: Instant::now(), unprepared: None });
        for (lane, turn) in lanes.iter().zip(&mut turns) {
            // sled asserts in places. Without a keeper nothing would be given back any more.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| look_after(lane, turn))) {
                tracing::error!(lane = lane.name, reason = panic_message(panic.as_ref()), "the keeper panicked");
            }
        }
        meters.count_fsyncs();
        if bell.wait(TICK) {
            return;
        }
    }
}

/// What the keeper remembers of a lane.
struct Turn {
    /// When the position was written down.
    synced: Instant,
    /// When the next store could not be made.
    unprepared: Option<Instant>,
}

fn look_after(lane: &Lane, Turn { synced, unprepared }: &mut Turn) {
    lane.drop_retired();
    if unprepared.is_none_or(|at| at.elapsed() >= PREPARE_AGAIN) {
        prepare(lane, unprepared);
    }
    seal(lane);
    let pressed = lane.budget.is_pressed();
    if lane.book().cursor.unsynced().is_some() && (pressed || synced.elapsed() >= SYNC_EVERY) {
        *synced = Instant::now();
        if let Err(e) = lane.sync_mark(false) {
            tracing::warn!(lane = lane.name, error = %e, "cannot write the confirmed position");
        }
    }
    tidy(lane, pressed);
    lane.meter.show(&lane.status(), lane.clock.unix_ms());
}

/// Makes the next store when it will soon be needed, and reserves its sequences.
fn prepare(lane: &Lane, unprepared: &mut Option<Instant>) {
    let (soon, last, first) = {
        let book = lane.book();
        let growing = book.stores.back().filter(|_| book.active);
        let soon = (growing.is_none() || book.half_full) && book.refusing.is_none();
        (soon, book.last, growing.map_or(book.last + 1, |s| s.first))
    };
    let mut spare = lane.spare.lock().unwrap_or_else(PoisonError::into_inner);
    if !soon || spare.is_some() {
        return;
    }
    let dir = lane.settings.dir.join(SPARE);
    let made = store::reserve(lane, last.max(first + EVENTS_MAX) + EVENTS_MAX)
        .and_then(|()| Spare::create(&dir, lane.settings.durable));
    match made {
        Ok(made) => {
            lane.budget.add(made.disk_bytes());
            *spare = Some(made);
            *unprepared = None;
        }
        Err(e) => {
            // The same again and again is one line in the log.
            if unprepared.replace(Instant::now()).is_none() {
                tracing::warn!(lane = lane.name, error = %e, "cannot prepare the next store; trying again");
            }
        }
    }
}

/// Writes down what full stores hold, so that the next start need not read them.
pub fn seal(lane: &Lane) {
    let unsealed: Vec<_> = {
        let book = lane.book();
        let growing = usize::from(book.active);
        let full = book.stores.len().saturating_sub(growing);
        book.stores.iter().take(full).filter(|s| !s.sealed).map(|s| (s.first, s.seal.clone())).collect()
    };
    for (first, seal) in unsealed {
        if let Err(e) = seal.write(&lane.store_dir(first)) {
            tracing::debug!(lane = lane.name, error = %e, "cannot seal a store; the next start reads it instead");
            return;
        }
        if let Some(store) = lane.book().stores.iter_mut().find(|s| s.first == first) {
            store.sealed = true;
        }
    }
}

/// Counts the last store's space anew, after a failure left something unknown in it.
pub fn recount(lane: &Lane) {
    let mut book = lane.book();
    if let Some(store) = book.stores.back_mut() {
        let disk = segment::disk_bytes(&lane.store_dir(store.first));
        lane.budget.add(disk.saturating_sub(store.disk));
        lane.budget.release(store.disk.saturating_sub(disk));
        store.disk = disk;
    }
}

/// Removes drained stores whether or not repeated events may still need them: space is short.
pub fn reclaim(lane: &Lane) {
    if lane.book().cursor.unsynced().is_some()
        && let Err(e) = lane.sync_mark(false)
    {
        tracing::warn!(lane = lane.name, error = %e, "cannot write the confirmed position");
    }
    tidy(lane, true);
}

/// Removes drained stores that are needed no more.
fn tidy(lane: &Lane, pressed: bool) {
    let _alone = lane.tidying.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some((dir, disk)) = next_to_go(lane, &mut lane.book(), pressed) {
        if segment::remove(&dir) {
            lane.budget.release(disk);
        } else {
            // It is no longer in the book; the next start finds and removes it.
            tracing::warn!(dir = %dir.display(), "cannot remove a drained store");
        }
    }
}

/// Takes the oldest store out of the book, if it is drained and needed no more.
fn next_to_go(lane: &Lane, book: &mut Book, pressed: bool) -> Option<(PathBuf, u64)> {
    let confirmed = book.cursor.synced();
    let growing = usize::from(book.active);
    let full = book.stores.len().saturating_sub(growing);
    let drained = book.stores.iter().take(full).take_while(|s| s.seal.last <= confirmed);
    let kept: u64 = drained.map(|s| s.disk).sum();
    let oldest = book.stores.front().filter(|s| full > 0 && s.seal.last <= confirmed)?;
    let in_window = oldest.seal.named && oldest.newest.elapsed() < lane.settings.window;
    if in_window && kept <= KEEP_BYTES_MAX && !pressed {
        return None;
    }
    let store = book.stores.pop_front()?;
    Some((lane.store_dir(store.first), store.disk))
}
