//! The scoring as a whole, against models that do as the test says; `onnx` against real ones.

mod switch;
mod trouble;

#[cfg(feature = "inference")]
mod onnx;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::engine::{Engine, Open, Shape};
use super::verdict::{MODEL, SCORE, SHADOW_MODEL, SHADOW_SCORE};
use super::{Inference, Proofs, Scored};
use crate::config::EdgeConfig;
use crate::config::edge::Inference as Config;
use crate::event::Event;
use crate::event::tests::sample;
use crate::observe::metrics::Metrics;

/// A gateway's models: each file says in words how its model behaves.
pub(super) struct Site {
    pub config: EdgeConfig,
    pub metrics: Metrics,
    pub inference: Inference,
    dir: tempfile::TempDir,
}

/// All is proven, and files that are forged are found out when they are read.
struct AllButLies;

impl Proofs for AllButLies {
    fn is_proven(&self, _: &str, version: u64) -> bool {
        version < UNPROVEN
    }

    fn check(&self, _: &str, _: u64, bytes: &[u8]) -> Result<(), String> {
        if bytes == FORGED { Err("it is forged".to_owned()) } else { Ok(()) }
    }
}

/// Versions from this one on are not proven.
pub(super) const UNPROVEN: u64 = 1000;

/// A file that is not what was proven.
pub(super) const FORGED: &[u8] = b"times 1000";

/// "times 2", "nan", "panic", "sleep 50", "hang", "fail above 3".
pub(super) struct Words {
    columns: usize,
    text: String,
}

fn words(bytes: &[u8], shape: &Shape) -> Result<Box<dyn Engine>, String> {
    let text = String::from_utf8(bytes.to_vec()).map_err(|e| e.to_string())?;
    match text.as_str() {
        "broken" => Err("it is broken".to_owned()),
        "panics" => panic!("while it loads"),
        _ => Ok(Box::new(Words { columns: shape.columns, text })),
    }
}

impl Engine for Words {
    fn run(&mut self, rows: &[f32], count: usize) -> Result<Vec<f32>, String> {
        assert_eq!(rows.len(), count * self.columns);
        let sums = || rows.chunks(self.columns).map(|row| row.iter().sum::<f32>());
        let (verb, number) = self.text.split_once(' ').unwrap_or((&self.text, "0"));
        let number: f32 = number.parse().unwrap();
        // What is loaded is tried out on zeros: there it is harmless.
        let tried = rows.iter().all(|number| *number == 0.0);
        match verb {
            "times" => Ok(sums().map(|sum| sum * number).collect()),
            "nan" => Ok(vec![f32::NAN; count]),
            "few" if !tried => Ok(Vec::new()),
            "panic" if !tried => panic!("on a row"),
            "sleep" if !tried => {
                std::thread::sleep(Duration::from_secs_f32(number / 1000.0));
                Ok(sums().collect())
            }
            "limit" if sums().any(|sum| sum > number) => Err("too much".to_owned()),
            _ => Ok(sums().collect()),
        }
    }
}

pub(super) fn anomaly() -> Config {
    Config {
        model: "anomaly".to_owned(),
        types: vec!["*.telemetry".to_owned()],
        fields: vec!["/a".to_owned(), "/b".to_owned()],
        latency_max: Duration::from_secs(5),
        ..Config::default()
    }
}

impl Site {
    pub fn new(inferences: Vec<Config>) -> Self {
        Self::with(words, inferences)
    }

    pub fn with(open: Open, inferences: Vec<Config>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = EdgeConfig { inferences, ..EdgeConfig::default() };
        config.node.data_dir = dir.path().to_owned();
        config.node.id = "press-7".to_owned();
        let metrics = Metrics::default();
        let inference = Inference::with(open, &config, &metrics);
        inference.believe(Arc::new(AllButLies));
        Self { config, metrics, inference, dir }
    }

    /// Puts a version there and leads `link` to it, as the store of models does.
    pub fn switch(&self, link: &str, version: u64, file: &[u8]) {
        let dir = self.dir.path().join("models/anomaly");
        fs::create_dir_all(dir.join(version.to_string())).unwrap();
        fs::write(dir.join(version.to_string()).join("model"), file).unwrap();
        let new = dir.join("new");
        symlink(version.to_string(), &new).unwrap();
        fs::rename(new, dir.join(link)).unwrap();
    }

    pub fn remove(&self, link: &str) {
        fs::remove_file(self.dir.path().join("models/anomaly").join(link)).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes the configuration into effect, and looks at the links.
    pub async fn set(&self) {
        self.inference.set(&self.config).await;
    }

    pub async fn score(&self, events: Vec<Event>) -> Scored {
        self.inference.begin(events).finish().await
    }

    pub async fn score_one(&self, a: f32, b: f32) -> Event {
        let mut scored = self.score(vec![event("1", a, b)]).await;
        scored.events.pop().unwrap()
    }

    /// The value of a metric.
    pub fn metric(&self, line: &str) -> u64 {
        let text = self.metrics.text().unwrap();
        let found = text.lines().find_map(|l| l.strip_prefix(&format!("tidegate_inference_{line} ")));
        found.map_or(0, |number| number.parse().unwrap())
    }

    pub fn unscored(&self, role: &str, reason: &str) -> u64 {
        self.metric(&format!("unscored_events_total{{model=\"anomaly\",role=\"{role}\",reason=\"{reason}\"}}"))
    }

    pub fn scored(&self, role: &str) -> u64 {
        self.metric(&format!("scored_events_total{{model=\"anomaly\",role=\"{role}\"}}"))
    }
}

pub(super) fn event(id: &str, a: f32, b: f32) -> Event {
    let data = format!("{{\"a\":{a},\"b\":{b}}}").into();
    Event { ty: "press.telemetry".to_owned(), data, ..sample(id) }
}

pub(super) fn attribute<'e>(event: &'e Event, name: &str) -> Option<&'e str> {
    event.extensions.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

/// Model and score, then those of the candidate.
pub(super) fn said(event: &Event) -> [Option<&str>; 4] {
    [MODEL, SCORE, SHADOW_MODEL, SHADOW_SCORE].map(|name| attribute(event, name))
}
