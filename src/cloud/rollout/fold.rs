//! The state as a fold over the log. [pure]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::event::{Audience, Author, Digest, Event, Malformed, NodeId, NodeReport, RolloutId, Verdict, What};
use super::node::Node;
use super::progress::{Progress, Stage};
use super::waves::Rollout;
use super::{ACTIVE_MAX, DRAFTS_MAX, MEMBERS_MAX, NODES_MAX, Plan, ROLLBACKS_MAX, ROLLOUTS_MAX, UnixMs};
use crate::downlink::artefact::ModelAssigned;

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
    /// Its models.
    pub models: Vec<ModelAssigned>,
}

/// What a roll-out was created as.
#[derive(Clone, Debug)]
pub struct Created<'r> {
    /// Its place in the log.
    pub index: u64,
    /// What it brings.
    pub target: Option<Digest>,
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

/// Why an event changed nothing. It stays in the log; every reader finds it void.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Void {
    /// Another controller has the lead.
    #[error("epoch {epoch} of {name} is not the lead's: {lead_name} has it with epoch {lead}")]
    Fenced {
        /// The author's.
        epoch: u64,
        /// The author.
        name: String,
        /// The lead's.
        lead: u64,
        /// Who has it.
        lead_name: String,
    },
    /// Only a controller, or only an operator does this.
    #[error("this is not the author's to decide")]
    Author,
    /// It breaks a limit.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// There is no such roll-out, or it is forgotten.
    #[error("there is no roll-out {0}")]
    Unknown(RolloutId),
    /// The id is taken.
    #[error("roll-out {0} exists with another content: take another id")]
    Exists(RolloutId),
    /// It has happened already, or the stage does not allow it.
    #[error("roll-out {0} is not at that point")]
    Stage(RolloutId),
    /// Too few successes, too many failures, no approval, or the soak is not over.
    #[error("roll-out {0} may not go on yet")]
    NotYet(RolloutId),
    /// It has no members.
    #[error("roll-out {0} has no nodes: enrol some")]
    Empty(RolloutId),
    /// It has an event before this one.
    #[error("the log has begun")]
    Begun,
    /// Too many run.
    #[error("{0} roll-outs are running, which is the most: abort one, or wait (\"tidegate rollout list\" shows them)")]
    TooMany(usize),
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Rollouts {
    /// Events read, and the number of the last one's assignments.
    index: u64,
    /// Names the log; `None`: its first event was another one.
    log: Option<String>,
    /// When that event was appended.
    at_ms: UnixMs,
    epoch: u64,
    lead: String,
    /// When the lead appended its last event, on its clock.
    lead_ms: UnixMs,
    rollouts: BTreeMap<RolloutId, Rollout>,
    nodes: BTreeMap<NodeId, Node>,
    /// Nodes that have not reported on their assignment.
    outstanding: BTreeSet<NodeId>,
}

impl Rollouts {
    /// Applies the next event of the log. Gives the nodes whose assignment is to be sent: it is new, or the node spoke of
    /// an older one.
    pub fn apply(&mut self, event: &Event) -> Result<Vec<NodeId>, Void> {
        (self.index, self.at_ms) = (self.index.saturating_add(1), event.at_ms);
        event.what.check()?;
        self.check_author(event)?;
        let is_of_lead = self.is_of_lead(event);
        if is_of_lead && !matches!(event.what, What::Claimed) {
            self.lead_ms = self.lead_ms.max(event.at_ms);
        }
        let done = self.carry_out(event);
        if is_of_lead {
            let now_ms = self.lead_ms;
            self.rollouts.values_mut().filter(|r| r.stage == Stage::Running).for_each(|r| r.lead_spoke(now_ms));
        }
        done
    }

