//! A file's text as a TOML table that remembers where everything stands; its syntax errors.

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{ConfigErrors, Place, Problem};

/// Largest configuration file. A real one has a few KiB; this bounds what a wrong path can cost.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Most syntax errors reported: after the first few the parser only guesses.
const SYNTAX_ERRORS_MAX: usize = 5;

/// Longest piece of a faulty line that is repeated in the message.
const EXCERPT_MAX: usize = 120;

/// Longest unbroken word that is repeated: longer ones may be tokens.
const WORD_MAX: usize = 40;

/// A configuration's text under the name it was given by, and what was pushed over it.
#[derive(Clone, Debug)]
pub(super) struct Document {
    base: Source,
    /// What lies over it; its places are counted from the end of the base's text.
    pushed: Option<Source>,
}

/// A text and its name.
#[derive(Clone, Debug)]
struct Source {
    /// `None`: there is no file, only defaults.
    name: Option<String>,
    text: String,
}

impl Document {
    pub(super) fn new(name: &str, text: String) -> Self {
        Self { base: Source { name: Some(name.to_owned()), text }, pushed: None }
    }

    /// With the text of a pushed document over it.
    pub(super) fn under(self, name: &str, text: String) -> Self {
        Self { pushed: Some(Source { name: Some(name.to_owned()), text }), ..self }
    }

    /// The file at `path`; without one the empty document, in which every key has its default.
    pub(super) fn load(path: Option<&Path>) -> Result<Self, ConfigErrors> {
        match path {
            Some(path) => Self::open(path).map_err(|problem| ConfigErrors::new(vec![problem])),
            None => Ok(Self { base: Source { name: None, text: String::new() }, pushed: None }),
        }
    }

    /// Reads a file, within bounds.
    fn open(path: &Path) -> Result<Self, Problem> {
        let name = path.display().to_string();
        let wrong = |text: String| Problem { place: Place::File(name.clone()), key: String::new(), text };
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(|e| wrong(format!("cannot be read: {e}; give the path of a readable TOML file")))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(wrong(format!(
                "has more than {}; a configuration file is a few KiB of TOML",
                super::units::format_size(FILE_BYTES_MAX)
            )));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self::new(&name, text)),
            Err(e) => {
                let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
                Err(wrong(format!("line {line} is not UTF-8; save the file as UTF-8 text")))
            }
        }
    }

    /// Where byte `offset` stands.
    pub(super) fn place(&self, offset: usize) -> Place {
        match (offset.checked_sub(self.pushed_start()), &self.pushed) {
            (Some(offset), Some(pushed)) => pushed.place(offset),
            _ => self.base.place(offset),
        }
    }

    /// The base as a whole.
    pub(super) fn whole(&self) -> Place {
        self.base.name.clone().map_or(Place::Default, Place::File)
    }

    /// The base's table, or what keeps its text from being TOML.
    pub(super) fn parse(&self) -> Result<DeTable<'_>, Vec<Problem>> {
        self.base.parse()
    }

    /// The pushed table; `None`: nothing was pushed. Its places are those that [`Self::place`] takes.
    pub(super) fn parse_pushed(&self) -> Result<Option<DeTable<'_>>, Vec<Problem>> {
        let Some(pushed) = &self.pushed else { return Ok(None) };
        pushed.parse().map(|table| Some(moved_table(table, self.pushed_start())))
    }

    /// Just behind the base's end: an error there still belongs to the base.
    fn pushed_start(&self) -> usize {
        self.base.text.len() + 1
    }
}

fn moved_table(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    table
        .into_iter()
        .map(|(key, value)| (moved(key, by, |key| key), moved(value, by, |v| moved_value(v, by))))
        .collect()
}

