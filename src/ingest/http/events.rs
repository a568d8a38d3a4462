//! POST of events: body → events → one append → its receipt as the answer. The hot path.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;

use super::Shared;
use super::body::{Bounds, gather, memory_full};
use super::budget::Lease;
use super::caller::{self, Caller};
use super::inflate::{self, Encoding};
use super::problem;
use crate::event::{Event, Timestamp, record};
use crate::ingest::decode::{self, Context, Decoded, Format, Places};
use crate::ingest::identity::{Identity, Refused};
use crate::ingest::refusal::{Kind, Refusal};
use crate::outbox::{AppendError, Durable, Writer};

/// Longest wait for the disk before the sender is told. Beyond it most clients have given up;
/// what is in the outbox by then stays in it.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Larger bodies are decoded on a thread that may block: parsing 128 KiB takes about a millisecond on the
/// slowest gateway, which other connections can wait; 64 MiB would make them wait for a second.
const INLINE_BYTES_MAX: usize = 128 << 10;

/// The same for gzip: a thousandfold inflation of this is a megabyte. (zstd always goes to the other thread:
/// a frame of a few bytes may need its 8 MiB window.)
const INLINE_GZIP_BYTES_MAX: usize = 1 << 10;

/// What one event holds in memory beside the record's bytes, for the budget.
const EVENT_BYTES: usize = size_of::<Event>();

/// Where a POST is addressed.
#[derive(Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// `/v1/events`
    Events,
    /// `/v1/devices/{device}/events`; the device as in the path, percent-encoded.
    Device(&'a str),
}

impl<'a> Target<'a> {
    /// Reads a path; one slash at its end does no harm, as warp sees it for the pages.
    pub fn of(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix("/v1/")?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest == "events" {
            return Some(Self::Events);
        }
        let device = rest.strip_prefix("devices/")?.strip_suffix("/events")?;
        (!device.is_empty() && !device.contains('/')).then_some(Self::Device(device))
    }

    /// Whether `request` is for this file at all.
    pub fn wanted(request: &Request<Incoming>) -> bool {
        request.method() == Method::POST && Target::of(request.uri().path()).is_some()
    }
}

/// What was put on disk, and where.
struct Receipt {
    durable: Durable,
    writer: Writer,
}

/// Answers a POST of events. `true`: a part of the body was left on the wire.
pub async fn post(shared: &Shared, caller: &Caller, request: Request<Incoming>) -> (Response<Full<Bytes>>, bool) {
    let begun = Instant::now();
    let (head, mut body) = request.into_parts();
    let taken = take(shared, caller, &head, &mut body).await;
    // (A chunked body never says that it has ended, so is_end_stream alone would not do.)
    let body_left = taken.is_err() && !body.is_end_stream();
    let stored = match taken {
        Ok(work) => store(shared, work).await,
        Err(refusal) => Err(refusal),
    };
    let response = match stored {
        Ok(receipt) => accepted(&receipt),
        Err(refusal) => {
            shared.counters.refused(refusal.kind);
            let facts = refusal.kind.facts();
            if facts.status == StatusCode::PAYLOAD_TOO_LARGE.as_u16() {
                shared.gateway.gate.turned_away(facts.slug);
            }
            tracing::debug!(path = head.uri.path(), status = refusal.kind.facts().status, %refusal, "refused");
            problem::answer(&refusal)
        }
    };
    shared.counters.duration.observe(begun.elapsed().as_secs_f64());
    (response, body_left)
}

/// Judges the head, then takes the body off the wire.
async fn take(shared: &Shared, caller: &Caller, head: &Parts, body: &mut Incoming) -> Result<Work, Refusal> {
    let http = shared.gateway.http.now();
    let identity = caller.identify(&shared.gateway.gate, &head.headers).await?;
    let encoding = Encoding::of(&head.headers)?;
    let format = Format::of(&head.headers)?;
    let context = context(shared, &identity, head)?;
    let mut lease = shared.budget.lease();
    let bounds = Bounds { max_bytes: http.max_body, timeout: http.body_timeout };
    let raw = gather(body, bounds, &mut lease).await?;
    Ok(Work { raw, encoding, format, context, identity, lease, max_inflated: http.max_inflated })
}

