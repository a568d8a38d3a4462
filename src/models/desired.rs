//! What a gateway is to do about its models, and how far it is: what must survive the process. [pure]
//!
//! ```text
//! assigned ─► Fetch ──► Trial ──► Done          active, shadowing, off
//!               │         └─────► Reverting ──► Over   reverted: the version before is in use again
//!               └───────────────────────────► Over     refused
//! ```
//! A step is written to disk before anything acts on it, with what is to be reported of it; after a kill the same step is
//! done again. A version is never left half decided: an assignment that comes in the middle of a trial waits for its end.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::manifest::Name;
use super::store::Version;
use crate::downlink::artefact::model::MODELS_MAX;
use crate::downlink::artefact::{Mode, ModelAssigned};
use crate::downlink::number::Number;
use crate::downlink::report::{ModelOutcome, What};

/// Largest record, in bytes: [`WANTED_MAX`] entries twice, and the reports, each with two sentences.
pub const RECORD_BYTES_MAX: usize = 512 * 1024;

/// Entries that are remembered: those of assignments that do not list them any more stay as they are.
pub const WANTED_MAX: usize = 4 * MODELS_MAX;

/// Reports that wait for the cloud; of more the oldest is forgotten. Each model has two for a version.
pub const REPORTS_MAX: usize = 4 * MODELS_MAX;

/// Longest reason and detail that is kept, in bytes: an error names paths and addresses.
const TEXT_BYTES_MAX: usize = 1024;

/// How far an assigned version is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// It is to be had, and put to its use.
    Fetch,
    /// It is here, and put to use until it is known to be well.
    Trial,
    /// It is not well: the version before is to be in use again.
    Reverting {
        /// A code for machines.
        reason: String,
        /// For people.
        detail: String,
    },
    /// It is as assigned.
    Done,
    /// It was refused, or taken back.
    Over,
}

/// An assigned version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// As assigned.
    pub assigned: ModelAssigned,
    /// By which assignment.
    pub number: Number,
    /// How far it is.
    pub step: Step,
}

impl Wanted {
    /// Which version it is.
    pub fn version(&self) -> Version {
        (self.assigned.name.clone(), self.assigned.version)
    }

    fn is_deciding(&self) -> bool {
        matches!(self.step, Step::Trial | Step::Reverting { .. })
    }
}

/// Something that the cloud has not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Grows with every one.
    pub seq: u64,
    /// The assignment's.
    pub number: Number,
    /// The model.
    pub name: Name,
    /// Its version.
    pub version: u64,
    /// What became of it.
    pub outcome: ModelOutcome,
    /// See [`What::Model`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// See [`What::Model`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl std::convert::From<&Told> for What {
    fn from(told: &Told) -> Self {
        Self::Model {
            seq: told.seq,
            epoch: told.number.epoch,
            number: told.number.n,
            name: told.name.clone(),
            version: told.version,
            outcome: told.outcome,
            reason: told.reason.clone(),
            detail: told.detail.clone(),
        }
    }
}

/// An assignment that waits for the end of a trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Next {
    at: Number,
    models: Vec<ModelAssigned>,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The newest assignment that was taken.
    at: Number,
    next: Option<Next>,
    last_report: u64,
    wanted: Vec<Wanted>,
    reports: VecDeque<Told>,
}

impl Desired {
    /// Takes an assignment's models; `used` says which of them are in use as assigned. One that is not newer than the last
    /// changes nothing. What it does not list stays as it is.
    pub fn assign(&mut self, at: Number, models: &[ModelAssigned], used: impl Fn(&ModelAssigned) -> bool) {
        if at <= self.next.as_ref().map_or(self.at, |next| next.at) {
            return;
        }
        let before = self.next.take().map(|next| next.models).unwrap_or_default();
        let listed: BTreeSet<&Name> = models.iter().map(|model| &model.name).collect();
        let kept = before.into_iter().filter(|model| !listed.contains(&model.name));
        let models: Vec<ModelAssigned> = models.iter().cloned().chain(kept).take(WANTED_MAX).collect();
        self.next = Some(Next { at, models });
        self.go_on(used);
    }

