//! How many messages of a pack are asked for ahead: as many as the link needs to be kept busy. [pure]
//!
//! Whatever was asked for when the process is killed travels again. So on a slow link, where one piece takes longer than
//! the question for the next one, one at a time is asked for: that keeps it nearly as busy.

use std::time::Duration;

use super::AHEAD_MAX;

/// A link is fast from so many bytes per second on: a piece then comes within a tenth of a second, which is not much longer
/// than a small machine needs to prove and write one, and what a kill costs is not half a second of the link.
pub const FAST_BYTES_PER_S: u64 = 2_500_000;

/// What is known of a link.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Shortest time from a question without data to its answer.
    round_trip: Option<Duration>,
    ahead: u32,
}

impl Default for Pace {
    /// Slow, until something is known.
    fn default() -> Self {
        Self { round_trip: None, ahead: 1 }
    }
}

impl Pace {
    /// Messages that may be on their way.
    pub fn ahead(&self) -> u32 {
        self.ahead
    }

    /// A question without data was answered after this time, with nothing else on the way.
    pub fn answered(&mut self, took: Duration) {
        self.round_trip = Some(self.round_trip.map_or(took, |before| before.min(took)));
    }

    /// A message of `bytes` was waited for so long: since it was asked for, or since the one before it was done with, if
    /// that was later. `alone`: nothing else was on the way when it was asked for, so the round trip is in that time.
    /// One more or one fewer at a time: a link may hold back some bytes and then send them at once.
    pub fn came(&mut self, bytes: u64, waited: Duration, alone: bool) {
        let round_trip = self.round_trip.unwrap_or_default();
        let took = if alone { waited.saturating_sub(round_trip) } else { waited };
        // Whatever the round trip is: a measure of it on a busy machine makes no link fast.
        let is_fast = u128::from(bytes) * 1_000_000 >= u128::from(FAST_BYTES_PER_S) * waited.as_micros();
        // Whole ones that come within a round trip, in which nothing would be asked for.
        let within = u32::try_from(round_trip.as_micros() / took.as_micros().max(1)).unwrap_or(AHEAD_MAX);
        let wanted = if is_fast { AHEAD_MAX } else { within.saturating_add(1).min(AHEAD_MAX) };
        self.ahead = wanted.clamp(self.ahead.saturating_sub(1), self.ahead + 1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::models::pack::PIECE_BYTES_MAX;

    const PIECE: u64 = PIECE_BYTES_MAX as u64;

    /// Fetches pieces over a link, each asked for as the pace allows; bytes per second, and the most that were on the way
    /// once the link was known. A piece is written in no time.
    fn fetched(bytes_per_s: u64, round_trip: Duration, pieces: usize) -> (f64, u32) {
        let piece = Duration::from_secs_f64(PIECE as f64 / bytes_per_s as f64);
        let mut pace = Pace::default();
        pace.answered(round_trip);
        let (mut now, mut link_free, mut most) = (Duration::ZERO, Duration::ZERO, 0);
        // Asked for at, comes at, alone.
        let mut on_the_way = std::collections::VecDeque::new();
        let mut done_at = Duration::ZERO;
        let (mut asked, mut come) = (0, 0);
        while come < pieces {
            while asked < pieces && on_the_way.len() < pace.ahead() as usize {
                link_free = link_free.max(now + round_trip) + piece;
                on_the_way.push_back((now, link_free, on_the_way.is_empty()));
                asked += 1;
            }
            if come > 8 {
                most = most.max(on_the_way.len() as u32);
            }
            let (asked_at, at, alone) = on_the_way.pop_front().unwrap();
            now = now.max(at);
            pace.came(PIECE, now - done_at.max(asked_at), alone);
            (done_at, come) = (now, come + 1);
        }
        ((pieces as u64 * PIECE) as f64 / now.as_secs_f64(), most)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::models::tests::cases(2_000)))]

        #[test]
        fn a_slow_link_is_asked_for_one_at_a_time_and_no_link_is_left_idle_for_long(
            bytes_per_s in 5_000_u64..50_000_000,
            round_trip_ms in 0_u64..1000,
        ) {
            let round_trip = Duration::from_millis(round_trip_ms);
            let (reached, most) = fetched(bytes_per_s, round_trip, 60);
            let piece = PIECE as f64 / bytes_per_s as f64;
            // What asking for as many as ever would reach, but for the first round trips.
            let best = f64::min(bytes_per_s as f64, f64::from(AHEAD_MAX) * PIECE as f64 / (piece + round_trip.as_secs_f64()));
            prop_assert!((1..=AHEAD_MAX).contains(&most));
            prop_assert!(reached >= 0.45 * best, "{reached} of {best} bytes/s with {most} ahead");
            if round_trip.as_secs_f64() < 0.99 * piece && bytes_per_s < FAST_BYTES_PER_S {
                prop_assert_eq!(most, 1);
                prop_assert!(reached >= 0.5 * bytes_per_s as f64);
            }
        }
    }

    #[test]
    fn a_burst_is_no_fast_link_and_a_link_that_becomes_slow_is_asked_for_less() {
        let mut pace = Pace::default();
        assert_eq!(pace.ahead(), 1, "nothing is known");
        pace.answered(Duration::from_millis(5));
        pace.came(PIECE, Duration::from_millis(6), true);
        assert_eq!(pace.ahead(), 2);
        pace.came(PIECE, Duration::from_millis(170), false);
        assert_eq!(pace.ahead(), 1);
        for expected in [2, 3, 4, 4] {
            pace.came(PIECE, Duration::from_millis(10), false);
            assert_eq!(pace.ahead(), expected);
        }
        for expected in [3, 2, 1, 1] {
            pace.came(PIECE, Duration::from_millis(170), false);
            assert_eq!(pace.ahead(), expected);
        }
        // Small ones say nothing of speed where the round trip is all they take.
        let mut pace = Pace::default();
        pace.answered(Duration::from_millis(300));
        (0..4).for_each(|_| pace.came(100, Duration::from_millis(310), true));
        assert_eq!(pace.ahead(), AHEAD_MAX);
    }
}
