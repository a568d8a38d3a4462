//! A real standalone Pulsar for one test, through deploy/pulsar/pulsar.sh: own ports, own directory, gone when dropped.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tempfile::TempDir;

use super::ports::free_ports;
use super::proxy::Proxy;

/// A running broker.
pub struct Broker {
    name: String,
    port: u16,
    web_port: u16,
    tls_ports: Option<[u16; 2]>,
    dir: TempDir,
    admin_token: Option<String>,
    proxy: Option<Proxy>,
}

/// How a broker is started.
#[derive(Default)]
pub struct Options {
    /// Its and its cluster's name, where a test reads it; without: one made of its port.
    pub name: Option<&'static str>,
    /// `KEY=VALUE` for broker.conf.
    pub conf: Vec<String>,
    /// Certificate, its key and the authority, as PEM files: the broker listens with TLS as well, for clients
    /// and for the administration.
    pub tls: Option<[PathBuf; 3]>,
    /// All clients come through a proxy: [`Broker::proxy`].
    pub proxied: bool,
    /// A token for the administration, when `conf` turns authentication on.
    pub admin_token: Option<String>,
    /// Java's, such as "2g"; without: 512 MB, enough for some hundred topics.
    pub heap: Option<&'static str>,
}

/// What pulsar.sh ends with when a later try may succeed (EX_TEMPFAIL).
const NOT_READY: i32 = 75;

static SHARED: Mutex<Weak<Broker>> = Mutex::new(Weak::new());

