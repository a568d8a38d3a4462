//! The file of devices: who there is, the hashes of what they show, what they may do. Strict: one mistake and the
//! whole file is refused, with its line.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::quota::Rates;
use super::rules::{Patterns, is_name};
use super::verify;
use crate::config::units::{format_size, parse_size};

/// Largest file: 100,000 devices with everything set have some 30 MB.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Most devices: each costs about a kilobyte of memory.
pub const DEVICES_MAX: usize = 200_000;

/// Most tokens of one device: rotation needs two.
const TOKENS_MAX: usize = 8;

/// Most patterns of one list, and the longest of them in bytes.
const PATTERNS_MAX: usize = 64;
const PATTERN_BYTES_MAX: usize = 1024;

/// Most mistakes shown of one file.
const SHOWN_MAX: usize = 20;

/// What a device is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It sends events and takes commands.
    #[default]
    Device,
    /// It may also send commands to devices and read this gateway's status.
    Operator,
}

/// One device as the file has it, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its name; unique.
    pub name: String,
    /// SHA-256 of its tokens; each unique in the file.
    pub tokens: Vec<[u8; 32]>,
    /// PHC string of its password.
    pub password: Option<String>,
    /// Name in its certificate; unique. `None`: `name`.
    pub certificate: Option<String>,
    /// Topics it may publish to. `None`: `identity.publish`.
    pub publish: Option<Patterns>,
    /// Topics it may subscribe to. `None`: `identity.subscribe`.
    pub subscribe: Option<Patterns>,
    /// Subjects besides its own name.
    pub speaks_for: Vec<String>,
    /// What it is for.
    pub role: Role,
    /// Most events a second. `None`: `identity.max_events`.
    pub max_events: Option<u64>,
    /// Most bytes a second. `None`: `identity.max_bytes`.
    pub max_bytes: Option<u64>,
    /// It is not let in.
    pub disabled: bool,
}

impl Device {
    /// The name that its certificate must have.
    pub fn certificate_name(&self) -> &str {
        self.certificate.as_deref().unwrap_or(&self.name)
    }

    /// Its quota, with `default` where it says nothing.
    pub fn rates(&self, default: Rates) -> Rates {
        Rates { events: self.max_events.unwrap_or(default.events), bytes: self.max_bytes.unwrap_or(default.bytes) }
    }
}

/// Why a file of devices is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DevicesError {
    /// It is not there, or not readable.
    #[error("devices file {}: cannot be read: {reason}; make one with: tidegate devices add NAME --file {}", path.display(), path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// It is too large, or no text.
    #[error("devices file {}: {reason}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Something in it is wrong. One line for each mistake, which begins with file and line.
    #[error("{}", problems.join("\n"))]
    Wrong {
        /// The mistakes.
        problems: Vec<String>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    device: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    token_sha256: Vec<String>,
    password: Option<String>,
    certificate: Option<String>,
    publish: Option<Vec<String>>,
    subscribe: Option<Vec<String>>,
    #[serde(default)]
    speaks_for: Vec<String>,
    #[serde(default)]
    role: Role,
    max_events: Option<u64>,
    max_bytes: Option<Size>,
    #[serde(default)]
    disabled: bool,
}

/// `"64KiB"`, or a plain number of bytes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

/// Reads the file at `path`. Blocks.
pub fn load(path: &Path) -> Result<Vec<Device>, DevicesError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|e| DevicesError::Read { path: path.to_owned(), reason: e.to_string() })?;
    let wrong = |reason: String| DevicesError::Text { path: path.to_owned(), reason };
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(format!(
            "has more than {}; split the site over several gateways",
            format_size(FILE_BYTES_MAX)
        )));
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8; save it as UTF-8 text".to_owned()))?;
    parse(&path.display().to_string(), &text)
}

