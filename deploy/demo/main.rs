//! The demonstration behind `deploy/demo.sh`: devices post events to an edge; in the middle the broker is
//! stopped and the edge killed with -9; both come back; then every acknowledged event is looked for in the
//! cloud's files. Exit code 0 only if nothing is missing, double, altered or out of order.

mod readings;
#[path = "../../tests/support"]
#[allow(dead_code, clippy::unwrap_used)] // shared with the tests
mod support {
    pub mod files;
    pub mod fleet;
    pub mod oracle;
    pub mod ports;
    pub mod process;
}

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use support::fleet::{Fleet, Plan, simulated};
use support::oracle::{Verdict, judge};
use support::ports::free_port;
use support::process::Tidegate;

/// How long the broker may take to start, from nothing.
const BROKER_START_MAX: Duration = Duration::from_secs(120);
/// How long everything may take to arrive after the faults.
const DRAIN_MAX: Duration = Duration::from_secs(180);

#[derive(Parser)]
#[command(
    name = "demo",
    about = "One edge, one cloud process, a real Pulsar, 50 devices, and two faults in the middle"
)]
struct Options {
    /// The built binary
    #[arg(long, value_name = "FILE")]
    tidegate: PathBuf,
    /// The script that starts and stops a broker
    #[arg(long, value_name = "FILE", default_value = "deploy/pulsar/pulsar.sh")]
    pulsar: PathBuf,
    /// Where everything of this run is kept
    #[arg(long, value_name = "DIR", default_value = ".work/demo")]
    dir: PathBuf,
    /// Events in all
    #[arg(long, default_value_t = 20_000)]
    events: u64,
    /// Devices
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    devices: u64,
    /// Events per second of all devices together
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Replay real readings: CSV files with a header line
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Vec<PathBuf>,
    /// Leave everything running at the end, and say how to talk to it
    #[arg(long)]
    keep: bool,
}

struct Broker<'a> {
    script: &'a Path,
    dir: PathBuf,
    port: u16,
    web_port: u16,
    bookie_port: u16,
    keep: bool,
}

impl Broker<'_> {
    fn call(&self, verb: &str) -> Result<(), String> {
        let status = Command::new("bash")
            .arg(self.script)
            .args([verb, "--name", "standalone", "--dir"])
            .arg(&self.dir)
            .args(["--port", &self.port.to_string(), "--web-port", &self.web_port.to_string()])
            .args(["--bookie-port", &self.bookie_port.to_string()])
            .stdout(std::process::Stdio::null())
            .status()
            .map_err(|e| format!("cannot run {}: {e}", self.script.display()))?;
        if status.success() { Ok(()) } else { Err(format!("{} {verb} failed: {status}", self.script.display())) }
    }
}

impl Drop for Broker<'_> {
    fn drop(&mut self) {
        if !self.keep {
            let _ = self.call("kill");
        }
    }
}

struct System<'a> {
    broker: Broker<'a>,
    edge: Tidegate,
    cloud: Tidegate,
    events_dir: PathBuf,
}

