//! What a roll-out may do, told in the simplest way from the events alone: sets of nodes and what each of them has.

use std::collections::{BTreeMap, BTreeSet};

use super::models::ModelsHad;
use crate::cloud::rollout::{
    ALL_PPM, Assignment, Author, Digest, Event, NodeId, NodeReport, RolloutId, Rollouts, Stage, Verdict, Void, What,
};
use crate::downlink::artefact::ModelAssigned;

struct Had {
    number: u64,
    target: Option<Digest>,
    said: Option<Verdict>,
}

/// What a number means: a document and models.
type Meaning = (Option<Digest>, Vec<ModelAssigned>);

#[derive(Default)]
pub struct Model {
    /// What every node was assigned, oldest first, and what it said of it. Of those it never spoke of the newest is kept.
    has: BTreeMap<NodeId, Vec<Had>>,
    /// What every number means.
    meaning: BTreeMap<(NodeId, u64), Meaning>,
    /// By roll-out: its exposed nodes.
    exposed: BTreeMap<RolloutId, BTreeSet<NodeId>>,
    pub members: BTreeMap<RolloutId, BTreeSet<NodeId>>,
    waves: BTreeMap<RolloutId, usize>,
    /// What every node was assigned of each model.
    models: ModelsHad,
    lead: (u64, String),
}

impl Model {
    /// What a node was told, by whomever, must be what the log said at that place.
    pub fn sent(&self, node: &NodeId, sent: &Assignment) {
        let meaning = (sent.target, sent.models.clone());
        assert_eq!(self.meaning.get(&(node.clone(), sent.number)), Some(&meaning), "{node} {}", sent.number);
    }

    /// After `event` gave `result` and `state`; the event's place in the log is the state's index.
    pub fn check(&mut self, event: &Event, result: &Result<Vec<NodeId>, Void>, state: &Rollouts) {
        let needs_lead = matches!(
            event.what,
            What::Advanced { .. }
                | What::Completed { .. }
                | What::Absent { .. }
                | What::Aborted { .. }
                | What::Paused { .. }
        );
        if let Author::Controller { epoch, name } = &event.by {
            let is_lead = self.lead == (*epoch, name.clone());
            assert!(is_lead || !needs_lead || matches!(result, Err(Void::Fenced { .. })), "{event:?} {result:?}");
            if matches!(event.what, What::Claimed) {
                assert_eq!(result.is_ok(), *epoch > self.lead.0);
                if result.is_ok() {
                    self.lead = (*epoch, name.clone());
                }
            }
        }
        let Ok(changed) = result else { return };
        match &event.what {
            What::Enrolled { rollout, nodes } => self.enrolled(rollout, nodes, changed, state),
            What::Started { rollout } => self.exposes(rollout, 0, changed, state),
            What::Advanced { rollout, wave } => {
                assert_eq!(self.waves.get(rollout).map(|w| w + 1), Some(*wave), "waves come one after the other");
                self.exposes(rollout, *wave, changed, state);
            }
            What::Resumed { rollout } => {
                let wave = self.waves.get(rollout).copied().unwrap_or(0);
                self.exposes(rollout, wave, changed, state);
            }
            What::Aborted { rollout, .. } => self.aborted(rollout, changed, state),
            What::Completed { rollout } => {
                assert!(changed.is_empty());
                self.exposed.remove(rollout);
                self.members.remove(rollout);
            }
            What::Assigned { nodes, target } => {
                let free: Vec<_> = nodes.iter().filter(|n| !self.members.values().any(|m| m.contains(n))).collect();
                assert!(changed.iter().eq(free));
                changed.iter().for_each(|node| self.gets(node, *target, state));
            }
            What::ModelAssigned { nodes, model, .. } => {
                let free: Vec<_> = nodes.iter().filter(|n| !self.members.values().any(|m| m.contains(n))).collect();
                assert!(changed.iter().eq(free));
                changed.iter().for_each(|node| self.given(node, Some(model), None, state));
            }
            What::Departed { nodes } => {
                nodes.iter().for_each(|node| self.models.forget(node));
                for node in nodes {
                    self.has.remove(node);
                    self.members.values_mut().for_each(|m| m.retain(|n| n != node));
                    self.exposed.values_mut().for_each(|e| e.retain(|n| n != node));
                }
            }
            // The same under a higher number.
            What::Raised { .. } => {
                changed.iter().for_each(|node| self.renumbered(node, state));
            }
            // What is sent again means what it meant.
            What::Reported { reports } => reports.iter().for_each(|report| self.said(report)),
            _ => assert!(changed.is_empty(), "{event:?} changes {changed:?}"),
        }
        self.models_stay(state);
    }

