//! What happens without anybody asking: commands expire, ends are reported upstream, the journal is tidied.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::core::{Subject, TICK_MAX};
use super::record::Record;
use super::{Commands, Millis};
use crate::journal::{AppendError, Position};

/// While anything waits, the time is written this often: a gateway that always boots in 1970 must not wait for ever with
/// commands that expire.
const TIME_EVERY_MS: Millis = 10 * 60 * 1000;

/// Shortest pause between two rounds, and the pause after something could not be done.
const PAUSE: Duration = Duration::from_millis(50);
const RETRY: Duration = Duration::from_secs(5);

/// Longest pause: deadlines beyond it are looked at again then.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// Bytes of one piece of a tidying: written under the lock, so that nobody waits long.
const PIECE_BYTES: usize = 256 << 10;

/// Ends reported in one go.
const REPORTS_MAX: usize = 64;

/// Runs until `stopping`.
pub async fn run(commands: &Commands, stopping: &CancellationToken) {
    let inner = &commands.0;
    let mut journal_ended = false;
    // After a failure nothing is reported before this.
    let mut report_at: Option<Instant> = None;
    while !stopping.is_cancelled() {
        let (ended, _) = inner.change(|core, now| {
            let mut records = core.tick(now);
            let count = records.len();
            if core.counts().waiting > 0 {
                records.extend(inner.line.record_after(TIME_EVERY_MS));
            }
            (count, records)
        });
        let mut more = ended == TICK_MAX;
        if report_at.is_none_or(|at| at <= Instant::now()) {
            let reported = tokio::select! {
                () = stopping.cancelled() => return,
                reported = report(commands) => reported,
            };
            match reported {
                Ok(unfinished) => (more, report_at) = (more || unfinished, None),
                Err(reason) => {
                    if report_at.is_none() {
                        tracing::warn!(reason, "ends of commands are not reported yet; trying again");
                    }
                    report_at = Some(Instant::now() + RETRY);
                }
            }
        }
        let pause = if more { Duration::ZERO } else { pause(commands) };
        let pause = report_at.map_or(pause, |at| pause.min(at.saturating_duration_since(Instant::now())));
        tokio::select! {
            () = stopping.cancelled() => return,
            due = inner.journal.tidy_due(), if !journal_ended => {
                journal_ended = !due;
                if let Err(reason) = tidy(commands).await {
                    tracing::debug!(%reason, "the commands' journal was not tidied");
                }
            }
            () = tokio::time::sleep(pause) => {}
            () = attention(commands) => {}
        }
    }
}

/// Something was changed; not at once, for often more follows.
async fn attention(commands: &Commands) {
    commands.0.attention.notified().await;
    tokio::time::sleep(PAUSE).await;
}

fn pause(commands: &Commands) -> Duration {
    let core = commands.0.lock();
    let time = (core.counts().waiting > 0).then_some(commands.0.line.written() + TIME_EVERY_MS);
    let next = core.next_deadline().into_iter().chain(time).min();
    drop(core);
    let left = next.map_or(PAUSE_MAX, |at| Duration::from_millis(at.saturating_sub(commands.0.line.now())));
    left.clamp(PAUSE, PAUSE_MAX)
}

/// Sends upstream how commands ended that no device answered. `true`: there is more; an error: not now.
async fn report(commands: &Commands) -> Result<bool, String> {
    let inner = &commands.0;
    let ends = inner.lock().unreported(REPORTS_MAX);
    for closed in &ends {
        let subject = Subject { device: closed.device.clone(), id: closed.id.clone(), name: closed.name.clone() };
        inner.report(&subject, &closed.outcome).await.map_err(|e| e.to_string())?;
        // Not waited for: with a crash it is reported once more, under the same event id.
        inner.change(|core, _| ((), core.reported(closed).into_iter().collect())).1.map_err(|e| e.to_string())?;
    }
    Ok(ends.len() == REPORTS_MAX)
}

/// Writes everything alive again, if that is due.
async fn tidy(commands: &Commands) -> Result<(), String> {
    let inner = &commands.0;
    let alive = inner.lock().counts().bytes;
    let Some(tidy) = inner.journal.tidy(alive) else { return Ok(()) };
    let text = |e: AppendError| e.to_string();
    let mut cursor = None;
    loop {
        {
            let core = inner.lock();
            let (records, next) = core.tidy(cursor.as_ref(), PIECE_BYTES);
            let bytes: Vec<_> = records.iter().map(Record::encode).collect();
            tidy.append(&bytes).map_err(text)?;
            cursor = next;
        }
        if cursor.is_none() {
            break;
        }
        tidy.room().await;
        tokio::task::yield_now().await;
    }
    if let Some(time) = inner.line.record_after(0) {
        tidy.append(&[time.encode()]).map_err(text)?;
    }
    let done: Position = tidy.finish().map_err(text)?;
    inner.journal.durable(done).await.map_err(|e| e.to_string())
}
