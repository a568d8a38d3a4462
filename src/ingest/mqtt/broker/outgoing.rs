//! Messages on their way to one client: what waits, what is under way, and which packet ids are taken. [pure]

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::Limits;
use super::record::{Message, MessageId, Millis, SessionId, Waiting};
use super::route::Offer;
use crate::ingest::mqtt::packet::{PacketId, QoS};

/// What a waiting message costs besides its bytes: its places in queues, its reference counts, its part of maps.
const ENTRY_BYTES: usize = 128;

/// A message for one client.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub id: MessageId,
    pub message: Arc<Message>,
    pub qos: QoS,
    pub retain: bool,
    /// QoS 2: from the moment it waits. QoS 1: from its first sending.
    pub packet_id: Option<PacketId>,
    /// It was sent before, or may have been (QoS 1 of a session that was read back from disk).
    pub sent: bool,
    /// PUBREC has come: only PUBREL is sent from now on [MQTT-4.3.3-6].
    pub received: bool,
    pub subscription_ids: Box<[u32]>,
    /// The shared subscription that it came by: another member may get it instead.
    pub share: Option<Arc<str>>,
}

impl Delivery {
    pub fn new(offer: Offer<'_>) -> Self {
        Self {
            id: offer.id,
            message: offer.message.clone(),
            qos: offer.qos,
            retain: offer.retain,
            packet_id: None,
            sent: false,
            received: false,
            subscription_ids: offer.ids.into(),
            share: offer.share,
        }
    }

    pub fn bytes(&self) -> usize {
        bytes(&self.message) + extra_bytes(&self.subscription_ids, self.share.as_deref())
    }

    /// Nobody has seen it: not under way, and if it is to come once then never sent.
    pub fn is_unseen(&self) -> bool {
        !self.sent && !self.received
    }

    /// Not begun and no longer wanted (MQTT 5.0 §3.3.2.3.3). A QoS 2 message that was begun has to be ended: its
    /// packet id may be known to the client.
    pub fn expired(&self, now: Millis) -> bool {
        self.message.expires_at.is_some_and(|at| at <= now) && !(self.qos == QoS::ExactlyOnce && self.sent)
    }

    pub fn waiting(&self, session: SessionId) -> Waiting {
        Waiting {
            session,
            qos: self.qos,
            retain: self.retain,
            packet_id: self.packet_id.filter(|_| self.qos == QoS::ExactlyOnce),
            subscription_ids: self.subscription_ids.to_vec(),
            received: self.received,
            sent: self.sent && self.qos == QoS::ExactlyOnce,
            share: self.share.clone(),
        }
    }
}

/// What a delivery costs besides its message.
pub(super) fn extra_bytes(subscription_ids: &[u32], share: Option<&str>) -> usize {
    size_of_val(subscription_ids) + share.map_or(0, str::len)
}

/// What a message costs where it is kept.
pub(super) fn bytes(message: &Message) -> usize {
    let properties = message.properties.as_deref().map_or(0, |p| {
        p.user.iter().map(|(name, value)| name.len() + value.len() + 48).sum::<usize>()
            + p.content_type.as_ref().map_or(0, String::len)
            + p.response_topic.as_ref().map_or(0, |t| t.len())
            + p.correlation_data.as_ref().map_or(0, bytes::Bytes::len)
            + size_of_val(p)
    });
    ENTRY_BYTES + message.topic.len() + message.payload.len() + properties
}

/// Messages in order, and their bytes.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub messages: VecDeque<Delivery>,
    pub bytes: usize,
}

impl Queue {
    pub fn push(&mut self, delivery: Delivery) {
        self.bytes += delivery.bytes();
        self.messages.push_back(delivery);
    }

    pub fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.messages.pop_front()?;
        self.bytes -= delivery.bytes();
        Some(delivery)
    }
}

/// QoS 1 and 2 messages of a session. `in_flight` and then `queue` are in the order of their ids; those of `queue`
/// that have a packet id and were sent before are at its front.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Sent on this connection and not done with.
    pub in_flight: VecDeque<Delivery>,
    pub queue: VecDeque<Delivery>,
    pub bytes: usize,
    /// Nothing of `queue` expires before.
    first_expiry: Option<Millis>,
    /// Packet ids of both.
    ids: HashSet<PacketId>,
    last_id: u16,
}

impl Outgoing {
    pub fn len(&self) -> usize {
        self.in_flight.len() + self.queue.len()
    }

    /// Whether one more may wait. One of any size does not have to wait for others.
    pub fn has_room(&self, bytes: usize, limits: &Limits) -> bool {
        self.len() == 0 || self.len() < limits.max_queued && self.bytes + bytes <= limits.max_queued_bytes
    }

    fn may_expire(&mut self, at: Option<Millis>) {
        self.first_expiry = self.first_expiry.into_iter().chain(at).min();
    }

