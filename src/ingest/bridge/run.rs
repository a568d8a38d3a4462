//! One bridge's task: connects, subscribes, takes messages, acknowledges what is stored, and begins again after any trouble.

use std::collections::hash_map::DefaultHasher;
use std::convert::Infallible;
use std::hash::{Hash, Hasher};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::client::{self, Delivery, Events, Incoming, Sender};
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
        unstored: std::collections::HashMap::new(),
        unstored_bytes: 0,
        names: random::bits(),
        report: setup.report.clone(),
        in_flight: usize::from(setup.bridge.in_flight),
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
    let (bridge, node) = (setup.bridge.clone(), setup.node.clone());
    let read = tokio::task::spawn_blocking(move || options::read(&bridge, &node)).await;
    let options = match read {
        Ok(Ok(options)) => options,
        Ok(Err(e)) => return End::Failed(e),
        Err(e) => {
            return End::Failed(BridgeError::Lost { url: setup.bridge.url.clone(), reason: e.to_string() });
        }
    };
    let (sender, mut events) = client::connect(options, &setup.bridge.url);
    let mut link = Link { setup, sender, plan: Plan::default(), connected: false };
    let quiet = quiet_max(setup.bridge.keep_alive);
    loop {
        let mut next = pin!(events.next());
        let mut deadline = Instant::now() + quiet;
        let heard = loop {
            let room = taking.has_room();
            if !room {
                deadline = Instant::now() + quiet;
            }
            tokio::select! {
                biased;
                () = setup.stopping.cancelled() => break None,
                Some(tickets) = taking.stored.recv() => {
                    taking.done(&tickets);
                    taking.acknowledge(&link);
                }
                heard = &mut next, if room => break Some(heard),
                () = sleep_until(deadline), if room => {
                    let url = setup.bridge.url.clone();
                    return End::Failed(BridgeError::Silent { url, seconds: quiet.as_secs() });
                }
            }
        };
        match heard {
            None => break,
            Some(Err(e)) => return End::Failed(e),
            Some(Ok(Some(incoming))) => link.take(incoming, taking).await,
            Some(Ok(None)) => {}
        }
        taking.acknowledge(&link);
    }
    finish(&link, taking, &mut events).await;
    End::Stopped
}

/// An event loop that works says something at every keep-alive: its own PINGREQ. (In 5.0 it can hang for ever in a
/// flush to a peer that does not read.) The first time is the time to connect.
fn quiet_max(keep_alive: Duration) -> Duration {
    keep_alive * 2 + Duration::from_secs(15)
}

/// At the end: what was taken is stored and acknowledged, so that it does not come again.
async fn finish(link: &Link<'_>, taking: &mut Taking, events: &mut Events) {
    if !link.connected {
        return;
    }
    let mut give_up = pin!(sleep(FINISH_MAX));
    let mut said = false;
    loop {
        let mut next = pin!(events.next());
        let heard = loop {
            taking.acknowledge(link);
            if taking.window.next_ack().is_none() && taking.unstored.is_empty() && !said {
                said = link.sender.disconnect().is_ok();
            }
            tokio::select! {
                biased;
                () = &mut give_up => return,
                Some(tickets) = taking.stored.recv() => taking.done(&tickets),
                heard = &mut next => break heard,
            }
        };
        // What still comes is not taken: it comes again to whoever connects next.
        if matches!(heard, Ok(Some(Incoming::Disconnected)) | Err(_)) {
            return;
        }
    }
}

/// The connection as it is now.
struct Link<'s> {
    setup: &'s Setup,
    sender: Sender,
    plan: Plan,
    connected: bool,
}

impl Link<'_> {
    async fn take(&mut self, incoming: Incoming, taking: &mut Taking) {
        match incoming {
            Incoming::Connected { session_present } => self.connected(session_present, taking).await,
            Incoming::Message(delivery) => taking.take(*delivery),
            Incoming::Subscribed(granted) => self.subscribed(&granted).await,
            Incoming::Released(packet_id) => taking.window.released(packet_id),
            Incoming::Disconnected => {}
        }
    }

    async fn connected(&mut self, session_present: bool, taking: &mut Taking) {
        let Setup { bridge, note, report, .. } = self.setup;
        taking.window.connected(session_present);
        self.connected = true;
        report.connects.inc();
        report.connected(true);
        let (planned, bridge_too) = (note.clone(), bridge.clone());
        let plan = tokio::task::spawn_blocking(move || planned.plan(session_present, &bridge_too.topics)).await;
        self.plan = plan.unwrap_or_else(|_| Plan { subscribe: bridge.topics.clone(), ..Plan::default() });
        tracing::info!(bridge = bridge.name, url = bridge.url, session_present, "bridge is connected");
        if !session_present && note.exists() {
            report.sessions_lost.inc();
            tracing::warn!(
                bridge = bridge.name,
                "{} has forgotten our session: what was published there meanwhile did not reach us; it needs persistence, \
                 and our client id must stay the same",
                bridge.url
            );
        }
        // The requests' channel is empty: these fit.
        for topic in &self.plan.unsubscribe {
            let _ = self.sender.unsubscribe(topic);
        }
        if !self.plan.subscribe.is_empty() {
            let _ = self.sender.subscribe(&self.plan.subscribe, bridge.qos == 2);
        } else if !self.plan.unsubscribe.is_empty() {
            self.note().await;
        }
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
    unstored: std::collections::HashMap<Ticket, usize>,
    unstored_bytes: usize,
    /// With the ticket it names a message for good.
    names: u64,
    report: Report,
    in_flight: usize,
}

impl Taking {
    /// Whether one more message can be taken.
    fn has_room(&self) -> bool {
        self.unstored.len() < self.in_flight && self.unstored_bytes < UNSTORED_BYTES_MAX
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

    /// Acknowledges what is stored, in order, as far as the event loop takes it.
    fn acknowledge(&mut self, link: &Link<'_>) {
        if !link.connected {
            return;
        }
        while let Some(handle) = self.window.next_ack() {
            if link.sender.ack(handle).is_err() {
                break;
            }
            self.window.acked();
        }
        self.report.unacknowledged(self.window.len());
    }
}

/// Tells messages apart: 64 bits of topic and content.
fn digest(seed: u8, message: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, &message.topic, &message.payload).hash(&mut hasher);
    hasher.finish()
}
