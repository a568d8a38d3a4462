//! PUBLISH from clients, and what becomes of it once it is stored (MQTT 5.0 §3.3, §4.3). [pure]

use std::sync::Arc;

use super::held::{self, Held};
use super::inbound::{INCOMING_BYTES, Incoming, Stage};
use super::outgoing;
use super::packets::ack;
use super::record::{self, Message, Millis, Record};
use super::session::Slot;
use super::{
    Broker, ConnectionId, Denied, EventName, KEPT_TOPIC_BYTES_MAX, Published, Reaction, UNRELEASED_FACTOR, Unstored,
};
use crate::event::topic;
use crate::ingest::mqtt::packet::{Packet, PacketId, Publish, QoS, Reason, Version};

/// What is done with a PUBLISH that may not be taken.
enum Verdict {
    Take,
    Refuse(Reason),
    /// Acknowledged, and forgotten.
    Ignore,
}

impl Broker {
    /// A PUBLISH came. Its records have to be on disk before [`Self::stored`] is told of it.
    pub fn publish(&mut self, now: Millis, connection: ConnectionId, publish: Publish) -> (Published, Reaction) {
        let mut reaction = Reaction::default();
        let published = match self.slot_of(connection) {
            Some(slot) => {
                let published = self.arrived(now, slot, publish, None, &mut reaction);
                self.book(slot);
                published.unwrap_or(Published::Answered)
            }
            None => Published::Answered,
        };
        (published, reaction)
    }

    /// A PUBLISH came that the shell would rather not take, for a client of 5.0: QoS 1 and 2 are told `reason`. A QoS 2
    /// message that may have been stored before a crash is taken all the same, or it could come twice.
    pub fn publish_refused(
        &mut self,
        now: Millis,
        connection: ConnectionId,
        publish: Publish,
        reason: Reason,
    ) -> (Published, Reaction) {
        let mut reaction = Reaction::default();
        let Some(slot) = self.slot_of(connection) else { return (Published::Answered, reaction) };
        if self.is_intended(slot, &publish) {
            return self.publish(now, connection, publish);
        }
        let published = self.arrived(now, slot, publish, Some(reason), &mut reaction);
        self.book(slot);
        (published.unwrap_or(Published::Answered), reaction)
    }

    /// By the packet id alone: its topic may be an alias. Taken for one that it is not, it is not refused.
    fn is_intended(&mut self, slot: Slot, publish: &Publish) -> bool {
        let session = self.sessions.get_mut(slot);
        let incoming = session.zip(publish.packet_id).and_then(|(session, id)| session.inbound.get_mut(id));
        publish.qos == QoS::ExactlyOnce && incoming.is_some_and(|incoming| incoming.stage == Stage::Intended)
    }

    /// `None`: answered, dropped, or the connection is closed.
    fn arrived(
        &mut self,
        now: Millis,
        slot: Slot,
        publish: Publish,
        refused: Option<Reason>,
        reaction: &mut Reaction,
    ) -> Option<Published> {
        self.counts.received += 1;
        self.counts.received_bytes += publish.payload.len() as u64;
        let topic = self.topic(now, slot, &publish, reaction)?;
        let verdict = refused.map_or_else(|| self.judge(slot, &topic), Verdict::Refuse);
        if refused.is_none() && !matches!(verdict, Verdict::Take) {
            reaction.denied.push(Denied::Publish(topic.clone()));
        }
        let packet_id = match (publish.qos, publish.packet_id) {
            (QoS::AtMostOnce, _) => None,
            (_, Some(id)) => Some(id),
            (_, None) => {
                self.close(slot, Reason::MALFORMED_PACKET, "PUBLISH without packet identifier", reaction);
                return None;
            }
        };
        let digest = packet_id.map_or(0, |_| record::digest(&topic, &publish.payload));
        if let Some(id) = packet_id
            && let Some(known) = self.known(now, slot, id, publish.qos, digest, reaction)
        {
            return Some(known);
        }
        if let Some(id) = packet_id
            && !self.spend_quota(slot, id, publish.qos, reaction)
        {
            return None;
        }
        let message = match verdict {
            Verdict::Take => Some(Arc::new(message(now, topic, &publish))),
            _ => None,
        };
        let Some(packet_id) = packet_id else {
            let Some(message) = message else {
                self.counts.dropped.not_allowed += u64::from(refused.is_none());
                return None;
            };
            self.deliver(now, &message, Some(slot), reaction);
            return Some(Published::New { message, name: None });
        };
        match (verdict, message) {
            (Verdict::Take, Some(message)) => {
                let arrival = Arrival { packet_id, dup: publish.dup, digest };
                Some(self.begin(now, slot, arrival, message, reaction))
            }
            (Verdict::Refuse(reason), _) => {
                let stage = Stage::Refused(Unstored::for_good(reason));
                self.decline(now, slot, packet_id, publish.qos, stage, reaction);
                None
            }
            _ => {
                self.decline(now, slot, packet_id, publish.qos, Stage::Stored, reaction);
                None
            }
        }
    }

