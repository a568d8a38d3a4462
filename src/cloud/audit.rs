//! Whether everything arrived: per stream, which sequences came, which came twice, which are missing,
//! and whether any came late. Also what removes duplicates. [pure]
//!
//! One audit covers all partitions of a lane, because a stream's sequences are spread over them by key:
//! only together are they contiguous. The order of a stream is kept, and checked, per partition.

use std::collections::HashMap;

use super::intervals::{Intervals, Outcome};

/// Most streams one lane's audit keeps. A gateway has one per lane and life, so this is ten times the fleet
/// we design for; it bounds memory against a producer that invents names. Beyond it events are stored unchecked.
pub const STREAMS_MAX: usize = 100_000;

/// Longest stream name that is looked at: two names of 64 and one of 32 characters, with room.
pub const STREAM_BYTES_MAX: usize = 256;

/// Most partitions of a lane whose order is checked; Pulsar's own default limit is 0 (none), users have tens.
const PARTITIONS_MAX: usize = 1024;

const SNAPSHOT_VERSION: u8 = 1;

/// What to do with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It came for the first time: store it.
    New,
    /// It is stored already.
    Duplicate,
    /// It cannot be told (a limit was reached): store it.
    Unchecked,
}

/// Where an event came from.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Partition of the lane's topic.
    pub partition: u32,
    /// When the broker took it, in ms since 1970.
    pub at_ms: i64,
    /// The broker delivers this very message again (it was not acknowledged in time):
    /// it is not a duplicate in the topic, and not counted as one.
    pub again: bool,
}

/// One stream in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Lowest sequence that came (and is still known singly).
    pub first: u64,
    /// Highest sequence that came.
    pub last: u64,
    /// Different sequences that came.
    pub delivered: u64,
    /// Sequences from 1 to `last` that did not.
    pub missing: u64,
    /// The lowest of the gaps.
    pub missing_ranges: Vec<(u64, u64)>,
    /// Messages of the topic that repeated an earlier one.
    pub duplicates_removed: u64,
    /// New sequences that came after a higher one of the same stream and partition.
    pub order_violations: u64,
    /// Stored without knowing whether they are new; see [`Intervals::floor`].
    pub unchecked: u64,
    /// When the broker took the first and the last event, in ms since 1970.
    pub first_ms: i64,
    /// See `first_ms`.
    pub last_ms: i64,
}

/// Most gaps a [`Summary`] lists: enough to act on, small enough for thousands of streams in one answer.
pub const RANGES_MAX: usize = 16;

/// All streams of one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    names: HashMap<Box<str>, usize>,
    streams: Vec<StreamAudit>,
    /// Indices of the streams that changed since [`Audit::take_changed`].
    changed: Vec<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct StreamAudit {
    name: Box<str>,
    seen: Intervals,
    duplicates: u64,
    violations: u64,
    unchecked: u64,
    first_ms: i64,
    last_ms: i64,
    /// Highest sequence per partition.
    highest: Vec<(u32, u64)>,
    changed: bool,
}

/// A snapshot that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit's snapshot is not one this Tidegate can read (its version is {SNAPSHOT_VERSION})")]
pub struct SnapshotError;

impl Audit {
    /// Notes that sequence `seq` of `stream` arrived, and says what to do with it.
    pub fn observe(&mut self, stream: &str, seq: u64, arrival: Arrival) -> Verdict {
        let index = match self.names.get(stream) {
            Some(&index) => index,
            None if self.streams.len() >= STREAMS_MAX || stream.len() > STREAM_BYTES_MAX => return Verdict::Unchecked,
            None => {
                let index = self.streams.len();
                self.names.insert(stream.into(), index);
                let first_ms = arrival.at_ms;
                self.streams.push(StreamAudit { name: stream.into(), first_ms, ..StreamAudit::default() });
                index
            }
        };
        let entry = &mut self.streams[index];
        if !entry.changed {
            entry.changed = true;
            self.changed.push(index);
        }
        entry.observe(seq, arrival)
    }

