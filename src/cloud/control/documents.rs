//! The signed documents and the newest keyring, as they lie in their topic. [pure]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::config::overlay::{Header, Pushed, check_alone};
use crate::downlink::artefact::{Digest, Envelope, KeyId, Kind, Refusal, Trust};
use crate::event::Timestamp;

/// Documents whose envelopes are kept in memory, newest first; others are fetched from their topic again.
pub const HELD_MAX: usize = 100;

/// Bytes of the envelopes that are kept in memory. One at least is, whatever its size.
pub const HELD_BYTES_MAX: usize = 64 << 20;

/// Documents that are known; one more forgets the oldest tenth of those that nobody is to run. Some 300 bytes each, and a
/// change an hour for a year.
pub const KNOWN_MAX: usize = 10_000;

/// Where a message lies in its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Ledger.
    pub ledger: u64,
    /// Entry in it.
    pub entry: u64,
}

/// What is known of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Of its text.
    pub sha256: Digest,
    /// As its `[document]` says.
    pub version: u64,
    /// When gateways no longer take it.
    pub expires: Option<Timestamp>,
    /// Bytes of its text.
    pub bytes: usize,
    /// Whose signature was found good when it was read.
    pub signer: KeyId,
    /// Who stored it.
    pub by: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The keys that it sets.
    pub sets: Vec<String>,
    /// Where it lies.
    pub place: Position,
}

/// An envelope that is wanted.
#[derive(Clone, Debug)]
pub enum Found {
    /// It is here.
    Here(Arc<Envelope>),
    /// It has to be fetched.
    There(Position),
}

/// Documents and keyring. Whoever has read as far has the same.
pub struct Documents {
    trust: Trust,
    keyring: Option<Envelope>,
    known: BTreeMap<Digest, Known>,
    order: VecDeque<Digest>,
    held: VecDeque<(Digest, Arc<Envelope>)>,
    held_bytes: usize,
}

/// What a message of the topic was.
#[derive(Debug, PartialEq, Eq)]
pub enum Stored {
    /// A document.
    Document(Digest),
    /// A keyring that is in effect from now on.
    Keyring(u64),
}

/// Where a message came from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Where it lies.
    pub place: Position,
    /// Who stored it.
    pub by: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

impl Documents {
    /// None yet; `trust` says whose documents and keyrings count.
    pub fn new(trust: Trust) -> Self {
        Self {
            trust,
            keyring: None,
            known: BTreeMap::new(),
            order: VecDeque::new(),
            held: VecDeque::new(),
            held_bytes: 0,
        }
    }

    /// Takes the next message of the topic. What is refused would be refused by every gateway with the same keys.
    pub fn apply(&mut self, bytes: &[u8], origin: Origin) -> Result<Stored, Refusal> {
        let envelope =
            Envelope::decode(bytes).map_err(|e| Refusal::Malformed { what: Kind::Config, why: e.to_string() })?;
        if envelope.kind() == Some(Kind::Keyring) {
            self.trust = self.trust.with_keyring(envelope.clone())?;
            self.keyring = Some(envelope);
            return Ok(Stored::Keyring(self.trust.keyring_version()));
        }
        let verified = self.trust.verify(envelope.clone(), Kind::Config)?;
        let unreadable = |why: String| Refusal::Document { why };
        let text = std::str::from_utf8(verified.payload()).map_err(|_| unreadable("it is not UTF-8".to_owned()))?;
        let Header { version, expires } = Header::of("document", text).map_err(|e| unreadable(e.to_string()))?;
        let version = version.ok_or_else(|| unreadable("it has no [document] version".to_owned()))?;
        let sha256 = Digest::of(verified.payload());
        // A later version of Tidegate may have stored what this one cannot read: gateways judge for themselves.
        let sets = check_alone(Pushed { name: "document", text }).map(|read| read.sets.into_iter().collect());
        let Origin { place, by, at_ms } = origin;
        let (signer, bytes) = (verified.signer(), text.len());
        let known = Known { sha256, version, expires, bytes, signer, by, at_ms, sets: sets.unwrap_or_default(), place };
        if self.known.insert(sha256, known).is_none() {
            self.order.push_back(sha256);
        }
        self.hold(sha256, envelope);
        Ok(Stored::Document(sha256))
    }

