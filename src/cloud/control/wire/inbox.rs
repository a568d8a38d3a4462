//! One message each into many topics: a producer is opened, used and closed again, for hundreds of topics at a time over one
//! connection to each broker.
//!
//! What it costs a message is a lookup, a producer, the message itself and the producer's end: four round trips, which the
//! messages of different topics do not wait for. A topic that does not answer holds nobody up but itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pulsar::message::proto::{BaseCommand, CommandCloseProducer, ProducerAccessMode, base_command::Type};

use super::channel::{ANSWER_MAX, Channel, NoAnswer};
use super::topic::{Cluster, TopicError, Wire};
use super::writer::{append, producer};
use crate::pulsar::wire::connection::refused;
use crate::pulsar::wire::lookup::{Located, Place, REDIRECTS_MAX, last_sequence, located, lookup};
use crate::sys::clock::Clock;
use crate::sys::random;
use crate::sys::tasks::Tasks;

pub use super::writer::Outgoing;

/// Brokers whose connections are kept.
const PLACES_MAX: usize = 1024;

/// A broker that could not be reached is not tried again for so long: all who wait for it learn at once.
const DOWN_FOR: Duration = Duration::from_secs(1);

/// Why a message is not known to be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The topic's own trouble: another one may do.
    #[error("{0}")]
    Topic(String),
    /// The way to its broker.
    #[error("{0}")]
    Link(String),
    /// It was not to be sent any more.
    #[error("it is out of date")]
    Stale,
}

/// Sends to many topics. Clones share the connections, which live in `tasks`.
#[derive(Clone)]
pub struct Inboxes(Arc<Inner>);

struct Inner {
    tasks: Tasks,
    cluster: Cluster,
    clock: Clock,
    /// Producers of this process are told from those of others, at the broker.
    name: String,
    places: Mutex<HashMap<Place, Arc<tokio::sync::Mutex<Way>>>>,
}

/// The way to a broker.
#[derive(Default)]
enum Way {
    #[default]
    New,
    Up(Channel),
    Down(Instant, String),
}

/// A failure, and whether the message may be under way.
struct Failed {
    why: NotSent,
    is_written: bool,
}

impl From<NotSent> for Failed {
    fn from(why: NotSent) -> Self {
        Self { why, is_written: false }
    }
}

impl Inboxes {
    /// Connects when there is something to send.
    pub fn new(tasks: &Tasks, cluster: Cluster, clock: Clock) -> Self {
        let name = format!("cloud.{}", random::hex16());
        Self(Arc::new(Inner { tasks: tasks.clone(), cluster, clock, name, places: Mutex::default() }))
    }

    /// Sends a message to its topic, unless `is_due` says no at the moment when it would be written. One at a time for each
    /// topic. Dropped half-way it may have been sent.
    pub async fn send(&self, topic: &str, message: &Outgoing, is_due: impl Fn() -> bool) -> Result<(), NotSent> {
        match self.attempt(topic, message, &is_due).await {
            // The connection had been lost since it was used last, and nothing was written: not worth a word.
            Err(Failed { why: NotSent::Link(_), is_written: false }) => {
                self.attempt(topic, message, &is_due).await.map_err(|failed| failed.why)
            }
            done => done.map_err(|failed| failed.why),
        }
    }

    async fn attempt(&self, topic: &str, message: &Outgoing, is_due: &impl Fn() -> bool) -> Result<(), Failed> {
        let place = self.find(topic).await?;
        let channel = self.channel(&place).await?;
        let (producer_id, name) = (channel.number(), &self.0.name);
        let broker = channel.broker.clone();
        let request = |id| producer(topic, producer_id, id, name, ProducerAccessMode::Shared);
        let opened = match channel.ask(request).await {
            Ok(answer) => last_sequence(&broker, topic, answer).map_err(|e| NotSent::Topic(words(e))),
            Err(none) => {
                // It may be opened later.
                self.close(&channel, producer_id);
                Err(no_answer(&broker, "opening the inbox", &none))
            }
        };
        let sequence = opened?.map_or(1, |last| last + 1);
        let sent = self.put(&channel, (producer_id, sequence), message, is_due).await;
        // Waited for: the broker knows a producer by its name, and the next one has the same.
        let _ = channel.ask(|id| close(producer_id, id)).await;
        sent
    }

