//! What a key can take: how each kind of value is read, checked and written. [pure]

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value as Json;
use toml::de::DeValue;

use super::secret::Secret;
use super::suggest::closest;
use super::units::{format_duration, format_size, parse_duration, parse_size};
use crate::event::time::Timestamp;

/// Most characters of a wrong value that are repeated in the message about it.
const ECHO_MAX: usize = 60;

/// What is wrong with a value and what to write instead; where in it, if not the whole.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) span: Option<Range<usize>>,
    pub(super) text: String,
}

/// A kind of value.
pub(super) trait Kind {
    /// Its type in the configuration.
    type Value: Clone;

    /// What to write, for the message about a wrong type: `a size such as "64MiB"`.
    fn takes(&self) -> String;

    /// The bounds or choices, for the generated file.
    fn bounds(&self) -> Option<String> {
        None
    }

    /// Reads it from text: an environment variable, or a TOML string.
    fn text(&self, text: &str) -> Result<Self::Value, String>;

    /// Reads it from TOML. Most kinds are written as strings.
    fn toml(&self, value: &DeValue<'_>) -> Result<Self::Value, Vec<Fault>> {
        match value {
            DeValue::String(text) => self.text(text).map_err(|text| vec![Fault { span: None, text }]),
            other => Err(wrong_type(other, &self.takes())),
        }
    }

    /// As TOML. `None`: it is not set.
    fn show(&self, value: &Self::Value) -> Option<String>;

    /// To tell values from each other, secrets too; never shown.
    fn compared(&self, value: &Self::Value) -> Option<String> {
        self.show(value)
    }

    /// As a policy sees it: sizes as numbers of bytes, durations as numbers of seconds, the rest as it is written.
    fn json(&self, value: &Self::Value) -> Json {
        let shown = self.show(value).unwrap_or_default();
        let written = shown.parse::<toml::Value>().ok().and_then(|value| serde_json::to_value(value).ok());
        written.unwrap_or_else(|| Json::from(shown))
    }
}

pub(super) fn wrong_type(value: &DeValue<'_>, takes: &str) -> Vec<Fault> {
    let is = match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    vec![Fault { span: None, text: format!("is {is}; write {takes}") }]
}

