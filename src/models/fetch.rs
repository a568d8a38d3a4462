//! Which messages of which packs to ask for next: within the link's budget, again after a lost link, never a bad pack for
//! ever. [pure]
//!
//! A pack is read from a place on, message by message, with permits as Pulsar's flow control has them. Where a reader
//! lands is not certain ([`places`] guesses it): before the place, what comes is passed over; behind it, the
//! pack is read from its beginning.
//!
//! ```text
//! poll ──► Read { pack, from, epoch } ──► Permit { epoch, messages } ──► messages ──► handle ──► poll …
//!             ▲ a gap, another pack, a lost link                            │
//!             └─────────────────────────────────────────────────────────────┘   Wait: the budget, or an answer
//! ```

pub mod pace;
pub mod places;
pub mod reader;
pub mod run;

use std::collections::BTreeMap;

use super::pack::{MESSAGE_BYTES_MAX, PIECE_BYTES_MAX};
use super::plan::{Plan, Wanted};

/// Most messages that are asked for and have not come ([`pace`] says how many of them): a megabyte on its way fills a link
/// of 8 Mbit/s and one second.
pub const AHEAD_MAX: u32 = 4;

/// Most bad messages of one pack, and most times that a place of it is not found, before it is given up: what is bad at
/// the broker stays bad, and every try costs the link a piece.
pub const BAD_MAX: u32 = 3;

/// What a permit holds of the budget until its message comes: a piece that does not compress, with its head.
pub(crate) const RESERVE_BYTES: u64 = PIECE_BYTES_MAX as u64 + 4096;

/// A link's budget: over any time at most `bytes_per_s` times the seconds, and one burst. What is asked for counts when
/// it is asked for; a slow link may bunch what it was asked for.
#[derive(Clone, Debug)]
pub struct Bucket {
    bytes_per_s: u64,
    /// Thousandths of bytes; below 0 after a message that was larger than was held for it.
    level: i128,
    /// Bytes that are held for messages on their way: with them the level is a burst at most.
    held: u64,
    at_ms: u64,
}

impl Bucket {
    /// A full one at `now_ms`; at least 1 byte/s.
    pub fn new(bytes_per_s: u64, now_ms: u64) -> Self {
        let mut bucket = Self { bytes_per_s: bytes_per_s.max(1), level: 0, held: 0, at_ms: now_ms };
        bucket.level = bucket.most();
        bucket
    }

    /// Bytes that may come at once: a second's, and one message at least.
    pub fn burst_bytes(&self) -> u64 {
        self.bytes_per_s.max(RESERVE_BYTES)
    }

    fn most(&self) -> i128 {
        i128::from(self.burst_bytes().saturating_sub(self.held)) * 1000
    }

    fn fill(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.at_ms);
        self.at_ms = self.at_ms.max(now_ms);
        self.level = (self.level + i128::from(passed) * i128::from(self.bytes_per_s)).min(self.most());
    }

    /// Holds `bytes`, if they are there; otherwise says when they will be, `None`: when something that is held came.
    pub(crate) fn hold(&mut self, bytes: u64, now_ms: u64) -> Result<(), Option<u64>> {
        self.fill(now_ms);
        if self.held.saturating_add(bytes) > self.burst_bytes() {
            return Err(None);
        }
        let lacking = i128::from(bytes) * 1000 - self.level;
        if lacking > 0 {
            let wait = u64::try_from(lacking).unwrap_or(u64::MAX).div_ceil(self.bytes_per_s);
            return Err(Some(self.at_ms.saturating_add(wait)));
        }
        self.level -= i128::from(bytes) * 1000;
        self.held += bytes;
        Ok(())
    }

    /// A message of `bytes` came, for which `held` were held.
    pub(crate) fn settle(&mut self, held: u64, bytes: u64) {
        self.held = self.held.saturating_sub(held);
        self.level = (self.level + (i128::from(held) - i128::from(bytes)) * 1000).min(self.most());
    }
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the message of this place, as far as that can be told.
    Place(u32),
    /// At the first message.
    Earliest,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read this pack from there on; a reader before is done with. No message comes without a permit.
    Read {
        /// Names this reader in what comes from it.
        epoch: u64,
        /// The version whose pack it is.
        pack: u64,
        /// Where to begin.
        from: From,
    },
    /// Let one more message of the reader come.
    Permit {
        /// The reader.
        epoch: u64,
    },
    /// Nothing before this time, in milliseconds, unless something comes; `None`: only when something comes.
    Wait {
        /// The time.
        until_ms: Option<u64>,
    },
    /// Nothing is lacking any more.
    Done,
    /// This pack does not have what it should. What came of the others is kept.
    GiveUp {
        /// The version whose pack it is.
        pack: u64,
    },
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message.
    Message {
        /// Of this reader.
        epoch: u64,
        /// Its size, in bytes, as it came.
        bytes: u64,
        /// What was in it.
        content: Content,
    },
    /// The reader is at the end of the pack: nothing comes for its permits.
    End {
        /// The reader.
        epoch: u64,
    },
    /// The link is lost; the readers with it.
    Lost,
}

