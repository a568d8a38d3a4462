//! What the state says when it is asked. [pure]

use std::collections::BTreeMap;
use std::ops::Bound;

use super::UnixMs;
use super::event::{Audience, Digest, NodeId, NodeReport, RolloutId};
use super::fold::Rollouts;
use super::gates::Gates;
use super::plan::Plan;
use super::progress::{Progress, Stage};
use super::waves::Rollout;
use crate::downlink::artefact::model::Name;
use crate::downlink::artefact::{Mode, ModelAssigned};

/// What a node is to run. All of it is a function of the log: whoever signs it signs the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Grows with every assignment of this node.
    pub number: u64,
    /// `None`: what the node has by itself.
    pub target: Option<Digest>,
    /// When the event that made it was appended.
    pub at_ms: UnixMs,
    /// The roll-out that made it, or took it back.
    pub rollout: Option<RolloutId>,
    /// The roll-out that gave its document, or took another one back.
    pub document_rollout: Option<RolloutId>,
    /// Its models.
    pub models: Vec<ModelAssigned>,
}

/// What a roll-out was created as.
#[derive(Clone, Debug)]
pub struct Created<'r> {
    /// Its place in the log.
    pub index: u64,
    /// The document that it brings.
    pub target: Option<Digest>,
    /// The model that it brings instead.
    pub model: Option<&'r ModelAssigned>,
    /// Waves and thresholds.
    pub plan: &'r Plan,
    /// Why, for operators.
    pub reason: &'r str,
    /// Who joins it later.
    pub audience: &'r Audience,
    /// Those of the audience for whom it does not stand any more.
    pub retired: &'r Audience,
    /// It brings back what nodes ran before.
    pub rollback: bool,
}

