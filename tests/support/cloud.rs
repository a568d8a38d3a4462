//! The built binary as a cloud that stores what it gets in small files, and what is asked of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::broker::Broker;
use super::gateway::PARTITIONS;
use super::process::Tidegate;

/// More than it gives itself to end in order.
const STOP_MAX: Duration = Duration::from_secs(30);

/// A running cloud. Its configuration and its log are in the directory that it was given, what it stores in `events`.
pub struct Cloud {
    process: Tidegate,
    pub events: PathBuf,
}

impl Cloud {
    pub fn start(broker: &Broker, tenant: &str, lanes: &[&str], dir: &Path) -> Self {
        Self::start_at(&format!("service = \"{}\"", broker.service_url()), tenant, lanes, dir)
    }

    /// Over TLS, trusting `ca`.
    pub fn start_with_ca(broker: &Broker, tenant: &str, lanes: &[&str], dir: &Path, ca: &Path) -> Self {
        Self::start_at(&format!("service = \"{}\"\nca_file = {ca:?}", broker.tls_url()), tenant, lanes, dir)
    }

    fn start_at(service: &str, tenant: &str, lanes: &[&str], dir: &Path) -> Self {
        let events = dir.join("events");
        let mut toml = format!("[pulsar]\n{service}\ntenant = \"{tenant}\"\n");
        for lane in lanes {
            toml += &format!("\n[[lane]]\nname = \"{lane}\"\npartitions = {PARTITIONS}\n");
        }
        // Small files and frequent commits: many of every kind of step to be killed at.
        toml += &format!(
            "\n[[sink]]\nkind = \"files\"\ndir = {events:?}\nrotate_bytes = \"64KiB\"\ncommit_after = \"50ms\"\n"
        );
        let process = Tidegate::start(Path::new(env!("CARGO_BIN_EXE_tidegate")), "cloud", dir, &toml);
        Self { process, events }
    }

    /// Starts it again, after [`Cloud::kill9`] or [`Cloud::stop`].
    pub fn restart(&mut self) {
        self.process.restart();
    }

    /// kill -9.
    pub fn kill9(&mut self) {
        assert_eq!(self.process.exited(), None, "it ended by itself\n{}", self.process.log_tail());
        self.process.kill9();
    }

    /// Asks it to end and waits until it has, in order and in time.
    pub fn stop(&mut self) {
        assert_eq!(self.process.terminate(STOP_MAX), Some(0), "{}", self.process.log_tail());
        // It exits with 0 even when parts of it did not end; then it says so (src/app.rs).
        assert!(!self.process.log().contains("not everything ended in time"), "{}", self.process.log_tail());
    }

    /// Base URL of its HTTP interface.
    pub fn url(&self) -> String {
        self.process.url()
    }

    /// The JSON at `path`, whatever the status; `None`: no answer.
    pub fn get(&self, path: &str) -> Option<Value> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        agent.get(format!("{}{path}", self.url())).call().ok()?.body_mut().read_json().ok()
    }

    /// Waits until what `path` answers is `wanted`.
    pub fn wait_for(&mut self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + Duration::from_secs(90);
        loop {
            match self.get(path) {
                Some(value) if wanted(&value) => return value,
                answer => {
                    assert!(Instant::now() < end, "{path} still answers {answer:#?}\n{}", self.process.log_tail())
                }
            }
            assert_eq!(self.process.exited(), None, "it ended by itself\n{}", self.process.log_tail());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the totals of the audit say that `delivered` events are stored.
    pub fn wait_delivered(&mut self, delivered: usize) -> Value {
        self.wait_for("/v1/audit", |audit| audit["totals"]["delivered"] == delivered)
    }

    /// Every line on disk, files in order, as `(stream, seq)` with the line.
    pub fn stored(&self, lane: &str) -> Vec<((String, u64), Value)> {
        let mut paths: Vec<_> = fs::read_dir(self.events.join(lane)).unwrap().map(|e| e.unwrap().path()).collect();
        paths.retain(|p| p.to_string_lossy().contains(".ndjson.zst"));
        paths.sort();
        let mut lines = Vec::new();
        for path in paths {
            let text = String::from_utf8(zstd::decode_all(File::open(path).unwrap()).unwrap()).unwrap();
            for line in text.lines() {
                let value: Value = serde_json::from_str(line).unwrap();
                let stream = ["node", "incarnation", "lane"].map(|part| value[part].as_str().unwrap_or("-").to_owned());
                lines.push(((stream.join("."), value["seq"].as_u64().unwrap_or(0)), value));
            }
        }
        lines
    }
}
