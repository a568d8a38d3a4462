//! Manifests: who may sign one, and what it may say.

use proptest::prelude::*;

use super::*;
use crate::downlink::artefact::{Envelope, envelope::Kind};
use crate::models::manifest::{MEDIA_TYPE, METADATA_MAX, ManifestError};

fn verify(envelope: &Envelope) -> Result<Signed, ManifestError> {
    Signed::verify(envelope.encode().as_bytes(), &trust())
}

#[test]
fn only_an_artefact_key_that_is_not_revoked_signs_a_model() {
    let manifest = manifest(3, b"weights");
    let good = verify(&manifest.sign(&key(1)).unwrap()).unwrap();
    assert_eq!((good.manifest(), good.signer()), (&manifest, key(1).public().id()));
    assert!(matches!(verify(&manifest.sign(&key(2)).unwrap()), Err(ManifestError::RevokedKey { .. })));
    assert!(
        matches!(verify(&manifest.sign(&key(3)).unwrap()), Err(ManifestError::UnknownKey { .. })),
        "a controller's"
    );
    assert!(matches!(verify(&manifest.sign(&key(9)).unwrap()), Err(ManifestError::UnknownKey { .. })));
    let json = manifest.sign(&key(1)).unwrap().encode();
    let bare = json.replace(&key(1).public().id().to_string(), "");
    assert!(Signed::verify(bare.as_bytes(), &trust()).is_ok(), "the id is a hint");
    let lying = manifest.sign(&key(9)).unwrap().encode();
    let lying = lying.replace(&key(9).public().id().to_string(), &key(1).public().id().to_string());
    assert!(matches!(Signed::verify(lying.as_bytes(), &trust()), Err(ManifestError::BadSignature { .. })));
    let unsigned = json.split("\"signatures\"").next().unwrap().to_owned() + "\"signatures\":[]}";
    assert!(matches!(Signed::verify(unsigned.as_bytes(), &trust()), Err(ManifestError::Unsigned)));
}

#[test]
fn a_signature_for_a_document_is_none_for_a_model() {
    let payload = serde_json::to_vec(&manifest(3, b"weights")).unwrap();
    let document = Envelope::new(Kind::Config, payload).signed_by(&key(1));
    assert!(matches!(verify(&document), Err(ManifestError::OtherType { .. })));
    let moved = document.encode().replace(Kind::Config.media_type(), MEDIA_TYPE);
    assert!(matches!(Signed::verify(moved.as_bytes(), &trust()), Err(ManifestError::BadSignature { .. })));
}

#[test]
fn what_a_manifest_says_is_within_its_bounds() {
    let refused = |change: fn(&mut Manifest)| {
        let mut manifest = manifest(3, b"weights");
        change(&mut manifest);
        assert!(matches!(manifest.sign(&key(1)), Err(ManifestError::Malformed { .. })), "{manifest:?}");
    };
    refused(|m| m.version = 0);
    refused(|m| m.version = 1 << 53);
    refused(|m| m.parent = Some(0));
    refused(|m| m.size = 0);
    refused(|m| m.size = (1 << 30) + 1);
    refused(|m| m.metadata = (0..=METADATA_MAX).map(|n| (n.to_string(), String::new())).collect());
    refused(|m| m.metadata = BTreeMap::from([("k".repeat(65), String::new())]));
    refused(|m| m.metadata = BTreeMap::from([("k".into(), "v".repeat(513))]));
    refused(|m| m.metadata = BTreeMap::from([("k".into(), "two\nlines".into())]));
    for name in ["", "Upper", "-a", "a-", "a/b", "..", "a b", "a-partition-1", &"a".repeat(65)] {
        assert_eq!(Name::parse(name), None, "{name:?}");
    }
}

/// As `deploy/examples` will do it in Python: sorted or not, with spaces, fields left out.
#[test]
fn any_json_of_a_manifest_is_taken_and_unknown_fields_are_not() {
    let json = format!(
        r#"{{ "blake3": "{}", "version": 1, "format": "onnx", "size": 7, "name": "press-anomaly" }}"#,
        Hash::of(b"weights")
    );
    let sign = |payload: &str| {
        let envelope = Envelope::new(Kind::Config, payload.as_bytes().to_vec()).encode();
        let envelope = envelope.replace(Kind::Config.media_type(), MEDIA_TYPE);
        Envelope::decode(envelope.as_bytes()).unwrap().signed_by(&key(1))
    };
    let signed = verify(&sign(&json)).unwrap();
    assert_eq!((signed.manifest().format, signed.manifest().parent), (Format::Onnx, None));
    for wrong in
        [json.replace("\"size\"", "\"only_for\": \"x\", \"size\""), json.replace("onnx", "pickle"), "{}".into()]
    {
        assert!(matches!(verify(&sign(&wrong)), Err(ManifestError::Malformed { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::models::tests::cases(1000)))]

    #[test]
    fn a_manifest_changed_anywhere_is_refused_or_says_the_same(
        from in any::<prop::sample::Index>(),
        length in 0_usize..40,
        put in prop::collection::vec(any::<u8>(), 0..12),
    ) {
        let good = signed(3, b"weights");
        let bytes = good.envelope().encode().into_bytes();
        let from = from.index(bytes.len());
        let end = (from + length).min(bytes.len());
        let changed = [&bytes[..from], &put, &bytes[end..]].concat();
        if let Ok(read) = Signed::verify(&changed, &trust()) {
            prop_assert_eq!(read.manifest(), good.manifest());
        }
    }
}
