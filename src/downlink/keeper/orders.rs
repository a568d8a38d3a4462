//! Commands for devices from the cloud: believed, put into the journal, and only then acknowledged.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::trusted_now;
use crate::downlink::artefact::{Command, Envelope, Kind, Refusal, Trust};
use crate::downlink::commands::{CommandError, Commands, Refused, Request};
use crate::downlink::link::Taken;
use crate::sys::backoff::Backoff;
use crate::sys::clock::Clock;
use crate::sys::random;

/// A command that was not taken and will not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// As it came.
    pub bytes: Bytes,
    /// A code for machines.
    pub reason: &'static str,
    /// For people.
    pub detail: String,
}

/// What the work needs.
pub struct Orders {
    /// Where commands are kept.
    pub commands: Commands,
    /// This node.
    pub node: String,
    /// For expiry.
    pub clock: Clock,
    /// Whom it believes now.
    pub trust: watch::Receiver<Arc<Trust>>,
    /// Hears of what is refused.
    pub unfit: mpsc::Sender<Unfit>,
}

impl Orders {
    /// Takes commands in their order until `stopping`. One that is refused is acknowledged as well, or it would come again
    /// for ever; one that the disk does not take now is tried again, and holds up those behind it.
    pub async fn run(self, mut heard: mpsc::Receiver<(Bytes, Taken)>, stopping: CancellationToken) {
        while let Some(Some((bytes, taken))) = stopping.run_until_cancelled(heard.recv()).await {
            let work = self.one(&bytes);
            match stopping.run_until_cancelled(work).await {
                None => return,
                Some(Ok(())) => {}
                Some(Err((reason, detail))) => {
                    let _ = self.unfit.send(Unfit { bytes, reason, detail }).await;
                }
            }
            taken.done();
        }
    }

    async fn one(&self, bytes: &[u8]) -> Result<(), (&'static str, String)> {
        let mut backoff = Backoff::default();
        loop {
            // Judged again each time: it may expire meanwhile.
            let request = self.judge(bytes)?;
            let name =
                format!("command {:?} for device {:?}", request.id.as_deref().unwrap_or_default(), request.device);
            let error = match self.commands.add(request).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            match &error {
                CommandError::Refused(refused) => return Err((code(refused), format!("{name}: {error}"))),
                error => {
                    let wait = backoff.after_failure(random::bits());
                    tracing::error!(reason = %error, "{name} is not taken yet; trying again in {wait:?}");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    fn judge(&self, bytes: &[u8]) -> Result<Request, (&'static str, String)> {
        let told = |refusal: Refusal| (refusal.code(), refusal.to_string());
        let unreadable = |why: String| told(Refusal::Malformed { what: Kind::Command, why });
        let envelope = Envelope::decode(bytes).map_err(|e| unreadable(e.to_string()))?;
        let trust = self.trust.borrow().clone();
        let command = trust.verify(envelope, Kind::Command).and_then(|v| Command::of(&v)).map_err(told)?;
        let expires_in: Duration = command.waits_at(&self.node, trusted_now(&self.clock)).map_err(|refusal| {
            (refusal.code(), format!("command {:?} for device {:?}: {refusal}", command.id, command.device))
        })?;
        Ok(Request {
            device: command.device,
            id: Some(command.id),
            name: command.name,
            content_type: command.content_type,
            payload: command.payload.into(),
            expires_in: Some(expires_in),
        })
    }
}

fn code(refused: &Refused) -> &'static str {
    match refused {
        Refused::Conflict { .. } => "id-reused",
        Refused::DeviceFull { .. } => "device-full",
        Refused::Full { .. } => "full",
        Refused::TooLarge { .. } => "too-large",
    }
}
