//! Models as a part of what is assigned: handed to the loop that keeps them, and told of in its words.

use tokio::sync::watch;

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
}

impl Kept {
    pub(super) fn new(models: Option<Models>) -> Self {
        let models = models.map(|models| (models.clone(), models.shown()));
        Self { models, told: 0, present: Vec::new() }
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
        self.models.as_ref().map_or_else(Default::default, |(_, shown)| {
            let shown = shown.borrow();
            (shown.present.clone(), shown.waits_for.clone())
        })
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
            self.teller.present_soon();
        }
    }
}
