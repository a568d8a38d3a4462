//! `tidegate provision`: everything Tidegate needs in Pulsar, on every cluster, in one run.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::config::CloudConfig;
use crate::pulsar::admin_error::{AdminError, Class};
use crate::pulsar::provision::desired::ClusterAt;
use crate::pulsar::provision::{Plan, Progress, ProvisionError, Step, provision};

/// Longest `--wait`: more is a mistake in units.
const WAIT_SECONDS_MAX: u64 = 86_400;

/// Create in Pulsar what Tidegate needs: tenant, namespaces, topics, subscriptions, and the settings that keep events safe.
///
/// Looks first, prints what is missing, does it, and looks again. What is there already stays: run it as often as you
/// like. It raises settings that are too weak, never lowers one, and deletes nothing. With several [[cluster]] entries
/// it makes the clusters known to each other and replicates between them.
///
/// Exit codes: 0 everything is there; 64 the configuration, token or cluster has to be changed first; 75 the cluster
/// cannot be reached, or a step failed for a reason that may pass: run it again.
#[derive(Clone, Debug, clap::Args)]
pub struct ProvisionArgs {
    /// The cloud's configuration: [pulsar], [[lane]] and [[cluster]] are read.
    #[arg(long, short, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print the plan and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Give topics that exist more partitions, as configured. No gateway may have events under way meanwhile: stop them,
    /// or see that /v1/status shows no backlog.
    #[arg(long)]
    pub grow_partitions: bool,
    /// Keep trying for so long while clusters cannot be reached or are starting, for scripts that have just started them.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=WAIT_SECONDS_MAX))]
    pub wait: u64,
}

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Provisioning stopped.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// The progress could not be written.
    #[error("cannot write the progress: {0}")]
    Output(#[from] io::Error),
}

impl RunError {
    /// The process' exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Provision(e) => match e.class() {
                Class::Refuse => 64,
                Class::Fatal => 70,
                Class::Retry => 75,
            },
            Self::Output(_) => 70,
        }
    }
}

/// Runs it; plan and progress go to `out`.
pub fn run(args: &ProvisionArgs, config: &CloudConfig, out: &mut dyn Write) -> Result<(), RunError> {
    let begun = Instant::now();
    let mut report = Report { out, dry_run: args.dry_run, error: None, waiting: false, open: false };
    let summary = provision(config, args.dry_run, args.grow_partitions, Duration::from_secs(args.wait), &mut report);
    let Report { out, error, .. } = report;
    let summary = summary.inspect_err(|_| {
        let _ = writeln!(out); // ends the line of the step that failed; the error itself matters more
    })?;
    if let Some(e) = error {
        return Err(e.into());
    }
    let seconds = begun.elapsed().as_secs_f64();
    match (args.dry_run, summary.steps) {
        (_, 0) => writeln!(out, "nothing to do: everything is there ({seconds:.1} s)")?,
        (true, n) => writeln!(out, "{} to do; --dry-run: nothing was changed", steps(n))?,
        (false, n) => writeln!(out, "done: {} in {seconds:.1} s; a second look found nothing left to do", steps(n))?,
    }
    Ok(())
}

fn steps(n: usize) -> String {
    if n == 1 { "1 step".to_owned() } else { format!("{n} steps") }
}

/// Prints as it goes. A write that fails stops the printing, not the work: half a provisioning helps nobody.
struct Report<'a> {
    out: &'a mut dyn Write,
    dry_run: bool,
    error: Option<io::Error>,
    waiting: bool,
    /// The line of a step that is not done.
    open: bool,
}

impl Report<'_> {
    fn print(&mut self, text: std::fmt::Arguments<'_>) {
        if self.error.is_none() {
            self.error = self.out.write_fmt(text).and_then(|()| self.out.flush()).err();
        }
    }
}

impl Progress for Report<'_> {
    fn planned(&mut self, clusters: &[ClusterAt], plan: &Plan) {
        for remark in &plan.warnings {
            self.print(format_args!("warning: {}: {}\n", remark.cluster, remark.text));
        }
        for remark in plan.notes.iter().chain(&plan.waiting) {
            self.print(format_args!("note: {}: {}\n", remark.cluster, remark.text));
        }
        if self.dry_run {
            let width = plan.steps.len().to_string().len();
            for (n, step) in plan.steps.iter().enumerate() {
                self.print(format_args!("{:>width$}. {}: {}\n", n + 1, clusters[step.at].name, step.sentence));
            }
        }
    }

    fn begins(&mut self, n: usize, of: usize, cluster: &str, step: &Step) {
        let width = of.to_string().len();
        self.print(format_args!("[{n:>width$}/{of}] {cluster}: {} …", step.sentence));
        self.open = true;
    }

    fn done(&mut self, took: Duration) {
        self.print(format_args!(" done ({} ms)\n", took.as_millis()));
        self.open = false;
    }

    fn waits(&mut self, cluster: &str, error: &AdminError) {
        if std::mem::take(&mut self.open) {
            self.print(format_args!("\n"));
        }
        if !self.waiting {
            self.print(format_args!("waiting for {cluster}: {error}\n"));
        }
        self.waiting = true;
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    #[test]
    fn arguments_are_read_and_bounded() {
        let command = || ProvisionArgs::augment_args(clap::Command::new("provision"));
        command().debug_assert();
        let read = |words: &[&str]| {
            let all = std::iter::once("provision").chain(words.iter().copied());
            command().try_get_matches_from(all).map(|m| ProvisionArgs::from_arg_matches(&m).unwrap())
        };
        let args = read(&["--config", "cloud.toml", "--dry-run", "--wait", "60"]).unwrap();
        assert_eq!((args.config, args.dry_run, args.wait), (Some("cloud.toml".into()), true, 60));
        assert!(read(&["--wait", "86401"]).is_err());
    }
}
