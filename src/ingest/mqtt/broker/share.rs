//! Shared subscriptions (MQTT 5.0 §4.8.2): who of a group gets a message, and what becomes of the messages of a member that
//! has left. [pure]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::outgoing::{self, Delivery};
use super::record::{Message, MessageId, Millis, Record, SessionId, Waiting};
use super::route::Offer;
use super::session::{Options, Session, Slot};
use super::{Broker, Limits, Reaction, UNRELIABLE_QUEUED_MAX};
use crate::ingest::identity::rules::is_denied;
use crate::ingest::mqtt::packet::QoS;
use crate::ingest::mqtt::topic::Filter;

/// Whether the session's own limits let it take one more.
pub(super) fn has_room(session: &Session, qos: QoS, bytes: usize, limits: &Limits) -> bool {
    match (qos, &session.connection) {
        // QoS 0 always fits, at the cost of older ones.
        (QoS::AtMostOnce, Some(connection)) => {
            let queue = &connection.unreliable;
            queue.messages.len() < UNRELIABLE_QUEUED_MAX && queue.bytes + bytes <= limits.max_queued_bytes
        }
        (QoS::AtMostOnce, None) => false,
        _ => session.outgoing.has_room(bytes, limits),
    }
}

/// Who of a shared subscription is next: the least is. Those without room come last, or one that hangs would swallow what
/// others could take. Of the rest first those that can take it now, then those that are there, then the absent; among equals
/// the one for which the least waits, and then the one whose turn is longest ago (§4.8.2 leaves the choice to us).
pub(super) fn turn(session: &Session, has_room: bool, chosen_already: bool) -> impl Ord + use<> {
    let waiting = session.outgoing.len();
    let (class, load) = match session.connection.as_ref().filter(|connection| !connection.closing) {
        Some(connection) if waiting < connection.window => (0, waiting + connection.unreliable.messages.len()),
        Some(connection) => (1, waiting + connection.unreliable.messages.len()),
        None => (2, waiting),
    };
    (!has_room, class, chosen_already, load, session.shared_turn)
}

/// Members of a group that may take over messages; one after the other, the absent last.
struct Heirs {
    filter: Arc<str>,
    /// Those with a connection.
    present: VecDeque<(Slot, Options)>,
    absent: VecDeque<(Slot, Options)>,
}

/// From whose queue messages go to others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaver {
    /// The session has ended.
    Ended { session: SessionId, persistent: bool },
    /// It lasts, without a connection.
    Absent(SessionId),
}

impl Broker {
    /// A session has ended: what it got by shared subscriptions goes to other members, but for QoS 2 that was sent: that
    /// "MUST NOT" [MQTT-4.8.2-5]. QoS 1 "SHOULD", also if it was sent (§4.8.2).
    pub(super) fn bequeath(&mut self, now: Millis, session: &mut Session, reaction: &mut Reaction) {
        let free = |d: &Delivery| d.qos == QoS::AtLeastOnce || d.is_unseen();
        let leaver = Leaver::Ended { session: session.id, persistent: session.persistent };
        let mut heirs = HashMap::new();
        for delivery in std::mem::take(&mut session.outgoing.queue) {
            if free(&delivery)
                && !delivery.expired(now)
                && let Some(heirs) = self.heirs(now, &delivery, leaver, &mut heirs)
                && self.pass_on(now, &delivery, leaver, heirs, reaction).is_err()
            {
                self.counts.dropped.full += 1;
            }
        }
    }

    /// A member has lost its connection, and its session waits for it: what was never sent goes to members that are there.
    /// What was sent waits: QoS 2 "MUST" [MQTT-4.8.2-4], QoS 1 may (§4.8.2). Only members whose queue is on disk like this
    /// one get any.
    pub(super) fn share_out(&mut self, now: Millis, slot: Slot, reaction: &mut Reaction) {
        let Some(session) = self.sessions.get(slot).filter(|s| s.persistent && !s.connected()) else { return };
        let leaver = Leaver::Absent(session.id);
        let free = |d: &&Delivery| d.share.is_some() && d.is_unseen() && !d.expired(now);
        let free: Vec<_> = session.outgoing.queue.iter().filter(free).map(|d| d.id).collect();
        let mut heirs = HashMap::new();
        for id in free {
            // To make room for the ones before it, it may have been dropped.
            let Some(session) = self.sessions.get_mut(slot) else { return };
            let Some(delivery) = session.outgoing.remove(id) else { continue };
            self.book(slot);
            let passed = match self.heirs(now, &delivery, leaver, &mut heirs) {
                Some(heirs) => self.pass_on(now, &delivery, leaver, heirs, reaction),
                None => Err(()),
            };
            if passed.is_err()
                && let Some(session) = self.sessions.get_mut(slot)
            {
                session.outgoing.restore(delivery);
                self.book(slot);
            }
        }
    }

