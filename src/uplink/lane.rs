//! One lane's task: connects, delivers, and after any trouble begins again with the outbox as the only state.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Allowed;
use super::batch::Limits;
use super::deliver::{Delivery, End};
use super::error::LaneError;
use super::metrics::LaneMetrics;
use super::open::{self, Session};
use super::resume::{Effect, Input, Resume, Seq};
use crate::config::edge::Compression;
use crate::observe::status::{LinkState, Links};
use crate::outbox::{ReadError, Reader, Stored};
use crate::pulsar::wire::Connector;
use crate::sys::backoff::Jitter;
use crate::sys::clock::Clock;

/// Bytes of records fetched from the outbox at once: a few batches.
const READ_BYTES: usize = 256 << 10;

/// The cursor is moved at most this often: every move may interrupt a read.
const CONFIRM_EVERY: Duration = Duration::from_millis(20);

/// Why nothing is sent although there is an address.
const HELD_BACK: &str = "events wait on disk: the control link has found this gateway's assignment at none of the \
                         addresses that the pushed document names in uplink.pulsar";

/// What a lane's task knows besides its state.
pub struct Lane {
    pub name: String,
    pub urls: Vec<String>,
    /// Of these.
    pub allowed: watch::Receiver<Allowed>,
    pub topic: String,
    /// `node.incarnation.lane`.
    pub stream: String,
    /// The producer's name: the stream at the cluster.
    pub producer: String,
    pub connector: Connector,
    pub limits: Limits,
    pub batch_bytes: u64,
    pub compression: Compression,
    pub receipt_timeout: Duration,
    pub retry_max: Duration,
    pub links: Links,
    pub clock: Clock,
    pub metrics: LaneMetrics,
}

/// Runs until `stop`.
pub async fn run(lane: Lane, mut reader: Reader, stop: CancellationToken) -> Result<(), Infallible> {
    let mut core = Resume::new(reader.first_unconfirmed().saturating_sub(1), lane.limits);
    let mut jitter = Jitter::new(crate::sys::random::bits());
    let mut allowed = lane.allowed.clone();
    for turn in 0.. {
        lane.state(LinkState::Connecting);
        let opening = async {
            let url = lane.url(turn, &mut allowed).await?;
            Some(open::open(&lane.connector, url, &lane.topic, &lane.producer).await)
        };
        let opened = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            opened = opening => opened,
        };
        let Some(opened) = opened else { break };
        let end = match opened {
            Ok(session) => life(&lane, &mut core, &mut reader, session, &stop).await,
            Err(error) => End::Failed(error),
        };
        match end {
            End::Stopped => break,
            End::Failed(error) => lane.failed(&error),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = sleep(jitter.up_to(lane.retry_max)) => {}
        }
    }
    lane.state(LinkState::Down);
    Ok(())
}

/// One life of the connections, from L to the last receipt.
async fn life(lane: &Lane, core: &mut Resume, reader: &mut Reader, session: Session, stop: &CancellationToken) -> End {
    lane.state(LinkState::Resuming);
    lane.metrics.connects.inc();
    let last: Vec<_> = session.producers.iter().map(|p| p.last).collect();
    let backlog_end = reader.last_durable();
    let mut effects = Vec::new();
    core.handle(Input::Opened { last: &last, last_durable: backlog_end }, &mut effects);
    for effect in effects {
        match effect {
            Effect::Restart(doubt) => return End::Failed(doubt.into()),
            Effect::Remembered => lane.deduplicated(true),
            _ => {}
        }
    }
    lane.state(LinkState::Up);
    let from = core.next();
    tracing::info!(lane = lane.name, producers = last.len(), from, last = ?last.iter().flatten().max(), "link is up");
    let (chunks, queue) = mpsc::channel(1);
    let (confirmed, through) = watch::channel(from - 1);
    let mut delivery = Delivery::new(lane, core, session, backlog_end, &confirmed);
    let end = tokio::select! {
        end = delivery.run(queue, stop) => end,
        error = feed(reader, from, chunks, through) => End::Failed(error.into()),
    };
    drop(delivery);
    core.handle(Input::Lost, &mut Vec::new());
    reader.confirm(core.next() - 1);
    lane.in_flight(core);
    end
}

