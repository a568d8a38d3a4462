//! How a lane is cut into batches, and which partition an event goes to. [pure]

use crate::pulsar::murmur;

/// A batch that is not full leaves only while fewer than this many units of its partition wait for
/// a receipt. An event that comes alone therefore leaves at once; under load the receipts set the
/// pace and batches fill by themselves, without a timer. Two: one is stored while the next is on its way.
pub const PARTIAL_IN_FLIGHT: usize = 2;

/// Limits of one lane.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most events in a batch.
    pub batch_events: usize,
    /// Most bytes in a batch, before compression.
    pub batch_bytes: usize,
    /// Most bytes taken and not yet confirmed.
    pub window: usize,
}

/// What has been gathered for the next batch of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Lowest sequence in it.
    pub lowest: u64,
    /// Highest sequence in it.
    pub highest: u64,
    /// Events in it; 0: it is empty and the other fields mean nothing.
    pub events: usize,
    /// Their bytes.
    pub bytes: usize,
}

impl Open {
    /// Adds one event, whose sequence is above all others.
    pub fn add(&mut self, seq: u64, bytes: usize) {
        if self.events == 0 {
            self.lowest = seq;
        }
        self.highest = seq;
        self.events += 1;
        self.bytes += bytes;
    }

    /// One more event of `bytes` would break a limit.
    pub fn is_full_for(&self, bytes: usize, limits: &Limits) -> bool {
        self.events > 0 && (self.events >= limits.batch_events || self.bytes + bytes > limits.batch_bytes)
    }

    /// It should leave although more could be added, with `in_flight` units of its partition unanswered.
    pub fn may_leave(&self, in_flight: usize, limits: &Limits) -> bool {
        self.events > 0 && (in_flight < PARTIAL_IN_FLIGHT || self.events >= limits.batch_events)
    }
}

/// The partition of `key` among `partitions`, as Pulsar's clients choose it with Murmur3_32Hash.
pub fn partition(key: &str, partitions: usize) -> usize {
    match partitions {
        0 | 1 => 0,
        n => murmur::java(key.as_bytes()) as usize % n,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { batch_events: 3, batch_bytes: 100, window: 1000 };

    #[test]
    fn a_batch_ends_at_either_limit_and_always_takes_one() {
        let mut open = Open::default();
        assert!(!open.is_full_for(5000, &LIMITS), "an empty batch takes an event of any size");
        open.add(7, 60);
        assert!(!open.is_full_for(40, &LIMITS));
        assert!(open.is_full_for(41, &LIMITS));
        open.add(9, 1);
        open.add(12, 1);
        assert!(open.is_full_for(1, &LIMITS));
        assert_eq!(open, Open { lowest: 7, highest: 12, events: 3, bytes: 62 });
    }

    #[test]
    fn a_lone_event_leaves_at_once_and_waits_under_load() {
        let mut open = Open::default();
        assert!(!open.may_leave(0, &LIMITS));
        open.add(1, 1);
        assert!(open.may_leave(0, &LIMITS));
        assert!(!open.may_leave(PARTIAL_IN_FLIGHT, &LIMITS));
        open.add(2, 1);
        open.add(3, 1);
        assert!(open.may_leave(99, &LIMITS), "a full batch never waits");
    }

    #[test]
    fn a_key_has_one_partition_within_range() {
        for n in 0..9 {
            let p = partition("dev-17", n);
            assert!(p < n.max(1));
            assert_eq!(p, partition("dev-17", n));
        }
    }
}
