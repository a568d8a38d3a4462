//! Who changed what and when, for operators: the newest lines of the log, and the newest assignments of every node. [pure]

use std::collections::{BTreeMap, VecDeque};

use super::super::rollout::{
    Assignment, Author, Digest, Event, NodeId, RolloutId, Rollouts, UnixMs, Verdict, Void, What,
};
use crate::downlink::artefact::ModelAssigned;

/// Lines that are remembered; the log itself has all of them.
pub const LINES_MAX: usize = 10_000;

/// Assignments of a node that are remembered.
pub const CHANGES_MAX: usize = 8;

/// Nodes of an event that are kept by name; a filter by node finds no others in it.
const NAMED_MAX: usize = 20;

/// One line: an order or a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its place in the log.
    pub index: u64,
    /// When.
    pub at_ms: UnixMs,
    /// Who.
    pub by: String,
    /// What was done, in one word.
    pub what: &'static str,
    /// The roll-out.
    pub rollout: Option<RolloutId>,
    /// The document.
    pub target: Option<Digest>,
    /// The wave, from 0.
    pub wave: Option<usize>,
    /// Why.
    pub reason: String,
    /// How many nodes it names.
    pub nodes: usize,
    /// The first of them.
    pub named: Vec<NodeId>,
    /// Why it changed nothing, if it did not.
    pub void: Option<String>,
}

/// One assignment of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its number.
    pub number: u64,
    /// When it was made.
    pub at_ms: UnixMs,
    /// What it brings.
    pub target: Option<Digest>,
    /// The roll-out that made it, or took it back.
    pub rollout: Option<RolloutId>,
    /// What became of it, why, and when that was known.
    pub outcome: Option<(Verdict, String, UnixMs)>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct History {
    lines: VecDeque<Line>,
    nodes: BTreeMap<NodeId, VecDeque<Change>>,
}

impl History {
    /// Takes an event that `rollouts` has just applied, with what that came to.
    pub fn apply(&mut self, event: &Event, result: &Result<Vec<NodeId>, Void>, rollouts: &Rollouts) {
        match (&event.what, result) {
            (What::Reported { reports }, Ok(_)) => {
                // What is said of its models does not decide a document.
                for report in reports.iter().filter(|report| report.model.is_none()) {
                    let change = self
                        .nodes
                        .get_mut(&report.node)
                        .and_then(|changes| changes.iter_mut().find(|change| change.number == report.number));
                    let is_news = |change: &Change| change.outcome.as_ref().map(|o| o.0) < Some(report.verdict);
                    if let Some(change) = change.filter(|change| is_news(change)) {
                        change.outcome = Some((report.verdict, report.reason.clone(), event.at_ms));
                    }
                }
                return;
            }
            (What::Departed { nodes }, Ok(_)) => nodes.iter().for_each(|node| _ = self.nodes.remove(node)),
            (_, Ok(changed)) => changed.iter().for_each(|node| self.change(node, rollouts.assignment(node))),
            (_, Err(_)) => {}
        }
        if self.lines.len() >= LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(Line::of(event, result, rollouts.index()));
    }

    fn change(&mut self, node: &NodeId, assignment: Option<Assignment>) {
        let Some(Assignment { number, target, at_ms, rollout, .. }) = assignment else { return };
        let changes = self.nodes.entry(node.clone()).or_default();
        if changes.len() >= CHANGES_MAX {
            changes.pop_front();
        }
        changes.push_back(Change { number, at_ms, target, rollout, outcome: None });
    }

    /// Newest first, those that name `node` or belong to a roll-out that gave it something.
    pub fn lines(&self, node: Option<&NodeId>) -> impl Iterator<Item = &Line> {
        let rollouts: Vec<&RolloutId> = match node.and_then(|node| self.nodes.get(node)) {
            Some(changes) => changes.iter().filter_map(|change| change.rollout.as_ref()).collect(),
            None => Vec::new(),
        };
        let node = node.cloned();
        self.lines.iter().rev().filter(move |line| match &node {
            None => true,
            Some(node) => line.named.contains(node) || line.rollout.as_ref().is_some_and(|id| rollouts.contains(&id)),
        })
    }

    /// Whether older lines than these are in the log alone.
    pub fn is_cut(&self) -> bool {
        self.lines.len() >= LINES_MAX
    }

