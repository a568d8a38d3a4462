//! The broker: sessions, subscriptions, retained messages, queues and wills of all clients, as one state machine. [pure]
//!
//! A method takes an input and the time, changes the state, and says in a [`Reaction`] what the shell must do:
//! put records on disk, answer once they are there, wake other connections, close some. It never waits.

mod connect;
mod counts;
mod end;
mod ended;
mod handed;
mod held;
mod inbound;
mod outgoing;
mod owners;
mod packets;
mod pot;
mod publish;
mod pull;
pub mod record;
mod restore;
mod retained;
mod route;
mod session;
mod share;
mod subscribe;
mod table;
mod take;
mod tidy;
mod will;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub use counts::Counts;
use ended::Ended;
use handed::Handed;
pub use held::Share;
use owners::Owners;
use pot::Pot;
use record::{Message, MessageId, Millis, Record, SessionId};
use retained::Kept;
use route::Target;
use session::{Options, Session, Slot};
use table::Table;
pub use tidy::TidyCursor;

use super::packet::{Packet, PacketId, Reason};
use super::topic::retained::Retained;
use super::topic::subscriptions::Subscriptions;

/// Most QoS 1 and 2 messages under way to one client, also where it takes more (MQTT 5.0 §4.9; 3.1.1 clients cannot
/// say). Small, because all of them are sent again after a lost connection and are looked through at each answer; at
/// 50 ms to and fro still 2,000 messages a second to each client.
pub const WINDOW_MAX: u16 = 100;

/// Most QoS 0 messages that wait for one client's socket; then the oldest go. A second of a busy topic.
pub const UNRELIABLE_QUEUED_MAX: usize = 1_000;

/// Most bytes of a client id: 3.1.1 §3.1.3.1 asks for 23 at least; ids are in records, logs and maps.
pub const CLIENT_ID_BYTES_MAX: usize = 256;

/// Most topics with an alias towards one client: they are searched one by one.
pub const ALIASES_OUT_MAX: u16 = 32;

/// Most bytes of a topic that gets an alias, in either direction, or a retained message: such a topic stays in memory without a
/// message that is counted. What goes upstream has no longer ones (`event::topic`).
pub const KEPT_TOPIC_BYTES_MAX: usize = 1 << 10;

/// Most bytes of a will, all of it: as many as a payload of 3.1.1 can have.
pub const WILL_BYTES_MAX: usize = 64 << 10;

/// Most QoS 2 messages of one session that are not released, for each that may be under way. A client that releases what it sends
/// has no more than those; what it lost with its state is forgotten by it and kept here for the session's time.
pub const UNRELEASED_FACTOR: usize = 10;

/// Most bytes of all filters of one session: they are in one record.
pub const SUBSCRIPTION_BYTES_MAX: usize = 256 * 1024;

/// A time that the gateway was off for which is longer than this does not end sessions: a clock that lost its battery may say
/// any year, and would end all of them with everything that waits for them. If it was so long, sessions last that much
/// longer, which harms nobody. Messages do expire by it: to deliver one after its time is worse than to lose it [MQTT-3.3.2-5].
pub const AWAY_DOUBTED_MS: Millis = 31 * 86_400_000;

/// One connection, for as long as it lasts. Never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What a client may do; decided by its identity.
pub trait Rules: Send + Sync + std::fmt::Debug {
    /// Whether it may publish to this topic name.
    fn may_publish(&self, topic: &str) -> bool;
    /// Whether it may subscribe to this filter (without `$share/group/`): everything that the filter can match must be
    /// allowed, but for [`Limits::deny_subscribe`], which the broker leaves out.
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
    /// What a session with a connection may have waiting beyond `max_total_bytes`.
    pub guaranteed_bytes: usize,
    /// What sessions may hold besides messages, in bytes.
    pub held_bytes: Share,
    /// The levels of all their filters.
    pub held_levels: Share,
    pub max_retained: usize,
    pub max_retained_bytes: usize,
    /// `identity.deny_subscribe`: what no filter gets.
    pub deny_subscribe: Arc<[String]>,
}

/// Where a message that is handed to subscribers comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client: who asked for "no local" does not get his own.
    Client(u32),
    /// The gateway itself, or HTTP.
    Gateway,
    /// Another broker: its bridges to us do not get it, for it would come back.
    Bridge,
}

