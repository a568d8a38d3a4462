//! The built binary with small limits, attacked and looked at from outside.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::bystander::Bystander;
use crate::support::certificates::certificates;
use crate::support::eventually;
use crate::support::mqtt::{Options, Reply, parse, split};
use crate::support::ports::free_ports;
use crate::support::process::Tidegate;

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");
const READY: Duration = Duration::from_secs(60);

/// Longest wait for the end of what an attack left behind.
const RECOVERY: Duration = Duration::from_secs(40);

/// `mqtt.connect_timeout`
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Resident memory, above that before the attack: all that `[mqtt]` below lets sessions and retained messages have, the 64 MiB for
/// large packets and messages on their way to the disk, the outbox's stores in memory, and as much again for the allocator.
pub const GROWTH_BYTES_MAX: u64 = 160 << 20;

const SECTION: &str = "connect_timeout = \"2s\"\nmax_sessions = 400\nsession_expiry_max = \"2s\"\nmax_queued = 200\n\
    max_queued_bytes = \"256KiB\"\nmax_total_bytes = \"8MiB\"\nmax_retained = 10000\nmax_retained_bytes = \"4MiB\"\n\
    receive_max = 20\n\n[outbox]\nmax_bytes = \"64MiB\"\n\n[[mapping]]\ntopic = \"flood/#\"\nupstream = false\n\n";

pub struct Gateway {
    pub process: Tidegate,
    pub tcp: SocketAddr,
    pub tls: SocketAddr,
    pub ws: SocketAddr,
    pub authority: PathBuf,
    _dir: TempDir,
}

impl Gateway {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [tcp, tls, ws] = free_ports().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let [certificate, key, authority] = certificates(dir.path(), &["localhost"]);
        let config = format!(
            "[node]\ndata_dir = {:?}\n\n[tls]\ncertificate_file = {certificate:?}\nkey_file = {key:?}\n\n\
             [mqtt]\nlisten = \"{tcp}\"\ntls_listen = \"{tls}\"\nws_listen = \"{ws}\"\n{SECTION}",
            dir.path().join("data")
        );
        let mut process = Tidegate::start(Path::new(BINARY), "edge", dir.path(), &config);
        process.wait_ready(READY);
        Self { process, tcp, tls, ws, authority, _dir: dir }
    }

    /// Lets `attack` run beside an honest client, and looks at everything after it. Longest wait of the honest client.
    pub async fn under<T: Send + 'static>(&self, attack: impl Future<Output = T> + Send + 'static) -> (T, Duration) {
        let mut honest = Bystander::connect(self.tcp).await;
        honest.exchange().await;
        let (memory, files) = (self.resident(), self.files());
        let mut most = memory;
        let attack = tokio::spawn(attack);
        while !attack.is_finished() {
            honest.exchange().await;
            most = most.max(self.resident());
        }
        let result = attack.await.unwrap();
        honest.exchange().await;
        let open = || ["tcp", "tls", "ws"].map(|kind| self.metric(&format!("connections_open{{kind=\"{kind}\"}}")));
        eventually("the attackers' connections are closed", RECOVERY, open, |open| *open == [1.0, 0.0, 0.0]).await;
        let sessions = || self.metric("sessions");
        eventually("the attackers' sessions have ended", RECOVERY, sessions, |n| *n == 1.0).await;
        let queued = || (self.metric("queued_messages"), self.metric("queued_bytes"), self.metric("memory_bytes"));
        eventually("nothing waits any more", RECOVERY, queued, |q| *q == (0.0, 0.0, 0.0)).await;
        assert_eq!(self.metric("subscriptions"), 1.0);
        honest.exchange().await;
        // One or two more may be open: of HTTP, of a store.
        assert!(self.files() <= files + 8, "{} files are open, {files} before", self.files());
        let log = self.process.log();
        assert!(!log.contains("panicked"), "{}", self.process.log_tail());
        let grown = most.saturating_sub(memory);
        println!("memory grew by at most {} KiB; the honest client waited at most {:?}", grown >> 10, honest.longest);
        assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes more than before");
        (result, honest.longest)
    }

    /// The value of `tidegate_mqtt_…`.
    pub fn metric(&self, name: &str) -> f64 {
        let text =
            ureq::get(format!("{}/metrics", self.process.url())).call().unwrap().body_mut().read_to_string().unwrap();
        let start = format!("tidegate_mqtt_{name} ");
        let value = text.lines().find_map(|l| l.strip_prefix(&start)?.parse().ok());
        value.unwrap_or_else(|| panic!("no {start:?} in {text}"))
    }

    /// Bytes in memory.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid().unwrap())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.pid().unwrap())).unwrap().count()
    }
}

/// Writes what it likes while what comes is read and thrown away.
pub struct Flooder {
    write: OwnedWriteHalf,
    read: JoinHandle<Heard>,
    so_far: watch::Receiver<[u64; 16]>,
}

/// What came until the end.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Packets by the upper half of their first byte.
    pub packets: [u64; 16],
    pub last: Vec<Reply>,
}

impl Flooder {
    /// With a session.
    pub async fn connect(address: SocketAddr, options: Options) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&options.bytes()).await.unwrap();
        let (mut read, write) = stream.into_split();
        let v5 = options.v5;
        let (tell, so_far) = watch::channel([0; 16]);
        let read = tokio::spawn(async move {
            let (mut heard, mut buffer) = (Heard::default(), Vec::new());
            while read.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {
                let mut taken = 0;
                while let Some((first, body, used)) = split(&buffer[taken..]) {
                    heard.packets[usize::from(first >> 4)] += 1;
                    heard.last = vec![parse(first, &body, v5)];
                    taken += used;
                }
                let _ = tell.send(heard.packets);
                buffer.drain(..taken);
            }
            heard
        });
        Self { write, read, so_far }
    }

    /// `false`: it is closed.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.write.write_all(bytes).await.is_ok()
    }

    /// Waits until so many packets of a kind came, or the server closed.
    pub async fn hear(&mut self, kind: usize, count: u64) {
        let enough = self.so_far.wait_for(|packets| packets[kind] >= count);
        let _ = timeout(RECOVERY, enough).await.unwrap_or_else(|_| panic!("not {count} packets of kind {kind}"));
    }

    /// Closes its half, and returns what came until the other half was closed.
    pub async fn end(mut self) -> Heard {
        let _ = self.write.shutdown().await;
        timeout(RECOVERY, self.read).await.expect("an end in time").unwrap()
    }
}
