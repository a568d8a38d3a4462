//! CloudEvents' JSON format: one event, or an array of them, in one pass over the text. [pure]
//!
//! `data` is kept as exactly the bytes that were sent: what a device signed or hashed stays what it was.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::media::is_json;
use super::{Context, Draft, json, no_event, too_many};
use crate::event::Event;
use crate::ingest::refusal::{Kind, Place, Refusal};

/// The format asks for RFC 4648 §4; encoders without padding are common on devices.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The one event of a structured-mode body.
pub fn one(context: &Context, body: &Bytes) -> Result<Event, Refusal> {
    let mut json = serde_json::Deserializer::from_str(json::text(body)?);
    let draft = DraftOf { body }.deserialize(&mut json).and_then(|draft| json.end().map(|()| draft));
    finish(context, draft.map_err(|e| json::refusal(&e))?)
}

/// The events of a batch, in their order.
pub fn batch(context: &Context, body: &Bytes) -> Result<Vec<Event>, Refusal> {
    let mut progress = Progress::default();
    let mut json = serde_json::Deserializer::from_str(json::text(body)?);
    let all = Batch { body, max: context.max_events, progress: &mut progress };
    let drafts = json.deserialize_seq(all).and_then(|drafts| json.end().map(|()| drafts));
    let drafts = drafts.map_err(|e| match progress {
        Progress { too_many: true, .. } => too_many(context.max_events),
        Progress { current, .. } => json::refusal(&e).at(current.map(Place::Index)),
    })?;
    if drafts.is_empty() {
        return Err(no_event());
    }
    let events = drafts.into_iter().enumerate();
    events.map(|(i, draft)| finish(context, draft).map_err(|e| e.at(Some(Place::Index(i))))).collect()
}

fn finish(context: &Context, draft: Draft) -> Result<Event, Refusal> {
    if !draft.specversion {
        return Err(Refusal::new(
            Kind::InvalidEvent,
            "attribute \"specversion\" is missing: not a CloudEvent; add \"specversion\":\"1.0\", or send plain data \
             with Content-Type: application/json",
        ));
    }
    context.finish(draft, None)
}

/// Where a batch's reading stands, for the error.
#[derive(Default)]
struct Progress {
    current: Option<usize>,
    too_many: bool,
}

struct Batch<'a> {
    body: &'a Bytes,
    max: usize,
    progress: &'a mut Progress,
}

impl<'de> Visitor<'de> for Batch<'_> {
    type Value = Vec<Draft>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON array of CloudEvents")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Draft>, A::Error> {
        let mut drafts = Vec::new();
        loop {
            self.progress.current = Some(drafts.len());
            let Some(draft) = seq.next_element_seed(DraftOf { body: self.body })? else {
                self.progress.current = None;
                return Ok(drafts);
            };
            if drafts.len() == self.max {
                self.progress.too_many = true;
                return Err(A::Error::custom("too many events"));
            }
            drafts.push(draft);
        }
    }
}

struct DraftOf<'a> {
    /// What the text is a part of: data are slices of it.
    body: &'a Bytes,
}

impl<'de> DeserializeSeed<'de> for DraftOf<'_> {
    type Value = Draft;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Draft, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for DraftOf<'_> {
    type Value = Draft;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a CloudEvent, a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Draft, A::Error> {
        let mut draft = Draft::default();
        let mut data: Option<&'de RawValue> = None;
        let mut encoded: Option<Cow<'de, str>> = None;
        while let Some(key) = map.next_key_seed(Key)? {
            let again = match &*key {
                "data" => data.replace(map.next_value()?).is_some(),
                "data_base64" => encoded.replace(map.next_value_seed(Key)?).is_some(),
                name => {
                    if let Some(value) = map.next_value_seed(Value { name })? {
                        draft.set(name, value.into_owned()).map_err(A::Error::custom)?;
                    }
                    false
                }
            };
            if again {
                return Err(A::Error::custom(format_args!("{key:?} is given twice")));
            }
        }
        match (data, encoded) {
            (Some(_), Some(_)) => {
                return Err(A::Error::custom("\"data\" and \"data_base64\" are both given; send one"));
            }
            (Some(raw), None) => take_json(&mut draft, self.body, raw).map_err(A::Error::custom)?,
            (None, Some(text)) => {
                let decoded = BASE64.decode(text.as_bytes());
                draft.data = decoded.map_err(|e| A::Error::custom(format_args!("data_base64: {e}")))?.into();
            }
            (None, None) => {}
        }
        Ok(draft)
    }
}

/// `data` as CloudEvents' JSON format §3.1 reads it: a string is the content itself if the content is not JSON;
/// everything else is JSON, kept byte by byte.
fn take_json(draft: &mut Draft, body: &Bytes, raw: &RawValue) -> Result<(), serde_json::Error> {
    let bytes = raw.get().as_bytes();
    let is_text = draft.datacontenttype.as_deref().is_some_and(|t| !is_json(t));
    if is_text && bytes.first() == Some(&b'"') {
        draft.data = serde_json::from_str::<String>(raw.get())?.into();
        return Ok(());
    }
    draft.data = body.slice_ref(bytes);
    draft.datacontenttype.get_or_insert_with(|| "application/json".to_owned());
    Ok(())
}

/// A string, borrowed where it has no escapes.
pub struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// An attribute's value as text: strings, integers and booleans have a canonical one (CloudEvents 1.0 §"Type
/// System"); null means the attribute is not there (JSON format §2.2).
struct Value<'a> {
    name: &'a str,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "attribute {:?} to be a string, a whole number or a boolean", self.name)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(if value { "true" } else { "false" })))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(value.to_string())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(value.to_string())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}