    /// Takes the assignment that waits, if nothing is half decided.
    pub fn go_on(&mut self, used: impl Fn(&ModelAssigned) -> bool) {
        if self.wanted.iter().any(Wanted::is_deciding) {
            return;
        }
        let Some(Next { at, models }) = self.next.take() else { return };
        self.at = at;
        let listed: BTreeSet<&Name> = models.iter().map(|model| &model.name).collect();
        let before = std::mem::take(&mut self.wanted);
        let (replaced, kept): (Vec<_>, Vec<_>) =
            before.into_iter().partition(|wanted| listed.contains(&wanted.assigned.name));
        self.wanted = kept;
        for assigned in models {
            let same = |wanted: &&Wanted| wanted.assigned == assigned && wanted.step == Step::Done;
            let stays = replaced.iter().any(|wanted| same(&wanted)) && used(&assigned);
            let (mode, step) = (assigned.mode, if stays { Step::Done } else { Step::Fetch });
            self.wanted.push(Wanted { assigned: assigned.clone(), number: at, step });
            if stays {
                self.tell(&assigned, at, as_assigned(mode), "", "");
            }
        }
        let over = self.wanted.len().saturating_sub(WANTED_MAX);
        self.wanted.drain(..over);
    }

    /// What is half decided.
    pub fn deciding(&self) -> Option<&Wanted> {
        self.wanted.iter().find(|wanted| wanted.is_deciding())
    }

    /// The version of `name` that is in use and of which nobody knows yet whether it is well.
    pub fn on_trial(&self, name: &Name) -> Option<&Wanted> {
        self.wanted.iter().find(|wanted| wanted.assigned.name == *name && wanted.is_deciding())
    }

    /// Whether this is still to be done.
    pub fn wants(&self, wanted: &Wanted) -> bool {
        self.wanted.contains(wanted)
    }

    /// All that is assigned.
    pub fn wanted(&self) -> &[Wanted] {
        &self.wanted
    }

    /// The versions that must not go to make room.
    pub fn keeps(&self) -> BTreeSet<Version> {
        let uses = self.wanted.iter().filter(|w| w.assigned.mode != Mode::Off && w.step != Step::Over);
        uses.map(|wanted| (wanted.assigned.name.clone(), wanted.assigned.version)).collect()
    }

    /// Whether some version of `name` is to run beside the one in use.
    pub fn shadows(&self, name: &Name) -> bool {
        self.wanted.iter().any(|w| w.assigned.name == *name && w.assigned.mode == Mode::Shadow && w.step != Step::Over)
    }

    /// The version is here, and is put to use.
    pub fn fetched(&mut self, of: &Wanted) {
        let step = if of.assigned.mode == Mode::Active { Step::Trial } else { Step::Fetch };
        if self.set(of, step) {
            self.tell(&of.assigned, of.number, ModelOutcome::Fetched, "", "");
        }
    }

    /// It is as assigned.
    pub fn done(&mut self, of: &Wanted) {
        if self.set(of, Step::Done) {
            self.tell(&of.assigned, of.number, as_assigned(of.assigned.mode), "", "");
        }
    }

    /// It is not well.
    pub fn failing(&mut self, of: &Wanted, reason: &str, detail: &str) {
        let step = Step::Reverting { reason: cut(reason), detail: cut(detail) };
        self.set(of, step);
    }

    /// The one before is in use again.
    pub fn reverted(&mut self, of: &Wanted) {
        if let Step::Reverting { reason, detail } = &of.step
            && self.set(of, Step::Over)
        {
            self.tell(&of.assigned, of.number, ModelOutcome::Reverted, reason, detail);
        }
    }

    /// It must not be used.
    pub fn refused(&mut self, of: &Wanted, reason: &str, detail: &str) {
        if self.set(of, Step::Over) {
            self.tell(&of.assigned, of.number, ModelOutcome::Refused, reason, detail);
        }
    }

    /// What was in use is not what it was, and out of use: it is to be had again.
    pub fn damaged(&mut self, name: &Name, version: u64) {
        let is = |wanted: &&mut Wanted| (&wanted.assigned.name, wanted.assigned.version) == (name, version);
        let done = self.wanted.iter_mut().filter(is).filter(|w| w.step == Step::Done && w.assigned.mode != Mode::Off);
        let damaged = done.map(|wanted| {
            let again = Wanted { step: Step::Fetch, ..wanted.clone() };
            std::mem::replace(wanted, again)
        });
        let damaged: Vec<Wanted> = damaged.collect();
        let detail = "its file on this gateway's disk was damaged; it is fetched again; look after the disk";
        for of in damaged {
            self.tell(&of.assigned, of.number, ModelOutcome::Reverted, "damaged", detail);
        }
    }

