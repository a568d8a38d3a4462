//! What is made, what is kept, what is never overwritten.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn clock() -> Clock {
    Clock::set_to(1_800_000_000_000).0
}

fn place(dir: &Path) -> Place {
    Place { dir: dir.to_owned(), days: 30, force: false }
}

fn for_host(dir: &Path) -> ServerArgs {
    ServerArgs { name: vec!["gw.example".to_owned()], ip: vec!["::1".parse().unwrap()], place: place(dir) }
}

fn for_device(dir: &Path, name: &str) -> DeviceArgs {
    DeviceArgs { name: name.to_owned(), place: place(dir) }
}

fn text(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap()
}

#[test]
fn keys_are_for_their_owner_alone_and_the_next_steps_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let tls = dir.path().join("deep/tls");
    let said = server(&for_host(&tls), &clock()).unwrap();
    let devices = dir.path().join("deep/devices.toml");
    for expected in [
        format!("certificate_file = \"{}/server.pem\"", tls.display()),
        format!("devices_file = \"{}\"", devices.display()),
        "valid until 2027-02-14 (30 days)".to_owned(),
        "https://gw.example:8843/".to_owned(),
    ] {
        assert!(said.contains(&expected), "{expected} in {said}");
    }
    let said = device(&for_device(&tls, "press-7"), &clock()).unwrap();
    assert!(said.contains("client_ca_file") && said.contains("devices add press-7 --certificate"), "{said}");
    let mode = |file: &str| fs::metadata(tls.join(file)).unwrap().permissions().mode() & 0o777;
    for (key, certificate) in [("ca.key", "ca.pem"), ("server.key", "server.pem"), ("press-7.key", "press-7.pem")] {
        assert_eq!((mode(key), mode(certificate)), (0o600, 0o644), "{key}");
    }
    let listed = list::list(&tls, 1_800_000_000).unwrap();
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 4, "{listed}");
    assert_eq!(lines[1][..2], ["ca.pem", "authority"]);
    assert_eq!(lines[2], ["press-7.pem", "device", "2027-02-14", "29", "CN=press-7"]);
    assert_eq!(lines[3], ["server.pem", "server", "2027-02-14", "29", "CN=gw.example"]);
}

#[test]
fn renewing_keeps_the_keys_and_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    server(&for_host(dir.path()), &clock()).unwrap();
    device(&for_device(dir.path(), "a"), &clock()).unwrap();
    let all = ["ca.pem", "ca.key", "server.key", "a.key", "server.pem", "a.pem"];
    let before = all.map(|file| text(dir.path(), file));
    server(&for_host(dir.path()), &clock()).unwrap();
    device(&for_device(dir.path(), "a"), &clock()).unwrap();
    let after = all.map(|file| text(dir.path(), file));
    assert_eq!(before[..4], after[..4]);
    assert!(before[4] != after[4] && before[5] != after[5], "the certificates are new");
}

#[test]
fn what_this_did_not_make_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    server(&for_host(dir.path()), &clock()).unwrap();
    for (name, what) in [("server.key", "not one that this authority made"), ("server.pem", "is there")] {
        let kept = text(dir.path(), name);
        fs::write(file(name), "mine").unwrap();
        let e = server(&for_host(dir.path()), &clock()).unwrap_err().message;
        assert!(e.contains(what), "{e}");
        assert_eq!(text(dir.path(), name), "mine");
        fs::write(file(name), kept).unwrap();
    }
    // Of another authority.
    let other = tempfile::tempdir().unwrap();
    server(&for_host(other.path()), &clock()).unwrap();
    fs::copy(other.path().join("server.pem"), file("server.pem")).unwrap();
    fs::copy(other.path().join("server.key"), file("server.key")).unwrap();
    assert!(server(&for_host(dir.path()), &clock()).is_err());
    let args = for_host(dir.path());
    server(&ServerArgs { place: Place { force: true, ..args.place }, ..args }, &clock()).unwrap();
    fs::remove_file(file("ca.key")).unwrap();
    let e = device(&for_device(dir.path(), "a"), &clock()).unwrap_err().message;
    assert!(e.contains("ca.key is missing"), "{e}");
    fs::copy(other.path().join("ca.key"), file("ca.key")).unwrap();
    let e = device(&for_device(dir.path(), "a"), &clock()).unwrap_err().message;
    assert!(e.contains("is not the key of"), "{e}");
}

#[test]
fn names_clocks_and_authorities_that_will_not_do_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let e = device(&for_device(dir.path(), "a"), &clock()).unwrap_err().message;
    assert!(e.contains("tidegate keys server --dir"), "{e}");
    let nobody = ServerArgs { name: vec![], ip: vec![], place: place(dir.path()) };
    assert!(server(&nobody, &clock()).unwrap_err().message.contains("at least one --name or --ip"));
    let unset = Clock::set_to(1_000).0;
    assert!(server(&for_host(dir.path()), &unset).unwrap_err().message.contains("clock"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
    server(&for_host(dir.path()), &clock()).unwrap();
    for name in ["ca", "server", "../a", "a/b", "", ".a", "a b", "+"] {
        assert!(device(&for_device(dir.path(), name), &clock()).unwrap_err().message.contains("cannot be"), "{name}");
    }
    let late = Clock::set_to(1_800_000_000_000 + AUTHORITY_DAYS * 86_400_000).0;
    let e = server(&for_host(dir.path()), &late).unwrap_err().message;
    assert!(e.contains("tell all devices"), "{e}");
}
