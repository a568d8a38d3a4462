//! Why something pushed is not taken: what it is about, the reason, the way out. [pure]

use super::assignment::Digest;
use super::envelope::Kind;
use super::keys::KeyId;
use super::trust::Role;
use crate::downlink::number::Number;
use crate::event::time::Timestamp;

/// Why something pushed is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the messages say
pub enum Refusal {
    /// More than may lie in an inbox.
    #[error("the message has {bytes} bytes, at most {bytes_max} are taken; make the document smaller")]
    TooLarge { bytes: usize, bytes_max: usize },
    /// It is something else.
    #[error("this is no message for a gateway: it {why}; push with \"tidegate config push\" of a version that fits")]
    NoMessage { why: String },
    /// An envelope or its payload cannot be read.
    #[error("the {what} cannot be read: {why}; make it again with a version of tidegate that fits this gateway's")]
    Malformed { what: Kind, why: String },
    /// An envelope holds something else than its place says.
    #[error("the {wanted}'s envelope says it is {found:?}; sign it as {:?}", wanted.media_type())]
    WrongType { wanted: Kind, found: String },
    /// There is no signature.
    #[error("the {what} is not signed; sign it with a key that this gateway trusts ({})", Role::of(*what).key())]
    Unsigned { what: Kind },
    /// Nobody knows the keys.
    #[error(
        "the {what} is signed by {} only, which is none of this gateway's; sign it with a key of {}, or add the key there",
        key_list(keys), Role::of(*what).key()
    )]
    UnknownKey { what: Kind, keys: Vec<String> },
    /// The key is for something else.
    #[error("the {what} is signed by {key}, {}; it must be signed with a key of {}", is.article(), Role::of(*what).key())]
    WrongRole { what: Kind, key: KeyId, is: Role },
    /// The key is no longer trusted.
    #[error("the {what} is signed by {key}, which is revoked; sign it again with another key")]
    RevokedKey { what: Kind, key: KeyId },
    /// The signature is not that key's for this payload.
    #[error(
        "the {what}'s signature by {key} is wrong: it was changed after it was signed; get it again from its source"
    )]
    BadSignature { what: Kind, key: KeyId },
    /// It is for another node.
    #[error("the {what} is for the node {for_node:?}, and this is {this_node:?}; look for two gateways of one name")]
    ForeignNode { what: Kind, for_node: String, this_node: String },
    /// It is the one that was taken before: nothing to do.
    #[error("assignment {number} was taken before; nothing to do")]
    Replayed { number: Number },
    /// Another one came before.
    #[error(
        "assignment {number} is older than {accepted}, which was taken before; make a new one with a higher number"
    )]
    Older { number: Number, accepted: Number },
    /// The number was used for something else.
    #[error(
        "assignment {number} differs from the one of this number that was taken before; make a new one with a higher number"
    )]
    NumberReused { number: Number },
    /// Its epoch is over.
    #[error(
        "assignment {number} is of epoch {}, and the keyring in force says epoch {epoch}: give the cloud the newest keyring (POST /v1/keyrings)",
        number.epoch
    )]
    EpochOver { number: Number, epoch: u64 },
    /// Its epoch has not begun here.
    #[error(
        "assignment {number} is of a later epoch than the keyring in force, which says epoch {epoch}: it must come with the keyring of its own; give the cloud the newest one (POST /v1/keyrings)"
    )]
    EpochUnknown { number: Number, epoch: u64 },
    /// It is over.
    #[error("the {what} is valid until {expires_at}, and now it is {now}; make and sign it again")]
    Expired { what: Kind, expires_at: Timestamp, now: Timestamp },
    /// The assigned document did not come along.
    #[error("document version {version} is assigned and not in the message; push it again")]
    DocumentMissing { version: u64 },
    /// Another document came along.
    #[error("the document's SHA-256 is {found}, and {assigned} is assigned; push it again")]
    DigestMismatch { assigned: Digest, found: Digest },
    /// The document says another version.
    #[error("the document says it is version {}, and {assigned} is assigned; assign it as what it is", version(*found))]
    VersionMismatch { assigned: u64, found: Option<u64> },
    /// The document is no TOML, or its `[document]` is wrong.
    #[error("the document cannot be read:\n{why}")]
    Document { why: String },
    /// A newer keyring came before.
    #[error("keyring {version} is older than {accepted}, which was taken before; sign a new one with a higher version")]
    KeyringOlder { version: u64, accepted: u64 },
    /// The version was used for something else.
    #[error(
        "keyring {version} differs from the one of this version that was taken before; sign a new one with a higher version"
    )]
    KeyringReused { version: u64 },
    /// It would bring back what was left behind.
    #[error(
        "keyring {version} says epoch {epoch}, and epoch {accepted} was taken before; sign a new one with that epoch or a higher one"
    )]
    KeyringEpoch { version: u64, epoch: u64, accepted: u64 },
}

impl Refusal {
    /// Whether `what` is over; `now` is `None` while the clock cannot be trusted.
    pub(super) fn if_expired(what: Kind, expires_at: Option<Timestamp>, now: Option<Timestamp>) -> Result<(), Self> {
        match (expires_at, now) {
            (Some(expires_at), Some(now)) if now >= expires_at => Err(Self::Expired { what, expires_at, now }),
            _ => Ok(()),
        }
    }

    /// A word for reports and counters.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too-large",
            Self::NoMessage { .. } => "no-message",
            Self::Malformed { .. } => "malformed",
            Self::WrongType { .. } => "wrong-type",
            Self::Unsigned { .. } => "unsigned",
            Self::UnknownKey { .. } => "unknown-key",
            Self::WrongRole { .. } => "wrong-role",
            Self::RevokedKey { .. } => "revoked-key",
            Self::BadSignature { .. } => "bad-signature",
            Self::ForeignNode { .. } => "foreign-node",
            Self::Replayed { .. } => "replayed",
            Self::Older { .. } => "older",
            Self::NumberReused { .. } => "number-reused",
            Self::EpochOver { .. } => "epoch-over",
            Self::EpochUnknown { .. } => "epoch-unknown",
            Self::Expired { .. } => "expired",
            Self::DocumentMissing { .. } => "document-missing",
            Self::DigestMismatch { .. } => "digest-mismatch",
            Self::VersionMismatch { .. } => "version-mismatch",
            Self::Document { .. } => "document-unreadable",
            Self::KeyringOlder { .. } => "keyring-older",
            Self::KeyringReused { .. } => "keyring-reused",
            Self::KeyringEpoch { .. } => "keyring-epoch",
        }
    }

    /// Whether somebody should hear of it. A message is read again after every start: the same one is no news.
    pub fn is_news(&self) -> bool {
        !matches!(self, Self::Replayed { .. })
    }
}

fn key_list(keys: &[String]) -> String {
    if keys.is_empty() { "a key without an id".to_owned() } else { keys.join(", ") }
}

fn version(found: Option<u64>) -> String {
    found.map_or_else(|| "unknown".to_owned(), |version| version.to_string())
}
