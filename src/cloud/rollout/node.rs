//! What the log says of one node: its assignment, and what it ran before. [pure]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::UnixMs;
use super::course::Course;
use super::event::{Digest, ModelSaid, NodeReport, RolloutId, Verdict};
use crate::downlink::artefact::model::{MODELS_MAX, Name};
use crate::downlink::artefact::{Mode, ModelAssigned};

#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// 0: nothing was ever assigned.
    pub number: u64,
    pub at_ms: UnixMs,
    /// The roll-out that made its assignment, or took it back.
    pub origin: Option<RolloutId>,
    /// The roll-out that made or took back its document.
    pub document_origin: Option<RolloutId>,
    /// The roll-out that has it, while that is not over.
    pub rollout: Option<RolloutId>,
    /// Decided anew under every number.
    pub document: Course<Option<Digest>>,
    /// When it was given for its own sake.
    document_given: u64,
    /// The models that were assigned to it: at most [`MODELS_MAX`] uses. All of them are in every assignment.
    models: BTreeMap<Name, Model>,
}

#[derive(Clone, Debug)]
struct Model {
    course: Course<Uses>,
    /// When a version to use was given, and one to run beside it, or what ended that.
    given: [u64; 2],
}

/// What becomes of one model: a version is used, or none, and another one may run beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    /// In the mode active, or off.
    used: Option<Arc<ModelAssigned>>,
    beside: Option<Arc<ModelAssigned>>,
    /// It is about the one beside: what is said of that counts.
    is_about_beside: bool,
}

/// What a node is given.
#[derive(Clone, Debug)]
pub(super) enum Given {
    Document(Option<Digest>),
    Model(Name, Uses),
}

impl Uses {
    /// What this version leaves of what was used: with one in use nothing runs beside it, unless that is assigned later.
    fn with(&self, model: &Arc<ModelAssigned>) -> Self {
        match model.mode {
            Mode::Active | Mode::Off => Self { used: Some(model.clone()), beside: None, is_about_beside: false },
            Mode::Shadow => {
                let used = self.used.clone().filter(|used| used.mode == Mode::Active);
                Self { used, beside: Some(model.clone()), is_about_beside: true }
            }
        }
    }

    /// So that it takes the place of `now` on a node: what is not named stays there as it is.
    fn in_place_of(self, now: &Self) -> Self {
        let is_used = now.used.as_ref().is_some_and(|used| used.mode == Mode::Active);
        if self.used.is_some() || (self.beside.is_some() && !is_used) {
            return self;
        }
        let Some(gone) = now.subject() else { return self };
        let off = ModelAssigned { mode: Mode::Off, ..ModelAssigned::clone(gone) };
        Self { used: Some(Arc::new(off)), is_about_beside: false, ..self }
    }

    /// Since it was assigned others may have come: without the one beside, if there are too many.
    fn within(mut self, room: usize) -> Self {
        if self.all().count() > room {
            (self.beside, self.is_about_beside) = (None, false);
        }
        self
    }

    fn subject(&self) -> Option<&Arc<ModelAssigned>> {
        if self.is_about_beside { self.beside.as_ref() } else { self.used.as_ref() }
    }

    fn is_concerned(&self, said: &ModelSaid) -> bool {
        self.subject().is_some_and(|subject| said.concerns(subject))
    }

    fn all(&self) -> impl Iterator<Item = &Arc<ModelAssigned>> {
        self.used.iter().chain(&self.beside)
    }
}

impl Node {
    /// It has another assignment: what it is given, and the rest as it was. What has failed here is not tried again because
    /// of something else. What is given is of the time `since`: a roll-out's creation, or now.
    pub fn assign(&mut self, number: u64, at_ms: UnixMs, given: Given, since: u64) {
        let until = self.number;
        let document = match &given {
            Given::Document(document) => *document,
            Given::Model(..) if self.document.verdict == Some(Verdict::Failure) => self.document.base(),
            Given::Model(..) => self.document.target,
        };
        self.document.begin(until, number, document);
        match given {
            Given::Document(_) => self.document_given = number,
            Given::Model(name, uses) => match self.models.get_mut(&name) {
                Some(model) => {
                    // One that runs beside another leaves that as it was; one that is used ends those beside it of before.
                    model.given = match uses.is_about_beside {
                        true => [model.given[0], number],
                        false => [number, since],
                    };
                    model.course.begin(until, number, uses);
                }
                None => {
                    let given = if uses.is_about_beside { [0, number] } else { [number, since] };
                    self.models.insert(name, Model { course: Course::new(number, uses), given });
                }
            },
        }
        self.leave_what_failed(until, number);
        (self.number, self.at_ms) = (number, at_ms);
    }

