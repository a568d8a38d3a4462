//! What the nodes say of themselves: the last report of each. [pure]

use std::collections::{BTreeMap, BTreeSet};

use super::super::rollout::{self, NodeId, Verdict};
use crate::downlink::number::Number;
use crate::downlink::report::{Lane, NodeReport, Outcome, Running, What};

/// Nodes that are remembered: as many as roll-outs can name. Some 1 KB each.
pub const NODES_MAX: usize = rollout::NODES_MAX;

/// Longest text of a report that is kept.
const TEXT_MAX: usize = rollout::REASON_BYTES_MAX;

/// Most lanes of a node that are kept.
const LANES_MAX: usize = 32;

/// A node that says it comes back later than this is missed all the same.
const NEXT_S_MAX: u64 = 3600;

/// Most groups of a node that are kept, as many as its configuration can have.
const GROUPS_MAX: usize = 64;

/// What a node said last.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// When it was heard last, in milliseconds since 1970 on this machine's clock.
    pub heard_ms: u64,
    /// The outbox's life.
    pub incarnation: String,
    /// Version of the program.
    pub software: String,
    /// `node.groups`.
    pub groups: Vec<String>,
    /// What is committed.
    pub committed: Running,
    /// What is on trial.
    pub trial: Option<Running>,
    /// The last assignment that it took, and since when it says so; `None`: an older version, which does not tell.
    pub accepted: Option<(Number, u64)>,
    /// It has stopped in order.
    pub left: bool,
    /// How long the process runs, in seconds, when it was present last.
    pub uptime_s: u64,
    /// When the next report can be expected, in seconds.
    pub next_s: u64,
    /// What waits in each lane.
    pub lanes: Vec<Lane>,
    /// What it decided last.
    pub decided: Option<Decided>,
    /// The last message that was no offer.
    pub refused: Option<Refused>,
}

/// What became of an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The assignment's epoch.
    pub epoch: u64,
    /// The assignment's.
    pub number: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Code, and words.
    pub reason: String,
    /// When it was heard, in milliseconds since 1970.
    pub heard_ms: u64,
}

/// A message that a node did not take for an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Code, and words.
    pub reason: String,
    /// When it was heard, in milliseconds since 1970.
    pub heard_ms: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Fleet {
    nodes: BTreeMap<NodeId, Seen>,
    /// Who has spoken since somebody looked.
    fresh: BTreeSet<NodeId>,
}

impl Fleet {
    /// Takes a report that was heard at `heard_ms`. `false`: there are too many nodes.
    pub fn apply(&mut self, report: NodeReport, heard_ms: u64) -> bool {
        let node = NodeId::from(report.node.as_str());
        if !self.nodes.contains_key(&node) && self.nodes.len() >= NODES_MAX {
            return false;
        }
        let seen = self.nodes.entry(node.clone()).or_insert_with(|| Seen::new(&report));
        // The backlog of a process that starts is read in order; a clock that was set back must not hide a node.
        seen.heard_ms = heard_ms;
        (seen.incarnation, seen.software) = (cut(report.incarnation), cut(report.software));
        seen.groups = report.groups.into_iter().take(GROUPS_MAX).map(cut).collect();
        (seen.committed, seen.trial) = (report.committed, report.trial);
        let since = seen.accepted.filter(|(before, _)| Some(*before) == report.accepted).map(|(_, since)| since);
        seen.accepted = report.accepted.map(|number| (number, since.unwrap_or(heard_ms)));
        seen.left = matches!(report.what, What::Leaving);
        match report.what {
            What::Present { uptime_s, next_s, lanes } => {
                (seen.uptime_s, seen.next_s) = (uptime_s, next_s.min(NEXT_S_MAX));
                let short = |lane: Lane| Lane { name: cut(lane.name), ..lane };
                seen.lanes = lanes.into_iter().take(LANES_MAX).map(short).collect();
            }
            What::Leaving => {}
            What::Decided { epoch, number, outcome, reason, detail, .. } => {
                let told = Decided { epoch, number, outcome, reason: words(reason, detail), heard_ms };
                // Repeated ones come in any order; of one number the failure counts.
                let is_newer = |before: &Decided| {
                    let (is, was) = (Number::new(epoch, number), before.at());
                    was < is || (was == is && verdict(outcome) >= verdict(before.outcome))
                };
                if seen.decided.as_ref().is_none_or(is_newer) {
                    seen.decided = Some(told);
                }
            }
            What::Refused { reason, detail } => {
                seen.refused = Some(Refused { reason: words(reason, detail), heard_ms });
            }
        }
        self.fresh.insert(node);
        true
    }

    /// What a node said last.
    pub fn get(&self, node: &NodeId) -> Option<&Seen> {
        self.nodes.get(node)
    }

    /// All of them, by name, after `after`.
    pub fn after(&self, after: Option<&NodeId>) -> impl Iterator<Item = (&NodeId, &Seen)> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.nodes.range::<NodeId, _>((from, std::ops::Bound::Unbounded))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Who has spoken since the last call.
    pub fn take_fresh(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.fresh)
    }

    /// Everybody counts as having spoken: for a controller that begins.
    pub fn all_fresh(&mut self) {
        self.fresh = self.nodes.keys().cloned().collect();
    }

    /// Forgets a node that is gone for good.
    pub fn forget(&mut self, node: &NodeId) {
        self.nodes.remove(node);
        self.fresh.remove(node);
    }
}

impl Seen {
    fn new(report: &NodeReport) -> Self {
        Self {
            heard_ms: 0,
            incarnation: String::new(),
            software: String::new(),
            groups: Vec::new(),
            committed: report.committed,
            trial: None,
            accepted: None,
            left: false,
            uptime_s: 0,
            next_s: 0,
            lanes: Vec::new(),
            decided: None,
            refused: None,
        }
    }

