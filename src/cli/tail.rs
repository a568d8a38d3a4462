//! `tidegate tail`: follows the cloud's live stream and prints a line per event.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use ureq::Agent;

use crate::sys::tasks;

/// Time to connect and to get the answer's head.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The cloud says something at least every 15 s; after this long without a byte the connection is dead.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// Longest line of the stream that is read; the cloud's lines have at most 64 KiB.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// The wait between two attempts to connect again: a person is looking.
const RETRY: Duration = Duration::from_secs(1);

/// Longest problem document that is read.
const PROBLEM_BYTES_MAX: u64 = 64 << 10;

/// Follow events live, as they arrive in the cloud.
///
/// Prints one line per event: time, node, lane, sequence, device, type and data, cut to the width of the terminal.
/// Connects again when the cloud goes away; what arrives meanwhile is stored, and not shown. Ends with Ctrl-C.
///
/// Exit codes: 0 ended by you; 64 wrong URL or filter; 75 the cloud cannot be reached.
#[derive(Clone, Debug, clap::Args)]
pub struct TailArgs {
    /// Where the cloud mode listens ([http] listen of cloud.toml)
    #[arg(long, value_name = "URL", env = "TIDEGATE_CLOUD", default_value = "http://127.0.0.1:8900")]
    pub cloud: String,
    /// Only events of this gateway
    #[arg(long)]
    pub node: Option<String>,
    /// Only events of this device (the event's subject)
    #[arg(long)]
    pub device: Option<String>,
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    pub ty: Option<String>,
    /// Only events of this lane
    #[arg(long)]
    pub lane: Option<String>,
    /// Print each event as one line of JSON, whole
    #[arg(long)]
    pub json: bool,
}

/// Why it ended other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The cloud refused, and would refuse again.
    #[error("{url}: {reason}")]
    Refused {
        /// What was asked.
        url: String,
        /// The cloud's words.
        reason: String,
    },
    /// It was not there in the first place.
    #[error("cannot reach the cloud at {url}: {reason}; is `tidegate cloud` running, and is --cloud right?")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The events could not be printed.
    #[error("cannot write: {0}")]
    Output(io::Error),
    /// The machine refused a thread or signal.
    #[error("cannot start: {0}")]
    Start(io::Error),
}

impl TailError {
    /// The process' exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } => 64,
            Self::Unreachable { .. } => 75,
            Self::Output(_) | Self::Start(_) => 70,
        }
    }
}

