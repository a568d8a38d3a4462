//! The keyring: keys that are trusted and revoked besides those of the gateway's own file, without a visit. [pure]
//!
//! A keyring is the full state, not a change: only the newest counts, so a gateway that missed some ends up like one that
//! has seen them all. It cannot add root keys; a fleet should have a second root key in its files from the start, whose
//! secret lies in a safe.
//!
//! Its *epoch* stands above the numbers of assignments: only assignments of this very epoch are taken, and all of the epochs
//! before are older than the first of this one. Whoever had a controller key may have used up the numbers (the last one,
//! `NUMBER_MAX`, with a single message); a keyring that revokes that key, adds another and raises the epoch leaves them
//! behind. The same when the cloud has lost its count.

use serde::{Deserialize, Serialize};

use super::assignment::NUMBER_MAX;
use super::envelope::{Envelope, Kind, Verified};
use super::json;
use super::keys::{KeyId, PublicKey};
use super::refusal::Refusal;
use crate::config::overlay::VERSION_MAX;
use crate::downlink::number::is_zero;
use crate::event::time::Timestamp;

/// Largest keyring, in bytes of JSON: as many keys as there may be, with room.
pub const KEYRING_BYTES_MAX: usize = 64 * 1024;

/// Most keys of one kind.
pub const KEYS_MAX: usize = 64;

/// Most revoked ids: years of rotation.
pub const REVOKED_MAX: usize = 1024;

/// What a root key has signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keyring {
    /// Grows with every keyring, from 1.
    pub version: u64,
    /// Never lower than that of the keyring before; 0 as long as nobody raised it. Not written then: gateways of the version
    /// that knows no epochs take such a keyring, and no other.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// When it was made.
    #[serde(with = "json::time")]
    pub issued_at: Timestamp,
    /// Sign documents, besides those of the gateway's file.
    #[serde(default)]
    pub artefact_keys: Vec<PublicKey>,
    /// Sign assignments, besides those of the gateway's file.
    #[serde(default)]
    pub controller_keys: Vec<PublicKey>,
    /// No longer trusted, wherever they stand.
    #[serde(default)]
    pub revoked: Vec<KeyId>,
}

impl Keyring {
    /// As a payload to sign.
    pub fn to_envelope(&self) -> Envelope {
        // Strings and numbers: cannot fail.
        Envelope::new(Kind::Keyring, serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads what a root key has signed.
    pub fn of(verified: &Verified) -> Result<Self, Refusal> {
        let malformed = |why: String| Refusal::Malformed { what: Kind::Keyring, why };
        if verified.kind() != Kind::Keyring {
            return Err(malformed(format!("it is a {}", verified.kind())));
        }
        let read: Self = json::read(verified.payload(), KEYRING_BYTES_MAX).map_err(|e| malformed(e.to_string()))?;
        if !(1..=VERSION_MAX).contains(&read.version) {
            return Err(malformed(format!("its version is {}, not from 1 to {VERSION_MAX}", read.version)));
        }
        if read.epoch > NUMBER_MAX {
            return Err(malformed(format!("its epoch is {}, not from 0 to {NUMBER_MAX}", read.epoch)));
        }
        for (what, found, max) in [
            ("artefact_keys", read.artefact_keys.len(), KEYS_MAX),
            ("controller_keys", read.controller_keys.len(), KEYS_MAX),
            ("revoked", read.revoked.len(), REVOKED_MAX),
        ] {
            if found > max {
                return Err(malformed(format!("its {what} are {found}, at most {max} are taken")));
            }
        }
        if read.revoked.contains(&verified.signer()) {
            // It would take away the ground it stands on; another root key must say so.
            return Err(malformed(format!("it revokes the key that signed it, {}", verified.signer())));
        }
        Ok(read)
    }
}