/// `text` in quotes, cut to a length that fits a line.
pub(super) fn echo(text: &str) -> String {
    if text.chars().count() <= ECHO_MAX {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(ECHO_MAX).collect();
    format!("{:?}", start + "…")
}

pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A number of bytes, from the first to the second.
pub(super) struct Size(pub(super) u64, pub(super) u64);

impl Size {
    fn check(&self, bytes: u64) -> Result<u64, String> {
        if (self.0..=self.1).contains(&bytes) {
            return Ok(bytes);
        }
        let (given, low, high) = (format_size(bytes), format_size(self.0), format_size(self.1));
        Err(format!("{given} is out of range; write a size from {low} to {high}"))
    }
}

impl Kind for Size {
    type Value = u64;

    fn takes(&self) -> String {
        "a size such as \"64MiB\"".to_owned()
    }

    fn bounds(&self) -> Option<String> {
        Some(format!("From {} to {}.", format_size(self.0), format_size(self.1)))
    }

    fn text(&self, text: &str) -> Result<u64, String> {
        parse_size(text).and_then(|bytes| self.check(bytes))
    }

    fn toml(&self, value: &DeValue<'_>) -> Result<u64, Vec<Fault>> {
        let read = match value {
            DeValue::Integer(n) => match u64::from_str_radix(n.as_str(), n.radix()) {
                Ok(bytes) => self.check(bytes),
                Err(_) => Err(format!("{n} is no number of bytes; write {}", self.takes())),
            },
            DeValue::String(text) => self.text(text),
            other => return Err(wrong_type(other, &self.takes())),
        };
        read.map_err(|text| vec![Fault { span: None, text }])
    }

    fn show(&self, value: &u64) -> Option<String> {
        Some(quoted(&format_size(*value)))
    }

    fn json(&self, value: &u64) -> Json {
        Json::from(*value)
    }
}

/// A duration, from the first to the second.
pub(super) struct Time(pub(super) Duration, pub(super) Duration);

impl Kind for Time {
    type Value = Duration;

    fn takes(&self) -> String {
        "a duration such as \"30s\"".to_owned()
    }

    fn bounds(&self) -> Option<String> {
        Some(format!("From {} to {}.", format_duration(self.0), format_duration(self.1)))
    }

    fn text(&self, text: &str) -> Result<Duration, String> {
        let time = parse_duration(text)?;
        if (self.0..=self.1).contains(&time) {
            return Ok(time);
        }
        let (given, low, high) = (format_duration(time), format_duration(self.0), format_duration(self.1));
        Err(format!("{given} is out of range; write a duration from {low} to {high}"))
    }

    fn toml(&self, value: &DeValue<'_>) -> Result<Duration, Vec<Fault>> {
        let text = match value {
            // To be told which unit is missing, not that it should be a string.
            DeValue::Integer(n) => n.to_string(),
            DeValue::String(text) => text.to_string(),
            other => return Err(wrong_type(other, &self.takes())),
        };
        self.text(&text).map_err(|text| vec![Fault { span: None, text }])
    }

    fn show(&self, value: &Duration) -> Option<String> {
        Some(quoted(&format_duration(*value)))
    }

    fn json(&self, value: &Duration) -> Json {
        Json::from(value.as_secs_f64())
    }
}

/// A whole number, from the first to the second.
pub(super) struct Count<T>(pub(super) T, pub(super) T);

impl<T: Copy + PartialOrd + Display + FromStr> Kind for Count<T> {
    type Value = T;

    fn takes(&self) -> String {
        format!("a whole number from {} to {}, without quotes", self.0, self.1)
    }

    fn bounds(&self) -> Option<String> {
        Some(format!("From {} to {}.", self.0, self.1))
    }

    fn text(&self, text: &str) -> Result<T, String> {
        text.trim().parse().ok().filter(|n| (self.0..=self.1).contains(n)).ok_or_else(|| {
            format!("{} is out of range; write a whole number from {} to {}", text.trim(), self.0, self.1)
        })
    }

    fn toml(&self, value: &DeValue<'_>) -> Result<T, Vec<Fault>> {
        let DeValue::Integer(n) = value else {
            return Err(wrong_type(value, &self.takes()));
        };
        let decimal = i128::from_str_radix(n.as_str(), n.radix()).map_or_else(|_| n.to_string(), |n| n.to_string());
        self.text(&decimal).map_err(|text| vec![Fault { span: None, text }])
    }

    fn show(&self, value: &T) -> Option<String> {
        Some(value.to_string())
    }
}

/// An address to listen at.
pub(super) struct Address;

impl Kind for Address {
    type Value = SocketAddr;

    fn takes(&self) -> String {
        "an address and port such as \"127.0.0.1:8800\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<SocketAddr, String> {
        let text = text.trim();
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        let instead = match text.rsplit_once(':') {
            Some(("" | "*", port)) if port.parse::<u16>().is_ok() => format!("\"0.0.0.0:{port}\" to listen everywhere"),
            Some(("localhost", port)) if port.parse::<u16>().is_ok() => format!("\"127.0.0.1:{port}\""),
            _ if text.parse::<u16>().is_ok() => format!("\"127.0.0.1:{text}\""),
            _ if text.parse::<std::net::Ipv4Addr>().is_ok() => format!("\"{text}:8800\""),
            _ => return Err(format!("{} is no address; write {}", echo(text), self.takes())),
        };
        Err(format!("{} is no address and port; write {instead}", echo(text)))
    }

    fn show(&self, value: &SocketAddr) -> Option<String> {
        Some(quoted(&value.to_string()))
    }
}

/// A path; relative ones count from the directory that the process was started in.
pub(super) struct FilePath;

impl Kind for FilePath {
    type Value = PathBuf;

    fn takes(&self) -> String {
        "a path in quotes".to_owned()
    }

    fn text(&self, text: &str) -> Result<PathBuf, String> {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(format!("{} is no path; write {}", echo(text), self.takes()));
        }
        if text.starts_with("~/") {
            return Err(format!("{} starts with ~, which only a shell understands; write the full path", echo(text)));
        }
        Ok(text.into())
    }

    fn show(&self, value: &PathBuf) -> Option<String> {
        Some(quoted(&value.display().to_string()))
    }
}

