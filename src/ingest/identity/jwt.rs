//! JSON web tokens (RFC 7519): signed by keys of ours, in force now, for us; and what their claims say.
//!
//! The key decides the algorithm, never the token (RFC 8725 §3.1): RSA → RS256, P-256 → ES256, Ed25519 → EdDSA. There is
//! no way to an unsigned token or to one whose HMAC key would be the public key.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use serde::Deserialize;
use serde_json::{Map, Value};
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::devices_file::{Role, is_filter};
use super::rules::is_name;
use crate::config::edge::Identity;

/// Most keys in the file: a rotation needs two, an issuer with several data centres a few.
const KEYS_MAX: usize = 8;

/// Largest key file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// How far the issuer's clock may be from ours, in seconds (RFC 7519 §4.1.4: "no more than a few minutes").
const LEEWAY_S: f64 = 60.0;

/// Most topics or subjects in one claim.
const PATTERNS_MAX: usize = 64;

/// Claim with what a token's bearer may do.
const RIGHTS_CLAIM: &str = "tidegate";

/// Why the key file is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("JWT key file {}: {reason}", path.display())]
pub struct KeyError {
    path: PathBuf,
    reason: String,
}

/// The issuer's keys and what its tokens must say.
pub struct Keys {
    keys: Vec<(Algorithm, DecodingKey)>,
    pem: Vec<u8>,
    issuer: Option<String>,
    audience: Option<String>,
    claim: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(algorithm, _)| algorithm)).finish()
    }
}

/// What a token says of its bearer.
#[derive(Debug, PartialEq)]
pub struct Claims {
    /// The device.
    pub name: String,
    /// When the token ends, in ms since 1970, leeway included.
    pub expires_ms: i64,
    /// What it may do, if the token says so.
    pub rights: Granted,
}

/// The claim `tidegate`, all of it optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Granted {
    /// Instead of `identity.publish`.
    pub publish: Option<Vec<String>>,
    /// Instead of `identity.subscribe`.
    pub subscribe: Option<Vec<String>>,
    /// Subjects besides its own name.
    #[serde(default)]
    pub speaks_for: Vec<String>,
    /// What it is for.
    #[serde(default)]
    pub role: Role,
}

/// Why a token is not taken. The words may be shown to its bearer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It is no JWT, or not signed by a key of ours with that key's algorithm.
    #[error("the token is not signed by an issuer that is trusted here")]
    Signature,
    /// It is over.
    #[error("the token has expired; get a new one")]
    Expired,
    /// It is not in force yet.
    #[error("the token is not valid yet; check the clocks of the issuer and of this gateway")]
    Early,
    /// It is signed, and does not say what it must.
    #[error("the token {0}")]
    Claim(String),
}

/// Whether `text` has the shape of a JWT: three parts, of which the first begins a JSON object (`{"` in base64url).
pub fn has_shape(text: &str) -> bool {
    text.starts_with("ey") && text.bytes().filter(|b| *b == b'.').count() == 2
}

impl Keys {
    /// Reads the key file of `config`. Blocks.
    pub fn load(path: &Path, config: &Identity) -> Result<Self, KeyError> {
        let failed = |reason: String| KeyError { path: path.to_owned(), reason };
        let mut pem = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut pem))
            .map_err(|e| failed(format!("cannot be read: {e}")))?;
        if pem.len() as u64 > FILE_BYTES_MAX {
            return Err(failed("is no PEM file with public keys: it has more than 64 KiB".to_owned()));
        }
        let keys = keys(&pem).map_err(failed)?;
        let (issuer, audience) = (config.jwt_issuer.clone(), config.jwt_audience.clone());
        Ok(Self { keys, pem, issuer, audience, claim: config.jwt_claim.clone() })
    }

    /// Whether they come from the same file's content.
    pub fn same(&self, other: &Self) -> bool {
        self.pem == other.pem
    }

    /// Judges `token`. `now_ms`: ms since 1970.
    pub fn verify(&self, token: &str, now_ms: i64) -> Result<Claims, Rejected> {
        let algorithm = algorithm(token).ok_or(Rejected::Signature)?;
        let claims = self
            .keys
            .iter()
            .filter(|(of_key, _)| *of_key == algorithm)
            .find_map(|(of_key, key)| {
                jsonwebtoken::decode::<Map<String, Value>>(token, key, &signature_only(*of_key)).ok()
            })
            .ok_or(Rejected::Signature)?
            .claims;
        self.judge(&claims, now_ms)
    }

    fn judge(&self, claims: &Map<String, Value>, now_ms: i64) -> Result<Claims, Rejected> {
        // Milliseconds of our era are whole numbers below 2^53.
        #[allow(clippy::cast_precision_loss)]
        let now = now_ms as f64 / 1000.0;
        let lacks = |what: &str| Rejected::Claim(format!("has no {what}"));
        let expires = claims.get("exp").and_then(Value::as_f64).ok_or_else(|| lacks("exp (when it ends)"))? + LEEWAY_S;
        if now >= expires {
            return Err(Rejected::Expired);
        }
        match claims.get("nbf").map(Value::as_f64) {
            Some(None) => return Err(Rejected::Claim("has an nbf that is no time".to_owned())),
            Some(Some(begins)) if now < begins - LEEWAY_S => return Err(Rejected::Early),
            _ => {}
        }
        let text = |key: &str| claims.get(key).and_then(Value::as_str);
        if self.issuer.is_some() && text("iss") != self.issuer.as_deref() {
            return Err(Rejected::Claim("is from another issuer (iss) than this gateway trusts".to_owned()));
        }
        if let Some(ours) = &self.audience
            && !is_audience(claims.get("aud"), ours)
        {
            return Err(Rejected::Claim("is for another audience (aud) than this gateway".to_owned()));
        }
        let name = text(&self.claim).ok_or_else(|| lacks(&format!("{} that names the device", self.claim)))?;
        if !is_name(name) {
            return Err(Rejected::Claim(format!("names a device in {} that can be none", self.claim)));
        }
        let rights = claims.get(RIGHTS_CLAIM).map_or_else(|| Ok(Granted::default()), granted)?;
        // Saturates: a token for ever ends at the end of time.
        #[allow(clippy::cast_possible_truncation)]
        Ok(Claims { name: name.to_owned(), expires_ms: (expires * 1000.0) as i64, rights })
    }
}

