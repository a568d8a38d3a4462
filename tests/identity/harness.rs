//! A gateway that knows its devices, on every port that it has, and clients that show what they are told to.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tidegate::ingest::identity::verify;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::mqtt::{self, Bytes, Client, Options, PATIENCE, Reply};
use crate::support::ports::free_port;
use crate::support::process::{Tidegate, run};

pub const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

/// Whatever is waited for.
pub const SOON: Duration = Duration::from_secs(60);

/// The gateway.
pub struct Site {
    pub process: Tidegate,
    pub https: SocketAddr,
    pub mqtt: SocketAddr,
    pub mqtts: SocketAddr,
    pub wss: SocketAddr,
    /// Whom clients trust; by default the authority that the gateway takes devices' certificates of.
    pub trusted: Option<PathBuf>,
    dir: tempfile::TempDir,
}

impl Site {
    /// With these entries of `[identity]`, this devices file, and more sections.
    pub fn start(identity: &str, devices: &str, more: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let port = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        let [https, mqtt, mqtts, wss] = [port(), port(), port(), port()];
        let at = |name: &str| dir.path().join(name);
        tidegate(&["keys", "server", "--name", "localhost", "--ip", "127.0.0.1", "--dir", text(&at("tls"))]);
        fs::write(at("devices.toml"), devices).unwrap();
        let config = format!(
            "tls_listen = \"{https}\"\n\n[mqtt]\nlisten = \"{mqtt}\"\ntls_listen = \"{mqtts}\"\nwss_listen = \"{wss}\"\n\n\
             [tls]\ncertificate_file = {:?}\nkey_file = {:?}\nclient_ca_file = {:?}\nclient_certificates = \"optional\"\n\n\
             [node]\nid = \"gate\"\ndata_dir = {:?}\n\n[identity]\ndevices_file = {:?}\n{identity}\n\n{more}",
            at("tls/server.pem"),
            at("tls/server.key"),
            at("tls/ca.pem"),
            at("data"),
            at("devices.toml"),
        );
        let mut process = Tidegate::start(Path::new(BINARY), "edge", dir.path(), &config);
        process.wait_ready(SOON);
        Self { process, https, mqtt, mqtts, wss, trusted: None, dir }
    }

