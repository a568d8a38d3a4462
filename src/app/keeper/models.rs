//! Models as a part of what is assigned: handed to the loop that keeps them, and told of in its words.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::gateway::Gateway;
use super::{Keeper, tell};
use crate::app::models::{Models, Shown};
use crate::downlink::artefact::ModelAssigned;
use crate::downlink::report::{ModelPresent, What};
use crate::downlink::trial::Number;

/// What the keeper knows of models.
pub(super) struct Kept {
    models: Option<(Models, watch::Receiver<Shown>)>,
    /// Reports up to this one are on their way.
    told: u64,
    /// As the cloud has heard of them.
    present: Vec<ModelPresent>,
    /// When another version was put to use.
    changed_at: Option<Instant>,
}

/// How often the gateway says how its models do after one was put to use, and for how long: a roll-out's gates look at it. Of
/// 50,000 gateways in one wave that are 3,300 reports per second for ten minutes.
const WATCHED: [(Duration, Duration); 2] =
    [(Duration::from_secs(30), Duration::from_secs(5)), (Duration::from_secs(600), Duration::from_secs(15))];

impl Kept {
    pub(super) fn new(models: Option<Models>) -> Self {
        let models = models.map(|models| (models.clone(), models.shown()));
        Self { models, told: 0, present: Vec::new(), changed_at: None }
    }

    /// Something about them has changed.
    pub(super) async fn changed(&mut self) {
        let changed = match &mut self.models {
            Some((_, shown)) => shown.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            std::future::pending::<()>().await;
        }
    }

    /// Hands over what is assigned. The error says why it cannot be stored.
    pub(super) async fn assign(&self, number: Number, assigned: &[ModelAssigned]) -> Result<(), String> {
        match &self.models {
            _ if assigned.is_empty() => Ok(()),
            Some((models, _)) => models.assign(number, assigned.to_vec()).await,
            None => Err("models cannot be looked after since the start (see its log)".to_owned()),
        }
    }

    /// The cloud has a report.
    pub(super) fn acknowledged(&self, seq: u64) {
        if let Some((models, _)) = &self.models {
            models.acknowledged(seq);
        }
    }

    /// A report was not sent: all that is not acknowledged is told again with the next presence.
    pub(super) fn tell_again(&mut self) {
        self.told = 0;
    }

    /// What there is, and what keeps an assigned one from being fetched.
    pub(super) fn status(&self) -> (Vec<ModelPresent>, Option<String>) {
        self.models.as_ref().map_or_else(Default::default, |(models, shown)| {
            let Shown { mut present, waits_for, .. } = shown.borrow().clone();
            present.iter_mut().for_each(|model| model.scores = models.scores(&model.name));
            (present, waits_for)
        })
    }

    /// In how long the cloud wants to hear how they do; `None`: it need not hurry.
    pub(super) fn told_in(&self) -> Option<Duration> {
        let (models, shown) = self.models.as_ref()?;
        let is_scored = shown.borrow().present.iter().any(|model| models.scores(&model.name).is_some());
        let since = self.changed_at.filter(|_| is_scored)?.elapsed();
        WATCHED.iter().find(|(until, _)| since < *until).map(|(_, every)| *every)
    }
}

impl<G: Gateway> Keeper<G> {
    /// Packs are read where what runs has its Pulsar, not where something on trial or a search has it.
    pub(super) fn lead_models(&self) {
        if let Some((models, _)) = &self.models.models
            && self.running.trial.is_none()
            && self.looking.is_none()
        {
            models.set_link(self.settings.clone());
        }
    }

    /// Tells the cloud what it has not heard yet.
    pub(super) fn tell_models(&mut self) {
        let Some((_, shown)) = &mut self.models.models else { return };
        let Shown { reports, present, .. } = shown.borrow_and_update().clone();
        let mut told_up_to = self.models.told;
        for told in reports.iter().filter(|told| told.seq > self.models.told) {
            let report = self.report(What::from(told));
            if !self.teller.tell(report, tell::Kind::Model(told.seq)) {
                break; // the rest with the next presence
            }
            told_up_to = told.seq;
        }
        self.models.told = told_up_to;
        // How far a fetch is, is told with the next presence.
        let settled: Vec<ModelPresent> =
            present.into_iter().map(|model| ModelPresent { fetching: None, ..model }).collect();
        if settled != self.models.present {
            self.models.present = settled;
            self.models.changed_at = Some(Instant::now());
            self.teller.present_soon();
        }
    }
}
