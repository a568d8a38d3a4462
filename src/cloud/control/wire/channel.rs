//! A connection that many use at once: requests and messages go out as they come, and each is told its own answer.
//!
//! It is read all the time, so the broker's pings are answered while nobody uses it (Pulsar closes a connection that
//! leaves two of them unanswered, `keepAliveIntervalSeconds`), and whoever comes next knows whether it still lives.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use pulsar::message::proto::BaseCommand;
use tokio::sync::{mpsc, oneshot};

use super::topic::Wire;
use crate::pulsar::wire::connection::answered;
use crate::pulsar::wire::{LinkError, frame};

/// Time for one answer: a broker that has to load a topic first needs seconds.
pub const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Frames that wait to be written; callers wait behind them.
const ORDERS_MAX: usize = 64;

/// Bytes that are gathered for one write.
const GATHER_BYTES: usize = 256 << 10;

/// Answers that are waited for; beyond it those are forgotten that nobody waits for any more.
const WAITING_MAX: usize = 1024;

/// What an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Request(u64),
    /// The receipt of the only message under way of a producer.
    Message(u64),
}

struct Order {
    key: Key,
    frames: BytesMut,
    told: oneshot::Sender<BaseCommand>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// None came in time; the connection lives.
    Slow,
    /// The connection is lost.
    Lost,
}

/// See the module. Clones share the connection; it is closed when the last one is gone.
#[derive(Clone, Debug)]
pub struct Channel {
    orders: mpsc::Sender<Order>,
    numbers: Arc<AtomicU64>,
    /// Host and port, for messages.
    pub broker: Arc<str>,
    /// Largest message that this broker takes.
    pub message_max: usize,
}

impl Channel {
    /// Takes over a connection on which nothing has been asked; its work ends when it is lost or not wanted any more.
    pub fn new(wire: Wire, broker: &str, message_max: usize) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (orders, waiting) = mpsc::channel(ORDERS_MAX);
        let work = run(wire, waiting);
        (Self { orders, numbers: Arc::default(), broker: broker.into(), message_max }, work)
    }

    /// Whether it still lives, as far as is known.
    pub fn lives(&self) -> bool {
        !self.orders.is_closed()
    }

    /// A number for a producer or a request of this connection.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sends the request that `make` makes with its number, and waits for the answer.
    pub async fn ask(&self, make: impl FnOnce(u64) -> BaseCommand) -> Result<BaseCommand, NoAnswer> {
        let number = self.number();
        let mut frames = BytesMut::new();
        frame::command(&mut frames, &make(number));
        self.exchange(Key::Request(number), frames).await
    }

    /// Sends a message's frame; the answer is a receipt, a refusal, or the end of its producer.
    pub async fn message(&self, producer: u64, frames: BytesMut) -> Result<BaseCommand, NoAnswer> {
        self.exchange(Key::Message(producer), frames).await
    }

    async fn exchange(&self, key: Key, frames: BytesMut) -> Result<BaseCommand, NoAnswer> {
        let (told, tells) = oneshot::channel();
        let answer = async {
            self.orders.send(Order { key, frames, told }).await.map_err(|_| NoAnswer::Lost)?;
            tells.await.map_err(|_| NoAnswer::Lost)
        };
        tokio::time::timeout(ANSWER_MAX, answer).await.unwrap_or(Err(NoAnswer::Slow))
    }
}

async fn run(mut wire: Wire, mut orders: mpsc::Receiver<Order>) {
    let mut waiting = HashMap::<Key, oneshot::Sender<BaseCommand>>::new();
    let ended = loop {
        let done = tokio::select! {
            frame = wire.next() => match frame {
                Ok(frame) => wire.keep(frame).await.map(|frame| {
                    if let Some(frame) = frame {
                        tell(&mut waiting, frame.command);
                    }
                }),
                Err(e) => Err(e),
            },
            order = orders.recv() => match order {
                Some(order) => write(&mut wire, &mut orders, order, &mut waiting).await,
                None => return,
            },
        };
        if let Err(e) = done {
            break e;
        }
    };
    tracing::debug!(reason = %ended, "a connection for inboxes is over");
}

async fn write(
    wire: &mut Wire,
    orders: &mut mpsc::Receiver<Order>,
    first: Order,
    waiting: &mut HashMap<Key, oneshot::Sender<BaseCommand>>,
) -> Result<(), LinkError> {
    let mut gathered = first.frames;
    waiting.insert(first.key, first.told);
    while gathered.len() < GATHER_BYTES
        && let Ok(Order { key, frames, told }) = orders.try_recv()
    {
        gathered.extend_from_slice(&frames);
        waiting.insert(key, told);
    }
    if waiting.len() > WAITING_MAX {
        waiting.retain(|_, told| !told.is_closed());
    }
    wire.write(&gathered).await
}

fn tell(waiting: &mut HashMap<Key, oneshot::Sender<BaseCommand>>, command: BaseCommand) {
    let key = if let Some(receipt) = &command.send_receipt {
        Key::Message(receipt.producer_id)
    } else if let Some(error) = &command.send_error {
        Key::Message(error.producer_id)
    } else if let Some(closed) = &command.close_producer {
        Key::Message(closed.producer_id)
    } else if let Some(request) = answered(&command) {
        Key::Request(request)
    } else {
        return;
    };
    if let Some(told) = waiting.remove(&key) {
        let _ = told.send(command);
    }
}
