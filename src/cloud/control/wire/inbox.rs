//! One message each into many topics: producers are opened, used and closed again, many at a time on few connections.
//!
//! What it costs a message is a lookup, a producer, the message itself and the producer's end; each of these steps is one
//! round trip for a whole batch.

use std::collections::HashMap;
use std::time::Duration;

use bytes::BytesMut;
use pulsar::message::proto::{BaseCommand, CommandCloseProducer, ProducerAccessMode, base_command::Type};

use super::topic::{Cluster, Wire};
use super::writer::{append, producer};
use crate::pulsar::wire::connection::refused;
use crate::pulsar::wire::lookup::{Located, Place, REDIRECTS_MAX, last_sequence, located, lookup};
use crate::pulsar::wire::{Connection, LinkError};
use crate::sys::clock::Clock;
use crate::sys::random;

pub use super::writer::Outgoing;

/// Messages of one batch: a broker creates so many topics in a few seconds, which a request may take.
pub const BATCH_MAX: usize = 256;

/// Bytes of one batch; one message at least is sent, whatever its size.
pub const BATCH_BYTES_MAX: usize = 16 << 20;

/// Time for the receipts of a batch.
const RECEIPTS_MAX: Duration = Duration::from_secs(30);

/// Connections that are kept for the next batch; one for each broker of the cluster.
const CONNECTIONS_MAX: usize = 64;

/// Sends to many topics. Not shared: one batch after the other.
pub struct Inboxes {
    cluster: Cluster,
    clock: Clock,
    /// Producers of this process are told from those of others, at the broker.
    name: String,
    pool: HashMap<Place, Connection>,
}

/// What became of each message of a batch, in its order.
pub type Sent = Vec<Result<(), String>>;

impl Inboxes {
    /// Connects when there is something to send.
    pub fn new(cluster: Cluster, clock: Clock) -> Self {
        Self { cluster, clock, name: format!("cloud.{}", random::hex16()), pool: HashMap::new() }
    }

    /// Sends each message to its topic. Topics must differ. Dropped half-way some may have been sent.
    pub async fn send(&mut self, batch: &[(String, Outgoing)]) -> Sent {
        let mut sent: Sent = vec![Err("it was not tried".to_owned()); batch.len()];
        let places = match self.places(batch, &mut sent).await {
            Ok(places) => places,
            Err(e) => {
                self.pool.clear();
                return vec![Err(e.to_string()); batch.len()];
            }
        };
        for (place, indices) in places {
            let outcome = self.send_at(&place, batch, &indices, &mut sent).await;
            if let Err(e) = outcome {
                let failed = |i: &usize| {
                    if sent[*i].is_err() {
                        sent[*i] = Err(e.to_string())
                    }
                };
                indices.iter().for_each(failed);
            }
        }
        if self.pool.len() > CONNECTIONS_MAX {
            self.pool.clear();
        }
        sent
    }

    async fn connection(&mut self, place: &Place) -> Result<Connection, LinkError> {
        match self.pool.remove(place) {
            Some(connection) => Ok(connection),
            None => self.cluster.connect(place).await,
        }
    }

    /// Which broker has which of the topics.
    async fn places(
        &mut self,
        batch: &[(String, Outgoing)],
        sent: &mut Sent,
    ) -> Result<HashMap<Place, Vec<usize>>, LinkError> {
        let service = self.cluster.service().clone();
        let mut found: HashMap<Place, Vec<usize>> = HashMap::new();
        let mut ask = HashMap::from([((service.clone(), false), (0..batch.len()).collect::<Vec<_>>())]);
        for _ in 0..=REDIRECTS_MAX {
            let mut again: HashMap<(Place, bool), Vec<usize>> = HashMap::new();
            for ((place, authoritative), indices) in ask.drain() {
                let mut connection = self.connection(&place).await?;
                let request = |i: &usize| {
                    let id = connection.request_id();
                    (id, lookup(&batch[*i].0, id, authoritative))
                };
                let requests = indices.iter().map(request).collect();
                let answers = connection.ask(self.cluster.credentials(), "looking up inboxes", requests).await?;
                for (i, answer) in indices.into_iter().zip(answers) {
                    match located(&connection.broker, &service, &batch[i].0, answer) {
                        Ok(Located::At(place)) => found.entry(place).or_default().push(i),
                        Ok(Located::Ask(place, by_its_word)) => again.entry((place, by_its_word)).or_default().push(i),
                        Err(e) => sent[i] = Err(e.to_string()),
                    }
                }
                self.pool.insert(place, connection);
            }
            ask = again;
            if ask.is_empty() {
                return Ok(found);
            }
        }
        let topic = batch.first().map(|(topic, _)| topic.clone()).unwrap_or_default();
        Err(LinkError::Redirects { topic, limit: REDIRECTS_MAX })
    }

