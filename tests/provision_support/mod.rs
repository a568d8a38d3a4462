//! A real broker for a test, and the few things the tests ask it. Small on purpose.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its part

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tidegate::cli::provision::{ProvisionArgs, RunError, run};
use tidegate::config::CloudConfig;
use tidegate::pulsar::admin::Admin;
use tidegate::pulsar::credentials::Credentials;

/// A standalone Pulsar; stopped when dropped.
pub struct Broker {
    pub name: String,
    pub service: String,
    pub admin: String,
    /// With TLS, when started with it.
    pub admin_tls: String,
    dir: tempfile::TempDir,
}

impl Broker {
    /// Starts one that is called `name`, with further options of `pulsar.sh`.
    pub fn start(name: &str, options: &[String]) -> Self {
        // Held until all three are known, so that no port is given twice.
        let free: Vec<TcpListener> = (0..5).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = free.iter().map(|l| l.local_addr().unwrap().port()).collect();
        drop(free);
        let dir = tempfile::Builder::new().prefix("tidegate-pulsar-").tempdir().unwrap();
        let port = |i: usize| ports[i].to_string();
        let mut command = Command::new(script());
        command.args(["start", "--name", name, "--dir"]).arg(dir.path());
        command.args(["--port", &port(0), "--web-port", &port(1), "--bookie-port", &port(2)]);
        let with_tls = options.iter().any(|o| o == "--tls-cert");
        if with_tls {
            command.args(["--tls-port", &port(3), "--tls-web-port", &port(4)]);
        }
        let output = command.args(options).output().unwrap_or_else(|e| panic!("{}: {e}", script().display()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self {
            name: name.to_owned(),
            service: format!("pulsar://127.0.0.1:{}", ports[0]),
            admin: format!("http://127.0.0.1:{}", ports[1]),
            admin_tls: format!("https://127.0.0.1:{}", ports[4]),
            dir,
        }
    }

    /// One for all tests of a process that run at the same time; each uses its own tenant.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Broker>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let broker = Arc::new(Self::start("shared", &[]));
            *shared = Arc::downgrade(&broker);
            broker
        })
    }

    /// A configuration for it.
    pub fn config(&self, tenant: &str) -> CloudConfig {
        let mut config = CloudConfig::default();
        config.pulsar.service = self.service.clone();
        config.pulsar.admin = self.admin.clone();
        config.pulsar.clusters = vec![self.name.clone()];
        config.pulsar.tenant = tenant.to_owned();
        config
    }

    pub fn api(&self) -> Admin {
        Admin::new(&self.admin, &Credentials::None, None).unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = Command::new(script()).arg("kill").arg("--dir").arg(self.dir.path()).output();
    }
}

fn script() -> PathBuf {
    std::env::var_os("TIDEGATE_PULSAR_SH")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/pulsar/pulsar.sh"), PathBuf::from)
}

/// Runs `tidegate provision` and returns what it printed.
pub fn provision(config: &CloudConfig, dry_run: bool) -> Result<String, RunError> {
    let mut out = Vec::new();
    run(&ProvisionArgs { config: None, dry_run, wait: 0 }, config, &mut out)?;
    let text = String::from_utf8(out).unwrap();
    println!("{text}");
    Ok(text)
}

/// The error of a run that must fail, and its exit code.
pub fn failure(config: &CloudConfig) -> (String, u8) {
    let error = provision(config, false).unwrap_err();
    println!("{error}");
    (error.to_string(), error.exit_code())
}

/// Everything about a cluster that provisioning could change.
pub fn everything(api: &Admin) -> Value {
    let get = |path: String| api.get::<Value>(&path).unwrap().unwrap_or_default();
    let names = |v: &Value| -> Vec<String> { serde_json::from_value(v.clone()).unwrap_or_default() };
    let mut all = json!({});
    for cluster in names(&get("clusters".into())) {
        all["clusters"][&cluster] = get(format!("clusters/{cluster}"));
    }
    for tenant in names(&get("tenants".into())) {
        all["tenants"][&tenant] = get(format!("tenants/{tenant}"));
        for namespace in names(&get(format!("namespaces/{tenant}"))) {
            all["namespaces"][&namespace] = get(format!("namespaces/{namespace}"));
            all["partitioned"][&namespace] = get(format!("persistent/{namespace}/partitioned"));
            for topic in names(&get(format!("persistent/{namespace}"))) {
                let path = topic.replace("persistent://", "persistent/");
                all["topics"][&topic] = get(format!("{path}/subscriptions"));
            }
        }
    }
    all
}

pub type Client = pulsar::Pulsar<pulsar::TokioExecutor>;

pub async fn client(service: &str) -> Client {
    pulsar::Pulsar::builder(service, pulsar::TokioExecutor).build().await.unwrap()
}

/// Sends `payloads` with the producer's own sequence, from 0 on, and waits for every receipt.
pub async fn send(client: &Client, topic: &str, producer: &str, payloads: &[(String, String)]) {
    // Without a policy the crate (6.9.1) ignores keys and takes partitions in turn; with this one it follows the key.
    let by_key = pulsar::routing_policy::RoutingPolicy::RoundRobin;
    let options = pulsar::ProducerOptions { routing_policy: Some(by_key), ..Default::default() };
    let mut producer =
        client.producer().with_topic(topic).with_name(producer).with_options(options).build().await.unwrap();
    for (key, payload) in payloads {
        let message = pulsar::producer::Message {
            payload: payload.clone().into_bytes(),
            partition_key: Some(key.clone()),
            ..Default::default()
        };
        producer.send_non_blocking(message).await.unwrap().await.unwrap();
    }
    producer.close().await.unwrap();
}

/// Reads with `subscription` until nothing has come for `quiet`; returns (key, payload) in order of arrival.
pub async fn receive(
    client: &Client,
    topic: &str,
    subscription: &str,
    at_least: usize,
    quiet: Duration,
) -> Vec<(String, String)> {
    let mut consumer: pulsar::Consumer<Vec<u8>, _> = client
        .consumer()
        .with_topic(topic)
        .with_subscription(subscription)
        .with_subscription_type(pulsar::SubType::Failover)
        .build()
        .await
        .unwrap();
    let mut got = Vec::new();
    loop {
        // Replication may take its time; that nothing more comes is waited for only once enough came.
        let patience = if got.len() < at_least { Duration::from_secs(60) } else { quiet };
        let Ok(Some(message)) = tokio::time::timeout(patience, consumer.next()).await else { break };
        let message = message.unwrap();
        consumer.ack(&message).await.unwrap();
        let key = message.payload.metadata.partition_key.clone().unwrap_or_default();
        got.push((key, String::from_utf8(message.payload.data.clone()).unwrap()));
    }
    got
}
