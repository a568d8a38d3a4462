//! What the gateway tells the cloud: decisions until they are acknowledged, refusals, and that it is there.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Keeper;
use super::gateway::Gateway;
use crate::downlink::keeper::key::report_key;
use crate::downlink::keeper::{status, trusted_now};
use crate::downlink::link::{Link, NotSent};
use crate::downlink::report::{NodeReport, What};
use crate::downlink::trial::Input;
use crate::sys::random;
use crate::sys::tasks::Tasks;

/// Reports that wait for the link; decisions come again by themselves, and presence does too.
const QUEUE_MAX: usize = 32;

/// Refusals that are kept for a link that is down. They are not on disk: what is refused has changed nothing.
const REFUSED_MAX: usize = 16;

/// The next presence comes at the latest after this.
const PRESENT_EVERY: Duration = Duration::from_secs(60);

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A decision, told until it is acknowledged.
    Decided(u64),
    /// What became of a model, told until it is acknowledged.
    Model(u64),
    /// A refusal.
    Refused,
    /// True for the moment only.
    Passing,
}

/// A report, and what became of it.
pub struct Sent {
    report: NodeReport,
    kind: Kind,
    result: Result<(), NotSent>,
}

/// Sends reports one after the other in the background.
pub struct Teller {
    queue: mpsc::Sender<(NodeReport, Kind)>,
    refused: VecDeque<NodeReport>,
    /// While the link is up.
    present_at: Option<Instant>,
}

impl Teller {
    /// Sends through `link` until the tasks stop.
    pub fn start(tasks: &Tasks, link: Link) -> (Self, mpsc::Receiver<Sent>) {
        let (queue, mut reports) = mpsc::channel::<(NodeReport, Kind)>(QUEUE_MAX);
        let (sent, told) = mpsc::channel(1);
        let stopping = tasks.stopping().clone();
        tasks.spawn_contained("reports", async move {
            while let Some((report, kind)) = reports.recv().await {
                let Some(result) = stopping.run_until_cancelled(link.report(&report)).await else { return };
                if sent.send(Sent { report, kind, result }).await.is_err() {
                    return;
                }
            }
        });
        (Self { queue, refused: VecDeque::new(), present_at: None }, told)
    }

    /// Puts a report on its way; whether there was room.
    pub fn tell(&mut self, report: NodeReport, kind: Kind) -> bool {
        let sent = self.queue.try_send((report, kind));
        let there_was = sent.is_ok();
        if let Err(e) = sent {
            let (report, kind) = e.into_inner();
            self.not_sent(report, kind);
        }
        there_was
    }

    fn not_sent(&mut self, report: NodeReport, kind: Kind) {
        if kind != Kind::Refused {
            return;
        }
        if self.refused.len() >= REFUSED_MAX {
            self.refused.pop_front();
        }
        self.refused.push_back(report);
    }

    /// When the gateway says next that it is there.
    pub fn next_presence(&self) -> Option<Instant> {
        self.present_at
    }

    /// Something has changed that the cloud wants to know.
    pub fn present_soon(&mut self) {
        if self.present_at.is_some() {
            self.present_at = Some(Instant::now());
        }
    }

    /// The link is up: what waited is told, and that the gateway is there.
    pub fn up(&mut self) {
        self.present_at = Some(Instant::now());
        for report in std::mem::take(&mut self.refused) {
            self.tell(report, Kind::Refused);
        }
    }

    /// The link is down.
    pub fn down(&mut self) {
        self.present_at = None;
    }
}

impl<G: Gateway> Keeper<G> {
    /// A report of this moment.
    pub(super) fn report(&self, what: What) -> NodeReport {
        let (committed, trial) = status::running(self.machine.record());
        let node = &self.own.alone().node;
        NodeReport {
            node: node.id.clone(),
            incarnation: self.live.incarnation().to_owned(),
            at_ms: trusted_now(&self.clock).and_then(|now| u64::try_from(now.unix_ms()).ok()),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            groups: node.groups.clone(),
            committed,
            trial,
            accepted: Some(self.inbox.accepted()),
            what,
        }
    }

    /// Says that the gateway is there.
    pub(super) fn present(&mut self) {
        let (uptime_s, next_s) = (self.origin.elapsed().as_secs(), PRESENT_EVERY.as_secs());
        let report =
            self.report(What::Present { uptime_s, next_s, lanes: self.live.waiting(), models: self.models.status().0 });
        self.teller.tell(report, Kind::Passing);
        self.tell_models();
        self.have_key();
        // A fleet that came up together does not speak together for ever.
        let share = (random::bits() % 1024) as f64 / 1024.0;
        let every = self.models.told_in().unwrap_or(PRESENT_EVERY);
        self.teller.present_at = Some(Instant::now() + every.mul_f64(0.75 + 0.25 * share));
    }

    /// A disk that was full at the start has room by now.
    fn have_key(&self) {
        if self.link.signs() {
            return;
        }
        let (link, data_dir) = (self.link.clone(), self.own.alone().node.data_dir.clone());
        self.tasks.spawn_contained("report key", async move {
            if let Ok(Some(key)) = tokio::task::spawn_blocking(move || report_key(&data_dir)).await {
                link.sign_with(key);
            }
        });
    }

    /// What became of a report.
    pub(super) async fn sent(&mut self, sent: Sent) {
        let Sent { report, kind, result } = sent;
        match (kind, result) {
            (Kind::Decided(seq), Ok(())) => self.feed(Input::ReportAcknowledged { seq }).await,
            (Kind::Model(seq), Ok(())) => self.models.acknowledged(seq),
            (_, Ok(())) => {}
            (kind, Err(reason)) => {
                tracing::debug!(%reason, ?kind, "a report was not sent");
                if matches!(kind, Kind::Model(_)) {
                    self.models.tell_again();
                }
                self.teller.not_sent(report, kind);
            }
        }
    }
}
