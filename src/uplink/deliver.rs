//! One life of a lane's connections: moves bytes between the outbox, the resume rule and the brokers, until something
//! is in doubt or the process stops. Decides nothing about what may be sent: that is `resume`.

mod upkeep;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::error::LaneError;
use super::lane::Lane;
use super::open::{self, Session};
use super::pump::{self, ANSWERS_MAX, Answer, Pipe};
use super::resume::{Effect, Input, Resume, Seq};
use super::wire::{self, Outgoing};
use crate::event::record;
use crate::outbox::Stored;
use crate::pulsar::wire::LinkError;
use crate::pulsar::wire::connection::{self, is_final};
use crate::pulsar::wire::frame::{self, Sender};
use upkeep::Probe;

/// An event is late when it was accepted longer than this before it is sent, or before the link came up.
pub const LATE_AFTER: Duration = Duration::from_secs(10);

/// How often pings, time-outs and the status are looked after.
const TICK: Duration = Duration::from_millis(250);

/// Bytes encoded before the connections get their turn: long enough to be efficient, short enough
/// (0.3 ms) that the first bytes are on their way while the next ones are encoded.
const FILL_BYTES: usize = 256 << 10;

/// More events are fetched while fewer than this many wait here.
const QUEUE_EVENTS: usize = 1024;

/// Around a message: what its frame and metadata have besides the event.
const MESSAGE_OVERHEAD: usize = 1 << 10;

struct Wire {
    pipe: Pipe,
    broker: String,
    /// Frames not yet given to the pipe.
    out: BytesMut,
    heard: Instant,
    pinged: bool,
    /// Bytes written, as of the last tick.
    written: u64,
}

impl Wire {
    fn flush(&mut self) {
        if !self.out.is_empty() {
            // An error means the connection has ended; its driver says why.
            let _ = self.pipe.frames.send(self.out.split().freeze());
        }
    }
}

struct Partition {
    wire: usize,
    topic: String,
    /// Entries of the open batch.
    entries: BytesMut,
    /// When each unit in flight was sent.
    sent: VecDeque<Instant>,
}

/// How a life ended.
pub enum End {
    /// By our own will.
    Stopped,
    /// By trouble.
    Failed(LaneError),
}

impl From<LaneError> for End {
    fn from(error: LaneError) -> Self {
        Self::Failed(error)
    }
}

/// One life of the connections.
pub struct Delivery<'a> {
    lane: &'a Lane,
    core: &'a mut Resume,
    wires: Vec<Wire>,
    partitions: Vec<Partition>,
    drivers: FuturesUnordered<BoxFuture<'static, LinkError>>,
    answers: mpsc::Receiver<(usize, Answer)>,
    queue: VecDeque<Stored>,
    effects: Vec<Effect>,
    entry: BytesMut,
    confirmed: &'a watch::Sender<Seq>,
    /// Sequences up to here were there before the link came up.
    backlog_end: Seq,
    message_max: usize,
    /// The event at the head cannot be sent.
    blocked: bool,
    probe: Option<Probe>,
    progress: Instant,
    next_request: u64,
    stopping: bool,
}

impl<'a> Delivery<'a> {
    /// Takes over what [`open::open`] opened, after `core` has seen its Ls.
    pub fn new(
        lane: &'a Lane,
        core: &'a mut Resume,
        session: Session,
        backlog_end: Seq,
        confirmed: &'a watch::Sender<Seq>,
    ) -> Self {
        let message_max = session.connections.iter().map(|c| c.message_max).min().unwrap_or(0);
        core.limit_batches(message_max.saturating_sub(MESSAGE_OVERHEAD));
        let (sender, answers) = mpsc::channel(ANSWERS_MAX);
        let drivers = FuturesUnordered::<BoxFuture<'static, LinkError>>::new();
        let mut wires = Vec::new();
        let now = Instant::now();
        for (index, connection) in session.connections.into_iter().enumerate() {
            let broker = connection.broker.clone();
            let (pipe, driver) = pump::start(connection, index, sender.clone());
            drivers.push(Box::pin(driver));
            wires.push(Wire { pipe, broker, out: BytesMut::new(), heard: now, pinged: false, written: 0 });
        }
        let partition = |p: open::Producer| Partition {
            wire: p.connection,
            topic: p.topic,
            entries: BytesMut::new(),
            sent: VecDeque::new(),
        };
        Self {
            lane,
            core,
            wires,
            partitions: session.producers.into_iter().map(partition).collect(),
            drivers,
            answers,
            queue: VecDeque::new(),
            effects: Vec::new(),
            entry: BytesMut::new(),
            confirmed,
            backlog_end,
            message_max,
            blocked: false,
            probe: None,
            progress: now,
            // Numbers below were used while opening; only replies to ours are looked at.
            next_request: 1 << 32,
            stopping: false,
        }
    }

