//! What goes through open parts: inbox messages, commands and their acknowledgements, reports and their receipts. [pure]

use std::time::Instant;

use bytes::Bytes;
use pulsar::message::proto::{CommandSendError, CommandSendReceipt, MessageIdData, command_ack::AckType};

use super::hand::{self, Arrival, Key, Over};
use super::{Core, Effect, Part, Sent, State, requests, send};
use crate::downlink::link::content::Unfit;
use crate::downlink::link::frames::Incoming;
use crate::downlink::link::{COMMANDS_MAX, NotSent, REPORTS_MAX};
use crate::pulsar::wire::LinkError;
use crate::pulsar::wire::connection::refused;

/// An entry of a topic, on its way to a consumer.
struct Entry {
    wire: u64,
    consumer: u64,
    id: MessageIdData,
    /// What it counted for; `None`: that could not be read.
    permits: Option<u32>,
}

impl Core {
    pub(super) fn message(&mut self, wire: u64, incoming: Incoming, now: Instant, out: &mut Vec<Effect>) {
        let Incoming { to, permits, content } = incoming;
        let open = |part| match self.slot(part).state {
            State::Open { wire: at, id, .. } => at == wire && id == to.consumer_id,
            _ => false,
        };
        let entry = Entry { wire, consumer: to.consumer_id, id: plain(to.message_id), permits };
        // One for a consumer that we have closed meanwhile comes again to the next.
        if open(Part::Inbox) {
            self.inbox(entry, content, now, out);
        } else if open(Part::Commands) {
            self.commands(entry, content, now, out);
        }
    }

    fn inbox(&mut self, entry: Entry, content: Result<Vec<Bytes>, Unfit>, now: Instant, out: &mut Vec<Effect>) {
        // The reader needs no acknowledgement; with it the topic's figures show no backlog.
        out.push(send(entry.wire, requests::ack(entry.consumer, AckType::Cumulative, entry.id.clone())));
        match content {
            Ok(mut messages) => {
                let service = self.slot(Part::Inbox).service.clone();
                out.extend(messages.pop().zip(service).map(|(bytes, at)| Effect::Inbox(at, bytes)));
            }
            Err(unfit) => {
                self.passed = Some(hand::key(&entry.id));
                out.push(Effect::Unfit(Part::Inbox, unfit));
            }
        }
        self.give_room(Part::Inbox, &entry, now, out);
    }

    fn commands(&mut self, entry: Entry, content: Result<Vec<Bytes>, Unfit>, now: Instant, out: &mut Vec<Effect>) {
        let messages = match content {
            Ok(messages) if !messages.is_empty() => messages,
            nothing => {
                out.push(send(entry.wire, requests::ack(entry.consumer, AckType::Individual, entry.id.clone())));
                out.extend(nothing.err().map(|unfit| Effect::Unfit(Part::Commands, unfit)));
                return self.give_room(Part::Commands, &entry, now, out);
            }
        };
        match self.hand.arrived(&entry.id, entry.consumer, messages.len(), entry.permits.unwrap_or(1)) {
            Arrival::New => {
                let key = hand::key(&entry.id);
                out.extend(messages.into_iter().map(|bytes| Effect::Command(bytes, key)));
            }
            Arrival::Known { permits: 0 } => {}
            Arrival::Known { permits } => out.push(send(entry.wire, requests::flow(entry.consumer, permits))),
            Arrival::TooMany => {
                let reason = format!("more than the {COMMANDS_MAX} commands that it was asked for");
                let error = LinkError::Protocol { broker: self.broker_of(Part::Commands), reason };
                self.fail(Part::Commands, error, now, out);
            }
        }
    }

    /// The broker counts permits down; where it is not known by how many, the count begins anew with a new consumer.
    fn give_room(&mut self, part: Part, entry: &Entry, now: Instant, out: &mut Vec<Effect>) {
        match entry.permits {
            Some(permits) => out.push(send(entry.wire, requests::flow(entry.consumer, permits))),
            None => {
                let reason = "a message whose metadata cannot be read".to_owned();
                self.fail(part, LinkError::Protocol { broker: self.broker_of(part), reason }, now, out);
            }
        }
    }

    pub(super) fn settled(&mut self, key: Key, taken: bool, now: Instant, out: &mut Vec<Effect>) {
        let open = match self.slot(Part::Commands).state {
            State::Open { wire, id, .. } => Some((wire, id)),
            _ => None,
        };
        let over = self.hand.settled(key, taken, open.map(|(_, id)| id), now);
        if let (Some(Over { id, consumer, permits }), Some((wire, current))) = (over, open)
            && consumer == current
        {
            out.push(send(wire, requests::ack(consumer, AckType::Individual, id)));
            out.push(send(wire, requests::flow(consumer, permits)));
        }
    }

    pub(super) fn report(&mut self, number: u64, bytes: Vec<u8>, now: Instant, out: &mut Vec<Effect>) {
        let answer = match self.slot(Part::Reports).state {
            State::Open { .. } if self.sent.len() >= REPORTS_MAX => NotSent::Busy,
            State::Open { wire, id, .. } => {
                self.last_seq += 1;
                self.sent.push_back(Sent { number, seq: self.last_seq, at: now });
                out.push(Effect::Publish(wire, id, self.last_seq, bytes));
                return;
            }
            _ => NotSent::Down(self.last_error.clone().unwrap_or_else(|| "it is not connected yet".to_owned())),
        };
        out.push(Effect::Answer(number, Err(answer)));
    }

    pub(super) fn receipt(&mut self, wire: u64, receipt: &CommandSendReceipt, now: Instant, out: &mut Vec<Effect>) {
        let Some(sent) = self.take_sent(wire, receipt.producer_id, receipt.sequence_id) else { return };
        // The id of something that was not stored: (-1, -1) in Java's signed numbers.
        let dropped = receipt.message_id.as_ref().is_some_and(|m| m.ledger_id == u64::MAX && m.entry_id == u64::MAX);
        if !dropped {
            out.push(Effect::Answer(sent.number, Ok(())));
            return;
        }
        let broker = self.broker_of(Part::Reports);
        let reason = "it took a new report for an old one (deduplication)".to_owned();
        let error = LinkError::Protocol { broker, reason };
        out.push(Effect::Answer(sent.number, Err(NotSent::Refused(error.to_string()))));
        // The next producer begins with the broker's last sequence.
        self.fail(Part::Reports, error, now, out);
    }

    pub(super) fn send_error(&mut self, wire: u64, error: CommandSendError, now: Instant, out: &mut Vec<Effect>) {
        let Some(sent) = self.take_sent(wire, error.producer_id, error.sequence_id) else { return };
        let error = refused(&self.broker_of(Part::Reports), "a report", error.error, error.message);
        out.push(Effect::Answer(sent.number, Err(NotSent::Refused(error.to_string()))));
        self.fail(Part::Reports, error, now, out);
    }

    fn take_sent(&mut self, wire: u64, producer: u64, seq: u64) -> Option<Sent> {
        let State::Open { wire: at, id, .. } = self.slot(Part::Reports).state else { return None };
        let index = self.sent.iter().position(|s| s.seq == seq).filter(|_| (at, id) == (wire, producer))?;
        self.sent.remove(index)
    }
}

/// An id as acknowledgements name it: the whole entry.
fn plain(id: MessageIdData) -> MessageIdData {
    MessageIdData {
        ledger_id: id.ledger_id,
        entry_id: id.entry_id,
        partition: id.partition,
        ..MessageIdData::default()
    }
}
