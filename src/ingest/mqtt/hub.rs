//! The broker for all: behind a lock that is never held across an await, with its journal and whom to wake.

mod collector;
mod commands;
mod seat;
mod start;
mod tasks;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, mpsc};

use super::broker::record::{Message, Millis};
use super::broker::{
    AWAY_DOUBTED_MS, Broker, ConnectionId, Counts, Denied, LastWill, Limits, Notice, Reaction, Source,
};
use super::packet::{Packet, PacketId, Reason};
use super::shelf::Shelf;
use super::signal::Signal;
use crate::ingest::http::budget::{Budget, Lease};
use crate::journal::{AppendError, Journal, JournalError, Position};

pub use collector::Collector;
pub use seat::{Seat, Turn};
pub(super) use start::LEVELS;
pub use tasks::Work;

/// Wills that wait to go upstream. When a whole site loses its power they
/// come all at once; beyond this they are given up and counted.
const PUBLISHED_MAX: usize = 10_240;

/// The same in bytes: more than all connections' wills have where these are of usual size, up to a kilobyte and a half.
pub(super) const PUBLISHED_BYTES_MAX: u64 = 16 << 20;

/// Closing waits so long for the disk at most.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// The broker, shared. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    shelf: Shelf,
    next_connection: AtomicU64,
    /// The next deadline came nearer.
    sooner: Notify,
    published: mpsc::Sender<(LastWill, Lease)>,
    /// See [`PUBLISHED_BYTES_MAX`].
    published_bytes: Budget,
    /// Until the tasks are started.
    unstored: Mutex<Option<mpsc::Receiver<(LastWill, Lease)>>>,
}

struct State {
    broker: Broker,
    open: HashMap<ConnectionId, Arc<Signal>>,
    /// What the tick task sleeps until.
    armed: Option<Millis>,
}