fn moved_value(value: DeValue<'_>, by: usize) -> DeValue<'_> {
    match value {
        DeValue::Array(array) => {
            DeValue::Array(array.into_iter().map(|item| moved(item, by, |item| moved_value(item, by))).collect())
        }
        DeValue::Table(table) => DeValue::Table(moved_table(table, by)),
        plain => plain,
    }
}

fn moved<T>(spanned: Spanned<T>, by: usize, inside: impl FnOnce(T) -> T) -> Spanned<T> {
    let Range { start, end } = spanned.span();
    Spanned::new(start + by..end + by, inside(spanned.into_inner()))
}

impl Source {
    fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset.min(self.text.len())).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        match &self.name {
            Some(file) => Place::At {
                file: file.clone(),
                line: 1 + before.matches('\n').count(),
                column: 1 + before[line_start..].chars().count(),
            },
            None => Place::Default,
        }
    }

    fn parse(&self) -> Result<DeTable<'_>, Vec<Problem>> {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        if errors.is_empty() {
            return Ok(table.into_inner());
        }
        Err(errors
            .iter()
            .take(SYNTAX_ERRORS_MAX)
            .map(|e| {
                let span = e.span().unwrap_or_default();
                let text = format!("is no valid TOML: {}\n{}", reason(e.message(), &span), self.excerpt(&span));
                Problem { place: self.place(span.start), key: String::new(), text }
            })
            .collect())
    }

    /// The line at `span` with a caret below.
    fn excerpt(&self, span: &Range<usize>) -> String {
        let start = span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text[line_start..].lines().next().unwrap_or_default();
        let number = (1 + before.matches('\n').count()).to_string();
        let gutter = " ".repeat(number.len());
        if may_hold_a_secret(line) || line.chars().count() > EXCERPT_MAX {
            return format!("{gutter} |\n{number} | (not shown)\n{gutter} |");
        }
        let column = before[line_start..].chars().count();
        let marked = self.text.get(start..span.end).map_or(1, |s| s.lines().next().unwrap_or_default().chars().count());
        let carets = "^".repeat(marked.clamp(1, EXCERPT_MAX));
        format!("{gutter} |\n{number} | {line}\n{gutter} | {}{carets}", " ".repeat(column))
    }
}

/// The parser's words, or ours where its are misleading or name no way out (toml 1.2.1).
fn reason<'m>(message: &'m str, span: &Range<usize>) -> &'m str {
    match message {
        "duplicate key" => "the same key is written twice; keep one of them",
        "string values must be quoted, expected literal string" if span.is_empty() => "the value after = is missing",
        "string values must be quoted, expected literal string" => "text must stand in quotes",
        other => other.trim_end_matches(", expected nothing"),
    }
}

/// A faulty line is repeated on the terminal and in logs, so a token in it must not be.
fn may_hold_a_secret(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    let named = ["token", "secret", "password"].iter().any(|word| lower.replace("token_file", "").contains(word));
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+' | '=');
    named || line.split(|c| !is_word(c)).any(|word| word.len() > WORD_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<String> {
        let document = Document::new("edge.toml", text.to_owned());
        document.parse().unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_syntax_error_shows_its_line_with_a_caret() {
        let got = errors("[http]\nlisten =\nmax_batch = 1\nmax_batch = 2\nbody_timeout = 30s\n");
        assert_eq!(
            got,
            [
                "edge.toml:2:9: is no valid TOML: the value after = is missing\n  |\n2 | listen =\n  |         ^",
                "edge.toml:4:1: is no valid TOML: the same key is written twice; keep one of them\n  |\n4 | max_batch = 2\n  | ^^^^^^^^^",
                "edge.toml:5:16: is no valid TOML: text must stand in quotes\n  |\n5 | body_timeout = 30s\n  |                ^^^",
            ]
        );
    }

    #[test]
    fn a_line_with_a_token_is_not_repeated() {
        for line in ["token = \"s3cret", "x = \"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJlZGdlIn0.s3cret"] {
            let got = errors(&format!("[uplink]\n{line}\n")).join("\n");
            assert!(got.contains("edge.toml:2:"), "{got}");
            assert!(!got.contains("s3cret"), "{got}");
        }
    }

    #[test]
    fn columns_count_characters() {
        let document = Document::new("f", "a = 1\nä = ü2".to_owned());
        let at = |line, column| Place::At { file: "f".into(), line, column };
        assert_eq!(document.place(0), at(1, 1));
        assert_eq!(document.place("a = 1\nä = ".len()), at(2, 5));
        assert_eq!(document.place(999), at(2, 7));
    }

    #[test]
    fn a_file_that_is_missing_binary_or_huge_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge.toml");
        let refused = || Document::open(&path).unwrap_err().text;
        assert!(refused().starts_with("cannot be read: No such file"), "{}", refused());
        std::fs::write(&path, b"a = 1\nb = \"\xff\"").unwrap();
        assert_eq!(refused(), "line 2 is not UTF-8; save the file as UTF-8 text");
        std::fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
        assert_eq!(refused(), "has more than 1MiB; a configuration file is a few KiB of TOML");
    }
}
