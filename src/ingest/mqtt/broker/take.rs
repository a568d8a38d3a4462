//! What goes out to a client next: within its window, its packet size and the bytes that the shell has room for. [pure]

use std::num::NonZeroU16;
use std::sync::Arc;

use super::held::{self, Held};
use super::outgoing::Delivery;
use super::packets::ack;
use super::pull::STEPS_MAX;
use super::record::{MessageId, Millis, Record};
use super::session::{Connection, Session, Slot};
use super::{Broker, ConnectionId, KEPT_TOPIC_BYTES_MAX, Reaction};
use crate::ingest::mqtt::packet::encode::encoded_len;
use crate::ingest::mqtt::packet::{Packet, Properties, Publish, QoS, Reason, Version};

/// Bytes of a PUBREL.
const PUBREL_BYTES: usize = 4;

/// Where the next message comes from.
enum From {
    Reliable,
    Unreliable,
}

impl Broker {
    /// Packets for a client, some `max_bytes` of them; none: nothing now. To be called again until then, after each
    /// wake-up; also if it wakes this connection itself. None is taken that costs more than `largest`: where one is next,
    /// [`Reaction::needs`] says what it costs.
    pub fn take(&mut self, now: Millis, connection: ConnectionId, max_bytes: usize, largest: usize) -> Reaction {
        let mut reaction = Reaction::default();
        let Some(slot) = self.slot_of(connection) else { return reaction };
        let alias_room = self.may_hold(slot, Held::bytes(held::alias_bytes("") + KEPT_TOPIC_BYTES_MAX));
        if let Some(connection) = self.sessions.get_mut(slot).and_then(|s| s.connection.as_mut()) {
            connection.alias_room = alias_room;
        }
        let (mut bytes, mut first_sending, mut steps, mut first) = (0, None, STEPS_MAX, true);
        while bytes < max_bytes {
            self.pull(now, slot, std::mem::take(&mut first), &mut steps, &mut reaction);
            let Some(from) = self.sessions.get(slot).and_then(next) else {
                if let Some(connection) = self.sessions.get_mut(slot).and_then(|s| s.connection.as_mut()) {
                    connection.awake = steps == 0;
                }
                if steps == 0 {
                    // The others come first.
                    reaction.wake.push(connection);
                }
                break;
            };
            let (from, cost) = from;
            if cost > largest && matches!(from, From::Unreliable) && self.pot.charge > self.limits.max_total_bytes {
                // A retained one, which was fetched whatever waits: it cannot wait as well.
                self.drop_unreliable(slot);
                continue;
            }
            if cost > largest {
                reaction.needs = Some(cost);
                break;
            }
            match from {
                From::Unreliable => {
                    self.take_unreliable(now, slot, &mut bytes, &mut reaction);
                    self.book(slot);
                }
                From::Reliable => {
                    first_sending = self.take_reliable(now, slot, &mut bytes, &mut reaction).or(first_sending);
                }
            }
        }
        self.book(slot);
        let persistent = self.sessions.get(slot).filter(|s| s.persistent).map(|s| s.id);
        if let (Some(through), Some(session)) = (first_sending, persistent) {
            // A client remembers the packet id of a QoS 2 message. If a power cut made us forget that the message was
            // ever queued, the id would go to another one, and the client would take that for the same. So these
            // packets wait until all records so far are on disk.
            reaction.records.push(Record::OutgoingSent { session, through });
        }
        reaction
    }

    fn drop_unreliable(&mut self, slot: Slot) {
        let connection = self.sessions.get_mut(slot).and_then(|session| session.connection.as_mut());
        let dropped = connection.and_then(|connection| connection.unreliable.pop()).is_some();
        self.counts.dropped.slow += u64::from(dropped);
        self.book(slot);
    }

    fn take_unreliable(&mut self, now: Millis, slot: Slot, bytes: &mut usize, reaction: &mut Reaction) {
        let Some(connection) = self.sessions.get_mut(slot).and_then(|s| s.connection.as_mut()) else { return };
        let Some(delivery) = connection.unreliable.pop() else { return };
        if delivery.expired(now) {
            self.counts.dropped.expired += 1;
            return;
        }
        match packet(now, connection, &delivery, &self.no_topic) {
            Some((packet, len)) => {
                *bytes += len;
                self.counts.sent += 1;
                self.counts.sent_bytes += delivery.message.payload.len() as u64;
                reaction.replies.push(packet);
            }
            None => self.counts.dropped.too_large += 1,
        }
    }

