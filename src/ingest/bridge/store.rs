//! From a bridge's messages to the disk: what has arrived goes into one append per lane, tried until it is stored.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::echo;
use super::status::Report;
use super::window::Ticket;
use crate::event::Event;
use crate::ingest::mqtt::broker::EventName;
use crate::ingest::mqtt::broker::record::Message;
use crate::ingest::mqtt::local::Local;
use crate::ingest::mqtt::packet::QoS;
use crate::ingest::mqtt::upstream::{Origin, Refused, Upstream, Why};
use crate::outbox::{AppendError, Batch, Writer};

/// Most messages in one round of appends. More would only delay the first acknowledgement.
const ROUND_MAX: usize = 1024;

/// While the queue before the disk is full; it drains in commits of milliseconds.
const BUSY_RETRY: Duration = Duration::from_millis(5);

/// While the outbox is full or the disk fails: space comes back when the uplink drains or an operator acts.
const FULL_RETRY: Duration = Duration::from_millis(500);

/// A message that must be stored.
pub struct Job {
    /// What is said when it is done.
    pub ticket: Ticket,
    /// The message.
    pub message: Message,
    /// Its event's id: an append that is tried again after a failure stores it once.
    pub name: EventName,
}

/// What the storing of one bridge needs.
pub struct Store {
    /// The way into the outbox.
    pub upstream: Upstream,
    /// Where the messages are from.
    pub origin: Origin,
    /// Our own subscribers, where the bridge serves them too.
    pub local: Option<Local>,
    /// Our name, for what is published there.
    pub node: String,
    /// Status and metrics.
    pub report: Report,
    /// Messages to store; their number is bounded by who sends them.
    pub jobs: mpsc::Receiver<Job>,
    /// Those that are stored or never will be.
    pub done: mpsc::Sender<Vec<Ticket>>,
    /// Give up what cannot be stored now.
    pub stopping: CancellationToken,
}

impl Store {
    /// Runs until no more jobs can come, or until `stopping` and the disk refuses.
    pub async fn run(mut self) -> Result<(), Infallible> {
        let mut round = Vec::new();
        while self.jobs.recv_many(&mut round, ROUND_MAX).await > 0 {
            self.tell(&round).await;
            loop {
                let (done, failed) = self.once(&mut round).await;
                if !done.is_empty() && self.done.send(done).await.is_err() {
                    return Ok(());
                }
                let wait = match failed.as_ref().map(|e| (matches!(e, AppendError::Busy { .. }), e)) {
                    None => {
                        self.report.waiting(None);
                        break;
                    }
                    Some((true, _)) => BUSY_RETRY,
                    Some((false, e)) => {
                        self.report.waiting(Some(&e.to_string()));
                        FULL_RETRY
                    }
                };
                if round.is_empty() {
                    break;
                }
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.stopping.cancelled() => return Ok(()),
                }
                let had = round.len();
                while round.len() < ROUND_MAX
                    && let Ok(job) = self.jobs.try_recv()
                {
                    round.push(job);
                }
                self.tell(round.get(had..).unwrap_or_default()).await;
            }
        }
        Ok(())
    }

    /// Our own subscribers need not wait for the disk.
    async fn tell(&self, jobs: &[Job]) {
        if let Some(local) = &self.local {
            local.room().await;
            let marked = |job: &Job| {
                let mut message = job.message.clone();
                echo::mark(&mut message, &self.node);
                message
            };
            local.publish_bridged(jobs.iter().map(marked).collect());
        }
    }

    /// Tries `jobs` once. Those that are done with are taken out of it and named; what kept some from the disk.
    async fn once(&self, jobs: &mut Vec<Job>) -> (Vec<Ticket>, Option<AppendError>) {
        let mut done = Vec::new();
        let mut lanes: Vec<Lane> = Vec::new();
        for job in jobs.drain(..) {
            match self.add(&mut lanes, &job) {
                Ok(Some(lane)) => lane.jobs.push(job),
                Ok(None) => done.push(job.ticket),
                Err(refused) => {
                    self.report.refused(&job.message.topic, &refused.text);
                    done.push(job.ticket);
                }
            }
        }
        let scoring = self.upstream.rules();
        for lane in lanes.iter_mut().filter(|lane| !lane.asked.is_empty()) {
            let (asked, empty) = (std::mem::take(&mut lane.asked), lane.batch.emptied());
            // All models are asked before any is waited for.
            lane.scored = Some(Box::pin(scoring.scoring().of_batch(std::mem::replace(&mut lane.batch, empty), asked)));
        }
        for lane in &mut lanes {
            if let Some(scored) = lane.scored.take() {
                lane.batch = scored.await;
            }
        }
        let mut failed: Option<AppendError> = None;
        // All lanes are handed to the disk before any is waited for.
        let mut receipts = Vec::new();
        for mut lane in lanes.into_iter().filter(|lane| !lane.batch.is_empty()) {
            match lane.batch.submit() {
                Ok(receipt) => receipts.push((receipt, lane.jobs)),
                Err(e) => {
                    failed = Some(e);
                    jobs.extend(lane.jobs);
                }
            }
        }
        for (receipt, of_lane) in receipts {
            match receipt.await {
                Ok(_) => done.extend(of_lane.iter().map(|job| job.ticket)),
                Err(e) => {
                    failed = Some(e);
                    jobs.extend(of_lane);
                }
            }
        }
        if !matches!(failed, None | Some(AppendError::Busy { .. })) {
            // Nobody keeps these: to hold them would keep the others out.
            let (lost, kept) = std::mem::take(jobs).into_iter().partition(|job| job.message.qos == QoS::AtMostOnce);
            *jobs = kept;
            let lost: Vec<Job> = lost;
            self.report.given_up.inc_by(lost.len() as u64);
            done.extend(lost.iter().map(|job| job.ticket));
        }
        jobs.sort_by_key(|job| job.ticket);
        (done, failed)
    }

    /// Adds the event of `job` to its lane's batch; `None`: it stays here.
    fn add<'l>(&self, lanes: &'l mut Vec<Lane>, job: &Job) -> Result<Option<&'l mut Lane>, Refused> {
        let rules = self.upstream.rules();
        let event = match rules.event(&self.origin, &job.message, Some(job.name)) {
            // Its sender cannot be told any more. What it says of itself is wrong; the payload is kept as plain data.
            Err(refused) if refused.why == Why::Unfit && job.message.properties.is_some() => {
                let plain = Message { properties: None, ..job.message.clone() };
                rules.event(&self.origin, &plain, Some(job.name)).map_err(|_| refused)?
            }
            event => event?,
        };
        let Some((writer, event)) = event else { return Ok(None) };
        let at = lanes.iter().position(|lane| lane.writer.lane() == writer.lane()).unwrap_or_else(|| {
            lanes.push(Lane {
                writer: writer.clone(),
                batch: writer.batch(),
                jobs: Vec::new(),
                asked: Vec::new(),
                scored: None,
            });
            lanes.len() - 1
        });
        let Some(lane) = lanes.get_mut(at) else { return Ok(None) };
        lane.batch.push(&event)?;
        if rules.scoring().wants(&event.ty) {
            lane.asked.push((lane.batch.len() - 1, event));
        }
        Ok(Some(lane))
    }
}

/// What goes into one lane in one round.
struct Lane {
    writer: Writer,
    batch: Batch,
    jobs: Vec<Job>,
    /// Events that are scored, with their places in the batch.
    asked: Vec<(usize, Event)>,
    scored: Option<BoxFuture<'static, Batch>>,
}