/// The path of a file with a token. A token written here by mistake is not repeated.
pub(super) struct TokenFile;

/// Longest file name that is not taken for a token; the shortest JSON web tokens are longer.
const TOKEN_FILE_NAME_MAX: usize = 64;

impl Kind for TokenFile {
    type Value = PathBuf;

    fn takes(&self) -> String {
        FilePath.takes()
    }

    fn text(&self, text: &str) -> Result<PathBuf, String> {
        if !text.contains('/') && (text.starts_with("eyJ") || text.len() > TOKEN_FILE_NAME_MAX) {
            return Err("looks like the token itself; write the path of a file that holds it".to_owned());
        }
        FilePath.text(text)
    }

    fn show(&self, value: &PathBuf) -> Option<String> {
        FilePath.show(value)
    }
}

/// A token. Never repeated in any message.
pub(super) struct SecretText;

impl Kind for SecretText {
    type Value = Secret;

    fn takes(&self) -> String {
        "the token in quotes, or better the path of a file with it as token_file".to_owned()
    }

    fn text(&self, text: &str) -> Result<Secret, String> {
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("is empty or has a blank in it; write the token alone".to_owned());
        }
        Ok(Secret::new(text))
    }

    fn show(&self, _: &Secret) -> Option<String> {
        Some("(secret)".to_owned())
    }

    fn compared(&self, value: &Secret) -> Option<String> {
        Some(value.reveal().to_owned())
    }
}

/// One of a few words.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Kind for Choice<T> {
    type Value = T;

    fn takes(&self) -> String {
        let words: Vec<String> = self.0.iter().map(|(word, _)| format!("{word:?}")).collect();
        words.join(" or ")
    }

    fn bounds(&self) -> Option<String> {
        Some(format!("Write {}.", self.takes()))
    }

    fn text(&self, text: &str) -> Result<T, String> {
        if let Some((_, value)) = self.0.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let instead = match closest(text, self.0.iter().map(|(word, _)| *word)) {
            Some(word) => format!("did you mean {word:?}?"),
            None => format!("write {}", self.takes()),
        };
        Err(format!("{} is unknown; {instead}", echo(text)))
    }

    fn show(&self, value: &T) -> Option<String> {
        self.0.iter().find(|(_, v)| v == value).map(|(word, _)| quoted(word))
    }
}

/// A list of at most so many; in the environment with commas between.
pub(super) struct List<K>(pub(super) K, pub(super) usize);

impl<K: Kind> Kind for List<K> {
    type Value = Vec<K::Value>;

    fn takes(&self) -> String {
        format!("a list in [ ], each item {}", self.0.takes())
    }

    fn bounds(&self) -> Option<String> {
        Some(format!("At most {} items.", self.1))
    }

    fn text(&self, text: &str) -> Result<Self::Value, String> {
        self.count(text.split(',').count())?;
        text.split(',').map(|item| self.0.text(item.trim())).collect()
    }

    fn toml(&self, value: &DeValue<'_>) -> Result<Self::Value, Vec<Fault>> {
        let DeValue::Array(array) = value else {
            return Err(wrong_type(value, &self.takes()));
        };
        self.count(array.len()).map_err(|text| vec![Fault { span: None, text }])?;
        let (mut items, mut faults) = (Vec::new(), Vec::new());
        for item in array.iter() {
            match self.0.toml(item.get_ref()) {
                Ok(read) => items.push(read),
                Err(of_item) => faults.extend(
                    of_item.into_iter().map(|f| Fault { span: Some(f.span.unwrap_or_else(|| item.span())), ..f }),
                ),
            }
        }
        if faults.is_empty() { Ok(items) } else { Err(faults) }
    }

