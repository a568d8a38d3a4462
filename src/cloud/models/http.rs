//! The part of the interface for operators that is about models.
//!
//! ```text
//! GET  /v1/models?after=&limit=          the newest version of each
//! GET  /v1/models/{name}                 all that is known of one: versions, who and when, what a publication is at
//! POST /v1/models/{name}/assign          {version, mode, nodes, groups, all, reason}: which gateways have it, at once
//! POST /v1/models/{name}/rollouts        {version, mode, id, nodes, groups, all, plan, reason, start, rollback, skip_busy}
//!                                        → 201, or 200; what is done with it afterwards is under /v1/rollouts
//! POST /v1/models/{name}/versions        one line with the signed manifest, then the file → 201, or 200 when it was there
//! ```
//! A version is answered when gateways can fetch it. 202: it is stored, and was not read back yet; 409: it does not fit what is
//! published; 413, 422: it can never be taken, as it is; 503: send it again, it goes on where it stopped.

use bytes::Buf;
use futures_util::Stream;
use warp::http::{Method, StatusCode, header};
use warp::reply::Response;

use super::catalogue::Void;
use super::publish::Stored;
use super::upload::{Incoming, UploadError};
use super::{Class, Models, PublishError};
use crate::cloud::api::answer::{Problem, json};
use crate::cloud::api::body::Bodies;
use crate::cloud::control::http::{self as orders, Asked, expect_json, limit, not_allowed, path_parts, read, unknown};
use crate::cloud::control::models::{AssignOrder, RolloutOrder};
use crate::cloud::control::orders::OrderError;
use crate::downlink::artefact::{KeyId, Mode, ModelAssigned};
use crate::models::manifest::Name;

/// The path of this part.
pub const PATH: &str = "/v1/models";

/// Largest order: 100,000 names of 64 characters, with room.
const ORDER_BYTES_MAX: usize = orders::BODY_BYTES_MAX;

/// Gateways that an answer names.
const NODES_SHOWN: usize = 100;

/// What a body must be called: a page of another site cannot make a browser post it.
const MEDIA_TYPE: &str = "application/octet-stream";

