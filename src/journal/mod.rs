//! A log of records on disk: appended by many, synced in groups, read once at the start, tidied by writing what is
//! still alive again at its end.
//!
//! For state that lives in memory and must outlive the process. After any crash the records that come back are those up
//! to some point, in order, and that point is at or after everything that [`Journal::durable`] answered.
//!
//! ```text
//! append ─► queue ─► thread ─┬─► NNNN.log   written at once, synced when somebody waits (frame)
//!                            └─► watch      written, durable, failing
//! ```
//! A failed write or sync is never tried again on the same segment. The journal then is *failing*: every waiter gets the
//! reason, appends are refused, and once the disk works again it asks for a tidying, in which everything alive is
//! appended to new segments. Only when all of that is on disk does it answer again, and only then do the old segments go.
//! A refused append (the queue or the disk's share is full) has the same consequence, for it leaves a hole in the log.
//!
//! Disk: a third of `total_bytes_max` for the log, one for what a tidying adds to it, one for a rewriting after a
//! failure of that. So it never exceeds the total, and never gets stuck as long as what is alive fits in a third. Where
//! the disk has less, its thirds are meant.

mod frame;
mod log;
mod meter;
mod restore;
mod segment;
mod shared;
#[cfg(test)]
mod tests;
pub mod time_line;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::watch;

pub use frame::RECORD_BYTES_MAX;
pub use meter::{Meter, Meters};
pub use shared::QUEUE_BYTES_MAX;

use crate::sys::files::{self, DirLock};
use crate::sys::tasks;
use log::Log;
use shared::Shared;
use writer::Writer;

/// How a journal is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `true`: [`Journal::durable`] means `fdatasync`. `false`: it means handed to the kernel; a power cut may cost the last
    /// seconds. (Only a tidying syncs then, before it removes what it supersedes.)
    pub durable: bool,
    /// A segment is full at this many bytes. From 64 KiB to 1 GiB.
    pub segment_bytes_max: u64,
    /// Bytes on disk, at most (damaged segments that were set aside come on top, two at most). What is alive must fit in a
    /// third of it.
    pub total_bytes_max: u64,
}

impl Default for Settings {
    /// 4 MiB segments, 96 MiB in all.
    fn default() -> Self {
        Self { durable: true, segment_bytes_max: 4 << 20, total_bytes_max: 96 << 20 }
    }
}

/// A point in the journal: after the last record of an append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

/// How far the journal is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Handed to the kernel: survives the end of the process.
    pub written: Position,
    /// On disk: survives a power cut.
    pub durable: Position,
    /// Why nothing is taken and answered at present.
    pub failing: Option<Arc<str>>,
    /// [`Journal::tidy`] would begin one.
    pub tidy_due: bool,
    /// Closed, and nothing will change any more.
    pub ended: bool,
}

/// Why records were not taken. What they say must not be answered to anybody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum AppendError {
    /// The log has a hole now: a rewriting follows.
    #[error("the journal is full: {reason}")]
    Full { reason: Arc<str> },
    /// The same. Of a rewriting: what is alive is too much; another one makes sense only once there is less of it.
    #[error(
        "the journal is full: it holds {used} bytes, at most {share} (a third of its total, or of what the disk has) may come between two tidyings"
    )]
    OverShare { used: u64, share: u64 },
    /// A rewriting follows as soon as the disk works again.
    #[error("the journal cannot be written: {reason}")]
    Failing { reason: Arc<str> },
    /// Nothing was appended, no hole is made: keep what is written under the limit.
    #[error("a record of {bytes} bytes: a record has 1 to {max}")]
    Length { bytes: usize, max: usize },
    /// Of [`Tidy`] only: the journal failed meanwhile; begin anew when [`Journal::tidy`] says so.
    #[error("this tidying was overtaken by a failure")]
    Superseded,
    #[error("the journal is closed")]
    Closed,
}

