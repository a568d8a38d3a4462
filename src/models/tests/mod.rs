//! Tests of models: what travels is what was published, and nothing half is ever seen.

mod fetching;
mod hostile;
mod ratios;
mod signing;
mod store;
mod travel;

use std::collections::BTreeMap;

use super::chunks::{self, Cut, Sizes};
use super::delta::Layout;
use super::hash::Hash;
use super::index::Index;
use super::manifest::{Format, Manifest, Name, Signed};
use super::pack;
use crate::config::edge::Downlink;
use crate::downlink::artefact::{SecretKey, Trust};

/// The shortest that FastCDC takes: small files have many chunks.
pub const SMALL: Sizes = Sizes { min: 64, avg: 256, max: 1024 };

/// Bytes of a piece of small files.
pub const SMALL_PIECE: usize = 2048;

/// `PROPTEST_CASES=100000 cargo test --lib models` for a night.
pub fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

pub fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32]).unwrap()
}

pub fn trust() -> Trust {
    let artefact_keys = vec![key(1).public().to_string(), key(2).public().to_string()];
    let controller_keys = vec![key(3).public().to_string()];
    let revoked = vec![key(2).public().id().to_string()];
    Trust::new(&Downlink { artefact_keys, controller_keys, revoked, ..Downlink::default() }).unwrap()
}

pub fn manifest(version: u64, file: &[u8]) -> Manifest {
    Manifest {
        name: Name::parse("anomaly").unwrap(),
        version,
        format: Format::Opaque,
        size: file.len() as u64,
        blake3: Hash::of(file),
        parent: version.checked_sub(1).filter(|parent| *parent > 0),
        metadata: BTreeMap::new(),
    }
}

pub fn signed(version: u64, file: &[u8]) -> Signed {
    let envelope = manifest(version, file).sign(&key(1)).unwrap();
    Signed::verify(envelope.encode().as_bytes(), &trust()).unwrap()
}

/// A version as it was published.
#[derive(Clone)]
pub struct Published {
    pub file: Vec<u8>,
    pub signed: Signed,
    pub index: Index,
    /// Each message of its pack.
    pub messages: Vec<Vec<u8>>,
}

pub fn publish(version: u64, file: &[u8], kept: &[&Published]) -> Published {
    publish_as(version, file, kept, SMALL, SMALL_PIECE)
}

pub fn publish_as(version: u64, file: &[u8], kept: &[&Published], sizes: Sizes, piece: usize) -> Published {
    let signed = signed(version, file);
    let cut: Cut = chunks::cut(file, sizes).unwrap();
    let kept: Vec<&Index> = kept.iter().map(|published| &published.index).collect();
    let layout = Layout::of(&signed, &cut, &kept, piece).unwrap();
    assert_eq!(Layout::again(&layout.index).as_ref(), Some(&layout));
    let mut messages = layout.head(&signed);
    assert_eq!(messages.len(), layout.heads as usize);
    for (place, chunks) in (layout.heads..).zip(&layout.pieces) {
        let chunks: Vec<&[u8]> = chunks.iter().map(|c| &file[c.offset as usize..][..c.length as usize]).collect();
        messages.push(pack::encode_piece(place, layout.places(), &chunks).unwrap());
    }
    assert_eq!(messages.len(), layout.places() as usize);
    Published { file: file.to_vec(), signed, index: layout.index, messages }
}
