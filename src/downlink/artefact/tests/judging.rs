//! What is accepted after what: each refusal once by hand, and histories of messages against a simple model.

use proptest::prelude::*;

use super::*;

fn refused(message: &Message, situation: &Situation<'_>) -> Refusal {
    judged(message, situation).unwrap_err()
}

#[test]
fn a_message_in_order_is_offered() {
    let offer = judged(&message(4), &situation(&trust())).unwrap();
    assert_eq!(offer.accepted.number, 4);
    let document = offer.document.unwrap();
    assert_eq!((document.text.as_str(), document.version), (super::document(4).as_str(), 4));
    assert_eq!(document.signer, key(ARTEFACT).public().id());
    // Back to the gateway's own file: no document, and one that came along anyway is not used.
    let mut back = message(5);
    back.assignment = assignment(5, None, 0).to_envelope().signed_by(&key(CONTROLLER));
    assert_eq!(judged(&back, &situation(&trust())).unwrap().document, None);
}

#[test]
#[allow(clippy::too_many_lines)] // a table
fn each_refusal_says_the_thing_the_reason_and_the_way_out() {
    let trust = trust();
    let plain = situation(&trust);
    let digest = |m: &Message| Digest::of(m.assignment.unverified_payload());
    let after = |number: u64, digest: Option<Digest>| Situation {
        accepted: Accepted::new(number.into(), digest),
        ..situation(&trust)
    };
    let mut unsigned = message(4);
    unsigned.assignment = assignment(4, Some(&document(4)), 4).to_envelope();
    let with_document = |text: &str, by: u8, version: u64| Message {
        assignment: assignment(4, Some(text), version).to_envelope().signed_by(&key(CONTROLLER)),
        document: Some(signed_document(text, by)),
        keyring: None,
    };
    let (own, revoking) = (
        key(ARTEFACT).public().id(),
        Downlink { revoked: vec![key(ARTEFACT).public().id().to_string()], ..downlink() },
    );
    let revoking = Trust::new(&revoking).unwrap();
    let swapped = Message { document: message(3).document, ..message(4) };
    let missing = Message { document: None, ..message(4) };
    let expired = "[document]\nversion = 4\nexpires = 2026-01-01T00:00:00Z\n";
    for (message, situation, code, words) in [
        (
            unsigned,
            plain,
            "unsigned",
            "the assignment is not signed; sign it with a key that this gateway trusts (downlink.controller_keys)"
                .to_owned(),
        ),
        (
            with_document(&document(4), STRANGER, 4),
            plain,
            "unknown-key",
            format!(
                "the configuration document is signed by {} only, which is none of this gateway's",
                key(STRANGER).public().id()
            ),
        ),
        (
            with_document(&document(4), CONTROLLER, 4),
            plain,
            "wrong-role",
            format!(
                "the configuration document is signed by {}, a controller key; it must be signed with a key of downlink.artefact_keys",
                key(CONTROLLER).public().id()
            ),
        ),
        (
            message(4),
            Situation { trust: &revoking, ..plain },
            "revoked-key",
            format!("the configuration document is signed by {own}, which is revoked"),
        ),
        (
            message(4),
            Situation { node: "press-8", ..plain },
            "foreign-node",
            "is for the node \"press-7\", and this is \"press-8\"".to_owned(),
        ),
        (message(4), after(5, None), "older", "assignment 4 is older than 5".to_owned()),
        (message(4), after(4, Some(digest(&message(4)))), "replayed", "nothing to do".to_owned()),
        (message(4), after(4, Some(digest(&message(5)))), "number-reused", "assignment 4 differs".to_owned()),
        (swapped, plain, "digest-mismatch", "is assigned; push it again".to_owned()),
        (missing, plain, "document-missing", "document version 4 is assigned and not in the message".to_owned()),
        (
            with_document(&document(3), ARTEFACT, 4),
            plain,
            "version-mismatch",
            "says it is version 3, and 4 is assigned".to_owned(),
        ),
        (with_document("[log]\n", ARTEFACT, 4), plain, "document-unreadable", "no [document] version".to_owned()),
        (
            with_document("[log\n", ARTEFACT, 4),
            plain,
            "document-unreadable",
            "document:1:5: is no valid TOML".to_owned(),
        ),
        (
            with_document("[document]\nversion = 0\n", ARTEFACT, 4),
            plain,
            "document-unreadable",
            "document:2:11: document.version: 0 is out of range".to_owned(),
        ),
        (
            with_document(expired, ARTEFACT, 4),
            plain,
            "expired",
            "the configuration document is valid until 2026-01-01T00:00:00Z, and now it is 2027-01-15T08:00:00Z"
                .to_owned(),
        ),
    ] {
        let refusal = refused(&message, &situation);
        assert_eq!(refusal.code(), code, "{refusal}");
        assert!(refusal.to_string().contains(&words), "{refusal}\n{words}");
    }
    // A clock that nobody trusts makes nothing too old.
    assert!(judged(&with_document(expired, ARTEFACT, 4), &Situation { now: None, ..plain }).is_ok());
}

