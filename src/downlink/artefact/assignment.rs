//! The assignment: which document and which models a node runs. [pure]

use std::fmt;

use serde::{Deserialize, Serialize};

use super::envelope::{Envelope, Kind, Verified};
use super::json;
use super::model::{self, ModelAssigned};
use super::refusal::Refusal;
use crate::config::key_text::{parse_hex, show_hex};
use crate::config::overlay::VERSION_MAX;
use crate::downlink::number::{Number, is_zero};
use crate::event::time::Timestamp;

/// Largest assignment, in bytes of JSON: names, two sentences, and [`model::MODELS_MAX`] models of at most 200 bytes.
pub const ASSIGNMENT_BYTES_MAX: usize = 8192;

/// Longest name of a node (`node.id`), in bytes.
pub const NODE_BYTES_MAX: usize = 64;

/// Longest reason and author, in bytes: a sentence.
pub const TEXT_BYTES_MAX: usize = 512;

/// Largest number of an assignment: what every JSON reader keeps exact (RFC 8259 §6). With one assignment a second that is
/// 285 million years.
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

/// SHA-256 of a payload.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn bytes(self) -> [u8; 32] {
        self.0
    }

    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
        let mut digest = [0; 32];
        digest.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
        Self(digest)
    }

    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text).map(Self)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show_hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("a digest has 64 hexadecimal digits")
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Names a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentRef {
    /// Of its text.
    pub sha256: Digest,
    /// As its `[document]` says.
    pub version: u64,
}

/// Which document and which models a node runs. An unknown field could restrict it: it is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// The node.
    pub node: String,
    /// The epoch of the keyring in force; a node takes it with that keyring only.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// Grows with every assignment to the node, from 1.
    pub number: u64,
    /// When it was made.
    #[serde(with = "json::time")]
    pub issued_at: Timestamp,
    /// When the node no longer takes it.
    #[serde(with = "json::optional_time", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The document; `None`: the node's own file alone, as before anything was pushed.
    pub document: Option<DocumentRef>,
    /// The models. One that is not among them stays as it is; not written while there are none, so that the version before
    /// reads it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelAssigned>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
}

impl Assignment {
    /// As a payload to sign.
    pub fn to_envelope(&self) -> Envelope {
        // Strings and numbers: cannot fail.
        Envelope::new(Kind::Assignment, serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads what a controller key has signed.
    pub fn of(verified: &Verified) -> Result<Self, Refusal> {
        let malformed = |why: String| Refusal::Malformed { what: Kind::Assignment, why };
        if verified.kind() != Kind::Assignment {
            return Err(malformed(format!("it is a {}", verified.kind())));
        }
        let read: Self = json::read(verified.payload(), ASSIGNMENT_BYTES_MAX).map_err(|e| malformed(e.to_string()))?;
        read.within_bounds().map_err(malformed)?;
        Ok(read)
    }

    /// Its place among all of the node's.
    pub fn at(&self) -> Number {
        Number::new(self.epoch, self.number)
    }

    /// Whether it is for `node`, and not expired; `now` is `None` while the clock cannot be trusted.
    pub fn is_for(&self, node: &str, now: Option<Timestamp>) -> Result<(), Refusal> {
        if self.node != node {
            let (for_node, this_node) = (self.node.clone(), node.to_owned());
            return Err(Refusal::ForeignNode { what: Kind::Assignment, for_node, this_node });
        }
        Refusal::if_expired(Kind::Assignment, self.expires_at, now)
    }

    fn within_bounds(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.node.is_empty() || self.node.len() > NODE_BYTES_MAX || !self.node.chars().all(plain) {
            return Err("its node is no name of a node".to_owned());
        }
        if !(1..=NUMBER_MAX).contains(&self.number) {
            return Err(format!("its number is {}, not from 1 to {NUMBER_MAX}", self.number));
        }
        if self.epoch > NUMBER_MAX {
            return Err(format!("its epoch is {}, not from 0 to {NUMBER_MAX}", self.epoch));
        }
        let version = self.document.map(|document| document.version);
        if version.is_some_and(|version| !(1..=VERSION_MAX).contains(&version)) {
            return Err(format!("its document's version is not from 1 to {VERSION_MAX}"));
        }
        model::check(&self.models)?;
        for (what, text) in [("reason", &self.reason), ("by", &self.by)] {
            if text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
                return Err(format!("its {what:?} has more than {TEXT_BYTES_MAX} bytes, or is not one line"));
            }
        }
        Ok(())
    }
}
