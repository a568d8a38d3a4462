//! Updates whose parts are coming: which part is the next of which, what is over, and what may be acknowledged. [pure]
//!
//! Whoever publishes may die between two parts, send them twice, or send several updates at once; and the broker sends
//! everything again that was not acknowledged. Acknowledging is cumulative: nothing from the first part of an update on that
//! is not over.

use std::collections::{BTreeMap, VecDeque};

/// Updates that are open at once: each holds a model on disk. One more ends the one that was silent longest.
pub const OPEN_MAX: usize = 4;

/// Most parts of an update: a gibibyte in parts of 64 KiB, and its manifest.
pub const PARTS_MAX: u32 = (1 << 14) + 1;

/// An update of which nothing has come for so long is over.
pub const SILENT_MS_MAX: u64 = 600_000;

/// Updates that are over and remembered: their parts that still come are passed over.
const CLOSED_MAX: usize = 256;

/// Longest name of an update, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Where a message lies in the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Ledger.
    pub ledger: u64,
    /// Entry in it.
    pub entry: u64,
}

/// What a message says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Names the update.
    pub update: String,
    /// From 0, the manifest.
    pub part: u32,
    /// How many there are.
    pub parts: u32,
}

impl Part {
    /// Reads the properties of a message; the error is a sentence.
    pub fn of<'p>(property: impl Fn(&str) -> Option<&'p str>) -> Result<Self, String> {
        let text = |name: &str| property(name).ok_or_else(|| format!("the message has no property {name}"));
        let number = |name: &str| {
            let value = text(name)?;
            value.parse::<u32>().map_err(|_| format!("the property {name} is no number"))
        };
        let update = text(super::UPDATE)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if !(1..=NAME_BYTES_MAX).contains(&update.len()) || !update.bytes().all(plain) {
            return Err(format!("{} is not 1 to {NAME_BYTES_MAX} letters, digits and -_.", super::UPDATE));
        }
        let (part, parts) = (number(super::PART)?, number(super::PARTS)?);
        if !(1..=PARTS_MAX).contains(&parts) || part >= parts {
            return Err(format!("part {part} of {parts}: there are 1 to {PARTS_MAX}, counted from 0"));
        }
        Ok(Self { update: update.to_owned(), part, parts })
    }
}

/// What to do with a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It was here before, or its update is over.
    Pass,
    /// A manifest; its update is open now. Another one may be over because of it.
    Begin(Option<String>),
    /// The next bytes, and whether they are the last ones.
    Data(bool),
    /// Parts before it are missing: the update is over.
    Gap,
}

#[derive(Debug)]
struct Open {
    parts: u32,
    next: u32,
    first: Entry,
    heard_ms: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Desk {
    open: BTreeMap<String, Open>,
    closed: VecDeque<String>,
    /// Entries that were taken and are not acknowledged.
    taken: VecDeque<Entry>,
}

impl Desk {
    /// Takes a part that lies at `at`.
    pub fn take(&mut self, part: &Part, at: Entry, now_ms: u64) -> Step {
        if self.closed.contains(&part.update) {
            return Step::Pass;
        }
        match self.open.get_mut(&part.update) {
            Some(open) if part.part < open.next => Step::Pass,
            Some(open) if part.part == open.next && part.parts == open.parts => {
                (open.next, open.heard_ms) = (part.part + 1, now_ms);
                Step::Data(open.next == open.parts)
            }
            None if part.part == 0 => {
                let full = self.open.len() >= OPEN_MAX;
                let silent = self.open.iter().min_by_key(|(_, open)| open.heard_ms).map(|(name, _)| name.clone());
                let over = silent.filter(|_| full);
                over.iter().for_each(|name| self.close(name));
                let open = Open { parts: part.parts, next: 1, first: at, heard_ms: now_ms };
                self.open.insert(part.update.clone(), open);
                Step::Begin(over)
            }
            _ => {
                self.close(&part.update);
                Step::Gap
            }
        }
    }

    /// An update is over; what still comes of it is passed over.
    pub fn close(&mut self, update: &str) {
        self.open.remove(update);
        if self.closed.len() >= CLOSED_MAX {
            self.closed.pop_front();
        }
        self.closed.push_back(update.to_owned());
    }

    /// Updates of which nothing has come for too long; they are over.
    pub fn silent(&mut self, now_ms: u64) -> Vec<String> {
        let is_silent = |open: &Open| now_ms.saturating_sub(open.heard_ms) > SILENT_MS_MAX;
        let over: Vec<String> =
            self.open.iter().filter(|(_, open)| is_silent(open)).map(|(name, _)| name.clone()).collect();
        over.iter().for_each(|name| self.close(name));
        over
    }

