//! Whether the file system has room: asked again only as often as the answer can matter. [pure]
//!
//! An answer is trusted for [`LOOK_EVERY`], less all that we reserved since, and only while [`MARGIN_BYTES`] more
//! than wanted are free. Whoever is closer to the end asks every time. So the bytes that must stay free do, unless
//! all others together write the margin within that time; then the disk refuses, and nothing of it is acknowledged.

use std::time::{Duration, Instant};

/// How long an answer is trusted: with some hundred questions a second they cost nothing any more.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What others may write within [`LOOK_EVERY`]; 25 GB a second is more than memory takes. It also covers what was
/// reserved before the answer and written after it: a group and one body more, some 20 MB, per lane.
const MARGIN_BYTES: u64 = 256 << 20;

/// What is known of the room.
#[derive(Debug, Default)]
pub struct Room(Option<Look>);

#[derive(Debug)]
struct Look {
    at: Instant,
    /// What the system said, less what was taken since.
    left: u64,
}

impl Room {
    /// Takes `bytes`, if `keep` bytes stay free besides; otherwise says how many are free. `ask` may have no answer:
    /// then the disk itself will tell.
    pub fn take(&mut self, bytes: u64, keep: u64, now: Instant, ask: impl FnOnce() -> Option<u64>) -> Result<(), u64> {
        let floor = keep.saturating_add(bytes);
        let far = floor.saturating_add(MARGIN_BYTES);
        let known = |look: &Look| look.left >= far && now.saturating_duration_since(look.at) < LOOK_EVERY;
        if !self.0.as_ref().is_some_and(known) {
            self.0 = ask().map(|left| Look { at: now, left });
        }
        match &mut self.0 {
            Some(look) if look.left < floor => Err(look.left),
            Some(look) => {
                look.left -= bytes;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Counts what was written without having been taken.
    pub fn spend(&mut self, bytes: u64) {
        if let Some(look) = &mut self.0 {
            look.left = look.left.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEEP: u64 = 16 << 20;

    #[test]
    fn far_from_full_it_asks_now_and_then_and_near_it_every_time() {
        let start = Instant::now();
        let mut room = Room::default();
        let mut asked = 0;
        let mut take = |free: u64, bytes: u64, ms: u64| {
            let ask = || {
                asked += 1;
                Some(free)
            };
            let taken = room.take(bytes, KEEP, start + Duration::from_millis(ms), ask);
            (taken, asked)
        };
        let far = KEEP + MARGIN_BYTES;
        assert_eq!(take(far + 100, 50, 0), (Ok(()), 1));
        assert_eq!(take(far + 100, 50, 9), (Ok(()), 1), "known");
        assert_eq!(take(far + 100, 1, 9), (Ok(()), 2), "what was taken since counts");
        assert_eq!(take(far + 100, 1, 18), (Ok(()), 2));
        assert_eq!(take(far + 100, 1, 19), (Ok(()), 3), "too old");
        assert_eq!(take(far, 1, 20), (Ok(()), 3));
        assert_eq!(take(far, 1, 40), (Ok(()), 4));
        assert_eq!(take(far, 1, 40), (Ok(()), 5), "near");
        assert_eq!(take(KEEP, 1, 40), (Err(KEEP), 6), "near");
        assert_eq!(take(KEEP + 1, 1, 40), (Ok(()), 7), "as soon as there is room");
        assert_eq!(take(u64::MAX, u64::MAX, 40), (Ok(()), 8), "no overflow");
    }

    #[test]
    fn without_an_answer_the_disk_decides_and_the_next_one_asks_again() {
        let now = Instant::now();
        let mut room = Room::default();
        assert_eq!(room.take(1, KEEP, now, || None), Ok(()));
        room.spend(1);
        assert_eq!(room.take(1, KEEP, now, || Some(KEEP)), Err(KEEP));
    }

    #[test]
    fn what_was_written_untaken_counts_too() {
        let now = Instant::now();
        let mut room = Room::default();
        assert_eq!(room.take(10, KEEP, now, || Some(KEEP + MARGIN_BYTES + 100)), Ok(()));
        room.spend(90);
        assert_eq!(room.take(1, KEEP, now, || Some(KEEP)), Err(KEEP), "asked again");
    }

    /// What happens on a file system: we take and write, we write untaken, others write, others make room.
    #[derive(Clone, Debug)]
    enum Step {
        Take(u64),
        Spend(u64),
        Others(u64),
        Freed(u64),
    }

    fn step() -> impl Strategy<Value = (u64, Step)> {
        let size = || prop_oneof![1..5_000_u64, 1..(20_u64 << 20), 1..(200_u64 << 20)];
        let what = prop_oneof![
            8 => size().prop_map(Step::Take),
            1 => size().prop_map(Step::Spend),
            2 => size().prop_map(Step::Others),
            1 => size().prop_map(Step::Freed),
        ];
        (0..4_000_u64, what)
    }

    proptest! {
        /// Whatever happens, what must stay free does, as long as others write no more than the margin within the time.
        #[test]
        fn what_was_granted_leaves_the_watermark(
            free in (0..(1_u64 << 30)),
            steps in prop::collection::vec(step(), 1..300),
        ) {
            let (mut room, mut free, mut now) = (Room::default(), free, Instant::now());
            let mut others: Vec<(Instant, u64)> = Vec::new();
            for (micros, step) in steps {
                now += Duration::from_micros(micros);
                match step {
                    Step::Take(bytes) => match room.take(bytes, KEEP, now, || Some(free)) {
                        Ok(()) => {
                            prop_assert!(free >= KEEP + bytes, "{bytes} granted of {free}");
                            free -= bytes;
                        }
                        Err(said) => prop_assert!(said == free && free < KEEP + bytes, "{bytes} refused of {free}"),
                    },
                    Step::Spend(bytes) => {
                        free = free.saturating_sub(bytes);
                        room.spend(bytes);
                    }
                    Step::Others(bytes) => {
                        others.retain(|(at, _)| now - *at < LOOK_EVERY);
                        let allowed = MARGIN_BYTES - others.iter().map(|(_, n)| n).sum::<u64>();
                        let bytes = bytes.min(allowed);
                        others.push((now, bytes));
                        free = free.saturating_sub(bytes);
                    }
                    Step::Freed(bytes) => free += bytes,
                }
            }
        }
    }
}
