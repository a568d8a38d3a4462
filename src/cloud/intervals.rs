//! A set of sequence numbers that is small when they arrive almost in order. [pure]

use std::collections::BTreeMap;

/// Most intervals one set keeps (about 10 MB). A set grows that large only when one partition is read
/// a quarter of a million gaps ahead of another; then the lowest are given up, see [`Outcome::Forgotten`].
pub const INTERVALS_MAX: usize = 1 << 18;

/// What inserting a number found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not in the set.
    New,
    /// It was.
    Known,
    /// It lies where the set no longer remembers single numbers.
    Forgotten,
}

/// Numbers from 1 on, as intervals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intervals {
    /// Up to here single numbers are no longer known; 0: nothing was forgotten.
    floor: u64,
    /// All intervals but the highest: start → end, both inside.
    lower: BTreeMap<u64, u64>,
    /// The highest, which almost every insertion extends.
    top: Option<(u64, u64)>,
    /// How many different numbers were inserted.
    count: u64,
}

impl Intervals {
    /// Inserts `n`, which must not be 0.
    pub fn insert(&mut self, n: u64) -> Outcome {
        if n <= self.floor {
            return Outcome::Forgotten;
        }
        let Some((start, end)) = self.top else {
            self.top = Some((n, n));
            self.count += 1;
            return Outcome::New;
        };
        if n > end {
            if end + 1 == n {
                self.top = Some((start, n));
            } else {
                self.lower.insert(start, end);
                self.top = Some((n, n));
                self.forget_over(INTERVALS_MAX);
            }
            self.count += 1;
            return Outcome::New;
        }
        if n >= start || !self.insert_lower(n, start) {
            return Outcome::Known;
        }
        self.count += 1;
        self.forget_over(INTERVALS_MAX);
        Outcome::New
    }

    /// Inserts `n`, which is below the highest interval's `top_start`. `false`: it was there.
    fn insert_lower(&mut self, n: u64, top_start: u64) -> bool {
        let before = self.lower.range(..=n).next_back().map(|(&s, &e)| (s, e));
        if before.is_some_and(|(_, e)| e >= n) {
            return false;
        }
        let start = match before {
            Some((s, e)) if e + 1 == n => s,
            _ => n,
        };
        if n + 1 == top_start {
            self.lower.remove(&start);
            self.top = self.top.map(|(_, e)| (start, e));
        } else {
            let end = self.lower.remove(&(n + 1)).unwrap_or(n);
            self.lower.insert(start, end);
        }
        true
    }

    /// Counts a forgotten number as present: it was stored without knowing whether it is new.
    pub fn count_forgotten(&mut self) {
        self.count += 1;
    }

    fn forget_over(&mut self, most: usize) {
        while self.lower.len() >= most {
            match self.lower.pop_first() {
                Some((_, end)) => self.floor = end,
                None => return,
            }
        }
    }

    /// How many different numbers were inserted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The highest number; 0: none.
    pub fn highest(&self) -> u64 {
        self.top.map_or(0, |(_, end)| end)
    }

    /// The lowest number still known; 0: none.
    pub fn lowest(&self) -> u64 {
        self.iter().next().map_or(0, |(start, _)| start)
    }

    /// Numbers from 1 to the highest that are not in the set.
    pub fn missing(&self) -> u64 {
        self.highest().saturating_sub(self.count)
    }

    /// Up to here single numbers are no longer known.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// How many intervals it takes.
    pub fn intervals(&self) -> usize {
        self.lower.len() + usize::from(self.top.is_some())
    }

