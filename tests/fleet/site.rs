//! One broker, one cloud, many gateways, and a clock.

use std::cell::Cell;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::downlink::artefact::{Envelope, Kind, SecretKey};
use tidegate::pulsar::names;
use tidegate::sys::limits::raise_open_files;

use crate::support::broker::{Broker, Options};
use crate::support::central::key;
use crate::support::load::{self, Usage};
use crate::support::process::Tidegate;
use crate::support::provision::{config_for, provision};
use crate::support::simulated::{Place, Simulated};

const TENANT: &str = "fleet";

/// More than any step takes on a machine that is shared.
const PATIENCE: Duration = Duration::from_secs(600);

/// How often the cloud is asked.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Connections of the gateways, twice: both ends may be in processes of one limit.
const OPEN_FILES: u64 = 20_000;

const ARTEFACT: u8 = 2;
const CONTROLLER: u8 = 3;

pub struct Site {
    gateways: Vec<Simulated>,
    place: Place,
    cloud: Tidegate,
    broker: Broker,
    _dirs: [TempDir; 2],
}

/// What was used when a stage began.
pub struct Stage {
    name: &'static str,
    at: Instant,
    broker: Usage,
    cloud: Usage,
    gateways: Usage,
}

/// A push, from its order on.
pub struct Push {
    id: &'static str,
    max_batch: usize,
    at: Instant,
    /// The order was answered.
    answered: Duration,
}

