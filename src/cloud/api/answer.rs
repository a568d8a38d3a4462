//! Reading a query and writing an answer: JSON, or a problem document (RFC 9457).

use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::json;
use warp::http::{HeaderValue, StatusCode, header};
use warp::reply::Response;

/// Longest query that is read.
const QUERY_BYTES_MAX: usize = 4096;

/// A refusal.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    /// The methods there are.
    allow: Option<&'static str>,
}

impl Problem {
    /// Refuses with `status` because of `detail`.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), allow: None }
    }

    /// With the methods that there are.
    #[must_use]
    pub fn allowing(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// Its document.
    pub fn response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("refused");
        let document = json!({"title": title, "status": self.status.as_u16(), "detail": self.detail});
        let mut response = typed(self.status, "application/problem+json", document.to_string());
        if let Some(methods) = self.allow {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

/// An answer of any kind.
pub fn typed(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer in JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(body) => typed(status, "application/json", body),
        Err(e) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).response(),
    }
}

/// The parameters of a query, each at most once.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=1&b=x%20y`.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let refuse = |why: String| Problem::new(StatusCode::BAD_REQUEST, why);
        if text.len() > QUERY_BYTES_MAX {
            return Err(refuse(format!("the query has {} bytes; at most {QUERY_BYTES_MAX} are read", text.len())));
        }
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |part: &str| {
                let spaced = part.replace('+', " ");
                let decoded = percent_decode_str(&spaced).decode_utf8().map(|text| text.into_owned());
                decoded.map_err(|_| refuse(format!("the query's {part:?} is not UTF-8")))
            };
            let (name, value) = (decode(name)?, decode(value)?);
            if query.get(&name).is_some() {
                return Err(refuse(format!("parameter {name:?} is given twice")));
            }
            query.0.push((name, value));
        }
        Ok(query)
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Refuses parameters that are not `known`: a misspelt filter must not look like one that matches everything.
    pub fn only(&self, known: &[&str]) -> Result<(), Problem> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) => {
                let detail = format!("there is no parameter {name:?}; there are {}", known.join(", "));
                Err(Problem::new(StatusCode::BAD_REQUEST, detail))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_and_what_it_must_not_have_is_named() {
        let query = Query::parse("node=press%207&lane=&x+y=1").unwrap();
        assert_eq!(query.get("node"), Some("press 7"));
        assert_eq!(query.get("lane"), Some(""));
        assert_eq!(query.get("x y"), Some("1"));
        assert!(query.only(&["node", "lane"]).unwrap_err().detail.contains("\"x y\""));
        assert!(Query::parse("a=1&a=2").unwrap_err().detail.contains("twice"));
        assert!(Query::parse("a=%ff").unwrap_err().detail.contains("UTF-8"));
        assert!(Query::parse(&"a".repeat(5000)).unwrap_err().detail.contains("5000"));
    }
}
