//! One topic from its first message on, in order, each once, for as long as the process runs.
//!
//! Facts (Pulsar 4.0.7): a subscription that is not durable begins *with* the message that it names, so what was read
//! already comes once more after a reconnect, and is passed over here by its place. The last message of a topic may be
//! trimmed, and is named as the last one all the same; the new subscription's mark-delete position, which comes with the
//! same answer, is then not before it (tests/control/wire.rs). Silence says nothing: a broker that reads from a slow disk is
//! silent in the middle.

use pulsar::message::Message;
use pulsar::message::proto::{
    BaseCommand, CommandFlow, CommandGetLastMessageId, CommandSubscribe, MessageIdData,
    base_command::Type,
    command_subscribe::{InitialPosition, SubType},
};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::topic::{Cluster, TopicError, Wire, plain};
use crate::pulsar::wire::LinkError;
use crate::pulsar::wire::connection::refused;
use crate::pulsar::wire::lookup::unexpected;
use crate::sys::backoff::Backoff;
use crate::sys::random;

pub use super::super::documents::Position as Place;

/// Messages the broker may send ahead. They wait in the connection, not in memory: each is handled before the next is read.
const PERMITS: u32 = 1000;

/// A topic that says nothing for so long before its end is slow, which is told; a message that was asked for by its place is
/// not there any more.
const QUIET: Duration = Duration::from_secs(5);

/// After this time it is asked anew, from the last message on.
const SILENT_MAX: Duration = Duration::from_secs(60);

/// The only consumer of the connection.
const CONSUMER: u64 = 1;

/// A message of the topic.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it lies.
    pub place: Place,
    /// Its key.
    pub key: Option<String>,
    /// Its properties.
    pub properties: Vec<(String, String)>,
    /// When its sender says that it sent it, in milliseconds since 1970.
    pub published_ms: u64,
    /// What it holds; `None`: it was not sent as Tidegate sends (in a batch, compressed, encrypted, in chunks).
    pub payload: Option<Vec<u8>>,
}

