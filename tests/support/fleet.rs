//! Devices that post events and believe the answer: each sends its events in order, repeats one with
//! the same id until it is acknowledged, and remembers what was.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the devices send.
#[derive(Clone)]
pub struct Plan {
    /// Base URL of the edge.
    pub url: String,
    /// Number of devices, each a thread with its own connection.
    pub devices: usize,
    /// Events each device sends; `u64::MAX` for "until stopped".
    pub events_per_device: u64,
    /// Events per second of all devices together; 0: as fast as answers come.
    pub rate: u64,
    /// Data of event `n` (from 1) of device `d` (from 0).
    pub data: Arc<dyn Fn(usize, u64) -> Vec<u8> + Send + Sync>,
    /// Prefix of the devices' names.
    pub prefix: String,
}

/// Simulated readings of about 200 bytes.
pub fn simulated(device: usize, n: u64) -> Vec<u8> {
    let phase = (n as f64 / 40.0) + device as f64;
    format!(
        r#"{{"temperature":{:.3},"humidity":{:.2},"vibration_mm_s":{:.4},"n":{n},"unit":"press-{device}","state":"running","firmware":"2.{}.1","note":"simulated reading of a machine on the shop floor"}}"#,
        21.0 + 4.0 * phase.sin(),
        45.0 + 10.0 * (phase / 3.0).cos(),
        1.5 + 0.5 * (phase * 7.0).sin(),
        device % 4,
    )
    .into_bytes()
}

/// What one device knows.
#[derive(Clone, Debug, Default)]
pub struct DeviceLedger {
    /// CRC32 of the data of events 1, 2, 3 …, all acknowledged.
    pub acknowledged: Vec<u32>,
    /// One more event was offered and never answered: it may have been stored or not.
    pub uncertain: Option<u32>,
}

/// What the devices know, by device name.
pub type Ledger = BTreeMap<String, DeviceLedger>;

/// Running devices.
pub struct Fleet {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    longest_wait_ms: AtomicU64,
    ledger: Mutex<Ledger>,
    started: Instant,
}

impl Fleet {
    /// Starts all devices.
    pub fn start(plan: Plan) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            longest_wait_ms: AtomicU64::new(0),
            ledger: Mutex::default(),
            started: Instant::now(),
        });
        let threads = (0..plan.devices)
            .map(|d| {
                let (plan, shared) = (plan.clone(), shared.clone());
                std::thread::Builder::new()
                    .name(format!("device-{d}"))
                    .spawn(move || device(&plan, d, &shared))
                    .unwrap()
            })
            .collect();
        Self { shared, threads }
    }

    /// Events acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Longest time a device waited for one event to be acknowledged, repetitions included.
    pub fn longest_wait(&self) -> Duration {
        Duration::from_millis(self.shared.longest_wait_ms.load(Ordering::Relaxed))
    }

    /// Answers other than 202 and connections that broke.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// `true` when every device has sent all its events.
    pub fn done(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Asks the devices to stop after the event at hand, waits for them and returns what they know.
    pub fn stop(self) -> Ledger {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a device panicked");
        }
        std::mem::take(&mut *self.shared.ledger.lock().unwrap())
    }
}

/// Name of device `d`.
pub fn device_name(prefix: &str, d: usize) -> String {
    format!("{prefix}{d:03}")
}

fn device(plan: &Plan, d: usize, shared: &Shared) {
    let name = device_name(&plan.prefix, d);
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(20)))
        .http_status_as_error(false)
        .build()
        .into();
    let url = format!("{}/v1/devices/{name}/events", plan.url);
    let mut mine = DeviceLedger::default();
    'events: for n in 1..=plan.events_per_device {
        pace(plan, d, n, shared);
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let data = (plan.data)(d, n);
        let crc = crc32fast::hash(&data);
        let offered = Instant::now();
        mine.uncertain = Some(crc);
        loop {
            let answer = agent
                .post(&url)
                .header("content-type", "application/json")
                .header("ce-specversion", "1.0")
                .header("ce-id", format!("{name}-{n}"))
                .header("ce-source", format!("/devices/{name}"))
                .header("ce-type", "reading")
                .send(&data[..])
                .and_then(|mut a| a.body_mut().read_to_string().map(|body| (a.status().as_u16(), body)));
            match answer {
                Ok((202, _)) => break,
                Ok((status, body)) if (400..500).contains(&status) && status != 429 && status != 408 => {
                    panic!("{name}: event {n} refused with {status}: {body}");
                }
                _ => {
                    shared.refused.fetch_add(1, Ordering::Relaxed);
                    if shared.stop.load(Ordering::Relaxed) {
                        break 'events;
                    }
                    std::thread::sleep(Duration::from_millis(20 + (d as u64 * 7) % 60));
                }
            }
        }
        mine.uncertain = None;
        mine.acknowledged.push(crc);
        shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        let waited = u64::try_from(offered.elapsed().as_millis()).unwrap_or(u64::MAX);
        shared.longest_wait_ms.fetch_max(waited, Ordering::Relaxed);
    }
    shared.ledger.lock().unwrap().insert(name, mine);
}

/// Waits until event `n` of device `d` is due at the plan's rate.
fn pace(plan: &Plan, d: usize, n: u64, shared: &Shared) {
    if plan.rate == 0 {
        return;
    }
    let position = (n - 1) as f64 * plan.devices as f64 + d as f64;
    let due = shared.started + Duration::from_secs_f64(position / plan.rate as f64);
    while !shared.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= due {
            return;
        }
        std::thread::sleep((due - now).min(Duration::from_millis(50)));
    }
}
