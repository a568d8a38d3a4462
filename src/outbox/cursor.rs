//! How far a lane is confirmed, and which sequences of it are gone. [pure]

use super::Seq;

/// Sequences that no longer exist, first and last.
pub type Gap = (Seq, Seq);

/// Confirmed position of a lane. Never goes back, never passes the last sequence on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    confirmed: Seq,
    synced: Seq,
    gaps: Vec<Gap>,
}

impl Cursor {
    /// A cursor that was read back from disk.
    pub fn at(confirmed: Seq) -> Self {
        Self { confirmed, synced: confirmed, gaps: Vec::new() }
    }

    /// Everything up to here is confirmed.
    pub fn confirmed(&self) -> Seq {
        self.confirmed
    }

    /// Everything up to `through` has arrived, of what is stored up to `last`.
    pub fn raise(&mut self, through: Seq, last: Seq) {
        self.confirmed = self.confirmed.max(through.min(last));
        self.pass_gaps();
    }

    /// These sequences, all up to the last one of the lane, are gone and will never arrive.
    pub fn lose(&mut self, gap: Gap) {
        if gap.0 > gap.1 || gap.1 <= self.confirmed {
            return;
        }
        let at = self.gaps.partition_point(|g| g.1.saturating_add(1) < gap.0);
        let end = self.gaps.partition_point(|g| g.0 <= gap.1.saturating_add(1));
        let merged = self.gaps[at..end.max(at)].iter().fold(gap, |a, b| (a.0.min(b.0), a.1.max(b.1)));
        self.gaps.splice(at..end.max(at), [merged]);
        self.pass_gaps();
    }

    /// Whether `gap` is entered already, or passed.
    pub fn knows(&self, gap: Gap) -> bool {
        gap.1 <= self.confirmed || self.gaps.iter().any(|g| g.0 <= gap.0.max(self.confirmed + 1) && gap.1 <= g.1)
    }

    /// Events that still wait, of what is stored up to `last`.
    pub fn waiting(&self, last: Seq) -> u64 {
        let lost: u64 = self.gaps.iter().map(|g| g.1 - g.0.max(self.confirmed + 1) + 1).sum();
        last.saturating_sub(self.confirmed).saturating_sub(lost)
    }

    /// The position that should be written, if it is not on disk yet.
    pub fn unsynced(&self) -> Option<Seq> {
        (self.confirmed != self.synced).then_some(self.confirmed)
    }

    /// Up to here the confirmation is on disk: what lies below may be removed.
    pub fn synced(&self) -> Seq {
        self.synced
    }

    /// `position` is on disk now.
    pub fn mark_synced(&mut self, position: Seq) {
        self.synced = self.synced.max(position.min(self.confirmed));
    }

    fn pass_gaps(&mut self) {
        while let Some(&(first, last)) = self.gaps.first() {
            if first > self.confirmed + 1 {
                break;
            }
            self.confirmed = self.confirmed.max(last);
            self.gaps.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_lost_is_passed_over() {
        let mut c = Cursor::at(3);
        c.lose((6, 9));
        assert_eq!((c.confirmed(), c.waiting(10)), (3, 3));
        c.raise(5, 10);
        assert_eq!((c.confirmed(), c.waiting(10)), (9, 1));
        c.lose((10, 10));
        assert_eq!((c.confirmed(), c.waiting(10)), (10, 0));
    }

    proptest! {
        #[test]
        fn the_cursor_never_goes_back_nor_ahead_and_counts_what_waits(
            last in 1..60u64,
            steps in proptest::collection::vec((any::<bool>(), 0..70u64, 0..8u64), 0..40),
        ) {
            let mut cursor = Cursor::at(0);
            let mut lost = BTreeSet::new();
            let mut raised = 0;
            for (confirm, at, len) in steps {
                let before = cursor.clone();
                if confirm {
                    cursor.raise(at, last);
                    raised = raised.max(at.min(last));
                } else if at >= 1 && at + len <= last {
                    cursor.lose((at, at + len));
                    lost.extend(at..=at + len);
                }
                let mut expected = raised.max(before.confirmed());
                while lost.contains(&(expected + 1)) {
                    expected += 1;
                }
                prop_assert_eq!(cursor.confirmed(), expected);
                prop_assert!(cursor.confirmed() <= last && cursor.synced() <= cursor.confirmed());
                let waiting = (expected + 1..=last).filter(|s| !lost.contains(s)).count() as u64;
                prop_assert_eq!(cursor.waiting(last), waiting);
                if let Some(position) = cursor.unsynced() {
                    cursor.mark_synced(position);
                }
                prop_assert_eq!(cursor.synced(), cursor.confirmed());
            }
        }
    }
}