    /// Every stream that changed since the last call, by name.
    pub fn take_changed(&mut self) -> impl Iterator<Item = (&str, Summary)> {
        let changed = std::mem::take(&mut self.changed);
        for &index in &changed {
            self.streams[index].changed = false;
        }
        changed.into_iter().map(|index| (&*self.streams[index].name, self.streams[index].summary()))
    }

    /// Every stream, by name.
    pub fn summaries(&self) -> impl Iterator<Item = (&str, Summary)> {
        self.streams.iter().map(|s| (&*s.name, s.summary()))
    }

    /// Appends everything needed to go on later.
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        out.push(SNAPSHOT_VERSION);
        put(out, self.streams.len() as u64);
        for stream in &self.streams {
            stream.snapshot(out);
        }
    }

    /// Reads what [`Audit::snapshot`] wrote; `bytes` must hold nothing else.
    pub fn restore(mut bytes: &[u8]) -> Result<Self, SnapshotError> {
        let (&version, rest) = bytes.split_first().ok_or(SnapshotError)?;
        bytes = rest;
        if version != SNAPSHOT_VERSION {
            return Err(SnapshotError);
        }
        let mut audit = Self::default();
        for _ in 0..take(&mut bytes)? {
            let stream = StreamAudit::restore(&mut bytes)?;
            if audit.names.insert(stream.name.clone(), audit.streams.len()).is_some() {
                return Err(SnapshotError);
            }
            audit.streams.push(stream);
        }
        if bytes.is_empty() { Ok(audit) } else { Err(SnapshotError) }
    }
}

impl StreamAudit {
    fn observe(&mut self, seq: u64, arrival: Arrival) -> Verdict {
        match self.seen.insert(seq) {
            Outcome::Known => {
                self.duplicates += u64::from(!arrival.again);
                return Verdict::Duplicate;
            }
            Outcome::Forgotten => {
                self.seen.count_forgotten();
                self.unchecked += 1;
                return Verdict::Unchecked;
            }
            Outcome::New => {}
        }
        self.first_ms = self.first_ms.min(arrival.at_ms);
        self.last_ms = self.last_ms.max(arrival.at_ms);
        match self.highest.iter().position(|(p, _)| *p == arrival.partition) {
            Some(at) if seq < self.highest[at].1 => self.violations += 1,
            Some(at) => self.highest[at].1 = seq,
            None if self.highest.len() < PARTITIONS_MAX => self.highest.push((arrival.partition, seq)),
            None => {}
        }
        Verdict::New
    }

    fn summary(&self) -> Summary {
        Summary {
            first: self.seen.lowest(),
            last: self.seen.highest(),
            delivered: self.seen.count(),
            missing: self.seen.missing(),
            missing_ranges: self.seen.gaps().take(RANGES_MAX).collect(),
            duplicates_removed: self.duplicates,
            order_violations: self.violations,
            unchecked: self.unchecked,
            first_ms: self.first_ms,
            last_ms: self.last_ms,
        }
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        put(out, self.name.len() as u64);
        out.extend_from_slice(self.name.as_bytes());
        for number in [self.duplicates, self.violations, self.unchecked] {
            put(out, number);
        }
        for ms in [self.first_ms, self.last_ms] {
            out.extend_from_slice(&ms.to_le_bytes());
        }
        put(out, self.highest.len() as u64);
        for (partition, highest) in &self.highest {
            put(out, u64::from(*partition));
            put(out, *highest);
        }
        put(out, self.seen.floor());
        put(out, self.seen.count());
        put(out, self.seen.intervals() as u64);
        let mut before = self.seen.floor();
        for (start, end) in self.seen.iter() {
            put(out, start - before);
            put(out, end - start);
            before = end;
        }
    }

