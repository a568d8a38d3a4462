//! Which events were seen lately, so that one that a sender repeats gets the first answer again. [pure]
//!
//! Bounded by time and by number: at more than [`ENTRIES_MAX`] identified events per window the window shrinks.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use super::Seq;

/// Most events remembered per lane. One takes about 80 bytes, so this is about 10 MB when full;
/// in the default window of 10 minutes it is 218 identified events a second.
pub const ENTRIES_MAX: usize = 131_072;

/// Bytes of stored events read at once when the window is made again after a start.
pub const READ_BYTES: usize = 256 * 1024;

/// 128 bits made of an event's source and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u128);

/// Makes fingerprints. Keyed at random, so that no sender can find two ids that collide; the fingerprints are
/// therefore never stored, but made again from the stored events.
#[derive(Clone, Debug, Default)]
pub struct Fingerprints([RandomState; 2]);

impl Fingerprints {
    /// The fingerprint of an event.
    pub fn of(&self, source: &str, id: &str) -> Fingerprint {
        let half = |state: &RandomState| {
            let mut hasher = state.build_hasher();
            hasher.write_usize(source.len()); // so that ("ab", "c") is not ("a", "bc")
            hasher.write(source.as_bytes());
            hasher.write(id.as_bytes());
            hasher.finish()
        };
        Fingerprint(u128::from(half(&self.0[0])) << 64 | u128::from(half(&self.0[1])))
    }
}

/// Names of the events that were stored last before a start.
#[derive(Debug, Default)]
pub struct Recalled {
    fingerprints: Fingerprints,
    names: HashSet<Fingerprint>,
}

impl Recalled {
    /// These, made with these keys.
    pub fn new(fingerprints: Fingerprints, names: impl IntoIterator<Item = Fingerprint>) -> Self {
        Self { fingerprints, names: names.into_iter().collect() }
    }

    /// Whether this event is one of them. `false`: nobody knows.
    pub fn has(&self, source: &str, id: &str) -> bool {
        self.names.contains(&self.fingerprints.of(source, id))
    }
}

/// Events seen, and the sequence each was stored under. Time is any count of milliseconds that never goes back.
#[derive(Debug)]
pub struct Window {
    span_ms: i64,
    entries_max: usize,
    seen: HashMap<Fingerprint, Seq>,
    order: VecDeque<(i64, Fingerprint)>,
}

impl Window {
    /// An empty window; a `span` of zero remembers nothing.
    pub fn new(span: Duration, entries_max: usize) -> Self {
        let span_ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self { span_ms, entries_max, seen: HashMap::new(), order: VecDeque::new() }
    }

    /// The sequence under which this event was stored, if it was within the window.
    pub fn get(&self, event: Fingerprint) -> Option<Seq> {
        self.seen.get(&event).copied()
    }

    /// Remembers that `event` was stored as `seq` at `now_ms`. The first one stays.
    pub fn insert(&mut self, event: Fingerprint, seq: Seq, now_ms: i64) {
        if self.span_ms == 0 || self.seen.contains_key(&event) {
            return;
        }
        while self.order.len() >= self.entries_max {
            self.forget_oldest();
        }
        self.seen.insert(event, seq);
        self.order.push_back((now_ms, event));
    }

    /// Forgets what was stored longer ago than the window.
    pub fn expire(&mut self, now_ms: i64) {
        while self.order.front().is_some_and(|(then, _)| now_ms.saturating_sub(*then) >= self.span_ms) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, event)) = self.order.pop_front() {
            self.seen.remove(&event);
        }
    }
}

/// Times before this are not of a clock that was ever set (2024-01-01).
const CLOCK_SET_MS: i64 = 1_704_067_200_000;

/// How long ago something happened, by a wall clock that may have stood at 1970 then or now: what cannot be
/// told counts as just now, for remembering too long repeats an answer, and forgetting too early an event.
pub fn age_ms(then_ms: i64, now_ms: i64) -> i64 {
    if then_ms < CLOCK_SET_MS || now_ms < CLOCK_SET_MS { 0 } else { now_ms.saturating_sub(then_ms).max(0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPAN: Duration = Duration::from_millis(100);

    #[test]
    fn source_and_id_are_not_mixed_up() {
        let f = Fingerprints::default();
        assert_eq!(f.of("a", "bc"), f.of("a", "bc"));
        assert_ne!(f.of("a", "bc"), f.of("ab", "c"));
        assert_ne!(Fingerprints::default().of("a", "b"), f.of("a", "b"), "keyed at random");
    }

    #[test]
    fn an_unset_clock_makes_nothing_old() {
        let now = CLOCK_SET_MS + 1_000_000;
        assert_eq!(age_ms(5_000, now), 0);
        assert_eq!(age_ms(now, 5_000), 0);
        assert_eq!(age_ms(now, now - 1), 0);
        assert_eq!(age_ms(now - 7, now), 7);
    }

    #[test]
    fn a_span_of_zero_remembers_nothing() {
        let f = Fingerprints::default();
        let mut w = Window::new(Duration::ZERO, 10);
        w.insert(f.of("s", "1"), 1, 0);
        assert!(w.order.is_empty());
    }

    proptest! {
        /// Against the obvious model: a list of everything that ever happened.
        #[test]
        fn the_window_is_what_it_says(steps in proptest::collection::vec((0..40i64, 0..12u8), 0..200), max in 1..20usize) {
            let f = Fingerprints::default();
            let mut window = Window::new(SPAN, max);
            let mut model: Vec<(i64, u8, Seq)> = Vec::new();
            let mut now = 0;
            for (seq, (wait, id)) in (1..).zip(steps) {
                now += wait;
                window.expire(now);
                model.retain(|(then, ..)| now - then < 100);
                let event = f.of("s", &id.to_string());
                let expected = model.iter().find(|(_, known, _)| *known == id).map(|(.., seq)| *seq);
                prop_assert_eq!(window.get(event), expected);
                window.insert(event, seq, now);
                if expected.is_none() {
                    model.push((now, id, seq));
                    if model.len() > max {
                        model.remove(0);
                    }
                }
                prop_assert_eq!(window.order.len(), model.len());
                prop_assert!(window.order.len() <= max);
            }
        }
    }
}
