//! What the callers and the journal's thread share: the queue between them, how far the disk is, and in which phase
//! the journal is.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::frame::{self, FRAME_LEN, RECORD_BYTES_MAX};
use super::meter::Meter;
use super::{AppendError, JournalError, Position, Progress, Settings};

/// Bytes that wait for the thread: more than a slow disk takes in a second. One append alone may be larger.
pub const QUEUE_BYTES_MAX: usize = 8 << 20;

/// Appends join the chunk before them up to this size, so that a chunk is one write.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Who waits for room looks this often at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Segments that are not full from which on tidying is due: each start makes one, and a start reads all of them.
const SEGMENTS_MAX: usize = 64;

/// What the thread takes, in order.
#[derive(Debug)]
pub enum Chunk {
    /// Frames not sealed yet, and how many.
    Records(Vec<u8>, u64),
    /// A tidying begins.
    Begin,
    /// It is finished.
    Finish,
    /// It is given up.
    Abandon,
}

/// Whether appends can be taken, and what must happen before they can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All is well.
    Sound,
    /// Something was not taken: what was taken before is still written, then the journal fails.
    Holed(Arc<str>),
    /// What is on disk is behind the caller's state; the disk is tried at the time.
    Failing(Arc<str>, Instant),
    /// The disk works again and a segment is there for everything alive.
    Ready(Arc<str>),
    /// It is being written.
    Rewriting,
}

/// The part under the lock.
#[derive(Debug)]
pub struct State {
    /// What waits.
    pub chunks: VecDeque<Chunk>,
    queued_bytes: usize,
    /// Position of the last append.
    pub appended: u64,
    /// Somebody waits for this position to be durable.
    pub wanted: u64,
    /// Appends since the last group was taken.
    pub appends: usize,
    /// No more is taken.
    pub closed: bool,
    /// See there.
    pub phase: Phase,
    /// Which tidying is under way; numbers are not used twice.
    tidying: Option<u64>,
    tidyings: u64,
    /// Bytes on disk and queued of what a tidying will supersede.
    history: u64,
    /// The same of what came after it began.
    fresh: u64,
    /// Of these, what was alive.
    pieces: u64,
    /// What was alive at the last tidying; 0: not known.
    alive: u64,
    /// What the tidying under way will write in all, as far as its caller knows.
    expected: u64,
    /// Bytes of history, and of what a tidying adds to it, at most.
    pub share: u64,
    /// Segments on disk.
    pub segments: usize,
    /// Something on disk is damaged.
    pub damaged: bool,
    /// The thread sleeps until this many appends wait; 0: it does not sleep.
    pub sleeping_for: usize,
    /// How often the thread looked for something to do.
    #[cfg(test)]
    pub looks: u64,
    /// Tests end the thread as kill -9 would.
    pub killed: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Shared {
    pub(super) settings: Settings,
    pub(super) meter: Meter,
    state: Mutex<State>,
    /// Wakes the thread.
    pub changed: Condvar,
    /// Told when the queue has room again.
    pub room: Notify,
    /// Changes with `durable`, `failing`, `ended`, `tidy_due`.
    pub durable: watch::Sender<Progress>,
    /// Changes with `written`, `failing`, `ended`.
    pub written: watch::Sender<Progress>,
}

impl Shared {
    pub(super) fn new(settings: Settings, meter: Meter) -> Self {
        Self {
            settings,
            meter,
            state: Mutex::new(State {
                chunks: VecDeque::new(),
                queued_bytes: 0,
                appended: 0,
                wanted: 0,
                appends: 0,
                closed: false,
                phase: Phase::Sound,
                tidying: None,
                tidyings: 0,
                history: 0,
                fresh: 0,
                pieces: 0,
                alive: 0,
                expected: 0,
                share: 0,
                segments: 0,
                damaged: false,
                sleeping_for: 0,
                #[cfg(test)]
                looks: 0,
                killed: false,
            }),
            changed: Condvar::new(),
            room: Notify::new(),
            durable: watch::channel(Progress::default()).0,
            written: watch::channel(Progress::default()).0,
        }
    }

    /// The state. A panic elsewhere leaves it usable: every change is complete in one step.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes records; `piece` names the tidying that they belong to.
    pub fn append<R: AsRef<[u8]>>(&self, records: &[R], piece: Option<u64>) -> Result<Position, AppendError> {
        let mut bytes = 0;
        for record in records {
            let len = record.as_ref().len();
            if len == 0 || len > RECORD_BYTES_MAX {
                return Err(AppendError::Length { bytes: len, max: RECORD_BYTES_MAX });
            }
            bytes += FRAME_LEN + len;
        }
        let mut frames = Vec::with_capacity(bytes);
        records.iter().for_each(|r| frame::push(&mut frames, r.as_ref()));

        let mut state = self.lock();
        state.may_append(piece)?;
        if frames.is_empty() {
            return Ok(Position(state.appended));
        }
        if let Some(refused) = state.no_room(bytes) {
            self.meter.errors.inc();
            // A hole in the log: only writing everything alive again closes it.
            state.phase = Phase::Holed(refused.to_string().into());
            self.wake(state);
            return Err(refused);
        }
        let position = state.take(frames, records.len() as u64, piece);
        state.appends += 1;
        if state.sleeping_for > 0 && state.appends >= state.sleeping_for {
            self.wake(state);
        }
        Ok(position)
    }

