//! What one step does: fetch, put to use, take back. Each can be done again after a kill in the middle of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::hooks::{self, Switched};
use crate::config::edge::Model;
use crate::downlink::artefact::{Mode, Trust};
use crate::downlink::commands::Publisher;
use crate::downlink::link::Settings;
use crate::downlink::report::ModelPresent;
use crate::inference::Inference;
use crate::models::desired::{Step, Wanted};
use crate::models::fetch::run::{Failed, Job, Progress, Shared, fetch};
use crate::models::manifest::{Format, Name};
use crate::models::store::{Files, Store, StoreError, Version};

/// How long a version that scores events here is watched before it counts as well, unless enough events have come by then.
const WATCHED: Duration = Duration::from_secs(5);

/// What a step needs.
#[derive(Clone)]
pub struct Hands {
    /// The disk.
    pub store: Shared,
    /// Who hears of which model.
    pub hooks: BTreeMap<String, Model>,
    /// Bytes per second.
    pub rate: u64,
    /// How far the fetching is.
    pub progress: watch::Sender<Progress>,
    /// Whether others wait for what is being fetched.
    pub others: watch::Sender<bool>,
    /// Who is believed now.
    pub trust: watch::Receiver<Arc<Trust>>,
    /// The models that score events.
    pub inference: Inference,
    /// This gateway's own broker.
    pub publisher: Arc<dyn Publisher>,
}

/// What became of a step.
pub enum Ended {
    /// It is here.
    Fetched,
    /// It is as assigned.
    Done,
    /// It is in use and not well.
    Failing {
        /// A code for machines.
        reason: &'static str,
        /// For people.
        detail: String,
    },
    /// The one before is in use again.
    Reverted,
    /// It is as before.
    Not(Failed),
}

impl Hands {
    /// Does what `wanted` is at. Dropped half-way it is done again.
    pub async fn perform(
        self,
        wanted: Wanted,
        link: Option<Settings>,
        keep: BTreeSet<Version>,
        shadowed: bool,
    ) -> Ended {
        let ended = match (&wanted.step, wanted.assigned.mode) {
            (Step::Trial, _) => self.put_to_use(&wanted, shadowed).await,
            (Step::Reverting { .. }, _) => self.take_back(&wanted).await,
            (Step::Fetch, Mode::Off) => self.switch_off(&wanted, shadowed).await,
            (Step::Fetch, mode) => self.fetch(&wanted, link, keep, mode).await,
            // Nothing is to be done then, and nobody asks.
            (Step::Done | Step::Over, _) => Ok(Ended::Done),
        };
        ended.unwrap_or_else(Ended::Not)
    }

    async fn fetch(
        &self,
        wanted: &Wanted,
        link: Option<Settings>,
        keep: BTreeSet<Version>,
        mode: Mode,
    ) -> Result<Ended, Failed> {
        let no_link = || Failed::Later { detail: "no uplink is configured (uplink.pulsar)".to_owned() };
        let job = Job {
            store: self.store.clone(),
            link: link.ok_or_else(no_link)?,
            assigned: wanted.assigned.clone(),
            trust: Arc::clone(&self.trust.borrow()),
            keep,
            format: self.inference.uses(wanted.assigned.name.as_str()).then_some(Format::Onnx),
            rate: self.rate,
            progress: self.progress.clone(),
            others: self.others.subscribe(),
        };
        let proven = fetch(&job).await?;
        if mode != Mode::Shadow {
            return Ok(Ended::Fetched);
        }
        self.store.with(move |store| store.set_shadow(&proven.name().clone(), Some(&proven))).await?;
        Ok(Ended::Done)
    }

    async fn put_to_use(&self, wanted: &Wanted, shadowed: bool) -> Result<Ended, Failed> {
        let (name, version) = (wanted.assigned.name.clone(), wanted.assigned.version);
        let trust = Arc::clone(&self.trust.borrow());
        let activated = self.store.with(move |store| {
            let proven = match store.known(&name, version) {
                Some(proven) => proven,
                None => store.verify(&name, version, &trust)?,
            };
            store.activate(&proven)?;
            if !shadowed {
                store.set_shadow(&name, None)?;
            }
            Ok(switched(store, &name, Some(version)))
        });
        let switched = match activated.await {
            Ok(switched) => switched,
            // It was proven, and then the disk lost it.
            Err(Failed::Refused { reason, detail }) => return Ok(Ended::Failing { reason, detail }),
            Err(Failed::Pack { detail, .. } | Failed::Later { detail } | Failed::GaveWay { detail }) => {
                return Ok(Ended::Failing { reason: "not-activated", detail });
            }
        };
        // Before others hear of it.
        if let Err(detail) = self.inference.check(&switched.name, version, WATCHED).await {
            return Ok(Ended::Failing { reason: "unhealthy", detail });
        }
        let Some(model) = self.hooks.get(&switched.name) else { return Ok(Ended::Done) };
        let begun = Instant::now();
        if let Err(detail) = hooks::tell(model, &switched, self.publisher.as_ref()).await {
            return Ok(Ended::Failing { reason: "hook-failed", detail });
        }
        match hooks::check(model, &switched, begun).await {
            Ok(()) => Ok(Ended::Done),
            Err(detail) => Ok(Ended::Failing { reason: "unhealthy", detail }),
        }
    }

