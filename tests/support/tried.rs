//! A gateway that takes pushed configuration: the built binary, what it has on disk of a trial, and a device that posts
//! all the while.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tidegate::downlink::trial::Record;
use tidegate::downlink::trial::slots::Slots;

use super::ports::free_port;
use super::process::Tidegate;

/// Longer than anything takes on a machine that is busy.
const SOON: Duration = Duration::from_secs(90);

/// How far an assignment has come, as the disk shows it. In this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// It is known to be the newest, and nothing else.
    Accepted,
    /// Its document lies in a slot.
    Stored,
    /// The record says that it is on trial: from here on a start counts.
    OnTrial,
    /// The log says that it is being applied.
    Applied,
    /// It is decided.
    Decided,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Accepted, Self::Stored, Self::OnTrial, Self::Applied, Self::Decided];
}

/// A gateway; killed when dropped.
pub struct Node {
    pub name: String,
    pub process: Tidegate,
    pub mqtt: SocketAddr,
    file: PathBuf,
    data: PathBuf,
    _dir: tempfile::TempDir,
}

impl Node {
    /// Starts one with `rest` of its own file (`[uplink]`, `[downlink]`, …).
    pub fn start(binary: &Path, name: &str, rest: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mqtt = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = format!("[node]\nid = \"{name}\"\ndata_dir = {data:?}\n[mqtt]\nlisten = \"{mqtt}\"\n{rest}");
        let mut process = Tidegate::start(binary, "edge", dir.path(), &config);
        process.wait_ready(SOON);
        let file = dir.path().join("edge.toml");
        Self { name: name.to_owned(), process, mqtt, file, data, _dir: dir }
    }

    /// Its own file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The directory of models.
    pub fn models(&self) -> PathBuf {
        self.data.join("models")
    }

    /// The directory of pushed configuration.
    pub fn pushed(&self) -> PathBuf {
        self.data.join("downlink")
    }

    /// Kills it with -9 and starts it again.
    pub fn power_cut(&mut self) {
        self.process.kill9();
        self.process.restart();
        self.process.wait_ready(SOON);
    }

    /// `downlink` of its status page.
    pub fn status(&self) -> serde_json::Value {
        self.process.get("/v1/status").map(|mut status| status["downlink"].take()).unwrap_or_default()
    }

    /// The trial's record, as a start would find it.
    pub fn record(&self) -> Record {
        let found = Slots::open(&self.pushed()).unwrap().find().unwrap();
        found.record.unwrap().unwrap_or_default()
    }

    /// Whether assignment `number` has come as far as `step`.
    pub fn has_reached(&self, step: Step, number: u64) -> bool {
        let pushed = self.pushed();
        let found = || Slots::open(&pushed).unwrap().find().unwrap();
        let on_trial = |record: &Record| record.candidate.as_ref().is_some_and(|c| c.config.number >= number.into());
        let record = || found().record.ok().flatten().unwrap_or_default();
        match step {
            Step::Accepted => {
                let text = fs::read_to_string(pushed.join("accepted")).unwrap_or_default();
                let accepted: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
                accepted["number"].as_u64().is_some_and(|n| n >= number)
            }
            Step::Stored => found().slots.iter().flatten().any(|stored| stored.number >= number.into()),
            Step::OnTrial => record().settled >= number.into(),
            Step::Applied => self.process.log().contains("is on trial"),
            Step::Decided => {
                let record = record();
                record.settled >= number.into() && !on_trial(&record)
            }
        }
    }

    /// Waits for `step` and kills -9 at once; whatever else has happened by then. It is not started again.
    pub fn kill_at(&mut self, step: Step, number: u64) {
        self.wait_step(step, number);
        self.process.kill9();
    }

    /// Waits for `step`, looking as often as it can.
    pub fn wait_step(&mut self, step: Step, number: u64) {
        let begun = Instant::now();
        while !self.has_reached(step, number) {
            if let Some(code) = self.process.exited() {
                panic!("it ended with code {code} before {step:?} of {number}\n{}", self.process.log_tail());
            }
            assert!(begun.elapsed() < SOON, "no {step:?} of {number}\n{}", self.process.log_tail());
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Starts it again after a kill.
    pub fn restart(&mut self) {
        self.process.restart();
        self.process.wait_ready(SOON);
    }

    /// For [`super::central::Central::wait_report`]: that it lives, or its log.
    pub fn alive(&mut self) -> String {
        if let Some(code) = self.process.exited() {
            panic!("it ended with code {code}\n{}", self.process.log_tail());
        }
        format!("{}\n{}", self.status(), self.process.log_tail())
    }

    /// Asks it to read its own file again.
    pub fn hang_up(&self) {
        let pid = Pid::from_raw(self.process.pid().unwrap() as i32).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
    }

    /// A device that posts until [`Device::stop`].
    pub fn device(&self) -> Device {
        Device::start(format!("{}/v1/events", self.process.url()))
    }
}

/// Posts one event after the other, and each again until it is accepted.
pub struct Device {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Device {
    fn start(url: String) -> Self {
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), accepted.clone());
        let thread = std::thread::Builder::new().name("device".to_owned()).spawn(move || {
            let agent: ureq::Agent =
                ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).build().into();
            for n in 1_u64.. {
                let body = format!("{{\"specversion\":\"1.0\",\"id\":\"d-{n}\",\"source\":\"d\",\"type\":\"reading\",\"data\":{{\"n\":{n}}}}}");
                loop {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let sent = agent.post(&url).header("content-type", "application/cloudevents+json").send(body.clone());
                    if sent.is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, accepted, thread: Some(thread.unwrap()) }
    }

    /// How many events were accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// How many events were accepted.
    pub fn stop(mut self) -> u64 {
        self.end();
        self.accepted.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.end();
    }
}