    /// Somebody waits for `position`.
    pub fn want(&self, position: Position) {
        if self.durable.borrow().durable >= position {
            return;
        }
        let mut state = self.lock();
        if position.0 > state.wanted {
            state.wanted = position.0.min(state.appended);
            if state.sleeping_for == 1 {
                self.wake(state);
            }
        }
    }

    /// Begins a tidying of about `expected` bytes if one is due or needed. Its number.
    pub fn begin(&self, expected: u64) -> Option<u64> {
        let mut state = self.lock();
        match state.phase {
            _ if state.closed => return None,
            Phase::Sound if state.tidying.is_none() && state.tidy_due(&self.settings) => {
                state.chunks.push_back(Chunk::Begin);
            }
            Phase::Ready(_) => state.phase = Phase::Rewriting,
            _ => return None,
        }
        state.tidyings += 1;
        let number = state.tidyings;
        (state.tidying, state.fresh, state.pieces, state.expected) = (Some(number), 0, 0, expected);
        self.tell(|p| (p.failing, p.tidy_due) = (None, false)); // under the lock, or it might undo what the thread tells
        self.wake(state);
        Some(number)
    }

    /// Everything alive is appended.
    pub fn finish(&self, number: u64) -> Result<Position, AppendError> {
        let mut state = self.lock();
        state.may_append(Some(number))?;
        state.chunks.push_back(Chunk::Finish);
        state.appended += 1;
        // Whoever tidies waits for the end of it; and it should not stay unsynced.
        state.wanted = state.appended;
        let position = Position(state.appended);
        self.wake(state);
        Ok(position)
    }

    /// Not everything alive was appended, and it will not be.
    pub fn abandon(&self, number: u64) {
        let mut state = self.lock();
        if state.tidying != Some(number) {
            return;
        }
        if state.phase == Phase::Rewriting {
            state.phase = Phase::Holed("the rewriting was given up".into());
        } else {
            (state.tidying, state.history, state.fresh) = (None, state.history + state.fresh, 0);
            state.chunks.push_back(Chunk::Abandon);
        }
        self.wake(state);
    }

    /// No more is taken; what waits is still written.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.wake(state);
    }

    /// Changes what is known of the progress, and tells whom it concerns.
    pub fn tell(&self, change: impl Fn(&mut Progress)) {
        let apply = |p: &mut Progress, differs: fn(&Progress, &Progress) -> bool| {
            let before = p.clone();
            change(p);
            differs(&before, p)
        };
        self.written.send_if_modified(|p| {
            apply(p, |a, b| (a.written, &a.failing, a.ended) != (b.written, &b.failing, b.ended))
        });
        self.durable.send_if_modified(|p| {
            apply(p, |a, b| {
                (a.durable, &a.failing, a.ended, a.tidy_due) != (b.durable, &b.failing, b.ended, b.tidy_due)
            })
        });
    }

    /// Says whether [`Shared::begin`] would begin something.
    pub fn tell_whether_due(&self) {
        let state = self.lock();
        let due = match state.phase {
            Phase::Sound => state.tidying.is_none() && state.tidy_due(&self.settings),
            Phase::Ready(_) => true,
            _ => false,
        };
        if self.durable.borrow().tidy_due != due {
            self.tell(|p| p.tidy_due = due);
        }
    }

    /// Waits until `there_is`.
    pub async fn wait_for_room(&self, there_is: impl Fn() -> bool) {
        loop {
            let told = self.room.notified();
            if there_is() {
                return;
            }
            // What others leave of the disk changes without a word.
            let _ = tokio::time::timeout(LOOK_EVERY, told).await;
        }
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        state.sleeping_for = 0;
        drop(state);
        self.changed.notify_one();
    }
}

impl State {
    fn may_append(&self, piece: Option<u64>) -> Result<(), AppendError> {
        if self.closed {
            return Err(AppendError::Closed);
        }
        match &self.phase {
            Phase::Sound | Phase::Rewriting => {}
            Phase::Holed(reason) | Phase::Failing(reason, _) | Phase::Ready(reason) => {
                return Err(AppendError::Failing { reason: reason.clone() });
            }
        }
        match piece {
            Some(number) if self.tidying != Some(number) => Err(AppendError::Superseded),
            _ => Ok(()),
        }
    }

    /// Why `bytes` more cannot be taken.
    fn no_room(&self, bytes: usize) -> Option<AppendError> {
        if !self.chunks.is_empty() && self.queued_bytes + bytes > QUEUE_BYTES_MAX {
            let reason = format!("{} bytes wait for the disk, at most {QUEUE_BYTES_MAX} may", self.queued_bytes);
            return Some(AppendError::Full { reason: reason.into() });
        }
        let (used, share) = (self.used(), self.share);
        (used + bytes as u64 > share).then_some(AppendError::OverShare { used, share })
    }

