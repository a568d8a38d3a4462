//! CONNECT: a new session, one resumed, or a refusal (MQTT 5.0 §3.1, §3.2). [pure]

use std::collections::VecDeque;
use std::sync::Arc;

use super::inbound::Inbound;
use super::outgoing::{Outgoing, Queue};
use super::pot::Booked;
use super::record::{Message, Millis, Record};
use super::session::{Connection, Session, Slot, Will};
use super::{
    ALIASES_OUT_MAX, Broker, CLIENT_ID_BYTES_MAX, ConnectionId, Denied, Due, Reaction, WILL_BYTES_MAX, WINDOW_MAX, Who,
    wake,
};
use crate::event::topic;
use crate::ingest::mqtt::packet::{Connack, Connect, Packet, Reason, Version, Will as SentWill};
use crate::ingest::mqtt::topic::Filter;

impl Broker {
    /// CONNECT came on a new connection. The reply is CONNACK, after which the connection counts, or is closed.
    pub fn connect(&mut self, now: Millis, connection: ConnectionId, connect: Connect, who: Who) -> Reaction {
        let mut reaction = Reaction::default();
        self.happen(now, &mut reaction);
        let version = connect.version;
        if let Err((reason, why)) = self.welcome(now, connection, connect, who, &mut reaction) {
            let reason = match (reason, version) {
                // 3.1.1 has no code for these: 3, server unavailable.
                (Reason::QUOTA_EXCEEDED, Version::V311) => Reason::SERVER_UNAVAILABLE,
                // 5, not authorized.
                (Reason::TOPIC_NAME_INVALID | Reason::PACKET_TOO_LARGE, Version::V311) => Reason::NOT_AUTHORIZED,
                (reason, _) => reason,
            };
            reaction.replies.push(Packet::Connack(Box::new(connack(reason))));
            reaction.close = Some((reason, why));
        }
        reaction
    }

    fn welcome(
        &mut self,
        now: Millis,
        id: ConnectionId,
        connect: Connect,
        who: Who,
        reaction: &mut Reaction,
    ) -> Result<(), (Reason, &'static str)> {
        self.begun = None;
        if self.connections.contains_key(&id) {
            return Err((Reason::PROTOCOL_ERROR, "second CONNECT"));
        }
        check(&connect, &who, reaction)?;
        let (client_id, assigned) = self.client_id(&connect, id);
        let known = self.clients.get(client_id.as_str()).copied();
        if let Some(session) = known.and_then(|slot| self.sessions.get(slot))
            && session.owner != who.owner
        {
            reaction.denied.push(Denied::Session(client_id));
            return Err((Reason::NOT_AUTHORIZED, "the session belongs to another identity"));
        }
        if known.is_none() && !self.has_place(&who.owner) {
            return Err((Reason::QUOTA_EXCEEDED, "as many sessions as there may be"));
        }
        let will = connect.will.as_ref().map(will);
        if !self.may_begin(known, connect.clean_start, (&client_id, &who.owner), will.as_deref()) {
            self.tell_no_room(now, "a session or its will", &client_id, reaction);
            return Err((Reason::QUOTA_EXCEEDED, "no room for the session or its will"));
        }
        let resumed = known.and_then(|slot| self.take_over(now, slot, connect.clean_start, reaction));
        let asked = connect.session_expiry_s.unwrap_or(0);
        let expiry_s = asked.min(self.limits.session_expiry_max_s);
        let link = self.link(id, &connect, who.rules);
        let slot = match resumed {
            Some(slot) => {
                self.resume(now, slot, link, expiry_s, will, reaction);
                slot
            }
            None => {
                self.make_place(now, &who.owner, reaction);
                let slot = self.begin_session(client_id.as_str().into(), who.owner, link, expiry_s, will, reaction)?;
                self.begun = Some(slot);
                slot
            }
        };
        if reaction.records.is_empty() && self.ended.recently(now, &client_id) {
            reaction.records.push(Record::Time(now));
        }
        self.connections.insert(id, slot);
        if let Some(session) = self.sessions.get_mut(slot) {
            session.bridge = connect.bridge;
        }
        let mut connack = connack(Reason::SUCCESS);
        connack.session_present = resumed.is_some();
        if connect.version == Version::V5 {
            self.announce(&connect, expiry_s, assigned.then_some(client_id), &mut connack);
        }
        reaction.replies.push(Packet::Connack(Box::new(connack)));
        if let Some(session) = self.sessions.get_mut(slot).filter(|s| s.outgoing.len() > 0 || !s.pulls.is_empty()) {
            wake(session, reaction);
        }
        Ok(())
    }