/// `aud` is one string or a list of them (RFC 7519 §4.1.3).
fn is_audience(claim: Option<&Value>, ours: &str) -> bool {
    match claim {
        Some(Value::String(one)) => one == ours,
        Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(ours)),
        _ => false,
    }
}

fn granted(claim: &Value) -> Result<Granted, Rejected> {
    let wrong = |what: &str| Rejected::Claim(format!("has a claim {RIGHTS_CLAIM:?} {what}"));
    let granted = Granted::deserialize(claim).map_err(|_| wrong("that is not understood"))?;
    let lists = [granted.publish.as_deref(), granted.subscribe.as_deref(), Some(&granted.speaks_for)];
    if lists.iter().flatten().any(|list| list.len() > PATTERNS_MAX) {
        return Err(wrong("with too long a list"));
    }
    if lists[..2].iter().flatten().any(|list| !list.iter().all(|filter| is_filter(filter))) {
        return Err(wrong("with something that is no topic filter"));
    }
    Ok(granted)
}

/// The algorithm that the token says it has. Extensions that must be understood (RFC 7515 §4.1.11) are not.
fn algorithm(token: &str) -> Option<Algorithm> {
    #[derive(Deserialize)]
    struct Header {
        alg: Algorithm,
        crit: Option<Value>,
    }
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next()?).ok()?;
    let header: Header = serde_json::from_slice(&header).ok()?;
    header.crit.is_none().then_some(header.alg)
}

/// The signature by `algorithm` alone: the claims are judged by our own clock, above.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    validation
}

/// The public keys in a PEM file, on their own or in certificates.
fn keys(pem: &[u8]) -> Result<Vec<(Algorithm, DecodingKey)>, String> {
    let mut keys = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = section.map_err(|e| format!("is no PEM file: {e}"))?;
        let number = keys.len() + 1;
        if number > KEYS_MAX {
            return Err(format!("has more than {KEYS_MAX} keys; take the old ones out"));
        }
        let key = match kind {
            SectionKind::PublicKey => {
                let (_, key) = SubjectPublicKeyInfo::from_der(&der).map_err(|_| format!("key {number} is damaged"))?;
                public_key(&key)
            }
            SectionKind::Certificate => {
                let (_, certificate) = x509_parser::parse_x509_certificate(&der)
                    .map_err(|_| format!("certificate {number} is damaged"))?;
                public_key(certificate.public_key())
            }
            _ => Err("is no public key; the private key belongs to the issuer alone: openssl pkey -pubout makes the \
                      public one of it"
                .to_owned()),
        };
        keys.push(key.map_err(|e| format!("key {number} {e}"))?);
    }
    if keys.is_empty() {
        return Err("has no key (a PEM block \"BEGIN PUBLIC KEY\")".to_owned());
    }
    Ok(keys)
}

fn public_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(Algorithm, DecodingKey), String> {
    // What ring takes: RFC 8017's RSAPublicKey, a point, 32 bytes; just what the bit string holds.
    let bytes = key.subject_public_key.data.as_ref();
    let kind = &key.algorithm.algorithm;
    if *kind == OID_PKCS1_RSAENCRYPTION {
        return Ok((Algorithm::RS256, DecodingKey::from_rsa_der(bytes)));
    }
    if *kind == OID_SIG_ED25519 {
        return Ok((Algorithm::EdDSA, DecodingKey::from_ed_der(bytes)));
    }
    let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY && curve.is_some_and(|curve| curve == OID_EC_P256) {
        return Ok((Algorithm::ES256, DecodingKey::from_ec_der(bytes)));
    }
    Err("is of a kind that is not taken; there are RSA (RS256), P-256 (ES256) and Ed25519 (EdDSA)".to_owned())
}
