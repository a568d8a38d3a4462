//! Messages into one topic, one after the other, each with Pulsar's receipt.
//!
//! A producer has a new name at every connection and counts from 0: with deduplication on, a name that came back with a
//! count that begins anew would have its messages dropped in silence.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use pulsar::message::proto::{
    BaseCommand, CommandProducer, CommandSend, KeyValue, ProducerAccessMode, base_command::Type,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::topic::{Cluster, TopicError, Wire};
use crate::pulsar::wire::connection::refused;
use crate::pulsar::wire::frame::{self, Sender};
use crate::pulsar::wire::lookup::last_sequence;
use crate::sys::clock::Clock;
use crate::sys::random;

/// Messages that wait to be written; callers wait behind them.
const WAITING_MAX: usize = 16;

/// Time for a receipt.
const RECEIPT_MAX: Duration = Duration::from_secs(15);

/// A producer's number on its connection.
const PRODUCER: u64 = 1;

/// Why a message has no receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotWritten {
    /// It was not stored.
    #[error("cannot write to {topic}: {why}")]
    No {
        /// The topic.
        topic: String,
        /// What happened.
        why: String,
    },
    /// It may have been stored.
    #[error("it is not known whether {topic} has it: {why}")]
    Unknown {
        /// The topic.
        topic: String,
        /// What happened.
        why: String,
    },
}

struct Order {
    message: Outgoing,
    done: oneshot::Sender<Result<(), NotWritten>>,
}

/// A message to be written.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its key.
    pub key: String,
    /// Its properties.
    pub properties: Vec<(&'static str, String)>,
    /// What it holds.
    pub payload: Bytes,
}

/// Writes to one topic. Clones share it.
#[derive(Clone, Debug)]
pub struct Writer {
    topic: String,
    orders: mpsc::Sender<Order>,
}

impl Writer {
    /// A writer, and its work, which ends with `stop`. Connects when there is something to write.
    pub fn new(
        cluster: Cluster,
        topic: String,
        clock: Clock,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (orders, waiting) = mpsc::channel(WAITING_MAX);
        let work = Work { cluster, topic: topic.clone(), clock, open: None };
        (Self { topic, orders }, work.run(waiting, stop))
    }

    /// Writes one message; waits for the receipt, at most about half a minute.
    pub async fn write(&self, message: Outgoing) -> Result<(), NotWritten> {
        let stopped = || NotWritten::No { topic: self.topic.clone(), why: "the process stops".to_owned() };
        let (done, answer) = oneshot::channel();
        self.orders.send(Order { message, done }).await.map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

struct Work {
    cluster: Cluster,
    topic: String,
    clock: Clock,
    open: Option<Open>,
}

struct Open {
    wire: Wire,
    name: String,
    next: u64,
}

impl Work {
    async fn run(mut self, mut waiting: mpsc::Receiver<Order>, stop: CancellationToken) {
        loop {
            let order = tokio::select! {
                () = stop.cancelled() => return,
                order = waiting.recv() => order,
                () = idle(&mut self.open) => continue,
            };
            let Some(Order { message, done }) = order else { return };
            let Some(outcome) = stop.run_until_cancelled(self.write(&message)).await else { return };
            let _ = done.send(outcome);
        }
    }

    async fn write(&mut self, message: &Outgoing) -> Result<(), NotWritten> {
        let topic = self.topic.clone();
        let mut open = match self.open.take() {
            Some(open) => open,
            None => open(&self.cluster, &self.topic)
                .await
                .map_err(|e| NotWritten::No { topic: topic.clone(), why: e.to_string() })?,
        };
        let now = u64::try_from(self.clock.unix_ms()).unwrap_or(0);
        let sequence = open.next;
        open.next += 1;
        let mut frames = BytesMut::new();
        append(&mut frames, (PRODUCER, &open.name, sequence), now, message);
        let unknown = |why: String| NotWritten::Unknown { topic: topic.clone(), why };
        let receipt = async {
            open.wire.write(&frames).await.map_err(|e| unknown(e.to_string()))?;
            loop {
                let frame = open.wire.next().await.map_err(|e| unknown(e.to_string()))?;
                let Some(frame) = open.wire.keep(frame).await.map_err(|e| unknown(e.to_string()))? else { continue };
                let command = frame.command;
                if command.send_receipt.is_some_and(|receipt| receipt.sequence_id == sequence) {
                    return Ok(());
                }
                if let Some(error) = command.send_error.filter(|error| error.sequence_id == sequence) {
                    let error = refused("the broker", "a message", error.error, error.message);
                    return Err(unknown(error.to_string()));
                }
                if command.close_producer.is_some() {
                    return Err(unknown(TopicError::Closed { topic: topic.clone() }.to_string()));
                }
            }
        };
        let outcome = tokio::time::timeout(RECEIPT_MAX, receipt).await;
        let outcome = outcome.unwrap_or_else(|_| Err(unknown(format!("no receipt for {} s", RECEIPT_MAX.as_secs()))));
        if outcome.is_ok() {
            self.open = Some(open);
        }
        outcome
    }
}

async fn open(cluster: &Cluster, topic: &str) -> Result<Open, TopicError> {
    let mut connection = cluster.connect_to(topic).await?;
    let name = format!("cloud.{}", random::hex16());
    let id = connection.request_id();
    let request = producer(topic, PRODUCER, id, &name, ProducerAccessMode::Shared);
    let answers = connection.ask(cluster.credentials(), "opening the producer", vec![(id, request)]).await?;
    last_sequence(&connection.broker, topic, answers.into_iter().next().unwrap_or_default())?;
    Ok(Open { wire: Wire::new(connection, cluster.credentials()), name, next: 0 })
}

/// Keeps an open connection alive while there is nothing to write; one that is lost is forgotten.
async fn idle(open: &mut Option<Open>) {
    let Some(Open { wire, .. }) = open else { return std::future::pending().await };
    let frame = wire.next().await;
    let kept = match frame {
        Ok(frame) => wire.keep(frame).await,
        Err(e) => Err(e),
    };
    if !matches!(kept, Ok(frame) if frame.as_ref().is_none_or(|f| f.command.close_producer.is_none())) {
        *open = None;
    }
}

/// The request that opens a producer.
pub fn producer(topic: &str, producer_id: u64, request_id: u64, name: &str, mode: ProducerAccessMode) -> BaseCommand {
    BaseCommand {
        r#type: Type::Producer as i32,
        producer: Some(CommandProducer {
            topic: topic.to_owned(),
            producer_id,
            request_id,
            producer_name: Some(name.to_owned()),
            user_provided_producer_name: Some(true),
            producer_access_mode: Some(mode as i32),
            ..CommandProducer::default()
        }),
        ..BaseCommand::default()
    }
}

/// Appends the frame of `message`, as number `sequence` of a producer.
pub fn append(
    out: &mut BytesMut,
    (producer_id, name, sequence_id): (u64, &str, u64),
    publish_time_ms: u64,
    message: &Outgoing,
) {
    let send = CommandSend { producer_id, sequence_id, num_messages: Some(1), ..CommandSend::default() };
    let mut metadata = Sender { producer_id, name, publish_time_ms }.metadata(sequence_id);
    metadata.partition_key = Some(message.key.clone());
    let properties = message.properties.iter();
    metadata.properties =
        properties.map(|(key, value)| KeyValue { key: (*key).to_owned(), value: value.clone() }).collect();
    frame::message(out, send, |out| {
        // BytesMut grows, so there is always room.
        let _ = metadata.encode(out);
        &message.payload
    });
}