    /// All of the entry was taken.
    pub fn done(&mut self, at: Entry) {
        if self.taken.back() < Some(&at) {
            self.taken.push_back(at);
        }
    }

    /// Up to where the topic can be acknowledged, if that is further than before.
    pub fn acknowledge(&mut self) -> Option<Entry> {
        let first = self.open.values().map(|open| open.first).min();
        let mut last = None;
        while let Some(front) = self.taken.front().copied().filter(|front| first.is_none_or(|first| *front < first)) {
            self.taken.pop_front();
            last = Some(front);
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(update: &str, part: u32, parts: u32) -> Part {
        Part { update: update.to_owned(), part, parts }
    }

    fn at(entry: u64) -> Entry {
        Entry { ledger: 1, entry }
    }

    #[test]
    fn parts_come_in_order_or_not_at_all() {
        let mut desk = Desk::default();
        assert_eq!(desk.take(&part("a", 0, 3), at(0), 0), Step::Begin(None));
        assert_eq!(desk.take(&part("a", 1, 3), at(1), 0), Step::Data(false));
        assert_eq!(desk.take(&part("a", 1, 3), at(2), 0), Step::Pass);
        assert_eq!(desk.take(&part("a", 2, 3), at(3), 0), Step::Data(true));
        desk.close("a");
        assert_eq!(desk.take(&part("a", 0, 3), at(4), 0), Step::Pass);
        assert_eq!(desk.take(&part("b", 1, 3), at(5), 0), Step::Gap);
        assert_eq!(desk.take(&part("c", 0, 3), at(6), 0), Step::Begin(None));
        assert_eq!(desk.take(&part("c", 2, 3), at(7), 0), Step::Gap);
        assert_eq!(desk.take(&part("c", 1, 3), at(8), 0), Step::Pass);
        assert!(desk.open.is_empty());
    }

    #[test]
    fn who_is_silent_gives_way() {
        let mut desk = Desk::default();
        for n in 0..OPEN_MAX as u64 {
            assert_eq!(desk.take(&part(&format!("u{n}"), 0, 9), at(n), 100 - n), Step::Begin(None));
        }
        let last = format!("u{}", OPEN_MAX - 1);
        assert_eq!(desk.take(&part("more", 0, 9), at(9), 100), Step::Begin(Some(last)));
        assert_eq!(desk.silent(SILENT_MS_MAX + 99), ["u2"], "the one that was heard at 98");
    }

    #[test]
    fn what_a_message_says_is_bounded() {
        let read = |update: &'static str, part: &'static str, parts: &'static str| {
            Part::of(|name| match name {
                super::super::UPDATE => Some(update),
                super::super::PART => Some(part),
                _ => Some(parts),
            })
        };
        assert_eq!(read("a.b-1", "2", "3"), Ok(part("a.b-1", 2, 3)));
        for (update, part, parts) in
            [("", "0", "1"), ("a b", "0", "1"), ("a", "1", "1"), ("a", "-1", "1"), ("a", "0", "0")]
        {
            assert!(read(update, part, parts).is_err(), "{update} {part} {parts}");
        }
        assert!(read("a", "0", "99999999").is_err() && Part::of(|_| None).is_err());
    }

    proptest! {
        /// Whatever comes: nothing of an update that is not over is acknowledged, and once all are over everything is.
        #[test]
        fn only_what_is_over_is_acknowledged(
            steps in prop::collection::vec((0..6u8, 0..4u32, prop::bool::weighted(0.1), 0..400_000u64), 1..200),
        ) {
            let (mut desk, mut acknowledged, mut now) = (Desk::default(), None, 0);
            let mut firsts: BTreeMap<String, Entry> = BTreeMap::new();
            for (entry, (update, n, over, ms)) in (0..).zip(steps) {
                now += ms;
                let name = format!("u{update}");
                let step = desk.take(&part(&name, n, 4), at(entry), now);
                if let Step::Begin(out) = &step {
                    out.iter().for_each(|out| _ = firsts.remove(out));
                    firsts.insert(name.clone(), at(entry));
                }
                if step == Step::Data(true) || step == Step::Gap || over {
                    desk.close(&name);
                    firsts.remove(&name);
                }
                desk.silent(now).iter().for_each(|out| _ = firsts.remove(out));
                desk.done(at(entry));
                let told = desk.acknowledge();
                acknowledged = acknowledged.max(told);
                let oldest = firsts.values().min().copied();
                prop_assert!(oldest.is_none_or(|first| acknowledged < Some(first)));
                if oldest.is_none() {
                    prop_assert_eq!(acknowledged, Some(at(entry)));
                }
                prop_assert!(desk.open.len() <= OPEN_MAX && desk.closed.len() <= CLOSED_MAX);
            }
        }
    }
}
