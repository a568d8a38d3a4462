//! `tidegate config`: from a key to a document that a gateway would take, and everything it would not.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use support::process::run;

/// Files of one test, with commands that find them by name.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// `tidegate config …`, or keys; words with `./` in front are files of this desk.
    fn config(&self, words: &[&str]) -> (i32, String, String) {
        let command = if words.first() == Some(&"signing") { "keys" } else { "config" };
        let words: Vec<String> = words
            .iter()
            .map(|word| {
                word.strip_prefix("./").map_or((*word).to_owned(), |name| self.path(name).display().to_string())
            })
            .collect();
        let words: Vec<&str> = [command].into_iter().chain(words.iter().map(String::as_str)).collect();
        let (code, out, err) = run(Path::new(env!("CARGO_BIN_EXE_tidegate")), &words);
        let dir = format!("{}/", self.0.path().display());
        (code, out.replace(&dir, ""), err.replace(&dir, ""))
    }

    fn ok(&self, words: &[&str]) -> String {
        let (code, out, err) = self.config(words);
        assert_eq!(code, 0, "{words:?}: {out}{err}");
        out
    }

    fn refused(&self, words: &[&str]) -> String {
        let (code, out, err) = self.config(words);
        assert_eq!((code, out.as_str()), (64, ""), "{words:?}: {err}");
        err
    }

    /// A new key: its public text and id.
    fn key(&self, name: &str, role: &str) -> (String, String) {
        let out = self.ok(&["signing", name, "--role", role]);
        let after = |label: &str| out.lines().find_map(|line| line.strip_prefix(label)).unwrap().trim().to_owned();
        (after("public key"), after("key id"))
    }

    /// A gateway's own file that trusts these.
    fn gateway(&self, artefact: &str, controller: &str, root: &str) {
        self.write(
            "edge.toml",
            &format!(
                "[node]\nid = \"press-7\"\n[uplink]\npulsar = [\"pulsar://127.0.0.1\"]\ntoken = \"own-s3cret\"\n\
                 [downlink]\nroots = [\"{root}\"]\nartefact_keys = [\"{artefact}\"]\ncontroller_keys = [\"{controller}\"]\n"
            ),
        );
    }
}

const PRESS: &str =
    "[uplink]\npulsar = [\"pulsar+ssl://broker.example\"]\nwindow = \"8MiB\"\n\n[log]\nlevel = \"warn\"\n";

#[test]
fn from_a_key_to_a_document_that_the_gateway_takes() {
    let desk = Desk::new();
    let (anna, anna_id) = desk.key("./anna.key", "artefact");
    let (cloud, _) = desk.key("./cloud.key", "controller");
    let (root, _) = desk.key("./root.key", "root");
    assert_eq!(fs::metadata(desk.path("anna.key")).unwrap().permissions().mode() & 0o777, 0o600);
    desk.gateway(&anna, &cloud, &root);
    desk.write("press.toml", PRESS);

    let checked = desk.ok(&["check", "./press.toml"]);
    assert_eq!(
        checked,
        "press.toml: ok (document, without a version)\n  sets log.level, uplink.pulsar, uplink.window\n"
    );
    desk.ok(&["check", "./press.toml", "--config", "./edge.toml"]);
    let signed = desk.ok(&[
        "sign",
        "./press.toml",
        "--key",
        "./anna.key",
        "--version",
        "12",
        "--expires",
        "90d",
        "-o",
        "./press.signed",
    ]);
    assert_eq!(signed, format!("press.signed: signed by {anna_id}\n"));
    let verified = desk.ok(&["verify", "./press.signed", "--config", "./edge.toml"]);
    assert!(verified.starts_with("press.signed: ok (document, version 12, until "), "{verified}");
    assert!(verified.contains(&format!("  signed by {anna_id}\n  sha256 ")), "{verified}");
    // To standard output as well, for pipes.
    let json = desk.ok(&["sign", "./press.toml", "--key", "./anna.key", "--version", "12"]);
    assert!(json.starts_with("{\"payloadType\":\"application/vnd.tidegate.config.v1+toml\",\"payload\":\""), "{json}");

    // What it changes there; the token is not shown, and it was not touched.
    let diff = desk.ok(&["diff", "./press.signed", "--config", "./edge.toml"]);
    assert_eq!(
        diff,
        "uplink.pulsar: [\"pulsar://127.0.0.1:6650\"] → [\"pulsar+ssl://broker.example:6651\"]\n\
         uplink.window: \"4MiB\" → \"8MiB\"\nlog.level: \"info\" → \"warn\"\n"
    );
    desk.write("next.toml", &PRESS.replace("8MiB", "16MiB").replace("[log]", "token = \"new-s3cret\"\n[log]"));
    let diff = desk.ok(&["diff", "./press.toml", "./next.toml"]);
    assert_eq!(diff, "uplink.token: (not in the document) → (secret)\nuplink.window: \"8MiB\" → \"16MiB\"\n");
    let diff = desk.ok(&["diff", "./press.toml", "./next.toml", "--config", "./edge.toml"]);
    assert_eq!(diff, "uplink.token: (secret) → (another secret)\nuplink.window: \"8MiB\" → \"16MiB\"\n");
    assert_eq!(desk.ok(&["diff", "./press.toml", "./press.toml"]), "no difference\n");
}