/// Follows until Ctrl-C, or until nobody reads the output any more.
pub fn run(args: &TailArgs) -> Result<(), TailError> {
    let (ended, has_ended) = oneshot::channel();
    let tail = Tail::new(args.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(TailError::Start)?;
    runtime.block_on(async {
        // Before anything is shown: who has read something may end it.
        let mut interrupt = signal(SignalKind::interrupt()).map_err(TailError::Start)?;
        // The thread may be waiting for an event when Ctrl-C comes: it ends with the process.
        let _thread = tasks::thread("tail", move || {
            let _ = ended.send(tail.follow(&mut io::stdout(), &mut io::stderr()));
        })
        .map_err(TailError::Start)?;
        tokio::select! {
            _ = interrupt.recv() => Ok(()),
            result = has_ended => result.unwrap_or(Ok(())),
        }
    })
}

struct Tail {
    args: TailArgs,
    url: String,
    agent: Agent,
    /// Columns of the terminal; `None`: the output is no terminal, lines stay whole.
    width: Option<usize>,
}

/// Why a connection ended.
enum Cut {
    /// Nobody reads our output.
    Unread,
    /// Something that does not pass.
    Fatal(TailError),
    /// Something that may.
    Lost(String),
}

impl Tail {
    fn new(args: TailArgs) -> Self {
        let url = url_of(&args);
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(ANSWER_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(SILENCE_MAX))
            .build()
            .into();
        let width = io::stdout().is_terminal().then(|| terminal_size::terminal_size().map_or(80, |(w, _)| w.0.into()));
        Self { args, url, agent, width }
    }

    fn follow(&self, out: &mut dyn Write, notes: &mut dyn Write) -> Result<(), TailError> {
        let (mut was_connected, mut told) = (false, false);
        loop {
            let cut = match self.connect() {
                Ok(body) => {
                    if told {
                        note(notes, "connected again; events of the meantime are stored, and not shown here");
                    }
                    (was_connected, told) = (true, false);
                    self.print(BufReader::new(body), out, notes)
                }
                Err(cut) => cut,
            };
            match cut {
                Cut::Unread => return Ok(()),
                Cut::Fatal(e) => return Err(e),
                Cut::Lost(reason) if !was_connected => {
                    return Err(TailError::Unreachable { url: self.args.cloud.clone(), reason });
                }
                Cut::Lost(reason) if !told => {
                    note(notes, &format!("the cloud went away ({reason}); trying to connect again"));
                    told = true;
                }
                Cut::Lost(_) => {}
            }
            std::thread::sleep(RETRY);
        }
    }

    fn connect(&self) -> Result<impl Read + use<>, Cut> {
        let asked = self.agent.get(&self.url).header("accept", "text/event-stream").call();
        let mut response = asked.map_err(|e| match e {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::RequireHttpsOnly(_) => {
                Cut::Fatal(TailError::Refused { url: self.args.cloud.clone(), reason: e.to_string() })
            }
            e => Cut::Lost(e.to_string()),
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body().into_reader());
        }
        let mut text = String::new();
        let _ = response.body_mut().as_reader().take(PROBLEM_BYTES_MAX).read_to_string(&mut text);
        let problem: Problem = serde_json::from_str(&text).unwrap_or_default();
        let reason = problem.detail.unwrap_or_else(|| format!("answered {status}; is this the cloud mode's address?"));
        match status.is_client_error() {
            true => Err(Cut::Fatal(TailError::Refused { url: self.args.cloud.clone(), reason })),
            false => Err(Cut::Lost(reason)),
        }
    }

    /// Prints the events of one connection, to its end.
    fn print(&self, mut body: impl BufRead, out: &mut dyn Write, notes: &mut dyn Write) -> Cut {
        let (mut line, mut lagged) = (Vec::new(), false);
        loop {
            line.clear();
            match (&mut body).take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Err(e) => return Cut::Lost(e.to_string()),
                Ok(0) => return Cut::Lost("it closed the connection".to_owned()),
                Ok(_) if !line.ends_with(b"\n") => return Cut::Lost("it broke off in the middle of a line".to_owned()),
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            if let Some(data) = text.strip_prefix("data: ") {
                let printed = if lagged {
                    note(notes, &skipped(data));
                    Ok(())
                } else {
                    self.event(data, out)
                };
                match printed {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Cut::Unread,
                    Err(e) => return Cut::Fatal(TailError::Output(e)),
                }
            }
            // Our cloud sends one line of data per event, so a name holds for the next line.
            lagged = text == "event: lagged";
        }
    }

    fn event(&self, json: &str, out: &mut dyn Write) -> io::Result<()> {
        let text = match serde_json::from_str::<Event<'_>>(json) {
            Ok(event) if !self.args.json => Cow::Owned(cut(&event.line(), self.width)),
            _ => Cow::Borrowed(json),
        };
        writeln!(out, "{text}")?;
        out.flush()
    }
}

fn url_of(args: &TailArgs) -> String {
    let filters = [("node", &args.node), ("device", &args.device), ("type", &args.ty), ("lane", &args.lane)];
    let query: Vec<String> = filters
        .into_iter()
        .filter_map(|(name, value)| {
            Some(format!("{name}={}", utf8_percent_encode(value.as_deref()?, NON_ALPHANUMERIC)))
        })
        .collect();
    format!("{}/v1/stream?{}", args.cloud.trim_end_matches('/'), query.join("&"))
}

fn note(notes: &mut dyn Write, text: &str) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(notes, "tidegate tail: {text}");
}

fn skipped(data: &str) -> String {
    #[derive(Deserialize)]
    struct Lagged {
        skipped: u64,
    }
    let skipped = serde_json::from_str(data).map_or(0, |lagged: Lagged| lagged.skipped);
    format!("{skipped} events were not shown: they come faster than this can take them; a filter would help")
}

#[derive(Default, Deserialize)]
struct Problem {
    detail: Option<String>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    node: Option<Cow<'a, str>>,
    #[serde(borrow)]
    lane: Option<Cow<'a, str>>,
    seq: Option<u64>,
    #[serde(borrow)]
    subject: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    ty: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<Cow<'a, str>>,
    #[serde(default)]
    late: bool,
}

impl Event<'_> {
    fn line(&self) -> String {
        let or_dash = |text: &Option<Cow<'_, str>>| text.as_deref().unwrap_or("-").to_owned();
        let seq = self.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
        let late = if self.late { " (late)" } else { "" };
        let data = match (&self.data, &self.data_base64) {
            (Some(data), _) => data.get(),
            (None, Some(base64)) => base64,
            (None, None) => "",
        };
        format!(
            "{}  {}  {} {seq}{late}  {}  {}  {data}",
            or_dash(&self.time),
            or_dash(&self.node),
            or_dash(&self.lane),
            or_dash(&self.subject),
            or_dash(&self.ty)
        )
    }
}

