//! Reads one partition of a lane's topic, in order, and acknowledges what the store has stored.
//!
//! Traps of the `pulsar` crate (6.9.1, read in its source) that this file is built around:
//! - Its consumer of several topics takes a partition whose stream ended out of its list and says nothing
//!   (`consumer/multi.rs`, `poll_next`). So every partition has a consumer of its own.
//! - A stream ends when a reconnect fails at the engine's top, and goes silent for ever when it fails while
//!   handling a broker's "consumer closed" (`consumer/engine.rs`, `process_message`: the error is passed on, the
//!   loop goes on without a source). So the end, an error and a failed ping all make a new consumer.
//! - Acknowledging one message of a batch acknowledges the whole entry: the id is sent without an ack set
//!   (`connection.rs`, `messages::ack`). So only whole entries are acknowledged, cumulatively, which a Failover
//!   subscription allows, and only after all of their messages are on disk.
//! - What waits inside the crate is bounded by flow permits only, counted in messages.
//! - After a reconnect the broker delivers again what was not acknowledged, while earlier copies may still wait
//!   here: the store removes them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use pulsar::consumer::{InitialPosition, Message};
use pulsar::error::{ConnectionError, ConsumerError};
use pulsar::message::proto::MessageIdData;
use pulsar::{Consumer, ConsumerOptions, DeserializeMessage, Payload, SubType, TokioExecutor};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::board::LaneBoard;
use super::client::{self, ClientError, OPERATION_TIMEOUT};
use super::meters::Meters;
use super::store::{Chunk, Entry, Position, Received};
use crate::config::cloud;
use crate::sys::backoff::Backoff;
use crate::sys::random;

/// Messages the broker may send ahead, per partition. Two batches of a gateway: one arrives while the other is
/// taken apart. Together with [`QUEUE`] it bounds memory: about 1 MB of ordinary events, and at the very worst
/// (all of them of 1 MiB) some 2.5 GB.
const PERMITS: u32 = 2000;

/// Messages taken apart and not yet taken over by us, inside the crate.
const QUEUE: u32 = 500;

/// Most messages and about the most bytes handed to the store at once.
const CHUNK_MESSAGES: usize = 500;
const CHUNK_BYTES: usize = 1 << 20;

/// A connection that was quiet so long is asked whether it still lives.
const WATCHDOG: Duration = Duration::from_secs(10);

/// Time for a consumer to say good-bye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for the last commit at the end of the process; its acknowledgements are sent after it.
const LAST_COMMIT: Duration = Duration::from_secs(10);

/// What all partitions of a lane share.
#[derive(Clone)]
pub struct Lane {
    /// Where Pulsar is.
    pub pulsar: cloud::Pulsar,
    /// The lane's topic.
    pub topic: String,
    /// What it says of itself.
    pub board: LaneBoard,
    /// What it counts.
    pub meters: Meters,
    /// The process ends.
    pub stopping: CancellationToken,
    /// The store failed.
    pub store_failed: CancellationToken,
}

/// Why a consumer has to be made again.
#[derive(Debug, thiserror::Error)]
enum ConsumeError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot subscribe to {topic} as {subscription}: {source}")]
    Subscribe { topic: String, subscription: String, source: pulsar::Error },
    #[error("the subscription to {topic} broke: {reason}")]
    Broken { topic: String, reason: String },
}

/// Why reading ended for good.
enum End {
    Stopping,
    StoreFailed,
}

/// A message whose data is left where it is: the crate would copy it.
struct Untouched;

impl DeserializeMessage for Untouched {
    type Output = ();
    fn deserialize_message(_: &Payload) {}
}

type PartitionConsumer = Consumer<Untouched, TokioExecutor>;

