//! Commands for devices behind a gateway: signed, and put into the gateway's topic. What a device answers comes upstream as
//! an event (`tidegate.command.result`); nothing of a command is kept here.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::orders::OrderError;
use super::state::is_node;
use super::wire::Outgoing;
use super::{Control, TURNS};
use crate::config::units::parse_duration;
use crate::downlink::artefact::{Command, Kind, Trust};
use crate::event::Timestamp;
use crate::pulsar::names;
use crate::sys::random;

/// How long a command waits when nothing is said: as on a gateway.
const EXPIRES_IN: Duration = Duration::from_secs(24 * 3600);

/// Longest that one can wait.
const EXPIRES_IN_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// `POST /v1/nodes/{node}/devices/{device}/commands`: as a gateway's own interface takes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandOrder {
    /// What to do.
    name: String,
    /// Unique for the device; the same again is the same command.
    #[serde(default)]
    id: Option<String>,
    /// When it is given up, from now.
    #[serde(default)]
    expires_in: Option<String>,
    /// Parameters, as JSON.
    #[serde(default)]
    data: Option<Box<RawValue>>,
    /// Parameters of any kind.
    #[serde(default)]
    data_base64: Option<String>,
    /// Their media type.
    #[serde(default)]
    datacontenttype: Option<String>,
}

impl Control {
    /// Signs a command and puts it into the gateway's topic; gives its id and when it is given up.
    pub async fn command(
        &self,
        (node, device): (&str, &str),
        order: CommandOrder,
        by: &str,
    ) -> Result<(String, Timestamp), OrderError> {
        let refused = |text: String| Err(OrderError::Refused(text));
        let Some(key) = &self.0.key else {
            let text = "control.controller_key is not set in this process: it cannot sign commands; ask another one";
            return Err(OrderError::Unavailable(text.to_owned()));
        };
        if !is_node(node) {
            return refused(format!("{node:?} is no name of a gateway: 1 to 64 letters, digits, - and _"));
        }
        let expires_in = match order.expires_in.as_deref().map(parse_duration) {
            None => EXPIRES_IN,
            Some(Ok(time)) if !time.is_zero() && time <= EXPIRES_IN_MAX => time,
            Some(Ok(_)) => return refused("expires_in: write more than nothing and at most 365d".to_owned()),
            Some(Err(e)) => return refused(format!("expires_in: {e}")),
        };
        let (payload, content_type) = match (order.data, order.data_base64) {
            (Some(_), Some(_)) => return refused("data and data_base64 are both there; send one of them".to_owned()),
            (Some(json), None) => {
                (json.get().as_bytes().to_vec(), order.datacontenttype.or_else(|| Some("application/json".to_owned())))
            }
            (None, Some(text)) => match STANDARD.decode(text) {
                Ok(bytes) => (bytes, order.datacontenttype),
                Err(_) => return refused("data_base64 is no base64".to_owned()),
            },
            (None, None) => (Vec::new(), None),
        };
        let issued_ms = self.0.clock.unix_ms();
        let wait_ms = i64::try_from(expires_in.as_millis()).unwrap_or(i64::MAX);
        let command = Command {
            node: node.to_owned(),
            device: device.to_owned(),
            id: order.id.unwrap_or_else(random::uuid_v7),
            name: order.name,
            content_type,
            payload,
            issued_at: Timestamp::from_unix_ms(issued_ms),
            expires_at: Timestamp::from_unix_ms(issued_ms.saturating_add(wait_ms)),
            by: by.to_owned(),
        };
        let envelope = command.to_envelope().signed_by(key);
        // By the rules of a gateway that trusts this key.
        let verified = Trust::of_controller(key.public()).verify(envelope.clone(), Kind::Command);
        if let Err(refusal) = verified.and_then(|verified| Command::of(&verified)) {
            return refused(refusal.to_string());
        }
        let message = Outgoing { key: node.to_owned(), properties: Vec::new(), payload: envelope.encode().into() };
        let topic = names::commands_topic(&self.0.tenant, node);
        let turn = node.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        let _turn = self.0.turns[turn % TURNS].lock().await;
        match self.0.inboxes.send(&topic, &message, || true).await {
            Ok(()) => Ok((command.id, command.expires_at)),
            Err(why) => Err(OrderError::Unavailable(why.to_string())),
        }
    }
}
