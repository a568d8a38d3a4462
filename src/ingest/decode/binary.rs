//! CloudEvents' binary mode: attributes in `ce-*` headers (HTTP) or user properties (MQTT 5.0), the body is the data. [pure]

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;

use super::media::is_json;
use super::{Context, Draft, TYPE_DEFAULT, json};
use crate::event::Event;
use crate::ingest::refusal::{Kind, Refusal};

/// The attributes that a request's headers give.
#[derive(Debug)]
pub struct Attributes(Draft);

impl Attributes {
    /// Reads the `ce-*` headers; `None`: there are none.
    pub fn of(headers: &HeaderMap, content_type: Option<&str>) -> Result<Option<Self>, Refusal> {
        let mut draft = Draft::default();
        let mut any = false;
        for (name, value) in headers {
            let Some(attribute) = name.as_str().strip_prefix("ce-") else { continue };
            any = true;
            take(&mut draft, attribute, value).map_err(|reason| Refusal::new(Kind::InvalidEvent, reason))?;
        }
        if let Some(content_type) = content_type {
            draft.datacontenttype = Some(content_type.to_owned());
        }
        Ok(any.then_some(Self(draft)))
    }

    /// Takes the user properties of an MQTT 5.0 message, each of which is an attribute (MQTT binding 1.0.2 §3.1.3). What cannot be an
    /// attribute's name is for somebody else: there is no prefix that would tell them apart.
    pub fn of_properties(properties: &[(String, String)], content_type: Option<&str>) -> Result<Self, Refusal> {
        let mut draft = Draft::default();
        let named = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        for (name, value) in properties.iter().filter(|(name, _)| !name.is_empty() && named(name)) {
            let set = match name.as_str() {
                "datacontenttype" => Err("is the message's content type in binary mode; leave it out".to_owned()),
                name => draft.set(name, value.clone()),
            };
            set.map_err(|reason| Refusal::new(Kind::InvalidEvent, format!("user property {name:?}: {reason}")))?;
        }
        draft.datacontenttype = content_type.map(str::to_owned);
        Ok(Self(draft))
    }

    /// The event whose data is `body`.
    pub fn event(self, context: &Context, body: &Bytes) -> Result<Event, Refusal> {
        let draft = Draft { data: body.clone(), ..self.0 };
        // What claims to be JSON is checked here: later there is nobody left to tell.
        if draft.datacontenttype.as_deref().is_some_and(is_json) {
            json::peek(body)?;
        }
        context.finish(draft, Some(TYPE_DEFAULT))
    }
}

fn take(draft: &mut Draft, attribute: &str, value: &HeaderValue) -> Result<(), String> {
    if attribute == "datacontenttype" {
        return Err("header ce-datacontenttype must not be sent; Content-Type is that attribute in binary mode".into());
    }
    draft.set(attribute, header_text(value).map_err(|reason| format!("header ce-{attribute}: {reason}"))?)
}

/// A header's value as CloudEvents' HTTP binding §3.1.3.2 decodes it: double quotes and backslash escapes of an
/// older specification are undone, then every percent-encoded byte, and the result must be UTF-8.
fn header_text(value: &HeaderValue) -> Result<String, String> {
    let text = value.to_str().map_err(|_| "has bytes that are not ASCII; percent-encode them as UTF-8".to_owned())?;
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let unquoted = match inner {
        Some(inner) => &unescape(inner),
        None => text,
    };
    let decoded = percent_decode_str(unquoted).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| "is not UTF-8 once percent-decoded".to_owned())
}

fn unescape(quoted: &str) -> String {
    let mut out = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &'static str) -> Result<String, String> {
        header_text(&HeaderValue::from_static(value))
    }

    #[test]
    fn header_values_are_decoded_as_the_binding_says() {
        assert_eq!(text("Euro%20%E2%82%AC%20%F0%9F%98%80").unwrap(), "Euro € 😀");
        assert_eq!(text("\"a \\\"b\\\" %41\"").unwrap(), "a \"b\" A");
        assert_eq!(text("50%").unwrap(), "50%");
        assert_eq!(text("\"").unwrap(), "\"");
        assert!(text("%FF").unwrap_err().contains("UTF-8"));
        assert!(header_text(&HeaderValue::from_bytes(b"\xe4").unwrap()).unwrap_err().contains("percent-encode"));
    }
}
