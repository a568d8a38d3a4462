//! Gateways in this process, as many as a test wants. Real in each: the control link, the inbox and its signatures, the
//! trial's machine, its files, the reports. Simulated: what a configuration is applied to. There is no outbox and no uplink;
//! the receipt that proves a configuration is that of a report over the gateway's own control link, and a document with
//! [`BAD`] in it fails the operator's own check.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tidegate::app::Source;
use tidegate::app::choice::{Choice, Kept};
use tidegate::app::keeper::doors::{Doors, Visits};
use tidegate::app::keeper::gateway::{Gateway, Probe};
use tidegate::config::edge::Downlink;
use tidegate::config::{Changes, EdgeConfig, Env, OwnFile};
use tidegate::downlink::commands::{Commands, NotStored, Publisher, Retained, Upstream};
use tidegate::downlink::keeper::{Status, status};
use tidegate::downlink::link::{Link, Meters};
use tidegate::downlink::report::{Lane, NodeReport, Running, What};
use tidegate::downlink::trial::Record;
use tidegate::downlink::trial::slots::Slots;
use tidegate::event::Event;
use tidegate::inference::Inference;
use tidegate::journal;
use tidegate::observe::metrics::Metrics;
use tidegate::sys::clock::Clock;
use tidegate::sys::tasks::Tasks;
use tidegate::uplink::Allowed;
use tokio::signal::unix::{SignalKind, signal};

/// `http.max_batch` of a document that no gateway can keep.
pub const BAD: usize = 666;

/// Every life of a simulated disk has the same name: none is lost.
const INCARNATION: &str = "00ff00ff00ff00ff";

/// How long a gateway may take to stop.
const STOP_MAX: Duration = Duration::from_secs(30);

/// A report that was not taken is sent again after this.
const AGAIN: Duration = Duration::from_millis(500);

/// What has happened to a gateway's configuration. By `http.max_batch`, which tells the documents of a test apart.
#[derive(Debug, Default)]
pub struct Seen {
    tried: Mutex<Vec<(usize, Instant)>>,
    kept: Mutex<Vec<(usize, Instant)>>,
}

impl Seen {
    /// When the document was put on trial first.
    pub fn tried(&self, max_batch: usize) -> Option<Instant> {
        first(&self.tried, max_batch)
    }

    /// When it was committed first, on disk.
    pub fn kept(&self, max_batch: usize) -> Option<Instant> {
        first(&self.kept, max_batch)
    }
}

fn first(all: &Mutex<Vec<(usize, Instant)>>, max_batch: usize) -> Option<Instant> {
    all.lock().unwrap().iter().find(|(of, _)| *of == max_batch).map(|(_, at)| *at)
}

/// Where gateways belong.
#[derive(Clone)]
pub struct Place {
    /// Of the broker.
    pub url: String,
    pub tenant: String,
    /// `[downlink]` without its header line.
    pub downlink: String,
    /// Directories of all gateways.
    pub dir: PathBuf,
    /// Of all of them: each hears only what is for it.
    pub commands: Commands,
}

impl Place {
    pub fn new(url: String, tenant: &str, downlink: String, dir: &Path) -> Self {
        let mut config = EdgeConfig::default();
        config.node.data_dir = dir.join("all");
        let (clock, metrics) = (Clock::system(), Metrics::default());
        let journal = journal::Meters::new(&metrics).of("commands");
        let commands = Commands::open(&config, &clock, &metrics, journal, Arc::new(Nowhere)).unwrap();
        Self { url, tenant: tenant.to_owned(), downlink, dir: dir.to_owned(), commands }
    }
}

/// Answers of devices, of which there are none.
struct Nowhere;

impl Upstream for Nowhere {
    fn store(&self, _: Event) -> BoxFuture<'_, Result<(), NotStored>> {
        async { Ok(()) }.boxed()
    }
}

/// One gateway. Its disk outlives its process.
pub struct Simulated {
    pub name: String,
    pub seen: Arc<Seen>,
    place: Place,
    process: Option<Process>,
}

struct Process {
    tasks: Tasks,
    /// Stopped later: good-bye is said over it.
    link_tasks: Tasks,
    link: Link,
}

impl Simulated {
    /// Installed, and not started yet.
    pub fn new(name: &str, place: &Place) -> Self {
        let this = Self { name: name.to_owned(), seen: Arc::default(), place: place.clone(), process: None };
        let Place { url, tenant, downlink, .. } = place;
        let dir = this.dir();
        std::fs::create_dir_all(&dir).unwrap();
        let toml = format!(
            "[node]\nid = \"{name}\"\ndata_dir = {dir:?}\n[uplink]\npulsar = [\"{url}\"]\ntenant = \"{tenant}\"\n{downlink}"
        );
        std::fs::write(dir.join("edge.toml"), toml).unwrap();
        this
    }

    fn dir(&self) -> PathBuf {
        self.place.dir.join(&self.name)
    }

