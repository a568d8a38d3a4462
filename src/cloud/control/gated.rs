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

#[cfg(test)]
mod tests {
    use super::super::fleet::{Fleet, Log};
    use super::*;
    use crate::cloud::rollout::{Audience, Author, Event, Plan, RolloutId, Wave, What};
    use crate::downlink::artefact::Digest;
    use crate::downlink::artefact::model::Name;
    use crate::downlink::report::{self, Lane, ModelOutcome, ModelPresent, Run, Running};

    /// A roll-out of version 7 with these gates, and a gateway that has it with the number that is given.
    fn begun(gates: Gates) -> (Rollouts, u64) {
        let mut rollouts = Rollouts::default();
        let (id, node) = (RolloutId::from("r"), NodeId::from("press-7"));
        let wave = Wave { share_ppm: 1_000_000, soak_ms: 0, approval: false };
        let plan = Plan { waves: vec![wave], gates, ..Plan::default() };
        let model = ModelAssigned {
            name: Name::parse("press").unwrap(),
            version: 7,
            digest: Digest::of(b"7"),
            mode: Mode::Active,
        };
        let (reason, audience) = (String::new(), Audience::default());
        for what in [
            What::Created {
                rollout: id.clone(),
                target: None,
                model: Some(model),
                plan,
                reason,
                audience,
                rollback: false,
            },
            What::Enrolled { rollout: id.clone(), nodes: vec![node.clone()] },
            What::Started { rollout: id },
        ] {
            rollouts.apply(&Event { at_ms: 0, by: Author::Operator { name: "ada".into() }, what }).unwrap();
        }
        let number = rollouts.assignment(&node).unwrap().number;
        (rollouts, number)
    }

    fn say(fleet: &mut Fleet, heard_ms: u64, what: report::What) {
        let committed = Running { epoch: 0, number: 0, sha256: None };
        let (node, incarnation, software) = ("press-7".into(), "0".into(), "1".into());
        let (groups, trial, accepted) = (Vec::new(), None, None);
        let said =
            report::NodeReport { node, incarnation, at_ms: None, software, groups, committed, trial, accepted, what };
        fleet.apply(said, heard_ms, Log { assigned: Some(3), index: 10 }).unwrap();
    }

    fn present(fleet: &mut Fleet, heard_ms: u64, backlog: u64, run: Run) {
        let lanes = vec![Lane { name: "telemetry".into(), events: 1, bytes: backlog }];
        let scores = Some(Scores { active: Some(run), ..Scores::default() });
        let name = Name::parse("press").unwrap();
        let model = ModelPresent { name, version: Some(7), previous: None, shadow: None, fetching: None, scores };
        say(fleet, heard_ms, report::What::Present { uptime_s: 1, next_s: 60, lanes, models: vec![model] });
    }

    fn counted(gated: &mut Gated, rollouts: &Rollouts, fleet: &Fleet) -> Vec<(Verdict, String)> {
        let node = NodeId::from("press-7");
        let seen = fleet.get(&node).unwrap();
        let said = seen.model_verdicts(&node, 0).filter_map(|said| gated.counted(rollouts, seen, said));
        said.map(|said| (said.verdict, said.reason)).collect()
    }

    fn told(number: u64, outcome: ModelOutcome) -> report::What {
        let name = Name::parse("press").unwrap();
        let (reason, detail) = (String::new(), String::new());
        report::What::Model { seq: number, epoch: 0, number, name, version: 7, outcome, reason, detail }
    }

    #[test]
    fn a_success_counts_when_the_gates_are_passed_and_a_fallen_one_is_a_failure_also_later() {
        let gates = Gates { events_min: Some(10), alarms_share_max_ppm: Some(100_000), ..Gates::default() };
        let (rollouts, number) = begun(gates);
        let (mut gated, mut fleet) = (Gated::default(), Fleet::default());
        let run = |version, scored, alarms| Run { version, scored, alarms, ..Run::default() };
        say(&mut fleet, 1, told(number, ModelOutcome::Active));
        assert_eq!(counted(&mut gated, &rollouts, &fleet), [], "it has not said what it measures");
        present(&mut fleet, 2, 0, run(6, 500, 0));
        assert_eq!(counted(&mut gated, &rollouts, &fleet), [], "that is the version before");
        present(&mut fleet, 3, 0, run(7, 9, 0));
        assert_eq!(counted(&mut gated, &rollouts, &fleet), []);
        present(&mut fleet, 4, 0, run(7, 10, 1));
        assert_eq!(counted(&mut gated, &rollouts, &fleet), [(Verdict::Success, String::new())]);
        present(&mut fleet, 5, 0, run(7, 20, 3));
        let why = "alarms: 15 % of 20 events, the gate is 10 %".to_owned();
        assert_eq!(counted(&mut gated, &rollouts, &fleet), [(Verdict::Failure, why)]);
        // What is said of another number, and a failure, counts as it is.
        say(&mut fleet, 6, told(number + 1, ModelOutcome::Active));
        assert_eq!(counted(&mut gated, &rollouts, &fleet), [(Verdict::Success, String::new())]);
        say(&mut fleet, 7, told(number + 2, ModelOutcome::Reverted));
        assert_eq!(counted(&mut gated, &rollouts, &fleet), [(Verdict::Failure, String::new())]);
    }

    #[test]
    fn the_backlog_is_measured_from_the_first_report_with_the_version() {
        let (rollouts, number) = begun(Gates { backlog_growth_max_bytes: Some(100), ..Gates::default() });
        let (mut gated, mut fleet) = (Gated::default(), Fleet::default());
        present(&mut fleet, 1, 0, Run::default());
        say(&mut fleet, 2, told(number, ModelOutcome::Active));
        assert_eq!(counted(&mut gated, &rollouts, &fleet), [], "that was before");
        present(&mut fleet, 3, 5_000, Run::default());
        assert_eq!(counted(&mut gated, &rollouts, &fleet), [(Verdict::Success, String::new())]);
        present(&mut fleet, 4, 5_101, Run::default());
        let why = "backlog: it has grown by 101 bytes, the gate is 100".to_owned();
        assert_eq!(counted(&mut gated, &rollouts, &fleet), [(Verdict::Failure, why)]);
    }
}