/// Of which there is one thing on a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind<'r> {
    Document,
    Used(&'r Name),
    Beside(&'r Name),
}

impl<'r> Kind<'r> {
    fn of(rollout: &'r Rollout) -> Self {
        match rollout.brings.model() {
            None => Self::Document,
            Some(model) if model.mode == Mode::Shadow => Self::Beside(&model.name),
            Some(model) => Self::Used(&model.name),
        }
    }

    /// The kind that ends this one.
    fn used(self) -> Option<Self> {
        match self {
            Self::Beside(name) => Some(Self::Used(name)),
            _ => None,
        }
    }
}

impl Rollouts {
    /// What a node is to run; `None`: nothing was assigned to it.
    pub fn assignment(&self, node: &NodeId) -> Option<Assignment> {
        let node = self.nodes.get(node).filter(|n| n.number != 0)?;
        let (target, models) = (node.document.target, node.models());
        let (rollout, document_rollout) = (node.origin.clone(), node.document_origin.clone());
        Some(Assignment { number: node.number, target, at_ms: node.at_ms, rollout, document_rollout, models })
    }

    /// Whether the node has not reported on its assignment.
    pub fn is_outstanding(&self, node: &NodeId) -> bool {
        self.outstanding.contains(node)
    }

    /// Whether appending the report would change anything: what comes again need not lie in the log again.
    pub fn is_news(&self, report: &NodeReport) -> bool {
        let Some(node) = self.nodes.get(&report.node) else { return false };
        let counts =
            || node.rollout.as_ref().and_then(|id| self.rollouts.get(id)).is_some_and(|r| r.would_count(report));
        node.is_news(report) || (node.number == report.number && counts())
    }

    /// What a roll-out was created as.
    pub fn created(&self, id: &RolloutId) -> Option<Created<'_>> {
        let Rollout { created, brings, plan, reason, audience, retired, rollback, .. } = self.rollouts.get(id)?;
        let (index, target, model, rollback) = (*created, brings.document(), brings.model(), *rollback);
        Some(Created { index, target, model, plan, reason, audience, retired, rollback })
    }

    /// Of the roll-outs that stand, or run, for nodes of these groups, the newest of each kind counts: of documents, and of
    /// each model those of a version to use, and those of one to run beside it unless a newer one is of one to use. Of these
    /// one that this node has nothing from, nor anything newer of the kind, if it is in no other: first those that stand.
    pub fn to_join(&self, node: &NodeId, groups: &[String]) -> Option<&RolloutId> {
        let known = self.nodes.get(node);
        if known.is_some_and(|node| node.rollout.is_some()) {
            return None;
        }
        let mut newest = BTreeMap::<Kind<'_>, (&RolloutId, &Rollout)>::new();
        for (id, rollout) in self.rollouts.iter().filter(|(_, r)| r.takes(groups)) {
            let newer = newest.entry(Kind::of(rollout)).or_insert((id, rollout));
            if newer.1.created < rollout.created {
                *newer = (id, rollout);
            }
        }
        let lacks = |r: &Rollout| match known {
            Some(node) => node.given(r.brings.model()) < r.created && r.brings.to(node).is_some(),
            None => true,
        };
        let is_ended = |kind: &Kind<'_>, r: &Rollout| {
            kind.used().and_then(|used| newest.get(&used)).is_some_and(|(_, used)| used.created > r.created)
        };
        let lacking = newest.iter().filter(|(kind, (_, r))| lacks(r) && !is_ended(kind, r));
        lacking.min_by_key(|(_, (_, r))| (r.stage == Stage::Running, r.created)).map(|(_, (id, _))| *id)
    }

    /// Whether any roll-out takes nodes that turn up later.
    pub fn has_audience(&self) -> bool {
        self.rollouts.values().any(|r| !r.audience.is_empty() && matches!(r.stage, Stage::Running | Stage::Completed))
    }

    /// Nodes that have not reported on their assignment: what a new controller sends again.
    pub fn outstanding(&self) -> impl Iterator<Item = &NodeId> {
        self.outstanding.iter()
    }

    /// Nodes to which something was assigned.
    pub fn assigned(&self) -> impl Iterator<Item = &NodeId> {
        self.assigned_after(None)
    }

    /// Nodes to which something was assigned, by name, after `after`.
    pub fn assigned_after(&self, after: Option<&NodeId>) -> impl Iterator<Item = &NodeId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let nodes = self.nodes.range::<NodeId, _>((from, Bound::Unbounded));
        nodes.filter(|(_, node)| node.number != 0).map(|(name, _)| name)
    }

    /// Names the log; `None`: it is empty, or does not begin with its beginning.
    pub fn log(&self) -> Option<&str> {
        self.log.as_deref()
    }

    /// Events read, void ones included, and what numbers were raised by: no assignment has a higher number.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The lead's epoch and name; a claim takes a higher one. Whoever is not named here has not got the lead.
    pub fn lead(&self) -> (u64, &str) {
        (self.epoch, &self.lead)
    }

    /// A roll-out in numbers.
    pub fn progress(&self, id: &RolloutId) -> Option<Progress> {
        self.rollouts.get(id).map(Rollout::progress)
    }

    /// All that are remembered.
    pub fn ids(&self) -> impl Iterator<Item = &RolloutId> {
        self.rollouts.keys()
    }

    #[cfg(test)]
    pub(super) fn plan_of(&self, id: &RolloutId) -> &Plan {
        &self.rollouts[id].plan
    }

    /// The roll-out that a node is in, while that is not over.
    pub fn rollout_of(&self, node: &NodeId) -> Option<&RolloutId> {
        self.nodes.get(node)?.rollout.as_ref()
    }

    /// The model of the roll-out that a node is in, while that is not over.
    pub fn model_of(&self, node: &NodeId) -> Option<&ModelAssigned> {
        self.rollouts.get(self.rollout_of(node)?)?.brings.model()
    }

    /// The gates of the roll-out that a node is in, while that runs, and what it brings.
    pub fn gates_of(&self, node: &NodeId) -> Option<(&ModelAssigned, &Gates)> {
        let rollout = self.rollouts.get(self.rollout_of(node)?)?;
        let gates = Some(&rollout.plan.gates).filter(|gates| !gates.is_empty());
        rollout.brings.model().zip(gates)
    }

    /// Exposed nodes of a roll-out that have not reported and are not absent.
    pub fn silent(&self, id: &RolloutId) -> impl Iterator<Item = &NodeId> {
        self.rollouts.get(id).into_iter().flat_map(Rollout::silent)
    }

    pub(super) fn active(&self) -> impl Iterator<Item = (&RolloutId, &Rollout)> {
        self.rollouts.iter().filter(|(_, r)| r.stage.is_active())
    }
}
