//! What operators do: send a command, take it back.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Shared, body_of, in_time, json, query};
use crate::downlink::commands::{Added, CommandError, State};
use crate::ingest::http::problem;
use crate::ingest::identity::Identity;
use crate::ingest::refusal::{Kind, Refusal};

/// What a command's JSON has around its data.
const AROUND_BYTES: u64 = 16 << 10;

/// 201 with the place of the command; 200 if it was sent before.
pub async fn post(
    shared: &Shared,
    who: &Identity,
    device: &str,
    head: &Parts,
    body: &mut Incoming,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let [] = query(head, [])?;
    plain_json(head)?;
    let commands = &shared.gateway.commands;
    // Escapes and base64 take at most twice the bytes, but for text full of control characters.
    let body = body_of(shared, who, body, commands.payload_bytes_max() * 2 + AROUND_BYTES).await?;
    let added = in_time(commands.add(json::request(device, &body)?)).await?;
    let (status, state) = match added {
        Added::New(command) => (StatusCode::CREATED, State::Waiting(command)),
        Added::Repeated(state) => (StatusCode::OK, state),
    };
    let id = match &state {
        State::Waiting(command) => &command.id,
        State::Closed(closed) => &closed.id,
    };
    let place = format!("/v1/devices/{}/commands/{id}", utf8_percent_encode(device, NON_ALPHANUMERIC));
    let mut response = problem::whole(status, "application/json", json::state(&|at| commands.show(at), &state));
    if let Ok(place) = HeaderValue::try_from(place) {
        response.headers_mut().insert(LOCATION, place);
    }
    Ok(response)
}

fn plain_json(head: &Parts) -> Result<(), Refusal> {
    if head.headers.contains_key(CONTENT_ENCODING) {
        return Err(Refusal::new(Kind::UnsupportedMediaType, "a command is sent without Content-Encoding"));
    }
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Refusal::new(
        Kind::UnsupportedMediaType,
        format!(
            "Content-Type {content_type:?} is not taken; a command is application/json (curl -H 'Content-Type: application/json')"
        ),
    ))
}

/// Takes a command back: 200 with what became of it. 409 if it was over before.
pub async fn cancel(shared: &Shared, device: &str, id: &str) -> Result<Response<Full<Bytes>>, Refusal> {
    let commands = &shared.gateway.commands;
    let before = in_time(commands.state(device, id)).await?;
    if let Some(State::Closed(closed)) = before {
        let detail = format!("command {id:?} is over already: {}", closed.outcome.status.text());
        return Err(Refusal::new(Kind::CommandOver, detail));
    }
    match in_time(commands.cancel(device, id)).await? {
        Some(state) => {
            Ok(problem::whole(StatusCode::OK, "application/json", json::state(&|at| commands.show(at), &state)))
        }
        None => Err(super::refusal(&CommandError::Unknown { device: device.to_owned(), id: id.to_owned() })),
    }
}