    /// Whether there are more than need be.
    pub fn are_many(&self) -> bool {
        self.order.len() > KNOWN_MAX
    }

    /// Forgets the oldest that are not in use, and some more, so that this is rare.
    pub fn forget_oldest(&mut self, is_in_use: impl Fn(Digest) -> bool) {
        let mut surplus = self.order.len().saturating_sub(KNOWN_MAX - KNOWN_MAX / 10);
        let known = &mut self.known;
        self.order.retain(|sha256| {
            let goes = surplus > 0 && !is_in_use(*sha256);
            if goes {
                surplus -= 1;
                known.remove(sha256);
            }
            !goes
        });
    }

    /// Keeps an envelope in memory, as the newest.
    pub fn hold(&mut self, sha256: Digest, envelope: Envelope) {
        let size = |envelope: &Envelope| envelope.unverified_payload().len();
        if let Some(i) = self.held.iter().position(|(held, _)| *held == sha256)
            && let Some((_, before)) = self.held.remove(i)
        {
            self.held_bytes -= size(&before);
        }
        self.held_bytes += size(&envelope);
        self.held.push_back((sha256, Arc::new(envelope)));
        while self.held.len() > HELD_MAX || (self.held_bytes > HELD_BYTES_MAX && self.held.len() > 1) {
            let Some((_, oldest)) = self.held.pop_front() else { break };
            self.held_bytes -= size(&oldest);
        }
    }

    /// A document's envelope; `None`: nobody stored it.
    pub fn find(&self, sha256: Digest) -> Option<Found> {
        if let Some((_, envelope)) = self.held.iter().find(|(held, _)| *held == sha256) {
            return Some(Found::Here(envelope.clone()));
        }
        self.known.get(&sha256).map(|known| Found::There(known.place))
    }

    /// What is known of a document.
    pub fn get(&self, sha256: Digest) -> Option<&Known> {
        self.known.get(&sha256)
    }

