//! The lead: the only producer of a topic, for as long as its connection lives.
//!
//! Exclusive access (`ProducerAccessMode`, Pulsar ≥ 2.8): the broker refuses a second producer while the first one's
//! connection lives, and lets the next one in as soon as that has ended (kill -9: at once; a machine that is gone: when the
//! broker's keep-alive finds it out, a minute at most). It only keeps two processes from doing the same work: what decides
//! is the log, where a claim with a higher epoch voids the decisions of whoever had the lead before.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pulsar::message::proto::ProducerAccessMode;
use tokio_util::sync::CancellationToken;

use super::topic::{Cluster, SILENCE_MAX, TopicError, Wire};
use super::writer::producer;
use crate::pulsar::wire::lookup::last_sequence;
use crate::sys::random;

/// The wait between two attempts while another process has it.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Whoever has the lead has one of these.
#[derive(Clone, Debug)]
pub struct Held {
    over: CancellationToken,
    heard: Arc<Mutex<Instant>>,
}

impl Held {
    /// Whether it is certain: a process that was stopped for long, and has not noticed yet, has it no more.
    pub fn is_certain(&self) -> bool {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        !self.over.is_cancelled() && heard.elapsed() <= SILENCE_MAX
    }

    /// Cancelled when it is lost.
    pub fn over(&self) -> &CancellationToken {
        &self.over
    }
}

/// Tries to have the lead, again and again.
pub struct Lead {
    cluster: Cluster,
    topic: String,
}

impl Lead {
    /// Of those who ask for `topic`.
    pub fn new(cluster: Cluster, topic: String) -> Self {
        Self { cluster, topic }
    }

    /// Calls `held` whenever this process has got the lead, and `waits` with the reason while it has not; until `stop`.
    pub async fn run(self, stop: CancellationToken, held: impl Fn(Held) + Send, waits: impl Fn(Option<String>) + Send) {
        while !stop.is_cancelled() {
            let over = stop.child_token();
            let ended = stop.run_until_cancelled(self.hold(&over, &held)).await;
            over.cancel();
            match ended {
                None => return,
                Some(Ok(())) => {}
                Some(Err(e)) => waits((!e.is_taken()).then(|| e.to_string())),
            }
            // Not all at the same time.
            let wait = ASK_EVERY / 2 + Duration::from_millis(random::bits() % 500);
            stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
    }

    async fn hold(&self, over: &CancellationToken, held: &(impl Fn(Held) + Send)) -> Result<(), TopicError> {
        let mut connection = self.cluster.connect_to(&self.topic).await?;
        let id = connection.request_id();
        let name = format!("lead.{}", random::hex16());
        let request = producer(&self.topic, 1, id, &name, ProducerAccessMode::Exclusive);
        let answers = connection.ask(self.cluster.credentials(), "asking for the lead", vec![(id, request)]).await?;
        last_sequence(&connection.broker, &self.topic, answers.into_iter().next().unwrap_or_default())?;
        let mut wire = Wire::new(connection, self.cluster.credentials());
        let heard = Arc::new(Mutex::new(wire.heard()));
        held(Held { over: over.clone(), heard: heard.clone() });
        loop {
            let frame = wire.next().await?;
            *heard.lock().unwrap_or_else(PoisonError::into_inner) = wire.heard();
            if let Some(frame) = wire.keep(frame).await?
                && frame.command.close_producer.is_some()
            {
                return Err(TopicError::Closed { topic: self.topic.clone() });
            }
        }
    }
}
