//! The link's task: carries what happens to the core, and does what the core says.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use prost::Message as _;
use pulsar::message::proto::{BaseCommand, CommandSend, MessageMetadata};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::core::{Core, Effect, Input, Key, Part};
use super::frames::Frame;
use super::pending::Pending;
use super::wires::{Event, FINISH_MAX, Wires};
use super::{Heard, Meters, NotSent, Order, Settings, Status, Taken, Wanted};
use crate::observe::status::LinkState;
use crate::pulsar::wire::connection::auth_response;
use crate::pulsar::wire::frame::{self, Sender};
use crate::pulsar::wire::{Connection, LinkError};
use crate::sys::clock::Clock;
use crate::sys::random;

/// The ends of the channels that the task holds.
pub(super) struct Ends {
    pub wants: watch::Receiver<Wanted>,
    pub orders: mpsc::Receiver<Order>,
    pub heard: mpsc::Sender<Heard>,
}

/// Work that takes its time, for a connection.
enum Done {
    Connected(Result<Connection, LinkError>),
    Token(Result<Box<BaseCommand>, LinkError>),
}

type Chore = BoxFuture<'static, (u64, Done)>;

/// Which core a command came through, which one it is, and whether it was taken.
type Settled = (u64, Key, bool);

/// Most failures whose repetition is not logged: each part's own, for a few brokers.
const SAID_MAX: usize = 16;

struct Task {
    core: Option<Core>,
    /// Counts cores.
    epoch: u64,
    generation: u64,
    /// See [`Wanted::moves`].
    moves: u64,
    wires: Wires,
    chores: FuturesUnordered<Chore>,
    pending: Pending,
    /// The failure that was told last.
    told: Option<String>,
    /// What was logged since the part was open, at most [`SAID_MAX`].
    said: VecDeque<(Option<Part>, String)>,
    answers: BTreeMap<u64, oneshot::Sender<Result<(), NotSent>>>,
    last_report: u64,
    /// Not bounded here: each command in hand sends once.
    settle: mpsc::UnboundedSender<Settled>,
    effects: Vec<Effect>,
    status: Status,
    clock: Clock,
    meters: Meters,
}

/// Runs until `stop`, or until nobody holds the other ends.
pub(super) async fn run(
    mut ends: Ends,
    status: Status,
    clock: Clock,
    meters: Meters,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let (settle, mut settled) = mpsc::unbounded_channel();
    let mut task = Task::new(settle, status, clock, meters);
    loop {
        let Task { wires, chores, core, pending, generation, .. } = &mut task;
        let deadlines = core.as_ref().and_then(Core::deadline).into_iter().chain(wires.deadline());
        let deadline = deadlines.min();
        let (wire, event) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = ends.heard.closed() => break,
            changed = ends.wants.changed() => {
                let Ok(()) = changed else { break };
                let wanted = ends.wants.borrow_and_update().clone();
                task.set(wanted).await;
                continue;
            }
            permit = ends.heard.reserve(), if !pending.is_empty() => {
                if let (Ok(permit), Some(heard)) = (permit, pending.next(*generation)) {
                    permit.send(heard);
                }
                continue;
            }
            Some((epoch, key, taken)) = settled.recv() => {
                if epoch == task.epoch {
                    task.handle(Input::Settled(key, taken));
                }
                continue;
            }
            order = ends.orders.recv() => {
                let Some(order) = order else { break };
                task.report(order);
                continue;
            }
            Some((wire, done)) = chores.next(), if !chores.is_empty() => {
                task.done(wire, done);
                continue;
            }
            event = std::future::poll_fn(|cx| wires.poll(cx)) => event,
            () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {
                wires.expire(Instant::now());
                task.handle(Input::Time);
                continue;
            }
        };
        task.handle(match event {
            Event::Heard => Input::Heard(wire),
            Event::Frame(Frame::Command(command)) => Input::Command(wire, command),
            Event::Frame(Frame::Message(message)) => Input::Message(wire, message),
            Event::Lost(error) => Input::Lost(wire, error),
        });
    }
    task.close().await;
    Ok(())
}

