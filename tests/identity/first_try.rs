//! From nothing to devices that post over HTTPS and publish over MQTT with TLS: with the commands that `tidegate keys` and
//! `tidegate devices` print, and other people's clients.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use tidegate::config::EdgeConfig;
use tidegate::event::record;
use tidegate::observe::metrics::Metrics;
use tidegate::outbox::Outbox;
use tidegate::sys::clock::Clock;

use crate::harness::{BINARY, SOON, text, tidegate};
use crate::support::ports::free_port;
use crate::support::process::run;

/// The gateway, set up by the file and, where a test needs it otherwise, by the environment.
struct Edge(Child);

impl Edge {
    fn start(config: &Path, data: &Path, ca: &Path) -> Self {
        let http = format!("127.0.0.1:{}", free_port());
        let child = Command::new(BINARY)
            .args(["edge", "--config", text(config)])
            .envs([("TIDEGATE_HTTP_LISTEN", http.as_str()), ("TIDEGATE_MQTT_LISTEN", "off")])
            .envs([("TIDEGATE_NODE_DATA_DIR", data), ("TIDEGATE_TLS_CLIENT_CA_FILE", ca)])
            .env("TIDEGATE_TLS_CLIENT_CERTIFICATES", "optional")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let edge = Self(child);
        let begun = Instant::now();
        while ureq::get(format!("http://{http}/readyz")).call().is_err() {
            assert!(begun.elapsed() < SOON, "not ready");
            thread::sleep(Duration::from_millis(50));
        }
        edge
    }