/// Makes events of the body and puts them on disk.
async fn store(shared: &Shared, work: Work) -> Result<Receipt, Refusal> {
    let identity = work.identity.clone();
    let (decoded, mut lease) = if work.is_light() { work.run() } else { on_other_thread(shared, work).await }?;
    let writer = check(shared, &identity, &decoded)?;
    let Decoded { events, places } = decoded;
    let data_bytes: usize = events.iter().map(|e| e.data.len()).sum();
    admit(shared, &identity, events.len(), data_bytes)?;
    if events.len() > 1 {
        let attributes: usize = events.iter().map(|e| record::encoded_len(e) + EVENT_BYTES).sum::<usize>() - data_bytes;
        lease.grow(attributes).map_err(memory_full)?;
    }
    let local = shared.gateway.local.as_ref().map(|local| (local, local.messages(&events)));
    if let Some((local, messages)) = &local
        && !messages.is_empty()
    {
        local.room().await;
    }
    let events = shared.gateway.scoring.of(events).await;
    let durable = match tokio::time::timeout(COMMIT_TIMEOUT, writer.append(events)).await {
        Ok(result) => result.map_err(|e| refused_by_outbox(e, &places))?,
        Err(_) => return Err(disk_slow(writer.lane())),
    };
    if let Some((local, messages)) = local.filter(|_| durable.repeated < durable.accepted) {
        local.publish(messages);
    }
    let counters = &shared.counters;
    counters.accepted_events.inc_by(durable.accepted);
    counters.accepted_bytes.inc_by(data_bytes as u64);
    counters.repeated_events.inc_by(durable.repeated);
    Ok(Receipt { durable, writer })
}

fn refused_by_outbox(e: AppendError, places: &Places) -> Refusal {
    let place = match e {
        AppendError::TooLarge { index, .. } => places.of(index),
        _ => None,
    };
    Refusal { place, ..Refusal::from(e) }
}

fn disk_slow(lane: &str) -> Refusal {
    let seconds = COMMIT_TIMEOUT.as_secs();
    Refusal::new(
        Kind::DiskSlow,
        format!(
            "lane {lane}: the disk did not confirm within {seconds} s; the events may still be stored: send them again \
             with the same ids, and they will be stored once"
        ),
    )
}

/// What comes last before the disk: the credential still holds, and the quota allows it.
pub(super) fn admit(shared: &Shared, identity: &Identity, events: usize, bytes: usize) -> Result<(), Refusal> {
    if identity.is_revoked() {
        return Err(caller::revoked());
    }
    identity.admit(events, bytes).map_err(|wait| {
        shared.gateway.gate.refused(identity, &Refused::Quota(wait));
        caller::over_quota(wait)
    })
}

/// That the sender may speak for `subject`.
fn may_speak(shared: &Shared, identity: &Identity, subject: &str) -> Result<(), Refusal> {
    if identity.may_speak_for(subject) {
        return Ok(());
    }
    shared.gateway.gate.refused(identity, &Refused::Subject(subject));
    Err(caller::wrong_subject(identity, subject))
}

/// The one lane of all events, that each is the sender's own, and that each of them fits into the outbox.
fn check(shared: &Shared, identity: &Identity, decoded: &Decoded) -> Result<Writer, Refusal> {
    let router = shared.gateway.router.table();
    let max = shared.gateway.max_event;
    let mut lane: Option<&Writer> = None;
    for (i, event) in decoded.events.iter().enumerate() {
        if let Some(subject) = &event.subject {
            may_speak(shared, identity, subject).map_err(|refusal| refusal.at(decoded.places.of(i)))?;
        }
        let bytes = record::encoded_len(event) as u64;
        if bytes > max {
            let detail =
                format!("{bytes} bytes as stored, at most {max} are taken; split it, or raise outbox.max_event");
            return Err(Refusal::new(Kind::EventTooLarge, detail).at(decoded.places.of(i)));
        }
        let writer = router.lane_for(&event.ty);
        let first = *lane.get_or_insert(writer);
        if first.lane() != writer.lane() {
            return Err(mixed(event, first.lane(), writer.lane()).at(decoded.places.of(i)));
        }
    }
    lane.cloned().ok_or_else(|| Refusal::new(Kind::MalformedBody, "the body holds no event; send at least one"))
}

/// A request is all or nothing, and only one lane's append is: two appends could end half done.
fn mixed(event: &Event, first: &str, other: &str) -> Refusal {
    Refusal::new(
        Kind::MixedLanes,
        format!(
            "type {:?} goes to lane {other:?}, the events before it to lane {first:?}; a request is stored as a whole or \
             not at all, so send one request per lane",
            event.ty
        ),
    )
}