impl Broker {
    /// Starts one. Takes 6 to 15 s.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// The one that tests of the same file share while any of them runs. Use topics or tenants of your own.
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let broker = Arc::new(Self::start_with(Options { name: Some("shared"), ..Options::default() }));
            *shared = Arc::downgrade(&broker);
            broker
        })
    }

    /// Starts one with more settings.
    pub fn start_with(options: Options) -> Self {
        let [port, web_port, bookie_port, tls_port, tls_web_port, proxy_port] = free_ports();
        let dir = tempfile::Builder::new().prefix("broker-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let name = options.name.map_or_else(|| format!("test-{port}"), str::to_owned);
        let tls_ports = options.tls.is_some().then_some([tls_port, tls_web_port]);
        // It must listen before the broker starts, whose own health check comes through it.
        let proxy = options.proxied.then(|| Proxy::start(proxy_port, port));
        let broker = Self { name, port, web_port, tls_ports, dir, admin_token: options.admin_token.clone(), proxy };
        let mut arguments: Vec<String> = Vec::new();
        for (key, value) in [("--port", port), ("--web-port", web_port), ("--bookie-port", bookie_port)] {
            arguments.extend([key.to_owned(), value.to_string()]);
        }
        if let (Some(files), Some(ports)) = (&options.tls, tls_ports) {
            for (key, port) in ["--tls-port", "--tls-web-port"].into_iter().zip(ports) {
                arguments.extend([key.to_owned(), port.to_string()]);
            }
            for (key, file) in ["--tls-cert", "--tls-key", "--tls-ca"].into_iter().zip(files) {
                arguments.extend([key.to_owned(), file.display().to_string()]);
            }
        }
        if let Some(token) = &options.admin_token {
            let file = broker.dir.path().join("admin.token");
            std::fs::write(&file, token).unwrap();
            arguments.extend(["--admin-token".to_owned(), file.display().to_string()]);
        }
        if let Some(heap) = options.heap {
            arguments.extend(["--heap".to_owned(), heap.to_owned()]);
        }
        if let Some(port) = broker.proxy.as_ref().map(Proxy::port) {
            // A broker refuses to have both an advertised address and listeners.
            let listener = format!("advertisedListeners=proxy:pulsar://127.0.0.1:{port}");
            for conf in ["advertisedAddress=".to_owned(), "internalListenerName=proxy".to_owned(), listener] {
                arguments.extend(["--conf".to_owned(), conf]);
            }
        }
        options.conf.iter().for_each(|c| arguments.extend(["--conf".to_owned(), c.clone()]));
        broker.script("start", &arguments);
        broker
    }

    /// `pulsar://…`, through the proxy if there is one.
    pub fn service_url(&self) -> String {
        format!("pulsar://127.0.0.1:{}", self.proxy.as_ref().map_or(self.port, Proxy::port))
    }

    /// The proxy that all its clients come through.
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("started without a proxy")
    }

    /// `pulsar+ssl://localhost:…`
    pub fn tls_url(&self) -> String {
        format!("pulsar+ssl://localhost:{}", self.tls_ports.expect("started without TLS")[0])
    }

    /// `https://127.0.0.1:…`
    pub fn admin_tls_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.tls_ports.expect("started without TLS")[1])
    }

    /// `http://…`
    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.web_port)
    }

    /// Name of the cluster.
    pub fn cluster(&self) -> &str {
        &self.name
    }

    /// Its process, as long as it was not started again.
    pub fn pid(&self) -> u32 {
        let text = std::fs::read_to_string(self.dir.path().join("pid")).unwrap();
        text.trim().parse().unwrap()
    }

    /// Kill -9; the data stays.
    pub fn kill9(&self) {
        self.script("kill", &[]);
    }

    /// Starts it again, after [`Broker::kill9`] or [`Broker::stop`]. A broker that does not become ready after a kill, as 4.0.7
    /// does now and then on a busy machine, is killed once more by pulsar.sh: then the next start counts.
    pub fn restart(&self) {
        let first = self.command("start", &[]).unwrap();
        if first.status.code() == Some(NOT_READY) {
            println!(
                "the broker did not come back, and is started once more: {}",
                String::from_utf8_lossy(&first.stderr)
            );
            self.script("start", &[]);
        } else {
            assert!(first.status.success(), "pulsar.sh start: {}", String::from_utf8_lossy(&first.stderr));
        }
    }

    /// A clean stop.
    pub fn stop(&self) {
        self.script("stop", &[]);
    }

    /// Creates `tenant/namespace` (and the tenant) with deduplication on and retention.
    pub fn create_namespace(&self, namespace: &str) {
        let tenant = namespace.split('/').next().unwrap();
        let cluster = &self.name;
        self.admin("PUT", &format!("tenants/{tenant}"), &format!("{{\"allowedClusters\":[\"{cluster}\"]}}"));
        self.admin("PUT", &format!("namespaces/{namespace}"), "");
        self.set_dedup(namespace, true);
        let forever = r#"{"retentionTimeInMinutes":-1,"retentionSizeInMB":-1}"#;
        self.admin("POST", &format!("namespaces/{namespace}/retention"), forever);
    }

    /// Creates `tenant/namespace/name` with so many partitions.
    pub fn create_partitioned_topic(&self, topic: &str, partitions: u32) {
        self.admin("PUT", &format!("persistent/{topic}/partitions"), &partitions.to_string());
    }

    /// Switches deduplication for a namespace.
    pub fn set_dedup(&self, namespace: &str, on: bool) {
        self.admin("POST", &format!("namespaces/{namespace}/deduplication"), if on { "true" } else { "false" });
    }

    /// Takes a topic off its broker; it is loaded again when someone comes.
    pub fn unload(&self, topic: &str) {
        self.admin("PUT", &format!("persistent/{topic}/unload"), "");
    }

    /// Deletes all messages of a topic, whatever is to be kept.
    pub fn truncate(&self, topic: &str) {
        let url = format!("{}/admin/v2/persistent/{topic}/truncate", self.admin_url());
        ureq::delete(&url).call().unwrap_or_else(|e| panic!("DELETE {url}: {e}"));
    }

    /// Entries of a partitioned topic that `subscription` has not acknowledged.
    pub fn backlog(&self, topic: &str, subscription: &str) -> u64 {
        let path = format!("persistent/{topic}/partitioned-stats?getPreciseBacklog=true");
        let stats: serde_json::Value = serde_json::from_str(&self.admin("GET", &path, "")).unwrap();
        stats["subscriptions"][subscription]["msgBacklog"].as_u64().unwrap()
    }

    /// A call of the admin REST interface below /admin/v2; 409 (it exists) is as good as success.
    pub fn admin(&self, method: &str, path: &str, body: &str) -> String {
        let url = format!("{}/admin/v2/{path}", self.admin_url());
        let mut request = match method {
            "GET" => return self.get(&url),
            "PUT" => ureq::put(&url),
            "POST" => ureq::post(&url),
            other => panic!("method {other}"),
        };
        if let Some(token) = &self.admin_token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.header("content-type", "application/json").config().http_status_as_error(false).build();
        let mut answer = request.send(body).unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        let text = answer.body_mut().read_to_string().unwrap();
        let status = answer.status().as_u16();
        assert!(status < 300 || status == 409, "{method} {path}: {status} {text}");
        text
    }

    fn get(&self, url: &str) -> String {
        let mut request = ureq::get(url);
        if let Some(token) = &self.admin_token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.call().unwrap_or_else(|e| panic!("GET {url}: {e}")).body_mut().read_to_string().unwrap()
    }

    fn script(&self, command: &str, arguments: &[String]) {
        let Output { status, stdout, stderr } =
            self.command(command, arguments).unwrap_or_else(|e| panic!("deploy/pulsar/pulsar.sh: {e}"));
        assert!(
            status.success(),
            "pulsar.sh {command}: {status}\n{}{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        );
    }

    fn command(&self, command: &str, arguments: &[String]) -> std::io::Result<Output> {
        let script = std::env::var("TIDEGATE_PULSAR_SH")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/pulsar/pulsar.sh").to_owned());
        Command::new(script)
            .arg(command)
            .args(["--name", &self.name, "--dir"])
            .arg(self.dir.path())
            .args(arguments)
            .output()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.command("kill", &[]);
    }
}
