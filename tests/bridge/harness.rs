//! A gateway with one bridge, and what lies in its outbox.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate::config::EdgeConfig;
use tidegate::event::{Event, record};
use tidegate::observe::metrics::Metrics;
use tidegate::outbox::Outbox;
use tidegate::sys::clock::Clock;

use crate::support::process::Tidegate;

pub const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

/// Nothing here takes this long unless it never ends.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What mosquitto still has comes within this, unless it takes a bridge for gone and waits for the next.
pub const QUIET: Duration = Duration::from_secs(3);

/// The gateway.
pub struct Gateway {
    pub process: Tidegate,
    dir: tempfile::TempDir,
}

impl Gateway {
    /// With a bridge named "old" to `url`, with more of its keys, and more sections before it.
    pub fn start(url: &str, keys: &str, sections: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let config = format!(
            "[node]\nid = \"edge\"\ndata_dir = {data:?}\n{sections}\n[[bridge]]\nname = \"old\"\nurl = \"{url}\"\n{keys}\n"
        );
        let mut process = Tidegate::start(Path::new(BINARY), "edge", dir.path(), &config);
        process.wait_ready(PATIENCE);
        Self { process, dir }
    }

    /// The bridge's part of the status page.
    pub fn status(&self) -> Value {
        self.process.get("/v1/status").map_or(Value::Null, |mut status| status["bridges"]["old"].take())
    }

    /// Waits until the bridge's status is as wanted.
    pub fn wait_status(&mut self, what: &str, done: impl Fn(&Value) -> bool) {
        self.process.wait_for(what, PATIENCE, |process| {
            process.get("/v1/status").is_some_and(|status| done(&status["bridges"]["old"]))
        });
    }

    pub fn wait_connected(&mut self) {
        self.wait_status("to be connected", |bridge| bridge["connected"] == true);
    }

    /// Events on disk, over all lanes.
    pub fn stored(&self) -> u64 {
        let status = self.process.get("/v1/status").unwrap_or_default();
        status["lanes"].as_array().map_or(0, |lanes| lanes.iter().filter_map(|l| l["last_seq"].as_u64()).sum())
    }

    /// Waits until at least `n` events are on disk and everything that was taken is acknowledged.
    pub fn wait_stored(&mut self, n: u64) {
        let what = format!("to have {n} events");
        self.process.wait_for(&what, PATIENCE, |process| {
            let Some(status) = process.get("/v1/status") else { return false };
            let lanes = status["lanes"].as_array().unwrap();
            let stored: u64 = lanes.iter().filter_map(|lane| lane["last_seq"].as_u64()).sum();
            stored >= n && status["bridges"]["old"]["unacknowledged"] == 0
        });
    }

    /// Waits until nothing has come for [`QUIET`].
    pub fn wait_quiet(&mut self) {
        let (mut last, mut since) = (self.stored(), Instant::now());
        while since.elapsed() < QUIET {
            std::thread::sleep(Duration::from_millis(100));
            let now = self.stored();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Stops the gateway and reads what its lane "telemetry" holds.
    pub async fn events(&mut self) -> Vec<Event> {
        assert_eq!(self.process.terminate(PATIENCE), Some(0), "{}", self.process.log_tail());
        read(&self.data_dir(), "telemetry").await
    }

    /// A counter of the metrics page.
    pub fn counter(&self, name: &str) -> u64 {
        let url = format!("{}/metrics", self.process.url());
        let text = ureq::get(&url).call().unwrap().body_mut().read_to_string().unwrap();
        let start = format!("tidegate_bridge_{name}_total{{bridge=\"old\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&start)).map_or(0, |value| value.parse().unwrap())
    }
}

/// What lies in `lane` of an outbox that no process uses and nothing was delivered of.
pub async fn read(data_dir: &Path, lane: &str) -> Vec<Event> {
    let mut config = EdgeConfig::default();
    config.node.data_dir = data_dir.to_owned();
    config.lanes[0].name = lane.to_owned();
    let outbox = Outbox::open(&config, &Clock::system(), &Metrics::default()).unwrap();
    let last = outbox.status()[0].last;
    let mut reader = outbox.reader(lane).unwrap();
    let mut events = Vec::new();
    while (events.len() as u64) < last {
        let stored = reader.read(events.len() as u64 + 1, 1 << 20).await.unwrap();
        events.extend(stored.iter().map(|s| record::decode(&s.record).unwrap().0.to_event()));
    }
    outbox.close().await;
    events
}

/// Value of an extension attribute.
pub fn extension<'e>(event: &'e Event, name: &str) -> Option<&'e str> {
    event.extensions.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}
