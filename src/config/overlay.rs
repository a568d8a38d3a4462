//! A pushed document over the gateway's own file: what it may set, and the configuration that comes out. [pure]
//!
//! A document holds whole keys: a key that it has replaces the gateway's own, and so does each of `[[lane]]`,
//! `[[mapping]]`, `[[bridge]]` and `[[inference]]` as a whole; what it does not name stays as the gateway's own file and variables say.
//! It can never remove the way to receive configuration: who the gateway is, where it listens, whom it trusts and where
//! its data lies are [`Rule`]d out here, and so is an uplink without an address.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::Document;
use super::edge::EdgeConfig;
use super::env::Env;
use super::kinds::{Count, Instant, Optional};
use super::problem::{ConfigErrors, Problem, Warning};
use super::reader::{FilesAre, OtherMode, Reader, bare};
use super::table::{Section, key, section, variable};
use crate::event::time::Timestamp;

/// Largest document: with its signature, in base64, and with an assignment it must fit into one inbox message (1 MiB).
pub const DOCUMENT_BYTES_MAX: usize = 512 * 1024;

/// Largest version: what every JSON reader keeps exact (RFC 8259 §6).
pub const VERSION_MAX: u64 = (1 << 53) - 1;

section! {
    /// `[document]`: what a document says of itself. `tidegate config sign` writes it at its end.
    "document" => Header {
        /// Version of the document: grows with every change.
        version: Option<u64> = None, key(Optional(Count(1, VERSION_MAX))).example("12");
        /// When gateways no longer take it.
        expires: Option<Timestamp> = None, key(Optional(Instant)).example("2027-01-31T12:00:00Z");
    }
}

/// What a document may set of a section.
#[derive(Debug)]
enum Rule {
    /// Everything.
    All,
    /// Everything but these keys.
    Except(&'static [&'static str]),
    /// These keys alone.
    Only(&'static [&'static str]),
    /// Nothing.
    Never,
}

/// Every section of `edge.toml` (a test compares).
const RULES: [(&str, Rule); 16] = [
    // Who the gateway is and where its data lies: all that was promised hangs on it.
    ("node", Rule::Never),
    // Whom the gateway trusts: only by hand, or by a keyring that a root key has signed.
    ("downlink", Rule::Never),
    // Nothing central makes a gateway run a program, or takes its disk.
    ("models", Rule::Never),
    ("model", Rule::Never),
    // Devices and local tools know these addresses.
    ("http", Rule::Except(&["listen", "tls_listen"])),
    ("mqtt", Rule::Except(&["listen", "tls_listen", "ws_listen", "wss_listen"])),
    ("tls", Rule::All),
    ("identity", Rule::All),
    ("mapping", Rule::All),
    ("bridge", Rule::All),
    // It adds attributes and alarms; the models themselves have signatures of their own.
    ("inference", Rule::All),
    ("commands", Rule::All),
    ("outbox", Rule::All),
    ("lane", Rule::All),
    // The inbox is a topic of the tenant: a gateway sent elsewhere would deliver, and never hear again.
    ("uplink", Rule::Except(&["tenant"])),
    // The format belongs to whatever collects the log on the site.
    ("log", Rule::Only(&["level"])),
];

/// Keys that exclude each other: a document that sets one takes the gateway's own other one away.
const ALTERNATIVES: [(&str, [&str; 2]); 1] = [("uplink", ["token", "token_file"])];

/// A configuration with a document in effect.
#[derive(Clone, Debug)]
pub struct Overlaid {
    /// The configuration.
    pub config: EdgeConfig,
    /// What the document says of itself.
    pub header: Header,
    /// The keys that the document has, as `section.key`; of `[[lane]]` and the like `section` alone.
    pub sets: BTreeSet<String>,
    /// What should be known although it is used.
    pub warnings: Vec<Warning>,
}

