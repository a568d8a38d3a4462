//! What answers tell of models.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::Models;
use super::catalogue::Version;
use super::publish::Stored;
use crate::downlink::artefact::{Digest, KeyId};
use crate::event::Timestamp;
use crate::models::hash::Hash;
use crate::models::manifest::{Format, Name};

/// A version.
#[derive(Serialize)]
struct VersionView {
    name: Name,
    version: u64,
    format: Format,
    size: u64,
    blake3: Hash,
    /// How an assignment names it.
    sha256: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    signer: String,
    /// The key is not trusted any more: gateways refuse it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    revoked: bool,
    by: String,
    at: String,
    pack: PackView,
}

#[derive(Serialize)]
struct PackView {
    messages: u32,
    bytes: u64,
    chunks: u32,
}

impl Models {
    /// The newest version of each model after `after`, and where the next page begins.
    pub(super) fn list(&self, after: Option<&str>, limit: usize) -> Value {
        let shared = self.lock();
        let mut found = shared.catalogue.models(after);
        let item = |(version, versions)| {
            let mut item = serde_json::to_value(self.view(version)).unwrap_or_default();
            item["versions"] = json!(versions);
            item
        };
        let items: Vec<Value> = found.by_ref().take(limit).map(item).collect();
        let next = found.next().and_then(|_| items.last()).map(|last| last["name"].clone());
        json!({ "items": items, "next": next })
    }

    /// All that is known of a model; `None`: there is none of this name.
    pub(super) fn show(&self, name: &Name) -> Option<Value> {
        let shared = self.lock();
        let publishing = shared.publishing.get(name);
        let publishing = publishing.map(|p| json!({ "version": p.version, "messages": p.places, "of": p.of_places }));
        let versions = shared.catalogue.versions(name);
        if versions.is_none() && publishing.is_none() {
            return None;
        }
        let versions: Vec<VersionView> = versions.into_iter().flatten().map(|version| self.view(version)).collect();
        let highest = versions.first().map_or(0, |version| version.version);
        Some(json!({ "name": name, "highest": highest, "publishing": publishing, "versions": versions }))
    }

    /// What a publication came to.
    pub(super) fn stored(&self, stored: &Stored) -> Value {
        serde_json::to_value(self.view(&stored.version)).unwrap_or_default()
    }

    fn view(&self, version: &Version) -> VersionView {
        let Version { manifest, digest, signer, by, at_ms, pack } = version;
        let id = KeyId::parse(signer).ok();
        let revoked = id.is_some_and(|id| self.0.control.trust().is_ok_and(|trust| trust.is_revoked(id)));
        VersionView {
            name: manifest.name.clone(),
            version: manifest.version,
            format: manifest.format,
            size: manifest.size,
            blake3: manifest.blake3,
            sha256: *digest,
            parent: manifest.parent,
            metadata: manifest.metadata.clone(),
            signer: signer.clone(),
            revoked,
            by: by.clone(),
            at: Timestamp::from_unix_ms(i64::try_from(*at_ms).unwrap_or(0)).to_string(),
            pack: PackView { messages: pack.heads + pack.pieces, bytes: pack.bytes, chunks: pack.chunks },
        }
    }
}
