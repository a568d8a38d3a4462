//! The manifest: which bytes a version of a model is, signed by who made it. [pure]
//!
//! ```json
//! {"name":"press-anomaly","version":7,"format":"onnx","size":52428800,"blake3":"<64 hexadecimal digits>",
//!  "parent":6,"metadata":{"trained_on":"lake/2026-10","recall":"0.91"}}
//! ```
//! in a DSSE envelope of the payload type [`MEDIA_TYPE`], by an *artefact key*. Any tool with Ed25519, BLAKE3 and JSON
//! can make one: nothing in it depends on how the file is cut or travels.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::MODEL_BYTES_MAX;
use super::hash::Hash;
use crate::config::overlay::VERSION_MAX;
use crate::downlink::artefact::envelope::{EnvelopeError, pae};
pub use crate::downlink::artefact::model::{NAME_BYTES_MAX, Name};
use crate::downlink::artefact::{Digest, Envelope, KeyId, Role, SecretKey, Trust, json};

/// The payload type: part of what is signed, so that a signature for anything else is none for a model.
pub const MEDIA_TYPE: &str = "application/vnd.tidegate.model.v1+json";

/// Largest manifest, in bytes of JSON: all the metadata there may be, escaped.
pub const MANIFEST_BYTES_MAX: usize = 64 * 1024;

/// Largest envelope around one: base64, and eight signatures with long key ids.
pub const ENVELOPE_BYTES_MAX: usize = MANIFEST_BYTES_MAX.div_ceil(3) * 4 + 4 * 1024;

/// Most entries of metadata.
pub const METADATA_MAX: usize = 32;

/// Longest key of metadata, in bytes.
pub const METADATA_KEY_BYTES_MAX: usize = 64;

/// Longest value of metadata, in bytes: a sentence, an address.
pub const METADATA_VALUE_BYTES_MAX: usize = 512;

/// Longest foreign text that is repeated in an error.
const ECHO_MAX: usize = 64;

/// What the file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// ONNX: the gateway itself can run it.
    Onnx,
    /// Anything; some program on the gateway knows.
    Opaque,
}

/// Which bytes a version of a model is. An unknown field could restrict it: it is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The model.
    pub name: Name,
    /// Grows with every version of the name, from 1.
    pub version: u64,
    /// What the file is.
    pub format: Format,
    /// Bytes of the file, at least 1.
    pub size: u64,
    /// Of the whole file.
    pub blake3: Hash,
    /// The version it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// For people and dashboards: what it was trained on, how good it is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// Why something is no manifest that may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the messages say
pub enum ManifestError {
    /// No envelope.
    #[error("the model's manifest cannot be read: {0}; sign it again")]
    Envelope(#[from] EnvelopeError),
    /// It is something else.
    #[error("the model's manifest is signed as {found:?}; sign it as {MEDIA_TYPE:?}")]
    OtherType { found: String },
    /// There is no signature.
    #[error("the model's manifest is not signed; sign it with a key of {}", Role::Artefact.key())]
    Unsigned,
    /// Nobody here knows the key, or it is for something else.
    #[error("the model's manifest is signed by {key}, which is no key of {}; sign it with one", Role::Artefact.key())]
    UnknownKey { key: String },
    /// The key is no longer trusted.
    #[error("the model's manifest is signed by {key}, which is revoked; sign it again with another key")]
    RevokedKey { key: KeyId },
    /// The signature is not that key's for this manifest.
    #[error("the signature of the model's manifest by {key} is wrong: it was changed; get it again from its source")]
    BadSignature { key: KeyId },
    /// The payload is wrong.
    #[error("the model's manifest {why}; make and sign it again")]
    Malformed { why: String },
}

impl ManifestError {
    /// A code for machines, as `downlink::artefact::Refusal` has them.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Envelope(_) | Self::Malformed { .. } => "malformed",
            Self::OtherType { .. } => "wrong-type",
            Self::Unsigned => "unsigned",
            Self::UnknownKey { .. } => "unknown-key",
            Self::RevokedKey { .. } => "revoked-key",
            Self::BadSignature { .. } => "bad-signature",
        }
    }
}

impl Manifest {
    /// Whether all of it is within its bounds; the error is a part of a sentence.
    pub fn check(&self) -> Result<(), String> {
        let version = |what: &str, version: u64| match (1..=VERSION_MAX).contains(&version) {
            true => Ok(()),
            false => Err(format!("has the {what} {version}, not one from 1 to {VERSION_MAX}")),
        };
        version("version", self.version)?;
        self.parent.map_or(Ok(()), |parent| version("parent", parent))?;
        if !(1..=MODEL_BYTES_MAX).contains(&self.size) {
            return Err(format!("has the size {}, not one from 1 to {MODEL_BYTES_MAX} bytes", self.size));
        }
        if self.metadata.len() > METADATA_MAX {
            return Err(format!("has {} entries of metadata, at most {METADATA_MAX} are taken", self.metadata.len()));
        }
        let fits = |text: &str, max| text.len() <= max && !text.chars().any(char::is_control);
        let fit = |(k, v): (&String, &String)| fits(k, METADATA_KEY_BYTES_MAX) && fits(v, METADATA_VALUE_BYTES_MAX);
        if !self.metadata.iter().all(fit) {
            return Err(format!(
                "has metadata that is longer than {METADATA_KEY_BYTES_MAX} bytes for a key or {METADATA_VALUE_BYTES_MAX} \
                 for a value, or not one line"
            ));
        }
        Ok(())
    }