    async fn send_at(
        &mut self,
        place: &Place,
        batch: &[(String, Outgoing)],
        indices: &[usize],
        sent: &mut Sent,
    ) -> Result<(), LinkError> {
        let mut connection = self.connection(place).await?;
        let name = self.name.clone();
        let request = |i: &usize| {
            let id = connection.request_id();
            (id, producer(&batch[*i].0, *i as u64, id, &name, ProducerAccessMode::Shared))
        };
        let requests = indices.iter().map(request).collect();
        let answers = connection.ask(self.cluster.credentials(), "opening inboxes", requests).await?;
        let (mut open, mut frames) = (HashMap::new(), BytesMut::new());
        let now = u64::try_from(self.clock.unix_ms()).unwrap_or(0);
        for (i, answer) in indices.iter().zip(answers) {
            match last_sequence(&connection.broker, &batch[*i].0, answer) {
                Ok(last) => {
                    let sequence = last.map_or(1, |last| last + 1);
                    append(&mut frames, (*i as u64, &name, sequence), now, &batch[*i].1);
                    open.insert(*i as u64, sequence);
                }
                Err(e) => sent[*i] = Err(e.to_string()),
            }
        }
        let producers: Vec<u64> = open.keys().copied().collect();
        let mut wire = Wire::new(connection, self.cluster.credentials());
        let receipts = tokio::time::timeout(RECEIPTS_MAX, receipts(&mut wire, &frames, open, sent)).await;
        let slow = || LinkError::Slow { broker: place.0.authority(), step: "sending to inboxes", limit: RECEIPTS_MAX };
        receipts.unwrap_or_else(|_| Err(slow()))?;
        close(&mut wire, producers, &self.cluster).await?;
        self.pool.insert(place.clone(), wire.into_connection());
        Ok(())
    }
}

/// Writes all frames and waits for what becomes of each message.
async fn receipts(
    wire: &mut Wire,
    frames: &[u8],
    mut open: HashMap<u64, u64>,
    sent: &mut Sent,
) -> Result<(), LinkError> {
    wire.write(frames).await?;
    while !open.is_empty() {
        let frame = wire.next().await?;
        let Some(frame) = wire.keep(frame).await? else { continue };
        let command = frame.command;
        let (producer, outcome) = if let Some(receipt) = command.send_receipt {
            (receipt.producer_id, Ok(()))
        } else if let Some(error) = command.send_error {
            let words = refused("the broker", "the message", error.error, error.message).to_string();
            (error.producer_id, Err(words))
        } else if let Some(closed) = command.close_producer {
            (closed.producer_id, Err("the broker closed the inbox: it moves to another broker".to_owned()))
        } else {
            continue;
        };
        if open.remove(&producer).is_some()
            && let Some(of) = usize::try_from(producer).ok().and_then(|i| sent.get_mut(i))
        {
            *of = outcome;
        }
    }
    Ok(())
}

/// Closes the producers: the broker holds a little memory for each.
async fn close(wire: &mut Wire, producers: Vec<u64>, cluster: &Cluster) -> Result<(), LinkError> {
    let connection = wire.connection();
    let request = |producer_id: u64| {
        let request_id = connection.request_id();
        let close_producer = Some(CommandCloseProducer { producer_id, request_id });
        (request_id, BaseCommand { r#type: Type::CloseProducer as i32, close_producer, ..BaseCommand::default() })
    };
    let requests = producers.into_iter().map(request).collect();
    connection.ask(cluster.credentials(), "closing inboxes", requests).await.map(|_| ())
}

/// How many of `sizes` make the next batch.
pub fn batch_of(sizes: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0_usize;
    let fits = |size: &usize| {
        bytes = bytes.saturating_add(*size);
        bytes <= BATCH_BYTES_MAX
    };
    sizes.take(BATCH_MAX).take_while(fits).count().max(1)
}