    /// Whether a client of this name would take over the connection of another one of `owner`.
    pub fn takes_over(&self, client_id: &str, owner: &str) -> bool {
        let session = self.clients.get(client_id).and_then(|slot| self.sessions.get(*slot));
        session.is_some_and(|session| session.connection.is_some() && *session.owner == *owner)
    }

    /// The client id, and whether we made it.
    fn client_id(&mut self, connect: &Connect, id: ConnectionId) -> (String, bool) {
        if !connect.client_id.is_empty() {
            return (connect.client_id.clone(), false);
        }
        loop {
            let name = format!("auto-{:x}-{:x}", self.new_session_id(), id.0);
            if !self.clients.contains_key(name.as_str()) {
                return (name, true);
            }
        }
    }

    /// The client has a session: ends the other connection [MQTT-3.1.4-3], and the session where it has to. Returns the
    /// session that is left.
    fn take_over(&mut self, now: Millis, slot: Slot, clean_start: bool, reaction: &mut Reaction) -> Option<Slot> {
        let session = self.sessions.get(slot)?;
        let id = session.id;
        if let Some(connection) = &session.connection {
            if !connection.closing {
                reaction.kick.push((connection.id, Reason::SESSION_TAKEN_OVER));
            }
            self.detach(now, slot, true, reaction);
        }
        // Gone if it was not to outlive its connection.
        self.by_id.get(&id)?;
        if clean_start {
            self.end_session(now, slot, reaction);
            return None;
        }
        Some(slot)
    }

    fn link(&self, id: ConnectionId, connect: &Connect, rules: Arc<dyn super::Rules>) -> Box<Connection> {
        Box::new(Connection {
            id,
            version: connect.version,
            rules,
            asked_expiry_s: connect.session_expiry_s.unwrap_or(0),
            quota: self.limits.receive_max,
            window: usize::from(connect.receive_maximum.get().min(WINDOW_MAX)),
            max_packet: connect.maximum_packet_size.map_or(usize::MAX, |max| max as usize),
            aliases_in: Vec::new(),
            alias_bytes: 0,
            aliases_out: Vec::new(),
            aliases_out_max: connect.topic_alias_maximum.min(self.limits.topic_alias_max).min(ALIASES_OUT_MAX),
            alias_room: false,
            unreliable: Queue::default(),
            awake: false,
            closing: false,
        })
    }

