//! What lies in a node's inbox: its full desired state. [pure]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::envelope::{Envelope, Kind};
use super::json;
use super::refusal::Refusal;

/// Largest message: below Pulsar's 5 MiB with room, and what a gateway with little memory can hold several times.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The full desired state of one node; the newest message counts. Each envelope stands for itself: the message around
/// them is not signed, so leaving something out of it must not weaken anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The newest keyring, if there is any.
    pub keyring: Option<Envelope>,
    /// Which document the node runs.
    pub assignment: Envelope,
    /// That document.
    pub document: Option<Envelope>,
}

/// As JSON. Fields of later versions (commands, models) are passed over: what they hold is signed on its own.
#[derive(Serialize, Deserialize)]
struct Wire<'m> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    keyring: Option<&'m RawValue>,
    #[serde(borrow)]
    assignment: &'m RawValue,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    document: Option<&'m RawValue>,
}

impl Message {
    /// Reads JSON.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        let malformed = |e: json::JsonError| match e {
            json::JsonError::TooLarge { bytes, bytes_max } => Refusal::TooLarge { bytes, bytes_max },
            e => Refusal::NoMessage { why: e.to_string() },
        };
        let wire: Wire<'_> = json::read(bytes, MESSAGE_BYTES_MAX).map_err(malformed)?;
        let envelope = |what: Kind, raw: &RawValue| {
            Envelope::decode(raw.get().as_bytes()).map_err(|e| Refusal::Malformed { what, why: e.to_string() })
        };
        Ok(Self {
            keyring: wire.keyring.map(|raw| envelope(Kind::Keyring, raw)).transpose()?,
            assignment: envelope(Kind::Assignment, wire.assignment)?,
            document: wire.document.map(|raw| envelope(Kind::Config, raw)).transpose()?,
        })
    }

    /// As JSON, one line.
    pub fn encode(&self) -> String {
        let parts = [
            ("keyring", self.keyring.as_ref()),
            ("assignment", Some(&self.assignment)),
            ("document", self.document.as_ref()),
        ];
        let parts: BTreeMap<&str, Box<RawValue>> = parts
            .into_iter()
            .filter_map(|(name, envelope)| Some((name, RawValue::from_string(envelope?.encode()).ok()?)))
            .collect();
        // Raw JSON under plain names: cannot fail.
        serde_json::to_string(&parts).unwrap_or_default()
    }
}
