//! What commands share that speak with the cloud's HTTP interface.

use std::fmt::Write as _;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::http::request::Builder;
use ureq::http::{Request, Response};
use ureq::{Agent, SendBody};

use super::{CliError, EXIT_TEMPORARY};
use crate::event::Timestamp;
use crate::sys::clock::Clock;

/// Exit code: what was ordered has failed, or was taken back.
pub const EXIT_FAILED: u8 = 1;

/// Time for an answer: an order is read back from the log before it is answered.
const ANSWER_MAX: Duration = Duration::from_secs(90);

/// Longest answer that is read: 1,000 gateways with everything that is known of them.
const ANSWER_BYTES_MAX: u64 = 32 << 20;

/// Longest file with a token.
const TOKEN_BYTES_MAX: usize = 4096;

/// Time for an answer after a model was sent: the cloud cuts, compresses and writes a gibibyte meanwhile.
const PUBLISHED_MAX: Duration = Duration::from_secs(1800);

/// How often an order is given again when the cloud does not answer; it counts once.
const TRIES: u32 = 5;

/// The wait between two of them.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// Where the cloud is, and who asks.
#[derive(Args, Clone, Debug)]
pub struct CloudArgs {
    /// Where the cloud mode listens ([http] listen of cloud.toml)
    #[arg(long, value_name = "URL", env = "TIDEGATE_CLOUD", default_value = "http://127.0.0.1:8900")]
    cloud: String,
    /// File with your token, whose hash is in the cloud's control.operators_file; or set TIDEGATE_CLOUD_TOKEN
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CLOUD_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

/// A client of the cloud.
#[derive(Clone)]
pub struct Cloud {
    agent: Agent,
    url: String,
    token: Option<String>,
    author: Option<String>,
}

impl CloudArgs {
    /// For a command that has options of its own.
    pub fn at(cloud: String, token_file: Option<PathBuf>) -> Self {
        Self { cloud, token_file }
    }

    /// Reads the token; connects to nothing yet.
    pub fn client(&self) -> Result<Cloud, CliError> {
        let token = match &self.token_file {
            Some(path) => {
                let bytes = super::config::read(path, TOKEN_BYTES_MAX)?;
                let text = std::str::from_utf8(&bytes).unwrap_or_default().trim().to_owned();
                if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
                    let path = path.display();
                    return Err(CliError::usage(format!("{path}: holds no token: one word of visible ASCII")));
                }
                Some(text)
            }
            None => std::env::var("TIDEGATE_CLOUD_TOKEN").ok().filter(|token| !token.is_empty()),
        };
        let agent = Agent::config_builder().http_status_as_error(false).timeout_global(Some(ANSWER_MAX)).build();
        let author = std::env::var("USER").ok().filter(|user| user.bytes().all(|b| b.is_ascii_graphic()));
        Ok(Cloud { agent: agent.into(), url: self.cloud.trim_end_matches('/').to_owned(), token, author })
    }
}

impl Cloud {
    /// The JSON at `path`.
    pub fn get(&self, path: &str) -> Result<Value, CliError> {
        self.call("GET", path, "")
    }

    /// Takes something away.
    pub fn delete(&self, path: &str) -> Result<Value, CliError> {
        self.call("DELETE", path, "")
    }

    /// The JSON at `path`, if there is such a thing.
    pub fn find(&self, path: &str) -> Result<Option<Value>, CliError> {
        match self.answered(self.request("GET", path).body(()), |request| self.agent.run(request))? {
            (404, answer) if answer["detail"].is_string() => Ok(None),
            (status, answer) => self.accepted(status, answer).map(Some),
        }
    }

    /// Gives an order, again when it is not answered: it must be one that counts once.
    pub fn post(&self, path: &str, body: &str) -> Result<Value, CliError> {
        self.again(|| self.call("POST", path, body))
    }

