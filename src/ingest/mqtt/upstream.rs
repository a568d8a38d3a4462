//! The way of a message into the outbox: mapped, made an event, refused with a reason that its sender can be told.
//! The listener and the bridges use it alike.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::broker::record::Message;
use super::broker::{EventName, Unstored};
use super::packet::Reason;
use crate::config::EdgeConfig;
use crate::event::{Event, Timestamp};
use crate::inference::Inference;
use crate::ingest::mapping::{self, Id, Mapper, MessageView, Route, Sender, Unfit};
use crate::ingest::router::{Router, Table};
use crate::ingest::scoring::Scoring;
use crate::journal::JournalError;
use crate::outbox::{AppendError, Writer};
use crate::sys::clock::Clock;
use crate::sys::random;

/// While too much waits for the disk, an append is tried again this often …
pub const BUSY_RETRY: Duration = Duration::from_millis(5);

/// … and for so long. Its sender waits meanwhile; then it is told to come back.
pub const BUSY_MAX: Duration = Duration::from_secs(5);

/// Maps messages and knows the lanes, as they are configured now. All clones see a change. Cheap to clone.
#[derive(Clone)]
pub struct Upstream(Arc<RwLock<Arc<Rules>>>);

/// How messages become events, and where these go, at one moment.
pub struct Rules {
    mapper: Mapper,
    lanes: Arc<Table>,
    node: String,
    clock: Clock,
    scoring: Scoring,
}

/// Where messages come from: made once per connection.
#[derive(Clone, Debug)]
pub struct Origin {
    device: String,
    client: String,
    /// `Err`: events cannot name their source, and why.
    source: Result<String, String>,
}

/// Why a message was not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// For the sender's program.
    pub reason: Reason,
    /// A sentence for people.
    pub text: String,
    /// Label of the metric.
    pub why: Why,
}

/// The kinds of refusal, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It cannot be an event.
    Unfit,
    /// It is larger than the outbox takes.
    TooLarge,
    /// The lane's budget or the disk is full.
    Full,
    /// Too much waits for the disk.
    Busy,
    /// The disk failed.
    Disk,
    /// The gateway is shutting down.
    Closed,
    /// More than the sender's quota.
    Quota,
}

impl Why {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Unfit, Self::TooLarge, Self::Full, Self::Busy, Self::Disk, Self::Closed, Self::Quota];

    /// For metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unfit => "unfit",
            Self::TooLarge => "too-large",
            Self::Full => "full",
            Self::Busy => "busy",
            Self::Disk => "disk",
            Self::Closed => "closed",
            Self::Quota => "quota",
        }
    }
}

impl From<Unfit> for Refused {
    fn from(unfit: Unfit) -> Self {
        Self { reason: unfit.reason(), text: unfit.to_string(), why: Why::Unfit }
    }
}

impl From<AppendError> for Refused {
    fn from(e: AppendError) -> Self {
        // PUBACK and PUBREC have few codes (MQTT 5.0 §3.4.2.1): none for a message that is too large.
        let (why, reason, way_out) = match &e {
            AppendError::Full { .. } => (Why::Full, Reason::QUOTA_EXCEEDED, "nothing was stored; send it again later"),
            AppendError::Busy { .. } => {
                (Why::Busy, Reason::QUOTA_EXCEEDED, "nothing was stored; send it again in a moment")
            }
            AppendError::TooLarge { .. } => {
                (Why::TooLarge, Reason::QUOTA_EXCEEDED, "split it, or raise outbox.max_event")
            }
            AppendError::Disk { .. } => {
                (Why::Disk, Reason::IMPLEMENTATION_SPECIFIC, "it is not acknowledged; send it again later")
            }
            AppendError::Closed => (Why::Closed, Reason::IMPLEMENTATION_SPECIFIC, "send it again when it is back"),
        };
        Self { reason, text: format!("{e}; {way_out}"), why }
    }
}

impl Refused {
    /// For the broker.
    pub fn unstored(&self) -> Unstored {
        Unstored {
            reason: self.reason,
            for_good: matches!(self.why, Why::Unfit | Why::TooLarge),
            // A full outbox has looked: what it knows by its name needs no room.
            unsure: matches!(self.why, Why::Busy | Why::Disk | Why::Closed),
        }
    }

