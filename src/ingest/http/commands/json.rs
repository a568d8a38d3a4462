//! Commands as JSON, in and out.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::config::units::parse_duration;
use crate::downlink::commands::command::{Closed, Command, Millis, check_content_type, check_id, check_name};
use crate::downlink::commands::{Request, State};
use crate::event::Timestamp;
use crate::ingest::decode::{BASE64, is_json, json_text};
use crate::ingest::http::problem::to_json;
use crate::ingest::refusal::{Kind, Refusal};

/// What an operator sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    name: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<Cow<'a, str>>,
    datacontenttype: Option<String>,
    id: Option<String>,
    expires_in: Option<String>,
}

/// Reads what an operator sends for `device`.
pub fn request(device: &str, body: &[u8]) -> Result<Request, Refusal> {
    let document: Document<'_> = serde_json::from_str(json_text(body)?).map_err(|e| {
        let detail = format!(
            "the body is not {{\"name\":…,\"data\":…}} (also taken: data_base64, datacontenttype, id, expires_in): {e}"
        );
        Refusal::new(Kind::MalformedBody, detail)
    })?;
    let wrong = |text: String| Refusal::new(Kind::BadRequest, text);
    check_name(&document.name).map_err(wrong)?;
    document.id.as_deref().map_or(Ok(()), check_id).map_err(wrong)?;
    document.datacontenttype.as_deref().map_or(Ok(()), check_content_type).map_err(wrong)?;
    let expires_in = match document.expires_in.as_deref().map(parse_duration) {
        None => None,
        Some(Ok(time)) if time > Duration::ZERO => Some(time),
        Some(Ok(_)) => return Err(wrong("expires_in: must be more than nothing".to_owned())),
        Some(Err(e)) => return Err(wrong(format!("expires_in: {e}"))),
    };
    let mut content_type = document.datacontenttype;
    let payload = match (document.data, document.data_base64) {
        (Some(_), Some(_)) => return Err(wrong("\"data\" and \"data_base64\" are both given; send one".to_owned())),
        (Some(raw), None) => of_json(raw, &mut content_type)?,
        (None, Some(text)) => BASE64.decode(text.as_bytes()).map_err(|e| wrong(format!("data_base64: {e}")))?.into(),
        (None, None) => Bytes::new(),
    };
    let device = device.to_owned();
    Ok(Request { device, id: document.id, name: document.name, content_type, payload, expires_in })
}

/// As CloudEvents' JSON format §3.1 reads `data`: a string is the content itself if the content is not JSON; everything else
/// is JSON, kept byte by byte.
fn of_json(raw: &RawValue, content_type: &mut Option<String>) -> Result<Bytes, Refusal> {
    if content_type.as_deref().is_some_and(|t| !is_json(t)) && raw.get().starts_with('"') {
        let text: String =
            serde_json::from_str(raw.get()).map_err(|e| Refusal::new(Kind::MalformedBody, format!("data: {e}")))?;
        return Ok(text.into());
    }
    content_type.get_or_insert_with(|| "application/json".to_owned());
    Ok(Bytes::copy_from_slice(raw.get().as_bytes()))
}

/// How a point in time is shown.
pub type Show<'a> = &'a dyn Fn(Millis) -> Timestamp;

/// A payload as it is shown.
#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Json(&'a RawValue),
    Text(&'a str),
}

#[derive(Serialize)]
struct Waiting<'a> {
    id: &'a str,
    device: &'a str,
    name: &'a str,
    state: &'static str,
    created: String,
    expires: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

#[derive(Serialize)]
struct Over<'a> {
    id: &'a str,
    device: &'a str,
    name: &'a str,
    state: &'static str,
    created: String,
    expires: String,
    ended: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a RawValue>,
}

/// A command that waits.
pub fn waiting(show: Show<'_>, command: &Command) -> Vec<u8> {
    let text = std::str::from_utf8(&command.payload).ok();
    let says_json = command.content_type.as_deref().is_some_and(is_json);
    let data = match text {
        _ if command.payload.is_empty() => None,
        Some(text) if says_json => serde_json::from_str(text).ok().map(Data::Json),
        Some(text) if command.content_type.is_some() => Some(Data::Text(text)),
        _ => None,
    };
    let bare = data.is_none() && !command.payload.is_empty();
    to_json(&Waiting {
        id: &command.id,
        device: &command.device,
        name: &command.name,
        state: "waiting",
        created: show(command.created).to_string(),
        expires: show(command.expires).to_string(),
        datacontenttype: command.content_type.as_deref(),
        data,
        data_base64: bare.then(|| STANDARD.encode(&command.payload)),
    })
}

