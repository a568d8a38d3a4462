//! One bridge's task: connects, subscribes, takes messages, acknowledges what is stored, and begins again after any trouble.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::convert::Infallible;
use std::hash::{Hash, Hasher};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::codec::{Delivery, Incoming};
use super::connection::Connection;
use super::echo::{self, Rounds};
use super::error::BridgeError;
use super::options;
use super::status::Report;
use super::store::Job;
use super::subscriptions::{Note, Plan};
use super::window::{Arrival, Ticket, Window};
use crate::config::edge::Bridge;
use crate::ingest::mqtt::broker::EventName;
use crate::ingest::mqtt::broker::record::Message;
use crate::sys::backoff::Backoff;
use crate::sys::random;

/// Most bytes of payload taken and not on disk; one message may exceed it.
const UNSTORED_BYTES_MAX: usize = 8 << 20;

/// A connection that lived so long may be made again at once. (Two clients with the same client id throw each other out for
/// ever: they must not do it as fast as they can.)
const LONG_LIFE: Duration = Duration::from_secs(10);

/// How long what was taken may take to be stored and acknowledged at the end.
const FINISH_MAX: Duration = Duration::from_secs(3);

/// What one bridge's task knows.
pub struct Setup {
    pub bridge: Arc<Bridge>,
    pub node: String,
    pub note: Arc<Note>,
    pub report: Report,
    pub stopping: CancellationToken,
}

/// Why a connection ended.
enum End {
    Stopped,
    Failed(BridgeError),
}

/// Runs until the gateway stops.
pub async fn run(setup: Setup, jobs: mpsc::Sender<Job>, stored: mpsc::Receiver<Vec<Ticket>>) -> Result<(), Infallible> {
    let stopping = setup.stopping.clone();
    let mut taking = Taking {
        window: Window::default(),
        jobs,
        stored,
        unstored: HashMap::new(),
        unstored_bytes: 0,
        names: random::bits(),
        report: setup.report.clone(),
        in_flight: usize::from(setup.bridge.in_flight),
        node: setup.node.clone(),
        rounds: Rounds::default(),
        born: Instant::now(),
    };
    let mut backoff = Backoff::default();
    loop {
        let begun = Instant::now();
        let end = life(&setup, &mut taking).await;
        setup.report.connected(false);
        match end {
            End::Stopped => return Ok(()),
            End::Failed(error) => setup.report.failed(&error),
        }
        if begun.elapsed() >= LONG_LIFE {
            backoff.reset();
        }
        let mut wait = pin!(sleep(backoff.after_failure(random::bits())));
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Ok(()),
                Some(tickets) = taking.stored.recv() => taking.done(&tickets),
                () = &mut wait => break,
            }
        }
    }
}

/// One connection, from its making to its end.
async fn life(setup: &Setup, taking: &mut Taking) -> End {
    let opening = async {
        let (bridge, node) = (setup.bridge.clone(), setup.node.clone());
        let read = tokio::task::spawn_blocking(move || options::read(&bridge, &node)).await;
        let ended =
            |e: tokio::task::JoinError| BridgeError::Lost { url: setup.bridge.url.clone(), reason: e.to_string() };
        Connection::open(read.map_err(ended)??).await
    };
    let mut opening = pin!(opening);
    let mut connection = loop {
        tokio::select! {
            biased;
            () = setup.stopping.cancelled() => return End::Stopped,
            Some(tickets) = taking.stored.recv() => taking.done(&tickets),
            opened = &mut opening => match opened {
                Ok(connection) => break connection,
                Err(e) => return End::Failed(e),
            },
        }
    };
    let mut link = Link { setup, plan: Plan::default() };
    if let Err(e) = link.begin(&mut connection, taking).await {
        return End::Failed(e);
    }
    match talk(&mut link, taking, &mut connection).await {
        Err(e) => End::Failed(e),
        Ok(()) => {
            let _ = tokio::time::timeout(FINISH_MAX, finish(taking, connection)).await;
            End::Stopped
        }
    }
}

/// Takes messages and acknowledges what is stored, until the gateway stops.
async fn talk(link: &mut Link<'_>, taking: &mut Taking, connection: &mut Connection) -> Result<(), BridgeError> {
    loop {
        let room = taking.has_room();
        tokio::select! {
            biased;
            () = link.setup.stopping.cancelled() => return Ok(()),
            Some(tickets) = taking.stored.recv() => taking.done(&tickets),
            incoming = connection.next(room) => match incoming? {
                Incoming::Message(delivery) => taking.take(*delivery),
                Incoming::Subscribed(granted) => link.subscribed(&granted).await,
                Incoming::Released(packet_id) => taking.window.released(packet_id),
                Incoming::Closed(reason) => return Err(connection.lost(reason)),
                Incoming::Other | Incoming::Connected { .. } | Incoming::Refused(..) => {}
            },
        }
        connection.acknowledge(&mut taking.window)?;
        taking.report.unacknowledged(taking.window.len());
    }
}

/// At the end: what was taken is stored and acknowledged, so that it does not come again.
async fn finish(taking: &mut Taking, mut connection: Connection) {
    while !taking.unstored.is_empty() {
        tokio::select! {
            Some(tickets) = taking.stored.recv() => taking.done(&tickets),
            // It only writes.
            _ = connection.next(false) => return,
        }
        if connection.acknowledge(&mut taking.window).is_err() {
            return;
        }
    }
    let _ = connection.close().await;
}

