//! Configuration push, the cloud's half: what is known, orders, and the one process that carries them out.
//!
//! ```text
//!  operators ─ http ─► orders ─► writer ─► rollouts/config ──────► reader ─► state (Rollouts, History)
//!                         └────► writer ─► rollouts/documents ───► reader ─► state (Documents)       ▲ every process
//!  the leader: gateways' keys ─► writer ─► rollouts/keys ─────────► reader ─► state (Keys)            │ has all of it
//!                                          reports/nodes ────────► reader ─► state (Fleet)           ▼
//!                                                                              │
//!  rollouts/lead ─► lead ─► controller: decides, appends, reads it back ◄──────┤
//!                           └► sender: signs assignments ─► control/inbox-… ◄──┘
//! ```
//! The log is the only state, and its order decides (`cloud::rollout`): whatever a process does because of an event it does
//! after it has read that event back. A process may die at any point; the next one reads the log and goes on. Nothing here
//! is on an event's way: without the control topics the cloud stores and shows events as before.
//!
//! All processes of a tenant must work with the same cluster: a log that is written in two clusters and replicated has
//! two orders.

mod commands;
mod controller;
pub mod documents;
pub mod fleet;
mod gated;
pub mod history;
pub mod http;
pub mod keys;
mod later;
mod meters;
pub mod models;
pub mod numbers;
mod operators;
pub(in crate::cloud) mod orders;
mod pins;
pub mod reports;
mod sender;
pub mod state;
pub mod views;
pub mod wire;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::documents::Origin;
use self::meters::Meters;
use self::reports::Dropped;
use self::state::{Applied, State};
use self::wire::{Cluster, Entry, Heard, Held, Inboxes, Lead, NotWritten, Outgoing, TopicError, Writer};
use crate::cloud::rollout::{Author, Event, What};
use crate::config::CloudConfig;
use crate::config::edge::Downlink;
use crate::downlink::artefact::keys::SECRET_KEY_FILE_BYTES_MAX;
use crate::downlink::artefact::{KeyError, SecretKey, Trust};
use crate::observe::metrics::Metrics;
use crate::pulsar::names;
use crate::sys::clock::Clock;
use crate::sys::random;
use crate::sys::tasks::Tasks;

/// Time for a message to be read back after it was stored. A reader that has just lost its connection needs seconds.
const READ_BACK_MAX: Duration = Duration::from_secs(20);

/// Turns of commands: one that is not answered holds up one gateway in so many.
const TURNS: usize = 64;

/// One line in the log for each reason why reports do not count, in this time.
const DROPPED_LINE_EVERY: Duration = Duration::from_secs(60);

/// How often the metrics that are counted from the state are brought up to date.
const METERS_EVERY: Duration = Duration::from_secs(5);

/// Message property: names a message, so that who wrote it knows it when it is read.
const ID: &str = "tg_id";

/// Message property: who stored a document.
const BY: &str = "tg_by";

