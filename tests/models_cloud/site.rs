//! A tenant with a cloud that takes models, publishers, and a reader of packs that knows nothing of the cloud.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tidegate::cloud::control::wire::{Cluster, Entry, read_all};
use tidegate::config::edge::Downlink;
use tidegate::downlink::artefact::{SecretKey, Trust};
use tidegate::models::hash::Hash;
use tidegate::models::index::Index;
use tidegate::models::manifest::{Format, Manifest, Name, Signed};
use tidegate::models::pack::{self, Body, HeadReader};
use tidegate::models::plan::Plan;
use tidegate::pulsar::names;

use crate::support::broker::Broker;
use crate::support::process::{Tidegate, run};
use crate::support::provision::{config_for, provision};
use crate::support::random::Random;

/// More than any step takes on a machine that is shared.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The key that gateways and cloud trust, one that was revoked, and one that nobody knows.
pub const TRUSTED: u8 = 1;
pub const REVOKED: u8 = 2;
pub const STRANGER: u8 = 3;
/// The cloud's own, which signs assignments.
pub const CONTROLLER: u8 = 4;

pub struct Site {
    pub broker: Arc<Broker>,
    pub tenant: String,
    pub dir: TempDir,
    pub cloud: Tidegate,
    cluster: Cluster,
    clouds: usize,
    extra: String,
}

pub fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32]).unwrap()
}

pub fn trust() -> Trust {
    let artefact_keys = vec![key(TRUSTED).public().to_string()];
    Trust::new(&Downlink { artefact_keys, ..Downlink::default() }).unwrap()
}

impl Site {
    /// A tenant of its own on the broker that the tests share; `extra` is for `[models]`.
    pub fn start(tenant: &str, extra: &str) -> Self {
        let broker = Broker::shared();
        let config = config_for(&broker, tenant);
        provision(&config, false).unwrap();
        let cluster = Cluster::of(&config.pulsar).unwrap();
        let dir = tempfile::Builder::new().prefix("models-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for (name, n) in [("anna.key", TRUSTED), ("controller.key", CONTROLLER)] {
            std::fs::write(dir.path().join(name), SecretKey::pem_of_seed(&[n; 32]).as_bytes()).unwrap();
        }
        let cloud = cloud_in(&dir.path().join("cloud-0"), &broker, tenant, extra);
        let (tenant, extra) = (tenant.to_owned(), extra.to_owned());
        let site = Self { broker, tenant, dir, cloud, cluster, clouds: 1, extra };
        site.wait_read();
        site
    }

    /// The cloud and its disk are lost, and another one starts elsewhere.
    pub fn lose_cloud(&mut self) {
        self.cloud.kill9();
        std::fs::remove_dir_all(self.dir.path().join(format!("cloud-{}", self.clouds - 1))).unwrap();
        let dir = self.dir.path().join(format!("cloud-{}", self.clouds));
        self.cloud = cloud_in(&dir, &self.broker, &self.tenant, &self.extra);
        self.clouds += 1;
        self.wait_read();
    }