/// Whether `path` is answered here.
pub fn is_here(path: &str) -> bool {
    path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Models {
    /// Answers one request.
    pub async fn answer<B: Buf>(
        &self,
        asked: &Asked<'_>,
        body: impl Stream<Item = Result<B, warp::Error>>,
        bodies: &Bodies,
    ) -> Result<Response, Problem> {
        let parts = path_parts(asked.path)?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match (asked.method, &parts[..]) {
            (&(Method::GET | Method::HEAD), ["models"]) => {
                asked.query.only(&["after", "limit"])?;
                self.expect_read().map_err(|e| problem(&e))?;
                Ok(json(StatusCode::OK, &self.list(asked.query.get("after"), limit(asked.query)?)))
            }
            (&(Method::GET | Method::HEAD), ["models", name]) => {
                asked.query.only(&[])?;
                self.expect_read().map_err(|e| problem(&e))?;
                let view = Name::parse(name).and_then(|name| self.show(&name));
                Ok(json(StatusCode::OK, &view.ok_or_else(|| unknown(format!("there is no model {name:?}")))?))
            }
            (&Method::POST, ["models", name, "versions"]) => {
                let by = self.0.control.author(asked)?;
                asked.query.only(&[])?;
                expect_media_type(asked)?;
                self.take_in(name, &by, body).await
            }
            (&Method::POST, ["models", name, "assign"]) => {
                let by = self.0.control.author(asked)?;
                asked.query.only(&[])?;
                expect_json(asked)?;
                let body = bodies.gather(body, ORDER_BYTES_MAX).await?;
                self.assign(name, &read(&body.bytes)?, &by).await
            }
            (_, ["models"] | ["models", _]) => Err(not_allowed(asked.path, "GET, HEAD")),
            (&Method::POST, ["models", name, "rollouts"]) => {
                let by = self.0.control.author(asked)?;
                asked.query.only(&[])?;
                expect_json(asked)?;
                let body = bodies.gather(body, ORDER_BYTES_MAX).await?;
                self.roll_out(name, read(&body.bytes)?, &by).await
            }
            (_, ["models", _, "versions" | "assign" | "rollouts"]) => Err(not_allowed(asked.path, "POST")),
            _ => Err(unknown(format!(
                "there is no {}; there are {PATH}, {PATH}/{{name}}, its /versions, /assign and /rollouts",
                asked.path
            ))),
        }
    }

    async fn assign(&self, name: &str, order: &AssignOrder, by: &str) -> Result<Response, Problem> {
        self.expect_read().map_err(|e| problem(&e))?;
        let model = self.assigned(name, order.version, order.mode).map_err(orders::problem)?;
        let (version, mode) = (model.version, model.mode.text());
        let given = self.0.control.assign_model(model, order, by).await.map_err(orders::problem)?;
        tracing::info!(by, model = name, version, mode, nodes = given.nodes.len(), "a model was assigned");
        let nodes: Vec<&str> = given.nodes.iter().take(NODES_SHOWN).map(|node| node.as_str()).collect();
        let answer = serde_json::json!({
            "name": name,
            "version": version,
            "mode": mode,
            "nodes": given.nodes.len(),
            "named": nodes,
            "warnings": given.warnings,
        });
        Ok(json(StatusCode::OK, &answer))
    }

    async fn roll_out(&self, name: &str, order: RolloutOrder, by: &str) -> Result<Response, Problem> {
        self.expect_read().map_err(|e| problem(&e))?;
        let model = self.assigned(name, order.version, order.mode).map_err(orders::problem)?;
        let (version, mode, control) = (model.version, model.mode.text(), &self.0.control);
        let order = order.of(model);
        let (is_new, warnings) = control.create(&order, by).await.map_err(orders::problem)?;
        tracing::info!(by, rollout = order.id, model = name, version, mode, "a roll-out of a model was ordered");
        let answer = serde_json::json!({ "rollout": control.rollout(&order.id, usize::MAX), "warnings": warnings });
        Ok(json(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &answer))
    }

    /// The version that an order names: published whole, and signed by a key that still counts.
    fn assigned(&self, name: &str, version: Option<u64>, mode: Mode) -> Result<ModelAssigned, OrderError> {
        let trust = self.0.control.trust().map_err(|why| OrderError::Unavailable(format!("the catalogue {why}")))?;
        let shared = self.lock();
        let none = || {
            OrderError::Unknown(format!(
                "there is no model {name:?}; \"tidegate model list\" shows those that there are"
            ))
        };
        let name = Name::parse(name).ok_or_else(none)?;
        let mut versions = shared.catalogue.versions(&name).ok_or_else(none)?;
        let found = match version {
            Some(version) => shared.catalogue.get(&name, version).ok_or_else(|| {
                OrderError::Unknown(format!("version {version} of model {name} is not published, or forgotten"))
            })?,
            // Whatever version it is that is not used any more.
            None if mode == Mode::Off => versions.next().ok_or_else(none)?,
            None => return Err(OrderError::Refused("name the version".to_owned())),
        };
        let is_revoked = KeyId::parse(&found.signer).is_ok_and(|id| trust.is_revoked(id));
        if is_revoked && mode != Mode::Off {
            let (version, signer) = (found.manifest.version, &found.signer);
            let text = format!(
                "version {version} is signed by {signer}, which is revoked: gateways refuse it; publish it again"
            );
            return Err(OrderError::Refused(text));
        }
        let (version, digest) = (found.manifest.version, found.digest);
        Ok(ModelAssigned { name: name.clone(), version, digest, mode })
    }

    async fn take_in<B: Buf>(
        &self,
        name: &str,
        by: &str,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Result<Response, Problem> {
        let full = |_| {
            let max = self.0.config.uploads_max;
            let text =
                format!("{max} models are being taken in, which is the most (models.uploads_max); send it again later");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, text)
        };
        let _place = self.0.places.clone().try_acquire_owned().map_err(full)?;
        let mut incoming = Incoming::new(body);
        match self.publish_from(name, by, &mut incoming).await {
            Ok(stored) => {
                let status = if stored.was_there { StatusCode::OK } else { StatusCode::CREATED };
                Ok(json(status, &self.stored(&stored)))
            }
            Err(error) => {
                incoming.drain().await;
                let code = match &error {
                    UploadError::Publish(e) => e.code(),
                    _ => "broken-off",
                };
                self.0.meters.refused(code);
                tracing::warn!(model = name, by, code, reason = %error, "a model was not published");
                Err(match error {
                    UploadError::Publish(e) => problem(&e),
                    UploadError::Slow => Problem::new(StatusCode::REQUEST_TIMEOUT, error.to_string()),
                    _ => Problem::new(StatusCode::BAD_REQUEST, error.to_string()),
                })
            }
        }
    }

    async fn publish_from<S, B>(&self, name: &str, by: &str, incoming: &mut Incoming<S>) -> Result<Stored, UploadError>
    where
        S: Stream<Item = Result<B, warp::Error>>,
        B: Buf,
    {
        let manifest = incoming.manifest().await?;
        let (signed, there) = self.judge(&manifest)?;
        let manifest = signed.manifest();
        if manifest.name.as_str() != name {
            return Err(PublishError::OtherName { manifest: manifest.name.clone(), asked: name.to_owned() }.into());
        }
        if let Some(stored) = there {
            incoming.drain().await;
            return Ok(stored);
        }
        let file = incoming.file(manifest.size, &self.0.config.dir).await?;
        Ok(self.publish(signed, file, by).await?)
    }
}

fn expect_media_type(asked: &Asked<'_>) -> Result<(), Problem> {
    let kind = asked.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.eq_ignore_ascii_case(MEDIA_TYPE) {
        return Ok(());
    }
    let text = format!("a model is sent as content-type: {MEDIA_TYPE}");
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text))
}

fn problem(error: &PublishError) -> Problem {
    let status = match error {
        PublishError::Void(Void::NotHigher { .. }) | PublishError::Begun { .. } => StatusCode::CONFLICT,
        PublishError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        PublishError::NotReadBack => StatusCode::ACCEPTED,
        _ if error.class() == Class::Later => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Problem::new(status, format!("{}: {error}", error.code()))
}