    fn resume(
        &mut self,
        now: Millis,
        slot: Slot,
        link: Box<Connection>,
        expiry_s: u32,
        will: Option<Box<Will>>,
        reaction: &mut Reaction,
    ) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        if let Some(at) = session.expires_at.take() {
            self.due.remove(&(at, Due::Session(session.id)));
        }
        session.expiry_s = expiry_s;
        self.set_absent(slot, None);
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let rules = link.rules.clone();
        session.connection = Some(link);
        let id = session.id;
        reaction.records.push(if expiry_s == 0 {
            // It ends with this connection, and with the gateway: nothing of it is needed on disk any more.
            session.persistent = false;
            self.ended.add(now, &session.client_id);
            Record::SessionEnded { session: id }
        } else {
            Record::SessionExpiry { session: id, expires_at: None, expiry_s }
        });
        let denied = |filter: &str| Filter::parse(filter).is_ok_and(|f| !rules.may_subscribe(f.pattern()));
        let denied: Vec<_> = session.subscriptions.iter().filter(|(f, _)| denied(f)).map(|(f, _)| f.clone()).collect();
        for filter in denied {
            self.remove_subscription(slot, &filter, reaction);
            reaction.denied.push(Denied::Subscribe(filter.into()));
        }
        self.book(slot);
        // The will of the last connection is not published any more [MQTT-3.1.3-9].
        self.set_will(slot, will, reaction);
    }

    fn begin_session(
        &mut self,
        client_id: Arc<str>,
        owner: Arc<str>,
        link: Box<Connection>,
        expiry_s: u32,
        will: Option<Box<Will>>,
        reaction: &mut Reaction,
    ) -> Result<Slot, (Reason, &'static str)> {
        let id = self.new_session_id();
        let session = Box::new(Session {
            id,
            client_id: client_id.clone(),
            owner,
            bridge: false,
            persistent: expiry_s > 0,
            expiry_s,
            expires_at: None,
            absent_since: None,
            subscriptions: Vec::new(),
            subscription_bytes: 0,
            subscription_levels: 0,
            pulls: VecDeque::new(),
            inbound: Inbound::default(),
            outgoing: Outgoing::default(),
            will,
            connection: Some(link),
            shared_turn: 0,
            booked: Booked::default(),
            evicted: 0,
            evicted_told: None,
        });
        if session.persistent {
            reaction.records.push(Record::Session(Box::new(session.state())));
        }
        let owner = session.owner.clone();
        let slot = self.sessions.insert(session).ok_or((Reason::QUOTA_EXCEEDED, "no place for a session"))?;
        self.owners.began(&owner);
        self.clients.insert(client_id, slot);
        self.by_id.insert(id, slot);
        self.book(slot);
        Ok(slot)
    }

    /// What the client has to know of our limits (MQTT 5.0 §3.2.2.3).
    fn announce(&self, connect: &Connect, expiry_s: u32, assigned: Option<String>, connack: &mut Connack) {
        let limits = &self.limits;
        connack.session_expiry_s = (connect.session_expiry_s.unwrap_or(0) != expiry_s).then_some(expiry_s);
        connack.receive_maximum = Some(limits.receive_max);
        connack.maximum_packet_size = Some(limits.max_packet);
        connack.assigned_client_id = assigned;
        connack.topic_alias_maximum = (limits.topic_alias_max > 0).then_some(limits.topic_alias_max);
        // None at all is longer than any. 3.1.1 cannot be told: there the client's is taken as it is.
        let too_long = connect.keep_alive_s == 0 || connect.keep_alive_s > limits.keep_alive_max_s;
        connack.server_keep_alive_s = too_long.then_some(limits.keep_alive_max_s);
    }
}

/// What is wrong with a CONNECT in itself, and for this identity.
fn check(connect: &Connect, who: &Who, reaction: &mut Reaction) -> Result<(), (Reason, &'static str)> {
    if connect.authentication_method.is_some() {
        return Err((Reason::BAD_AUTHENTICATION_METHOD, "enhanced authentication is not offered"));
    }
    if connect.client_id.len() > CLIENT_ID_BYTES_MAX {
        return Err((Reason::CLIENT_ID_NOT_VALID, "client id too long"));
    }
    if connect.client_id.is_empty() && !connect.clean_start && connect.version == Version::V311 {
        return Err((Reason::CLIENT_ID_NOT_VALID, "no client id for a session that is kept")); // [MQTT-3.1.3-8]
    }
    match &connect.will {
        Some(will) if will.message.topic.starts_with('$') => {
            reaction.denied.push(Denied::Publish(will.message.topic.clone()));
            Err((Reason::TOPIC_NAME_INVALID, "will on a topic that begins with $"))
        }
        Some(will) if topic::check_name(&will.message.topic).is_err() => {
            Err((Reason::TOPIC_NAME_INVALID, "will on a topic with too many levels"))
        }
        Some(will) if !who.rules.may_publish(&will.message.topic) => {
            reaction.denied.push(Denied::Publish(will.message.topic.clone()));
            Err((Reason::NOT_AUTHORIZED, "will on a topic that the client may not publish to"))
        }
        Some(sent) if will(sent).bytes > WILL_BYTES_MAX => Err((Reason::PACKET_TOO_LARGE, "the will is too large")),
        _ => Ok(()),
    }
}

fn will(sent: &SentWill) -> Box<Will> {
    let publish = &sent.message;
    let message = Message {
        topic: publish.topic.clone(),
        qos: publish.qos,
        retain: publish.retain,
        payload: publish.payload.clone(),
        properties: publish.properties.clone(),
        expires_at: None,
    };
    Will::new(Arc::new(message), sent.delay_s, None)
}

fn connack(reason: Reason) -> Connack {
    Connack {
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
