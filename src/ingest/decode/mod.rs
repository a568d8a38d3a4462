//! From a request's body to events. [pure]
//!
//! | content type | an event is | its data |
//! |---|---|---|
//! | `application/json` | the body | the body |
//! | `application/x-ndjson` | each line: a CloudEvent if it has `specversion`, else plain data | `data`, or the line |
//! | `application/cloudevents+json` | the body (structured mode) | `data` or `data_base64` |
//! | `application/cloudevents-batch+json` | each element of the array | the same |
//! | any other, with `ce-*` headers | the body (binary mode) | the body |
//!
//! What a sender leaves out: id → UUIDv7 (marked as ours); source → `/devices/<subject>`, without a subject
//! `/nodes/<node>`; time → now; type → `?type=`, else `reading` for plain data (a CloudEvent must have one);
//! subject → the device of the path, else `?subject=`. A subject that contradicts the path is refused.

mod binary;
mod json;
mod media;
mod structured;

use bytes::Bytes;

use crate::event::{Event, Timestamp};
use crate::sys::random;

use super::refusal::{Kind, Place, Refusal};
pub use binary::Attributes;
pub(in crate::ingest) use json::text as json_text;
pub use media::Format;
pub(in crate::ingest) use media::is_json;
pub(in crate::ingest) use structured::BASE64;

/// Type of plain data whose sender names none.
pub const TYPE_DEFAULT: &str = "reading";

/// What the request says about its events outside of the body, and what fills gaps.
#[derive(Clone, Debug)]
pub struct Context {
    /// This gateway's id.
    pub node: String,
    /// The device of the path: every event must be its.
    pub device: Option<String>,
    /// Subject for events that name none.
    pub subject: Option<String>,
    /// Source for events that name none.
    pub source: Option<String>,
    /// Type for events that name none.
    pub ty: Option<String>,
    /// When the request came.
    pub now: Timestamp,
    /// Most events in one request.
    pub max_events: usize,
}

/// The attributes of one event as far as its sender gave them.
#[derive(Debug, Default)]
struct Draft {
    specversion: bool,
    id: Option<String>,
    source: Option<String>,
    ty: Option<String>,
    subject: Option<String>,
    time: Option<Timestamp>,
    datacontenttype: Option<String>,
    dataschema: Option<String>,
    extensions: Vec<(String, String)>,
    data: Bytes,
}

impl Draft {
    /// Takes one attribute by its CloudEvents name. The error is a sentence for the sender.
    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        let slot = match name {
            "specversion" => {
                if value != "1.0" {
                    return Err(format!("specversion {value:?} is not known; this gateway takes CloudEvents \"1.0\""));
                }
                return if std::mem::replace(&mut self.specversion, true) { Err(twice(name)) } else { Ok(()) };
            }
            "time" => {
                return match self.time.replace(Timestamp::parse(&value)?) {
                    Some(_) => Err(twice(name)),
                    None => Ok(()),
                };
            }
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.ty,
            "subject" => &mut self.subject,
            "datacontenttype" => &mut self.datacontenttype,
            "dataschema" => &mut self.dataschema,
            // Event::check judges the name and finds what is given twice.
            _ => {
                self.extensions.push((name.to_owned(), value));
                return Ok(());
            }
        };
        match slot.replace(value) {
            Some(_) => Err(twice(name)),
            None => Ok(()),
        }
    }
}

fn twice(name: &str) -> String {
    format!("attribute {name:?} is given twice")
}

impl Context {
    /// Fills the gaps and checks the result. `ty` is the type if neither the event nor the request has one.
    fn finish(&self, draft: Draft, ty: Option<&str>) -> Result<Event, Refusal> {
        let subject = self.subject_of(draft.subject)?;
        let ty = draft.ty.or_else(|| self.ty.clone()).or_else(|| ty.map(str::to_owned)).ok_or_else(|| {
            Refusal::new(Kind::InvalidEvent, "attribute \"type\" is missing; CloudEvents 1.0 requires it")
        })?;
        let source = draft.source.or_else(|| self.source.clone()).unwrap_or_else(|| match &subject {
            Some(subject) => format!("/devices/{}", percent_encoding::utf8_percent_encode(subject, SEGMENT)),
            None => format!("/nodes/{}", self.node),
        });
        let event = Event {
            id_is_ours: draft.id.is_none(),
            id: draft.id.unwrap_or_else(random::uuid_v7),
            source,
            ty,
            subject,
            time: draft.time.unwrap_or(self.now),
            datacontenttype: draft.datacontenttype,
            dataschema: draft.dataschema,
            extensions: draft.extensions,
            data: draft.data,
        };
        event.check().map_err(|reason| Refusal::new(Kind::InvalidEvent, reason))?;
        Ok(event)
    }

