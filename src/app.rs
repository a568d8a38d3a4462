//! Wiring only: builds edge and cloud from their configuration, in the order in which they must start,
//! and stops them in the order in which nothing is lost.

mod keeper;
mod live;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use keeper::{Keeper, Parts};
use live::Live;

use crate::cloud;
use crate::config::{CloudConfig, EdgeConfig, OwnFile};
use crate::downlink::commands::Commands;
use crate::downlink::keeper::{Begun, Inbox, Status, Store, begin, inbox, meters as downlink_meters};
use crate::downlink::link::{self, Link};
use crate::downlink::trial::{Found, Machine, Place};
use crate::ingest::accept::BindError;
use crate::ingest::bridge::Bridging;
use crate::ingest::http::{Gateway, Listener};
use crate::ingest::identity::Gate;
use crate::ingest::mqtt::local::Local;
use crate::ingest::mqtt::upstream::Upstream;
use crate::ingest::mqtt::{self, Hub, Surroundings};
use crate::ingest::router::Router;
use crate::journal::Meters;
use crate::observe::logs::Logs;
use crate::observe::metrics::Metrics;
use crate::observe::status::Links;
use crate::outbox::Outbox;
use crate::security::server::{ServerTls, ServerTlsError};
use crate::sys::clock::Clock;
use crate::sys::tasks::Tasks;
use crate::uplink::Uplink;

/// How long requests in flight may take to be finished at the end.
const STOP_INGEST_MAX: Duration = Duration::from_secs(10);
/// How long the uplink may wait for receipts at the end; what is not confirmed is sent again after the next start.
const STOP_UPLINK_MAX: Duration = Duration::from_secs(8);
/// How long the cloud mode may take to store and acknowledge what it holds.
const STOP_CLOUD_MAX: Duration = Duration::from_secs(15);

/// What is left after all that, such as a thread that waits for the disk.
const STOP_REST_MAX: Duration = Duration::from_secs(1);

/// Exit code after a second signal: 128 + SIGINT, as shells say it.
const EXIT_ABRUPT: i32 = 130;

/// Where an edge's configuration comes from.
pub struct Source {
    /// The gateway's own file.
    pub own: OwnFile,
    /// Reads it once more.
    pub again: keeper::Reread,
    /// Nothing pushed counts this time.
    pub local_only: bool,
}

/// Why a process ended, other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// It could not start as configured.
    #[error("{0}")]
    Setup(String),
    /// Something it needs was not there; a later start may work.
    #[error("{0}")]
    Unavailable(String),
    /// A part of it failed while it ran.
    #[error("{0}")]
    Failed(String),
}

/// Runs an edge until it is asked to stop. Returns when everything is on disk and closed. What runs follows from the record
/// of pushed configuration. On SIGHUP the gateway's own file is read once more, and what can take effect at once does.
pub fn edge(source: Source, logs: Logs) -> Result<(), AppError> {
    // Ports before anything slow: a mistake in the address shows at once. A taken port may be free a moment later,
    // when the process before this one has ended. Nothing pushed can change an address; and a start that fails here
    // is not counted as one of a document on trial.
    let unavailable = |e: BindError| AppError::Unavailable(e.to_string());
    let own = source.own.alone();
    let http = Listener::bind(&own.http).map_err(unavailable)?.beside(own.mqtt.max_connections);
    let mqtt = mqtt::Listener::bind(&own.mqtt, own.http.max_connections).map_err(unavailable)?;
    let begun = Choice::make(&source)?;
    if begun.begun.config.log != own.log {
        logs.set(&begun.begun.config.log).map_err(AppError::Setup)?;
    }
    run(run_edge(source, begun, http, mqtt, logs))
}

/// What an edge starts with.
struct Choice {
    begun: Begun,
    /// `None`: started with --local.
    store: Option<Arc<Store>>,
    /// When the time of the trial's machine began.
    origin: Instant,
}

impl Choice {
    fn make(source: &Source) -> Result<Self, AppError> {
        let own = &source.own;
        let (policy, origin) = (keeper::policy(own.alone()), Instant::now());
        if source.local_only {
            tracing::warn!(
                "started with --local: the gateway's own file runs alone; what was pushed does not count, and nothing pushed is taken, until a start without it"
            );
            let nothing = Found { record: Ok(None), slots: [None, None] };
            let (machine, _) = Machine::start(policy, &nothing, 0);
            return Ok(Self { begun: Begun::local(machine, own), store: None, origin });
        }
        let store = Store::open(&own.alone().node.data_dir).map_err(|e| AppError::Unavailable(e.to_string()))?;
        let begun = begin(own, &store, policy, live::check).map_err(|e| {
            let dir = store.dir().display();
            AppError::Unavailable(format!(
                "cannot tell from {dir} what is to run: {e}; --local runs the own file alone"
            ))
        })?;
        Ok(Self { begun, store: Some(Arc::new(store)), origin })
    }