    /// Goes back to the version before, or to none.
    async fn take_back(&self, wanted: &Wanted) -> Result<Ended, Failed> {
        let (name, version) = (wanted.assigned.name.clone(), wanted.assigned.version);
        let trust = Arc::clone(&self.trust.borrow());
        let switched = self.store.with(move |store| {
            if store.shelf(&name)?.active().current == Some(version) {
                go_back(store, &name, &trust)?;
            }
            let now = store.shelf(&name)?.active().current;
            Ok(switched(store, &name, now))
        });
        self.tell(&switched.await?).await;
        Ok(Ended::Reverted)
    }

    async fn switch_off(&self, wanted: &Wanted, shadowed: bool) -> Result<Ended, Failed> {
        let name = wanted.assigned.name.clone();
        let switched = self.store.with(move |store| {
            store.deactivate(&name)?;
            if !shadowed {
                store.set_shadow(&name, None)?;
            }
            Ok(switched(store, &name, None))
        });
        self.tell(&switched.await?).await;
        Ok(Ended::Done)
    }

    /// What follows is decided: whoever does not hear of it is only named.
    pub async fn tell(&self, switched: &Switched) {
        let Some(model) = self.hooks.get(&switched.name) else { return };
        if let Err(detail) = hooks::tell(model, switched, self.publisher.as_ref()).await {
            let version = switched.version.as_ref().map(|(version, _)| *version);
            tracing::error!(model = switched.name, version, detail, "who uses the model could not be told of it");
        }
    }

    /// Reads all of what is in use, after a start; what is damaged is out of use then. First those that score events: they
    /// are waited for.
    pub async fn prove(self, mut present: Vec<ModelPresent>) -> Vec<(Name, u64)> {
        present.sort_by_key(|model| !self.inference.uses(model.name.as_str()));
        let mut damaged = Vec::new();
        for model in present {
            let name = model.name;
            for (version, role) in [(model.version, Role::Active), (model.shadow, Role::Shadow)] {
                let Some(version) = version else { continue };
                if self.prove_one(&name, version, role).await {
                    damaged.push((name.clone(), version));
                }
            }
            // So that a way back need not wait for it; one that is damaged is found out then.
            if let Some(previous) = model.previous {
                let (name, trust) = (name.clone(), Arc::clone(&self.trust.borrow()));
                let _ = self.store.with(move |store| store.verify(&name, previous, &trust)).await;
            }
        }
        damaged
    }

    /// Whether the version is damaged, and out of use.
    async fn prove_one(&self, name: &Name, version: u64, role: Role) -> bool {
        let (of, trust) = (name.clone(), Arc::clone(&self.trust.borrow()));
        let proven = self.store.with(move |store| {
            Ok(match store.verify(&of, version, &trust) {
                Err(e @ StoreError::Damaged { .. }) => {
                    tracing::error!("{e}");
                    match role {
                        Role::Active => go_back(store, &of, &trust)?,
                        Role::Shadow => store.set_shadow(&of, None)?,
                    }
                    true
                }
                Err(e) => {
                    tracing::warn!("{e}; it stays in use");
                    false
                }
                Ok(_) => false,
            })
        });
        proven.await.unwrap_or_else(|reason| {
            tracing::error!(%name, version, ?reason, "a damaged model cannot be put out of use");
            false
        })
    }
}

/// What a version is used for.
#[derive(Clone, Copy)]
enum Role {
    Active,
    Shadow,
}

/// Back to the version before; if that is none, or not what it was, to none.
fn go_back(store: &mut Store<Files>, name: &Name, trust: &Trust) -> Result<(), StoreError> {
    match store.rollback(name, trust) {
        Err(StoreError::Io { path, source }) => Err(StoreError::Io { path, source }),
        Err(e) => {
            tracing::warn!("{e}; no version of {name} is in use");
            store.deactivate(name)
        }
        Ok(_) => Ok(()),
    }
}

pub fn switched(store: &Store<Files>, name: &Name, version: Option<u64>) -> Switched {
    let version = version.map(|version| (version, store.version_path(name, version)));
    let previous = store.shelf(name).ok().and_then(|shelf| shelf.active().previous).filter(|_| version.is_some());
    Switched { name: name.to_string(), version, previous }
}