    /// Sends what `open` gives, and how many bytes that is, again when it is not answered: it must count once.
    pub fn upload<R: Read + 'static>(
        &self,
        path: &str,
        open: impl Fn() -> Result<(R, u64), CliError>,
    ) -> Result<Value, CliError> {
        self.again(|| {
            let (body, bytes) = open()?;
            let request = self.request("POST", path).header("content-type", "application/octet-stream");
            let request = request.header("content-length", bytes).body(SendBody::from_owned_reader(body));
            let run = |request| {
                let limits = self.agent.configure_request(request).timeout_global(None);
                self.agent.run(limits.timeout_recv_response(Some(PUBLISHED_MAX)).build())
            };
            let (status, answer) = self.answered(request, run)?;
            self.accepted(status, answer)
        })
    }

    fn again(&self, order: impl Fn() -> Result<Value, CliError>) -> Result<Value, CliError> {
        let mut tries = 1;
        loop {
            match order() {
                Err(e) if e.code == EXIT_TEMPORARY && tries < TRIES => {
                    eprintln!("tidegate: {}; trying again", e.message);
                    std::thread::sleep(TRY_AGAIN);
                    tries += 1;
                }
                done => return done,
            }
        }
    }

    /// Every item of a list that comes in pages.
    pub fn all(&self, path: &str, query: &str) -> Result<Vec<Value>, CliError> {
        let (mut items, mut after) = (Vec::new(), String::new());
        loop {
            let mut page = self.get(&format!("{path}?limit=1000{query}{after}"))?;
            if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            match page["next"].as_str() {
                Some(next) => after = format!("&after={}", encode(next)),
                None => return Ok(items),
            }
        }
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Result<Value, CliError> {
        let request = self.request(method, path);
        let (status, answer) = match method {
            "GET" => self.answered(request.body(()), |request| self.agent.run(request)),
            _ => {
                let request = request.header("content-type", "application/json").body(body.to_owned());
                self.answered(request, |request| self.agent.run(request))
            }
        }?;
        self.accepted(status, answer)
    }

    fn request(&self, method: &str, path: &str) -> Builder {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(author) = &self.author {
            request = request.header("x-tidegate-author", author);
        }
        request
    }

    /// Status and JSON of the answer.
    fn answered<B>(
        &self,
        request: Result<Request<B>, ureq::http::Error>,
        run: impl FnOnce(Request<B>) -> Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<(u16, Value), CliError> {
        let unreachable = |e: ureq::Error| {
            let cloud = &self.url;
            CliError::temporary(format!(
                "cannot reach the cloud at {cloud}: {e}; is `tidegate cloud` running, and is --cloud right?"
            ))
        };
        let request = request.map_err(|e| CliError::usage(format!("--cloud {}: {e}", self.url)))?;
        let mut answer = run(request).map_err(unreachable)?;
        let status = answer.status().as_u16();
        let bytes = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(unreachable)?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    fn accepted(&self, status: u16, json: Value) -> Result<Value, CliError> {
        if matches!(status, 200 | 201) {
            return Ok(json);
        }
        let detail = json["detail"].as_str().unwrap_or("no tidegate cloud answers there");
        let hint = match status {
            401 => "; name your token with --token-file",
            _ => "",
        };
        let message = format!("the cloud says ({status}): {detail}{hint}");
        Err(match status {
            // 202: it is stored, and not known to count; the same again finds out.
            202 | 408 | 429 | 500.. => CliError::temporary(message),
            _ => CliError::usage(message),
        })
    }
}

/// One segment of a path, or a value of a query.
pub fn encode(text: &str) -> String {
    const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(text, KEEP).to_string()
}

/// "version 12", "version 12 (0123abcd)" or what stands for none.
pub fn named(document: &Value) -> String {
    match (document["version"].as_u64(), document["sha256"].as_str()) {
        (Some(version), _) => format!("version {version}"),
        (None, Some(sha256)) => sha256.chars().take(12).collect(),
        (None, None) => "own file".to_owned(),
    }
}

/// How long ago a time was, for people.
pub fn ago(time: &Value) -> String {
    let then = time.as_str().and_then(|text| Timestamp::parse(text).ok());
    let Some(then) = then else { return "never".to_owned() };
    let seconds = (Clock::system().unix_ms() - then.unix_ms()).max(0) / 1000;
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        7_200..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// Columns, as wide as what is in them; the last one is as long as it is.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count());
        cells.chain(head.get(i).map(|cell| cell.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = vec![vec!["a".to_owned(), "über".to_owned()], vec!["bcd".to_owned(), String::new()]];
        assert_eq!(table(&["X", "Y"], &rows), "X    Y\na    über\nbcd\n");
    }

    #[test]
    fn documents_and_times_are_said_in_words() {
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(named(&json(r#"{"version":12,"sha256":"00ff"}"#)), "version 12");
        assert_eq!(named(&json(r#"{"version":null,"sha256":"0123456789abcdef"}"#)), "0123456789ab");
        assert_eq!(named(&json(r#"{"version":null,"sha256":null}"#)), "own file");
        assert_eq!(ago(&Value::Null), "never");
        assert!(ago(&json("\"2020-01-01T00:00:00Z\"")).ends_with(" d ago"));
        assert_eq!(encode("a/b c"), "a%2Fb%20c");
    }
}
