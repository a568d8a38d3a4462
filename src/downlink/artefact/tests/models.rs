//! Tests of the models in an assignment: what was agreed with the cloud, and what is refused.

use super::*;
use crate::downlink::artefact::assignment::ASSIGNMENT_BYTES_MAX;
use crate::downlink::artefact::model::{MODELS_MAX, Name};

fn model(name: &str, version: u64, mode: Mode) -> ModelAssigned {
    ModelAssigned { name: Name::parse(name).unwrap(), version, digest: Digest::of(b"manifest"), mode }
}

fn assigned(models: Vec<ModelAssigned>) -> Result<Offer, Refusal> {
    let assignment = Assignment { models, ..assignment(1, None, 0) };
    let assignment = assignment.to_envelope().signed_by(&key(CONTROLLER));
    let message = Message { keyring: None, assignment, document: None };
    judged(&message, &situation(&trust()))
}

#[test]
fn an_assignment_without_models_has_the_bytes_that_it_had_before_there_were_any() {
    let payload = serde_json::to_string(&assignment(3, None, 0)).unwrap();
    assert_eq!(
        payload,
        r#"{"node":"press-7","number":3,"issued_at":"2027-01-15T08:00:00Z","document":null,"reason":"a test","by":"anna"}"#
    );
    // Nor has one that was signed before any other meaning.
    let read: Assignment = serde_json::from_str(&payload).unwrap();
    assert!(read.models.is_empty());
}

#[test]
fn an_assignment_names_models_as_agreed_with_the_cloud() {
    let models = vec![model("anomaly", 7, Mode::Active), model("anomaly", 8, Mode::Shadow), model("old", 1, Mode::Off)];
    let with = Assignment { models: models.clone(), ..assignment(3, None, 0) };
    let digest = Digest::of(b"manifest");
    let payload = serde_json::to_string(&with).unwrap();
    let model = |name: &str, version: u64, mode: &str| {
        format!(r#"{{"name":"{name}","version":{version},"digest":"{digest}","mode":"{mode}"}}"#)
    };
    let listed = [model("anomaly", 7, "active"), model("anomaly", 8, "shadow"), model("old", 1, "off")].join(",");
    assert!(payload.contains(&format!(r#""document":null,"models":[{listed}],"reason""#)), "{payload}");
    assert_eq!(assigned(models.clone()).unwrap().assignment.models, models);
}

#[test]
fn models_out_of_bounds_are_refused() {
    let many = |n: usize| (0..n).map(|n| model(&format!("m{n}"), 1, Mode::Active)).collect::<Vec<_>>();
    assert!(assigned(many(MODELS_MAX)).is_ok());
    for wrong in [
        many(MODELS_MAX + 1),
        vec![model("a", 0, Mode::Active)],
        vec![model("a", u64::MAX, Mode::Active)],
        vec![model("a", 1, Mode::Active), model("a", 2, Mode::Active)],
        vec![model("a", 1, Mode::Active), model("a", 2, Mode::Off)],
        vec![model("a", 1, Mode::Shadow), model("a", 2, Mode::Shadow)],
    ] {
        assert_eq!(assigned(wrong.clone()).unwrap_err().code(), "malformed", "{wrong:?}");
    }
    let unknown = serde_json::json!({"name": "a", "version": 1, "digest": Digest::of(b""), "mode": "active", "if": 1});
    assert!(serde_json::from_value::<ModelAssigned>(unknown).is_err());
}

#[test]
fn the_largest_assignment_that_is_in_order_is_taken() {
    let name = |n: usize| format!("{n:0>64}");
    let models: Vec<_> =
        (0..MODELS_MAX).map(|n| model(&name(n), crate::config::overlay::VERSION_MAX, Mode::Shadow)).collect();
    let largest = Assignment {
        node: "n".repeat(64),
        number: super::super::assignment::NUMBER_MAX,
        models,
        reason: "\\".repeat(512),
        by: "\\".repeat(512),
        ..assignment(1, None, 0)
    };
    assert!(serde_json::to_vec(&largest).unwrap().len() < ASSIGNMENT_BYTES_MAX);
}
