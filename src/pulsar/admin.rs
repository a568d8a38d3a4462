//! Pulsar's admin REST interface: one cluster, one request at a time, and errors that name the way out.
//! Blocking: provisioning and the command line use it, nothing on an event's path does.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::admin_error::{AdminError, refused, transport};
use super::credentials::{Credentials, CredentialsError};
use crate::security::tls::{self, TlsError};

/// Time to connect, TLS included: a broker across the world answers in one second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a whole request. Creating 100 partitions takes seconds on a slow cluster; the Java client waits five minutes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest answer read. The longest we ask for is a broker's configuration, some 40 KB.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// Brokers of a cluster send a request on to the one that owns the namespace; two hops are usual.
const REDIRECTS_MAX: usize = 5;
/// Longest token taken; headers of 8 KiB are what Pulsar's web server accepts.
const TOKEN_BYTES_MAX: usize = 7 << 10;

/// A request that changes something, as data: the plan makes them, [`Admin::change`] sends them.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// How.
    pub verb: Verb,
    /// Where, below `/admin/v2`, already percent-encoded.
    pub path: String,
    /// JSON body.
    pub body: Option<Value>,
}

/// HTTP method of a [`Change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Creates; 409 if it is there.
    Put,
    /// Sets.
    Post,
}

/// What became of a [`Change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Done.
    Done,
    /// Another one created it in the meantime (409): whether it is as wished is for the next look to say.
    WasThere,
}

/// The admin interface of one cluster.
#[derive(Debug)]
pub struct Admin {
    base: String,
    agent: Agent,
    authorization: Option<HeaderValue>,
}

impl Admin {
    /// Prepares requests to `url` (`http://` or `https://`); connects to nothing yet. Trusts the authorities in
    /// `ca_file` and nobody else; without a file, the public ones.
    pub fn new(url: &str, credentials: &Credentials, ca_file: Option<&Path>) -> Result<Self, AdminError> {
        let base = base(url)?;
        let roots = match ca_file {
            Some(file) if base.starts_with("https:") => roots(file)?,
            _ => RootCerts::WebPki,
        };
        // The provider is named here because ureq without one panics at the first https request.
        let tls = TlsConfig::builder()
            .root_certs(roots)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            // Pulsar redirects PUT and POST with their bodies and wants the token again; ureq refuses both.
            .max_redirects(0)
            // Admin interfaces are on the inside: a proxy of the environment must not see tokens.
            .proxy(None)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(REQUEST_TIMEOUT))
            .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Self { base, agent, authorization: authorization(credentials)? })
    }

    /// The URL this was made with, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Reads `path` below `/admin/v2`. `None`: Pulsar says that it does not exist.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, AdminError> {
        let answer = self.send(&Method::GET, path, None)?;
        if answer.status == StatusCode::NOT_FOUND && answer.reason().is_some() {
            return Ok(None);
        }
        if !answer.status.is_success() {
            return Err(self.refusal(answer));
        }
        // A setting that was never made is an empty answer.
        let text: &[u8] = if answer.body.is_empty() { b"null" } else { &answer.body };
        serde_json::from_slice(text)
            .map(Some)
            .map_err(|e| AdminError::Answer { url: answer.url.clone(), reason: e.to_string() })
    }

    /// Sends `change`.
    pub fn change(&self, change: &Change) -> Result<Changed, AdminError> {
        let method = match change.verb {
            Verb::Put => Method::PUT,
            Verb::Post => Method::POST,
        };
        let answer = self.send(&method, &change.path, change.body.as_ref())?;
        match answer.status {
            s if s.is_success() => Ok(Changed::Done),
            StatusCode::CONFLICT => Ok(Changed::WasThere),
            _ => Err(self.refusal(answer)),
        }
    }

    /// Whether the namespace itself has deduplication on. `None`: no such namespace, or left to the broker's default.
    pub fn namespace_deduplication(&self, tenant: &str, namespace: &str) -> Result<Option<bool>, AdminError> {
        self.get::<Option<bool>>(&format!("namespaces/{}/{}/deduplication", encode(tenant), encode(namespace)))
            .map(Option::flatten)
    }

    fn send(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Answer, AdminError> {
        let mut url = format!("{}/admin/v2/{path}", self.base);
        let bytes = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.send_once(method, &url, &bytes)?;
            match answer.location {
                Some(next) => url = follow(&url, &next)?,
                None => return Ok(answer),
            }
        }
        Err(AdminError::Redirect { url, reason: format!("more than {REDIRECTS_MAX} redirects") })
    }

    fn send_once(&self, method: &Method, url: &str, body: &[u8]) -> Result<Answer, AdminError> {
        let mut request = Request::builder().method(method).uri(url).header(header::ACCEPT, "application/json");
        if let Some(value) = &self.authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let sent = if method == Method::GET {
            request.body(()).map_err(ureq::Error::from).and_then(|r| self.agent.run(r))
        } else {
            let request = request.header(header::CONTENT_TYPE, "application/json");
            request.body(body).map_err(ureq::Error::from).and_then(|r| self.agent.run(r))
        };
        sent.and_then(|response| Answer::read(url, response)).map_err(|e| transport(url, &e))
    }

    fn refusal(&self, answer: Answer) -> AdminError {
        refused(&answer.url, answer.status.as_u16(), answer.reason(), self.authorization.is_some())
    }
}

