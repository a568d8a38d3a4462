//! The operator's own check of a configuration: a program, run within bounds.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use crate::config::env;

/// Longest output that is told; the rest is read and forgotten.
const OUTPUT_BYTES_MAX: usize = 256;

/// Time for output that is still in the pipe when the program has ended.
const OUTPUT_WAIT_MAX: Duration = Duration::from_millis(500);

/// Runs `command` (program and arguments) for at most `time`. The error says how it failed, and what it said. However it
/// ends, also by dropping this, everything in its process group is killed; what left the group is not ours. When this
/// process is killed itself, it lives on. Our own variables are not handed over: they may hold a token.
pub async fn run(command: &[String], time: Duration) -> Result<(), String> {
    run_with(command, &[], time, "downlink.health_timeout").await
}

/// The same with these variables; `key` is the configuration's that says the time.
pub async fn run_with(
    command: &[String],
    variables: &[(&str, String)],
    time: Duration,
    key: &str,
) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let ours = std::env::vars_os().map(|(name, _)| name);
    let ours = ours.filter(|name| name.to_string_lossy().starts_with(env::PREFIX));
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    ours.for_each(|name| {
        command.env_remove(name);
    });
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let mut child = command.spawn().map_err(|e| format!("{program} cannot be run: {e}"))?;
    let _group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let status = {
        let reading = async { tokio::join!(beginning(stdout, &mut out), beginning(stderr, &mut err)) };
        tokio::pin!(reading);
        let waiting = async {
            tokio::select! {
                status = child.wait() => (status, false),
                _ = &mut reading => (child.wait().await, true),
            }
        };
        let ended = tokio::time::timeout(time, waiting).await;
        if matches!(ended, Ok((_, false))) {
            let _ = tokio::time::timeout(OUTPUT_WAIT_MAX, reading).await;
        }
        ended.map(|(status, _)| status)
    };
    let said = said(&out, &err);
    match status {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{program}: {status}{said}")),
        Ok(Err(e)) => Err(format!("{program}: cannot be waited for: {e}")),
        Err(_) => Err(format!("{program}: not ended within {time:?} ({key}){said}")),
    }
}

/// What was said last counts most, and that is said on standard error.
fn said(out: &[u8], err: &[u8]) -> String {
    let text = String::from_utf8_lossy(if err.trim_ascii().is_empty() { out } else { err });
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { text } else { format!(": {text}") }
}

/// Reads to the end and keeps the beginning: a full pipe would stop the program.
async fn beginning(from: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len()).min(n);
        kept.extend_from_slice(buffer.get(..room).unwrap_or_default());
    }
}

/// A process group, killed when dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        // ESRCH: nobody is left.
        let _ = self.0.map(|group| kill_process_group(group, Signal::KILL));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str, time: Duration) -> Result<(), String> {
        run(&["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()], time).await
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_program_succeeds_or_says_why_not() {
        assert_eq!(run(&[], LONG).await, Ok(()));
        assert_eq!(shell("exit 0", LONG).await, Ok(()));
        let failed = shell("echo fine; echo 'the valve  hangs' >&2; exit 3", LONG).await.unwrap_err();
        assert_eq!(failed, "/bin/sh: exit status: 3: the valve hangs");
        let missing = run(&["/nowhere/check".to_owned()], LONG).await.unwrap_err();
        assert!(missing.starts_with("/nowhere/check cannot be run: No such file"), "{missing}");
    }

    #[tokio::test]
    async fn much_output_stops_nothing_and_is_cut() {
        let failed = shell("yes | head -c 1000000; exit 1", LONG).await.unwrap_err();
        assert!(failed.starts_with("/bin/sh: exit status: 1: y y") && failed.len() < 300, "{failed}");
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_killed_with_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 300 & echo $! > {}; echo waits; wait", file.display());
        let failed = shell(&script, Duration::from_secs(2)).await.unwrap_err();
        assert!(failed.contains("not ended within 2s") && failed.ends_with(": waits"), "{failed}");
        let pid = std::fs::read_to_string(file).unwrap();
        let stat = std::path::PathBuf::from(format!("/proc/{}/stat", pid.trim()));
        // Killed: gone, or waiting for whoever inherited it to take note.
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        for _ in 0..500 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{pid} still runs");
    }

    #[tokio::test]
    async fn what_stays_behind_in_the_background_does_not_hold_it_up() {
        assert_eq!(shell("sleep 300 & exit 0", LONG).await, Ok(()));
    }
}
