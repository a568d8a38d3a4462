//! What the nodes say of themselves: the last report of each. [pure]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::rollout::{self, ModelSaid, NodeId, Verdict};
use super::reports::Dropped;
use crate::downlink::artefact::model::{MODELS_MAX, Name};
use crate::downlink::artefact::{Digest, Mode};
use crate::downlink::number::Number;
use crate::downlink::report::{Lane, ModelOutcome, ModelPresent, NodeReport, Outcome, Running, What};

/// Nodes that are remembered: as many as roll-outs can name. Some 1 KB each.
pub const NODES_MAX: usize = rollout::NODES_MAX;

/// What they may take in memory, as [`Seen::bytes`] counts: 100,000 of the usual size several times over.
pub const BYTES_MAX: usize = 256 << 20;

/// A node without an assignment that is silent for so long is forgotten. What it said is not kept longer in Pulsar either.
pub const SILENT_MAX: Duration = Duration::from_secs(3 * 86_400);

/// The same when there is no room for others.
const SILENT_MAX_FULL: Duration = Duration::from_secs(3600);

/// Longest name of a lane or group, version or incarnation that is kept, as configuration allows them.
const NAME_MAX: usize = 64;

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
    /// When it said last that it is there, in milliseconds since 1970 on this machine's clock; 0: not yet.
    pub present_ms: u64,
    /// How long the process runs, in seconds, when it was present last.
    pub uptime_s: u64,
    /// When the next report can be expected, in seconds.
    pub next_s: u64,
    /// What waits in each lane.
    pub lanes: Vec<Lane>,
    /// What became of its assignment, or of the one before.
    pub decided: Option<Decided>,
    /// The last message that was no offer.
    pub refused: Option<Refused>,
    /// Its models.
    pub models: Vec<ModelPresent>,
    /// What became of the models of its newest assignment last, by name and version; at most [`MODELS_MAX`].
    pub told: Vec<ModelTold>,
    /// What it was counted as.
    counted: usize,
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

/// What became of an assigned model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelTold {
    /// The model.
    pub name: Name,
    /// Its version.
    pub version: u64,
    /// By which assignment, and which of the node's reports it was.
    pub at: (Number, u64),
    /// What became of it.
    pub outcome: ModelOutcome,
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

/// What the log of roll-outs says while a report is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log {
    /// The number of the node's assignment.
    pub assigned: Option<u64>,
    /// Events read: no assignment has a higher number.
    pub index: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Fleet {
    nodes: BTreeMap<NodeId, Seen>,
    /// Who has spoken since somebody looked.
    fresh: BTreeSet<NodeId>,
    /// Of all of them.
    bytes: usize,
}

