//! `tidegate model rollout`: a version of a model to gateways, in waves.

use clap::ArgGroup;
use serde_json::{Value, json};

use super::super::cloud::{CloudArgs, encode};
use super::super::config::push::{How, To, give, share};
use super::super::rollout::{described, wait};
use super::{CliError, name};
use crate::cloud::rollout::Gates;
use crate::config::overlay::VERSION_MAX;
use crate::config::units::{parse_duration, parse_size};
use crate::models::manifest::Name;
use crate::sys::random;

pub(super) const AFTER: &str = "\
The gateways get the version in waves: 1 %, 10 %, 50 % and 100 % of a group, or of all, that hold for ten minutes each; those
that are named, at once. A wave goes on when nine in ten of its gateways use the version and are well with it: its hook and its
health command say so, and built-in inference loads it and scores. Past its limits (more than 5 % failed) the roll-out is
aborted, and every gateway that had got the version goes back to what it had of this model; its configuration and its other
models stay. Gateways of the group that turn up later get it as well. \"tidegate rollout\" shows it, pauses it, aborts it.

First beside the version in use, then in its place:

  tidegate model rollout press-anomaly 8 --shadow --group plant-7 --gate-disagreed 2% --wait
  tidegate model rollout press-anomaly 8 --group plant-7 --gate-alarms 5% --gate-errors 1% --wait
  tidegate model rollout press-anomaly 8 --all --waves 1%,10%,100% --soak 1h --approve
  tidegate model rollout press-anomaly 7 --group plant-7 --rollback --reason \"8 misses too much\"
  tidegate model rollout press-anomaly --off --group plant-7

Gates are for versions that built-in inference scores with ([[inference]]). Each gateway is judged by itself, by what it has
measured since it began to use the version: it counts as well when the version has scored --gate-events there and is within all
gates, and as failed as soon as one cannot be kept any more, also after it counted as well, until the roll-out is over. A gateway
on which few events come holds its wave up: \"tidegate rollout pass\" goes on without it.

Exit codes: those of \"tidegate config push --help\".";

/// What to roll out, and to whom.
#[derive(clap::Args, Clone, Debug)]
#[command(group(ArgGroup::new("what").required(true).args(["version", "off"])))]
pub struct Args {
    /// Name of the model
    #[arg(value_parser = name)]
    name: Name,
    /// Version of the model
    #[arg(value_parser = clap::value_parser!(u64).range(1..=VERSION_MAX))]
    version: Option<u64>,
    /// Run it beside the version that is in use
    #[arg(long, conflicts_with = "off")]
    shadow: bool,
    /// Use no version of it any more
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    to: To,
    #[command(flatten)]
    gates: GateArgs,
    /// It brings back what was used before: there is a place for it whatever else runs
    #[arg(long)]
    rollback: bool,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    at: CloudArgs,
}

/// What gateways must measure of the version.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Gates")]
pub struct GateArgs {
    /// Events that it must have scored on a gateway before that counts; 100 with any of the next four
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    gate_events: Option<u64>,
    /// Most events on which it fails or is too slow, such as 1%
    #[arg(long, value_name = "SHARE")]
    gate_errors: Option<String>,
    /// Most events with a score above inference.alarm_above, such as 5%
    #[arg(long, value_name = "SHARE")]
    gate_alarms: Option<String>,
    /// With --shadow: most events of which one version alone has such a score, such as 2%
    #[arg(long, value_name = "SHARE")]
    gate_disagreed: Option<String>,
    /// Longest time that an event is held for its score, on average, such as 5ms
    #[arg(long, value_name = "TIME")]
    gate_held: Option<String>,
    /// Most that the outbox may grow by while the version is in use, such as 64MiB
    #[arg(long, value_name = "SIZE")]
    gate_backlog: Option<String>,
}

