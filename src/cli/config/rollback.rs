//! `tidegate config rollback`: gateways go back to what they ran before, or to a version.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::super::cloud::{Cloud, CloudArgs, encode, named};
use super::super::rollout::{described, wait};
use super::CliError;
use super::push::{How, Order, To};
use crate::sys::random;

pub(super) const AFTER: &str = "\
Without --to each gateway goes back to what it ran with success before; where that differs between gateways, there is one
roll-out for each, all at the same time. With --group or --all, the roll-outs that are taken back this way stand no more for these
gateways: one that turns up later gets what stood before. A roll-out that is not over is undone with \"tidegate rollout abort\".

  tidegate config rollback --node press-7 --wait
  tidegate config rollback --group plant-7 --to 12
  tidegate config rollback --all --to own          the gateways' own files alone, without any document

All at once by default; --waves and --soak say otherwise. However many roll-outs run, there is a place for a rollback.

Exit codes: 0 begun, with --wait: all of them run it; 1 with --wait: one failed; 2 with --wait: it is over, and some of the
gateways are away, failed, or have not answered (they are named); 64 refused, or there is nothing to go back to; 75 the cloud
cannot be reached, or --timeout has passed; 130 Ctrl-C while it waited. Of several roll-outs the worst counts.";

/// Who goes back, and to what.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    to_whom: To,
    /// A version, a SHA-256, or "own" for the gateways' own files
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    at: CloudArgs,
}

pub(super) fn run(args: &Args) -> Result<String, CliError> {
    let plan = args.how.plan(false)?;
    let cloud = args.at.client()?;
    let (targets, ends) = match &args.to {
        // It has the audience itself.
        Some(to) => (vec![(document(&cloud, to)?, args.to_whom.clone())], BTreeSet::new()),
        None => before(&cloud, &args.to_whom)?,
    };
    let id = args.how.id().map_or_else(|| format!("rollback-{}", &random::hex16()[..8]), str::to_owned);
    // All are begun before any is waited for, and one that is refused keeps no other from it.
    let (mut begun, mut out, mut failed) = (Vec::new(), String::new(), None);
    for (i, (document, to)) in targets.iter().enumerate() {
        let id = if targets.len() == 1 { id.clone() } else { format!("{id}-{}", i + 1) };
        let order = Order { id: &id, document, to, plan: &plan, how: &args.how, rollback: true };
        match order.give(&cloud) {
            Ok(rollout) => {
                out += &described(&rollout);
                begun.push(id);
            }
            Err(e) => failed = Some(worse(failed, e)),
        }
    }
    for id in ends.iter().filter(|_| !begun.is_empty()) {
        let groups = if args.to_whom.all { &[][..] } else { &args.to_whom.group };
        let order = json!({ "groups": groups }).to_string();
        match cloud.post(&format!("/v1/rollouts/{}/retire", encode(id)), &order) {
            Ok(_) => eprintln!("{id} stands no more: a gateway that turns up later gets what stood before"),
            Err(e) => failed = Some(worse(failed, e)),
        }
    }
    if args.how.wait.wait && !begun.is_empty() {
        eprintln!("roll-outs {}", begun.join(", "));
        match wait(&cloud, &begun, &args.to_whom.node, args.how.wait.timeout) {
            Ok(text) => out = text,
            Err(e) => failed = Some(worse(failed, e)),
        }
    }
    match failed {
        None => Ok(out),
        Some(mut e) => {
            if !begun.is_empty() && !args.how.wait.wait {
                e.message += &format!("\nbegun all the same: {}", begun.join(", "));
            }
            Err(e)
        }
    }
}

/// The messages of both, with the first one's code.
fn worse(before: Option<CliError>, e: CliError) -> CliError {
    match before {
        None => e,
        Some(before) => CliError { message: format!("{}\n{}", before.message, e.message), ..before },
    }
}

