//! The ends of connections and sessions, and what happens by itself as time passes. [pure]

use super::pot::Booked;
use super::record::{Message, Millis, Record};
use super::session::{NEVER, Session, Slot};
use super::{Broker, ConnectionId, Due, Past, Reaction, Source};
use crate::event::topic;
use crate::ingest::mqtt::topic::Filter;

impl Broker {
    /// The connection is gone, whatever the cause. Its will is published unless DISCONNECT came: also when it is the
    /// gateway that stops (MQTT 5.0 §3.1.2.5).
    pub fn closed(&mut self, now: Millis, connection: ConnectionId) -> Reaction {
        let mut reaction = Reaction::default();
        if let Some(&slot) = self.connections.get(&connection) {
            self.detach(now, slot, false, &mut reaction);
        }
        self.past.remove(&connection);
        reaction
    }

    /// Records of a reaction to what this connection said were not taken: nothing more is answered on it, neither what they
    /// promise nor what the shell still stores. It must end; its client asks again. `connects`: CONNECT was what it said.
    pub fn unkept(&mut self, connection: ConnectionId, connects: bool) {
        let Some(&slot) = self.connections.get(&connection) else { return };
        if connects && self.begun == Some(slot) {
            // CONNECT was refused with it: nothing of the session has ever been promised, and its will is not due.
            self.connections.remove(&connection);
            self.remove_session(slot);
            return;
        }
        self.hand_over(slot);
        if let Some(connection) = self.sessions.get_mut(slot).and_then(|session| session.connection.as_mut()) {
            connection.closing = true;
        }
    }

    /// The gateway stops: all connections end, and nobody is there to take what was meant for others.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// What is due by now: expiry of sessions and retained messages, wills. To be called at [`Self::next_deadline`].
    pub fn tick(&mut self, now: Millis) -> Reaction {
        let mut reaction = Reaction::default();
        self.happen(now, &mut reaction);
        reaction
    }

    /// When [`Self::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.due.first().map(|(at, _)| *at)
    }

    pub(super) fn happen(&mut self, now: Millis, reaction: &mut Reaction) {
        while self.due.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, due)) = self.due.pop_first()
        {
            match due {
                Due::Retained(topic) => self.expire_retained(now, &topic, reaction),
                Due::Will(session) => {
                    if let Some(&slot) = self.by_id.get(&session) {
                        self.publish_will(now, slot, reaction);
                    }
                }
                Due::Session(session) => {
                    if let Some(&slot) = self.by_id.get(&session) {
                        self.counts.sessions_expired += 1;
                        self.end_session(now, slot, reaction);
                    }
                }
            }
        }
    }

    /// Takes the connection off its session, which ends too or waits to be resumed. `is_back`: another one takes its place.
    pub(super) fn detach(&mut self, now: Millis, slot: Slot, is_back: bool, reaction: &mut Reaction) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let stored: Vec<_> = session.inbound.stored().filter(|_| session.persistent).collect();
        for (packet_id, name) in stored {
            if session.inbound.put_upstream(packet_id, name) {
                reaction.records.push(Record::Stored { session: session.id, packet_id });
            }
        }
        if let Some(connection) = session.connection.take() {
            self.connections.remove(&connection.id);
            let storing: Vec<_> = session.inbound.storing().collect();
            if !storing.is_empty() {
                self.past.insert(connection.id, Past { session: session.id, storing });
            }
        }
        session.outgoing.requeue();
        session.inbound.disconnect();
        let over = !session.persistent || session.expiry_s == 0;
        self.book(slot);
        if over {
            self.end_session(now, slot, reaction);
            return;
        }
        if !is_back && !self.stopping {
            self.share_out(now, slot, reaction);
        }
        self.fit_pot(now, reaction);
        self.start_expiry(now, slot, reaction);
        self.delay_will(now, slot, reaction);
    }

    /// From now on the session waits to be resumed (MQTT 5.0 §3.1.2.11.2).
    pub(super) fn start_expiry(&mut self, now: Millis, slot: Slot, reaction: &mut Reaction) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let expiry_s = session.expiry_s;
        session.expires_at = (expiry_s != NEVER).then(|| now + u64::from(expiry_s) * 1000);
        if let Some(at) = session.expires_at {
            self.due.insert((at, Due::Session(session.id)));
        }
        let (session, expires_at) = (session.id, session.expires_at);
        reaction.records.push(Record::SessionExpiry { session, expires_at, expiry_s });
        self.set_absent(slot, Some(now));
    }

    /// The session is over. Its will does not outlive it [MQTT-3.1.3-9].
    pub(super) fn end_session(&mut self, now: Millis, slot: Slot, reaction: &mut Reaction) {
        self.publish_will(now, slot, reaction);
        let Some(mut session) = self.remove_session(slot) else { return };
        self.bequeath(now, &mut session, reaction);
        if session.persistent {
            reaction.records.push(Record::SessionEnded { session: session.id });
            self.ended.add(now, &session.client_id);
        }
    }

    /// Takes a session out of everything.
    pub(super) fn remove_session(&mut self, slot: Slot) -> Option<Box<Session>> {
        let session = self.sessions.remove(slot)?;
        let filters = session.subscriptions.iter().filter_map(|(filter, _)| Filter::parse(filter).ok());
        self.subscriptions.remove_all(filters, slot);
        self.clients.remove(&session.client_id);
        self.by_id.remove(&session.id);
        if let Some(at) = session.expires_at {
            self.due.remove(&(at, Due::Session(session.id)));
        }
        if let Some(at) = session.will.as_ref().and_then(|will| will.due_at) {
            self.due.remove(&(at, Due::Will(session.id)));
        }
        self.owners.ended(&session.owner, slot, session.absent_since);
        self.change_pot(slot, session.booked, Booked::default());
        Some(session)
    }

    /// Publishes a message of the gateway's own: to local subscribers, and retained where it says so; `keep`: on disk
    /// too, else only in memory. It does not go upstream. One on a topic that nobody may publish to, which can come from
    /// a bridge, is dropped and counted.
    pub fn publish_own(&mut self, now: Millis, source: Source, message: Message, keep: bool) -> Reaction {
        let mut reaction = Reaction::default();
        if topic::check_name(&message.topic).is_err() {
            self.counts.dropped.not_allowed += 1;
            return reaction;
        }
        let message = std::sync::Arc::new(message);
        if message.retain {
            self.retain(&message, keep, &mut reaction);
        }
        if let Some((id, to)) = self.route(now, &message, source, &mut reaction) {
            reaction.records.push(Record::Queued { id, message, to, received: None, moved: None });
        }
        reaction
    }

    /// Retains a message of the gateway's own, in memory only, without a word to subscribers.
    pub fn retain_own(&mut self, message: Message) -> Reaction {
        let mut reaction = Reaction::default();
        self.retain(&std::sync::Arc::new(message), false, &mut reaction);
        reaction
    }
}
