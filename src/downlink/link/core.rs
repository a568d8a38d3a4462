//! What the link does about everything that happens to it: three parts (inbox, commands, reports), each looked up and
//! opened by itself, on as few connections as their brokers allow. Inputs come with the time, effects go out. [pure]

mod hand;
mod opening;
pub(crate) mod requests;
mod traffic;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pulsar::message::proto::BaseCommand;

use super::content::Unfit;
use super::frames::Incoming;
use super::{NotSent, RECEIPT_MAX, Settings};
use crate::pulsar::names;
use crate::pulsar::wire::connection::{REQUEST_TIMEOUT, answered, pong};
use crate::pulsar::wire::lookup::Place;
use crate::pulsar::wire::{Address, LinkError};
use crate::sys::backoff::{Backoff, Jitter};
use hand::Hand;
use opening::Step;

pub use hand::Key;

/// A ping goes out when nothing was heard for this long. The uplink asks after 3 s, because events wait for it; here
/// every byte of an idle link is one of ours.
const PING_AFTER: Duration = Duration::from_secs(10);

/// The connection is given up when nothing was heard for this long.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// A part that was open for this long begins anew with the shortest wait.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// One of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The node's desired state: a reader that begins at the newest message.
    Inbox,
    /// Commands for devices: a durable subscription.
    Commands,
    /// The node's reports: a producer.
    Reports,
}

impl Part {
    /// All.
    pub const ALL: [Self; 3] = [Self::Inbox, Self::Commands, Self::Reports];

    /// What brokers call it.
    fn what(self) -> &'static str {
        if self == Self::Reports { "producer" } else { "consumer" }
    }
}

/// What happens.
#[derive(Debug)]
pub enum Input {
    /// Time has passed.
    Time,
    /// A connection is up.
    Up(u64),
    /// A connection could not be made, or is gone.
    Lost(u64, LinkError),
    /// Bytes have come.
    Heard(u64),
    /// A command has come.
    Command(u64, Box<BaseCommand>),
    /// A message has come.
    Message(u64, Box<Incoming>),
    /// A report is to be sent; the answer is to be called by this number.
    Report(u64, Vec<u8>),
    /// Somebody is done with a command: whether it was taken.
    Settled(Key, bool),
    /// Where the inbox was read is not where this node is assigned anything.
    Elsewhere,
}

/// What is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Connect; through a proxy to the broker it names.
    Connect(u64, Address, Option<String>),
    /// Forget a connection.
    Drop(u64),
    /// Send what is written, then forget the connection.
    Finish(u64),
    /// Send a command.
    Send(u64, Box<BaseCommand>),
    /// Answer a challenge with the token.
    Token(u64),
    /// Send a message: connection, producer, sequence, payload.
    Publish(u64, u64, u64, Vec<u8>),
    /// What became of a report.
    Answer(u64, Result<(), NotSent>),
    /// Inbox and reports are open.
    Connected,
    /// A part is open.
    Opened(Part),
    /// Something went wrong; it is tried again. Without a part: all parts of a connection.
    Failed(Option<Part>, LinkError),
    /// The newest message of the inbox, and at which of the settings' addresses it was found.
    Inbox(Address, Bytes),
    /// The inbox found there is empty.
    Empty(Address),
    /// A command.
    Command(Bytes, Key),
    /// A message that cannot be handed over.
    Unfit(Part, Unfit),
}

#[derive(Debug)]
struct Wire {
    id: u64,
    place: Place,
    up: bool,
    heard: Instant,
    pinged: bool,
}

#[derive(Debug)]
enum State {
    /// Not before then.
    Waiting(Instant),
    /// On its way to being open.
    Opening(Step),
    /// Open on this connection, as this consumer or producer.
    Open { wire: u64, id: u64, since: Instant },
}

#[derive(Debug)]
struct Slot {
    topic: String,
    /// Where it was looked up last.
    service: Option<Address>,
    state: State,
    backoff: Backoff,
}

#[derive(Debug)]
struct Sent {
    number: u64,
    seq: u64,
    at: Instant,
}

