//! What an edge starts with: decided before anything else is started.

use std::sync::Arc;

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::keeper::gateway::Gateway;
use super::keeper::{self, Keeper, Parts, proven};
use super::models::{Models, only_prove};
use super::{AppError, Source};
use crate::config::OwnFile;
use crate::downlink::artefact::Digest;
use crate::downlink::commands::{Commands, Publisher};
use crate::downlink::keeper::key::report_key;
use crate::downlink::keeper::meters::Meters;
use crate::downlink::keeper::store::StoreError;
use crate::downlink::keeper::{Begun, Inbox, Status, Store, begin, open_inbox};
use crate::downlink::link::{Heard, Link};
use crate::downlink::trial::{Found, Machine, Place, Policy};
use crate::inference::Inference;
use crate::observe::metrics::Metrics;
use crate::sys::clock::Clock;
use crate::sys::tasks::Tasks;
use crate::uplink::Allowed;

/// What the loop needs of the running gateway.
pub struct Kept<G> {
    /// It.
    pub live: G,
    /// What the loop is a part of.
    pub tasks: Tasks,
    /// The control link, which may outlive them: good-bye is said last.
    pub link: (Link, mpsc::Receiver<Heard>),
    /// For the status page.
    pub status: Status,
    /// For reports and expiry.
    pub clock: Clock,
    /// Commands of devices.
    pub commands: Commands,
    /// The models that score events.
    pub inference: Inference,
    /// This gateway's own broker.
    pub publisher: Arc<dyn Publisher>,
}

/// What an edge starts with.
pub struct Choice {
    /// What runs.
    pub begun: Begun,
    /// `None`: started with --local, or it cannot be used now.
    pub store: Option<Arc<Store>>,
    /// Started with --local.
    pub local_only: bool,
    /// When the time of the trial's machine began.
    pub origin: Instant,
}

/// What follows when the files of pushed configuration cannot be used.
const ALONE: &str =
    "the gateway's own file runs alone, and nothing pushed is taken until they can be used; that is tried every minute";

impl Choice {
    /// Takes up what is on disk.
    pub fn make<G: Gateway>(source: &Source) -> Result<Self, AppError> {
        let own = &source.own;
        let (policy, origin) = (keeper::policy(own.alone()), Instant::now());
        if source.local_only {
            tracing::warn!(
                "started with --local: the gateway's own file runs alone; what was pushed does not count, and nothing pushed is taken, until a start without it"
            );
            return Ok(Self::alone(source, policy, origin));
        }
        // A gateway with a full disk must start, or it could never deliver what fills it.
        let store = match Store::open(&own.alone().node.data_dir) {
            Ok(store) => store,
            Err(e @ StoreError::InUse(_)) => return Err(AppError::Unavailable(e.to_string())),
            Err(error) => {
                tracing::error!(%error, "{ALONE}");
                return Ok(Self::alone(source, policy, origin));
            }
        };
        match begin(own, &store, policy, G::check) {
            Ok(begun) => Ok(Self { begun, store: Some(Arc::new(store)), local_only: false, origin }),
            Err(error) => {
                tracing::error!(%error, dir = %store.dir().display(), "it cannot be told what is to run; {ALONE}");
                Ok(Self::alone(source, policy, origin))
            }
        }
    }

    /// The own file, and nothing that was or will be pushed.
    fn alone(source: &Source, policy: Policy, origin: Instant) -> Self {
        let nothing = Found { record: Ok(None), slots: [None, None] };
        let (machine, _) = Machine::start(policy, &nothing, 0);
        Self { begun: Begun::local(machine, &source.own), store: None, local_only: source.local_only, origin }
    }

    /// Where the events of what is started may go: where its assignment was found before.
    pub fn allowed(&self, own: &OwnFile) -> Allowed {
        let document = self.begun.machine.record().committed.place.digest().map(Digest::from_bytes);
        let found = self.store.as_ref().zip(document).map(|(store, document)| store.proven(document));
        proven::allowed(own.alone(), &self.begun.config, &found.unwrap_or_default())
    }

    /// Starts the loop that keeps it, as a task of the way in.
    pub fn keep<G: Gateway>(
        self,
        source: Source,
        kept: Kept<G>,
        metrics: &Metrics,
        hang_up: Signal,
    ) -> Result<(), AppError> {
        let inbox = self.inbox(&source.own)?;
        let Kept { live, tasks, link: (link, heard), status, clock, commands, inference, publisher } = kept;
        let Source { own, again, .. } = source;
        let Self { begun, store, local_only, origin } = self;
        let meters = Meters::new(metrics);
        if let Some(key) = report_key(&own.alone().node.data_dir) {
            link.sign_with(key);
        }
        let (trust, trusted) = watch::channel(Arc::new(inbox.trust().clone()));
        // Also without anything pushed the models in use are proven and shown; with --local nothing is touched.
        let models = match local_only {
            true => only_prove(&tasks, own.alone(), trusted.borrow().clone(), &inference).map(|()| None),
            false => Models::start(&tasks, own.alone(), trusted, (inference, publisher), metrics).map(Some),
        };
        let models = models.unwrap_or_else(|error| {
            tracing::error!(%error, "models are not looked after until the next start; those in use stay");
            None
        });
        let parts = Parts {
            live,
            tasks: tasks.clone(),
            own,
            again,
            begun,
            store,
            local_only,
            inbox,
            trust,
            models,
            link,
            status,
            meters,
            clock,
            commands,
            origin,
        };
        let (keeper, ears) = Keeper::new(parts);
        tasks.spawn("configuration", keeper.run(hang_up, heard, ears));
        Ok(())
    }

    /// Whom it believes, and what it took before.
    fn inbox(&self, own: &OwnFile) -> Result<Inbox, AppError> {
        let settled = self.begun.machine.record().settled;
        open_inbox(own.alone(), self.store.as_deref(), settled).map_err(|e| AppError::Setup(format!("downlink: {e}")))
    }

    /// For the log.
    pub fn say(&self) {
        self.begun.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let record = self.begun.machine.record();
        let number = record.committed.number.to_string();
        match (self.begun.place, &record.candidate) {
            (Place::Slot { .. }, Some(candidate)) if candidate.config.place == self.begun.place => {
                tracing::warn!(number = %candidate.config.number, "started with a pushed document that is on trial");
            }
            (Place::Slot { .. }, _) => tracing::info!(number, "started with a pushed document over the own file"),
            (Place::Local, _) if record.committed.place != Place::Local => {
                tracing::error!(number, "the committed document cannot be used: the gateway's own file runs alone");
            }
            (Place::Local, _) => {}
        }
    }
}