/// An answer, read to its end.
struct Answer {
    url: String,
    status: StatusCode,
    location: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    fn read(url: &str, response: Response<Body>) -> Result<Self, ureq::Error> {
        let status = response.status();
        let location = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let body = response.into_body().into_with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
        Ok(Self { url: url.to_owned(), status, location: location.filter(|_| status.is_redirection()), body })
    }

    /// Pulsar's own reason: every refusal of its REST layer is `{"reason": …}`; a 404 without it comes from
    /// something that is not Pulsar's admin interface (seen with 4.0.7: an HTML page for a path it does not have).
    fn reason(&self) -> Option<String> {
        let value: Value = serde_json::from_slice(&self.body).ok()?;
        Some(value.get("reason")?.as_str()?.to_owned())
    }
}

/// Percent-encodes one segment of a path.
pub fn encode(segment: &str) -> String {
    const KEEP: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    percent_encoding::utf8_percent_encode(segment, KEEP).to_string()
}

fn base(url: &str) -> Result<String, AdminError> {
    let bad = |reason: &str| AdminError::Url { url: url.to_owned(), reason: reason.to_owned() };
    let uri: Uri = url.parse().map_err(|e| bad(&format!("{e}")))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        Some("pulsar" | "pulsar+ssl") => {
            return Err(bad("this is a service URL; the admin URL is the web port's, such as http://127.0.0.1:8080"));
        }
        _ => return Err(bad("it must begin with http:// or https://")),
    }
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(bad("it carries a user name; use token_file instead"));
    }
    if uri.query().is_some() {
        return Err(bad("it must end with the port or a path, without ?…"));
    }
    let trimmed = url.trim_end_matches('/');
    Ok(trimmed.strip_suffix("/admin/v2").unwrap_or(trimmed).to_owned())
}

fn follow(from: &str, to: &str) -> Result<String, AdminError> {
    let bad = |reason: String| AdminError::Redirect { url: from.to_owned(), reason };
    let uri: Uri = to.parse().map_err(|e| bad(format!("to {to:?}: {e}")))?;
    match uri.scheme_str() {
        Some("https") => Ok(to.to_owned()),
        Some("http") if from.starts_with("http:") => Ok(to.to_owned()),
        Some("http") => Err(bad(format!("from https to {to}, which would show the token to everybody on the way"))),
        _ => Err(bad(format!("to {to:?}, which is not a whole http or https URL"))),
    }
}

/// ureq makes its own TLS client from certificates and leaves out those it cannot read; [`tls::authorities`] refuses them.
fn roots(ca_file: &Path) -> Result<RootCerts, TlsError> {
    let certificates = tls::authorities(ca_file)?;
    Ok(RootCerts::from(certificates.iter().map(|der| Certificate::from_der(der).to_owned()).collect::<Vec<_>>()))
}

fn authorization(credentials: &Credentials) -> Result<Option<HeaderValue>, CredentialsError> {
    let Some(token) = credentials.token_blocking()? else { return Ok(None) };
    if token.reveal().len() > TOKEN_BYTES_MAX {
        return Err(credentials.unfit("it has more than 7 KiB, which Pulsar's web server does not take"));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
        .map_err(|_| credentials.unfit("it holds characters that no token has"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