/// Why this process cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The secret key cannot be used.
    #[error("control.controller_key {}: {why}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The policy cannot be used: nothing would pass it.
    #[error("control.policy {0}")]
    Policy(String),
    /// A public key or id cannot be read.
    #[error("[control]: {0}")]
    Keys(#[from] KeyError),
    /// The service URL cannot be read.
    #[error("[pulsar] service: {0}")]
    Service(#[from] TopicError),
}

/// What all parts share. Cheap to clone.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

struct Inner {
    config: crate::config::cloud::Control,
    tenant: String,
    cluster: Cluster,
    clock: Clock,
    /// Told from others in the log; another one for every start.
    name: String,
    key: Option<SecretKey>,
    meters: Meters,
    state: Mutex<Shared>,
    log: Writer,
    documents: Writer,
    keys: Writer,
    /// Writes inboxes, and commands for devices.
    inboxes: Inboxes,
    /// One command at a time for a gateway; gateways share turns.
    turns: [tokio::sync::Mutex<()>; TURNS],
}

struct Shared {
    state: State,
    topics: [Topic; 4],
    /// Who waits for what to be read back.
    waiting: HashMap<String, oneshot::Sender<Applied>>,
    stored: HashMap<String, oneshot::Sender<Result<(), String>>>,
    leads: bool,
    reign: Option<Reign>,
    lead_problem: Option<String>,
    /// When a line was written about reports that do not count.
    dropped_told: HashMap<&'static str, Instant>,
}

/// What this process' lead stands on.
struct Reign {
    /// The broker's word.
    held: Held,
    /// The log's.
    epoch: u64,
    name: String,
}

/// How far a topic was read.
#[derive(Clone, Debug, Default)]
struct Topic {
    is_read: bool,
    problem: Option<String>,
}

/// Whether what a topic holds is known.
enum TopicState {
    Read,
    Reading,
    Problem(String),
}

/// The topics' places in [`Shared::topics`].
const LOG: usize = 0;
const DOCUMENTS: usize = 1;
const REPORTS: usize = 2;
const KEYS: usize = 3;

/// Why an event is not known to count.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// Pulsar.
    #[error(transparent)]
    Write(#[from] NotWritten),
    /// It was stored and did not come back in time.
    #[error("it is stored, and was not read back within {} s: it counts; look again later", READ_BACK_MAX.as_secs())]
    NotReadBack,
}

impl Control {
    /// Begins to read, and to lead when it is this process' turn; until `tasks` stops.
    pub fn start(tasks: &Tasks, config: &CloudConfig, clock: &Clock, metrics: &Metrics) -> Result<Self, SetupError> {
        let control = &config.control;
        let key = control.controller_key.as_ref().map(secret_key).transpose()?;
        let trust = Trust::new(&Downlink {
            roots: control.roots.clone(),
            artefact_keys: control.artefact_keys.clone(),
            // Only to say what is wrong with a document that it signed.
            controller_keys: key.iter().map(|key| key.public().to_string()).collect(),
            revoked: control.revoked.clone(),
            ..Downlink::default()
        })?;
        if let Some(path) = &control.policy {
            orders::read_policy(path).map_err(SetupError::Policy)?;
        }
        let (cluster, tenant) = (Cluster::of(&config.pulsar)?, config.pulsar.tenant.clone());
        let stop = tasks.stopping();
        let writer = |topic| Writer::new(cluster.clone(), topic, clock.clone(), stop.clone());
        let (log, log_work) = writer(names::rollouts_topic(&tenant));
        let (documents, documents_work) = writer(names::documents_topic(&tenant));
        let (keys, keys_work) = writer(names::keys_topic(&tenant));
        tasks.spawn_contained("control keys", keys_work);
        tasks.spawn_contained("control log", log_work);
        tasks.spawn_contained("control documents", documents_work);
        let shared = Shared {
            state: State::new(trust),
            topics: Default::default(),
            waiting: HashMap::new(),
            stored: HashMap::new(),
            leads: false,
            reign: None,
            lead_problem: None,
            dropped_told: HashMap::new(),
        };
        let inboxes = Inboxes::new(tasks, cluster.clone(), clock.clone());
        let this = Self(Arc::new(Inner {
            config: control.clone(),
            tenant,
            cluster,
            clock: clock.clone(),
            name: random::hex16(),
            key,
            meters: Meters::new(metrics),
            state: Mutex::new(shared),
            log,
            documents,
            keys,
            inboxes,
            turns: [const { tokio::sync::Mutex::const_new(()) }; TURNS],
        }));
        this.read(tasks);
        this.lead(tasks);
        tasks.spawn_contained("control metrics", this.clone().measure(tasks.stopping().clone()));
        Ok(this)
    }

    fn read(&self, tasks: &Tasks) {
        let tenant = &self.0.tenant;
        let [log_is_read, keys_are_read] = [(); 2].map(|()| CancellationToken::new());
        let follow = |topic: String, which: usize, take: fn(&Self, Entry)| {
            let (this, log_is_read, keys_are_read) = (self.clone(), log_is_read.clone(), keys_are_read.clone());
            let heard = move |heard| match heard {
                Heard::Message(entry) => take(&this, entry),
                Heard::CaughtUp => {
                    this.caught_up(which);
                    match which {
                        LOG => log_is_read.cancel(),
                        KEYS => keys_are_read.cancel(),
                        _ => {}
                    }
                }
                Heard::Problem(why) => this.problem(which, why),
            };
            wire::follow(self.0.cluster.clone(), topic, tasks.stopping().clone(), heard)
        };
        let log = follow(names::rollouts_topic(tenant), LOG, Self::take_event);
        let documents = follow(names::documents_topic(tenant), DOCUMENTS, Self::take_document);
        let reports = follow(names::reports_topic(tenant), REPORTS, Self::take_report);
        let keys = follow(names::keys_topic(tenant), KEYS, Self::take_keys);
        tasks.spawn_contained("control keys reader", keys);
        tasks.spawn_contained("control log reader", log);
        tasks.spawn_contained("control documents reader", documents);
        // What reports say is compared with the log, and who says it with the keys.
        let stop = tasks.stopping().clone();
        tasks.spawn_contained("control reports reader", async move {
            let both = async { tokio::join!(log_is_read.cancelled(), keys_are_read.cancelled()) };
            if stop.run_until_cancelled(both).await.is_some() {
                reports.await;
            }
        });
    }

    /// Brings the metrics up to date that are counted from the state.
    async fn measure(self, stop: CancellationToken) {
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let meters = &self.0.meters;
        while !stop.is_cancelled() {
            let (now, present_ms) = (self.now_ms(), self.present_ms());
            let (present, known, rollouts, leads) = {
                let mut shared = self.lock();
                let forgotten = shared.state.forget_silent(now);
                if forgotten > 0 {
                    tracing::info!(forgotten, "gateways that were never assigned anything were not heard for long");
                }
                let (fleet, rollouts) = (&shared.state.fleet, &shared.state.rollouts);
                let present = fleet.after(None).filter(|(_, seen)| seen.is_present(now, present_ms)).count();
                let stages = rollouts.ids().filter_map(|id| rollouts.progress(id));
                let active = stages.filter(|progress| progress.stage.is_active()).count();
                (present, fleet.len(), active, shared.leads)
            };
            meters.present.set(gauge(present));
            meters.away.set(gauge(known.saturating_sub(present)));
            meters.rollouts.set(gauge(rollouts));
            meters.lead.set(i64::from(leads));
            let _ = tokio::time::timeout(METERS_EVERY, stop.cancelled()).await;
        }
    }

    /// Without a key there is nothing that this process could send.
    fn lead(&self, tasks: &Tasks) {
        if self.0.key.is_none() {
            tracing::info!("control.controller_key is not set: this process shows roll-outs and sends nothing");
            return;
        }
        let (held, holds) = watch::channel::<Option<Held>>(None);
        let lead = Lead::new(self.0.cluster.clone(), names::lead_topic(&self.0.tenant));
        let (this, stop) = (self.clone(), tasks.stopping().clone());
        let waits = move |why: Option<String>| this.lock().lead_problem = why;
        tasks.spawn_contained("control lead", lead.run(stop, move |h| drop(held.send_replace(Some(h))), waits));
        tasks.spawn_contained("controller", controller::run(self.clone(), holds.clone(), tasks.stopping().clone()));
        tasks.spawn_contained("control pins", pins::run(self.clone(), tasks.stopping().clone()));
        tasks.spawn_contained(
            "control sender",
            sender::run(self.clone(), self.0.inboxes.clone(), tasks.stopping().clone()),
        );
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what is known.
    fn with<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock().state)
    }

    fn topic_state(&self, which: usize) -> TopicState {
        match self.lock().topics.get(which) {
            Some(Topic { is_read: true, .. }) | None => TopicState::Read,
            Some(Topic { problem: Some(why), .. }) => TopicState::Problem(why.clone()),
            Some(_) => TopicState::Reading,
        }
    }

    /// Whose documents, keyrings and models count, the newest keyring included; the error is a part of a sentence.
    pub(in crate::cloud) fn trust(&self) -> Result<Trust, String> {
        match self.topic_state(DOCUMENTS) {
            TopicState::Read => Ok(self.with(|state| state.documents.trust().clone())),
            TopicState::Reading => Err("waits for the keyrings, which are still being read".to_owned()),
            TopicState::Problem(why) => Err(format!("waits for the keyrings, which cannot be read: {why}")),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.0.clock.unix_ms()).unwrap_or(0)
    }

    fn topic(&self, which: usize, change: impl FnOnce(&mut Topic)) {
        if let Some(topic) = self.lock().topics.get_mut(which) {
            change(topic);
        }
    }

    fn caught_up(&self, which: usize) {
        let mut shared = self.lock();
        let rollouts = &shared.state.rollouts;
        let is_headless = which == LOG && rollouts.index() > 0 && rollouts.log().is_none();
        let Some(topic) = shared.topics.get_mut(which) else { return };
        let was_read = std::mem::replace(topic, Topic { is_read: true, problem: None }).is_read;
        if is_headless && !was_read {
            tracing::warn!(
                "the log of roll-outs does not begin with its beginning: a version before this one began it, or its beginning was \
                 trimmed; it counts as it is, and gateways whose numbers are above it are told of (tidegate nodes)"
            );
        }
    }

    fn problem(&self, which: usize, why: String) {
        self.topic(which, |topic| {
            // One line for each new reason: it is tried again every few seconds.
            if topic.problem.as_ref() != Some(&why) {
                tracing::warn!(reason = why, "cannot read a control topic; trying again");
                topic.problem = Some(why);
            }
        });
    }

    fn take_event(&self, entry: Entry) {
        let mut shared = self.lock();
        shared.topics[LOG].problem = None;
        let blind = shared.state.blind;
        let applied = shared.state.log(entry.payload.as_deref());
        if shared.state.blind != blind {
            tracing::error!(
                index = applied.index,
                "the log of roll-outs has an event of a later version: this process does not lead any more; update it"
            );
        }
        if !shared.leads {
            // Whoever begins to lead sends what is outstanding.
            shared.state.to_send.clear();
        }
        if let Some(waiting) = entry.property(ID).and_then(|id| shared.waiting.remove(id)) {
            let _ = waiting.send(applied);
        }
    }

    fn take_document(&self, entry: Entry) {
        let mut shared = self.lock();
        shared.topics[DOCUMENTS].problem = None;
        let by = entry.property(BY).unwrap_or_default().to_owned();
        let origin = Origin { place: entry.place, by, at_ms: entry.published_ms };
        let stored = shared.state.document(entry.payload.as_deref(), origin);
        if shared.topics[LOG].is_read {
            shared.state.trim_documents();
        }
        if let Err(refusal) = &stored {
            tracing::warn!(reason = %refusal, "a stored document or keyring is passed over");
        }
        if !shared.leads {
            shared.state.to_send.clear();
        }
        if let Some(waiting) = entry.property(ID).and_then(|id| shared.stored.remove(id)) {
            let _ = waiting.send(stored.map(|_| ()).map_err(|refusal| refusal.to_string()));
        }
    }

    fn take_keys(&self, entry: Entry) {
        let mut shared = self.lock();
        shared.topics[KEYS].problem = None;
        if let Err(reason) = shared.state.key(entry.payload.as_deref()) {
            tracing::warn!(%reason, "a message among the keys is passed over");
        }
    }

    fn take_report(&self, entry: Entry) {
        let mut shared = self.lock();
        shared.topics[REPORTS].problem = None;
        let now = self.now_ms();
        // What lies there from before was heard when its sender says so; no clock of a gateway may reach into the future.
        let heard_ms = if shared.topics[REPORTS].is_read { now } else { entry.published_ms.min(now) };
        if let Err(dropped) = shared.state.report(entry.key.as_deref(), entry.payload.as_deref(), heard_ms) {
            self.0.meters.dropped(dropped.code());
            shared.tell_dropped(entry.key.as_deref(), &dropped);
        }
    }

    /// Appends an event and waits until it is read back: what it came to.
    async fn append(&self, by: Author, what: What) -> Result<Applied, AppendError> {
        self.append_at(self.now_ms(), by, what).await
    }

    /// The first event of all begins the log.
    async fn append_at(&self, at_ms: u64, by: Author, what: What) -> Result<Applied, AppendError> {
        if self.with(|state| state.rollouts.index()) == 0 {
            // Of two processes that do so one does; for the other it is void.
            self.append_one(at_ms, by.clone(), What::Begun { id: random::hex16() }).await?;
        }
        self.append_one(at_ms, by, what).await
    }

    async fn append_one(&self, at_ms: u64, by: Author, what: What) -> Result<Applied, AppendError> {
        let event = Event { at_ms, by, what };
        let (ticket, (told, tells)) = (Ticket::new(self), oneshot::channel());
        self.lock().waiting.insert(ticket.id.clone(), told);
        // Strings, numbers and lists: cannot fail.
        let payload = serde_json::to_vec(&event).unwrap_or_default();
        let message =
            Outgoing { key: "event".to_owned(), properties: vec![(ID, ticket.id.clone())], payload: payload.into() };
        let written = self.0.log.write(message).await;
        match &written {
            Err(e @ NotWritten::No { .. }) => Err(e.clone().into()),
            // Stored or not: if it is, it will be read.
            _ => match tokio::time::timeout(READ_BACK_MAX, tells).await {
                Ok(Ok(applied)) => Ok(applied),
                _ => Err(written.err().map_or(AppendError::NotReadBack, AppendError::from)),
            },
        }
    }

    /// Stores an envelope and waits until it is read back.
    async fn store(&self, key: String, by: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let (ticket, (told, tells)) = (Ticket::new(self), oneshot::channel());
        self.lock().stored.insert(ticket.id.clone(), told);
        let properties = vec![(ID, ticket.id.clone()), (BY, by.to_owned())];
        let written = self.0.documents.write(Outgoing { key, properties, payload: bytes.into() }).await;
        match &written {
            Err(e @ NotWritten::No { .. }) => Err(AppendError::from(e.clone()).into()),
            _ => match tokio::time::timeout(READ_BACK_MAX, tells).await {
                Ok(Ok(stored)) => stored.map_err(StoreError::Refused),
                _ => Err(written.err().map_or(AppendError::NotReadBack, AppendError::from).into()),
            },
        }
    }
}

