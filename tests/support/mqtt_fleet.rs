//! Devices that publish with QoS 1 and 2, several messages under way at once, and believe the answers: after each lost
//! connection they come back to their session and send again what is unanswered, as [MQTT-4.4.0-1] demands. Bytes by hand.

#![allow(clippy::disallowed_methods)] // these tasks are joined here

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::mqtt::{Options, Reply, packet, parse, publish_bytes, split};
use super::random::Random;

/// What the devices send.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub address: SocketAddr,
    pub devices: usize,
    /// Messages of one device that are not over.
    pub window: usize,
    /// Every so-manieth device sometimes begins a new session and forgets what was under way.
    pub forgetful: usize,
    /// Messages per second of all devices together.
    pub rate: u64,
    pub seed: u64,
    /// The gateway may refuse messages: these are over, and not acknowledged.
    pub refusable: bool,
}

/// What one device knows.
#[derive(Clone, Debug, Default)]
pub struct DeviceLedger {
    /// Messages 1 to `offered` were sent at least once.
    pub offered: u32,
    /// Message `n` was answered with PUBACK or PUBREC: at `n - 1`.
    pub acknowledged: Vec<bool>,
    /// CONNACK said that there is no session, and there was one.
    pub sessions_lost: u64,
    /// Answers to a message before those to an earlier one of the same QoS [MQTT-4.6.0-2], [MQTT-4.6.0-3].
    pub answers_out_of_order: u64,
    pub connections: u64,
    /// It asked for a new session and had to ask again.
    pub renewals_unheard: u64,
    /// Messages sent again.
    pub repeated: u64,
}

/// What the devices know, by number.
pub type Ledger = BTreeMap<usize, DeviceLedger>;

/// Running devices.
pub struct Fleet {
    shared: Arc<Shared>,
    guard: JoinHandle<()>,
    tasks: Vec<JoinHandle<DeviceLedger>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    hold: AtomicBool,
    acknowledged: AtomicU64,
}

/// QoS of message `n`: 1 and 2 in turn, never the other way round at a device's reconnection.
pub fn qos(device: usize, n: u32) -> u8 {
    if (n as usize / 3 + device).is_multiple_of(2) { 2 } else { 1 }
}

/// Payload of message `n`. Those of one device have the same length and differ in four bytes in one place: so their CRC32 differ.
pub fn payload(device: usize, n: u32) -> Vec<u8> {
    let mut bytes = n.to_be_bytes().to_vec();
    bytes.resize(8 + device * 37 % 300, device as u8);
    bytes
}

pub fn name(device: usize) -> String {
    format!("press-{device:02}")
}

