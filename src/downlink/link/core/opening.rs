//! From nothing to an open part: whose topic it is, a connection to there, and the consumer or producer. The inbox takes
//! two readers one after the other: the first stands behind everything and can say which message is the last, the second
//! begins at that one. A message that comes in between is the last, or comes after it. [pure]
//!
//! Found out on Pulsar 4.0.7 (tests/downlink_link.rs holds it): a reader's start is included, also without a batch index;
//! after an unload or a restart the last message is still named, although its ledger is closed.

use std::time::Instant;

use pulsar::message::proto::{BaseCommand, MessageIdData};

use super::requests::{self, Start};
use super::{Core, Effect, Part, State, Wire, hand, send};
use crate::downlink::link::COMMANDS_MAX;
use crate::pulsar::wire::LinkError;
use crate::pulsar::wire::connection::{REQUEST_TIMEOUT, refused};
use crate::pulsar::wire::lookup::{self, Located, Place, REDIRECTS_MAX, unexpected};

/// The entry of a topic that has none: -1 in Java's signed numbers.
const NO_ENTRY: u64 = u64::MAX;

/// Messages of the inbox under way at once: only the newest counts.
const INBOX_PERMITS: u32 = 1;

/// Where opening a part stands.
#[derive(Clone, Debug)]
pub struct Step {
    wire: u64,
    /// The address that the lookup began at.
    service: Place,
    doing: Doing,
    /// The number of the request that was sent for it, and when; none while the connection is not up.
    asked: Option<(u64, Instant)>,
}

#[derive(Clone, Debug)]
enum Doing {
    Lookup { authoritative: bool, hops: usize },
    Producer { id: u64 },
    Consumer { id: u64 },
    ReaderBehind { id: u64 },
    LastMessage { id: u64 },
    ReaderAt { id: u64, message: MessageIdData },
}

/// What follows an answer.
enum Next {
    At(Place, Doing),
    Here(Doing),
    Open(u64),
}

impl Step {
    /// Its connection.
    pub fn wire(&self) -> u64 {
        self.wire
    }

    /// The answer to this request on this connection is what it waits for.
    pub fn is_answered_by(&self, wire: u64, request: u64) -> bool {
        self.wire == wire && self.asked.is_some_and(|(asked, _)| asked == request)
    }

    /// When it has taken too long. Connecting has a limit of its own.
    pub fn deadline(&self) -> Option<Instant> {
        self.asked.map(|(_, at)| at + REQUEST_TIMEOUT)
    }

    /// In words.
    pub fn what(&self) -> &'static str {
        match self.doing {
            Doing::Lookup { .. } => "looking up the topic",
            Doing::Producer { .. } => "opening the producer",
            Doing::Consumer { .. } | Doing::ReaderBehind { .. } | Doing::ReaderAt { .. } => "subscribing",
            Doing::LastMessage { .. } => "asking for the last message",
        }
    }

    /// The consumer or producer that the broker may have by now, and its connection.
    pub fn at_broker(&self) -> Option<(u64, u64)> {
        let id = match self.doing {
            Doing::Lookup { .. } => return None,
            Doing::LastMessage { id } => id,
            Doing::Producer { id }
            | Doing::Consumer { id }
            | Doing::ReaderBehind { id }
            | Doing::ReaderAt { id, .. } => {
                self.asked?;
                id
            }
        };
        Some((self.wire, id))
    }
}

impl Core {
    /// Begins to open `part`.
    pub(super) fn begin(&mut self, part: Part, now: Instant, out: &mut Vec<Effect>) {
        let addresses = &self.settings.addresses;
        let Some(address) = addresses.get(self.turn % addresses.len().max(1)) else { return };
        let service: Place = (address.clone(), None);
        self.slot_mut(part).service = Some(service.0.clone());
        let wire = self.wire_to(&service, now, out);
        let doing = Doing::Lookup { authoritative: false, hops: 0 };
        self.slot_mut(part).state = State::Opening(Step { wire, service, doing, asked: None });
        self.proceed(part, now, out);
    }

    fn wire_to(&mut self, place: &Place, now: Instant, out: &mut Vec<Effect>) -> u64 {
        if let Some(wire) = self.wires.iter().find(|w| w.place == *place) {
            return wire.id;
        }
        let id = self.number();
        self.wires.push(Wire { id, place: place.clone(), up: false, heard: now, pinged: false });
        out.push(Effect::Connect(id, place.0.clone(), place.1.clone()));
        id
    }

