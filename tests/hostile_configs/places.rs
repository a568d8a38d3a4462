//! Where hostile configurations send a gateway: our broker with all its doors, another cluster, a host that drops what it
//! gets, one that says nothing; and the files that they name.

use std::path::{Path, PathBuf};

use jsonwebtoken::{EncodingKey, Header};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::broker::{Broker, Options};
use crate::support::central::in_seconds;
use crate::support::certificates::certificates;
use crate::support::ports::free_ports;
use crate::support::provision;

/// For these tests only, and so is the other one.
const SIGNING_KEY: &str = "bm90IGEgc2VjcmV0LCBidXQgbG9uZyBlbm91Z2ggZm9yIEhTMjU2IHRvIHRha2U=";
const OTHER_SIGNING_KEY: &str = "YW5vdGhlciBvbmUsIHdoaWNoIHRoZSBicm9rZXIgaGFzIG5ldmVyIHNlZW4gYXQgYWxs";

/// Everything a document can name.
pub struct Places {
    pub broker: Broker,
    /// It has the tenant and its topics, and nobody writes to the inboxes there.
    pub other_cluster: Broker,
    /// SYNs are dropped there.
    pub black_hole: String,
    /// It takes connections and says nothing.
    pub mute: String,
    /// A port that is taken.
    pub taken: String,
    dir: tempfile::TempDir,
    _held: Vec<TcpStream>,
    _listeners: Vec<TcpListener>,
}

impl Places {
    /// Two brokers with `tenant`; ours wants no token, but a token must be right.
    pub async fn start(tenant: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tls = certificates(dir.path(), &["localhost"]);
        let other = dir.path().join("other");
        std::fs::create_dir(&other).unwrap();
        certificates(&other, &["localhost"]);
        std::fs::write(dir.path().join("no.pem"), "not a certificate\n").unwrap();
        std::fs::write(dir.path().join("empty.token"), "").unwrap();
        std::fs::write(dir.path().join("nobody.toml"), "").unwrap();
        let conf = [
            "authenticationEnabled=true".to_owned(),
            "authenticationProviders=org.apache.pulsar.broker.authentication.AuthenticationProviderToken".to_owned(),
            format!("tokenSecretKey=data:;base64,{SIGNING_KEY}"),
            "anonymousUserRole=anonymous".to_owned(),
        ];
        let (ours, theirs) = tokio::join!(
            tokio::task::spawn_blocking(move || Broker::start_with(Options {
                name: Some("ours"),
                conf: conf.to_vec(),
                tls: Some(tls),
                ..Options::default()
            })),
            tokio::task::spawn_blocking(Broker::start),
        );
        let (broker, other_cluster) = (ours.unwrap(), theirs.unwrap());
        let config = provision::config_for(&other_cluster, tenant);
        tokio::task::spawn_blocking(move || provision::provision(&config, false).unwrap()).await.unwrap();
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (full, held) = black_hole().await;
        Self {
            broker,
            other_cluster,
            black_hole: format!("pulsar://{}", full.local_addr().unwrap()),
            mute: format!("pulsar://{}", mute.local_addr().unwrap()),
            taken: mute.local_addr().unwrap().to_string(),
            dir,
            _held: held,
            _listeners: vec![mute, full],
        }
    }

    /// The authority of our broker's certificate.
    pub fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// A file of the directory, or one that is not there.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `pulsar+ssl://` at the port where our broker speaks plainly.
    pub fn tls_at_plain_port(&self) -> String {
        self.broker.service_url().replace("pulsar://127.0.0.1", "pulsar+ssl://localhost")
    }

    /// The reverse.
    pub fn plain_at_tls_port(&self) -> String {
        self.broker.tls_url().replace("pulsar+ssl://localhost", "pulsar://127.0.0.1")
    }

    /// A token that our broker takes for `seconds`, which may be in the past.
    pub fn token(&self, seconds: i64) -> String {
        token(SIGNING_KEY, seconds)
    }

    /// A token that it does not take.
    pub fn foreign_token(&self) -> String {
        token(OTHER_SIGNING_KEY, 3600)
    }

    /// Where things can be looked at after a failure.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

fn token(key: &str, seconds: i64) -> String {
    let claims = serde_json::json!({ "sub": "gateway", "exp": in_seconds(seconds).unix_ms() / 1000 });
    let key = EncodingKey::from_base64_secret(key).unwrap();
    jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap()
}

/// A listener whose queue is full: Linux drops further SYNs, as a firewall does that says nothing.
async fn black_hole() -> (TcpListener, Vec<TcpStream>) {
    let [port] = free_ports();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], port).into()).unwrap();
    let full = socket.listen(1).unwrap();
    let mut held = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(std::time::Duration::from_millis(300), TcpStream::connect(("127.0.0.1", port))).await
    {
        held.push(stream);
        assert!(held.len() < 64, "this system does not drop SYNs of a full queue");
    }
    (full, held)
}