    /// The next free packet id; `None`: all 65,535 are taken.
    pub fn take_packet_id(&mut self) -> Option<PacketId> {
        if self.ids.len() == usize::from(u16::MAX) {
            return None;
        }
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last_id)
                && self.ids.insert(id)
            {
                return Some(id);
            }
        }
    }

    pub fn push(&mut self, delivery: Delivery) {
        self.bytes += delivery.bytes();
        self.may_expire(delivery.message.expires_at);
        self.queue.push_back(delivery);
    }

    /// Puts one back that was read from disk; instead of the one with the same id if there is one.
    pub fn restore(&mut self, delivery: Delivery) {
        self.remove(delivery.id);
        self.ids.extend(delivery.packet_id);
        self.bytes += delivery.bytes();
        self.may_expire(delivery.message.expires_at);
        let at = self.queue.partition_point(|d| d.id < delivery.id);
        self.queue.insert(at, delivery);
    }

    /// Forgets all of the queue up to an id, or all.
    pub fn clear_through(&mut self, last: Option<MessageId>) {
        while self.queue.front().is_some_and(|d| last.is_none_or(|last| d.id <= last)) {
            self.pop();
        }
    }

    /// Takes the first out of the queue for good.
    pub fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.queue.pop_front()?;
        self.forget(&delivery);
        Some(delivery)
    }

    fn forget(&mut self, delivery: &Delivery) {
        self.bytes -= delivery.bytes();
        if let Some(id) = delivery.packet_id {
            self.ids.remove(&id);
        }
    }

    /// Takes one out for good, by its id.
    pub fn remove(&mut self, id: MessageId) -> Option<Delivery> {
        let at = self.queue.binary_search_by_key(&id, |d| d.id).ok()?;
        let delivery = self.queue.remove(at)?;
        self.forget(&delivery);
        Some(delivery)
    }

    /// One of the queue, by its id.
    pub fn find_queued(&mut self, id: MessageId) -> Option<&mut Delivery> {
        let at = self.queue.binary_search_by_key(&id, |d| d.id).ok()?;
        self.queue.get_mut(at)
    }

    /// One that was sent, by its packet id; also one that waits to be sent again after a new connection.
    pub fn find_sent(&mut self, id: PacketId) -> Option<&mut Delivery> {
        let again = self.queue.iter_mut().take_while(|d| d.sent);
        self.in_flight.iter_mut().chain(again).find(|d| d.packet_id == Some(id))
    }

    /// Takes one out for good that was sent, by its packet id.
    pub fn remove_sent(&mut self, id: PacketId) -> Option<Delivery> {
        let delivery = if let Some(at) = self.in_flight.iter().position(|d| d.packet_id == Some(id)) {
            self.in_flight.remove(at)?
        } else {
            let at = self.queue.iter().take_while(|d| d.sent).position(|d| d.packet_id == Some(id))?;
            self.queue.remove(at)?
        };
        self.forget(&delivery);
        Some(delivery)
    }

    /// The connection is gone: what was under way is sent again, in its order, before all else [MQTT-4.4.0-1],
    /// [MQTT-4.6.0-1].
    pub fn requeue(&mut self) {
        while let Some(delivery) = self.in_flight.pop_back() {
            self.may_expire(delivery.message.expires_at);
            self.queue.push_front(delivery);
        }
    }

    /// QoS 2 up to this one was sent.
    pub fn sent_through(&mut self, through: MessageId) {
        let first = self.queue.iter_mut().take_while(|d| d.id <= through);
        first.filter(|d| d.qos == QoS::ExactlyOnce).for_each(|d| d.sent = true);
    }

    /// The place of the oldest that may be dropped although it is wanted: not under way, and if with QoS 2 then never begun.
    pub fn oldest_unsent(&self) -> Option<usize> {
        // Those that were sent are at the front, within the window.
        self.queue.iter().position(|d| d.qos == QoS::AtLeastOnce || !d.sent)
    }

    /// Drops that one for good.
    pub fn drop_oldest(&mut self) -> Option<Delivery> {
        let delivery = self.queue.remove(self.oldest_unsent()?)?;
        self.forget(&delivery);
        Some(delivery)
    }

    /// Drops what nobody wants any more; returns the ids.
    pub fn drop_expired(&mut self, now: Millis) -> Vec<MessageId> {
        if self.first_expiry.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let expired: Vec<_> = self.queue.iter().filter(|d| d.expired(now)).map(|d| d.id).collect();
        // What has to be ended although it expired stays, and does not expire later.
        self.first_expiry = self.queue.iter().filter_map(|d| d.message.expires_at).filter(|at| *at > now).min();
        for &id in &expired {
            self.remove(id);
        }
        expired
    }
}
