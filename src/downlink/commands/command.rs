//! Commands, their results and a device's configuration, and what their names may be. [pure]

use std::sync::Arc;

use bytes::Bytes;

/// A point on the time line of this gateway's commands, in milliseconds; it never goes back, also across restarts
/// (`timeline`). Near the wall clock, and not it.
pub type Millis = u64;

/// Longest device name: it is a part of paths and topics, and of every record about the device.
pub const DEVICE_BYTES_MAX: usize = 256;

/// Longest id: a UUID has 36.
pub const ID_BYTES_MAX: usize = 64;

/// Longest name of a command.
pub const NAME_BYTES_MAX: usize = 128;

/// Longest content type.
pub const CONTENT_TYPE_BYTES_MAX: usize = 256;

/// What a command, a result or a configuration takes in memory beside its bytes, counted into `commands.max_bytes`: so that
/// this bounds their number too.
pub const OVERHEAD_BYTES: u64 = 256;

/// A result's detail is kept with the closed command up to this size; upstream it goes whole.
pub const DETAIL_KEPT_BYTES_MAX: usize = 4 << 10;

/// A command that waits for its device's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Whom it is for.
    pub device: Arc<str>,
    /// Unique for the device.
    pub id: Arc<str>,
    /// Its place in the order in which commands were added.
    pub seq: u64,
    /// What to do.
    pub name: String,
    /// Of the payload.
    pub content_type: Option<String>,
    /// Parameters.
    pub payload: Bytes,
    /// When it was added.
    pub created: Millis,
    /// When it is given up.
    pub expires: Millis,
}

impl Command {
    /// What it counts into `commands.max_bytes`.
    pub fn cost(&self) -> u64 {
        let text = self.content_type.as_ref().map_or(0, String::len);
        cost(&[self.device.len(), self.id.len(), self.name.len(), text, self.payload.len()])
    }

    /// Tells two commands of the same id apart.
    pub fn digest(&self) -> Digest {
        Digest::of(&[self.name.as_bytes(), self.content_type.as_deref().unwrap_or_default().as_bytes(), &self.payload])
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// The device did it.
    Done,
    /// The device tried.
    Failed,
    /// The device will not.
    Rejected,
    /// No answer came in time.
    Expired,
    /// An operator took it back.
    Cancelled,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Done, Self::Failed, Self::Rejected, Self::Expired, Self::Cancelled];

    /// As written in JSON and metrics.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// What a device may answer.
    pub fn of_device(text: &str) -> Option<Self> {
        [Self::Done, Self::Failed, Self::Rejected].into_iter().find(|s| s.text() == text)
    }

    /// The device said so, not the gateway in its place.
    pub const fn is_answer(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Rejected)
    }
}

/// A command's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How.
    pub status: Status,
    /// What the device says of it: JSON, or nothing.
    pub detail: Bytes,
}

impl Outcome {
    /// Without detail.
    pub fn plain(status: Status) -> Self {
        Self { status, detail: Bytes::new() }
    }

    /// With the detail only if it is small enough to be kept.
    #[must_use]
    pub fn kept(&self) -> Self {
        let small = self.detail.len() <= DETAIL_KEPT_BYTES_MAX;
        Self { status: self.status, detail: if small { self.detail.clone() } else { Bytes::new() } }
    }
}

/// A command that is over, remembered for a while: for repetitions, and for who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Whom it was for.
    pub device: Arc<str>,
    /// See [`Command::id`].
    pub id: Arc<str>,
    /// See [`Command::seq`].
    pub seq: u64,
    /// See [`Command::name`].
    pub name: String,
    /// Of what it was.
    pub digest: Digest,
    /// See [`Command::created`].
    pub created: Millis,
    /// See [`Command::expires`].
    pub expires: Millis,
    /// How it ended; a large detail is left out.
    pub outcome: Outcome,
    /// When.
    pub closed: Millis,
    /// Whether that has gone upstream.
    pub reported: bool,
}

impl Closed {
    /// What it counts into `commands.max_bytes`.
    pub fn cost(&self) -> u64 {
        cost(&[self.device.len(), self.id.len(), self.name.len(), self.outcome.detail.len()])
    }
}

/// A device's configuration: the newest that was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whose.
    pub device: Arc<str>,
    /// 1, 2, 3 …; begins again when the configuration was removed.
    pub version: u64,
    /// Of the payload.
    pub content_type: Option<String>,
    /// The configuration.
    pub payload: Bytes,
    /// When it was set.
    pub updated: Millis,
}

