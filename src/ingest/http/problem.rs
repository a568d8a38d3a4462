//! Answers: a refusal as an RFC 9457 problem document, everything else as JSON or text.

use bytes::Bytes;
use http_body_util::{Either, Full, combinators::UnsyncBoxBody};
use hyper::header::{ACCEPT_ENCODING, ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::inflate;
use crate::ingest::refusal::{Kind, Place, Refusal};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An answer's body: one piece without a box on the hot path, anything elsewhere.
pub type AnswerBody = Either<Full<Bytes>, UnsyncBoxBody<Bytes, BoxError>>;

/// An answer.
pub type Answer = Response<AnswerBody>;

/// What every problem's `type` begins with; the table in `ingest::refusal` has the rest.
const TYPE_PREFIX: &str = "urn:tidegate:problem:";

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    /// Event of a JSON array, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    /// Line of an NDJSON body, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
}

/// `refusal` as a problem document.
pub fn answer(refusal: &Refusal) -> Response<Full<Bytes>> {
    let facts = refusal.kind.facts();
    let document = Document {
        r#type: format!("{TYPE_PREFIX}{}", facts.slug),
        title: facts.title,
        status: facts.status,
        detail: &refusal.detail,
        index: refusal.place.and_then(|p| if let Place::Index(i) = p { Some(i) } else { None }),
        line: refusal.place.and_then(|p| if let Place::Line(n) = p { Some(n) } else { None }),
    };
    let status = StatusCode::from_u16(facts.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = whole(status, "application/problem+json", to_json(&document));
    if let Some(seconds) = refusal.retry_after_s.or(facts.retry_after_s.map(u64::from)) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    match refusal.kind {
        Kind::Unauthorized => set(&mut response, WWW_AUTHENTICATE, CHALLENGE),
        Kind::UnsupportedEncoding => set(&mut response, ACCEPT_ENCODING, inflate::ACCEPTED),
        Kind::UnsupportedMediaType => set(&mut response, HeaderName::from_static("accept-post"), ACCEPT_POST),
        _ => {}
    }
    response
}

/// What a sender without a right credential is told to show (RFC 9110 §11.6.1, RFC 6750 §3, RFC 7617 §2.1).
const CHALLENGE: &str = "Bearer realm=\"tidegate\", Basic realm=\"tidegate\", charset=\"UTF-8\"";

/// What POST takes, for a sender that got it wrong (W3C LDP's Accept-Post).
const ACCEPT_POST: &str =
    "application/json, application/x-ndjson, application/cloudevents+json, application/cloudevents-batch+json";

/// 405, with what the path does take.
pub fn method_not_allowed(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = answer(&Refusal::new(Kind::MethodNotAllowed, format!("this path takes {allowed}")));
    set(&mut response, ALLOW, allowed);
    response
}

/// An answer that is one piece.
pub fn whole(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    set(&mut response, CONTENT_TYPE, content_type);
    response
}

/// JSON of one of our own structures.
pub fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own structures have string keys and no failing Serialize")
}

fn set<B>(response: &mut Response<B>, name: HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_refusal_is_a_document_that_names_type_and_place() {
        let response = answer(&Refusal::new(Kind::Busy, "wait").at(Some(Place::Line(2))));
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            body,
            r#"{"type":"urn:tidegate:problem:busy","title":"Too many events wait for the disk","status":429,"detail":"line 2: wait","line":2}"#
        );
    }
}
