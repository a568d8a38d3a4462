//! Which versions were read as a whole by this process and found to be what was signed, for whoever uses their bytes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::busy::Version;
use crate::models::hash::Hash;
use crate::models::manifest::{Format, Manifest};

/// Why bytes are not to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Nobody has read all of it in this life of the process.
    #[error("it is not proven to be what was signed")]
    NotProven,
    /// Its manifest says another format.
    #[error("it is signed as another format than onnx")]
    Format,
    /// They were changed on the disk since then.
    #[error("its file is not what was signed any more; look after the disk")]
    Changed,
}

/// The proofs of a store; clones share them. At most one for each version on the disk.
#[derive(Clone, Debug, Default)]
pub struct Proofs(Arc<Mutex<BTreeMap<Version, (Hash, Format)>>>);

impl Proofs {
    /// Whether there is one.
    pub fn has(&self, version: &Version) -> bool {
        self.lock().contains_key(version)
    }

    /// Whether these bytes are that version, and ONNX.
    pub fn check(&self, version: &Version, bytes: &[u8]) -> Result<(), Unusable> {
        let (hash, format) = self.lock().get(version).copied().ok_or(Unusable::NotProven)?;
        match format {
            Format::Onnx if Hash::of(bytes) == hash => Ok(()),
            Format::Onnx => Err(Unusable::Changed),
            Format::Opaque => Err(Unusable::Format),
        }
    }

    pub(super) fn add(&self, manifest: &Manifest) {
        let version = (manifest.name.clone(), manifest.version);
        self.lock().insert(version, (manifest.blake3, manifest.format));
    }

    pub(super) fn remove(&self, version: &Version) {
        self.lock().remove(version);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Version, (Hash, Format)>> {
        // A map is whole between any two calls on it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::manifest::Name;

    #[test]
    fn only_the_bytes_that_were_proven_are_usable_and_only_as_what_they_were_signed() {
        let manifest = |version, format| Manifest {
            name: Name::parse("m").unwrap(),
            version,
            format,
            size: 5,
            blake3: Hash::of(b"bytes"),
            parent: None,
            metadata: BTreeMap::new(),
        };
        let (proofs, of) = (Proofs::default(), |version| (Name::parse("m").unwrap(), version));
        assert_eq!(proofs.check(&of(1), b"bytes"), Err(Unusable::NotProven));
        proofs.add(&manifest(1, Format::Onnx));
        proofs.clone().add(&manifest(2, Format::Opaque));
        assert_eq!(proofs.check(&of(1), b"bytes"), Ok(()));
        assert_eq!(proofs.check(&of(1), b"byteS"), Err(Unusable::Changed));
        assert_eq!(proofs.check(&of(2), b"bytes"), Err(Unusable::Format));
        proofs.remove(&of(1));
        assert!(!proofs.has(&of(1)) && proofs.has(&of(2)));
    }
}
