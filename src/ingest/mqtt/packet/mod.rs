//! MQTT control packets as the rest of the listener sees them: one set of types for 3.1.1 and 5.0. [pure]
//!
//! [`decode`] turns a client's bytes into packets and refuses what the standards forbid; [`encode`] writes the
//! server's packets. Field names are those of MQTT 5.0; what 3.1.1 does not have stays at its default.

pub mod decode;
pub mod encode;
mod error;
mod properties;
mod reader;

use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;

pub use decode::Decoder;
pub use encode::{EncodeError, encode, encode_up_to, encoded_len};
pub use error::{Answer, PacketError};

/// A packet identifier: never zero (MQTT 5.0 §2.2.1, 3.1.1 §2.3.1).
pub type PacketId = NonZeroU16;

/// Protocol version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// MQTT 3.1.1 (protocol level 4).
    V311,
    /// MQTT 5.0.
    V5,
}

/// Quality of service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QoS {
    /// 0
    #[default]
    AtMostOnce,
    /// 1
    AtLeastOnce,
    /// 2
    ExactlyOnce,
}

/// A reason code (MQTT 5.0 §2.4). In 3.1.1 only CONNACK and SUBACK have one, with their own numbers:
/// the encoder translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reason(pub u8);

#[allow(missing_docs)] // the names of MQTT 5.0 §2.4, table 2-6
impl Reason {
    pub const SUCCESS: Self = Self(0x00);
    pub const DISCONNECT_WITH_WILL: Self = Self(0x04);
    pub const NO_MATCHING_SUBSCRIBERS: Self = Self(0x10);
    pub const NO_SUBSCRIPTION_EXISTED: Self = Self(0x11);
    pub const UNSPECIFIED: Self = Self(0x80);
    pub const MALFORMED_PACKET: Self = Self(0x81);
    pub const PROTOCOL_ERROR: Self = Self(0x82);
    pub const IMPLEMENTATION_SPECIFIC: Self = Self(0x83);
    pub const UNSUPPORTED_PROTOCOL_VERSION: Self = Self(0x84);
    pub const CLIENT_ID_NOT_VALID: Self = Self(0x85);
    pub const BAD_USER_NAME_OR_PASSWORD: Self = Self(0x86);
    pub const NOT_AUTHORIZED: Self = Self(0x87);
    pub const SERVER_UNAVAILABLE: Self = Self(0x88);
    pub const SERVER_BUSY: Self = Self(0x89);
    pub const BANNED: Self = Self(0x8A);
    pub const SERVER_SHUTTING_DOWN: Self = Self(0x8B);
    pub const BAD_AUTHENTICATION_METHOD: Self = Self(0x8C);
    pub const KEEP_ALIVE_TIMEOUT: Self = Self(0x8D);
    pub const SESSION_TAKEN_OVER: Self = Self(0x8E);
    pub const TOPIC_FILTER_INVALID: Self = Self(0x8F);
    pub const TOPIC_NAME_INVALID: Self = Self(0x90);
    pub const PACKET_ID_IN_USE: Self = Self(0x91);
    pub const PACKET_ID_NOT_FOUND: Self = Self(0x92);
    pub const RECEIVE_MAXIMUM_EXCEEDED: Self = Self(0x93);
    pub const TOPIC_ALIAS_INVALID: Self = Self(0x94);
    pub const PACKET_TOO_LARGE: Self = Self(0x95);
    pub const MESSAGE_RATE_TOO_HIGH: Self = Self(0x96);
    pub const QUOTA_EXCEEDED: Self = Self(0x97);
    pub const ADMINISTRATIVE_ACTION: Self = Self(0x98);
    pub const PAYLOAD_FORMAT_INVALID: Self = Self(0x99);
    pub const RETAIN_NOT_SUPPORTED: Self = Self(0x9A);
    pub const QOS_NOT_SUPPORTED: Self = Self(0x9B);
    pub const SHARED_SUBSCRIPTIONS_NOT_SUPPORTED: Self = Self(0x9E);
    pub const CONNECTION_RATE_EXCEEDED: Self = Self(0x9F);

    /// An error, that is 0x80 or greater.
    pub fn is_error(self) -> bool {
        self.0 >= 0x80
    }
}

/// A control packet, in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Client to server, first of all.
    Connect(Box<Connect>),
    /// Its answer.
    Connack(Box<Connack>),
    /// A message, either way.
    Publish(Box<Publish>),
    /// QoS 1: taken.
    Puback(Ack),
    /// QoS 2: received.
    Pubrec(Ack),
    /// QoS 2: released.
    Pubrel(Ack),
    /// QoS 2: complete.
    Pubcomp(Ack),
    /// Client to server.
    Subscribe(Box<Subscribe>),
    /// Its answer, one reason for each filter: 0, 1, 2 the granted QoS, or an error.
    Suback(Answers),
    /// Client to server.
    Unsubscribe(Box<Unsubscribe>),
    /// Its answer; 3.1.1 has no reasons there.
    Unsuback(Answers),
    /// Client to server.
    Pingreq,
    /// Its answer.
    Pingresp,
    /// Either way in 5.0, client to server in 3.1.1.
    Disconnect(Box<Disconnect>),
    /// 5.0 enhanced authentication: decoded, and refused (no method is offered).
    Auth(Reason),
}

