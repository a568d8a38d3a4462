//! Whom a gateway trusts with what: the keys of its own file, and what the newest keyring adds and revokes. [pure]

use std::collections::BTreeSet;

use super::envelope::{Envelope, Kind, Signature, Verified};
use super::keyring::Keyring;
use super::keys::{KeyError, KeyId, PublicKey};
use super::refusal::Refusal;
use crate::config::edge::Downlink;

/// Longest foreign text that is repeated in a refusal.
const ECHO_MAX: usize = 64;

/// What a key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Keyrings.
    Root,
    /// Documents.
    Artefact,
    /// Assignments and commands for devices.
    Controller,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Root, Self::Artefact, Self::Controller];

    /// Whose keys sign `kind`.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Config => Self::Artefact,
            Kind::Assignment | Kind::Command => Self::Controller,
            Kind::Keyring => Self::Root,
        }
    }

    /// The key of the configuration that lists them.
    pub fn key(self) -> &'static str {
        match self {
            Self::Root => "downlink.roots",
            Self::Artefact => "downlink.artefact_keys",
            Self::Controller => "downlink.controller_keys",
        }
    }

    /// "a root key"
    pub(super) fn article(self) -> &'static str {
        match self {
            Self::Root => "a root key",
            Self::Artefact => "an artefact key",
            Self::Controller => "a controller key",
        }
    }
}

/// Whom a gateway trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    roots: Vec<PublicKey>,
    artefact: Vec<PublicKey>,
    controller: Vec<PublicKey>,
    revoked: BTreeSet<KeyId>,
    keyring: Option<Keyring>,
}

impl Trust {
    /// What the gateway's own file says.
    pub fn new(downlink: &Downlink) -> Result<Self, KeyError> {
        let keys = |texts: &[String]| texts.iter().map(|text| PublicKey::parse(text)).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            roots: keys(&downlink.roots)?,
            artefact: keys(&downlink.artefact_keys)?,
            controller: keys(&downlink.controller_keys)?,
            revoked: downlink.revoked.iter().map(|text| KeyId::parse(text)).collect::<Result<_, _>>()?,
            keyring: None,
        })
    }

    /// This root key alone.
    pub fn of_root(root: &PublicKey) -> Self {
        Self { roots: vec![root.clone()], ..Self::default() }
    }

    /// This controller key alone.
    pub fn of_controller(key: &PublicKey) -> Self {
        Self { controller: vec![key.clone()], ..Self::default() }
    }

    /// With the keyring in `envelope`, if a root key has signed it and it is newer than the one before. The same one again
    /// changes nothing. Also for the stored one at a start: a root key that the gateway's file has revoked in the meantime
    /// takes its keyring with it.
    pub fn with_keyring(&self, envelope: Envelope) -> Result<Self, Refusal> {
        let keyring = Keyring::of(&self.verify(envelope, Kind::Keyring)?)?;
        let version = keyring.version;
        match &self.keyring {
            Some(before) if version < before.version => {
                Err(Refusal::KeyringOlder { version, accepted: before.version })
            }
            Some(before) if version == before.version && keyring != *before => Err(Refusal::KeyringReused { version }),
            Some(before) if keyring.epoch < before.epoch => {
                Err(Refusal::KeyringEpoch { version, epoch: keyring.epoch, accepted: before.epoch })
            }
            _ => Ok(Self { keyring: Some(keyring), ..self.clone() }),
        }
    }

    /// The version of the keyring in effect; 0: none.
    pub fn keyring_version(&self) -> u64 {
        self.keyring.as_ref().map_or(0, |keyring| keyring.version)
    }

    /// The epoch of the keyring in effect: the only one whose assignments count.
    pub fn epoch(&self) -> u64 {
        self.keyring.as_ref().map_or(0, |keyring| keyring.epoch)
    }

    /// The keys of `role`, revoked ones too.
    pub fn keys(&self, role: Role) -> impl Iterator<Item = &PublicKey> {
        let added = self.keyring.as_ref().map(|keyring| match role {
            Role::Root => &[],
            Role::Artefact => keyring.artefact_keys.as_slice(),
            Role::Controller => keyring.controller_keys.as_slice(),
        });
        let own = match role {
            Role::Root => &self.roots,
            Role::Artefact => &self.artefact,
            Role::Controller => &self.controller,
        };
        own.iter().chain(added.unwrap_or_default())
    }

    /// Whether the key `id` is no longer trusted.
    pub fn is_revoked(&self, id: KeyId) -> bool {
        self.revoked.contains(&id) || self.keyring.as_ref().is_some_and(|keyring| keyring.revoked.contains(&id))
    }

    /// The payload, if one key that may sign a `kind` has signed it. The id beside a signature is a hint (DSSE
    /// protocol.md, KEYID): it only chooses the keys to try. Without one all are tried.
    pub fn verify(&self, envelope: Envelope, kind: Kind) -> Result<Verified, Refusal> {
        if envelope.kind() != Some(kind) {
            let found = envelope.payload_type().chars().take(ECHO_MAX).collect();
            return Err(Refusal::WrongType { wanted: kind, found });
        }
        let signed = envelope.signed_bytes();
        let mut worst: Option<Failure> = None;
        for signature in envelope.signatures() {
            match self.check(&signed, signature, kind) {
                Ok(signer) => return Ok(envelope.into_verified(kind, signer)),
                Err(failure) => worst = Some(worst.map_or(failure, |worst| worst.max(failure))),
            }
        }
        let hints = envelope.signatures().iter().filter_map(|signature| signature.key_id.as_deref());
        Err(match worst {
            None => Refusal::Unsigned { what: kind },
            Some(Failure::Unknown) => {
                let keys = hints.map(|hint| hint.chars().take(ECHO_MAX).collect()).collect();
                Refusal::UnknownKey { what: kind, keys }
            }
            Some(Failure::OtherRole(is, key)) => Refusal::WrongRole { what: kind, key, is },
            Some(Failure::Revoked(key)) => Refusal::RevokedKey { what: kind, key },
            Some(Failure::Wrong(key)) => Refusal::BadSignature { what: kind, key },
        })
    }

    fn check(&self, signed: &[u8], signature: &Signature, kind: Kind) -> Result<KeyId, Failure> {
        let hint = signature.key_id.as_deref().map(|text| KeyId::parse(text).ok());
        let meant = |key: &&PublicKey| hint.is_none_or(|hint| hint == Some(key.id()));
        let is_good = |key: &PublicKey| key.verifies(signed, &signature.bytes);
        let mut failure = Failure::Unknown;
        for key in self.keys(Role::of(kind)).filter(meant) {
            if self.is_revoked(key.id()) {
                failure = failure.max(Failure::Revoked(key.id()));
            } else if is_good(key) {
                return Ok(key.id());
            } else if hint.is_some() {
                failure = failure.max(Failure::Wrong(key.id()));
            }
        }
        // Only to say what is wrong with it.
        if let Some(Some(id)) = hint
            && failure == Failure::Unknown
        {
            let other = Role::ALL.into_iter().find(|role| self.keys(*role).any(|key| key.id() == id));
            return Err(match other {
                _ if self.is_revoked(id) => Failure::Revoked(id),
                Some(role) => Failure::OtherRole(role, id),
                None => failure,
            });
        }
        Err(failure)
    }
}

/// What is wrong with one signature; of several the greatest is told: it is closest to a good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Failure {
    Unknown,
    OtherRole(Role, KeyId),
    Revoked(KeyId),
    Wrong(KeyId),
}
