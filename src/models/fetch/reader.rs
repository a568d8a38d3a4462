//! A reader on the topic of one pack, over a connection of its own: the link that carries events and orders has no model
//! before it. Whatever goes wrong is an error; whoever reads begins again.

use std::time::{Duration, Instant};

use bytes::Bytes;
use pulsar::message::proto::{BaseCommand, MessageIdData};
use tokio::time::{sleep_until, timeout};

use super::places::Id;
use crate::downlink::link::Settings;
use crate::downlink::link::frames::{Frame, Incoming};
use crate::downlink::link::requests::{self, Start};
use crate::downlink::link::wires::{Event, Wires};
use crate::pulsar::wire::connection::{REQUEST_TIMEOUT, answered, auth_response, pong, refused};
use crate::pulsar::wire::lookup::{self, Located, Place, REDIRECTS_MAX, unexpected};
use crate::pulsar::wire::{Connection, LinkError};
use crate::sys::random;

/// A ping goes out when nothing was heard for this long, as on the control link.
const PING_AFTER: Duration = Duration::from_secs(10);

/// The connection is given up when nothing was heard for this long.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// A message that was asked for is here within this, or the reader begins anew: a megabyte at 70 kbit/s.
const MESSAGE_MAX: Duration = Duration::from_secs(120);

/// The only connection.
const WIRE: u64 = 1;

/// The entry of a topic that has none: -1 in Java's signed numbers.
const NO_ENTRY: u64 = u64::MAX;

/// A message of the topic.
pub struct Message {
    /// Where it lies.
    pub id: Id,
    /// It; `None`: it is none that the cloud sends.
    pub bytes: Option<Bytes>,
}

/// See the module.
pub struct Reader {
    settings: Settings,
    topic: String,
    broker: String,
    wires: Wires,
    heard: Instant,
    pinged: bool,
    /// The broker wants the token once more.
    challenged: bool,
    last_number: u64,
    consumer: Option<u64>,
    /// Messages that were asked for and have not come, and since when.
    ahead: u32,
    asked: Instant,
    /// How long the last question without data took.
    round_trip: Duration,
}

impl Reader {
    /// Finds the topic's broker, trying the addresses in turn, and connects to it.
    pub async fn connect(settings: &Settings, topic: &str) -> Result<Self, LinkError> {
        let mut failed = None;
        for address in &settings.addresses {
            match connect(settings, (address.clone(), None), topic).await {
                Ok(connection) => return Ok(Self::on(connection, settings, topic)),
                Err(e) => failed = Some(e),
            }
        }
        Err(failed.unwrap_or_else(|| unexpected("uplink.pulsar")))
    }

    fn on(connection: Connection, settings: &Settings, topic: &str) -> Self {
        let (now, broker) = (Instant::now(), connection.broker.clone());
        let mut wires = Wires::default();
        wires.add(WIRE, connection);
        Self {
            settings: settings.clone(),
            topic: topic.to_owned(),
            broker,
            wires,
            heard: now,
            pinged: false,
            challenged: false,
            last_number: 0,
            consumer: None,
            ahead: 0,
            asked: now,
            round_trip: Duration::ZERO,
        }
    }

    /// How long the broker took to answer when the reader was begun, with the way there and back.
    pub fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Begins at a message, or at the first one; which one is the last by now, `None`: there is none. No message comes
    /// without a permit.
    pub async fn begin(&mut self, at: Option<Id>) -> Result<Option<Id>, LinkError> {
        self.ahead = 0;
        if let Some(before) = self.consumer.take() {
            let request = self.number();
            self.ask(request, "closing a reader", requests::close_consumer(before, request)).await?;
        }
        // The id before all others is -1, -1 (MessageId.earliest); the message of an id is included.
        let (ledger_id, entry_id) = at.map_or((u64::MAX, u64::MAX), |id| (id.ledger, id.entry));
        let at = Start::At(MessageIdData { ledger_id, entry_id, ..MessageIdData::default() });
        let (consumer, request) = (self.number(), self.number());
        let name = format!("model.{}.{:016x}", self.settings.node, random::bits());
        let subscribe = requests::reader(&self.topic, name, consumer, request, at);
        let answer = self.ask(request, "subscribing", subscribe).await?;
        if answer.success.is_none() {
            return Err(unexpected(&self.broker));
        }
        self.consumer = Some(consumer);
        let (request, asked) = (self.number(), Instant::now());
        let last = self.ask(request, "asking for the last message", requests::last_message(consumer, request)).await?;
        self.round_trip = asked.elapsed();
        let Some(last) = last.get_last_message_id_response else { return Err(unexpected(&self.broker)) };
        let last = last.last_message_id;
        Ok((last.entry_id != NO_ENTRY).then_some(Id { ledger: last.ledger_id, entry: last.entry_id }))
    }

    /// One message more may come.
    pub fn permit(&mut self) {
        let Some(consumer) = self.consumer else { return };
        self.wires.send(WIRE, &requests::flow(consumer, 1));
        if self.ahead == 0 {
            self.asked = Instant::now();
        }
        self.ahead += 1;
    }

