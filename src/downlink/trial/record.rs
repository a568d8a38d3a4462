//! What of a trial survives the process, and its bytes. [pure]
//!
//! ```text
//! file       "TGTR" · version u8 · committed · settled number · candidate u8 [candidate] · reports · [away] · crc32 u32 (all before)
//! number     n u64; from version 2 on epoch u64 before it
//! config     number · place u8 (0 local, 1 slot A, 2 slot B) · digest [32] when in a slot
//! candidate  config · stage u8 · starts u8 · attempts u8 · turns u8 · grounded u8 · used_ms u64 · failure u8 [failure]
//! failure    reason u8 · detail (length u16 · UTF-8)
//! reports    next seq u64 · dropped u64 · count u8 · { report } · last u8 [report]
//! report     seq u64 · number · outcome u8 · failure u8 [failure]
//! away       from version 3 on: previous u8 [config] · away_ms u64 · looks u8
//! ```
//! All integers are little-endian. At most [`RECORD_BYTES_MAX`]. The oldest version that can hold it is
//! written, so that a program before this one can still take over.

use std::collections::VecDeque;
use std::fmt;

use crate::downlink::number::Number;

/// SHA-256 of a document.
pub type Digest = [u8; 32];

/// The newest version; a reader refuses later ones.
pub const VERSION: u8 = 3;

/// Without what a lost link leaves behind.
const VERSION_2: u8 = 2;

/// Without epochs.
const VERSION_1: u8 = 1;

/// Largest record: sixteen reports with their details, and the rest.
pub const RECORD_BYTES_MAX: usize = 8 * 1024;

/// Most reports that wait. One more drops the oldest that is a success, or else the oldest: configuration must go on when
/// reports cannot leave.
pub const REPORTS_MAX: usize = 16;

/// Longest detail of a failure, in bytes.
pub const DETAIL_BYTES_MAX: usize = 256;

const MAGIC: [u8; 4] = *b"TGTR";

/// One of two places for a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// Where a configuration comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The local file alone.
    Local,
    /// The local file with a document over it.
    Slot {
        /// Where it lies.
        slot: Slot,
        /// Which it must be.
        digest: Digest,
    },
}

impl Place {
    /// The document's; `None`: there is none.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Local => None,
            Self::Slot { digest, .. } => Some(*digest),
        }
    }
}

/// A configuration and the assignment that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The assignment's; 0: none did, this is the local file of the beginning.
    pub number: Number,
    /// Where it comes from.
    pub place: Place,
}

/// Where a candidate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It runs, or is about to.
    OnTrial,
    /// The committed one runs; it will be tried again.
    Waiting,
}

/// A configuration that has not proved itself yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub config: Config,
    /// Where it stands.
    pub stage: Stage,
    /// Starts of the process that were to load it; never reset.
    pub starts: u8,
    /// Trials that began with a connection.
    pub attempts: u8,
    /// Trials that began without one.
    pub turns: u8,
    /// This trial began with a connection, and the process has not ended since.
    pub grounded: bool,
    /// Time this trial has used.
    pub used_ms: u64,
    /// Why the last trial ended.
    pub failure: Option<Failure>,
}

/// Why a configuration does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Pulsar was not reached in time.
    NotConnected,
    /// Pulsar was reached, and acknowledged no probe in time.
    NotAcknowledged,
    /// The health command did not succeed in time.
    Unhealthy,
    /// It could not be applied.
    NotApplied,
    /// The process was started too often while it was on trial.
    TooManyStarts,
    /// Its slot does not hold it any more.
    SlotDamaged,
    /// It could not be stored.
    NotStored,
    /// It is not valid here.
    Invalid,
    /// The link was down in too many trials to tell.
    LinkUnsteady,
    /// The record of what is committed was damaged or lost.
    RecordDamaged,
    /// It was committed, and has not reached Pulsar for long.
    LinkLost,
}

impl Reason {
    /// All, in the order of their numbers on disk.
    pub const ALL: [Self; 11] = [
        Self::NotConnected,
        Self::NotAcknowledged,
        Self::Unhealthy,
        Self::NotApplied,
        Self::TooManyStarts,
        Self::SlotDamaged,
        Self::NotStored,
        Self::Invalid,
        Self::LinkUnsteady,
        Self::RecordDamaged,
        Self::LinkLost,
    ];

    /// For operators and machines.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotConnected => "not-connected",
            Self::NotAcknowledged => "not-acknowledged",
            Self::Unhealthy => "unhealthy",
            Self::NotApplied => "not-applied",
            Self::TooManyStarts => "too-many-starts",
            Self::SlotDamaged => "slot-damaged",
            Self::NotStored => "not-stored",
            Self::Invalid => "invalid",
            Self::LinkUnsteady => "link-unsteady",
            Self::RecordDamaged => "record-damaged",
            Self::LinkLost => "link-lost",
        }
    }
}

/// A reason and what is known beyond it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// In words; at most [`DETAIL_BYTES_MAX`] bytes.
    pub detail: String,
}