    /// The topic of a PUBLISH, its alias resolved or learnt (MQTT 5.0 §3.3.2.3.4).
    fn topic(&mut self, now: Millis, slot: Slot, publish: &Publish, reaction: &mut Reaction) -> Option<Arc<str>> {
        let alias = publish.properties.as_deref().and_then(|p| p.topic_alias);
        let Some(alias) = alias else {
            if publish.topic.is_empty() {
                self.close(slot, Reason::PROTOCOL_ERROR, "PUBLISH with neither topic nor topic alias", reaction);
                return None;
            }
            return Some(publish.topic.clone());
        };
        let at = usize::from(alias.get()) - 1;
        if alias.get() > self.limits.topic_alias_max {
            self.close(slot, Reason::TOPIC_ALIAS_INVALID, "topic alias above the maximum", reaction);
            return None;
        }
        if publish.topic.is_empty() {
            let connection = self.sessions.get(slot)?.connection.as_ref()?;
            let known = connection.aliases_in.get(at).cloned().flatten();
            if known.is_none() {
                self.close(slot, Reason::TOPIC_ALIAS_INVALID, "unknown topic alias", reaction);
            }
            return known;
        }
        self.learn_alias(now, slot, at, &publish.topic, reaction).then(|| publish.topic.clone())
    }

    /// Whether there is room for it. Without it, later messages would come under the topic that had the alias before.
    fn learn_alias(&mut self, now: Millis, slot: Slot, at: usize, topic: &Arc<str>, reaction: &mut Reaction) -> bool {
        if topic.len() > KEPT_TOPIC_BYTES_MAX {
            self.close(slot, Reason::QUOTA_EXCEEDED, "topic alias for a topic of more than 1024 bytes", reaction);
            return false;
        }
        let Some(session) = self.sessions.get(slot) else { return false };
        let Some(connection) = session.connection.as_ref() else { return false };
        let places = (at + 1).saturating_sub(connection.aliases_in.len());
        let old = connection.aliases_in.get(at).and_then(|known| known.as_deref()).map_or(0, held::alias_bytes);
        let new = held::alias_bytes(topic) + places * size_of::<Option<Arc<str>>>();
        if !self.may_hold(slot, Held::bytes(new.saturating_sub(old))) {
            let client_id = session.client_id.clone();
            self.tell_no_room(now, "a topic alias", &client_id, reaction);
            self.close(slot, Reason::QUOTA_EXCEEDED, "no room for a topic alias", reaction);
            return false;
        }
        let Some(connection) = self.sessions.get_mut(slot).and_then(|s| s.connection.as_mut()) else { return false };
        if places > 0 {
            connection.aliases_in.resize(at + 1, None);
        }
        connection.aliases_in[at] = Some(topic.clone());
        connection.alias_bytes = connection.alias_bytes - old + new;
        true
    }