    fn carry_out(&mut self, event: &Event) -> Result<Vec<NodeId>, Void> {
        match &event.what {
            What::Begun { id } => self.begun(id),
            What::Claimed => Ok(self.claim(event)),
            What::Created { .. } => self.create(&event.what, event.at_ms),
            What::Enrolled { rollout, nodes } => self.enrol(rollout, nodes),
            What::Started { rollout } => self.begin(rollout, 0),
            What::Advanced { rollout, wave } => {
                self.expect_ready(rollout, Some(*wave))?;
                self.begin(rollout, *wave)
            }
            What::Approved { rollout, wave } => self.change(rollout, |r| r.approve(*wave)),
            What::Passed { rollout, wave } => self.change(rollout, |r| r.pass(*wave)),
            What::Paused { rollout, reason } => self.change(rollout, |r| {
                let is_new = r.stage.is_active() && r.paused.is_none();
                if is_new {
                    r.paused = Some(reason.clone());
                }
                is_new
            }),
            What::Resumed { rollout } => {
                self.change(rollout, Rollout::resume)?;
                Ok(self.expose(rollout))
            }
            What::Retired { rollout, audience } => self.retire(rollout, audience),
            What::Soaking { rollout } => self.change(rollout, |r| r.soak_begins()),
            What::Aborted { rollout, reason } => self.abort(rollout, reason),
            What::Completed { rollout } => {
                self.expect_ready(rollout, None)?;
                self.complete(rollout)
            }
            What::Reported { reports } => Ok(self.report(reports)),
            What::Absent { rollout, nodes } => self.change(rollout, |r| {
                nodes.iter().for_each(|node| r.miss(node));
                true
            }),
            What::Departed { nodes } => Ok(self.depart(nodes)),
            What::Assigned { nodes, target } => Ok(self.assign(nodes, *target)),
            What::ModelAssigned { nodes, model, .. } => Ok(self.assign_model(nodes, model)),
            What::Raised { index } => Ok(self.raise(*index)),
        }
    }

    fn check_author(&self, event: &Event) -> Result<(), Void> {
        use What::{
            Aborted, Absent, Advanced, Approved, Assigned, Begun, Claimed, Completed, Created, Departed, Enrolled,
            ModelAssigned, Passed, Paused, Raised, Reported, Resumed, Retired, Soaking, Started,
        };
        match (&event.by, &event.what) {
            // Facts and orders need no lead.
            (_, Begun { .. } | Reported { .. } | Enrolled { .. } | Departed { .. }) => Ok(()),
            (Author::Controller { epoch, .. }, Claimed) if *epoch > self.epoch => Ok(()),
            (Author::Controller { epoch, name }, _) if *epoch != self.epoch || *name != self.lead => {
                let (lead, lead_name) = (self.epoch, self.lead.clone());
                Err(Void::Fenced { epoch: *epoch, name: name.clone(), lead, lead_name })
            }
            (
                Author::Controller { .. },
                Advanced { .. } | Completed { .. } | Soaking { .. } | Absent { .. } | Aborted { .. } | Paused { .. },
            ) => Ok(()),
            (
                Author::Operator { .. },
                Created { .. }
                | Started { .. }
                | Approved { .. }
                | Passed { .. }
                | Paused { .. }
                | Resumed { .. }
                | Retired { .. }
                | Aborted { .. }
                | Assigned { .. }
                | ModelAssigned { .. }
                | Raised { .. },
            ) => Ok(()),
            _ => Err(Void::Author),
        }
    }

    fn begun(&mut self, id: &str) -> Result<Vec<NodeId>, Void> {
        if self.index != 1 {
            return Err(Void::Begun);
        }
        self.log = Some(id.to_owned());
        Ok(Vec::new())
    }

    /// What nodes have spoken of is decided, and keeps its number.
    fn raise(&mut self, above: u64) -> Vec<NodeId> {
        self.index = self.index.max(above.saturating_add(1));
        let mut changed = Vec::new();
        for name in &self.outstanding {
            let Some(node) = self.nodes.get_mut(name).filter(|node| node.number <= above) else { continue };
            changed.push(name.clone());
            let before = std::mem::replace(&mut node.number, self.index);
            node.at_ms = self.at_ms;
            if let Some(rollout) = node.rollout.as_ref().and_then(|id| self.rollouts.get_mut(id)) {
                rollout.renumber(name, before, self.index);
            }
        }
        changed
    }

    /// Whether the lead says it, or whoever takes the lead with it.
    fn is_of_lead(&self, event: &Event) -> bool {
        let Author::Controller { epoch, name } = &event.by else { return false };
        matches!(event.what, What::Claimed) || (*epoch > 0 && *epoch == self.epoch && *name == self.lead)
    }