    /// Delivers what comes through `chunks` until trouble or `stop`.
    pub async fn run(&mut self, mut chunks: mpsc::Receiver<Vec<Stored>>, stop: &CancellationToken) -> End {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let more = match self.fill() {
                Ok(more) => more,
                Err(error) => return error.into(),
            };
            if let Err(error) = self.begin_probe() {
                return error.into();
            }
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(error) = self.drivers.next() => Err(error.into()),
                Some((wire, answer)) = self.answers.recv() => self.take(wire, answer).await,
                _ = ticks.tick() => self.tick(),
                Some(chunk) = chunks.recv(), if self.queue.len() < QUEUE_EVENTS => {
                    self.queue.extend(chunk);
                    Ok(())
                }
                () = std::future::ready(()), if more => Ok(()),
            };
            if let Err(error) = outcome {
                return error.into();
            }
        }
        self.stop().await;
        End::Stopped
    }

    /// Takes events as far as there is room, and sends what may leave. `true`: more could be done at once.
    fn fill(&mut self) -> Result<bool, LaneError> {
        let mut encoded = 0;
        let mut more = false;
        while !self.blocked && !self.stopping && self.probe.is_none() {
            let Some(stored) = self.queue.pop_front() else { break };
            if encoded >= FILL_BYTES {
                self.queue.push_front(stored);
                more = true;
                break;
            }
            match self.event(&stored)? {
                0 => {
                    self.queue.push_front(stored);
                    break;
                }
                bytes => encoded += bytes,
            }
        }
        if !more {
            self.handle(Input::Flush)?;
        }
        self.wires.iter_mut().for_each(Wire::flush);
        Ok(more)
    }

    /// Takes one event; returns its bytes, 0 when it has to wait.
    fn event(&mut self, stored: &Stored) -> Result<usize, LaneError> {
        let seq = stored.seq;
        let event = match record::decode(&stored.record) {
            Ok((event, _)) => event,
            Err(e) => return Ok(self.block(seq, e.to_string())),
        };
        let late_by = self.lane.clock.unix_ms().saturating_sub(stored.accepted_ms);
        let late = seq <= self.backlog_end || late_by > LATE_AFTER.as_millis() as i64;
        let outgoing = Outgoing { seq, late, stream: &self.lane.stream, event };
        self.entry.clear();
        wire::batch_entry(&mut self.entry, &outgoing);
        let bytes = self.entry.len();
        if bytes + MESSAGE_OVERHEAD > self.message_max {
            let reason = format!(
                "it has {bytes} bytes as a message and the broker takes {} (maxMessageSize in its broker.conf)",
                self.message_max
            );
            return Ok(self.block(seq, reason));
        }
        if !self.core.has_room(bytes) {
            return Ok(0);
        }
        let partition = super::batch::partition(event.key(), self.partitions.len());
        let mut effects = std::mem::take(&mut self.effects);
        self.core.handle(Input::Event { seq, partition, bytes }, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Append { partition } => self.partitions[partition].entries.extend_from_slice(&self.entry),
                Effect::Alone { partition, .. } => self.send_alone(partition, &outgoing),
                other => self.apply(other)?,
            }
        }
        self.effects = effects;
        Ok(bytes)
    }

    /// Nothing after `seq` can be sent: what is in flight still gets its receipts, and the operator is told.
    fn block(&mut self, seq: Seq, reason: String) -> usize {
        self.blocked = true;
        self.lane.failed(&LaneError::Unsendable { seq, reason });
        0
    }

    fn handle(&mut self, input: Input<'_>) -> Result<(), LaneError> {
        let mut effects = std::mem::take(&mut self.effects);
        self.core.handle(input, &mut effects);
        let outcome = effects.drain(..).try_for_each(|effect| self.apply(effect));
        self.effects = effects;
        outcome
    }

    fn apply(&mut self, effect: Effect) -> Result<(), LaneError> {
        match effect {
            // Only an event leads to these, and it applies them where its bytes are.
            Effect::Append { .. } | Effect::Alone { .. } => {}
            Effect::Cut { partition, batch } => {
                let sender = self.lane.sender(partition);
                let p = &mut self.partitions[partition];
                let out = &mut self.wires[p.wire].out;
                let (before, range) = (out.len(), (batch.lowest, batch.highest, batch.events));
                wire::batch(out, &sender, range, &p.entries, self.lane.compression);
                self.lane.metrics.sent_bytes.inc_by((out.len() - before) as u64);
                p.entries.clear();
                self.sent(partition, batch.events);
            }
            Effect::Confirm { through } => {
                // The receiver ends with this life; the lane itself confirms what is left over.
                let _ = self.confirmed.send(through);
            }
            Effect::Restart(doubt) => return Err(doubt.into()),
            Effect::Remembered => self.lane.deduplicated(true),
            Effect::NotRemembered => self.lane.deduplicated(false),
        }
        Ok(())
    }

    fn send_alone(&mut self, partition: usize, outgoing: &Outgoing<'_>) {
        let out = &mut self.wires[self.partitions[partition].wire].out;
        let before = out.len();
        wire::alone(out, &self.lane.sender(partition), outgoing);
        self.lane.metrics.sent_bytes.inc_by((out.len() - before) as u64);
        self.lane.metrics.resumed.inc();
        self.sent(partition, 1);
    }

    fn sent(&mut self, partition: usize, events: usize) {
        self.lane.metrics.sent.inc_by(events as u64);
        let now = Instant::now();
        if self.partitions.iter().all(|p| p.sent.is_empty()) {
            self.progress = now;
        }
        self.partitions[partition].sent.push_back(now);
    }

    async fn take(&mut self, wire: usize, answer: Answer) -> Result<(), LaneError> {
        let now = Instant::now();
        (self.wires[wire].heard, self.wires[wire].pinged) = (now, false);
        match answer {
            Answer::Receipt { producer, seq, duplicate } => self.receipt(producer as usize, seq, duplicate, now),
            Answer::Refused { producer, seq, code, message } => {
                let topic = self.topic(producer);
                if is_final(code) {
                    self.handle(Input::Refused { partition: producer as usize, seq })?;
                }
                Err(connection::refused(&self.wires[wire].broker, format!("event {seq} on {topic}"), code, message)
                    .into())
            }
            Answer::Closed { producer } => Err(LinkError::Closed {
                broker: self.wires[wire].broker.clone(),
                what: "producer",
                topic: self.topic(producer),
            }
            .into()),
            Answer::Ping => {
                frame::command(&mut self.wires[wire].out, &connection::pong());
                Ok(())
            }
            Answer::Pong => Ok(()),
            Answer::Challenge => {
                let answer = connection::auth_response(&self.lane.connector.credentials).await?;
                frame::command(&mut self.wires[wire].out, &answer);
                Ok(())
            }
            Answer::Reply(request, command) => self.reply(wire, request, *command),
        }
    }

    fn topic(&self, producer: u64) -> String {
        self.partitions.get(producer as usize).map_or_else(String::new, |p| p.topic.clone())
    }

    fn receipt(&mut self, partition: usize, seq: Seq, duplicate: bool, now: Instant) -> Result<(), LaneError> {
        let before = self.core.outstanding_events();
        self.handle(Input::Receipt { partition, seq, duplicate })?;
        let metrics = &self.lane.metrics;
        metrics.confirmed.inc_by((before - self.core.outstanding_events()) as u64);
        if duplicate {
            metrics.duplicates.inc();
        }
        self.progress = now;
        // The core has checked that this unit exists.
        if let Some(sent) = self.partitions[partition].sent.pop_front() {
            metrics.latency.observe((now - sent).as_secs_f64());
        }
        Ok(())
    }
}

impl Lane {
    fn sender(&self, partition: usize) -> Sender<'_> {
        Sender {
            producer_id: partition as u64,
            name: &self.producer,
            publish_time_ms: u64::try_from(self.clock.unix_ms()).unwrap_or(0),
        }
    }
}
