//! The loop that keeps assigned models: fetches them, puts them to use, goes back from what is not well, and knows after
//! a kill where it was.

pub mod door;
mod hooks;
mod meters;
mod start;
#[cfg(test)]
mod tests;
mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::meters::Meters;
pub use self::start::only_prove;
use self::work::{Ended, Hands};
use crate::config::EdgeConfig;
use crate::config::edge::Model;
use crate::downlink::artefact::model::MODELS_MAX;
use crate::downlink::artefact::{Mode, ModelAssigned, Trust};
use crate::downlink::commands::Publisher;
use crate::downlink::link::Settings;
use crate::downlink::report::{ModelPresent, Scores};
use crate::downlink::trial::Number;
use crate::inference::Inference;
use crate::models::desired::{Desired, Step, Told, Wanted};
use crate::models::fetch::run::{Failed, Progress, Shared};
use crate::models::manifest::Name;
use crate::models::store::{DIR, Files, Found, Store, StoreError, Version};
use crate::models::turns::Turns;
use crate::observe::metrics::Metrics;
use crate::sys::files;
use crate::sys::tasks::Tasks;

/// The record, beside the models; no model has such a name.
const RECORD: &str = "assigned.json";

/// Orders that wait; each waits for its answer, or can be told again.
const ORDERS_MAX: usize = 16;

/// A pack that is not what it should be is refused after so many attempts, a quarter of a minute: it may be on its way to this
/// cluster.
const ATTEMPTS_MAX: u32 = 5;

/// Longest wait between two such attempts.
const ATTEMPT_WAIT_MAX: Duration = Duration::from_secs(15);

/// What this machine cannot do now is tried again after this: a full disk.
const AGAIN: Duration = Duration::from_secs(10);

/// Bytes per second without a limit: more than any link has.
const NO_LIMIT: u64 = 1 << 40;

/// What others see of it.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// What the cloud has not acknowledged.
    pub reports: Vec<Told>,
    /// What there is.
    pub present: Vec<ModelPresent>,
    /// Why an assigned one is not fetched yet, if something keeps it.
    pub waits_for: Option<String>,
}

enum Order {
    Assign(Number, Vec<ModelAssigned>, oneshot::Sender<Result<(), String>>),
    Acknowledged(u64),
    Rollback(Name, oneshot::Sender<Result<u64, String>>),
}

/// The loop, for others. Cheap to clone.
#[derive(Clone)]
pub struct Models {
    orders: mpsc::Sender<Order>,
    link: Arc<watch::Sender<Option<Settings>>>,
    shown: watch::Receiver<Shown>,
    inference: Inference,
}

impl Models {
    /// Takes up what is on disk, and starts the loop as one of `tasks`. Blocks on the disk.
    pub fn start(
        tasks: &Tasks,
        config: &EdgeConfig,
        trust: watch::Receiver<Arc<Trust>>,
        (inference, publisher): (Inference, Arc<dyn Publisher>),
        metrics: &Metrics,
    ) -> Result<Self, StoreError> {
        let (store, found) = Store::open(&config.node.data_dir, config.models.max_bytes)?;
        found.iter().for_each(|found| tracing::error!("{found}"));
        inference.believe(Arc::new(start::Known(store.proofs())));
        start::retain(&store, &config.model, publisher.as_ref());
        let record = config.node.data_dir.join(DIR).join(RECORD);
        let (orders, ordered) = mpsc::channel(ORDERS_MAX);
        let (link, linked) = watch::channel(None);
        let (shows, shown) = watch::channel(Shown::default());
        let (progress, progressed) = watch::channel(Progress::default());
        let scoring = inference.clone();
        let hands = Hands {
            store: Shared::new(store),
            hooks: config
                .model
                .iter()
                .map(|model| (model.name.clone(), model.clone()))
                .collect::<BTreeMap<String, Model>>(),
            rate: config.models.rate.unwrap_or(NO_LIMIT),
            progress,
            others: watch::channel(false).0,
            trust,
            inference,
            publisher,
        };
        let keeper = Keeper {
            desired: start::read(&record),
            record,
            hands,
            link: linked,
            shows,
            present: Vec::new(),
            origin: Instant::now(),
            turns: Turns::default(),
            under_way: None,
            meters: Meters::new(metrics),
            tasks: tasks.clone(),
        };
        let stopping = tasks.stopping().clone();
        match door::open(&config.node.data_dir) {
            Ok(door) => {
                let (orders, stopping) = (orders.clone(), stopping.clone());
                tasks.spawn_contained("door of models", async move {
                    stopping.run_until_cancelled(door::keep(door, orders)).await;
                });
            }
            Err(reason) => tracing::warn!(%reason, "tidegate model rollback cannot reach this gateway while it runs"),
        }
        // Events go on whatever becomes of it.
        tasks.spawn_contained("models", keeper.run(found, ordered, progressed, stopping));
        Ok(Self { orders, link: Arc::new(link), shown, inference: scoring })
    }