    fn restore(bytes: &mut &[u8]) -> Result<Self, SnapshotError> {
        let length = usize::try_from(take(bytes)?).map_err(|_| SnapshotError)?;
        let name = take_bytes(bytes, length)?;
        let mut stream = Self {
            name: std::str::from_utf8(name).map_err(|_| SnapshotError)?.into(),
            duplicates: take(bytes)?,
            violations: take(bytes)?,
            unchecked: take(bytes)?,
            first_ms: take_ms(bytes)?,
            last_ms: take_ms(bytes)?,
            ..Self::default()
        };
        for _ in 0..take(bytes)? {
            let partition = u32::try_from(take(bytes)?).map_err(|_| SnapshotError)?;
            stream.highest.push((partition, take(bytes)?));
        }
        let (floor, count, mut left) = (take(bytes)?, take(bytes)?, take(bytes)?);
        let (mut before, mut damaged) = (floor, false);
        let intervals = std::iter::from_fn(|| {
            left = left.checked_sub(1)?;
            let mut read = || {
                let start = before.checked_add(take(bytes).ok()?)?;
                let end = start.checked_add(take(bytes).ok()?)?;
                before = end;
                Some((start, end))
            };
            let interval = read();
            damaged |= interval.is_none();
            interval
        });
        stream.seen = Intervals::from_parts(floor, count, intervals).ok_or(SnapshotError)?;
        if damaged { Err(SnapshotError) } else { Ok(stream) }
    }
}

/// Appends `n` in LEB128.
fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn take(bytes: &mut &[u8]) -> Result<u64, SnapshotError> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(SnapshotError)?;
        *bytes = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(n);
        }
    }
    Err(SnapshotError)
}

fn take_bytes<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], SnapshotError> {
    let (head, rest) = bytes.split_at_checked(length).ok_or(SnapshotError)?;
    *bytes = rest;
    Ok(head)
}

