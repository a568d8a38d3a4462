//! What devices do: take their commands in a long poll, look at one, answer it.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CACHE_CONTROL, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};

use super::stream::{self, LAST_EVENT_ID};
use super::{Shared, body_of, in_time, json, patiently, query, wait_of, whole};
use crate::downlink::commands::answer::{ANSWER_BYTES_MAX, parse};
use crate::downlink::commands::{Answered, CommandError, State, Via};
use crate::ingest::http::problem::{self, Answer};
use crate::ingest::identity::Identity;
use crate::ingest::refusal::{Kind, Refusal};

/// Most bytes of payload in the answer to one poll, but always one command; the rest comes with the next.
const POLL_BYTES_MAX: usize = 256 << 10;

/// Server-Sent Events, or, for who accepts only JSON or says how long to wait, what waits now or comes within that time.
pub async fn all(shared: &Arc<Shared>, who: &Identity, device: &str, head: &Parts) -> Result<Answer, Refusal> {
    let [wait, after] = query(head, ["wait", "after"])?;
    let header = |name| head.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let accept = header(ACCEPT.as_str()).unwrap_or_default();
    let seen = after.as_deref().or_else(|| header(LAST_EVENT_ID));
    let commands = &shared.gateway.commands;
    let place = seen.map_or(0, |id| commands.place(device, id));
    let only_json = accept.contains("application/json") && !accept.contains("text/event-stream");
    if wait.is_none() && !only_json {
        return stream::open(shared, who, device, place);
    }
    let wait = wait_of(shared, wait.as_deref())?;
    let found = patiently(shared, who, device, wait, || async move {
        let waiting = commands.waiting(device, place, POLL_BYTES_MAX).await?;
        Ok((!waiting.is_empty()).then_some(waiting))
    });
    let found = found.await?.unwrap_or_default();
    let mut body = b"{\"commands\":[".to_vec();
    for (i, command) in found.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&json::waiting(&|at| commands.show(at), command));
        commands.delivered(Via::Poll);
    }
    body.extend_from_slice(b"]}\n");
    Ok(whole(fresh(problem::whole(StatusCode::OK, "application/json", body))))
}

/// Where a command is; with `?wait=` the answer comes when it is over, or after that time.
pub async fn one(
    shared: &Shared,
    who: &Identity,
    device: &str,
    id: &str,
    head: &Parts,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let [wait] = query(head, ["wait"])?;
    let commands = &shared.gateway.commands;
    let unknown = || super::refusal(&CommandError::Unknown { device: device.to_owned(), id: id.to_owned() });
    let wait = wait_of(shared, wait.as_deref())?;
    let mut state = in_time(commands.state(device, id)).await?.ok_or_else(unknown)?;
    if matches!(state, State::Waiting(_)) && !wait.is_zero() {
        let over = patiently(shared, who, device, wait, || async move {
            Ok(commands.state(device, id).await?.filter(|state| matches!(state, State::Closed(_))))
        });
        state = match over.await? {
            Some(over) => over,
            None => in_time(commands.state(device, id)).await?.ok_or_else(unknown)?,
        };
    }
    Ok(fresh(problem::whole(StatusCode::OK, "application/json", json::state(&|at| commands.show(at), &state))))
}

/// The device's answer: 200 once it is on its way to Pulsar. Repeated, it is answered the same; another one gets 409.
pub async fn result(
    shared: &Shared,
    who: &Identity,
    device: &str,
    id: &str,
    body: &mut Incoming,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let body = body_of(shared, who, body, ANSWER_BYTES_MAX as u64).await?;
    let outcome = parse(&body).map_err(|e| Refusal::new(Kind::MalformedBody, e))?;
    let status = match in_time(shared.gateway.commands.answer(device, id, &outcome)).await? {
        Answered::Now(counted) => counted.status,
        Answered::Before(closed) => closed.outcome.status,
    };
    if status != outcome.status {
        let detail = format!("command {id:?} was answered before, with {:?}", status.text());
        return Err(Refusal::new(Kind::CommandOver, detail));
    }
    // An id needs no escapes.
    let text = format!("{{\"id\":\"{id}\",\"state\":\"{}\"}}\n", status.text());
    Ok(problem::whole(StatusCode::OK, "application/json", text))
}

/// Not to be kept by anybody on the way.
pub fn fresh<B>(mut response: Response<B>) -> Response<B> {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
