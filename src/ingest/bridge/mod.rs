//! Bridges: an existing MQTT broker whose messages are taken like those of our own clients.
//!
//! ```text
//! other broker ─► connection (codec) ─► run ─► store ─► outbox (fdatasync)
//!       ▲                               │ window [pure]: new or again, whose acknowledgement is next
//!       └──── PUBACK, PUBREC ───────────┴──── done ◄──┘
//! ```
//! The session at the other broker is persistent and a message is acknowledged to it only when it is on disk here. So it
//! is at least once: after a kill -9 or a lost acknowledgement what had been stored may come again, as many messages as
//! that broker had sent without having seen their acknowledgement. While this process lives, messages that were never
//! acknowledged, and all of QoS 2, are recognised when they come again. QoS 0 is best effort.
//!
//! mosquitto 2.0.11, seen in its log: for each PUBACK and PUBREC it sends 20 more (`max_inflight_messages`), whatever is
//! still unacknowledged, also beyond the receive maximum of 5.0; and after a restart in order it sends QoS 2 messages
//! again although it had PUBREC for them, all but the first 20. So under load thousands may come twice after a kill.
//!
//! While nothing can be stored, nothing is acknowledged and, beyond `in_flight`, nothing read: the other broker keeps
//! what is published as far as its own limits allow (mosquitto drops beyond `max_queued_messages`, 1000 unless set).

mod codec;
mod connection;
mod echo;
mod error;
mod options;
mod run;
mod status;
mod store;
mod subscriptions;
mod window;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc;

use crate::config::EdgeConfig;
use crate::config::edge::Bridge;
use crate::ingest::mqtt::local::Local;
use crate::ingest::mqtt::upstream::Upstream;
use crate::observe::metrics::Metrics;
use crate::sys::clock::Clock;
use crate::sys::tasks::Tasks;

pub use error::BridgeError;
use status::BridgeMetrics;
pub use status::{BridgeStatus, Bridges};

/// Directory of the bridges' notes in the data directory.
const DIR: &str = "bridges";

/// A bridge that is told to stop waits so long at most for what it has taken to be stored.
const STOP_MAX: Duration = Duration::from_secs(8);

/// The bridges that run. They end soon after the `tasks` given to [`Bridging::set`] stop, when what was taken is stored and
/// acknowledged, or cannot be.
pub struct Bridging {
    upstream: Upstream,
    local: Local,
    clock: Clock,
    metrics: BridgeMetrics,
    reports: Bridges,
    running: Vec<(Bridge, Tasks)>,
}

impl Bridging {
    /// Nothing runs yet. `local` serves the bridges with `local = true`.
    pub fn new(upstream: Upstream, local: Local, clock: Clock, metrics: &Metrics) -> Self {
        let metrics = BridgeMetrics::register(metrics);
        Self { upstream, local, clock, metrics, reports: Bridges::default(), running: Vec::new() }
    }

    /// For the status page.
    pub fn reports(&self) -> Bridges {
        self.reports.clone()
    }

    /// Runs the bridges of `config`: those that are not in it any more, or have changed, are stopped first; the others are not
    /// disturbed. To be called again once dropped half-way.
    pub async fn set(&mut self, tasks: &Tasks, config: &EdgeConfig) {
        let (keep, stop): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.running).into_iter().partition(|(bridge, _)| config.bridges.contains(bridge));
        self.running = keep;
        let ended = join_all(stop.iter().map(|(_, tasks)| tasks.stop(STOP_MAX))).await;
        for ((bridge, _), ended) in stop.iter().zip(ended) {
            if !ended {
                tracing::warn!(bridge = bridge.name, "did not end within {STOP_MAX:?}; it acknowledges nothing more");
            }
            self.reports.remove(&bridge.name);
        }
        for bridge in &config.bridges {
            if !self.running.iter().any(|(running, _)| running == bridge) {
                let part = tasks.part();
                self.start(&part, bridge, config);
                self.running.push((bridge.clone(), part));
            }
        }
    }

    fn start(&self, tasks: &Tasks, bridge: &Bridge, config: &EdgeConfig) {
        let report = status::Report::new(&bridge.name, self.reports.clone(), self.clock.clone(), &self.metrics);
        // Both ways are bounded by what may be unstored: see `run`.
        let room = usize::from(bridge.in_flight);
        let (jobs, queue) = mpsc::channel(room);
        let (done, stored) = mpsc::channel(room);
        let store = store::Store {
            upstream: self.upstream.clone(),
            origin: self.upstream.origin("", &bridge.name),
            local: bridge.local.then(|| self.local.clone()),
            node: config.node.id.clone(),
            report: report.clone(),
            jobs: queue,
            done,
            stopping: tasks.stopping().clone(),
        };
        tasks.spawn("bridge store", store.run());
        tasks.spawn("bridge", run::run(setup(bridge, config, report, tasks), jobs, stored));
    }
}

fn setup(bridge: &Bridge, config: &EdgeConfig, report: status::Report, tasks: &Tasks) -> run::Setup {
    let node = &config.node.id;
    let client_id = options::client_id(bridge, node);
    let dir = config.node.data_dir.join(DIR);
    run::Setup {
        note: Arc::new(subscriptions::Note::new(&dir, &bridge.name, &client_id, &bridge.url, bridge.qos)),
        bridge: Arc::new(bridge.clone()),
        node: node.clone(),
        report,
        stopping: tasks.stopping().clone(),
    }
}