/// Reads `text`, which was found under `file`.
pub fn parse(file: &str, text: &str) -> Result<Vec<Device>, DevicesError> {
    let lines = Lines { file, text };
    let read: File = toml::from_str(text).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        // The parser's own excerpt is left out: the line may hold a secret.
        DevicesError::Wrong { problems: vec![format!("{}: {}", lines.place(at), words(e.message()))] }
    })?;
    let mut check = Check { lines, problems: Vec::new(), seen: HashMap::new() };
    if read.device.len() > DEVICES_MAX {
        check.problems.push(format!("{file}: {} devices; at most {DEVICES_MAX} are taken", read.device.len()));
        return Err(DevicesError::Wrong { problems: check.problems });
    }
    let devices: Vec<Device> = read.device.into_iter().filter_map(|entry| check.device(entry)).collect();
    if check.problems.is_empty() { Ok(devices) } else { Err(DevicesError::Wrong { problems: check.problems }) }
}

/// The parser's words on one line, and the way out where it names none.
fn words(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    match line.strip_prefix("unknown field ") {
        Some(rest) if rest.contains("expected `device`") => {
            format!("unknown key {rest}; devices are written as [[device]]")
        }
        Some(rest) => format!("unknown key {rest}"),
        None => line.replace("missing field", "missing key"),
    }
}

struct Lines<'a> {
    file: &'a str,
    text: &'a str,
}

impl Lines<'_> {
    fn place(&self, offset: usize) -> String {
        let before = self.text.get(..offset.min(self.text.len())).unwrap_or_default();
        format!("{}:{}", self.file, 1 + before.matches('\n').count())
    }
}

/// What must be unique.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Name(String),
    Token([u8; 32]),
    Certificate(String),
}

struct Check<'a> {
    lines: Lines<'a>,
    problems: Vec<String>,
    /// Where each was first, by offset.
    seen: HashMap<Key, usize>,
}

impl Check<'_> {
    fn wrong(&mut self, at: usize, name: &str, text: impl std::fmt::Display) {
        match self.problems.len() {
            n if n < SHOWN_MAX => self.problems.push(format!("{}: device {name:?}: {text}", self.lines.place(at))),
            SHOWN_MAX => self.problems.push("… and more".to_owned()),
            _ => {}
        }
    }

    fn unique(&mut self, at: usize, name: &str, key: Key, what: &str) {
        if let Some(first) = self.seen.insert(key, at) {
            let first = self.lines.place(first);
            self.wrong(at, name, format!("{what} is there already, in the [[device]] at {first}; keep one of them"));
        }
    }

    fn device(&mut self, entry: Spanned<Entry>) -> Option<Device> {
        let at = entry.span().start;
        let entry = entry.into_inner();
        let before = self.problems.len();
        let name = entry.name.clone();
        if !is_name(&name) {
            self.wrong(at, &name, "name: write 1 to 256 bytes without + # or control characters, and no $ in front");
        }
        let mut tokens = Vec::with_capacity(entry.token_sha256.len());
        if entry.token_sha256.len() > TOKENS_MAX {
            self.wrong(at, &name, format!("token_sha256: at most {TOKENS_MAX} at a time; take the old ones out"));
        }
        for text in entry.token_sha256.iter().take(TOKENS_MAX) {
            match verify::from_hex(text) {
                Some(hash) => tokens.push(hash),
                // Not repeated: it may be the token itself.
                None => self.wrong(
                    at,
                    &name,
                    "token_sha256: write the SHA-256 of the token in 64 hexadecimal digits, never the token: \
                     printf %s TOKEN | sha256sum",
                ),
            }
        }
        if let Some(Err(reason)) = entry.password.as_deref().map(verify::check_password_hash) {
            self.wrong(at, &name, format!("password: {reason}"));
        }
        if entry.certificate.as_ref().is_some_and(|c| c.is_empty() || c.len() > PATTERN_BYTES_MAX) {
            self.wrong(
                at,
                &name,
                "certificate: write the name in the certificate, or leave it out if it is the device's",
            );
        }
        for (key, patterns) in [("publish", &entry.publish), ("subscribe", &entry.subscribe)] {
            self.filters(at, &name, key, patterns.as_deref().unwrap_or_default());
        }
        self.subjects(at, &name, &entry.speaks_for);
        let max_bytes = entry.max_bytes.and_then(|size| match size {
            Size::Bytes(bytes) => Some(bytes),
            Size::Text(text) => parse_size(&text).map_err(|e| self.wrong(at, &name, format!("max_bytes: {e}"))).ok(),
        });
        let device = Device {
            name: entry.name,
            tokens,
            password: entry.password,
            certificate: entry.certificate,
            publish: entry.publish.map(Into::into),
            subscribe: entry.subscribe.map(Into::into),
            speaks_for: entry.speaks_for,
            role: entry.role,
            max_events: entry.max_events,
            max_bytes,
            disabled: entry.disabled,
        };
        self.unique(at, &name, Key::Name(name.clone()), "the name");
        self.unique(at, &name, Key::Certificate(device.certificate_name().to_owned()), "the certificate's name");
        for token in &device.tokens {
            self.unique(at, &name, Key::Token(*token), "a token");
        }
        (self.problems.len() == before).then_some(device)
    }

    fn filters(&mut self, at: usize, name: &str, key: &str, filters: &[String]) {
        if filters.len() > PATTERNS_MAX {
            self.wrong(at, name, format!("{key}: at most {PATTERNS_MAX} topics"));
        }
        for filter in filters.iter().take(PATTERNS_MAX).filter(|f| !is_filter(f)) {
            self.wrong(
                at,
                name,
                format!("{key}: {filter:?} is no topic filter; write one such as \"devices/{{device}}/#\""),
            );
        }
    }

    fn subjects(&mut self, at: usize, name: &str, patterns: &[String]) {
        if patterns.len() > PATTERNS_MAX {
            self.wrong(at, name, format!("speaks_for: at most {PATTERNS_MAX} patterns"));
        }
        let bad = |p: &&String| p.is_empty() || p.len() > PATTERN_BYTES_MAX || p.contains(char::is_control);
        for pattern in patterns.iter().take(PATTERNS_MAX).filter(bad) {
            self.wrong(
                at,
                name,
                format!("speaks_for: {pattern:?} matches no subject; write one such as \"press-7-*\""),
            );
        }
    }
}