    /// Who may get it instead. They are looked for once for all messages of a group.
    fn heirs<'a>(
        &self,
        now: Millis,
        delivery: &Delivery,
        leaver: Leaver,
        known: &'a mut HashMap<Arc<str>, Heirs>,
    ) -> Option<&'a mut Heirs> {
        let share = delivery.share.as_ref()?;
        if !known.contains_key(share) {
            let group = self.subscriptions.group(Filter::parse(share).ok()?)?;
            let mut heirs = Heirs { filter: group.filter().clone(), present: VecDeque::new(), absent: VecDeque::new() };
            for &(slot, options) in group.members() {
                let Some(session) = self.sessions.get(slot) else { continue };
                // Many may expire at once.
                let lasts = session.expires_at.is_none_or(|at| at > now);
                let open = session.connection.as_ref().is_some_and(|connection| !connection.closing);
                match leaver {
                    Leaver::Absent(id) if id == session.id || !session.persistent || !open => {}
                    Leaver::Absent(_) if options.qos == QoS::AtMostOnce => {}
                    _ if open => heirs.present.push_back((slot, options)),
                    _ if session.persistent && lasts && options.qos != QoS::AtMostOnce => {
                        heirs.absent.push_back((slot, options));
                    }
                    _ => {}
                }
            }
            known.insert(share.clone(), heirs);
        }
        known.get_mut(share)
    }

    /// Gives a message to one of the heirs. An error: none takes it. Those without room are not asked again.
    fn pass_on(
        &mut self,
        now: Millis,
        delivery: &Delivery,
        leaver: Leaver,
        heirs: &mut Heirs,
        reaction: &mut Reaction,
    ) -> Result<(), ()> {
        let message = &delivery.message;
        let bytes = outgoing::bytes(message) + outgoing::extra_bytes(&[0], Some(&heirs.filter));
        for members in [&mut heirs.present, &mut heirs.absent] {
            for _ in 0..members.len() {
                let Some((slot, options)) = members.pop_front() else { break };
                let qos = options.qos.min(message.qos);
                let Some(session) = self.sessions.get(slot) else { continue };
                if is_denied(&self.limits.deny_subscribe, &session.owner, &message.topic) {
                    members.push_back((slot, options));
                    continue;
                }
                if !has_room(session, qos, bytes, &self.limits) {
                    continue;
                }
                if matches!(leaver, Leaver::Absent(_)) && !self.make_room(now, slot, bytes, false, reaction) {
                    return Err(()); // it has a place: nothing else is dropped for it
                }
                let offer = Offer {
                    id: self.new_message_id(),
                    message,
                    qos,
                    retain: message.retain && options.retain_as_published,
                    ids: options.id.iter().map(|id| id.get()).collect(),
                    share: Some(heirs.filter.clone()),
                };
                let id = offer.id;
                members.push_back((slot, options));
                // `None`: it keeps nothing on disk, or there was no room in the pot, which is counted there.
                if let Some(waiting) = self.offer(now, slot, offer, reaction) {
                    reaction.records.push(moved(id, message, waiting, leaver, delivery.id));
                }
                return Ok(());
            }
        }
        Err(())
    }
}

fn moved(id: MessageId, message: &Arc<Message>, waiting: Waiting, leaver: Leaver, old: MessageId) -> Record {
    let from = match leaver {
        Leaver::Absent(session) | Leaver::Ended { session, persistent: true } => Some(session),
        Leaver::Ended { persistent: false, .. } => None,
    };
    let moved = from.map(|session| (session, old));
    Record::Queued { id, message: message.clone(), to: vec![waiting], received: None, moved }
}