    /// All of them, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Known> {
        self.order.iter().rev().filter_map(|sha256| self.known.get(sha256))
    }

    /// The highest version of all; 0: there is none.
    pub fn version_max(&self) -> u64 {
        self.known.values().map(|known| known.version).max().unwrap_or(0)
    }

    /// Whose documents and keyrings count, the newest keyring included.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The newest keyring.
    pub fn keyring(&self) -> Option<&Envelope> {
        self.keyring.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::edge::Downlink;
    use crate::downlink::artefact::{Keyring, SecretKey};

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32]).unwrap()
    }

    fn trusting(artefact: u8, root: u8) -> Documents {
        let downlink = Downlink {
            artefact_keys: vec![key(artefact).public().to_string()],
            roots: vec![key(root).public().to_string()],
            ..Downlink::default()
        };
        Documents::new(Trust::new(&downlink).unwrap())
    }

    fn signed(text: &str, by: u8) -> String {
        Envelope::new(Kind::Config, text.as_bytes().to_vec()).signed_by(&key(by)).encode()
    }

    fn at(entry: u64) -> Origin {
        Origin { place: Position { ledger: 1, entry }, by: "anna".into(), at_ms: entry }
    }

    #[test]
    fn what_a_trusted_key_has_signed_is_known_and_nothing_else() {
        let mut documents = trusting(1, 9);
        let text = "[log]\nlevel = \"warn\"\n[document]\nversion = 3\n";
        let sha256 = Digest::of(text.as_bytes());
        assert_eq!(documents.apply(signed(text, 1).as_bytes(), at(0)), Ok(Stored::Document(sha256)));
        let known = documents.get(sha256).unwrap();
        assert_eq!(
            (known.version, known.signer, known.sets.as_slice()),
            (3, key(1).public().id(), &["log.level".to_owned()][..])
        );
        assert!(matches!(documents.find(sha256), Some(Found::Here(_))));
        let foreign = documents.apply(signed("[document]\nversion = 4\n", 2).as_bytes(), at(1));
        assert!(matches!(foreign, Err(Refusal::UnknownKey { .. })), "{foreign:?}");
        assert!(matches!(documents.apply(signed("[log]\n", 1).as_bytes(), at(2)), Err(Refusal::Document { .. })));
        assert!(documents.apply(b"{}", at(3)).is_err());
        assert_eq!((documents.newest_first().count(), documents.version_max()), (1, 3));
    }

    #[test]
    fn a_keyring_adds_keys_and_takes_them_away() {
        let mut documents = trusting(1, 9);
        let ring = |version, artefact: Vec<u8>, revoked: Vec<u8>| Keyring {
            version,
            epoch: 0,
            issued_at: Timestamp::from_unix_ms(0),
            artefact_keys: artefact.into_iter().map(|n| key(n).public().clone()).collect(),
            controller_keys: Vec::new(),
            revoked: revoked.into_iter().map(|n| key(n).public().id()).collect(),
        };
        let text = "[document]\nversion = 1\n";
        let envelope = ring(2, vec![2], vec![1]).to_envelope().signed_by(&key(9)).encode();
        assert_eq!(documents.apply(envelope.as_bytes(), at(0)), Ok(Stored::Keyring(2)));
        assert!(matches!(documents.apply(signed(text, 1).as_bytes(), at(1)), Err(Refusal::RevokedKey { .. })));
        assert!(documents.apply(signed(text, 2).as_bytes(), at(2)).is_ok());
        let older = ring(1, vec![], vec![]).to_envelope().signed_by(&key(9)).encode();
        assert!(matches!(documents.apply(older.as_bytes(), at(3)), Err(Refusal::KeyringOlder { .. })));
        assert!(documents.keyring().is_some());
    }

    #[test]
    fn memory_is_bounded_and_what_is_not_in_it_is_still_known() {
        let mut documents = trusting(1, 9);
        let text = |n: usize| format!("[document]\nversion = {n}\n");
        for n in 1..=HELD_MAX + 5 {
            documents.apply(signed(&text(n), 1).as_bytes(), at(n as u64)).unwrap();
        }
        let oldest = Digest::of(text(1).as_bytes());
        assert!(matches!(documents.find(oldest), Some(Found::There(Position { ledger: 1, entry: 1 }))));
        assert_eq!(documents.held.len(), HELD_MAX);
        let again = Envelope::decode(signed(&text(1), 1).as_bytes()).unwrap();
        documents.hold(oldest, again);
        assert!(matches!(documents.find(oldest), Some(Found::Here(_))));
        assert_eq!(
            documents.held_bytes,
            documents.held.iter().map(|(_, e)| e.unverified_payload().len()).sum::<usize>()
        );
        assert!(documents.find(Digest::of(b"x")).is_none());
    }

    #[test]
    fn what_is_in_use_is_not_forgotten() {
        let mut documents = trusting(1, 2);
        let known = |n: usize| Known {
            sha256: Digest::of(&n.to_le_bytes()),
            version: n as u64,
            expires: None,
            bytes: 0,
            signer: key(1).public().id(),
            by: String::new(),
            at_ms: 0,
            sets: Vec::new(),
            place: Position { ledger: 1, entry: n as u64 },
        };
        for n in 0..=KNOWN_MAX {
            documents.order.push_back(known(n).sha256);
            documents.known.insert(known(n).sha256, known(n));
        }
        assert!(documents.are_many());
        let used = known(0).sha256;
        documents.forget_oldest(|sha256| sha256 == used);
        assert_eq!(documents.newest_first().count(), KNOWN_MAX - KNOWN_MAX / 10);
        assert!(documents.get(used).is_some() && documents.get(known(1).sha256).is_none());
        assert!(documents.get(known(KNOWN_MAX).sha256).is_some() && !documents.are_many());
        documents.forget_oldest(|_| true);
        assert_eq!(documents.known.len(), documents.order.len());
    }
}
