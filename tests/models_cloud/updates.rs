//! What a training pipeline sends to the topic of updates is published or refused, and it is told which.

use std::collections::HashMap;
use std::time::Instant;

use futures_util::StreamExt as _;
use pulsar::consumer::InitialPosition;
use serde_json::Value;
use tidegate::pulsar::names;

use crate::site::{PATIENCE, STRANGER, Site, key, manifest, signed, weights};
use crate::support::pulsar_client::{Client, client};

/// A pipeline's producer, and what it is told.
struct Pipeline {
    client: Client,
    tenant: String,
    results: pulsar::Consumer<Vec<u8>, pulsar::TokioExecutor>,
}

impl Pipeline {
    async fn start(site: &Site) -> Self {
        let client = client(&site.broker.service_url()).await;
        let options = pulsar::ConsumerOptions::default().with_initial_position(InitialPosition::Earliest);
        let results = client
            .consumer()
            .with_topic(names::results_topic(&site.tenant))
            .with_subscription("pipeline")
            .with_subscription_type(pulsar::SubType::Exclusive)
            .with_options(options)
            .build()
            .await
            .unwrap();
        Self { client, tenant: site.tenant.clone(), results }
    }

    /// Sends parts `from` and on, of so many in all.
    async fn send(&self, update: &str, url: Option<&str>, parts: &[&[u8]], from: usize, of: usize) {
        let name = format!("pipeline-{}", uuid::Uuid::new_v4());
        let topic = names::updates_topic(&self.tenant);
        let mut producer = self.client.producer().with_topic(topic).with_name(name).build().await.unwrap();
        for (n, part) in parts.iter().enumerate() {
            let mut properties = HashMap::from([
                ("tg_update".to_owned(), update.to_owned()),
                ("tg_part".to_owned(), (from + n).to_string()),
                ("tg_parts".to_owned(), of.to_string()),
            ]);
            properties.extend(url.map(|url| ("tg_url".to_owned(), url.to_owned())));
            let message = pulsar::producer::Message { payload: part.to_vec(), properties, ..Default::default() };
            producer.send_non_blocking(message).await.unwrap().await.unwrap();
        }
    }

    /// A whole update in parts of so many bytes.
    async fn update(&self, update: &str, manifest: &str, file: &[u8], bytes: usize) {
        let parts: Vec<&[u8]> = std::iter::once(manifest.as_bytes()).chain(file.chunks(bytes)).collect();
        self.send(update, None, &parts, 0, parts.len()).await;
    }

    /// Waits for what became of an update.
    async fn told(&mut self, update: &str, site: &Site) -> (String, String) {
        let begun = Instant::now();
        let told = async {
            loop {
                let message = self.results.next().await.unwrap().unwrap();
                let _ = self.results.ack(&message).await;
                let result: Value = serde_json::from_slice(&message.payload.data).unwrap();
                println!("{result} after {:.1} s", begun.elapsed().as_secs_f64());
                if result["update"] == update {
                    let word = |key: &str| result[key].as_str().unwrap_or_default().to_owned();
                    return (word("outcome"), word("reason"));
                }
            }
        };
        let told = tokio::time::timeout(PATIENCE, told).await;
        told.unwrap_or_else(|_| panic!("nothing was told of {update}\n{}", site.cloud.log_tail()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_published_or_refused_and_its_sender_is_told() {
    let sources = tempfile::tempdir().unwrap();
    let extra = format!("sources = [\"file://{}/\"]\n", sources.path().display());
    let mut site = tokio::task::block_in_place(|| Site::start("models-updates", &extra));
    let mut pipeline = Pipeline::start(&site).await;
    let good = ("published".to_owned(), String::new());
    let refused = |reason: &str| ("refused".to_owned(), reason.to_owned());

    let first = weights(2_000_000, 1);
    pipeline.update("first", &signed("press", 1, &first), &first, 300_000).await;
    assert_eq!(pipeline.told("first", &site).await, good);
    // Sent again by somebody who does not know, it is what it was.
    pipeline.update("again", &signed("press", 1, &first), &first, 300_000).await;
    assert_eq!(pipeline.told("again", &site).await, good);

    let second = weights(1_000_000, 2);
    let forged = manifest("press", 2, &second).sign(&key(STRANGER)).unwrap().encode();
    pipeline.update("forged", &forged, &second, 300_000).await;
    assert_eq!(pipeline.told("forged", &site).await, refused("unknown-key"));
    let manifest = signed("press", 2, &second);
    pipeline.send("gap", None, &[manifest.as_bytes()], 0, 3).await;
    pipeline.send("gap", None, &[&second[500_000..]], 2, 3).await;
    assert_eq!(pipeline.told("gap", &site).await, refused("parts-missing"));
    pipeline.update("changed", &manifest, &weights(1_000_000, 3), 300_000).await;
    assert_eq!(pipeline.told("changed", &site).await, refused("wrong-digest"));
    pipeline.update("old", &signed("press", 1, &second), &second, 300_000).await;
    assert_eq!(pipeline.told("old", &site).await, refused("version-not-higher"));

    // Half of it is sent, the cloud dies, and another one gets all of it.
    pipeline.send("halves", None, &[manifest.as_bytes(), &second[..500_000]], 0, 3).await;
    tokio::task::block_in_place(|| site.lose_cloud());
    pipeline.send("halves", None, &[&second[500_000..]], 2, 3).await;
    assert_eq!(pipeline.told("halves", &site).await, good);

    let third = weights(1_000_000, 4);
    std::fs::write(sources.path().join("third.bin"), &third).unwrap();
    let url = format!("file://{}/third.bin", sources.path().display());
    let manifest = signed("press", 3, &third);
    pipeline.send("elsewhere", Some("file:///etc/hostname"), &[manifest.as_bytes()], 0, 1).await;
    assert_eq!(pipeline.told("elsewhere", &site).await, refused("source-not-allowed"));
    pipeline.send("named", Some(&url), &[manifest.as_bytes()], 0, 1).await;
    assert_eq!(pipeline.told("named", &site).await, good);

    tokio::task::block_in_place(|| {
        assert_eq!(site.versions("press"), [3, 2, 1]);
        for (version, file) in [(1, &first), (2, &second), (3, &third)] {
            assert!(site.assemble("press", version).0 == *file);
        }
    });
}