    fn judge(&self, slot: Slot, topic: &str) -> Verdict {
        let Some(connection) = self.sessions.get(slot).and_then(|s| s.connection.as_ref()) else {
            return Verdict::Ignore;
        };
        if topic.starts_with('$') {
            // §4.7.2: these are the server's. 3.1.1 cannot be told; to close the connection would only bring the
            // message back, and nobody else is allowed it either [MQTT-3.3.5-2].
            return match connection.version {
                Version::V5 => Verdict::Refuse(Reason::TOPIC_NAME_INVALID),
                Version::V311 => Verdict::Ignore,
            };
        }
        if topic::check_name(topic).is_err() {
            // Of what the decoder lets through that is too many levels. §3.4.2.1 has a code; 3.1.1 does not.
            return Verdict::Refuse(Reason::TOPIC_NAME_INVALID);
        }
        if !connection.rules.may_publish(topic) {
            // 3.1.1 is not told: an acknowledgement, or the end of the connection [MQTT-3.3.5-2], which would bring the
            // message back before all others.
            return Verdict::Refuse(Reason::NOT_AUTHORIZED);
        }
        Verdict::Take
    }

    /// A packet id that is in use: what that means. `None`: it is not, or the QoS 2 packet is stored anew.
    fn known(
        &mut self,
        now: Millis,
        slot: Slot,
        id: PacketId,
        qos: QoS,
        digest: u64,
        reaction: &mut Reaction,
    ) -> Option<Published> {
        let session = self.sessions.get_mut(slot)?;
        let incoming = session.inbound.get_mut(id)?;
        let same = incoming.qos == qos && (qos == QoS::AtLeastOnce || [0, digest].contains(&incoming.digest));
        match incoming.stage {
            Stage::Intended if same => None,
            Stage::Received if same => {
                session.inbound.answer_again(id);
                self.answer(now, slot, reaction);
                Some(Published::Answered)
            }
            Stage::Received | Stage::Intended => {
                // A client that has forgotten its QoS 2 exchange and counts from 1 again, whatever [MQTT-2.3.1-4] says: this is
                // another message, and to acknowledge it for the first would lose it. To close the connection would bring it
                // back with the same packet, for good.
                session.inbound.remove(id);
                if let Some(connection) = session.connection.as_mut() {
                    connection.quota = connection.quota.saturating_add(1).min(self.limits.receive_max);
                }
                if session.persistent {
                    reaction.records.push(Record::Released { session: session.id, packet_id: id });
                }
                None
            }
            _ if same => Some(Published::Pending),
            _ => {
                // [MQTT-2.2.1-3]: it is not free before the exchange has ended.
                self.close(slot, Reason::PROTOCOL_ERROR, "packet identifier in use", reaction);
                Some(Published::Answered)
            }
        }
    }

    /// One more QoS 1 or 2 message under way (MQTT 5.0 §4.9); 3.1.1 has no such limit, there the shell reads no faster
    /// than it stores. Of either, what is not released is bounded over all connections of the session.
    fn spend_quota(&mut self, slot: Slot, id: PacketId, qos: QoS, reaction: &mut Reaction) -> bool {
        let Some(session) = self.sessions.get_mut(slot) else { return false };
        let unreleased_max = UNRELEASED_FACTOR * usize::from(self.limits.receive_max);
        if qos == QoS::ExactlyOnce && session.inbound.exactly_once() >= unreleased_max && !session.inbound.knows(id) {
            let why = "too many QoS 2 messages that were not released";
            self.close(slot, Reason::RECEIVE_MAXIMUM_EXCEEDED, why, reaction);
            return false;
        }
        let Some(connection) = session.connection.as_mut() else { return false };
        if connection.version == Version::V311 {
            return true;
        }
        match connection.quota.checked_sub(1) {
            Some(left) => {
                connection.quota = left;
                true
            }
            None => {
                self.close(slot, Reason::RECEIVE_MAXIMUM_EXCEEDED, "more messages under way than allowed", reaction);
                false
            }
        }
    }

