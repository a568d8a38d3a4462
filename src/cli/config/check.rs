//! `tidegate config check`: says what is wrong with a document, or what it does.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{CliError, Given, read};
use crate::cloud::policy::{POLICY_BYTES_MAX, Policy};
use crate::config::overlay::{Overlaid, Pushed, check_alone};
use crate::config::{Changes, ConfigErrors, EdgeConfig, Env, diff};

pub(super) const AFTER: &str = "\
A document is the part of a gateway's configuration (edge.toml) that can be pushed: everything but who the gateway is \
([node]), the addresses that it listens on, whom it trusts ([downlink]), its tenant, and the log's format. A key that the \
document has replaces the gateway's own; so does each of [[lane]], [[mapping]] and [[bridge]] as a whole. What cannot take \
effect without a restart, such as [commands] and [tls], must be as the gateway's own file says.

Without --config it is checked as the cloud does, which does not see the gateway's files. With the gateway's own file it \
is checked as that gateway will do, over that file.

  [uplink]
  pulsar = [\"pulsar+ssl://broker.example\"]
  [log]
  level = \"warn\"

  tidegate config check press.toml
  tidegate config check press.toml --config edge.toml
  tidegate config check press.toml --policy policy.rego

Exit codes: 0 in order, 64 not.";

/// What to check.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The document, as TOML or signed
    file: PathBuf,
    /// The gateway's own file, over which it is checked
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A policy in Rego that must not deny it; config/policy.rego is an example. May be given several times
    #[arg(long, value_name = "FILE")]
    policy: Vec<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<String, CliError> {
    let text = Given::document(&args.file)?;
    let name = args.file.display().to_string();
    let document = Pushed { name: &name, text: &text };
    let overlaid = match &args.config {
        Some(path) => EdgeConfig::load_with(Some(path), document, &Env::of_process()),
        None => check_alone(document),
    };
    let overlaid = overlaid.map_err(|errors| refusal(&name, &errors))?;
    takes_effect(args.config.as_deref(), &name, &overlaid)?;
    policies(args, &name, &overlaid)?;
    overlaid.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    Ok(summary(&name, &overlaid))
}

/// Gateways refuse a document that they could not try without a restart; without the gateway's file it can only be guessed.
pub(super) fn takes_effect(own: Option<&Path>, name: &str, overlaid: &Overlaid) -> Result<(), CliError> {
    let base = match own {
        Some(path) => EdgeConfig::load(Some(path), &Env::of_process()).map_err(CliError::usage)?.0,
        None => EdgeConfig::default(),
    };
    // The gateway's own part is not the document's, and without its file not known.
    let new = EdgeConfig { node: base.node.clone(), downlink: base.downlink.clone(), ..overlaid.config.clone() };
    let keys = Changes::between(&base, &new).at_restart.join("; ");
    match (keys.is_empty(), own) {
        (true, _) => Ok(()),
        (false, Some(_)) => Err(CliError::usage(format!(
            "{name}: this gateway refuses it: these cannot take effect without a restart, so they cannot be tried: {keys}"
        ))),
        (false, None) => {
            eprintln!("warning: a gateway refuses this if its own file says otherwise, for it needs a restart: {keys}");
            Ok(())
        }
    }
}

/// Every reason of every policy.
fn policies(args: &Args, name: &str, overlaid: &Overlaid) -> Result<(), CliError> {
    let mut denied = Vec::new();
    for path in &args.policy {
        let text = read(path, POLICY_BYTES_MAX)?;
        let rego = path.display().to_string();
        let text = std::str::from_utf8(&text).map_err(|_| CliError::usage(format!("{rego}: is not UTF-8")))?;
        let reasons = Policy::read(&rego, text).and_then(|policy| policy.reasons(overlaid)).map_err(CliError::usage)?;
        denied.extend(reasons.into_iter().map(|reason| format!("{name}: denied by {rego}: {reason}")));
    }
    if denied.is_empty() { Ok(()) } else { Err(CliError::usage(denied.join("\n"))) }
}

/// Every error, and how many there are.
pub(super) fn refusal(name: &str, errors: &ConfigErrors) -> CliError {
    let count = errors.problems().len();
    CliError::usage(format!("{errors}\n{name}: {count} error{}", if count == 1 { "" } else { "s" }))
}

/// That it is in order, and what it sets.
pub(super) fn summary(name: &str, overlaid: &Overlaid) -> String {
    let mut out = format!("{name}: ok (document, {}", diff::version(&overlaid.header));
    if let Some(expires) = overlaid.header.expires {
        // Writing to a string cannot fail.
        let _ = write!(out, ", until {expires}");
    }
    let keys: Vec<&str> = overlaid.sets.iter().map(String::as_str).collect();
    let sets = if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") };
    let _ = writeln!(out, ")\n  sets {sets}");
    out
}
