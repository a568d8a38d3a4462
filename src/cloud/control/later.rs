//! Inboxes that could not be written: each waits by itself and holds nobody else up. [pure]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::cloud::rollout::{self, NodeId};

/// The first wait of an inbox, and every one while its broker cannot be reached.
pub const WAIT_MIN: Duration = Duration::from_secs(3);

/// The longest wait: after that an operator who has mended it should not have to wait.
pub const WAIT_MAX: Duration = Duration::from_secs(300);

/// As many as can have an assignment.
pub const NODES_MAX: usize = rollout::NODES_MAX;

#[derive(Clone, Copy, Debug)]
struct Wait {
    /// The next wait, if it fails once more by itself.
    next: Duration,
    /// `None`: it is being tried.
    due: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Later {
    nodes: BTreeMap<NodeId, Wait>,
}

impl Later {
    /// It failed; `alone`: by its own fault, so it waits longer each time.
    pub fn failed(&mut self, node: NodeId, alone: bool, now: Instant) {
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&node) {
            return;
        }
        let wait = self.nodes.entry(node).or_insert(Wait { next: WAIT_MIN, due: None });
        wait.due = Some(now + if alone { wait.next } else { WAIT_MIN });
        if alone {
            wait.next = (wait.next * 2).min(WAIT_MAX);
        }
    }

    /// It is written.
    pub fn done(&mut self, node: &NodeId) {
        self.nodes.remove(node);
    }

    /// Whether its turn comes by itself.
    pub fn holds(&self, node: &NodeId) -> bool {
        self.nodes.get(node).is_some_and(|wait| wait.due.is_some())
    }

    /// One whose wait is over; it is being tried from now on.
    pub fn due(&mut self, now: Instant) -> Option<NodeId> {
        let (node, wait) = self.nodes.iter_mut().find(|(_, wait)| wait.due.is_some_and(|due| due <= now))?;
        wait.due = None;
        Some(node.clone())
    }

    /// How many are being tried again.
    pub fn tried(&self) -> usize {
        self.nodes.values().filter(|wait| wait.due.is_none()).count()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.nodes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbox_waits_longer_each_time_and_a_lost_broker_does_not_count() {
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
        assert_eq!(later.due(now + WAIT_MIN), Some(node.clone()), "all of them come back together");
        later.done(&node);
        assert_eq!(later.len(), 0);
        later.failed(node.clone(), true, now);
        assert_eq!(later.due(now + WAIT_MIN), Some(node));
    }
}
