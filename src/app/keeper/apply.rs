//! Puts a configuration into effect: what the machine chose, or the gateway's own file after a change of it.

use super::gateway::Gateway;
use super::{Keeper, Running, policy, probe, proven, trial_of};
use crate::config::{Changes, EdgeConfig, OwnFile, Warning};
use crate::downlink::artefact::Trust;
use crate::downlink::keeper::store;
use crate::downlink::link::Settings;
use crate::downlink::trial::{Input, Number, Place};

impl<G: Gateway> Keeper<G> {
    /// See [`crate::downlink::trial::Action::Apply`].
    pub(super) async fn apply(&mut self, generation: u64, place: Place) -> Input {
        let trial = trial_of(&self.machine, place);
        self.running = Running::new(place, generation, trial);
        let what = probe::name(&place);
        match trial {
            Some(number) => tracing::info!(%number, "{what} is on trial"),
            None => tracing::info!("{what} runs"),
        }
        let applied = match self.load(self.own.clone(), place).await {
            Ok((config, warnings)) => {
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                let same = self.settings == self.settings_of(&config);
                // What the link has found with these settings counts.
                if let Some(looked) = self.looking.take().filter(|_| same) {
                    self.proven = looked.proven;
                }
                self.put(config, place, trial.is_some(), same).await
            }
            Err(reason) => Err(reason),
        };
        match applied {
            Ok(_) => {
                match trial {
                    Some(_) => self.mark_doors(false),
                    None => {
                        self.prove_from_here().await;
                        self.keep_proven().await;
                    }
                }
                self.connect(generation);
                Input::Applied { generation }
            }
            Err(detail) => {
                tracing::error!(reason = detail, "{what} cannot be applied");
                Input::NotApplied { generation, detail }
            }
        }
    }

    /// Puts `config` into effect, or on trial. What was found at the addresses of other settings says nothing about it.
    async fn put(&mut self, config: EdgeConfig, place: Place, on_trial: bool, same: bool) -> Result<Changes, String> {
        if !same {
            self.proven = if on_trial { Vec::new() } else { self.proven_before(place) };
        }
        if on_trial {
            return self.live.try_out(config).await;
        }
        let allowed = proven::allowed(self.own.alone(), &config, &self.proven);
        self.live.apply(config, allowed).await
    }

    /// The control link's.
    pub(super) fn settings_of(&self, config: &EdgeConfig) -> Option<Settings> {
        // Its addresses were read when it was checked.
        Settings::of(config, self.live.incarnation()).unwrap_or_default()
    }

    /// What was on trial and is committed takes effect as a whole.
    pub(super) async fn keep(&mut self) -> Option<Input> {
        let generation = self.running.generation;
        if self.running.trial.is_none() || !self.machine.keeps(generation) {
            return None;
        }
        self.running.trial = None;
        let kept = self.live.keep().await;
        self.lead_models();
        self.keep_proven().await;
        let detail = kept.err()?;
        tracing::error!(reason = detail, "what is committed cannot be applied");
        Some(Input::NotApplied { generation, detail })
    }

    /// The configuration of `place` over `own`.
    pub(super) async fn load(&self, own: OwnFile, place: Place) -> Result<(EdgeConfig, Vec<Warning>), String> {
        let Some(store) = self.store.clone() else { return Ok((own.alone().clone(), Vec::new())) };
        let load = move || store::load(&own, store.slots(), &place);
        tokio::task::spawn_blocking(load).await.unwrap_or_else(|e| Err(format!("reading it failed: {e}")))
    }

    /// The control link uses what is in effect.
    pub(super) fn connect(&mut self, generation: u64) {
        self.set_link(self.settings_of(self.live.wanted()), generation);
    }

    /// The control link uses these.
    pub(super) fn set_link(&mut self, settings: Option<Settings>, generation: u64) {
        let connection = &mut self.connection;
        (connection.generation, connection.up, connection.told) = (generation, false, false);
        if self.settings != settings {
            (connection.since, connection.seen) = (generation, Number::default());
            self.settings.clone_from(&settings);
        }
        self.link.set(settings, generation);
        self.lead_models();
    }

    /// The gateway's own file may have changed: it is read again under what runs.
    pub(super) async fn reread(&mut self) {
        let own = match (self.again)() {
            Ok(own) => own,
            Err(errors) => {
                tracing::error!(errors = %errors, "asked to reload, but the configuration is wrong; the one before stays in effect");
                return;
            }
        };
        own.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        let (config, warnings) = match self.load(own.clone(), self.running.place).await {
            Ok(loaded) => loaded,
            Err(reason) => {
                tracing::error!(
                    reason,
                    "asked to reload, but what was pushed does not fit the file any more; the one before stays in effect"
                );
                return;
            }
        };
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let before = std::mem::replace(&mut self.own, own);
        let (place, on_trial) = (self.running.place, self.running.trial.is_some());
        let same = self.settings_of(self.live.wanted()) == self.settings_of(&config);
        match self.put(config, place, on_trial, same).await {
            Ok(changes) => {
                self.follow(&changes);
                let now = changes.at_once().join(", ");
                tracing::info!(changed = now, "configuration reloaded");
                if !changes.at_restart.is_empty() {
                    let keys = changes.at_restart.join("; ");
                    tracing::warn!(
                        keys,
                        "these take effect at the next start only: systemctl restart tidegate, or the like"
                    );
                }
            }
            Err(error) => {
                self.own = before;
                tracing::error!(%error, "asked to reload, but that failed; the configuration before stays in effect");
            }
        }
    }

    /// What the own file says about pushed configuration, and where the control link goes.
    fn follow(&mut self, changes: &Changes) {
        if changes.downlink {
            let keyring = self.store.as_ref().and_then(|store| store.keyring());
            match self.inbox.set_own(&self.own.alone().downlink, keyring) {
                Ok(None) => {}
                Ok(Some(refusal)) => tracing::warn!(%refusal, "the stored keyring does not count any more"),
                Err(error) => tracing::error!(%error, "downlink: the keys before stay in force"),
            }
            self.publish_trust(self.inbox.trust().clone());
            self.machine.set_policy(policy(self.own.alone()));
        }
        if changes.uplink && self.looking.is_none() {
            self.connect(self.running.generation);
        }
    }

    /// Who takes commands believes the same.
    pub(super) fn publish_trust(&self, trust: Trust) {
        self.trust.send_replace(trust.into());
    }
}
