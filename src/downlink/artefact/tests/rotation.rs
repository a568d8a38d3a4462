//! Keys that come and go: histories of keyrings against a model of sets.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Roots of the gateway's file; 20 is no root.
const ROOTS: [u8; 2] = [1, 11];
/// Keys that come and go: 2 is an artefact key and 3 a controller key of the gateway's file.
const KEYS: [u8; 6] = [1, 2, 3, 4, 5, 6];

#[derive(Clone, Debug)]
struct Ring {
    version: u64,
    epoch: u64,
    root: u8,
    artefact: BTreeSet<u8>,
    controller: BTreeSet<u8>,
    revoked: BTreeSet<u8>,
}

impl Ring {
    fn envelope(&self) -> Envelope {
        let public = |keys: &BTreeSet<u8>| keys.iter().map(|n| key(*n).public().clone()).collect();
        let keyring = Keyring {
            version: self.version,
            epoch: self.epoch,
            issued_at: at(0),
            artefact_keys: public(&self.artefact),
            controller_keys: public(&self.controller),
            revoked: self.revoked.iter().map(|n| key(*n).public().id()).collect(),
        };
        keyring.to_envelope().signed_by(&key(self.root))
    }
}

fn ring() -> impl Strategy<Value = Ring> {
    let some = || prop::collection::btree_set(prop::sample::select(KEYS.to_vec()), 0..3);
    let root = prop_oneof![4 => Just(ROOTS[0]), 4 => Just(ROOTS[1]), 1 => Just(20), 1 => Just(ARTEFACT)];
    let revoked = prop::collection::btree_set(prop::sample::select(vec![1, 2, 3, 4, 5, 6, 11]), 0..3);
    (1_u64..6, 0_u64..3, root, some(), some(), revoked).prop_map(
        |(version, epoch, root, artefact, controller, revoked)| Ring {
            version,
            epoch,
            root,
            artefact,
            controller,
            revoked,
        },
    )
}

/// What is trusted, as sets.
struct Model {
    revoked_here: BTreeSet<u8>,
    ring: Option<Ring>,
}

impl Model {
    fn is_revoked(&self, n: u8) -> bool {
        self.revoked_here.contains(&n) || self.ring.as_ref().is_some_and(|ring| ring.revoked.contains(&n))
    }

    fn may_sign(&self, n: u8, kind: Kind) -> bool {
        let added = |keys: fn(&Ring) -> &BTreeSet<u8>| self.ring.as_ref().is_some_and(|ring| keys(ring).contains(&n));
        let listed = match kind {
            Kind::Keyring => ROOTS.contains(&n),
            Kind::Config => n == ARTEFACT || added(|ring| &ring.artefact),
            Kind::Assignment | Kind::Command => n == CONTROLLER || added(|ring| &ring.controller),
        };
        listed && !self.is_revoked(n)
    }

