//! `tidegate model assign`: which gateways have which version of a model.

use serde_json::json;

use super::super::cloud::{CloudArgs, encode};
use super::super::config::push::{To, warnings};
use super::{CliError, name};
use crate::config::overlay::VERSION_MAX;
use crate::models::manifest::Name;

pub(super) const AFTER: &str = "\
The gateways get the version at once, all of them: try it on one before a group, or beside the version in use (--shadow).
Each fetches what it lacks, proves it, and switches to it; one on which it is not well goes back by itself, and says so.

  tidegate model assign press-anomaly --version 7 --node press-7
  tidegate model assign press-anomaly --version 7 --group plant-7 --shadow
  tidegate model assign press-anomaly --version 6 --all --reason \"7 misses too much\"
  tidegate model assign press-anomaly --off --node press-9

A lower version is a way back. With a version in use assigned, what ran beside it ends. What a gateway says became of it is in
\"tidegate nodes --json\" under \"models\". Gateways that are in a roll-out that is not over are passed over with a warning. Those
that turn up later do not get it: assign it again.

Exit codes: 0 assigned, 64 refused, with the reason, 75 the cloud or its broker cannot be reached (give the order again).";

/// What to assign, and to whom.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Name of the model
    #[arg(value_parser = name)]
    name: Name,
    /// Version of the model
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=VERSION_MAX), required_unless_present = "off")]
    version: Option<u64>,
    /// Run it beside the version that is in use
    #[arg(long, conflicts_with = "off")]
    shadow: bool,
    /// Use no version of it any more
    #[arg(long, conflicts_with = "version")]
    off: bool,
    #[command(flatten)]
    to: To,
    /// Why, for those who look at the history
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    at: CloudArgs,
}

pub(super) fn run(args: &Args) -> Result<String, CliError> {
    let mode = match (args.shadow, args.off) {
        (true, _) => "shadow",
        (_, true) => "off",
        _ => "active",
    };
    let To { node, group, all } = &args.to;
    let order = json!({
        "version": args.version,
        "mode": mode,
        "nodes": node,
        "groups": group,
        "all": all,
        "reason": args.reason,
    });
    let path = format!("/v1/models/{}/assign", encode(args.name.as_str()));
    let answer = args.at.client()?.post(&path, &order.to_string())?;
    warnings(&answer);
    let gateways = match answer["nodes"].as_u64() {
        Some(1) => "1 gateway".to_owned(),
        _ => format!("{} gateways", answer["nodes"]),
    };
    let (name, version) = (&args.name, &answer["version"]);
    // What becomes of it there is reported later.
    Ok(format!(
        "model {name} version {version} is assigned ({mode}) to {gateways}; tidegate nodes NODE --json shows what became of it\n"
    ))
}