/// The state of one link with one set of settings.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    /// Counts attempts: which address is next.
    turn: usize,
    wires: Vec<Wire>,
    slots: [Slot; 3],
    /// The last number given to a connection, consumer, producer or request.
    last_number: u64,
    jitter: Jitter,
    connected: bool,
    last_error: Option<String>,
    hand: Hand,
    /// An inbox message that cannot be handed over: it is not fetched again.
    passed: Option<Key>,
    sent: VecDeque<Sent>,
    /// The last sequence of the producer.
    last_seq: u64,
    /// Distinguishes the readers of one process' life from those of another.
    seed: u64,
}

impl Core {
    /// Nothing is open, everything is due. `seed` is random.
    pub fn new(settings: Settings, seed: u64, now: Instant) -> Self {
        let (tenant, node) = (&settings.tenant, &settings.node);
        let slot = |topic| Slot { topic, service: None, state: State::Waiting(now), backoff: Backoff::default() };
        let slots = [
            slot(names::inbox_topic(tenant, node)),
            slot(names::commands_topic(tenant, node)),
            slot(names::reports_topic(tenant)),
        ];
        Self {
            settings,
            turn: 0,
            wires: Vec::new(),
            slots,
            last_number: 0,
            jitter: Jitter::new(seed),
            connected: false,
            last_error: None,
            hand: Hand::default(),
            passed: None,
            sent: VecDeque::new(),
            last_seq: 0,
            seed,
        }
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether inbox and reports are open.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Reports without a receipt.
    pub fn in_flight(&self) -> usize {
        self.sent.len()
    }

    /// Takes what happened, and all that is due.
    pub fn handle(&mut self, input: Input, now: Instant, out: &mut Vec<Effect>) {
        match input {
            Input::Time => {}
            Input::Up(wire) => self.up(wire, now, out),
            Input::Lost(wire, error) => self.lost(wire, error, now, out),
            Input::Heard(wire) => {
                if let Some(wire) = self.wires.iter_mut().find(|w| w.id == wire) {
                    (wire.heard, wire.pinged) = (now, false);
                }
            }
            Input::Command(wire, command) => self.command(wire, *command, now, out),
            Input::Message(wire, incoming) => self.message(wire, *incoming, now, out),
            Input::Report(number, bytes) => self.report(number, bytes, now, out),
            Input::Settled(key, taken) => self.settled(key, taken, now, out),
            Input::Elsewhere => self.elsewhere(now, out),
        }
        self.pass_time(now, out);
        self.tidy(out);
    }

    /// When [`Input::Time`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        let wires = self.wires.iter().filter(|w| w.up);
        let wires = wires.map(|w| w.heard + if w.pinged { SILENCE_MAX } else { PING_AFTER });
        let slots = self.slots.iter().filter_map(|slot| match &slot.state {
            State::Waiting(until) => Some(*until),
            State::Opening(step) => step.deadline(),
            State::Open { .. } => None,
        });
        let receipt = self.sent.front().map(|s| s.at + RECEIPT_MAX);
        wires.chain(slots).chain(receipt).chain(self.hand.deadline()).min()
    }

    /// The end of these settings: everything is closed, so that its names are free at once.
    pub fn close(&mut self, out: &mut Vec<Effect>) {
        for part in Part::ALL {
            self.give_back(part, out);
        }
        out.extend(self.wires.drain(..).map(|w| if w.up { Effect::Finish(w.id) } else { Effect::Drop(w.id) }));
        self.unsent(&NotSent::Down("its settings have changed, or the process stops".to_owned()), out);
    }