/// CONNECT (MQTT 5.0 §3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Which protocol the connection speaks.
    pub version: Version,
    /// It is another broker's bridge (3.1.1; mosquitto says so).
    pub bridge: bool,
    /// Clean start; in 3.1.1 clean session.
    pub clean_start: bool,
    /// Seconds; 0: none.
    pub keep_alive_s: u16,
    /// Empty: the server assigns one.
    pub client_id: String,
    /// Published when the connection ends without DISCONNECT.
    pub will: Option<Will>,
    /// User name.
    pub user_name: Option<String>,
    /// Password, binary.
    pub password: Option<Bytes>,
    /// Seconds; `u32::MAX`: never. `None`: ends with the connection. In 3.1.1: `u32::MAX` unless clean.
    pub session_expiry_s: Option<u32>,
    /// How many QoS 1 and 2 messages the client takes at once; default 65,535.
    pub receive_maximum: NonZeroU16,
    /// Largest packet the client takes.
    pub maximum_packet_size: Option<u32>,
    /// Aliases the client takes; 0: none.
    pub topic_alias_maximum: u16,
    /// The client wants response information (we have none).
    pub request_response_information: bool,
    /// The client wants reason strings; default true.
    pub request_problem_information: bool,
    /// Enhanced authentication, which is not offered.
    pub authentication_method: Option<String>,
    /// User properties.
    pub user_properties: Vec<(String, String)>,
}

/// The will (MQTT 5.0 §3.1.2.5, §3.1.3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// The message: topic, QoS, retain, payload, properties. No packet id.
    pub message: Publish,
    /// Seconds between the end of the connection and the message.
    pub delay_s: u32,
}

/// CONNACK (MQTT 5.0 §3.2). `None`: the property is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names of the standard
pub struct Connack {
    pub session_present: bool,
    pub reason: Reason,
    pub reason_string: Option<String>,
    pub session_expiry_s: Option<u32>,
    pub receive_maximum: Option<u16>,
    pub maximum_packet_size: Option<u32>,
    pub assigned_client_id: Option<String>,
    pub topic_alias_maximum: Option<u16>,
    pub server_keep_alive_s: Option<u16>,
}

/// PUBLISH (MQTT 5.0 §3.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish {
    /// Sent before.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// Retain.
    pub retain: bool,
    /// Topic name; empty only with a topic alias.
    pub topic: Arc<str>,
    /// With QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// 5.0 only; `None`: no property at all.
    pub properties: Option<Box<Properties>>,
    /// Application message.
    pub payload: Bytes,
}

/// Properties of PUBLISH and of a will (MQTT 5.0 §3.3.2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the names of the standard
pub struct Properties {
    /// The payload is UTF-8 (indicator 1).
    pub payload_is_utf8: Option<bool>,
    pub message_expiry_s: Option<u32>,
    pub topic_alias: Option<NonZeroU16>,
    pub response_topic: Option<Arc<str>>,
    pub correlation_data: Option<Bytes>,
    /// In order, names may repeat.
    pub user: Vec<(String, String)>,
    /// Server to client only.
    pub subscription_ids: Vec<u32>,
    pub content_type: Option<String>,
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Of which message.
    pub packet_id: PacketId,
    /// In 3.1.1 always success.
    pub reason: Reason,
    /// For people; only sent where the client asked for problem information.
    pub reason_string: Option<String>,
}

/// SUBSCRIBE (MQTT 5.0 §3.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Of the answer.
    pub packet_id: PacketId,
    /// From 1 to 268,435,455.
    pub subscription_id: Option<u32>,
    /// At least one.
    pub filters: Vec<FilterOptions>,
}

/// One filter of a SUBSCRIBE (MQTT 5.0 §3.8.3.1). In 3.1.1 only the QoS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterOptions {
    /// As sent, `$share/…` included; valid UTF-8, not empty, no NUL. Its form is checked by `topic::filter`,
    /// because a wrong one is answered in SUBACK and does not end the connection.
    pub filter: String,
    /// The most that is delivered.
    pub qos: QoS,
    /// Not what this client published itself.
    pub no_local: bool,
    /// Keep the retain flag as published.
    pub retain_as_published: bool,
    /// When retained messages are sent.
    pub retain_handling: RetainHandling,
}

/// Retain handling (MQTT 5.0 §3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetainHandling {
    /// At every subscribe.
    #[default]
    Send,
    /// Only if the subscription is new.
    SendIfNew,
    /// Never.
    DoNotSend,
}

/// SUBACK and UNSUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Of the request.
    pub packet_id: PacketId,
    /// One for each filter, in order.
    pub reasons: Vec<Reason>,
}

/// UNSUBSCRIBE (MQTT 5.0 §3.10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Of the answer.
    pub packet_id: PacketId,
    /// At least one.
    pub filters: Vec<String>,
}

/// DISCONNECT (MQTT 5.0 §3.14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// In 3.1.1 always success.
    pub reason: Reason,
    /// Client to server: a new expiry, in seconds.
    pub session_expiry_s: Option<u32>,
    /// For people.
    pub reason_string: Option<String>,
}

#[cfg(test)]
mod tests;
