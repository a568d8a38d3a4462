//! Ed25519 keys (RFC 8032): what they are written as, and their ids. [pure]

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::config::key_text::{self, KEY_ID_BYTES, PUBLIC_KEY_BYTES};

/// Bytes of a signature (RFC 8032 §5.1.6).
pub const SIGNATURE_BYTES: usize = 64;

/// Bytes of the secret that a key is made from (RFC 8032 §5.1.5).
pub const SEED_BYTES: usize = 32;

/// Largest secret key file: a real one has 119 bytes.
pub const SECRET_KEY_FILE_BYTES_MAX: usize = 4096;

/// What precedes the seed in PKCS#8 for Ed25519, version 1 without the public key (RFC 8410 §7): what OpenSSL writes
/// and everybody reads.
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is no public key.
    #[error("{0}")]
    Public(String),
    /// The text is no key id.
    #[error("{0}")]
    Id(String),
    /// The file is no secret key.
    #[error(
        "holds no Ed25519 secret key (PKCS#8, \"-----BEGIN PRIVATE KEY-----\"); \"tidegate keys signing\" makes one"
    )]
    Secret,
}

/// Names a key: the first 8 bytes of the SHA-256 of the raw public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId([u8; KEY_ID_BYTES]);

impl KeyId {
    /// Reads 16 hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        key_text::parse_key_id(text).map(Self).map_err(KeyError::Id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&key_text::show_hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for KeyId {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        Self::parse(&text)
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

/// A public key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey {
    raw: [u8; PUBLIC_KEY_BYTES],
    id: KeyId,
}

impl PublicKey {
    /// Reads `tidegate-pub-ed25519:…`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        key_text::parse_public_key(text).map(Self::of_raw).map_err(KeyError::Public)
    }

    fn of_raw(raw: [u8; PUBLIC_KEY_BYTES]) -> Self {
        let hash = ring::digest::digest(&ring::digest::SHA256, &raw);
        let mut id = [0; KEY_ID_BYTES];
        id.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
        Self { raw, id: KeyId(id) }
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Whether `signature` is this key's for `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.raw).verify(message, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&key_text::show_public_key(&self.raw))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        Self::parse(&text)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

/// A secret key. What it is made from is wiped when it is no longer needed; ring keeps its own copy while this lives and
/// does not wipe it, so a process should hold one no longer than it signs.
pub struct SecretKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SecretKey {
    /// The key of `seed`, which must be random.
    pub fn from_seed(seed: &[u8; SEED_BYTES]) -> Result<Self, KeyError> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(Self::of_pair).map_err(|_| KeyError::Secret)
    }

    /// Reads a PEM file (PKCS#8, version 1 or 2: RFC 8410 §7).
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        if pem.len() > SECRET_KEY_FILE_BYTES_MAX {
            return Err(KeyError::Secret);
        }
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| KeyError::Secret)?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
        der.zeroize();
        pair.map(Self::of_pair).map_err(|_| KeyError::Secret)
    }

    /// The PEM file of the key of `seed`.
    pub fn pem_of_seed(seed: &[u8; SEED_BYTES]) -> Zeroizing<String> {
        let mut der = Zeroizing::new([0_u8; PKCS8_HEAD.len() + SEED_BYTES]);
        der.iter_mut().zip(PKCS8_HEAD.iter().chain(seed)).for_each(|(to, from)| *to = *from);
        let encoded = Zeroizing::new(STANDARD.encode(*der));
        Zeroizing::new(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", *encoded))
    }

    fn of_pair(pair: Ed25519KeyPair) -> Self {
        let mut raw = [0; PUBLIC_KEY_BYTES];
        raw.iter_mut().zip(pair.public_key().as_ref()).for_each(|(to, from)| *to = *from);
        Self { pair, public: PublicKey::of_raw(raw) }
    }

    /// The public key.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signature = self.pair.sign(message);
        let mut bytes = [0; SIGNATURE_BYTES];
        bytes.iter_mut().zip(signature.as_ref()).for_each(|(to, from)| *to = *from);
        bytes
    }
}

/// Only its id: what is secret stays so.
impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public.id)
    }
}
