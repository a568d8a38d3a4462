//! From a message to the queues of those that subscribe to it. [pure]

use std::sync::Arc;

use super::outgoing::{self, Delivery};
use super::record::{Message, MessageId, Millis, Record, SessionId, Waiting};
use super::session::{Options, Slot};
use super::{Broker, Reaction, Source, UNRELIABLE_QUEUED_MAX, share, wake};
use crate::ingest::identity::rules::is_denied;
use crate::ingest::mqtt::packet::{PacketId, QoS};
use crate::ingest::mqtt::topic::subscriptions::Match;

/// One delivery of a message: to whom, and how.
#[derive(Debug)]
pub(super) struct Target {
    slot: Slot,
    /// The most that the subscription allows.
    qos: QoS,
    retain_as_published: bool,
    /// The filter of the shared subscription.
    share: Option<Arc<str>>,
    ids: Vec<u32>,
}

impl Target {
    fn new(slot: Slot, options: &Options, share: Option<Arc<str>>) -> Self {
        Self {
            slot,
            qos: options.qos,
            retain_as_published: options.retain_as_published,
            share,
            ids: options.id.iter().map(|id| id.get()).collect(),
        }
    }

    /// Several subscriptions of one client match: one delivery, with the highest QoS and all identifiers
    /// (MQTT 5.0 §3.3.4).
    fn merge(&mut self, other: &mut Self) {
        self.qos = self.qos.max(other.qos);
        self.retain_as_published |= other.retain_as_published;
        self.ids.append(&mut other.ids);
    }
}

/// A message as one client is to get it.
pub(super) struct Offer<'a> {
    pub id: MessageId,
    pub message: &'a Arc<Message>,
    pub qos: QoS,
    pub retain: bool,
    pub ids: Vec<u32>,
    /// The filter of the shared subscription that it comes by.
    pub share: Option<Arc<str>>,
}

impl Offer<'_> {
    fn bytes(&self) -> usize {
        outgoing::bytes(self.message) + outgoing::extra_bytes(&self.ids, self.share.as_deref())
    }
}

impl Broker {
    /// Retains a message if it asks for that, and hands it to all subscribers. `from`: the publisher's session.
    pub(super) fn deliver(&mut self, now: Millis, message: &Arc<Message>, from: Option<Slot>, reaction: &mut Reaction) {
        self.deliver_received(now, message, from, None, reaction);
    }

    /// The same; `received`: what has to be on disk together with the queues, because the message came with QoS 2.
    pub(super) fn deliver_received(
        &mut self,
        now: Millis,
        message: &Arc<Message>,
        from: Option<Slot>,
        received: Option<(SessionId, PacketId)>,
        reaction: &mut Reaction,
    ) {
        if message.retain
            && !self.retain(message, true, reaction)
            && let Some(client_id) =
                from.and_then(|slot| self.sessions.get(slot)).map(|session| session.client_id.clone())
        {
            self.tell_no_room(now, "a retained message", &client_id, reaction);
        }
        let source = from.map_or(Source::Gateway, Source::Client);
        match (self.route(now, message, source, reaction), received) {
            (Some((id, to)), _) => {
                reaction.records.push(Record::Queued { id, message: message.clone(), to, received, moved: None });
            }
            (None, Some((session, packet_id))) => reaction.records.push(Record::Received { session, packet_id }),
            (None, None) => {}
        }
    }

    /// Hands a message to all subscribers. What has to be on disk for that is returned.
    pub(super) fn route(
        &mut self,
        now: Millis,
        message: &Arc<Message>,
        source: Source,
        reaction: &mut Reaction,
    ) -> Option<(MessageId, Vec<Waiting>)> {
        let mut targets = std::mem::take(&mut self.targets);
        self.find(message, source, &mut targets);
        let mut on_disk = None;
        if !targets.is_empty() {
            let id = self.new_message_id();
            let (mut to, evicted) = (Vec::new(), self.pot.evicted());
            for target in targets.drain(..) {
                let offer = Offer {
                    id,
                    message,
                    qos: target.qos.min(message.qos),
                    retain: message.retain && target.retain_as_published,
                    ids: target.ids,
                    share: target.share,
                };
                to.extend(self.offer(now, target.slot, offer, reaction));
            }
            if evicted != self.pot.evicted() {
                // It may have had to make room for itself, with the next of its subscribers.
                to.retain(|waiting: &Waiting| self.waits(waiting.session, id));
            }
            on_disk = Some((id, to)).filter(|(_, to)| !to.is_empty());
        }
        self.targets = targets;
        on_disk
    }

