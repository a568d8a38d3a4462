//! One `[[inference]]`: the model in use and the candidate beside it, loaded when a link on disk leads to another version.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::engine::{self, Open, Shape};
use super::fields::Fields;
use super::meters::{Meter, Meters, RoleMeter};
use super::worker::{Setup, Worker};
use crate::config::edge::Inference;
use crate::event::Event;
use crate::event::pattern::matches;

/// The links that lead to the versions, as the store of models keeps them.
const CURRENT: &str = "current";
const SHADOW: &str = "shadow";
/// The file in a version's directory.
const FILE: &str = "model";

/// A model that could not be loaded is tried again after this time: the disk may have been busy.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// See the module.
pub struct Scorer {
    /// As configured.
    pub config: Inference,
    /// Its metrics.
    pub meter: Meter,
    active: Slot,
    shadow: Slot,
    dir: PathBuf,
    open: Open,
    setup: Setup,
}

#[derive(Default)]
struct Slot {
    worker: RwLock<Option<Arc<Worker>>>,
    /// The version that was looked at last; when it failed.
    seen: tokio::sync::Mutex<Option<(u64, Option<Instant>)>>,
}

impl Slot {
    fn worker(&self) -> Option<Arc<Worker>> {
        self.worker.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, worker: Option<Arc<Worker>>, meter: &RoleMeter) {
        let version = worker.as_ref().map_or(0, |worker| worker.version);
        meter.version.set(i64::try_from(version).unwrap_or(i64::MAX));
        *self.worker.write().unwrap_or_else(PoisonError::into_inner) = worker;
    }
}

impl Scorer {
    /// Nothing is loaded yet. `models`: the directory of all models.
    pub fn new(config: &Inference, models: &Path, open: Open, meters: &Meters) -> Self {
        let setup =
            Setup { fields: Fields::new(config), batch_max: config.batch_max, alive: Arc::new(AtomicUsize::new(0)) };
        Self {
            config: config.clone(),
            meter: meters.of(&config.model),
            active: Slot::default(),
            shadow: Slot::default(),
            dir: models.join(&config.model),
            open,
            setup,
        }
    }

    /// Whether it scores events of this type.
    pub fn takes(&self, ty: &str) -> bool {
        self.config.types.iter().any(|pattern| matches(pattern, ty))
    }

    /// The model in use.
    pub fn active(&self) -> Option<Arc<Worker>> {
        self.active.worker()
    }

    /// The candidate, if it scores this event as well: the same for the same event, whenever it comes.
    pub fn shadow_for(&self, event: &Event) -> Option<Arc<Worker>> {
        let worker = self.shadow.worker()?;
        let mut hash = crc32fast::Hasher::new();
        hash.update(event.source.as_bytes());
        hash.update(event.id.as_bytes());
        (hash.finalize() % 100 < u32::from(self.config.shadow_share)).then_some(worker)
    }

    /// Looks where the links lead, and loads what is new. The version before scores until that is done, and when it fails.
    pub async fn look(&self) {
        self.look_at(CURRENT, &self.active, &self.meter.active).await;
        self.look_at(SHADOW, &self.shadow, &self.meter.shadow).await;
    }

    async fn look_at(&self, link: &str, slot: &Slot, meter: &RoleMeter) {
        let mut seen = slot.seen.lock().await;
        let path = self.dir.join(link);
        let leads_to = tokio::task::spawn_blocking(move || std::fs::read_link(path)).await;
        let leads_to = leads_to.ok().and_then(Result::ok).and_then(|to| to.to_str()?.parse::<u64>().ok());
        let Some(version) = leads_to else {
            if seen.take().is_some() {
                tracing::info!(model = self.config.model, link, "no model any more");
                slot.set(None, meter);
            }
            return;
        };
        let done = |(looked_at, failed): &(u64, Option<Instant>)| {
            *looked_at == version && failed.is_none_or(|at| at.elapsed() < AGAIN_AFTER)
        };
        if seen.as_ref().is_some_and(done) {
            return;
        }
        match self.load(version).await {
            Ok(worker) => {
                tracing::info!(model = self.config.model, version, link, "model loaded");
                slot.set(Some(worker), meter);
                *seen = Some((version, None));
            }
            Err(reason) => {
                let before = slot.worker().map(|worker| worker.version);
                tracing::warn!(
                    model = self.config.model,
                    version,
                    link,
                    reason,
                    goes_on_with = before,
                    "a model is not used"
                );
                meter.load_failures.inc();
                *seen = Some((version, Some(Instant::now())));
            }
        }
    }

    async fn load(&self, version: u64) -> Result<Arc<Worker>, String> {
        let path = self.dir.join(version.to_string()).join(FILE);
        let shape = Shape {
            columns: self.setup.fields.columns(),
            output: self.config.output.clone(),
            column: self.config.column,
        };
        let open = self.open;
        let load = Box::new(move || open(&engine::read(&path)?, &shape));
        Worker::start(version, load, self.setup.clone()).await
    }
}
