//! `[log]`, the same in both files.

use super::kinds::{Choice, Kind, echo};
use super::suggest::closest;
use super::table::{key, section};

section! {
    /// `[log]`: what is written to standard error.
    "log" => Log {
        /// For people or for machines: one JSON object a line.
        format: LogFormat = LogFormat::Human,
            key(Choice(&[("human", LogFormat::Human), ("json", LogFormat::Json)]));
        /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,tidegate::uplink=debug`.
        level: String = "info".into(), key(Filter);
    }
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// What tracing-subscriber takes as a level.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// A log filter. `EnvFilter` takes any single word for the name of a target, so that "inof" would
/// silence the log without a word: a word without `=` must be a level here.
struct Filter;

impl Kind for Filter {
    type Value = String;

    fn takes(&self) -> String {
        "a level such as \"info\", or a filter such as \"info,tidegate::uplink=debug\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        for part in text.split(',').map(str::trim) {
            let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
            if LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
                continue;
            }
            let instead = match closest(level, LEVELS) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("write {}", self.takes()),
            };
            return Err(format!("{} is no level; {instead}", echo(level)));
        }
        match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(e) => Err(format!("{} is no filter: {e}; write {}", echo(text), self.takes())),
        }
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(toml::Value::from(value.as_str()).to_string())
    }
}