impl Fleet {
    /// Takes a report that was heard at `heard_ms`, while the log of roll-outs stands at `log`.
    pub fn apply(&mut self, report: NodeReport, heard_ms: u64, log: Log) -> Result<(), Dropped> {
        let node = NodeId::from(report.node.as_str());
        if let What::Decided { number, .. } = report.what
            && number > log.index
        {
            return Err(Dropped::Ahead { number, index: log.index });
        }
        if !self.nodes.contains_key(&node) && (self.nodes.len() >= NODES_MAX || self.bytes >= BYTES_MAX) {
            return Err(Dropped::Full);
        }
        let seen = self.nodes.entry(node.clone()).or_insert_with(|| Seen::new(&report));
        self.bytes = self.bytes.saturating_sub(seen.counted);
        if seen.incarnation != name(report.incarnation.clone()) {
            // Another life: what the one before decided says nothing of it.
            (seen.decided, seen.refused, seen.told) = (None, None, Vec::new());
        }
        // The backlog of a process that starts is read in order; a clock that was set back must not hide a node.
        seen.heard_ms = heard_ms;
        (seen.incarnation, seen.software) = (name(report.incarnation), name(report.software));
        seen.groups = report.groups.into_iter().take(GROUPS_MAX).map(name).collect();
        (seen.committed, seen.trial) = (report.committed, report.trial);
        let since = seen.accepted.filter(|(before, _)| Some(*before) == report.accepted).map(|(_, since)| since);
        seen.accepted = report.accepted.map(|number| (number, since.unwrap_or(heard_ms)));
        seen.left = matches!(report.what, What::Leaving);
        match report.what {
            What::Present { uptime_s, next_s, lanes, models } => {
                seen.present_ms = heard_ms;
                seen.models = models.into_iter().take(MODELS_MAX).collect();
                (seen.uptime_s, seen.next_s) = (uptime_s, next_s.min(NEXT_S_MAX));
                let short = |lane: Lane| Lane { name: name(lane.name), ..lane };
                seen.lanes = lanes.into_iter().take(LANES_MAX).map(short).collect();
            }
            What::Leaving => {}
            What::Model { seq, epoch, number, name, version, outcome, reason, detail } => {
                let at = (Number::new(epoch, number), seq);
                let reason = words(reason, detail);
                seen.tell(ModelTold { name, version, at, outcome, reason, heard_ms });
            }
            What::Decided { epoch, number, outcome, reason, detail, .. } => {
                let told = Decided { epoch, number, outcome, reason: words(reason, detail), heard_ms };
                // Repeated ones come in any order; of one number the failure counts.
                let counts = |before: &Decided| {
                    let (is, was) = (Number::new(epoch, number), before.at());
                    before.number != number || was < is || (was == is && verdict(outcome) >= verdict(before.outcome))
                };
                // No other number may stand in the way of the one that is waited for.
                if log.assigned == Some(number) && seen.decided.as_ref().is_none_or(counts) {
                    seen.decided = Some(told);
                }
            }
            What::Refused { reason, detail } => {
                seen.refused = Some(Refused { reason: words(reason, detail), heard_ms });
            }
        }
        seen.counted = seen.bytes();
        if self.bytes + seen.counted > BYTES_MAX {
            // What is needed to lead it is kept.
            (seen.lanes, seen.models, seen.told, seen.counted) = (Vec::new(), Vec::new(), Vec::new(), 0);
            seen.counted = seen.bytes();
        }
        self.bytes += seen.counted;
        self.fresh.insert(node);
        Ok(())
    }

