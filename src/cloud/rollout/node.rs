//! What the log says of one node: its assignment, and what it ran before. [pure]

use super::UnixMs;
use super::event::{Digest, NodeReport, RolloutId, Verdict};
use crate::downlink::artefact::model::MODELS_MAX;
use crate::downlink::artefact::{Mode, ModelAssigned};

#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// 0: nothing was ever assigned.
    pub number: u64,
    pub target: Option<Digest>,
    pub at_ms: UnixMs,
    /// The roll-out that made its assignment, or took it back.
    pub origin: Option<RolloutId>,
    /// The roll-out that has it, while that is not over.
    pub rollout: Option<RolloutId>,
    /// What it said of its assignment.
    pub verdict: Option<Verdict>,
    /// What it ran well last, before its assignment.
    pub good: Option<Digest>,
    /// The assignment before, while nobody knows what became of it: it was away.
    pub unknown: Option<(u64, Option<Digest>)>,
    /// The models that were assigned to it, at most [`MODELS_MAX`]. All of them are in every assignment.
    pub models: Vec<ModelAssigned>,
}

impl Node {
    /// What it goes back to: the last that it ran well, or was to run and has never spoken of; nothing that failed here.
    pub fn base(&self) -> Option<Digest> {
        self.unknown.map_or(self.good, |(_, target)| target)
    }

    /// Its assignment is one of the past: something newer takes its place.
    pub fn passes(&mut self) {
        match self.verdict {
            Some(Verdict::Success) => (self.good, self.unknown) = (self.target, None),
            None if self.number != 0 => self.unknown = Some((self.number, self.target)),
            _ => {}
        }
    }

    /// It is to have this version of a model, and what that leaves of the others of the name: with one in use nothing runs
    /// beside it, unless that is assigned later. `false`: it has too many.
    pub fn give(&mut self, model: &ModelAssigned) -> bool {
        let goes =
            |had: &ModelAssigned| had.name == model.name && (model.mode != Mode::Shadow || had.mode != Mode::Active);
        let stay = self.models.iter().filter(|had| !goes(had)).count();
        if stay >= MODELS_MAX {
            return false;
        }
        self.models.retain(|had| !goes(had));
        self.models.push(model.clone());
        true
    }

    /// Whether it has not said as much of this number.
    pub fn is_news(&self, report: &NodeReport) -> bool {
        match &self.unknown {
            Some((number, _)) if *number == report.number => true,
            _ => self.number == report.number && self.verdict < Some(report.verdict),
        }
    }

    /// It speaks of its assignment, or of the one before.
    pub fn hear(&mut self, report: &NodeReport) {
        match self.unknown {
            _ if report.number == self.number => self.verdict = self.verdict.max(Some(report.verdict)),
            Some((number, target)) if number == report.number => {
                self.unknown = None;
                if report.verdict == Verdict::Success {
                    self.good = target;
                }
            }
            _ => {}
        }
    }
}