impl Task {
    fn new(settle: mpsc::UnboundedSender<Settled>, status: Status, clock: Clock, meters: Meters) -> Self {
        Self {
            core: None,
            epoch: 0,
            generation: 0,
            moves: 0,
            wires: Wires::default(),
            chores: FuturesUnordered::new(),
            pending: Pending::default(),
            told: None,
            said: VecDeque::new(),
            answers: BTreeMap::new(),
            last_report: 0,
            settle,
            effects: Vec::new(),
            status,
            clock,
            meters,
        }
    }

    fn handle(&mut self, input: Input) {
        let Some(core) = &mut self.core else { return };
        let before = core.is_connected();
        core.handle(input, Instant::now(), &mut self.effects);
        let mut failed = None;
        // Effects lead to no inputs: one pass is all.
        for effect in std::mem::take(&mut self.effects) {
            if let Effect::Failed(part, error) = effect {
                let text = self.failed(part, &error);
                failed = Some(text);
            } else {
                self.apply(effect);
            }
        }
        let Some(core) = &self.core else { return };
        let (after, in_flight) = (core.is_connected(), core.in_flight() as u64);
        self.status.update(|s| s.in_flight = in_flight);
        if before && !after {
            self.meters.connected.dec();
        }
        if let Some(text) = failed.filter(|_| !after) {
            self.state(LinkState::Down);
            if before || self.told.as_ref() != Some(&text) {
                self.pending.state(Err(text.clone()));
                self.told = Some(text);
            }
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Connect(wire, address, proxied) => {
                let Some(connector) = self.core.as_ref().map(|c| c.settings().connector.clone()) else { return };
                self.chores.push(Box::pin(async move {
                    (wire, Done::Connected(connector.connect(&address, proxied.as_deref()).await))
                }));
            }
            Effect::Drop(wire) => self.wires.remove(wire),
            Effect::Finish(wire) => self.wires.finish(wire, Instant::now()),
            Effect::Send(wire, command) => self.wires.send(wire, &command),
            Effect::Token(wire) => {
                let Some(connector) = self.core.as_ref().map(|c| c.settings().connector.clone()) else { return };
                self.chores.push(Box::pin(async move {
                    (wire, Done::Token(auth_response(&connector.credentials).await.map(Box::new)))
                }));
            }
            Effect::Publish(wire, producer, seq, bytes) => self.publish(wire, producer, seq, &bytes),
            Effect::Answer(number, outcome) => self.answer(number, outcome),
            Effect::Connected => {
                self.meters.connected.inc();
                self.state(LinkState::Up);
                self.told = None;
                self.said.retain(|(part, _)| part.is_some());
                self.pending.state(Ok(()));
                tracing::info!(generation = self.generation, "control link is up");
            }
            Effect::Opened(part) => {
                self.said.retain(|(of, _)| *of != Some(part));
                if part == Part::Commands {
                    self.status.update(|s| s.warning = None);
                }
            }
            Effect::Inbox(at, bytes) => {
                self.meters.inbox.inc();
                self.pending.inbox(at, Some(bytes));
            }
            Effect::Empty(at) => self.pending.inbox(at, None),
            Effect::Command(bytes, key) => {
                self.meters.commands.inc();
                let (settle, epoch) = (self.settle.clone(), self.epoch);
                let taken = Taken::new(move |taken| {
                    // The task may have ended; then the command comes again at the next start.
                    let _ = settle.send((epoch, key, taken));
                });
                self.pending.command(bytes, taken);
            }
            Effect::Unfit(part, unfit) => {
                self.meters.unfit.inc();
                let (reason, detail) = (unfit.reason, &unfit.detail);
                tracing::warn!(?part, reason, "a message of the cloud cannot be taken and is passed over: {detail}");
                self.pending.unfit(unfit);
            }
            // Taken out before.
            Effect::Failed(..) => {}
        }
    }

    fn done(&mut self, wire: u64, done: Done) {
        match done {
            Done::Connected(Ok(connection)) => {
                self.wires.add(wire, connection);
                self.handle(Input::Up(wire));
            }
            Done::Token(Ok(command)) => self.wires.send(wire, &command),
            Done::Connected(Err(error)) | Done::Token(Err(error)) => {
                self.wires.remove(wire);
                self.handle(Input::Lost(wire, error));
            }
        }
    }

