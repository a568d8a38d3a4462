//! The way up: reads each lane from the outbox and delivers it to Pulsar, once and in order.
//!
//! `resume` and `batch` decide (pure); `lane`, `deliver` and `pump` move bytes; `open`, `link` and `wire` speak Pulsar.
//! Architecture Invariant: lanes share nothing but configuration; one lane's trouble never touches another.

mod batch;
mod deliver;
mod error;
mod lane;
mod link;
mod metrics;
mod open;
mod pump;
mod resume;
mod text;
#[doc(hidden)] // tests/uplink_trap.rs builds a producer without the rule from it
pub mod wire;

use crate::config::EdgeConfig;
use crate::observe::metrics::Metrics;
use crate::observe::status::{LinkState, Links};
use crate::outbox;
use crate::pulsar::credentials::Credentials;
use crate::pulsar::names::{self, Stream};
use crate::sys::clock::Clock;
use crate::sys::tasks::Tasks;

pub use deliver::LATE_AFTER;
pub use error::LinkError;

/// Why the uplink cannot start: the configuration is wrong and will stay so.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A service URL.
    #[error("uplink.pulsar: {0}")]
    Url(LinkError),
}

/// Starts one task per lane; with no Pulsar configured, none. They end soon after `tasks.stopping()`.
pub fn start(
    tasks: &Tasks,
    config: &EdgeConfig,
    incarnation: &str,
    readers: Vec<outbox::Reader>,
    links: Links,
    clock: Clock,
    metrics: &Metrics,
) -> Result<(), StartError> {
    let uplink = &config.uplink;
    if uplink.pulsar.is_empty() {
        readers.iter().for_each(|r| links.update(r.lane(), |l| l.state = LinkState::Off));
        return Ok(());
    }
    for url in &uplink.pulsar {
        link::Address::parse(url).map_err(StartError::Url)?;
    }
    let metrics = metrics::UplinkMetrics::register(metrics);
    let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    for reader in readers {
        let name = reader.lane().to_owned();
        let stream = Stream { node: config.node.id.clone(), incarnation: incarnation.to_owned(), lane: name.clone() };
        let lane = lane::Lane {
            urls: uplink.pulsar.clone(),
            topic: names::lane_topic(&uplink.tenant, &name),
            stream: stream.to_string(),
            producer: stream.producer(&uplink.cluster),
            connector: link::Connector {
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
            links: links.clone(),
            clock: clock.clone(),
            metrics: metrics.lane(&name),
            name,
        };
        tasks.spawn("uplink lane", lane::run(lane, reader, tasks.stopping().clone()));
    }
    Ok(())
}
