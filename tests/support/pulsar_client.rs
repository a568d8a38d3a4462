//! Sending and receiving with the `pulsar` crate's own client, as a user of the topics would.

use std::time::Duration;

use futures_util::StreamExt;

pub type Client = pulsar::Pulsar<pulsar::TokioExecutor>;

pub async fn client(service: &str) -> Client {
    pulsar::Pulsar::builder(service, pulsar::TokioExecutor).build().await.unwrap()
}

/// Sends `payloads` with the producer's own sequence, from 0 on, and waits for every receipt.
pub async fn send(client: &Client, topic: &str, producer: &str, payloads: &[(String, String)]) {
    // Without a policy the crate (6.9.1) ignores keys and takes partitions in turn; with this one it follows the key.
    let by_key = pulsar::routing_policy::RoutingPolicy::RoundRobin;
    let options = pulsar::ProducerOptions { routing_policy: Some(by_key), ..Default::default() };
    let mut producer =
        client.producer().with_topic(topic).with_name(producer).with_options(options).build().await.unwrap();
    for (key, payload) in payloads {
        let message = pulsar::producer::Message {
            payload: payload.clone().into_bytes(),
            partition_key: Some(key.clone()),
            ..Default::default()
        };
        producer.send_non_blocking(message).await.unwrap().await.unwrap();
    }
    producer.close().await.unwrap();
}

/// Reads with `subscription` until nothing has come for `quiet`; returns (key, payload) in order of arrival.
pub async fn receive(
    client: &Client,
    topic: &str,
    subscription: &str,
    at_least: usize,
    quiet: Duration,
) -> Vec<(String, String)> {
    let mut consumer: pulsar::Consumer<Vec<u8>, _> = client
        .consumer()
        .with_topic(topic)
        .with_subscription(subscription)
        .with_subscription_type(pulsar::SubType::Failover)
        .build()
        .await
        .unwrap();
    let mut got = Vec::new();
    loop {
        // Replication may take its time; that nothing more comes is waited for only once enough came.
        let patience = if got.len() < at_least { Duration::from_secs(60) } else { quiet };
        let Ok(Some(message)) = tokio::time::timeout(patience, consumer.next()).await else { break };
        let message = message.unwrap();
        consumer.ack(&message).await.unwrap();
        let key = message.payload.metadata.partition_key.clone().unwrap_or_default();
        got.push((key, String::from_utf8(message.payload.data.clone()).unwrap()));
    }
    got
}
