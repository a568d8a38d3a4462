//! Which refusals are written down: of the same reason, source and device one in ten seconds, the others counted. [pure]

use core::net::IpAddr;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// One line per reason, source and device in this time.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Most of these at once; beyond that the window of the oldest ends early.
pub const KEYS_MAX: usize = 4096;

/// Most lines in one window in all: an attack from very many addresses must not fill the log, or the disk with syncs.
pub const LINES_MAX: usize = 1000;

/// What is counted together. By device too: many may share an address, and one that is refused all the time must not hide
/// what another one tries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The reason's stable word.
    pub reason: &'static str,
    /// Where from.
    pub source: Option<IpAddr>,
    /// A device that exists.
    pub device: Option<Arc<str>>,
}

/// Decides. Time is counted from any fixed moment.
#[derive(Debug, Default)]
pub struct Limiter {
    /// Left out since the line that began the window.
    windows: HashMap<Key, u64>,
    order: VecDeque<(Duration, Key)>,
    lines_since: Duration,
    lines: usize,
}

/// What was left out of one window.
#[derive(Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Of what.
    pub key: Key,
    /// How many.
    pub count: u64,
}

impl Limiter {
    /// Whether this one is written.
    pub fn note(&mut self, key: Key, now: Duration) -> bool {
        if let Some(left_out) = self.windows.get_mut(&key) {
            *left_out += 1;
            return false;
        }
        if now.saturating_sub(self.lines_since) >= WINDOW {
            (self.lines_since, self.lines) = (now, 0);
        }
        let written = self.lines < LINES_MAX;
        self.lines += usize::from(written);
        self.windows.insert(key.clone(), u64::from(!written));
        self.order.push_back((now, key));
        written
    }

    /// The windows that are over, or too many, and left something out. Call after [`Limiter::note`] and now and then.
    pub fn over(&mut self, now: Duration) -> Vec<LeftOut> {
        let mut out = Vec::new();
        while let Some((began, _)) = self.order.front()
            && (now.saturating_sub(*began) >= WINDOW || self.order.len() > KEYS_MAX)
            && let Some((_, key)) = self.order.pop_front()
        {
            if let Some(count) = self.windows.remove(&key).filter(|count| *count > 0) {
                out.push(LeftOut { key, count });
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: Key = Key { reason: "bad-credential", source: None, device: None };

    #[test]
    fn one_line_is_written_and_the_others_are_counted() {
        let mut l = Limiter::default();
        assert!(l.note(KEY, Duration::ZERO));
        assert!((0..5).all(|_| !l.note(KEY, Duration::from_secs(9))));
        assert!(l.note(Key { reason: "no-credential", ..KEY }, Duration::from_secs(9)));
        assert!(l.note(Key { device: Some("press-7".into()), ..KEY }, Duration::from_secs(9)));
        assert_eq!(l.over(Duration::from_secs(9)), []);
        assert_eq!(l.over(WINDOW), [LeftOut { key: KEY, count: 5 }]);
        assert!(l.note(KEY, WINDOW));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Written or counted: nothing else happens to a refusal, and both are bounded.
        #[test]
        fn every_refusal_is_written_or_counted(steps in proptest::collection::vec((0_u32..9000, 0_u64..200), 1..2000)) {
            let mut l = Limiter::default();
            let (mut now, mut written, mut left_out) = (Duration::ZERO, 0, 0);
            for (who, pause) in &steps {
                now += Duration::from_millis(*pause);
                written += u64::from(l.note(Key { source: Some(IpAddr::from(who.to_be_bytes())), ..KEY }, now));
                left_out += l.over(now).iter().map(|o| o.count).sum::<u64>();
                prop_assert!(l.windows.len() <= KEYS_MAX && l.order.len() == l.windows.len());
            }
            left_out += l.over(now + WINDOW).iter().map(|o| o.count).sum::<u64>();
            prop_assert_eq!(written + left_out, steps.len() as u64);
            prop_assert!(l.windows.is_empty());
            let windows = u64::try_from(now.as_millis() / WINDOW.as_millis()).unwrap() + 1;
            prop_assert!(written <= windows * LINES_MAX as u64);
        }
    }
}
