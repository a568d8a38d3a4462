//! How long to wait before the next attempt: doubling, capped, jittered. [pure]

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
}
