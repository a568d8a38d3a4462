//! A tenant with keys, clouds and gateways, and what is asked of its clouds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::cloud::control::wire::Cluster;
use tidegate::config::edge::Downlink;
use tidegate::downlink::artefact::{Digest, Envelope, Kind, SecretKey, Trust};

use crate::fleet::Fleet;
use crate::support::broker::Broker;
use crate::support::process::{Tidegate, run};
use crate::support::provision::{config_for, provision};

/// More than any step takes on a machine that is shared.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Site {
    pub broker: Arc<Broker>,
    pub tenant: String,
    pub dir: TempDir,
    pub clouds: Vec<Tidegate>,
    pub fleet: Fleet,
    extra: String,
}

pub fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32]).unwrap()
}

const ARTEFACT: u8 = 1;
const CONTROLLER: u8 = 2;
const ROOT: u8 = 3;

impl Site {
    /// A tenant of its own on the broker that the tests share; `extra` is for `[control]`.
    pub fn start(tenant: &str, clouds: usize, extra: &str) -> Self {
        let broker = Broker::shared();
        let config = config_for(&broker, tenant);
        provision(&config, false).unwrap();
        let cluster = Cluster::of(&config.pulsar).unwrap();
        let public = |n: u8| vec![key(n).public().to_string()];
        let trust = Trust::new(&Downlink {
            roots: public(ROOT),
            artefact_keys: public(ARTEFACT),
            controller_keys: public(CONTROLLER),
            ..Downlink::default()
        });
        let dir = tempfile::Builder::new().prefix("control-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let fleet = Fleet::start(&cluster, tenant, trust.unwrap());
        for (name, n) in [("controller.key", CONTROLLER), ("anna.key", ARTEFACT), ("root.key", ROOT)] {
            std::fs::write(dir.path().join(name), SecretKey::pem_of_seed(&[n; 32]).as_bytes()).unwrap();
        }
        let mut site =
            Self { broker, tenant: tenant.to_owned(), dir, clouds: Vec::new(), fleet, extra: extra.to_owned() };
        for n in 0..clouds {
            site.add_cloud(n);
        }
        site
    }

    fn add_cloud(&mut self, n: usize) {
        let dir = self.dir.path().join(format!("cloud-{n}"));
        let (service, tenant, keys) = (self.broker.service_url(), &self.tenant, self.dir.path().join("controller.key"));
        let (artefact, root) = (key(ARTEFACT).public().to_string(), key(ROOT).public().to_string());
        let toml = format!(
            "[pulsar]\nservice = \"{service}\"\ntenant = \"{tenant}\"\n\n[[lane]]\nname = \"telemetry\"\n\n\
             [[sink]]\nkind = \"files\"\ndir = {:?}\n\n\
             [control]\ncontroller_key = {keys:?}\nartefact_keys = [\"{artefact}\"]\nroots = [\"{root}\"]\n{}\n",
            dir.join("events"),
            self.extra,
        );
        self.clouds.push(Tidegate::start(binary(), "cloud", &dir, &toml));
    }

    /// Base URL of a cloud.
    pub fn url(&self, n: usize) -> String {
        self.clouds[n].url()
    }

    /// Status and JSON of an answer; 0: none.
    pub fn ask(&self, n: usize, method: &str, path: &str, body: &str) -> (u16, Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url(n)))
            .header("content-type", "application/json")
            .header("x-tidegate-author", "anna")
            .body(body.to_owned())
            .unwrap();
        match agent.run(request) {
            Ok(mut answer) => (answer.status().as_u16(), answer.body_mut().read_json().unwrap_or_default()),
            Err(_) => (0, Value::Null),
        }
    }

    /// What `path` answers.
    pub fn get(&self, n: usize, path: &str) -> Value {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        match agent.get(format!("{}{path}", self.url(n))).call() {
            Ok(mut answer) => answer.body_mut().read_json().unwrap_or_default(),
            Err(_) => Value::Null,
        }
    }

    /// Waits until what `path` answers is as wanted.
    pub fn wait(&self, n: usize, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let answer = self.get(n, path);
            if wanted(&answer) {
                return answer;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{path} still answers {answer:#}\n{}",
                self.clouds.iter().map(Tidegate::log_tail).collect::<Vec<_>>().join("\n---\n")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until cloud `n` has read everything, and gives its status.
    pub fn wait_ready(&self, n: usize) -> Value {
        self.wait(n, "/v1/status", |status| status["control"]["reading"] == false)["control"].clone()
    }

    /// The cloud that has the lead, once one has it.
    pub fn leader(&self) -> usize {
        let begun = Instant::now();
        loop {
            let leads = |n: &usize| self.get(*n, "/v1/status")["control"]["leads"] == true;
            if let Some(n) = (0..self.clouds.len()).find(leads) {
                return n;
            }
            assert!(begun.elapsed() < PATIENCE, "nobody has the lead\n{}", self.clouds[0].log_tail());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stores a document and gives its digest.
    pub fn store(&self, n: usize, text: &str) -> String {
        let (status, answer) = self.ask(n, "POST", "/v1/documents", &signed(text, ARTEFACT));
        assert_eq!(status, 201, "{answer:#}");
        answer["sha256"].as_str().unwrap().to_owned()
    }

    /// Orders a roll-out and starts it.
    pub fn push(&self, n: usize, id: &str, document: Option<&str>, to: &Value, plan: &Value) -> Value {
        let mut order = json!({ "id": id, "document": document, "plan": plan, "start": true, "reason": "a test" });
        for (name, value) in to.as_object().unwrap() {
            order[name] = value.clone();
        }
        let (status, answer) = self.ask(n, "POST", "/v1/rollouts", &order.to_string());
        assert_eq!(status, 201, "{answer:#}");
        answer
    }

    /// Runs `tidegate` with the URL of cloud `n`: exit code, standard output, standard error.
    pub fn cli(&self, n: usize, args: &[&str]) -> (i32, String, String) {
        let url = self.url(n);
        let done = run(binary(), &[args, &["--cloud", &url]].concat());
        println!("$ tidegate {}\n{}{}[{}]", args.join(" "), done.1, done.2, done.0);
        done
    }

    /// A file in the site's directory.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tidegate"))
}

/// An envelope.
pub fn signed(text: &str, by: u8) -> String {
    Envelope::new(Kind::Config, text.as_bytes().to_vec()).signed_by(&key(by)).encode()
}

/// A document of this version.
pub fn document(version: u64, what: &str) -> String {
    format!("[http]\n{what}\n[document]\nversion = {version}\n")
}

/// Waves of these shares in percent, that soak for so long.
pub fn plan(shares: &[u32], soak_ms: u64) -> Value {
    let wave = |share: &u32| json!({ "share_ppm": share * 10_000, "soak_ms": soak_ms, "approval": false });
    json!({
        "waves": shares.iter().map(wave).collect::<Vec<_>>(),
        "failures_max": 100,
        "failures_share_max_ppm": 50_000,
        "successes_share_min_ppm": 900_000,
        "on_failure": "abort",
    })
}

/// The digest of a text.
pub fn sha256(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}
