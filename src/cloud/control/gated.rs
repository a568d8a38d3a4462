//! What gateways measure of the model that a roll-out has given them, and what its gates say of that. [pure]

use std::collections::BTreeMap;

use super::fleet::Seen;
use crate::cloud::rollout::{Gates, Judged, Measured, ModelSaid, NodeId, NodeReport, Rollouts, Verdict};
use crate::downlink::artefact::{Mode, ModelAssigned};
use crate::downlink::report::Scores;

/// By gateway: what waited in its outbox when it began to use what it was given. In the lead's memory: another lead begins anew,
/// and then the growth is less than it was.
#[derive(Debug, Default)]
pub struct Gated(BTreeMap<NodeId, Watched>);

#[derive(Clone, Copy, Debug)]
struct Watched {
    number: u64,
    /// When it was present last before, by its report.
    before_ms: u64,
    /// What waited then; `None`: it has not been present since.
    backlog: Option<u64>,
}

impl Gated {
    /// What a gateway says of its models as the gates of its roll-out let it count: no success before they are passed, and a
    /// failure when one falls.
    pub fn counted(&mut self, rollouts: &Rollouts, seen: &Seen, said: NodeReport) -> Option<NodeReport> {
        let Some((model, gates)) = rollouts.gates_of(&said.node) else {
            self.0.remove(&said.node);
            return Some(said);
        };
        let is_it = said.model.as_ref().is_some_and(|about| about.concerns(model));
        let number = rollouts.assignment(&said.node).map(|assigned| assigned.number);
        if !is_it || said.verdict != Verdict::Success || number != Some(said.number) {
            return Some(said);
        }
        match self.judge((&said.node, said.number), seen, model, gates) {
            Judged::Waits => None,
            Judged::Passed => Some(said),
            Judged::Failed(reason) => {
                let model = Some(ModelSaid { name: model.name.clone(), version: model.version, mode: None });
                Some(NodeReport { model, verdict: Verdict::Failure, reason, ..said })
            }
        }
    }

    fn judge(&mut self, (node, number): (&NodeId, u64), seen: &Seen, model: &ModelAssigned, gates: &Gates) -> Judged {
        let new = Watched { number, before_ms: seen.present_ms, backlog: None };
        let watched = self.0.entry(node.clone()).or_insert(new);
        if watched.number != number {
            *watched = new;
        }
        let waits: u64 = seen.lanes.iter().fold(0, |sum, lane| sum.saturating_add(lane.bytes));
        if watched.backlog.is_none() && seen.present_ms != watched.before_ms {
            watched.backlog = Some(waits);
        }
        let begun = gates.backlog_growth_max_bytes.is_none() || watched.backlog.is_some();
        let backlog_growth = watched.backlog.map_or(0, |before| waits.saturating_sub(before));
        match gates.judge(&Measured { backlog_growth, ..measured(seen, model) }) {
            Judged::Passed if !begun => Judged::Waits,
            judged => judged,
        }
    }
}

/// What a gateway has measured of this version in its role.
pub fn measured(seen: &Seen, model: &ModelAssigned) -> Measured {
    let of = seen.models.iter().find(|present| present.name == model.name);
    let Some(Scores { active, shadow, compared, disagreed }) = of.and_then(|present| present.scores) else {
        return Measured::default();
    };
    let run = if model.mode == Mode::Shadow { shadow } else { active };
    let Some(run) = run.filter(|run| run.version == model.version) else { return Measured::default() };
    Measured {
        scored: run.scored,
        failed: run.failed,
        alarms: run.alarms,
        compared,
        disagreed,
        held_us: run.held_us,
        backlog_growth: 0,
    }
}
