//! `tidegate model list` and `show`: what is in the catalogue, and how it does on gateways.

use serde_json::Value;

use super::super::cloud::{CloudArgs, encode, table};
use super::{CliError, name};
use crate::models::manifest::Name;

/// How to list.
#[derive(clap::Args, Clone, Debug)]
pub struct ListArgs {
    /// Print JSON, as the cloud answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: CloudArgs,
}

/// Which model.
#[derive(clap::Args, Clone, Debug)]
pub struct ShowArgs {
    /// Name of the model
    #[arg(value_parser = name)]
    name: Name,
    /// Show the gateways that have it as well, and how it scores there
    #[arg(long)]
    gateways: bool,
    /// Print JSON, as the cloud answers
    #[arg(long, conflicts_with = "gateways")]
    json: bool,
    #[command(flatten)]
    at: CloudArgs,
}

pub(super) fn list(args: &ListArgs) -> Result<String, CliError> {
    let items = args.at.client()?.all("/v1/models", "")?;
    if args.json {
        return Ok(format!("{}\n", Value::from(items)));
    }
    if items.is_empty() {
        return Ok("no model was published yet: tidegate model publish --help\n".to_owned());
    }
    let row = |item: &Value| {
        vec![
            word(item, "name"),
            item["version"].to_string(),
            word(item, "format"),
            megabytes(&item["size"]),
            when(item),
        ]
    };
    Ok(table(&["MODEL", "VERSION", "FORMAT", "SIZE", "PUBLISHED"], &items.iter().map(row).collect::<Vec<_>>()))
}

pub(super) fn show(args: &ShowArgs) -> Result<String, CliError> {
    let cloud = args.at.client()?;
    let model = cloud.get(&format!("/v1/models/{}", encode(args.name.as_str())))?;
    if args.json {
        return Ok(format!("{model}\n"));
    }
    let row = |version: &Value| {
        let parent = version["parent"].as_u64().map_or_else(|| "-".to_owned(), |parent| parent.to_string());
        let metadata = version["metadata"].as_object().into_iter().flatten();
        let about: Vec<String> =
            metadata.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
        let signer = word(version, "signer") + if version["revoked"] == true { " (revoked)" } else { "" };
        vec![
            version["version"].to_string(),
            megabytes(&version["size"]),
            megabytes(&version["pack"]["bytes"]),
            parent,
            signer,
            when(version),
            about.join(" "),
        ]
    };
    let rows: Vec<_> = model["versions"].as_array().into_iter().flatten().map(row).collect();
    let mut out = table(&["VERSION", "SIZE", "NEW", "PARENT", "SIGNED BY", "PUBLISHED", "ABOUT"], &rows);
    let publishing = &model["publishing"];
    if publishing.is_object() {
        let (version, at, of) = (&publishing["version"], &publishing["messages"], &publishing["of"]);
        out += &format!("version {version} is being published: {at} of {of} messages\n");
    }
    if args.gateways {
        let rows: Vec<_> = cloud.all("/v1/nodes", "")?.iter().flat_map(|node| scores(node, &args.name)).collect();
        out += &match rows.is_empty() {
            true => "no gateway has told that it has it\n".to_owned(),
            false => {
                let head = ["GATEWAY", "USE", "VERSION", "SCORED", "FAILED", "ABOVE", "DISAGREED", "HELD"];
                format!("\n{}", table(&head, &rows))
            }
        };
    }
    Ok(out)
}

/// The versions of the model that a gateway uses, and how they score, on a line each.
fn scores(node: &Value, name: &Name) -> Vec<Vec<String>> {
    let present = node["models"]["present"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(model) = present.iter().find(|model| model["name"] == name.as_str()) else { return Vec::new() };
    let scores = &model["scores"];
    let row = |use_: &str, version: &Value, run: &Value| {
        let version = version.as_u64()?;
        let run = if run["version"] == version { run } else { &Value::Null };
        let number = |n: &Value| n.as_u64().map_or_else(|| "-".to_owned(), |n| n.to_string());
        let asked = run["scored"].as_u64().unwrap_or(0) + run["failed"].as_u64().unwrap_or(0);
        let held = run["held_us"].as_u64().filter(|_| asked > 0).map(|held| format!("{} µs", held / asked));
        let disagreed = match (use_, scores["compared"].as_u64()) {
            ("shadow", Some(compared)) => format!("{} of {compared}", scores["disagreed"].as_u64().unwrap_or(0)),
            _ => "-".to_owned(),
        };
        Some(vec![
            word(node, "node"),
            use_.to_owned(),
            version.to_string(),
            number(&run["scored"]),
            number(&run["failed"]),
            number(&run["alarms"]),
            disagreed,
            held.unwrap_or_else(|| "-".to_owned()),
        ])
    };
    let active = row("active", &model["version"], &scores["active"]);
    active.into_iter().chain(row("shadow", &model["shadow"], &scores["shadow"])).collect()
}

fn word(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn when(version: &Value) -> String {
    format!("{} by {}", word(version, "at"), word(version, "by"))
}

fn megabytes(bytes: &Value) -> String {
    format!("{:.2} MB", bytes.as_f64().unwrap_or(0.0) / 1e6)
}
