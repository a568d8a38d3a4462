//! Commands and configurations of devices: operators send them, devices take and answer them.
//!
//! ```text
//! POST   /v1/devices/{device}/commands              an operator sends one → 201
//! GET    /v1/devices/{device}/commands              the device takes them: Server-Sent Events, or a long poll
//! GET    /v1/devices/{device}/commands/{id}         where it is; ?wait=30s: until it is over
//! DELETE /v1/devices/{device}/commands/{id}         an operator takes it back
//! POST   /v1/devices/{device}/commands/{id}/result  the device answers
//! GET, PUT, DELETE /v1/devices/{device}/config      the newest counts; If-None-Match and ?wait=30s to wait for a newer one
//! ```
//! Who waits holds no body, takes one of [`listeners_max`] places, and costs nothing while nothing happens.

mod config;
mod json;
mod send;
mod stream;
mod take;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use hyper::header::HeaderValue;
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};
use percent_encoding::percent_decode_str;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Shared;
use super::body::{Bounds, gather};
use super::caller;
use super::events::admit;
use super::problem::{self, Answer};
use crate::config::units::parse_duration;
use crate::downlink::commands::command::{check_device, check_id};
use crate::downlink::commands::{CommandError, NotStored, Refused};
use crate::ingest::identity::{self, Identity};
use crate::ingest::refusal::{Kind, Refusal};
use crate::journal::{AppendError, JournalError};

/// Longest wait for the disk before the sender is told.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Who may wait at once, of `connections_max`: a quarter is left for everything else, so that devices that listen cannot keep
/// out those that send.
pub fn listeners_max(connections_max: usize) -> usize {
    (connections_max / 4 * 3).max(1)
}

/// What a request is about; device and id as in the path, percent-encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// `…/commands`
    All(&'a str),
    /// `…/commands/{id}`
    One(&'a str, &'a str),
    /// `…/commands/{id}/result`
    Result(&'a str, &'a str),
    /// `…/config`
    Config(&'a str),
}

impl<'a> Target<'a> {
    /// Reads a path; one slash at its end does no harm.
    pub fn of(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix("/v1/devices/")?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let mut levels = rest.split('/');
        let device = levels.next().filter(|d| !d.is_empty())?;
        let target = match (levels.next()?, levels.next(), levels.next()) {
            ("config", None, None) => Self::Config(device),
            ("commands", None, None) => Self::All(device),
            ("commands", Some(id), None) if !id.is_empty() => Self::One(device, id),
            ("commands", Some(id), Some("result")) if !id.is_empty() => Self::Result(device, id),
            _ => return None,
        };
        levels.next().is_none().then_some(target)
    }

    fn allowed(self) -> &'static str {
        match self {
            Self::All(_) => "GET, POST",
            Self::One(..) => "GET, DELETE",
            Self::Result(..) => "POST",
            Self::Config(_) => "GET, PUT, DELETE",
        }
    }
}

/// What someone wants with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take its commands and configuration, answer them: the device itself, or an operator.
    Take,
    /// Send it something, or take that back: an operator.
    Send,
}

/// Who a request speaks for, as far as this file wants to know.
pub trait Speaker: Sync {
    /// May send commands to devices.
    fn is_operator(&self) -> bool;
    /// May speak for this device.
    fn may_speak_for(&self, device: &str) -> bool;
}

impl Speaker for Identity {
    fn is_operator(&self) -> bool {
        Identity::is_operator(self)
    }

    fn may_speak_for(&self, device: &str) -> bool {
        Identity::may_speak_for(self, device)
    }
}

fn authorize(who: &dyn Speaker, device: &str, action: Action) -> Result<(), Refusal> {
    match action {
        _ if who.is_operator() => Ok(()),
        Action::Take if who.may_speak_for(device) => Ok(()),
        Action::Take => Err(Refusal::new(
            Kind::Forbidden,
            format!("only device {device:?} itself or an operator may do this; these credentials are another's"),
        )),
        Action::Send => Err(Refusal::new(
            Kind::Forbidden,
            "only an operator may do this; give the credential the role operator in the devices file",
        )),
    }
}

fn denied(device: &str, action: Action) -> identity::Refused<'_> {
    match action {
        Action::Take => identity::Refused::Subject(device),
        Action::Send => identity::Refused::Operator(device),
    }
}

/// Answers a request whose path is a [`Target`]. `true`: a part of the body was left on the wire.
pub async fn serve(shared: &Arc<Shared>, who: &Identity, request: Request<Incoming>) -> (Answer, bool) {
    let (head, mut body) = request.into_parts();
    let answered = answer(shared, who, &head, &mut body).await;
    let body_left = !body.is_end_stream();
    let response = answered.unwrap_or_else(|refusal| {
        shared.counters.refused(refusal.kind);
        tracing::debug!(path = head.uri.path(), status = refusal.kind.facts().status, %refusal, "refused");
        let mut response = problem::answer(&refusal);
        if let Some(accepted) = response.headers_mut().get_mut("accept-post") {
            *accepted = HeaderValue::from_static("application/json");
        }
        whole(response)
    });
    (response, body_left)
}

