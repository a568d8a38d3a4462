//! Models: what publishers send is verified, cut, and published to gateways as packs; the catalogue says which versions
//! there are.
//!
//! ```text
//!  updates ─┐
//!  upload ──┴ disk ─► verify ──► cut ──► delta ◄── heads of earlier packs          every process
//!  (http)             signature          │                                             ▲
//!                     digest, format     ▼                                             │ reads
//!                                    models/pack-<name>-<version> ──► rollouts/models ─┘
//!                                    one process at a time            the catalogue
//! ```
//! A process keeps nothing that must survive it. A version is in the catalogue when all of its pack is stored, and whoever
//! sent it is answered after that was read back. Until then its bytes are the sender's: whoever has no answer sends it again,
//! to any process, and the publication goes on where the topic of its pack ends (`resume`). From then on the pack topics
//! are where its bytes are; their namespace keeps them for ever.

mod catalogue;
mod error;
mod format;
pub mod http;
mod meters;
mod publish;
mod resume;
mod updates;
mod upload;
mod views;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use self::catalogue::{Catalogue, Version, Void};
pub use self::error::{Class, PublishError};
use self::meters::Meters;
use super::control::Control;
use super::control::wire::{self, Cluster, Entry, Heard, NotWritten, Outgoing, TopicError, Writer};
use crate::config::CloudConfig;
use crate::config::cloud;
use crate::models::manifest::Name;
use crate::observe::metrics::Metrics;
use crate::pulsar::names;
use crate::sys::clock::Clock;
use crate::sys::random;
use crate::sys::tasks::Tasks;

/// Time for a message to be read back after it was stored, as in `control`.
const READ_BACK_MAX: Duration = Duration::from_secs(20);

/// Turns of models: publications of one model come one after the other, and of so many models at once.
const TURNS: usize = 16;

/// Message property: names a message, so that who wrote it knows it when it is read.
const ID: &str = "tg_id";

/// What all parts share. Cheap to clone.
#[derive(Clone)]
pub struct Models(Arc<Inner>);

struct Inner {
    control: Control,
    config: cloud::Models,
    tenant: String,
    cluster: Cluster,
    clock: Clock,
    meters: Meters,
    state: Mutex<Shared>,
    catalogue: Writer,
    /// Models that are being taken in.
    places: Arc<Semaphore>,
    turns: [tokio::sync::Mutex<()>; TURNS],
}

#[derive(Default)]
struct Shared {
    catalogue: Catalogue,
    is_read: bool,
    problem: Option<String>,
    /// Who waits for what to be read back.
    waiting: HashMap<String, oneshot::Sender<Result<Version, Void>>>,
    /// What this process publishes.
    publishing: BTreeMap<Name, Publishing>,
}

/// How far a publication is.
#[derive(Clone, Copy, Debug, Default)]
struct Publishing {
    version: u64,
    places: u32,
    of_places: u32,
}

impl Models {
    /// Begins to read the catalogue, until `tasks` stops.
    pub fn start(
        tasks: &Tasks,
        config: &CloudConfig,
        control: Control,
        clock: &Clock,
        metrics: &Metrics,
    ) -> Result<Self, TopicError> {
        let (cluster, tenant) = (Cluster::of(&config.pulsar)?, config.pulsar.tenant.clone());
        let topic = names::catalogue_topic(&tenant);
        let stop = tasks.stopping();
        let (catalogue, work) = Writer::new(cluster.clone(), topic.clone(), clock.clone(), stop.clone());
        tasks.spawn_contained("catalogue of models", work);
        let this = Self(Arc::new(Inner {
            control,
            places: Arc::new(Semaphore::new(config.models.uploads_max as usize)),
            config: config.models.clone(),
            tenant,
            cluster: cluster.clone(),
            clock: clock.clone(),
            meters: Meters::new(metrics),
            state: Mutex::default(),
            catalogue,
            turns: [const { tokio::sync::Mutex::const_new(()) }; TURNS],
        }));
        let topics = names::results_topic(&this.0.tenant);
        let (results, work) = Writer::new(cluster.clone(), topics, clock.clone(), stop.clone());
        tasks.spawn_contained("results of updates", work);
        let updates = updates::run(this.clone(), config.pulsar.clone(), results, stop.clone());
        tasks.spawn_contained("updates of models", updates);
        let reader = this.clone();
        let heard = move |heard| match heard {
            Heard::Message(entry) => reader.take(&entry),
            Heard::CaughtUp => {
                let mut shared = reader.lock();
                (shared.is_read, shared.problem) = (true, None);
            }
            Heard::Problem(why) => reader.problem(why),
        };
        tasks.spawn_contained("catalogue reader", wire::follow(cluster, topic, stop.clone(), heard));
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problem(&self, why: String) {
        let mut shared = self.lock();
        // One line for each new reason: it is tried again every few seconds.
        if shared.problem.as_ref() != Some(&why) {
            tracing::warn!(reason = why, "cannot read the catalogue of models; trying again");
            shared.problem = Some(why);
        }
    }

    fn take(&self, entry: &Entry) {
        let mut shared = self.lock();
        shared.problem = None;
        let taken = shared.catalogue.apply(entry.payload.as_deref().unwrap_or_default()).cloned();
        if let Err(reason) = &taken {
            tracing::warn!(%reason, "an entry of the catalogue of models is passed over");
        }
        if let Some(waiting) = entry.property(ID).and_then(|id| shared.waiting.remove(id)) {
            let _ = waiting.send(taken);
        }
    }

    /// Whether the catalogue is known; what a half-read one says would be wrong.
    fn expect_read(&self) -> Result<(), PublishError> {
        let shared = self.lock();
        match &shared.problem {
            _ if shared.is_read => Ok(()),
            Some(why) => Err(PublishError::Catalogue(format!("cannot be read: {why}"))),
            None => Err(PublishError::Catalogue("is still being read".to_owned())),
        }
    }

    /// Appends to the catalogue and waits until it is read back: what it came to.
    async fn append(&self, event: &catalogue::Event) -> Result<Version, PublishError> {
        let (ticket, (told, tells)) = (Ticket { models: self, id: random::hex16() }, oneshot::channel());
        self.lock().waiting.insert(ticket.id.clone(), told);
        // Strings and numbers: cannot fail.
        let payload = serde_json::to_vec(event).unwrap_or_default().into();
        let message = Outgoing { key: "model".to_owned(), properties: vec![(ID, ticket.id.clone())], payload };
        let written = self.0.catalogue.write(message).await;
        if let Err(e @ NotWritten::No { .. }) = written {
            return Err(e.into());
        }
        // Stored or not: if it is, it will be read.
        match tokio::time::timeout(READ_BACK_MAX, tells).await {
            Ok(Ok(taken)) => Ok(taken?),
            _ => Err(written.err().map_or(PublishError::NotReadBack, PublishError::from)),
        }
    }
}

/// The right to be told when a message is read back; given up when whoever waits does not wait any more.
struct Ticket<'m> {
    models: &'m Models,
    id: String,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.models.lock().waiting.remove(&self.id);
    }
}