    /// Starts its process, with what is on its disk.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs", self.name);
        let path = self.dir().join("edge.toml");
        let read = move || OwnFile::load(Some(&path), Env::empty());
        let source = Source { own: read().unwrap(), again: Box::new(read), local_only: false };
        let choice = Choice::make::<Devices>(&source).unwrap();
        let (tasks, link_tasks, clock) = (Tasks::new(), Tasks::new(), Clock::system());
        let metrics = Metrics::default();
        let (link, heard) = Link::start(&link_tasks, clock.clone(), Meters::new(&metrics));
        let live = Devices {
            config: choice.begun.config.clone(),
            pushed: self.dir().join("downlink"),
            link: link.clone(),
            probes: Arc::default(),
            seen: self.seen.clone(),
        };
        let kept = Kept {
            live,
            tasks: tasks.clone(),
            link: (link.clone(), heard),
            status: Status::default(),
            clock,
            commands: self.place.commands.clone(),
            inference: Inference::new(&choice.begun.config, &metrics),
            publisher: Arc::new(NoBroker),
        };
        choice.keep(source, kept, &metrics, signal(SignalKind::hangup()).unwrap()).unwrap();
        self.process = Some(Process { tasks, link_tasks, link });
    }

    /// Ends its process, in order: it says good-bye.
    pub async fn stop(&mut self) {
        let Some(Process { tasks, link_tasks, .. }) = self.process.take() else { return };
        assert!(tasks.stop(STOP_MAX).await && link_tasks.stop(STOP_MAX).await, "{} does not stop", self.name);
    }

    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Of its control link, for a test that failed.
    pub fn link(&self) -> String {
        self.process.as_ref().map_or_else(|| "stopped".to_owned(), |p| format!("{:?}", p.link.status()))
    }

    /// The trial's record, as a start would find it.
    pub fn record(&self) -> Record {
        record(&self.dir().join("downlink"))
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        if let Some(Process { tasks, link_tasks, .. }) = &self.process {
            tasks.stopping().cancel();
            link_tasks.stopping().cancel();
        }
    }
}

fn record(pushed: &Path) -> Record {
    Slots::open(pushed).unwrap().find().unwrap().record.unwrap().unwrap_or_default()
}

/// What a configuration is applied to.
struct Devices {
    config: EdgeConfig,
    pushed: PathBuf,
    link: Link,
    probes: Arc<AtomicU64>,
    seen: Arc<Seen>,
}

impl Gateway for Devices {
    type Marks = ();

    fn check(_: &EdgeConfig) -> Result<(), String> {
        Ok(())
    }

    fn wanted(&self) -> &EdgeConfig {
        &self.config
    }

    fn incarnation(&self) -> &str {
        INCARNATION
    }

    fn waiting(&self) -> Vec<Lane> {
        vec![Lane { name: "telemetry".to_owned(), events: 0, bytes: 0 }]
    }

    async fn apply(&mut self, new: EdgeConfig, _: Allowed) -> Result<Changes, String> {
        let changes = Changes::between(&self.config, &new);
        self.config = new;
        Ok(changes)
    }

    async fn try_out(&mut self, new: EdgeConfig) -> Result<Changes, String> {
        self.seen.tried.lock().unwrap().push((new.http.max_batch, Instant::now()));
        self.apply(new, Allowed::All).await
    }

    async fn deliver(&mut self, _: Allowed) -> Result<(), String> {
        Ok(())
    }

    async fn allow(&mut self, _: Allowed) -> Result<(), String> {
        Ok(())
    }

    async fn keep(&mut self) -> Result<(), String> {
        self.seen.kept.lock().unwrap().push((self.config.http.max_batch, Instant::now()));
        Ok(())
    }

    fn marks(&self, _: Option<&EdgeConfig>) -> Self::Marks {}

    fn doors(&self) -> Doors {
        Doors::new(Visits::default)
    }

    fn probe(&self, (): &(), probe: Probe) -> impl Future<Output = ()> + Send + 'static {
        let (link, pushed, count) = (self.link.clone(), self.pushed.clone(), self.probes.clone());
        let node = self.config.node.clone();
        async move {
            let uptime_s = count.fetch_add(1, Ordering::Relaxed);
            let record = tokio::task::spawn_blocking(move || record(&pushed)).await.unwrap();
            let (committed, trial): (Running, Option<Running>) = status::running(&record);
            let what = What::Present { uptime_s, next_s: 60, lanes: Vec::new(), models: Vec::new() };
            let (node, groups, incarnation) = (node.id, node.groups, INCARNATION.to_owned());
            let software = "simulated".to_owned();
            // The keeper's own reports say what was accepted.
            let report =
                NodeReport { node, incarnation, at_ms: None, software, groups, committed, trial, accepted: None, what };
            while let Err(reason) = link.report(&report).await {
                probe.not_yet(reason.to_string()).await;
                tokio::time::sleep(AGAIN).await;
            }
            probe.acknowledged().await;
        }
    }

    fn health(&self, _: &Downlink) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let is_bad = self.config.http.max_batch == BAD;
        async move { if is_bad { Err("the devices do not answer".to_owned()) } else { Ok(()) } }
    }
}

/// No devices, and so nobody who subscribes.
struct NoBroker;

impl Publisher for NoBroker {
    fn publish(&self, _: Retained) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn retain(&self, _: Retained) -> Result<(), String> {
        Ok(())
    }

    fn clear(&self, _: String) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