impl GateArgs {
    fn gates(&self) -> Result<Gates, CliError> {
        let of = |option: &str, text: &Option<String>| text.as_ref().map(|text| share(option, text)).transpose();
        let held = self.gate_held.as_ref().map(|text| parse_duration(text)).transpose();
        let held = held.map_err(|e| CliError::usage(format!("--gate-held: {e}")))?;
        let backlog = self.gate_backlog.as_ref().map(|text| parse_size(text)).transpose();
        Ok(Gates {
            events_min: self.gate_events,
            errors_share_max_ppm: of("--gate-errors", &self.gate_errors)?,
            alarms_share_max_ppm: of("--gate-alarms", &self.gate_alarms)?,
            disagreed_share_max_ppm: of("--gate-disagreed", &self.gate_disagreed)?,
            held_mean_max_us: held.map(|held| u64::try_from(held.as_micros()).unwrap_or(u64::MAX)),
            backlog_growth_max_bytes: backlog.map_err(|e| CliError::usage(format!("--gate-backlog: {e}")))?,
        })
    }
}

pub(super) fn run(args: &Args) -> Result<String, CliError> {
    let Args { name, version, shadow, off, to, rollback, how, .. } = args;
    // What can be wrong here is said before anything is asked of anybody.
    let mut plan = how.plan(!to.group.is_empty() || to.all)?;
    plan.gates = args.gates.gates()?;
    let mode = match (shadow, off) {
        (true, _) => "shadow",
        (_, true) => "off",
        _ => "active",
    };
    let what = version.map_or_else(|| "off".to_owned(), |version| version.to_string());
    let id = how.id().map_or_else(|| format!("{name}-{what}-{}", &random::hex16()[..8]), str::to_owned);
    let order = json!({
        "id": id,
        "version": version,
        "mode": mode,
        "nodes": to.node,
        "groups": to.group,
        "all": to.all,
        "plan": plan,
        "reason": how.reason(),
        "start": true,
        "rollback": rollback,
        "skip_busy": how.skips_busy(),
    });
    let cloud = args.at.client()?;
    let begun: Value = give(&cloud, &format!("/v1/models/{}/rollouts", encode(name.as_str())), &id, &order)?;
    if !how.wait.wait {
        return Ok(described(&begun));
    }
    eprintln!("roll-out {id}");
    wait(&cloud, &[id], &to.node, how.wait.timeout)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn gates(more: &[&str]) -> Result<Gates, String> {
        let all = [&["rollout", "press", "7", "--all"], more].concat();
        let cli = Cli::try_parse_from(all).map_err(|e| e.to_string())?;
        cli.args.gates.gates().map_err(|e| e.message)
    }

    #[test]
    fn gates_are_read_and_what_cannot_be_meant_is_said() {
        assert_eq!(gates(&[]), Ok(Gates::default()));
        let all =
            ["--gate-events=50", "--gate-alarms=5%", "--gate-errors=0.5%", "--gate-held=2ms", "--gate-backlog=1MiB"];
        let read = gates(&all).unwrap();
        assert_eq!(
            (read.events_min, read.alarms_share_max_ppm, read.errors_share_max_ppm),
            (Some(50), Some(50_000), Some(5_000))
        );
        assert_eq!((read.held_mean_max_us, read.backlog_growth_max_bytes), (Some(2_000), Some(1 << 20)));
        for (args, words) in [
            (&["--gate-alarms=5"][..], "--gate-alarms: \"5\" is no share"),
            (&["--gate-held=soon"], "--gate-held"),
            (&["--gate-backlog=much"], "--gate-backlog"),
            (&["--gate-events=0"], "--gate-events"),
            (&["--off"], "cannot be used with"),
        ] {
            let error = gates(args).unwrap_err();
            assert!(error.contains(words), "{args:?}: {error}");
        }
        assert!(AFTER.contains("--gate-events") && crate::cloud::rollout::EVENTS_MIN == 100, "the help says 100");
    }
}
