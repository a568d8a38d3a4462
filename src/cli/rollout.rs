//! `tidegate rollout`: roll-outs as they go, and what can be done with them.

mod wait;

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

pub use self::wait::{Wait, wait};
use super::CliError;
use super::cloud::{CloudArgs, encode, named, table};
use crate::event::Timestamp;

/// Failures that are shown by name.
const FAILURES_SHOWN: usize = 10;

const AFTER: &str = "\
A roll-out brings a document, or a version of a model, to gateways in waves. A wave goes on to the next one when enough of its
gateways run it (90 %), for as long as the soak says, and few enough have failed. Past that, the roll-out is aborted: every
gateway that had got it is put back to what it ran before. A gateway that is there and refuses the message for five
minutes counts as failed.

  tidegate config push press.toml --sign anna.key --group plant-7     makes a roll-out and starts it
  tidegate model rollout press-anomaly 7 --group plant-7              makes one of a model
  tidegate rollout list
  tidegate rollout show push-13-1f2e3d4c
  tidegate rollout pause push-13-1f2e3d4c --reason \"looking at press-7\"
  tidegate rollout pass push-13-1f2e3d4c       the rest of this wave is away for long: go on without it

Exit codes: 0 done, with --wait: every gateway that it is for runs it; 1 with --wait: it failed, was aborted or is
paused; 2 with --wait: it is over and stands, and some of its gateways were passed over, failed, are away, or have not
answered (they are named); 64 refused; 75 the cloud cannot be reached, or --timeout has passed; 130 Ctrl-C while it waited: the
roll-out goes on.";

const AFTER_RAISE: &str = "\
The number of an assignment is its place in the log of roll-outs (the topic rollouts/config), and a gateway takes only a number
above all that it took before. A log that was lost, trimmed or begun anew counts from 1 again: gateways refuse what it assigns as
older. \"tidegate nodes\" and /v1/status tell of gateways that have taken more than the log gives.

This leaves a mark in the log, above which it goes on counting; what gateways have not spoken of is sent again under a new number.
Nothing else is changed. Do it when you know why they are ahead: reports could be forged, and numbers cannot be taken back.

  tidegate rollout raise               above the highest number that a gateway says it has taken
  tidegate rollout raise --to 1200     above 1200

A number that no log gets to (above 1099511627776) is not raised to: somebody has had a controller key, or forged a report. Then a
keyring of a higher epoch leaves all numbers behind: tidegate config keyring --help";

/// Commands on roll-outs.
#[derive(Subcommand, Clone, Debug)]
#[command(after_long_help = AFTER)]
pub enum RolloutCommand {
    /// List roll-outs, the newest first
    List(ListArgs),
    /// Show one: how far it is, what failed, who is waited for
    Show(ShowArgs),
    /// Start one that is a draft
    Start(ActArgs),
    /// Give it to no further gateways until it is resumed
    Pause(ActArgs),
    /// Go on; the failures so far are accepted
    Resume(ActArgs),
    /// End it, and put every gateway that has got it back to what it had
    Abort(ActArgs),
    /// Let the next wave begin, where it needs approval
    Approve(ActArgs),
    /// Do not wait for the rest of this wave any more
    Pass(ActArgs),
    /// Gateways that turn up later do not get it any more
    Retire(ActArgs),
    /// Let the numbers of assignments go on above what gateways have taken, after the log of roll-outs was lost
    #[command(after_long_help = AFTER_RAISE)]
    Raise(RaiseArgs),
}

/// How far.
#[derive(Args, Clone, Debug)]
pub struct RaiseArgs {
    /// Numbers go on above this; without it, above the highest that a gateway says it has taken
    #[arg(long, value_name = "NUMBER")]
    to: Option<u64>,
    #[command(flatten)]
    at: CloudArgs,
}

/// What to list.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Print JSON, as the cloud answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: CloudArgs,
}

/// Which one.
#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// The roll-out
    id: String,
    #[command(flatten)]
    wait: Wait,
    /// Print JSON, as the cloud answers
    #[arg(long, conflicts_with = "wait")]
    json: bool,
    #[command(flatten)]
    at: CloudArgs,
}

/// What to do with which one.
#[derive(Args, Clone, Debug)]
pub struct ActArgs {
    /// The roll-out
    id: String,
    /// Why, for those who look at the history
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// The wave, from 1; without it the next one (approve), or the one that has begun (pass)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    wave: Option<u32>,
    #[command(flatten)]
    at: CloudArgs,
}