    /// Forgets nodes without an assignment that have been silent for long, and gives them.
    pub fn forget_silent(&mut self, now_ms: u64, is_assigned: impl Fn(&NodeId) -> bool) -> Vec<NodeId> {
        let is_full = self.nodes.len() >= NODES_MAX || self.bytes >= BYTES_MAX;
        let patience = if is_full { SILENT_MAX_FULL } else { SILENT_MAX };
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let is_silent = |seen: &Seen| now_ms.saturating_sub(seen.heard_ms) > patience_ms;
        let gone = self.nodes.iter().filter(|(node, seen)| is_silent(seen) && !is_assigned(node));
        let gone: Vec<NodeId> = gone.map(|(node, _)| node.clone()).collect();
        gone.iter().for_each(|node| self.forget(node));
        gone
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
        self.bytes = self.bytes.saturating_sub(self.nodes.remove(node).map_or(0, |seen| seen.counted));
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
            present_ms: 0,
            uptime_s: 0,
            next_s: 0,
            lanes: Vec::new(),
            decided: None,
            refused: None,
            models: Vec::new(),
            told: Vec::new(),
            counted: 0,
        }
    }

    /// Of the versions of one model those of the newest assignment count, which tells of all of them; of each the newest
    /// report. They come again, and in any order.
    fn tell(&mut self, told: ModelTold) {
        let is_past = |before: &ModelTold| before.name == told.name && before.at.0 > told.at.0;
        if self.told.iter().any(is_past) {
            return;
        }
        self.told.retain(|before| before.name != told.name || before.at.0 == told.at.0);
        let is_same = |before: &&mut ModelTold| before.name == told.name && before.version == told.version;
        match self.told.iter_mut().find(is_same) {
            Some(before) if before.at <= told.at => *before = told,
            Some(_) => {}
            None => {
                if self.told.len() >= MODELS_MAX
                    && let Some(oldest) = (0..self.told.len()).min_by_key(|n| self.told.get(*n).map(|told| told.at))
                {
                    self.told.remove(oldest);
                }
                self.told.push(told);
            }
        }
    }

    /// What it takes in memory, and no less than its part of an answer.
    pub fn bytes(&self) -> usize {
        /// The record, its place in the map, and the words around it in an answer.
        const RECORD: usize = 1024;
        /// Each string of a list, and its numbers.
        const ITEM: usize = 64;
        let lanes: usize = self.lanes.iter().map(|lane| lane.name.len() + ITEM).sum();
        let groups: usize = self.groups.iter().map(|group| group.len() + ITEM).sum();
        // With what they score.
        let models: usize = self.models.iter().map(|model| model.name.as_str().len() + 6 * ITEM).sum();
        let told: usize = self.told.iter().map(|told| told.name.as_str().len() + told.reason.len() + 2 * ITEM).sum();
        let reasons = self.decided.as_ref().map_or(0, |d| d.reason.len())
            + self.refused.as_ref().map_or(0, |refused| refused.reason.len());
        RECORD + lanes + groups + models + told + reasons + self.incarnation.len() + self.software.len()
    }

    /// Whether it counts as there: heard within `present_ms`, or within twice the time that it said itself.
    pub fn is_present(&self, now_ms: u64, present_ms: u64) -> bool {
        let patience = present_ms.max(self.next_s.saturating_mul(2_000));
        !self.left && now_ms.saturating_sub(self.heard_ms) <= patience
    }

    /// What a roll-out counts of all this: of the keyring's epoch alone, for the numbers of another one are another log's, or
    /// a thief's. A node that runs what it was assigned has succeeded, whether or not somebody heard it say so.
    pub fn verdicts(&self, node: &NodeId, epoch: u64) -> impl Iterator<Item = rollout::NodeReport> + use<> {
        let report =
            |number, verdict, reason| rollout::NodeReport { node: node.clone(), number, model: None, verdict, reason };
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

    /// What a roll-out counts of what it said of its models, of the keyring's epoch alone.
    pub fn model_verdicts(&self, node: &NodeId, epoch: u64) -> impl Iterator<Item = rollout::NodeReport> {
        let of_epoch = self.told.iter().filter(move |told| told.at.0.epoch == epoch);
        of_epoch.filter_map(move |told| {
            let (verdict, mode) = match told.outcome {
                ModelOutcome::Fetched => return None,
                ModelOutcome::Active => (Verdict::Success, Some(Mode::Active)),
                ModelOutcome::Shadowing => (Verdict::Success, Some(Mode::Shadow)),
                ModelOutcome::Off => (Verdict::Success, Some(Mode::Off)),
                ModelOutcome::Reverted | ModelOutcome::Refused => (Verdict::Failure, None),
            };
            let model = Some(ModelSaid { name: told.name.clone(), version: told.version, mode });
            let (number, reason) = (told.at.0.n, told.reason.clone());
            Some(rollout::NodeReport { node: node.clone(), number, model, verdict, reason })
        })
    }

    /// Whether it runs or tries something else than `target` under this number: another log gave it.
    pub fn has_other(&self, number: Number, target: Option<Digest>) -> bool {
        [Some(self.committed), self.trial].into_iter().flatten().any(|has| has.at() == number && has.sha256 != target)
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

/// What others said, in a bounded length and on one line.
pub fn cut(text: String) -> String {
    cut_to(text, TEXT_MAX)
}

fn name(text: String) -> String {
    cut_to(text, NAME_MAX)
}

fn cut_to(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
    }
    if text.chars().any(char::is_control) {
        // Each would be six characters of an answer.
        text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    }
    // What was cut is not kept in memory.
    text.shrink_to_fit();
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

    /// The number is assigned, or nothing is.
    fn at(number: u64) -> Log {
        Log { assigned: (number > 0).then_some(number), index: 10 }
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
        assert_eq!(fleet.apply(report(4, decided(5, Outcome::Reverted)), 10, at(5)), Ok(()));
        let failure = (5, Verdict::Failure, "code: words".into());
        assert_eq!(verdicts(&fleet), [failure.clone(), (4, Verdict::Success, String::new())]);
        // An older one that is told again changes nothing; nor does a success of the same number.
        fleet.apply(report(4, decided(4, Outcome::Committed)), 11, at(5)).unwrap();
        fleet.apply(report(5, decided(5, Outcome::Committed)), 12, at(5)).unwrap();
        assert_eq!(verdicts(&fleet), [failure]);
        fleet.apply(report(4, decided(6, Outcome::Superseded)), 13, at(6)).unwrap();
        assert_eq!(verdicts(&fleet), [(4, Verdict::Success, String::new())]);
        assert_eq!(fleet.get(&NodeId::from("press-7")).unwrap().number(), 6.into());
        assert_eq!(fleet.take_fresh().len(), 1);
        assert!(fleet.take_fresh().is_empty());
    }

    #[test]
    fn no_number_hides_the_one_that_is_assigned() {
        let mut fleet = Fleet::default();
        let ahead = Err(Dropped::Ahead { number: u64::MAX, index: 10 });
        assert_eq!(fleet.apply(report(0, decided(u64::MAX, Outcome::Superseded)), 1, at(5)), ahead);
        fleet.apply(report(0, decided(10, Outcome::Superseded)), 1, at(5)).unwrap();
        fleet.apply(report(0, decided(5, Outcome::Reverted)), 2, at(5)).unwrap();
        fleet.apply(report(0, decided(9, Outcome::Committed)), 3, at(5)).unwrap();
        assert_eq!(verdicts(&fleet), [(5, Verdict::Failure, "code: words".into())]);
        // The disk was lost: it is to be tried again, and nobody knows what becomes of it.
        let again = NodeReport { incarnation: "0100".into(), ..report(0, What::Leaving) };
        fleet.apply(again, 4, at(5)).unwrap();
        assert_eq!(verdicts(&fleet), []);
    }

    #[test]
    fn a_node_is_present_while_it_is_heard() {
        let mut fleet = Fleet::default();
        let node = NodeId::from("press-7");
        fleet
            .apply(
                report(0, What::Present { uptime_s: 1, next_s: 60, lanes: Vec::new(), models: Vec::new() }),
                1_000,
                at(0),
            )
            .unwrap();
        let seen = fleet.get(&node).unwrap();
        assert!(seen.is_present(1_000 + 120_000, 30_000), "twice what it said");
        assert!(!seen.is_present(1_000 + 120_001, 30_000));
        assert!(seen.is_present(1_000 + 200_000, 200_000));
        fleet.apply(report(0, What::Leaving), 2_000, at(0)).unwrap();
        assert!(!fleet.get(&node).unwrap().is_present(2_000, 200_000));
        fleet.forget(&node);
        assert!(fleet.is_empty() && fleet.take_fresh().is_empty());
    }

    #[test]
    fn memory_is_bounded_and_who_was_never_assigned_anything_is_forgotten() {
        let mut fleet = Fleet::default();
        let lane = |n: usize| Lane { name: format!("{n}{}", "\n".repeat(60_000)), events: 1, bytes: 1 };
        let ghost = |n: usize, lanes: usize| {
            let what = What::Present {
                uptime_s: 1,
                next_s: u64::MAX,
                lanes: (0..lanes).map(lane).collect(),
                models: Vec::new(),
            };
            let groups = (0..200).map(|n| format!("{n}{}", "g".repeat(1_000))).collect();
            NodeReport { node: format!("ghost-{n}"), groups, ..report(0, what) }
        };
        fleet.apply(ghost(0, 100), 1_000, at(0)).unwrap();
        let each = fleet.bytes;
        assert!(each < 16 << 10, "{each}");
        for n in 1..100 {
            fleet.apply(ghost(n, 100), 1_000, at(0)).unwrap();
            fleet.apply(ghost(n, 1), 1_000, at(0)).unwrap();
        }
        let sum = |fleet: &Fleet| fleet.nodes.values().map(Seen::bytes).sum::<usize>();
        assert_eq!(fleet.bytes, sum(&fleet));
        // Full: nobody new, and those who are there without what is not needed.
        fleet.bytes = BYTES_MAX;
        assert_eq!(fleet.apply(ghost(1_000, 1), 1_000, at(0)), Err(Dropped::Full));
        fleet.apply(ghost(1, 2), 1_000, at(0)).unwrap();
        assert_eq!(fleet.nodes[&NodeId::from("ghost-1")].lanes.len(), 0);
        assert!(fleet.bytes <= BYTES_MAX);
        let hour = 1_000 + 3_600_000;
        fleet.bytes = BYTES_MAX;
        assert!(fleet.forget_silent(hour, |_| false).is_empty());
        let gone = fleet.forget_silent(hour + 1, |node| node.as_str() == "ghost-7");
        assert_eq!((gone.len(), fleet.len()), (99, 1));
        fleet.bytes = sum(&fleet);
        fleet.apply(ghost(1_000, 1), 1_000, at(0)).unwrap();
        assert!(fleet.forget_silent(1_000 + 3 * 86_400_000, |_| false).is_empty(), "there is room");
        assert_eq!(fleet.forget_silent(1_001 + 3 * 86_400_000, |_| false).len(), 2);
        assert_eq!(fleet.bytes, 0);
    }

    fn model(seq: u64, number: u64, version: u64, outcome: ModelOutcome) -> What {
        let name = Name::parse("press").unwrap();
        What::Model { seq, epoch: 0, number, name, version, outcome, reason: String::new(), detail: String::new() }
    }

    #[test]
    fn what_became_of_each_version_of_the_newest_assignment_counts() {
        let (mut fleet, node) = (Fleet::default(), NodeId::from("press-7"));
        let mut tell = |what: What| fleet.apply(report(5, what), 1, at(5)).unwrap();
        tell(model(1, 4, 1, ModelOutcome::Active));
        // That of the document is decided as well, and says nothing of its models.
        tell(decided(5, Outcome::Committed));
        tell(model(3, 5, 2, ModelOutcome::Fetched));
        tell(model(2, 5, 1, ModelOutcome::Active));
        let said = |fleet: &Fleet| -> Vec<_> {
            let all = fleet.get(&node).unwrap().model_verdicts(&node, 0);
            all.map(|r| (r.number, r.model.as_ref().unwrap().version, r.model.unwrap().mode, r.verdict)).collect()
        };
        assert_eq!(said(&fleet), [(5, 1, Some(Mode::Active), Verdict::Success)]);
        let mut tell = |what: What| fleet.apply(report(5, what), 1, at(5)).unwrap();
        tell(model(4, 5, 2, ModelOutcome::Shadowing));
        // Told again, and late.
        tell(model(3, 5, 2, ModelOutcome::Fetched));
        tell(model(1, 4, 1, ModelOutcome::Reverted));
        let shadow = (5, 2, Some(Mode::Shadow), Verdict::Success);
        assert_eq!(said(&fleet), [shadow, (5, 1, Some(Mode::Active), Verdict::Success)]);
        fleet.apply(report(5, model(5, 5, 1, ModelOutcome::Reverted)), 1, at(5)).unwrap();
        assert_eq!(said(&fleet), [shadow, (5, 1, None, Verdict::Failure)]);
        assert_eq!(fleet.get(&node).unwrap().model_verdicts(&node, 1).count(), 0, "another epoch");
    }

    #[test]
    fn what_others_say_is_cut() {
        let mut fleet = Fleet::default();
        let what = What::Refused { reason: "é".repeat(400), detail: String::new() };
        fleet.apply(report(0, what), 1, at(0)).unwrap();
        let refused = fleet.get(&NodeId::from("press-7")).unwrap().refused.clone().unwrap();
        assert_eq!(refused.reason.len(), TEXT_MAX);
    }
}
