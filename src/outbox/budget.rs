//! The disk space of all lanes together: reserved before it is used, so that it is never exceeded.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::room::Room;
use crate::sys::files;

/// Space that is left free on the file system: the machine's other programs, and our own small files,
/// go on when the outbox may not. On a small file system a sixteenth of the budget is enough.
const FREE_BYTES_MIN: u64 = 16 << 20;

/// Part of the budget that drained stores, kept for repeated events, may fill: a half.
const KEEP_PART: u64 = 2;

/// Space of all lanes.
#[derive(Debug)]
pub struct Budget {
    dir: PathBuf,
    max: AtomicU64,
    free_min: AtomicU64,
    used: AtomicU64,
    room: Mutex<Room>,
}

impl Budget {
    /// A budget of `max` bytes for what lies in `dir`.
    pub fn new(dir: PathBuf, max: u64) -> Self {
        Self {
            dir,
            max: AtomicU64::new(max),
            free_min: AtomicU64::new(FREE_BYTES_MIN.min(max / 16)),
            used: AtomicU64::new(0),
            room: Mutex::default(),
        }
    }

    /// From here on `max` bytes. What is there already stays, whether it fits or not.
    pub fn set(&self, max: u64) {
        self.max.store(max, Ordering::Relaxed);
        self.free_min.store(FREE_BYTES_MIN.min(max / 16), Ordering::Relaxed);
    }

    /// So many bytes in all.
    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// Counts what is there already, whether it fits or not.
    pub fn add(&self, bytes: u64) {
        self.room().spend(bytes);
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    /// What was counted is free again.
    pub fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes.min(self.used()), Ordering::AcqRel);
    }

    /// Bytes counted.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Drained stores should go although a repeated event may still need them.
    pub fn is_pressed(&self) -> bool {
        self.used() > self.max() / KEEP_PART || self.free().is_some_and(|free| free < 2 * self.free_min())
    }

    /// Reserves `bytes`, or says what is full.
    pub fn reserve(&self, bytes: u64) -> Result<(), String> {
        let taken = self.room().take(bytes, self.free_min(), Instant::now(), || self.free());
        if let Err(free) = taken {
            return Err(format!(
                "the file system of {} has {free} bytes left, and {} are kept free; make room on it, or wait until \
                 the uplink has drained some",
                self.dir.display(),
                self.free_min()
            ));
        }
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.max());
        match self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(_) => Ok(()),
            Err(used) => Err(format!(
                "{used} of outbox.max_bytes = {} bytes are used; raise it, or wait until the uplink has drained some",
                self.max()
            )),
        }
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free_min(&self) -> u64 {
        self.free_min.load(Ordering::Relaxed)
    }

    /// Lets the disk itself refuse.
    #[cfg(test)]
    pub fn forget_watermark(&self) {
        self.free_min.store(0, Ordering::Relaxed);
    }

    /// `None`: the system does not say; then the disk itself will.
    fn free(&self) -> Option<u64> {
        files::free_bytes(&self.dir).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_never_exceeded() {
        let budget = Budget::new(std::env::temp_dir(), 100);
        assert!(budget.reserve(60).is_ok());
        assert!(budget.is_pressed());
        assert!(budget.reserve(41).unwrap_err().contains("60 of outbox.max_bytes = 100"));
        assert!(budget.reserve(40).is_ok());
        budget.release(1000);
        assert_eq!(budget.used(), 0);
    }
}
