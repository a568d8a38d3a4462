//! One `[[inference]]`: the model in use and the candidate beside it, loaded when a link on disk leads to another version.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::engine::{self, Open, Shape};
use super::fields::Fields;
use super::meters::{Meter, Meters, RoleMeter};
use super::proof::Believed;
use super::runs::{Ran, Runs};
use super::worker::{Setup, Tally, Worker};
use crate::config::edge::Inference;
use crate::downlink::report::Scores;
use crate::event::Event;
use crate::event::pattern::matches;

/// The links that lead to the versions, as the store of models keeps them.
const CURRENT: &str = "current";
const SHADOW: &str = "shadow";
/// The file in a version's directory.
const FILE: &str = "model";

/// A model that could not be loaded is tried again after this time: the disk may have been busy.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A new version is well when half of so many events were scored.
const CHECKED_EVENTS: u64 = 50;

/// How often that is looked at.
const CHECK_EVERY: Duration = Duration::from_millis(20);

/// See the module.
pub struct Scorer {
    /// As configured.
    pub config: Inference,
    /// Its metrics.
    pub meter: Meter,
    runs: Mutex<Runs>,
    active: Slot,
    shadow: Slot,
    dir: PathBuf,
    open: Open,
    believed: Believed,
    setup: Setup,
}

#[derive(Default)]
struct Slot {
    worker: RwLock<Option<Arc<Worker>>>,
    /// The version that was looked at last.
    seen: tokio::sync::Mutex<Option<Seen>>,
}

/// What became of a version.
struct Seen {
    version: u64,
    /// When it failed, and why.
    failed: Option<(Instant, String)>,
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
    pub fn new(config: &Inference, models: &Path, (open, believed): (Open, &Believed), meters: &Meters) -> Self {
        let setup =
            Setup { fields: Fields::new(config), batch_max: config.batch_max, alive: Arc::new(AtomicUsize::new(0)) };
        Self {
            config: config.clone(),
            meter: meters.of(&config.model),
            runs: Mutex::default(),
            active: Slot::default(),
            shadow: Slot::default(),
            dir: models.join(&config.model),
            open,
            believed: believed.clone(),
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

    /// What its versions said of one event.
    pub fn count(&self, active: Option<Ran>, shadow: Option<Ran>, above: Option<f32>) {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).count(active, shadow, above);
    }

    /// How its versions do; `None`: there is none.
    pub fn scores(&self) -> Option<Scores> {
        let [active, shadow] = [&self.active, &self.shadow].map(|slot| slot.worker().map(|worker| worker.version));
        let runs = *self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        (active.is_some() || shadow.is_some()).then(|| runs.of(active, shadow))
    }

    /// Looks where the links lead, and loads what is new. The version before scores until that is done, and when it fails.
    pub async fn look(&self) {
        self.look_at(CURRENT, &self.active, &self.meter.active).await;
        self.look_at(SHADOW, &self.shadow, &self.meter.shadow).await;
    }

    /// That `version` is in use, loads it if it is not yet, and watches how it does with the events that come, for as
    /// long as is said. The error says why it should not be used; without any event nothing speaks against it.
    pub async fn check(&self, version: u64, watched: Duration) -> Result<(), String> {
        self.look().await;
        let failed = self.active.seen.lock().await.as_ref().and_then(|seen| seen.failed.clone());
        if let Some((_, reason)) = failed {
            return Err(reason);
        }
        let Some(worker) = self.active().filter(|worker| worker.version == version) else {
            return Err(format!("version {version} is not proven, or not the one that current leads to"));
        };
        let begun = Instant::now();
        loop {
            let Tally { scored, failed, late } = worker.tally();
            let all = scored + failed + late;
            if all >= CHECKED_EVENTS || begun.elapsed() >= watched {
                return match () {
                    () if failed * 2 > all => Err(format!("no finite score for {failed} of its first {all} events")),
                    () if late * 2 > all => {
                        let max = self.config.latency_max.as_millis();
                        Err(format!(
                            "no score within {max} ms (inference.latency_max) for {late} of its first {all} events"
                        ))
                    }
                    () => Ok(()),
                };
            }
            tokio::time::sleep(CHECK_EVERY).await;
        }
    }

    async fn look_at(&self, link: &str, slot: &Slot, meter: &RoleMeter) {
        let mut seen = slot.seen.lock().await;
        let Some(version) = self.leads_to(link).await else {
            if seen.take().is_some() {
                tracing::info!(model = self.config.model, link, "no model any more");
                slot.set(None, meter);
            }
            return;
        };
        let done = |seen: &Seen| {
            seen.version == version && seen.failed.as_ref().is_none_or(|(at, _)| at.elapsed() < AGAIN_AFTER)
        };
        // One that is not proven yet is looked at again.
        if seen.as_ref().is_some_and(done) || !self.is_proven(version) {
            return;
        }
        match self.load(version).await {
            Ok(worker) => {
                tracing::info!(model = self.config.model, version, link, "model loaded");
                slot.set(Some(worker), meter);
                *seen = Some(Seen { version, failed: None });
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
                *seen = Some(Seen { version, failed: Some((Instant::now(), reason)) });
            }
        }
    }

    async fn leads_to(&self, link: &str) -> Option<u64> {
        let path = self.dir.join(link);
        let leads_to = tokio::task::spawn_blocking(move || std::fs::read_link(path)).await;
        leads_to.ok()?.ok()?.to_str()?.parse().ok()
    }

    fn is_proven(&self, version: u64) -> bool {
        self.believed.get().is_some_and(|proofs| proofs.is_proven(&self.config.model, version))
    }

    /// Whether what the links lead to was looked at.
    pub async fn is_settled(&self) -> bool {
        for (link, slot) in [(CURRENT, &self.active), (SHADOW, &self.shadow)] {
            let seen = slot.seen.lock().await.as_ref().map(|seen| seen.version);
            if self.leads_to(link).await != seen {
                return false;
            }
        }
        true
    }

    async fn load(&self, version: u64) -> Result<Arc<Worker>, String> {
        let path = self.dir.join(version.to_string()).join(FILE);
        let shape = Shape {
            columns: self.setup.fields.columns(),
            output: self.config.output.clone(),
            column: self.config.column,
        };
        let (open, believed, model) = (self.open, self.believed.clone(), self.config.model.clone());
        let load = Box::new(move || {
            let bytes = engine::read(&path)?;
            let proofs = believed.get().ok_or("nothing is proven")?;
            proofs.check(&model, version, &bytes)?;
            open(&bytes, &shape)
        });
        Worker::start(version, load, self.setup.clone()).await
    }
}