    fn claim(&mut self, event: &Event) -> Vec<NodeId> {
        if let Author::Controller { epoch, name } = &event.by {
            let before_ms = std::mem::replace(&mut self.lead_ms, event.at_ms);
            self.rollouts.values_mut().for_each(|r| r.lead_ends(before_ms));
            // Whoever was to start them has had no lead to see it: their day begins again.
            let drafts = self.rollouts.values_mut().filter(|r| r.stage == Stage::Draft);
            drafts.for_each(|r| r.created_ms = r.created_ms.max(event.at_ms));
            (self.epoch, self.lead) = (*epoch, name.clone());
        }
        Vec::new()
    }

    fn create(&mut self, what: &What, at_ms: UnixMs) -> Result<Vec<NodeId>, Void> {
        let What::Created { rollout: id, target, plan, reason, audience, rollback } = what else {
            return Ok(Vec::new());
        };
        let mut new = Rollout::new(id.clone(), self.index, *target, plan.clone());
        (new.reason, new.audience) = (reason.clone(), audience.clone());
        // The lead may have said nothing for days: its last time alone would end the draft before it can be started.
        (new.rollback, new.created_ms) = (*rollback, self.lead_ms.max(at_ms));
        if let Some(known) = self.rollouts.get(id) {
            let content = |r: &Rollout| (r.target, r.plan.clone(), r.audience.clone(), r.rollback);
            let is_same = content(known) == content(&new);
            return Err(if is_same { Void::Stage(id.clone()) } else { Void::Exists(id.clone()) });
        }
        let drafts = || self.rollouts.iter().filter(|(_, r)| r.stage == Stage::Draft);
        if drafts().count() >= DRAFTS_MAX
            && let Some(oldest) = drafts().min_by_key(|(_, r)| r.created).map(|(id, _)| id.clone())
        {
            self.abort(&oldest, "it was the oldest of too many drafts")?;
        }
        if self.rollouts.len() >= ROLLOUTS_MAX {
            // What stands for those that turn up later is remembered longest.
            let stands = |r: &Rollout| r.stage == Stage::Completed && !r.audience.is_empty();
            let over = self.rollouts.iter().filter(|(_, r)| !r.stage.is_active());
            let oldest = over.min_by_key(|(_, r)| (stands(r), r.created)).map(|(id, _)| id.clone());
            oldest.map(|id| self.rollouts.remove(&id));
        }
        self.rollouts.insert(id.clone(), new);
        Ok(Vec::new())
    }

    /// Whether one more roll-out may run; a rollback has places of its own.
    pub fn expect_room(&self, rollback: bool) -> Result<(), Void> {
        let most = if rollback { ROLLBACKS_MAX } else { ACTIVE_MAX };
        let running = self.rollouts.values().filter(|r| r.stage == Stage::Running && r.rollback == rollback);
        if running.count() < most { Ok(()) } else { Err(Void::TooMany(most)) }
    }

    fn enrol(&mut self, id: &RolloutId, nodes: &[NodeId]) -> Result<Vec<NodeId>, Void> {
        let rollout = self.rollouts.get_mut(id).ok_or_else(|| Void::Unknown(id.clone()))?;
        match rollout.stage {
            Stage::Draft | Stage::Running => {}
            Stage::Completed => return Ok(self.join_standing(id, nodes)),
            Stage::Aborted { .. } => return Err(Void::Stage(id.clone())),
        }
        for name in nodes {
            if rollout.member_count() >= MEMBERS_MAX
                || (!self.nodes.contains_key(name) && self.nodes.len() >= NODES_MAX)
            {
                rollout.held += 1;
                continue;
            }
            let node = self.nodes.entry(name.clone()).or_default();
            match &node.rollout {
                None => {
                    node.rollout = Some(id.clone());
                    rollout.enrol(name);
                }
                Some(other) if other != id => rollout.held += 1,
                Some(_) => {}
            }
        }
        Ok(self.expose(id))
    }

    /// Late joiners of a roll-out that is completed.
    fn join_standing(&mut self, id: &RolloutId, nodes: &[NodeId]) -> Vec<NodeId> {
        let Some((created, target)) = self.rollouts.get(id).map(|r| (r.created, r.target)) else { return Vec::new() };
        let mut changed = Vec::new();
        for name in nodes {
            if !self.nodes.contains_key(name) && self.nodes.len() >= NODES_MAX {
                continue;
            }
            let node = self.nodes.entry(name.clone()).or_default();
            if node.rollout.is_none() && node.number < created {
                self.set(name, target, Some(id));
                changed.push(name.clone());
            }
        }
        changed
    }