/// What was in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// No message of a pack.
    Unreadable,
    /// A part of the head, or a piece.
    Place {
        /// Its place.
        place: u32,
        /// Nothing of what this place should bring is lacking any more.
        filled: bool,
    },
}

/// A reader.
#[derive(Clone, Copy, Debug)]
struct Reader {
    epoch: u64,
    pack: u64,
    from: From,
    /// The place that it was begun for.
    target: u32,
    /// The place that comes next, as far as is known.
    next: u32,
    /// Permits whose messages have not come.
    ahead: u32,
    /// Messages that were not wanted.
    passed: u32,
    /// A message came.
    seen: bool,
}

/// A place that a reader has gone by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    /// It began behind it, as far as is known.
    Overshot,
    /// It came from before: the place is not in the topic, wherever a reader begins.
    NotThere,
}

impl Reader {
    /// Whether the place is yet to come. What lies before the target, or after the pack's beginning, is passed over: the
    /// reader did not land where it should, and would not the next time. Other gaps are jumped.
    fn reaches(&self, first: u32) -> bool {
        self.next == first || (self.next < first && (first <= self.target || self.from == From::Earliest))
    }
}

/// The fetching of one version.
#[derive(Clone, Debug)]
pub struct Fetch {
    packs: BTreeMap<u64, Wanted>,
    bucket: Bucket,
    /// Messages that may be asked for and have not come.
    ahead_max: u32,
    reader: Option<Reader>,
    epochs: u64,
    /// Bad messages and places that were not found, by pack.
    bad: BTreeMap<u64, u32>,
    /// The pack that is read from its beginning: a reader landed past the place.
    from_earliest: Option<u64>,
}

impl Fetch {
    /// Of what `plan` lacks.
    pub fn new(plan: Plan, bucket: Bucket) -> Self {
        let (packs, bad) = (plan.packs, BTreeMap::new());
        Self { packs, bucket, ahead_max: 1, reader: None, epochs: 0, bad, from_earliest: None }
    }

    /// So many messages may be asked for and not have come, at most [`AHEAD_MAX`]; 1 before. 0: no more, it is to end when
    /// what is on its way has come.
    pub fn allow(&mut self, ahead_max: u32) {
        self.ahead_max = ahead_max.min(AHEAD_MAX);
    }

    /// What is still lacking, by pack.
    pub fn lacking(&self) -> &BTreeMap<u64, Wanted> {
        &self.packs
    }

    /// The next thing to do.
    pub fn poll(&mut self, now_ms: u64) -> Action {
        self.packs.retain(|_, wanted| !wanted.lacking.is_empty());
        if let Some(pack) = self.packs.keys().find(|pack| self.bad.get(pack).is_some_and(|bad| *bad >= BAD_MAX)) {
            return Action::GiveUp { pack: *pack };
        }
        let Some((pack, wanted)) = self.packs.first_key_value() else { return Action::Done };
        let (pack, first) = (*pack, wanted.lacking.first().copied().unwrap_or_default());
        let Some(reader) = self.reader.filter(|reader| reader.pack == pack && reader.reaches(first)) else {
            return self.read(pack, first);
        };
        // Permits are given for what is passed over, and for lacking places in a row.
        let asked_until = reader.next.saturating_add(reader.ahead);
        let goes_on = asked_until <= first || wanted.lacking.contains(&asked_until);
        if reader.ahead >= self.ahead_max || !goes_on {
            return Action::Wait { until_ms: None };
        }
        match self.bucket.hold(RESERVE_BYTES, now_ms) {
            Err(until_ms) => Action::Wait { until_ms },
            Ok(()) => {
                self.reader = Some(Reader { ahead: reader.ahead + 1, ..reader });
                Action::Permit { epoch: reader.epoch }
            }
        }
    }

