//! The journal's thread: takes what waits, writes it, syncs when somebody waits for that, and gets over a disk
//! that refuses.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Position;
use super::log::Log;
use super::shared::{Chunk, Phase, Shared, State};
use crate::sys::files::DirLock;
use crate::sys::tasks::panic_message;

/// What nobody waits for is on disk after this time.
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// First and longest wait before a disk that refused is tried again: the gateway comes back within 5 s of the disk.
const RETRY_MIN: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 100 });
const RETRY_MAX: Duration = Duration::from_secs(4);

/// Longest wait for the callers of the last group to come back.
const GATHER_MAX: Duration = Duration::from_micros(500);

/// The thread's own.
pub struct Writer {
    shared: Arc<Shared>,
    log: Log,
    /// Position of what was written last.
    written: u64,
    /// The same of what is durable.
    settled: u64,
    /// When what is unsynced must be synced, or what no frame vouches for be noted.
    due: Option<Instant>,
    /// How long to wait after the next failure.
    retry: Duration,
    /// How many callers may come back soon after the last group, and how long to wait for them.
    gather: Option<(usize, Duration)>,
    /// Nobody else uses the directory as long as the thread lives.
    _lock: DirLock,
}

/// However the thread ends, nobody waits for it.
struct Last(Arc<Shared>);

impl Drop for Last {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.drain();
        self.0.tell(|p| p.ended = true);
        drop(state);
        self.0.room.notify_waiters();
    }
}

/// What there is to do.
struct Turn {
    chunks: VecDeque<Chunk>,
    appends: usize,
    wanted: u64,
    closed: bool,
    phase: Phase,
}

impl Writer {
    /// To be run in a thread of its own.
    pub fn new(shared: Arc<Shared>, log: Log, lock: DirLock) -> Self {
        Self { shared, log, written: 0, settled: 0, due: None, retry: RETRY_MIN, gather: None, _lock: lock }
    }

    /// Runs until the journal is closed and all is written.
    pub fn run(mut self) {
        let last = Last(self.shared.clone());
        loop {
            let turn = self.next_turn();
            if self.shared.lock().killed {
                break;
            }
            let closed = turn.closed;
            // The thread is joined at the end only: one that died of a panic would leave a journal that takes and never answers.
            let done = catch_unwind(AssertUnwindSafe(|| self.turn(turn)));
            let done = done.unwrap_or_else(|panic| Err(io::Error::other(panic_message(panic.as_ref()))));
            if let Err(e) = done {
                self.fail(&e.to_string());
            }
            self.account();
            if closed {
                break;
            }
        }
        drop(self);
        drop(last);
    }

    fn turn(&mut self, turn: Turn) -> io::Result<()> {
        let start = Instant::now();
        match turn.phase {
            Phase::Failing(_, at) if at <= start && !turn.closed => return self.try_again(),
            Phase::Failing(..) | Phase::Ready(_) => return Ok(()),
            _ => {}
        }
        for chunk in turn.chunks {
            match chunk {
                Chunk::Records(mut frames, count) => {
                    self.log.write(&mut frames)?;
                    self.written += count;
                }
                Chunk::Begin => self.log.begin_tidying()?,
                Chunk::Finish => {
                    self.log.finish_tidying()?;
                    self.written += 1;
                    self.tidied();
                }
                Chunk::Abandon => self.log.tidy_from = None,
            }
        }
        self.tell_written();
        // Looked at again: who appended this has begun to wait meanwhile.
        let wanted = turn.wanted.max(self.shared.lock().wanted) > self.settled;
        let held = matches!(turn.phase, Phase::Holed(_));
        let overdue = self.due.is_some_and(|d| d <= Instant::now());
        if self.log.unsynced() && (wanted || overdue || turn.closed || held) {
            self.log.sync()?;
            self.due = None;
        } else if self.log.wants_note() && (overdue || turn.closed) {
            self.log.note()?;
            self.due = None;
        }
        if turn.closed && self.log.wants_note() {
            self.log.note()?;
        }
        self.tell_durable();
        if let Phase::Holed(reason) = turn.phase {
            return Err(io::Error::other(reason.to_string()));
        }
        self.gather = (turn.appends > 1).then(|| (turn.appends, (start.elapsed() / 4).min(GATHER_MAX)));
        if self.due.is_none() && (self.log.unsynced() || self.log.wants_note()) {
            self.due = Some(Instant::now() + SYNC_AFTER);
        }
        Ok(())
    }