    /// An operator on the site went back from it: nothing is done about it until it is assigned anew.
    pub fn left(&mut self, name: &Name) {
        let is = |wanted: &&mut Wanted| wanted.assigned.name == *name && wanted.assigned.mode == Mode::Active;
        self.wanted.iter_mut().filter(is).filter(|w| w.step == Step::Done).for_each(|wanted| wanted.step = Step::Over);
    }

    /// What the cloud has not acknowledged, the oldest first.
    pub fn reports(&self) -> impl Iterator<Item = &Told> {
        self.reports.iter()
    }

    /// The cloud has it.
    pub fn acknowledged(&mut self, seq: u64) {
        self.reports.retain(|told| told.seq != seq);
    }

    /// As bytes: JSON, and its CRC.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default(); // strings and numbers can be written
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(format!("\n{crc:08x}\n").as_bytes());
        bytes
    }

    /// Reads bytes; `None`: they are not what was written.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let json = bytes.get(..end)?;
        let read: Self = serde_json::from_slice(json).ok()?;
        (bytes.get(end..)? == format!("\n{:08x}\n", crc32fast::hash(json)).as_bytes()).then_some(read)
    }

    fn set(&mut self, of: &Wanted, step: Step) -> bool {
        let found = self.wanted.iter_mut().find(|wanted| *wanted == of);
        found.map(|wanted| wanted.step = step).is_some()
    }

    fn tell(&mut self, of: &ModelAssigned, number: Number, outcome: ModelOutcome, reason: &str, detail: &str) {
        self.last_report += 1;
        if self.reports.len() >= REPORTS_MAX {
            self.reports.pop_front();
        }
        let (name, version, seq) = (of.name.clone(), of.version, self.last_report);
        let (reason, detail) = (cut(reason), cut(detail));
        self.reports.push_back(Told { seq, number, name, version, outcome, reason, detail });
    }
}

fn as_assigned(mode: Mode) -> ModelOutcome {
    match mode {
        Mode::Active => ModelOutcome::Active,
        Mode::Shadow => ModelOutcome::Shadowing,
        Mode::Off => ModelOutcome::Off,
    }
}