/// Runs one of them; gives what is to be printed.
pub fn run(command: &RolloutCommand) -> Result<String, CliError> {
    match command {
        RolloutCommand::List(args) => list(args),
        RolloutCommand::Show(args) => show(args),
        RolloutCommand::Start(args) => act(args, "start"),
        RolloutCommand::Pause(args) => act(args, "pause"),
        RolloutCommand::Resume(args) => act(args, "resume"),
        RolloutCommand::Abort(args) => act(args, "abort"),
        RolloutCommand::Approve(args) => act(args, "approve"),
        RolloutCommand::Pass(args) => act(args, "pass"),
        RolloutCommand::Retire(args) => act(args, "retire"),
        RolloutCommand::Raise(args) => raise(args),
    }
}

fn list(args: &ListArgs) -> Result<String, CliError> {
    let answer = args.at.client()?.get("/v1/rollouts")?;
    if args.json {
        return Ok(format!("{answer}\n"));
    }
    let items = answer["items"].as_array().cloned().unwrap_or_default();
    if items.is_empty() {
        return Ok(
            "there is no roll-out; \"tidegate config push\" and \"tidegate model rollout\" make some\n".to_owned()
        );
    }
    let number = |rollout: &Value, key: &str| rollout[key].as_u64().unwrap_or(0).to_string();
    let row = |r: &Value| {
        vec![
            text(r, "id"),
            stage(r),
            brought(r),
            format!("{} of {}", r["wave"].as_u64().unwrap_or(0) + 1, number(r, "waves")),
            number(r, "members"),
            number(r, "exposed"),
            number(r, "succeeded"),
            number(r, "failed"),
            number(r, "waiting_for"),
            text(r, "reason"),
        ]
    };
    let head = ["ID", "STAGE", "WHAT", "WAVE", "NODES", "SENT", "OK", "FAILED", "WAITING", "WHY"];
    Ok(table(&head, &items.iter().map(row).collect::<Vec<_>>()))
}

fn show(args: &ShowArgs) -> Result<String, CliError> {
    let cloud = args.at.client()?;
    if args.wait.wait {
        return wait(&cloud, std::slice::from_ref(&args.id), &[], args.wait.timeout);
    }
    let rollout = cloud.get(&format!("/v1/rollouts/{}", encode(&args.id)))?;
    Ok(if args.json { format!("{rollout}\n") } else { described(&rollout) })
}

fn act(args: &ActArgs, action: &str) -> Result<String, CliError> {
    let mut order = json!({ "reason": args.reason });
    if let Some(wave) = args.wave {
        order["wave"] = json!(wave - 1);
    }
    let path = format!("/v1/rollouts/{}/{action}", encode(&args.id));
    let answer = args.at.client()?.post(&path, &order.to_string())?;
    Ok(described(&answer["rollout"]))
}