    /// Whom it believes, and what it took before.
    fn inbox(&self, own: &OwnFile) -> Result<Inbox, AppError> {
        let settled = self.begun.machine.record().settled;
        let (accepted, keyring) = match &self.store {
            Some(store) => (store.accepted(), store.keyring()),
            None => (None, None),
        };
        let accepted = accepted.unwrap_or_else(|| inbox::accepted_after_loss(settled));
        let node = &own.alone().node.id;
        let (inbox, refused) = Inbox::new(node, &own.alone().downlink, keyring, accepted)
            .map_err(|e| AppError::Setup(format!("downlink: {e}")))?;
        if let Some(refusal) = refused {
            tracing::warn!(%refusal, "the stored keyring does not count any more");
        }
        Ok(inbox)
    }

    fn say(&self) {
        self.begun.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let record = self.begun.machine.record();
        let number = record.committed.number;
        match (self.begun.place, &record.candidate) {
            (Place::Slot { .. }, Some(candidate)) if candidate.config.place == self.begun.place => {
                tracing::warn!(number = candidate.config.number, "started with a pushed document that is on trial");
            }
            (Place::Slot { .. }, _) => tracing::info!(number, "started with a pushed document over the own file"),
            (Place::Local, _) if record.committed.place != Place::Local => {
                tracing::error!(number, "the committed document cannot be used: the gateway's own file runs alone");
            }
            (Place::Local, _) => {}
        }
    }
}

async fn run_edge(
    source: Source,
    choice: Choice,
    http: Listener,
    mqtt: mqtt::Listener,
    logs: Logs,
) -> Result<(), AppError> {
    let config = choice.begun.config.clone();
    choice.say();
    let (stop, hang_up) = (Stop::listen()?, listen(SignalKind::hangup())?);
    let (clock, metrics, links) = (Clock::system(), Metrics::default(), Links::default());
    let (ingest, uplink) = (Tasks::new(), Tasks::new());
    let gate = Gate::start(&ingest, &config, clock.clone(), &metrics).map_err(|e| AppError::Setup(e.to_string()))?;
    let tls = server_tls(&config, &ingest, &clock, &metrics).map_err(|e| AppError::Setup(e.to_string()))?;
    let outbox = Outbox::open(&config, &clock, &metrics).map_err(|e| AppError::Unavailable(e.to_string()))?;
    let router = Router::new(&config.lanes, &outbox).map_err(|e| AppError::Setup(e.to_string()))?;
    let journals = Meters::new(&metrics);
    let results = Arc::new(router.clone());
    let commands = Commands::open(&config, &clock, &metrics, journals.of("commands"), results)
        .map_err(|e| AppError::Unavailable(e.to_string()))?;
    let hub = Hub::open(&config, &clock, &journals).map_err(|e| AppError::Unavailable(e.to_string()))?;
    let upstream = Upstream::new(&config, &router, clock.clone());
    let local = Local::new(hub.clone(), &config);
    let bridging = Bridging::new(upstream.clone(), local.clone(), clock.clone(), &metrics);
    let mut live = Live {
        outbox: outbox.clone(),
        router: router.clone(),
        upstream: upstream.clone(),
        uplink: Uplink::new(links.clone(), clock.clone(), &metrics),
        bridging,
        logs,
        tasks: ingest.clone(),
        uplink_tasks: uplink.clone(),
        config: config.clone(),
        unsure: false,
    };
    let status = Status::default();
    let inbox = choice.inbox(&source.own)?;
    commands.start(&ingest);
    commands.publish_to(&ingest, Arc::new(hub.clone()));
    let around = Surroundings {
        config: &config,
        hub: hub.clone(),
        upstream,
        commands: commands.clone(),
        outbox: outbox.clone(),
        links: links.clone(),
        gate: gate.clone(),
        tls: tls.clone(),
    };
    live.start().await.map_err(|e| AppError::Setup(e.to_string()))?;
    mqtt.start(&ingest, around, &metrics);
    let address = http.local_addr();
    http.start(
        &ingest,
        Gateway {
            node: config.node.id.clone(),
            router,
            outbox: outbox.clone(),
            links,
            clock: clock.clone(),
            metrics: metrics.clone(),
            http: config.http.clone(),
            max_event: config.outbox.max_event,
            commands: commands.clone(),
            local: Some(local),
            gate,
            tls,
            bridges: live.bridging.reports(),
            ready: Arc::new(AtomicBool::new(true)),
            downlink: status.clone(),
        },
    );
    say_started(&config, address);
    // With the uplink's tasks: it says good-bye after the way in has stopped.
    let (link, heard) = Link::start(&uplink, clock.clone(), link::Meters::new(&metrics));
    let Choice { begun, store, origin } = choice;
    let Source { own, again, .. } = source;
    let meters = downlink_meters::Meters::new(&metrics);
    let commands_kept = commands.clone();
    let parts =
        Parts { live, own, again, begun, store, inbox, link, status, meters, clock, commands: commands_kept, origin };
    let (keeper, ears) = Keeper::new(parts);
    ingest.spawn("configuration", keeper.run(hang_up, heard, ears));
    stop.requested(&[&ingest, &uplink]).await;
    // Stop accepting, finish what is in flight and commit it; then the uplink; the outbox last.
    let in_time = ingest.stop(STOP_INGEST_MAX).await & uplink.stop(STOP_UPLINK_MAX).await;
    commands.close().await;
    hub.close().await;
    outbox.close().await;
    ended(&[&ingest, &uplink], in_time)
}