    /// The same where devices must be known.
    pub fn required(devices: &str) -> Self {
        Self::start("mode = \"required\"", devices, "")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `tidegate devices` on its file.
    pub fn devices(&self, args: &[&str]) -> String {
        let file = self.path("devices.toml");
        tidegate(&[&["devices"], args, &["--file", text(&file)]].concat())
    }

    /// Another devices file is in force when this returns.
    pub fn write_devices(&mut self, devices: &str) {
        let place = self.path("devices.new");
        fs::write(&place, devices).unwrap();
        fs::rename(place, self.path("devices.toml")).unwrap();
        self.reload("the devices file was read again");
    }

    /// SIGHUP; returns when the log says so once more.
    pub fn reload(&mut self, said: &str) {
        let times = |process: &Tidegate| process.log().matches(said).count();
        let before = times(&self.process);
        hang_up(&self.process);
        self.process.wait_for(&format!("to say {said:?}"), SOON, |process| times(process) > before);
    }

    /// The log of refusals, once it has a line that `wanted` accepts.
    pub fn refusals(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let file = self.path("data/audit/refusals.ndjson");
        let read = || -> Vec<Value> {
            let text = fs::read_to_string(&file).unwrap_or_default();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        self.process.wait_for(&format!("to write down {what}; {:?}", read()), SOON, |_| read().iter().any(&wanted));
        read()
    }

    /// A line in the log of refusals says this.
    pub fn was_refused(&mut self, reason: &str, device: &str, what: &str) {
        let all = self.refusals(&format!("{reason} of {device:?}: {what}"), |line| {
            line["reason"] == reason && line["device"].as_str().unwrap_or_default() == device
        });
        let found = all.iter().find(|l| l["reason"] == reason && l["device"].as_str().unwrap_or_default() == device);
        assert_eq!(found.unwrap()["what"].as_str().unwrap_or_default(), what, "{all:?}");
        assert_eq!(found.unwrap()["source"], "127.0.0.1");
    }

    /// The value of a metric's line, by the line's beginning.
    pub fn metric(&self, line: &str) -> f64 {
        let url = format!("{}/metrics", self.process.url());
        let text = ureq::get(&url).call().unwrap().body_mut().read_to_string().unwrap();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or_else(|| panic!("no line {line:?} in\n{text}"))
    }

    pub fn status(&self) -> Value {
        self.process.get("/v1/status").unwrap()
    }

    fn http(&self) -> SocketAddr {
        self.process.url().strip_prefix("http://").unwrap().parse().unwrap()
    }

    /// An HTTP connection.
    pub async fn connect(&self) -> Http {
        Http::over(TcpStream::connect(self.http()).await.unwrap())
    }

    /// One request on a connection of its own.
    pub async fn call(&self, head: &str, credential: &str, body: &str) -> Answer {
        self.connect().await.call(head, credential, body).await
    }

    /// Posts an event on the device's path.
    pub async fn post(&self, device: &str, credential: &str) -> Answer {
        self.call(&format!("POST /v1/devices/{device}/events"), credential, "{}").await
    }

    /// An MQTT client by TCP that gets in.
    pub async fn client(&self, options: Options) -> Client {
        Client::connect(self.mqtt, options).await
    }

    /// What CONNACK says.
    pub async fn connack(&self, options: Options) -> u8 {
        let stream = TcpStream::connect(self.mqtt).await.unwrap();
        connack(stream, options).await
    }

    /// A device's certificate and key: their files.
    pub fn certificate(&self, device: &str) -> [PathBuf; 2] {
        tidegate(&["keys", "device", device, "--dir", text(&self.path("tls"))]);
        [self.path(&format!("tls/{device}.pem")), self.path(&format!("tls/{device}.key"))]
    }

    /// TLS to `address`, with a certificate if one is given.
    pub async fn tls(&self, address: SocketAddr, certificate: Option<&[PathBuf; 2]>) -> TlsStream<TcpStream> {
        self.try_tls(address, certificate).await.unwrap()
    }

    pub async fn try_tls(
        &self,
        address: SocketAddr,
        certificate: Option<&[PathBuf; 2]>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        let trusted = self.trusted.clone().unwrap_or_else(|| self.path("tls/ca.pem"));
        roots.add(CertificateDer::from_pem_file(trusted).unwrap()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match certificate {
            None => config.with_no_client_auth(),
            Some([certificate, key]) => {
                let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
            }
        };
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

/// Runs a command that must succeed, and returns what it printed.
pub fn tidegate(args: &[&str]) -> String {
    let (code, out, err) = run(Path::new(BINARY), args);
    assert_eq!(code, 0, "tidegate {args:?}: {err}");
    out.trim_end().to_owned()
}

pub fn hang_up(process: &Tidegate) {
    let pid = process.pid().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An entry of the devices file, whose token is the name backwards.
pub fn device(name: &str, more: &str) -> String {
    let hash = verify::hex(&verify::token_hash(token(name).as_bytes()));
    format!("[[device]]\nname = \"{name}\"\ntoken_sha256 = [\"{hash}\"]\n{more}\n\n")
}

/// The token of [`device`].
pub fn token(name: &str) -> String {
    format!("tgd_{}", name.chars().rev().collect::<String>())
}

/// The header that shows it.
pub fn bearer(name: &str) -> String {
    format!("authorization: Bearer {}\r\n", token(name))
}

/// CONNECT with the device's token.
pub fn with_token(options: Options, device: &str) -> Options {
    with_password(options, device, &token(device))
}

pub fn with_password(options: Options, user: &str, password: &str) -> Options {
    Options { user: Some(user.to_owned()), password: Some(password.as_bytes().to_vec()), ..options }
}

/// What CONNACK says on `stream`.
pub async fn connack(stream: impl Bytes + 'static, options: Options) -> u8 {
    let mut client = Client::raw(stream, options.v5);
    client.write(&options.bytes()).await;
    match client.next().await {
        Reply::Connack { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

/// The reason that PUBACK gives.
pub async fn publish(client: &mut Client, topic: &str, payload: &str) -> u8 {
    let sent = client.publish(topic, payload, 1).await;
    match client.next().await {
        Reply::Puback { id, reason, .. } if id == sent => reason,
        other => panic!("{other:?}"),
    }
}

/// The reason that SUBACK gives; 5.0.
pub async fn subscribe(client: &mut Client, filter: &str) -> u8 {
    let body = [&[0, 77, 0][..], &mqtt::text(filter), &[1]].concat();
    client.write(&mqtt::packet(0x82, &body)).await;
    match client.next().await {
        Reply::Suback { reasons, .. } => reasons[0],
        other => panic!("{other:?}"),
    }
}

/// An HTTP connection that stays.
pub struct Http {
    stream: Box<dyn Bytes>,
    read: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// Seconds of Retry-After.
    pub fn retry_after(&self) -> u64 {
        let line = self.head.lines().find_map(|line| line.strip_prefix("retry-after: "));
        line.unwrap_or_else(|| panic!("no Retry-After: {self:?}")).parse().unwrap()
    }

    /// What a problem document says.
    pub fn problem(&self) -> (u16, String) {
        let document: Value = serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        (self.status, document["type"].as_str().unwrap().strip_prefix("urn:tidegate:problem:").unwrap().to_owned())
    }
}

impl Http {
    pub fn over(stream: impl Bytes + 'static) -> Self {
        Self { stream: Box::new(stream), read: Vec::new() }
    }

    /// Sends a request, with these header lines, and does not wait.
    pub async fn send(&mut self, head: &str, headers: &str, body: &str) {
        let length = body.len();
        let json = if headers.contains("content-type:") { "" } else { "content-type: application/json\r\n" };
        let request = format!("{head} HTTP/1.1\r\nhost: x\r\n{json}content-length: {length}\r\n{headers}\r\n{body}");
        self.stream.write_all(request.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub async fn call(&mut self, head: &str, headers: &str, body: &str) -> Answer {
        self.send(head, headers, body).await;
        self.answer().await
    }

    /// The next answer, if its length is said.
    pub async fn answer(&mut self) -> Answer {
        let head = self.until("\r\n\r\n").await.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.unwrap_or_else(|| panic!("no length: {head}")).parse().unwrap();
        while self.read.len() < length {
            assert!(self.more().await, "the end in the middle of an answer");
        }
        let body = String::from_utf8(self.read.drain(..length).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body }
    }

    /// Reads up to and with `end`.
    pub async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end.as_bytes()) {
                return String::from_utf8(self.read.drain(..at + end.len()).collect()).unwrap();
            }
            let more = self.more().await;
            assert!(more, "the end, and no {end:?} in {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// `false`: the other side has closed.
    async fn more(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await.expect("something in time");
        read.is_ok_and(|n| n > 0)
    }
}

/// Waits until `done`.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < SOON, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
