//! `tidegate config push`: a document to gateways, from the draft to the last wave.

use std::path::PathBuf;

use clap::{ArgGroup, ValueEnum};
use serde_json::{Value, json};

use super::super::cloud::{Cloud, CloudArgs};
use super::super::rollout::{Wait, described, wait};
use super::{CliError, secret_key, sign};
use crate::cloud::rollout::{ALL_PPM, OnFailure, Plan, Ppm, Wave};
use crate::config::ConfigErrors;
use crate::config::overlay::{Header, Pushed, VERSION_MAX, check_alone};
use crate::config::units::parse_duration;
use crate::downlink::artefact::Digest;
use crate::sys::random;

pub(super) const AFTER: &str = "\
The document is checked, signed on this machine, checked again by the cloud with its policy, and stored there. Then a
roll-out brings it to the gateways that are named: each tries it, keeps it when it can still reach Pulsar with it, and goes
back by itself when it cannot.

  tidegate config push press.toml --sign anna.key --node press-7 --wait
  tidegate config push press.toml --sign anna.key --group plant-7 --reason \"larger batches\"
  tidegate config push press.toml --sign anna.key --all --waves 1%,10%,100% --soak 1h --approve
  tidegate config push press.signed --all         signed before, with \"tidegate config sign\"

Gateways that are named get it at once; a group, or all, in waves of 1 %, 10 %, 50 % and 100 % that soak for ten minutes
each. A roll-out past its limits (more than 5 % failed) is aborted: every gateway that had got the document is put back, also
those that run it well; \"--failures-share 100%\" lets the good ones keep it. Gateways of the group that turn up later get it
as well.

Without --version, and without one in the document, it gets the next one after the highest that the cloud knows.

A gateway is in one roll-out at a time. If one that is named is in another, the push is refused, unless it is to be passed over
(--skip-busy); those of a group, or of all, are passed over with a warning.

Exit codes: 0 stored and begun, with --wait: every gateway that it is for runs it; 1 with --wait: it failed and was taken back,
or is paused; 2 with --wait: it is over and stands, and some of its gateways were passed over, failed, are away or have not
answered (they are named); 64 refused, with the reasons; 75 the cloud cannot be reached (the same command again goes on with
the same --id), or --timeout has passed; 130 Ctrl-C while it waited: the roll-out goes on.";

/// What to push, and to whom.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The document, as TOML, or signed
    file: PathBuf,
    /// File with the secret key that signs it
    #[arg(long, value_name = "FILE")]
    sign: Option<PathBuf>,
    /// Version of the document
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=VERSION_MAX))]
    version: Option<u64>,
    /// When gateways no longer take it: a time (2027-01-31T12:00:00Z) or how long from now (90d)
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    #[command(flatten)]
    to: To,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    at: CloudArgs,
}

/// Which gateways.
#[derive(clap::Args, Clone, Debug)]
#[command(group(ArgGroup::new("gateways").required(true).multiple(true).args(["node", "group", "all"])))]
pub struct To {
    /// A gateway (node.id); may be given several times
    #[arg(long, value_name = "NODE")]
    pub node: Vec<String>,
    /// The gateways of this group (node.groups); may be given several times
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// All gateways
    #[arg(long, conflicts_with_all = ["node", "group"])]
    pub all: bool,
}

/// How it goes.
#[derive(clap::Args, Clone, Debug)]
pub struct How {
    /// Shares of the gateways, one after the other, such as 1%,10%,50%,100%
    #[arg(long, value_name = "SHARES")]
    waves: Option<String>,
    /// How long a wave must hold before the next one, such as 10min
    #[arg(long, value_name = "TIME")]
    soak: Option<String>,
    /// Every wave after the first needs "tidegate rollout approve"
    #[arg(long)]
    approve: bool,
    /// Most gateways that may fail
    #[arg(long, value_name = "N", default_value_t = Plan::default().failures_max)]
    failures_max: u32,
    /// Most gateways that may fail, as a share of those that have got it
    #[arg(long, value_name = "SHARE", default_value = "5%")]
    failures_share: String,
    /// What happens past either
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Past::Abort)]
    on_failure: Past,
    /// Why, for those who look at the history
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Name of the roll-out; the same again is the same roll-out
    #[arg(long)]
    id: Option<String>,
    /// Pass over named gateways that are in another roll-out
    #[arg(long)]
    skip_busy: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Past {
    /// Put every gateway back
    Abort,
    /// Go no further until somebody decides
    Pause,
}

