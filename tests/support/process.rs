//! The built binary as a child process, with its own ports and directories; killed when dropped.

use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::ports::free_port;

/// `TIDEGATE_TEST_BINARY` if it is set: a release build, or a script that calls a build for another machine with its emulator.
/// Otherwise what was built for the test.
fn program(built: &Path) -> PathBuf {
    std::env::var_os("TIDEGATE_TEST_BINARY").map_or_else(|| built.to_owned(), PathBuf::from)
}

/// A Tidegate process that can be killed and started again with the same configuration.
pub struct Tidegate {
    binary: PathBuf,
    mode: &'static str,
    config: PathBuf,
    log: PathBuf,
    http: SocketAddr,
    child: Option<Child>,
}

impl Tidegate {
    /// Writes `config` (TOML without its `[http]` section) to `dir/<mode>.toml` and starts the process.
    pub fn start(binary: &Path, mode: &'static str, dir: &Path, config: &str) -> Self {
        fs::create_dir_all(dir).expect("test directory");
        let http = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let path = dir.join(format!("{mode}.toml"));
        // Tests of MQTT write their own section; for the others port 1883 would be taken by the first of them.
        let mqtt = if mode == "edge" && !config.contains("[mqtt]") { "[mqtt]\nlisten = \"off\"\n\n" } else { "" };
        fs::write(&path, format!("{mqtt}[http]\nlisten = \"{http}\"\n\n{config}")).expect("write the configuration");
        let log = dir.join(format!("{mode}.log"));
        let mut process = Self { binary: program(binary), mode, config: path, log, http, child: None };
        process.restart();
        process
    }

    /// Base URL of its HTTP interface.
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts it (again); does not wait until it answers.
    pub fn restart(&mut self) {
        self.restart_with(&[]);
    }

    /// The same with more arguments, this time.
    pub fn restart_with(&mut self, arguments: &[&str]) {
        assert!(self.child.is_none(), "{} still runs", self.mode);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("log file");
        let child = Command::new(&self.binary)
            .args([self.mode, "--config"])
            .arg(&self.config)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log file"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", self.binary.display()));
        self.child = Some(child);
    }

    /// kill -9.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM; waits at most `bound`. The exit code, or `None` when it had to be killed.
    pub fn terminate(&mut self, bound: Duration) -> Option<i32> {
        let mut child = self.child.take()?;
        let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        let end = Instant::now() + bound;
        while Instant::now() < end {
            if let Ok(Some(status)) = child.try_wait() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }

    /// The exit code if it has ended by itself.
    pub fn exited(&mut self) -> Option<i32> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status.code().unwrap_or(-1))
    }

    /// GET `path` as JSON; `None` when it does not answer with 200.
    pub fn get(&self, path: &str) -> Option<serde_json::Value> {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build().into();
        agent.get(format!("{}{path}", self.url())).call().ok()?.body_mut().read_json().ok()
    }

    /// Waits until GET `path` answers 200. Panics with the log's tail after `bound`.
    pub fn wait_ready(&mut self, bound: Duration) {
        let url = format!("{}/readyz", self.url());
        self.wait_for("to become ready", bound, |_| ureq::get(&url).call().is_ok());
    }

    /// Waits until no lane has a backlog.
    pub fn wait_drained(&mut self, bound: Duration) {
        self.wait_for("to drain", bound, |p| p.backlog() == Some(0));
    }

    /// Events on disk and not confirmed, over all lanes; `None` when it does not answer.
    pub fn backlog(&self) -> Option<u64> {
        let status = self.get("/v1/status")?;
        status["lanes"].as_array()?.iter().map(|l| l["backlog_events"].as_u64()).sum()
    }

    /// Polls `done` every 20 ms; panics with the log's tail after `bound` or when the process ends.
    pub fn wait_for(&mut self, what: &str, bound: Duration, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + bound;
        while !done(self) {
            if let Some(code) = self.exited() {
                panic!("{} ended with code {code} while waiting for it {what}\n{}", self.mode, self.log_tail());
            }
            assert!(Instant::now() < end, "{bound:?} passed waiting for {} {what}\n{}", self.mode, self.log_tail());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Its whole log.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Tidegate {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Runs a command of the binary to its end: exit code, standard output, standard error.
pub fn run(binary: &Path, args: &[&str]) -> (i32, String, String) {
    let out = Command::new(program(binary)).args(args).stdin(Stdio::null()).output().expect("run tidegate");
    (
        out.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&out.stdout).into_owned(),
        String::from_utf8_lossy(&out.stderr).into_owned(),
    )
}

/// Opens an empty file for a child's output.
pub fn output_file(path: &Path) -> File {
    File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