/// The connection's subscriptions.
struct Link<'s> {
    setup: &'s Setup,
    plan: Plan,
}

impl Link<'_> {
    async fn begin(&mut self, connection: &mut Connection, taking: &mut Taking) -> Result<(), BridgeError> {
        let Setup { bridge, note, report, .. } = self.setup;
        let session_present = connection.session_present;
        taking.window.connected(session_present);
        let (planned, wanted) = (note.clone(), bridge.topics.clone());
        let planned = tokio::task::spawn_blocking(move || (planned.exists(), planned.plan(session_present, &wanted)));
        let everything = |_| (false, Plan { subscribe: bridge.topics.clone(), ..Plan::default() });
        let (subscribed_before, plan) = planned.await.unwrap_or_else(everything);
        self.plan = plan;
        report.connects.inc();
        report.connected(true);
        tracing::info!(bridge = bridge.name, url = bridge.url, session_present, "bridge is connected");
        if !session_present && subscribed_before {
            report.sessions_lost.inc();
            tracing::warn!(
                bridge = bridge.name,
                "{} has forgotten our session: what was published there meanwhile did not reach us; it needs persistence, \
                 and our client id must stay the same",
                bridge.url
            );
        }
        connection.subscribe(&self.plan.subscribe, bridge.qos == 2, &self.plan.unsubscribe)?;
        if self.plan.subscribe.is_empty() && !self.plan.unsubscribe.is_empty() {
            self.note().await;
        }
        Ok(())
    }

    async fn subscribed(&mut self, granted: &[Result<u8, String>]) {
        let Setup { bridge, report, .. } = self.setup;
        let mut problems = Vec::new();
        for (topic, granted) in std::mem::take(&mut self.plan.subscribe).into_iter().zip(granted) {
            match granted {
                Ok(qos) => {
                    if *qos < bridge.qos {
                        problems.push(format!("it grants only QoS {qos} for {topic:?}"));
                    }
                    self.plan.kept.push(topic);
                }
                Err(why) => problems.push(format!("it refuses the topic {topic:?}: {why}")),
            }
        }
        report.warning(
            (!problems.is_empty())
                .then(|| format!("{}: {}; check what that broker lets this user do", bridge.url, problems.join(", "))),
        );
        self.note().await;
    }

    /// Should it fail, the next connection subscribes again: retained messages may come twice.
    async fn note(&self) {
        let (note, topics) = (self.setup.note.clone(), self.plan.kept.clone());
        if let Ok(Err(e)) = tokio::task::spawn_blocking(move || note.write(&topics)).await {
            tracing::warn!(
                bridge = self.setup.bridge.name,
                "cannot note the subscriptions in {}: {e}",
                self.setup.note
            );
        }
    }
}

/// What has been taken, whatever the connection.
struct Taking {
    window: Window,
    jobs: mpsc::Sender<Job>,
    stored: mpsc::Receiver<Vec<Ticket>>,
    /// Handed to the store, with their bytes.
    unstored: HashMap<Ticket, usize>,
    unstored_bytes: usize,
    /// With the ticket it names a message for good.
    names: u64,
    report: Report,
    in_flight: usize,
    node: String,
    rounds: Rounds,
    born: Instant,
}

impl Taking {
    /// Whether one more message can be taken. It is not left to the other broker: see the module.
    fn has_room(&self) -> bool {
        let taken = self.unstored.len().max(self.window.open());
        taken < self.in_flight && self.unstored_bytes < UNSTORED_BYTES_MAX
    }

    fn take(&mut self, delivery: Delivery) {
        let Delivery { handle, dup, message } = delivery;
        let ticket = match handle {
            None => self.window.ticket(),
            Some(handle) => match self.window.arrived(handle, dup, digest(0, &message)) {
                Arrival::New(ticket) => ticket,
                Arrival::Again => {
                    self.report.repeated.inc();
                    return;
                }
            },
        };
        if echo::is_ours(&message, &self.node) {
            // It came by a bridge before, and is on disk.
            self.report.looped.inc();
            self.window.stored(ticket);
            return;
        }
        if self.rounds.came(digest(0, &message), self.born.elapsed()) {
            self.report.goes_round(&message.topic);
        }
        let bytes = message.payload.len() + message.topic.len();
        let name = self.name(ticket, &message);
        // There is room: has_room() was asked, and the channel holds as many.
        if self.jobs.try_send(Job { ticket, message, name }).is_ok() {
            self.unstored.insert(ticket, bytes);
            self.unstored_bytes += bytes;
        }
        self.report.taken();
        self.report.unacknowledged(self.window.len());
    }

    /// Retained messages come at a new subscription, and again whenever the session was lost: as long as they do not change
    /// they have the same name, and the outbox takes them once within its window.
    fn name(&self, ticket: Ticket, message: &Message) -> EventName {
        if message.retain {
            return EventName { session: digest(1, message), number: digest(2, message) };
        }
        EventName { session: self.names, number: ticket }
    }

    fn done(&mut self, tickets: &[Ticket]) {
        for ticket in tickets {
            self.unstored_bytes -= self.unstored.remove(ticket).unwrap_or(0);
            self.window.stored(*ticket);
        }
    }
}

/// Tells messages apart: 64 bits of topic and content.
fn digest(seed: u8, message: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, &message.topic, &message.payload).hash(&mut hasher);
    hasher.finish()
}
