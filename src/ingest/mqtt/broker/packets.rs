//! Everything that a client sends but CONNECT and PUBLISH. [pure]

use super::record::{Millis, Record};
use super::session::Slot;
use super::{Broker, ConnectionId, Reaction, wake};
use crate::ingest::mqtt::packet::{Ack, Disconnect, Packet, PacketId, QoS, Reason, Version};

/// An acknowledgement without words.
pub(super) fn ack(packet_id: PacketId, reason: Reason) -> Ack {
    Ack { packet_id, reason, reason_string: None }
}

impl Broker {
    /// A packet other than PUBLISH came. After DISCONNECT the connection is over for the broker; the shell closes it.
    pub fn packet(&mut self, now: Millis, connection: ConnectionId, packet: Packet) -> Reaction {
        let mut reaction = Reaction::default();
        let Some(slot) = self.slot_of(connection) else { return reaction };
        match packet {
            Packet::Puback(ack) => self.acknowledged(slot, &ack, QoS::AtLeastOnce, &mut reaction),
            Packet::Pubrec(ack) => self.outgoing_received(slot, &ack, &mut reaction),
            Packet::Pubcomp(ack) => self.acknowledged(slot, &ack, QoS::ExactlyOnce, &mut reaction),
            Packet::Pubrel(ack) => self.released(slot, ack.packet_id, &mut reaction),
            Packet::Subscribe(subscribe) => self.subscribe(now, slot, *subscribe, &mut reaction),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(slot, &unsubscribe, &mut reaction),
            Packet::Pingreq => reaction.replies.push(Packet::Pingresp),
            Packet::Disconnect(disconnect) => self.disconnect(now, slot, &disconnect, &mut reaction),
            Packet::Connect(_) => self.close(slot, Reason::PROTOCOL_ERROR, "second CONNECT", &mut reaction),
            Packet::Auth(_) => {
                self.close(slot, Reason::PROTOCOL_ERROR, "AUTH without authentication method", &mut reaction);
            }
            Packet::Publish(_) => {
                self.close(slot, Reason::IMPLEMENTATION_SPECIFIC, "PUBLISH out of place", &mut reaction)
            }
            Packet::Connack(_) | Packet::Suback(_) | Packet::Unsuback(_) | Packet::Pingresp => {
                self.close(slot, Reason::PROTOCOL_ERROR, "a packet that only servers send", &mut reaction);
            }
        }
        self.book(slot);
        reaction
    }

    /// PUBACK or PUBCOMP: the message is done with, also if the client says that it failed (MQTT 5.0 §4.3.2, §4.3.3).
    fn acknowledged(&mut self, slot: Slot, ack: &Ack, qos: QoS, reaction: &mut Reaction) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(known) = session.outgoing.find_sent(ack.packet_id) else { return };
        if known.qos != qos || (qos == QoS::ExactlyOnce && !known.received) {
            self.close(slot, Reason::PROTOCOL_ERROR, "an acknowledgement of the wrong kind", reaction);
            return;
        }
        self.finish(slot, ack.packet_id, reaction);
    }

    fn finish(&mut self, slot: Slot, packet_id: PacketId, reaction: &mut Reaction) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(delivery) = session.outgoing.remove_sent(packet_id) else { return };
        if !session.outgoing.queue.is_empty() || !session.pulls.is_empty() {
            wake(session, reaction);
        }
        self.done(slot, &delivery, reaction);
    }

    /// PUBREC: from now on only PUBREL is sent, after it is on disk that it came.
    fn outgoing_received(&mut self, slot: Slot, ack: &Ack, reaction: &mut Reaction) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(connection) = session.connection.as_ref() else { return };
        let version = connection.version;
        let Some(delivery) = session.outgoing.find_sent(ack.packet_id) else {
            // Not ours, or not any more: let the client forget it as well (MQTT 5.0 §3.6.2.1).
            let reason = if version == Version::V5 { Reason::PACKET_ID_NOT_FOUND } else { Reason::SUCCESS };
            if !ack.reason.is_error() {
                reaction.replies.push(Packet::Pubrel(self::ack(ack.packet_id, reason)));
            }
            return;
        };
        if delivery.qos != QoS::ExactlyOnce {
            self.close(slot, Reason::PROTOCOL_ERROR, "PUBREC for a message with QoS 1", reaction);
            return;
        }
        if ack.reason.is_error() {
            self.finish(slot, ack.packet_id, reaction);
            return;
        }
        if !delivery.received {
            delivery.received = true;
            if session.persistent {
                reaction.records.push(Record::OutgoingReceived { session: session.id, id: delivery.id });
            }
        }
        reaction.replies.push(Packet::Pubrel(self::ack(ack.packet_id, Reason::SUCCESS)));
    }

    /// DISCONNECT (MQTT 5.0 §3.14).
    fn disconnect(&mut self, now: Millis, slot: Slot, disconnect: &Disconnect, reaction: &mut Reaction) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        if let (Some(expiry_s), Some(connection)) = (disconnect.session_expiry_s, session.connection.as_ref()) {
            if connection.asked_expiry_s == 0 && expiry_s != 0 {
                // §3.14.2.2.2
                self.close(
                    slot,
                    Reason::PROTOCOL_ERROR,
                    "DISCONNECT with a session expiry after CONNECT with none",
                    reaction,
                );
                return;
            }
            session.expiry_s = expiry_s.min(self.limits.session_expiry_max_s);
        }
        if disconnect.reason == Reason::SUCCESS {
            // [MQTT-3.14.4-3]; any other reason, 0x04 above all, leaves the will in force.
            self.set_will(slot, None, reaction);
        }
        self.detach(now, slot, false, reaction);
    }
}
