//! A real mosquitto on a free port, with its files in a directory of its own; gone when dropped.
//!
//! It writes its persistence only now and then and never syncs it: what a kill -9 leaves is some older state. So tests
//! stop it in order (SIGTERM writes everything) and kill -9 only Tidegate.

use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::ports::free_port;
use super::process::output_file;

/// How long a start, a stop or a publisher may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A broker that can be stopped and started again with what it kept.
pub struct Mosquitto {
    dir: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

/// Debian keeps it where only root looks.
fn program() -> PathBuf {
    let known = Path::new("/usr/sbin/mosquitto");
    if known.exists() { known.to_owned() } else { "mosquitto".into() }
}

impl Mosquitto {
    /// With persistence, no limit on what it queues for absent clients, and everybody let in.
    pub fn start() -> Self {
        Self::with("persistence true\nallow_anonymous true\n")
    }

    /// With these lines in its configuration, below the listener's. `{dir}` is the directory of its files.
    pub fn with(lines: &str) -> Self {
        Self::prepared(|_| lines.to_owned())
    }

    /// The same; `prepare` gets the directory, puts files there, and gives the lines.
    pub fn prepared(prepare: impl FnOnce(&Path) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let lines = prepare(dir.path());
        let place = dir.path().display();
        let text = format!(
            "user root\nlistener {port} 127.0.0.1\nmax_queued_messages 0\nlog_dest stderr\nlog_type all\n\
             persistence_location {place}/\n{}\n",
            lines.replace("{dir}", &place.to_string())
        );
        std::fs::write(dir.path().join("mosquitto.conf"), text).unwrap();
        let mut broker = Self { dir, port, child: None };
        broker.restart();
        broker
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `mqtt://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts it (again) and waits until it listens.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "mosquitto still runs");
        let log = output_file(&self.dir.path().join(format!("mosquitto-{}.log", free_port())));
        let child = Command::new(program())
            .arg("-c")
            .arg(self.dir.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start mosquitto: {e}; install the Debian package mosquitto"));
        self.child = Some(child);
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none(), "mosquitto ended: {ended:?}\n{}", self.log());
            assert!(Instant::now() < end, "mosquitto does not listen\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM: it writes what it keeps, then ends.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        let end = Instant::now() + PATIENCE;
        while child.try_wait().ok().flatten().is_none() {
            assert!(Instant::now() < end, "mosquitto does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops its process as a debugger would (SIGSTOP), or lets it go on: its connections stay, and it says nothing.
    pub fn freeze(&self, frozen: bool) {
        let Some(child) = &self.child else { return };
        let signal = if frozen { "-STOP" } else { "-CONT" };
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).status();
    }

    /// What it has logged, of all its lives.
    pub fn log(&self) -> String {
        let files = std::fs::read_dir(self.dir.path()).unwrap().flatten();
        let logs = files.filter(|f| f.path().extension().is_some_and(|e| e == "log"));
        logs.map(|f| std::fs::read_to_string(f.path()).unwrap_or_default()).collect()
    }

    /// `mosquitto_pub` with these arguments besides the address. It must succeed: what it sent with QoS 1 and 2 is taken.
    pub fn publish(&self, arguments: &[&str]) {
        self.publish_lines(arguments, "");
    }

    /// The same, with one message for each of `lines` if `arguments` has `-l`.
    pub fn publish_lines(&self, arguments: &[&str], lines: &str) {
        publish(self.port, arguments, lines);
    }
}

/// See [`Mosquitto::publish_lines`].
pub fn publish(port: u16, arguments: &[&str], lines: &str) {
    let mut child = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start mosquitto_pub: {e}; install the Debian package mosquitto-clients"));
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "mosquitto_pub {arguments:?}: {status}");
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
