//! A device answers a command: the message is acknowledged once the answer is on its way upstream and the command is over.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::Connection;
use crate::downlink::commands::{CommandError, Commands, NotStored, answer};
use crate::ingest::mqtt::broker::record::Message;
use crate::ingest::mqtt::metrics::Fate;
use crate::ingest::mqtt::packet::{PacketId, QoS, Reason, Version};
use crate::ingest::mqtt::upstream::{Refused, Why};

/// Answers under way per connection, from which on nothing more is read.
const RESULTS_MAX: usize = 32;

/// Answers under way: none for nearly all connections, so nothing is allocated for none.
#[derive(Default)]
pub struct Results(Vec<Pin<Box<dyn Future<Output = Settled> + Send>>>);

/// What became of an answer.
pub struct Settled {
    qos: QoS,
    id: Option<PacketId>,
    result: Result<(), Refused>,
}

impl Results {
    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether more may be read.
    pub fn has_room(&self) -> bool {
        self.0.len() < RESULTS_MAX
    }

    /// Waits for any of them: the broker puts the acknowledgements in order.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Settled> {
        for at in 0..self.0.len() {
            if let Poll::Ready(settled) = self.0[at].as_mut().poll(cx) {
                drop(self.0.swap_remove(at));
                return Poll::Ready(settled);
            }
        }
        Poll::Pending
    }
}

impl Connection {
    /// `false`: the message is no answer to a command.
    pub(super) fn answers_command(&mut self, message: &Message, qos: QoS, id: Option<PacketId>) -> bool {
        let Some((device, command)) = self.shared.commands.result_topic(&message.topic) else { return false };
        let (commands, payload) = (self.shared.commands.clone(), message.payload.clone());
        self.results.0.push(Box::pin(async move {
            let result = settle(&commands, &device, &command, &payload).await;
            Settled { qos, id, result }
        }));
        true
    }

    pub(super) fn settled(&mut self, settled: Settled) {
        let Settled { qos, id, result } = settled;
        let fate = match &result {
            Ok(()) => Fate::Upstream,
            Err(refused) if refused.unstored().for_good && self.decoder.version() == Some(Version::V311) => {
                Fate::Lost(refused.why)
            }
            Err(refused) => Fate::Refused(refused.why),
        };
        self.shared.counters.fate(qos, fate, 1);
        let Some(id) = id else { return };
        if let Err(refused) = &result {
            self.refused.push((id, refused.text.clone()));
        }
        self.stored(&[(id, result.map_err(|refused| refused.unstored()))]);
    }
}

/// What no repetition makes better is logged and acknowledged: a client of 3.1.1 would otherwise be cut off and send it again
/// without end.
async fn settle(commands: &Commands, device: &str, id: &str, payload: &[u8]) -> Result<(), Refused> {
    let outcome = match answer::parse(payload) {
        Ok(outcome) => outcome,
        Err(reason) => {
            tracing::warn!(device, command = id, reason, "an answer to a command is not understood, and dropped");
            return Ok(());
        }
    };
    match commands.answer(device, id, &outcome).await {
        Ok(_) => Ok(()),
        Err(CommandError::Unknown { .. }) => {
            tracing::info!(device, command = id, "an answer to a command that is not known is dropped");
            Ok(())
        }
        Err(e) => Err(refused(&e)),
    }
}

fn refused(e: &CommandError) -> Refused {
    let (why, reason) = match e {
        CommandError::NotStored(NotStored::Full(_)) => (Why::Full, Reason::QUOTA_EXCEEDED),
        CommandError::NotStored(NotStored::Busy(_)) => (Why::Busy, Reason::QUOTA_EXCEEDED),
        CommandError::NotStored(NotStored::TooLarge(_)) => (Why::TooLarge, Reason::QUOTA_EXCEEDED),
        CommandError::NotStored(NotStored::Closed(_)) => (Why::Closed, Reason::IMPLEMENTATION_SPECIFIC),
        _ => (Why::Disk, Reason::IMPLEMENTATION_SPECIFIC),
    };
    Refused { reason, text: e.to_string(), why }
}
