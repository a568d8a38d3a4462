//! The part of the interface for operators that is about configuration.
//!
//! ```text
//! GET  /v1/nodes?group=&after=&limit=     GET /v1/nodes/{node}     DELETE /v1/nodes/{node}
//! DELETE /v1/nodes/{node}/key             the next key that speaks for it is its own: its disk was replaced
//! GET  /v1/documents?after=&limit=        GET /v1/documents/{sha256}
//! POST /v1/documents                      a signed document (DSSE)  → 201, or 200 when it was there
//! POST /v1/keyrings                       a signed keyring
//! GET  /v1/rollouts                       GET /v1/rollouts/{id}
//! POST /v1/rollouts      {id, document, nodes, groups, all, plan, reason, start, rollback, skip_busy} → 201, or 200
//!                                         those of models are ordered under /v1/models, and are here from then on
//! POST /v1/rollouts/{id}/{start,pause,resume,abort,approve,pass}      {reason, wave}
//! GET  /v1/history?node=&limit=
//! POST /v1/log/raise                      {to}: numbers go on above it; see `numbers`
//! POST /v1/nodes/{node}/devices/{device}/commands     {name, id, data | data_base64, datacontenttype, expires_in}
//! ```
//! An answer to an order tells what it came to in the log. 202: it is stored, and was not read back yet; 409: it does not fit
//! what is; 422: it can never be taken, as it is. An order can be given again: what is so already stays so.

use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde_json::json;
use warp::http::{HeaderMap, Method, StatusCode, header};
use warp::reply::Response;

use super::commands::CommandOrder;
use super::operators::{self, Denied};
use super::orders::{ACTIONS, Act, Order, OrderError, Raise};
use super::state::is_node;
use super::views::{PAGE, PAGE_MAX};
use super::{Control, DOCUMENTS, LOG, REPORTS, TopicState};
use crate::cloud::api::answer::{Problem, Query, json, typed};
use crate::cloud::api::body::too_large;
use crate::downlink::artefact::Digest;
use crate::downlink::artefact::envelope::ENVELOPE_BYTES_MAX;

/// Largest order: 100,000 names of 64 characters, with room.
pub const BODY_BYTES_MAX: usize = 8 << 20;

/// Largest body of what is done with a roll-out: a reason and some groups.
const ACT_BYTES_MAX: usize = 64 << 10;

/// The paths of this part, for the message about one that is none.
pub const PATHS: [&str; 6] = ["/v1/nodes", "/v1/documents", "/v1/keyrings", "/v1/rollouts", "/v1/history", "/v1/log"];

/// The header in which a client says who it is; only a claim, and marked so.
const AUTHOR: &str = "x-tidegate-author";

/// A request.
pub struct Asked<'r> {
    /// Its method.
    pub method: &'r Method,
    /// Its path, as sent.
    pub path: &'r str,
    /// Its parameters.
    pub query: &'r Query,
    /// Its headers.
    pub headers: &'r HeaderMap,
    /// Where it comes from.
    pub from: IpAddr,
}

/// Whether `path` is answered here.
pub fn is_here(path: &str) -> bool {
    PATHS.iter().any(|of| path == *of || path.strip_prefix(of).is_some_and(|rest| rest.starts_with('/')))
}

/// A request that may be answered, once its body is there.
pub struct Admitted {
    parts: Vec<String>,
    /// Who gives the order; `None`: it is none.
    by: Option<String>,
    /// Most bytes of the body; 0: none is read.
    pub bytes_max: usize,
}

/// Most bytes of the body of a POST to these; 0: there is no such order, or it takes none.
fn body_bytes_max(parts: &[&str]) -> usize {
    match parts {
        ["rollouts"] => BODY_BYTES_MAX,
        ["documents" | "keyrings"] => ENVELOPE_BYTES_MAX,
        ["rollouts", _, action] if ACTIONS.contains(action) => ACT_BYTES_MAX,
        ["log", "raise"] => ACT_BYTES_MAX,
        ["nodes", _, "devices", _, "commands"] => ENVELOPE_BYTES_MAX,
        _ => 0,
    }
}

impl Control {
    /// Looks at everything but the body: nobody makes us read one who may not give orders, or asks for nothing there is.
    pub fn admit(&self, asked: &Asked<'_>) -> Result<Admitted, Problem> {
        let parts = path_parts(asked.path)?;
        let names: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (by, bytes_max) = match *asked.method {
            Method::GET | Method::HEAD => (None, 0),
            Method::POST | Method::DELETE => {
                // Before anything is said about the order: who may not give one learns nothing of it.
                let by = self.author(asked)?;
                asked.query.only(&[])?;
                let bytes_max = if *asked.method == Method::POST { body_bytes_max(&names) } else { 0 };
                if bytes_max > 0 {
                    expect_json(asked)?;
                    expect_length(asked, bytes_max)?;
                }
                (Some(by), bytes_max)
            }
            _ => return Err(not_allowed(asked.path, "GET, HEAD, POST, DELETE")),
        };
        Ok(Admitted { parts, by, bytes_max })
    }

