//! The command line: what commands there are; one file each.

mod check;
mod cloud;
mod command;
mod config;
mod devices;
mod keys;
mod model;
mod nodes;
mod outbox;
pub mod provision;
mod pushed;
mod rollout;
mod run;
mod tail;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Mode, Warning};

/// Exit code: a wrong command line or configuration (sysexits.h's EX_USAGE).
pub const EXIT_USAGE: u8 = 64;
/// Exit code: a defect of Tidegate or of its stored data (EX_SOFTWARE).
pub const EXIT_INTERNAL: u8 = 70;
/// Exit code: something outside failed; the same command may work later (EX_TEMPFAIL).
pub const EXIT_TEMPORARY: u8 = 75;

const ABOUT: &str = "Takes device events, keeps them on disk until they have arrived, and delivers them to Apache Pulsar once and in order.";

const LONG_ABOUT: &str = "\
Tidegate sits between devices and Apache Pulsar. On a gateway (`tidegate edge`) it takes events over HTTP, puts them \
on disk before it answers, and delivers each of them to Pulsar once and in order, however often the link, the power or \
the broker goes away. In the cloud (`tidegate cloud`) it stores what arrives, removes duplicates, and shows what is \
missing.";

const AFTER: &str = "\
First steps, without a configuration file and without a broker:
  tidegate edge &                     listens on 127.0.0.1:8800, buffers in ./tidegate-data
  curl -i -H 'content-type: application/json' -d '{\"temperature\":21.5}' \\
       http://127.0.0.1:8800/v1/devices/sensor-1/events
  tidegate outbox status              what waits for a broker
  tidegate command send sensor-1 reboot --wait 30s

With a Pulsar cluster (config/edge.toml and config/cloud.toml explain every key):
  tidegate provision --config cloud.toml --dry-run    shows what it would make in Pulsar
  tidegate provision --config cloud.toml
  tidegate cloud --config cloud.toml &
  tidegate edge --config edge.toml &
  tidegate tail                       follows the events as they arrive

For devices on the network (tidegate keys server --help, tidegate devices --help tell more):
  tidegate keys server --name gw.plant.example --ip 192.168.1.5 --dir tls
  tidegate devices add press-7 --file devices.toml

To push configuration to gateways (tidegate config --help):
  tidegate keys signing anna.key      makes a key and shows what gateways need to trust it
  tidegate config check press.toml --policy config/policy.rego
  tidegate config sign press.toml --key anna.key --version 1 --out press.signed
  tidegate config verify press.signed --config edge.toml
  tidegate nodes                      who is there, and what each runs
  tidegate config push press.signed --group plant-7 --wait
  tidegate config history --node press-7

To publish models to gateways (tidegate model --help):
  tidegate model publish press-anomaly model.onnx --sign anna.key

Every key of a [section] can be set by the environment: TIDEGATE_NODE_ID, TIDEGATE_UPLINK_TOKEN, …

Exit codes: 0 clean, 64 command line or configuration, 70 internal, 75 temporary (try again).";

#[derive(Parser)]
#[command(name = "tidegate", version, about = ABOUT, long_about = LONG_ABOUT, after_long_help = AFTER)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run on a gateway: take events, keep them, deliver them to Pulsar
    Edge(EdgeArgs),
    /// Run in the cloud: consume, remove duplicates, store, audit, stream
    Cloud(ConfigArgs),
    /// Check a configuration file: every mistake at once, with its line
    Check(CheckArgs),
    /// Documents that are pushed to gateways: check, compare, sign, verify, push, roll back
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Models: sign, publish, list
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Roll-outs: list, show, pause, resume, abort, approve
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// List the gateways: who is there, what each runs and is to run
    #[command(after_long_help = nodes::AFTER)]
    Nodes(nodes::NodesArgs),
    /// Make Pulsar ready: tenant, namespaces, topics, retention, subscription, replication
    Provision(provision::ProvisionArgs),
    /// Look into a gateway's buffer on disk
    #[command(subcommand)]
    Outbox(outbox::OutboxCommand),
    /// Say who may come in: devices and their tokens, passwords, certificates
    #[command(subcommand)]
    Devices(devices::DevicesCommand),
    /// Make keys and certificates: for TLS a private authority, this gateway's, devices'; keys that sign what is pushed
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Send commands to devices, see and cancel those that wait
    #[command(subcommand, name = "command")]
    ToDevice(command::Action),
    /// Follow events live, as the cloud mode receives them
    Tail(tail::TailArgs),
}

