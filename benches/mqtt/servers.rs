//! The brokers under test, each as a process of its own with a directory of its own.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// Ours first. `nats-sub` has a persistent subscriber: without one NATS has no reason to keep a message.
pub const ALL: [&str; 4] = ["tidegate", "mosquitto", "nats", "nats-sub"];

pub struct Server {
    child: Child,
    pub address: SocketAddr,
    _dir: TempDir,
}

impl Server {
    /// Starts it and waits until it listens. `None`: not installed.
    pub async fn start(name: &str) -> Option<Self> {
        let dir = std::env::var_os("TIDEGATE_BENCH_DIR").map_or_else(TempDir::new, TempDir::new_in).unwrap();
        let address = free();
        let path = dir.path().display();
        let port = address.port();
        let (binary, config, args) = match name {
            "tidegate" => (
                env!("CARGO_BIN_EXE_tidegate"),
                format!(
                    "[node]\nid = \"bench\"\ndata_dir = \"{path}/data\"\n[http]\nlisten = \"{}\"\nmax_connections = 64\n[mqtt]\nlisten = \"{address}\"\n\
                     [log]\nlevel = \"warn\"\n",
                    free()
                ),
                ["edge", "--config"].as_slice(),
            ),
            "mosquitto" => (
                "mosquitto",
                format!(
                    "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {path}/\n\
                     max_queued_messages 0\nlog_type error\n"
                ),
                ["-c"].as_slice(),
            ),
            _ => (
                "nats-server",
                format!(
                    "server_name: bench\nlisten: \"{}\"\nmqtt {{ listen: \"{address}\" }}\n\
                     jetstream {{ store_dir: \"{path}/js\", sync_interval: always }}\n",
                    free()
                ),
                ["-c"].as_slice(),
            ),
        };
        let file = dir.path().join("config");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(binary);
        command.args(args).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = match command.spawn() {
            Ok(child) => child,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
            Err(e) => panic!("{binary}: {e}"),
        };
        let server = Self { child, address, _dir: dir };
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return Some(server);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{name} does not listen on {address}");
    }

    pub fn cpu_us(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // utime and stime, in ticks of 10 ms.
        (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10_000
    }

    pub fn resident_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