pub(super) fn run(args: &Args) -> Result<String, CliError> {
    // What can be wrong here is said before anything is asked of anybody.
    let plan = args.how.plan(!args.to.group.is_empty() || args.to.all)?;
    let cloud = args.at.client()?;
    let envelope = envelope(args, &cloud)?;
    let stored = cloud.post("/v1/documents", &envelope)?;
    warnings(&stored);
    let version = stored["version"].as_u64().unwrap_or(0);
    eprintln!("stored as version {version}, sha256 {}", stored["sha256"].as_str().unwrap_or_default());
    let id = args.how.id.clone().unwrap_or_else(|| format!("push-{version}-{}", &random::hex16()[..8]));
    let how = &args.how;
    let order = Order { id: &id, document: &stored["sha256"], to: &args.to, plan: &plan, how, rollback: false };
    let begun = order.give(&cloud)?;
    if !how.wait.wait {
        return Ok(described(&begun));
    }
    eprintln!("roll-out {id}");
    wait(&cloud, &[id], &args.to.node, how.wait.timeout)
}

/// A roll-out that is to be made and started.
pub(super) struct Order<'o> {
    pub id: &'o str,
    pub document: &'o Value,
    pub to: &'o To,
    pub plan: &'o Plan,
    pub how: &'o How,
    pub rollback: bool,
}

impl Order<'_> {
    /// Gives it; the roll-out as it was then.
    pub(super) fn give(&self, cloud: &Cloud) -> Result<Value, CliError> {
        let order = json!({
            "id": self.id,
            "document": self.document,
            "nodes": self.to.node,
            "groups": self.to.group,
            "all": self.to.all,
            "plan": self.plan,
            "reason": self.how.reason,
            "start": true,
            "rollback": self.rollback,
            "skip_busy": self.how.skip_busy,
        });
        give(cloud, "/v1/rollouts", self.id, &order)
    }
}

/// Gives an order for roll-out `id`; the roll-out as it was then.
pub(in crate::cli) fn give(cloud: &Cloud, path: &str, id: &str, order: &Value) -> Result<Value, CliError> {
    let answer = cloud.post(path, &order.to_string()).map_err(|mut e| {
        // A lost answer: the order may have been taken.
        if e.code == super::super::EXIT_TEMPORARY {
            e.message += &format!("\nlook with: tidegate rollout show {id}; the same with --id {id} goes on");
        }
        e
    })?;
    warnings(&answer);
    Ok(answer["rollout"].clone())
}

pub(in crate::cli) fn warnings(answer: &Value) {
    for warning in answer["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("warning: {warning}");
    }
}

/// The signed document, as JSON.
fn envelope(args: &Args, cloud: &Cloud) -> Result<String, CliError> {
    let mut version = args.version;
    let is_text = matches!(super::Given::read(&args.file)?, super::Given::Text(_));
    if !is_text && args.sign.is_none() {
        let envelope = sign::envelope(&args.file, version, args.expires.as_deref())?;
        return Ok(envelope.encode());
    }
    let Some(key) = &args.sign else {
        let name = args.file.display();
        return Err(CliError::usage(format!(
            "{name}: is not signed: name the key with --sign FILE (\"tidegate keys signing\" makes one)"
        )));
    };
    let key = secret_key(key)?;
    if is_text && version.is_none() {
        let (name, text) = (args.file.display().to_string(), super::Given::document(&args.file)?);
        let refused = |errors: ConfigErrors| super::check::refusal(&name, &errors);
        check_alone(Pushed { name: &name, text: &text }).map_err(refused)?;
        if Header::of(&name, &text).map_err(refused)?.version.is_none() {
            version = Some(next_version(args, cloud)?);
        }
    }
    Ok(sign::envelope(&args.file, version, args.expires.as_deref())?.signed_by(&key).encode())
}

/// The version after the highest; the highest itself for the same text again, so that a push that broke off goes on.
fn next_version(args: &Args, cloud: &Cloud) -> Result<u64, CliError> {
    let known = cloud.get("/v1/documents?limit=1")?;
    let highest = known["version_max"].as_u64().unwrap_or(0);
    if highest > 0 {
        let again = sign::envelope(&args.file, Some(highest), args.expires.as_deref())?;
        if known["items"][0]["sha256"] == Digest::of(again.unverified_payload()).to_string() {
            return Ok(highest);
        }
    }
    Ok(highest + 1)
}