    fn tell_written(&self) {
        if self.log.rewrite.is_none() {
            let written = Position(self.written);
            self.shared.tell(|p| p.written = written);
        }
    }

    fn tell_durable(&mut self) {
        if self.log.rewrite.is_none() && !self.log.unsynced() {
            self.settled = self.written;
            let durable = Position(self.settled);
            self.shared.tell(|p| p.durable = durable);
        }
    }

    fn tidied(&mut self) {
        self.retry = RETRY_MIN;
        let bytes = self.log.bytes();
        self.shared.lock().tidied(bytes);
        self.shared.meter.failing.set(0);
        self.shared.room.notify_waiters();
        tracing::debug!(dir = %self.log.dir.display(), bytes, "the journal is tidied");
    }

    fn fail(&mut self, reason: &str) {
        self.log.fail();
        self.shared.meter.errors.inc();
        self.shared.meter.failing.set(1);
        let wait = self.retry;
        self.retry = (wait * 2).min(RETRY_MAX);
        self.due = None;
        let dir = self.log.dir.display().to_string();
        tracing::error!(
            dir,
            reason,
            "the journal cannot be written; nothing is answered until everything alive is written anew"
        );
        let reason: Arc<str> = reason.into();
        let mut state = self.shared.lock();
        // Whatever was appended and is not durable is covered by the rewriting, which is appended after it.
        self.written = state.appended;
        state.failed(reason.clone(), Instant::now() + wait, self.log.bytes());
        self.shared.tell(|p| p.failing = Some(reason.clone()));
        drop(state);
        self.shared.room.notify_waiters();
    }

    fn try_again(&mut self) -> io::Result<()> {
        self.log.begin_rewriting()?;
        let mut state = self.shared.lock();
        if let Phase::Failing(reason, _) = &state.phase {
            state.phase = Phase::Ready(reason.clone());
        }
        Ok(())
    }

    fn account(&self) {
        let bytes = self.log.bytes();
        self.shared.meter.disk_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        let mut state = self.shared.lock();
        (state.segments, state.share) = (self.log.segments(), self.log.share);
        drop(state);
        self.shared.tell_whether_due();
    }

    /// Waits for something to do.
    fn next_turn(&mut self) -> Turn {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        loop {
            let now = Instant::now();
            #[cfg(test)]
            {
                state.looks += 1;
            }
            let busy = self.something_to_do(&state, now);
            if busy && let Some((appends, at_most)) = self.gather.take() {
                if state.appends < appends && !state.closed && state.phase == Phase::Sound {
                    state = Self::sleep(&shared, state, appends, Some(at_most));
                }
                continue;
            }
            if busy {
                let (wanted, closed, phase, appends) = (state.wanted, state.closed, state.phase.clone(), state.appends);
                let (chunks, had_no_room) = state.drain();
                drop(state);
                if had_no_room {
                    shared.room.notify_waiters();
                }
                return Turn { chunks, appends, wanted, closed, phase };
            }
            let until = match &state.phase {
                Phase::Failing(_, at) => Some(*at),
                Phase::Sound => self.due,
                // Somebody else's turn, with no time of its own: a `due` that has passed would keep the thread awake.
                Phase::Ready(_) | Phase::Rewriting | Phase::Holed(_) => None,
            };
            let at_most = until.map(|u| u.saturating_duration_since(now));
            state = Self::sleep(&shared, state, 1, at_most);
        }
    }

    fn something_to_do(&self, state: &State, now: Instant) -> bool {
        state.closed
            || match &state.phase {
                Phase::Failing(_, at) => *at <= now,
                Phase::Ready(_) => false,
                Phase::Holed(_) => true,
                Phase::Rewriting => !state.chunks.is_empty(),
                Phase::Sound => {
                    let wanted = state.wanted > self.settled;
                    !state.chunks.is_empty() || wanted || self.due.is_some_and(|d| d <= now)
                }
            }
    }

    fn sleep<'a>(
        shared: &'a Shared,
        mut state: MutexGuard<'a, State>,
        appends: usize,
        at_most: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        state.sleeping_for = appends;
        let asleep = |s: &mut State| s.sleeping_for > 0;
        let mut state = match at_most {
            Some(at_most) => {
                shared.changed.wait_timeout_while(state, at_most, asleep).unwrap_or_else(PoisonError::into_inner).0
            }
            None => shared.changed.wait_while(state, asleep).unwrap_or_else(PoisonError::into_inner),
        };
        state.sleeping_for = 0;
        state
    }
}