    fn pass_time(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let dead = |w: &&Wire| w.up && now.saturating_duration_since(w.heard) >= SILENCE_MAX;
        while let Some(wire) = self.wires.iter().find(dead) {
            let (broker, silence) = (wire.place.0.authority(), now.saturating_duration_since(wire.heard));
            let id = wire.id;
            out.push(Effect::Drop(id));
            self.lost(id, LinkError::Silent { broker, silence }, now, out);
        }
        for wire in &mut self.wires {
            if wire.up && !wire.pinged && now.saturating_duration_since(wire.heard) >= PING_AFTER {
                wire.pinged = true;
                out.push(send(wire.id, requests::ping()));
            }
        }
        if self.sent.front().is_some_and(|s| now.saturating_duration_since(s.at) >= RECEIPT_MAX) {
            let broker = self.broker_of(Part::Reports);
            self.fail(
                Part::Reports,
                LinkError::Slow { broker, step: "confirming a report", limit: RECEIPT_MAX },
                now,
                out,
            );
        }
        if let Some(permits) = self.hand.due(now)
            && let State::Open { wire, id, .. } = self.slot(Part::Commands).state
        {
            out.push(send(wire, requests::redeliver(id)));
            out.push(send(wire, requests::flow(id, permits)));
        }
        for part in Part::ALL {
            match &self.slot(part).state {
                State::Waiting(until) if *until <= now => self.begin(part, now, out),
                State::Opening(step) if step.deadline().is_some_and(|at| at <= now) => {
                    let step = step.what();
                    let broker = self.broker_of(part);
                    self.fail(part, LinkError::Slow { broker, step, limit: REQUEST_TIMEOUT }, now, out);
                }
                _ => {}
            }
        }
    }

    /// Closes connections that no part uses, and says when the link is connected.
    fn tidy(&mut self, out: &mut Vec<Effect>) {
        let used: Vec<u64> = self.slots.iter().filter_map(|s| s.state.wire()).collect();
        self.wires.retain(|wire| {
            let keep = used.contains(&wire.id);
            if !keep {
                out.push(if wire.up { Effect::Finish(wire.id) } else { Effect::Drop(wire.id) });
            }
            keep
        });
        let open = |part| matches!(self.slot(part).state, State::Open { .. });
        let connected = open(Part::Inbox) && open(Part::Reports);
        if connected && !self.connected {
            out.push(Effect::Connected);
        }
        self.connected = connected;
    }

    fn up(&mut self, wire: u64, now: Instant, out: &mut Vec<Effect>) {
        let Some(found) = self.wires.iter_mut().find(|w| w.id == wire) else { return };
        (found.up, found.heard) = (true, now);
        for part in Part::ALL {
            if self.slot(part).state.wire() == Some(wire) {
                self.proceed(part, now, out);
            }
        }
    }

    fn lost(&mut self, wire: u64, error: LinkError, now: Instant, out: &mut Vec<Effect>) {
        let Some(at) = self.wires.iter().position(|w| w.id == wire) else { return };
        self.wires.swap_remove(at);
        self.turn = self.turn.wrapping_add(1);
        let until = now + self.jitter.up_to(self.settings.retry_max);
        let text = error.to_string();
        for part in Part::ALL {
            if self.slot(part).state.wire() == Some(wire) {
                self.slot_mut(part).state = State::Waiting(until);
                self.gone(part, &text, out);
            }
        }
        self.last_error = Some(text);
        out.push(Effect::Failed(None, error));
    }

    /// Leaves the address where the inbox was read for the next one, after a while. Without another one it stays: what is
    /// missing may still come.
    fn elsewhere(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let Some(service) = self.slot(Part::Inbox).service.clone() else { return };
        let at = self.settings.addresses.iter().position(|address| *address == service);
        let Some(at) = at.filter(|_| self.settings.addresses.len() > 1) else { return };
        self.turn = at + 1;
        let until = now + self.jitter.up_to(self.settings.retry_max);
        let error = LinkError::NotOurs { broker: service.authority() };
        let text = error.to_string();
        for part in Part::ALL {
            self.give_back(part, out);
            self.slot_mut(part).state = State::Waiting(until);
            self.gone(part, &text, out);
        }
        self.last_error = Some(text);
        out.push(Effect::Failed(None, error));
    }

    /// Begins again with `part` alone, after a while.
    fn fail(&mut self, part: Part, error: LinkError, now: Instant, out: &mut Vec<Effect>) {
        self.give_back(part, out);
        self.fall(part, error, now, out);
    }