    /// A node gets the model, or without one the document. The document stays unless it has failed.
    fn given(&mut self, node: &NodeId, model: Option<&ModelAssigned>, target: Option<Digest>, state: &Rollouts) {
        let from = self.has.get(node).and_then(|had| had.last()).map_or(0, |had| had.number);
        let target = match model {
            Some(model) => {
                self.models.given(node, model, (from, state.index()));
                self.document_stays(node)
            }
            None => target,
        };
        self.gets(node, target, state);
    }

    fn document_stays(&self, node: &NodeId) -> Option<Digest> {
        match self.has.get(node).and_then(|had| had.last()) {
            Some(had) if had.said == Some(Verdict::Failure) => self.base(node),
            last => last.and_then(|had| had.target),
        }
    }

    /// Whatever else happens to a node, its models stay in its assignment, but for those that have failed there.
    fn models_stay(&self, state: &Rollouts) {
        for (node, models) in self.models.all() {
            let found = state.assignment(node).unwrap().models;
            let sorted: BTreeSet<_> = found.iter().map(|m| (&m.name, m.mode, m.version)).collect();
            let expected = models.iter().map(|m| (&m.name, m.mode, m.version)).collect();
            assert!(sorted == expected && found.len() == models.len(), "{node}: {found:?} {models:?}");
        }
    }

    fn gets(&mut self, node: &NodeId, target: Option<Digest>, state: &Rollouts) {
        let assignment = state.assignment(node).unwrap();
        assert_eq!((assignment.number, assignment.target), (state.index(), target), "{node}");
        let from = self.has.get(node).and_then(|had| had.last()).map_or(0, |had| had.number);
        self.models.others_failed(node, (from, assignment.number));
        let newest = self.meaning.keys().filter(|(n, _)| n == node).map(|(_, number)| *number).max();
        assert!(newest.is_none_or(|n| n < assignment.number), "the numbers of {node} grow");
        self.meaning.insert((node.clone(), assignment.number), (target, assignment.models));
        let had = self.has.entry(node.clone()).or_default();
        if had.last().is_some_and(|last| last.said.is_none()) {
            let last = had.len() - 1;
            let mut i = 0;
            had.retain(|had| (i == last || had.said.is_some(), i += 1).0);
        }
        had.push(Had { number: assignment.number, target, said: None });
    }

    fn renumbered(&mut self, node: &NodeId, state: &Rollouts) {
        let assignment = state.assignment(node).unwrap();
        let last = self.has.get_mut(node).and_then(|had| had.last_mut()).expect("it has an assignment");
        assert_eq!((last.said, assignment.number), (None, state.index()), "{node}");
        assert!(last.target == assignment.target && last.number < assignment.number, "{node}");
        last.number = assignment.number;
        self.meaning.insert((node.clone(), assignment.number), (assignment.target, assignment.models));
    }

