//! The catalogue of models: a fold over its topic, so that every process that has read as far knows the same. [pure]
//!
//! A version is appended when all of its pack is stored, and only then: what is in the catalogue can be fetched. The order
//! of the topic decides: of two versions with one number, or a lower one after a higher one, the first counts.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::downlink::artefact::{Digest, Envelope};
use crate::models::hash::Hash;
use crate::models::manifest::{Manifest, Name};

/// Most models. A tenant has a handful; each is a line in answers and some kilobytes in memory.
pub const MODELS_MAX: usize = 256;

/// Versions of a model that are known; one more forgets the oldest, which then cannot be assigned any more. A version a day
/// for most of a year.
pub const VERSIONS_MAX: usize = 256;

/// One message of the topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When, in milliseconds since 1970, on the clock of who appended it.
    pub at_ms: u64,
    /// Who published it.
    pub by: String,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum What {
    /// A version is there, and all of its pack.
    Published {
        /// The signed manifest, as it came.
        manifest: String,
        /// Whose signature was found good.
        signer: String,
        /// Its pack.
        pack: Pack,
    },
}

/// A pack that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pack {
    /// Messages of its head.
    pub heads: u32,
    /// Messages after them, one piece each.
    pub pieces: u32,
    /// Bytes of all of them: what a gateway without any version reads of this pack.
    pub bytes: u64,
    /// Chunks of the version.
    pub chunks: u32,
    /// Of the index in the head, as bytes.
    pub index: Hash,
}

/// What is known of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// What was signed.
    pub manifest: Manifest,
    /// How an assignment names the manifest.
    pub digest: Digest,
    /// Whose signature was found good when it was published.
    pub signer: String,
    /// Who published it.
    pub by: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Its pack.
    pub pack: Pack,
}

/// Why a message changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Void {
    /// It is no event of this version of Tidegate.
    #[error("it cannot be read, or is of a later version of tidegate")]
    Unreadable,
    /// The version is not above all before.
    #[error(
        "version {version} of model {name} is not above version {highest}, which is published; sign it again with a higher version"
    )]
    NotHigher {
        /// The model.
        name: Name,
        /// Its version.
        version: u64,
        /// The highest before.
        highest: u64,
    },
    /// There are too many.
    #[error("there are {MODELS_MAX} models, which is the most; publish it as a version of one of them")]
    TooMany,
}

#[derive(Debug, Default)]
struct Model {
    highest: u64,
    versions: VecDeque<Version>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Catalogue {
    models: BTreeMap<Name, Model>,
}

impl Catalogue {
    /// Takes the next message of the topic.
    pub fn apply(&mut self, payload: &[u8]) -> Result<&Version, Void> {
        let Event { at_ms, by, what } = serde_json::from_slice(payload).map_err(|_| Void::Unreadable)?;
        let What::Published { manifest: envelope, signer, pack } = what;
        let manifest = Manifest::unverified(envelope.as_bytes()).ok_or(Void::Unreadable)?;
        let envelope = Envelope::decode(envelope.as_bytes()).map_err(|_| Void::Unreadable)?;
        let digest = Digest::of(envelope.unverified_payload());
        self.expect_next(&manifest.name, manifest.version)?;
        let model = self.models.entry(manifest.name.clone()).or_default();
        model.highest = manifest.version;
        if model.versions.len() >= VERSIONS_MAX {
            model.versions.pop_front();
        }
        model.versions.push_back(Version { manifest, digest, signer, by, at_ms, pack });
        model.versions.back().ok_or(Void::Unreadable)
    }

    /// Whether this version may be the next one.
    pub fn expect_next(&self, name: &Name, version: u64) -> Result<(), Void> {
        match self.models.get(name) {
            None if self.models.len() >= MODELS_MAX => Err(Void::TooMany),
            Some(model) if version <= model.highest => {
                Err(Void::NotHigher { name: name.clone(), version, highest: model.highest })
            }
            _ => Ok(()),
        }
    }

    /// A version, if it is published and known.
    pub fn get(&self, name: &Name, version: u64) -> Option<&Version> {
        self.models.get(name)?.versions.iter().find(|known| known.manifest.version == version)
    }

    /// The versions of a model, newest first; `None`: there is no such model.
    pub fn versions(&self, name: &Name) -> Option<impl Iterator<Item = &Version>> {
        self.models.get(name).map(|model| model.versions.iter().rev())
    }

