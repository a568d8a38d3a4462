//! What makes a message acceptable, given what was accepted before. [pure]

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::assignment::{Assignment, Digest};
use super::envelope::{Envelope, Kind};
use super::keys::KeyId;
use super::message::Message;
use super::refusal::Refusal;
use super::trust::Trust;
use crate::config::overlay::Header;
use crate::downlink::number::{Number, is_zero};
use crate::event::time::Timestamp;

/// What was accepted before: to be kept on disk, and stored before anything is done about an [`Offer`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Epoch of the last assignment; files of the version before have none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// Number of the last assignment; 0: none yet.
    pub number: u64,
    /// What was signed in it.
    pub assignment: Option<Digest>,
}

impl Accepted {
    /// The last assignment's place, of which this was signed.
    pub fn new(at: Number, assignment: Option<Digest>) -> Self {
        Self { epoch: at.epoch, number: at.n, assignment }
    }

    /// The last assignment's place: only what comes after it is taken.
    pub fn at(&self) -> Number {
        Number::new(self.epoch, self.number)
    }
}

/// Who is asked, and what it knows.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'s> {
    /// This node.
    pub node: &'s str,
    /// Whom it trusts.
    pub trust: &'s Trust,
    /// What it accepted before.
    pub accepted: Accepted,
    /// The time; `None` while the clock cannot be trusted: then nothing is refused for its age.
    pub now: Option<Timestamp>,
}

/// What a message comes to. The keyring stands for itself: one that revokes the key of its own assignment counts.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// A newer keyring, to be kept on disk as it came, and the trust that it gives. `None`: no newer one.
    pub keyring: Option<Result<(Envelope, Trust), Refusal>>,
    /// The desired state.
    pub state: Result<Offer, Refusal>,
}

/// A desired state that may be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What is assigned.
    pub assignment: Assignment,
    /// The document; `None`: the gateway's own file alone.
    pub document: Option<Document>,
    /// What has been accepted with it.
    pub accepted: Accepted,
}

/// A document that may be tried.
#[derive(Clone, PartialEq, Eq)]
pub struct Document {
    /// TOML.
    pub text: String,
    /// As its `[document]` says.
    pub version: u64,
    /// Of the text.
    pub sha256: Digest,
    /// Who signed it.
    pub signer: KeyId,
}

/// No text: it may hold credentials.
impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document(version {}, {} bytes, by {})", self.version, self.text.len(), self.signer)
    }
}

/// Judges the bytes of an inbox message. Whoever acts on the offer must first have stored [`Offer::accepted`]; whoever
/// stops before has the same offer again.
pub fn judge(bytes: &[u8], situation: &Situation<'_>) -> Judgement {
    let message = match Message::decode(bytes) {
        Ok(message) => message,
        Err(refusal) => return Judgement { keyring: None, state: Err(refusal) },
    };
    let keyring = message.keyring.and_then(|envelope| newer_keyring(envelope, situation.trust));
    let trust = match &keyring {
        Some(Ok((_, newer))) => newer,
        _ => situation.trust,
    };
    let state = judge_state(message.assignment, message.document, &Situation { trust, ..*situation });
    Judgement { keyring, state }
}

/// An older or the same keyring is no news and no harm: the cloud may not have heard of the newest yet.
fn newer_keyring(envelope: Envelope, trust: &Trust) -> Option<Result<(Envelope, Trust), Refusal>> {
    match trust.with_keyring(envelope.clone()) {
        Ok(newer) if newer == *trust => None,
        Err(Refusal::KeyringOlder { .. }) => None,
        Ok(newer) => Some(Ok((envelope, newer))),
        Err(refusal) => Some(Err(refusal)),
    }
}

fn judge_state(assignment: Envelope, document: Option<Envelope>, situation: &Situation<'_>) -> Result<Offer, Refusal> {
    let Situation { node, trust, accepted, now } = *situation;
    let verified = trust.verify(assignment, Kind::Assignment)?;
    let assignment = Assignment::of(&verified)?;
    let digest = Digest::of(verified.payload());
    assignment.is_for(node, now)?;
    in_epoch(assignment.at(), trust.epoch())?;
    newer(assignment.at(), digest, accepted)?;
    let document = match (&assignment.document, document) {
        (None, _) => None,
        (Some(wanted), None) => return Err(Refusal::DocumentMissing { version: wanted.version }),
        (Some(wanted), Some(envelope)) => {
            let found = Digest::of(envelope.unverified_payload());
            if found != wanted.sha256 {
                return Err(Refusal::DigestMismatch { assigned: wanted.sha256, found });
            }
            let document = judge_document(envelope, trust, now)?;
            if document.version != wanted.version {
                let found = Some(document.version);
                return Err(Refusal::VersionMismatch { assigned: wanted.version, found });
            }
            Some(document)
        }
    };
    let accepted = Accepted::new(assignment.at(), Some(digest));
    Ok(Offer { assignment, document, accepted })
}

/// Of this epoch alone: an earlier one is over, and a controller key cannot begin a later one by itself.
fn in_epoch(number: Number, epoch: u64) -> Result<(), Refusal> {
    match number.epoch.cmp(&epoch) {
        Ordering::Equal => Ok(()),
        Ordering::Less => Err(Refusal::EpochOver { number, epoch }),
        Ordering::Greater => Err(Refusal::EpochUnknown { number, epoch }),
    }
}

/// The epoch of what was accepted counts as well: the file of the keyring may be lost, and its revocations with it.
fn newer(number: Number, digest: Digest, accepted: Accepted) -> Result<(), Refusal> {
    match number.cmp(&accepted.at()) {
        Ordering::Greater => Ok(()),
        Ordering::Less => Err(Refusal::Older { number, accepted: accepted.at() }),
        Ordering::Equal if accepted.assignment == Some(digest) => Err(Refusal::Replayed { number }),
        Ordering::Equal => Err(Refusal::NumberReused { number }),
    }
}

/// Judges a signed document on its own: the signature, that it has a version, and its expiry. What is in it is for
/// [`crate::config::EdgeConfig::load_with`] to judge.
pub fn judge_document(envelope: Envelope, trust: &Trust, now: Option<Timestamp>) -> Result<Document, Refusal> {
    let verified = trust.verify(envelope, Kind::Config)?;
    let unreadable = |why: String| Refusal::Document { why };
    let text = std::str::from_utf8(verified.payload()).map_err(|_| unreadable("it is not UTF-8".to_owned()))?;
    let header = Header::of("document", text).map_err(|e| unreadable(e.to_string()))?;
    let version = header
        .version
        .ok_or_else(|| unreadable("it has no [document] version; sign it with \"tidegate config sign\"".to_owned()))?;
    Refusal::if_expired(Kind::Config, header.expires, now)?;
    Ok(Document { text: text.to_owned(), version, sha256: Digest::of(verified.payload()), signer: verified.signer() })
}
