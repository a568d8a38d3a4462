//! Mistakes that are made on purpose, between the broker and the shell: the property test must find each.

use super::device::Link;
use crate::ingest::mqtt::broker::Reaction;
use crate::ingest::mqtt::broker::record::Record;
use crate::ingest::mqtt::packet::{Packet, PacketId, QoS};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Replies leave before what they promise is on disk.
    AnswerBeforeRecord,
    /// One packet id for two messages under way.
    PacketIdReused,
    /// The end of a QoS 2 exchange is not on disk.
    ReleasedLost,
    /// That PUBREC came for an outgoing message is not on disk.
    OutgoingReceivedLost,
    /// What is sent again after a lost connection comes in another order.
    OrderSwappedOnResume,
    /// QoS 2 is handed to subscribers when it arrives, and again when it is stored.
    Qos2DeliveredAtPublish,
    /// When a session ends is not on disk.
    ExpiryForgotten,
    /// That a session ended is not on disk.
    EndForgotten,
    /// Two acknowledgements change places.
    AnswersSwapped,
    /// Tidying leaves the queues out.
    TidyForgetsQueues,
    /// The name of a QoS 2 message is not on disk.
    IntentForgotten,
    /// A start does not ask the outbox what it has.
    NotResolved,
    /// Wake-ups get lost.
    WakeLost,
    /// That a message went to another member of the group is on disk only for the one that has it now.
    MovedFromForgotten,
    /// That a QoS 2 message was sent is not on disk: after a crash it goes to another member of the group.
    SentForgotten,
    /// A client that asked for a new session and did not hear of it goes on as if it had the old one.
    KeptAfterCleanStart,
    /// An unsubscription is not on disk; harmless to what is promised, but not the same state.
    UnsubscribedLost,
}

pub const PLANTED: [Fault; 17] = [
    Fault::AnswerBeforeRecord,
    Fault::PacketIdReused,
    Fault::ReleasedLost,
    Fault::OutgoingReceivedLost,
    Fault::OrderSwappedOnResume,
    Fault::Qos2DeliveredAtPublish,
    Fault::ExpiryForgotten,
    Fault::EndForgotten,
    Fault::AnswersSwapped,
    Fault::TidyForgetsQueues,
    Fault::IntentForgotten,
    Fault::NotResolved,
    Fault::WakeLost,
    Fault::MovedFromForgotten,
    Fault::SentForgotten,
    Fault::KeptAfterCleanStart,
    Fault::UnsubscribedLost,
];

impl Fault {
    /// What of the records gets lost.
    pub fn loses(self, record: &Record) -> bool {
        matches!(
            (self, record),
            (Self::ReleasedLost, Record::Released { .. })
                | (Self::OutgoingReceivedLost, Record::OutgoingReceived { .. })
                | (Self::ExpiryForgotten, Record::SessionExpiry { .. })
                | (Self::SentForgotten, Record::OutgoingSent { .. })
                | (Self::EndForgotten, Record::SessionEnded { .. })
                | (Self::IntentForgotten, Record::Intent { .. })
                | (Self::UnsubscribedLost, Record::Unsubscribed { .. })
        )
    }

    /// Only they find it.
    pub fn is_of_those_who_share(self) -> bool {
        [Self::MovedFromForgotten, Self::SentForgotten].contains(&self)
    }

    pub fn spoil(self, reaction: &mut Reaction) {
        for record in &mut reaction.records {
            if let (Self::MovedFromForgotten, Record::Queued { moved, .. }) = (self, record) {
                *moved = None;
            }
        }
        let dup = |packet: &Packet| matches!(packet, Packet::Publish(p) if p.dup && p.qos == QoS::AtLeastOnce);
        let answer = |packet: &Packet| matches!(packet, Packet::Puback(_) | Packet::Pubrec(_));
        let swap: &dyn Fn(&Packet) -> bool = match self {
            Self::OrderSwappedOnResume => &dup,
            Self::AnswersSwapped => &answer,
            _ => &|_| false,
        };
        let at = reaction.replies.windows(2).position(|pair| swap(&pair[0]) && swap(&pair[1]));
        if let Some(at) = at {
            reaction.replies.swap(at, at + 1);
        }
        if self == Self::WakeLost && reaction.wake.len() > 1 {
            reaction.wake.pop();
        }
    }

    pub fn spoil_piece(self, records: &mut [Record]) {
        for record in records {
            if let (Self::TidyForgetsQueues, Record::Session(state)) = (self, record) {
                state.queue.clear();
            }
        }
    }

    /// What goes to the client under another packet id.
    pub fn on_the_wire(self, link: &mut Link, packet: &mut Packet) {
        let id = match packet {
            Packet::Publish(p) => p.packet_id.as_mut(),
            Packet::Pubrel(ack) => Some(&mut ack.packet_id),
            _ => None,
        };
        if let (Self::PacketIdReused, Some(id)) = (self, id) {
            let wire = PacketId::new((id.get() - 1) % 2 + 1).unwrap();
            link.wire_ids.insert(wire, *id);
            *id = wire;
        }
    }

    /// And what comes back.
    pub fn off_the_wire(self, link: &Link, packet: &mut Packet) {
        if let (Self::PacketIdReused, Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubcomp(ack)) = (self, packet)
            && let Some(id) = link.wire_ids.get(&ack.packet_id)
        {
            ack.packet_id = *id;
        }
    }
}