    /// The id of a QoS 2 message that is sent for the first time.
    fn take_reliable(
        &mut self,
        now: Millis,
        slot: Slot,
        bytes: &mut usize,
        reaction: &mut Reaction,
    ) -> Option<MessageId> {
        let session = self.sessions.get_mut(slot)?;
        let first = session.outgoing.queue.front_mut()?;
        if first.received {
            let delivery = session.outgoing.queue.pop_front()?;
            if let Some(id) = delivery.packet_id {
                reaction.replies.push(Packet::Pubrel(ack(id, Reason::SUCCESS)));
                *bytes += PUBREL_BYTES;
            }
            session.outgoing.in_flight.push_back(delivery);
            return None;
        }
        if first.expired(now) {
            self.counts.dropped.expired += 1;
            self.give_up(slot, reaction);
            return None;
        }
        if first.packet_id.is_none() {
            let id = session.outgoing.take_packet_id();
            if let Some(first) = session.outgoing.queue.front_mut() {
                first.packet_id = id;
            }
        }
        let connection = session.connection.as_mut()?;
        let mut delivery = session.outgoing.queue.pop_front()?;
        let Some((packet, len)) = packet(now, connection, &delivery, &self.no_topic) else {
            // [MQTT-3.1.2-25]: as if it had been sent.
            session.outgoing.queue.push_front(delivery);
            self.counts.dropped.too_large += 1;
            self.give_up(slot, reaction);
            return None;
        };
        *bytes += len;
        let first_sending = (delivery.qos == QoS::ExactlyOnce && !delivery.sent).then_some(delivery.id);
        delivery.sent = true;
        self.counts.sent += 1;
        self.counts.sent_bytes += delivery.message.payload.len() as u64;
        reaction.replies.push(packet);
        session.outgoing.in_flight.push_back(delivery);
        first_sending
    }

    fn give_up(&mut self, slot: Slot, reaction: &mut Reaction) {
        if let Some(delivery) = self.sessions.get_mut(slot).and_then(|s| s.outgoing.pop()) {
            self.done(slot, &delivery, reaction);
        }
    }
}

/// The older of both queues; QoS 0 also where the window of the other is full. And what it costs, no less than its packet has.
fn next(session: &Session) -> Option<(From, usize)> {
    let connection = session.connection.as_ref()?;
    let open = session.outgoing.in_flight.len() < connection.window;
    let reliable = session.outgoing.queue.front().filter(|_| open);
    match (reliable, connection.unreliable.messages.front()) {
        (Some(reliable), Some(unreliable)) if unreliable.id < reliable.id => {
            Some((From::Unreliable, unreliable.bytes()))
        }
        (Some(reliable), _) if reliable.received => Some((From::Reliable, PUBREL_BYTES)),
        (Some(reliable), _) => Some((From::Reliable, reliable.bytes())),
        (None, Some(unreliable)) => Some((From::Unreliable, unreliable.bytes())),
        (None, None) => None,
    }
}

/// The packet of a delivery, and its bytes; `None`: larger than the client takes.
fn packet(now: Millis, to: &mut Connection, delivery: &Delivery, no_topic: &Arc<str>) -> Option<(Packet, usize)> {
    let message = &delivery.message;
    let mut publish = Publish {
        dup: delivery.sent,
        qos: delivery.qos,
        retain: delivery.retain,
        topic: message.topic.clone(),
        packet_id: delivery.packet_id,
        properties: None,
        payload: message.payload.clone(),
    };
    if to.version == Version::V5 {
        publish.properties = properties(now, delivery);
        match to.alias(&message.topic) {
            known @ Some(_) => {
                publish.topic = no_topic.clone();
                publish.properties.get_or_insert_default().topic_alias = known;
            }
            None if to.aliases_out.len() < usize::from(to.aliases_out_max)
                && to.alias_room
                && message.topic.len() <= KEPT_TOPIC_BYTES_MAX =>
            {
                let mut teaching = publish.clone();
                let next = u16::try_from(to.aliases_out.len() + 1).ok().and_then(NonZeroU16::new);
                teaching.properties.get_or_insert_default().topic_alias = next;
                if let Some(fits) = fitting(to, teaching) {
                    to.aliases_out.push(message.topic.clone());
                    to.alias_bytes += held::alias_bytes(&message.topic);
                    return Some(fits);
                }
            }
            None => {}
        }
    }
    fitting(to, publish)
}

/// The properties of a delivery but its alias (MQTT 5.0 §3.3.2.3).
fn properties(now: Millis, delivery: &Delivery) -> Option<Box<Properties>> {
    let mut properties = delivery.message.properties.clone();
    if let Some(at) = delivery.message.expires_at {
        // What is left; rounded up, so that nothing is delivered that has none left (§3.3.2.3.3).
        let left = at.saturating_sub(now).div_ceil(1000).max(1);
        properties.get_or_insert_default().message_expiry_s = Some(u32::try_from(left).unwrap_or(u32::MAX));
    }
    if !delivery.subscription_ids.is_empty() {
        properties.get_or_insert_default().subscription_ids = delivery.subscription_ids.to_vec();
    }
    properties
}

fn fitting(to: &Connection, publish: Publish) -> Option<(Packet, usize)> {
    let packet = Packet::Publish(Box::new(publish));
    let bytes = encoded_len(&packet, to.version).ok()?;
    (bytes <= to.max_packet).then_some((packet, bytes))
}
