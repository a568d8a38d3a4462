//! Everything that is alive as records again, piece by piece, so that the old ones can go. [pure]

use std::sync::Arc;

use super::outgoing::{self, Delivery};
use super::record::{MessageId, Record, SessionId};
use super::session::{Session, Slot};
use super::{Broker, SUBSCRIPTION_BYTES_MAX};

/// What a record costs besides texts and payloads, about.
const RECORD_BYTES: usize = 64;

/// What a QoS 2 message that is not released costs in it, at most.
const INCOMING_BYTES: usize = 24;

/// How far the tidying has come. Begins with its default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TidyCursor(Position);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Position {
    Session(Slot),
    /// The rest of a long queue.
    Queue {
        slot: Slot,
        session: SessionId,
        after: MessageId,
    },
    /// After this topic.
    Retained(Option<Arc<str>>),
}

impl Default for Position {
    fn default() -> Self {
        Self::Session(0)
    }
}

impl Broker {
    /// Bytes that all pieces of [`Self::tidy`] have together, about; rather too many.
    pub fn alive_bytes(&self) -> usize {
        let sessions = self.sessions.from(0).filter(|(_, session)| session.persistent);
        sessions.map(|(_, session)| state_bytes(session) + session.outgoing.bytes).sum::<usize>()
            + self.retained.bytes()
    }

    /// The next piece, of some `max_bytes` (more only where one record is larger), and where to go on; `None`: that was
    /// all. Other records may be written between the pieces. Once all are on disk, what was written before the first
    /// may be dropped, the oldest first.
    pub fn tidy(&self, cursor: TidyCursor, max_bytes: usize) -> (Vec<Record>, Option<TidyCursor>) {
        let (mut records, mut bytes, mut position) = (Vec::new(), 0, cursor.0);
        while bytes < max_bytes {
            let left = max_bytes - bytes;
            let next = match position {
                Position::Session(slot) => match self.sessions.from(slot).find(|(_, s)| s.persistent) {
                    Some((slot, session)) => tidy_session(slot, session, left, &mut records, &mut bytes),
                    None => Position::Retained(None),
                },
                Position::Queue { slot, session, after } => match self.sessions.get(slot) {
                    Some(s) if s.id == session && s.persistent => {
                        tidy_queue(slot, s, after, left, &mut records, &mut bytes)
                    }
                    _ => Position::Session(slot),
                },
                Position::Retained(after) => {
                    let Some(kept) = self.retained.after(after.as_deref()).find(|kept| kept.durable) else {
                        return (records, None);
                    };
                    let (topic, message) = (kept.message.topic.clone(), Some(kept.message.clone()));
                    bytes += outgoing::bytes(&kept.message);
                    records.push(Record::Retained { topic: topic.clone(), message });
                    Position::Retained(Some(topic))
                }
            };
            position = next;
        }
        (records, Some(TidyCursor(position)))
    }
}

/// A session without its queue.
fn state_bytes(session: &Session) -> usize {
    RECORD_BYTES
        + session.subscription_bytes
        + 16 * session.subscriptions.len()
        + session.client_id.len()
        + session.owner.len()
        + INCOMING_BYTES * session.inbound.len()
        + session.will.as_ref().map_or(0, |will| outgoing::bytes(&will.message))
}

/// A session and as much of its queue as there is room for.
fn tidy_session(slot: Slot, session: &Session, left: usize, records: &mut Vec<Record>, bytes: &mut usize) -> Position {
    let mut state = session.state();
    let mut size = state_bytes(session);
    debug_assert!(session.subscription_bytes <= SUBSCRIPTION_BYTES_MAX);
    let mut next = Position::Session(slot + 1);
    for delivery in session.waiting() {
        if size >= left {
            let after = state.queue.last().map_or(0, |(id, ..)| *id);
            state.queue_continues = true;
            next = Position::Queue { slot, session: session.id, after };
            break;
        }
        size += delivery.bytes();
        state.queue.push((delivery.id, delivery.message.clone(), delivery.waiting(session.id)));
    }
    records.push(Record::Session(Box::new(state)));
    *bytes += size;
    next
}

fn tidy_queue(
    slot: Slot,
    session: &Session,
    after: MessageId,
    left: usize,
    records: &mut Vec<Record>,
    bytes: &mut usize,
) -> Position {
    let mut last = after;
    let mut size = 0;
    let rest = session.waiting().skip_while(|d: &&Delivery| d.id <= after);
    for delivery in rest {
        if size >= left {
            *bytes += size;
            return Position::Queue { slot, session: session.id, after: last };
        }
        let to = vec![delivery.waiting(session.id)];
        let (id, message) = (delivery.id, delivery.message.clone());
        records.push(Record::Queued { id, message, to, received: None, moved: None });
        size += RECORD_BYTES + delivery.bytes();
        last = delivery.id;
    }
    *bytes += size;
    Position::Session(slot + 1)
}