/// Why what was appended is not on disk. It may come to be: the records, or their effect in a rewriting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum JournalError {
    #[error("the journal cannot be written: {reason}")]
    Failing { reason: Arc<str> },
    #[error("the journal is closed")]
    Closed,
}

/// Why a journal cannot be opened. Damage in it is never a reason.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum OpenError {
    #[error("{dir}: {reason}; check that the directory exists and may be written")]
    Io { dir: PathBuf, reason: String },
    #[error("{dir} is in use by another process; end that one first")]
    InUse { dir: PathBuf },
    #[error(
        "{path} was written in version {version} of its format, which this Tidegate does not know; start the newer one, or move the directory away to begin without it"
    )]
    Version { path: PathBuf, version: u32 },
    #[error(
        "segments of {segment_bytes_max} bytes in {total_bytes_max}: a segment has 64 KiB to 1 GiB, and the total at least six of them"
    )]
    Settings { segment_bytes_max: u64, total_bytes_max: u64 },
}

/// A journal. Cheap to clone; all clones are the same one. When the last is dropped it is closed, without waiting for the disk.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Journal {
    /// Opens or makes the journal in `dir`, and hands every record in it to `each`, in order. Blocks on the disk.
    pub fn open(dir: &Path, settings: Settings, meter: Meter, each: impl FnMut(&[u8])) -> Result<Self, OpenError> {
        let Settings { segment_bytes_max, total_bytes_max, .. } = settings;
        if !(64 << 10..=1 << 30).contains(&segment_bytes_max) || total_bytes_max / 6 < segment_bytes_max {
            return Err(OpenError::Settings { segment_bytes_max, total_bytes_max });
        }
        let failed = |e: std::io::Error| OpenError::Io { dir: dir.to_owned(), reason: e.to_string() };
        files::create_dir_durable(dir).map_err(failed)?;
        let lock = DirLock::claim(dir).map_err(failed)?.ok_or_else(|| OpenError::InUse { dir: dir.to_owned() })?;
        let restored = restore::restore(dir, each)?;
        meter.damaged.inc_by(restored.damaged);
        let shared = Arc::new(Shared::new(settings.clone(), meter.clone()));
        let mut log = Log {
            dir: dir.to_owned(),
            settings,
            meter,
            kept: restored.kept,
            refuse: Vec::new(),
            aside: restored.aside,
            open: None,
            tail: restored.tail,
            carry: restored.carry,
            garbage: restored.garbage,
            next: restored.next,
            void_below: restored.void_below,
            tidy_from: None,
            rewrite: None,
            share: 0,
        };
        log.measure();
        let history = log.bytes() + log.carry.len() as u64;
        shared.lock().found(history, log.share, log.segments(), restored.damaged > 0);
        shared.tell_whether_due();
        let writer = Writer::new(shared.clone(), log, lock);
        let thread = tasks::thread("journal", move || writer.run()).map_err(failed)?;
        Ok(Self(Arc::new(Inner { shared, thread: Mutex::new(Some(thread)) })))
    }

    /// Takes records, to be written in this order and after all that was appended before: call it under the lock that
    /// guards the state they tell of. Never blocks on the disk. Except after [`AppendError::Length`] the journal then needs
    /// a tidying if it returns an error.
    pub fn append<R: AsRef<[u8]>>(&self, records: &[R]) -> Result<Position, AppendError> {
        self.0.shared.append(records, None)
    }

    /// Waits until everything up to `position` is on disk. May be dropped at any time.
    ///
    /// An error means "not now": after a failure the position becomes durable together with the rewriting that follows.
    pub async fn durable(&self, position: Position) -> Result<(), JournalError> {
        self.want(position);
        wait(self.0.shared.durable.subscribe(), |p| p.durable_verdict(position)).await
    }

    /// Waits until everything up to `position` has been handed to the kernel. May be dropped at any time.
    pub async fn written(&self, position: Position) -> Result<(), JournalError> {
        wait(self.0.shared.written.subscribe(), |p| p.written_verdict(position)).await
    }

    /// Asks for everything up to `position` to be put on disk soon, for those who look at [`Journal::progress`].
    pub fn want(&self, position: Position) {
        self.0.shared.want(position);
    }

    /// How far the journal is. Changes whenever more is durable, it begins or ends failing, or a tidying is due
    /// (`written` is up to date then, and not told on its own).
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.0.shared.durable.subscribe()
    }

    /// Everything up to here is on disk.
    pub fn durable_now(&self) -> Position {
        self.0.shared.durable.borrow().durable
    }

    /// Whether more is taken in comfort: whoever can wait (by not reading from its connection) should while not. What makes
    /// less of what is alive must not wait for it.
    pub fn has_room(&self) -> bool {
        !self.0.shared.lock().crowded(&self.0.shared.settings)
    }

    /// Waits until there is room, or the journal fails or ends. May be dropped at any time.
    pub async fn room(&self) {
        self.0.shared.wait_for_room(|| self.has_room()).await;
    }

    /// Why nothing is taken or answered at present, until everything alive is written anew.
    pub fn trouble(&self) -> Option<Arc<str>> {
        self.0.shared.lock().trouble()
    }

    /// See [`AppendError::OverShare`]; it changes with what others leave of the disk.
    pub fn share(&self) -> u64 {
        self.0.shared.lock().share
    }

    /// Waits until [`Journal::tidy`] would begin one. `false`: the journal ended. May be dropped at any time.
    pub async fn tidy_due(&self) -> bool {
        let due = |p: &Progress| (p.tidy_due || p.ended).then_some(p.tidy_due && !p.ended);
        wait(self.0.shared.durable.subscribe(), |p| due(p).map(Ok)).await.unwrap_or(false)
    }

    /// Begins a tidying if one is due: because the log holds much more than what is alive, because there is damage in it,
    /// or because everything alive must be written anew after a failure. `expected`: bytes of that, about; they are kept free.
    pub fn tidy(&self, expected: u64) -> Option<Tidy> {
        self.0.shared.begin(expected).map(|number| Tidy { shared: self.0.shared.clone(), number, finished: false })
    }

    /// Puts everything on disk and ends the thread. A disk that hangs holds it up: bound it. May be dropped at any time.
    pub async fn close(&self) {
        self.0.shared.close();
        let _ = wait(self.0.shared.durable.subscribe(), |p| p.ended.then_some(Ok(()))).await;
        // It has told its end as its last act.
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// A tidying under way: append everything that is alive, in pieces, each under the lock that guards the state; what changes
/// meanwhile is appended to the journal as always. Dropped unfinished, nothing is removed.
#[derive(Debug)]
pub struct Tidy {
    shared: Arc<Shared>,
    number: u64,
    finished: bool,
}

impl Tidy {
    /// As [`Journal::append`].
    pub fn append<R: AsRef<[u8]>>(&self, records: &[R]) -> Result<Position, AppendError> {
        self.shared.append(records, Some(self.number))
    }

    /// Waits until the queue has room for more of it, or the journal fails or ends. May be dropped at any time.
    pub async fn room(&self) {
        self.shared.wait_for_room(|| !self.shared.lock().half_full()).await;
    }

    /// Says that everything alive was appended. When the position is durable, the segments from before are gone.
    pub fn finish(mut self) -> Result<Position, AppendError> {
        self.finished = true;
        self.shared.finish(self.number)
    }
}

impl Drop for Tidy {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.abandon(self.number);
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

async fn wait<T>(
    mut progress: watch::Receiver<Progress>,
    verdict: impl Fn(&Progress) -> Option<Result<T, JournalError>>,
) -> Result<T, JournalError> {
    loop {
        if let Some(verdict) = verdict(&progress.borrow_and_update()) {
            return verdict;
        }
        if progress.changed().await.is_err() {
            return Err(JournalError::Closed);
        }
    }
}