    /// Of the newest all counts, a failure more than a success; of others the first word.
    fn said(&mut self, report: &NodeReport) {
        if let Some(said) = &report.model {
            let now = self.has.get(&report.node).and_then(|had| had.last()).map_or(0, |had| had.number);
            self.models.said(&report.node, now, report, said);
            return;
        }
        let Some(had) = self.has.get_mut(&report.node) else { return };
        let newest = had.len().saturating_sub(1);
        let Some((i, had)) = had.iter_mut().enumerate().find(|(_, had)| had.number == report.number) else { return };
        if i == newest || had.said.is_none() {
            had.said = had.said.max(Some(report.verdict));
        }
    }

    /// Where a node goes back to: the newest before its last assignment that has not failed.
    fn base(&self, node: &NodeId) -> Option<Digest> {
        let before = self.has.get(node).into_iter().flat_map(|had| had.iter().rev().skip(1));
        before.filter(|had| had.said != Some(Verdict::Failure)).map(|had| had.target).next().flatten()
    }

    fn enrolled(&mut self, id: &RolloutId, nodes: &[NodeId], changed: &[NodeId], state: &Rollouts) {
        let progress = state.progress(id).unwrap();
        if progress.stage == Stage::Completed {
            changed.iter().for_each(|node| self.given(node, progress.model.as_ref(), progress.target, state));
            return;
        }
        for node in nodes {
            if !self.members.values().any(|m| m.contains(node)) {
                self.members.entry(id.clone()).or_default().insert(node.clone());
            }
        }
        let wave = self.waves.get(id).copied().unwrap_or(0);
        self.exposes(id, wave, changed, state);
    }

    fn exposes(&mut self, id: &RolloutId, wave: usize, changed: &[NodeId], state: &Rollouts) {
        let progress = state.progress(id).unwrap();
        if changed.is_empty() && progress.stage == Stage::Draft {
            return;
        }
        self.waves.insert(id.clone(), wave);
        assert!(changed.is_empty() || progress.paused.is_none(), "a paused roll-out exposes nobody");
        for node in changed {
            assert!(self.members.get(id).is_some_and(|m| m.contains(node)));
            let is_new = self.exposed.entry(id.clone()).or_default().insert(node.clone());
            assert!(is_new, "{node} is exposed twice");
            self.given(node, progress.model.as_ref(), progress.target, state);
        }
        let members = self.members.get(id).map_or(0, BTreeSet::len);
        let exposed = self.exposed.get(id).map_or(0, BTreeSet::len);
        let share = u64::from(state.plan_of(id).waves[wave].share_ppm) as f64 / f64::from(ALL_PPM);
        let most = ((members as f64 * share).ceil() as usize).max(1);
        assert!(
            changed.is_empty() || exposed <= most,
            "{exposed} of {members} are exposed in wave {wave}: at most {most}"
        );
        assert_eq!(progress.members, members);
    }

    fn aborted(&mut self, id: &RolloutId, changed: &[NodeId], state: &Rollouts) {
        let exposed = self.exposed.remove(id).unwrap_or_default();
        let put_back: BTreeSet<_> = changed.iter().collect();
        assert!(exposed.iter().collect::<BTreeSet<_>>() == put_back, "every exposed node is put back, and no other");
        let brought = state.progress(id).unwrap().model;
        for node in exposed {
            if let Some(model) = &brought {
                let from = self.has.get(&node).and_then(|had| had.last()).map_or(0, |had| had.number);
                self.models.taken_back(&node, &model.name, (from, state.index()));
                let stays = self.document_stays(&node);
                self.gets(&node, stays, state);
                continue;
            }
            let base = self.base(&node);
            if let Some(taken_back) = self.has.get_mut(&node).and_then(|had| had.last_mut()) {
                taken_back.said = Some(Verdict::Failure);
            }
            self.gets(&node, base, state);
        }
        self.members.remove(id);
    }

    /// How many nodes a roll-out that is not over has exposed.
    pub fn exposed(&self, id: &RolloutId) -> usize {
        self.exposed.get(id).map_or(0, BTreeSet::len)
    }

    /// Nodes that something was assigned to.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.has.keys()
    }
}
