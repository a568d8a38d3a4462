//! What a request's headers say its body is. [pure]

use hyper::header::{CONTENT_TYPE, HeaderMap};

use super::binary::Attributes;
use crate::ingest::refusal::{Kind, Refusal};

/// How to read a body.
#[derive(Debug)]
pub enum Format {
    /// JSON that is one event's data; the content type as sent.
    Plain(String),
    /// One event a line.
    Lines,
    /// One CloudEvent in JSON.
    Structured,
    /// An array of CloudEvents in JSON.
    Batch,
    /// The body is data, the attributes are headers.
    Binary(Box<Attributes>),
}

impl Format {
    /// Decides by `Content-Type` and the presence of `ce-*` headers.
    pub fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let content_type = match headers.get(CONTENT_TYPE) {
            None => None,
            Some(value) => Some(value.to_str().map_err(|_| {
                Refusal::new(Kind::UnsupportedMediaType, "the Content-Type header has characters that are not ASCII")
            })?),
        };
        let essence = content_type.map_or("", essence);
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        if is("application/cloudevents+json") {
            return utf8(content_type).map(|()| Self::Structured);
        }
        if is("application/cloudevents-batch+json") {
            return utf8(content_type).map(|()| Self::Batch);
        }
        if starts_with(essence, "application/cloudevents") {
            return Err(unsupported(essence));
        }
        if is("application/x-ndjson") || is("application/ndjson") {
            if headers.keys().any(|name| name.as_str().starts_with("ce-")) {
                return Err(Refusal::new(
                    Kind::BadRequest,
                    "ce-* headers describe one event and this body has many; write the attributes into the lines, \
                     or give what all of them share as ?type=, ?source= and ?subject=",
                ));
            }
            return utf8(content_type).map(|()| Self::Lines);
        }
        if let Some(attributes) = Attributes::of(headers, content_type)? {
            return Ok(Self::Binary(Box::new(attributes)));
        }
        match content_type {
            Some(sent) if is("application/json") => utf8(content_type).map(|()| Self::Plain(sent.to_owned())),
            _ => Err(unsupported(essence)),
        }
    }
}

/// Whether content of this type is JSON, as CloudEvents' JSON format §3.1 decides: `*/json` or `*/*+json`.
pub fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    let subtype = essence.split_once('/').map_or("", |(_, subtype)| subtype);
    subtype.eq_ignore_ascii_case("json") || ends_with(subtype, "+json")
}

fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn ends_with(text: &str, suffix: &str) -> bool {
    text.len()
        .checked_sub(suffix.len())
        .and_then(|at| text.get(at..))
        .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

/// JSON is UTF-8 (RFC 8259 §8.1): another charset is a promise the body cannot keep.
fn utf8(content_type: Option<&str>) -> Result<(), Refusal> {
    for parameter in content_type.unwrap_or_default().split(';').skip(1) {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        let value = value.trim().trim_matches('"');
        let known = ["utf-8", "utf8", "us-ascii"].iter().any(|c| value.eq_ignore_ascii_case(c));
        if name.trim().eq_ignore_ascii_case("charset") && !known {
            return Err(Refusal::new(
                Kind::UnsupportedMediaType,
                format!("charset {value:?} is not taken; JSON is UTF-8 (RFC 8259)"),
            ));
        }
    }
    Ok(())
}

fn unsupported(essence: &str) -> Refusal {
    let what = match essence {
        "" => "there is no Content-Type".to_owned(),
        // What curl -d sends when nobody tells it otherwise.
        "application/x-www-form-urlencoded" => {
            "Content-Type application/x-www-form-urlencoded is not taken (curl -d sends it by default; add -H \
             'Content-Type: application/json')"
                .to_owned()
        }
        other => format!("Content-Type {other:?} is not taken"),
    };
    Refusal::new(
        Kind::UnsupportedMediaType,
        format!(
            "{what}; send application/json, application/x-ndjson, application/cloudevents+json, \
             application/cloudevents-batch+json, or any other type with the event's attributes in ce-* headers"
        ),
    )
}