    /// Whether it counts as there: heard within `present_ms`, or within twice the time that it said itself.
    pub fn is_present(&self, now_ms: u64, present_ms: u64) -> bool {
        let patience = present_ms.max(self.next_s.saturating_mul(2_000));
        !self.left && now_ms.saturating_sub(self.heard_ms) <= patience
    }

    /// What a roll-out counts of all this: of the keyring's epoch alone, for the numbers of another one are another log's, or
    /// a thief's. A node that runs what it was assigned has succeeded, whether or not somebody heard it say so.
    pub fn verdicts(&self, node: &NodeId, epoch: u64) -> impl Iterator<Item = rollout::NodeReport> + use<> {
        let report = |number, verdict, reason| rollout::NodeReport { node: node.clone(), number, verdict, reason };
        let of_epoch = self.decided.as_ref().filter(|decided| decided.epoch == epoch);
        let decided = of_epoch.and_then(|decided| {
            let verdict = verdict(decided.outcome)?;
            let reason = if verdict == Verdict::Failure { decided.reason.clone() } else { String::new() };
            Some(report(decided.number, verdict, reason))
        });
        let has_failed =
            |number| matches!(of_epoch, Some(d) if d.number == number && verdict(d.outcome) == Some(Verdict::Failure));
        let number = self.committed.number;
        let runs = (number > 0 && self.committed.epoch == epoch && !has_failed(number))
            .then(|| report(number, Verdict::Success, String::new()));
        decided.into_iter().chain(runs)
    }

    /// The highest number that it is known to have.
    pub fn number(&self) -> Number {
        let decided = self.decided.as_ref().map_or(Number::default(), Decided::at);
        self.committed.at().max(self.trial.map_or(Number::default(), |trial| trial.at())).max(decided)
    }
}

impl Decided {
    /// The assignment's place.
    pub fn at(&self) -> Number {
        Number::new(self.epoch, self.number)
    }
}

/// What a roll-out counts; `None`: a newer assignment is decided instead.
fn verdict(outcome: Outcome) -> Option<Verdict> {
    match outcome {
        Outcome::Committed => Some(Verdict::Success),
        Outcome::Reverted | Outcome::Refused | Outcome::Fallback => Some(Verdict::Failure),
        Outcome::Superseded => None,
    }
}

fn words(code: String, detail: String) -> String {
    match (code.is_empty(), detail.is_empty()) {
        (false, false) => cut(format!("{code}: {detail}")),
        (true, _) => cut(detail),
        (false, true) => cut(code),
    }
}

/// What others said, in a bounded length.
pub fn cut(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(number: u64, what: What) -> NodeReport {
        NodeReport {
            node: "press-7".into(),
            incarnation: "00ff".into(),
            at_ms: None,
            software: "0.1.0".into(),
            groups: vec!["plant-7".into()],
            committed: Running { epoch: 0, number, sha256: None },
            trial: None,
            accepted: None,
            what,
        }
    }

    fn decided(number: u64, outcome: Outcome) -> What {
        What::Decided { seq: number, epoch: 0, number, outcome, reason: "code".into(), detail: "words".into() }
    }

    fn verdicts(fleet: &Fleet) -> Vec<(u64, Verdict, String)> {
        let node = NodeId::from("press-7");
        let seen = fleet.get(&node).unwrap();
        seen.verdicts(&node, 0).map(|r| (r.number, r.verdict, r.reason)).collect()
    }

    #[test]
    fn a_decision_counts_by_its_number_and_a_failure_outweighs() {
        let mut fleet = Fleet::default();
        assert!(fleet.apply(report(4, decided(5, Outcome::Reverted)), 10));
        assert_eq!(
            verdicts(&fleet),
            [(5, Verdict::Failure, "code: words".into()), (4, Verdict::Success, String::new())]
        );
        // An older one that is told again changes nothing; nor does a success of the same number.
        fleet.apply(report(4, decided(4, Outcome::Committed)), 11);
        fleet.apply(report(5, decided(5, Outcome::Committed)), 12);
        assert_eq!(verdicts(&fleet), [(5, Verdict::Failure, "code: words".into())]);
        fleet.apply(report(4, decided(6, Outcome::Superseded)), 13);
        assert_eq!(verdicts(&fleet), [(4, Verdict::Success, String::new())]);
        assert_eq!(fleet.get(&NodeId::from("press-7")).unwrap().number(), 6.into());
        assert_eq!(fleet.take_fresh().len(), 1);
        assert!(fleet.take_fresh().is_empty());
    }

    #[test]
    fn a_node_is_present_while_it_is_heard() {
        let mut fleet = Fleet::default();
        let node = NodeId::from("press-7");
        fleet.apply(report(0, What::Present { uptime_s: 1, next_s: 60, lanes: Vec::new() }), 1_000);
        let seen = fleet.get(&node).unwrap();
        assert!(seen.is_present(1_000 + 120_000, 30_000), "twice what it said");
        assert!(!seen.is_present(1_000 + 120_001, 30_000));
        assert!(seen.is_present(1_000 + 200_000, 200_000));
        fleet.apply(report(0, What::Leaving), 2_000);
        assert!(!fleet.get(&node).unwrap().is_present(2_000, 200_000));
        fleet.forget(&node);
        assert!(fleet.is_empty() && fleet.take_fresh().is_empty());
    }

    #[test]
    fn what_others_say_is_cut() {
        let mut fleet = Fleet::default();
        let what = What::Refused { reason: "é".repeat(400), detail: String::new() };
        fleet.apply(report(0, what), 1);
        let refused = fleet.get(&NodeId::from("press-7")).unwrap().refused.clone().unwrap();
        assert_eq!(refused.reason.len(), TEXT_MAX);
    }
}
