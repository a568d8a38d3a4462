//! DSSE, the Dead Simple Signing Envelope v1.0.0 (github.com/secure-systems-lab/dsse, protocol.md and envelope.md). [pure]

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use serde::{Deserialize, Serialize};

use super::json::{self, JsonError};
use super::keys::{KeyId, SIGNATURE_BYTES, SecretKey};
use crate::config::overlay::DOCUMENT_BYTES_MAX;

/// Largest envelope: a document in base64, and what is around it.
pub const ENVELOPE_BYTES_MAX: usize = DOCUMENT_BYTES_MAX.div_ceil(3) * 4 + 16 * 1024;

/// Most signatures of one envelope: each may cost one verification per trusted key.
pub const SIGNATURES_MAX: usize = 8;

/// Longest key id that is read; other signers may have longer ones than we.
const KEY_ID_TEXT_MAX: usize = 128;

/// Longest payload type that is read.
const PAYLOAD_TYPE_MAX: usize = 128;

/// Verifiers must take both alphabets (protocol.md, "To verify"), and signers differ about padding.
const fn base64(alphabet: &alphabet::Alphabet) -> GeneralPurpose {
    GeneralPurpose::new(alphabet, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent))
}
const BASE64: GeneralPurpose = base64(&alphabet::STANDARD);
const BASE64_URL: GeneralPurpose = base64(&alphabet::URL_SAFE);

/// What a payload is, and thereby who may sign it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A configuration document.
    Config,
    /// Which document a node runs.
    Assignment,
    /// Which keys are trusted.
    Keyring,
    /// What a device is to do.
    Command,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Config, Self::Assignment, Self::Keyring, Self::Command];

    /// The payload type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Config => "application/vnd.tidegate.config.v1+toml",
            Self::Assignment => "application/vnd.tidegate.assignment.v1+json",
            Self::Keyring => "application/vnd.tidegate.keyring.v1+json",
            Self::Command => "application/vnd.tidegate.command.v1+json",
        }
    }

    /// The kind of a payload type.
    pub fn of_media_type(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.media_type() == text)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "configuration document",
            Self::Assignment => "assignment",
            Self::Keyring => "keyring",
            Self::Command => "command",
        })
    }
}

/// Why bytes are no envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// No JSON of this form.
    #[error("it {0}")]
    Json(#[from] JsonError),
    /// A part is no base64, in one alphabet.
    #[error("its {0} is no base64")]
    Base64(&'static str),
    /// A part is too long, or there are too many.
    #[error("its {what}: {found}, at most {max} are taken")]
    TooMany {
        /// The part.
        what: &'static str,
        /// As many as there are.
        found: usize,
        /// As many as there may be.
        max: usize,
    },
    /// A signature has another length than Ed25519's.
    #[error("it has a signature of {0} bytes; an Ed25519 signature has {SIGNATURE_BYTES}")]
    SignatureLength(usize),
}

/// One signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    /// A hint which key it is. Not signed: it only says which keys to try.
    pub key_id: Option<String>,
    /// The signature.
    pub bytes: [u8; SIGNATURE_BYTES],
}

/// A payload with signatures, not yet verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    payload_type: String,
    payload: Vec<u8>,
    signatures: Vec<Signature>,
}

/// As JSON (envelope.md). An unknown field could change what the envelope means: it is refused.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wire {
    payload_type: String,
    payload: String,
    signatures: Vec<WireSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSignature {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keyid: Option<String>,
    sig: String,
}

impl Envelope {
    /// `payload` without a signature.
    pub fn new(kind: Kind, payload: Vec<u8>) -> Self {
        Self { payload_type: kind.media_type().to_owned(), payload, signatures: Vec::new() }
    }

    /// Adds `key`'s signature, in place of an earlier one by the same key.
    #[must_use]
    pub fn signed_by(mut self, key: &SecretKey) -> Self {
        let key_id = Some(key.public().id().to_string());
        let bytes = key.sign(&self.signed_bytes());
        self.signatures.retain(|signature| signature.key_id != key_id);
        self.signatures.push(Signature { key_id, bytes });
        self
    }

    /// Reads JSON.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let wire: Wire = json::read(bytes, ENVELOPE_BYTES_MAX)?;
        let at_most = |what, found, max| match found > max {
            true => Err(EnvelopeError::TooMany { what, found, max }),
            false => Ok(()),
        };
        at_most("payload type's bytes", wire.payload_type.len(), PAYLOAD_TYPE_MAX)?;
        at_most("signatures", wire.signatures.len(), SIGNATURES_MAX)?;
        let payload = decode_base64(&wire.payload).ok_or(EnvelopeError::Base64("payload"))?;
        at_most("payload's bytes", payload.len(), DOCUMENT_BYTES_MAX)?;
        let signatures = wire.signatures.into_iter().map(|signature| {
            let key_id = signature.keyid.filter(|id| !id.is_empty());
            at_most("key id's bytes", key_id.as_ref().map_or(0, String::len), KEY_ID_TEXT_MAX)?;
            let bytes = decode_base64(&signature.sig).ok_or(EnvelopeError::Base64("signature"))?;
            let length = bytes.len();
            let bytes = bytes.try_into().map_err(|_| EnvelopeError::SignatureLength(length))?;
            Ok(Signature { key_id, bytes })
        });
        let signatures = signatures.collect::<Result<_, EnvelopeError>>()?;
        Ok(Self { payload_type: wire.payload_type, payload, signatures })
    }

    /// As JSON, one line.
    pub fn encode(&self) -> String {
        let signatures = self.signatures.iter();
        let wire = Wire {
            payload_type: self.payload_type.clone(),
            payload: STANDARD.encode(&self.payload),
            signatures: signatures
                .map(|s| WireSignature { keyid: s.key_id.clone(), sig: STANDARD.encode(s.bytes) })
                .collect(),
        };
        // Strings and lists of strings: cannot fail.
        serde_json::to_string(&wire).unwrap_or_default()
    }

    /// The payload type as it is written.
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// What it says it is; `None`: nothing that we know.
    pub fn kind(&self) -> Option<Kind> {
        Kind::of_media_type(&self.payload_type)
    }

    /// The payload, which nobody has verified: to be shown to people only.
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The signatures.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// What is signed.
    pub fn signed_bytes(&self) -> Vec<u8> {
        pae(&self.payload_type, &self.payload)
    }

    /// The payload, of which [`super::Trust::verify`] found `signer`'s signature good; nothing else calls this.
    pub(super) fn into_verified(self, kind: Kind, signer: KeyId) -> Verified {
        Verified { kind, payload: self.payload, signer }
    }
}

/// Sizes only: a document may hold credentials.
impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.signatures.iter().map(|s| s.key_id.as_deref().unwrap_or("-")).collect();
        write!(f, "Envelope({}, {} bytes, signed by {ids:?})", self.payload_type, self.payload.len())
    }
}

/// A payload that a trusted key has signed. Only [`super::Trust::verify`] makes one.
#[derive(Clone, PartialEq, Eq)]
pub struct Verified {
    kind: Kind,
    payload: Vec<u8>,
    signer: KeyId,
}

impl Verified {
    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What was signed.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Whose signature was found good.
    pub fn signer(&self) -> KeyId {
        self.signer
    }
}

/// Sizes only: a document may hold credentials.
impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verified({}, {} bytes, by {})", self.kind, self.payload.len(), self.signer)
    }
}

/// What DSSE signs: PAE(type, body) = "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body (protocol.md, "Signature
/// Definition").
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let engine = if text.contains(['-', '_']) { BASE64_URL } else { BASE64 };
    engine.decode(text).ok()
}