/// A document: its text under the name that errors give it.
#[derive(Clone, Copy)]
pub struct Pushed<'t> {
    /// File name, or where it came from.
    pub name: &'t str,
    /// TOML.
    pub text: &'t str,
}

impl Header {
    /// What `text` says of itself, whatever else is in it.
    pub fn of(name: &str, text: &str) -> Result<Self, ConfigErrors> {
        let document = Document::new(name, text.to_owned());
        let mut root = document.parse().map_err(ConfigErrors::new)?;
        let own = root.remove_entry(Self::NAME);
        let root: DeTable<'_> = own.into_iter().collect();
        // No variable may change what was signed.
        let env = Env::empty();
        let mut reader = Reader::new(&document, &root, &env);
        let header = reader.section();
        let nothing_else = OtherMode { file: "", sections: &[], variables: Vec::new() };
        reader.finish(header, &nothing_else).map(|(header, _)| header)
    }
}

/// Where the paths of a configuration count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckedOn {
    /// The gateway itself: files that are named must be there.
    Gateway,
    /// Another machine, without any gateway's file: the files that are named are somewhere else, and what the document
    /// leaves out is unknown.
    Elsewhere,
}

/// The document over a gateway that says nothing of itself: what can be known of it without any gateway's file. Nothing
/// is said about the gateway's own part.
pub fn check_alone(document: Pushed<'_>) -> Result<Overlaid, ConfigErrors> {
    let nothing = Document::new("", String::new());
    let mut overlaid = read(nothing, document, &Env::empty(), CheckedOn::Elsewhere)?;
    overlaid.warnings.retain(|warning| warning.0.place.is_in(document.name));
    Ok(overlaid)
}

/// Reads `base` with `document` over it, by the same rules as a gateway's own file.
pub(super) fn read(
    base: Document,
    document: Pushed<'_>,
    env: &Env,
    checked_on: CheckedOn,
) -> Result<Overlaid, ConfigErrors> {
    if document.text.len() > DOCUMENT_BYTES_MAX {
        let text = format!(
            "has {} bytes; a document has at most {DOCUMENT_BYTES_MAX}, or it does not fit into the gateway's inbox",
            document.text.len()
        );
        let place = super::problem::Place::File(document.name.to_owned());
        return Err(ConfigErrors::new(vec![Problem { place, key: String::new(), text }]));
    }
    let both = base.under(document.name, document.text.to_owned());
    let Merged { root, sets, mut problems, warnings } = merge(&both, env)?;
    let header = Header::of(document.name, document.text).unwrap_or_else(|errors| {
        problems.extend_from_slice(errors.problems());
        Header::default()
    });
    let files = match checked_on {
        CheckedOn::Gateway => FilesAre::Here,
        CheckedOn::Elsewhere => FilesAre::Elsewhere,
    };
    let reader = Reader::new(&both, &root, env).files(files).saying(problems, warnings);
    let (config, warnings) = EdgeConfig::read_by(reader, env)?;
    Ok(Overlaid { config, header, sets, warnings })
}

/// Both tables as one, with what is wrong about the document as such.
struct Merged<'d> {
    root: DeTable<'d>,
    sets: BTreeSet<String>,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