/// Reads the outbox ahead of the delivery, and moves the cursor behind it. Ends only when the outbox cannot be read.
async fn feed(
    reader: &mut Reader,
    mut next: Seq,
    chunks: mpsc::Sender<Vec<Stored>>,
    mut confirmed: watch::Receiver<Seq>,
) -> ReadError {
    let mut due = Instant::now();
    let mut chunk: Option<Vec<Stored>> = None;
    loop {
        let confirmable = async {
            sleep_until(due).await;
            confirmed.changed().await
        };
        let moved = if chunk.is_some() {
            tokio::select! {
                moved = confirmable => moved,
                permit = chunks.reserve() => {
                    if let (Ok(permit), Some(chunk)) = (permit, chunk.take()) {
                        permit.send(chunk);
                    }
                    continue;
                }
            }
        } else {
            tokio::select! {
                moved = confirmable => moved,
                read = reader.read(next, READ_BYTES) => match read {
                    Ok(events) => {
                        next = events.last().map_or(next, |e| e.seq + 1);
                        chunk = Some(events);
                        continue;
                    }
                    Err(error) => return error,
                },
            }
        };
        if moved.is_err() {
            // The delivery has ended; it is what ends this life.
            std::future::pending::<()>().await;
        }
        reader.confirm(*confirmed.borrow_and_update());
        due = Instant::now() + CONFIRM_EVERY;
    }
}

impl Lane {
    /// The address of this turn, once one is allowed; `None`: none will be.
    async fn url(&self, turn: usize, allowed: &mut watch::Receiver<Allowed>) -> Option<&str> {
        loop {
            let usable: Vec<&str> = {
                let allowed = allowed.borrow_and_update();
                self.urls.iter().map(String::as_str).filter(|url| allowed.has(url)).collect()
            };
            if let Some(url) = usable.get(turn % usable.len().max(1)) {
                return Some(url);
            }
            self.held_back();
            allowed.changed().await.ok()?;
        }
    }

    fn held_back(&self) {
        let now = self.clock.unix_ms();
        self.state(LinkState::Down);
        tracing::info!(lane = self.name, "{HELD_BACK}");
        self.links.update(&self.name, |l| (l.last_error, l.last_error_ms) = (Some(HELD_BACK.to_owned()), Some(now)));
    }

    pub fn state(&self, state: LinkState) {
        let now = self.clock.unix_ms();
        self.links.update(&self.name, |l| {
            // Attempts that fail one after the other are one outage, not many.
            let waits = |s| matches!(s, LinkState::Down | LinkState::Connecting);
            if l.state != state && !(waits(l.state) && waits(state) && l.since_ms != 0) {
                l.since_ms = now;
            }
            l.state = state;
        });
    }

    /// Tells the operator what is wrong. The same error again and again is one line in the log.
    pub fn failed(&self, error: &LaneError) {
        self.metrics.error(error.class());
        let (text, now) = (error.to_string(), self.clock.unix_ms());
        self.state(LinkState::Down);
        let mut repeated = false;
        self.links.update(&self.name, |l| {
            repeated = l.last_error.as_deref() == Some(&text);
            l.last_error = Some(text.clone());
            l.last_error_ms = Some(now);
        });
        if repeated {
            tracing::debug!(lane = self.name, class = error.class(), "{text}");
        } else {
            tracing::warn!(lane = self.name, class = error.class(), "{text}; nothing is lost, trying again");
        }
    }

    /// What the broker does about duplicates.
    pub fn deduplicated(&self, on: bool) {
        let warning = (!on).then(|| {
            let namespace = self.topic.rsplit_once('/').map_or("", |(n, _)| n).trim_start_matches("persistent://");
            format!(
                "deduplication is OFF for namespace {namespace}: after a disruption Pulsar stores events twice; run \
                 `tidegate provision`, or pulsar-admin namespaces set-deduplication {namespace} --enable"
            )
        });
        if let Some(warning) = &warning {
            tracing::error!(lane = self.name, "{warning}");
        }
        self.links.update(&self.name, |l| l.warning = warning);
    }

    /// Publishes how much is in flight.
    pub fn in_flight(&self, core: &Resume) {
        self.metrics.in_flight.set(core.outstanding_bytes() as i64);
        self.links.update(&self.name, |l| l.in_flight = core.outstanding_events() as u64);
    }
}