/// Anna's key is stolen: a keyring takes it away and brings Ben's, and nobody visits the gateway.
#[test]
fn a_stolen_key_is_replaced_without_a_visit() {
    let desk = Desk::new();
    let (anna, anna_id) = desk.key("./anna.key", "artefact");
    let (cloud, _) = desk.key("./cloud.key", "controller");
    let (root, root_id) = desk.key("./root.key", "root");
    desk.gateway(&anna, &cloud, &root);
    desk.write("press.toml", PRESS);
    desk.ok(&["sign", "./press.toml", "--key", "./anna.key", "--version", "1", "-o", "./press.signed"]);
    let (ben, ben_id) = desk.key("./ben.key", "artefact");
    let out = desk.ok(&[
        "keyring",
        "--version",
        "1",
        "--artefact-key",
        &ben,
        "--revoke",
        &anna_id,
        "--key",
        "./root.key",
        "-o",
        "./ring.signed",
    ]);
    assert_eq!(out, format!("ring.signed: signed by {root_id}\n"));
    assert_eq!(
        desk.ok(&["verify", "./ring.signed", "--config", "./edge.toml"]),
        "ring.signed: ok (keyring, version 1, epoch 0)\n"
    );
    let with_ring = |file: &'static str| ["verify", file, "--config", "./edge.toml", "--keyring", "./ring.signed"];
    let err = desk.refused(&with_ring("./press.signed"));
    assert_eq!(
        err,
        format!(
            "tidegate: press.signed: revoked-key: the configuration document is signed by {anna_id}, which is revoked; \
             sign it again with another key\n"
        )
    );
    // Ben signs the same file: his signature stands beside hers.
    desk.ok(&["sign", "./press.signed", "--key", "./ben.key", "-o", "./press.both"]);
    assert!(desk.ok(&with_ring("./press.both")).contains(&format!("signed by {ben_id}")));
}

#[test]
fn a_policy_can_veto_a_document() {
    let desk = Desk::new();
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/policy.rego");
    fs::copy(policy, desk.path("policy.rego")).unwrap();
    desk.write("good.toml", &PRESS.replace("broker.example", "broker.example.com"));
    desk.write("bad.toml", "[uplink]\npulsar = [\"pulsar://10.0.0.1\"]\n[outbox]\nmax_bytes = \"16MiB\"\n");
    desk.ok(&["check", "./good.toml", "--policy", "./policy.rego"]);
    let err = desk.refused(&["check", "./bad.toml", "--policy", "./policy.rego"]);
    assert_eq!(
        err,
        "tidegate: bad.toml: denied by policy.rego: outbox.max_bytes is less than 100 MiB\n\
         bad.toml: denied by policy.rego: uplink.pulsar: 10.0.0.1 is not one of our hosts\n\
         bad.toml: denied by policy.rego: uplink.pulsar: pulsar://10.0.0.1:6650 has no TLS; write pulsar+ssl://\n"
    );
    desk.write("policy.rego", "package tidegate\nallow := true\n");
    let err = desk.refused(&["check", "./good.toml", "--policy", "./policy.rego"]);
    assert!(err.starts_with("tidegate: policy.rego: has no set \"deny\" in package tidegate; write: "), "{err}");
}