/// Reads partition `index` into `chunks` until the process ends or the store fails.
pub async fn partition(lane: Lane, index: u32, chunks: mpsc::Sender<Chunk>) {
    let mut reader = Reader::new(lane, index, chunks);
    let part = format!("partition {index}");
    let mut backoff = Backoff::default();
    let store_failed = reader.lane.store_failed.clone();
    loop {
        let ended = tokio::select! {
            ended = reader.session(&mut backoff) => ended,
            () = store_failed.cancelled() => return reader.lane.board.connected(index, false),
        };
        reader.lane.board.connected(index, false);
        match ended {
            Ok(End::Stopping | End::StoreFailed) => return,
            Err(e) => {
                reader.lane.board.problem(&part, format!("{e}; trying again"));
                reader.lane.meters.restarts.inc();
                let wait = backoff.after_failure(random::bits());
                tokio::select! {
                    () = reader.lane.stopping.cancelled() => return,
                    () = reader.lane.store_failed.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }
}

struct Reader {
    lane: Lane,
    index: u32,
    topic: String,
    chunks: Option<mpsc::Sender<Chunk>>,
    /// Cloned into every chunk; dropped at the end, so that only the store holds it.
    acks: Option<Arc<watch::Sender<Option<Entry>>>>,
    stored: watch::Receiver<Option<Entry>>,
}

impl Reader {
    fn new(lane: Lane, index: u32, chunks: mpsc::Sender<Chunk>) -> Self {
        let (acks, stored) = watch::channel(None);
        let topic = crate::pulsar::names::partition(&lane.topic, index);
        Self { lane, index, topic, chunks: Some(chunks), acks: Some(Arc::new(acks)), stored }
    }

    /// One consumer's life.
    async fn session(&mut self, backoff: &mut Backoff) -> Result<End, ConsumeError> {
        let stopping = self.lane.stopping.clone();
        let mut consumer = tokio::select! {
            consumer = self.subscribe() => consumer?,
            () = stopping.cancelled() => return Ok(End::Stopping),
        };
        self.lane.board.connected(self.index, true);
        self.lane.board.solved(&format!("partition {}", self.index));
        let end = self.read(&mut consumer, backoff).await?;
        if matches!(end, End::Stopping) {
            self.finish(&mut consumer).await;
        }
        Ok(end)
    }

    async fn subscribe(&self) -> Result<PartitionConsumer, ConsumeError> {
        let client = client::connect(&self.lane.pulsar).await?;
        let subscription = self.lane.pulsar.subscription.clone();
        let options = ConsumerOptions::default()
            .durable(true)
            .with_initial_position(InitialPosition::Earliest)
            .with_receiver_queue_size(QUEUE);
        let consumer = client
            .consumer()
            .with_topic(&self.topic)
            .with_subscription(&subscription)
            .with_subscription_type(SubType::Failover)
            .with_consumer_name(format!("tidegate-{}", random::hex16()))
            .with_batch_size(PERMITS)
            .with_options(options)
            .build();
        let limit = 3 * OPERATION_TIMEOUT;
        let timed_out = || pulsar::Error::Custom(format!("no answer for {} s", limit.as_secs()));
        let built = timeout(limit, consumer).await.unwrap_or_else(|_| Err(timed_out()));
        built.map_err(|source| ConsumeError::Subscribe { topic: self.topic.clone(), subscription, source })
    }

    async fn read(&mut self, consumer: &mut PartitionConsumer, backoff: &mut Backoff) -> Result<End, ConsumeError> {
        let stopping = self.lane.stopping.clone();
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Ok(End::Stopping),
                Ok(()) = self.stored.changed() => self.acknowledge(consumer).await?,
                item = timeout(WATCHDOG, consumer.next()) => match item {
                    Err(_) => self.ping(consumer).await?,
                    Ok(item) => {
                        let chunk = self.gather(item, consumer)?;
                        backoff.reset();
                        if !chunk.messages.is_empty() && self.send(chunk, consumer).await?.is_none() {
                            return Ok(End::StoreFailed);
                        }
                    }
                },
            }
        }
    }

    /// Hands `chunk` over; acknowledges meanwhile, for the store may take long. `None`: the store is gone.
    async fn send(&mut self, chunk: Chunk, consumer: &mut PartitionConsumer) -> Result<Option<()>, ConsumeError> {
        let Some(chunks) = self.chunks.clone() else { return Ok(None) };
        let mut sent = std::pin::pin!(chunks.send(chunk));
        loop {
            tokio::select! {
                biased;
                Ok(()) = self.stored.changed() => self.acknowledge(consumer).await?,
                sent = &mut sent => return Ok(sent.ok()),
            }
        }
    }

    /// The message that came, and what else is there without waiting.
    fn gather(
        &self,
        first: Option<Result<Message<Untouched>, pulsar::Error>>,
        consumer: &mut PartitionConsumer,
    ) -> Result<Chunk, ConsumeError> {
        let Some(acks) = self.acks.clone() else { return Err(self.broken("it was closed".to_owned())) };
        let mut chunk = Chunk { partition: self.index, acks, messages: Vec::with_capacity(CHUNK_MESSAGES) };
        let (mut item, mut bytes) = (first, 0);
        loop {
            match item {
                None => return Err(self.broken("it could not be restored".to_owned())),
                Some(Ok(message)) => {
                    bytes += message.payload.data.len();
                    chunk.messages.push(received(message));
                }
                Some(Err(e)) => self.passed_over(e)?,
            }
            if chunk.messages.len() >= CHUNK_MESSAGES || bytes >= CHUNK_BYTES {
                return Ok(chunk);
            }
            match consumer.next().now_or_never() {
                Some(next) => item = next,
                None => return Ok(chunk),
            }
        }
    }

    /// A message that cannot be decoded is passed over, loudly: it would come again for ever and hold up the lane.
    /// Everything else that the crate reports here means that the subscription broke.
    fn passed_over(&self, error: pulsar::Error) -> Result<(), ConsumeError> {
        match error {
            pulsar::Error::Consumer(ConsumerError::Io(_)) | pulsar::Error::Connection(ConnectionError::Decoding(_)) => {
                self.lane.meters.undecodable.inc();
                tracing::error!(topic = self.topic, %error, "a message cannot be decoded and is passed over");
                Ok(())
            }
            _ => Err(self.broken(error.to_string())),
        }
    }

    async fn acknowledge(&mut self, consumer: &mut PartitionConsumer) -> Result<(), ConsumeError> {
        let Some(entry) = *self.stored.borrow_and_update() else { return Ok(()) };
        // No batch index: the whole entry, and with it all before it.
        let id = MessageIdData { ledger_id: entry.ledger, entry_id: entry.entry, ..MessageIdData::default() };
        let acknowledged = consumer.cumulative_ack_with_id(&self.topic, id).await;
        acknowledged.map_err(|e| self.broken(e.to_string()))
    }

    async fn ping(&self, consumer: &mut PartitionConsumer) -> Result<(), ConsumeError> {
        match timeout(2 * OPERATION_TIMEOUT, consumer.check_connection()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(self.broken(e.to_string())),
            Err(_) => Err(self.broken("the broker does not answer".to_owned())),
        }
    }

    /// Lets the store commit what it has, acknowledges that, and closes.
    async fn finish(&mut self, consumer: &mut PartitionConsumer) {
        self.chunks = None;
        self.acks = None;
        let acknowledged = timeout(LAST_COMMIT, async {
            while self.stored.changed().await.is_ok() {
                self.acknowledge(consumer).await?;
            }
            Ok::<(), ConsumeError>(())
        });
        match acknowledged.await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::info!(topic = self.topic, %e, "stored events will be delivered, and removed, again"),
            Err(_) => tracing::warn!(topic = self.topic, "the last commit takes too long; its events will come again"),
        }
        // The acknowledgement travels through the same channel before it.
        if timeout(CLOSE_TIMEOUT, consumer.close()).await.is_err() {
            tracing::info!(topic = self.topic, "the broker did not confirm the end of the subscription in time");
        }
    }

    fn broken(&self, reason: String) -> ConsumeError {
        ConsumeError::Broken { topic: self.topic.clone(), reason }
    }
}

fn received(message: Message<Untouched>) -> Received {
    let id = message.message_id.id;
    let index = id.batch_index.and_then(|i| u32::try_from(i).ok()).unwrap_or(0);
    let size = message.message_id.batch_size.and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
    let entry = Entry { ledger: id.ledger_id, entry: id.entry_id };
    Received { at: Position { entry, index }, ends_entry: index + 1 >= size, payload: message.payload }
}
