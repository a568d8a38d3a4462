//! `tidegate config history`: who changed what and when.

use serde_json::Value;

use super::super::cloud::{CloudArgs, encode, named, table};
use super::CliError;

pub(super) const AFTER: &str = "\
  tidegate config history
  tidegate config history --node press-7        with what became of each assignment

Names with \"(unverified)\" are what the client said; with control.operators_file in cloud.toml the cloud knows who it was.";

/// Whose history, and how much of it.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Only what concerns this gateway
    #[arg(long)]
    node: Option<String>,
    /// Most lines
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Print JSON, as the cloud answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: CloudArgs,
}

pub(super) fn run(args: &Args) -> Result<String, CliError> {
    let node = args.node.as_ref().map(|node| format!("&node={}", encode(node))).unwrap_or_default();
    let answer = args.at.client()?.get(&format!("/v1/history?limit={}{node}", args.limit))?;
    if args.json {
        return Ok(format!("{answer}\n"));
    }
    let word = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let lines = answer["lines"].as_array().cloned().unwrap_or_default();
    if lines.is_empty() {
        return Ok("nothing was ordered or decided yet\n".to_owned());
    }
    let row = |line: &Value| {
        let mut what = word(line, "what");
        if let Some(wave) = line["wave"].as_u64() {
            what += &format!(" wave {}", wave + 1);
        }
        match line["nodes"].as_u64() {
            Some(1) => what += " 1 gateway",
            Some(n) if n > 1 => what += &format!(" {n} gateways"),
            _ => {}
        }
        if line["document"].is_object() {
            what += &format!(" {}", named(&line["document"]));
        }
        let why = match line["void"].as_str() {
            Some(void) => format!("(changed nothing: {void})"),
            None => word(line, "reason"),
        };
        vec![word(line, "at"), word(line, "by"), word(line, "rollout"), what, why]
    };
    let mut out = table(&["WHEN", "WHO", "ROLL-OUT", "WHAT", "WHY"], &lines.iter().map(row).collect::<Vec<_>>());
    let assignments = answer["assignments"].as_array().cloned().unwrap_or_default();
    if !assignments.is_empty() {
        let row = |change: &Value| {
            let outcome = change["outcome"].as_str().unwrap_or("not yet").to_owned();
            let number = change["number"].to_string();
            vec![
                word(change, "at"),
                number,
                named(&change["document"]),
                word(change, "rollout"),
                outcome,
                word(change, "reason"),
            ]
        };
        out.push('\n');
        let head = ["ASSIGNED", "NUMBER", "DOCUMENT", "ROLL-OUT", "OUTCOME", "REASON"];
        out += &table(&head, &assignments.iter().map(row).collect::<Vec<_>>());
    }
    Ok(out)
}