    /// A QoS 1 or 2 message that is taken: it is stored next.
    fn begin(
        &mut self,
        now: Millis,
        slot: Slot,
        arrival: Arrival,
        message: Arc<Message>,
        reaction: &mut Reaction,
    ) -> Published {
        let Arrival { packet_id, dup, digest } = arrival;
        let room =
            !message.retain || self.may_retain(&message.topic, outgoing::bytes(&message), message.payload.is_empty());
        let version = self.sessions.get(slot).and_then(|s| s.connection.as_ref()).map(|c| c.version);
        // QoS 2 under a name that it had before may be stored: to refuse it now would make a second message of it.
        let again = self.sessions.get(slot).is_some_and(|session| session.inbound.knows(packet_id));
        if !room && version == Some(Version::V5) && !again {
            // Who is there gets it once: QoS 2 that is refused may come again.
            if message.qos == QoS::AtLeastOnce {
                self.deliver(now, &message, Some(slot), reaction);
            } else {
                self.counts.dropped.not_retained += 1;
            }
            self.no_room(now, slot, (packet_id, message.qos), "a retained message", reaction);
            return Published::Answered;
        }
        if message.qos == QoS::ExactlyOnce && !again && !self.may_hold(slot, Held::bytes(INCOMING_BYTES)) {
            self.no_room(now, slot, (packet_id, message.qos), "a message with QoS 2", reaction);
            return Published::Answered;
        }
        if message.qos == QoS::AtLeastOnce {
            let stage = Stage::Storing;
            let (qos, again, upstream) = (message.qos, false, false);
            let incoming = Incoming { packet_id, qos, stage, digest, name: None, again, upstream, message: None };
            let Some(session) = self.sessions.get_mut(slot) else { return Published::Answered };
            session.inbound.put_unanswered(incoming);
            // §3.3.1.1: only what was sent before has the flag.
            if dup && self.handed.take(&session.client_id, packet_id, digest) {
                // The acknowledgement promises what was written then.
                reaction.records.push(Record::Time(now));
            } else {
                self.deliver(now, &message, Some(slot), reaction);
            }
            return Published::New { message, name: None };
        }
        let name = self.intend(slot, packet_id, digest, &message, reaction);
        let incoming = self.sessions.get_mut(slot).and_then(|session| session.inbound.get_mut(packet_id));
        if let Some(incoming) = incoming.filter(|incoming| incoming.upstream) {
            incoming.stage = Stage::Stored;
            self.answer(now, slot, reaction);
            return Published::Answered;
        }
        Published::New { message, name }
    }

    /// A message that has to wait until there is less of what is kept; what 3.1.1 cannot be told ends the connection.
    fn no_room(
        &mut self,
        now: Millis,
        slot: Slot,
        (id, qos): (PacketId, QoS),
        what: &'static str,
        reaction: &mut Reaction,
    ) {
        if let Some(client_id) = self.sessions.get(slot).map(|session| session.client_id.clone()) {
            self.tell_no_room(now, what, &client_id, reaction);
        }
        reaction.words.push((id, "the gateway has no room to keep it; see mqtt.max_retained, mqtt.max_retained_bytes"));
        let stage = Stage::Refused(Unstored::for_now(Reason::QUOTA_EXCEEDED));
        self.decline(now, slot, id, qos, stage, reaction);
    }

    /// QoS 2: gives it its name, or finds it.
    fn intend(
        &mut self,
        slot: Slot,
        packet_id: PacketId,
        digest: u64,
        message: &Arc<Message>,
        reaction: &mut Reaction,
    ) -> Option<EventName> {
        let session = self.sessions.get_mut(slot)?;
        let known = session.inbound.get_mut(packet_id);
        let (known, upstream) = known.map_or((None, false), |incoming| (incoming.name, incoming.upstream));
        let again = known.is_some();
        let name = match known {
            Some(name) => Some(name),
            None if session.persistent => {
                let name = self.next_name;
                self.next_name = name.wrapping_add(1);
                reaction.records.push(Record::Intent { session: session.id, packet_id, name, digest });
                Some(name)
            }
            None => None,
        };
        let (stage, message) = (Stage::Storing, Some(message.clone()));
        let qos = QoS::ExactlyOnce;
        session.inbound.put_unanswered(Incoming { packet_id, qos, stage, digest, name, again, upstream, message });
        name.map(|number| EventName { session: session.id, number })
    }