/// What to check.
#[derive(Args, Clone, Debug)]
struct CheckArgs {
    /// The file; without one, the defaults and TIDEGATE_* variables
    file: Option<PathBuf>,
    /// It is an edge's file, if its sections do not tell
    #[arg(long, conflicts_with = "cloud")]
    edge: bool,
    /// It is a cloud process' file, if its sections do not tell
    #[arg(long)]
    cloud: bool,
}

impl CheckArgs {
    fn mode(&self) -> Option<Mode> {
        match (self.edge, self.cloud) {
            (true, _) => Some(Mode::Edge),
            (_, true) => Some(Mode::Cloud),
            _ => None,
        }
    }
}

/// How an edge runs.
#[derive(Args, Clone, Debug)]
pub struct EdgeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Run with the gateway's own file alone, this time: what was pushed does not count, and nothing pushed is taken
    #[arg(long)]
    local: bool,
}

/// Where the configuration is.
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    /// Configuration file; without one, defaults and TIDEGATE_* variables apply
    #[arg(short, long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Why a command failed: a sentence for the operator and the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    /// One of the `EXIT_…` codes.
    pub code: u8,
    /// Names the thing, the reason and the way out.
    pub message: String,
}

impl CliError {
    /// The command line or the configuration is wrong.
    pub fn usage(message: impl ToString) -> Self {
        Self { code: EXIT_USAGE, message: message.to_string() }
    }

    /// Tidegate or its stored data is wrong.
    pub fn internal(message: impl ToString) -> Self {
        Self { code: EXIT_INTERNAL, message: message.to_string() }
    }

    /// Something outside is wrong; trying again may help.
    pub fn temporary(message: impl ToString) -> Self {
        Self { code: EXIT_TEMPORARY, message: message.to_string() }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // One TLS stack; a second installation in the same process (tests) is harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // --help and --version are "errors" of clap with exit code 0.
            let code = if e.use_stderr() { EXIT_USAGE } else { 0 };
            let _ = e.print();
            return ExitCode::from(code);
        }
    };
    let done = match cli.command {
        Command::Edge(args) => run::edge(&args),
        Command::Cloud(args) => run::cloud(&args),
        Command::Check(args) => return check::run(args.file.as_deref(), args.mode()),
        Command::Config(command) => config::run(&command),
        Command::Model(command) => model::run(&command),
        Command::Rollout(command) => rollout::run(&command).map(|out| print(&out)),
        Command::Nodes(args) => nodes::run(&args).map(|out| print(&out)),
        Command::Provision(args) => run::provision(&args),
        Command::Outbox(command) => outbox::run(&command),
        Command::Devices(command) => devices::run(&command),
        Command::Keys(command) => keys::run(&command),
        Command::ToDevice(command) => return command::run(&command),
        Command::Tail(args) => run::tail(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("tidegate: {}", e.message);
            ExitCode::from(e.code)
        }
    }
}

/// Writes to standard output.
fn print(out: &str) {
    use std::io::Write as _;
    // Whoever closed the pipe does not want to read on.
    let _ = std::io::stdout().write_all(out.as_bytes());
}

/// Says what the configuration asks for and this version does not do.
fn print_warnings(warnings: &[Warning]) {
    for warning in warnings {
        eprintln!("tidegate: warning: {warning}");
    }
}
