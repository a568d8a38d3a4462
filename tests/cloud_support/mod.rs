//! A real broker, a cloud process that can be killed, and a producer that plays gateway. Small on purpose.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its part

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use pulsar::producer::Message;
use pulsar::{Producer, ProducerOptions, Pulsar, TokioExecutor};
use serde_json::Value;
use tidegate::cloud;
use tidegate::config::CloudConfig;
use tidegate::config::cloud::{FilesSink, Http, Lane, Sink};
use tidegate::observe::metrics::Metrics;
use tidegate::sys::clock::Clock;
use tidegate::sys::tasks::Tasks;

/// Partitions of every topic here.
pub const PARTITIONS: u32 = 4;

/// Most messages in a batch, and so in an entry.
pub const BATCH: u64 = 37;

/// A standalone Pulsar of this test; stopped when dropped.
pub struct Broker {
    pub service: String,
    pub admin: String,
    tls: Option<(String, tempfile::TempDir)>,
    dir: tempfile::TempDir,
}

impl Broker {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With TLS as well, on a certificate of its own authority; `service` stays without.
    pub fn start_with_tls() -> Self {
        let certs = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let (cert, key) = (certs.path().join("cert.pem"), certs.path().join("key.pem"));
        fs::write(&cert, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let ports: Vec<String> = [(); 2]
            .map(|()| TcpListener::bind("127.0.0.1:0").unwrap())
            .iter()
            .map(|l| l.local_addr().unwrap().port().to_string())
            .collect();
        let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
        let mut broker = Self::start_with(&[
            "--tls-port",
            &ports[0],
            "--tls-web-port",
            &ports[1],
            "--tls-cert",
            cert,
            "--tls-key",
            key,
            "--tls-ca",
            cert,
        ]);
        broker.tls = Some((format!("pulsar+ssl://127.0.0.1:{}", ports[0]), certs));
        broker
    }

    /// The authority of its certificate.
    pub fn ca(&self) -> PathBuf {
        self.tls.as_ref().unwrap().1.path().join("cert.pem")
    }

    fn start_with(options: &[&str]) -> Self {
        let free: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<String> = free.iter().map(|l| l.local_addr().unwrap().port().to_string()).collect();
        drop(free);
        let dir = tempfile::Builder::new().prefix("tidegate-pulsar-").tempdir().unwrap();
        let broker = Self {
            tls: None,
            service: format!("pulsar://127.0.0.1:{}", ports[0]),
            admin: format!("http://127.0.0.1:{}", ports[1]),
            dir,
        };
        let start = ["start", "--port", &ports[0], "--web-port", &ports[1], "--bookie-port", &ports[2]];
        broker.control(&[&start[..], options].concat());
        broker
    }

    /// kill -9, and up again.
    pub fn crash(&self) {
        self.control(&["kill"]);
        self.control(&["start"]);
    }

    fn control(&self, arguments: &[&str]) {
        let script = std::env::var_os("TIDEGATE_PULSAR_SH")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/pulsar/pulsar.sh"), PathBuf::from);
        let mut command = Command::new(&script);
        command.args(arguments).args(["--name", "cloud-test", "--dir"]).arg(self.dir.path());
        let output = command.output().unwrap_or_else(|e| panic!("{}: {e}", script.display()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn put(&self, path: &str, body: &str) {
        let url = format!("{}/admin/v2/{path}", self.admin);
        let sent = ureq::put(&url).header("content-type", "application/json").send(body);
        sent.unwrap_or_else(|e| panic!("PUT {url}: {e}"));
    }

    /// A tenant with its namespace, and partitioned topics for `lanes`.
    pub fn provision(&self, tenant: &str, lanes: &[&str]) {
        self.put(&format!("tenants/{tenant}"), r#"{"allowedClusters":["cloud-test"]}"#);
        self.put(&format!("namespaces/{tenant}/telemetry"), "{}");
        for lane in lanes {
            self.provision_lane(tenant, lane);
        }
    }

    pub fn provision_lane(&self, tenant: &str, lane: &str) {
        self.put(&format!("persistent/{tenant}/telemetry/{lane}/partitions"), &PARTITIONS.to_string());
    }

    /// Entries that the cloud's subscription has not acknowledged.
    pub fn backlog(&self, tenant: &str, lane: &str) -> u64 {
        let url = format!(
            "{}/admin/v2/persistent/{tenant}/telemetry/{lane}/partitioned-stats?getPreciseBacklog=true",
            self.admin
        );
        let stats: Value = ureq::get(&url).call().unwrap().body_mut().read_json().unwrap();
        stats["subscriptions"]["tidegate-cloud"]["msgBacklog"].as_u64().unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.control(&["kill"]);
    }
}

/// Set for the process that runs the cloud: `service ca tenant lanes dir port`.
const CHILD: &str = "TIDEGATE_TEST_CLOUD";

/// A cloud in a process of its own: this test binary again, running only its test `cloud_process`.
pub struct Cloud {
    child: Option<(Child, ChildStdin)>,
    settings: String,
    pub url: String,
    pub dir: PathBuf,
}

impl Cloud {
    pub fn start(broker: &Broker, tenant: &str, lanes: &[&str], dir: &Path) -> Self {
        Self::start_at(&broker.service, "-", tenant, lanes, dir)
    }

    /// Over TLS, trusting `ca`.
    pub fn start_with_ca(broker: &Broker, tenant: &str, lanes: &[&str], dir: &Path, ca: &Path) -> Self {
        Self::start_at(&broker.tls.as_ref().unwrap().0, ca.to_str().unwrap(), tenant, lanes, dir)
    }

    fn start_at(service: &str, ca: &str, tenant: &str, lanes: &[&str], dir: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = format!("{service} {ca} {tenant} {} {} {port}", lanes.join(","), dir.display());
        let url = format!("http://127.0.0.1:{port}");
        let mut cloud = Self { child: None, settings, url, dir: dir.to_owned() };
        cloud.restart();
        cloud
    }

    pub fn restart(&mut self) {
        assert!(self.child.is_none());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cloud_process", "--nocapture"])
            .env(CHILD, &self.settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        self.child = Some((child, stdin));
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let (mut child, _) = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks it to end and waits until it has.
    pub fn stop(&mut self) {
        let (mut child, stdin) = self.child.take().unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success());
    }

    /// The JSON at `path`; `None`: no answer.
    pub fn get(&self, path: &str) -> Option<Value> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        agent.get(format!("{}{path}", self.url)).call().ok()?.body_mut().read_json().ok()
    }

    /// Waits until what `path` answers is `wanted`.
    pub fn wait_for(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + Duration::from_secs(90);
        loop {
            let answer = self.get(path);
            match answer {
                Some(value) if wanted(&value) => return value,
                answer => assert!(Instant::now() < end, "{path} still answers {answer:#?}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the totals of the audit say that `delivered` events are stored.
    pub fn wait_delivered(&self, delivered: usize) -> Value {
        self.wait_for("/v1/audit", |audit| audit["totals"]["delivered"] == delivered)
    }

    /// Every line on disk, files in order, as `(stream, seq)` with the line.
    pub fn stored(&self, lane: &str) -> Vec<((String, u64), Value)> {
        let mut paths: Vec<_> = fs::read_dir(self.dir.join(lane)).unwrap().map(|e| e.unwrap().path()).collect();
        paths.retain(|p| p.to_string_lossy().contains(".ndjson.zst"));
        paths.sort();
        let mut lines = Vec::new();
        for path in paths {
            let text = String::from_utf8(zstd::decode_all(fs::File::open(path).unwrap()).unwrap()).unwrap();
            for line in text.lines() {
                let value: Value = serde_json::from_str(line).unwrap();
                let stream = ["node", "incarnation", "lane"].map(|part| value[part].as_str().unwrap_or("-").to_owned());
                lines.push(((stream.join("."), value["seq"].as_u64().unwrap_or(0)), value));
            }
        }
        lines
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// What the child process does; in the parent, nothing.
pub fn cloud_process() {
    let Ok(settings) = std::env::var(CHILD) else { return };
    let [service, ca, tenant, lanes, dir, port] = settings.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{settings}")
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = CloudConfig::default();
    config.pulsar.service = service.into();
    config.pulsar.tenant = tenant.into();
    config.pulsar.ca_file = (ca != "-").then(|| ca.into());
    config.http = Http { listen: ([127, 0, 0, 1], port.parse().unwrap()).into() };
    config.lanes = lanes.split(',').map(|name| Lane { name: name.into(), partitions: PARTITIONS }).collect();
    // Small files and frequent commits: many of every kind of step to be killed at.
    config.sinks = vec![Sink::Files(FilesSink {
        dir: dir.into(),
        rotate_bytes: 64 << 10,
        commit_after: Duration::from_millis(50),
        ..FilesSink::default()
    })];
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tasks = Tasks::new();
        let listener = cloud::api::Listener::bind(&config.http).unwrap();
        cloud::start(&tasks, &config, listener, Clock::system(), &Metrics::default()).unwrap();
        tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await.unwrap().unwrap();
        assert!(tasks.stop(Duration::from_secs(20)).await, "did not end in time");
        assert!(tasks.failure().is_none());
    });
}

/// Producers of a lane's partitions, with batches, that set the properties a gateway would set.
pub struct Gateway {
    producers: BTreeMap<u32, Producer<TokioExecutor>>,
    client: Pulsar<TokioExecutor>,
    topic: String,
}

impl Gateway {
    pub async fn connect(broker: &Broker, tenant: &str, lane: &str) -> Self {
        let client = Pulsar::builder(&broker.service, TokioExecutor).build().await.unwrap();
        let topic = format!("persistent://{tenant}/telemetry/{lane}");
        Self { producers: BTreeMap::new(), client, topic }
    }

    /// Sends event `seq` of `stream` to partition `seq % 4`, in a batch.
    pub async fn send(&mut self, stream: &str, seq: u64) {
        let properties = [
            ("tg_stream", stream),
            ("tg_seq", &seq.to_string()),
            ("ce_id", &format!("{stream}-{seq}")),
            ("ce_source", "urn:test"),
            ("ce_type", "reading"),
            ("ce_subject", "dev-1"),
            ("ce_specversion", "1.0"),
            ("ce_time", "2026-01-31T12:00:00Z"),
            ("content-type", "application/json"),
        ];
        let properties = properties.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect();
        let payload =
            format!("{{\n \"n\": {seq}.0,\n \"text\": \"{}\"\n}}", "x".repeat(seq as usize % 200)).into_bytes();
        self.message(
            u32::try_from(seq % u64::from(PARTITIONS)).unwrap(),
            Message { payload, properties, ..Message::default() },
        )
        .await;
    }

    pub async fn message(&mut self, partition: u32, message: Message) {
        if !self.producers.contains_key(&partition) {
            let options = ProducerOptions { batch_size: Some(BATCH as u32), ..ProducerOptions::default() };
            let topic = format!("{}-partition-{partition}", self.topic);
            let producer = self.client.producer().with_topic(topic).with_options(options).build().await.unwrap();
            self.producers.insert(partition, producer);
        }
        let producer = self.producers.get_mut(&partition).unwrap();
        // The receipt is not awaited one by one; flush() sees to it that all are sent.
        drop(producer.send_non_blocking(message).await.unwrap());
    }

    pub async fn flush(&mut self) {
        for producer in self.producers.values_mut() {
            producer.send_batch().await.unwrap();
        }
    }
}

/// So that a test's output says where it is.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
