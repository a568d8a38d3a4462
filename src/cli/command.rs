//! `tidegate command`: sends commands to devices over a gateway's HTTP interface, lists and cancels them.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use ureq::Agent;

use super::cloud::{CloudArgs, encode};
use super::{CliError, EXIT_TEMPORARY};
use crate::config::units::parse_duration;
use crate::sys::random;

/// Exit code: the device failed or rejected the command, or it expired or was cancelled.
const EXIT_NOT_DONE: u8 = 1;

/// Time to connect and for an answer that nobody waits for.
const ANSWER_MAX: Duration = Duration::from_secs(35);

/// One request waits at most so long, for proxies on the way: the next goes on.
const POLL_MAX: Duration = Duration::from_secs(25);

/// Longest answer that is read: 10,000 commands of a device come in pieces of 256 KiB, but one may have 4 MiB, in base64.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

const AFTER_SEND: &str = "\
Examples:
  tidegate command send press-7 reboot
  tidegate command send press-7 set-speed --data '{\"rpm\":900}' --wait 30s
  tidegate command send press-7 firmware --file update.bin --id update-2026-02
  tidegate command send sensor-3 reboot --node press-7 --cloud http://cloud.example:8900

Exit codes: 0 taken, or done with --wait; 1 failed, rejected, expired or
cancelled; 64 refused; 75 no answer in time, or no gateway there (try again).";

/// Commands for devices.
#[derive(Subcommand, Clone, Debug)]
pub enum Action {
    /// Send a command to a device
    ///
    /// Returns once the command is on the gateway's disk. It waits there until the device answers, also across restarts, and
    /// is given to the device by HTTP or MQTT whenever it asks. Prints the command's id.
    ///
    /// With --wait, returns when the device has answered, and prints its answer. With --id, the same command can be sent again
    /// without harm: it is taken once.
    #[command(after_long_help = AFTER_SEND)]
    Send(SendArgs),
    /// List what waits for a device, in the order in which it gets it
    List(ListArgs),
    /// Take a command back that waits
    ///
    /// A device that has begun with it is not told. Exit codes: 0 cancelled; 64 there is no such command, or it is over.
    Cancel(CancelArgs),
}

/// Where the gateway is.
#[derive(Args, Clone, Debug)]
pub struct Where {
    /// Where the gateway listens ([http] listen of edge.toml)
    #[arg(long, value_name = "URL", env = "TIDEGATE_EDGE", default_value = "http://127.0.0.1:8800")]
    url: String,
    /// File with the token of an operator
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// What to send.
#[derive(Args, Clone, Debug)]
pub struct SendArgs {
    /// The device
    device: String,
    /// What to do
    name: String,
    /// Parameters, as JSON
    #[arg(long, value_name = "JSON", conflicts_with = "file")]
    data: Option<String>,
    /// File with the parameters, sent as it is
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What the file is
    #[arg(long, value_name = "TYPE", default_value = "application/octet-stream", requires = "file")]
    content_type: String,
    /// Give it up after this time (30s, 1h, 7d) instead of commands.expiry
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// Wait so long for the device's answer
    #[arg(long, value_name = "TIME")]
    wait: Option<String>,
    /// The command's id, instead of a new one
    #[arg(long)]
    id: Option<String>,
    /// Send it through the cloud to the device behind this gateway; its answer comes upstream as an event
    #[arg(long, value_name = "NODE", conflicts_with_all = ["wait", "url"])]
    node: Option<String>,
    #[command(flatten)]
    at: Where,
    #[command(flatten)]
    cloud: CloudAt,
}

/// Where the cloud is.
#[derive(Args, Clone, Debug)]
pub struct CloudAt {
    /// With --node: where the cloud mode listens ([http] listen of cloud.toml)
    #[arg(long, value_name = "URL", env = "TIDEGATE_CLOUD", default_value = "http://127.0.0.1:8900")]
    cloud: String,
}

/// Whose commands.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// The device
    device: String,
    /// Print JSON, one line each
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: Where,
}

/// Which command.
#[derive(Args, Clone, Debug)]
pub struct CancelArgs {
    /// The device
    device: String,
    /// The command's id
    id: String,
    #[command(flatten)]
    at: Where,
}

