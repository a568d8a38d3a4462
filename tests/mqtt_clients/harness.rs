//! A gateway with every kind of listener, and clients as child processes that may not take for ever.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidegate::ingest::identity::verify::password_hash;

use crate::support::certificates::certificates;
use crate::support::ports::free_port;
use crate::support::process::{Tidegate, output_file};

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

/// How long a start, or a client's whole story, may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Messages of the story that paho_story.py, mqttjs_story.mjs and rumqtt.rs tell: three qualities of service, one retained, three that
/// wait, a will, and one of a device with a password.
pub const STORY: u64 = 3 + 1 + 3 + 1 + 1;

/// A gateway that lets everybody in, and knows the device press-7 with the password "right".
pub struct Gate {
    process: Tidegate,
    pub tcp: u16,
    pub tls: u16,
    pub ws: u16,
    pub wss: u16,
    /// The authority of its certificate.
    pub ca: PathBuf,
    pub dir: TempDir,
}

impl Gate {
    pub fn start() -> Self {
        Self::with("")
    }

    /// With these lines in `[identity]`.
    pub fn with(identity: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [certificate, key, ca] = certificates(dir.path(), &["localhost", "127.0.0.1"]);
        let devices = dir.path().join("devices.toml");
        let password = password_hash(b"right").unwrap();
        std::fs::write(
            &devices,
            format!("[[device]]\nname = \"press-7\"\npassword = {password:?}\npublish = [\"#\"]\n"),
        )
        .unwrap();
        let [tcp, tls, ws, wss] = [(); 4].map(|()| free_port());
        let data = dir.path().join("data");
        let config = format!(
            "[node]\nid = \"gate\"\ndata_dir = {data:?}\n\
             [mqtt]\nlisten = \"127.0.0.1:{tcp}\"\ntls_listen = \"127.0.0.1:{tls}\"\nws_listen = \"127.0.0.1:{ws}\"\n\
             wss_listen = \"127.0.0.1:{wss}\"\nkeep_alive_max = \"60s\"\nsys_interval = \"0s\"\n\
             [tls]\ncertificate_file = {certificate:?}\nkey_file = {key:?}\n\
             [identity]\nmode = \"open\"\ndevices_file = {devices:?}\nlockout_after = 1000\n{identity}\n"
        );
        let mut process = Tidegate::start(Path::new(BINARY), "edge", dir.path(), &config);
        process.wait_ready(PATIENCE);
        Self { process, tcp, tls, ws, wss, ca, dir }
    }

    /// The last sequence in the outbox.
    pub fn stored(&self) -> u64 {
        self.process.get("/v1/status").unwrap()["lanes"][0]["last_seq"].as_u64().unwrap()
    }

    /// Waits until as many messages are in the outbox, for what is sent with QoS 0 or left as a will; there are no more.
    pub fn stores(&mut self, messages: u64) {
        self.process.wait_for("to store the messages", PATIENCE, |p| {
            p.get("/v1/status").is_some_and(|s| s["lanes"][0]["last_seq"].as_u64() >= Some(messages))
        });
        assert_eq!(self.stored(), messages);
    }

    /// A counter of /metrics, by the beginning of its line.
    pub fn metric(&self, line: &str) -> f64 {
        let text =
            ureq::get(format!("{}/metrics", self.process.url())).call().unwrap().into_body().read_to_string().unwrap();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or_else(|| panic!("no line {line:?} in\n{text}"))
    }
}

/// A client's process, with what it says in a file.
pub struct Running {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Running {
    pub fn start(command: &mut Command, dir: &Path, name: &str) -> Self {
        let output = dir.join(format!("{name}.out"));
        let file = output_file(&output);
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        Self { name: name.to_owned(), child, output }
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap()).into_owned()
    }

    /// Waits until it has said this.
    pub fn says(&mut self, words: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.said().contains(words) {
            assert!(Instant::now() < end, "{} did not say {words:?}:\n{}", self.name, self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for its end: exit code, and what it said.
    pub fn ends(mut self, within: Duration) -> (i32, String) {
        let end = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code().unwrap_or(-1), self.said());
            }
            assert!(Instant::now() < end, "{} does not end:\n{}", self.name, self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// kill -9
    pub fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a client's whole story.
pub fn succeeds(command: &mut Command, gate: &Gate, name: &str) {
    let (code, said) = Running::start(command, gate.dir.path(), name).ends(PATIENCE);
    assert_eq!(code, 0, "{name}:\n{said}");
}