impl Entry {
    /// The property `name`.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What a reader has to say.
#[derive(Debug)]
pub enum Heard {
    /// The next message.
    Message(Entry),
    /// All messages that were there when it connected have been told. Never said because of silence.
    CaughtUp,
    /// It is not connected, and tries again.
    Problem(String),
}

/// Reads `topic` until `stop`; `take` hears everything in order.
pub async fn follow(cluster: Cluster, topic: String, stop: CancellationToken, mut take: impl FnMut(Heard) + Send) {
    let (mut last, mut backoff) = (None, Backoff::default());
    while !stop.is_cancelled() {
        let session = read(&cluster, &topic, &mut last, &mut backoff, &mut take);
        let Some(ended) = stop.run_until_cancelled(session).await else { return };
        if let Err(e) = ended {
            take(Heard::Problem(e.to_string()));
        }
        let wait = backoff.after_failure(random::bits());
        stop.run_until_cancelled(tokio::time::sleep(wait)).await;
    }
}

async fn read(
    cluster: &Cluster,
    topic: &str,
    last: &mut Option<Place>,
    backoff: &mut Backoff,
    take: &mut (impl FnMut(Heard) + Send),
) -> Result<(), TopicError> {
    let mut wire = Wire::new(cluster.connect_to(topic).await?, cluster.credentials());
    let end = subscribe(&mut wire, cluster, topic, *last).await?;
    let reached = |last: Option<Place>| end.is_none() || last >= end;
    let mut is_caught_up = reached(*last);
    if is_caught_up {
        take(Heard::CaughtUp);
    }
    wire.send(&flow(PERMITS)).await?;
    let (mut used, mut news, mut is_told) = (0, Instant::now(), false);
    loop {
        let frame = wire.next().await?;
        if let Some(Message { command, payload }) = wire.keep(frame).await? {
            if command.close_consumer.is_some() {
                return Err(TopicError::Closed { topic: topic.to_owned() });
            }
            if let (Some(message), Some(payload)) = (command.message, payload) {
                let place = Place { ledger: message.message_id.ledger_id, entry: message.message_id.entry_id };
                if Some(place) > *last {
                    *last = Some(place);
                    take(Heard::Message(entry(place, payload)));
                }
                backoff.reset();
                (used, news, is_told) = (used + 1, Instant::now(), false);
            }
        }
        if used >= PERMITS / 2 {
            wire.send(&flow(std::mem::take(&mut used))).await?;
        }
        if is_caught_up {
            continue;
        }
        if reached(*last) {
            is_caught_up = true;
            take(Heard::CaughtUp);
        } else if news.elapsed() > SILENT_MAX {
            return Err(TopicError::Silent { topic: topic.to_owned(), seconds: SILENT_MAX.as_secs() });
        } else if news.elapsed() > QUIET && !is_told {
            is_told = true;
            take(Heard::Problem(TopicError::Silent { topic: topic.to_owned(), seconds: QUIET.as_secs() }.to_string()));
        }
    }
}

/// The message at `place` of `topic`, alone.
pub async fn fetch(cluster: &Cluster, topic: &str, place: Place) -> Result<Option<Entry>, TopicError> {
    let mut wire = Wire::new(cluster.connect_to(topic).await?, cluster.credentials());
    subscribe(&mut wire, cluster, topic, Some(place)).await?;
    wire.send(&flow(1)).await?;
    let begun = Instant::now();
    while begun.elapsed() < QUIET {
        let frame = wire.next().await?;
        if let Some(Message { command, payload: Some(payload) }) = wire.keep(frame).await?
            && let Some(message) = command.message
        {
            let found = Place { ledger: message.message_id.ledger_id, entry: message.message_id.entry_id };
            return Ok((found == place).then(|| entry(place, payload)));
        }
    }
    Ok(None)
}

/// Every message of `topic` from the first on, until `take` says that it is enough or the last one that is there now was
/// taken; `permits` of them may be under way.
pub async fn read_all(
    cluster: &Cluster,
    topic: &str,
    permits: u32,
    mut take: impl FnMut(Entry) -> ControlFlow<()>,
) -> Result<(), TopicError> {
    let mut wire = Wire::new(cluster.connect_to(topic).await?, cluster.credentials());
    let Some(end) = subscribe(&mut wire, cluster, topic, None).await? else { return Ok(()) };
    wire.send(&flow(permits)).await?;
    let (mut used, mut news) = (0, Instant::now());
    loop {
        let frame = wire.next().await?;
        if let Some(Message { command, payload }) = wire.keep(frame).await? {
            if command.close_consumer.is_some() {
                return Err(TopicError::Closed { topic: topic.to_owned() });
            }
            if let (Some(message), Some(payload)) = (command.message, payload) {
                let place = Place { ledger: message.message_id.ledger_id, entry: message.message_id.entry_id };
                if take(entry(place, payload)).is_break() || place >= end {
                    return Ok(());
                }
                (used, news) = (used + 1, Instant::now());
            }
        }
        if used > permits / 2 {
            wire.send(&flow(std::mem::take(&mut used))).await?;
        }
        if news.elapsed() > SILENT_MAX {
            return Err(TopicError::Silent { topic: topic.to_owned(), seconds: SILENT_MAX.as_secs() });
        }
    }
}

fn entry(place: Place, payload: pulsar::message::Payload) -> Entry {
    let pulsar::message::Payload { metadata, data } = payload;
    Entry {
        place,
        key: metadata.partition_key.clone(),
        properties: metadata.properties.iter().map(|p| (p.key.clone(), p.value.clone())).collect(),
        published_ms: metadata.publish_time,
        payload: plain(&metadata, data),
    }
}

/// Subscribes; gives the place of the last message, if there is any to come.
async fn subscribe(
    wire: &mut Wire,
    cluster: &Cluster,
    topic: &str,
    from: Option<Place>,
) -> Result<Option<Place>, TopicError> {
    // Java's MessageId.earliest is -1:-1, and the fields are unsigned.
    let from = from.unwrap_or(Place { ledger: u64::MAX, entry: u64::MAX });
    let connection = wire.connection();
    let (first, second) = (connection.request_id(), connection.request_id());
    let subscribe = BaseCommand {
        r#type: Type::Subscribe as i32,
        subscribe: Some(CommandSubscribe {
            topic: topic.to_owned(),
            subscription: format!("tidegate-reader-{}", random::hex16()),
            sub_type: SubType::Exclusive as i32,
            consumer_id: CONSUMER,
            request_id: first,
            durable: Some(false),
            start_message_id: Some(MessageIdData {
                ledger_id: from.ledger,
                entry_id: from.entry,
                ..MessageIdData::default()
            }),
            initial_position: Some(InitialPosition::Earliest as i32),
            ..CommandSubscribe::default()
        }),
        ..BaseCommand::default()
    };
    let answers = connection.ask(cluster.credentials(), "subscribing", vec![(first, subscribe)]).await?;
    expect_success(&connection.broker, topic, answers)?;
    let last = BaseCommand {
        r#type: Type::GetLastMessageId as i32,
        get_last_message_id: Some(CommandGetLastMessageId { consumer_id: CONSUMER, request_id: second }),
        ..BaseCommand::default()
    };
    let answers = connection.ask(cluster.credentials(), "asking for the last message", vec![(second, last)]).await?;
    let answer = answers.into_iter().next().unwrap_or_default();
    if let Some(error) = answer.error {
        let what = format!("the last message of {topic}");
        return Err(refused(&connection.broker, what, error.error, error.message).into());
    }
    let Some(last) = answer.get_last_message_id_response else { return Err(unexpected(&connection.broker).into()) };
    let (last, before) = (last.last_message_id, last.consumer_mark_delete_position);
    // -1 in either: there is none. The fields are unsigned, Java's are not.
    let signed = |id: &MessageIdData| (id.ledger_id.cast_signed(), id.entry_id.cast_signed());
    let is_there = last.ledger_id.cast_signed() >= 0 && last.entry_id.cast_signed() >= 0;
    let is_to_come = before.as_ref().is_none_or(|before| signed(before) < signed(&last));
    Ok((is_there && is_to_come).then_some(Place { ledger: last.ledger_id, entry: last.entry_id }))
}

fn expect_success(broker: &str, topic: &str, answers: Vec<BaseCommand>) -> Result<(), LinkError> {
    match answers.into_iter().next() {
        Some(BaseCommand { success: Some(_), .. }) => Ok(()),
        Some(BaseCommand { error: Some(error), .. }) => {
            Err(refused(broker, format!("a reader of {topic}"), error.error, error.message))
        }
        _ => Err(unexpected(broker)),
    }
}

fn flow(message_permits: u32) -> BaseCommand {
    BaseCommand {
        r#type: Type::Flow as i32,
        flow: Some(CommandFlow { consumer_id: CONSUMER, message_permits }),
        ..BaseCommand::default()
    }
}
