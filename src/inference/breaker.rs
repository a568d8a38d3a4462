//! A model that is too slow is left alone for a while: events then pass at once instead of waiting in vain. [pure]

use std::time::{Duration, Instant};

/// So many answers in a row that came too late are no accident.
const LATE_MAX: u32 = 3;

/// First and longest rest. After each the model is asked once.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(30);

/// See the module. The times given to it must not go back.
#[derive(Debug)]
pub struct Breaker {
    /// Grows with every rest and every try: who was asked before says nothing new.
    epoch: u64,
    late: u32,
    /// How long the next rest lasts.
    lasts: Duration,
    until: Option<Instant>,
}

/// The model was asked, and it will be told how that went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked(u64);

impl Default for Breaker {
    fn default() -> Self {
        Self { epoch: 0, late: 0, lasts: REST_MIN, until: None }
    }
}

impl Breaker {
    /// Whether the model is to be asked now; not during a rest.
    pub fn ask(&mut self, now: Instant) -> Option<Asked> {
        if let Some(until) = self.until {
            if now < until {
                return None;
            }
            // The others wait for what this one finds; not for ever.
            self.until = Some(now + self.lasts);
            self.epoch += 1;
        }
        Some(Asked(self.epoch))
    }

    /// How it went. `true`: a rest begins.
    pub fn told(&mut self, asked: Asked, in_time: bool, now: Instant) -> bool {
        if asked.0 != self.epoch {
            return false;
        }
        if in_time {
            (self.late, self.lasts, self.until) = (0, REST_MIN, None);
            return false;
        }
        self.late += 1;
        if self.until.is_none() && self.late < LATE_MAX {
            return false;
        }
        self.until = Some(now + self.lasts);
        (self.late, self.lasts) = (0, (self.lasts * 2).min(REST_MAX));
        self.epoch += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_late_answers_begin_a_rest_and_one_in_time_ends_it() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        let many: Vec<Asked> = (0..9).map(|_| breaker.ask(now).unwrap()).collect();
        assert_eq!(
            many.iter().filter(|asked| breaker.told(**asked, false, now)).count(),
            1,
            "one rest for all of them"
        );
        assert_eq!(breaker.ask(now), None);
        now += REST_MIN;
        let first = breaker.ask(now).unwrap();
        assert_eq!(breaker.ask(now), None, "one is enough to find out");
        assert!(breaker.told(first, false, now));
        assert_eq!(breaker.ask(now + REST_MIN), None, "the next rest is longer");
        now += REST_MIN * 2;
        let second = breaker.ask(now).unwrap();
        assert!(!breaker.told(second, true, now));
        assert!(breaker.ask(now).is_some() && breaker.ask(now).is_some());
    }

    #[test]
    fn accidents_are_forgiven() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..100 {
            for in_time in [false, false, true] {
                let asked = breaker.ask(now).unwrap();
                assert!(!breaker.told(asked, in_time, now));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Whatever happens, a model is asked again within the longest rest, and within it at most once a second
        /// while it stays too slow.
        #[test]
        fn a_rest_ends(steps in prop::collection::vec((0_u64..40_000, any::<bool>(), any::<bool>()), 1..60)) {
            let (mut breaker, mut now) = (Breaker::default(), Instant::now());
            let mut waiting = Vec::new();
            let mut refused_since: Option<Instant> = None;
            for (pause, tells, in_time) in steps {
                now += Duration::from_millis(pause);
                match breaker.ask(now) {
                    Some(asked) => {
                        refused_since = None;
                        waiting.push(asked);
                    }
                    None => {
                        let since = *refused_since.get_or_insert(now);
                        prop_assert!(now - since < REST_MAX);
                    }
                }
                if tells && !waiting.is_empty() {
                    let asked = waiting.remove(0);
                    breaker.told(asked, in_time, now);
                }
            }
        }
    }
}