    /// Sends the request of `part`'s step, once its connection is up.
    pub(super) fn proceed(&mut self, part: Part, now: Instant, out: &mut Vec<Effect>) {
        let request = self.number();
        let (node, incarnation) = (self.settings.node.clone(), self.settings.incarnation.clone());
        let reader = |id: u64| format!("inbox.{node}.{:016x}.{id}", self.seed);
        let slot = &self.slots[part as usize];
        let State::Opening(step) = &slot.state else { return };
        let up = self.wires.iter().any(|w| w.id == step.wire && w.up);
        if step.asked.is_some() || !up {
            return;
        }
        let (wire, topic) = (step.wire, slot.topic.as_str());
        let command = match &step.doing {
            Doing::Lookup { authoritative, .. } => lookup::lookup(topic, request, *authoritative),
            Doing::Producer { id } => lookup::producer(topic, *id, request, &self.settings.producer()),
            Doing::Consumer { id } => requests::consumer(topic, *id, request, &format!("{node}.{incarnation}")),
            Doing::ReaderBehind { id } => requests::reader(topic, reader(*id), *id, request, Start::Latest),
            Doing::LastMessage { id } => requests::last_message(*id, request),
            Doing::ReaderAt { id, message } => {
                requests::reader(topic, reader(*id), *id, request, Start::At(message.clone()))
            }
        };
        out.push(send(wire, command));
        if let State::Opening(step) = &mut self.slot_mut(part).state {
            step.asked = Some((request, now));
        }
    }

    /// The broker has answered `part`'s request.
    pub(super) fn answer(&mut self, part: Part, answer: BaseCommand, now: Instant, out: &mut Vec<Effect>) {
        let State::Opening(step) = &self.slot(part).state else { return };
        let step = step.clone();
        let (wire, doing) = match self.next(part, &step, answer, out) {
            Ok(Next::At(place, doing)) => (self.wire_to(&place, now, out), doing),
            Ok(Next::Here(doing)) => (step.wire, doing),
            Ok(Next::Open(id)) => return self.open(part, step.wire, id, now, out),
            Err(error) => return self.fail(part, error, now, out),
        };
        self.slot_mut(part).state = State::Opening(Step { wire, doing, asked: None, ..step });
        self.proceed(part, now, out);
    }

    fn next(&mut self, part: Part, step: &Step, answer: BaseCommand, out: &mut Vec<Effect>) -> Result<Next, LinkError> {
        let broker = self.broker_of(part);
        let topic = self.slot(part).topic.clone();
        match step.doing.clone() {
            Doing::Lookup { hops, .. } => match lookup::located(&broker, &step.service, &topic, answer)? {
                Located::At(place) => {
                    let id = self.number();
                    Ok(Next::At(
                        place,
                        match part {
                            Part::Inbox => Doing::ReaderBehind { id },
                            Part::Commands => Doing::Consumer { id },
                            Part::Reports => Doing::Producer { id },
                        },
                    ))
                }
                Located::Ask(..) if hops >= REDIRECTS_MAX => Err(LinkError::Redirects { topic, limit: REDIRECTS_MAX }),
                Located::Ask(place, authoritative) => {
                    Ok(Next::At(place, Doing::Lookup { authoritative, hops: hops + 1 }))
                }
            },
            Doing::Producer { id } => {
                // With deduplication on, the broker drops what it thinks it has.
                self.last_seq = lookup::last_sequence(&broker, &topic, answer)?.unwrap_or(0);
                Ok(Next::Open(id))
            }
            Doing::Consumer { id } | Doing::ReaderAt { id, .. } => {
                subscribed(&broker, &topic, answer).map(|()| Next::Open(id))
            }
            Doing::ReaderBehind { id } => {
                subscribed(&broker, &topic, answer).map(|()| Next::Here(Doing::LastMessage { id }))
            }
            Doing::LastMessage { id } => {
                if let Some(error) = answer.error {
                    return Err(refused(&broker, format!("the last message of {topic}"), error.error, error.message));
                }
                let Some(found) = answer.get_last_message_id_response else { return Err(unexpected(&broker)) };
                let message = found.last_message_id;
                if message.entry_id == NO_ENTRY {
                    out.push(Effect::Empty(step.service.0.clone()));
                    return Ok(Next::Open(id));
                }
                if self.passed == Some(hand::key(&message)) {
                    return Ok(Next::Open(id));
                }
                let request = self.number();
                out.push(send(step.wire, requests::close_consumer(id, request)));
                Ok(Next::Here(Doing::ReaderAt { id: self.number(), message }))
            }
        }
    }

    fn open(&mut self, part: Part, wire: u64, id: u64, now: Instant, out: &mut Vec<Effect>) {
        self.slot_mut(part).state = State::Open { wire, id, since: now };
        match part {
            Part::Inbox => out.push(send(wire, requests::flow(id, INBOX_PERMITS))),
            Part::Commands => out.push(send(wire, requests::flow(id, COMMANDS_MAX as u32))), // 16
            Part::Reports => {}
        }
        out.push(Effect::Opened(part));
    }
}

fn subscribed(broker: &str, topic: &str, answer: BaseCommand) -> Result<(), LinkError> {
    match (answer.error, answer.success) {
        (Some(error), _) => Err(refused(broker, format!("a consumer on {topic}"), error.error, error.message)),
        (None, Some(_)) => Ok(()),
        (None, None) => Err(unexpected(broker)),
    }
}