fn cut(text: &str) -> String {
    let end = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::downlink::artefact::Digest;
    use crate::models::turns::Turns;

    /// What is to be done next, if nothing waits.
    fn work(desired: &Desired) -> Option<Wanted> {
        Turns::default().next(desired, 0, true).cloned()
    }

    fn model(name: u8, version: u64, mode: u8) -> ModelAssigned {
        let mode = [Mode::Active, Mode::Shadow, Mode::Off][usize::from(mode % 3)];
        let name = Name::parse(&format!("m{name}")).unwrap();
        ModelAssigned { name, version, digest: Digest::of(&version.to_le_bytes()), mode }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Assign(u64, Vec<(u8, u64, u8)>),
        /// What becomes of the work: 0 it fails, 1 it goes on; and whether the process is killed before it is written.
        Work(bool, bool),
        Acknowledge,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let models = prop::collection::btree_map(0_u8..4, (1_u64..4, 0_u8..3), 0..3);
        let models =
            models.prop_map(|all| all.into_iter().map(|(name, (version, mode))| (name, version, mode)).collect());
        let op = prop_oneof![
            2 => (1_u64..12, models).prop_map(|(n, models)| Op::Assign(n, models)),
            5 => (any::<bool>(), prop::bool::weighted(0.2)).prop_map(|(well, killed)| Op::Work(well, killed)),
            1 => Just(Op::Acknowledge),
        ];
        prop::collection::vec(op, 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: crate::models::tests::cases(1_000), ..ProptestConfig::default() })]

        #[test]
        fn every_assigned_version_is_decided_once_and_a_trial_is_never_left_half_done(ops in ops()) {
            let (mut desired, mut newest, mut told) = (Desired::default(), 0, 0);
            // Versions that were put to use and of which nobody knows whether they are well.
            let mut on_trial: BTreeSet<Name> = BTreeSet::new();
            for op in ops {
                let before = desired.clone();
                match op {
                    Op::Assign(n, models) => {
                        let models: Vec<_> = models.into_iter().map(|(n, v, m)| model(n, v, m)).collect();
                        desired.assign(n.into(), &models, |_| true);
                        if n <= newest {
                            prop_assert_eq!(&desired, &before);
                        }
                        newest = newest.max(n);
                    }
                    Op::Work(well, killed) => {
                        let Some(work) = work(&desired) else { continue };
                        match (&work.step, work.assigned.mode, well) {
                            (Step::Fetch, Mode::Active, true) => desired.fetched(&work),
                            (Step::Fetch, _, true) | (Step::Trial, _, true) => desired.done(&work),
                            (Step::Fetch, _, false) => desired.refused(&work, "code", "words"),
                            (Step::Trial, _, false) => desired.failing(&work, "code", "words"),
                            (Step::Reverting { .. }, _, _) => desired.reverted(&work),
                            (Step::Done | Step::Over, _, _) => prop_assert!(false, "{work:?} is no work"),
                        }
                        desired.go_on(|_| true);
                        if killed {
                            desired = before.clone();
                        }
                    }
                    Op::Acknowledge => {
                        let seq = desired.reports().next().map(|told| told.seq);
                        seq.into_iter().for_each(|seq| desired.acknowledged(seq));
                    }
                }
                prop_assert_eq!(Desired::decode(&desired.encode()), Some(desired.clone()));
                prop_assert!(desired.encode().len() <= RECORD_BYTES_MAX);
                prop_assert!(desired.last_report >= told && desired.reports().all(|r| r.seq <= desired.last_report));
                told = desired.last_report;
                for wanted in desired.wanted().iter().filter(|wanted| wanted.is_deciding()) {
                    on_trial.insert(wanted.assigned.name.clone());
                }
                // Whoever was on trial is on trial, or was decided and is remembered so, by that assignment.
                on_trial.retain(|name| {
                    let of: Vec<_> = desired.wanted().iter().filter(|w| w.assigned.name == *name).collect();
                    assert!(!of.is_empty(), "{name} was forgotten on trial");
                    of.iter().any(|w| w.is_deciding())
                });
                prop_assert!(desired.wanted().iter().filter(|w| w.is_deciding()).count() <= 1);
            }
            // All comes to an end.
            for _ in 0..200 {
                let Some(work) = work(&desired) else { break };
                match (&work.step, work.assigned.mode) {
                    (Step::Fetch, Mode::Active) => desired.fetched(&work),
                    (Step::Reverting { .. }, _) => desired.reverted(&work),
                    _ => desired.done(&work),
                }
                desired.go_on(|_| true);
            }
            prop_assert!(work(&desired).is_none() && desired.next.is_none());
            prop_assert_eq!(desired.at, newest.into());
        }

        #[test]
        fn a_damaged_record_is_none(at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let mut desired = Desired::default();
            desired.assign(3.into(), &[model(1, 2, 0)], |_| true);
            let mut bytes = desired.encode();
            *at.get_mut(&mut bytes) ^= flip;
            prop_assert_eq!(Desired::decode(&bytes), None);
        }
    }

    #[test]
    fn what_is_not_listed_stays_and_what_is_in_use_already_is_told_again() {
        let mut desired = Desired::default();
        desired.assign(1.into(), &[model(1, 1, 0), model(2, 5, 0)], |_| false);
        for _ in 0..4 {
            let work = work(&desired).unwrap();
            if work.step == Step::Fetch { desired.fetched(&work) } else { desired.done(&work) }
        }
        assert!(work(&desired).is_none() && desired.reports().count() == 4);
        desired.assign(2.into(), &[model(1, 1, 0)], |_| true);
        let last = desired.reports().last().unwrap();
        assert_eq!((last.number, last.outcome, last.version), (2.into(), ModelOutcome::Active, 1));
        assert!(work(&desired).is_none() && desired.keeps().len() == 2);
        // One that is damaged is told of, and is to be had again.
        desired.damaged(&model(2, 5, 0).name, 5);
        let last = desired.reports().last().unwrap();
        assert_eq!((last.outcome, last.reason.as_str(), last.version), (ModelOutcome::Reverted, "damaged", 5));
        let again = work(&desired).unwrap();
        assert_eq!((again.version(), &again.step), ((model(2, 5, 0).name, 5), &Step::Fetch));
        desired.fetched(&again);
        desired.done(&work(&desired).unwrap());
        // One that somebody left on the site is put to use again by a newer assignment.
        desired.left(&model(1, 1, 0).name);
        desired.assign(3.into(), &[model(1, 1, 0)], |_| false);
        assert_eq!(work(&desired).unwrap().step, Step::Fetch);
    }
}