    fn leave_what_failed(&mut self, until: u64, number: u64) {
        let mut uses: usize = self.models.values().map(|model| model.course.target.all().count()).sum();
        for Model { course, .. } in self.models.values_mut().filter(|m| m.course.verdict == Some(Verdict::Failure)) {
            uses -= course.target.all().count();
            let base = course.base().within(MODELS_MAX.saturating_sub(uses));
            uses += base.all().count();
            course.begin(until, number, base);
        }
    }

    /// The same under another number: nobody has spoken of it.
    pub fn renumber(&mut self, number: u64, at_ms: UnixMs) {
        (self.number, self.at_ms) = (number, at_ms);
        self.document.since = number;
    }

    /// With this version of a model; `None`: it has too many.
    pub fn with(&self, model: &Arc<ModelAssigned>) -> Option<Given> {
        let had = match self.models.get(&model.name).map(|had| &had.course) {
            Some(course) if course.verdict == Some(Verdict::Failure) => course.base(),
            Some(course) => course.target.clone(),
            None => Uses::default(),
        };
        let uses = had.with(model);
        (self.others(&model.name) + uses.all().count() <= MODELS_MAX).then(|| Given::Model(model.name.clone(), uses))
    }

    fn others(&self, name: &Name) -> usize {
        let others = self.models.iter().filter(|(other, _)| *other != name);
        others.map(|(_, model)| model.course.target.all().count()).sum()
    }

    /// With what it goes back to from the document that it has: that is nothing to go back to any more, however it went.
    pub fn without_document(&mut self) -> Given {
        self.document.verdict = Some(Verdict::Failure);
        Given::Document(self.document.base())
    }

    /// The same of a model. `None`: it has none of that name.
    pub fn without_model(&mut self, name: &Name) -> Option<Given> {
        let room = MODELS_MAX.saturating_sub(self.others(name));
        let course = &mut self.models.get_mut(name)?.course;
        course.verdict = Some(Verdict::Failure);
        Some(Given::Model(name.clone(), course.base().in_place_of(&course.target).within(room)))
    }

    /// When it was given something of this kind last; 0: never.
    pub fn given(&self, model: Option<&ModelAssigned>) -> u64 {
        match model {
            None => self.document_given,
            Some(model) => {
                let of = self.models.get(&model.name).map_or([0; 2], |had| had.given);
                of[usize::from(model.mode == Mode::Shadow)]
            }
        }
    }

    /// All models that it has, in the order in which they were given.
    pub fn models(&self) -> Vec<ModelAssigned> {
        let of = |model: &Model| {
            let [used, beside] = model.given;
            let Uses { used: is_used, beside: is_beside, .. } = &model.course.target;
            let used = is_used.clone().map(|is_used| (used, is_used));
            used.into_iter().chain(is_beside.clone().map(|is_beside| (beside, is_beside)))
        };
        let mut all: Vec<(u64, Arc<ModelAssigned>)> = self.models.values().flat_map(of).collect();
        all.sort_by_key(|(given, _)| *given);
        all.into_iter().map(|(_, model)| ModelAssigned::clone(&model)).collect()
    }

    /// Whether it has not said as much of this number.
    pub fn is_news(&self, report: &NodeReport) -> bool {
        match &report.model {
            None => self.document.is_news(self.number, report, |_| true),
            Some(said) => self
                .models
                .get(&said.name)
                .is_some_and(|model| model.course.is_news(self.number, report, |uses| uses.is_concerned(said))),
        }
    }

    /// It speaks of its assignment, or of one before.
    pub fn hear(&mut self, report: &NodeReport) {
        match &report.model {
            None => self.document.hear(self.number, report, |_| true),
            Some(said) => {
                if let Some(model) = self.models.get_mut(&said.name) {
                    model.course.hear(self.number, report, |uses| uses.is_concerned(said));
                }
            }
        }
    }
}
