//! What the lanes say of themselves, for the interface: written by consumers and stores, read by requests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::audit::Summary;
use crate::sys::clock::Clock;

/// The state of one lane. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LaneBoard {
    name: Arc<str>,
    clock: Clock,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    partitions: Option<u32>,
    connected: BTreeSet<u32>,
    /// By the part that has it: `topic`, `partition 0`, `files`.
    problems: BTreeMap<String, Problem>,
    last_problem: Option<Problem>,
    streams: BTreeMap<Box<str>, Summary>,
    without_stream: u64,
    missing: u64,
}

/// Something that does not work now, or did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What it is, and the way out.
    pub text: String,
    /// Since when, in ms since 1970.
    pub since_ms: i64,
}

/// A lane, as the interface shows it.
#[derive(Clone, Debug, Serialize)]
pub struct LaneStatus {
    /// Its name.
    pub lane: String,
    /// Everything works.
    pub ready: bool,
    /// Partitions of its topic; absent until they are known.
    pub partitions: Option<u32>,
    /// Partitions that are being consumed.
    pub connected: usize,
    /// What does not work, by part.
    pub problems: BTreeMap<String, Problem>,
    /// The last problem, kept after it went away.
    pub last_problem: Option<Problem>,
}

impl LaneBoard {
    /// The board of `lane`.
    pub fn new(lane: &str, clock: Clock) -> Self {
        Self { name: lane.into(), clock, inner: Arc::default() }
    }

    /// The lane's name.
    pub fn lane(&self) -> &Arc<str> {
        &self.name
    }

    /// The topic has so many partitions.
    pub fn partitions(&self, partitions: u32) {
        self.lock().partitions = Some(partitions);
    }

    /// A partition is, or is no more, being consumed.
    pub fn connected(&self, partition: u32, connected: bool) {
        let mut inner = self.lock();
        if connected {
            inner.connected.insert(partition);
        } else {
            inner.connected.remove(&partition);
        }
    }

    /// `part` does not work. Logged when it is news.
    pub fn problem(&self, part: &str, text: String) {
        let mut inner = self.lock();
        if inner.problems.get(part).is_some_and(|p| p.text == text) {
            return;
        }
        tracing::warn!(lane = &*self.name, part, "{text}");
        let since_ms = inner.problems.get(part).map_or_else(|| self.clock.unix_ms(), |p| p.since_ms);
        let problem = Problem { text, since_ms };
        inner.last_problem = Some(problem.clone());
        inner.problems.insert(part.to_owned(), problem);
    }

    /// `part` works.
    pub fn solved(&self, part: &str) {
        if self.lock().problems.remove(part).is_some() {
            tracing::info!(lane = &*self.name, part, "works again");
        }
    }

    /// These streams stand so, on disk. Returns the lane's missing sequences.
    pub fn streams<'a>(&self, changed: impl Iterator<Item = (&'a str, Summary)>, without_stream: u64) -> u64 {
        let mut inner = self.lock();
        inner.without_stream = without_stream;
        for (name, summary) in changed {
            let now = summary.missing;
            let before = match inner.streams.get_mut(name) {
                Some(known) => std::mem::replace(known, summary).missing,
                None => {
                    inner.streams.insert(name.into(), summary);
                    0
                }
            };
            inner.missing = inner.missing.saturating_sub(before).saturating_add(now);
        }
        inner.missing
    }

    /// The streams that `wanted` says, and the number of events without one.
    pub fn audit(&self, wanted: impl Fn(&str) -> bool) -> (Vec<(Box<str>, Summary)>, u64) {
        let inner = self.lock();
        let streams = inner.streams.iter().filter(|(name, _)| wanted(name));
        (streams.map(|(name, summary)| (name.clone(), summary.clone())).collect(), inner.without_stream)
    }

    /// The lane, as the interface shows it.
    pub fn status(&self) -> LaneStatus {
        let inner = self.lock();
        let connected = inner.connected.len();
        LaneStatus {
            lane: self.name.to_string(),
            ready: inner.problems.is_empty() && inner.partitions.is_some_and(|p| connected >= p as usize),
            partitions: inner.partitions,
            connected,
            problems: inner.problems.clone(),
            last_problem: inner.last_problem.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_ready_when_all_partitions_are_consumed_and_nothing_is_wrong() {
        let board = LaneBoard::new("alarms", Clock::set_to(7).0);
        assert!(!board.status().ready);
        board.partitions(2);
        board.connected(0, true);
        assert!(!board.status().ready);
        board.connected(1, true);
        assert!(board.status().ready);
        board.problem("files", "disk full".into());
        assert!(!board.status().ready);
        board.solved("files");
        let status = board.status();
        assert!(status.ready);
        assert_eq!(status.last_problem.unwrap(), Problem { text: "disk full".into(), since_ms: 7 });
    }
}
