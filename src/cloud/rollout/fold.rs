//! The state as a fold over the log. [pure]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::event::{Audience, Author, Digest, Event, NodeId, NodeReport, RolloutId, What};
use super::node::{Given, Node};
use super::progress::Stage;
use super::void::Void;
use super::waves::{Brings, Rollout};
use super::{ACTIVE_MAX, DRAFTS_MAX, MEMBERS_MAX, NODES_MAX, ROLLBACKS_MAX, ROLLOUTS_MAX, UnixMs};
use crate::downlink::artefact::ModelAssigned;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Rollouts {
    /// Events read, and the number of the last one's assignments.
    pub(super) index: u64,
    /// Names the log; `None`: its first event was another one.
    pub(super) log: Option<String>,
    /// When that event was appended.
    at_ms: UnixMs,
    pub(super) epoch: u64,
    pub(super) lead: String,
    /// When the lead appended its last event, on its clock.
    lead_ms: UnixMs,
    pub(super) rollouts: BTreeMap<RolloutId, Rollout>,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// Nodes that have not reported on their assignment.
    pub(super) outstanding: BTreeSet<NodeId>,
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
            let before = node.number;
            node.renumber(self.index, self.at_ms);
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
        let What::Created { rollout: id, target, model, plan, reason, audience, rollback } = what else {
            return Ok(Vec::new());
        };
        let brings = match model {
            Some(model) => Brings::Model(Arc::new(model.clone())),
            None => Brings::Document(*target),
        };
        let mut new = Rollout::new(id.clone(), self.index, brings, plan.clone());
        (new.reason, new.audience) = (reason.clone(), audience.clone());
        // The lead may have said nothing for days: its last time alone would end the draft before it can be started.
        (new.rollback, new.created_ms) = (*rollback, self.lead_ms.max(at_ms));
        if let Some(known) = self.rollouts.get(id) {
            let content = |r: &Rollout| (r.brings.clone(), r.plan.clone(), r.audience.clone(), r.rollback);
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
                None if rollout.brings.to(node).is_none() => rollout.held += 1,
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
        let standing = self.rollouts.get(id).map(|r| (r.created, r.brings.clone()));
        let Some((created, brings)) = standing else { return Vec::new() };
        let mut changed = Vec::new();
        for name in nodes {
            if !self.nodes.contains_key(name) && self.nodes.len() >= NODES_MAX {
                continue;
            }
            let node = self.nodes.entry(name.clone()).or_default();
            if node.rollout.is_none()
                && node.given(brings.model()) < created
                && let Some(given) = brings.to(node)
            {
                self.set(name, given, Some(id), created);
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
        let (brings, created) = (rollout.brings.clone(), rollout.created);
        for name in &exposed {
            // It had room when it was enrolled, and nothing else is given to a member.
            let given = self.nodes.get(name).and_then(|node| brings.to(node));
            given.into_iter().for_each(|given| self.set(name, given, Some(id), created));
        }
        exposed
    }

    fn abort(&mut self, id: &RolloutId, reason: &str) -> Result<Vec<NodeId>, Void> {
        let rollout = self.rollouts.get_mut(id).ok_or_else(|| Void::Unknown(id.clone()))?;
        if !rollout.stage.is_active() {
            return Err(Void::Stage(id.clone()));
        }
        let (members, exposed) = rollout.end(Stage::Aborted { reason: reason.to_owned() });
        let brings = rollout.brings.clone();
        self.release(&members);
        for name in &exposed {
            let Some(node) = self.nodes.get_mut(name) else { continue };
            let base = match &brings {
                Brings::Document(_) => Some(node.without_document()),
                Brings::Model(model) => node.without_model(&model.name),
            };
            base.into_iter().for_each(|base| self.set(name, base, Some(id), self.index));
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
            if report.model.is_some() {
                // An assignment is taken with its document, whatever is said of the rest.
            } else if report.number == node.number {
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
                self.set(name, Given::Document(target), None, self.index);
                changed.push(name.clone());
            }
        }
        changed
    }

    fn assign_model(&mut self, nodes: &[NodeId], model: &ModelAssigned) -> Vec<NodeId> {
        let (model, mut changed) = (Arc::new(model.clone()), Vec::new());
        for name in nodes {
            if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(name) {
                continue;
            }
            let node = self.nodes.entry(name.clone()).or_default();
            if node.rollout.is_none()
                && let Some(given) = node.with(&model)
            {
                let origin = node.origin.clone();
                self.set(name, given, origin.as_ref(), self.index);
                changed.push(name.clone());
            }
        }
        changed
    }

    fn set(&mut self, name: &NodeId, given: Given, origin: Option<&RolloutId>, since: u64) {
        if let Some(node) = self.nodes.get_mut(name) {
            if matches!(given, Given::Document(_)) {
                node.document_origin = origin.cloned();
            }
            node.assign(self.index, self.at_ms, given, since);
            node.origin = origin.cloned();
            self.outstanding.insert(name.clone());
        }
    }
}
