//! Waits until roll-outs are over, and tells how they go.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::{described, line, name_of, stage};
use crate::cli::cloud::{Cloud, EXIT_FAILED, encode};
use crate::cli::{CliError, EXIT_TEMPORARY, nodes};
use crate::config::units::parse_duration;
use crate::sys::tasks;

/// Exit code: it is over and stands, and not all that it was for run it.
const EXIT_IN_PART: u8 = 2;

/// Exit code: Ctrl-C, as shells show it (128 + SIGINT).
const EXIT_INTERRUPTED: u8 = 130;

/// How often a roll-out that is waited for is asked about.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// How long the cloud may be away while a roll-out is waited for: another process takes over.
const AWAY_MAX: Duration = Duration::from_secs(120);

/// Gateways that are told of by name.
const NODES_TOLD: usize = 10;

/// A gateway that is waited for is told of after this time; one that refuses, at once.
const TELL_AFTER: Duration = Duration::from_secs(10);

/// How to wait.
#[derive(clap::Args, Clone, Debug)]
pub struct Wait {
    /// Wait until it is over, and show how it goes
    #[arg(long)]
    pub wait: bool,
    /// Wait no longer than this, such as 10min; the roll-out goes on
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = duration)]
    pub timeout: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|e| e.to_string())
}

/// Shows how roll-outs go until all are over; the worst of them decides. Of the gateways in `named` those that do not run
/// what they were to get are told by name. Ctrl-C ends the waiting alone.
pub fn wait(cloud: &Cloud, ids: &[String], named: &[String], timeout: Option<Duration>) -> Result<String, CliError> {
    let internal = |e: std::io::Error| CliError::internal(format!("cannot wait: {e}"));
    let (ended, has_ended) = oneshot::channel();
    let mut watch = Watch::new(cloud.clone(), ids, named, timeout);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;
    runtime.block_on(async {
        // Before anything is told: who has read that it waits may end it.
        let mut interrupt = signal(SignalKind::interrupt()).map_err(internal)?;
        // It may be asking when Ctrl-C comes: the thread ends with the process.
        let _thread = tasks::thread("wait", move || drop(ended.send(watch.run()))).map_err(internal)?;
        tokio::select! {
            _ = interrupt.recv() => {
                Err(CliError { code: EXIT_INTERRUPTED, message: format!("not waiting any more; {}", goes_on(ids)) })
            }
            done = has_ended => done.unwrap_or_else(|_| Err(CliError::internal("the thread that waits has ended"))),
        }
    })
}

fn goes_on(ids: &[String]) -> String {
    let each = |verb: &str| ids.iter().map(|id| format!("\n  tidegate rollout {verb} {id}")).collect::<String>();
    format!("the roll-out goes on. Look at it, or take it back:{}{}", each("show"), each("abort"))
}

struct Watch {
    cloud: Cloud,
    /// Those that are not over, and what was told of them.
    open: BTreeMap<String, Told>,
    ids: Vec<String>,
    named: Vec<String>,
    timeout: Option<Duration>,
    begun: Instant,
}

#[derive(Default)]
struct Told {
    line: String,
    /// Why gateways cannot take it was told.
    problems: usize,
    /// By gateway that is waited for: since when, and what was told of it.
    nodes: BTreeMap<String, (Option<Instant>, String)>,
}

impl Watch {
    fn new(cloud: Cloud, ids: &[String], named: &[String], timeout: Option<Duration>) -> Self {
        let open = ids.iter().map(|id| (id.clone(), Told::default())).collect();
        Self { cloud, open, ids: ids.to_vec(), named: named.to_vec(), timeout, begun: Instant::now() }
    }

    fn run(&mut self) -> Result<String, CliError> {
        let (mut over, mut answered) = (Vec::<(u8, String)>::new(), Instant::now());
        while !self.open.is_empty() {
            let asked: Vec<String> = self.open.keys().cloned().collect();
            for id in asked {
                let rollout = match self.cloud.get(&format!("/v1/rollouts/{}", encode(&id))) {
                    Ok(rollout) => rollout,
                    Err(e) if e.code == EXIT_TEMPORARY && answered.elapsed() < AWAY_MAX => continue,
                    Err(e) => return Err(e),
                };
                answered = Instant::now();
                if let Some(code) = ended(&rollout) {
                    self.open.remove(&id);
                    over.push((code, described(&rollout) + &self.not_done(code, &rollout)));
                } else if let Some(told) = self.open.get_mut(&id) {
                    let several = self.ids.len() > 1;
                    told.news(&rollout, self.begun).iter().for_each(|news| match several {
                        true => eprintln!("{id}: {news}"),
                        false => eprintln!("{news}"),
                    });
                }
            }
            if !self.open.is_empty() {
                if self.timeout.is_some_and(|timeout| self.begun.elapsed() >= timeout) {
                    let open: Vec<String> = self.open.keys().cloned().collect();
                    let last: String = over.into_iter().map(|(_, text)| text).collect();
                    let waited = self.begun.elapsed().as_secs();
                    return Err(CliError::temporary(format!("{last}not over after {waited} s; {}", goes_on(&open))));
                }
                std::thread::sleep(ASK_EVERY);
            }
        }
        // Of several the worst: failed, done in part, done.
        let code = over
            .iter()
            .map(|(code, _)| *code)
            .min_by_key(|code| [EXIT_FAILED, EXIT_IN_PART, 0].iter().position(|c| c == code));
        let text: String = over.into_iter().map(|(_, text)| text).collect();
        match code.unwrap_or(0) {
            0 => Ok(text),
            code => Err(CliError { code, message: text.trim_end().to_owned() }),
        }
    }