    /// The same, when nothing of it is open at the broker.
    fn fall(&mut self, part: Part, error: LinkError, now: Instant, out: &mut Vec<Effect>) {
        let random = self.jitter.bits();
        let slot = self.slot_mut(part);
        if let State::Open { since, .. } = slot.state
            && now.saturating_duration_since(since) >= STEADY_AFTER
        {
            slot.backoff.reset();
        }
        slot.state = State::Waiting(now + slot.backoff.after_failure(random));
        let text = error.to_string();
        self.gone(part, &text, out);
        self.last_error = Some(text);
        out.push(Effect::Failed(Some(part), error));
    }

    /// Closes at the broker what it may have of `part`.
    fn give_back(&mut self, part: Part, out: &mut Vec<Effect>) {
        let at_broker = match &self.slot(part).state {
            State::Open { wire, id, .. } => Some((*wire, *id)),
            State::Opening(step) => step.at_broker(),
            State::Waiting(_) => None,
        };
        let Some((wire, id)) = at_broker else { return };
        let request = self.number();
        let close = match part {
            Part::Reports => requests::close_producer(id, request),
            Part::Inbox | Part::Commands => requests::close_consumer(id, request),
        };
        out.push(send(wire, close));
    }

    fn gone(&mut self, part: Part, why: &str, out: &mut Vec<Effect>) {
        match part {
            Part::Inbox => {}
            Part::Commands => self.hand.disconnected(),
            Part::Reports => self.unsent(&NotSent::Down(why.to_owned()), out),
        }
    }

    fn unsent(&mut self, why: &NotSent, out: &mut Vec<Effect>) {
        out.extend(self.sent.drain(..).map(|s| Effect::Answer(s.number, Err(why.clone()))));
    }

    fn command(&mut self, wire: u64, command: BaseCommand, now: Instant, out: &mut Vec<Effect>) {
        if command.ping.is_some() {
            out.push(send(wire, pong()));
        } else if command.auth_challenge.is_some() {
            out.push(Effect::Token(wire));
        } else if let Some(closed) = command.close_producer {
            self.closed(wire, closed.producer_id, now, out);
        } else if let Some(closed) = command.close_consumer {
            self.closed(wire, closed.consumer_id, now, out);
        } else if let Some(receipt) = command.send_receipt {
            self.receipt(wire, &receipt, now, out);
        } else if let Some(error) = command.send_error {
            self.send_error(wire, error, now, out);
        } else if let Some(request) = answered(&command) {
            let of = |slot: &Slot| matches!(&slot.state, State::Opening(step) if step.is_answered_by(wire, request));
            if let Some(part) = Part::ALL.into_iter().find(|part| of(self.slot(*part))) {
                self.answer(part, command, now, out);
            }
        }
    }

    /// The broker closed a consumer or producer; all have numbers of their own.
    fn closed(&mut self, wire: u64, id: u64, now: Instant, out: &mut Vec<Effect>) {
        for part in Part::ALL {
            let open = match &self.slot(part).state {
                State::Open { wire, id, .. } => Some((*wire, *id)),
                State::Opening(step) => step.at_broker(),
                State::Waiting(_) => None,
            };
            if open == Some((wire, id)) {
                let topic = self.slot(part).topic.clone();
                let error = LinkError::Closed { broker: self.broker_of(part), what: part.what(), topic };
                self.fall(part, error, now, out);
            }
        }
    }

    fn slot(&self, part: Part) -> &Slot {
        &self.slots[part as usize]
    }

    fn slot_mut(&mut self, part: Part) -> &mut Slot {
        &mut self.slots[part as usize]
    }

    fn broker_of(&self, part: Part) -> String {
        let wire = self.slot(part).state.wire();
        self.wires.iter().find(|w| Some(w.id) == wire).map_or_else(String::new, |w| w.place.0.authority())
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

impl State {
    fn wire(&self) -> Option<u64> {
        match self {
            Self::Waiting(_) => None,
            Self::Opening(step) => Some(step.wire()),
            Self::Open { wire, .. } => Some(*wire),
        }
    }
}

fn send(wire: u64, command: BaseCommand) -> Effect {
    Effect::Send(wire, Box::new(command))
}

#[cfg(test)]
#[path = "core_tests/mod.rs"]
mod tests;