#[test]
fn what_a_key_signed_must_still_make_sense() {
    let trust = trust();
    let with = |edit: &dyn Fn(&mut serde_json::Value)| {
        let mut json = serde_json::to_value(assignment(4, None, 0)).unwrap();
        edit(&mut json);
        let envelope = Envelope::new(Kind::Assignment, serde_json::to_vec(&json).unwrap()).signed_by(&key(CONTROLLER));
        judged(&Message { keyring: None, assignment: envelope, document: None }, &situation(&trust))
    };
    assert!(with(&|_| {}).is_ok());
    for edit in [
        (|a| a["number"] = 0.into()) as fn(&mut serde_json::Value),
        |a| a["number"] = (1_u64 << 53).into(),
        |a| a["number"] = (-1).into(),
        |a| a["node"] = "".into(),
        |a| a["node"] = "a/b".into(),
        |a| a["node"] = "n".repeat(65).into(),
        |a| a["reason"] = "r".repeat(513).into(),
        |a| a["by"] = "a\nb".into(),
        |a| a["issued_at"] = "yesterday".into(),
        |a| a["only_on_sundays"] = true.into(),
        |a| a["document"] = serde_json::json!({"sha256": "00", "version": 1}),
        |a| a["document"] = serde_json::json!({"sha256": "00".repeat(32), "version": 0}),
        |a| drop(a.as_object_mut().unwrap().remove("document")),
    ] {
        let mut shown = serde_json::to_value(assignment(4, None, 0)).unwrap();
        edit(&mut shown);
        let got = with(&edit);
        // A missing document reads as null: the gateway's own file.
        if shown.get("document").is_none() {
            assert!(got.is_ok());
            continue;
        }
        assert_eq!(got.unwrap_err().code(), "malformed", "{shown}");
    }
}

/// What a message is made of, for the model.
#[derive(Clone, Debug)]
struct Pushed {
    number: u64,
    /// Which of two contents.
    content: bool,
    node: bool,
    assigned_by: u8,
    signed_by: u8,
    expires: Option<i64>,
    now: Option<i64>,
    changed: bool,
    stored: bool,
}

fn pushed() -> impl Strategy<Value = Pushed> {
    let mostly = |right: u8| prop_oneof![6 => Just(right), 1 => Just(STRANGER), 1 => 1_u8..4];
    let base = (1_u64..6, any::<bool>(), prop::bool::weighted(0.9), mostly(CONTROLLER), mostly(ARTEFACT));
    let rest = (
        prop::option::weighted(0.3, 0_i64..10),
        prop::option::weighted(0.7, 0_i64..10),
        prop::bool::weighted(0.05),
        prop::bool::weighted(0.8),
    );
    (base, rest).prop_map(|((number, content, node, assigned_by, signed_by), (expires, now, changed, stored))| Pushed {
        number,
        content,
        node,
        assigned_by,
        signed_by,
        expires,
        now,
        changed,
        stored,
    })
}

impl Pushed {
    fn message(&self) -> Message {
        let text = document(1 + u64::from(self.content));
        let mut assigned = assignment(self.number, Some(&text), 1 + u64::from(self.content));
        assigned.node = if self.node { "press-7" } else { "press-8" }.to_owned();
        assigned.expires_at = self.expires.map(at);
        let sent = if self.changed { document(99) } else { text };
        Message {
            keyring: None,
            assignment: assigned.to_envelope().signed_by(&key(self.assigned_by)),
            document: Some(signed_document(&sent, self.signed_by)),
        }
    }

    /// In the words of the design: is it for us, newer, in time, whole, and by the right keys?
    fn is_in_order(&self, last: u64) -> bool {
        let over = self.expires.zip(self.now).is_some_and(|(expires, now)| now >= expires);
        self.assigned_by == CONTROLLER
            && self.node
            && self.number > last
            && !over
            && !self.changed
            && self.signed_by == ARTEFACT
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever comes in whatever order: exactly what is in order is accepted, and the number only grows. A process that
    /// dies before it has stored what was accepted is offered the same again.
    #[test]
    fn histories_are_as_a_simple_model_says(history in prop::collection::vec(pushed(), 1..8)) {
        let trust = trust();
        let mut accepted = Accepted::default();
        for pushed in history {
            let situation = Situation { accepted, now: pushed.now.map(at), ..situation(&trust) };
            let got = judged(&pushed.message(), &situation);
            prop_assert_eq!(got.is_ok(), pushed.is_in_order(accepted.number), "{:?} {:?}", pushed, got);
            if let Ok(offer) = got && pushed.stored {
                prop_assert_eq!(offer.accepted.number, pushed.number);
                accepted = offer.accepted;
                // On disk and back.
                accepted = serde_json::from_str(&serde_json::to_string(&accepted).unwrap()).unwrap();
                let again = judged(&pushed.message(), &Situation { accepted, ..situation });
                prop_assert_eq!(again.unwrap_err(), Refusal::Replayed { number: pushed.number.into() });
            }
        }
    }
}
