//! The broker as the journal has it, at a start.

use crate::config::EdgeConfig;
use crate::config::edge::{CONNECTION_BYTES, Durability, SESSION_BYTES, SESSIONS_BYTES};
use crate::ingest::mqtt::broker::{Broker, Limits, Share};
use crate::ingest::mqtt::shelf::Shelf;
use crate::ingest::mqtt::upstream::Upstream;
use crate::journal::{Meters, OpenError, Settings};
use crate::outbox::Recalled;
use crate::sys::clock::Clock;
use crate::sys::random;

use super::Hub;

/// Levels of filters: one for each subscription to a device's topics, and more. Where all are nodes of their own, which those of one
/// site's topics are not, they are 65 MB by default.
pub const LEVELS: Share = Share { own: 12, shared: 65_536 };

/// Directory of the journal in the data directory.
const DIR: &str = "mqtt";

impl Hub {
    /// Opens or makes the journal below `config.node.data_dir`, and restores the broker from it. Blocks on the disk.
    pub fn open(config: &EdgeConfig, clock: &Clock, meters: &Meters) -> Result<Self, OpenError> {
        let settings = Settings {
            durable: config.outbox.durability == Durability::Disk,
            total_bytes_max: config.mqtt.disk_bytes_max(),
            ..Settings::default()
        };
        let mut broker = Broker::new(limits(config), random::bits());
        let dir = config.node.data_dir.join(DIR);
        let shelf = Shelf::open(&dir, settings, meters.of(DIR), clock, |record| broker.restore(record))?;
        Ok(Self::new(broker, shelf))
    }

    /// Finds out which QoS 2 messages of the last run the outbox has, of those that nobody was answered. To be called before
    /// anybody is let in.
    pub fn resolve(&self, upstream: &Upstream, outbox: &Recalled) {
        let is_stored = |client: &str, name| {
            let named = upstream.named(client, name);
            named.is_some_and(|(source, id)| outbox.has(&source, &id))
        };
        self.own(|broker, _| broker.resolve(is_stored));
    }
}

impl Hub {
    /// From here on the limits of `config` that no client was told and that do not size the journal: the number of sessions,
    /// subscriptions and retained messages, what waits in one session, how long sessions live, and what nobody may
    /// subscribe to. What is beyond a smaller limit already stays until it goes.
    pub fn set(&self, config: &EdgeConfig) {
        self.set_limits(limits(config));
    }
}

pub(super) fn limits(config: &EdgeConfig) -> Limits {
    let mqtt = &config.mqtt;
    fn clamp<T: TryFrom<u64>>(n: u64, most: T) -> T {
        T::try_from(n).unwrap_or(most)
    }
    Limits {
        receive_max: mqtt.receive_max,
        max_packet: clamp(mqtt.max_packet, u32::MAX),
        topic_alias_max: mqtt.topic_alias_max,
        keep_alive_max_s: clamp(mqtt.keep_alive_max.as_secs(), u16::MAX),
        session_expiry_max_s: clamp(mqtt.session_expiry_max.as_secs(), u32::MAX),
        max_sessions: mqtt.max_sessions,
        max_subscriptions: mqtt.max_subscriptions,
        max_queued: mqtt.max_queued,
        max_queued_bytes: clamp(mqtt.max_queued_bytes, usize::MAX),
        max_total_bytes: clamp(mqtt.max_total_bytes, usize::MAX),
        guaranteed_bytes: clamp(CONNECTION_BYTES, usize::MAX),
        held_bytes: Share { own: clamp(SESSION_BYTES, usize::MAX), shared: clamp(SESSIONS_BYTES, usize::MAX) },
        held_levels: LEVELS,
        max_retained: mqtt.max_retained,
        max_retained_bytes: clamp(mqtt.max_retained_bytes, usize::MAX),
        deny_subscribe: config.identity.deny_subscribe.clone().into(),
    }
}
