//! The time that commands expire on: a time line that outlives restarts and wrong clocks (see `journal::time_line`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::command::Millis;
use super::record::Record;
use crate::event::Timestamp;
use crate::journal::time_line::{Reading, Restored, TimeLine};
use crate::sys::clock::Clock;

/// With a record to be written, the clocks are written too if this long was not: what may be repeated of the line after a
/// crash.
const CLOCK_AFTER_MS: Millis = 10_000;

/// A line that is this close to the wall clock is shown as it is, so that a time does not change by the millisecond.
const SAME_MS: i64 = 60_000;

/// The line of this run of the process.
#[derive(Debug)]
pub struct Line {
    line: TimeLine,
    born: Instant,
    clock: Clock,
    /// When the clocks were written last, on the line.
    written: AtomicU64,
}

impl Line {
    /// Goes on from what was restored.
    pub fn after(restored: &Restored, clock: &Clock) -> Self {
        let line = TimeLine::start(restored, clock.unix_ms());
        Self { line, born: Instant::now(), clock: clock.clone(), written: AtomicU64::new(0) }
    }

    /// Where it is.
    pub fn now(&self) -> Millis {
        self.line.at(u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The record of the clocks, if it is due beside others.
    pub fn record_if_due(&self) -> Option<Record> {
        self.record_after(CLOCK_AFTER_MS)
    }

    /// The record of the clocks, if none was written for `ms`.
    pub fn record_after(&self, ms: Millis) -> Option<Record> {
        let line_ms = self.now();
        (line_ms.saturating_sub(self.written.load(Ordering::Relaxed)) >= ms).then(|| {
            self.written.store(line_ms, Ordering::Relaxed);
            Record::Time(Reading { line_ms, wall_ms: self.clock.unix_ms() })
        })
    }

    /// When the clocks were written last.
    pub fn written(&self) -> Millis {
        self.written.load(Ordering::Relaxed)
    }

    /// A point of the line as people read it, by today's clock.
    pub fn show(&self, at: Millis) -> Timestamp {
        let number = |ms: Millis| i64::try_from(ms).unwrap_or(i64::MAX);
        let ahead = self.clock.unix_ms().saturating_sub(number(self.now()));
        let shift = if ahead.abs() < SAME_MS { 0 } else { ahead };
        Timestamp::from_unix_ms(number(at).saturating_add(shift))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_by_the_clock_of_today_and_waited_for_by_the_line() {
        let (clock, hand) = Clock::set_to(1000);
        let line = Line::after(&Restored::default(), &clock);
        let at = line.now() + 5000;
        assert_eq!(line.show(at).unix_ms(), i64::try_from(at).unwrap());
        hand.store(1_800_000_000_000, Ordering::Relaxed);
        assert!(line.now() < 100_000, "the line does not jump");
        assert!((1_800_000_000_000..1_800_000_010_000).contains(&line.show(at).unix_ms()));
    }

    #[test]
    fn the_clocks_are_written_now_and_then() {
        let (clock, _) = Clock::set_to(1_800_000_000_000);
        let line = Line::after(&Restored::default(), &clock);
        assert!(matches!(line.record_if_due(), Some(Record::Time(r)) if r.wall_ms == 1_800_000_000_000));
        assert_eq!(line.record_if_due(), None);
        assert!(line.record_after(0).is_some());
    }
}