/// The SHA-256 of what `--to` names, or null.
fn document(cloud: &Cloud, to: &str) -> Result<Value, CliError> {
    if to == "own" {
        return Ok(Value::Null);
    }
    let all = cloud.all("/v1/documents", "")?;
    let is_it = |known: &&Value| known["sha256"] == to || to.parse().is_ok_and(|v: u64| known["version"] == v);
    let found: Vec<&Value> = all.iter().filter(is_it).collect();
    match found.as_slice() {
        [one] => Ok(one["sha256"].clone()),
        [] => Err(CliError::usage(format!(
            "--to {to}: there is no such document; \"tidegate config history\" shows what was pushed"
        ))),
        several => {
            let digests: Vec<&str> = several.iter().filter_map(|known| known["sha256"].as_str()).collect();
            Err(CliError::usage(format!(
                "--to {to}: several documents have this version; name one by its SHA-256: {}",
                digests.join(", ")
            )))
        }
    }
}

/// Documents, and who goes back to each.
type Targets = Vec<(Value, To)>;

/// What each gateway ran before, with those that ran the same together; and the roll-outs that gave them what they go back
/// from, if those stand for more than the gateways that are named.
fn before(cloud: &Cloud, to: &To) -> Result<(Targets, BTreeSet<String>), CliError> {
    let is_meant = |node: &Value| {
        let groups = node["groups"].as_array().map(Vec::as_slice).unwrap_or_default();
        to.all
            || to.node.iter().any(|name| node["node"] == **name)
            || to.group.iter().any(|group| groups.iter().any(|of| of == group.as_str()))
    };
    let nodes: Vec<Value> = cloud.all("/v1/nodes", "")?.into_iter().filter(|node| is_meant(node)).collect();
    let name = |node: &Value| node["node"].as_str().unwrap_or_default().to_owned();
    if let Some(missing) = to.node.iter().find(|wanted| !nodes.iter().any(|node| name(node) == **wanted)) {
        return Err(CliError::usage(format!("the gateway {missing:?} was never heard; \"tidegate nodes\" lists them")));
    }
    if let Some(node) = nodes.iter().find(|node| node["rollout"].is_string()) {
        let rollout = node["rollout"].as_str().unwrap_or_default();
        return Err(CliError::usage(format!(
            "{} is in roll-out {rollout}, which is not over: \"tidegate rollout abort {rollout}\" puts all of its gateways back",
            name(node)
        )));
    }
    let (mut targets, mut ends) = (BTreeMap::<String, (Value, To)>::new(), BTreeSet::new());
    for node in &nodes {
        let previous = &node["previous"];
        if previous.is_null() {
            eprintln!("{}: nothing that it ran before is known; it stays as it is", name(node));
            continue;
        }
        let key = previous["sha256"].to_string();
        let none = || (previous["sha256"].clone(), To { node: Vec::new(), group: Vec::new(), all: false });
        targets.entry(key).or_insert_with(none).1.node.push(name(node));
        ends.extend(node["assignment"]["document_rollout"].as_str().map(str::to_owned));
        eprintln!("{}: back to {}", name(node), named(previous));
    }
    if targets.is_empty() {
        return Err(CliError::usage("there is nothing to go back to; name a version with --to"));
    }
    if to.group.is_empty() && !to.all {
        ends.clear();
    }
    // Those that name their gateways stand for nobody else.
    let rollouts = cloud.get("/v1/rollouts")?;
    let stands = |rollout: &&Value| {
        let groups = rollout["audience"]["groups"].as_array().is_some_and(|groups| !groups.is_empty());
        groups || rollout["audience"]["all"] == true
    };
    let stand = rollouts["items"].as_array().map(Vec::as_slice).unwrap_or_default().iter().filter(stands);
    let stand: BTreeSet<&str> = stand.filter_map(|rollout| rollout["id"].as_str()).collect();
    ends.retain(|id| stand.contains(&**id));
    Ok((targets.into_values().collect(), ends))
}