/// What the shell must do, in this order: append `records` to the journal; send `replies` on this connection once the
/// records are on disk (at once if there are none); wake; kick; close.
///
/// Two things are up to the shell: records are appended in the order in which the broker gave them out, over all
/// connections; and the replies of one connection leave in the order of its reactions, also where a later one has no
/// records to wait for.
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
    /// Wills: they go upstream like any other message where the mapping says so.
    pub published: Vec<LastWill>,
    /// What this connection was refused because it may not: for the log of refusals.
    pub denied: Vec<Denied>,
    /// For the log.
    pub notices: Vec<Notice>,
    /// What the next message for this connection costs, which was not taken because of that.
    pub needs: Option<usize>,
    /// Something waits for this connection that has to wait until others have less: it is to be asked again after a while.
    pub later: bool,
    /// Words for answers that refuse.
    pub words: Vec<(PacketId, &'static str)>,
    /// This connection must end after the replies: with DISCONNECT and this reason in 5.0, silently in 3.1.1 and after
    /// a CONNACK that refuses [MQTT-3.14.0-1]. [`Broker::closed`] follows as ever.
    pub close: Option<(Reason, &'static str)>,
}

/// What an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// There was no room for all that waits: so many messages of this client, who had the most, were dropped since the last
    /// notice of this kind.
    Evicted {
        /// Whose.
        client_id: Arc<str>,
        /// How many.
        messages: u64,
    },
    /// There is no room for what a client wants to have kept besides messages that wait.
    NoRoom {
        /// What of it.
        what: &'static str,
        /// Whose.
        client_id: Arc<str>,
    },
    /// There were as many sessions as may be: for a new one that of this client was ended, which was away for the longest
    /// time and whose owner has the most.
    SessionEnded {
        /// Whose.
        client_id: Arc<str>,
        /// The identity; empty: anonymous.
        owner: Arc<str>,
        /// How many were ended for that reason since the last notice of this kind.
        sessions: u64,
    },
    /// What waits for absent clients and beyond what each connection is guaranteed is about as much as may be.
    NearlyFull {
        /// That much waits.
        bytes: usize,
        /// That much may: `mqtt.max_total_bytes`.
        bytes_max: usize,
    },
}

/// A will that was published, and whose it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastWill {
    /// What it says.
    pub message: Arc<Message>,
    /// The client's id.
    pub client_id: Arc<str>,
    /// The client's identity; empty: anonymous.
    pub owner: Arc<str>,
    /// What the message costs in memory.
    pub bytes: usize,
}

/// What somebody may not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Publish to this topic, also as a will.
    Publish(Arc<str>),
    /// Subscribe to this filter, or keep a subscription.
    Subscribe(String),
    /// Take over the session of this client id, which is another identity's.
    Session(String),
}

/// What became of a PUBLISH.
#[derive(Debug)]
pub enum Published {
    /// Map it, store it upstream where the mapping says so, wait for the reaction's records, then call
    /// [`Broker::stored`] (QoS 1 and 2; also when it stays local).
    /// QoS 0 and 1 have been handed to local subscribers already, QoS 2 will be by `stored`.
    New {
        /// The message, topic alias resolved.
        message: Arc<Message>,
        /// QoS 2 with a session that outlives the connection: the event's id, equal if the packet comes again after a crash
        /// before it was stored. The intent must be written (not synced) before the outbox is asked.
        name: Option<EventName>,
    },
    /// Nothing to store: a QoS 2 packet that was stored before, or a refusal. The answer is in the reaction, or comes
    /// after those that are due before it.
    Answered,
    /// A QoS 2 packet that is being stored right now was sent again: the answer to the first serves both.
    Pending,
}

/// Why a message is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unstored {
    /// For a client that can be told.
    pub reason: Reason,
    /// The message itself is the reason, so it cannot be stored later either. A client of 3.1.1 must not send it again and
    /// again, before everything else that it has: it gets its acknowledgement.
    pub for_good: bool,
    /// Nobody looked whether it is there: of a message that was sent before, an earlier sending may be.
    pub unsure: bool,
}

impl Unstored {
    /// Because of the message.
    pub fn for_good(reason: Reason) -> Self {
        Self { reason, for_good: true, unsure: false }
    }

    /// Because of us: it may come again.
    pub fn for_now(reason: Reason) -> Self {
        Self { reason, for_good: false, unsure: false }
    }
}

/// Session and number: unique for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventName {
    /// The session.
    pub session: record::SessionId,
    /// The number.
    pub number: u64,
}

