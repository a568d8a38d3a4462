//! What changes while somebody is being judged.

use super::super::devices_file::Device;
use super::*;
use crate::config::edge::IdentityMode;

fn device(name: &str, password: &str) -> Device {
    let password = Some(verify::password_hash(password.as_bytes()).unwrap());
    Device { name: name.into(), password, ..Device::default() }
}

fn gate(devices: Vec<Device>) -> Gate {
    let mut config = EdgeConfig::default();
    config.identity.mode = Some(IdentityMode::Required);
    let terms = Arc::new(Terms::of(&config.identity));
    let state = State { directory: Directory::default().next(devices).0, keys: None, terms };
    Gate::new(&config, Clock::system(), Counters::default(), state, Audit::none()).unwrap()
}

fn shown<'a>(user: &'a str, password: &'a str) -> Presented<'a> {
    let (peer, secret) = ([10, 0, 0, 1].into(), Some(password.as_bytes()));
    Presented { peer, certificate: None, user: Some(user), secret, bearer: None }
}

/// Another file is in force; those that changed are revoked.
fn change(gate: &Gate, devices: Vec<Device>) {
    let mut state = gate.0.state.write().unwrap();
    let (directory, over) = state.directory.next(devices);
    *state = Arc::new(State { directory, keys: None, terms: state.terms.clone() });
    drop(state);
    over.iter().for_each(|listed| listed.revoke());
}

/// The first is judged up to its password, which another thread looks at; then the second changes the file.
async fn while_it_is_judged(gate: &Gate, password: &str, devices: Vec<Device>) -> Result<Identity, Denied> {
    tokio::join!(gate.identify(shown("a", password)), async { change(gate, devices) }).0
}

#[tokio::test]
async fn a_device_that_does_not_change_does_not_notice_that_others_do() {
    let a = device("a", "right");
    let gate = gate(vec![a.clone()]);
    let identity = while_it_is_judged(&gate, "right", vec![a, device("b", "x")]).await.unwrap();
    assert!(!identity.is_revoked() && !identity.revoked().is_cancelled());
}

#[tokio::test]
async fn a_device_that_changes_meanwhile_is_judged_by_the_new_file() {
    let a = device("a", "right");
    let disabled = Device { disabled: true, ..a.clone() };
    for (after, denied) in [
        (vec![device("a", "new")], Denied::BadCredential),
        (vec![], Denied::BadCredential),
        (vec![disabled], Denied::Disabled),
    ] {
        let gate = gate(vec![a.clone()]);
        assert_eq!(while_it_is_judged(&gate, "right", after).await.unwrap_err(), denied);
    }
    // With other rights: let in, with those.
    let gate = gate(vec![a.clone()]);
    let may = Device { publish: Some(["site/#".to_owned()].into()), ..a };
    let identity = while_it_is_judged(&gate, "right", vec![may]).await.unwrap();
    assert!(identity.may_publish("site/x") && !identity.is_revoked());
}

#[tokio::test]
async fn a_right_password_does_not_pay_for_guessing_anothers() {
    let gate = gate(vec![device("mine", "right"), device("other", "secret")]);
    let after = gate.state().terms.config.lockout_after;
    for _ in 0..after {
        gate.identify(shown("mine", "right")).await.unwrap();
        assert_eq!(gate.identify(shown("other", "guess")).await.unwrap_err(), Denied::BadCredential);
    }
    let denied = gate.identify(shown("other", "guess")).await.unwrap_err();
    assert!(matches!(denied, Denied::LockedOut { .. }), "{denied:?}");
}

#[tokio::test]
async fn when_the_terms_change_whoever_is_in_comes_again_and_is_judged_by_the_new_ones() {
    let gate = Gate::open();
    let nobody = Presented { peer: [10, 0, 0, 1].into(), certificate: None, user: None, secret: None, bearer: None };
    let before = gate.identify(nobody).await.unwrap();
    assert!(gate.is_open() && !before.is_metered());
    let mut terms = edge::Identity { mode: Some(IdentityMode::Required), ..edge::Identity::default() };
    gate.set(&terms).unwrap();
    assert!(before.is_revoked() && before.revoked().is_cancelled());
    assert_eq!(gate.identify(nobody).await.unwrap_err(), Denied::NoCredential);
    terms.mode = Some(IdentityMode::Open);
    terms.total_events = 1;
    gate.set(&terms).unwrap();
    let after = gate.identify(nobody).await.unwrap();
    assert!(after.is_metered() && !after.is_revoked() && before.is_revoked());
    // A file that is not there changes nothing.
    terms.devices_file = Some("/nowhere/devices.toml".into());
    assert!(Gate::check(&terms).is_err() && gate.set(&terms).is_err());
    assert!(!after.is_revoked());
    // Files are looked at as the terms name them now.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("devices.toml");
    std::fs::write(&file, "").unwrap();
    terms.devices_file = Some(file);
    gate.set(&terms).unwrap();
    assert!(after.is_revoked() && gate.identify(nobody).await.is_ok());
}
