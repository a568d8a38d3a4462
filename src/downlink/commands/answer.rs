//! What a device answers, and the event that goes upstream for it. [pure]

use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::command::{Outcome, Status};
use super::core::Subject;
use crate::event::{Event, Timestamp};

/// Type of the event that tells how a command ended.
pub const EVENT_TYPE: &str = "tidegate.command.result";

/// Longest answer.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    status: Option<String>,
    #[serde(borrow)]
    detail: Option<&'a RawValue>,
}

/// Reads an answer: nothing at all is "done". The error is a sentence for the device's programmer.
pub fn parse(payload: &[u8]) -> Result<Outcome, String> {
    if payload.len() > ANSWER_BYTES_MAX {
        return Err(format!("the answer has {} bytes; at most {ANSWER_BYTES_MAX} are taken", payload.len()));
    }
    if payload.iter().all(u8::is_ascii_whitespace) {
        return Ok(Outcome::plain(Status::Done));
    }
    let document: Document<'_> = serde_json::from_slice(payload).map_err(|e| {
        format!(
            "the answer is not {{\"status\":\"done\"|\"failed\"|\"rejected\",\"detail\":…}}, nor empty for done: {e}"
        )
    })?;
    let status = match document.status.as_deref() {
        None => Status::Done,
        Some(text) => Status::of_device(text)
            .ok_or_else(|| format!("status {text:?} is not known; there are \"done\", \"failed\" and \"rejected\""))?,
    };
    // Kept byte by byte, but not deeper than whoever parses it later can bear.
    if let Some(Err(e)) = document.detail.map(|raw| serde_json::from_str::<serde_json::Value>(raw.get())) {
        return Err(format!("detail: {e}"));
    }
    let detail = document.detail.map_or(Bytes::new(), |raw| Bytes::copy_from_slice(raw.get().as_bytes()));
    Ok(Outcome { status, detail })
}

/// The event for the end of a command. Its id is the same whenever this end is told again.
pub fn event(node: &str, subject: &Subject, outcome: &Outcome, time: Timestamp) -> Event {
    let status = outcome.status.text();
    let mut data = format!("{{\"status\":\"{status}\"").into_bytes();
    if !outcome.detail.is_empty() {
        data.extend_from_slice(b",\"detail\":");
        data.extend_from_slice(&outcome.detail);
    }
    data.push(b'}');
    let device = utf8_percent_encode(&subject.device, NON_ALPHANUMERIC);
    let extension = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Event {
        id: format!("{}:{status}", subject.id),
        id_is_ours: false,
        source: format!("/nodes/{node}/devices/{device}/commands"),
        ty: EVENT_TYPE.to_owned(),
        subject: Some(subject.device.to_string()),
        time,
        datacontenttype: Some("application/json".to_owned()),
        dataschema: None,
        extensions: vec![
            extension("commandid", &subject.id),
            extension("commandname", &subject.name),
            extension("commandstatus", status),
        ],
        data: data.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::downlink::commands::command::{DEVICE_BYTES_MAX, ID_BYTES_MAX, NAME_BYTES_MAX};

    #[test]
    fn an_answer_is_read_as_it_was_meant_or_refused() {
        let read = |text: &str| parse(text.as_bytes());
        for done in ["", " \n", "{}", r#"{"status":"done"}"#, r#"{"status":"done","detail":null}"#] {
            assert_eq!(read(done).unwrap().status, Status::Done, "{done}");
        }
        let failed = read(r#"{"detail": {"code": 1.0} ,"status":"failed"}"#).unwrap();
        assert_eq!((failed.status, failed.detail), (Status::Failed, Bytes::from_static(br#"{"code": 1.0}"#)));
        for bad in
            ["done", "\"done\"", r#"{"state":"failed"}"#, r#"{"status":"expired"}"#, "[]", "{\"status\":\"done\"} x"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
        let deep = format!("{{\"detail\":{}{}}}", "[".repeat(200), "]".repeat(200));
        assert!(read(&deep).unwrap_err().contains("recursion"));
        assert!(parse(&vec![b' '; ANSWER_BYTES_MAX + 1]).unwrap_err().contains("65537"));
    }

    #[test]
    fn the_longest_names_still_make_a_valid_event() {
        let subject = Subject {
            device: "ä".repeat(DEVICE_BYTES_MAX / 2).into(),
            id: "i".repeat(ID_BYTES_MAX).into(),
            name: "n".repeat(NAME_BYTES_MAX),
        };
        let outcome = Outcome { status: Status::Rejected, detail: Bytes::from_static(b"\"no\"") };
        let event = event(&"n".repeat(64), &subject, &outcome, Timestamp::from_unix_ms(1));
        assert_eq!(event.check(), Ok(()));
        assert_eq!(event.data, r#"{"status":"rejected","detail":"no"}"#);
    }
}
