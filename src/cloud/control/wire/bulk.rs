//! Many messages into one topic that nobody else writes meanwhile, several of them under way.
//!
//! Exclusive access, as for the lead: while one process writes, the broker refuses every other producer; once its
//! connection has ended the next one is let in, and finds what was written before as a beginning without gaps: the broker
//! stores a producer's messages in their order, and none after one that failed.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use pulsar::message::proto::ProducerAccessMode;

use super::topic::{Cluster, TopicError, Wire};
use super::writer::{Outgoing, append, producer};
use crate::pulsar::wire::LinkError;
use crate::pulsar::wire::connection::refused;
use crate::pulsar::wire::lookup::last_sequence;
use crate::sys::random;

/// Messages without a receipt. With 256 KiB each they fill a gigabit over a round trip of 30 ms.
const WINDOW: usize = 16;

/// Time for a receipt.
const RECEIPT_MAX: Duration = Duration::from_secs(30);

/// A producer's number on its connection.
const PRODUCER: u64 = 1;

/// See the module. Dropped, it gives the topic free; what has no receipt by then may be stored or not.
pub struct Bulk {
    wire: Wire,
    topic: String,
    name: String,
    next: u64,
    under_way: VecDeque<u64>,
    /// Largest message that the broker takes, in bytes.
    pub message_max: usize,
}

impl Bulk {
    /// Asks to be the only producer; [`TopicError::is_taken`] when there is another one.
    pub async fn open(cluster: &Cluster, topic: &str) -> Result<Self, TopicError> {
        let mut connection = cluster.connect_to(topic).await?;
        // A new name every time: deduplication would drop, in silence, what an old name counts from 0 again.
        let (name, id) = (format!("cloud.{}", random::hex16()), connection.request_id());
        let request = producer(topic, PRODUCER, id, &name, ProducerAccessMode::Exclusive);
        let answers = connection.ask(cluster.credentials(), "opening the producer", vec![(id, request)]).await?;
        last_sequence(&connection.broker, topic, answers.into_iter().next().unwrap_or_default())?;
        let message_max = connection.message_max;
        let wire = Wire::new(connection, cluster.credentials());
        Ok(Self { wire, topic: topic.to_owned(), name, next: 0, under_way: VecDeque::new(), message_max })
    }

    /// Sends the next message; waits while there are too many without a receipt. After an error, or dropped half-way, it
    /// is to be thrown away.
    pub async fn write(&mut self, publish_time_ms: u64, message: &Outgoing) -> Result<(), TopicError> {
        while self.under_way.len() >= WINDOW {
            self.receipt().await?;
        }
        let mut frames = BytesMut::new();
        append(&mut frames, (PRODUCER, &self.name, self.next), publish_time_ms, message);
        self.wire.write(&frames).await?;
        self.under_way.push_back(self.next);
        self.next += 1;
        Ok(())
    }

    /// Waits until all are stored.
    pub async fn finish(mut self) -> Result<(), TopicError> {
        while !self.under_way.is_empty() {
            self.receipt().await?;
        }
        Ok(())
    }

    async fn receipt(&mut self) -> Result<(), TopicError> {
        let broker = self.wire.connection().broker.clone();
        let told = async {
            loop {
                let frame = self.wire.next().await?;
                let Some(frame) = self.wire.keep(frame).await? else { continue };
                let command = frame.command;
                if let Some(receipt) = command.send_receipt
                    && self.under_way.front() == Some(&receipt.sequence_id)
                {
                    self.under_way.pop_front();
                    return Ok(());
                }
                if let Some(error) = command.send_error {
                    return Err(refused(&broker, "a message", error.error, error.message).into());
                }
                if command.close_producer.is_some() {
                    return Err(TopicError::Closed { topic: self.topic.clone() });
                }
            }
        };
        let silent = || LinkError::Silent { broker: broker.clone(), silence: RECEIPT_MAX }.into();
        tokio::time::timeout(RECEIPT_MAX, told).await.unwrap_or_else(|_| Err(silent()))
    }
}