    /// Answers one request.
    pub async fn answer(&self, asked: &Asked<'_>, admitted: &Admitted, body: &[u8]) -> Result<Response, Problem> {
        let parts: Vec<&str> = admitted.parts.iter().map(String::as_str).collect();
        match &admitted.by {
            None => self.get(asked, &parts).await,
            Some(by) => self.order_of(asked, &parts, by, body).await,
        }
    }

    /// Who gives the order; everybody else is refused.
    pub(in crate::cloud) fn author(&self, asked: &Asked<'_>) -> Result<String, Problem> {
        let text = |name| asked.headers.get(name).and_then(|value| value.to_str().ok());
        let file = self.0.config.operators_file.as_deref();
        let way = operators::Way {
            host: text(header::HOST.as_str()),
            origin: text(header::ORIGIN.as_str()),
            fetch_site: text("sec-fetch-site"),
            by_proxy: operators::PROXY_HEADERS.iter().any(|name| asked.headers.contains_key(*name)),
        };
        let by = operators::author(file, asked.from, way, text(header::AUTHORIZATION.as_str()), text(AUTHOR));
        by.map_err(|denied| {
            let status = match denied {
                Denied::NoToken | Denied::Unknown => StatusCode::UNAUTHORIZED,
                Denied::Remote | Denied::Relayed(_) => StatusCode::FORBIDDEN,
                Denied::File(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            tracing::warn!(from = %asked.from, path = asked.path, reason = %denied, "an order was not taken");
            Problem::new(status, denied.to_string())
        })
    }

    async fn get(&self, asked: &Asked<'_>, parts: &[&str]) -> Result<Response, Problem> {
        let query = asked.query;
        match parts {
            ["nodes"] => {
                query.only(&["group", "after", "limit"])?;
                self.expect(REPORTS)?;
                Ok(json(StatusCode::OK, &self.nodes(query.get("group"), query.get("after"), limit(query)?)))
            }
            ["nodes", node] => {
                query.only(&[])?;
                self.expect(REPORTS)?;
                let view = self.node(node).ok_or_else(|| unknown(format!("the gateway {node:?} was never heard")))?;
                Ok(json(StatusCode::OK, &view))
            }
            ["documents"] => {
                query.only(&["after", "limit"])?;
                self.expect(DOCUMENTS)?;
                let after = query.get("after").map(sha256).transpose()?;
                Ok(json(StatusCode::OK, &self.documents(after, limit(query)?)))
            }
            ["documents", digest] => {
                query.only(&[])?;
                // A document may hold credentials.
                self.author(asked)?;
                let envelope = self.document(sha256(digest)?).await.map_err(problem)?;
                Ok(typed(StatusCode::OK, "application/json", envelope))
            }
            ["rollouts"] => {
                query.only(&[])?;
                self.expect(LOG)?;
                Ok(json(StatusCode::OK, &json!({ "items": self.rollouts() })))
            }
            ["rollouts", id] => {
                query.only(&[])?;
                self.expect(LOG)?;
                let view =
                    self.rollout(id, usize::MAX).ok_or_else(|| unknown(format!("there is no roll-out {id:?}")))?;
                Ok(json(StatusCode::OK, &view))
            }
            ["history"] => {
                query.only(&["node", "limit"])?;
                self.expect(LOG)?;
                Ok(json(StatusCode::OK, &self.history(query.get("node"), limit(query)?)))
            }
            ["keyrings"] | ["log", "raise"] => Err(not_allowed(asked.path, "POST")),
            _ => Err(unknown(format!("there is no {}; there are {}", asked.path, PATHS.join(", ")))),
        }
    }

    async fn order_of(&self, asked: &Asked<'_>, parts: &[&str], by: &str, body: &[u8]) -> Result<Response, Problem> {
        let done = |is_new: bool| if is_new { StatusCode::CREATED } else { StatusCode::OK };
        match (asked.method, parts) {
            (&Method::POST, ["documents"]) => {
                let stored = self.upload(body, by).await.map_err(problem)?;
                tracing::info!(by, version = stored.version, sha256 = %stored.sha256, "a document was stored");
                let answer = json!({
                    "sha256": stored.sha256,
                    "version": stored.version,
                    "warnings": stored.warnings,
                });
                Ok(json(done(!stored.was_there), &answer))
            }
            (&Method::POST, ["keyrings"]) => {
                let (version, was_there) = self.upload_keyring(body, by).await.map_err(problem)?;
                tracing::info!(by, version, "a keyring was stored");
                Ok(json(done(!was_there), &json!({ "version": version })))
            }
            (&Method::POST, ["rollouts"]) => {
                let order: Order = read(body)?;
                let (is_new, warnings) = self.create(&order, by).await.map_err(problem)?;
                tracing::info!(by, rollout = order.id, "a roll-out was ordered");
                let answer = json!({ "rollout": self.rollout(&order.id, usize::MAX), "warnings": warnings });
                Ok(json(done(is_new), &answer))
            }
            (&Method::POST, ["rollouts", id, action]) if ACTIONS.contains(action) => {
                let act: Act = if body.is_empty() { Act::default() } else { read(body)? };
                self.act(id, action, &act, by).await.map_err(problem)?;
                tracing::info!(by, rollout = id, action, "a roll-out was changed");
                Ok(json(StatusCode::OK, &json!({ "rollout": self.rollout(id, usize::MAX) })))
            }
            (&Method::POST, ["log", "raise"]) => {
                expect_json(asked)?;
                let raise: Raise = if body.is_empty() { Raise::default() } else { read(body)? };
                let index = self.raise(raise.to, by).await.map_err(problem)?;
                tracing::warn!(by, index, "the numbers of assignments were raised");
                Ok(json(StatusCode::OK, &json!({ "log": index })))
            }
            (&Method::POST, ["nodes", node, "devices", device, "commands"]) => {
                let order: CommandOrder = read(body)?;
                let (id, expires) = self.command((node, device), order, by).await.map_err(problem)?;
                tracing::info!(by, node, device, id, "a command was sent");
                Ok(json(StatusCode::CREATED, &json!({ "id": id, "expires": expires.to_string() })))
            }
            (&Method::DELETE, ["nodes", node]) if is_node(node) => {
                self.depart(node, by).await.map_err(problem)?;
                tracing::info!(by, node, "a gateway was taken out");
                Ok(json(StatusCode::OK, &json!({ "node": node })))
            }
            (&Method::DELETE, ["nodes", node, "key"]) if is_node(node) => {
                self.release(node, by).await.map_err(problem)?;
                tracing::info!(by, node, "the key of a gateway was reset");
                Ok(json(StatusCode::OK, &json!({ "node": node })))
            }
            (_, ["rollouts", _, _]) => {
                Err(unknown(format!("a roll-out takes POST of {}", ACTIONS.map(|a| format!("/{a}")).join(", "))))
            }
            (_, ["documents" | "rollouts" | "keyrings"]) => Err(not_allowed(asked.path, "POST")),
            (_, ["nodes" | "history"] | ["documents" | "rollouts", _]) => Err(not_allowed(asked.path, "GET, HEAD")),
            (_, ["nodes", _, "key"]) => Err(not_allowed(asked.path, "DELETE")),
            (_, ["nodes", _]) => Err(not_allowed(asked.path, "GET, HEAD, DELETE")),
            _ => Err(unknown(format!("there is no {}; there are {}", asked.path, PATHS.join(", ")))),
        }
    }

    /// What a half-read topic says would be wrong.
    fn expect(&self, which: usize) -> Result<(), Problem> {
        match self.topic_state(which) {
            TopicState::Read => Ok(()),
            TopicState::Reading => {
                let text = "this process has just started and is still reading; try again in a moment";
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, text))
            }
            TopicState::Problem(why) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)),
        }
    }
}

