//! A gateway's HTTP way in, in this process, and a client that can misbehave.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tidegate::config::EdgeConfig;
use tidegate::downlink::commands::Commands;
use tidegate::event::{Event, record};
use tidegate::ingest::Router;
use tidegate::ingest::http::{Gateway, Listener};
use tidegate::journal::Meters;
use tidegate::observe::metrics::Metrics;
use tidegate::observe::status::Links;
use tidegate::outbox::Outbox;
use tidegate::sys::clock::Clock;
use tidegate::sys::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Nothing on 127.0.0.1 takes this long, unless it never ends.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the gateway's clock says.
pub const NOW_MS: i64 = 1_700_000_000_000;

pub struct Gate {
    pub address: SocketAddr,
    pub tasks: Tasks,
    pub links: Links,
    pub ready: Arc<AtomicBool>,
    outbox: Outbox,
    _dir: TempDir,
}

impl Gate {
    /// With the defaults, but for what `change` changes.
    pub fn start(change: impl FnOnce(&mut EdgeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = EdgeConfig::default();
        config.node.id = "press-7".into();
        config.node.data_dir = dir.path().into();
        config.http.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        change(&mut config);
        let (clock, _) = Clock::set_to(NOW_MS);
        let metrics = Metrics::default();
        let outbox = Outbox::open(&config, &clock, &metrics).unwrap();
        let (tasks, links, ready) = (Tasks::new(), Links::default(), Arc::new(AtomicBool::new(true)));
        let listener = Listener::bind(&config.http).unwrap();
        let address = listener.local_addr();
        let router = Router::new(&config.lanes, &outbox).unwrap();
        let journal = Meters::new(&metrics).of("commands");
        let commands = Commands::open(&config, &clock, &metrics, journal, Arc::new(router.clone())).unwrap();
        let inference = tidegate::inference::Inference::new(&config, &metrics);
        let gateway = Gateway {
            node: config.node.id.clone(),
            scoring: tidegate::ingest::scoring::Scoring::new(inference, router.clone()),
            router,
            commands,
            outbox: outbox.clone(),
            links: links.clone(),
            clock,
            metrics,
            http: tidegate::ingest::http::Settings::new(&config.http),
            max_event: config.outbox.max_event,
            bridges: Default::default(),
            local: None,
            gate: tidegate::ingest::identity::Gate::open(),
            tls: None,
            ready: ready.clone(),
            downlink: Default::default(),
        };
        listener.start(&tasks, gateway);
        Self { address, tasks, links, ready, outbox, _dir: dir }
    }

    pub async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), read: Vec::new() }
    }

    /// One request on a connection of its own.
    pub async fn send(&self, request: impl AsRef<[u8]>) -> Reply {
        let mut client = self.connect().await;
        client.write(request).await;
        client.reply().await
    }

    pub async fn post(&self, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Reply {
        self.send(request(path, headers, body)).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await
    }

    /// The value of a metric's line, by the line's beginning.
    pub async fn metric(&self, line: &str) -> f64 {
        let text = self.get("/metrics").await.body;
        let text = String::from_utf8(text).unwrap();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or_else(|| panic!("no line {line:?} in\n{text}"))
    }

    /// Everything in a lane.
    pub async fn stored(&self, lane: &str) -> Vec<Event> {
        let status = self.outbox.status().into_iter().find(|s| s.lane == lane).unwrap();
        let mut events = Vec::new();
        let mut reader = self.outbox.reader(lane).unwrap();
        while (events.len() as u64) < status.last {
            for stored in reader.read(events.len() as u64 + 1, 1 << 20).await.unwrap() {
                events.push(record::decode(&stored.record).unwrap().0.to_event());
            }
        }
        events
    }
}

/// A POST with a length.
pub fn request(path: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut out =
        format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n{headers}\r\n", body.len()).into_bytes();
    out.extend_from_slice(body);
    out
}

pub struct Client {
    pub stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next answer.
    pub async fn reply(&mut self) -> Reply {
        timeout(PATIENCE, self.read_reply()).await.expect("an answer in time").expect("an answer before the end")
    }

    /// Whether the gateway closes without another answer.
    pub async fn ends(&mut self) -> bool {
        timeout(PATIENCE, self.read_reply()).await.expect("an end in time").is_none()
    }

    async fn read_reply(&mut self) -> Option<Reply> {
        let head_end = loop {
            if let Some(at) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            self.more().await?;
        };
        let head = String::from_utf8(self.read[..head_end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: HashMap<String, String> =
            lines.map(|l| l.split_once(": ").unwrap()).map(|(n, v)| (n.to_lowercase(), v.to_owned())).collect();
        let length = headers.get("content-length").map_or(0, |l| l.parse().unwrap());
        while self.read.len() < head_end + 4 + length {
            self.more().await?;
        }
        let body = self.read[head_end + 4..][..length].to_vec();
        self.read.drain(..head_end + 4 + length);
        Some(Reply { status, headers, body })
    }

    async fn more(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.read).await {
            Ok(n) if n > 0 => Some(()),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Checks that this is a problem document of `slug` and returns its detail.
    pub fn problem(&self, status: u16, slug: &str) -> String {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let document = self.json();
        assert_eq!(document["type"], format!("urn:tidegate:problem:{slug}"));
        assert_eq!(document["status"], status);
        document["detail"].as_str().unwrap().to_owned()
    }
}
