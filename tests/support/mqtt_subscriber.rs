//! A subscriber with a session: it answers as MQTT 5.0 §4.3 asks of a receiver, comes back after each lost connection, and
//! writes down what it took. Bytes by hand.

#![allow(clippy::disallowed_methods)] // these tasks are joined here

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::mqtt::{Options, Reply, packet, text};
use super::mqtt_fleet::{name, next, payload, qos};

/// What it took.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// By the number of the device, in order: with QoS 2 once per exchange, with QoS 1 as often as they came.
    pub messages: BTreeMap<usize, Vec<u32>>,
    /// With another QoS or payload than was published.
    pub unexpected: u64,
    pub sessions_lost: u64,
}

/// A running one.
pub struct Subscriber {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    count: AtomicU64,
    received: Mutex<Received>,
}

struct State {
    address: SocketAddr,
    client: String,
    v5: bool,
    subscribed: bool,
    /// Packet ids of QoS 2 exchanges that are not over.
    open: HashSet<u16>,
    shared: Arc<Shared>,
}

impl Subscriber {
    /// Subscribes to `devices/#` with QoS 2; returns when that is confirmed.
    pub async fn start(address: SocketAddr, client: &str, v5: bool) -> Self {
        let shared = Arc::new(Shared::default());
        let client = format!("subscriber-{client}");
        let mut state = State { address, client, v5, subscribed: false, open: HashSet::new(), shared: shared.clone() };
        let stream = state.connect().await.unwrap();
        let task = tokio::spawn(async move {
            let mut connected = Ok(stream);
            while !state.shared.stop.load(Ordering::Relaxed) {
                if let Ok((stream, read)) = connected {
                    let _ = state.listen(stream, read).await;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
                connected = state.connect().await;
            }
        });
        Self { shared, task }
    }

    /// Tells how many messages it took.
    pub fn counter(&self) -> impl Fn() -> u64 + Send + use<> {
        let shared = self.shared.clone();
        move || shared.count.load(Ordering::Relaxed)
    }

    /// Ends when it has all, or after `bound`.
    pub async fn stop(self, all: impl Fn(&BTreeMap<usize, Vec<u32>>) -> bool, bound: Duration) -> Received {
        let end = Instant::now() + bound;
        while Instant::now() < end && !all(&self.shared.received.lock().unwrap().messages) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // What would be too much comes next.
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.shared.stop.store(true, Ordering::Relaxed);
        timeout(Duration::from_secs(30), self.task).await.unwrap().unwrap();
        std::mem::take(&mut *self.shared.received.lock().unwrap())
    }
}

impl State {
    async fn connect(&mut self) -> std::io::Result<(TcpStream, Vec<u8>)> {
        let mut stream = TcpStream::connect(self.address).await?;
        let options = Options::new(&self.client).stays();
        stream.write_all(&Options { v5: self.v5, keep_alive: 60, ..options }.bytes()).await?;
        let mut read = Vec::new();
        let present = match next(&mut stream, &mut read, self.v5).await? {
            Reply::Connack { present, reason: 0 } => present,
            Reply::Connack { reason, .. } => return Err(std::io::Error::other(format!("refused: {reason:#x}"))),
            other => panic!("not a CONNACK: {other:?}"),
        };
        if self.subscribed {
            self.shared.received.lock().unwrap().sessions_lost += u64::from(!present);
            return Ok((stream, read));
        }
        let mut body = vec![0, 1];
        if self.v5 {
            body.push(0);
        }
        body.extend(text("devices/#"));
        body.push(2);
        stream.write_all(&packet(0x82, &body)).await?;
        assert_eq!(next(&mut stream, &mut read, self.v5).await?, Reply::Suback { id: 1, reasons: vec![2] });
        self.subscribed = true;
        Ok((stream, read))
    }

    async fn listen(&mut self, mut stream: TcpStream, mut read: Vec<u8>) -> std::io::Result<()> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let Ok(reply) = timeout(Duration::from_millis(200), next(&mut stream, &mut read, self.v5)).await else {
                continue;
            };
            let answer = match reply? {
                Reply::Publish { topic, payload, qos: 1, id, .. } => {
                    self.take(&topic, &payload, 1);
                    packet(0x40, &id.to_be_bytes())
                }
                Reply::Publish { topic, payload, qos: 2, id, .. } => {
                    // [MQTT-4.3.3-10]: the same id before PUBREL is the same message.
                    if self.open.insert(id) {
                        self.take(&topic, &payload, 2);
                    }
                    packet(0x50, &id.to_be_bytes())
                }
                Reply::Pubrel { id } => {
                    self.open.remove(&id);
                    packet(0x70, &id.to_be_bytes())
                }
                Reply::Disconnect { .. } => continue,
                other => panic!("{}: {other:?}", self.client),
            };
            stream.write_all(&answer).await?;
        }
        Ok(())
    }

    fn take(&self, topic: &str, bytes: &[u8], with: u8) {
        let mut received = self.shared.received.lock().unwrap();
        let device = topic.strip_prefix("devices/press-").and_then(|t| t.strip_suffix("/reading")?.parse().ok());
        let n = bytes.first_chunk().map(|n| u32::from_be_bytes(*n));
        match (device, n) {
            (Some(device), Some(n)) if payload(device, n) == bytes && qos(device, n) == with => {
                debug_assert!(topic.contains(&name(device)));
                received.messages.entry(device).or_default().push(n);
                self.shared.count.fetch_add(1, Ordering::Relaxed);
            }
            _ => received.unexpected += 1,
        }
    }
}
