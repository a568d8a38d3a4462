//! Inboxes that could not be written: each waits by itself and holds nobody else up. [pure]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::cloud::rollout::{self, NodeId};

/// The first wait.
pub const WAIT_MIN: Duration = Duration::from_secs(3);

/// The longest wait of an inbox that fails by its own fault: who has mended it should not have to wait longer.
pub const WAIT_MAX: Duration = Duration::from_secs(300);

/// The longest while its broker cannot be reached: all of them come back together, and a fleet that asks more often
/// keeps a processor busy.
pub const WAIT_MAX_LINK: Duration = Duration::from_secs(30);

/// As many as can have an assignment.
pub const NODES_MAX: usize = rollout::NODES_MAX;

#[derive(Clone, Copy, Debug)]
struct Wait {
    /// The next wait, if it fails once more.
    next: Duration,
    /// `None`: it is being tried.
    due: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Later {
    nodes: BTreeMap<NodeId, Wait>,
    /// Those that wait, by their time.
    queue: BTreeSet<(Instant, NodeId)>,
}

impl Later {
    /// It failed; `alone`: by its own fault.
    pub fn failed(&mut self, node: NodeId, alone: bool, now: Instant) {
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&node) {
            return;
        }
        let wait = self.nodes.entry(node.clone()).or_insert(Wait { next: WAIT_MIN, due: None });
        let max = if alone { WAIT_MAX } else { WAIT_MAX_LINK };
        let due = now + wait.next.min(max);
        wait.next = (wait.next * 2).min(max);
        if let Some(before) = wait.due.replace(due) {
            self.queue.remove(&(before, node.clone()));
        }
        self.queue.insert((due, node));
    }

    /// It is written.
    pub fn done(&mut self, node: &NodeId) {
        if let Some(due) = self.nodes.remove(node).and_then(|wait| wait.due) {
            self.queue.remove(&(due, node.clone()));
        }
    }

    /// Whether its turn comes by itself.
    pub fn holds(&self, node: &NodeId) -> bool {
        self.nodes.get(node).is_some_and(|wait| wait.due.is_some())
    }

    /// One whose wait is over; it is being tried from now on.
    pub fn due(&mut self, now: Instant) -> Option<NodeId> {
        self.queue.first().filter(|(due, _)| *due <= now)?;
        let (_, node) = self.queue.pop_first()?;
        if let Some(wait) = self.nodes.get_mut(&node) {
            wait.due = None;
        }
        Some(node)
    }

    /// How many are being tried again.
    pub fn tried(&self) -> usize {
        self.nodes.len() - self.queue.len()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        (self.nodes, self.queue) = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbox_waits_longer_each_time_and_not_so_long_for_a_lost_broker() {
        let (mut later, node, mut now) = (Later::default(), NodeId::from("press-7"), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..9 {
            later.failed(node.clone(), true, now);
            let begun = now;
            while later.due(now).is_none() {
                assert!(later.holds(&node) && later.tried() == 0);
                now += Duration::from_secs(1);
            }
            assert!(!later.holds(&node) && later.tried() == 1);
            waits.push((now - begun).as_secs());
        }
        assert_eq!(waits, [3, 6, 12, 24, 48, 96, 192, 300, 300]);
        later.failed(node.clone(), false, now);
        assert_eq!(later.due(now + WAIT_MAX_LINK), Some(node.clone()), "it is not its fault");
        later.done(&node);
        assert_eq!(later.len(), 0);
        later.failed(node.clone(), true, now);
        assert_eq!(later.due(now + WAIT_MIN), Some(node));
    }
}
