//! What the hub does by itself: deadlines, tidying the journal, `$SYS`, wills on their way upstream.

use std::convert::Infallible;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Hub;
use crate::ingest::http::budget::Lease;
use crate::ingest::mqtt::broker::record::Message;
use crate::ingest::mqtt::broker::{LastWill, Source, TidyCursor};
use crate::ingest::mqtt::metrics::{Counters, Fate};
use crate::ingest::mqtt::packet::QoS;
use crate::ingest::mqtt::sys_topics::{self, SysTopics};
use crate::ingest::mqtt::upstream::Upstream;
use crate::journal::{AppendError, Tidy};
use crate::observe::status::{LinkState, Links};
use crate::outbox::Outbox;
use crate::sys::tasks::Tasks;

/// The broker's deadlines are looked at this often at least: the clock of a machine that slept may have stood still.
const TICK_MAX: Duration = Duration::from_secs(60);

/// Bytes of records that are written anew under one lock: a fraction of a millisecond.
const TIDY_BYTES: usize = 64 << 10;

/// How often it is looked whether a rewriting that did not fit may fit now.
const LESS_EVERY: Duration = Duration::from_secs(1);

/// After this time it is tried all the same: sizes are estimates, and once an hour an SD card bears.
const TOO_MUCH_MAX: Duration = Duration::from_secs(3600);

/// How often it is looked at the end whether the last connection is gone.
const LAST_EVERY: Duration = Duration::from_millis(20);

/// What the hub's own tasks need.
pub struct Work {
    /// For wills.
    pub upstream: Upstream,
    /// For `$SYS`.
    pub counters: Counters,
    /// For `$SYS`.
    pub outbox: Outbox,
    /// For `$SYS`.
    pub links: Links,
    /// `mqtt.sys_interval`; zero: no `$SYS`.
    pub sys_interval: Duration,
}

impl Hub {
    /// Starts what the hub does by itself, until `tasks` stops. To be called once.
    pub fn start(&self, tasks: &Tasks, around: Work) {
        let stopping = tasks.stopping();
        let (hub, stop) = (self.clone(), stopping.clone());
        tasks.spawn("mqtt deadlines", async move { until(&stop, hub.deadlines()).await });
        let (hub, stop) = (self.clone(), stopping.clone());
        tasks.spawn("mqtt journal tidying", async move { until(&stop, hub.tidying()).await });
        let Work { upstream, counters, outbox, links, sys_interval } = around;
        let unstored = self.0.unstored.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(unstored) = unstored {
            let wills = Wills { hub: self.clone(), unstored, upstream, counters: counters.clone() };
            let stop = stopping.clone();
            tasks.spawn("mqtt wills", async move { wills.run(stop).await });
        }
        if sys_interval > Duration::ZERO {
            let (hub, stop) = (self.clone(), stopping.clone());
            let sys = Sys { hub, counters, outbox, links, started: Instant::now(), topics: SysTopics::default() };
            tasks.spawn("mqtt $SYS", async move { until(&stop, sys.run(sys_interval)).await });
        }
    }

    async fn deadlines(self) -> Result<(), Infallible> {
        loop {
            let (now, next) = {
                let mut state = self.lock();
                let next = state.broker.next_deadline();
                state.armed = next;
                (self.0.shelf.now(), next)
            };
            let wait = next.map_or(TICK_MAX, |at| Duration::from_millis(at.saturating_sub(now))).min(TICK_MAX);
            tokio::select! {
                () = tokio::time::sleep(wait) => {
                    self.own(|broker, now| broker.tick(now));
                    self.keep_time();
                }
                () = self.0.sooner.notified() => {}
            }
        }
    }

    /// So that after a restart with a wrong clock nothing expires early or late.
    fn keep_time(&self) {
        let _broker = self.lock();
        if let Err(reason) = self.0.shelf.keep_time() {
            tracing::debug!(%reason, "the time of MQTT sessions is not written");
        }
    }

    pub(super) async fn tidying(self) -> Result<(), Infallible> {
        let mut too_much = None;
        while self.journal().tidy_due().await {
            if let Some(refused) = too_much.take() {
                self.wait_for_less(refused).await;
            }
            let alive = self.alive_bytes();
            let Some(tidy) = self.journal().tidy(alive) else {
                tokio::task::yield_now().await;
                continue;
            };
            if let Err(reason) = self.write_anew(tidy).await {
                tracing::warn!(%reason, "the journal of MQTT sessions could not be tidied; tried again later");
                let over = matches!(&reason, super::Unkept::Append(AppendError::OverShare { .. }));
                too_much = over.then(|| TooMuch { alive, share: self.journal().share() });
            }
        }
        Ok(())
    }

    /// A rewriting that did not fit writes a third of the journal for nothing: the next one waits until it may fit.
    async fn wait_for_less(&self, refused: TooMuch) {
        let begun = Instant::now();
        while begun.elapsed() < TOO_MUCH_MAX && !refused.may_fit(self.alive_bytes(), self.journal().share()) {
            tokio::time::sleep(LESS_EVERY).await;
        }
    }

