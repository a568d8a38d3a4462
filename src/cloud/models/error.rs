//! Why a version is not published.

use std::io;

use super::catalogue::Void;
use super::format::FormatError;
use crate::cloud::control::wire::{NotWritten, TopicError};
use crate::models::delta::DeltaError;
use crate::models::hash::Hash;
use crate::models::manifest::{ManifestError, Name};

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The manifest, or its signature. In the words of this side: its keys are in `[control]`.
    #[error("{}", .0.to_string().replace("downlink.", "control."))]
    Manifest(#[from] ManifestError),
    /// It is for another model.
    #[error("the manifest is model {manifest}'s and was sent for {asked}; send it to /v1/models/{manifest}/versions")]
    OtherName {
        /// As it says.
        manifest: Name,
        /// As was asked.
        asked: String,
    },
    /// The catalogue does not take it.
    #[error(transparent)]
    Void(#[from] Void),
    /// Larger than this cloud takes.
    #[error("the model has {size} bytes, and at most {max} are taken; make it smaller, or raise models.max_bytes")]
    TooLarge {
        /// As its manifest says.
        size: u64,
        /// `models.max_bytes`.
        max: u64,
    },
    /// The file is longer or shorter than signed.
    #[error("the file has {found} bytes, and its manifest says {size}; send the file that was signed, whole")]
    Size {
        /// As many came.
        found: u64,
        /// As its manifest says.
        size: u64,
    },
    /// The file is another one.
    #[error("the file has the BLAKE3 {found}, which is not what its manifest says; send the file that was signed")]
    Digest {
        /// Of what came.
        found: Hash,
    },
    /// The file is not what its manifest says.
    #[error(transparent)]
    Format(FormatError),
    /// The version's topic holds something else.
    #[error(
        "a publication of version {version} of model {name} broke off and this one cannot go on with it: {why}; \
         sign this one again with a higher version"
    )]
    Begun {
        /// The model.
        name: Name,
        /// Its version.
        version: u64,
        /// Why.
        why: String,
    },
    /// A message is larger than the broker takes.
    #[error("a message of the pack has {bytes} bytes, and the broker takes {max}; raise its maxMessageSize")]
    Message {
        /// The message's.
        bytes: usize,
        /// The broker's.
        max: usize,
    },
    /// Another process publishes the same version.
    #[error("another process publishes this version at the moment; look again later")]
    Busy,
    /// The disk.
    #[error("the model cannot be kept in models.dir while it is verified: {0}; look after the disk, and send it again")]
    Disk(io::Error),
    /// The catalogue cannot be read.
    #[error("the catalogue of models {0}; send it again later")]
    Catalogue(String),
    /// Pulsar, while the pack was read or written.
    #[error("{0}; send it again: it goes on where it stopped")]
    Pulsar(#[from] TopicError),
    /// Pulsar, while the catalogue was written.
    #[error("{0}; send it again: it goes on where it stopped")]
    Write(#[from] NotWritten),
    /// The catalogue has it, or will have it.
    #[error("it is stored, and was not read back in time: it counts; look again later")]
    NotReadBack,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// As it is it can never be published.
    Refused,
    /// It may be published later.
    Later,
}

impl PublishError {
    /// Names the reason, for metrics and programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Manifest(ManifestError::Unsigned) => "unsigned",
            Self::Manifest(ManifestError::UnknownKey { .. }) => "unknown-key",
            Self::Manifest(ManifestError::RevokedKey { .. }) => "revoked-key",
            Self::Manifest(ManifestError::BadSignature { .. }) => "bad-signature",
            Self::Manifest(_) => "malformed-manifest",
            Self::OtherName { .. } => "other-name",
            Self::Void(Void::NotHigher { .. }) => "version-not-higher",
            Self::Void(_) => "too-many-models",
            Self::TooLarge { .. } => "too-large",
            Self::Size { .. } => "wrong-size",
            Self::Digest { .. } => "wrong-digest",
            Self::Format(_) => "wrong-format",
            Self::Begun { .. } => "version-begun",
            Self::Message { .. } => "message-too-large",
            Self::Busy => "busy",
            Self::Disk(_) => "disk",
            Self::Catalogue(_) => "catalogue",
            Self::Pulsar(_) | Self::Write(_) | Self::NotReadBack => "pulsar",
        }
    }

    /// Whether it may be published later as it is.
    pub fn class(&self) -> Class {
        match self {
            Self::Busy
            | Self::Disk(_)
            | Self::Catalogue(_)
            | Self::Pulsar(_)
            | Self::Write(_)
            | Self::NotReadBack
            | Self::Message { .. } => Class::Later,
            _ => Class::Refused,
        }
    }
}

impl From<io::Error> for PublishError {
    fn from(e: io::Error) -> Self {
        Self::Disk(e)
    }
}

impl From<FormatError> for PublishError {
    fn from(e: FormatError) -> Self {
        match e {
            FormatError::Io(e) => Self::Disk(e),
            wrong @ FormatError::NotOnnx(_) => Self::Format(wrong),
        }
    }
}

impl From<DeltaError> for PublishError {
    fn from(e: DeltaError) -> Self {
        match e {
            DeltaError::OtherFile { hash, .. } => Self::Digest { found: hash },
            DeltaError::ChunkTooLong(_) => Self::Disk(io::Error::other(e)),
        }
    }
}
