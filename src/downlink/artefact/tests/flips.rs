//! A message that was changed anywhere is refused, or says exactly the same.

use proptest::prelude::*;

use super::*;

/// A whole message with everything that can be in it, in bytes, and what it comes to.
fn whole() -> (Vec<u8>, Trust, Offer, Trust) {
    let trust = trust();
    let ring = Keyring {
        version: 5,
        epoch: 0,
        issued_at: at(1_800_000_000),
        artefact_keys: vec![key(12).public().clone()],
        controller_keys: vec![key(13).public().clone()],
        revoked: vec![key(14).public().id()],
    };
    let mut message = message(4);
    message.keyring = Some(ring.to_envelope().signed_by(&key(ROOT)));
    let bytes = message.encode().into_bytes();
    let judged = judge(&bytes, &situation(&trust));
    let newer = judged.keyring.unwrap().unwrap().1;
    (bytes, trust, judged.state.unwrap(), newer)
}

/// The state is refused or the same, and so is the keyring; whether both were taken.
fn unharmed(bytes: &[u8], trust: &Trust, offer: &Offer, newer: &Trust) -> (bool, bool) {
    let judged = judge(bytes, &situation(trust));
    if let Ok(state) = &judged.state {
        assert_eq!(state, offer);
    }
    if let Some(Ok((_, trust))) = &judged.keyring {
        assert_eq!(trust, newer);
    }
    (judged.state.is_ok(), matches!(judged.keyring, Some(Ok(_))))
}

/// Every byte of a message, one of its bits and all of them.
#[test]
fn any_flipped_byte_is_refused_or_changes_nothing() {
    let (mut bytes, trust, offer, newer) = whole();
    assert_eq!(unharmed(&bytes, &trust, &offer, &newer), (true, true));
    let (mut tried, mut as_before) = (0, 0);
    for i in 0..bytes.len() {
        for mask in [1 << (i % 8), 0xff] {
            bytes[i] ^= mask;
            let taken = unharmed(&bytes, &trust, &offer, &newer);
            as_before += usize::from(taken == (true, true));
            tried += 1;
            bytes[i] ^= mask;
        }
    }
    // In one envelope a flip leaves the other ones as they are, so a part may be taken; the whole hardly ever: only where
    // base64 has two ways to say the same.
    assert!(tried == 2 * bytes.len() && as_before * 500 < tried, "{as_before} of {tried}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_piece_cut_put_in_or_moved_is_refused_or_changes_nothing(
        from in any::<prop::sample::Index>(),
        length in 0_usize..60,
        put in prop::collection::vec(any::<u8>(), 0..12),
        to in any::<prop::sample::Index>(),
        moves: bool,
    ) {
        let (bytes, trust, offer, newer) = whole();
        let from = from.index(bytes.len());
        let end = (from + length).min(bytes.len());
        let mut changed = [&bytes[..from], &put, &bytes[end..]].concat();
        if moves {
            let to = to.index(changed.len().max(1));
            changed.splice(to..to, bytes[from..end].iter().copied());
        }
        unharmed(&changed, &trust, &offer, &newer);
    }

    /// A signature by any other key, or of any other payload or type, is no signature.
    #[test]
    fn any_other_key_payload_or_type_is_refused(
        seed: [u8; 32],
        payload in prop::collection::vec(any::<u8>(), 0..60),
        other in prop::collection::vec(any::<u8>(), 0..60),
        hinted: bool,
        kind in 0_usize..3,
    ) {
        let kind = Kind::ALL[kind];
        let right = [ARTEFACT, CONTROLLER, ROOT][Kind::ALL.iter().position(|k| *k == kind).unwrap()];
        let good = Envelope::new(kind, payload.clone()).signed_by(&key(right));
        prop_assert!(trust().verify(good.clone(), kind).is_ok());
        for wrong in Kind::ALL.into_iter().filter(|wrong| *wrong != kind) {
            prop_assert_eq!(trust().verify(good.clone(), wrong).unwrap_err().code(), "wrong-type");
            // The same key's signature carried over to another type.
            let moved = good.encode().replace(kind.media_type(), wrong.media_type());
            let moved = Envelope::decode(moved.as_bytes()).unwrap();
            prop_assert!(trust().verify(moved, wrong).is_err());
        }
        let strange = Envelope::new(kind, payload.clone()).signed_by(&SecretKey::from_seed(&seed).unwrap());
        prop_assert_eq!(trust().verify(strange.clone(), kind).unwrap_err().code(), "unknown-key");
        // The hint lies, or is missing.
        let id = strange.signatures()[0].key_id.clone().unwrap();
        let (said, code) = match hinted {
            true => (key(right).public().id().to_string(), "bad-signature"),
            false => (String::new(), "unknown-key"),
        };
        let lying = Envelope::decode(strange.encode().replace(&id, &said).as_bytes()).unwrap();
        prop_assert_eq!(trust().verify(lying, kind).unwrap_err().code(), code);
        if payload != other {
            let json = Envelope::new(kind, other).encode();
            let (_, signatures) = good.encode().split_once("\"signatures\"").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
            let swapped = format!("{}\"signatures\"{signatures}", json.split_once("\"signatures\"").unwrap().0);
            let swapped = Envelope::decode(swapped.as_bytes()).unwrap();
            prop_assert_eq!(trust().verify(swapped, kind).unwrap_err().code(), "bad-signature");
        }
        // A good signature beside a bad one is enough, and its hint may be missing.
        let both = Envelope::new(kind, payload).signed_by(&SecretKey::from_seed(&seed).unwrap()).signed_by(&key(right));
        prop_assert!(trust().verify(both.clone(), kind).is_ok());
        let bare = both.encode().replace(&key(right).public().id().to_string(), "");
        prop_assert!(trust().verify(Envelope::decode(bare.as_bytes()).unwrap(), kind).is_ok());
    }
}
