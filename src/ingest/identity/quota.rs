//! How much a device may send: token buckets for events and bytes, and a count of connections. [pure]
//!
//! A bucket holds one second's worth. What is larger than that needs a full bucket and leaves a debt, so that a large
//! batch is possible and the rate over time holds all the same.

use std::time::Duration;

/// Parts of one token: with nanoseconds as the unit of time, every sum is exact.
const PARTS: i128 = 1_000_000_000;

/// The most of one device or of all; 0: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Events a second.
    pub events: u64,
    /// Bytes a second.
    pub bytes: u64,
}

impl Rates {
    /// Whether there is any limit.
    pub fn any(self) -> bool {
        self.events > 0 || self.bytes > 0
    }
}

/// One rate. Time is counted from any fixed moment.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Tokens a second, and most tokens; 0: no limit.
    rate: u64,
    /// In parts of a token; below zero: a debt.
    level: i128,
    at: Duration,
}

impl Bucket {
    fn new(rate: u64, now: Duration) -> Self {
        Self { rate, level: i128::from(rate) * PARTS, at: now }
    }

    fn refill(&mut self, now: Duration) {
        // A clock that stands or goes back gives nothing and takes nothing.
        let gone = now.saturating_sub(self.at).as_nanos();
        let full = i128::from(self.rate) * PARTS;
        let gained = i128::try_from(gone).unwrap_or(i128::MAX).saturating_mul(i128::from(self.rate));
        self.level = self.level.saturating_add(gained).min(full);
        self.at = self.at.max(now);
    }

    /// How long until `tokens` may be taken; zero: now. Call after `refill`.
    fn wait(&self, tokens: u64) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let missing = i128::from(tokens.min(self.rate)) * PARTS - self.level;
        let nanos = (missing.max(0) + i128::from(self.rate) - 1) / i128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn take(&mut self, tokens: u64) {
        if self.rate > 0 {
            self.level -= i128::from(tokens) * PARTS;
        }
    }

    fn is_full(&self) -> bool {
        self.level >= i128::from(self.rate) * PARTS
    }
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Events a second of this device.
    Events,
    /// Bytes a second of this device.
    Bytes,
    /// Events a second of all devices.
    TotalEvents,
    /// Bytes a second of all devices.
    TotalBytes,
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Events => "this device's events a second",
            Self::Bytes => "this device's bytes a second",
            Self::TotalEvents => "all devices' events a second",
            Self::TotalBytes => "all devices' bytes a second",
        })
    }
}

/// A quota is used up for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the quota of {limit} is used up; try again in {} ms", time.as_millis())]
pub struct Wait {
    /// When the same may be tried again, from now.
    pub time: Duration,
    /// Which one.
    pub limit: Limit,
}

/// What one device, or all together, has left.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    events: Bucket,
    bytes: Bucket,
    connections: usize,
}

impl Meter {
    /// Full buckets, no connections.
    pub fn new(rates: Rates, now: Duration) -> Self {
        Self { events: Bucket::new(rates.events, now), bytes: Bucket::new(rates.bytes, now), connections: 0 }
    }

    /// Changes the limits, where they differ: with full buckets.
    pub fn set(&mut self, rates: Rates, now: Duration) {
        if (self.events.rate, self.bytes.rate) != (rates.events, rates.bytes) {
            let connections = self.connections;
            *self = Self { connections, ..Self::new(rates, now) };
        }
    }

    fn refill(&mut self, now: Duration) {
        self.events.refill(now);
        self.bytes.refill(now);
    }

    fn take(&mut self, events: u64, bytes: u64) {
        self.events.take(events);
        self.bytes.take(bytes);
    }

    /// Nothing would be forgotten with it.
    pub fn is_idle(&mut self, now: Duration) -> bool {
        self.refill(now);
        self.connections == 0 && self.events.is_full() && self.bytes.is_full()
    }

    /// One connection more, if there are fewer than `most`.
    pub fn enter(&mut self, most: usize) -> bool {
        let free = self.connections < most;
        self.connections += usize::from(free);
        free
    }

    /// One connection less.
    pub fn leave(&mut self) {
        self.connections = self.connections.saturating_sub(1);
    }
}

/// No wait.
const NONE: (Duration, Limit) = (Duration::ZERO, Limit::TotalEvents);

