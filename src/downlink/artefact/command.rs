//! A command for a device behind a node, as the cloud sends it. [pure]

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::assignment::TEXT_BYTES_MAX;
use super::envelope::{Envelope, Kind, Verified};
use super::json;
use super::refusal::Refusal;
use crate::downlink::commands::command::{check_content_type, check_device, check_id, check_name};
use crate::event::time::Timestamp;

/// Largest payload: twice in base64 and with what is around it, it is half of the largest message. A gateway may take
/// less (`commands.max_command`).
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// Largest command, in bytes of JSON.
pub const COMMAND_BYTES_MAX: usize = PAYLOAD_BYTES_MAX.div_ceil(3) * 4 + 8 * 1024;

/// What a device is to do. An unknown field could restrict it: it is refused.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The node that the device is at.
    pub node: String,
    /// Whom it is for.
    pub device: String,
    /// Unique for the device: the same one again is the same command.
    pub id: String,
    /// What to do.
    pub name: String,
    /// Of the payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Parameters.
    #[serde(with = "json::base64", default, skip_serializing_if = "Vec::is_empty")]
    pub payload: Vec<u8>,
    /// When it was made.
    #[serde(with = "json::time")]
    pub issued_at: Timestamp,
    /// When it is given up.
    #[serde(with = "json::time")]
    pub expires_at: Timestamp,
    /// Who, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
}

impl Command {
    /// As a payload to sign.
    pub fn to_envelope(&self) -> Envelope {
        // Strings and numbers: cannot fail.
        Envelope::new(Kind::Command, serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads what a controller key has signed.
    pub fn of(verified: &Verified) -> Result<Self, Refusal> {
        let malformed = |why: String| Refusal::Malformed { what: Kind::Command, why };
        if verified.kind() != Kind::Command {
            return Err(malformed(format!("it is a {}", verified.kind())));
        }
        let read: Self = json::read(verified.payload(), COMMAND_BYTES_MAX).map_err(|e| malformed(e.to_string()))?;
        read.within_bounds().map_err(malformed)?;
        Ok(read)
    }

    /// How long it still waits at `node`. While the clock cannot be trusted (`now` is `None`): as long as when it was made.
    pub fn waits_at(&self, node: &str, now: Option<Timestamp>) -> Result<Duration, Refusal> {
        if self.node != node {
            let (for_node, this_node) = (self.node.clone(), node.to_owned());
            return Err(Refusal::ForeignNode { what: Kind::Command, for_node, this_node });
        }
        Refusal::if_expired(Kind::Command, Some(self.expires_at), now)?;
        // A clock that is behind must not prolong it.
        let from = now.unwrap_or(self.issued_at).max(self.issued_at);
        let left_ms = self.expires_at.unix_ms().saturating_sub(from.unix_ms());
        Ok(Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)))
    }

    fn within_bounds(&self) -> Result<(), String> {
        check_device(&self.device)?;
        check_id(&self.id)?;
        check_name(&self.name)?;
        self.content_type.as_deref().map_or(Ok(()), check_content_type)?;
        if self.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(format!("its payload has {} bytes, at most {PAYLOAD_BYTES_MAX} are taken", self.payload.len()));
        }
        if self.expires_at <= self.issued_at {
            return Err("it ends before it begins".to_owned());
        }
        if self.by.len() > TEXT_BYTES_MAX || self.by.chars().any(char::is_control) {
            return Err(format!("its \"by\" has more than {TEXT_BYTES_MAX} bytes, or is not one line"));
        }
        Ok(())
    }
}

/// No payload: it may hold credentials.
impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { device, id, name, payload, .. } = self;
        write!(f, "Command({name:?} {id:?} for {device:?}, {} bytes)", payload.len())
    }
}