    /// The assignments of a node, newest first.
    pub fn changes(&self, node: &NodeId) -> impl Iterator<Item = &Change> {
        self.nodes.get(node).into_iter().flat_map(|changes| changes.iter().rev())
    }

    /// What the node ran with success before what it is to run now; the outer `None`: nothing is remembered of that.
    pub fn previous(&self, node: &NodeId) -> Option<Option<Digest>> {
        let mut changes = self.changes(node);
        let now = changes.next()?.target;
        let worked = |change: &&Change| matches!(change.outcome, Some((Verdict::Success, ..)));
        if let Some(before) = changes.filter(worked).find(|change| change.target != now) {
            return Some(before.target);
        }
        // Before its first assignment the node ran its own file; unless that is what it runs, or more is forgotten.
        let all = self.nodes.get(node).is_some_and(|changes| changes.len() < CHANGES_MAX);
        (all && now.is_some()).then_some(None)
    }
}

impl Line {
    fn of(event: &Event, result: &Result<Vec<NodeId>, Void>, index: u64) -> Self {
        let by = match &event.by {
            Author::Controller { epoch, name } => format!("controller {name} ({epoch})"),
            Author::Operator { name } => name.clone(),
        };
        let mut line = Self {
            index,
            at_ms: event.at_ms,
            by,
            what: "",
            rollout: None,
            target: None,
            wave: None,
            reason: String::new(),
            nodes: 0,
            named: Vec::new(),
            void: result.as_ref().err().map(ToString::to_string),
        };
        line.describe(&event.what);
        line
    }

    fn describe(&mut self, what: &What) {
        let mut name = |word, rollout: Option<&RolloutId>| (self.what, self.rollout) = (word, rollout.cloned());
        match what {
            What::Begun { .. } => name("begun", None),
            What::Claimed => name("claimed", None),
            What::Created { rollout, .. } => name("created", Some(rollout)),
            What::Enrolled { rollout, .. } => name("enrolled", Some(rollout)),
            What::Started { rollout } => name("started", Some(rollout)),
            What::Advanced { rollout, .. } => name("advanced", Some(rollout)),
            What::Approved { rollout, .. } => name("approved", Some(rollout)),
            What::Passed { rollout, .. } => name("passed", Some(rollout)),
            What::Paused { rollout, .. } => name("paused", Some(rollout)),
            What::Resumed { rollout } => name("resumed", Some(rollout)),
            What::Retired { rollout, .. } => name("retired", Some(rollout)),
            What::Soaking { rollout } => name("soaking", Some(rollout)),
            What::Aborted { rollout, .. } => name("aborted", Some(rollout)),
            What::Completed { rollout } => name("completed", Some(rollout)),
            What::Reported { .. } => name("reported", None),
            What::Absent { rollout, .. } => name("absent", Some(rollout)),
            What::Departed { .. } => name("departed", None),
            What::Assigned { .. } => name("assigned", None),
            What::ModelAssigned { .. } => name("assigned-model", None),
            What::Raised { .. } => name("raised", None),
        }
        match what {
            What::Created { target, model: None, reason, .. } => (self.target, self.reason) = (*target, reason.clone()),
            What::Created { model: Some(model), reason, .. } => self.reason = brought(model, reason),
            What::Assigned { target, .. } => self.target = *target,
            What::Advanced { wave, .. } | What::Approved { wave, .. } | What::Passed { wave, .. } => {
                self.wave = Some(*wave);
            }
            What::ModelAssigned { model, reason, .. } => self.reason = brought(model, reason),
            What::Paused { reason, .. } | What::Aborted { reason, .. } => self.reason.clone_from(reason),
            _ => {}
        }
        if let What::Enrolled { nodes, .. }
        | What::Absent { nodes, .. }
        | What::Departed { nodes }
        | What::Assigned { nodes, .. }
        | What::ModelAssigned { nodes, .. } = what
        {
            (self.nodes, self.named) = (nodes.len(), nodes.iter().take(NAMED_MAX).cloned().collect());
        }
    }
}

/// Which version of a model, as what, and why.
fn brought(model: &ModelAssigned, reason: &str) -> String {
    let colon = if reason.is_empty() { "" } else { ": " };
    format!("{} version {} {}{colon}{reason}", model.name, model.version, model.mode.text())
}
