//! What the broker knows of one client: its session, and the connection that it has or not. [pure]

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::inbound::Inbound;
use super::outgoing::{self, Delivery, Outgoing, Queue};
use super::pot::Booked;
use super::pull::Pull;
use super::record::{Message, Millis, SessionId, SessionState};
use super::{ConnectionId, Rules};
use crate::ingest::mqtt::packet::{FilterOptions, QoS, RetainHandling, Version};

/// Where a session is in the broker's table; used again after its end.
pub(super) type Slot = u32;

/// Never expires (MQTT 5.0 §3.1.2.11.2).
pub(super) const NEVER: u32 = u32::MAX;

/// The options of one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
    pub id: Option<NonZeroU32>,
}

impl Options {
    pub fn new(filter: &FilterOptions, id: Option<u32>) -> Self {
        Self {
            qos: filter.qos,
            no_local: filter.no_local,
            retain_as_published: filter.retain_as_published,
            retain_handling: filter.retain_handling,
            id: id.and_then(NonZeroU32::new),
        }
    }

    fn with_filter(self, filter: &str) -> (FilterOptions, Option<u32>) {
        let options = FilterOptions {
            filter: filter.to_owned(),
            qos: self.qos,
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            retain_handling: self.retain_handling,
        };
        (options, self.id.map(NonZeroU32::get))
    }
}

/// A will that waits for the end of its connection, or for its delay after that.
#[derive(Debug)]
pub(super) struct Will {
    pub message: Arc<Message>,
    pub delay_s: u32,
    /// `None`: the connection lasts.
    pub due_at: Option<Millis>,
    /// What the message costs.
    pub bytes: usize,
}

impl Will {
    pub fn new(message: Arc<Message>, delay_s: u32, due_at: Option<Millis>) -> Box<Self> {
        let bytes = outgoing::bytes(&message);
        Box::new(Self { message, delay_s, due_at, bytes })
    }
}

#[derive(Debug)]
pub(super) struct Session {
    pub id: SessionId,
    pub client_id: Arc<str>,
    pub owner: Arc<str>,
    /// Its client is another broker's bridge, as it said at its last CONNECT since the start.
    pub bridge: bool,
    /// Outlives its connection, and so makes records.
    pub persistent: bool,
    pub expiry_s: u32,
    pub expires_at: Option<Millis>,
    /// `None`: it has a connection. Set by [`Broker::set_absent`](super::Broker) only.
    pub absent_since: Option<Millis>,
    /// Sorted by filter, as sent.
    pub subscriptions: Vec<(Box<str>, Options)>,
    pub subscription_bytes: usize,
    /// Levels of all filters.
    pub subscription_levels: usize,
    /// Retained messages that it has still to get.
    pub pulls: VecDeque<Pull>,
    pub inbound: Inbound,
    pub outgoing: Outgoing,
    pub will: Option<Box<Will>>,
    pub connection: Option<Box<Connection>>,
    /// When it last had its turn in a shared subscription, counted in turns.
    pub shared_turn: u64,
    /// What of it is in the sums; see [`Broker::book`](super::Broker).
    pub booked: Booked,
    /// Messages that were dropped for others since `evicted_told`.
    pub evicted: u64,
    /// When that was said last.
    pub evicted_told: Option<Millis>,
}

/// What lasts as long as a connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub id: ConnectionId,
    pub version: Version,
    pub rules: Arc<dyn Rules>,
    /// Asked for at CONNECT: DISCONNECT may not raise it from 0 (MQTT 5.0 §3.14.2.2.2).
    pub asked_expiry_s: u32,
    /// How many more QoS 1 and 2 messages the client may send (MQTT 5.0 §4.9).
    pub quota: u16,
    /// Most QoS 1 and 2 messages under way to the client.
    pub window: usize,
    pub max_packet: usize,
    pub aliases_in: Vec<Option<Arc<str>>>,
    /// What they cost.
    pub alias_bytes: usize,
    /// In order of assignment: the first has alias 1.
    pub aliases_out: Vec<Arc<str>>,
    pub aliases_out_max: u16,
    /// More may be assigned now.
    pub alias_room: bool,
    /// QoS 0 waits only for the socket.
    pub unreliable: Queue,
    /// The shell was told that there is something to take, and has not yet found nothing.
    pub awake: bool,
    /// The shell was told to close it: nothing more is taken from it or given to it.
    pub closing: bool,
}

impl Connection {
    /// The alias of a topic that has one.
    pub fn alias(&self, topic: &str) -> Option<NonZeroU16> {
        let at = self.aliases_out.iter().position(|t| **t == *topic)?;
        u16::try_from(at + 1).ok().and_then(NonZeroU16::new)
    }
}

impl Session {
    pub fn connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Everything that is kept on disk but the queue.
    pub fn state(&self) -> SessionState {
        SessionState {
            session: self.id,
            client_id: self.client_id.to_string(),
            owner: self.owner.to_string(),
            expires_at: self.expires_at,
            expiry_s: self.expiry_s,
            subscriptions: self.subscriptions.iter().map(|(filter, options)| options.with_filter(filter)).collect(),
            intents: self.inbound.intents().collect(),
            received: self.inbound.received().collect(),
            queue: Vec::new(),
            queue_continues: false,
            will: self.will.as_ref().map(|will| (will.message.clone(), will.delay_s, will.due_at)),
        }
    }

    /// QoS 1 and 2 messages in the order in which they go out.
    pub fn waiting(&self) -> impl Iterator<Item = &Delivery> {
        self.outgoing.in_flight.iter().chain(&self.outgoing.queue)
    }
}