    fn subject_of(&self, named: Option<String>) -> Result<Option<String>, Refusal> {
        match (&self.device, named) {
            (Some(device), Some(named)) if *device != named => Err(Refusal::new(
                Kind::SubjectMismatch,
                format!(
                    "subject {named:?} is not the device of the path, {device:?}; leave it out, or post to /v1/events"
                ),
            )),
            (Some(device), _) => Ok(Some(device.clone())),
            (None, Some(named)) => Ok(Some(named)),
            (None, None) => Ok(self.subject.clone()),
        }
    }
}

/// What a path segment of a URI may not contain as it is (RFC 3986 §3.3).
pub const SEGMENT: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The events of a body.
#[derive(Debug)]
pub struct Decoded {
    /// At least one.
    pub events: Vec<Event>,
    /// How the sender knows them.
    pub places: Places,
}

/// What the sender calls the n-th event.
#[derive(Debug)]
pub enum Places {
    /// There is only one.
    Single,
    /// By its index in an array.
    Indexes,
    /// By its line; blank lines count.
    Lines(Vec<usize>),
}

impl Places {
    /// The place of event `i`.
    pub fn of(&self, i: usize) -> Option<Place> {
        match self {
            Self::Single => None,
            Self::Indexes => Some(Place::Index(i)),
            Self::Lines(numbers) => numbers.get(i).copied().map(Place::Line),
        }
    }
}

/// Reads the events of `body`: all of them, at least one, or the first thing that is wrong.
/// Data are slices of `body`, not copies, wherever the format allows.
pub fn decode(format: Format, context: &Context, body: &Bytes) -> Result<Decoded, Refusal> {
    let event = match format {
        Format::Lines => return lines(context, body),
        Format::Batch => {
            let events = structured::batch(context, body)?;
            return Ok(Decoded { events, places: Places::Indexes });
        }
        Format::Plain(datacontenttype) => plain(&datacontenttype, context, body)?,
        Format::Structured => structured::one(context, body)?,
        Format::Binary(attributes) => attributes.event(context, body)?,
    };
    Ok(Decoded { events: vec![event], places: Places::Single })
}

fn plain(datacontenttype: &str, context: &Context, body: &Bytes) -> Result<Event, Refusal> {
    if json::peek(body)?.has_specversion {
        return Err(Refusal::new(
            Kind::UnsupportedMediaType,
            "the body is a CloudEvent (it has \"specversion\"); send it with Content-Type: application/cloudevents+json, \
             or take \"specversion\" out if it is plain data",
        ));
    }
    let data = body.clone();
    let draft = Draft { datacontenttype: Some(datacontenttype.to_owned()), data, ..Draft::default() };
    context.finish(draft, Some(TYPE_DEFAULT))
}

fn lines(context: &Context, body: &Bytes) -> Result<Decoded, Refusal> {
    let (mut events, mut numbers) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(body.split(|&b| b == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if events.len() == context.max_events {
            return Err(too_many(context.max_events));
        }
        let event = one_line(context, &body.slice_ref(line)).map_err(|e| e.at(Some(Place::Line(number))))?;
        events.push(event);
        numbers.push(number);
    }
    if events.is_empty() { Err(no_event()) } else { Ok(Decoded { events, places: Places::Lines(numbers) }) }
}

fn one_line(context: &Context, line: &Bytes) -> Result<Event, Refusal> {
    if json::peek(line)?.has_specversion {
        return structured::one(context, line);
    }
    let datacontenttype = Some("application/json".to_owned());
    context.finish(Draft { datacontenttype, data: line.clone(), ..Draft::default() }, Some(TYPE_DEFAULT))
}

fn too_many(max: usize) -> Refusal {
    Refusal::new(
        Kind::TooManyEvents,
        format!("more than {max} events in one request; send several requests, or raise http.max_batch"),
    )
}

fn no_event() -> Refusal {
    Refusal::new(Kind::MalformedBody, "the body holds no event; send at least one")
}

#[cfg(test)]
mod tests;