async fn answer(shared: &Arc<Shared>, who: &Identity, head: &Parts, body: &mut Incoming) -> Result<Answer, Refusal> {
    let Some(target) = Target::of(head.uri.path()) else {
        return Err(Refusal::new(Kind::NotFound, "there is nothing at this path"));
    };
    let (Target::All(device) | Target::One(device, _) | Target::Result(device, _) | Target::Config(device)) = target;
    let device = &*decode(device)?;
    let action = match (&head.method, target) {
        (&Method::GET, _) | (&Method::POST, Target::Result(..)) => Action::Take,
        _ => Action::Send,
    };
    check_device(device).map_err(|e| Refusal::new(Kind::BadRequest, e))?;
    // Before all else, so that nobody learns what there is.
    authorize(who, device, action).inspect_err(|_| shared.gateway.gate.refused(who, &denied(device, action)))?;
    let response = match (&head.method, target) {
        (&Method::GET, Target::All(_)) => return take::all(shared, who, device, head).await,
        (&Method::POST, Target::All(_)) => send::post(shared, who, device, head, body).await?,
        (&Method::GET, Target::One(_, id)) => take::one(shared, who, device, &id_of(id)?, head).await?,
        (&Method::DELETE, Target::One(_, id)) => send::cancel(shared, device, &id_of(id)?).await?,
        (&Method::POST, Target::Result(_, id)) => take::result(shared, who, device, &id_of(id)?, body).await?,
        (&Method::GET, Target::Config(_)) => config::get(shared, who, device, head).await?,
        (&Method::PUT, Target::Config(_)) => config::put(shared, who, device, head, body).await?,
        (&Method::DELETE, Target::Config(_)) => config::delete(shared, device).await?,
        _ => problem::method_not_allowed(target.allowed()),
    };
    Ok(whole(response))
}

fn whole(response: Response<Full<Bytes>>) -> Answer {
    response.map(Either::Left)
}

fn decode(encoded: &str) -> Result<Cow<'_, str>, Refusal> {
    percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_| Refusal::new(Kind::BadRequest, "the path is not UTF-8 once percent-decoded"))
}

fn id_of(encoded: &str) -> Result<Cow<'_, str>, Refusal> {
    let id = decode(encoded)?;
    check_id(&id).map_err(|e| Refusal::new(Kind::BadRequest, e))?;
    Ok(id)
}

/// The body, with at most `bytes_max` of it. It is not compressed: nothing here is large.
async fn body_of(shared: &Shared, who: &Identity, body: &mut Incoming, bytes_max: u64) -> Result<Bytes, Refusal> {
    let mut lease = shared.budget.lease();
    let bounds = Bounds { max_bytes: bytes_max, timeout: shared.gateway.http.now().body_timeout };
    let body = gather(body, bounds, &mut lease).await?;
    // A device's answer is an event like its others. Operators must get through also when devices use everything up.
    let events = usize::from(!who.is_operator());
    admit(shared, who, events, events * body.len())?;
    Ok(body)
}

/// The value of each of these query parameters; another one is refused.
fn query<const N: usize>(head: &Parts, names: [&str; N]) -> Result<[Option<String>; N], Refusal> {
    let mut found = [const { None }; N];
    for pair in head.uri.query().unwrap_or_default().split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(slot) = names.iter().position(|n| *n == name).and_then(|i| found.get_mut(i)) else {
            let known = if N == 0 { "none".to_owned() } else { names.join(", ") };
            let detail = format!("query parameter {name:?} is not known; there is {known}");
            return Err(Refusal::new(Kind::BadRequest, detail));
        };
        let value = decode(value)?.into_owned();
        if value.is_empty() || slot.replace(value).is_some() {
            return Err(Refusal::new(Kind::BadRequest, format!("query parameter {name:?} is empty or given twice")));
        }
    }
    Ok(found)
}

/// `?wait=`, cut to `commands.max_wait`.
fn wait_of(shared: &Shared, wait: Option<&str>) -> Result<Duration, Refusal> {
    let Some(text) = wait else { return Ok(Duration::ZERO) };
    let wait = parse_duration(text).map_err(|e| Refusal::new(Kind::BadRequest, format!("wait: {e}")))?;
    Ok(wait.min(shared.gateway.commands.wait_max()))
}

/// A place among those who wait, given back when dropped.
struct Place {
    _permit: OwnedSemaphorePermit,
    shown: prometheus_client::metrics::gauge::Gauge,
}

impl Place {
    fn take(shared: &Shared) -> Result<Self, Refusal> {
        let permit = shared.listeners.clone().try_acquire_owned().map_err(|_| {
            Refusal::new(
                Kind::TooManyListeners,
                format!(
                    "{} devices wait already; three quarters of http.max_connections may: raise it, or poll without ?wait=",
                    listeners_max(shared.gateway.http.now().max_connections)
                ),
            )
        })?;
        let shown = shared.counters.listeners_open.clone();
        shown.inc();
        Ok(Self { _permit: permit, shown })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shown.dec();
    }
}