    /// Answers without storing, in its turn.
    fn decline(
        &mut self,
        now: Millis,
        slot: Slot,
        packet_id: PacketId,
        qos: QoS,
        stage: Stage,
        reaction: &mut Reaction,
    ) {
        let over = matches!(stage, Stage::Refused(unstored) if unstored.reason == Reason::QUOTA_EXCEEDED);
        self.counts.dropped.not_allowed += u64::from(!over);
        if let Some(session) = self.sessions.get_mut(slot) {
            let known = session.inbound.get_mut(packet_id).map(|i| (i.name, i.digest, i.upstream));
            let (name, digest, upstream) = known.unwrap_or_default();
            let (again, message) = (false, None);
            session.inbound.put_unanswered(Incoming { packet_id, qos, stage, digest, name, again, upstream, message });
        }
        self.answer(now, slot, reaction);
    }

    /// These are stored, or cannot be: PUBACK and PUBREC in the order of arrival [MQTT-4.6.0-2], [MQTT-4.6.0-3].
    pub fn stored(
        &mut self,
        now: Millis,
        connection: ConnectionId,
        results: &[(PacketId, Result<(), Unstored>)],
    ) -> Reaction {
        let mut reaction = Reaction::default();
        let Some(slot) = self.slot_of(connection) else {
            self.stored_late(connection, results, &mut reaction);
            return reaction;
        };
        if let Some(session) = self.sessions.get_mut(slot) {
            for &(id, result) in results {
                if let Some(incoming) = session.inbound.get_mut(id).filter(|i| i.stage == Stage::Storing) {
                    incoming.stage = result.map_or_else(Stage::Refused, |()| Stage::Stored);
                }
            }
        }
        self.answer(now, slot, &mut reaction);
        self.book(slot);
        reaction
    }

    /// Nobody can be answered any more. That QoS 2 messages are stored counts all the same: the outbox knows their names for a
    /// while only, and they may come again long after that.
    fn stored_late(
        &mut self,
        connection: ConnectionId,
        results: &[(PacketId, Result<(), Unstored>)],
        reaction: &mut Reaction,
    ) {
        let attached = self.connections.get(&connection).and_then(|slot| self.sessions.get(*slot));
        let attached = attached.map(|session| (session.id, session.inbound.storing().collect::<Vec<_>>()));
        let past = || self.past.get(&connection).map(|past| (past.session, past.storing.clone()));
        let Some((id, storing)) = attached.or_else(past) else { return };
        let session = self.by_id.get(&id).and_then(|slot| self.sessions.get_mut(*slot));
        let Some(session) = session.filter(|session| session.persistent) else { return };
        for (packet_id, _) in results.iter().filter(|(_, result)| result.is_ok()) {
            let name = storing.iter().find(|(id, _)| id == packet_id).map(|(_, name)| *name);
            if name.is_some_and(|name| session.inbound.put_upstream(*packet_id, name)) {
                reaction.records.push(Record::Stored { session: id, packet_id: *packet_id });
            }
        }
    }

