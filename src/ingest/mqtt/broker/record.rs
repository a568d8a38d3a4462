//! What of the broker's state is put on disk, as changes: applied in order they give the state again. [pure]

use std::sync::Arc;

use bytes::Bytes;

use crate::ingest::mqtt::packet::{FilterOptions, PacketId, Properties, QoS};

/// Names a session for good: a session that ended and a later one of the same client differ.
pub type SessionId = u64;

/// Names a message that was queued or retained.
pub type MessageId = u64;

/// A point on the broker's own time line, in milliseconds. It never goes back, also across restarts: the shell starts it at the
/// wall clock or the last recorded time, whichever is later, and moves it with the steady clock. So a gateway
/// that boots in 1970 expires nothing early.
pub type Millis = u64;

/// A message as it is kept: for absent subscribers, as retained, as will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Topic name.
    pub topic: Arc<str>,
    /// As published.
    pub qos: QoS,
    /// As published.
    pub retain: bool,
    /// Application message.
    pub payload: Bytes,
    /// As published, without topic alias and subscription identifiers.
    pub properties: Option<Box<Properties>>,
    /// When it is no longer delivered (message expiry interval, counted from its arrival).
    pub expires_at: Option<Millis>,
}

/// Tells whether a packet that comes again under its id is the same message: a client that lost its state begins with id 1
/// again. Checksums, for nobody gains from a message that looks like another one of his own. 0 means that it is not known.
pub fn digest(topic: &str, payload: &[u8]) -> u64 {
    let mut of_topic = crc32fast::Hasher::new();
    of_topic.update(topic.as_bytes());
    of_topic.update(&(payload.len() as u64).to_le_bytes());
    let digest = u64::from(crc32fast::hash(payload)) << 32 | u64::from(of_topic.finalize());
    digest.max(1)
}

/// One change of the state. A record that is lost with a power cut was never answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // named after what they do
pub enum Record {
    /// The whole of a session, instead of all that was said of it before: a new session, or the journal being tidied.
    Session(Box<SessionState>),
    /// The session is over; everything of it goes.
    SessionEnded {
        session: SessionId,
    },
    /// The connection ended or began; the session ends at `expires_at` unless resumed (`None`: it is in use or never ends).
    SessionExpiry {
        session: SessionId,
        expires_at: Option<Millis>,
        /// What counts from the end of the connection, also if a crash ends it; `u32::MAX`: never ends.
        expiry_s: u32,
    },
    Subscribed {
        session: SessionId,
        options: FilterOptions,
        subscription_id: Option<u32>,
    },
    Unsubscribed {
        session: SessionId,
        filter: String,
    },
    /// A QoS 2 packet was received and is about to be stored upstream under the name `name`: the same packet
    /// sent again after a crash gets the same name, and the outbox takes it once. On disk before the outbox is asked: after a
    /// power cut the message would get another name.
    Intent {
        session: SessionId,
        packet_id: PacketId,
        name: u64,
        /// See [`digest`].
        digest: u64,
    },
    /// It is stored upstream, but its connection was gone by then: sent again, it is handed to subscribers and answered.
    Stored {
        session: SessionId,
        packet_id: PacketId,
    },
    /// It is stored; sent again, it is answered and not stored again.
    Received {
        session: SessionId,
        packet_id: PacketId,
    },
    /// PUBREL came (or the publish was refused): the packet id is free again.
    Released {
        session: SessionId,
        packet_id: PacketId,
    },
    /// A message waits for these sessions. Queues are in the order of the ids; one that is there already is replaced.
    Queued {
        id: MessageId,
        message: Arc<Message>,
        to: Vec<Waiting>,
        /// It came with QoS 2 under this packet id: also what `Received` says. In one record, because a power cut between
        /// the two would lose the message or double it.
        received: Option<(SessionId, PacketId)>,
        /// It waited in this session under this id, and does so no more: another member of the shared subscription takes
        /// it over. In one record, for the same reason.
        moved: Option<(SessionId, MessageId)>,
    },
    /// Outgoing QoS 2 messages up to this one are about to be sent for the first time. On disk before they leave: one that
    /// was sent belongs to its session, one that was not may still expire, or go to another member of the shared subscription.
    OutgoingSent {
        session: SessionId,
        through: MessageId,
    },
    /// PUBREC came for an outgoing QoS 2 message: from now on PUBREL is sent.
    OutgoingReceived {
        session: SessionId,
        id: MessageId,
    },
    /// An outgoing message is done with: acknowledged, expired, or given up.
    OutgoingDone {
        session: SessionId,
        id: MessageId,
    },
    /// `None`: no longer retained.
    Retained {
        topic: Arc<str>,
        message: Option<Arc<Message>>,
    },
    /// The will of a connection with delay or of a persistent session, so that it is published although the gateway was
    /// killed; `None`: none any more.
    Will {
        session: SessionId,
        will: Option<(Arc<Message>, u32)>,
        due_at: Option<Millis>,
    },
    /// What time it is; written now and then.
    Time(Millis),
}

/// How a queued message waits in one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Whose queue.
    pub session: SessionId,
    /// 1 or 2.
    pub qos: QoS,
    /// Retain flag of the delivery.
    pub retain: bool,
    /// For QoS 2 the packet id is fixed when the message is queued: after a crash it must be sent under the same one.
    pub packet_id: Option<PacketId>,
    /// Subscription identifiers of the delivery.
    pub subscription_ids: Vec<u32>,
    /// PUBREC has come.
    pub received: bool,
    /// QoS 2: it was sent, or may have been.
    pub sent: bool,
    /// The shared subscription that it came by, as subscribed to.
    pub share: Option<Arc<str>>,
}

/// A QoS 2 packet that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in the records
pub struct Intent {
    pub packet_id: PacketId,
    pub name: u64,
    /// See [`digest`].
    pub digest: u64,
    /// What [`Record::Stored`] says.
    pub stored: bool,
}

/// The whole of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // as in the records
pub struct SessionState {
    pub session: SessionId,
    pub client_id: String,
    /// Name of the identity that it belongs to; empty: anonymous.
    pub owner: String,
    /// `None`: it is in use or never ends.
    pub expires_at: Option<Millis>,
    /// Seconds, as granted last; counted from the end of its connection. `u32::MAX`: never.
    pub expiry_s: u32,
    pub subscriptions: Vec<(FilterOptions, Option<u32>)>,
    pub intents: Vec<Intent>,
    /// With [`digest`].
    pub received: Vec<(PacketId, u64)>,
    /// In the order of their ids.
    pub queue: Vec<(MessageId, Arc<Message>, Waiting)>,
    /// More than fits one record: what is known of the queue beyond these stays, and the rest follows as `Queued`.
    pub queue_continues: bool,
    pub will: Option<(Arc<Message>, u32, Option<Millis>)>,
}
