//! `tidegate outbox status`: what waits on disk, on a running gateway or a stopped one.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{CliError, ConfigArgs, print_warnings};
use crate::config::{EdgeConfig, Env};
use crate::outbox::{Inspection, LaneStatus, inspect};

/// How long a running gateway may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Commands on the buffer.
#[derive(Subcommand, Clone, Debug)]
pub enum OutboxCommand {
    /// Show each lane: what is on disk, what is confirmed, what waits
    Status(StatusArgs),
}

/// Which buffer, and how to print.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The data directory, instead of the configuration's
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(command: &OutboxCommand) -> Result<(), CliError> {
    let OutboxCommand::Status(args) = command;
    let (config, warnings) =
        EdgeConfig::load(args.config.config.as_deref(), &Env::of_process()).map_err(CliError::usage)?;
    print_warnings(&warnings);
    let dir = args.data_dir.clone().unwrap_or_else(|| config.node.data_dir.clone());
    if !dir.is_dir() {
        let dir = dir.display();
        let way_out = "an edge makes it when it first runs; give the right one with --data-dir or --config";
        return Err(CliError::usage(format!("there is no data directory {dir}: {way_out}")));
    }
    let status = match inspect(&dir) {
        Ok(Inspection { incarnation: None, .. }) => {
            let dir = dir.display();
            return Err(CliError::usage(format!(
                "there is no outbox in {dir}; give --config or --data-dir with what the gateway runs with"
            )));
        }
        Ok(found) => stopped(&dir, &found),
        // Its owner is asked, if it is the gateway of this configuration.
        Err(e) if args.data_dir.is_none() => {
            running(&config).map_err(|asked| CliError::temporary(format!("{e}\n{asked}")))?
        }
        Err(e) => return Err(CliError::temporary(e)),
    };
    let text = if args.json { format!("{status:#}\n") } else { table(&status) };
    // A closed pipe (`| head`) is no failure of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn stopped(dir: &Path, found: &Inspection) -> Value {
    let lanes: Vec<Value> = found.lanes.iter().map(|l| lane(&l.status)).collect();
    json!({ "running": false, "data_dir": dir.display().to_string(), "incarnation": found.incarnation, "lanes": lanes })
}

fn lane(s: &LaneStatus) -> Value {
    json!({
        "name": s.lane, "last_seq": s.last, "confirmed_seq": s.confirmed, "backlog_events": s.backlog_events,
        "backlog_bytes": s.backlog_bytes, "disk_bytes": s.disk_bytes, "oldest_accepted_unix_ms": s.oldest_ms,
        "refusing": s.refusing,
    })
}

/// The running gateway's own numbers.
fn running(config: &EdgeConfig) -> Result<Value, String> {
    let url = format!("http://{}/v1/status", config.http.listen);
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(ANSWER_MAX)).build().into();
    let mut status: Value =
        agent.get(&url).call().and_then(|mut answer| answer.body_mut().read_json()).map_err(|e| {
            format!("and {url} does not answer ({e}); give --config with the file that the gateway runs with")
        })?;
    status["running"] = json!(true);
    Ok(status)
}

fn table(status: &Value) -> String {
    let mut out = match status["running"].as_bool() {
        Some(true) => format!("running, incarnation {}\n", text(&status["incarnation"])),
        _ => format!("stopped, {}, incarnation {}\n", text(&status["data_dir"]), text(&status["incarnation"])),
    };
    out += &format!(
        "{:<16} {:>12} {:>12} {:>12} {:>12} {:>12}\n",
        "lane", "on disk", "confirmed", "waiting", "bytes", "disk bytes"
    );
    for lane in status["lanes"].as_array().map(Vec::as_slice).unwrap_or_default() {
        out += &format!(
            "{:<16} {:>12} {:>12} {:>12} {:>12} {:>12}\n",
            text(&lane["name"]),
            text(&lane["last_seq"]),
            text(&lane["confirmed_seq"]),
            text(&lane["backlog_events"]),
            text(&lane["backlog_bytes"]),
            text(&lane["disk_bytes"])
        );
        for (what, field) in [("refuses", &lane["refusing"]), ("last error", &lane["link"]["last_error"])] {
            if let Some(reason) = field.as_str() {
                out += &format!("  {what}: {reason}\n");
            }
        }
    }
    out
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}