    /// The newest version of each model, by name, after `after`, with how many versions of it are known.
    pub fn models<'c>(&'c self, after: Option<&'c str>) -> impl Iterator<Item = (&'c Version, usize)> {
        let later = move |name: &Name| after.is_none_or(|after| name.as_str() > after);
        let models = self.models.iter().filter(move |(name, _)| later(name));
        models.filter_map(|(_, model)| Some((model.versions.back()?, model.versions.len())))
    }

    /// The newest `most` versions below `version`, and its parent: whose chunks need not travel again.
    pub fn kept(&self, manifest: &Manifest, most: usize) -> Vec<Version> {
        let Some(model) = self.models.get(&manifest.name) else { return Vec::new() };
        let below = || model.versions.iter().rev().filter(|known| known.manifest.version < manifest.version);
        let mut kept: Vec<Version> = below().take(most).cloned().collect();
        let parent = below().skip(most).find(|known| Some(known.manifest.version) == manifest.parent);
        kept.extend(parent.cloned());
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::downlink::artefact::SecretKey;
    use crate::models::manifest::Format;

    fn event(name: &str, version: u64, by: &str) -> Vec<u8> {
        let manifest = Manifest {
            name: Name::parse(name).unwrap(),
            version,
            format: Format::Opaque,
            size: 1,
            blake3: Hash::of(b"x"),
            parent: None,
            metadata: BTreeMap::new(),
        };
        let manifest = manifest.sign(&SecretKey::from_seed(&[1; 32]).unwrap()).unwrap().encode();
        let pack = Pack { heads: 1, pieces: 1, bytes: 10, chunks: 1, index: Hash::of(b"") };
        let what = What::Published { manifest, signer: "k".into(), pack };
        serde_json::to_vec(&Event { at_ms: version, by: by.into(), what }).unwrap()
    }

    #[test]
    fn the_first_of_a_version_counts_and_no_lower_one_after_it() {
        let mut catalogue = Catalogue::default();
        assert_eq!(catalogue.apply(&event("a", 2, "anna")).unwrap().by, "anna");
        for again in [1, 2] {
            let void = catalogue.apply(&event("a", again, "bert"));
            assert_eq!(void, Err(Void::NotHigher { name: Name::parse("a").unwrap(), version: again, highest: 2 }));
        }
        assert_eq!(catalogue.apply(b"{}"), Err(Void::Unreadable));
        assert_eq!(catalogue.apply(&event("b", 1, "bert")).unwrap().by, "bert");
        let name = Name::parse("a").unwrap();
        assert_eq!(catalogue.get(&name, 2).map(|known| known.by.as_str()), Some("anna"));
        let names = |after| catalogue.models(after).map(|(v, _)| v.manifest.name.to_string()).collect::<Vec<_>>();
        assert_eq!((names(None), names(Some("a"))), (vec!["a".to_owned(), "b".to_owned()], vec!["b".to_owned()]));
    }

    #[test]
    fn memory_is_bounded_and_a_forgotten_version_does_not_come_again() {
        let (mut catalogue, name) = (Catalogue::default(), Name::parse("a").unwrap());
        let many = VERSIONS_MAX as u64 + 5;
        for version in 1..=many {
            catalogue.apply(&event("a", version, "anna")).unwrap();
        }
        assert_eq!(catalogue.versions(&name).unwrap().count(), VERSIONS_MAX);
        assert!(catalogue.get(&name, 5).is_none() && catalogue.get(&name, 6).is_some());
        assert!(catalogue.apply(&event("a", 5, "anna")).is_err());
        for n in 1..MODELS_MAX {
            catalogue.apply(&event(&format!("m{n}"), 1, "anna")).unwrap();
        }
        assert_eq!(catalogue.apply(&event("one-more", 1, "anna")), Err(Void::TooMany));
    }

    #[test]
    fn the_newest_versions_are_kept_and_the_parent() {
        let mut catalogue = Catalogue::default();
        for version in 1..=9 {
            catalogue.apply(&event("a", version, "anna")).unwrap();
        }
        let manifest = |parent| {
            let what = catalogue.get(&Name::parse("a").unwrap(), 9).unwrap().manifest.clone();
            Manifest { version: 10, parent, ..what }
        };
        let kept = |parent| catalogue.kept(&manifest(parent), 3).iter().map(|v| v.manifest.version).collect::<Vec<_>>();
        assert_eq!(kept(None), [9, 8, 7]);
        assert_eq!(kept(Some(8)), [9, 8, 7]);
        assert_eq!(kept(Some(2)), [9, 8, 7, 2]);
    }
}