#[test]
fn a_gateway_does_not_take_what_is_not_in_order() {
    let desk = Desk::new();
    let (anna, anna_id) = desk.key("./anna.key", "artefact");
    let (cloud, cloud_id) = desk.key("./cloud.key", "controller");
    let (root, _) = desk.key("./root.key", "root");
    let (_, stranger_id) = desk.key("./stranger.key", "artefact");
    desk.gateway(&anna, &cloud, &root);
    desk.write("press.toml", PRESS);
    let sign = |key: &str, more: &[&str]| {
        let words: Vec<&str> = ["sign", "./press.toml", "--key", key, "--version", "1", "-o", "./out"]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        desk.ok(&words);
    };
    let verify = || desk.refused(&["verify", "./out", "--config", "./edge.toml"]);
    sign("./stranger.key", &[]);
    assert!(
        verify().contains(&format!("out: unknown-key: the configuration document is signed by {stranger_id} only"))
    );
    sign("./cloud.key", &[]);
    assert!(
        verify().contains(&format!(
            "out: wrong-role: the configuration document is signed by {cloud_id}, a controller key"
        ))
    );
    sign("./anna.key", &["--expires", "2026-01-01T00:00:00Z"]);
    assert!(verify().contains("out: expired: the configuration document is valid until 2026-01-01T00:00:00Z"));
    sign("./anna.key", &[]);
    let json = fs::read_to_string(desk.path("out")).unwrap();
    desk.write("out", &json.replace("\"payload\":\"W", "\"payload\":\"X"));
    assert!(
        verify().contains(&format!("out: bad-signature: the configuration document's signature by {anna_id} is wrong"))
    );
    desk.write("out", &json[..100]);
    assert!(verify().contains("out: is no signed file: it ends too early"));
    desk.write("out", PRESS);
    assert!(verify().contains("out: is not signed; \"tidegate config sign\" signs it"));

    // Signed or not, what is the gateway's own stays its own, and mistakes have their line.
    desk.write("press.toml", "[log]\nlevel = \"warm\"\n[http]\nlisten = \"0.0.0.0:1\"\n[downlink]\nroots = []\n");
    for words in
        [["check", "./press.toml"].as_slice(), &["sign", "./press.toml", "--key", "./anna.key", "--version", "1"]]
    {
        let err = desk.refused(words);
        let lines: Vec<&str> = err.lines().collect();
        assert!(lines[0].starts_with("tidegate: press.toml:2:9: log.level: \"warm\" is no level"), "{err}");
        assert!(lines[1].starts_with("press.toml:4:1: http.listen: is the gateway's own"), "{err}");
        assert!(lines[2].starts_with("press.toml:5:2: downlink: is the gateway's own"), "{err}");
        assert_eq!(lines[3], "press.toml: 3 errors");
    }
    desk.write("press.toml", "[uplink]\npulsar = [\"pulsar+ssl://a\"]\nca_file = \"/nowhere/ca.pem\"\n");
    desk.ok(&["check", "./press.toml"]);
    assert!(
        desk.refused(&["check", "./press.toml", "--config", "./edge.toml"])
            .contains("press.toml:3:11: uplink.ca_file: /nowhere")
    );
}

#[test]
fn a_wrong_command_line_is_answered_with_the_right_one() {
    let desk = Desk::new();
    desk.key("./a.key", "artefact");
    let before = fs::read(desk.path("a.key")).unwrap();
    assert!(desk.refused(&["signing", "./a.key"]).contains("is there already, and a key is never overwritten"));
    assert_eq!(fs::read(desk.path("a.key")).unwrap(), before);
    assert!(desk.refused(&["signing", "./none/a.key"]).contains("there is no such directory"));
    desk.write("d.toml", "[document]\nversion = 3\n");
    for (words, answer) in [
        (["sign", "./d.toml", "--key", "./d.toml"].as_slice(), "d.toml: holds no Ed25519 secret key"),
        (
            &["sign", "./d.toml", "--key", "./a.key", "--version", "4"],
            "its [document] says another version than --version 4",
        ),
        (&["sign", "./d.toml", "--key", "./a.key", "--expires", "1d"], "its [document] says another expiry"),
        (&["sign", "./e.toml", "--key", "./a.key"], "e.toml: has no version; give --version"),
        (
            &["sign", "./e.toml", "--key", "./a.key", "--version", "1", "--expires", "soon"],
            "--expires: \"soon\" is no duration",
        ),
        (&["sign", "./e.toml", "--key", "./a.key", "--version", "0"], "0 is not in 1..=9007199254740991"),
        (
            &["sign", "./f.toml", "--key", "./a.key", "--version", "2"],
            "its [document] has no version; write version = 2 there",
        ),
        (&["sign", "./none.toml", "--key", "./a.key"], "none.toml: cannot be read: No such file"),
        (&["diff", "./d.toml"], "name two documents, or one and the gateway's own file with --config"),
        (&["keyring", "--version", "1", "--revoke", "x", "--key", "./a.key"], "--revoke: \"x\" is no key id"),
        (
            &["keyring", "--version", "1", "--artefact-key", "x", "--key", "./a.key"],
            "--artefact-key: \"x\" is no public key",
        ),
    ] {
        desk.write("e.toml", "");
        desk.write("f.toml", "[document]\nexpires = 2027-01-31T12:00:00Z\n");
        let err = desk.refused(words);
        assert!(err.contains(answer), "{words:?}: {err}");
    }
    for command in ["check", "diff", "sign", "keyring", "verify"] {
        let help = desk.ok(&[command, "--help"]);
        assert!(help.contains(&format!("tidegate config {command}")), "{help}");
    }
}
