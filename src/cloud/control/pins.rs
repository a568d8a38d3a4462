//! Writes down which key speaks for which gateway, so that it is so after a restart and for every process.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::keys::Event;
use super::orders::OrderError;
use super::wire::{NotWritten, Outgoing};
use super::{AppendError, BY, Control, KEYS};
use crate::cloud::rollout::NodeId;

/// How often the leader looks for gateways that spoke for the first time. What it wrote is read back long before.
const TICK: Duration = Duration::from_secs(1);

/// The wait after something failed.
const PAUSE: Duration = Duration::from_secs(5);

/// Pins while this process has the lead, until `stop`.
pub async fn run(control: Control, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let pinned = stop.run_until_cancelled(control.pin()).await;
        let wait = match pinned {
            Some(Err(reason)) => {
                tracing::warn!(%reason, "cannot write down the keys of gateways; trying again");
                PAUSE
            }
            _ => TICK,
        };
        stop.run_until_cancelled(tokio::time::sleep(wait)).await;
    }
}

impl Control {
    /// Pins the next few. Twice is harmless: the first counts.
    async fn pin(&self) -> Result<(), NotWritten> {
        let nodes = {
            let shared = self.lock();
            if !(shared.leads && shared.topics[KEYS].is_read) {
                return Ok(());
            }
            shared.state.keys.to_pin()
        };
        if nodes.is_empty() {
            return Ok(());
        }
        self.write_key("pinned", "", &Event::Pinned { at_ms: self.now_ms(), nodes }).await
    }

    /// The next key that speaks for `node` is its own. It counts when it is stored; processes read it a moment later.
    pub(super) async fn release(&self, node: &str, by: &str) -> Result<(), OrderError> {
        let event = Event::Released { at_ms: self.now_ms(), by: by.to_owned(), nodes: vec![NodeId::from(node)] };
        self.write_key("released", by, &event).await.map_err(|e| AppendError::from(e).into())
    }

    async fn write_key(&self, key: &str, by: &str, event: &Event) -> Result<(), NotWritten> {
        // Strings, numbers and lists: cannot fail.
        let payload = serde_json::to_vec(event).unwrap_or_default().into();
        self.0.keys.write(Outgoing { key: key.to_owned(), properties: vec![(BY, by.to_owned())], payload }).await
    }
}