    /// Takes an assignment's models; returns when that is on disk. The error says why it is not.
    pub async fn assign(&self, number: Number, models: Vec<ModelAssigned>) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let stopped = || "the gateway is stopping".to_owned();
        self.orders.send(Order::Assign(number, models, answer)).await.map_err(|_| stopped())?;
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// The cloud has this report.
    pub fn acknowledged(&self, seq: u64) {
        // If there is no room it is told again, and acknowledged again.
        let _ = self.orders.try_send(Order::Acknowledged(seq));
    }

    /// Where packs are read from now on.
    pub fn set_link(&self, settings: Option<Settings>) {
        self.link.send_if_modified(|before| {
            let changed = *before != settings;
            if changed {
                *before = settings;
            }
            changed
        });
    }

    /// How the versions of a model that score events do.
    pub fn scores(&self, name: &Name) -> Option<Scores> {
        self.inference.scores(name.as_str())
    }

    /// What others see of it, and when that changes.
    pub fn shown(&self) -> watch::Receiver<Shown> {
        self.shown.clone()
    }
}

struct Keeper {
    desired: Desired,
    record: PathBuf,
    hands: Hands,
    link: watch::Receiver<Option<Settings>>,
    shows: watch::Sender<Shown>,
    present: Vec<ModelPresent>,
    /// Times of [`Turns`] are since this.
    origin: Instant,
    turns: Turns,
    under_way: Option<(Wanted, BoxFuture<'static, Ended>)>,
    meters: Meters,
    tasks: Tasks,
}

impl Keeper {
    async fn run(
        mut self,
        found: Vec<Found>,
        mut orders: mpsc::Receiver<Order>,
        mut progress: watch::Receiver<Progress>,
        stopping: CancellationToken,
    ) {
        self.look().await;
        let damaged = found.into_iter().filter_map(|found| match found {
            Found::Damaged { name, version, .. } => Some((name, version)),
            Found::RecordDamaged { .. } => None,
        });
        self.damaged(damaged.collect()).await;
        self.end_shadows().await;
        let mut proving = Some(Box::pin(self.hands.clone().prove(self.present.clone())));
        loop {
            self.begin();
            self.show();
            let due = self.due();
            let proven = async {
                match &mut proving {
                    Some(proving) => proving.await,
                    None => std::future::pending().await,
                }
            };
            let ended = async {
                match &mut self.under_way {
                    Some((_, work)) => work.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stopping.cancelled() => return,
                Some(order) = orders.recv() => self.order(order).await,
                damaged = proven => {
                    proving = None;
                    self.damaged(damaged).await;
                }
                ended = ended => self.ended(ended).await,
                Ok(()) = progress.changed() => {}
                Ok(()) = self.link.changed() => self.interrupt(|wanted| wanted.step == Step::Fetch),
                () = sleep_until(due.unwrap_or(self.origin)), if due.is_some() => {}
            }
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When something may be begun, or is waited for, that is not now.
    fn due(&self) -> Option<Instant> {
        let due_ms = self.turns.due_ms(&self.desired, self.now_ms())?;
        Some(self.origin + Duration::from_millis(due_ms))
    }

    /// Begins what is to be done next.
    fn begin(&mut self) {
        let now_ms = self.now_ms();
        if let Some((wanted, _)) = &self.under_way {
            let others = self.turns.others(&self.desired, &wanted.version(), now_ms);
            self.hands.others.send_replace(others);
            return;
        }
        let link = self.link.borrow_and_update().clone();
        let Some(wanted) = self.turns.next(&self.desired, now_ms, link.is_some()).cloned() else { return };
        self.turns.begin(&self.desired, &wanted.version());
        let shadowed = self.desired.shadows(&wanted.assigned.name);
        let work = self.hands.clone().perform(wanted.clone(), link, self.desired.keeps(), shadowed);
        self.under_way = Some((wanted, Box::pin(work)));
    }

    fn interrupt(&mut self, which: impl Fn(&Wanted) -> bool) {
        if self.under_way.as_ref().is_some_and(|(wanted, _)| which(wanted)) {
            self.under_way = None;
        }
    }

    async fn order(&mut self, order: Order) {
        match order {
            Order::Assign(number, models, answer) => {
                let (before, present) = (self.desired.clone(), self.present.clone());
                self.desired.assign(number, &models, |model| is_used(&present, model));
                let stored = self.store(before).await;
                self.end_shadows().await;
                // A fetch that is wanted no more; a trial is ended first, and so it is still wanted.
                let desired = self.desired.clone();
                self.interrupt(|wanted| !desired.wants(wanted));
                self.turns.hurry();
                // Whoever asked may have gone.
                let _ = answer.send(stored);
            }
            Order::Rollback(name, answer) => {
                let back = self.roll_back(name).await;
                let _ = answer.send(back);
            }
            Order::Acknowledged(seq) => {
                let before = self.desired.clone();
                self.desired.acknowledged(seq);
                // If not, it is told again after a start.
                let _ = self.store(before).await;
            }
        }
    }

    /// An operator on the gateway wants the version before. The cloud's newest assignment is done with then.
    async fn roll_back(&mut self, name: Name) -> Result<u64, String> {
        if let Some(wanted) = self.desired.on_trial(&name) {
            let version = wanted.assigned.version;
            return Err(format!("version {version} of {name} is on trial; it goes back by itself if it is not well"));
        }
        let (of, trust) = (name.clone(), Arc::clone(&self.hands.trust.borrow()));
        let back = self.hands.store.with(move |store| {
            let version = store.rollback(&of, &trust)?;
            Ok((version, work::switched(store, &of, Some(version))))
        });
        let (version, switched) = back.await.map_err(|failed| failed.detail().to_owned())?;
        tracing::warn!(%name, version, "an operator on this gateway went back to the version before");
        self.tell(switched);
        let before = self.desired.clone();
        self.desired.left(&name);
        self.look().await;
        // If not, a start finds it decided as well: nothing is done about it either.
        let _ = self.store(before).await;
        Ok(version)
    }

    /// Something has come to its end: what follows is on disk before it is done.
    async fn ended(&mut self, ended: Ended) {
        let Some((wanted, _)) = self.under_way.take() else { return };
        let (before, this) = (self.desired.clone(), wanted.version());
        match ended {
            Ended::Fetched => self.desired.fetched(&wanted),
            Ended::Done => self.desired.done(&wanted),
            Ended::Failing { reason, detail } => self.desired.failing(&wanted, reason, &detail),
            Ended::Reverted => self.desired.reverted(&wanted),
            Ended::Not(Failed::Refused { reason, detail }) => self.desired.refused(&wanted, reason, &detail),
            Ended::Not(Failed::Pack { reason, detail }) => {
                let attempts = self.turns.failed(&this);
                if attempts < ATTEMPTS_MAX {
                    let wait = Duration::from_secs(1 << (attempts - 1)).min(ATTEMPT_WAIT_MAX);
                    return self.later(&this, detail, wait);
                }
                self.desired.refused(&wanted, reason, &detail);
            }
            Ended::Not(Failed::Later { detail }) => return self.later(&this, detail, AGAIN),
            Ended::Not(Failed::GaveWay { detail }) => {
                tracing::info!(name = %this.0, version = this.1, detail, "a model is fetched later: others wait");
                return;
            }
        }
        self.turns.ended(&this);
        self.hands.progress.send_replace(Progress::default());
        self.look().await;
        let present = self.present.clone();
        self.desired.go_on(|model| is_used(&present, model));
        if let Err(detail) = self.store(before).await {
            self.later(&this, detail, AGAIN);
        }
        self.end_shadows().await;
    }

    /// Where a version is in use already, and is assigned alone, nothing is to be done about it, but what ran beside it ends.
    async fn end_shadows(&mut self) {
        let assigned =
            |name: &Name| self.desired.wanted().iter().filter(move |w| w.assigned.name == *name).collect::<Vec<_>>();
        let is_alone = |name: &Name| {
            let assigned = assigned(name);
            assigned.iter().any(|w| w.step == Step::Done) && assigned.iter().all(|w| w.assigned.mode != Mode::Shadow)
        };
        let with_one = self.present.iter().filter(|model| model.shadow.is_some()).map(|model| model.name.clone());
        let ended: Vec<Name> = with_one.filter(is_alone).collect();
        if ended.is_empty() {
            return;
        }
        let ends = move |store: &mut Store<Files>| ended.iter().try_for_each(|name| store.set_shadow(name, None));
        if let Err(reason) = self.hands.store.with(ends).await {
            tracing::error!(?reason, "what runs beside a model, and is not assigned any more, cannot be ended");
        }
        self.look().await;
    }

    fn later(&mut self, version: &Version, detail: String, wait: Duration) {
        tracing::warn!(name = %version.0, version = version.1, detail, "an assigned model waits; trying again in {wait:?}");
        self.hands.progress.send_modify(|progress| progress.waits_for = None);
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.turns.wait(version, self.now_ms().saturating_add(wait_ms), detail);
    }

    /// What is in use is not what it was: it is out of use, and fetched again.
    async fn damaged(&mut self, damaged: Vec<(Name, u64)>) {
        if damaged.is_empty() {
            return;
        }
        let before = self.desired.clone();
        damaged.iter().for_each(|(name, version)| self.desired.damaged(name, *version));
        self.look().await;
        for (name, _) in damaged {
            let switched = self.hands.store.with(move |store| {
                let now = store.shelf(&name)?.active().current;
                Ok(work::switched(store, &name, now))
            });
            match switched.await {
                Ok(switched) => self.tell(switched),
                Err(reason) => tracing::error!(?reason, "who uses a model cannot be told that it was damaged"),
            }
        }
        // If not, the next start finds it damaged again.
        let _ = self.store(before).await;
    }

    /// Tells whoever uses a model, while other things go on.
    fn tell(&self, switched: hooks::Switched) {
        let hands = self.hands.clone();
        self.tasks.spawn_contained("hook of a model", async move { hands.tell(&switched).await });
    }

    /// Writes what is desired; if that fails it is as before. The error says why.
    async fn store(&mut self, before: Desired) -> Result<(), String> {
        if self.desired == before {
            return Ok(());
        }
        let known: Vec<u64> = before.reports().map(|told| told.seq).collect();
        let (path, bytes) = (self.record.clone(), self.desired.encode());
        let written = tokio::task::spawn_blocking(move || files::replace(&path, &bytes)).await;
        let written = written.map_err(|e| e.to_string()).and_then(|written| written.map_err(|e| e.to_string()));
        match &written {
            Ok(()) => {
                for told in self.desired.reports().filter(|told| !known.contains(&told.seq)) {
                    self.meters.told(told);
                    let (name, version, outcome) = (&told.name, told.version, told.outcome.text());
                    match told.reason.is_empty() {
                        true => tracing::info!(%name, version, outcome, "a model was decided"),
                        false => {
                            tracing::warn!(%name, version, outcome, reason = told.reason, detail = told.detail, "a model is not used")
                        }
                    }
                }
            }
            Err(reason) => {
                tracing::error!(reason, path = %self.record.display(), "what is to be done about models cannot be stored");
                self.desired = before;
            }
        }
        written
    }

    /// Looks what there is.
    async fn look(&mut self) {
        let found = self.hands.store.with(|store| {
            let names = store.names()?;
            let present = names.into_iter().take(MODELS_MAX).map(|name| {
                let shelf = store.shelf(&name)?;
                let active = shelf.active();
                let (version, previous) = (active.current, active.previous);
                Ok(ModelPresent { name, version, previous, shadow: shelf.shadow, fetching: None, scores: None })
            });
            present.collect::<Result<Vec<_>, StoreError>>()
        });
        match found.await {
            Ok(present) => self.present = present,
            Err(reason) => tracing::error!(?reason, "the models on this disk cannot be looked at"),
        }
    }

    fn show(&self) {
        let progress = self.hands.progress.borrow().clone();
        let mut present = self.present.clone();
        if let Some(((name, _), fetching)) = progress.fetching.filter(|(version, _)| self.is_wanted(version)) {
            match present.iter_mut().find(|model| model.name == name) {
                Some(model) => model.fetching = Some(fetching),
                None => present.push(ModelPresent {
                    name,
                    version: None,
                    previous: None,
                    shadow: None,
                    fetching: Some(fetching),
                    scores: None,
                }),
            }
        }
        self.meters.present(&present);
        let reports = self.desired.reports().cloned().collect();
        let waits_for = self.turns.waits_for(&self.desired, self.now_ms()).map(str::to_owned);
        self.shows.send_replace(Shown { reports, present, waits_for: progress.waits_for.or(waits_for) });
    }

    /// Whether it is still to be had.
    fn is_wanted(&self, version: &Version) -> bool {
        self.desired.wanted().iter().any(|wanted| wanted.step == Step::Fetch && wanted.version() == *version)
    }
}

/// Whether a version is in use as assigned.
fn is_used(present: &[ModelPresent], assigned: &ModelAssigned) -> bool {
    let of = present.iter().find(|model| model.name == assigned.name);
    match assigned.mode {
        Mode::Active => of.is_some_and(|model| model.version == Some(assigned.version)),
        Mode::Shadow => of.is_some_and(|model| model.shadow == Some(assigned.version)),
        Mode::Off => of.is_none_or(|model| model.version.is_none()),
    }
}