fn raise(args: &RaiseArgs) -> Result<String, CliError> {
    let answer = args.at.client()?.post("/v1/log/raise", &json!({ "to": args.to }).to_string())?;
    Ok(format!("numbers go on above {}\n", answer["log"]))
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// "running", "paused", "aborted".
fn stage(rollout: &Value) -> String {
    match &rollout["stage"] {
        Value::Object(aborted) => aborted.keys().next().cloned().unwrap_or_default(),
        Value::String(_) if rollout["paused"].is_string() => "paused".to_owned(),
        stage => stage.as_str().unwrap_or_default().to_owned(),
    }
}

/// Everything about a roll-out, for people.
pub fn described(rollout: &Value) -> String {
    let mut out = format!("{}: {}\n", text(rollout, "id"), line(rollout));
    let mut add = |text: String| {
        let _ = writeln!(out, "  {text}"); // writing to a string cannot fail
    };
    if let Some(why) = rollout["stage"]["aborted"]["reason"].as_str().filter(|why| !why.is_empty()) {
        add(format!("aborted: {why}"));
    }
    if let Some(why) = rollout["paused"].as_str() {
        add(format!("paused: {why}"));
    }
    if let Some(why) = rollout["reason"].as_str().filter(|why| !why.is_empty()) {
        add(format!("why: {why}"));
    }
    if rollout["held"].as_u64().unwrap_or(0) > 0 {
        add(format!("{} gateways were in another roll-out and were passed over", rollout["held"]));
    }
    if stage(rollout) == "completed" && wait::not_done(rollout) > 0 {
        let number = |key: &str| rollout[key].as_u64().unwrap_or(0);
        let spoken = number("succeeded") + number("failed") + number("absent");
        add(format!(
            "done in part: {} failed, {} are away, {} have not answered; those get it when they come",
            number("failed"),
            number("absent"),
            number("members").saturating_sub(spoken)
        ));
    }
    if let Some(until) = rollout["soaks_until_ms"].as_i64().filter(|until| *until > 0 && stage(rollout) == "running") {
        add(format!("soaks until {} on the clock of the cloud that leads", Timestamp::from_unix_ms(until)));
    }
    let retired = &rollout["retired"];
    if retired["all"] == true {
        add("gateways that turn up later do not get it".to_owned());
    } else if let Some(groups) = retired["groups"].as_array() {
        let groups: Vec<&str> = groups.iter().filter_map(Value::as_str).collect();
        add(format!("gateways of {} that turn up later do not get it", groups.join(", ")));
    }
    let failures = rollout["failures"].as_array().map(Vec::as_slice).unwrap_or_default();
    for failure in failures.iter().take(FAILURES_SHOWN) {
        let word = |i: usize| failure[i].as_str().unwrap_or_default();
        add(format!("failed: {}: {}", word(0), word(1)));
    }
    if failures.len() > FAILURES_SHOWN {
        add(format!("and {} more", rollout["failed"].as_u64().unwrap_or(0) - FAILURES_SHOWN as u64));
    }
    let waiting = rollout["waiting"].as_array().map(Vec::as_slice).unwrap_or_default();
    for node in waiting.iter().take(FAILURES_SHOWN) {
        add(waited_for(node));
    }
    let more = rollout["waiting_for"].as_u64().unwrap_or(0).saturating_sub(waiting.len().min(FAILURES_SHOWN) as u64);
    if more > 0 {
        add(format!("waited for: {more} more"));
    }
    for problem in rollout["problems"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        add(problem.to_owned());
    }
    if rollout["waits_for_approval"] == true {
        add(format!("the next wave needs approval: tidegate rollout approve {}", text(rollout, "id")));
    }
    out
}

/// The document or the model, for people.
fn brought(rollout: &Value) -> String {
    let model = &rollout["model"];
    if !model.is_object() {
        return named(&rollout["document"]);
    }
    let (name, mode) = (text(model, "name"), text(model, "mode"));
    match &*mode {
        "off" => format!("{name} off"),
        "shadow" => format!("{name} version {} as shadow", model["version"]),
        _ => format!("{name} version {}", model["version"]),
    }
}

fn name_of(rollout: &Value) -> String {
    text(rollout, "id")
}

/// A gateway that has its assignment and has not answered.
fn waited_for(node: &Value) -> String {
    let state = match (node["refused"].as_str(), node["present"] == true) {
        (Some(why), _) => format!("it refused the message: {why}"),
        (None, true) => match (node["model"].as_str(), node["scored"].as_u64()) {
            (Some(became @ ("active" | "shadowing")), Some(scored)) => format!("{became}, {scored} events scored"),
            (Some(became), _) => format!("it is there, {became}"),
            _ => "it is there".to_owned(),
        },
        (None, false) => "it is away".to_owned(),
    };
    format!("waited for: {}: {state}", text(node, "node"))
}

/// How far it is, on one line.
fn line(rollout: &Value) -> String {
    let number = |key: &str| rollout[key].as_u64().unwrap_or(0);
    let document = brought(rollout);
    match &*stage(rollout) {
        "draft" => format!("{document}, a draft for {} gateways", number("members")),
        "completed" => format!("{document}, completed: {} of {} gateways", number("succeeded"), number("members")),
        "aborted" => format!(
            "{document}, aborted in wave {} of {}: {} of {} gateways had got it, {} failed, all are put back",
            number("wave") + 1,
            number("waves"),
            number("exposed"),
            number("members"),
            number("failed"),
        ),
        stage => format!(
            "{document}, {stage}, wave {} of {}: {} of {} gateways, {} ok, {} failed, {} away, {} waited for{}",
            number("wave") + 1,
            number("waves"),
            number("exposed"),
            number("members"),
            number("succeeded"),
            number("failed"),
            number("absent"),
            number("waiting_for"),
            if rollout["soaks_until_ms"].is_u64() { ", soaking" } else { "" },
        ),
    }
}