fn merge<'d>(both: &'d Document, env: &Env) -> Result<Merged<'d>, ConfigErrors> {
    let root = both.parse().map_err(ConfigErrors::new)?;
    let pushed = both.parse_pushed().map_err(ConfigErrors::new)?.unwrap_or_default();
    let mut merged = Merged { root, sets: BTreeSet::new(), problems: Vec::new(), warnings: Vec::new() };
    if let Some((own, _)) = merged.root.remove_entry(Header::NAME) {
        let text = "belongs in a pushed document; take it out of this file".to_owned();
        merged.problems.push(Problem { place: both.place(own.span().start), key: Header::NAME.to_owned(), text });
    }
    for (name, value) in pushed {
        if name.get_ref() == Header::NAME {
            continue;
        }
        let rule = RULES.iter().find(|(section, _)| *section == name.get_ref());
        match (rule, value.into_parts()) {
            (Some((section, Rule::Never)), _) => merged.refuse(both, &name, (*section).to_owned()),
            // What [[lane]] and the like hold has no keys of its own to keep.
            (Some((section, rule)), (span, DeValue::Table(table))) => {
                merged.section(both, env, (section, rule), Spanned::new(span, table), name);
            }
            // Unknown sections and wrong shapes: the reader says what is wrong with them, and where.
            (_, (span, value)) => {
                merged.sets.insert(name.get_ref().to_string());
                merged.root.remove(name.get_ref().as_ref());
                merged.root.insert(name, Spanned::new(span, value));
            }
        }
    }
    Ok(merged)
}

/// Takes a spanned value apart.
trait IntoParts<T> {
    fn into_parts(self) -> (std::ops::Range<usize>, T);
}

impl<T> IntoParts<T> for Spanned<T> {
    fn into_parts(self) -> (std::ops::Range<usize>, T) {
        (self.span(), self.into_inner())
    }
}

type Key<'d> = Spanned<toml::de::DeString<'d>>;

impl<'d> Merged<'d> {
    fn section(
        &mut self,
        both: &Document,
        env: &Env,
        (section, rule): (&str, &Rule),
        pushed: Spanned<DeTable<'d>>,
        name: Key<'d>,
    ) {
        let (span, table) = pushed.into_parts();
        // The gateway's own table, unless it has something else under that name, which is an error anyway.
        let mut own = match self.root.remove(section).map(IntoParts::into_parts) {
            Some((span, DeValue::Table(own))) => (span, own),
            _ => (span, DeTable::new()),
        };
        for (key, value) in table {
            let word: &str = key.get_ref();
            if !rule.allows(word) {
                self.refuse(both, &key, format!("{section}.{}", bare(word)));
                continue;
            }
            if (section, word) == ("uplink", "pulsar") && value.get_ref().as_array().is_some_and(|urls| urls.is_empty())
            {
                let text = "is empty: the gateway could never be reached again; name at least one address".to_owned();
                self.problem(both, &value, "uplink.pulsar".to_owned(), text);
                continue;
            }
            let variable = variable(section, word);
            if env.get(&variable).is_some() {
                let text = format!("has no effect here: {variable} is set on this gateway, and a variable wins");
                let place = both.place(value.span().start);
                self.warnings.push(Warning(Problem { place, key: format!("{section}.{}", bare(word)), text }));
            }
            for other in others(section, word) {
                own.1.remove(other);
            }
            self.sets.insert(format!("{section}.{word}"));
            own.1.remove(word);
            own.1.insert(key, value);
        }
        self.root.insert(name, Spanned::new(own.0, DeValue::Table(own.1)));
    }

    fn refuse(&mut self, both: &Document, at: &Key<'_>, key: String) {
        let text =
            "is the gateway's own: a pushed document cannot set it; take it out, or change it in the gateway's file";
        self.problem(both, at, key, text.to_owned());
    }

    fn problem<T>(&mut self, both: &Document, at: &Spanned<T>, key: String, text: String) {
        self.problems.push(Problem { place: both.place(at.span().start), key, text });
    }
}

fn others(section: &str, key: &str) -> impl Iterator<Item = &'static str> {
    let pair = ALTERNATIVES.into_iter().find(|(of, pair)| *of == section && pair.contains(&key));
    pair.into_iter().flat_map(|(_, pair)| pair).filter(move |other| *other != key)
}

impl Rule {
    fn allows(&self, key: &str) -> bool {
        match self {
            Self::All => true,
            Self::Except(keys) => !keys.contains(&key),
            Self::Only(keys) => keys.contains(&key),
            Self::Never => false,
        }
    }
}

#[cfg(test)]
#[path = "overlay_tests.rs"]
mod tests;
