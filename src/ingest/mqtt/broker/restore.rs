//! The state again, from the records of an earlier run. [pure]

use std::collections::VecDeque;
use std::sync::Arc;

use super::inbound::{Inbound, Incoming, Stage};
use super::outgoing::{Delivery, Outgoing};
use super::pot::Booked;
use super::record::{Intent, Message, MessageId, Millis, Record, SessionId, SessionState, Waiting};
use super::session::{Options, Session, Slot, Will};
use super::{AWAY_DOUBTED_MS, Broker, Due, EventName, Reaction};
use crate::ingest::mqtt::packet::{FilterOptions, PacketId, QoS};
use crate::ingest::mqtt::topic::Filter;

impl Broker {
    /// Applies one record; all of them in the order in which they were written, before any connection. What speaks of a
    /// session that is not known is left out: the record that began it is gone because the session is.
    pub fn restore(&mut self, record: Record) {
        match record {
            Record::Session(state) => self.restore_session(*state),
            Record::SessionEnded { session } => {
                if let Some(slot) = self.restored_slot(session) {
                    self.remove_session(slot);
                }
            }
            Record::SessionExpiry { session, expires_at, expiry_s } => self.with(session, |broker, slot| {
                broker.set_expiry(slot, expires_at, expiry_s);
            }),
            Record::Subscribed { session, options, subscription_id } => self.with(session, |broker, slot| {
                broker.restore_subscription(slot, &options, subscription_id);
            }),
            Record::Unsubscribed { session, filter } => self.with(session, |broker, slot| {
                broker.remove_subscription(slot, &filter, &mut Reaction::default());
            }),
            Record::Intent { session, packet_id, name, digest } => self.with(session, |broker, slot| {
                if let Some(session) = broker.sessions.get_mut(slot) {
                    session.inbound.put(qos_2(packet_id, Stage::Intended, Some(name), digest));
                }
            }),
            Record::Stored { session, packet_id } => self.with(session, |broker, slot| {
                let incoming = broker.sessions.get_mut(slot).and_then(|s| s.inbound.get_mut(packet_id));
                if let Some(incoming) = incoming {
                    incoming.upstream = true;
                }
            }),
            Record::Received { session, packet_id } => self.received(session, packet_id),
            Record::Released { session, packet_id } => self.with(session, |broker, slot| {
                if let Some(session) = broker.sessions.get_mut(slot) {
                    session.inbound.remove(packet_id);
                }
            }),
            Record::Queued { id, message, to, received, moved } => {
                if let Some((session, id)) = moved {
                    self.with(session, |broker, slot| {
                        broker.replace_queue(slot, |outgoing| drop(outgoing.remove(id)));
                    });
                }
                for waiting in to {
                    self.with(waiting.session, |broker, slot| broker.restore_waiting(slot, id, &message, waiting));
                }
                self.next_message = self.next_message.max(id + 1);
                if let Some((session, packet_id)) = received {
                    self.received(session, packet_id);
                }
            }
            Record::OutgoingSent { session, through } => self.with(session, |broker, slot| {
                broker.replace_queue(slot, |outgoing| outgoing.sent_through(through));
            }),
            Record::OutgoingReceived { session, id } => self.with(session, |broker, slot| {
                let queued = broker.sessions.get_mut(slot).and_then(|s| s.outgoing.find_queued(id));
                if let Some(delivery) = queued {
                    delivery.received = true;
                }
            }),
            Record::OutgoingDone { session, id } => self.with(session, |broker, slot| {
                broker.replace_queue(slot, |outgoing| drop(outgoing.remove(id)));
            }),
            Record::Retained { topic, message: Some(message) } => {
                debug_assert_eq!(topic, message.topic);
                self.put_retained(message, true);
            }
            Record::Retained { topic, message: None } => self.forget_retained(&topic, &mut Reaction::default()),
            Record::Will { session, will, due_at } => self.with(session, |broker, slot| {
                let will = will.map(|(message, delay_s)| Will::new(message, delay_s, due_at));
                broker.restore_will(slot, will);
            }),
            Record::Time(_) => {}
        }
    }