    fn alive_bytes(&self) -> u64 {
        self.lock().broker.alive_bytes() as u64
    }

    async fn write_anew(&self, tidy: Tidy) -> Result<(), super::Unkept> {
        let mut cursor = Some(TidyCursor::default());
        while let Some(at) = cursor {
            {
                let state = self.lock();
                let (records, next) = state.broker.tidy(at, TIDY_BYTES);
                self.0.shelf.rewrite(&tidy, &records)?;
                cursor = next;
            }
            // Others want the lock, and the disk's queue is bounded.
            tidy.room().await;
            tokio::task::yield_now().await;
        }
        let position = tidy.finish()?;
        Ok(self.journal().durable(position).await?)
    }
}

/// What did not fit into the journal's share, and this.
struct TooMuch {
    alive: u64,
    share: u64,
}

impl TooMuch {
    /// Whether there is noticeably less of it now, or more room.
    fn may_fit(&self, alive: u64, share: u64) -> bool {
        alive < self.alive - self.alive / 32 || share > self.share + self.share / 32
    }
}

async fn until(stop: &CancellationToken, work: impl Future<Output = Result<(), Infallible>>) -> Result<(), Infallible> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        done = work => done,
    }
}

/// Wills on their way to Pulsar.
struct Wills {
    hub: Hub,
    unstored: mpsc::Receiver<(LastWill, Lease)>,
    upstream: Upstream,
    counters: Counters,
}

impl Wills {
    /// Until `stop`, and then until the last connection, whose end may leave a will, is gone.
    async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        loop {
            tokio::select! {
                will = self.unstored.recv() => match will {
                    Some((will, _lease)) => self.store(&will).await,
                    None => return Ok(()),
                },
                () = stop.cancelled() => break,
            }
        }
        loop {
            // Looked at before the queue: who leaves after it has left a will before it.
            let last = self.hub.is_empty();
            while let Ok((will, _lease)) = self.unstored.try_recv() {
                self.store(&will).await;
            }
            if last {
                return Ok(());
            }
            tokio::time::sleep(LAST_EVERY).await;
        }
    }

    async fn store(&self, will: &LastWill) {
        let LastWill { message, client_id, owner, .. } = will;
        let origin = self.upstream.origin(owner, client_id);
        let fate = match self.upstream.store(&origin, message, None).await {
            Ok(true) => Fate::Upstream,
            Ok(false) => Fate::Local,
            Err(refused) => {
                tracing::warn!(topic = %message.topic, reason = %refused, "a will does not go upstream");
                Fate::Refused(refused.why)
            }
        };
        self.counters.fate(message.qos, fate, 1);
    }
}

struct Sys {
    hub: Hub,
    counters: Counters,
    outbox: Outbox,
    links: Links,
    started: Instant,
    topics: SysTopics,
}

impl Sys {
    async fn run(mut self, every: Duration) -> Result<(), Infallible> {
        let mut turns = tokio::time::interval(every);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            self.publish();
        }
    }

    fn publish(&mut self) {
        let links = self.links.snapshot();
        let status = self.outbox.status();
        let lanes: Vec<_> = status
            .iter()
            .map(|lane| sys_topics::Lane {
                name: &lane.lane,
                backlog_events: lane.backlog_events,
                link: word(links.get(&lane.lane).map(|l| l.state).unwrap_or_default()),
            })
            .collect();
        for (topic, text) in self.topics.update(self.started.elapsed(), self.count(), &lanes) {
            let message = Message {
                topic: topic.into(),
                qos: QoS::AtMostOnce,
                retain: true,
                payload: Bytes::from(text),
                properties: None,
                expires_at: None,
            };
            self.hub.own(|broker, now| broker.publish_own(now, Source::Gateway, message, false));
        }
    }

    fn count(&self) -> sys_topics::Counters {
        let (broker, shell) = (self.hub.counts(), self.counters.totals());
        let dropped = broker.dropped;
        sys_topics::Counters {
            clients_connected: broker.connections as u64,
            clients_total: broker.sessions as u64,
            clients_expired: broker.sessions_expired,
            messages_received: shell.packets_in,
            messages_sent: shell.packets_out,
            publish_received: broker.received,
            publish_sent: broker.sent,
            publish_dropped: dropped.slow + dropped.full + dropped.total + dropped.expired + dropped.too_large,
            publish_bytes_received: broker.received_bytes,
            publish_bytes_sent: broker.sent_bytes,
            bytes_received: shell.bytes_in,
            bytes_sent: shell.bytes_out,
            sockets: shell.sockets,
            connects: shell.connects,
            stored_messages: (broker.retained + broker.queued) as u64,
            stored_bytes: (broker.retained_bytes + broker.queued_bytes) as u64,
            subscriptions: broker.subscriptions as u64,
            shared_subscriptions: broker.shared_subscriptions as u64,
            retained: broker.retained as u64,
        }
    }
}

fn word(state: LinkState) -> &'static str {
    match state {
        LinkState::Off => "off",
        LinkState::Connecting => "connecting",
        LinkState::Resuming => "resuming",
        LinkState::Up => "up",
        LinkState::Down => "down",
    }
}