    fn publish(&mut self, wire: u64, producer: u64, seq: u64, bytes: &[u8]) {
        let Some(settings) = self.core.as_ref().map(Core::settings) else { return };
        let name = settings.producer();
        let publish_time_ms = u64::try_from(self.clock.unix_ms()).unwrap_or(0);
        let metadata = MessageMetadata {
            partition_key: Some(settings.node.clone()),
            ..Sender { producer_id: producer, name: &name, publish_time_ms }.metadata(seq)
        };
        let send =
            CommandSend { producer_id: producer, sequence_id: seq, num_messages: Some(1), ..CommandSend::default() };
        self.wires.write(wire, |out| {
            frame::message(out, send, |out| {
                // BytesMut grows, so there is always room.
                let _ = metadata.encode(out);
                bytes
            });
        });
    }

    fn report(&mut self, order: Order) {
        self.last_report += 1;
        self.answers.insert(self.last_report, order.answer);
        if self.core.is_some() {
            self.handle(Input::Report(self.last_report, order.bytes));
        } else {
            self.answer(self.last_report, Err(NotSent::Off));
        }
    }

    fn answer(&mut self, number: u64, outcome: Result<(), NotSent>) {
        match outcome {
            Ok(()) => self.meters.reports_sent.inc(),
            Err(_) => self.meters.reports_failed.inc(),
        };
        if let Some(answer) = self.answers.remove(&number) {
            // Its caller may have given up.
            let _ = answer.send(outcome);
        }
    }

    async fn set(&mut self, wanted: Wanted) {
        let moves = std::mem::replace(&mut self.moves, wanted.moves) != wanted.moves;
        self.generation = wanted.generation;
        if wanted.settings.as_ref() == self.core.as_ref().map(Core::settings) {
            match &self.core {
                Some(core) if core.is_connected() => self.pending.state(Ok(())),
                // Whoever asks anew is told anew.
                Some(_) => self.told = None,
                None => self.pending.state(Err(NotSent::Off.to_string())),
            }
            if moves {
                self.handle(Input::Elsewhere);
            }
            return;
        }
        self.close().await;
        let Some(settings) = wanted.settings else {
            self.state(LinkState::Off);
            self.pending.state(Err(NotSent::Off.to_string()));
            return;
        };
        self.start(settings);
    }

    fn start(&mut self, settings: Settings) {
        self.state(LinkState::Connecting);
        self.core = Some(Core::new(settings, random::bits(), Instant::now()));
        self.handle(Input::Time);
    }

    /// Ends what there is, in order, within [`FINISH_MAX`].
    async fn close(&mut self) {
        self.epoch += 1;
        (self.pending, self.told) = (Pending::default(), None);
        self.said.clear();
        let Some(mut core) = self.core.take() else { return };
        if core.is_connected() {
            self.meters.connected.dec();
        }
        let mut effects = Vec::new();
        core.close(&mut effects);
        effects.into_iter().for_each(|effect| self.apply(effect));
        // A broker that does not answer finds out by itself.
        let _ = timeout(FINISH_MAX, self.wires.finished()).await;
        (self.wires, self.chores) = (Wires::default(), FuturesUnordered::new());
        self.status.update(|s| (s.in_flight, s.warning) = (0, None));
        self.state(LinkState::Down);
    }

    fn state(&self, state: LinkState) {
        let now = self.clock.unix_ms();
        self.status.update(|s| {
            // Attempts that fail one after the other are one outage, not many.
            let waits = |s| matches!(s, LinkState::Down | LinkState::Connecting);
            if s.state != state && !(waits(s.state) && waits(state) && s.since_ms != 0) {
                s.since_ms = now;
            }
            s.state = state;
        });
    }

    /// Tells the operator what is wrong. The same error again and again is one line in the log.
    /// A broker without our namespaces fails each part with words of its own, in turn, for as long as it stays so.
    fn failed(&mut self, part: Option<Part>, error: &LinkError) -> String {
        let (text, now, class) = (error.to_string(), self.clock.unix_ms(), error.class());
        self.meters.error(class);
        let said = (part, text.clone());
        let repeated = self.said.contains(&said);
        if !repeated {
            self.said.truncate(SAID_MAX - 1);
            self.said.push_front(said);
        }
        self.status.update(|s| {
            s.last_error = Some(text.clone());
            s.last_error_ms = Some(now);
            if part == Some(Part::Commands) {
                s.warning = Some(format!("no commands are received: {text}"));
            }
        });
        if repeated {
            tracing::debug!(?part, class, "control link: {text}");
        } else {
            tracing::warn!(?part, class, "control link: {text}; trying again");
        }
        text
    }
}
