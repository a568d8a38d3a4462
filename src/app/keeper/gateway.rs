//! What the keeper needs of the gateway that runs; `live` is the real one.

use tokio::sync::mpsc;

use super::doors::Doors;
use crate::config::edge::Downlink;
use crate::config::{Changes, EdgeConfig};
use crate::downlink::keeper::health;
use crate::downlink::report::Lane;
use crate::downlink::trial::Input;
use crate::event::Event;
use crate::uplink::Allowed;

/// Type of the event that a probe sends.
pub const PROBE_TYPE: &str = "tidegate.probe";

/// A running gateway whose configuration can change.
pub trait Gateway: Send + Sync + 'static {
    /// Where receipts are counted from.
    type Marks: Send + Sync;

    /// What keeps `config` from being applied although it reads well. May block on the files that it names.
    fn check(config: &EdgeConfig) -> Result<(), String>;

    /// What runs or is on trial, all of it.
    fn wanted(&self) -> &EdgeConfig;

    /// The outbox's life.
    fn incarnation(&self) -> &str;

    /// What waits in each lane.
    fn waiting(&self) -> Vec<Lane>;

    /// Puts `new` into effect, all that can be without a restart; events go to the `allowed` ones of its addresses. The
    /// error says why it is not; then the next one is applied as a whole.
    fn apply(&mut self, new: EdgeConfig, allowed: Allowed) -> impl Future<Output = Result<Changes, String>> + Send;

    /// Puts `new` on trial: what could lose events when it is undone waits for [`Gateway::deliver`] or [`Gateway::keep`].
    fn try_out(&mut self, new: EdgeConfig) -> impl Future<Output = Result<Changes, String>> + Send;

    /// The control link has found what assigned it: events may go the way of what is on trial, to these addresses.
    fn deliver(&mut self, allowed: Allowed) -> impl Future<Output = Result<(), String>> + Send;

    /// Events may go to these of the addresses in effect.
    fn allow(&mut self, allowed: Allowed) -> impl Future<Output = Result<(), String>> + Send;

    /// What was on trial is kept: the rest of it takes effect.
    fn keep(&mut self) -> impl Future<Output = Result<(), String>> + Send;

    /// Receipts count from now on. `committed`: while something is on trial, what was committed before.
    fn marks(&self, committed: Option<&EdgeConfig>) -> Self::Marks;

    /// Answers `probe` once Pulsar has acknowledged enough since `from`; dropped when nobody asks any more.
    fn probe(&self, from: &Self::Marks, probe: Probe) -> impl Future<Output = ()> + Send + 'static;

    /// What devices do.
    fn doors(&self) -> Doors;

    /// The operator's own check. The error says how it failed.
    fn health(&self, own: &Downlink) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let (command, time) = (own.health_command.clone(), own.health_timeout);
        async move { health::run(&command, time).await }
    }
}

/// A question for a receipt.
pub struct Probe {
    pub(super) number: u64,
    /// What can be sent where nothing waits.
    pub event: Event,
    pub(super) answers: mpsc::Sender<Input>,
}

impl Probe {
    /// It is there.
    pub async fn acknowledged(self) {
        let _ = self.answers.send(Input::ProbeAcknowledged { probe: self.number }).await;
    }

    /// Why it is not there yet, for the report.
    pub async fn not_yet(&self, detail: String) {
        let _ = self.answers.send(Input::ProbeRefused { probe: self.number, detail }).await;
    }
}
