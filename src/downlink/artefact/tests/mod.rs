//! Tests of what is pushed: the format against its specification, and everything that must be refused.

mod commands;
mod envelope;
mod epochs;
mod flips;
mod judging;
mod models;
mod rotation;

use super::*;
use crate::config::edge::Downlink;
use crate::event::time::Timestamp;

/// The key number `n`.
fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32]).unwrap()
}

fn text(n: u8) -> String {
    key(n).public().to_string()
}

const ROOT: u8 = 1;
const ARTEFACT: u8 = 2;
const CONTROLLER: u8 = 3;
const STRANGER: u8 = 9;

fn downlink() -> Downlink {
    Downlink {
        roots: vec![text(ROOT)],
        artefact_keys: vec![text(ARTEFACT)],
        controller_keys: vec![text(CONTROLLER)],
        revoked: vec![],
        ..Downlink::default()
    }
}

fn trust() -> Trust {
    Trust::new(&downlink()).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_unix_ms(second * 1000)
}

fn document(version: u64) -> String {
    format!("[log]\nlevel = \"warn\"\n\n[document]\nversion = {version}\n")
}

fn assignment(number: u64, document: Option<&str>, version: u64) -> Assignment {
    Assignment {
        node: "press-7".to_owned(),
        epoch: 0,
        number,
        issued_at: at(1_800_000_000),
        expires_at: None,
        document: document.map(|text| DocumentRef { sha256: Digest::of(text.as_bytes()), version }),
        models: Vec::new(),
        reason: "a test".to_owned(),
        by: "anna".to_owned(),
    }
}

fn signed_document(text: &str, by: u8) -> Envelope {
    Envelope::new(Kind::Config, text.as_bytes().to_vec()).signed_by(&key(by))
}

/// A message that is in order.
fn message(number: u64) -> Message {
    let text = document(number);
    Message {
        keyring: None,
        assignment: assignment(number, Some(&text), number).to_envelope().signed_by(&key(CONTROLLER)),
        document: Some(signed_document(&text, ARTEFACT)),
    }
}

fn situation(trust: &Trust) -> Situation<'_> {
    Situation { node: "press-7", trust, accepted: Accepted::default(), now: Some(at(1_800_000_000)) }
}

fn judged(message: &Message, situation: &Situation<'_>) -> Result<Offer, Refusal> {
    judge(message.encode().as_bytes(), situation).state
}
