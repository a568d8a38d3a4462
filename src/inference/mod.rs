//! Models that score events on the gateway, between the way in and the outbox.
//!
//! ```text
//! event ─► begin ─► worker of the model in use ─┐
//!            │   └► worker of the candidate ────┴─► finish: attributes, alarm ─► outbox
//!            └ fields of its data                    within latency_max, scored or not
//! ```
//! A model can fail, hang, be slow, or say nonsense: the event is stored all the same, in time, and a metric says why it has
//! no score. Each model runs on a thread of its own ([`worker`]), never on one that serves connections. A switch to another
//! version loads it beside the one in use and puts it in its place when it has run ([`scorer`]). Only bytes that are proven to be
//! what was signed are run ([`proof`]).
//!
//! Models are ONNX files, run by tract in builds with the feature `inference`; in others the configuration is refused.

pub mod breaker;
pub mod engine;
pub mod failure;
pub mod fields;
mod meters;
#[cfg(feature = "inference")]
mod onnx;
mod pending;
mod proof;
mod runs;
mod scorer;
pub mod verdict;
mod worker;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::join_all;

use self::engine::Open;
use self::meters::Meters;
pub use self::pending::{Alarm, Pending, Scored};
use self::proof::Believed;
pub use self::proof::Proofs;
use self::scorer::Scorer;
use crate::config::{EdgeConfig, edge as config};
use crate::downlink::report::Scores;
use crate::event::Event;
use crate::observe::metrics::Metrics;
use crate::sys::tasks::Tasks;

/// Directory of the models in the data directory.
const DIR: &str = "models";

/// How often it is looked whether a model was switched: two system calls for each.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a start, or a change of the configuration, waits for models that load. Longer ones score when they are ready.
const SET_MAX: Duration = Duration::from_secs(5);

/// How often a start looks whether they are.
const SETTLE_EVERY: Duration = Duration::from_millis(20);

/// All models that score. Cheap to clone.
#[derive(Clone)]
pub struct Inference(Arc<Shared>);

struct Shared {
    /// Whether anything is configured: all that an event costs otherwise.
    any: AtomicBool,
    scorers: RwLock<Arc<Vec<Arc<Scorer>>>>,
    models: PathBuf,
    node: String,
    event_bytes_max: u64,
    open: Open,
    believed: Believed,
    meters: Meters,
}

impl Inference {
    /// Nothing scores before [`Inference::set`]. Name of the gateway, place of the models and largest event are those of
    /// `config` from here on.
    pub fn new(config: &EdgeConfig, metrics: &Metrics) -> Self {
        Self::with(engine::BUILT_IN, config, metrics)
    }

    pub(crate) fn with(open: Open, config: &EdgeConfig, metrics: &Metrics) -> Self {
        Self(Arc::new(Shared {
            any: AtomicBool::new(false),
            scorers: RwLock::default(),
            models: config.node.data_dir.join(DIR),
            node: config.node.id.clone(),
            event_bytes_max: config.outbox.max_event,
            open,
            believed: Believed::default(),
            meters: Meters::new(metrics),
        }))
    }

    /// From here on what `proofs` know is run, and nothing before. Whoever comes first is believed.
    pub fn believe(&self, proofs: Arc<dyn Proofs>) {
        let _ = self.0.believed.set(proofs);
    }

    /// Whether events are scored by this model.
    pub fn uses(&self, model: &str) -> bool {
        self.scorers().iter().any(|scorer| scorer.config.model == model)
    }

    /// Waits until each model in use is proven and loaded, or is not to be used; not for long.
    pub async fn settle(&self) {
        let settled = async {
            for scorer in self.scorers().iter() {
                scorer.look().await;
                while !scorer.is_settled().await {
                    tokio::time::sleep(SETTLE_EVERY).await;
                    scorer.look().await;
                }
            }
        };
        if tokio::time::timeout(SET_MAX, settled).await.is_err() {
            tracing::warn!("models are still being proven; events are stored without their scores meanwhile");
        }
    }

    /// Looks for switched models until `tasks` stop.
    pub fn start(&self, tasks: &Tasks) {
        let (this, stop) = (self.clone(), tasks.stopping().clone());
        tasks.spawn("inference", async move {
            let looks = async {
                loop {
                    tokio::time::sleep(LOOK_EVERY).await;
                    join_all(this.scorers().iter().map(|scorer| scorer.look())).await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => Ok::<(), Infallible>(()),
                never = looks => never,
            }
        });
    }

    /// From here on the models of `config`; what has not changed is not disturbed. Waits for new ones to be loaded, within
    /// bounds: until then, or until it is dropped, those before score.
    pub async fn set(&self, edge: &EdgeConfig) {
        let before = self.scorers();
        let scorer = |wanted: &config::Inference| {
            let same = before.iter().find(|scorer| scorer.config == *wanted);
            same.cloned().unwrap_or_else(|| {
                Arc::new(Scorer::new(wanted, &self.0.models, (self.0.open, &self.0.believed), &self.0.meters))
            })
        };
        let scorers: Vec<_> = edge.inferences.iter().map(scorer).collect();
        let loaded = tokio::time::timeout(SET_MAX, join_all(scorers.iter().map(|scorer| scorer.look()))).await;
        if loaded.is_err() {
            tracing::warn!("models are still being loaded; events are stored without their scores meanwhile");
        }
        let is_gone = |scorer: &&Arc<Scorer>| scorers.iter().all(|new| new.config.model != scorer.config.model);
        before.iter().filter(is_gone).for_each(|scorer| scorer.meter.gone());
        let any = !scorers.is_empty();
        *self.0.scorers.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(scorers);
        self.0.any.store(any, Ordering::Release);
    }

    /// Whether this version of a model, which has just been put to use, does what it should: it loads, and scores the events that
    /// come, for at most the time `watched`. The error says why it should be taken back. `Ok` at once if the model is not used here.
    pub async fn check(&self, model: &str, version: u64, watched: Duration) -> Result<(), String> {
        for scorer in self.scorers().iter().filter(|scorer| scorer.config.model == model) {
            scorer.check(version, watched).await?;
        }
        Ok(())
    }

    /// How the versions of a model that score events do; `None`: none does.
    pub fn scores(&self, model: &str) -> Option<Scores> {
        self.scorers().iter().find(|scorer| scorer.config.model == model).and_then(|scorer| scorer.scores())
    }

    /// Whether events of this type are scored.
    pub fn wants(&self, ty: &str) -> bool {
        self.0.any.load(Ordering::Acquire) && self.scorers().iter().any(|scorer| scorer.takes(ty))
    }

    /// Asks for the scores of these events, from now on for as long as is configured.
    pub fn begin(&self, events: Vec<Event>) -> Pending {
        let scorers = if self.0.any.load(Ordering::Acquire) { self.scorers() } else { Arc::default() };
        Pending::begin(events, &scorers, &self.0.node, self.0.event_bytes_max)
    }

    fn scorers(&self) -> Arc<Vec<Arc<Scorer>>> {
        self.0.scorers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
