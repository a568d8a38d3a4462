//! The format: DSSE's example, keys as others write them, limits, and that what is written is read.

use proptest::prelude::*;

use super::super::envelope::{ENVELOPE_BYTES_MAX, SIGNATURES_MAX, pae};
use super::super::json::JsonError;
use super::*;
use crate::config::overlay::DOCUMENT_BYTES_MAX;

/// github.com/secure-systems-lab/dsse, protocol.md, "Test Vectors".
#[test]
fn what_is_signed_is_what_dsse_says() {
    assert_eq!(
        pae("http://example.com/HelloWorld", b"hello world"),
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    );
    // Lengths are of bytes.
    assert_eq!(pae("ü", "ä€".as_bytes()), "DSSEv1 2 ü 5 ä€".as_bytes());
    assert_eq!(pae("", b""), b"DSSEv1 0  0 ");
}

/// RFC 8032 §7.1, tests 1 and 2: secret, public, message, signature.
#[test]
fn keys_are_those_of_rfc_8032() {
    for (seed, public, message, signature) in [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ] {
        let hex = crate::config::key_text::parse_hex::<32>;
        let key = SecretKey::from_seed(&hex(seed).unwrap()).unwrap();
        let raw = hex(public).unwrap();
        assert_eq!(key.public().to_string(), crate::config::key_text::show_public_key(&raw));
        let message = if message.is_empty() { vec![] } else { vec![0x72] };
        assert_eq!(crate::config::key_text::show_hex(&key.sign(&message)), signature);
        assert!(key.public().verifies(&message, &key.sign(&message)));
    }
}

/// The form that OpenSSL writes and reads (`openssl pkey -in FILE -pubout` was tried with ours).
#[test]
fn secret_keys_are_plain_pkcs_8() {
    let pem = SecretKey::pem_of_seed(&[7; 32]);
    // RFC 8410 §7: the key in base64 fits one line of PEM.
    assert_eq!(
        *pem,
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH\n-----END PRIVATE KEY-----\n"
    );
    assert_eq!(SecretKey::from_pem(pem.as_bytes()).unwrap().public(), key(7).public());
    // RFC 8410 §10.3, the first example, and its public key of §10.1.
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    let key = SecretKey::from_pem(pem.as_bytes()).unwrap();
    assert_eq!(key.public().to_string(), "tidegate-pub-ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=");
    for wrong in ["", "x", &pem[..60], &pem.replace("PRIVATE", "PUBLIC"), &"x".repeat(10_000)] {
        assert_eq!(SecretKey::from_pem(wrong.as_bytes()).unwrap_err(), KeyError::Secret);
    }
}

