//! `tidegate config rollback`: gateways go back to what they ran before, or to a version.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::cloud::{Cloud, CloudArgs, named};
use super::CliError;
use super::push::{How, Order, To};
use crate::sys::random;

pub(super) const AFTER: &str = "\
Without --to each gateway goes back to what it ran with success before; where that differs between gateways, there is one
roll-out for each. A roll-out that is not over is undone with \"tidegate rollout abort\".

  tidegate config rollback --node press-7 --wait
  tidegate config rollback --group plant-7 --to 12
  tidegate config rollback --all --to own          the gateways' own files alone, without any document

All at once by default; --waves and --soak say otherwise.

Exit codes: 0 begun, or with --wait done; 1 with --wait: it failed; 64 refused, or there is nothing to go back to; 75 the cloud
cannot be reached.";

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
    let targets: Vec<(Value, To)> = match &args.to {
        Some(to) => vec![(document(&cloud, to)?, args.to_whom.clone())],
        None => before(&cloud, &args.to_whom)?,
    };
    let id = args.how.id().map_or_else(|| format!("rollback-{}", &random::hex16()[..8]), str::to_owned);
    let mut out = String::new();
    for (i, (document, to)) in targets.iter().enumerate() {
        let id = if targets.len() == 1 { id.clone() } else { format!("{id}-{}", i + 1) };
        out += &Order { id: &id, document, to, plan: &plan, how: &args.how }.give(&cloud)?;
    }
    Ok(out)
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

/// What each gateway ran before, with those that ran the same together.
fn before(cloud: &Cloud, to: &To) -> Result<Vec<(Value, To)>, CliError> {
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
    let mut targets: BTreeMap<String, (Value, To)> = BTreeMap::new();
    for node in &nodes {
        let previous = &node["previous"];
        if previous.is_null() {
            eprintln!("{}: nothing that it ran before is known; it stays as it is", name(node));
            continue;
        }
        let key = previous["sha256"].to_string();
        let none = || (previous["sha256"].clone(), To { node: Vec::new(), group: Vec::new(), all: false });
        targets.entry(key).or_insert_with(none).1.node.push(name(node));
        eprintln!("{}: back to {}", name(node), named(previous));
    }
    if targets.is_empty() {
        return Err(CliError::usage("there is nothing to go back to; name a version with --to"));
    }
    Ok(targets.into_values().collect())
}