/// Cuts to `width` characters and takes the sting out of control characters: devices must not steer the terminal.
fn cut(line: &str, width: Option<usize>) -> String {
    let mut shown: String = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if let Some(width) = width
        && let Some((at, _)) = shown.char_indices().nth(width)
    {
        let last = shown[..at].char_indices().next_back().map_or(0, |(last, _)| last);
        shown.truncate(last);
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const EVENT: &str = r#"{"node":"press-7","incarnation":"00ff","lane":"alarms","seq":42,"id":"1","source":"s","type":"hot","subject":"dev-1","time":"2026-01-31T12:00:00Z","late":true,"data":{"c":99}}"#;

    fn args(cloud: &str) -> TailArgs {
        let cloud = cloud.to_owned();
        TailArgs { cloud, node: Some("press 7".into()), device: None, ty: None, lane: Some("a&b".into()), json: false }
    }

    /// Takes `lines` lines, then nobody reads any more.
    struct Reader {
        text: Vec<u8>,
        lines: usize,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.text.iter().filter(|b| **b == b'\n').count() >= self.lines {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.text.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A cloud that gives each of `answers` to one connection and closes it.
    fn cloud(answers: Vec<String>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let thread = tasks::thread("cloud", move || {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut request).unwrap();
                requests.push(request);
                stream.write_all(answer.as_bytes()).unwrap();
            }
            requests
        });
        (url, thread.unwrap())
    }

    fn events(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{body}")
    }

    #[test]
    fn it_follows_across_a_lost_connection_until_nobody_reads() {
        let first =
            format!(": listening\n\ndata: {EVENT}\n\nevent: lagged\ndata: {{\"skipped\":5}}\n\ndata: {EVENT}\n\n");
        let (url, cloud) = cloud(vec![events(&first), events(&format!("data: {EVENT}\n\ndata: {EVENT}\n\n"))]);
        let (mut out, mut notes) = (Reader { text: Vec::new(), lines: 3 }, Vec::new());
        Tail { width: None, ..Tail::new(args(&url)) }.follow(&mut out, &mut notes).unwrap();
        let text = String::from_utf8(out.text).unwrap();
        let line = "2026-01-31T12:00:00Z  press-7  alarms 42 (late)  dev-1  hot  {\"c\":99}\n";
        assert_eq!(text, line.repeat(3));
        let notes = String::from_utf8(notes).unwrap();
        for part in ["5 events were not shown", "the cloud went away", "connected again"] {
            assert!(notes.contains(part), "{notes}");
        }
        let requests = cloud.join().unwrap();
        assert_eq!(requests[0], "GET /v1/stream?node=press%207&lane=a%26b HTTP/1.1\r\n");
    }

    #[test]
    fn a_refusal_is_told_in_the_clouds_words() {
        let problem = r#"{"title":"Not Found","detail":"there is no lane \"a&b\""}"#;
        let answer = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{problem}", problem.len());
        let (url, cloud) = cloud(vec![answer]);
        let error = Tail::new(args(&url)).follow(&mut Vec::new(), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("there is no lane") && error.exit_code() == 64, "{error}");
        cloud.join().unwrap();
    }

    #[test]
    fn a_cloud_that_is_not_there_is_a_temporary_failure_and_a_bad_url_a_usage_error() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Tail::new(args(&format!("http://{free}"))).follow(&mut Vec::new(), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("--cloud") && error.exit_code() == 75, "{error}");
        let error = Tail::new(args("no url")).follow(&mut Vec::new(), &mut Vec::new()).unwrap_err();
        assert_eq!(error.exit_code(), 64, "{error}");
    }

    #[test]
    fn lines_fit_the_terminal_and_cannot_steer_it() {
        assert_eq!(cut("abcdef", Some(6)), "abcdef");
        assert_eq!(cut("äbcdefg", Some(6)), "äbcde…");
        assert_eq!(cut("a\u{1b}[2J\u{9b}", None), "a\u{fffd}[2J\u{fffd}");
    }

    #[test]
    fn events_of_other_producers_are_shown_too() {
        let event: Event<'_> =
            serde_json::from_str(r#"{"node":null,"lane":"a","seq":null,"data_base64":"e30="}"#).unwrap();
        assert_eq!(event.line(), "-  -  a -  -  -  e30=");
    }
}