/// Looks until there is something, `wait` is over or the gateway stops. Whoever's right ends meanwhile learns nothing more.
async fn patiently<T, F: Future<Output = Result<Option<T>, CommandError>>>(
    shared: &Shared,
    who: &Identity,
    device: &str,
    wait: Duration,
    look: impl Fn() -> F,
) -> Result<Option<T>, Refusal> {
    if wait.is_zero() {
        return in_time(look()).await;
    }
    let _place = Place::take(shared)?;
    let mut watch = shared.gateway.commands.subscribe(device);
    // A child: waiting on the one token of all connections would make each wake-up take its lock.
    let stopping = shared.stopping.child_token();
    let end = Instant::now() + wait;
    loop {
        let found = in_time(look()).await?;
        if who.is_revoked() {
            return Err(caller::revoked());
        }
        if found.is_some() {
            return Ok(found);
        }
        tokio::select! {
            biased;
            () = who.revoked().cancelled() => return Err(caller::revoked()),
            () = stopping.cancelled() => return Ok(None),
            () = tokio::time::sleep_until(end) => return Ok(None),
            () = watch.changed() => {}
        }
    }
}

/// Waits for the disk within [`COMMIT_TIMEOUT`].
async fn in_time<T>(work: impl Future<Output = Result<T, CommandError>>) -> Result<T, Refusal> {
    match tokio::time::timeout(COMMIT_TIMEOUT, work).await {
        Ok(result) => result.map_err(|e| refusal(&e)),
        Err(_) => Err(Refusal::new(
            Kind::DiskSlow,
            format!("the disk did not confirm within {} s; repeat the request", COMMIT_TIMEOUT.as_secs()),
        )),
    }
}

fn refusal(e: &CommandError) -> Refusal {
    let kind = match e {
        CommandError::Refused(Refused::Conflict { .. }) => Kind::IdConflict,
        CommandError::Refused(Refused::DeviceFull { .. }) => Kind::TooManyCommands,
        CommandError::Refused(Refused::Full { .. }) => Kind::CommandsFull,
        CommandError::Refused(Refused::TooLarge { .. }) => Kind::CommandTooLarge,
        CommandError::Unwritten(AppendError::Closed)
        | CommandError::NotDurable(JournalError::Closed)
        | CommandError::NotStored(NotStored::Closed(_)) => Kind::ShuttingDown,
        CommandError::NotStored(NotStored::Full(_)) => Kind::OutboxFull,
        CommandError::NotStored(NotStored::Busy(_)) => Kind::Busy,
        CommandError::NotStored(NotStored::TooLarge(_)) => Kind::EventTooLarge,
        CommandError::Unwritten(_) | CommandError::NotDurable(_) | CommandError::NotStored(NotStored::Disk(_)) => {
            Kind::DiskFailed
        }
        CommandError::Unknown { .. } => Kind::NotFound,
    };
    Refusal::new(kind, e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_strictly() {
        assert_eq!(Target::of("/v1/devices/a%2Fb/commands"), Some(Target::All("a%2Fb")));
        assert_eq!(Target::of("/v1/devices/d/commands/"), Some(Target::All("d")));
        assert_eq!(Target::of("/v1/devices/d/commands/1"), Some(Target::One("d", "1")));
        assert_eq!(Target::of("/v1/devices/d/commands/1/result"), Some(Target::Result("d", "1")));
        assert_eq!(Target::of("/v1/devices/d/config"), Some(Target::Config("d")));
        for other in [
            "/v1/devices//commands",
            "/v1/devices/d/command",
            "/v1/devices/d/commands//result",
            "/v1/devices/d/commands/1/result/x",
            "/v1/devices/d/commands/1/results",
            "/v1/devices/d/config/x",
            "/v1/devices/d/events",
            "/v1/devices/d",
            "/",
        ] {
            assert_eq!(Target::of(other), None, "{other}");
        }
    }

    struct Device(&'static str);

    impl Speaker for Device {
        fn is_operator(&self) -> bool {
            false
        }

        fn may_speak_for(&self, device: &str) -> bool {
            self.0 == device
        }
    }

    struct Operator;

    impl Speaker for Operator {
        fn is_operator(&self) -> bool {
            true
        }

        fn may_speak_for(&self, _: &str) -> bool {
            false
        }
    }

    #[test]
    fn a_device_takes_its_own_and_sends_nothing() {
        assert_eq!(authorize(&Device("d"), "d", Action::Take), Ok(()));
        assert_eq!(authorize(&Device("d"), "e", Action::Take).unwrap_err().kind, Kind::Forbidden);
        assert_eq!(authorize(&Device("d"), "d", Action::Send).unwrap_err().kind, Kind::Forbidden);
        assert_eq!(authorize(&Operator, "d", Action::Send), Ok(()));
    }

    #[test]
    fn there_is_always_a_place_and_never_all_of_them() {
        assert_eq!(listeners_max(1), 1);
        assert_eq!(listeners_max(10_240), 7680);
    }
}