    /// All deliveries of a message, sorted by session.
    fn find(&mut self, message: &Message, source: Source, targets: &mut Vec<Target>) {
        let mut turns = Vec::new();
        let sessions = &self.sessions;
        let (limits, denied) = (&self.limits, &self.limits.deny_subscribe);
        let bytes = outgoing::bytes(message) + outgoing::extra_bytes(&[0], None);
        let open = |slot: Slot| {
            let owner = || sessions.get(slot).map_or("", |session| &session.owner);
            let back = source == Source::Bridge && sessions.get(slot).is_some_and(|session| session.bridge);
            !back && (denied.is_empty() || !is_denied(denied, owner(), &message.topic))
        };
        self.subscriptions.matches(&message.topic, |found| match found {
            Match::Each(subscribers) => {
                let own = |slot| source == Source::Client(slot);
                let wanted = |(slot, options): &&(Slot, Options)| !(options.no_local && own(*slot)) && open(*slot);
                let wanted = subscribers.iter().filter(wanted);
                targets.extend(wanted.map(|(slot, options)| Target::new(*slot, options, None)));
            }
            Match::OneOf { filter, members } => {
                let bytes = bytes + filter.len();
                let able = members.iter().filter_map(|member| Some((sessions.get(member.0)?, member)));
                let able = able.filter(|(session, (slot, options))| {
                    let reliable = session.persistent && options.qos.min(message.qos) != QoS::AtMostOnce;
                    (session.connected() || reliable) && open(*slot)
                });
                let next = able.min_by_key(|(session, (slot, options))| {
                    let qos = options.qos.min(message.qos);
                    let has_room = share::has_room(session, qos, bytes, limits);
                    share::turn(session, has_room, turns.contains(slot))
                });
                if let Some((_, (slot, options))) = next {
                    turns.push(*slot);
                    targets.push(Target::new(*slot, options, Some(filter.clone())));
                }
            }
        });
        for slot in turns {
            if let Some(session) = self.sessions.get_mut(slot) {
                session.shared_turn = self.next_turn;
                self.next_turn += 1;
            }
        }
        if targets.len() > 1 {
            // Stable: in the order of the filters, which is fixed.
            targets.sort_by_key(|target| (target.slot, target.share.is_some()));
            targets.dedup_by(|later, earlier| {
                let same = later.slot == earlier.slot && later.share.is_none() && earlier.share.is_none();
                if same {
                    earlier.merge(later);
                }
                same
            });
        }
    }

    /// Queues a message for one session if there is room. What has to be on disk for that is returned.
    pub(super) fn offer(
        &mut self,
        now: Millis,
        slot: Slot,
        offer: Offer<'_>,
        reaction: &mut Reaction,
    ) -> Option<Waiting> {
        if offer.qos == QoS::AtMostOnce {
            self.offer_unreliable(now, slot, offer, reaction);
            return None;
        }
        let session = self.sessions.get_mut(slot)?;
        if !session.connected() && !session.persistent {
            return None;
        }
        let bytes = offer.bytes();
        if !self.has_room(slot, bytes) {
            self.drop_expired(now, slot, reaction);
            if !self.has_room(slot, bytes) {
                self.counts.dropped.full += 1;
                return None;
            }
        }
        if !self.make_room(now, slot, bytes, true, reaction) {
            self.counts.dropped.total += 1;
            return None;
        }
        self.queue(slot, offer, reaction)
    }

    /// Queues a message of QoS 1 or 2.
    pub(super) fn queue(&mut self, slot: Slot, offer: Offer<'_>, reaction: &mut Reaction) -> Option<Waiting> {
        let session = self.sessions.get_mut(slot)?;
        let mut delivery = Delivery::new(offer);
        if delivery.qos == QoS::ExactlyOnce {
            delivery.packet_id = session.outgoing.take_packet_id();
            if delivery.packet_id.is_none() {
                self.counts.dropped.full += 1;
                return None;
            }
        }
        let waiting = session.persistent.then(|| delivery.waiting(session.id));
        session.outgoing.push(delivery);
        wake(session, reaction);
        self.book(slot);
        self.watch_pot(reaction);
        waiting
    }

    fn waits(&mut self, session: SessionId, id: MessageId) -> bool {
        let session = self.by_id.get(&session).and_then(|slot| self.sessions.get_mut(*slot));
        session.is_some_and(|session| session.outgoing.find_queued(id).is_some())
    }

    /// Whether the session's own limits allow it: one message of any size does not have to wait for others.
    pub(super) fn has_room(&self, slot: Slot, bytes: usize) -> bool {
        self.sessions.get(slot).is_some_and(|session| session.outgoing.has_room(bytes, &self.limits))
    }

    /// QoS 0 waits for a connection's socket only, and not for long: a slow consumer loses the oldest and hurts
    /// nobody else.
    fn offer_unreliable(&mut self, now: Millis, slot: Slot, offer: Offer<'_>, reaction: &mut Reaction) {
        let bytes = offer.bytes();
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(connection) = session.connection.as_mut() else { return };
        let queue = &mut connection.unreliable;
        while !queue.messages.is_empty()
            && (queue.messages.len() >= UNRELIABLE_QUEUED_MAX || queue.bytes + bytes > self.limits.max_queued_bytes)
        {
            queue.pop();
            self.counts.dropped.slow += 1;
        }
        self.book(slot);
        if !self.make_room(now, slot, bytes, false, reaction) {
            self.counts.dropped.slow += 1;
            return;
        }
        self.queue_unreliable(slot, offer, reaction);
    }

    /// Queues a message of QoS 0.
    pub(super) fn queue_unreliable(&mut self, slot: Slot, offer: Offer<'_>, reaction: &mut Reaction) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(connection) = session.connection.as_mut() else { return };
        connection.unreliable.push(Delivery::new(offer));
        wake(session, reaction);
        self.book(slot);
    }

    /// Makes room: what expired while it waited goes.
    fn drop_expired(&mut self, now: Millis, slot: Slot, reaction: &mut Reaction) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let before = session.outgoing.len();
        for id in session.outgoing.drop_expired(now) {
            if session.persistent {
                reaction.records.push(Record::OutgoingDone { session: session.id, id });
            }
        }
        let gone = before - session.outgoing.len();
        self.counts.dropped.expired += gone as u64;
        self.book(slot);
    }

    /// A message has left a session's queue for good.
    pub(super) fn done(&mut self, slot: Slot, delivery: &Delivery, reaction: &mut Reaction) {
        self.book(slot);
        if let Some(session) = self.sessions.get(slot).filter(|s| s.persistent) {
            reaction.records.push(Record::OutgoingDone { session: session.id, id: delivery.id });
        }
    }
}
