//! Models as the cloud publishes them: signed, cut, packed, and sent to the topic of their pack.

use std::collections::BTreeMap;

use tidegate::downlink::artefact::{Digest, Mode, ModelAssigned, SecretKey};
use tidegate::models::chunks::{self, Sizes};
use tidegate::models::delta::Layout;
use tidegate::models::hash::Hash;
use tidegate::models::index::Index;
use tidegate::models::manifest::{Format, Manifest, Name, Signed};
use tidegate::models::pack::{self, PIECE_BYTES_MAX};
use tidegate::pulsar::names;

use super::broker::Broker;
use super::pulsar_client::Client;

/// A version as it was published.
#[derive(Clone)]
pub struct Version {
    pub name: Name,
    pub version: u64,
    pub file: Vec<u8>,
    pub digest: Digest,
    pub index: Index,
    /// Of its pack.
    pub messages: Vec<Vec<u8>>,
}

/// Bytes that do not compress, always the same for a seed.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        noise.extend_from_slice(&word());
    }
    noise.truncate(bytes);
    noise
}

impl Version {
    /// `file`, signed by `key`; what the `kept` versions have is not in its pack.
    pub fn new(key: &SecretKey, name: &str, version: u64, file: Vec<u8>, kept: &[&Self]) -> Self {
        let name = Name::parse(name).unwrap();
        let manifest = Manifest {
            name: name.clone(),
            version,
            format: Format::Opaque,
            size: file.len() as u64,
            blake3: Hash::of(&file),
            parent: None,
            metadata: BTreeMap::new(),
        };
        let envelope = manifest.sign(key).unwrap();
        let trusting = tidegate::config::edge::Downlink {
            artefact_keys: vec![key.public().to_string()],
            ..tidegate::config::edge::Downlink::default()
        };
        let trust = tidegate::downlink::artefact::Trust::new(&trusting).unwrap();
        let signed = Signed::verify(envelope.encode().as_bytes(), &trust).unwrap();
        let cut = chunks::cut(&file[..], Sizes::STANDARD).unwrap();
        let kept: Vec<&Index> = kept.iter().map(|version| &version.index).collect();
        let layout = Layout::of(&signed, &cut, &kept, PIECE_BYTES_MAX).unwrap();
        let mut messages = layout.head(&signed);
        for (place, chunks) in (layout.heads..).zip(&layout.pieces) {
            let chunks: Vec<&[u8]> = chunks.iter().map(|c| &file[c.offset as usize..][..c.length as usize]).collect();
            messages.push(pack::encode_piece(place, layout.places(), &chunks).unwrap());
        }
        Self { name, version, file, digest: signed.digest(), index: layout.index, messages }
    }

    /// Its topic.
    pub fn topic(&self, tenant: &str) -> String {
        names::pack_topic(tenant, self.name.as_str(), self.version)
    }

    /// Sends its pack.
    pub async fn publish(&self, broker: &Broker, client: &Client, tenant: &str) {
        let topic = self.topic(tenant);
        broker.admin("PUT", &topic.replace("persistent://", "persistent/"), "");
        let name = format!("packs-{}", uuid::Uuid::new_v4());
        let mut producer = client.producer().with_topic(&topic).with_name(name).build().await.unwrap();
        for payload in &self.messages {
            let message = pulsar::producer::Message { payload: payload.clone(), ..Default::default() };
            producer.send_non_blocking(message).await.unwrap().await.unwrap();
        }
        producer.close().await.unwrap();
    }

    /// As it is assigned.
    pub fn assigned(&self, mode: Mode) -> ModelAssigned {
        ModelAssigned { name: self.name.clone(), version: self.version, digest: self.digest, mode }
    }
}

/// Messages that the broker says it has sent of a topic, to whomever. Pulsar 4.0.7 leaves some out now and then: 15 of 16
/// that a model was proven from, and it stayed 15. So it can show what came twice, not what did not come.
pub fn messages_out(broker: &Broker, topic: &str) -> u64 {
    let path = format!("{}/stats", topic.replace("persistent://", "persistent/"));
    let stats: serde_json::Value = serde_json::from_str(&broker.admin("GET", &path, "")).unwrap();
    stats["msgOutCounter"].as_u64().unwrap()
}
