//! A time line for deadlines that are kept on disk, on a machine whose clock may say 1970 after boot. [pure]
//!
//! It moves with the steady clock. A start continues it at the last recorded point, plus the time that the wall clock says has
//! passed since, provided the wall clock could be believed then and now. So nothing ends early because a clock was
//! wrong and was set later; where no clock ran meanwhile, what was off does not count.
//!
//! Where the wall clock is right from the first start on, the line is the wall clock's Unix time.

/// 2024-01-01T00:00:00Z in milliseconds: a wall clock before it has not been set since boot.
pub const BELIEVABLE_MS: i64 = 1_704_067_200_000;

/// Bytes of an encoded reading.
pub const READING_LEN: usize = 16;

/// Where the line and the wall clock stood at one moment. To be recorded now and then: what came after the last record
/// is counted by the wall clock alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Milliseconds on the line.
    pub line_ms: u64,
    /// Unix time in milliseconds as the wall clock said.
    pub wall_ms: i64,
}

impl Reading {
    /// Both numbers, little-endian.
    pub fn encode(&self) -> [u8; READING_LEN] {
        let mut out = [0; READING_LEN];
        out[..8].copy_from_slice(&self.line_ms.to_le_bytes());
        out[8..].copy_from_slice(&self.wall_ms.to_le_bytes());
        out
    }

    /// `None`: not as long as one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (line, wall) = bytes.split_first_chunk()?;
        Some(Self { line_ms: u64::from_le_bytes(*line), wall_ms: i64::from_le_bytes(wall.try_into().ok()?) })
    }
}

/// What of the line is found on disk at a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    last: Option<Reading>,
    at_least: Option<u64>,
}

impl Restored {
    /// A recorded reading, in the order of the records.
    pub fn reading(&mut self, reading: Reading) {
        self.at_least(reading.line_ms);
        self.last = Some(reading);
    }

    /// The line had reached this point.
    pub fn at_least(&mut self, line_ms: u64) {
        self.at_least = self.at_least.max(Some(line_ms));
    }
}

/// The line of one run of the process. Never goes back, also against what was recorded before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLine {
    start_ms: u64,
    away_ms: u64,
}

impl TimeLine {
    /// Continues what was recorded, or begins a line, at Unix time `wall_ms`.
    pub fn start(restored: &Restored, wall_ms: i64) -> Self {
        let wall = u64::try_from(wall_ms).unwrap_or(0);
        let off = restored.last.filter(|then| then.wall_ms >= BELIEVABLE_MS && wall_ms >= BELIEVABLE_MS).map(|then| {
            let passed = u64::try_from(wall_ms.saturating_sub(then.wall_ms)).unwrap_or(0);
            then.line_ms.saturating_add(passed)
        });
        let start_ms = match restored.at_least {
            None => wall,
            Some(reached) => off.unwrap_or(reached).max(reached),
        };
        Self { start_ms, away_ms: start_ms - restored.at_least.unwrap_or(start_ms) }
    }

    /// How long nothing ran before the start, as the wall clock says. If that is very long, the clock may be wrong.
    pub fn away_ms(&self) -> u64 {
        self.away_ms
    }

    /// Where it is `elapsed_ms` after its start by the steady clock.
    pub fn at(&self, elapsed_ms: u64) -> u64 {
        self.start_ms.saturating_add(elapsed_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000_000;
    const HOUR: u64 = 3_600_000;

    fn restored(readings: &[(u64, i64)]) -> Restored {
        let mut restored = Restored::default();
        readings.iter().for_each(|(line_ms, wall_ms)| {
            restored.reading(Reading { line_ms: *line_ms, wall_ms: *wall_ms });
        });
        restored
    }

    #[test]
    fn with_a_clock_that_is_right_it_is_unix_time_across_restarts() {
        let line = TimeLine::start(&Restored::default(), NOW);
        assert_eq!((line.at(5), line.away_ms()), (NOW as u64 + 5, 0));
        let off = 3 * HOUR;
        let again = TimeLine::start(&restored(&[(line.at(7), NOW + 7)]), NOW + 7 + off as i64);
        assert_eq!((again.at(1), again.away_ms()), (NOW as u64 + 7 + off + 1, off));
    }

    #[test]
    fn a_boot_in_1970_goes_on_where_the_record_ends() {
        let line = TimeLine::start(&restored(&[(NOW as u64, NOW)]), 12_345);
        assert_eq!((line.at(10), line.away_ms()), (NOW as u64 + 10, 0));
    }

    #[test]
    fn a_first_boot_in_1970_ends_nothing_when_the_clock_is_right_at_the_next() {
        let line = TimeLine::start(&Restored::default(), 5_000);
        let last = line.at(HOUR);
        assert_eq!(TimeLine::start(&restored(&[(last, 5_000 + HOUR as i64)]), NOW).at(0), last);
        // Set while it ran: from then on, the time it was off counts.
        assert_eq!(TimeLine::start(&restored(&[(last, NOW)]), NOW + 9).at(0), last + 9);
    }

    #[test]
    fn a_clock_that_went_back_takes_nothing_back() {
        let line = TimeLine::start(&restored(&[(NOW as u64, NOW)]), NOW - HOUR as i64);
        assert_eq!(line.at(0), NOW as u64);
        let mut known = restored(&[(10, NOW)]);
        known.at_least(500);
        assert_eq!(TimeLine::start(&known, NOW + 3).at(0), 500);
    }

    proptest! {
        #[test]
        fn it_never_goes_back_whatever_the_wall_clock_says(
            runs in prop::collection::vec((any::<i64>(), prop::collection::vec((0..1u64 << 40, any::<i64>()), 0..5)), 1..20)
        ) {
            let mut known = Restored::default();
            let mut reached = 0;
            for (wall_ms, steps) in runs {
                let line = TimeLine::start(&known, wall_ms);
                let mut elapsed = 0;
                prop_assert!(line.at(0) >= reached);
                for (more, wall_ms) in steps {
                    elapsed += more;
                    let reading = Reading { line_ms: line.at(elapsed), wall_ms };
                    prop_assert_eq!(Reading::decode(&reading.encode()), Some(reading));
                    known.reading(reading);
                    reached = reading.line_ms;
                }
            }
        }
    }
}
