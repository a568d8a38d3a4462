//! How long to wait before the next attempt: doubling, capped, jittered; or never growing. [pure]

use std::time::Duration;

const FIRST_MS: u64 = 200;

/// The longest wait: a broker that comes back is found within this.
const LONGEST_MS: u64 = 10_000;

/// Counts attempts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure; `random` decides where between half and the whole of it.
    pub fn after_failure(&mut self, random: u64) -> Duration {
        let whole = FIRST_MS.saturating_mul(1 << self.failures.min(20)).min(LONGEST_MS);
        self.failures = self.failures.saturating_add(1);
        Duration::from_millis(whole / 2 + random % (whole / 2 + 1))
    }

    /// It worked: start over.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Waits of random length, so that a thousand gateways do not come back in the same moment.
#[derive(Clone, Copy, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// `seed` is random.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// 64 bits (xorshift: as random as waits need).
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Between an eighth of `most` and `most`. It never grows: an attempt costs little, and what counts is
    /// the time until the first byte after the link is back.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        let share = (self.bits() % 1024) as f64 / 1024.0;
        most.mul_f64(0.125 + 0.875 * share)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_grow_to_the_cap_and_start_over(random in any::<u64>(), failures in 1usize..200) {
            let mut backoff = Backoff::default();
            prop_assert!(backoff.after_failure(random) <= Duration::from_millis(FIRST_MS));
            let last = (0..failures).map(|_| backoff.after_failure(random)).last().unwrap();
            prop_assert!(last <= Duration::from_millis(LONGEST_MS));
            if failures > 10 {
                prop_assert!(last >= Duration::from_millis(LONGEST_MS / 2));
            }
            backoff.reset();
            prop_assert!(backoff.after_failure(random) <= Duration::from_millis(FIRST_MS));
        }
    }

    #[test]
    fn waits_differ_and_stay_within_their_bound() {
        let mut jitter = Jitter::new(7);
        let most = Duration::from_millis(800);
        let waits: Vec<_> = (0..1000).map(|_| jitter.up_to(most)).collect();
        assert!(waits.iter().all(|w| *w <= most && *w >= most / 8));
        assert!(waits.iter().any(|w| *w > most / 2) && waits.iter().any(|w| *w < most / 2));
    }
}