/// Runs it and says how it ended.
pub fn run(command: &Action) -> ExitCode {
    let done = match command {
        Action::Send(args) => send(args),
        Action::List(args) => list(args).map(|()| ExitCode::SUCCESS),
        Action::Cancel(args) => cancel(args).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|e| {
        eprintln!("tidegate: {}", e.message);
        ExitCode::from(e.code)
    })
}

fn send(args: &SendArgs) -> Result<ExitCode, CliError> {
    let wait = args.wait.as_deref().map(parse_duration).transpose();
    let wait = wait.map_err(|e| CliError::usage(format!("--wait: {e}")))?;
    if let Some(node) = &args.node {
        return send_through_cloud(args, node);
    }
    let gateway = Gateway::new(&args.at)?;
    let sent = gateway.call("POST", &path(&args.device, None), Some(body_of(args)?))?;
    let id = text(&sent["id"]);
    let Some(wait) = wait else {
        print(&format!("{id}\n"));
        return Ok(ExitCode::SUCCESS);
    };
    eprintln!("tidegate: command {id} waits for {}", args.device);
    let end = Instant::now() + wait;
    loop {
        let left = end.saturating_duration_since(Instant::now()).min(POLL_MAX);
        let place = format!("{}?wait={}ms", path(&args.device, Some(&id)), left.as_millis());
        let state = gateway.call("GET", &place, None)?;
        match state["state"].as_str() {
            Some("waiting") if Instant::now() < end => {}
            Some("waiting") => {
                eprintln!(
                    "tidegate: no answer in time; the command still waits: \"tidegate command cancel {} {id}\" takes it back",
                    args.device
                );
                return Ok(ExitCode::from(EXIT_TEMPORARY));
            }
            _ => {
                print(&format!("{state}\n"));
                let done = state["state"] == "done";
                return Ok(if done { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NOT_DONE) });
            }
        }
    }
}

/// The same command, signed by the cloud; it waits at the gateway as one that was sent there.
fn send_through_cloud(args: &SendArgs, node: &str) -> Result<ExitCode, CliError> {
    let mut args = args.clone();
    // Given again after a lost answer it must be the same.
    args.id.get_or_insert_with(random::uuid_v7);
    let cloud = CloudArgs::at(args.cloud.cloud.clone(), args.at.token_file.clone()).client()?;
    let sent = cloud.post(&format!("/v1/nodes/{}{}", encode(node), cloud_path(&args.device)), &body_of(&args)?)?;
    print(&format!("{}\n", text(&sent["id"])));
    Ok(ExitCode::SUCCESS)
}

fn cloud_path(device: &str) -> String {
    format!("/devices/{}/commands", encode(device))
}

fn body_of(args: &SendArgs) -> Result<String, CliError> {
    let mut body = json!({ "name": args.name });
    let set = [("id", &args.id), ("expires_in", &args.expires)];
    for (key, value) in set.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
        body[key] = json!(value);
    }
    if let Some(file) = &args.file {
        let bytes = fs::read(file).map_err(|e| CliError::usage(format!("cannot read {}: {e}", file.display())))?;
        body["data_base64"] = json!(STANDARD.encode(bytes));
        body["datacontenttype"] = json!(args.content_type);
    }
    let body = body.to_string();
    let Some(data) = &args.data else { return Ok(body) };
    // As it was written: a number must not change on the way.
    let data: &RawValue = serde_json::from_str(data)
        .map_err(|e| CliError::usage(format!("--data is not JSON: {e}; a text is written '\"like this\"'")))?;
    Ok(format!("{},\"data\":{}}}", body.strip_suffix('}').unwrap_or(&body), data.get()))
}