impl Site {
    pub fn start(fleet: usize, confirm: u64) -> Self {
        raise_open_files(OPEN_FILES).unwrap();
        // Each topic of a broker takes tens of kilobytes, and a gateway has two.
        let heap = if fleet > 200 { Some("2g") } else { None };
        let broker = Broker::start_with(Options { heap, ..Options::default() });
        let config = config_for(&broker, TENANT);
        provision(&config, false).unwrap();
        let dir = tempfile::Builder::new().prefix("fleet-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::write(dir.path().join("controller.key"), SecretKey::pem_of_seed(&[CONTROLLER; 32]).as_bytes())
            .unwrap();
        let [artefact, controller] = [ARTEFACT, CONTROLLER].map(|n| key(n).public().to_string());
        let toml = format!(
            "[pulsar]\nservice = \"{}\"\ntenant = \"{TENANT}\"\n\n[[lane]]\nname = \"telemetry\"\n\n\
             [[sink]]\nkind = \"files\"\ndir = {:?}\n\n[control]\ncontroller_key = {:?}\nartefact_keys = [\"{artefact}\"]\n",
            broker.service_url(),
            dir.path().join("events"),
            dir.path().join("controller.key"),
        );
        let cloud = Tidegate::start(Path::new(env!("CARGO_BIN_EXE_tidegate")), "cloud", dir.path(), &toml);
        // The machine has one disk, a fleet has thousands.
        let memory = Path::new("/dev/shm");
        let mut disks = tempfile::Builder::new();
        let disks = disks.prefix("tidegate-fleet-");
        let disks = if memory.is_dir() { disks.tempdir_in(memory) } else { disks.tempdir() }.unwrap();
        let downlink = format!(
            "[downlink]\nartefact_keys = [\"{artefact}\"]\ncontroller_keys = [\"{controller}\"]\nconfirm = \"{confirm}s\"\n\
             health_command = [\"/bin/true\"]\nhealth_timeout = \"2s\"\n"
        );
        let place = Place::new(broker.service_url(), TENANT, downlink, disks.path());
        let gateways = (0..fleet).map(|n| Simulated::new(&format!("gw-{n:05}"), &place)).collect();
        let site = Self { gateways, place, cloud, broker, _dirs: [dir, disks] };
        println!("{fleet} gateways, their disks in {}", site.place.dir.display());
        site
    }

    pub fn start_gateways(&mut self, which: Range<usize>) {
        tokio::task::block_in_place(|| self.gateways[which].iter_mut().for_each(Simulated::start));
    }

    pub async fn stop_gateways(&mut self, which: Range<usize>) {
        futures_util::future::join_all(self.gateways[which].iter_mut().map(Simulated::stop)).await;
    }

    pub fn begin(&self, name: &'static str) -> Stage {
        let [broker, cloud, gateways] = self.usage();
        Stage { name, at: Instant::now(), broker, cloud, gateways }
    }

    fn usage(&self) -> [Usage; 3] {
        [self.broker.pid(), self.cloud.pid().unwrap(), std::process::id()].map(Usage::of)
    }

    /// Prints what a stage took and used.
    pub fn end(&self, stage: Stage) {
        let [broker, cloud, gateways] = self.usage();
        let Stage { name, at, broker: b, cloud: c, gateways: g } = stage;
        println!("{name}: {:.1} s, load {:.0}", at.elapsed().as_secs_f64(), load::average());
        for (who, now, before) in [("broker", broker, b), ("cloud", cloud, c), ("all gateways", gateways, g)] {
            println!(
                "    {who}: {:.1} s of processor, {} MB, {} connections",
                now.cpu_s - before.cpu_s,
                now.rss_mb,
                now.connections
            );
        }
    }

    /// Waits until the cloud has heard so many gateways.
    pub async fn wait_present(&mut self, wanted: usize) {
        self.wait("/v1/status", |status| status["control"]["nodes"] == json!(wanted)).await;
        let topics = self.broker.admin("GET", &format!("persistent/{TENANT}/control"), "");
        let topics: Vec<String> = serde_json::from_str(&topics).unwrap();
        println!("topics of the gateways: {}", topics.len());
    }

    /// Prints what the topics hold that all share.
    pub fn tell_topics(&self) {
        for topic in [names::reports_topic(TENANT), names::rollouts_topic(TENANT), names::documents_topic(TENANT)] {
            let path = topic.replace("persistent://", "persistent/");
            let stats: Value = serde_json::from_str(&self.broker.admin("GET", &format!("{path}/stats"), "")).unwrap();
            println!("{topic}: {} messages, {} bytes", stats["msgInCounter"], stats["storageSize"]);
        }
    }

    /// Orders that all gateways run a document with this `http.max_batch`.
    pub fn push(&self, id: &'static str, max_batch: usize, plan: &Value) -> Push {
        let text = format!("[http]\nmax_batch = {max_batch}\n[document]\nversion = {max_batch}\n");
        let signed = Envelope::new(Kind::Config, text.into_bytes()).signed_by(&key(ARTEFACT)).encode();
        let at = Instant::now();
        let document = self.post("/v1/documents", &signed)["sha256"].clone();
        let order = json!({ "id": id, "document": document, "all": true, "plan": plan, "start": true });
        self.post("/v1/rollouts", &order.to_string());
        Push { id, max_batch, at, answered: at.elapsed() }
    }

    /// From now on, of a push that was ordered before.
    pub fn now(&self, id: &'static str, max_batch: usize) -> Push {
        Push { id, max_batch, at: Instant::now(), answered: Duration::ZERO }
    }

    fn post(&self, path: &str, body: &str) -> Value {
        tokio::task::block_in_place(|| {
            let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
            let request = agent.post(format!("{}{path}", self.cloud.url())).header("content-type", "application/json");
            let mut answer = request.send(body).unwrap();
            let value: Value = answer.body_mut().read_json().unwrap();
            assert_eq!(answer.status().as_u16(), 201, "{path}: {value:#}");
            value
        })
    }

    async fn wait(&mut self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let answer = tokio::task::block_in_place(|| self.cloud.get(path)).unwrap_or_default();
            if wanted(&answer) {
                return answer;
            }
            assert_eq!(self.cloud.exited(), None, "the cloud ended\n{}", self.cloud.log_tail());
            let links = self.gateways.iter().filter(|g| g.runs()).take(3).map(Simulated::link).collect::<Vec<_>>();
            assert!(begun.elapsed() < PATIENCE, "{path}: {answer:#}\n{links:#?}\n{}", self.cloud.log_tail());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How a push's roll-out stands, once it does so. Prints when the cloud had counted 99 % and 100 % of `of` successes.
    pub async fn wait_rollout(&mut self, push: &Push, of: usize, wanted: impl Fn(&Value) -> bool) -> Value {
        let counted = Cell::new([None; 2]);
        let path = format!("/v1/rollouts/{}", push.id);
        let seen = self.wait(&path, |rollout| {
            let succeeded = rollout["succeeded"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            let [most, all] = counted.get();
            let after = |enough: bool| enough.then(|| push.at.elapsed());
            counted.set([most.or(after(succeeded * 100 >= of * 99)), all.or(after(succeeded >= of))]);
            rollout.get("stage").is_some() && wanted(rollout)
        });
        let seen = seen.await;
        let [most, all] =
            counted.get().map(|d| d.map_or_else(|| "-".to_owned(), |d| format!("{:.2} s", d.as_secs_f64())));
        println!("push {:?}, as the cloud counts: 99 % after {most}, all after {all}", push.id);
        seen
    }

    /// Waits until all gateways run the document of this version, as the cloud sees it, and nothing is outstanding.
    pub async fn wait_settled(&mut self, version: usize) {
        let begun = Instant::now();
        for n in 0..self.gateways.len() {
            let path = format!("/v1/nodes/{}", self.gateways[n].name);
            let is_so = |node: &Value| {
                node["committed"]["version"] == json!(version) && node["assignment"]["outstanding"] != json!(true)
            };
            self.wait(&path, is_so).await;
        }
        println!("all run version {version} {:.1} s later", begun.elapsed().as_secs_f64());
        let first = &self.gateways[0];
        assert_eq!(first.record().candidate, None, "{}", first.name);
    }

    pub fn tried(&self, push: &Push) -> usize {
        self.gateways.iter().filter(|g| g.seen.tried(push.max_batch).is_some()).count()
    }

    pub fn kept(&self, push: &Push) -> usize {
        self.gateways.iter().filter(|g| g.seen.kept(push.max_batch).is_some()).count()
    }

    /// Prints how long after the order gateways had the document: on trial, and committed.
    pub fn tell(&self, push: &Push) {
        println!("push {:?}: the order was answered after {:.2} s", push.id, push.answered.as_secs_f64());
        let of = |at: fn(&Simulated, usize) -> Option<Instant>| {
            let mut all: Vec<Duration> =
                self.gateways.iter().filter_map(|g| at(g, push.max_batch)?.checked_duration_since(push.at)).collect();
            all.sort_unstable();
            all
        };
        for (what, all) in [("on trial", of(|g, b| g.seen.tried(b))), ("committed", of(|g, b| g.seen.kept(b)))] {
            let after = |percent: usize| {
                let i = (all.len() * percent).div_ceil(100).saturating_sub(1);
                all.get(i).map_or_else(|| "-".to_owned(), |d| format!("{:.2} s", d.as_secs_f64()))
            };
            println!(
                "    {what}: {} gateways, the first after {}, half after {}, 99 % after {}, all after {}",
                all.len(),
                after(0),
                after(50),
                after(99),
                after(100)
            );
        }
    }
}

/// Waves of these shares in percent; all must succeed, and one in twenty may fail.
pub fn plan(shares: &[u32]) -> Value {
    let wave = |share: &u32| json!({ "share_ppm": share * 10_000, "soak_ms": 0, "approval": false });
    json!({
        "waves": shares.iter().map(wave).collect::<Vec<_>>(),
        "failures_max": 100,
        "failures_share_max_ppm": 50_000,
        "successes_share_min_ppm": 1_000_000,
        "on_failure": "abort",
    })
}
