//! Epochs: what a stolen controller key did to the numbers is undone by a root key, for good.

use proptest::prelude::*;

use super::assignment::NUMBER_MAX;
use super::*;
use crate::downlink::number::Number;

/// The key that takes the stolen one's place.
const NEXT: u8 = 13;

/// A gateway's files: what survives of its own file, the stored keyring, and what was accepted.
struct Gateway {
    keyring: Option<Envelope>,
    accepted: Accepted,
}

impl Gateway {
    fn trust(&self) -> Trust {
        let own = trust();
        self.keyring.clone().map_or(own.clone(), |keyring| own.with_keyring(keyring).unwrap())
    }

    fn take(&mut self, message: &Message) -> Result<Offer, Refusal> {
        let trust = self.trust();
        let judged = judge(message.encode().as_bytes(), &Situation { accepted: self.accepted, ..situation(&trust) });
        if let Some(Ok((keyring, _))) = judged.keyring {
            self.keyring = Some(keyring);
        }
        let offer = judged.state?;
        // On disk and back.
        self.accepted = serde_json::from_str(&serde_json::to_string(&offer.accepted).unwrap()).unwrap();
        Ok(offer)
    }
}

fn pushed(epoch: u64, number: u64, by: u8, keyring: Option<Envelope>) -> Message {
    let assignment = Assignment { epoch, ..assignment(number, None, 0) };
    Message { keyring, assignment: assignment.to_envelope().signed_by(&key(by)), document: None }
}

fn keyring(version: u64, epoch: u64, controller: u8, revoked: Option<u8>) -> Envelope {
    let ring = Keyring {
        version,
        epoch,
        issued_at: at(0),
        artefact_keys: vec![],
        controller_keys: vec![key(controller).public().clone()],
        revoked: revoked.iter().map(|n| key(*n).public().id()).collect(),
    };
    ring.to_envelope().signed_by(&key(ROOT))
}

/// What somebody with the stolen key sends, who also has every keyring that was ever made.
fn stolen() -> impl Strategy<Value = (u64, u64, Option<u64>)> {
    let number = prop_oneof![1..9_u64, Just(NUMBER_MAX), 1..=NUMBER_MAX];
    let epoch = prop_oneof![4 => 0..6_u64, 1 => 0..=NUMBER_MAX];
    (epoch, number, prop::option::of(0..6_u64))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever a controller key signed: a newer keyring with a higher epoch and another controller key makes number 1 of that
    /// one acceptable. After that nothing of an epoch before is, whoever signs it, whatever old keyrings come along, and
    /// whether or not the file of the keyring survives.
    #[test]
    fn a_higher_epoch_leaves_every_number_behind(
        before in 0..4_u64,
        raise in 1..4_u64,
        first in prop::collection::vec(stolen(), 0..8),
        later in prop::collection::vec((stolen(), any::<bool>(), any::<bool>()), 0..8),
    ) {
        // The keyrings that there were, one for each epoch up to `before`: none of them knows of the theft.
        let old = |epoch: u64| keyring(1 + epoch, epoch, CONTROLLER, None);
        let old = |wanted: Option<u64>| wanted.map(|epoch| old(epoch.min(before)));
        let mut gateway = Gateway { keyring: old(Some(before)), accepted: Accepted::default() };
        for (epoch, number, with) in first {
            let (trusted, taken) = (gateway.trust().epoch(), gateway.accepted.at());
            let got = gateway.take(&pushed(epoch, number, CONTROLLER, old(with)));
            // A controller key chooses numbers and no epochs.
            let right = epoch == trusted && Number::new(epoch, number) > taken;
            prop_assert_eq!(got.is_ok(), right, "{:?}", got);
        }

        let epoch = before + raise;
        let healed = keyring(100, epoch, NEXT, Some(CONTROLLER));
        let got = gateway.take(&pushed(epoch, 1, NEXT, Some(healed.clone())));
        prop_assert!(got.is_ok(), "{:?}", got);
        for ((old_epoch, number, with), is_lost, by_next) in later {
            if is_lost {
                gateway.keyring = None;
            }
            let by = if by_next { NEXT } else { CONTROLLER };
            let got = gateway.take(&pushed(old_epoch.min(epoch - 1), number, by, old(with)));
            prop_assert!(got.is_err(), "{:?}", got);
            prop_assert_eq!(gateway.accepted.at(), Number::new(epoch, 1));
        }
        let got = gateway.take(&pushed(epoch, 2, NEXT, Some(healed)));
        prop_assert!(got.is_ok(), "{:?}", got);
    }
}

#[test]
fn each_refusal_of_an_epoch_says_the_way_out() {
    let mut gateway = Gateway { keyring: None, accepted: Accepted::default() };
    let ring = keyring(1, 1, CONTROLLER, None);
    let refused = |got: Result<Offer, Refusal>| got.map_err(|e| (e.code(), e.to_string())).unwrap_err();
    let (code, words) = refused(gateway.take(&pushed(1, 4, CONTROLLER, None)));
    assert_eq!(code, "epoch-unknown");
    assert!(words.contains("assignment 4 of epoch 1 is of a later epoch") && words.contains("/v1/keyrings"), "{words}");
    gateway.take(&pushed(1, 4, CONTROLLER, Some(ring))).unwrap();
    let (code, words) = refused(gateway.take(&pushed(0, 9, CONTROLLER, None)));
    assert!(code == "epoch-over" && words.contains("assignment 9 is of epoch 0"), "{words}");
    let (code, words) = refused(gateway.take(&pushed(1, 3, CONTROLLER, None)));
    assert!(code == "older" && words.contains("3 of epoch 1 is older than 4 of epoch 1"), "{words}");
    let lower = gateway.trust().with_keyring(keyring(2, 0, CONTROLLER, None)).unwrap_err();
    assert_eq!(lower.code(), "keyring-epoch");
    assert!(lower.to_string().contains("says epoch 0, and epoch 1 was taken"), "{lower}");
}

/// What the version before signed and wrote has no epoch.
#[test]
fn without_an_epoch_it_is_the_first_and_the_first_is_written_without() {
    let accepted: Accepted = serde_json::from_str(r#"{"number":7,"assignment":null}"#).unwrap();
    assert_eq!(accepted.at(), 7.into());
    let written = [
        serde_json::to_string(&accepted).unwrap(),
        String::from_utf8_lossy(assignment(7, None, 0).to_envelope().unverified_payload()).into_owned(),
        String::from_utf8_lossy(keyring(1, 0, NEXT, None).unverified_payload()).into_owned(),
    ];
    assert!(written.iter().all(|text| !text.contains("epoch")), "{written:?}");
    let too_high = keyring(2, NUMBER_MAX + 1, NEXT, None);
    assert!(trust().with_keyring(too_high).unwrap_err().to_string().contains("its epoch is"));
}