    /// All records are applied: connections that the end of the last run cut off count as ended now. `away_ms`: how far the
    /// time went on since then; see [`AWAY_DOUBTED_MS`].
    pub fn restored(&mut self, now: Millis, away_ms: Millis) -> Reaction {
        let mut reaction = Reaction::default();
        if away_ms > AWAY_DOUBTED_MS {
            self.postpone_expiry(away_ms, &mut reaction);
        }
        let cut_off = |session: &Session| {
            let waits = session.expires_at.is_some() || session.expiry_s == super::session::NEVER;
            (!waits, session.will.as_ref().is_some_and(|will| will.due_at.is_none()))
        };
        let slots: Vec<_> = self.sessions.from(0).map(|(slot, session)| (slot, cut_off(session))).collect();
        for (slot, (in_use, has_will)) in slots {
            self.book(slot);
            if in_use {
                self.start_expiry(now, slot, &mut reaction);
            }
            if self.sessions.get(slot).is_some_and(|session| session.absent_since.is_none()) {
                // Of those that never end nobody knows for how long.
                self.set_absent(slot, Some(now));
            }
            if has_will {
                self.delay_will(now, slot, &mut reaction);
            }
        }
        self.happen(now, &mut reaction);
        self.fit_pot(now, &mut reaction);
        self.watch_pot(&mut reaction);
        reaction
    }

    fn postpone_expiry(&mut self, by_ms: Millis, reaction: &mut Reaction) {
        let waiting = self.sessions.from(0).filter_map(|(slot, s)| Some((slot, s.id, s.expires_at?, s.expiry_s)));
        for (slot, session, at, expiry_s) in waiting.collect::<Vec<_>>() {
            let expires_at = Some(at.saturating_add(by_ms));
            self.set_expiry(slot, expires_at, expiry_s);
            reaction.records.push(Record::SessionExpiry { session, expires_at, expiry_s });
        }
    }

    /// Of QoS 2 messages that the last run left before it heard of their end: whether they are stored, as `is_stored` says by
    /// the client's id and the name. They may come again when the outbox has forgotten the name; then they are answered. Of
    /// the others nobody knows, so they keep their names.
    pub fn resolve(&mut self, is_stored: impl Fn(&str, EventName) -> bool) -> Reaction {
        let mut reaction = Reaction::default();
        let slots: Vec<_> = self.sessions.from(0).map(|(slot, _)| slot).collect();
        for slot in slots {
            let Some(session) = self.sessions.get_mut(slot).filter(|session| session.persistent) else { continue };
            let unresolved: Vec<_> = session.inbound.intents().filter(|intent| !intent.stored).collect();
            for Intent { packet_id, name: number, .. } in unresolved {
                let name = EventName { session: session.id, number };
                if is_stored(&session.client_id, name) && session.inbound.put_upstream(packet_id, number) {
                    reaction.records.push(Record::Stored { session: session.id, packet_id });
                }
            }
        }
        reaction
    }

    fn restored_slot(&self, session: SessionId) -> Option<Slot> {
        self.by_id.get(&session).copied()
    }

    fn with(&mut self, session: SessionId, change: impl FnOnce(&mut Self, Slot)) {
        if let Some(slot) = self.restored_slot(session) {
            change(self, slot);
        }
    }

    /// The digest is that of the intent.
    fn received(&mut self, session: SessionId, packet_id: PacketId) {
        self.with(session, |broker, slot| {
            if let Some(session) = broker.sessions.get_mut(slot) {
                let digest = session.inbound.get_mut(packet_id).map_or(0, |intended| intended.digest);
                session.inbound.put(qos_2(packet_id, Stage::Received, None, digest));
            }
        });
    }

