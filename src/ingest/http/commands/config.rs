//! A device's configuration: set by an operator, taken by the device when it is another one than it has.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};

use super::take::fresh;
use super::{Shared, body_of, in_time, patiently, query, wait_of};
use crate::downlink::commands::command::{Config, check_content_type};
use crate::ingest::http::problem;
use crate::ingest::identity::Identity;
use crate::ingest::refusal::{Kind, Refusal};

/// Of a configuration whose sender named none.
const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";

/// The configuration; 304 if it is the one of `If-None-Match`, 404 if there is none. With `?wait=` the answer comes when there is
/// another one, or after that time.
pub async fn get(
    shared: &Shared,
    who: &Identity,
    device: &str,
    head: &Parts,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let [wait] = query(head, ["wait"])?;
    let wait = wait_of(shared, wait.as_deref())?;
    let (commands, known) = (&shared.gateway.commands, &known(&head.headers));
    let found = patiently(shared, who, device, wait, || async move {
        Ok(commands.config(device).await?.filter(|config| !is_known(config, known)))
    });
    if let Some(config) = found.await? {
        let content_type = config.content_type.as_deref().unwrap_or(CONTENT_TYPE_DEFAULT);
        let mut response = fresh(Response::new(Full::new(config.payload.clone())));
        let value = HeaderValue::from_str(content_type);
        response.headers_mut().insert(CONTENT_TYPE, value.unwrap_or(HeaderValue::from_static(CONTENT_TYPE_DEFAULT)));
        tag(&mut response, &config);
        return Ok(response);
    }
    match in_time(shared.gateway.commands.config(device)).await? {
        Some(config) => {
            let mut response = fresh(Response::new(Full::default()));
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            tag(&mut response, &config);
            Ok(response)
        }
        None => Err(none(device)),
    }
}

fn none(device: &str) -> Refusal {
    Refusal::new(Kind::NotFound, format!("device {device:?} has no configuration here; an operator sets it with PUT"))
}

/// Sets the configuration: 201 if there was none, else 200, also if it is the same as before.
pub async fn put(
    shared: &Shared,
    who: &Identity,
    device: &str,
    head: &Parts,
    body: &mut Incoming,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let [] = query(head, [])?;
    if head.headers.contains_key(CONTENT_ENCODING) {
        return Err(Refusal::new(Kind::UnsupportedMediaType, "a configuration is sent without Content-Encoding"));
    }
    let content_type = match head.headers.get(CONTENT_TYPE).map(HeaderValue::to_str) {
        None => None,
        Some(Ok(text)) => {
            check_content_type(text).map_err(|e| Refusal::new(Kind::BadRequest, e))?;
            Some(text.to_owned())
        }
        Some(Err(_)) => {
            return Err(Refusal::new(Kind::BadRequest, "the Content-Type has characters that are not ASCII"));
        }
    };
    let commands = &shared.gateway.commands;
    // One more than is taken, so that too large is said in its own words.
    let payload = body_of(shared, who, body, commands.payload_bytes_max() + 1).await?;
    if payload.is_empty() {
        return Err(Refusal::new(
            Kind::BadRequest,
            "an empty configuration cannot be told from none; DELETE removes it",
        ));
    }
    // A copy of its own size: what hyper has put it in may be larger.
    let payload = Bytes::copy_from_slice(&payload);
    let (config, changed) = in_time(commands.configure(device, content_type, payload)).await?;
    let status = if changed && config.version == 1 { StatusCode::CREATED } else { StatusCode::OK };
    let text = format!("{{\"version\":{},\"changed\":{changed}}}\n", config.version);
    let mut response = problem::whole(status, "application/json", text);
    tag(&mut response, &config);
    Ok(response)
}

/// Removes the configuration.
pub async fn delete(shared: &Shared, device: &str) -> Result<Response<Full<Bytes>>, Refusal> {
    if !in_time(shared.gateway.commands.unconfigure(device)).await? {
        return Err(none(device));
    }
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn tag<B>(response: &mut Response<B>, config: &Config) {
    // Digits, letters and a hyphen.
    if let Ok(value) = HeaderValue::try_from(format!("\"{}\"", config.tag())) {
        response.headers_mut().insert(ETAG, value);
    }
}

/// The tags of `If-None-Match` (RFC 9110 §13.1.2), compared weakly; `*` is any.
fn known(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|v| v.to_str().ok());
    let tags = values.flat_map(|v| v.split(',')).map(str::trim);
    tags.map(|t| t.strip_prefix("W/").unwrap_or(t).trim_matches('"').to_owned()).collect()
}

fn is_known(config: &Config, known: &[String]) -> bool {
    let tag = config.tag();
    known.iter().any(|k| *k == tag || k == "*")
}
