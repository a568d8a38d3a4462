//! Wiring only: builds edge and cloud from their configuration, in the order in which they must start,
//! and stops them in the order in which nothing is lost.

pub mod choice;
pub mod keeper;
mod live;
pub mod models;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use choice::{Choice, Kept};
use live::Live;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cloud;
use crate::config::{CloudConfig, EdgeConfig, OwnFile};
use crate::downlink::commands::Commands;
use crate::downlink::keeper::Status;
use crate::downlink::link::{self, Link};
use crate::inference::Inference;
use crate::ingest::bridge::Bridging;
use crate::ingest::http::{Gateway, Listener, Settings};
use crate::ingest::identity::Gate;
use crate::ingest::mqtt::local::Local;
use crate::ingest::mqtt::upstream::Upstream;
use crate::ingest::mqtt::{self, Hub, Surroundings};
use crate::ingest::router::Router;
use crate::ingest::scoring::Scoring;
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
    let own = source.own.alone();
    let http = Listener::bind(&own.http).map_err(unavailable)?.beside(own.mqtt.max_connections);
    let mqtt = mqtt::Listener::bind(&own.mqtt, own.http.max_connections).map_err(unavailable)?;
    let choice = Choice::make::<Live>(&source)?;
    if choice.begun.config.log != own.log {
        logs.set(&choice.begun.config.log).map_err(AppError::Setup)?;
    }
    run(run_edge(source, choice, Ports { http, mqtt }, logs))
}

async fn run_edge(source: Source, choice: Choice, ports: Ports, logs: Logs) -> Result<(), AppError> {
    let Ports { http, mqtt } = ports;
    let config = choice.begun.config.clone();
    choice.say();
    let (stop, hang_up) = (Stop::listen()?, listen(SignalKind::hangup())?);
    let (clock, metrics) = (Clock::system(), Metrics::default());
    let (links, status) = (Links::default(), Status::default());
    let (ingest, uplink) = (Tasks::new(), Tasks::new());
    let gate = Gate::start(&ingest, &config, clock.clone(), &metrics).map_err(setup)?;
    let tls = server_tls(&config, &ingest, &clock, &metrics).map_err(setup)?;
    let State { outbox, router, commands, hub, upstream, local, bridging, inference } =
        State::open(&config, &clock, &metrics)?;
    let mut live = Live {
        outbox: outbox.clone(),
        router: router.clone(),
        upstream: upstream.clone(),
        uplink: Uplink::new(links.clone(), clock.clone(), &metrics),
        bridging,
        inference: inference.clone(),
        gate: gate.clone(),
        hub: hub.clone(),
        http: Settings::new(&config.http),
        logs,
        tasks: ingest.clone(),
        uplink_tasks: uplink.clone(),
        config: config.clone(),
        allowed: choice.allowed(&source.own),
        on_trial: None,
        probes: Arc::default(),
        unsure: false,
    };
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
    live.start().await.map_err(setup)?;
    say_started(&config, http.local_addr());
    let gateway = Gateway {
        node: config.node.id.clone(),
        scoring: Scoring::new(inference.clone(), router.clone()),
        router,
        outbox: outbox.clone(),
        links,
        clock: clock.clone(),
        metrics: metrics.clone(),
        http: live.http.clone(),
        max_event: config.outbox.max_event,
        commands: commands.clone(),
        local: Some(local),
        gate,
        tls,
        bridges: live.bridging.reports(),
        ready: Arc::new(AtomicBool::new(true)),
        downlink: status.clone(),
    };
    // First: whoever asks a gateway that has just become ready is told what is committed.
    choice.keep(source, kept(live, status, clock, commands.clone(), &metrics), &metrics, hang_up)?;
    inference.settle().await;
    mqtt.start(&ingest, around, &metrics);
    http.start(&ingest, gateway);
    stop.requested(&[&ingest, &uplink]).await;
    close([&ingest, &uplink], &commands, &hub, &outbox).await
}

/// What keeps pushed configuration gets the running edge, and a link that outlives the way in: good-bye is said last.
fn kept(live: Live, status: Status, clock: Clock, commands: Commands, metrics: &Metrics) -> Kept<Live> {
    let link = Link::start(&live.uplink_tasks, clock.clone(), link::Meters::new(metrics));
    let inference = live.inference.clone();
    let publisher = Arc::new(live.hub.clone());
    Kept { tasks: live.tasks.clone(), live, link, status, clock, commands, inference, publisher }
}

/// Stops accepting, finishes what is in flight and commits it; then the uplink; the outbox last.
async fn close([ingest, uplink]: [&Tasks; 2], commands: &Commands, hub: &Hub, outbox: &Outbox) -> Result<(), AppError> {
    let in_time = ingest.stop(STOP_INGEST_MAX).await & uplink.stop(STOP_UPLINK_MAX).await;
    commands.close().await;
    hub.close().await;
    outbox.close().await;
    ended(&[ingest, uplink], in_time)
}

/// What an edge keeps on disk, and what reads and writes it.
struct State {
    outbox: Outbox,
    router: Router,
    commands: Commands,
    hub: Hub,
    upstream: Upstream,
    local: Local,
    bridging: Bridging,
    inference: Inference,
}

impl State {
    fn open(config: &EdgeConfig, clock: &Clock, metrics: &Metrics) -> Result<Self, AppError> {
        let outbox = Outbox::open(config, clock, metrics).map_err(unavailable)?;
        let router = Router::new(&config.lanes, &outbox).map_err(setup)?;
        let journals = Meters::new(metrics);
        let results = Arc::new(router.clone());
        let commands = Commands::open(config, clock, metrics, journals.of("commands"), results).map_err(unavailable)?;
        let hub = Hub::open(config, clock, &journals).map_err(unavailable)?;
        let inference = Inference::new(config, metrics);
        let upstream = Upstream::new(config, &router, clock.clone(), inference.clone());
        let local = Local::new(hub.clone(), config);
        let bridging = Bridging::new(upstream.clone(), local.clone(), clock.clone(), metrics);
        Ok(Self { outbox, router, commands, hub, upstream, local, bridging, inference })
    }
}

/// Where an edge listens.
struct Ports {
    http: Listener,
    mqtt: mqtt::Listener,
}

fn setup(e: impl std::fmt::Display) -> AppError {
    AppError::Setup(e.to_string())
}

fn unavailable(e: impl std::fmt::Display) -> AppError {
    AppError::Unavailable(e.to_string())
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
    let listener = cloud::api::Listener::bind(&config.http).map_err(unavailable)?;
    run(run_cloud(config, listener))
}

async fn run_cloud(config: CloudConfig, listener: cloud::api::Listener) -> Result<(), AppError> {
    let stop = Stop::listen()?;
    let tasks = Tasks::new();
    let address = config.http.listen;
    cloud::start(&tasks, &config, listener, Clock::system(), &Metrics::default()).map_err(setup)?;
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