fn over(show: Show<'_>, closed: &Closed) -> Vec<u8> {
    to_json(&Over {
        id: &closed.id,
        device: &closed.device,
        name: &closed.name,
        state: closed.outcome.status.text(),
        created: show(closed.created).to_string(),
        expires: show(closed.expires).to_string(),
        ended: show(closed.closed).to_string(),
        detail: serde_json::from_slice(&closed.outcome.detail).ok(),
    })
}

/// A command, wherever it is.
pub fn state(show: Show<'_>, state: &State) -> Vec<u8> {
    match state {
        State::Waiting(command) => waiting(show, command),
        State::Closed(closed) => over(show, closed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Request, Refusal> {
        request("d", body.as_bytes())
    }

    fn shown(content_type: Option<&str>, payload: &'static [u8]) -> serde_json::Value {
        let command = Command {
            device: "d".into(),
            id: "a".into(),
            seq: 1,
            name: "n".into(),
            content_type: content_type.map(str::to_owned),
            payload: Bytes::from_static(payload),
            created: 0,
            expires: 1000,
        };
        serde_json::from_slice(&waiting(&|ms| Timestamp::from_unix_ms(i64::try_from(ms).unwrap()), &command)).unwrap()
    }

    #[test]
    fn data_is_kept_byte_by_byte() {
        let json = read(r#"{"name":"open","data":{"valve": 3.0}}"#).unwrap();
        assert_eq!(
            (json.payload.as_ref(), json.content_type.as_deref()),
            (&b"{\"valve\": 3.0}"[..], Some("application/json"))
        );
        let text = read(r#"{"name":"say","datacontenttype":"text/plain","data":"a\nb"}"#).unwrap();
        assert_eq!(text.payload, "a\nb");
        let bytes = read(r#"{"name":"say","data_base64":"AAE","expires_in":"1h","id":"x"}"#).unwrap();
        assert_eq!((bytes.payload.as_ref(), bytes.content_type), (&[0, 1][..], None));
        assert_eq!((bytes.expires_in, bytes.id.as_deref()), (Some(Duration::from_secs(3600)), Some("x")));
        assert!(read(r#"{"name":"reboot"}"#).unwrap().payload.is_empty());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (body, word) in [
            ("{", "not {\"name\""),
            ("{}", "name"),
            (r#"{"name":""}"#, "empty"),
            (r#"{"name":"n","dat":1}"#, "dat"),
            (r#"{"name":"n","data":1,"data_base64":"AA"}"#, "both"),
            (r#"{"name":"n","data_base64":"%"}"#, "data_base64"),
            (r#"{"name":"n","id":"a/b"}"#, "a/b"),
            (r#"{"name":"n","expires_in":"soon"}"#, "soon"),
            (r#"{"name":"n","expires_in":"0s"}"#, "more than nothing"),
            (r#"{"name":"n","datacontenttype":"a\nb"}"#, "content type"),
        ] {
            let e = read(body).unwrap_err();
            assert!(e.detail.contains(word), "{body}: {e}");
        }
        let deep = format!("{{\"name\":\"n\",\"data\":{}{}}}", "[".repeat(200), "]".repeat(200));
        assert!(read(&deep).unwrap_err().detail.contains("deeper"));
    }

    #[test]
    fn a_payload_is_shown_as_what_it_is() {
        assert_eq!(shown(Some("application/json"), b"{\"a\":1}")["data"]["a"], 1);
        assert_eq!(shown(Some("text/plain"), b"hello")["data"], "hello");
        assert_eq!(shown(Some("application/json"), b"{")["data_base64"], "ew==");
        assert_eq!(shown(Some("text/plain"), b"\xff")["data_base64"], "/w==");
        assert_eq!(shown(None, b"raw")["data_base64"], "cmF3");
        let nothing = shown(None, b"");
        assert!(nothing.get("data").is_none() && nothing.get("data_base64").is_none());
        assert_eq!(nothing["expires"], "1970-01-01T00:00:01Z");
    }
}