    fn begin(&mut self, id: &RolloutId, wave: usize) -> Result<Vec<NodeId>, Void> {
        let rollout = self.rollouts.get(id).ok_or_else(|| Void::Unknown(id.clone()))?;
        if wave == 0 {
            if rollout.stage != Stage::Draft {
                return Err(Void::Stage(id.clone()));
            }
            // Later all may have departed; a wave without nodes begins, so that the controller's decision counts.
            if rollout.member_count() == 0 {
                return Err(Void::Empty(id.clone()));
            }
            self.expect_room(rollout.rollback)?;
        }
        if let Some(rollout) = self.rollouts.get_mut(id) {
            rollout.begin(wave);
        }
        Ok(self.expose(id))
    }

    /// Whether the roll-out may go on to `wave`, or be completed.
    fn expect_ready(&self, id: &RolloutId, wave: Option<usize>) -> Result<(), Void> {
        let rollout = self.rollouts.get(id).ok_or_else(|| Void::Unknown(id.clone()))?;
        if rollout.stage != Stage::Running || rollout.next_wave().map(|(next, _)| next) != wave {
            return Err(Void::Stage(id.clone()));
        }
        let soaked = rollout.soaked_at_ms().is_some_and(|due| due <= self.lead_ms);
        if rollout.may_go_on() && soaked { Ok(()) } else { Err(Void::NotYet(id.clone())) }
    }

    /// Changes a roll-out that is not over; `false`: it was so already.
    fn change(&mut self, id: &RolloutId, change: impl FnOnce(&mut Rollout) -> bool) -> Result<Vec<NodeId>, Void> {
        let rollout = self.rollouts.get_mut(id).ok_or_else(|| Void::Unknown(id.clone()))?;
        if !rollout.stage.is_active() || !change(rollout) {
            return Err(Void::Stage(id.clone()));
        }
        rollout.count_soak();
        Ok(Vec::new())
    }

    fn expose(&mut self, id: &RolloutId) -> Vec<NodeId> {
        let Some(rollout) = self.rollouts.get_mut(id) else { return Vec::new() };
        let exposed = rollout.expose(self.index);
        rollout.count_soak();
        let target = rollout.target;
        exposed.iter().for_each(|node| self.set(node, target, Some(id)));
        exposed
    }

    fn abort(&mut self, id: &RolloutId, reason: &str) -> Result<Vec<NodeId>, Void> {
        let rollout = self.rollouts.get_mut(id).ok_or_else(|| Void::Unknown(id.clone()))?;
        if !rollout.stage.is_active() {
            return Err(Void::Stage(id.clone()));
        }
        let (members, exposed) = rollout.end(Stage::Aborted { reason: reason.to_owned() });
        self.release(&members);
        for name in &exposed {
            let Some(node) = self.nodes.get_mut(name) else { continue };
            // What is taken back is nothing to go back to, however it went.
            node.verdict = Some(Verdict::Failure);
            let base = node.base();
            self.set(name, base, Some(id));
        }
        Ok(exposed)
    }

    fn complete(&mut self, id: &RolloutId) -> Result<Vec<NodeId>, Void> {
        let rollout = self.rollouts.get_mut(id).ok_or_else(|| Void::Unknown(id.clone()))?;
        let (members, _) = rollout.end(Stage::Completed);
        self.release(&members);
        Ok(Vec::new())
    }

    fn retire(&mut self, id: &RolloutId, audience: &Audience) -> Result<Vec<NodeId>, Void> {
        let rollout = self.rollouts.get_mut(id).ok_or_else(|| Void::Unknown(id.clone()))?;
        if rollout.retire(audience) { Ok(Vec::new()) } else { Err(Void::Stage(id.clone())) }
    }

    fn release(&mut self, members: &[NodeId]) {
        for name in members {
            if let Some(node) = self.nodes.get_mut(name) {
                node.rollout = None;
            }
        }
    }