    fn show(&self, value: &Self::Value) -> Option<String> {
        let items: Vec<String> = value.iter().filter_map(|item| self.0.show(item)).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

impl<K: Kind> List<K> {
    fn count(&self, items: usize) -> Result<(), String> {
        if items > self.1 {
            return Err(format!("has {items} items; write at most {}", self.1));
        }
        Ok(())
    }
}

/// A key that may be left out.
pub(super) struct Optional<K>(pub(super) K);

impl<K: Kind> Kind for Optional<K> {
    type Value = Option<K::Value>;

    fn takes(&self) -> String {
        self.0.takes()
    }

    fn bounds(&self) -> Option<String> {
        self.0.bounds()
    }

    fn text(&self, text: &str) -> Result<Self::Value, String> {
        self.0.text(text).map(Some)
    }

    fn toml(&self, value: &DeValue<'_>) -> Result<Self::Value, Vec<Fault>> {
        self.0.toml(value).map(Some)
    }

    fn show(&self, value: &Self::Value) -> Option<String> {
        value.as_ref().and_then(|value| self.0.show(value))
    }

    fn compared(&self, value: &Self::Value) -> Option<String> {
        value.as_ref().and_then(|value| self.0.compared(value))
    }

    fn json(&self, value: &Self::Value) -> Json {
        value.as_ref().map_or(Json::Null, |value| self.0.json(value))
    }
}

/// true or false.
pub(super) struct Flag;

impl Kind for Flag {
    type Value = bool;

    fn takes(&self) -> String {
        "true or false".to_owned()
    }

    fn text(&self, text: &str) -> Result<bool, String> {
        match text.trim() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(format!("{} is neither; write {}", echo(other), self.takes())),
        }
    }

    fn toml(&self, value: &DeValue<'_>) -> Result<bool, Vec<Fault>> {
        match value {
            DeValue::Boolean(value) => Ok(*value),
            other => Err(wrong_type(other, &self.takes())),
        }
    }

    fn show(&self, value: &bool) -> Option<String> {
        Some(value.to_string())
    }
}

/// A key that can be switched off with the word "off".
pub(super) struct OrOff<K>(pub(super) K);

impl<K: Kind> Kind for OrOff<K> {
    type Value = Option<K::Value>;

    fn takes(&self) -> String {
        format!("{}, or \"off\"", self.0.takes())
    }

    fn bounds(&self) -> Option<String> {
        self.0.bounds()
    }

    fn text(&self, text: &str) -> Result<Self::Value, String> {
        if text.trim() == "off" { Ok(None) } else { self.0.text(text).map(Some) }
    }

    fn show(&self, value: &Self::Value) -> Option<String> {
        Some(value.as_ref().and_then(|value| self.0.show(value)).unwrap_or_else(|| quoted("off")))
    }
}

/// One line of text of at most so many bytes.
pub(super) struct Text(pub(super) usize);

impl Kind for Text {
    type Value = String;

    fn takes(&self) -> String {
        "a text in quotes".to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        if text.is_empty() || text.len() > self.0 || text.chars().any(char::is_control) {
            return Err(format!("{} is empty, or longer than {} bytes, or not one line", echo(text), self.0));
        }
        Ok(text.to_owned())
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }
}

/// A point in time, RFC 3339: in quotes or as TOML's own date and time with an offset.
pub(super) struct Instant;

impl Kind for Instant {
    type Value = Timestamp;

    fn takes(&self) -> String {
        "a time with its offset such as 2027-01-31T12:00:00Z".to_owned()
    }

    fn text(&self, text: &str) -> Result<Timestamp, String> {
        Timestamp::parse(text.trim()).map_err(|_| format!("{} is no time; write {}", echo(text), self.takes()))
    }

    fn toml(&self, value: &DeValue<'_>) -> Result<Timestamp, Vec<Fault>> {
        let text = match value {
            DeValue::Datetime(time) => time.to_string(),
            DeValue::String(text) => text.to_string(),
            other => return Err(wrong_type(other, &self.takes())),
        };
        self.text(&text).map_err(|text| vec![Fault { span: None, text }])
    }

    fn show(&self, value: &Timestamp) -> Option<String> {
        Some(value.to_string())
    }
}