impl Config {
    /// What it counts into `commands.max_bytes`.
    pub fn cost(&self) -> u64 {
        cost(&[self.device.len(), self.content_type.as_ref().map_or(0, String::len), self.payload.len()])
    }

    /// The entity tag (RFC 9110 §8.8.3), without quotes: the same only for the same content.
    pub fn tag(&self) -> String {
        let content_type = self.content_type.as_deref().unwrap_or_default().as_bytes();
        format!("{}-{:016x}", self.version, Digest::of(&[content_type, &self.payload]).0 as u64)
    }
}

fn cost(parts: &[usize]) -> u64 {
    OVERHEAD_BYTES + parts.iter().map(|p| *p as u64).sum::<u64>()
}

/// 128 bits of FNV-1a (draft-eastlake-fnv) over parts and their lengths. It goes to disk, so it must stay as it is. Against
/// accidents only: whoever may send commands has nothing to gain from a collision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub u128);

impl Digest {
    /// Of these parts in this order.
    pub fn of(parts: &[&[u8]]) -> Self {
        const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
        let mut hash = OFFSET;
        for part in parts {
            for byte in (part.len() as u64).to_le_bytes().iter().chain(*part) {
                hash = (hash ^ u128::from(*byte)).wrapping_mul(PRIME);
            }
        }
        Self(hash)
    }
}

/// Whether `device` can be addressed: it is one level of a topic (MQTT 5.0 §4.7.1) and one segment of a path.
/// The error is a sentence for the sender.
pub fn check_device(device: &str) -> Result<(), String> {
    check_text("the device's name", device, DEVICE_BYTES_MAX)?;
    if device.contains(['/', '+', '#']) || device.starts_with('$') {
        return Err(format!(
            "device {device:?} cannot be addressed: its name is one level of an MQTT topic, without /, + and #, not \
             beginning with $"
        ));
    }
    Ok(())
}

/// Whether `id` can name a command in paths, topics and `Last-Event-ID`. The error is a sentence for the sender.
pub fn check_id(id: &str) -> Result<(), String> {
    let good = !id.is_empty()
        && id.len() <= ID_BYTES_MAX
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~'))
        && !matches!(id, "." | "..");
    if good {
        return Ok(());
    }
    Err(format!("id {id:?} is no valid id; use 1 to {ID_BYTES_MAX} letters, digits or - _ . ~, or leave it out"))
}

/// Whether `name` can be a command's name. The error is a sentence for the sender.
pub fn check_name(name: &str) -> Result<(), String> {
    check_text("the command's name", name, NAME_BYTES_MAX)
}

/// Whether `text` can be a content type. The error is a sentence for the sender.
pub fn check_content_type(text: &str) -> Result<(), String> {
    // It becomes a header's value: visible ASCII and spaces (RFC 9110 §5.5).
    let good = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    check_text("the content type", text, CONTENT_TYPE_BYTES_MAX)?;
    if good { Ok(()) } else { Err(format!("the content type {text:?} has characters that are not ASCII")) }
}

fn check_text(what: &str, text: &str, max: usize) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("{what} is empty"));
    }
    if text.len() > max {
        return Err(format!("{what} has {} bytes; at most {max} are taken", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{what} {text:?} has a control character"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_break_paths_or_topics_are_refused() {
        for bad in ["", "a/b", "a+", "#", "$SYS", "a\nb", "a\0"] {
            assert!(check_device(bad).is_err(), "{bad:?}");
        }
        for good in ["press-7", "Gerät 7", "urn:dev:1"] {
            assert_eq!(check_device(good), Ok(()));
        }
        for bad in ["", ".", "..", "a b", "a/b", "ä", &"x".repeat(ID_BYTES_MAX + 1)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_id("0193d7e2-5c1a.b~c_d"), Ok(()));
        assert!(check_name(&"n".repeat(NAME_BYTES_MAX + 1)).is_err());
        assert!(check_content_type("text/plain\r\nx: y").is_err());
    }

    #[test]
    fn the_digest_stays_as_it_is_on_disk() {
        // FNV-1a of the eight zero bytes of an empty part's length, made by a program of its own.
        let by_hand = (0..8)
            .fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |h, _| h.wrapping_mul((1 << 88) + (1 << 8) + 0x3b));
        assert_eq!(Digest::of(&[b""]), Digest(by_hand));
        assert_ne!(Digest::of(&[b"ab", b"c"]), Digest::of(&[b"a", b"bc"]));
    }
}