#[test]
fn nothing_secret_is_shown() {
    let key = key(7);
    assert_eq!(format!("{key:?}"), format!("SecretKey({})", key.public().id()));
    let envelope = signed_document("[uplink]\ntoken = \"s3cret\"\n[document]\nversion = 1", ARTEFACT);
    let verified = trust().verify(envelope.clone(), Kind::Config).unwrap();
    let document = counter::judge_document(envelope.clone(), &trust(), None).unwrap();
    let shown = format!("{envelope:?} {verified:?} {document:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("115, 51"), "{shown}");
    let error = Envelope::decode(br#"{"payloadType":"t","payload":"c2VjcmV0","signatures":"s3cret"}"#).unwrap_err();
    assert!(!error.to_string().contains("s3cret"), "{error}");
}

#[test]
fn both_alphabets_of_base64_are_read_and_no_mixture() {
    let envelope = signed_document("\u{3ff}\u{3ff}~~???>>>", ARTEFACT);
    let json = envelope.encode();
    assert!(json.contains('+') && json.contains('/'), "{json}");
    let (head, payload) = json.split_once("\"payload\":\"").unwrap();
    let url = format!("{head}\"payload\":\"{}", payload.replace('+', "-").replace("/", "_").replace('=', ""));
    assert_eq!(Envelope::decode(url.as_bytes()).unwrap(), envelope);
    let mixed = json.replacen("35+P", "35-P", 1);
    assert_ne!(mixed, json);
    assert!(Envelope::decode(mixed.as_bytes()).is_err(), "{mixed}");
}

#[test]
fn every_limit_is_reached_and_said() {
    let huge = vec![b' '; ENVELOPE_BYTES_MAX + 1];
    let too_large = JsonError::TooLarge { bytes: huge.len(), bytes_max: ENVELOPE_BYTES_MAX };
    assert_eq!(Envelope::decode(&huge), Err(EnvelopeError::Json(too_large)));
    // The largest document fits, with signatures; one byte more does not.
    let largest = Envelope::new(Kind::Config, vec![b'#'; DOCUMENT_BYTES_MAX]).signed_by(&key(1)).signed_by(&key(2));
    assert_eq!(Envelope::decode(largest.encode().as_bytes()).unwrap(), largest);
    let larger = Envelope::new(Kind::Config, vec![b'#'; DOCUMENT_BYTES_MAX + 1]).encode();
    assert!(matches!(Envelope::decode(larger.as_bytes()), Err(EnvelopeError::TooMany { .. })));
    let sign = |count: usize| {
        let unsigned = Envelope::new(Kind::Config, vec![]);
        (0..count).fold(unsigned, |envelope, n| envelope.signed_by(&key(u8::try_from(n).unwrap())))
    };
    assert!(Envelope::decode(sign(SIGNATURES_MAX).encode().as_bytes()).is_ok());
    assert!(Envelope::decode(sign(SIGNATURES_MAX + 1).encode().as_bytes()).is_err());
    for (json, words) in [
        ("", "ends too early"),
        ("[", "ends too early"),
        ("{]", "is no JSON"),
        ("{}", "missing"),
        (r#"{"payloadType":"a","payload":"","signatures":[],"more":1}"#, "unknown"),
        (r#"{"payloadType":"a","payloadType":"a","payload":"","signatures":[]}"#, "twice"),
        (r#"{"payloadType":"a","payload":"?","signatures":[]}"#, "payload is no base64"),
        (r#"{"payloadType":"a","payload":"","signatures":[{"sig":"AAAA"}]}"#, "a signature of 3 bytes"),
        (r#"{"payloadType":"a","payload":"","signatures":[{"sig":"?"}]}"#, "signature is no base64"),
    ] {
        let error = Envelope::decode(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(words), "{json}: {error}");
    }
    let deep = "[".repeat(ENVELOPE_BYTES_MAX);
    assert!(Envelope::decode(deep.as_bytes()).is_err());
    let long_id =
        format!(r#"{{"payloadType":"a","payload":"","signatures":[{{"keyid":"{}","sig":""}}]}}"#, "i".repeat(129));
    assert!(Envelope::decode(long_id.as_bytes()).unwrap_err().to_string().contains("key id"));
}

/// Two full envelopes and an assignment are within what an inbox message may have.
#[test]
fn the_largest_document_fits_into_a_message() {
    let text = format!("{}\n[document]\nversion = 1\n", "#".repeat(DOCUMENT_BYTES_MAX - 30));
    let mut largest = message(1);
    let mut assigned = assignment(1, Some(&text), 1);
    assigned.reason = "\u{10ffff}".repeat(128);
    largest.assignment = assigned.to_envelope().signed_by(&key(CONTROLLER));
    largest.document = Some(signed_document(&text, ARTEFACT));
    let keyring = Keyring {
        version: 1,
        epoch: 0,
        issued_at: at(0),
        artefact_keys: vec![key(4).public().clone(); keyring::KEYS_MAX],
        controller_keys: vec![key(5).public().clone(); keyring::KEYS_MAX],
        revoked: vec![key(6).public().id(); keyring::REVOKED_MAX],
    };
    largest.keyring = Some(keyring.to_envelope().signed_by(&key(ROOT)));
    let bytes = largest.encode();
    assert!(bytes.len() <= message::MESSAGE_BYTES_MAX, "{}", bytes.len());
    let judged = judge(bytes.as_bytes(), &situation(&trust()));
    assert!(matches!(judged.keyring, Some(Ok(_))), "{judged:?}");
    assert_eq!(judged.state.unwrap().document.unwrap().text, text);
    let over = " ".repeat(message::MESSAGE_BYTES_MAX + 1);
    let refusal = judge(over.as_bytes(), &situation(&trust())).state.unwrap_err();
    assert_eq!(refusal.code(), "too-large");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_written_is_read(
        payload in prop::collection::vec(any::<u8>(), 0..400),
        kind in 0_usize..3,
        keys in prop::collection::btree_set(0_u8..20, 0..4),
    ) {
        let unsigned = Envelope::new(Kind::ALL[kind], payload.clone());
        let envelope = keys.iter().fold(unsigned, |envelope, n| envelope.signed_by(&key(*n)));
        let read = Envelope::decode(envelope.encode().as_bytes()).unwrap();
        prop_assert_eq!(&read, &envelope);
        prop_assert_eq!((read.unverified_payload(), read.signatures().len()), (payload.as_slice(), keys.len()));
    }

    /// Whatever comes, it is read or refused; nothing panics.
    #[test]
    fn anything_is_refused_in_words(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        text in "[{}\\[\\]\":,a-z0-9\\\\]{0,80}",
        media in "\\PC{0,20}",
    ) {
        for bytes in [bytes.as_slice(), text.as_bytes()] {
            if let Err(error) = Envelope::decode(bytes) {
                prop_assert!(error.to_string().len() < 200);
            }
            let judged = judge(bytes, &situation(&trust()));
            prop_assert!(judged.state.is_err() && judged.keyring.is_none());
            prop_assert!(Kind::of_media_type(&media).is_none());
        }
    }
}