    fn report(&mut self, reports: &[NodeReport]) -> Vec<NodeId> {
        let (mut again, mut counted) = (Vec::new(), BTreeSet::new());
        for report in reports {
            let Some(node) = self.nodes.get_mut(&report.node) else { continue };
            node.hear(report);
            if report.number == node.number {
                self.outstanding.remove(&report.node);
            } else if report.number < node.number {
                again.push(report.node.clone());
            }
            if let Some(rollout) = node.rollout.as_ref().and_then(|id| self.rollouts.get_mut(id)) {
                rollout.report(report);
                counted.extend(node.rollout.clone());
            }
        }
        self.count_soaks(&counted);
        again
    }

    fn count_soaks(&mut self, ids: &BTreeSet<RolloutId>) {
        for id in ids {
            if let Some(rollout) = self.rollouts.get_mut(id) {
                rollout.count_soak();
            }
        }
    }

    fn depart(&mut self, nodes: &[NodeId]) -> Vec<NodeId> {
        let mut counted = BTreeSet::new();
        for name in nodes {
            self.outstanding.remove(name);
            let Some(id) = self.nodes.remove(name).and_then(|n| n.rollout) else { continue };
            if let Some(rollout) = self.rollouts.get_mut(&id) {
                rollout.depart(name);
                counted.insert(id);
            }
        }
        self.count_soaks(&counted);
        Vec::new()
    }

    fn assign(&mut self, nodes: &[NodeId], target: Option<Digest>) -> Vec<NodeId> {
        let mut changed = Vec::new();
        for name in nodes {
            let room = self.nodes.len() < NODES_MAX || self.nodes.contains_key(name);
            if room && self.nodes.entry(name.clone()).or_default().rollout.is_none() {
                self.set(name, target, None);
                changed.push(name.clone());
            }
        }
        changed
    }

    fn assign_model(&mut self, nodes: &[NodeId], model: &ModelAssigned) -> Vec<NodeId> {
        let mut changed = Vec::new();
        for name in nodes {
            if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(name) {
                continue;
            }
            let node = self.nodes.entry(name.clone()).or_default();
            if node.rollout.is_none() && node.give(model) {
                // A document that has failed here is not tried again because of a model.
                let target = if node.verdict == Some(Verdict::Failure) { node.base() } else { node.target };
                let origin = node.origin.clone();
                self.set(name, target, origin.as_ref());
                changed.push(name.clone());
            }
        }
        changed
    }

    fn set(&mut self, name: &NodeId, target: Option<Digest>, origin: Option<&RolloutId>) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.passes();
            (node.number, node.target, node.verdict) = (self.index, target, None);
            (node.at_ms, node.origin) = (self.at_ms, origin.cloned());
            self.outstanding.insert(name.clone());
        }
    }

    /// What a node is to run; `None`: nothing was assigned to it.
    pub fn assignment(&self, node: &NodeId) -> Option<Assignment> {
        let node = self.nodes.get(node).filter(|n| n.number != 0)?;
        let Node { number, target, at_ms, ref origin, ref models, .. } = *node;
        Some(Assignment { number, target, at_ms, rollout: origin.clone(), models: models.clone() })
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
        let Rollout { created, target, plan, reason, audience, retired, rollback, .. } = self.rollouts.get(id)?;
        Some(Created { index: *created, target: *target, plan, reason, audience, retired, rollback: *rollback })
    }

    /// The newest roll-out that stands, or runs, for nodes of these groups, if this node has nothing from it or
    /// anything newer, and is in no other.
    pub fn to_join(&self, node: &NodeId, groups: &[String]) -> Option<&RolloutId> {
        let known = self.nodes.get(node);
        if known.is_some_and(|node| node.rollout.is_some()) {
            return None;
        }
        let number = known.map_or(0, |node| node.number);
        let newest = self.rollouts.iter().filter(|(_, r)| r.takes(groups)).max_by_key(|(_, r)| r.created);
        newest.filter(|(_, r)| number < r.created).map(|(id, _)| id)
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

    /// Exposed nodes of a roll-out that have not reported and are not absent.
    pub fn silent(&self, id: &RolloutId) -> impl Iterator<Item = &NodeId> {
        self.rollouts.get(id).into_iter().flat_map(Rollout::silent)
    }

    pub(super) fn active(&self) -> impl Iterator<Item = (&RolloutId, &Rollout)> {
        self.rollouts.iter().filter(|(_, r)| r.stage.is_active())
    }
}
