//! `tidegate nodes`: the gateways, as they told the cloud of themselves.

use clap::Args;
use serde_json::Value;

use super::CliError;
use super::cloud::{CloudArgs, ago, encode, named, table};

pub const AFTER: &str = "\
  tidegate nodes
  tidegate nodes --group plant-7
  tidegate nodes press-7 --json
  tidegate nodes press-7 --reset-key

STATE is \"ok\" when the gateway runs what it is to run. \"own file\" is a gateway's own configuration, without any document.

Exit codes: 0; 64 there is no such gateway; 75 the cloud cannot be reached.";

/// Which gateways.
#[derive(Args, Clone, Debug)]
pub struct NodesArgs {
    /// Only this one
    #[arg(conflicts_with = "group")]
    node: Option<String>,
    /// Only those of this group (node.groups)
    #[arg(long)]
    group: Option<String>,
    /// Its disk was replaced: believe the key with which it signs its reports now
    #[arg(long, requires = "node")]
    reset_key: bool,
    /// Print JSON, one line each
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: CloudArgs,
}

/// Runs it; gives what is to be printed.
pub fn run(args: &NodesArgs) -> Result<String, CliError> {
    let cloud = args.at.client()?;
    if let (Some(node), true) = (&args.node, args.reset_key) {
        cloud.delete(&format!("/v1/nodes/{}/key", encode(node)))?;
        return Ok(format!("{node}: the next key that speaks for it is its own\n"));
    }
    let nodes = match &args.node {
        Some(node) => vec![cloud.get(&format!("/v1/nodes/{}", encode(node)))?],
        None => {
            let group = args.group.as_ref().map(|group| format!("&group={}", encode(group))).unwrap_or_default();
            cloud.all("/v1/nodes", &group)?
        }
    };
    if args.json {
        return Ok(nodes.iter().map(|node| format!("{node}\n")).collect());
    }
    if nodes.is_empty() {
        return Ok(
            "no gateway was heard; gateways report when their [uplink] leads to this cloud's Pulsar\n".to_owned()
        );
    }
    let row = |node: &Value| {
        let word = |key: &str| node[key].as_str().unwrap_or("-").to_owned();
        let groups = node["groups"].as_array().map(Vec::as_slice).unwrap_or_default();
        let groups: Vec<&str> = groups.iter().filter_map(Value::as_str).collect();
        let is_to_run = if node["assignment"].is_null() { "-".to_owned() } else { named(&node["assignment"]) };
        let runs = if node["committed"].is_null() { "-".to_owned() } else { named(&node["committed"]) };
        vec![word("node"), groups.join(","), word("software"), ago(&node["heard_at"]), runs, is_to_run, state(node)]
    };
    let head = ["NODE", "GROUPS", "SOFTWARE", "HEARD", "RUNS", "IS TO RUN", "STATE"];
    Ok(table(&head, &nodes.iter().map(row).collect::<Vec<_>>()))
}

/// What there is to say of a gateway in a few words.
pub fn state(node: &Value) -> String {
    let assigned = &node["assignment"];
    let (number, decided) = (assigned["number"].as_u64(), &node["decided"]);
    let mut parts = Vec::new();
    if let Some(key) = node["stranger"]["key"].as_str() {
        parts.push(format!("key {key} speaks for it too and is not believed (was its disk replaced? --reset-key)"));
    }
    if node["present"] != true {
        parts.push(if node["left"] == true { "stopped".to_owned() } else { "away".to_owned() });
    }
    if !assigned.is_null() && decided["number"].as_u64() == number && decided["outcome"] != "committed" {
        let word = |key: &str| decided[key].as_str().unwrap_or_default();
        parts.push(format!("{}: {}", word("outcome"), word("reason")));
    } else if assigned["outstanding"] == true {
        let is_tried = !node["trial"].is_null();
        let refused = node["refused"]["reason"].as_str().filter(|_| !is_tried);
        parts.push(match (is_tried, refused) {
            (true, _) => "on trial".to_owned(),
            (false, Some(why)) => format!("not yet; it refused a message: {why}"),
            (false, None) => "not yet".to_owned(),
        });
    }
    if parts.is_empty() { "ok".to_owned() } else { parts.join(", ") }
}