/// The answer when there is no such thing.
pub(in crate::cloud) fn unknown(text: String) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, text)
}

/// The answer to another method.
pub(in crate::cloud) fn not_allowed(path: &str, methods: &'static str) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} answers {methods}")).allowing(methods)
}

/// The answer to an order that is not carried out.
pub(in crate::cloud) fn problem(error: OrderError) -> Problem {
    let status = match &error {
        OrderError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
        OrderError::Unknown(_) => StatusCode::NOT_FOUND,
        OrderError::Conflict(_) => StatusCode::CONFLICT,
        OrderError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        OrderError::Later(_) => StatusCode::ACCEPTED,
    };
    Problem::new(status, error.to_string())
}

/// A page of another site can make a browser post a form here, from this machine, but not this media type.
pub(in crate::cloud) fn expect_json(asked: &Asked<'_>) -> Result<(), Problem> {
    let kind = asked.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let text = "an order is JSON: send content-type: application/json";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text))
}

/// What says itself that it is too large is not read at all.
fn expect_length(asked: &Asked<'_>, bytes_max: usize) -> Result<(), Problem> {
    let length = asked.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > bytes_max) { Err(too_large(bytes_max)) } else { Ok(()) }
}

/// The order in a body.
pub(in crate::cloud) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map_err(|e| Problem::new(StatusCode::BAD_REQUEST, format!("the order cannot be read: {e}")))
}

/// The length of a page.
pub(in crate::cloud) fn limit(query: &Query) -> Result<usize, Problem> {
    let Some(text) = query.get("limit") else { return Ok(PAGE) };
    text.parse().ok().filter(|n| (1..=PAGE_MAX).contains(n)).ok_or_else(|| {
        Problem::new(StatusCode::BAD_REQUEST, format!("limit is {text:?}; write a number from 1 to {PAGE_MAX}"))
    })
}

fn sha256(text: &str) -> Result<Digest, Problem> {
    let wrong = || Problem::new(StatusCode::BAD_REQUEST, format!("{text:?} is no SHA-256: 64 hexadecimal digits"));
    Digest::parse(text).ok_or_else(wrong)
}

/// The segments of a path after its version.
pub(in crate::cloud) fn path_parts(path: &str) -> Result<Vec<String>, Problem> {
    path.split('/').skip(2).map(decoded).collect()
}

fn decoded(part: &str) -> Result<String, Problem> {
    let decoded = percent_decode_str(part).decode_utf8().map(|text| text.into_owned());
    decoded.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the path is not UTF-8"))
}