impl How {
    /// Waves and thresholds; `many`: it is for more than those that were named.
    pub(in crate::cli) fn plan(&self, many: bool) -> Result<Plan, CliError> {
        let mut plan = Plan::default();
        let soak_ms = match &self.soak {
            Some(text) => {
                let soak = parse_duration(text).map_err(|e| CliError::usage(format!("--soak: {e}")))?;
                u64::try_from(soak.as_millis()).unwrap_or(u64::MAX)
            }
            None if many => plan.waves.first().map_or(0, |wave| wave.soak_ms),
            None => 0,
        };
        let shares: Vec<Ppm> = match &self.waves {
            Some(text) => text.split(',').map(|part| share("--waves", part)).collect::<Result<_, _>>()?,
            None if many => plan.waves.iter().map(|wave| wave.share_ppm).collect(),
            None => vec![ALL_PPM],
        };
        let wave = |(i, share_ppm)| Wave { share_ppm, soak_ms, approval: self.approve && i > 0 };
        plan.waves = shares.into_iter().enumerate().map(wave).collect();
        plan.wait_for_all = !many;
        plan.failures_max = self.failures_max;
        plan.failures_share_max_ppm = share("--failures-share", &self.failures_share)?;
        if plan.failures_share_max_ppm == ALL_PPM {
            // Whoever lets all of them fail does not want to wait for nine in ten either.
            plan.successes_share_min_ppm = 0;
        }
        plan.on_failure = match self.on_failure {
            Past::Abort => OnFailure::Abort,
            Past::Pause => OnFailure::Pause,
        };
        plan.check().map_err(|e| CliError::usage(format!("--waves: {e}")))?;
        Ok(plan)
    }

    /// The name that was given.
    pub(in crate::cli) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Why.
    pub(in crate::cli) fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether named gateways that are in another roll-out are passed over.
    pub(in crate::cli) fn skips_busy(&self) -> bool {
        self.skip_busy
    }
}

/// A share such as `2.5%`.
pub(in crate::cli) fn share(option: &str, text: &str) -> Result<Ppm, CliError> {
    let number = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let number = number.filter(|percent| (0.0..=100.0).contains(percent));
    let ppm = number.map(|percent| (percent * f64::from(ALL_PPM / 100)).round());
    // Within 0 and 1,000,000 by the line above.
    ppm.map(|ppm| ppm as Ppm).ok_or_else(|| {
        CliError::usage(format!("{option}: {:?} is no share; write one such as 10% or 0.5%", text.trim()))
    })
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

    fn plan(more: &[&str]) -> Result<Plan, String> {
        let all = [&["push", "press.toml"], more].concat();
        let cli = Cli::try_parse_from(all).map_err(|e| e.to_string())?;
        cli.args.how.plan(!cli.args.to.group.is_empty() || cli.args.to.all).map_err(|e| e.message)
    }

    #[test]
    fn named_gateways_get_it_at_once_and_many_in_waves() {
        assert!(plan(&["--node", "a"]).unwrap().wait_for_all);
        let of = |plan: Plan| plan.waves.iter().map(|w| (w.share_ppm, w.soak_ms, w.approval)).collect::<Vec<_>>();
        assert_eq!(of(plan(&["--node", "a", "--node", "b"]).unwrap()), [(ALL_PPM, 0, false)]);
        assert_eq!(plan(&["--all"]).unwrap(), Plan::default());
        assert_eq!(
            of(plan(&["--group", "g", "--waves", "0.5%, 100%", "--soak", "1h", "--approve"]).unwrap()),
            [(5_000, 3_600_000, false), (ALL_PPM, 3_600_000, true)]
        );
        let all_may_fail = plan(&["--all", "--failures-share", "100%", "--on-failure", "pause"]).unwrap();
        assert_eq!((all_may_fail.failures_share_max_ppm, all_may_fail.on_failure), (ALL_PPM, OnFailure::Pause));
    }

    #[test]
    fn what_cannot_be_meant_is_said() {
        for (args, words) in [
            (&["--all", "--waves", "10"][..], "\"10\" is no share"),
            (&["--all", "--waves", "10%"], "last wave must be all"),
            (&["--all", "--waves", "50%,10%,100%"], "must be larger"),
            (&["--all", "--waves", "101%"], "is no share"),
            (&["--all", "--soak", "soon"], "--soak"),
            (&[], "--node"),
            (&["--all", "--node", "a"], "cannot be used with"),
        ] {
            let error = plan(args).unwrap_err();
            assert!(error.contains(words), "{args:?}: {error}");
        }
    }
}
