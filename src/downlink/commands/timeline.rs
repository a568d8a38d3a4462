//! The time line that commands expire on: it never goes back, also across restarts.

use std::time::Instant;

use super::command::Millis;
use crate::sys::clock::Clock;

/// A count of milliseconds that begins at the wall clock or the last recorded time, whichever is later, and moves with the
/// steady clock. So a gateway that boots in 1970 expires nothing early; that it expires late, until its next restart with
/// the right time, is the lesser evil.
#[derive(Clone, Copy, Debug)]
pub struct TimeLine {
    start: Millis,
    since: Instant,
}

impl TimeLine {
    /// Goes on after `recorded`.
    pub fn after(recorded: Millis, clock: &Clock) -> Self {
        let wall = u64::try_from(clock.unix_ms()).unwrap_or(0);
        Self { start: recorded.max(wall), since: Instant::now() }
    }

    /// Where it is.
    pub fn now(&self) -> Millis {
        self.start.saturating_add(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_says_1970_does_not_turn_time_back() {
        let (clock, hand) = Clock::set_to(-5);
        assert!(TimeLine::after(1000, &clock).now() >= 1000);
        hand.store(9_000_000, std::sync::atomic::Ordering::Relaxed);
        assert!(TimeLine::after(1000, &clock).now() >= 9_000_000);
    }
}
