//! The MQTT way in, and the site's own messaging: 3.1.1 and 5.0 over TCP, TLS and WebSocket.
//!
//! ```text
//! bytes ─► packet (decode, strict) ─► connection ─┬─► broker [pure]: sessions, subscriptions, retained, wills
//!                                                 │      └─► records ─► journal (fdatasync) ─► answers
//!                                                 └─► mapping ─► outbox (fdatasync) ─► PUBACK, PUBREC
//! ```
//! The broker decides and never waits; the connection moves bytes and holds each answer back until everything
//! it promises is on disk.

pub mod broker;
mod connection;
pub mod hub;
pub mod listener;
pub mod local;
pub mod metrics;
pub mod packet;
pub mod shelf;
mod signal;
pub mod store;
pub mod sys_topics;
pub mod topic;
pub mod transport;
pub mod upstream;
mod websocket;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config::{EdgeConfig, edge};
use crate::downlink::commands::Commands;
use crate::ingest::http::budget::Budget;
use crate::ingest::identity::Gate;
use crate::observe::metrics::Metrics;
use crate::observe::status::Links;
use crate::outbox::Outbox;
use crate::security::server::ServerTls;
use crate::sys::tasks::Tasks;

pub use hub::Hub;
pub use listener::Listener;

/// Bytes of messages on their way to the disk, over all connections.
pub const STORING_BYTES_MAX: u64 = 32 << 20;

/// Bytes of large packets that are still coming, over all connections. Not of the same budget: clients that send half of a packet
/// and wait would keep the messages of all others from the disk.
pub const COMING_BYTES_MAX: u64 = 32 << 20;

/// Bytes that wait for clients' sockets, over all connections, beyond the little that each may have. Not of the same budget either:
/// clients that do not read would keep others from sending.
pub const GOING_BYTES_MAX: u64 = 32 << 20;

/// What a connection costs at most besides what is counted: itself (an idle one is measured at less than 11 KiB), the beginning of a
/// small packet, packets that wait for their turn, and what may wait for each socket.
const CONNECTION_COSTS: u64 = (11 << 10) + 2 * (4 << 10) + (8 << 10);

/// What a session costs besides what is counted, and each level of a filter that is a node of its own (measured: 212 and its name).
const SESSION_COSTS: u64 = 512;
const LEVEL_COSTS: u64 = 216;

/// Most bytes of memory that clients can make the MQTT way in take, about: everything that is counted, and what is not for each
/// connection and session that there may be. Messages on their way to the disk and to sockets are there twice for a while.
/// Not in it: what TLS keeps for each connection, some 80 KiB at most, and what the kernel keeps for sockets.
pub fn memory_bytes_max(mqtt: &edge::Mqtt) -> u64 {
    let (connections, sessions) = (mqtt.max_connections as u64, mqtt.max_sessions as u64);
    let levels = hub::LEVELS.shared as u64 + hub::LEVELS.own as u64 * sessions;
    let each = CONNECTION_COSTS * connections + SESSION_COSTS * sessions + LEVEL_COSTS * levels;
    let on_their_way = 2 * STORING_BYTES_MAX + COMING_BYTES_MAX + 2 * GOING_BYTES_MAX + hub::PUBLISHED_BYTES_MAX;
    mqtt.alive_bytes_max().saturating_add(each).saturating_add(on_their_way)
}

/// What all connections share.
pub struct Shared {
    /// The broker.
    pub hub: Hub,
    /// The way into the outbox.
    pub upstream: upstream::Upstream,
    /// Whose answers come by MQTT too.
    pub commands: Commands,
    /// Who may come in.
    pub gate: Gate,
    /// The certificate, where one is configured.
    pub tls: Option<ServerTls>,
    /// `[mqtt]`
    pub mqtt: edge::Mqtt,
    /// What is counted.
    pub counters: metrics::Counters,
    /// See [`STORING_BYTES_MAX`].
    pub storing: Budget,
    /// See [`COMING_BYTES_MAX`].
    pub coming: Budget,
    /// See [`GOING_BYTES_MAX`].
    pub going: Budget,
    /// The gateway goes down.
    pub stopping: CancellationToken,
}

/// What the MQTT way in needs to know of its gateway.
pub struct Surroundings<'a> {
    /// The whole of it: node, lanes, mappings, `[mqtt]`.
    pub config: &'a EdgeConfig,
    /// The broker.
    pub hub: Hub,
    /// The way into the outbox.
    pub upstream: upstream::Upstream,
    /// For devices' answers.
    pub commands: Commands,
    /// For `$SYS`; events go through `upstream`.
    pub outbox: Outbox,
    /// For `$SYS`.
    pub links: Links,
    /// Who may come in.
    pub gate: Gate,
    /// The certificate, where one is configured.
    pub tls: Option<ServerTls>,
}

impl Shared {
    /// Also starts what the hub does by itself.
    fn new(around: Surroundings<'_>, tasks: &Tasks, metrics: &Metrics) -> Arc<Self> {
        let Surroundings { config, hub, upstream, commands, outbox, links, gate, tls } = around;
        hub.resolve(&upstream, &outbox.recalled());
        let counters = metrics::Counters::new(metrics);
        let work = hub::Work {
            upstream: upstream.clone(),
            counters: counters.clone(),
            outbox,
            links,
            sys_interval: config.mqtt.sys_interval,
        };
        hub.start(tasks, work);
        metrics.register(|r| r.register_collector(Box::new(hub::Collector::new(hub.clone()))));
        Arc::new(Self {
            hub,
            upstream,
            commands,
            gate,
            tls,
            mqtt: config.mqtt.clone(),
            storing: Budget::new(STORING_BYTES_MAX, counters.memory()),
            coming: Budget::new(COMING_BYTES_MAX, counters.memory()),
            going: Budget::new(GOING_BYTES_MAX, counters.memory()),
            counters,
            stopping: tasks.stopping().clone(),
        })
    }

    fn max_packet(&self) -> u32 {
        u32::try_from(self.mqtt.max_packet).unwrap_or(u32::MAX)
    }
}