    async fn put(
        &self,
        channel: &Channel,
        (producer_id, sequence): (u64, u64),
        message: &Outgoing,
        is_due: &impl Fn() -> bool,
    ) -> Result<(), Failed> {
        let bytes = message.payload.len();
        if bytes > channel.message_max {
            let max = channel.message_max;
            return Err(NotSent::Topic(format!("the message has {bytes} bytes, and the broker takes {max}")).into());
        }
        let now = u64::try_from(self.0.clock.unix_ms()).unwrap_or(0);
        let mut frames = BytesMut::new();
        append(&mut frames, (producer_id, &self.0.name, sequence), now, message);
        if !is_due() {
            return Err(NotSent::Stale.into());
        }
        let answer = channel.message(producer_id, frames).await;
        let answer = answer.map_err(|none| no_answer(&channel.broker, "storing the message", &none));
        let why = match answer {
            Ok(BaseCommand { send_receipt: Some(_), .. }) => return Ok(()),
            Ok(BaseCommand { send_error: Some(error), .. }) => {
                NotSent::Topic(words(refused(&channel.broker, "the message", error.error, error.message)))
            }
            Ok(_) => NotSent::Topic("the broker closed the inbox: it moves to another broker".to_owned()),
            Err(why) => why,
        };
        Err(Failed { why, is_written: true })
    }

    /// Which broker has the topic.
    async fn find(&self, topic: &str) -> Result<Place, NotSent> {
        let service = self.0.cluster.service();
        let (mut place, mut by_its_word) = (service.clone(), false);
        for _ in 0..=REDIRECTS_MAX {
            let channel = self.channel(&place).await?;
            let answer = channel.ask(|id| lookup(topic, id, by_its_word)).await;
            let answer = answer.map_err(|none| no_answer(&channel.broker, "looking up the inbox", &none))?;
            match located(&channel.broker, service, topic, answer).map_err(|e| NotSent::Topic(words(e)))? {
                Located::At(owner) => return Ok(owner),
                Located::Ask(other, authoritative) => (place, by_its_word) = (other, authoritative),
            }
        }
        Err(NotSent::Topic(format!("the lookup of {topic} was sent on {REDIRECTS_MAX} times")))
    }

    /// The connection to a broker; one that is lost is replaced.
    async fn channel(&self, place: &Place) -> Result<Channel, NotSent> {
        let way = {
            let mut places = self.0.places.lock().unwrap_or_else(PoisonError::into_inner);
            if places.len() >= PLACES_MAX && !places.contains_key(place) {
                places.clear();
            }
            places.entry(place.clone()).or_default().clone()
        };
        // Who comes while it is being made waits for it.
        let mut way = way.lock().await;
        match &*way {
            Way::Up(channel) if channel.lives() => return Ok(channel.clone()),
            Way::Down(since, why) if since.elapsed() < DOWN_FOR => return Err(NotSent::Link(why.clone())),
            _ => {}
        }
        match self.0.cluster.connect(place).await {
            Ok(connection) => {
                let (broker, message_max) = (connection.broker.clone(), connection.message_max);
                let wire = Wire::new(connection, self.0.cluster.credentials());
                let (channel, work) = Channel::new(wire, &broker, message_max);
                let stop = self.0.tasks.stopping().clone();
                self.0.tasks.spawn_contained("inboxes", async move {
                    stop.run_until_cancelled(work).await;
                });
                *way = Way::Up(channel.clone());
                Ok(channel)
            }
            Err(e) => {
                let why = words(e);
                *way = Way::Down(Instant::now(), why.clone());
                Err(NotSent::Link(why))
            }
        }
    }

    /// Closes a producer that did not come in time; nobody waits for that.
    fn close(&self, channel: &Channel, producer_id: u64) {
        let channel = channel.clone();
        self.0.tasks.spawn_contained("inbox", async move {
            let _ = channel.ask(|id| close(producer_id, id)).await;
        });
    }
}

fn close(producer_id: u64, request_id: u64) -> BaseCommand {
    let close_producer = Some(CommandCloseProducer { producer_id, request_id });
    BaseCommand { r#type: Type::CloseProducer as i32, close_producer, ..BaseCommand::default() }
}

fn no_answer(broker: &str, step: &str, none: &NoAnswer) -> NotSent {
    match none {
        NoAnswer::Slow => NotSent::Topic(format!("{broker}: {step} took longer than {} s", ANSWER_MAX.as_secs())),
        NoAnswer::Lost => NotSent::Link(format!("the connection to {broker} was lost while {step}")),
    }
}

fn words(error: crate::pulsar::wire::LinkError) -> String {
    TopicError::from(error).to_string()
}
