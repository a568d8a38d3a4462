//! Commands for devices: only a controller key's, only for this node, only while they last.

use std::time::Duration;

use super::*;

fn command() -> Command {
    Command {
        node: "press-7".to_owned(),
        device: "valve-1".to_owned(),
        id: "c-1".to_owned(),
        name: "open".to_owned(),
        content_type: Some("application/json".to_owned()),
        payload: br#"{"percent":30}"#.to_vec(),
        issued_at: at(1_800_000_000),
        expires_at: at(1_800_000_060),
        by: "anna".to_owned(),
    }
}

fn judged(envelope: Envelope) -> Result<Command, Refusal> {
    // As it travels.
    let envelope = Envelope::decode(envelope.encode().as_bytes()).unwrap();
    Command::of(&trust().verify(envelope, Kind::Command)?)
}

#[test]
fn a_command_is_taken_from_a_controller_key_alone() {
    let envelope = command().to_envelope();
    assert_eq!(judged(envelope.clone().signed_by(&key(CONTROLLER))), Ok(command()));
    for (signed, code) in [
        (envelope.clone(), "unsigned"),
        (envelope.clone().signed_by(&key(ARTEFACT)), "wrong-role"),
        (envelope.clone().signed_by(&key(STRANGER)), "unknown-key"),
    ] {
        assert_eq!(judged(signed).unwrap_err().code(), code);
    }
    // What is signed as something else is no command, and a command is nothing else.
    let assigned = assignment(1, None, 1).to_envelope().signed_by(&key(CONTROLLER));
    assert_eq!(judged(assigned).unwrap_err().code(), "wrong-type");
    let signed = envelope.signed_by(&key(CONTROLLER));
    assert_eq!(trust().verify(signed, Kind::Assignment).unwrap_err().code(), "wrong-type");
}

#[test]
fn a_command_waits_here_for_its_time_and_not_longer() {
    let waits = |node: &str, second: Option<i64>| command().waits_at(node, second.map(at)).map_err(|e| e.code());
    assert_eq!(waits("press-7", Some(1_800_000_020)), Ok(Duration::from_secs(40)));
    assert_eq!(waits("press-7", Some(1_800_000_060)), Err("expired"));
    assert_eq!(waits("press-8", Some(1_800_000_020)), Err("foreign-node"));
    // A clock that is behind, or that nobody trusts.
    assert_eq!(waits("press-7", Some(1_700_000_000)), Ok(Duration::from_secs(60)));
    assert_eq!(waits("press-7", None), Ok(Duration::from_secs(60)));
}

#[test]
fn a_command_that_cannot_be_meant_is_malformed() {
    let changes: [fn(&mut Command); 8] = [
        |c| c.device = "a/b".to_owned(),
        |c| c.id = "a b".to_owned(),
        |c| c.name.clear(),
        |c| c.content_type = Some("\n".to_owned()),
        |c| c.expires_at = c.issued_at,
        |c| c.payload = vec![0; command::PAYLOAD_BYTES_MAX + 1],
        |c| c.by = "x".repeat(1000),
        |c| c.device = "x".repeat(1000),
    ];
    for change in changes {
        let mut changed = command();
        change(&mut changed);
        assert_eq!(judged(changed.to_envelope().signed_by(&key(CONTROLLER))).unwrap_err().code(), "malformed");
    }
    let mut largest = command();
    largest.payload = vec![0xff; command::PAYLOAD_BYTES_MAX];
    assert_eq!(judged(largest.to_envelope().signed_by(&key(CONTROLLER))), Ok(largest));
}