    /// Which of the named gateways do not run what they were to get.
    fn not_done(&self, code: u8, rollout: &Value) -> String {
        let mut out = String::new();
        if code != EXIT_IN_PART {
            return out;
        }
        for name in self.named.iter().take(NODES_TOLD) {
            let Ok(node) = self.cloud.get(&format!("/v1/nodes/{}", encode(name))) else { continue };
            if !has(&node, rollout) {
                let other = node["rollout"].as_str().map(|id| format!(", in {id}")).unwrap_or_default();
                let _ = writeln!(out, "  not done: {name}: {}{other}", nodes::state(&node)); // into a string: cannot fail
            }
        }
        out
    }
}

/// Whether a gateway runs what the roll-out brings, as far as it has told.
fn has(node: &Value, rollout: &Value) -> bool {
    let model = &rollout["model"];
    if !model.is_object() {
        return !node["committed"].is_null() && node["committed"]["sha256"] == rollout["document"]["sha256"];
    }
    let done = match model["mode"].as_str() {
        Some("shadow") => "shadowing",
        Some("off") => "off",
        _ => "active",
    };
    let told = node["models"]["told"].as_array().map(Vec::as_slice).unwrap_or_default();
    told.iter()
        .any(|told| told["name"] == model["name"] && told["version"] == model["version"] && told["outcome"] == done)
}

/// The exit code of a roll-out that is over, or stands still.
fn ended(rollout: &Value) -> Option<u8> {
    match &*stage(rollout) {
        "completed" if not_done(rollout) == 0 => Some(0),
        "completed" => Some(EXIT_IN_PART),
        "aborted" | "paused" => Some(EXIT_FAILED),
        _ => None,
    }
}

/// Of those that it was for: were passed over, failed, are away, or have not said what became of it.
pub fn not_done(rollout: &Value) -> u64 {
    let number = |key: &str| rollout[key].as_u64().unwrap_or(0);
    number("held") + number("members").saturating_sub(number("succeeded"))
}

impl Told {
    /// What has changed since it was told last.
    fn news(&mut self, rollout: &Value, begun: Instant) -> Vec<String> {
        let mut news = Vec::new();
        let mut now = line(rollout);
        if rollout["waits_for_approval"] == true {
            let id = name_of(rollout);
            let _ = write!(now, "; then it waits for: tidegate rollout approve {id}"); // into a string: cannot fail
        }
        if now != self.line {
            news.push(now.clone());
            self.line = now;
        }
        // Their words change with every event of the log: each is told once.
        let problems = rollout["problems"].as_array().map(Vec::as_slice).unwrap_or_default();
        let untold = problems.iter().skip(self.problems).filter_map(serde_json::Value::as_str);
        news.extend(untold.map(|problem| format!("  {problem}")));
        self.problems = self.problems.max(problems.len());
        let waiting = rollout["waiting"].as_array().map(Vec::as_slice).unwrap_or_default();
        let before = std::mem::take(&mut self.nodes);
        for node in waiting.iter().take(NODES_TOLD) {
            let name = node["node"].as_str().unwrap_or_default().to_owned();
            let (since, mut told) = before.get(&name).cloned().unwrap_or_default();
            let since = since.unwrap_or_else(Instant::now);
            let state = super::waited_for(node);
            let is_due = since.elapsed().min(begun.elapsed()) >= TELL_AFTER || node["refused"].is_string();
            if is_due && state != told {
                news.push(format!("  {state}"));
                told = state;
            }
            self.nodes.insert(name, (Some(since), told));
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_exit_code_is_0_only_when_all_that_it_was_for_run_it() {
        let rollout = |change: Value| {
            let mut rollout = json!({ "stage": "completed", "members": 3, "succeeded": 3, "held": 0 });
            change.as_object().unwrap().iter().for_each(|(key, value)| rollout[key] = value.clone());
            ended(&rollout)
        };
        assert_eq!(rollout(json!({})), Some(0));
        assert_eq!(rollout(json!({ "held": 1 })), Some(2));
        assert_eq!(rollout(json!({ "succeeded": 2, "absent": 1 })), Some(2));
        assert_eq!(rollout(json!({ "succeeded": 2, "failed": 1 })), Some(2));
        assert_eq!(rollout(json!({ "stage": { "aborted": { "reason": "" } } })), Some(1));
        assert_eq!(rollout(json!({ "stage": "running", "paused": "lunch" })), Some(1));
        assert_eq!(rollout(json!({ "stage": "running", "paused": null })), None);
    }

    #[test]
    fn who_is_waited_for_is_told_when_it_changes() {
        let rollout = |refused: Value| {
            json!({
                "id": "r", "stage": "running", "paused": null, "waits_for_approval": true,
                "waiting": [{ "node": "press-7", "present": true, "refused": refused }],
            })
        };
        let mut told = Told::default();
        let first = told.news(&rollout(Value::Null), Instant::now());
        assert!(first.len() == 1 && first[0].contains("rollout approve r"), "{first:?}");
        let refused = told.news(&rollout(json!("unknown-key: x")), Instant::now());
        assert!(
            refused.len() == 1 && refused[0].contains("press-7") && refused[0].contains("unknown-key"),
            "{refused:?}"
        );
        assert!(told.news(&rollout(json!("unknown-key: x")), Instant::now()).is_empty());
    }
}