fn say_started(config: &EdgeConfig, http: SocketAddr) {
    let (version, dir) = (env!("CARGO_PKG_VERSION"), config.node.data_dir.display());
    tracing::info!(node = config.node.id, %http, data_dir = %dir, version, "edge started");
    if config.uplink.pulsar.is_empty() {
        tracing::warn!("no uplink is configured (uplink.pulsar): events are kept on disk and go nowhere");
    }
}

/// The certificate that devices see, where one is configured.
fn server_tls(
    config: &EdgeConfig,
    tasks: &Tasks,
    clock: &Clock,
    metrics: &Metrics,
) -> Result<Option<ServerTls>, ServerTlsError> {
    if config.tls.certificate_file.is_none() {
        return Ok(None);
    }
    let tls = ServerTls::load(&config.tls, clock)?;
    tls.watch(tasks, metrics)?;
    Ok(Some(tls))
}

/// Runs the cloud mode until it is asked to stop. Returns when what it held is stored and acknowledged.
pub fn cloud(config: CloudConfig) -> Result<(), AppError> {
    let listener = cloud::api::Listener::bind(&config.http).map_err(|e| AppError::Unavailable(e.to_string()))?;
    run(run_cloud(config, listener))
}

async fn run_cloud(config: CloudConfig, listener: cloud::api::Listener) -> Result<(), AppError> {
    let stop = Stop::listen()?;
    let tasks = Tasks::new();
    let address = config.http.listen;
    cloud::start(&tasks, &config, listener, Clock::system(), &Metrics::default())
        .map_err(|e| AppError::Setup(e.to_string()))?;
    tracing::info!(pulsar = config.pulsar.service, http = %address, version = env!("CARGO_PKG_VERSION"), "cloud started");
    stop.requested(&[&tasks]).await;
    let in_time = tasks.stop(STOP_CLOUD_MAX).await;
    ended(&[&tasks], in_time)
}

/// Runs `work` to its end. What a disk that hangs still holds then is left to it: a runtime that is simply
/// dropped waits for that without end.
fn run(work: impl Future<Output = Result<(), AppError>>) -> Result<(), AppError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| AppError::Unavailable(format!("cannot start the threads of the process: {e}")))?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(STOP_REST_MAX);
    result
}

fn ended(groups: &[&Tasks], in_time: bool) -> Result<(), AppError> {
    if let Some(failure) = groups.iter().find_map(|g| g.failure()) {
        return Err(AppError::Failed(failure.to_string()));
    }
    if !in_time {
        tracing::warn!("not everything ended in time; what was acknowledged is on disk");
    }
    tracing::info!("stopped");
    Ok(())
}

fn listen(kind: SignalKind) -> Result<Signal, AppError> {
    signal(kind).map_err(|e| AppError::Unavailable(format!("cannot listen for signals: {e}")))
}

/// SIGTERM and Ctrl-C. A second one ends the process at once: what was acknowledged is on disk anyway.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> Result<Self, AppError> {
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for a signal, or until a task of one of `groups` has failed.
    async fn requested(mut self, groups: &[&Tasks]) {
        let failed = futures_util::future::select_all(groups.iter().map(|g| Box::pin(g.stopping().cancelled())));
        tokio::select! {
            () = self.next() => tracing::info!("asked to stop"),
            _ = failed => {}
        }
        Tasks::new().spawn_contained("second signal", async move {
            self.next().await;
            eprintln!("tidegate: asked twice; ending at once");
            std::process::exit(EXIT_ABRUPT)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_for_the_disk_does_not_hold_up_the_end() {
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let (done, ended) = std::sync::mpsc::channel();
        let main = crate::sys::tasks::thread("main", move || {
            let work = async move {
                tokio::task::spawn_blocking(move || hangs.recv());
                Ok(())
            };
            let _ = done.send(run(work).is_ok());
        });
        assert_eq!(ended.recv_timeout(Duration::from_secs(20)), Ok(true));
        drop(release);
        main.unwrap().join().unwrap();
    }
}
