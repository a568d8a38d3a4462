//! What is wrong is on the status page, with the way out, and its correction is found without a restart.

use std::path::Path;
use std::process::Command;

use crate::harness::Gateway;
use crate::support::certificates::certificates;
use crate::support::mosquitto::Mosquitto;
use crate::support::ports::free_port;

fn last_error(gateway: &mut Gateway, words: &[&str]) {
    let words: Vec<String> = words.iter().map(|&w| w.to_owned()).collect();
    gateway.wait_status(&format!("to say {words:?}"), |bridge| {
        let said = bridge["last_error"].as_str().unwrap_or_default();
        bridge["connected"] == false && words.iter().all(|word| said.contains(word))
    });
}

fn with_password(dir: &Path) -> String {
    let file = dir.join("passwords");
    let made = Command::new("mosquitto_passwd").args(["-b", "-c"]).arg(&file).args(["tide", "right"]).status().unwrap();
    assert!(made.success());
    "allow_anonymous false\npassword_file {dir}/passwords\n".to_owned()
}

fn wrong_password(version: &str) {
    let broker = Mosquitto::prepared(with_password);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "wrong\n").unwrap();
    let keys = format!("user_name = \"tide\"\npassword_file = {file:?}\nversion = \"{version}\"");
    let mut gateway = Gateway::start(&broker.url(), &keys, "");
    last_error(&mut gateway, &["refuses us", "NotAuthorized", "bridge.password_file"]);
    std::fs::remove_file(&file).unwrap();
    last_error(&mut gateway, &["bridge.password_file", "No such file"]);
    std::fs::write(&file, "right\n").unwrap();
    gateway.wait_connected();
    broker.publish(&["-u", "tide", "-P", "right", "-t", "a", "-m", "1", "-q", "1"]);
    gateway.wait_stored(1);
    assert!(!gateway.process.log().contains("right"), "the password is in the log");
}

#[test]
fn a_wrong_password_is_said_and_mended_in_3_1_1() {
    wrong_password("3.1.1");
}

#[test]
fn a_wrong_password_is_said_and_mended_in_5_0() {
    wrong_password("5.0");
}

fn wrong_authority(version: &str) {
    let mut authority = None;
    let broker = Mosquitto::prepared(|dir| {
        let [certificate, key, ca] = certificates(dir, &["localhost"]);
        authority = Some(ca.clone());
        format!(
            "allow_anonymous true\ncertfile {}\nkeyfile {}\ncafile {}\nrequire_certificate true\n",
            certificate.display(),
            key.display(),
            ca.display()
        )
    });
    let dir = tempfile::tempdir().unwrap();
    let [_, _, stranger] = certificates(dir.path(), &["localhost"]);
    let (ca, certificate, key) =
        (dir.path().join("trusted.pem"), broker.dir().join("cert.pem"), broker.dir().join("key.pem"));
    std::fs::copy(&stranger, &ca).unwrap();
    let keys =
        format!("ca_file = {ca:?}\ncertificate_file = {certificate:?}\nkey_file = {key:?}\nversion = \"{version}\"");
    let mut gateway = Gateway::start(&format!("mqtts://localhost:{}", broker.port()), &keys, "");
    last_error(&mut gateway, &["TLS with mqtts://localhost", "certificate", "bridge.ca_file"]);
    std::fs::write(&ca, "nothing").unwrap();
    last_error(&mut gateway, &["trusted.pem", "BEGIN CERTIFICATE"]);
    std::fs::copy(authority.unwrap(), &ca).unwrap();
    gateway.wait_connected();
    let (ca, cert, key) = (broker.dir().join("ca.pem"), certificate.display().to_string(), key.display().to_string());
    let ca = ca.display().to_string();
    broker.publish(&["--insecure", "--cafile", &ca, "--cert", &cert, "--key", &key, "-t", "a", "-m", "1", "-q", "1"]);
    gateway.wait_stored(1);
}

#[test]
fn a_wrong_authority_is_said_and_mended_in_3_1_1() {
    wrong_authority("3.1.1");
}

#[test]
fn a_wrong_authority_is_said_and_mended_in_5_0() {
    wrong_authority("5.0");
}

#[test]
fn a_host_without_an_address_is_named() {
    let mut gateway = Gateway::start("mqtt://no-such-host.invalid:1883", "", "");
    last_error(&mut gateway, &["cannot connect to mqtt://no-such-host.invalid:1883", "lookup", "bridge.url"]);
}

#[test]
fn a_broker_that_comes_later_is_found() {
    let mut gateway = Gateway::start(&format!("mqtt://127.0.0.1:{}", free_port()), "", "");
    last_error(&mut gateway, &["cannot connect", "refused", "check that the broker runs"]);
    let mut broker = Mosquitto::start();
    let mut gateway = Gateway::start(&broker.url(), "", "");
    gateway.wait_connected();
    broker.stop();
    last_error(&mut gateway, &[&broker.url()]);
    broker.restart();
    gateway.wait_connected();
}

#[test]
fn a_subscription_that_is_not_granted_as_asked_is_a_warning() {
    let broker = Mosquitto::with("allow_anonymous true\nmax_qos 0\n");
    let mut gateway = Gateway::start(&broker.url(), "topics = [\"open/#\", \"shut/a\"]", "");
    gateway.wait_status("to warn", |bridge| {
        bridge["connected"] == true
            && bridge["warning"].as_str().is_some_and(|w| w.contains("only QoS 0 for \"shut/a\""))
    });
}

#[test]
fn a_broker_that_hangs_is_left_and_found_again() {
    let broker = Mosquitto::start();
    let mut gateway = Gateway::start(&broker.url(), "keep_alive = \"5s\"", "");
    gateway.wait_connected();
    broker.freeze(true);
    last_error(&mut gateway, &["has said nothing for 1"]);
    last_error(&mut gateway, &["no answer within 10 s"]);
    broker.freeze(false);
    gateway.wait_connected();
    broker.publish(&["-t", "a", "-m", "1", "-q", "1"]);
    gateway.wait_stored(1);
}