fn list(args: &ListArgs) -> Result<(), CliError> {
    let gateway = Gateway::new(&args.at)?;
    let mut after = String::new();
    let mut any = false;
    loop {
        let found = gateway.call("GET", &format!("{}?wait=0s{after}", path(&args.device, None)), None)?;
        let commands = found["commands"].as_array().map(Vec::as_slice).unwrap_or_default();
        for command in commands {
            any = true;
            let line = match args.json {
                true => format!("{command}\n"),
                false => format!(
                    "{:<36}  {:<24}  {:<24}  {}\n",
                    text(&command["id"]),
                    text(&command["created"]),
                    text(&command["expires"]),
                    text(&command["name"])
                ),
            };
            print(&line);
        }
        let Some(last) = commands.last() else { break };
        after = format!("&after={}", text(&last["id"]));
    }
    if !any && !args.json {
        eprintln!("nothing waits for {}", args.device);
    }
    Ok(())
}

fn cancel(args: &CancelArgs) -> Result<(), CliError> {
    let gateway = Gateway::new(&args.at)?;
    gateway.call("DELETE", &path(&args.device, Some(&args.id)), None).map(drop)
}

fn path(device: &str, id: Option<&str>) -> String {
    let segment = |s| utf8_percent_encode(s, NON_ALPHANUMERIC).to_string();
    let id = id.map(|id| format!("/{}", segment(id))).unwrap_or_default();
    format!("/v1/devices/{}/commands{id}", segment(device))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn print(line: &str) {
    // A closed pipe (`| head`) is no failure of ours.
    let _ = std::io::stdout().write_all(line.as_bytes());
}

/// The gateway's HTTP interface.
struct Gateway {
    agent: Agent,
    url: String,
    token: Option<String>,
}

impl Gateway {
    fn new(at: &Where) -> Result<Self, CliError> {
        let token = match &at.token_file {
            None => None,
            Some(file) => Some(
                fs::read_to_string(file)
                    .map_err(|e| CliError::usage(format!("cannot read {}: {e}", file.display())))?
                    .trim()
                    .to_owned(),
            ),
        };
        let agent = Agent::config_builder().http_status_as_error(false).timeout_global(Some(ANSWER_MAX)).build();
        Ok(Self { agent: agent.into(), url: at.url.trim_end_matches('/').to_owned(), token })
    }

    /// The answer's JSON; a refusal is an error in the gateway's words.
    fn call(&self, method: &str, path: &str, body: Option<String>) -> Result<Value, CliError> {
        let url = format!("{}{path}", self.url);
        let unreachable = |e: ureq::Error| {
            CliError::temporary(format!("cannot reach the gateway at {url}: {e}; is it running, and is --url right?"))
        };
        let mut request = ureq::http::Request::builder().method(method).uri(&url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let wrong = |e: ureq::http::Error| CliError::usage(format!("--url {url}: {e}"));
        let answered = match body {
            Some(body) => {
                let request = request.header("content-type", "application/json").body(body).map_err(wrong)?;
                self.agent.run(request)
            }
            None => self.agent.run(request.body(()).map_err(wrong)?),
        };
        let mut answer = answered.map_err(unreachable)?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(unreachable)?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            return Ok(body);
        }
        let detail = body["detail"].as_str().unwrap_or("no tidegate edge answers there");
        let message = format!("{url}: {status}: {detail}");
        Err(if status.is_server_error() || status == 429 {
            CliError::temporary(message)
        } else {
            CliError::usage(message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(data: Option<&str>) -> SendArgs {
        SendArgs {
            device: "d".into(),
            name: "n".into(),
            data: data.map(str::to_owned),
            file: None,
            content_type: String::new(),
            expires: Some("1h".into()),
            wait: None,
            id: None,
            node: None,
            cloud: CloudAt { cloud: String::new() },
            at: Where { url: String::new(), token_file: None },
        }
    }

    #[test]
    fn data_is_sent_as_it_was_written() {
        assert_eq!(body_of(&args(Some("{\"a\":1.0}"))).unwrap(), r#"{"expires_in":"1h","name":"n","data":{"a":1.0}}"#);
        assert_eq!(body_of(&args(None)).unwrap(), r#"{"expires_in":"1h","name":"n"}"#);
        assert!(body_of(&args(Some("text"))).unwrap_err().message.contains("like this"));
    }

    #[test]
    fn a_device_is_one_segment_of_the_path() {
        assert_eq!(path("a/b c", Some("1")), "/v1/devices/a%2Fb%20c/commands/1");
    }
}