impl Fleet {
    /// Starts all devices. While `must_wait` says so of the number of messages answered so far, nothing new is sent.
    pub fn start(plan: Plan, must_wait: impl Fn(u64) -> bool + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let device = |d| tokio::spawn(Device::new(plan, d).run(shared.clone()));
        let tasks = (0..plan.devices).map(device).collect();
        let watched = shared.clone();
        let guard = tokio::spawn(async move {
            loop {
                watched.hold.store(must_wait(watched.acknowledged.load(Ordering::Relaxed)), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { shared, guard, tasks }
    }

    /// Messages answered so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Nothing new is sent from now on; returns when everything under way is answered.
    pub async fn stop(self) -> Ledger {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.guard.abort();
        let mut ledger = Ledger::new();
        for (d, task) in self.tasks.into_iter().enumerate() {
            let known = timeout(Duration::from_secs(120), task).await.expect("a device does not get its answers");
            ledger.insert(d, known.unwrap());
        }
        ledger
    }
}

struct Device {
    plan: Plan,
    number: usize,
    v5: bool,
    random: Random,
    known: DeviceLedger,
    /// Published and not answered: number and packet id, in order.
    published: VecDeque<(u32, u16)>,
    /// Answered with PUBREC, in this order, and not with PUBCOMP.
    released: VecDeque<u16>,
    last_id: u16,
    has_session: bool,
    /// It asked for a new session and has not heard that there is one.
    renews: bool,
    /// When the next message is due.
    next: Instant,
}

impl Device {
    fn new(plan: Plan, number: usize) -> Self {
        Self {
            plan,
            number,
            v5: number.is_multiple_of(2),
            random: Random::seeded(plan.seed + number as u64),
            known: DeviceLedger::default(),
            published: VecDeque::new(),
            released: VecDeque::new(),
            last_id: 0,
            has_session: false,
            renews: false,
            next: Instant::now(),
        }
    }

    async fn run(mut self, shared: Arc<Shared>) -> DeviceLedger {
        loop {
            if self.is_done(&shared) {
                return self.known;
            }
            // Lost again, or not there yet.
            let _ = self.connection(&shared).await;
            tokio::time::sleep(Duration::from_millis(5 + self.random.below(40))).await;
        }
    }

    fn is_done(&self, shared: &Shared) -> bool {
        shared.stop.load(Ordering::Relaxed) && self.published.is_empty() && self.released.is_empty()
    }

    async fn connection(&mut self, shared: &Shared) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(self.plan.address).await?;
        self.known.renewals_unheard += u64::from(self.renews);
        self.renews |= self.number.is_multiple_of(self.plan.forgetful) && self.random.below(4) == 0;
        let clean = self.renews;
        if clean {
            // Now, not with CONNACK: the server may have done so although its answer is lost, and what it had of the old
            // session it would then take for new [MQTT-3.1.2-4].
            self.published.clear();
            self.released.clear();
        }
        let options = Options::new(&name(self.number)).stays();
        stream.write_all(&Options { v5: self.v5, clean, keep_alive: 60, ..options }.bytes()).await?;
        let mut read = Vec::new();
        match next(&mut stream, &mut read, self.v5).await? {
            Reply::Connack { present, reason: 0 } => {
                assert!(!(clean && present), "a session although a new one was asked for [MQTT-3.1.2-4]");
                self.known.sessions_lost += u64::from(self.has_session && !clean && !present);
            }
            // It goes down.
            Reply::Connack { reason, .. } => return Err(std::io::Error::other(format!("refused: {reason:#x}"))),
            other => panic!("not a CONNACK: {other:?}"),
        }
        (self.has_session, self.renews) = (true, false);
        self.known.connections += 1;
        stream.write_all(&self.again()).await?;
        while !self.is_done(shared) {
            let more = self.more(shared);
            stream.write_all(&more).await?;
            let wait = if self.published.is_empty() && self.released.is_empty() { 20 } else { 10_000 };
            match timeout(Duration::from_millis(wait), next(&mut stream, &mut read, self.v5)).await {
                Ok(reply) => {
                    let answer = self.hear(reply?, shared);
                    stream.write_all(&answer).await?;
                }
                Err(_) if wait < 10_000 => {}
                Err(_) => return Err(std::io::Error::other("no answer")),
            }
        }
        stream.write_all(&[0xE0, 0]).await
    }

    /// What the last connection left unanswered.
    fn again(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &id in &self.released {
            bytes.extend(packet(0x62, &id.to_be_bytes()));
        }
        for &(n, id) in &self.published {
            bytes.extend(self.publish(n, id, true));
            self.known.repeated += 1;
        }
        bytes
    }

    fn more(&mut self, shared: &Shared) -> Vec<u8> {
        let mut bytes = Vec::new();
        if shared.stop.load(Ordering::Relaxed) || shared.hold.load(Ordering::Relaxed) {
            return bytes;
        }
        let now = Instant::now();
        // What a pause held up is made up for, up to a second of it.
        self.next = self.next.max(now - Duration::from_secs(1));
        while self.published.len() + self.released.len() < self.plan.window && self.next <= now {
            self.next += Duration::from_secs(self.plan.devices as u64) / self.plan.rate as u32;
            self.known.offered += 1;
            self.known.acknowledged.push(false);
            let (n, id) = (self.known.offered, self.free_id());
            bytes.extend(self.publish(n, id, false));
            self.published.push_back((n, id));
        }
        bytes
    }

    fn publish(&self, n: u32, id: u16, dup: bool) -> Vec<u8> {
        let topic = format!("devices/{}/reading", name(self.number));
        publish_bytes(self.v5, &topic, &payload(self.number, n), qos(self.number, n), false, dup, id)
    }

    fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.wrapping_add(1).max(1);
            let id = self.last_id;
            if !self.released.contains(&id) && !self.published.iter().any(|p| p.1 == id) {
                return id;
            }
        }
    }

    /// What is to be sent for it.
    fn hear(&mut self, reply: Reply, shared: &Shared) -> Vec<u8> {
        match reply {
            Reply::Puback { id, reason: 0 | 0x10, .. } => self.answered(id, 1, shared),
            Reply::Pubrec { id, reason: 0 | 0x10, .. } => {
                // One that is already known is only told again.
                if !self.released.contains(&id) {
                    self.answered(id, 2, shared);
                    self.released.push_back(id);
                }
                return packet(0x62, &id.to_be_bytes());
            }
            Reply::Puback { id, .. } | Reply::Pubrec { id, .. } if self.plan.refusable => {
                self.published.retain(|p| p.1 != id);
            }
            Reply::Pubcomp { id, .. } => self.released.retain(|r| *r != id),
            // It goes down; the connection ends next.
            Reply::Disconnect { .. } => {}
            other => panic!("{}: {other:?}", name(self.number)),
        }
        Vec::new()
    }

    fn answered(&mut self, id: u16, with: u8, shared: &Shared) {
        let number = self.number;
        let at = self.published.iter().position(|p| p.1 == id && qos(number, p.0) == with);
        let at = at.unwrap_or_else(|| panic!("{}: an answer to {id}, which is not under way", name(number)));
        let earlier = self.published.iter().take(at).filter(|p| qos(number, p.0) == with).count();
        self.known.answers_out_of_order += u64::from(earlier > 0);
        let (n, _) = self.published.remove(at).unwrap();
        self.known.acknowledged[n as usize - 1] = true;
        shared.acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// The next packet of the server.
pub async fn next(stream: &mut TcpStream, read: &mut Vec<u8>, v5: bool) -> std::io::Result<Reply> {
    loop {
        if let Some((first, body, used)) = split(read) {
            read.drain(..used);
            return Ok(parse(first, &body, v5));
        }
        if stream.read_buf(read).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
