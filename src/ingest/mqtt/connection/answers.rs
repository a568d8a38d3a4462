//! What the broker answers, and what the disk says before it may.

use super::Connection;
use super::flights::Landed;
use crate::ingest::identity::{Gate, Identity, Refused};
use crate::ingest::mqtt::broker::record::Message;
use crate::ingest::mqtt::broker::{Denied, Unstored};
use crate::ingest::mqtt::hub::Effects;
use crate::ingest::mqtt::metrics::Fate;
use crate::ingest::mqtt::packet::{Packet, PacketId, QoS, Reason};
use crate::ingest::mqtt::upstream::{Refused as Refusal, Why};

/// Writes down what the broker refused.
pub(super) fn note(gate: &Gate, identity: &Identity, denied: &[Denied]) {
    for denied in denied {
        let what = match denied {
            Denied::Publish(topic) => Refused::Publish(topic),
            Denied::Subscribe(filter) => Refused::Subscribe(filter),
            Denied::Session(client) => Refused::Session(client),
        };
        gate.refused(identity, &what);
    }
}

impl Connection {
    /// Answers of the broker go out once they are on disk.
    pub(super) fn take_effect(&mut self, effects: Effects) {
        let Effects { after, mut replies, denied, words, needs: _, later: _, close, wake, unkept } = effects;
        self.refused.extend(words.into_iter().map(|(id, words)| (id, words.to_owned())));
        self.wanting |= wake;
        note(&self.shared.gate, &self.identity, &denied);
        if let Some(e) = unkept {
            // The client is not told that it was done; it will ask again.
            return self.end(Reason::IMPLEMENTATION_SPECIFIC, &e.to_string());
        }
        self.promised = self.promised.max(after);
        if !replies.is_empty() {
            if self.promised.is_some_and(|position| position <= self.seat.journal().durable_now()) {
                self.promised = None;
            }
            self.explain(&mut replies);
            if let Err(reason) = self.output.in_order(&mut replies, self.promised) {
                tracing::error!(%reason, "an answer cannot be written");
                self.end(Reason::IMPLEMENTATION_SPECIFIC, "an answer cannot be written");
            }
        }
        if let Some((reason, why)) = close {
            self.end(reason, why);
        }
    }

    /// Puts the reason for people into answers that refuse.
    fn explain(&mut self, replies: &mut [Packet]) {
        if self.refused.is_empty() {
            return;
        }
        for reply in replies {
            if let Packet::Puback(ack) | Packet::Pubrec(ack) = reply
                && let Some(at) = self.refused.iter().position(|(id, _)| *id == ack.packet_id)
            {
                let (_, text) = self.refused.swap_remove(at);
                if self.explains && ack.reason.is_error() {
                    ack.reason_string.get_or_insert(text);
                }
            }
        }
    }

    /// The disk has answered for the messages of one read.
    pub(super) fn landed(&mut self, landed: Landed) {
        let Landed { counts, ids, at, result } = landed;
        let fate = match &result {
            Ok(()) => Fate::Upstream,
            Err(refused) => Fate::Refused(refused.why),
        };
        for (qos, n) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().zip(counts) {
            if n > 0 {
                self.shared.counters.fate(qos, fate, n);
            }
        }
        if ids.is_empty() {
            return;
        }
        match &result {
            Err(refused) if refused.why == Why::Closed => {
                return self.end(Reason::SERVER_SHUTTING_DOWN, "the gateway is shutting down");
            }
            Err(refused) => self.refused.extend(ids.iter().map(|id| (*id, refused.text.clone()))),
            Ok(()) => {
                let seconds = at.elapsed().as_secs_f64();
                ids.iter().for_each(|_| self.shared.counters.ack_seconds(seconds));
            }
        }
        let result = result.map_err(|refused| refused.unstored());
        let results: Vec<_> = ids.into_iter().map(|id| (id, result)).collect();
        self.stored(&results);
    }

    /// Tells the broker what became of messages, and the client what the broker says to that.
    pub(super) fn stored(&mut self, results: &[(PacketId, Result<(), Unstored>)]) {
        let ((), effects) = self.seat.turn(|turn| turn.stored(results));
        let cut = effects.close.is_some();
        self.take_effect(effects);
        if cut {
            self.rest();
        }
    }

    /// A message of 3.1.1 will never be stored, and is acknowledged all the same: somebody must know.
    pub(super) fn note_lost(&self, message: &Message, refused: &Refusal) {
        let text = format!("client {:?}, topic {:?}: {}", self.origin.client(), message.topic, refused.text);
        self.shared.gate.refused(&self.identity, &Refused::Event(&text));
    }
}