/// Takes `events` and `bytes` from the device's quota and from everybody's, or from neither.
pub fn admit(
    device: &mut Meter,
    total: Option<&mut Meter>,
    now: Duration,
    events: u64,
    bytes: u64,
) -> Result<(), Wait> {
    device.refill(now);
    let mut waits = [(device.events.wait(events), Limit::Events), (device.bytes.wait(bytes), Limit::Bytes), NONE, NONE];
    let mut total = total;
    if let Some(total) = total.as_deref_mut() {
        total.refill(now);
        waits[2] = (total.events.wait(events), Limit::TotalEvents);
        waits[3] = (total.bytes.wait(bytes), Limit::TotalBytes);
    }
    if let Some((time, limit)) = waits.into_iter().filter(|(time, _)| !time.is_zero()).max_by_key(|(time, _)| *time) {
        return Err(Wait { time, limit });
    }
    device.take(events, bytes);
    if let Some(total) = total {
        total.take(events, bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_second_is_worth_its_rate() {
        let mut meter = Meter::new(Rates { events: 10, bytes: 0 }, Duration::ZERO);
        for _ in 0..10 {
            admit(&mut meter, None, Duration::ZERO, 1, 1 << 40).unwrap();
        }
        let wait = admit(&mut meter, None, Duration::ZERO, 1, 0).unwrap_err();
        assert_eq!(wait, Wait { time: SECOND / 10, limit: Limit::Events });
        admit(&mut meter, None, wait.time, 1, 0).unwrap();
    }

    #[test]
    fn a_batch_larger_than_the_bucket_leaves_a_debt() {
        let mut meter = Meter::new(Rates { events: 100, bytes: 0 }, Duration::ZERO);
        admit(&mut meter, None, Duration::ZERO, 1000, 0).unwrap();
        let wait = admit(&mut meter, None, Duration::ZERO, 1, 0).unwrap_err();
        assert_eq!(wait.time, Duration::from_millis(9010));
    }

    #[test]
    fn what_all_may_not_the_one_keeps() {
        let mut device = Meter::new(Rates { events: 10, bytes: 0 }, Duration::ZERO);
        let mut total = Meter::new(Rates { events: 1, bytes: 0 }, Duration::ZERO);
        admit(&mut device, Some(&mut total), Duration::ZERO, 1, 0).unwrap();
        let wait = admit(&mut device, Some(&mut total), Duration::ZERO, 1, 0).unwrap_err();
        assert_eq!(wait.limit, Limit::TotalEvents);
        admit(&mut device, None, Duration::ZERO, 9, 0).unwrap();
    }

    #[test]
    fn connections_are_counted() {
        let mut meter = Meter::new(Rates::default(), Duration::ZERO);
        assert!(meter.enter(2) && meter.enter(2) && !meter.enter(2) && !meter.is_idle(SECOND));
        meter.leave();
        assert!(meter.enter(2));
        meter.leave();
        meter.leave();
        assert!(meter.is_idle(SECOND));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        /// Over any time, no more than the rate's worth, one bucket and one batch's debt; and who waits as told is served.
        #[test]
        fn the_rate_holds_over_any_time(
            rate in 1_u64..1000,
            steps in proptest::collection::vec((0_u64..3_000_000_000, 1_u64..2000), 1..60),
        ) {
            let mut meter = Meter::new(Rates { events: rate, bytes: 0 }, Duration::ZERO);
            let (mut now, mut taken, mut largest) = (Duration::ZERO, 0_u128, 0);
            for (pause, events) in steps {
                now += Duration::from_nanos(pause);
                if let Err(wait) = admit(&mut meter, None, now, events, 0) {
                    prop_assert!(wait.time > Duration::ZERO);
                    now += wait.time;
                    prop_assert!(admit(&mut meter, None, now, events, 0).is_ok(), "waited as told");
                }
                taken += u128::from(events);
                largest = largest.max(events.saturating_sub(rate));
                let most = u128::from(rate) * now.as_nanos() / 1_000_000_000 + u128::from(rate) + u128::from(largest) + 1;
                prop_assert!(taken <= most, "{} of at most {}", taken, most);
            }
        }

        /// A clock that goes back gives nothing.
        #[test]
        fn time_that_stands_gives_nothing(times in proptest::collection::vec(0_u64..1_000_000_000, 1..50)) {
            let mut meter = Meter::new(Rates { events: 5, bytes: 0 }, SECOND);
            let taken = times.iter().filter(|t| admit(&mut meter, None, Duration::from_nanos(**t), 1, 0).is_ok()).count();
            prop_assert!(taken <= 5);
        }
    }
}