    /// Signs it.
    pub fn sign(&self, key: &SecretKey) -> Result<Envelope, ManifestError> {
        self.check().map_err(|why| ManifestError::Malformed { why })?;
        // Strings and numbers: cannot fail.
        let payload = serde_json::to_vec(self).unwrap_or_default();
        let signature = key.sign(&pae(MEDIA_TYPE, &payload));
        let envelope = serde_json::json!({
            "payloadType": MEDIA_TYPE,
            "payload": STANDARD.encode(&payload),
            "signatures": [{ "keyid": key.public().id().to_string(), "sig": STANDARD.encode(signature) }],
        });
        Ok(Envelope::decode(envelope.to_string().as_bytes())?)
    }

    /// What an envelope's bytes say, whoever signed them: to look at, never to act on.
    pub fn unverified(bytes: &[u8]) -> Option<Self> {
        let envelope = Envelope::decode(bytes).ok().filter(|envelope| envelope.payload_type() == MEDIA_TYPE)?;
        Self::read(envelope.unverified_payload()).ok()
    }

    fn read(payload: &[u8]) -> Result<Self, ManifestError> {
        let malformed = |why| ManifestError::Malformed { why };
        let read: Self = json::read(payload, MANIFEST_BYTES_MAX).map_err(|e| malformed(e.to_string()))?;
        read.check().map_err(malformed)?;
        Ok(read)
    }
}

/// A manifest that a trusted key has signed. Only [`Signed::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    manifest: Manifest,
    envelope: Envelope,
    signer: KeyId,
}

impl Signed {
    /// Reads an envelope's bytes; one artefact key that is not revoked must have signed it. The id beside a signature is
    /// a hint (DSSE protocol.md, KEYID): it only chooses the keys to try. Without one all are tried.
    pub fn verify(bytes: &[u8], trust: &Trust) -> Result<Self, ManifestError> {
        if bytes.len() > ENVELOPE_BYTES_MAX {
            let why = format!("has {} bytes with its signatures, at most {ENVELOPE_BYTES_MAX} are taken", bytes.len());
            return Err(ManifestError::Malformed { why });
        }
        let envelope = Envelope::decode(bytes)?;
        if envelope.payload_type() != MEDIA_TYPE {
            let found = envelope.payload_type().chars().take(ECHO_MAX).collect();
            return Err(ManifestError::OtherType { found });
        }
        let signer = signer(&envelope, trust)?;
        let manifest = Manifest::read(envelope.unverified_payload())?;
        Ok(Self { manifest, envelope, signer })
    }

    /// What was signed.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// As it came, to be verified again wherever it goes.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Whose signature was found good.
    pub fn signer(&self) -> KeyId {
        self.signer
    }

    /// Of what was signed: how an assignment names it.
    pub fn digest(&self) -> Digest {
        Digest::of(self.envelope.unverified_payload())
    }
}

/// Whose good signature there is; else what is wrong with the signature that is closest to a good one.
fn signer(envelope: &Envelope, trust: &Trust) -> Result<KeyId, ManifestError> {
    let signed = envelope.signed_bytes();
    let mut failure = ManifestError::Unsigned;
    for signature in envelope.signatures() {
        let hint = signature.key_id.as_deref().map(|text| KeyId::parse(text).ok());
        let mut this = ManifestError::UnknownKey {
            key: signature.key_id.as_deref().unwrap_or("a key without an id").chars().take(ECHO_MAX).collect(),
        };
        for key in trust.keys(Role::Artefact).filter(|key| hint.is_none_or(|hint| hint == Some(key.id()))) {
            if trust.is_revoked(key.id()) {
                this = ManifestError::RevokedKey { key: key.id() };
            } else if key.verifies(&signed, &signature.bytes) {
                return Ok(key.id());
            } else if hint.is_some() {
                this = ManifestError::BadSignature { key: key.id() };
            }
        }
        if rank(&this) > rank(&failure) {
            failure = this;
        }
    }
    Err(failure)
}

/// The greater, the closer to a good signature.
fn rank(failure: &ManifestError) -> u8 {
    match failure {
        ManifestError::BadSignature { .. } => 3,
        ManifestError::RevokedKey { .. } => 2,
        ManifestError::UnknownKey { .. } => 1,
        _ => 0,
    }
}
