//! Why a request was not taken: one table of every reason, its status and what the sender should do. [pure]

use std::borrow::Cow;
use std::time::Duration;

use crate::outbox::AppendError;

/// A reason, stable for programs: its slug is the problem document's `type` and the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The head, the query or a header does not make sense.
    BadRequest,
    /// The body is not what its type says: bad JSON, cut short, bad compression.
    MalformedBody,
    /// One event breaks a rule of CloudEvents or one of our limits on attributes.
    InvalidEvent,
    /// No credential, or a wrong one.
    Unauthorized,
    /// Known, and not allowed.
    Forbidden,
    /// The address has shown too many wrong credentials.
    LockedOut,
    /// The device's quota is used up.
    QuotaExceeded,
    /// The device has as many connections as it may.
    TooManyConnections,
    /// Too many passwords wait to be checked.
    TooManyLogins,
    /// An event names another device than the path.
    SubjectMismatch,
    /// The events of one request belong to more than one lane.
    MixedLanes,
    /// No such path.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The body did not arrive in time.
    BodyTimeout,
    /// More bytes than the limit, as sent.
    BodyTooLarge,
    /// More bytes than the limit after decompression.
    InflatedTooLarge,
    /// More events in one request than the limit.
    TooManyEvents,
    /// One event is larger than the outbox takes.
    EventTooLarge,
    /// The `Content-Type` is not one that is taken.
    UnsupportedMediaType,
    /// The `Content-Encoding` is not one that is taken.
    UnsupportedEncoding,
    /// Another command has the id.
    IdConflict,
    /// The command is over.
    CommandOver,
    /// A command or configuration is too large.
    CommandTooLarge,
    /// Too many commands wait for the device.
    TooManyCommands,
    /// Too much waits for all devices together.
    CommandsFull,
    /// Too many wait for commands at once.
    TooManyListeners,
    /// Too many events wait for the disk.
    Busy,
    /// Too many bodies are in memory at once.
    MemoryFull,
    /// The lane's budget or the disk is full.
    OutboxFull,
    /// The disk refused.
    DiskFailed,
    /// The disk did not answer in time; the events may still be stored.
    DiskSlow,
    /// The gateway is going down.
    ShuttingDown,
    /// Not ready to take events.
    NotReady,
    /// A defect of ours.
    Internal,
}

/// What the table says of a [`Kind`].
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// HTTP status.
    pub status: u16,
    /// Last part of the problem's `type`; never changes once published.
    pub slug: &'static str,
    /// The problem's `title`.
    pub title: &'static str,
    /// Seconds after which trying again makes sense.
    pub retry_after_s: Option<u32>,
}

impl Kind {
    /// Every reason, for metrics that exist before their first event.
    pub const ALL: [Self; 34] = [
        Self::BadRequest,
        Self::MalformedBody,
        Self::InvalidEvent,
        Self::Unauthorized,
        Self::Forbidden,
        Self::LockedOut,
        Self::QuotaExceeded,
        Self::TooManyConnections,
        Self::TooManyLogins,
        Self::SubjectMismatch,
        Self::MixedLanes,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::BodyTooLarge,
        Self::InflatedTooLarge,
        Self::TooManyEvents,
        Self::EventTooLarge,
        Self::UnsupportedMediaType,
        Self::UnsupportedEncoding,
        Self::IdConflict,
        Self::CommandOver,
        Self::CommandTooLarge,
        Self::TooManyCommands,
        Self::CommandsFull,
        Self::TooManyListeners,
        Self::Busy,
        Self::MemoryFull,
        Self::OutboxFull,
        Self::DiskFailed,
        Self::DiskSlow,
        Self::ShuttingDown,
        Self::NotReady,
        Self::Internal,
    ];

    /// The table.
    pub const fn facts(self) -> Facts {
        let (status, slug, title, retry_after_s) = match self {
            Self::BadRequest => (400, "bad-request", "The request does not make sense", None),
            Self::MalformedBody => (400, "malformed-body", "The body is not what its type says", None),
            Self::InvalidEvent => (400, "invalid-event", "An event is not valid", None),
            Self::Unauthorized => (401, "unauthorized", "A right credential is needed", None),
            Self::Forbidden => (403, "forbidden", "This is not allowed", None),
            Self::LockedOut => (429, "locked-out", "Too many wrong credentials came from this address", Some(1)),
            Self::QuotaExceeded => (429, "quota-exceeded", "The quota is used up", Some(1)),
            // Its other connections end when their idle time is over.
            Self::TooManyConnections => (429, "too-many-connections", "The device has too many connections", Some(10)),
            Self::TooManyLogins => (503, "too-many-logins", "Too many logins at once", Some(5)),
            Self::SubjectMismatch => (400, "subject-mismatch", "An event names another device than the path", None),
            Self::MixedLanes => (400, "mixed-lanes", "The events belong to more than one lane", None),
            Self::NotFound => (404, "not-found", "There is nothing at this path", None),
            Self::MethodNotAllowed => (405, "method-not-allowed", "The path does not take this method", None),
            Self::BodyTimeout => (408, "body-timeout", "The body did not arrive in time", None),
            Self::BodyTooLarge => (413, "body-too-large", "The body is too large", None),
            Self::InflatedTooLarge => (413, "inflated-too-large", "The body is too large once decompressed", None),
            Self::TooManyEvents => (413, "too-many-events", "Too many events in one request", None),
            Self::EventTooLarge => (413, "event-too-large", "An event is too large", None),
            Self::UnsupportedMediaType => (415, "unsupported-media-type", "This content type is not taken", None),
            Self::UnsupportedEncoding => (415, "unsupported-encoding", "This content encoding is not taken", None),
            Self::IdConflict => (409, "id-conflict", "Another command has this id", None),
            Self::CommandOver => (409, "command-over", "The command is over", None),
            Self::CommandTooLarge => (413, "command-too-large", "The command or configuration is too large", None),
            // Until a device that is away answers: minutes at best.
            Self::TooManyCommands => (429, "too-many-commands", "Too many commands wait for the device", Some(60)),
            Self::CommandsFull => (507, "commands-full", "Too much waits for all devices together", None),
            Self::TooManyListeners => (503, "too-many-listeners", "Too many wait for commands", Some(30)),
            // The queue before the disk drains in commits of milliseconds: a second is plenty.
            Self::Busy => (429, "busy", "Too many events wait for the disk", Some(1)),
            Self::MemoryFull => (503, "memory-full", "Too many bodies are in memory", Some(1)),
            // Space comes back when the uplink drains or an operator acts: not within seconds.
            Self::OutboxFull => (503, "outbox-full", "The buffer on disk is full", Some(30)),
            Self::DiskFailed => (503, "disk-failed", "The disk failed", Some(5)),
            Self::DiskSlow => (503, "disk-slow", "The disk did not answer in time", Some(5)),
            // A restart takes a few seconds.
            Self::ShuttingDown => (503, "shutting-down", "The gateway is shutting down", Some(5)),
            Self::NotReady => (503, "not-ready", "The gateway does not take events now", Some(5)),
            Self::Internal => (500, "internal", "The gateway has a defect", None),
        };
        Facts { status, slug, title, retry_after_s }
    }
}