    /// A session as the record says, in place of what was known of it.
    fn restore_session(&mut self, state: SessionState) {
        let outgoing = match self.restored_slot(state.session) {
            Some(slot) if state.queue_continues => {
                let last = state.queue.last().map_or(0, |(id, ..)| *id);
                self.replace_queue(slot, |outgoing| outgoing.clear_through(Some(last)));
                let outgoing = self.sessions.get_mut(slot).map(|s| std::mem::take(&mut s.outgoing)).unwrap_or_default();
                self.book(slot);
                outgoing
            }
            _ => Outgoing::default(),
        };
        if let Some(slot) = self.restored_slot(state.session) {
            self.remove_session(slot);
        }
        let client_id: Arc<str> = state.client_id.as_str().into();
        // One that ended without its record (it was lost with the power) cannot be there as well.
        if let Some(&slot) = self.clients.get(&client_id) {
            self.remove_session(slot);
        }
        let mut inbound = Inbound::default();
        for Intent { packet_id, name, digest, stored } in state.intents {
            inbound.put(qos_2(packet_id, Stage::Intended, Some(name), digest));
            if stored {
                inbound.put_upstream(packet_id, name);
            }
        }
        for (packet_id, digest) in state.received {
            inbound.put(qos_2(packet_id, Stage::Received, None, digest));
        }
        let session = Box::new(Session {
            id: state.session,
            client_id: client_id.clone(),
            owner: state.owner.as_str().into(),
            persistent: true,
            expiry_s: state.expiry_s,
            expires_at: None,
            absent_since: None,
            subscriptions: Vec::new(),
            subscription_bytes: 0,
            subscription_levels: 0,
            pulls: VecDeque::new(),
            inbound,
            outgoing,
            will: None,
            connection: None,
            shared_turn: 0,
            booked: Booked::default(),
            evicted: 0,
            evicted_told: None,
        });
        let owner = session.owner.clone();
        let Some(slot) = self.sessions.insert(session) else { return };
        self.owners.began(&owner);
        self.clients.insert(client_id, slot);
        self.by_id.insert(state.session, slot);
        self.book(slot);
        self.set_expiry(slot, state.expires_at, state.expiry_s);
        for (options, id) in state.subscriptions {
            self.restore_subscription(slot, &options, id);
        }
        for (id, message, waiting) in state.queue {
            self.restore_waiting(slot, id, &message, waiting);
            self.next_message = self.next_message.max(id + 1);
        }
        self.restore_will(slot, state.will.map(|(message, delay_s, due_at)| Will::new(message, delay_s, due_at)));
    }

    fn set_expiry(&mut self, slot: Slot, expires_at: Option<Millis>, expiry_s: u32) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        if let Some(at) = session.expires_at {
            self.due.remove(&(at, Due::Session(session.id)));
        }
        if let Some(at) = expires_at {
            self.due.insert((at, Due::Session(session.id)));
        }
        session.expires_at = expires_at;
        session.expiry_s = expiry_s;
        self.set_absent(slot, expires_at.map(|at| at.saturating_sub(u64::from(expiry_s) * 1000)));
    }

    fn restore_subscription(&mut self, slot: Slot, filter: &FilterOptions, id: Option<u32>) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let Ok(parsed) = Filter::parse(&filter.filter) else { return };
        let options = Options::new(filter, id);
        match session.subscriptions.binary_search_by(|(f, _)| (**f).cmp(&filter.filter)) {
            Ok(at) => session.subscriptions[at].1 = options,
            Err(at) => {
                session.subscription_bytes += filter.filter.len();
                session.subscription_levels += parsed.levels();
                session.subscriptions.insert(at, (filter.filter.as_str().into(), options));
            }
        }
        self.subscriptions.insert(parsed, slot, options);
    }

    fn restore_waiting(&mut self, slot: Slot, id: MessageId, message: &Arc<Message>, waiting: Waiting) {
        // The same text for all: the subscription was restored before what came by it.
        let known = |share: &Arc<str>| Some(self.subscriptions.group(Filter::parse(share).ok()?)?.filter().clone());
        let delivery = Delivery {
            id,
            message: message.clone(),
            qos: waiting.qos,
            retain: waiting.retain,
            packet_id: waiting.packet_id,
            // QoS 1 may have been; DUP says no more than that (MQTT 5.0 §3.3.1.1).
            sent: waiting.qos == QoS::AtLeastOnce || waiting.sent,
            received: waiting.received,
            subscription_ids: waiting.subscription_ids.into(),
            share: waiting.share.map(|share| known(&share).unwrap_or(share)),
        };
        self.replace_queue(slot, |outgoing| outgoing.restore(delivery));
    }

    fn restore_will(&mut self, slot: Slot, will: Option<Box<Will>>) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        if let Some(at) = session.will.as_ref().and_then(|will| will.due_at) {
            self.due.remove(&(at, Due::Will(session.id)));
        }
        if let Some(at) = will.as_ref().and_then(|will| will.due_at) {
            self.due.insert((at, Due::Will(session.id)));
        }
        session.will = will;
    }

    /// Changes a queue, and what is counted of it.
    fn replace_queue(&mut self, slot: Slot, change: impl FnOnce(&mut Outgoing)) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        change(&mut session.outgoing);
        self.book(slot);
    }
}

fn qos_2(packet_id: PacketId, stage: Stage, name: Option<u64>, digest: u64) -> Incoming {
    Incoming { packet_id, qos: QoS::ExactlyOnce, stage, digest, name, again: false, upstream: false, message: None }
}