fn context(shared: &Shared, identity: &Identity, head: &Parts) -> Result<Context, Refusal> {
    let device = match Target::of(head.uri.path()) {
        Some(Target::Device(encoded)) => Some(
            percent_decode_str(encoded)
                .decode_utf8()
                .map_err(|_| {
                    Refusal::new(Kind::BadRequest, "the device in the path is not UTF-8 once percent-decoded")
                })?
                .into_owned(),
        ),
        _ => None,
    };
    let mut context = Context {
        node: shared.gateway.node.clone(),
        device,
        subject: None,
        source: None,
        ty: None,
        now: Timestamp::from_unix_ms(shared.gateway.clock.unix_ms()),
        max_events: shared.gateway.http.now().max_batch,
    };
    for pair in head.uri.query().unwrap_or_default().split('&').filter(|p| !p.is_empty()) {
        parameter(&mut context, pair)?;
    }
    // Before the body is on its way: its events are that device's or it is refused anyway.
    if let Some(device) = &context.device {
        may_speak(shared, identity, device)?;
    }
    if context.subject.is_none() && !identity.name().is_empty() {
        context.subject = Some(identity.name().to_owned());
    }
    Ok(context)
}

fn parameter(context: &mut Context, pair: &str) -> Result<(), Refusal> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let slot = match name {
        "subject" => &mut context.subject,
        "source" => &mut context.source,
        "type" => &mut context.ty,
        _ => {
            let detail = format!("query parameter {name:?} is not known; there are type, subject and source");
            return Err(Refusal::new(Kind::BadRequest, detail));
        }
    };
    let value = value.replace('+', " ");
    let value = percent_decode_str(&value).decode_utf8().map_err(|_| {
        Refusal::new(Kind::BadRequest, format!("query parameter {name:?} is not UTF-8 once percent-decoded"))
    })?;
    if value.is_empty() || slot.replace(value.into_owned()).is_some() {
        return Err(Refusal::new(Kind::BadRequest, format!("query parameter {name:?} is empty or given twice")));
    }
    if let (Some(device), Some(subject)) = (&context.device, &context.subject)
        && device != subject
    {
        let detail = format!("?subject={subject} is not the device of the path, {device:?}; leave one of them out");
        return Err(Refusal::new(Kind::SubjectMismatch, detail));
    }
    Ok(())
}

/// A body and all that is needed to make events of it, on this thread or another.
struct Work {
    raw: Bytes,
    encoding: Option<Encoding>,
    format: Format,
    context: Context,
    identity: Identity,
    lease: Lease,
    max_inflated: u64,
}

impl Work {
    fn is_light(&self) -> bool {
        match self.encoding {
            None => self.raw.len() <= INLINE_BYTES_MAX,
            Some(Encoding::Gzip) => self.raw.len() <= INLINE_GZIP_BYTES_MAX,
            Some(Encoding::Zstd) => false,
        }
    }

    fn run(mut self) -> Result<(Decoded, Lease), Refusal> {
        let body = match self.encoding {
            None => self.raw,
            Some(encoding) => inflate::inflate(encoding, &self.raw, self.max_inflated, &mut self.lease)?,
        };
        Ok((decode::decode(self.format, &self.context, &body)?, self.lease))
    }
}

async fn on_other_thread(shared: &Shared, work: Work) -> Result<(Decoded, Lease), Refusal> {
    let closed = || Refusal::new(Kind::Internal, "decoding the body failed in a way it must not; please report it");
    let permit = shared.heavy.clone().acquire_owned().await.map_err(|_| closed())?;
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work.run()
    });
    done.await.unwrap_or_else(|_| Err(closed()))
}

fn accepted(receipt: &Receipt) -> Response<Full<Bytes>> {
    let Durable { accepted, repeated, first, last } = receipt.durable;
    // A lane's name is lower-case letters, digits and '-': nothing to escape.
    let lane = receipt.writer.lane();
    let repeated = if repeated == 0 { String::new() } else { format!(",\"repeated\":{repeated}") };
    let body = format!("{{\"accepted\":{accepted},\"lane\":\"{lane}\",\"first\":{first},\"last\":{last}{repeated}}}\n");
    problem::whole(StatusCode::ACCEPTED, "application/json", body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_strictly() {
        assert_eq!(Target::of("/v1/events"), Some(Target::Events));
        assert_eq!(Target::of("/v1/devices/a%2Fb/events"), Some(Target::Device("a%2Fb")));
        assert_eq!(Target::of("/v1/events/"), Some(Target::Events));
        for other in ["/v1/events//", "/v1/devices//events", "/v1/devices/a/b/events", "/v1/devices/events", "/", ""] {
            assert_eq!(Target::of(other), None, "{other}");
        }
    }
}
