//! The barrier that makes sled's `flush` mean "on disk". The only file with `unsafe` code.
//!
//! sled 0.34.7 ends every write with `sync_file_range`, which moves dirty pages but neither the file's
//! metadata nor the drive's own cache: after a power cut what it "flushed" may be gone. sled calls it as a
//! C symbol, so this binary defines that symbol and calls `fdatasync` instead. The linker prefers the
//! definition in the executable over libc's, with glibc and with static musl alike; nobody else in the
//! process calls it. Whether sled really ends up here is proved at run time ([`calls`] must grow during a
//! sled flush), never assumed: see `outbox::segment::prove_barrier`.
//!
//! How strict the barrier is belongs to the process, for the symbol has no other argument than a file:
//! it syncs unless every user of it said that it need not.
#![allow(unsafe_code)] // defines and calls C symbols; see above for why it must

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

static CALLS: AtomicU64 = AtomicU64::new(0);
static FAILURES: AtomicU64 = AtomicU64::new(0);
static NANOS: AtomicU64 = AtomicU64::new(0);
static STRICT: AtomicUsize = AtomicUsize::new(0);
static LAX: AtomicUsize = AtomicUsize::new(0);

/// sled's idea of a sync, made a real one. Returns −1 with `errno` set if the disk refuses, which sled
/// hands on as the error of `flush`.
// SAFETY: the name and the types are those of libc's own definition, which this one replaces for the whole
// executable; it calls nothing but async-signal-safe functions and touches nothing but atomics.
#[unsafe(no_mangle)]
pub extern "C" fn sync_file_range(
    fd: libc::c_int,
    _offset: libc::off64_t,
    _nbytes: libc::off64_t,
    _flags: libc::c_uint,
) -> libc::c_int {
    CALLS.fetch_add(1, Ordering::Relaxed);
    if STRICT.load(Ordering::Acquire) == 0 && LAX.load(Ordering::Acquire) > 0 {
        return 0;
    }
    let start = Instant::now();
    // SAFETY: fdatasync takes any number; an fd that is not open gives EBADF.
    let answer = unsafe { libc::fdatasync(fd) };
    NANOS.fetch_add(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    if answer != 0 {
        FAILURES.fetch_add(1, Ordering::Relaxed);
    }
    answer
}

/// What the barrier has seen since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Syncs asked for.
    pub calls: u64,
    /// Of these, how many the disk refused.
    pub failures: u64,
    /// Time spent in `fdatasync`, in nanoseconds.
    pub nanos: u64,
}

/// What the barrier has seen since the process started.
pub fn counts() -> Counts {
    Counts {
        calls: CALLS.load(Ordering::Relaxed),
        failures: FAILURES.load(Ordering::Relaxed),
        nanos: NANOS.load(Ordering::Relaxed),
    }
}

/// A user's say in how strict the barrier is; ends when dropped.
#[derive(Debug)]
pub struct Say(&'static AtomicUsize);

impl Say {
    /// "What I flush must be on disk": as long as one of these lives, every flush in the process syncs.
    pub fn strict() -> Self {
        Self::new(&STRICT)
    }

    /// "I need no sync": taken at its word only while nobody is strict.
    pub fn lax() -> Self {
        Self::new(&LAX)
    }

    fn new(counter: &'static AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::AcqRel);
        Self(counter)
    }
}

impl Drop for Say {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_refused_sync_is_an_error_with_its_errno() {
        let _strict = Say::strict();
        // A pipe cannot be synced (fdatasync(2): EINVAL).
        let (reader, _writer) = std::io::pipe().unwrap();
        let before = counts();
        assert_eq!(sync_file_range(reader.as_raw_fd(), 0, 0, 0), -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EINVAL));
        assert!(counts().failures > before.failures);
    }

    #[test]
    fn one_strict_user_makes_the_barrier_strict_for_all() {
        let _lax = Say::lax();
        let strict = Say::strict();
        let (reader, _writer) = std::io::pipe().unwrap();
        assert_eq!(sync_file_range(reader.as_raw_fd(), 0, 0, 0), -1);
        drop(strict);
    }
}