impl Failure {
    /// Cuts `detail` to its limit, between characters.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        detail.truncate(cut(&detail, DETAIL_BYTES_MAX).len());
        Self { reason, detail }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.code(), self.detail)
    }
}

/// The beginning of `text`, at most `most` bytes, whole characters.
fn cut(text: &str, most: usize) -> &str {
    (0..=most.min(text.len())).rev().find_map(|at| text.get(..at)).unwrap_or_default()
}

/// What became of an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It proved itself and stays.
    Committed,
    /// It was tried and taken back.
    Reverted,
    /// It was not tried.
    Refused,
    /// A newer one came before it was decided.
    Superseded,
    /// What was committed cannot be had; the local file runs.
    Fallback,
}

impl Outcome {
    /// All, in the order of their numbers on disk.
    pub const ALL: [Self; 5] = [Self::Committed, Self::Reverted, Self::Refused, Self::Superseded, Self::Fallback];
}

/// What the node tells the cloud about an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Grows with every report of this record.
    pub seq: u64,
    /// The assignment's.
    pub number: Number,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, unless it is committed.
    pub failure: Option<Failure>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What runs unless a candidate is on trial.
    pub committed: Config,
    /// Highest number that was decided or is on trial; only a higher one is taken.
    pub settled: Number,
    /// What may be committed next.
    pub candidate: Option<Candidate>,
    /// Of the next report.
    pub next_report: u64,
    /// Reports given up because too many waited.
    pub reports_dropped: u64,
    /// Reports that wait for their acknowledgement, the oldest first.
    pub reports: VecDeque<Report>,
    /// What was committed before, if it can still be had.
    pub previous: Option<Config>,
    /// Time that the committed one has been without a link, since it had one or since other settings were looked at.
    pub away_ms: u64,
    /// How often other settings were looked at in vain.
    pub looks: u8,
    /// What was decided last: told again when the cloud asks by assigning the same number again.
    pub last: Option<Report>,
}

impl Default for Record {
    /// A gateway that has only its local file.
    fn default() -> Self {
        Self {
            committed: Config { number: Number::default(), place: Place::Local },
            settled: Number::default(),
            candidate: None,
            next_report: 1,
            reports_dropped: 0,
            reports: VecDeque::new(),
            previous: None,
            away_ms: 0,
            looks: 0,
            last: None,
        }
    }
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a version of Tidegate that this one cannot read.
    #[error("the record of the trial has version {0}, this Tidegate reads versions 1 to {VERSION}")]
    Version(u8),
    /// Altered, cut, or not a record.
    #[error("the record of the trial is damaged")]
    Damaged,
}

impl Record {
    /// Adds a report.
    pub fn report(&mut self, number: Number, outcome: Outcome, failure: Option<Failure>) {
        if self.reports.len() >= REPORTS_MAX {
            let success = self.reports.iter().position(|r| r.outcome == Outcome::Committed);
            self.reports.remove(success.unwrap_or(0));
            self.reports_dropped = self.reports_dropped.saturating_add(1);
        }
        let report = Report { seq: self.next_report, number, outcome, failure };
        self.last = Some(report.clone());
        self.reports.push_back(report);
        self.next_report = self.next_report.saturating_add(1);
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let version = match (self.has_away(), self.has_epochs()) {
            (true, _) => VERSION,
            (false, true) => VERSION_2,
            (false, false) => VERSION_1,
        };
        let mut out = Writer(MAGIC.to_vec(), version);
        out.u8(version);
        out.config(&self.committed);
        out.number(self.settled);
        out.u8(u8::from(self.candidate.is_some()));
        if let Some(c) = &self.candidate {
            out.config(&c.config);
            out.u8(u8::from(c.stage == Stage::Waiting));
            [c.starts, c.attempts, c.turns, u8::from(c.grounded)].into_iter().for_each(|n| out.u8(n));
            out.u64(c.used_ms);
            out.failure(c.failure.as_ref());
        }
        out.u64(self.next_report);
        out.u64(self.reports_dropped);
        out.u8(u8::try_from(self.reports.len()).unwrap_or(u8::MAX));
        self.reports.iter().for_each(|r| out.report(r));
        out.u8(u8::from(self.last.is_some()));
        self.last.iter().for_each(|r| out.report(r));
        if version > VERSION_2 {
            out.u8(u8::from(self.previous.is_some()));
            self.previous.iter().for_each(|config| out.config(config));
            out.u64(self.away_ms);
            out.u8(self.looks);
        }
        let crc = crc32fast::hash(&out.0);
        out.0.extend_from_slice(&crc.to_le_bytes());
        out.0
    }

    /// Whether anything in it has an epoch but 0.
    fn has_epochs(&self) -> bool {
        let candidate = self.candidate.iter().map(|c| c.config.number);
        let reports = self.reports.iter().chain(&self.last).map(|r| r.number);
        [self.committed.number, self.settled].into_iter().chain(candidate).chain(reports).any(|n| n.epoch != 0)
    }

