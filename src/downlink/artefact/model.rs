//! Which version of a model a node runs, as an assignment says it. [pure]

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::assignment::Digest;
use crate::config::overlay::VERSION_MAX;

/// Most models of a node: each takes disk, and a line of every report.
pub const MODELS_MAX: usize = 16;

/// Longest name of a model, in bytes: it is part of topics' and directories' names.
pub const NAME_BYTES_MAX: usize = 64;

/// A model's name: 1 to 64 lower-case letters, digits or `-`, neither at the start nor at the end a `-`, and not `lock`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let fits = (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed);
        // Pulsar keeps -partition- for itself, and the store a file in the directory of the models.
        let free = !text.starts_with('-') && !text.ends_with('-') && !text.contains("-partition-") && text != "lock";
        (fits && free).then(|| Self(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("a model's name has 1 to 64 lower-case letters, digits or -")
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// What becomes of a model on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is used.
    Active,
    /// It runs beside the one that is used.
    Shadow,
    /// No version of it is used.
    Off,
}

impl Mode {
    /// As it is written.
    pub fn text(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Shadow => "shadow",
            Self::Off => "off",
        }
    }
}

/// A version of a model, assigned to a node. An unknown field could restrict it: it is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelAssigned {
    /// The model.
    pub name: Name,
    /// Its version. An older one than before is a way back.
    pub version: u64,
    /// SHA-256 of the manifest's payload, as it was signed.
    pub digest: Digest,
    /// What becomes of it.
    pub mode: Mode,
}

/// Whether there are as many as there may be, in order; the error is a part of a sentence.
pub fn check(models: &[ModelAssigned]) -> Result<(), String> {
    if models.len() > MODELS_MAX {
        return Err(format!("it has {} models, at most {MODELS_MAX} are taken", models.len()));
    }
    if let Some(model) = models.iter().find(|model| !(1..=VERSION_MAX).contains(&model.version)) {
        return Err(format!("the version of its model {} is not from 1 to {VERSION_MAX}", model.name));
    }
    // One version is used and another one beside it.
    let mut seen = BTreeSet::new();
    match models.iter().find(|model| !seen.insert((&model.name, model.mode == Mode::Shadow))) {
        Some(twice) => Err(format!("it has the model {} twice", twice.name)),
        None => Ok(()),
    }
}
