//! What nodes were assigned of each model, told in the simplest way: all of it, oldest first.

use std::collections::BTreeMap;

use crate::cloud::rollout::{ModelSaid, NodeId, NodeReport, Verdict};
use crate::downlink::artefact::model::Name;
use crate::downlink::artefact::{Mode, ModelAssigned};

#[derive(Clone)]
struct Had {
    /// In force from this number to that one, or until now.
    from: u64,
    to: u64,
    uses: BTreeMap<Mode, ModelAssigned>,
    /// What it is about.
    about: Option<ModelAssigned>,
    said: Option<Verdict>,
}

#[derive(Default)]
pub struct ModelsHad(BTreeMap<NodeId, BTreeMap<Name, Vec<Had>>>);

/// The newest before the last that has not failed.
fn base(had: &[Had]) -> (BTreeMap<Mode, ModelAssigned>, Option<ModelAssigned>) {
    let found = had.iter().rev().skip(1).find(|had| had.said != Some(Verdict::Failure));
    found.map_or_else(Default::default, |had| (had.uses.clone(), had.about.clone()))
}

fn push(
    had: &mut Vec<Had>,
    (until, number): (u64, u64),
    (uses, about): (BTreeMap<Mode, ModelAssigned>, Option<ModelAssigned>),
) {
    if let Some(last) = had.last_mut() {
        last.to = until;
    }
    // Of those that were never spoken of the newest is kept.
    if had.last().is_some_and(|last| last.said.is_none()) {
        let last = had.len() - 1;
        let mut i = 0;
        had.retain(|had| (i == last || had.said.is_some(), i += 1).0);
    }
    had.push(Had { from: number, to: u64::MAX, uses, about, said: None });
}

impl ModelsHad {
    pub fn forget(&mut self, node: &NodeId) {
        self.0.remove(node);
    }

    /// `at`: the node's number until now, and the new one.
    pub fn given(&mut self, node: &NodeId, model: &ModelAssigned, at: (u64, u64)) {
        let had = self.0.entry(node.clone()).or_default().entry(model.name.clone()).or_default();
        let mut uses = match had.last() {
            Some(last) if last.said == Some(Verdict::Failure) => base(had).0,
            last => last.map(|last| last.uses.clone()).unwrap_or_default(),
        };
        match model.mode {
            Mode::Shadow => _ = uses.remove(&Mode::Off),
            _ => uses.clear(),
        }
        uses.insert(model.mode, model.clone());
        push(had, at, (uses, Some(model.clone())));
    }

    /// A roll-out of it is aborted.
    pub fn taken_back(&mut self, node: &NodeId, name: &Name, at: (u64, u64)) {
        let had = self.0.get_mut(node).and_then(|models| models.get_mut(name)).expect("it was exposed");
        let last = had.last_mut().unwrap();
        last.said = Some(Verdict::Failure);
        let (was_used, gone) = (last.uses.contains_key(&Mode::Active), last.about.clone());
        let (mut uses, mut about) = base(had);
        let is_used = uses.contains_key(&Mode::Active) || uses.contains_key(&Mode::Off);
        if (!is_used && (was_used || uses.is_empty()))
            && let Some(gone) = gone
        {
            let off = ModelAssigned { mode: Mode::Off, ..gone };
            uses.insert(Mode::Off, off.clone());
            about = Some(off);
        }
        push(had, at, (uses, about));
    }

    /// Another number for another reason: what has failed is not tried again.
    pub fn others_failed(&mut self, node: &NodeId, at: (u64, u64)) {
        for had in self.0.get_mut(node).into_iter().flat_map(BTreeMap::values_mut) {
            if had.last().is_some_and(|last| last.said == Some(Verdict::Failure)) {
                let base = base(had);
                push(had, at, base);
            }
        }
    }

    pub fn said(&mut self, node: &NodeId, now: u64, report: &NodeReport, said: &ModelSaid) {
        let Some(had) = self.0.get_mut(node).and_then(|models| models.get_mut(&said.name)) else { return };
        let newest = had.len().saturating_sub(1);
        let is_of = |had: &Had| (had.from..=had.to.min(now)).contains(&report.number);
        let Some((i, had)) = had.iter_mut().enumerate().find(|(_, had)| is_of(had)) else { return };
        let concerns = had
            .about
            .as_ref()
            .is_some_and(|about| about.version == said.version && said.mode.is_none_or(|mode| mode == about.mode));
        if concerns && (i == newest || had.said.is_none()) {
            had.said = had.said.max(Some(report.verdict));
        }
    }

    /// What is in every node's assignment.
    pub fn all(&self) -> impl Iterator<Item = (&NodeId, Vec<&ModelAssigned>)> {
        self.0.iter().map(|(node, models)| {
            let last = models.values().filter_map(|had| had.last());
            (node, last.flat_map(|had| had.uses.values()).collect())
        })
    }
}
