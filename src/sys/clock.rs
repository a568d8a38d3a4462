//! Wall-clock time as a value that is handed in, so that a test can set it.
//! A gateway's clock may say 1970 after boot and jump later: nothing that decides about an
//! event's delivery may depend on this clock; it only labels.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A source of wall-clock time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Set(Arc<AtomicI64>),
}

impl Clock {
    /// The machine's own clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `unix_ms` until the returned handle is changed.
    pub fn set_to(unix_ms: i64) -> (Self, Arc<AtomicI64>) {
        let hand = Arc::new(AtomicI64::new(unix_ms));
        (Self(Source::Set(hand.clone())), hand)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z; negative before it.
    #[allow(clippy::disallowed_methods)] // the one place that asks the system
    pub fn unix_ms(&self) -> i64 {
        match &self.0 {
            Source::System => match SystemTime::now().duration_since(UNIX_EPOCH) {
                Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
                Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
            },
            Source::Set(hand) => hand.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_clock_follows_its_hand() {
        let (clock, hand) = Clock::set_to(5);
        assert_eq!(clock.unix_ms(), 5);
        hand.store(-7, Ordering::Relaxed);
        assert_eq!(clock.clone().unix_ms(), -7);
    }
}