    /// Gives the answers that are due.
    fn answer(&mut self, now: Millis, slot: Slot, reaction: &mut Reaction) {
        while let Some(session) = self.sessions.get_mut(slot) {
            let persistent = session.persistent.then_some(session.id);
            let Some(connection) = session.connection.as_mut().filter(|c| !c.closing) else { return };
            let Some(incoming) = session.inbound.next_answer() else { return };
            let (packet_id, qos, stage) = (incoming.packet_id, incoming.qos, incoming.stage);
            let sent_before = incoming.again;
            let refused = match (stage, connection.version) {
                // It has no negative answer. For one that will never be taken the positive one: the shell has counted it.
                (Stage::Refused(unstored), Version::V311) if unstored.for_good => None,
                (Stage::Refused(unstored), Version::V311) => {
                    // "Taken" would be a lie: the message comes again with a new connection.
                    self.hand_over(slot);
                    self.close(slot, unstored.reason, "message refused", reaction);
                    return;
                }
                (Stage::Refused(unstored), Version::V5) if unstored.unsure && sent_before => {
                    // Its client would send what it takes for refused as a new message. So it keeps its name, and comes again.
                    self.hand_over(slot);
                    self.close(slot, unstored.reason, "nobody can tell whether the message is stored", reaction);
                    return;
                }
                (Stage::Refused(unstored), Version::V5) => Some(unstored.reason),
                _ => None,
            };
            let reason = refused.unwrap_or(Reason::SUCCESS);
            if qos == QoS::AtLeastOnce || refused.is_some() {
                connection.quota = connection.quota.saturating_add(1).min(self.limits.receive_max);
                let incoming = session.inbound.remove(packet_id);
                let answer = ack(packet_id, reason);
                if qos == QoS::AtLeastOnce {
                    reaction.replies.push(Packet::Puback(answer));
                    continue;
                }
                if let (Some(session), Some(_)) = (persistent, incoming.and_then(|i| i.name)) {
                    reaction.records.push(Record::Released { session, packet_id });
                }
                reaction.replies.push(Packet::Pubrec(answer));
                continue;
            }
            let again = std::mem::replace(&mut incoming.stage, Stage::Received) == Stage::Received;
            let message = incoming.message.take();
            reaction.replies.push(Packet::Pubrec(ack(packet_id, Reason::SUCCESS)));
            let received = persistent.map(|session| (session, packet_id));
            match (message, received) {
                _ if again => {}
                (Some(message), received) => self.deliver_received(now, &message, Some(slot), received, reaction),
                (None, Some((session, packet_id))) => reaction.records.push(Record::Received { session, packet_id }),
                (None, None) => {}
            }
        }
    }

    /// What local subscribers have and the client will send again: they need not get it again.
    pub(super) fn hand_over(&mut self, slot: Slot) {
        let Some(session) = self.sessions.get(slot) else { return };
        for (packet_id, digest) in session.inbound.unanswered_qos_1() {
            self.handed.note(&session.client_id, packet_id, digest);
        }
    }

    /// PUBREL: the exchange ends, the packet id is free (MQTT 5.0 §4.3.3).
    pub(super) fn released(&mut self, slot: Slot, packet_id: PacketId, reaction: &mut Reaction) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Some(connection) = session.connection.as_mut() else { return };
        let known = session.inbound.get_mut(packet_id).filter(|i| i.qos == QoS::ExactlyOnce).map(|i| i.stage);
        let reason = match (known, connection.version) {
            (Some(Stage::Received | Stage::Intended), _) => Reason::SUCCESS,
            (Some(_), _) => {
                self.close(slot, Reason::PROTOCOL_ERROR, "PUBREL before PUBREC", reaction);
                return;
            }
            (None, Version::V5) => Reason::PACKET_ID_NOT_FOUND,
            (None, Version::V311) => Reason::SUCCESS,
        };
        if known.is_some() {
            session.inbound.remove(packet_id);
            connection.quota = connection.quota.saturating_add(1).min(self.limits.receive_max);
            if session.persistent {
                reaction.records.push(Record::Released { session: session.id, packet_id });
            }
        }
        reaction.replies.push(Packet::Pubcomp(ack(packet_id, reason)));
    }
}

/// What counts of a PUBLISH packet besides its message.
struct Arrival {
    packet_id: PacketId,
    dup: bool,
    digest: u64,
}

fn message(now: Millis, topic: Arc<str>, publish: &Publish) -> Message {
    let mut properties = publish.properties.clone();
    let mut expires_at = None;
    if let Some(p) = &mut properties {
        p.topic_alias = None;
        p.subscription_ids = Vec::new();
        expires_at = p.message_expiry_s.map(|s| now + u64::from(s) * 1000);
        if **p == crate::ingest::mqtt::packet::Properties::default() {
            properties = None;
        }
    }
    let (qos, retain, payload) = (publish.qos, publish.retain, publish.payload.clone());
    Message { topic, qos, retain, payload, properties, expires_at }
}
