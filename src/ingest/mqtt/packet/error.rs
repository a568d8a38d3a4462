//! Why a packet is refused, and what the client is told. [pure]

use std::borrow::Cow;

use super::{Connack, Disconnect, Packet, Reason, Version};

/// A rule that the bytes break; the sentence names the thing and the section. MQTT 5.0 §1.2 tells two kinds apart: malformed is what
/// cannot be parsed, a protocol error what can be, but is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: Reason,
    pub(super) what: &'static str,
}

pub(super) const fn malformed(what: &'static str) -> Fault {
    Fault { reason: Reason::MALFORMED_PACKET, what }
}

pub(super) const fn forbidden(what: &'static str) -> Fault {
    Fault { reason: Reason::PROTOCOL_ERROR, what }
}

pub(super) const fn fault(reason: Reason, what: &'static str) -> Fault {
    Fault { reason, what }
}

/// What a client gets to hear before the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: 3.1.1 has no words for it, or it is not known to be an MQTT client (3.1.1 §4.8, MQTT-3.1.4-1).
    Silence,
    /// CONNACK in this version.
    Connack(Version),
    /// DISCONNECT, 5.0 only (MQTT 5.0 §4.13).
    Disconnect,
}

/// A packet that the standard forbids. The connection must end: send [`PacketError::answer_packet`], then close.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{packet} refused, reason {:#04x}: {what}", .reason.0)]
pub struct PacketError {
    /// Name of the packet in the standard.
    pub packet: &'static str,
    /// MQTT 5.0's reason code.
    pub reason: Reason,
    /// The rule, with its section.
    pub what: Cow<'static, str>,
    /// How to tell the client.
    pub answer: Answer,
}

impl PacketError {
    /// The packet to send, and in which version, before closing. Both may carry a reason string whatever the client asked for
    /// (MQTT 5.0 §3.1.2.11.7).
    pub fn answer_packet(&self) -> Option<(Packet, Version)> {
        let reason_string = Some(self.what.clone().into_owned());
        match self.answer {
            Answer::Silence => None,
            Answer::Connack(version) => {
                Some((Packet::Connack(Box::new(Connack { reason_string, ..Connack::refused(self.reason) })), version))
            }
            Answer::Disconnect => {
                let disconnect = Disconnect { reason: self.reason, session_expiry_s: None, reason_string };
                Some((Packet::Disconnect(Box::new(disconnect)), Version::V5))
            }
        }
    }
}

impl Connack {
    /// A refusal: no session, nothing but the reason.
    pub fn refused(reason: Reason) -> Self {
        Self {
            session_present: false,
            reason,
            reason_string: None,
            session_expiry_s: None,
            receive_maximum: None,
            maximum_packet_size: None,
            assigned_client_id: None,
            topic_alias_maximum: None,
            server_keep_alive_s: None,
        }
    }
}
