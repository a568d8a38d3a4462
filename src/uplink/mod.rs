//! The way up: reads each lane from the outbox and delivers it to Pulsar, once and in order.
//!
//! `resume` and `batch` decide (pure); `lane`, `deliver` and `pump` move bytes; `open` and `wire` speak Pulsar, over `pulsar::wire`.
//! Architecture Invariant: lanes share nothing but configuration; one lane's trouble never touches another.

mod allowed;
mod batch;
mod deliver;
mod error;
mod lane;
mod metrics;
mod open;
mod pump;
mod resume;
mod text;
#[doc(hidden)] // tests/uplink_trap.rs builds a producer without the rule from it
pub mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;

use crate::config::{EdgeConfig, edge};
use crate::observe::metrics::Metrics;
use crate::observe::status::{LinkState, Links};
use crate::outbox::Outbox;
use crate::pulsar::credentials::Credentials;
use crate::pulsar::names::{self, Stream};
use crate::pulsar::wire::{Address, Connector, LinkError};
use crate::sys::clock::Clock;
use crate::sys::tasks::Tasks;

pub use allowed::Allowed;
pub use deliver::LATE_AFTER;
pub use error::LaneError;
pub use metrics::Acknowledged;

/// A link that is told to stop does so at once, unless it waits for the disk.
const STOP_MAX: Duration = Duration::from_secs(8);

/// Why the uplink cannot start: the configuration is wrong and will stay so.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A service URL.
    #[error("uplink.pulsar: {0}")]
    Url(LinkError),
}

/// The links of all lanes. What it runs ends soon after the `tasks` given to [`Uplink::set`] stop.
pub struct Uplink {
    links: Links,
    clock: Clock,
    metrics: metrics::UplinkMetrics,
    running: BTreeMap<String, Tasks>,
    config: Option<edge::Uplink>,
    /// Of its addresses.
    allowed: watch::Sender<Allowed>,
}

impl Uplink {
    /// Nothing runs yet.
    pub fn new(links: Links, clock: Clock, metrics: &Metrics) -> Self {
        let metrics = metrics::UplinkMetrics::register(metrics);
        Self { links, clock, metrics, running: BTreeMap::new(), config: None, allowed: watch::Sender::default() }
    }

    /// Whether `config` can be set.
    pub fn check(config: &edge::Uplink) -> Result<(), StartError> {
        config.pulsar.iter().try_for_each(|url| Address::parse(url).map(drop)).map_err(StartError::Url)
    }

    /// Runs one task per open lane of `outbox`, also for lanes that are configured no more and have events to deliver; with no
    /// Pulsar configured, none. They send to `allowed` addresses alone. If `[uplink]` has changed, or an address is not
    /// allowed any more, the running ones are stopped first: they wait for no receipts, what is not confirmed is sent again.
    /// To be called again once dropped half-way.
    pub async fn set(
        &mut self,
        tasks: &Tasks,
        config: &EdgeConfig,
        allowed: Allowed,
        outbox: &Outbox,
    ) -> Result<(), StartError> {
        Self::check(&config.uplink)?;
        let fewer = !allowed.covers(&self.allowed.borrow());
        if fewer || self.config.as_ref() != Some(&config.uplink) {
            let ended = join_all(self.running.values().map(|lane| lane.stop(STOP_MAX))).await;
            if ended.contains(&false) {
                tracing::warn!("a link did not end within {STOP_MAX:?}; it will not send any more");
            }
            self.running.clear();
            self.config = Some(config.uplink.clone());
            // Whoever has not ended gets no other address.
            self.allowed = watch::Sender::new(allowed);
        } else {
            self.allowed.send_replace(allowed);
        }
        for reader in outbox.readers() {
            let name = reader.lane().to_owned();
            if config.uplink.pulsar.is_empty() {
                self.links.update(&name, |l| l.state = LinkState::Off);
            } else if !self.running.contains_key(&name) {
                let part = tasks.part();
                let lane = self.lane(config, &name, outbox.incarnation());
                part.spawn("uplink lane", lane::run(lane, reader, part.stopping().clone()));
                self.running.insert(name, part);
            }
        }
        Ok(())
    }

    /// What its links say of themselves.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// What Pulsar has acknowledged of a lane's events, also in times to come.
    pub fn acknowledged(&self, lane: &str) -> Acknowledged {
        self.metrics.lane(lane).acknowledged()
    }

    fn lane(&self, config: &EdgeConfig, name: &str, incarnation: &str) -> lane::Lane {
        let uplink = &config.uplink;
        let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let stream =
            Stream { node: config.node.id.clone(), incarnation: incarnation.to_owned(), lane: name.to_owned() };
        lane::Lane {
            urls: uplink.pulsar.clone(),
            allowed: self.allowed.subscribe(),
            topic: names::lane_topic(&uplink.tenant, name),
            stream: stream.to_string(),
            producer: stream.producer(&uplink.cluster),
            connector: Connector {
                credentials: Credentials::from(uplink),
                ca_file: uplink.ca_file.clone(),
                connect_timeout: uplink.connect_timeout,
            },
            limits: batch::Limits {
                batch_events: uplink.batch_events.max(1),
                batch_bytes: bytes(uplink.batch_bytes),
                window: bytes(uplink.window),
            },
            batch_bytes: uplink.batch_bytes,
            compression: uplink.compression,
            receipt_timeout: uplink.receipt_timeout,
            retry_max: uplink.retry_max,
            links: self.links.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.lane(name),
            name: name.to_owned(),
        }
    }
}