    fn read(&mut self, pack: u64, first: u32) -> Action {
        self.epochs += 1;
        let epoch = self.epochs;
        let (from, next) = match self.from_earliest {
            Some(earliest) if earliest == pack => (From::Earliest, 0),
            _ => (From::Place(first), first),
        };
        self.give_back();
        self.reader = Some(Reader { epoch, pack, from, target: first, next, ahead: 0, passed: 0, seen: false });
        Action::Read { epoch, pack, from }
    }

    /// The budget of permits whose messages are not waited for. Should one come all the same, it is counted then.
    fn give_back(&mut self) {
        let ahead = self.reader.take().map_or(0, |reader| reader.ahead);
        self.bucket.settle(u64::from(ahead) * RESERVE_BYTES, 0);
    }

    /// What was asked for over a link that is lost may have been sent: it counts as if it had come.
    fn spend(&mut self) {
        let held = self.reader.take().map_or(0, |reader| u64::from(reader.ahead) * RESERVE_BYTES);
        self.bucket.settle(held, held);
    }

    /// Takes what came. Its time plays no part: the budget was taken before, and fills up at the next poll.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Lost => self.spend(),
            Event::End { epoch } => {
                if let Some(reader) = self.reader.filter(|reader| reader.epoch == epoch && reader.ahead > 0) {
                    self.missed(reader, if reader.seen { Missed::NotThere } else { Missed::Overshot });
                }
            }
            Event::Message { epoch, bytes, content } => {
                let current = self.reader.filter(|reader| reader.epoch == epoch && reader.ahead > 0);
                let held = if current.is_some() { RESERVE_BYTES } else { 0 };
                // A larger one than there may be is counted as one: the sender decides what comes, not how long we wait.
                self.bucket.settle(held, bytes.min(MESSAGE_BYTES_MAX as u64));
                if let Some(reader) = current {
                    self.came(Reader { ahead: reader.ahead - 1, ..reader }, content);
                }
            }
        }
    }

    fn came(&mut self, reader: Reader, content: Content) {
        let pack = reader.pack;
        let Content::Place { place, filled } = content else {
            // It stands where some place should be.
            let after = Reader { next: reader.next.saturating_add(1), seen: true, ..reader };
            self.reader = Some(after);
            let first = self.packs.get(&pack).and_then(|wanted| wanted.lacking.first().copied());
            // Before the first place that is lacking it harms nobody.
            if first.is_some_and(|first| reader.next >= first) {
                // A reader that has just begun may stand elsewhere than it should.
                let is_known = reader.seen || reader.from == From::Earliest;
                self.missed(after, if is_known { Missed::NotThere } else { Missed::Overshot });
            }
            return;
        };
        let before = reader;
        let reader = Reader { next: place.saturating_add(1), seen: true, ..reader };
        self.reader = Some(reader);
        let Some(wanted) = self.packs.get_mut(&pack) else { return };
        let first = wanted.lacking.first().copied().unwrap_or_default();
        let was_lacking = match filled {
            true => wanted.lacking.remove(&place),
            false => wanted.lacking.contains(&place),
        };
        if !was_lacking {
            let reader = Reader { passed: reader.passed.saturating_add(1), ..reader };
            self.reader = Some(reader);
            // More than there are: they come again and again.
            if reader.passed > wanted.places {
                return self.missed(reader, Missed::Overshot);
            }
        } else if !filled {
            self.note_bad(pack);
        }
        if place > first {
            self.missed(reader, if before.seen && before.next <= first { Missed::NotThere } else { Missed::Overshot });
        }
    }

    /// The reader is past a place that is lacking.
    fn missed(&mut self, reader: Reader, how: Missed) {
        self.reader = Some(reader);
        if how == Missed::NotThere {
            self.bad.insert(reader.pack, BAD_MAX);
        } else if reader.from == From::Earliest {
            self.note_bad(reader.pack);
        }
        self.from_earliest = Some(reader.pack);
        self.give_back();
    }

    fn note_bad(&mut self, pack: u64) {
        *self.bad.entry(pack).or_default() += 1;
    }
}
