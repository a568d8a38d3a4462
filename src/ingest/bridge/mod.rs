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
mod error;
mod options;
mod run;
mod status;
mod store;
mod subscriptions;
mod window;

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::config::EdgeConfig;
use crate::config::edge::Bridge;
use crate::ingest::mqtt::local::Local;
use crate::ingest::mqtt::upstream::Upstream;
use crate::observe::metrics::Metrics;
use crate::sys::clock::Clock;
use crate::sys::tasks::Tasks;

pub use error::BridgeError;
pub use status::{BridgeStatus, Bridges};

/// Directory of the bridges' notes in the data directory.
const DIR: &str = "bridges";

/// Starts a task for each bridge of `config`. They end soon after `tasks.stopping()`, when what was taken is stored and
/// acknowledged, or cannot be. `local` serves the bridges with `local = true`.
pub fn start(
    tasks: &Tasks,
    config: &EdgeConfig,
    upstream: &Upstream,
    local: &Local,
    clock: &Clock,
    metrics: &Metrics,
) -> Bridges {
    let bridges = Bridges::default();
    if config.bridges.is_empty() {
        return bridges;
    }
    let metrics = status::BridgeMetrics::register(metrics);
    for bridge in &config.bridges {
        let report = status::Report::new(&bridge.name, bridges.clone(), clock.clone(), &metrics);
        // Both ways are bounded by what may be unstored: see `run`.
        let room = usize::from(bridge.in_flight);
        let (jobs, queue) = mpsc::channel(room);
        let (done, stored) = mpsc::channel(room);
        let store = store::Store {
            upstream: upstream.clone(),
            origin: upstream.origin("", &bridge.name),
            local: bridge.local.then(|| local.clone()),
            report: report.clone(),
            jobs: queue,
            done,
            stopping: tasks.stopping().clone(),
        };
        tasks.spawn("bridge store", store.run());
        tasks.spawn("bridge", run::run(setup(bridge, config, report, tasks), jobs, stored));
    }
    bridges
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
