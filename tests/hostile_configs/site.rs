//! One gateway under attack: its devices, what is in its directory of pushed configuration, and the kill.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::mqtt_fleet::{self, Fleet};
use crate::support::tried::Node;
use crate::support::witness::Seen;

/// Every file whose change is a step of a trial.
const FILES: [&str; 5] = ["accepted", "keyring", "slot-a", "slot-b", "trial"];

/// Events of a node's devices a second, by HTTP and by MQTT each: many nodes share this machine.
const RATE: u64 = 8;

/// The steps of a trial as the disk shows them: how often one of its files was replaced.
pub struct Steps {
    dir: PathBuf,
    seen: BTreeMap<&'static str, (u64, i64, i64)>,
    pub count: u32,
}

impl Steps {
    /// From now on.
    pub fn of(node: &Node) -> Self {
        let mut steps = Self { dir: node.pushed(), seen: BTreeMap::new(), count: 0 };
        steps.look();
        steps.count = 0;
        steps
    }

    /// Counts what has changed since.
    pub fn look(&mut self) -> u32 {
        for name in FILES {
            let Ok(file) = std::fs::metadata(self.dir.join(name)) else { continue };
            let state = (file.ino(), file.mtime(), file.mtime_nsec());
            if self.seen.insert(name, state) != Some(state) {
                self.count += 1;
            }
        }
        self.count
    }
}

/// Devices of one node, by HTTP and by MQTT.
pub struct Devices {
    poster: Poster,
    mqtt: Fleet,
}

/// What they were promised.
pub struct Promised {
    posted: BTreeMap<String, u32>,
    mqtt: mqtt_fleet::Ledger,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub acknowledged: u64,
    pub lost: u64,
    pub duplicates: u64,
    pub altered: u64,
    /// Sequence numbers of the gateway that are nowhere, or twice.
    pub gaps: u64,
}

impl Devices {
    pub fn start(node: &Node, seed: u64) -> Self {
        let plan = mqtt_fleet::Plan {
            address: node.mqtt,
            devices: 1,
            window: 4,
            forgetful: usize::MAX,
            rate: RATE,
            seed,
            refusable: true,
        };
        Self { poster: Poster::start(&node.name, &node.process.url()), mqtt: Fleet::start(plan, |_| false) }
    }

    pub async fn stop(self) -> Promised {
        let mqtt = self.mqtt.stop().await;
        let posted = tokio::task::spawn_blocking(|| self.poster.stop()).await.unwrap();
        Promised { posted, mqtt }
    }
}

impl Promised {
    /// How many events must arrive at least.
    pub fn len(&self) -> u64 {
        self.posted.len() as u64 + self.mqtt_acknowledged().count() as u64
    }

    fn mqtt_acknowledged(&self) -> impl Iterator<Item = (u8, u32)> {
        self.mqtt.iter().flat_map(|(&device, known)| {
            (1..)
                .zip(&known.acknowledged)
                .filter(|(_, is)| **is)
                .map(move |(n, _)| (mqtt_fleet::qos(device, n), crc32fast::hash(&mqtt_fleet::payload(device, n))))
        })
    }

    /// Compares with what `node` has in Pulsar. Of MQTT with QoS 1 one that was not answered may come twice, and then
    /// the device has sent it twice. `swallows`: MQTT was told to stay here.
    pub fn judge(&self, node: &str, seen: &[Seen], swallows: bool) -> Counts {
        let of_node = format!("{node}.");
        let mine: Vec<&Seen> = seen.iter().filter(|seen| seen.stream.starts_with(&of_node)).collect();
        let mut counts = Counts { acknowledged: self.len(), ..Counts::default() };
        let (mut by_id, mut by_crc, mut by_place) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for seen in &mine {
            by_id.entry(seen.id.as_str()).or_insert_with(Vec::new).push(seen.crc);
            *by_crc.entry(seen.crc).or_insert(0_u64) += 1;
            *by_place.entry((seen.stream.as_str(), seen.seq)).or_insert(0_u64) += 1;
        }
        for (id, crc) in &self.posted {
            match by_id.get(id.as_str()).map(Vec::as_slice) {
                None => counts.lost += 1,
                Some([one]) => counts.altered += u64::from(one != crc),
                Some(more) => {
                    println!("{node}: {id} arrived {} times", more.len());
                    counts.duplicates += more.len() as u64 - 1;
                }
            }
        }
        for (qos, crc) in self.mqtt_acknowledged().filter(|_| !swallows) {
            let times = by_crc.get(&crc).copied().unwrap_or(0);
            counts.lost += u64::from(times == 0);
            if qos == 2 && times > 1 {
                let places: Vec<&&Seen> = mine.iter().filter(|seen| seen.crc == crc).collect();
                println!("{node}: a message of QoS 2 arrived {times} times: {places:?}");
                counts.duplicates += times - 1;
            }
        }
        for (place, times) in by_place.iter().filter(|(_, times)| **times > 1) {
            println!("{node}: {place:?} arrived {times} times");
        }
        counts.duplicates += by_place.values().map(|times| times - 1).sum::<u64>();
        let mut streams: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (stream, seq) in by_place.into_keys() {
            let (highest, different) = streams.entry(stream).or_default();
            (*highest, *different) = ((*highest).max(seq), *different + 1);
        }
        counts.gaps = streams.values().map(|(highest, different)| highest - different).sum();
        counts
    }
}

/// Posts one event after the other, and each again until it is accepted, whatever the answer was.
struct Poster {
    stop: Arc<AtomicBool>,
    accepted: Arc<Mutex<BTreeMap<String, u32>>>,
    thread: JoinHandle<()>,
}

impl Poster {
    fn start(node: &str, url: &str) -> Self {
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeMap::new())));
        let (stopped, known) = (stop.clone(), accepted.clone());
        let (url, node) = (format!("{url}/v1/events"), node.to_owned());
        let thread = std::thread::Builder::new().name("poster".to_owned()).spawn(move || {
            let agent: ureq::Agent =
                ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).build().into();
            for n in 1_u64.. {
                let (id, data) = (format!("{node}-{n}"), format!("{{\"n\":{n},\"node\":\"{node}\"}}"));
                let post = || {
                    agent
                        .post(&url)
                        .header("content-type", "application/json")
                        .header("ce-specversion", "1.0")
                        .header("ce-id", &id)
                        .header("ce-source", format!("/devices/{node}"))
                        .header("ce-type", "reading")
                        .send(data.as_str())
                };
                while !stopped.load(Ordering::Relaxed) {
                    if post().is_ok() {
                        known.lock().unwrap().insert(id, crc32fast::hash(data.as_bytes()));
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1000 / RATE));
            }
        });
        Self { stop, accepted, thread: thread.unwrap() }
    }

    fn stop(self) -> BTreeMap<String, u32> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the device panicked");
        std::mem::take(&mut *self.accepted.lock().unwrap())
    }
}

/// What a gateway trusts besides the usual keys: one that it trusts no more.
pub fn own_file(trusted: &str, retired: &tidegate::downlink::artefact::SecretKey, url: &str, tenant: &str) -> String {
    let key = retired.public();
    let artefact = format!("artefact_keys = [\"{key}\", ");
    let trusted = trusted.replace("artefact_keys = [", &artefact);
    format!("{trusted}revoked = [\"{}\"]\n[uplink]\npulsar = [\"{url}\"]\ntenant = \"{tenant}\"\n", key.id())
}

/// The built binary.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tidegate"))
}
