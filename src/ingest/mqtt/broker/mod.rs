//! The broker: sessions, subscriptions, retained messages, queues and wills of all clients, as one state machine. [pure]
//!
//! A method takes an input and the time, changes the state, and says in a [`Reaction`] what the shell must do:
//! put records on disk, answer once they are there, wake other connections, close some. It never waits.

pub mod record;

use std::sync::Arc;

use record::{Message, Millis, Record};

use super::packet::{Packet, PacketId, Reason};

/// One connection, for as long as it lasts. Never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What a client may do; decided by its identity.
pub trait Rules: Send + Sync + std::fmt::Debug {
    /// Whether it may publish to this topic name.
    fn may_publish(&self, topic: &str) -> bool;
    /// Whether it may subscribe to this filter (without `$share/group/`): everything that the filter can match must be allowed.
    fn may_subscribe(&self, filter: &str) -> bool;
}

/// Who stands behind a connection.
#[derive(Clone, Debug)]
pub struct Who {
    /// Name of the identity; empty: anonymous. A session belongs to one identity; another one may not take it over.
    pub owner: Arc<str>,
    /// What it may do.
    pub rules: Arc<dyn Rules>,
}

/// Bounds, from `[mqtt]`.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // the keys of `[mqtt]`, documented there
pub struct Limits {
    pub receive_max: u16,
    pub max_packet: u32,
    pub topic_alias_max: u16,
    pub keep_alive_max_s: u16,
    pub session_expiry_max_s: u32,
    pub max_sessions: usize,
    pub max_subscriptions: usize,
    pub max_queued: usize,
    pub max_queued_bytes: usize,
    pub max_total_bytes: usize,
    pub max_retained: usize,
    pub max_retained_bytes: usize,
}

/// What the shell must do, in this order: append `records` to the journal; send `replies` on this connection once the
/// records are on disk (at once if there are none); wake; kick; close.
#[derive(Debug, Default)]
pub struct Reaction {
    /// To be put on disk.
    pub records: Vec<Record>,
    /// To this connection, in order.
    pub replies: Vec<Packet>,
    /// Connections that have something to take now ([`Broker::take`]).
    pub wake: Vec<ConnectionId>,
    /// Other connections that must end, each with the reason that it is told (5.0).
    pub kick: Vec<(ConnectionId, Reason)>,
    /// Messages that the broker itself publishes (wills): they go upstream like any other where the mapping says so.
    pub published: Vec<Arc<Message>>,
    /// This connection must end after the replies: with DISCONNECT and this reason in 5.0, silently in 3.1.1.
    pub close: Option<(Reason, &'static str)>,
}

/// What became of a PUBLISH.
#[derive(Debug)]
pub enum Published {
    /// Map it, store it upstream where the mapping says so, then call [`Broker::stored`] (QoS 1 and 2; also when it stays local).
    /// QoS 0 and 1 have been handed to local subscribers already, QoS 2 will be by `stored`.
    New {
        /// The message, topic alias resolved.
        message: Arc<Message>,
        /// QoS 2 with a session that outlives the connection: the event's id, equal if the packet comes again after a crash
        /// before it was stored. The intent must be written (not synced) before the outbox is asked.
        name: Option<EventName>,
    },
    /// The answer is in the reaction: a QoS 2 packet that was stored before, or a refusal.
    Answered,
    /// A QoS 2 packet that is being stored right now was sent again: the answer to the first serves both.
    Pending,
}

/// Session and number: unique for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventName {
    /// The session.
    pub session: record::SessionId,
    /// The number.
    pub number: u64,
}

// Broker: to be written in this module's other files. Its interface:
//
// impl Broker {
//     pub fn new(limits: Limits, first_session: SessionId /* random start, so that ids never repeat */) -> Self;
//     pub fn restore(&mut self, record: Record);              // at start, in order, before any connection; then:
//     pub fn restored(&mut self, now: Millis) -> Reaction;     // wills of connections that the crash ended, expiry
//     pub fn connect(&mut self, now, ConnectionId, Connect, Who) -> Reaction;     // CONNACK in replies; close on refusal; kick on take-over
//     pub fn publish(&mut self, now, ConnectionId, Publish) -> (Published, Reaction);
//     pub fn stored(&mut self, now, ConnectionId, &[(PacketId, Result<(), Reason>)]) -> Reaction;   // PUBACK/PUBREC in replies, in the order of arrival (MQTT-4.6.0-2)
//     pub fn packet(&mut self, now, ConnectionId, Packet) -> Reaction;            // every other packet
//     pub fn take(&mut self, now, ConnectionId, max_bytes: usize) -> Reaction;    // PUBLISH (and PUBREL of resumed sessions) to send; empty: nothing now
//     pub fn closed(&mut self, now, ConnectionId, graceful: bool) -> Reaction;    // the connection is gone, whatever the cause
//     pub fn tick(&mut self, now) -> Reaction;                 // expiry of sessions, messages, delayed wills; call at next_deadline
//     pub fn next_deadline(&self) -> Option<Millis>;
//     pub fn publish_own(&mut self, now, Message, keep: bool) -> Reaction;   // $SYS (keep = false: retained in memory only), HTTP events, commands
//     pub fn tidy(&mut self, now, position: TidyCursor, max_bytes: usize) -> (Vec<Record>, Option<TidyCursor>);  // everything alive again, in pieces
//     pub fn counts(&self) -> Counts;                          // for $SYS and metrics
// }

// Used by the shell; kept here so that both sides agree.
#[allow(dead_code)]
type Stored = (PacketId, Result<(), Reason>);
#[allow(dead_code)]
type Clock = Millis;