fn take_ms(bytes: &mut &[u8]) -> Result<i64, SnapshotError> {
    let raw = take_bytes(bytes, 8)?.try_into().map_err(|_| SnapshotError)?;
    Ok(i64::from_le_bytes(raw))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn arrival(partition: u32) -> Arrival {
        Arrival { partition, at_ms: 5, again: false }
    }

    /// What the audit should find, by keeping everything.
    #[derive(Default)]
    struct Model {
        seen: BTreeMap<String, BTreeSet<u64>>,
        duplicates: BTreeMap<String, u64>,
        violations: BTreeMap<String, u64>,
        highest: BTreeMap<(String, u32), u64>,
    }

    impl Model {
        fn observe(&mut self, stream: &str, partition: u32, seq: u64, again: bool) -> Verdict {
            if !self.seen.entry(stream.into()).or_default().insert(seq) {
                *self.duplicates.entry(stream.into()).or_default() += u64::from(!again);
                return Verdict::Duplicate;
            }
            let highest = self.highest.entry((stream.into(), partition)).or_default();
            if seq < *highest {
                *self.violations.entry(stream.into()).or_default() += 1;
            }
            *highest = seq.max(*highest);
            Verdict::New
        }
    }

    proptest! {
        #[test]
        fn the_audit_agrees_with_one_that_keeps_everything(
            events in proptest::collection::vec((0u8..3, 0u32..3, 1u64..40, any::<bool>()), 0..200),
            cut in 0usize..200,
        ) {
            let (mut audit, mut model) = (Audit::default(), Model::default());
            for (i, (stream, partition, seq, again)) in events.into_iter().enumerate() {
                let stream = format!("node{stream}.life.lane");
                let arrival = Arrival { partition, at_ms: i as i64, again };
                let expected = model.observe(&stream, partition, seq, again);
                prop_assert_eq!(audit.observe(&stream, seq, arrival), expected);
                if i == cut {
                    let mut bytes = Vec::new();
                    audit.snapshot(&mut bytes);
                    audit = Audit::restore(&bytes).unwrap();
                }
            }
            for (name, summary) in audit.summaries() {
                let seen = &model.seen[name];
                prop_assert_eq!(summary.delivered, seen.len() as u64);
                prop_assert_eq!(summary.first, *seen.first().unwrap());
                prop_assert_eq!(summary.last, *seen.last().unwrap());
                prop_assert_eq!(summary.missing, summary.last - seen.len() as u64);
                prop_assert_eq!(summary.duplicates_removed, *model.duplicates.get(name).unwrap_or(&0));
                prop_assert_eq!(summary.order_violations, *model.violations.get(name).unwrap_or(&0));
            }
            prop_assert_eq!(audit.summaries().count(), model.seen.len());
        }

        #[test]
        fn how_partitions_interleave_changes_nothing_but_the_way_there(
            seqs in Just((1u64..80).collect::<Vec<_>>()).prop_shuffle(), partitions in 1u64..5,
        ) {
            // Any interleaving of partitions that keeps each one's order.
            let mut queues: Vec<Vec<u64>> = (0..partitions).map(|p| (1..80).filter(|s| s % partitions == p).rev().collect()).collect();
            let mut audit = Audit::default();
            for pick in seqs {
                let p = (pick % partitions) as usize;
                if let Some(seq) = queues[p].pop() {
                    prop_assert_eq!(audit.observe("a.b.c", seq, arrival(p as u32)), Verdict::New);
                }
            }
            let (_, summary) = audit.summaries().next().unwrap();
            prop_assert_eq!((summary.delivered, summary.missing, summary.order_violations), (79, 0, 0));
        }

        #[test]
        fn a_damaged_snapshot_is_an_error_or_another_audit_but_never_a_panic(at in 0usize..80, bit in 0u8..8) {
            let mut audit = Audit::default();
            for seq in [1, 2, 3, 7, 9, 10] {
                audit.observe("press.00ff.alarms", seq, arrival((seq % 2) as u32));
            }
            let mut bytes = Vec::new();
            audit.snapshot(&mut bytes);
            for cut in 0..bytes.len() {
                prop_assert!(Audit::restore(&bytes[..cut]).is_err());
            }
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
                let _ = Audit::restore(&bytes);
            }
        }
    }

    #[test]
    fn a_redelivery_is_removed_but_is_no_duplicate() {
        let mut audit = Audit::default();
        assert_eq!(audit.observe("a.b.c", 1, arrival(0)), Verdict::New);
        let again = Arrival { again: true, ..arrival(0) };
        assert_eq!(audit.observe("a.b.c", 1, again), Verdict::Duplicate);
        assert_eq!(audit.summaries().next().unwrap().1.duplicates_removed, 0);
    }

    #[test]
    fn only_changed_streams_are_reported_again() {
        let mut audit = Audit::default();
        audit.observe("a.b.c", 1, arrival(0));
        audit.observe("d.e.f", 2, arrival(0));
        assert_eq!(audit.take_changed().count(), 2);
        audit.observe("d.e.f", 4, arrival(0));
        let changed: Vec<_> = audit.take_changed().map(|(name, s)| (name.to_owned(), s.missing_ranges)).collect();
        assert_eq!(changed, [("d.e.f".to_owned(), vec![(1, 1), (3, 3)])]);
    }

    #[test]
    fn beyond_the_limit_of_streams_events_are_kept_unchecked() {
        let mut audit = Audit::default();
        for i in 0..STREAMS_MAX {
            audit.observe(&format!("n{i}.b.c"), 1, arrival(0));
        }
        assert_eq!(audit.observe("one.too.many", 1, arrival(0)), Verdict::Unchecked);
        assert_eq!(audit.observe("n7.b.c", 1, arrival(0)), Verdict::Duplicate);
        assert_eq!(audit.observe(&"x".repeat(STREAM_BYTES_MAX + 1), 1, arrival(0)), Verdict::Unchecked);
    }
}