    fn takes(&self, ring: &Ring) -> bool {
        self.may_sign(ring.root, Kind::Keyring)
            && !ring.revoked.contains(&ring.root)
            && self.ring.as_ref().is_none_or(|before| ring.version > before.version && ring.epoch >= before.epoch)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn histories_of_keyrings_are_as_sets_say(
        history in prop::collection::vec(ring(), 1..6),
        revoked_here in prop::collection::btree_set(prop::sample::select(vec![2_u8, 4, 11]), 0..2),
        asked in prop::sample::select(KEYS.to_vec()),
    ) {
        let revoked = revoked_here.iter().map(|n| key(*n).public().id().to_string()).collect();
        let own = Downlink { roots: vec![text(ROOTS[0]), text(ROOTS[1])], revoked, ..downlink() };
        let mut trust = Trust::new(&own).unwrap();
        let mut model = Model { revoked_here, ring: None };
        for ring in history {
            let takes = model.takes(&ring);
            match trust.with_keyring(ring.envelope()) {
                Ok(newer) if takes => {
                    trust = newer;
                    model.ring = Some(ring.clone());
                    // The same again changes nothing.
                    prop_assert_eq!(trust.with_keyring(ring.envelope()), Ok(trust.clone()));
                }
                // The very one that is in effect.
                Ok(same) => prop_assert_eq!(&same, &trust),
                Err(refusal) => prop_assert!(!takes, "{:?} {}", ring, refusal),
            }
            prop_assert_eq!(trust.keyring_version(), model.ring.as_ref().map_or(0, |ring| ring.version));
            prop_assert_eq!(trust.epoch(), model.ring.as_ref().map_or(0, |ring| ring.epoch));
            for kind in Kind::ALL {
                let envelope = Envelope::new(kind, vec![]).signed_by(&key(asked));
                let got = trust.verify(envelope, kind);
                prop_assert_eq!(got.is_ok(), model.may_sign(asked, kind), "{} {:?}", asked, got);
            }
        }
        // A restart: the gateway's own file and the stored keyring give the same trust.
        if let Some(ring) = model.ring {
            prop_assert_eq!(Trust::new(&own).unwrap().with_keyring(ring.envelope()), Ok(trust));
        }
    }
}

fn keyring(version: u64) -> Keyring {
    Keyring { version, epoch: 0, issued_at: at(0), artefact_keys: vec![], controller_keys: vec![], revoked: vec![] }
}

/// The controller key is stolen: a keyring that revokes it and brings another counts at once, also when it comes with an
/// assignment by the stolen one.
#[test]
fn a_keyring_counts_before_the_assignment_that_it_came_with() {
    let trust = trust();
    let ring = Keyring {
        controller_keys: vec![key(13).public().clone()],
        revoked: vec![key(CONTROLLER).public().id()],
        ..keyring(1)
    };
    let ring = ring.to_envelope().signed_by(&key(ROOT));
    let stolen = Message { keyring: Some(ring.clone()), ..message(4) };
    let judged = judge(stolen.encode().as_bytes(), &situation(&trust));
    assert_eq!(judged.state.unwrap_err().code(), "revoked-key");
    let (kept, newer) = judged.keyring.unwrap().unwrap();
    assert_eq!(kept, ring);
    let replaced = assignment(4, Some(&document(4)), 4).to_envelope().signed_by(&key(13));
    let replaced = Message { keyring: Some(ring), assignment: replaced, ..message(4) };
    assert!(super::judged(&replaced, &situation(&trust)).is_ok());
    // An older keyring in a message is no news and no harm.
    let older = keyring(1).to_envelope().signed_by(&key(ROOT));
    let newest = newer.with_keyring(Keyring { version: 2, ..keyring(2) }.to_envelope().signed_by(&key(ROOT))).unwrap();
    let judged = judge(Message { keyring: Some(older), ..message(4) }.encode().as_bytes(), &situation(&newest));
    assert!(judged.keyring.is_none() && judged.state.is_ok(), "{judged:?}");
    // A wrong one is reported, and the rest judged without it.
    let wrong = keyring(9).to_envelope().signed_by(&key(STRANGER));
    let judged = judge(Message { keyring: Some(wrong), ..message(4) }.encode().as_bytes(), &situation(&trust));
    assert_eq!(judged.keyring.unwrap().unwrap_err().code(), "unknown-key");
    assert!(judged.state.is_ok());
}

#[test]
fn a_keyring_has_bounds() {
    let refused =
        |ring: Keyring| trust().with_keyring(ring.to_envelope().signed_by(&key(ROOT))).unwrap_err().to_string();
    let many = Keyring { artefact_keys: vec![key(4).public().clone(); keyring::KEYS_MAX + 1], ..keyring(1) };
    assert!(refused(many).contains("artefact_keys are 65, at most 64"));
    assert!(refused(keyring(0)).contains("version is 0"));
    let own = Keyring { revoked: vec![key(ROOT).public().id()], ..keyring(1) };
    assert!(refused(own).contains("revokes the key that signed it"));
    let same = trust().with_keyring(keyring(1).to_envelope().signed_by(&key(ROOT))).unwrap();
    let other = Keyring { revoked: vec![key(4).public().id()], ..keyring(1) };
    assert_eq!(
        same.with_keyring(other.to_envelope().signed_by(&key(ROOT))),
        Err(Refusal::KeyringReused { version: 1 })
    );
    // The root was revoked in the gateway's file since: its stored keyring goes with it.
    let revoking = Downlink { revoked: vec![key(ROOT).public().id().to_string()], ..downlink() };
    let stored = keyring(1).to_envelope().signed_by(&key(ROOT));
    assert_eq!(Trust::new(&revoking).unwrap().with_keyring(stored).unwrap_err().code(), "revoked-key");
}