    fn has_away(&self) -> bool {
        self.previous.is_some() || self.away_ms > 0 || self.looks > 0
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(RecordError::Damaged)?;
        let version = body.strip_prefix(&MAGIC).and_then(|b| b.first()).ok_or(RecordError::Damaged)?;
        if bytes.len() > RECORD_BYTES_MAX || crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(RecordError::Damaged);
        }
        if !(VERSION_1..=VERSION).contains(version) {
            return Err(RecordError::Version(*version));
        }
        let mut from = Reader(body.get(MAGIC.len() + 1..).unwrap_or_default(), *version);
        from.record().filter(|_| from.0.is_empty()).ok_or(RecordError::Damaged)
    }
}

fn index<T: PartialEq>(all: &[T], one: &T) -> u8 {
    all.iter().position(|o| o == one).and_then(|i| u8::try_from(i).ok()).unwrap_or(u8::MAX)
}

/// The bytes so far, and the version.
struct Writer(Vec<u8>, u8);

impl Writer {
    fn u8(&mut self, n: u8) {
        self.0.push(n);
    }

    fn u64(&mut self, n: u64) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    fn number(&mut self, number: Number) {
        if self.1 > VERSION_1 {
            self.u64(number.epoch);
        }
        self.u64(number.n);
    }

    fn config(&mut self, config: &Config) {
        self.number(config.number);
        match config.place {
            Place::Local => self.u8(0),
            Place::Slot { slot, digest } => {
                self.u8(1 + index(&Slot::ALL, &slot));
                self.0.extend_from_slice(&digest);
            }
        }
    }

    fn report(&mut self, report: &Report) {
        self.u64(report.seq);
        self.number(report.number);
        self.u8(index(&Outcome::ALL, &report.outcome));
        self.failure(report.failure.as_ref());
    }

    fn failure(&mut self, failure: Option<&Failure>) {
        self.u8(u8::from(failure.is_some()));
        if let Some(failure) = failure {
            self.u8(index(&Reason::ALL, &failure.reason));
            let detail = cut(&failure.detail, DETAIL_BYTES_MAX);
            self.0.extend_from_slice(&u16::try_from(detail.len()).unwrap_or(0).to_le_bytes());
            self.0.extend_from_slice(detail.as_bytes());
        }
    }
}

/// The bytes that are left, and the version.
struct Reader<'a>(&'a [u8], u8);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[n]| n)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn number(&mut self) -> Option<Number> {
        let epoch = if self.1 > VERSION_1 { self.u64()? } else { 0 };
        Some(Number::new(epoch, self.u64()?))
    }

    fn bool(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn one<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        all.get(usize::from(self.u8()?)).copied()
    }

    fn config(&mut self) -> Option<Config> {
        let number = self.number()?;
        let place = match self.u8()? {
            0 => Place::Local,
            n => Place::Slot { slot: *Slot::ALL.get(usize::from(n - 1))?, digest: self.array()? },
        };
        Some(Config { number, place })
    }

    fn failure(&mut self) -> Option<Option<Failure>> {
        if !self.bool()? {
            return Some(None);
        }
        let reason = self.one(&Reason::ALL)?;
        let length = usize::from(u16::from_le_bytes(self.array()?));
        let detail = std::str::from_utf8(self.take(length)?).ok()?;
        (length <= DETAIL_BYTES_MAX).then(|| Some(Failure { reason, detail: detail.to_owned() }))
    }

    fn candidate(&mut self) -> Option<Option<Candidate>> {
        if !self.bool()? {
            return Some(None);
        }
        Some(Some(Candidate {
            config: self.config()?,
            stage: if self.bool()? { Stage::Waiting } else { Stage::OnTrial },
            starts: self.u8()?,
            attempts: self.u8()?,
            turns: self.u8()?,
            grounded: self.bool()?,
            used_ms: self.u64()?,
            failure: self.failure()?,
        }))
    }

    fn record(&mut self) -> Option<Record> {
        let committed = self.config()?;
        let settled = self.number()?;
        let candidate = self.candidate()?;
        let (next_report, reports_dropped) = (self.u64()?, self.u64()?);
        let count = self.u8()?;
        let reports: VecDeque<Report> = (0..count).map(|_| self.report()).collect::<Option<_>>()?;
        let last = if self.bool()? { Some(self.report()?) } else { None };
        let (previous, away_ms, looks) = if self.1 > VERSION_2 { self.away()? } else { (None, 0, 0) };
        (reports.len() <= REPORTS_MAX).then_some(Record {
            previous,
            away_ms,
            looks,
            committed,
            settled,
            candidate,
            next_report,
            reports_dropped,
            reports,
            last,
        })
    }

    fn away(&mut self) -> Option<(Option<Config>, u64, u8)> {
        let previous = if self.bool()? { Some(self.config()?) } else { None };
        Some((previous, self.u64()?, self.u8()?))
    }

    fn report(&mut self) -> Option<Report> {
        let (seq, number) = (self.u64()?, self.number()?);
        Some(Report { seq, number, outcome: self.one(&Outcome::ALL)?, failure: self.failure()? })
    }
}

#[cfg(test)]
#[path = "tests/record.rs"]
mod tests;