/// Where in the body the trouble is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Event of a JSON array, from 0.
    Index(usize),
    /// Line of an NDJSON body, from 1.
    Line(usize),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Index(i) => write!(f, "event {i}"),
            Self::Line(n) => write!(f, "line {n}"),
        }
    }
}

/// A request that was not taken. Nothing of it is kept, unless `kind` says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// The reason.
    pub kind: Kind,
    /// Which event, where there are several.
    pub place: Option<Place>,
    /// A sentence for the sender: what was wrong and the way out.
    pub detail: Cow<'static, str>,
    /// Seconds after which trying again makes sense, where it is known better than for all of this kind.
    pub retry_after_s: Option<u64>,
}

impl Refusal {
    /// A refusal of the whole request.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, place: None, detail: detail.into(), retry_after_s: None }
    }

    /// The same, to be tried again after `wait`.
    #[must_use]
    pub fn after(self, wait: Option<Duration>) -> Self {
        let seconds = wait.map(|wait| (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1));
        Self { retry_after_s: seconds.or(self.retry_after_s), ..self }
    }

    /// The same, about one event: the sentence begins with its place.
    #[must_use]
    pub fn at(self, place: Option<Place>) -> Self {
        match place {
            None => self,
            Some(place) => Self { place: Some(place), detail: format!("{place}: {}", self.detail).into(), ..self },
        }
    }
}

impl From<AppendError> for Refusal {
    fn from(e: AppendError) -> Self {
        match &e {
            AppendError::Full { .. } => {
                Self::new(Kind::OutboxFull, format!("{e}; nothing was stored, send it again later"))
            }
            AppendError::Busy { .. } => {
                Self::new(Kind::Busy, format!("{e}; nothing was stored, send it again in a moment"))
            }
            AppendError::TooLarge { .. } => {
                Self::new(Kind::EventTooLarge, format!("{e}; split it, or raise outbox.max_event"))
            }
            AppendError::Disk { .. } => Self::new(
                Kind::DiskFailed,
                format!("{e}; the events are not acknowledged, send them again with the same ids"),
            ),
            AppendError::Closed => Self::new(Kind::ShuttingDown, format!("{e}; send it again when it is back")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn slugs_are_unique_and_only_errors() {
        let slugs: HashSet<_> = Kind::ALL.iter().map(|k| k.facts().slug).collect();
        assert_eq!(slugs.len(), Kind::ALL.len());
        assert!(Kind::ALL.iter().all(|k| (400..600).contains(&k.facts().status)));
    }

    #[test]
    fn what_may_be_tried_again_says_when() {
        for kind in Kind::ALL {
            let facts = kind.facts();
            assert_eq!(matches!(facts.status, 429 | 503), facts.retry_after_s.is_some(), "{}", facts.slug);
        }
    }

    #[test]
    fn the_place_is_in_the_sentence() {
        let refusal = Refusal::new(Kind::InvalidEvent, "no id").at(Some(Place::Line(3)));
        assert_eq!(refusal.to_string(), "line 3: no id");
        assert_eq!(refusal.clone().at(None), refusal);
    }

    #[test]
    fn every_append_error_has_its_answer() {
        let lane = || "telemetry".to_owned();
        let status = |e: AppendError| Refusal::from(e).kind.facts().status;
        assert_eq!(status(AppendError::Full { lane: lane(), reason: "disk".into() }), 503);
        assert_eq!(status(AppendError::Busy { lane: lane() }), 429);
        assert_eq!(status(AppendError::TooLarge { index: 0, bytes: 2, max: 1 }), 413);
        assert_eq!(status(AppendError::Disk { lane: lane(), reason: "EIO".into() }), 503);
        assert_eq!(status(AppendError::Closed), 503);
    }
}