    /// The intervals, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.lower.iter().map(|(&s, &e)| (s, e)).chain(self.top)
    }

    /// The gaps between 1 and the highest number that are still known, lowest first.
    pub fn gaps(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut next = self.floor + 1;
        self.iter().filter_map(move |(start, end)| {
            let gap = (start > next).then(|| (next, start - 1));
            next = end.saturating_add(1);
            gap
        })
    }

    /// Puts a set together again. `None`: the parts do not fit.
    pub fn from_parts(floor: u64, count: u64, intervals: impl IntoIterator<Item = (u64, u64)>) -> Option<Self> {
        let mut set = Self { floor, count, ..Self::default() };
        for (start, end) in intervals {
            let follows = start > floor && set.top.is_none_or(|(_, e)| start > e.saturating_add(1));
            if !follows || end < start {
                return None;
            }
            if let Some((s, e)) = set.top.replace((start, end)) {
                set.lower.insert(s, e);
            }
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn naive_gaps(set: &BTreeSet<u64>) -> Vec<(u64, u64)> {
        let mut gaps: Vec<(u64, u64)> = Vec::new();
        for n in 1..set.last().copied().unwrap_or(0) {
            if !set.contains(&n) {
                match gaps.last_mut() {
                    Some((_, end)) if *end + 1 == n => *end = n,
                    _ => gaps.push((n, n)),
                }
            }
        }
        gaps
    }

    proptest! {
        #[test]
        fn the_set_agrees_with_a_set_of_numbers(numbers in proptest::collection::vec(1u64..60, 0..120)) {
            let (mut set, mut model) = (Intervals::default(), BTreeSet::new());
            for n in numbers {
                let expected = if model.insert(n) { Outcome::New } else { Outcome::Known };
                prop_assert_eq!(set.insert(n), expected, "{}", n);
                prop_assert_eq!(set.count(), model.len() as u64);
                prop_assert_eq!(set.gaps().collect::<Vec<_>>(), naive_gaps(&model));
                prop_assert_eq!(set.missing(), naive_gaps(&model).iter().map(|(a, b)| b - a + 1).sum::<u64>());
                prop_assert_eq!(set.lowest(), *model.first().unwrap_or(&0));
                prop_assert_eq!(set.intervals(), naive_gaps(&model).len() + usize::from(set.lowest() == 1));
            }
            let again = Intervals::from_parts(set.floor(), set.count(), set.iter());
            prop_assert_eq!(again, Some(set));
        }
    }

    #[test]
    fn a_forgotten_number_is_neither_new_nor_known() {
        let mut set = Intervals::default();
        for n in 1..=5 {
            set.insert(n * 10);
        }
        set.forget_over(2);
        assert_eq!((set.floor(), set.intervals(), set.count()), (30, 2, 5));
        assert_eq!(set.insert(7), Outcome::Forgotten);
        assert_eq!(set.insert(30), Outcome::Forgotten);
        assert_eq!(set.insert(31), Outcome::New);
        assert_eq!(set.gaps().collect::<Vec<_>>(), [(32, 39), (41, 49)]);
    }

    #[test]
    fn the_limit_holds_however_the_numbers_come() {
        let mut set = Intervals::default();
        for n in 1..=(INTERVALS_MAX as u64 + 1000) {
            set.insert(n * 2);
        }
        assert_eq!(set.intervals(), INTERVALS_MAX);
        assert!(set.floor() > 0);
    }

    #[test]
    fn the_ends_of_the_range_do_not_overflow() {
        let mut set = Intervals::default();
        assert_eq!(set.insert(u64::MAX), Outcome::New);
        assert_eq!(set.insert(u64::MAX), Outcome::Known);
        assert_eq!(set.insert(u64::MAX - 1), Outcome::New);
        assert_eq!(set.insert(1), Outcome::New);
        assert_eq!(set.missing(), u64::MAX - 3);
        assert_eq!(set.gaps().collect::<Vec<_>>(), [(2, u64::MAX - 2)]);
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        assert_eq!(Intervals::from_parts(0, 1, [(5, 4)]), None);
        assert_eq!(Intervals::from_parts(0, 2, [(5, 6), (7, 8)]), None);
        assert_eq!(Intervals::from_parts(5, 2, [(5, 6)]), None);
    }
}