    /// The journal did not take what must be there before the message.
    pub fn unnamed(e: &JournalError) -> Self {
        Self { reason: Reason::IMPLEMENTATION_SPECIFIC, text: format!("{e}; send it again later"), why: Why::Disk }
    }
}

impl Origin {
    /// The client's id.
    pub fn client(&self) -> &str {
        &self.client
    }
}

impl Upstream {
    /// For the lanes that `router` has now.
    pub fn new(config: &EdgeConfig, router: &Router, clock: Clock, inference: Inference) -> Self {
        let scoring = Scoring::new(inference, router.clone());
        Self(Arc::new(RwLock::new(Arc::new(Rules::new(config, router, clock, scoring)))))
    }

    /// From here on the mappings of `config`, and the lanes that `router` has now.
    pub fn set(&self, config: &EdgeConfig, router: &Router) {
        let before = self.rules();
        let rules = Rules::new(config, router, before.clock.clone(), before.scoring.clone());
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// The rules at this moment: one look for messages that came together.
    pub fn rules(&self) -> Arc<Rules> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Messages of `client` (a client id, a bridge's name), which is `device` (the identity's name; empty: nobody knows).
    pub fn origin(&self, device: &str, client: &str) -> Origin {
        Origin {
            device: device.to_owned(),
            client: client.to_owned(),
            source: mapping::source(&self.rules().node, client),
        }
    }

    /// Source and id of the event of a QoS 2 message of `client` that brings none of its own. `None`: there is no such event.
    pub fn named(&self, client: &str, name: EventName) -> Option<(String, String)> {
        Some((mapping::source(&self.rules().node, client).ok()?, text_of(name)))
    }

    /// Puts one message on disk. `false`: it stays here. While too much waits for the disk it waits for [`BUSY_MAX`].
    /// Dropping the future does not undo the append.
    pub async fn store(&self, origin: &Origin, message: &Message, name: Option<EventName>) -> Result<bool, Refused> {
        let rules = self.rules();
        let Some((writer, event)) = rules.event(origin, message, name)? else { return Ok(false) };
        let (mut batch, wanted) = (writer.batch(), rules.scoring.wants(&event.ty));
        batch.push(&event)?;
        if wanted {
            batch = rules.scoring.of_batch(batch, vec![(0, event)]).await;
        }
        let give_up = tokio::time::Instant::now() + BUSY_MAX;
        loop {
            match batch.submit() {
                Ok(receipt) => return Ok(receipt.await.map(|_| true)?),
                Err(AppendError::Busy { .. }) if tokio::time::Instant::now() < give_up => {
                    tokio::time::sleep(BUSY_RETRY).await;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl Rules {
    fn new(config: &EdgeConfig, router: &Router, clock: Clock, scoring: Scoring) -> Self {
        let mapper = Mapper::new(&config.mappings, &config.lanes, config.mqtt.unmapped);
        Self { mapper, lanes: router.table(), node: config.node.id.clone(), clock, scoring }
    }

    /// The models.
    pub fn scoring(&self) -> &Scoring {
        &self.scoring
    }

    /// The event of `message` and the lane for it; `None`: it stays here. `name`: the same for the same message sent again.
    pub fn event(
        &self,
        origin: &Origin,
        message: &Message,
        name: Option<EventName>,
    ) -> Result<Option<(&Writer, Event)>, Refused> {
        let sender = Sender { device: &origin.device, client: &origin.client };
        let Route::Upstream(route) = self.mapper.route(&message.topic, sender) else { return Ok(None) };
        let source = origin.source.as_ref().map_err(|text| Refused {
            reason: Reason::IMPLEMENTATION_SPECIFIC,
            text: text.clone(),
            why: Why::Unfit,
        })?;
        let properties = message.properties.as_deref();
        let view = MessageView {
            topic: &message.topic,
            payload: &message.payload,
            content_type: properties.and_then(|p| p.content_type.as_deref()),
            user: properties.map_or(&[], |p| &p.user),
        };
        let id = name.map_or_else(|| Id::Ours(random::uuid_v7()), |name| Id::Name(text_of(name)));
        let lane = route.lane;
        let event = mapping::event(route, view, source, Timestamp::from_unix_ms(self.clock.unix_ms()), id)?;
        Ok(Some((self.lanes.choose(lane, &event.ty), event)))
    }
}

/// The event id of a QoS 2 message, equal whenever it comes again.
fn text_of(name: EventName) -> String {
    format!("{:016x}-{}", name.session, name.number)
}