/// What the run showed, besides the verdict.
struct Timings {
    longest_silence: Duration,
    drained_after: Duration,
    longest_wait: Duration,
    repeated: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match demonstrate(&options) {
        Ok(verdict) if verdict.is_clean() && verdict.delivered > 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("demo: {e}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate(options: &Options) -> Result<Verdict, String> {
    let readings = readings::load(&options.data)?;
    let mut system = start(options)?;
    let per_device = options.events.div_ceil(options.devices);
    let total = per_device * options.devices;
    let source = match &readings {
        Some(r) => format!("{} real readings of {} files", r.len(), options.data.len()),
        None => "simulated readings".to_owned(),
    };
    say(&format!("{} devices post {total} events ({source}), {} a second", options.devices, options.rate));
    let data: Arc<dyn Fn(usize, u64) -> Vec<u8> + Send + Sync> = match readings {
        Some(r) => Arc::new(move |d, n| r.row(d as u64 * per_device + n - 1)),
        None => Arc::new(simulated),
    };
    let fleet = Fleet::start(Plan {
        url: system.edge.url(),
        devices: usize::try_from(options.devices).map_err(|e| e.to_string())?,
        events_per_device: per_device,
        rate: options.rate,
        data,
        prefix: "device-".into(),
    });
    let watched = watch(&mut system, &fleet, total)?;
    let timings = Timings { longest_wait: fleet.longest_wait(), repeated: fleet.refused(), ..watched };
    let ledger = fleet.stop();
    let arrivals = support::files::read_events(&system.events_dir)?;
    let verdict = judge(&ledger, arrivals);
    print_table(&verdict, &timings, &system);
    if options.keep {
        keep(system);
    }
    Ok(verdict)
}

fn start(options: &Options) -> Result<System<'_>, String> {
    let dir = &options.dir;
    if dir.exists() {
        std::fs::remove_dir_all(dir).map_err(|e| format!("cannot clear {}: {e}", dir.display()))?;
    }
    std::fs::create_dir_all(dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    let dir = dir.canonicalize().map_err(|e| e.to_string())?;
    let (port, web_port, bookie_port) = (free_port(), free_port(), free_port());
    let broker =
        Broker { script: &options.pulsar, dir: dir.join("pulsar"), port, web_port, bookie_port, keep: options.keep };
    say("starting a Pulsar broker");
    broker.call("start")?;
    let events_dir = dir.join("events");
    let pulsar = format!("pulsar://127.0.0.1:{port}");
    let cloud_toml = format!(
        "[pulsar]\nservice = \"{pulsar}\"\nadmin = \"http://127.0.0.1:{web_port}\"\n\n[[lane]]\nname = \"telemetry\"\npartitions = 4\n\n[[sink]]\nkind = \"files\"\ndir = {events_dir:?}\n"
    );
    let edge_toml = format!(
        "[node]\nid = \"demo-edge\"\ndata_dir = {:?}\n\n[[lane]]\nname = \"telemetry\"\n\n[uplink]\npulsar = [\"{pulsar}\"]\n",
        dir.join("edge-data")
    );
    let provision = dir.join("provision.toml");
    std::fs::write(&provision, &cloud_toml).map_err(|e| e.to_string())?;
    say("making tenant, namespaces, topics and the subscription (tidegate provision)");
    let provision = provision.to_string_lossy().into_owned();
    let (code, out, err) = support::process::run(&options.tidegate, &["provision", "--config", &provision]);
    if code != 0 {
        return Err(format!("tidegate provision ended with {code}:\n{out}{err}"));
    }
    say("starting the cloud process and the edge");
    let mut cloud = Tidegate::start(&options.tidegate, "cloud", &dir, &cloud_toml);
    let mut edge = Tidegate::start(&options.tidegate, "edge", &dir, &edge_toml);
    cloud.wait_ready(Duration::from_secs(30));
    edge.wait_ready(Duration::from_secs(30));
    Ok(System { broker, edge, cloud, events_dir })
}

/// Follows the run, makes the faults at their time, and waits until all has arrived.
fn watch(system: &mut System<'_>, fleet: &Fleet, total: u64) -> Result<Timings, String> {
    let mut progress = Progress::new(total);
    let (mut broker_down, mut edge_killed, mut all_back) = (false, None, None);
    let (mut drained_after, mut asked_at) = (Duration::ZERO, Instant::now());
    let mut end = None;
    loop {
        let acknowledged = fleet.acknowledged();
        let delivered = delivered(&system.cloud);
        progress.show(acknowledged, delivered);
        if !broker_down && acknowledged >= total / 4 {
            broker_down = true;
            progress.note("stopping the broker (kill -9); the edge goes on accepting");
            system.broker.call("kill")?;
        }
        if broker_down && edge_killed.is_none() && acknowledged >= total / 2 {
            progress.note("killing the edge with -9; the devices repeat what was not answered");
            system.edge.kill9();
            edge_killed = Some(Instant::now());
        }
        if edge_killed.is_some_and(|at| at.elapsed() > Duration::from_secs(1)) && system.edge.pid().is_none() {
            progress.note("starting the edge again");
            system.edge.restart();
        }
        if edge_killed.is_some() && system.edge.pid().is_some() && all_back.is_none() && acknowledged >= total / 4 * 3 {
            progress.note("starting the broker again");
            let since = Instant::now();
            system.broker.call("start")?;
            if since.elapsed() > BROKER_START_MAX {
                return Err("the broker took too long to start".into());
            }
            all_back = Some(Instant::now());
        }
        if let Some(back) = all_back {
            if drained_after.is_zero() && fleet.done() && system.edge.backlog() == Some(0) {
                drained_after = back.elapsed();
            }
            if !drained_after.is_zero() && delivered >= total {
                break;
            }
            if *end.get_or_insert(back + DRAIN_MAX) < Instant::now() {
                progress.note("not everything arrived in time; counting what did");
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(50).saturating_sub(asked_at.elapsed()));
        asked_at = Instant::now();
    }
    progress.finish();
    Ok(Timings { longest_silence: progress.longest_silence, drained_after, longest_wait: Duration::ZERO, repeated: 0 })
}

/// Events stored by the cloud process, duplicates not counted.
fn delivered(cloud: &Tidegate) -> u64 {
    cloud
        .get("/v1/audit")
        .and_then(|a| a["streams"].as_array().map(|s| s.iter().filter_map(|s| s["delivered"].as_u64()).sum()))
        .unwrap_or(0)
}

struct Progress {
    total: u64,
    started: Instant,
    shown: Option<Instant>,
    delivered: u64,
    grew: Option<Instant>,
    longest_silence: Duration,
}

impl Progress {
    fn new(total: u64) -> Self {
        let started = Instant::now();
        Self { total, started, shown: None, delivered: 0, grew: None, longest_silence: Duration::ZERO }
    }

    fn show(&mut self, acknowledged: u64, delivered: u64) {
        if delivered > self.delivered {
            if let Some(before) = self.grew {
                self.longest_silence = self.longest_silence.max(before.elapsed());
            }
            self.grew = Some(Instant::now());
            self.delivered = delivered;
        }
        if self.shown.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            self.shown = Some(Instant::now());
            self.note(&format!(
                "acknowledged {acknowledged:>6}, stored in the cloud {:>6} of {}",
                self.delivered, self.total
            ));
        }
    }

    fn note(&self, what: &str) {
        println!("  {:>5.1} s  {what}", self.started.elapsed().as_secs_f64());
    }

    fn finish(&self) {
        self.note(&format!("stored in the cloud {} of {}", self.delivered, self.total));
    }
}

fn say(what: &str) {
    println!("demo: {what}");
}

fn print_table(v: &Verdict, t: &Timings, system: &System<'_>) {
    println!();
    println!("  acknowledged to devices   {:>10}", v.acknowledged);
    println!("  delivered                 {:>10}", v.delivered);
    println!("  missing                   {:>10}", v.missing);
    println!("  duplicates                {:>10}", v.duplicates);
    println!("  order violations          {:>10}", v.order_violations);
    println!("  altered                   {:>10}", v.altered);
    println!(
        "  longest silence           {:>8.1} s   (no event reached the cloud: broker down)",
        t.longest_silence.as_secs_f64()
    );
    println!("  longest wait of a device  {:>8.1} s   (for one answer: edge killed)", t.longest_wait.as_secs_f64());
    println!("  repeated by devices       {:>10}   (the edge was away)", t.repeated);
    println!("  time to drain             {:>8.1} s   (after the broker was back)", t.drained_after.as_secs_f64());
    println!();
    for example in &v.examples {
        println!("  wrong: {example}");
    }
    println!("  events are in {} (zstdcat reads them)", system.events_dir.display());
}

fn keep(mut system: System<'_>) {
    println!();
    println!("Everything is left running; press Ctrl-C to stop edge and cloud. Try:");
    println!(
        "  curl -i -H 'content-type: application/json' -d '{{\"temperature\":21.5}}' {}/v1/devices/sensor-1/events",
        system.edge.url()
    );
    println!("  curl {}/v1/status", system.edge.url());
    println!("  curl {}/v1/audit", system.cloud.url());
    println!("  curl -N {}/v1/stream", system.cloud.url());
    println!("  bash {} stop --name standalone --dir {}", system.broker.script.display(), system.broker.dir.display());
    while system.edge.exited().is_none() && system.cloud.exited().is_none() {
        std::thread::sleep(Duration::from_millis(500));
    }
}