/// All sessions, subscriptions, retained messages and wills.
///
/// Architecture Invariant: what a reply promises is in the records of its reaction, or of an earlier one.
#[derive(Debug)]
pub struct Broker {
    limits: Limits,
    sessions: Table,
    connections: HashMap<ConnectionId, Slot>,
    /// Connections that are over for the broker, while the shell still stores what came on them.
    past: HashMap<ConnectionId, Past>,
    clients: HashMap<Arc<str>, Slot>,
    by_id: HashMap<SessionId, Slot>,
    subscriptions: Subscriptions<Slot, Options>,
    retained: Retained<Kept>,
    due: BTreeSet<(Millis, Due)>,
    ended: Ended,
    handed: Handed,
    /// The session that the last CONNECT began, if it did.
    begun: Option<Slot>,
    next_session: SessionId,
    next_name: u64,
    next_message: MessageId,
    next_turn: u64,
    /// What waits in all sessions.
    pot: Pot,
    /// When it was last said that there is no room.
    no_room_told: Option<Millis>,
    counts: Counts,
    owners: Owners,
    /// Sessions that were ended for new ones since it was said last, and when that was.
    untold_evictions: u64,
    evictions_told: Option<Millis>,
    /// The gateway stops; see [`Broker::stop`].
    stopping: bool,
    /// Used again for each message.
    targets: Vec<Target>,
    /// The topic of a PUBLISH with an alias.
    no_topic: Arc<str>,
}

/// What a connection that is over left to be stored.
#[derive(Debug)]
struct Past {
    session: SessionId,
    /// QoS 2: packet ids and names.
    storing: Vec<(PacketId, u64)>,
}

/// What happens by itself at a point in time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Will(SessionId),
    Session(SessionId),
    Retained(Arc<str>),
}

impl Broker {
    /// An empty one. `first`: a random number, so that the ids of sessions and the names of messages that begin there
    /// are not those of an earlier run.
    pub fn new(limits: Limits, first: SessionId) -> Self {
        Self {
            limits,
            sessions: Table::default(),
            connections: HashMap::new(),
            past: HashMap::new(),
            clients: HashMap::new(),
            by_id: HashMap::new(),
            subscriptions: Subscriptions::new(),
            retained: Retained::new(),
            due: BTreeSet::new(),
            ended: Ended::default(),
            handed: Handed::default(),
            begun: None,
            next_session: first,
            next_name: first,
            next_message: 1,
            next_turn: 1,
            pot: Pot::default(),
            no_room_told: None,
            counts: Counts::default(),
            owners: Owners::default(),
            untold_evictions: 0,
            evictions_told: None,
            stopping: false,
            targets: Vec::new(),
            no_topic: Arc::from(""),
        }
    }

    /// From here on `limits`, but for those that clients were told at their CONNECT (MQTT 5.0 §3.2.2.3: a client that keeps to
    /// what it was told must not be cut off for it) and those that size the journal. What is beyond a smaller limit stays
    /// until it goes by itself.
    pub fn set_limits(&mut self, limits: Limits) {
        let Limits { receive_max, max_packet, topic_alias_max, max_total_bytes, max_retained_bytes, .. } = self.limits;
        self.limits =
            Limits { receive_max, max_packet, topic_alias_max, max_total_bytes, max_retained_bytes, ..limits };
    }

    /// The session of a connection that still counts: not kicked, closed, or about to be.
    fn slot_of(&self, connection: ConnectionId) -> Option<Slot> {
        let slot = *self.connections.get(&connection)?;
        let open = self.sessions.get(slot)?.connection.as_ref().is_some_and(|c| !c.closing);
        open.then_some(slot)
    }

    /// Whether the client has a session that outlives its connections.
    pub fn keeps(&self, client_id: &str) -> bool {
        let session = self.clients.get(client_id).and_then(|slot| self.sessions.get(*slot));
        session.is_some_and(|session| session.persistent)
    }

    fn new_session_id(&mut self) -> SessionId {
        while self.by_id.contains_key(&self.next_session) {
            self.next_session = self.next_session.wrapping_add(1);
        }
        let id = self.next_session;
        self.next_session = id.wrapping_add(1);
        id
    }

    fn new_message_id(&mut self) -> MessageId {
        self.next_message += 1;
        self.next_message - 1
    }

    /// Tells the shell to close the connection, and takes nothing more from it.
    fn close(&mut self, slot: Slot, reason: Reason, why: &'static str, reaction: &mut Reaction) {
        if let Some(connection) = self.sessions.get_mut(slot).and_then(|s| s.connection.as_mut()) {
            connection.closing = true;
            reaction.close = Some((reason, why));
        }
    }
}

/// Tells the shell that a connection has something to take, unless it knows.
fn wake(session: &mut Session, reaction: &mut Reaction) {
    if let Some(connection) = session.connection.as_mut().filter(|c| !c.awake && !c.closing) {
        connection.awake = true;
        reaction.wake.push(connection.id);
    }
}

#[cfg(test)]
pub(crate) mod tests;