    /// Bytes of the share that are taken.
    fn used(&self) -> u64 {
        if self.tidying.is_some() { self.fresh } else { self.history }
    }

    /// Whether whoever can wait should: half of the queue is taken, or half of the share beyond the point where a tidying is
    /// due. The rest is for what cannot wait, and for the tidying, whose bytes count as taken from its beginning: else others
    /// would leave it too little, and all of it would be for nothing. A journal that takes nothing lets nobody wait.
    pub fn crowded(&self, settings: &Settings) -> bool {
        if self.closed || !matches!(self.phase, Phase::Sound | Phase::Rewriting) {
            return false;
        }
        let to_come = if self.tidying.is_some() { self.expected.saturating_sub(self.pieces) } else { 0 };
        let due = self.tidy_at(settings);
        self.half_full() || self.used() + to_come > due + (self.share - due) / 2
    }

    /// Why nothing is answered at present.
    pub fn trouble(&self) -> Option<Arc<str>> {
        match &self.phase {
            Phase::Sound => None,
            Phase::Holed(reason) | Phase::Failing(reason, _) | Phase::Ready(reason) => Some(reason.clone()),
            Phase::Rewriting => Some("everything alive is being written anew".into()),
        }
    }

    /// Queues frames that were let in.
    pub fn take(&mut self, frames: Vec<u8>, count: u64, piece: Option<u64>) -> Position {
        let bytes = frames.len();
        self.queued_bytes += bytes;
        self.appended += count;
        match self.tidying {
            Some(_) => self.fresh += bytes as u64,
            None => self.history += bytes as u64,
        }
        if piece.is_some() {
            self.pieces += bytes as u64;
        }
        match self.chunks.back_mut() {
            Some(Chunk::Records(last, n)) if last.len() + bytes <= CHUNK_BYTES_MAX => {
                last.extend_from_slice(&frames);
                *n += count;
            }
            _ => self.chunks.push_back(Chunk::Records(frames, count)),
        }
        Position(self.appended)
    }

    /// What waits; `true`: somebody may wait for room.
    pub fn drain(&mut self) -> (VecDeque<Chunk>, bool) {
        let was_half_full = self.half_full();
        self.queued_bytes = 0;
        self.appends = 0;
        (std::mem::take(&mut self.chunks), was_half_full)
    }

    /// Whether half of the queue is taken.
    pub fn half_full(&self) -> bool {
        self.queued_bytes > QUEUE_BYTES_MAX / 2
    }

    /// The log holds much more than what is alive.
    fn tidy_due(&self, settings: &Settings) -> bool {
        let full = usize::try_from(self.history / settings.segment_bytes_max).unwrap_or(usize::MAX);
        let small = self.segments.saturating_sub(2 * full);
        self.damaged || self.history >= self.tidy_at(settings) || small > SEGMENTS_MAX
    }

    /// Bytes of history from which on a tidying is due.
    fn tidy_at(&self, settings: &Settings) -> u64 {
        let share = self.share;
        let ample = settings.segment_bytes_max.max(self.alive * 3).min(share / 2);
        // Where most of the log is alive, tidying it again soon would gain little.
        let worth = (self.alive + self.alive / 4).min((self.alive + share) / 2);
        ample.max(worth).min(share)
    }

    /// The tidying is on disk; `history`: bytes on disk now.
    pub fn tidied(&mut self, history: u64) {
        let queued: u64 = self.queued_bytes as u64;
        (self.alive, self.history, self.fresh) = (self.pieces, history + queued, 0);
        (self.tidying, self.damaged) = (None, false);
        if self.phase == Phase::Rewriting {
            self.phase = Phase::Sound;
        }
    }

    /// Nothing more can be put on disk for now; `history`: bytes on disk.
    pub fn failed(&mut self, reason: Arc<str>, retry_at: Instant, history: u64) {
        self.drain();
        (self.history, self.fresh, self.tidying) = (history, 0, None);
        self.phase = Phase::Failing(reason, retry_at);
    }

    /// What was found at the start.
    pub fn found(&mut self, history: u64, share: u64, segments: usize, damaged: bool) {
        (self.history, self.share, self.segments, self.damaged) = (history, share, segments, damaged);
    }
}

impl Progress {
    pub(super) fn durable_verdict(&self, position: Position) -> Option<Result<(), JournalError>> {
        self.verdict(self.durable >= position)
    }

    pub(super) fn written_verdict(&self, position: Position) -> Option<Result<(), JournalError>> {
        self.verdict(self.written >= position)
    }

    fn verdict(&self, reached: bool) -> Option<Result<(), JournalError>> {
        match &self.failing {
            _ if reached => Some(Ok(())),
            Some(reason) => Some(Err(JournalError::Failing { reason: reason.clone() })),
            None if self.ended => Some(Err(JournalError::Closed)),
            None => None,
        }
    }
}