    /// Waits until the cloud knows the catalogue, and whose signatures count.
    pub fn wait_read(&self) {
        let begun = Instant::now();
        let is_read = || {
            let status = self.cloud.get("/v1/status").unwrap_or_default();
            status["control"]["reading"] == false && self.cloud.get("/v1/models").is_some()
        };
        while !is_read() {
            assert!(begun.elapsed() < PATIENCE, "no catalogue\n{}", self.cloud.log_tail());
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Status and JSON of a request; 0: no answer.
    pub fn post(&self, path: &str, kind: &str, body: &[u8]) -> (u16, Value) {
        post(&self.cloud.url(), path, kind, body)
    }

    /// Sends a manifest and a file as a publisher does.
    pub fn upload(&self, name: &str, manifest: &str, file: &[u8]) -> (u16, Value) {
        let body = [manifest.as_bytes(), b"\n", file].concat();
        self.post(&format!("/v1/models/{name}/versions"), "application/octet-stream", &body)
    }

    /// The versions in the catalogue, newest first.
    pub fn versions(&self, name: &str) -> Vec<u64> {
        let model = self.cloud.get(&format!("/v1/models/{name}")).unwrap_or_default();
        model["versions"].as_array().into_iter().flatten().filter_map(|v| v["version"].as_u64()).collect()
    }

    /// Runs `tidegate model …` as anna: exit code, standard output, standard error.
    pub fn cli(&self, args: &[&str]) -> (i32, String, String) {
        let url = self.cloud.url();
        let done = run(binary(), &[&["model"], args, &["--cloud", &url]].concat());
        println!("$ tidegate model {}\n{}{}[{}]", args.join(" "), done.1, done.2, done.0);
        done
    }

    /// A file in the site's directory.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// What is in the topic of a pack.
    pub fn entries(&self, name: &str, version: u64) -> Vec<Entry> {
        self.read(&names::pack_topic(&self.tenant, name, version))
    }

    /// What was put into a gateway's inbox.
    pub fn inbox(&self, node: &str) -> Vec<Entry> {
        self.read(&names::inbox_topic(&self.tenant, node))
    }

    fn read(&self, topic: &str) -> Vec<Entry> {
        let mut entries = Vec::new();
        let take = |entry| {
            entries.push(entry);
            ControlFlow::Continue(())
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(read_all(&self.cluster, topic, 100, take)).unwrap();
        entries
    }

    /// A pack that is complete.
    pub fn pack(&self, name: &str, version: u64) -> Pack {
        Pack::read(&self.entries(name, version))
    }

    /// The version from its packs, with nothing else at hand; how many packs it took.
    pub fn assemble(&self, name: &str, version: u64) -> (Vec<u8>, usize) {
        let newest = self.pack(name, version);
        let plan = Plan::of(&newest.index, |_| false);
        let mut chunks: HashMap<Hash, Vec<u8>> = HashMap::new();
        for (of, wanted) in &plan.packs {
            let pack = if *of == version { newest.clone() } else { self.pack(name, *of) };
            assert_eq!(pack.messages.len(), wanted.places as usize, "the pack of version {of} is whole");
            for place in &wanted.lacking {
                let Body::Piece(piece) = pack::decode(&pack.messages[*place as usize]).unwrap().body else {
                    panic!("place {place} of {of} is a piece")
                };
                chunks.extend(piece.chunks().map(|(hash, bytes)| (hash, bytes.to_vec())));
            }
        }
        let whole: Vec<u8> = newest.index.entries().iter().flat_map(|entry| chunks[&entry.hash].clone()).collect();
        assert_eq!(Hash::of(&whole), newest.signed.manifest().blake3);
        (whole, plan.packs.len())
    }
}

/// See [`Site::pack`].
#[derive(Clone)]
pub struct Pack {
    pub signed: Signed,
    pub index: Index,
    pub messages: Vec<Vec<u8>>,
}

impl Pack {
    /// Every place once, in order, at the time that belongs to it.
    fn read(entries: &[Entry]) -> Self {
        let (mut reader, mut head) = (HeadReader::default(), None);
        let base_ms = entries[0].published_ms;
        for (n, entry) in entries.iter().enumerate() {
            let message = pack::decode(entry.payload.as_deref().unwrap()).unwrap();
            assert_eq!((message.place as usize, message.places as usize), (n, entries.len()));
            assert_eq!(entry.published_ms, base_ms + n as u64, "a reader finds place {n} by its time");
            if let Body::Head(part) = message.body {
                head = reader.push(message.place, part).unwrap();
            }
        }
        let head = head.expect("a whole head");
        let signed = Signed::verify(&head.manifest, &trust()).unwrap();
        assert_eq!(head.index.fits(signed.manifest()), Ok(()));
        let messages = entries.iter().map(|entry| entry.payload.clone().unwrap()).collect();
        Self { signed, index: head.index, messages }
    }

    pub fn bytes(&self) -> usize {
        self.messages.iter().map(Vec::len).sum()
    }
}

fn cloud_in(dir: &Path, broker: &Broker, tenant: &str, extra: &str) -> Tidegate {
    let [trusted, revoked] = [TRUSTED, REVOKED].map(|n| key(n).public().to_string());
    let toml = format!(
        "[pulsar]\nservice = \"{}\"\ntenant = \"{tenant}\"\n\n[[lane]]\nname = \"telemetry\"\n\n\
         [[sink]]\nkind = \"files\"\ndir = {:?}\n\n\
         [control]\ncontroller_key = {:?}\nartefact_keys = [\"{trusted}\", \"{revoked}\"]\nrevoked = [\"{}\"]\n\n\
         [models]\ndir = {:?}\n{extra}\n",
        broker.service_url(),
        dir.join("events"),
        dir.with_file_name("controller.key"),
        key(REVOKED).public().id(),
        dir.join("models"),
    );
    Tidegate::start(binary(), "cloud", dir, &toml)
}

/// Status and JSON of an answer; 0: none.
pub fn post(url: &str, path: &str, kind: &str, body: &[u8]) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let request = agent.post(format!("{url}{path}")).header("content-type", kind).header("x-tidegate-author", "anna");
    match request.send(body) {
        Ok(mut answer) => (answer.status().as_u16(), answer.body_mut().read_json().unwrap_or_default()),
        Err(_) => (0, Value::Null),
    }
}

/// A manifest that is in order, to be spoiled by a test.
pub fn manifest(name: &str, version: u64, file: &[u8]) -> Manifest {
    Manifest {
        name: Name::parse(name).unwrap(),
        version,
        format: Format::Opaque,
        size: file.len() as u64,
        blake3: Hash::of(file),
        parent: None,
        metadata: BTreeMap::new(),
    }
}

/// Signed by anna.
pub fn signed(name: &str, version: u64, file: &[u8]) -> String {
    manifest(name, version, file).sign(&key(TRUSTED)).unwrap().encode()
}

/// Weights around zero with all the bits of their mantissas, as trained ones are.
pub fn weights(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::seeded(seed);
    let mut weight = || {
        let unit = |n: u64| n as f64 / (1_u64 << 32) as f64;
        ((unit(random.below(1 << 32)) + unit(random.below(1 << 32)) - 1.0) as f32 * 0.1).to_le_bytes()
    };
    std::iter::repeat_with(&mut weight).take(bytes / 4).flatten().collect()
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tidegate"))
}