    /// The next message. Dropped half-way nothing is lost.
    pub async fn next(&mut self) -> Result<Message, LinkError> {
        loop {
            let limit = (self.ahead > 0).then(|| self.asked + MESSAGE_MAX);
            let frame = match limit {
                None => self.frame().await?,
                Some(limit) => tokio::select! {
                    frame = self.frame() => frame?,
                    () = sleep_until(limit.into()) => return Err(self.slow("sending a message", MESSAGE_MAX)),
                },
            };
            match frame {
                Frame::Message(message) if Some(message.to.consumer_id) == self.consumer => {
                    self.ahead = self.ahead.saturating_sub(1);
                    self.asked = Instant::now();
                    return Ok(taken(*message));
                }
                Frame::Command(command) if command.close_consumer.is_some() => {
                    let reason = "the broker has closed the reader: the topic moves".to_owned();
                    return Err(LinkError::Lost { broker: self.broker.clone(), reason });
                }
                // Of a reader before.
                Frame::Message(_) | Frame::Command(_) => {}
            }
        }
    }

    async fn ask(&mut self, request: u64, step: &'static str, command: BaseCommand) -> Result<BaseCommand, LinkError> {
        self.wires.send(WIRE, &command);
        let answer = async {
            loop {
                // Messages of a reader before may still come.
                if let Frame::Command(command) = self.frame().await?
                    && answered(&command) == Some(request)
                {
                    return Ok::<_, LinkError>(*command);
                }
            }
        };
        let answer = match timeout(REQUEST_TIMEOUT, answer).await {
            Ok(answer) => answer?,
            Err(_) => return Err(self.slow(step, REQUEST_TIMEOUT)),
        };
        match answer.error {
            Some(error) => Err(refused(&self.broker, format!("{step} ({})", self.topic), error.error, error.message)),
            None => Ok(answer),
        }
    }

    /// The next frame that is not housekeeping.
    async fn frame(&mut self) -> Result<Frame, LinkError> {
        loop {
            if self.challenged {
                let answer = auth_response(&self.settings.connector.credentials).await?;
                self.wires.send(WIRE, &answer);
                self.challenged = false;
            }
            let wait = self.heard + if self.pinged { SILENCE_MAX } else { PING_AFTER };
            let wires = &mut self.wires;
            let event = tokio::select! {
                (_, event) = std::future::poll_fn(|cx| wires.poll(cx)) => event,
                () = sleep_until(wait.into()) => {
                    if self.pinged {
                        return Err(LinkError::Silent { broker: self.broker.clone(), silence: SILENCE_MAX });
                    }
                    self.pinged = true;
                    self.wires.send(WIRE, &requests::ping());
                    continue;
                }
            };
            match event {
                Event::Heard => (self.heard, self.pinged) = (Instant::now(), false),
                Event::Lost(error) => return Err(error),
                Event::Frame(Frame::Command(command)) if command.ping.is_some() => self.wires.send(WIRE, &pong()),
                Event::Frame(Frame::Command(command)) if command.auth_challenge.is_some() => self.challenged = true,
                Event::Frame(frame) => return Ok(frame),
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn slow(&self, step: &'static str, limit: Duration) -> LinkError {
        LinkError::Slow { broker: self.broker.clone(), step, limit }
    }
}

/// An entry that holds one message as it was sent.
fn taken(incoming: Incoming) -> Message {
    let id = Id { ledger: incoming.to.message_id.ledger_id, entry: incoming.to.message_id.entry_id };
    let bytes = match incoming.content {
        Ok(messages) => <[Bytes; 1]>::try_from(messages).ok().map(|[bytes]| bytes),
        Err(_) => None,
    };
    Message { id, bytes }
}

/// A connection to the broker that has the topic.
async fn connect(settings: &Settings, service: Place, topic: &str) -> Result<Connection, LinkError> {
    let connector = &settings.connector;
    let (mut place, mut authoritative) = (service.clone(), false);
    let mut connection = connector.connect(&place.0, place.1.as_deref()).await?;
    for _ in 0..REDIRECTS_MAX {
        let request = connection.request_id();
        let asked = vec![(request, lookup::lookup(topic, request, authoritative))];
        let answers = connection.ask(&connector.credentials, "looking up the topic", asked).await?;
        let answer = answers.into_iter().next().ok_or_else(|| unexpected(&connection.broker))?;
        let (next, found) = match lookup::located(&connection.broker, &service, topic, answer)? {
            Located::At(next) => (next, true),
            Located::Ask(next, by_its_word) => {
                authoritative = by_its_word;
                (next, false)
            }
        };
        if next != place {
            connection = connector.connect(&next.0, next.1.as_deref()).await?;
            place = next;
        }
        if found {
            return Ok(connection);
        }
    }
    Err(LinkError::Redirects { topic: topic.to_owned(), limit: REDIRECTS_MAX })
}