/// Whether `text` is a topic filter (MQTT 5.0 §4.7.1).
pub fn is_filter(text: &str) -> bool {
    let last = text.split('/').count().saturating_sub(1);
    !text.is_empty()
        && text.len() <= PATTERN_BYTES_MAX
        && !text.contains('\0')
        && text.split('/').enumerate().all(|(i, level)| match level {
            "+" => true,
            "#" => i == last,
            other => !other.contains(['+', '#']),
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wrong(text: &str) -> String {
        parse("devices.toml", text).unwrap_err().to_string()
    }

    const HASH: &str = "6ca13d52ca70c883e0f0bb101e425a89e8624de51db2d2392593af6a84118090";

    /// Takes the # away from the example's settings.
    #[test]
    fn the_example_file_loads_with_every_key() {
        let file = include_str!("../../../config/devices.toml");
        assert_eq!(parse("devices.toml", file).unwrap(), []);
        let is_setting = |l: &str| l.starts_with(|c: char| c == '[' || c.is_ascii_lowercase());
        let live: Vec<&str> =
            file.lines().map(|l| l.strip_prefix('#').filter(|rest| is_setting(rest)).unwrap_or(l)).collect();
        let devices = parse("devices.toml", &live.join("\n")).unwrap();
        let expected = Device {
            name: "press-7".into(),
            tokens: vec![verify::from_hex(HASH).unwrap()],
            password: devices[0].password.clone(),
            certificate: Some("press-7.plant.example".into()),
            publish: Some(["devices/{device}/#".to_owned(), "site/alarms".into()].into()),
            subscribe: Some(["devices/{device}/#".to_owned(), "site/#".into()].into()),
            speaks_for: vec!["press-7-*".into()],
            role: Role::Device,
            max_events: Some(100),
            max_bytes: Some(64 << 10),
            disabled: false,
        };
        assert_eq!(devices, [expected]);
        assert!(devices[0].password.is_some());
    }

    #[test]
    fn a_mistake_is_named_with_its_line_and_the_way_out() {
        let with = |line: &str| wrong(&format!("# first\n[[device]]\nname = \"a\"\n{line}\n"));
        let cases = [
            ("nam = 1", "devices.toml:4: unknown key `nam`, expected one of `name`"),
            ("role = \"admin\"", "devices.toml:4: unknown variant `admin`, expected `device` or `operator`"),
            ("max_events = -1", "devices.toml:4: "),
            ("max_bytes = \"64K\"", "devices.toml:2: device \"a\": max_bytes: "),
            ("token_sha256 = [\"s3cret\"]", "devices.toml:2: device \"a\": token_sha256: write the SHA-256"),
            ("password = \"s3cret\"", "devices.toml:2: device \"a\": password: is no hash in PHC format"),
            ("publish = [\"a/#/b\"]", "devices.toml:2: device \"a\": publish: \"a/#/b\" is no topic filter"),
            ("speaks_for = [\"\"]", "devices.toml:2: device \"a\": speaks_for: "),
            ("certificate = \"\"", "devices.toml:2: device \"a\": certificate: "),
            ("name = \"b\"", "devices.toml:4: duplicate key"),
            ("password = \"s3cret", "devices.toml:4: "),
        ];
        for (line, expected) in cases {
            let got = with(line);
            assert!(got.starts_with(expected), "{line}: {got}");
            assert!(!got.contains("s3cret"), "{got}");
        }
        assert!(wrong("[[device]]\n").starts_with("devices.toml:1: missing key `name`"), "{}", wrong("[[device]]\n"));
        assert!(wrong("[[devices]]\nname = \"a\"").contains("devices are written as [[device]]"));
        assert!(wrong("[[device]]\nname = \"a+\"").contains("name: write 1 to 256 bytes"));
    }

    #[test]
    fn what_must_be_unique_is_named_with_both_places() {
        let two = |a: &str, b: &str| wrong(&format!("[[device]]\n{a}\n[[device]]\n{b}\n"));
        let got = two("name = \"a\"", "name = \"a\"");
        assert!(
            got.contains(
                "devices.toml:3: device \"a\": the name is there already, in the [[device]] at devices.toml:1"
            ),
            "{got}"
        );
        let token = format!("token_sha256 = [\"{HASH}\"]");
        assert!(two(&format!("name = \"a\"\n{token}"), &format!("name = \"b\"\n{token}")).contains("a token is there"));
        assert!(two("name = \"a\"", "name = \"b\"\ncertificate = \"a\"").contains("certificate's name is there"));
    }

    #[test]
    fn a_file_that_is_missing_is_told_apart() {
        let e = load(Path::new("/nowhere/devices.toml")).unwrap_err();
        assert!(e.to_string().contains("tidegate devices add NAME --file /nowhere/devices.toml"), "{e}");
    }

    proptest! {
        /// Anything at all: devices or words, never a panic; and what is taken keeps the rules.
        #[test]
        fn any_text_is_read_or_refused(
            lines in proptest::collection::vec(
                prop_oneof![
                    Just("[[device]]".to_owned()), "name = \"[a-c+#$]{0,2}\"", "publish = \\[\"[a+#/]{0,4}\"\\]",
                    "max_bytes = (1|\"1KiB\"|\"x\")", "disabled = (true|false|1)", "\\PC{0,12}",
                ],
                0..12,
            ),
        ) {
            if let Ok(devices) = parse("f", &lines.join("\n")) {
                for device in &devices {
                    prop_assert!(is_name(&device.name));
                    prop_assert!(device.publish.iter().flat_map(|p| p.iter()).all(|f| is_filter(f)));
                }
                let names: std::collections::HashSet<_> = devices.iter().map(|d| &d.name).collect();
                prop_assert_eq!(names.len(), devices.len());
            }
        }
    }
}