impl Shared {
    fn tell_dropped(&mut self, key: Option<&str>, dropped: &Dropped) {
        let now = Instant::now();
        let told = self.dropped_told.get(dropped.code());
        if told.is_none_or(|told| now.duration_since(*told) >= DROPPED_LINE_EVERY) {
            self.dropped_told.insert(dropped.code(), now);
            tracing::warn!(node = key, reason = %dropped, "a report does not count; others like it are only counted");
        }
    }
}

/// The right to be told when a message is read back; given up when whoever waits does not wait any more.
struct Ticket<'c> {
    control: &'c Control,
    id: String,
}

impl<'c> Ticket<'c> {
    fn new(control: &'c Control) -> Self {
        Self { control, id: random::hex16() }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut shared = self.control.lock();
        shared.waiting.remove(&self.id);
        shared.stored.remove(&self.id);
    }
}

/// Why a document is not known to be stored.
#[derive(Debug, Clone, thiserror::Error)]
enum StoreError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("{0}")]
    Refused(String),
}

fn secret_key(path: &PathBuf) -> Result<SecretKey, SetupError> {
    use std::io::Read as _;
    let failed = |why: String| SetupError::Key { path: path.clone(), why };
    let mut pem = zeroize::Zeroizing::new(Vec::with_capacity(SECRET_KEY_FILE_BYTES_MAX + 1));
    let limit = u64::try_from(SECRET_KEY_FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut pem))
        .map_err(|e| failed(format!("cannot be read: {e}")))?;
    SecretKey::from_pem(&pem).map_err(|e| failed(e.to_string()))
}