    fn terminate(mut self) {
        assert!(Command::new("kill").arg(self.0.id().to_string()).status().unwrap().success());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a client; its exit code and what it printed.
fn client(program: &str, args: &[&str]) -> (bool, String) {
    let out = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn post(ca: &str, port: u16, device: &str, more: &[&str]) -> (bool, String) {
    let url = format!("https://localhost:{port}/v1/devices/{device}/events");
    let fixed = ["-sS", "--fail-with-body", "--cacert", ca, "-H", "content-type: application/json", "-d", "{}", &url];
    client("curl", &[&fixed[..], more].concat())
}

fn publish(ca: &str, port: &str, topic: &str, more: &[&str]) -> (bool, String) {
    let fixed = ["-V", "5", "-q", "1", "--cafile", ca, "-h", "localhost", "-p", port, "-t", topic, "-m", "1"];
    client("mosquitto_pub", &[&fixed[..], more].concat())
}

async fn subjects(data: &Path) -> Vec<String> {
    let mut config = EdgeConfig::default();
    config.node.data_dir = data.to_owned();
    let outbox = Outbox::open(&config, &Clock::system(), &Metrics::default()).unwrap();
    let last = outbox.status()[0].last;
    let mut reader = outbox.reader("telemetry").unwrap();
    let mut found = Vec::new();
    while (found.len() as u64) < last {
        for stored in reader.read(found.len() as u64 + 1, 1 << 20).await.unwrap() {
            found.push(record::decode(&stored.record).unwrap().0.to_event().subject.unwrap());
        }
    }
    outbox.close().await;
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn from_nothing_to_devices_with_token_and_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (tls, config) = (dir.path().join("tls"), dir.path().join("edge.toml"));
    let said = tidegate(&["keys", "server", "--name", "localhost", "--dir", text(&tls)]);
    // What it says is what is used, but for the ports.
    let sections = &said[said.find("[tls]").unwrap()..said.find("Make a device").unwrap()];
    let (https, mqtts) = (free_port(), free_port());
    let sections = sections.replace("0.0.0.0:8843", &format!("127.0.0.1:{https}"));
    fs::write(&config, sections.replace("0.0.0.0:8883", &format!("127.0.0.1:{mqtts}"))).unwrap();
    let ca = tls.join("ca.pem");
    let token = tidegate(&["devices", "add", "press-7", "--config", text(&config)]);
    assert!(token.starts_with("tgd_") && !token.contains(char::is_whitespace), "{token}");
    let devices = fs::read_to_string(dir.path().join("devices.toml")).unwrap();
    assert!(!devices.contains(&token), "only its hash is kept");
    tidegate(&["keys", "device", "press-8", "--dir", text(&tls)]);
    tidegate(&["devices", "add", "press-8", "--certificate", "--config", text(&config)]);
    let listed = tidegate(&["devices", "list", "--config", text(&config)]);
    assert!(listed.contains("press-7  device    enabled   token"), "{listed}");
    assert!(listed.contains("press-8  device    enabled   certificate"), "{listed}");
    let data = dir.path().join("data");
    let edge = Edge::start(&config, &data, &ca);
    let (ca, port) = (text(&ca), mqtts.to_string());
    let bearer = format!("authorization: Bearer {token}");
    let files = ["pem", "key"].map(|end| tls.join(format!("press-8.{end}")));
    let [certificate, key] = [text(&files[0]), text(&files[1])];
    let (by_token, by_certificate) = (["-H", &bearer], ["--cert", certificate, "--key", key]);
    for (device, how) in [("press-7", &by_token[..]), ("press-8", &by_certificate[..])] {
        let (well, said) = post(ca, https, device, how);
        assert!(well && said.contains("\"accepted\":1"), "{said}");
        let (_, said) = post(ca, https, "other", how);
        assert!(said.contains("403"), "{said}");
    }
    let by_token = ["-u", "press-7", "-P", &token];
    for (device, how) in [("press-7", &by_token[..]), ("press-8", &by_certificate[..])] {
        let (well, said) = publish(ca, &port, &format!("devices/{device}/x"), how);
        assert!(well, "{said}");
        let (_, said) = publish(ca, &port, "devices/other/x", how);
        assert!(said.to_lowercase().contains("not authorized"), "{said}");
    }
    assert!(!post(ca, https, "press-7", &[]).0 && !publish(ca, &port, "devices/press-7/x", &[]).0);
    edge.terminate();
    let mut found = subjects(&data).await;
    found.sort();
    assert_eq!(found, ["press-7", "press-7", "press-8", "press-8"]);
}

#[test]
fn many_at_once_edit_the_devices_file_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("etc/devices.toml");
    thread::scope(|scope| {
        for n in 0..16 {
            let file = text(&file);
            scope.spawn(move || tidegate(&["devices", "add", &format!("d{n}"), "--file", file]));
        }
    });
    let listed = tidegate(&["devices", "list", "--file", text(&file)]);
    let names: BTreeSet<&str> = listed.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names.len(), 16, "{listed}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    let rotated = tidegate(&["devices", "rotate", "d3", "--file", text(&file)]);
    assert!(tidegate(&["devices", "list", "--file", text(&file)]).contains("2 tokens"));
    tidegate(&["devices", "rotate", "d3", "--finish", "--file", text(&file)]);
    tidegate(&["devices", "disable", "d4", "--file", text(&file)]);
    tidegate(&["devices", "remove", "d5", "--file", text(&file)]);
    let listed = tidegate(&["devices", "list", "--file", text(&file)]);
    assert!(listed.contains("disabled") && !listed.contains("2 tokens") && listed.lines().count() == 16, "{listed}");
    assert!(!fs::read_to_string(&file).unwrap().contains(&rotated));
    assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn mistakes_are_named_with_the_way_out_and_code_64() {
    let dir = tempfile::tempdir().unwrap();
    let (file, tls) = (dir.path().join("devices.toml"), dir.path().join("tls"));
    let (file, tls) = (text(&file), text(&tls));
    tidegate(&["devices", "add", "a", "--file", file]);
    for (args, said) in [
        (vec!["devices", "add", "a", "--file", file], "there is a device \"a\" already"),
        (vec!["devices", "add", "+", "--file", file], "name: write 1 to 256 bytes"),
        (vec!["devices", "remove", "b", "--file", file], "there is no device \"b\""),
        (vec!["devices", "list"], "give --file FILE"),
        (vec!["devices", "add", "b", "--token", "--password", "--file", file], "cannot be used with"),
        (vec!["keys", "server", "--dir", tls], "at least one --name or --ip"),
        (vec!["keys", "device", "a", "--dir", tls], "tidegate keys server"),
        (vec!["keys", "list", "--dir", tls], "cannot be read"),
    ] {
        let (code, out, err) = run(Path::new(BINARY), &args);
        assert!(code == 64 && out.is_empty() && err.contains(said), "{args:?}: {code} {err}");
    }
    for what in ["devices", "keys"] {
        let help = tidegate(&[what, "--help"]);
        assert!(help.contains("list"), "{help}");
    }
}
