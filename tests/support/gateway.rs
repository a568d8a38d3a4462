//! A producer that plays gateway: sequences as the test wants them, doubled ones too, through the client of the crate.

use std::collections::BTreeMap;

use pulsar::producer::Message;
use pulsar::{Producer, ProducerOptions, Pulsar, TokioExecutor};

use super::broker::Broker;

/// Partitions of every topic it sends to.
pub const PARTITIONS: u32 = 4;

/// Most messages in a batch, and so in an entry.
pub const BATCH: u64 = 37;

/// Producers of a lane's partitions, with batches, that set the properties a gateway would set.
pub struct Gateway {
    producers: BTreeMap<u32, Producer<TokioExecutor>>,
    client: Pulsar<TokioExecutor>,
    topic: String,
}

impl Gateway {
    pub async fn connect(broker: &Broker, tenant: &str, lane: &str) -> Self {
        let client = Pulsar::builder(broker.service_url(), TokioExecutor).build().await.unwrap();
        let topic = format!("persistent://{tenant}/telemetry/{lane}");
        Self { producers: BTreeMap::new(), client, topic }
    }

    /// Sends event `seq` of `stream` to partition `seq % 4`, in a batch.
    pub async fn send(&mut self, stream: &str, seq: u64) {
        let properties = [
            ("tg_stream", stream),
            ("tg_seq", &seq.to_string()),
            ("ce_id", &format!("{stream}-{seq}")),
            ("ce_source", "urn:test"),
            ("ce_type", "reading"),
            ("ce_subject", "dev-1"),
            ("ce_specversion", "1.0"),
            ("ce_time", "2026-01-31T12:00:00Z"),
            ("content-type", "application/json"),
        ];
        let properties = properties.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect();
        let payload =
            format!("{{\n \"n\": {seq}.0,\n \"text\": \"{}\"\n}}", "x".repeat(seq as usize % 200)).into_bytes();
        self.message(
            u32::try_from(seq % u64::from(PARTITIONS)).unwrap(),
            Message { payload, properties, ..Message::default() },
        )
        .await;
    }

    pub async fn message(&mut self, partition: u32, message: Message) {
        if !self.producers.contains_key(&partition) {
            let options = ProducerOptions { batch_size: Some(BATCH as u32), ..ProducerOptions::default() };
            let topic = format!("{}-partition-{partition}", self.topic);
            let producer = self.client.producer().with_topic(topic).with_options(options).build().await.unwrap();
            self.producers.insert(partition, producer);
        }
        let producer = self.producers.get_mut(&partition).unwrap();
        // The receipt is not awaited one by one; flush() sees to it that all are sent.
        drop(producer.send_non_blocking(message).await.unwrap());
    }

    pub async fn flush(&mut self) {
        for producer in self.producers.values_mut() {
            producer.send_batch().await.unwrap();
        }
    }
}