/// What is left to do for the connection that took the turn.
#[derive(Debug, Default)]
pub struct Effects {
    /// The replies may leave once this is on disk.
    pub after: Option<Position>,
    /// See [`Reaction::replies`].
    pub replies: Vec<Packet>,
    /// See [`Reaction::denied`].
    pub denied: Vec<Denied>,
    /// See [`Reaction::words`].
    pub words: Vec<(PacketId, &'static str)>,
    /// See [`Reaction::needs`].
    pub needs: Option<usize>,
    /// See [`Reaction::later`].
    pub later: bool,
    /// See [`Reaction::close`].
    pub close: Option<(Reason, &'static str)>,
    /// Something waits to be taken.
    pub wake: bool,
    /// The journal did not take what the replies promise: they must not be sent.
    pub unkept: Option<AppendError>,
}

impl Hub {
    /// For a broker that has been restored from `shelf`, which keeps what changes from now on.
    fn new(broker: Broker, shelf: Shelf) -> Self {
        let (published, unstored) = mpsc::channel(PUBLISHED_MAX);
        let state = State { broker, open: HashMap::new(), armed: None };
        let hub = Self(Arc::new(Inner {
            state: Mutex::new(state),
            shelf,
            next_connection: AtomicU64::new(1),
            sooner: Notify::new(),
            published,
            published_bytes: Budget::new(PUBLISHED_BYTES_MAX, Gauge::default()),
            unstored: Mutex::new(Some(unstored)),
        }));
        let away_ms = hub.0.shelf.away_ms();
        hub.own(|broker, now| broker.restored(now, away_ms));
        if away_ms > AWAY_DOUBTED_MS {
            let days = away_ms / 86_400_000;
            tracing::warn!(
                days,
                "by its clock the gateway was off for so many days; it does not count for MQTT sessions, for the clock may be wrong"
            );
        }
        hub
    }

    /// A place for a new connection.
    pub fn enter(&self) -> Seat {
        let connection = ConnectionId(self.0.next_connection.fetch_add(1, Ordering::Relaxed));
        let signal = Arc::new(Signal::default());
        self.lock().open.insert(connection, signal.clone());
        Seat { hub: self.clone(), connection, signal }
    }

    /// Publishes a message of the gateway's own to local subscribers, and retains it where it says so; `keep`: also across
    /// a restart. Returns once that is on disk. It does not go upstream. Dropping the future does not undo it.
    pub async fn publish(&self, message: Message, keep: bool) -> Result<(), Unkept> {
        let effects = self.own(|broker, now| broker.publish_own(now, Source::Gateway, message, keep));
        if let Some(e) = effects.unkept {
            return Err(e.into());
        }
        match effects.after {
            Some(position) => Ok(self.journal().durable(position).await?),
            None => Ok(()),
        }
    }

    /// The same without waiting for the disk.
    pub fn publish_soon(&self, source: Source, message: Message) {
        self.own(|broker, now| broker.publish_own(now, source, message, true));
    }

    /// The broker in numbers.
    pub fn counts(&self) -> Counts {
        self.lock().broker.counts()
    }

    /// Whether a client of this name would take over the connection of another one of `owner`.
    pub fn takes_over(&self, client_id: &str, owner: &str) -> bool {
        self.lock().broker.takes_over(client_id, owner)
    }

    /// Whether the client has a session that outlives its connections.
    pub fn keeps(&self, client_id: &str) -> bool {
        self.lock().broker.keeps(client_id)
    }

    fn set_limits(&self, limits: Limits) {
        self.lock().broker.set_limits(limits);
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.lock().open.is_empty()
    }

    /// Ends all connections, because the gateway stops.
    pub fn disconnect_all(&self, reason: Reason) {
        let open: Vec<_> = {
            let mut state = self.lock();
            state.broker.stop();
            state.open.values().cloned().collect()
        };
        open.iter().for_each(|signal| signal.end(reason));
    }

    /// Where the records are.
    pub fn journal(&self) -> &Journal {
        self.0.shelf.journal()
    }

    /// Puts what is left on disk, within [`CLOSE_MAX`].
    pub async fn close(&self) {
        if tokio::time::timeout(CLOSE_MAX, self.journal().close()).await.is_err() {
            tracing::error!("the disk did not take the state of MQTT sessions within {CLOSE_MAX:?}; leaving it");
        }
    }

    /// The broker does something by itself, for no connection.
    fn own(&self, work: impl FnOnce(&mut Broker, Millis) -> Reaction) -> Effects {
        let nobody = ConnectionId(0);
        self.turn(nobody, |turn| {
            let reaction = work(turn.broker, turn.now);
            turn.add(reaction);
        })
        .1
    }

    fn turn<T>(&self, connection: ConnectionId, work: impl FnOnce(&mut Turn<'_>) -> T) -> (T, Effects) {
        let mut state = self.lock();
        let now = self.0.shelf.now();
        let mut turn = Turn { broker: &mut state.broker, now, connection, all: Reaction::default(), connects: false };
        let result = work(&mut turn);
        let Turn { all, connects, .. } = turn;
        let Reaction { records, replies, wake, kick, published, denied, notices, words, needs, later, close } = all;
        let mut effects = Effects { replies, close, denied, words, needs, later, ..Effects::default() };
        if !records.is_empty() {
            // Under the lock: the journal has the changes in the order in which they were made.
            match self.0.shelf.append(&records) {
                Ok(position) => effects.after = Some(position),
                Err(e) => {
                    state.broker.unkept(connection, connects);
                    effects.unkept = Some(e);
                }
            }
        }
        let mut woken = Vec::with_capacity(wake.len());
        for other in wake {
            if other == connection {
                effects.wake = true;
            } else {
                woken.extend(state.open.get(&other).cloned());
            }
        }
        let kicked: Vec<_> =
            kick.into_iter().filter_map(|(id, why)| Some((state.open.get(&id)?.clone(), why))).collect();
        let sooner = state.rearm();
        drop(state);
        woken.iter().for_each(|signal| signal.wake());
        kicked.iter().for_each(|(signal, reason)| signal.end(*reason));
        if sooner {
            self.0.sooner.notify_one();
        }
        notices.iter().for_each(tell);
        for will in published {
            let (topic, mut lease) = (will.message.topic.clone(), self.0.published_bytes.lease());
            if lease.grow(will.bytes).is_err() || self.0.published.try_send((will, lease)).is_err() {
                tracing::error!(%topic, "too many wills at once: this one does not go upstream");
            }
        }
        (result, effects)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in the broker ends the connection that caused it. What it leaves may be incomplete, but a gateway
        // that answers nobody any more would be worse.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(notice: &Notice) {
    match notice {
        Notice::Evicted { client_id, messages } => tracing::warn!(
            %client_id,
            messages,
            "as much waits in all MQTT sessions as may (mqtt.max_total_bytes): the oldest messages of this one were dropped, \
             which has the most"
        ),
        Notice::NoRoom { what, client_id } => tracing::warn!(
            %client_id,
            what,
            "as much is kept for MQTT clients besides messages that wait as may be, or as many retained messages: refused"
        ),
        Notice::SessionEnded { client_id, owner, sessions } => tracing::warn!(
            %client_id,
            %owner,
            sessions,
            "there are as many MQTT sessions as may be (mqtt.max_sessions): for a new one this one was ended, the longest \
             absent of the identity that has the most"
        ),
        Notice::NearlyFull { bytes, bytes_max } => tracing::warn!(
            bytes,
            bytes_max,
            "what waits in all MQTT sessions is nearly as much as may (mqtt.max_total_bytes); then the oldest messages of the \
             longest queues are dropped"
        ),
    }
}

impl State {
    /// Whether the next deadline is nearer than what the tick task knows.
    fn rearm(&mut self) -> bool {
        let next = self.broker.next_deadline();
        let sooner = next.is_some_and(|next| self.armed.is_none_or(|armed| next < armed));
        if sooner {
            self.armed = next;
        }
        sooner
    }
}

/// Why a message may be lost with the next power cut, or was not kept at all.
#[derive(Debug, thiserror::Error)]
pub enum Unkept {
    /// It was not written.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// It was not confirmed by the disk.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

#[cfg(test)]
mod tests;
