//! Reads sections out of a document and the environment, and collects everything that is wrong.

use std::collections::BTreeMap;
use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::Document;
use super::env::Env;
use super::kinds::{Kind, echo};
use super::problem::{ConfigErrors, Place, Problem, Warning};
use super::suggest::closest;
use super::table::{Section, Spec, variable};

/// Most tables of one array (`[[lane]]`, `[[sink]]`): each of them costs memory and connections.
const TABLES_MAX: usize = 32;

/// Most unknown keys that are listed of one table: enough to say that it is the wrong file.
const UNKNOWN_MAX: usize = 1000;

/// Names one key; in an array of tables with the table's index, which is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyPath {
    pub(super) section: &'static str,
    pub(super) index: Option<usize>,
    pub(super) key: &'static str,
}

impl KeyPath {
    pub(super) fn of<S: Section>(key: &'static str) -> Self {
        Self { section: S::NAME, index: None, key }
    }

    pub(super) fn in_table<S: Section>(index: usize, key: &'static str) -> Self {
        Self { section: S::NAME, index: Some(index), key }
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.section, self.key)
    }
}

/// What the other mode knows, so that a key of it is recognised.
#[derive(Debug)]
pub(super) struct OtherMode {
    /// `cloud.toml` or `edge.toml`.
    pub(super) file: &'static str,
    pub(super) sections: &'static [&'static str],
    pub(super) variables: Vec<String>,
}

/// Where the files are that a configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FilesAre {
    /// On this machine: they are looked at.
    Here,
    /// On another one.
    Elsewhere,
}

/// Reads one configuration.
#[derive(Debug)]
pub(super) struct Reader<'d> {
    document: &'d Document,
    root: &'d DeTable<'d>,
    env: &'d Env,
    files: FilesAre,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
    places: BTreeMap<KeyPath, Place>,
    headers: BTreeMap<(&'static str, Option<usize>), Place>,
    sections: Vec<&'static str>,
    variables: Vec<String>,
}

impl<'d> Reader<'d> {
    pub(super) fn new(document: &'d Document, root: &'d DeTable<'d>, env: &'d Env) -> Self {
        Self {
            document,
            root,
            env,
            files: FilesAre::Here,
            problems: Vec::new(),
            warnings: Vec::new(),
            places: BTreeMap::new(),
            headers: BTreeMap::new(),
            sections: Vec::new(),
            variables: Vec::new(),
        }
    }

    /// Where the files are that the configuration names.
    pub(super) fn files(self, files: FilesAre) -> Self {
        Self { files, ..self }
    }

    /// With what was found before.
    pub(super) fn saying(self, problems: Vec<Problem>, warnings: Vec<Warning>) -> Self {
        Self { problems, warnings, ..self }
    }

    /// How many problems there are so far.
    pub(super) fn problems_so_far(&self) -> usize {
        self.problems.len()
    }

    /// Makes warnings of the problems from number `first` on that `may_be` says: the gateway's own file, which is not at
    /// hand, may say otherwise.
    pub(super) fn unless_the_gateway_says_otherwise(&mut self, first: usize, may_be: impl Fn(&Self, &Problem) -> bool) {
        let (softer, problems) = self.problems.split_off(first).into_iter().partition(|problem| may_be(self, problem));
        self.problems.extend::<Vec<_>>(problems);
        let soften = |problem: Problem| {
            let text = format!("unless the gateway's own file says otherwise: {}", problem.text);
            Warning(Problem { text, ..problem })
        };
        self.warnings.extend(Vec::into_iter(softer).map(soften));
    }

    /// Whether the files that the configuration names can be looked at.
    pub(super) fn files_are_here(&self) -> bool {
        self.files == FilesAre::Here
    }

    /// Reads the section `S`, which may be missing.
    pub(super) fn section<S: Section>(&mut self) -> S {
        self.sections.push(S::NAME);
        let table = find(self.root, S::NAME).and_then(|value| {
            let place = self.document.place(value.span().start);
            let text = match value.get_ref() {
                DeValue::Table(table) => {
                    self.headers.insert((S::NAME, None), place);
                    return Some(table);
                }
                DeValue::Array(_) => format!("is there only once; write [{}] with single brackets", S::NAME),
                _ => format!("is a section; write [{}] and its keys below", S::NAME),
            };
            self.problem_at(place, S::NAME.to_owned(), text);
            None
        });
        let mut fields = Fields { reader: self, section: S::NAME, index: None, table, known: Vec::new() };
        let section = S::read(&mut fields);
        fields.finish();
        section
    }

    /// Reads every table of the array `name` with `read`. `None`: there is no such array.
    pub(super) fn tables<T>(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(&mut Fields<'_, 'd>) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.sections.push(name);
        let value = find(self.root, name)?;
        let DeValue::Array(array) = value.get_ref() else {
            let text = format!("can be there several times; write [[{name}]] with double brackets");
            self.problem_at(self.document.place(value.span().start), name.to_owned(), text);
            return None;
        };
        let mut tables = Vec::new();
        for (index, item) in array.iter().enumerate() {
            let place = self.document.place(item.span().start);
            if index == TABLES_MAX {
                let text = format!("is there {} times; write at most {TABLES_MAX}", array.len());
                self.problem_at(place, name.to_owned(), text);
                break;
            }
            let DeValue::Table(table) = item.get_ref() else {
                let text = format!("holds something that is no table; write [[{name}]] and its keys below");
                self.problem_at(place, name.to_owned(), text);
                continue;
            };
            self.headers.insert((name, Some(index)), place);
            let mut fields =
                Fields { reader: self, section: name, index: Some(index), table: Some(table), known: Vec::new() };
            let read = read(&mut fields);
            if read.is_some() {
                fields.finish();
            }
            tables.extend(read);
        }
        Some(tables)
    }

    /// Something is wrong with the value of `path`.
    pub(super) fn wrong(&mut self, path: KeyPath, text: impl Into<String>) {
        let place = self.place_of(path);
        self.problem_at(place, path.to_string(), text.into());
    }

    /// Something about the value of `path` should be known.
    pub(super) fn warn(&mut self, path: KeyPath, text: impl Into<String>) {
        let place = self.place_of(path);
        self.warnings.push(Warning(Problem { place, key: path.to_string(), text: text.into() }));
    }

    /// Whether `path` was set, in the file or in the environment.
    pub(super) fn is_set(&self, path: KeyPath) -> bool {
        self.places.contains_key(&path)
    }

    /// Whether the file has the section `S`.
    pub(super) fn is_there<S: Section>(&self) -> bool {
        find(self.root, S::NAME).is_some()
    }

    /// Whether something is wrong with `path` itself: its value is a stand-in then, and rules that
    /// compare it with others would only confuse.
    pub(super) fn is_wrong(&self, path: KeyPath) -> bool {
        let name = path.to_string();
        self.problems.iter().any(|problem| problem.key == name)
    }

    /// Whether something is wrong anywhere in the section `S`.
    pub(super) fn is_wrong_in<S: Section>(&self) -> bool {
        let in_section = |key: &str| key.split('.').next() == Some(S::NAME);
        self.problems.iter().any(|problem| in_section(&problem.key))
    }

    /// The configuration, if nothing is wrong with it.
    pub(super) fn finish<C>(mut self, config: C, other: &OtherMode) -> Result<(C, Vec<Warning>), ConfigErrors> {
        self.unknown_sections(other);
        self.unknown_variables(other);
        if !self.problems.is_empty() {
            return Err(ConfigErrors::new(self.problems));
        }
        self.warnings.sort();
        Ok((config, self.warnings))
    }

    fn place_of(&self, path: KeyPath) -> Place {
        self.places
            .get(&path)
            .or_else(|| self.headers.get(&(path.section, path.index)))
            .cloned()
            .unwrap_or_else(|| self.document.whole())
    }

    fn problem_at(&mut self, place: Place, key: String, text: String) {
        self.problems.push(Problem { place, key, text });
    }

    fn unknown_sections(&mut self, other: &OtherMode) {
        let unknown = self.root.iter().filter(|(key, _)| !self.sections.contains(&key.get_ref().as_ref()));
        for (key, value) in unknown.take(UNKNOWN_MAX) {
            let name: &str = key.get_ref();
            let is_table = matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_));
            let near = closest(name, self.sections.iter().copied());
            let text = match near {
                _ if other.sections.contains(&name) => format!("belongs in {}; take it out of this file", other.file),
                Some(near) if is_table => format!("there is no such section; did you mean [{near}]?"),
                _ if is_table => format!("there is no such section; there are [{}]", self.sections.join("], [")),
                _ => format!("stands outside of all sections; put it below one of [{}]", self.sections.join("], [")),
            };
            self.problems.push(Problem { place: self.document.place(key.span().start), key: bare(name), text });
        }
    }

    fn unknown_variables(&mut self, other: &OtherMode) {
        for name in self.env.names() {
            if self.variables.iter().chain(&other.variables).any(|known| known == name) {
                continue;
            }
            let arrays = ["LANE", "SINK", "CLUSTER"];
            let section = name.trim_start_matches(super::env::PREFIX).split('_').next().unwrap_or_default();
            let text = match closest(name, self.variables.iter().map(String::as_str)) {
                Some(near) => format!("has no effect: there is no such key; did you mean {near}?"),
                None if arrays.contains(&section) => {
                    format!("has no effect: [[{}]] is written in the file only", section.to_lowercase())
                }
                None => "has no effect: there is no such key; config/*.toml tells how variables are named".to_owned(),
            };
            let place = Place::Variable(name.to_owned());
            self.warnings.push(Warning(Problem { place, key: String::new(), text }));
        }
    }
}

/// The keys of one table, taken out one by one.
pub(super) struct Fields<'r, 'd> {
    reader: &'r mut Reader<'d>,
    section: &'static str,
    index: Option<usize>,
    table: Option<&'d DeTable<'d>>,
    known: Vec<&'static str>,
}

impl Fields<'_, '_> {
    /// The value of `key`: from the environment, else from the table, else `None`.
    pub(super) fn take<K: Kind>(&mut self, key: &'static str, spec: &Spec<K>) -> Option<K::Value> {
        self.known.push(key);
        // Both are read, so that a mistake in the file shows even while a variable covers it.
        let of_file = self.table_value(key, spec);
        let of_env = self.env_value(key, spec);
        let value = of_env.or(of_file);
        if let (Some(value), Some(later)) = (&value, spec.later)
            && let Some(note) = later(value)
        {
            self.reader.warn(self.path(key), format!("is not in effect in this version: {note}"));
        }
        value
    }

    /// Whether the table has `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| find(table, key).is_some())
    }

    fn path(&self, key: &'static str) -> KeyPath {
        KeyPath { section: self.section, index: self.index, key }
    }

    fn table_value<K: Kind>(&mut self, key: &'static str, spec: &Spec<K>) -> Option<K::Value> {
        let path = self.path(key);
        let Some(value) = self.table.and_then(|table| find(table, key)) else {
            if spec.required {
                let write = spec.example.map_or_else(|| spec.kind.takes(), |example| format!("{key} = {example}"));
                self.reader.wrong(path, format!("is missing; write {write}"));
            }
            return None;
        };
        let value_start = value.span().start;
        self.reader.places.insert(path, self.reader.document.place(value_start));
        match spec.kind.toml(value.get_ref()) {
            Ok(value) => Some(value),
            Err(faults) => {
                for fault in faults {
                    let start = fault.span.map_or(value_start, |span| span.start);
                    let place = self.reader.document.place(start);
                    self.reader.problem_at(place, path.to_string(), fault.text);
                }
                None
            }
        }
    }

    fn env_value<K: Kind>(&mut self, key: &'static str, spec: &Spec<K>) -> Option<K::Value> {
        if self.index.is_some() {
            return None;
        }
        let name = variable(self.section, key);
        let given = self.reader.env.get(&name);
        self.reader.variables.push(name.clone());
        let path = self.path(key);
        let place = Place::Variable(name);
        match given?.map_err(str::to_owned).and_then(|text| spec.kind.text(text)) {
            Ok(value) => {
                self.reader.places.insert(path, place);
                Some(value)
            }
            Err(text) => {
                self.reader.problem_at(place, path.to_string(), text);
                None
            }
        }
    }

    /// What is left in the table is unknown.
    fn finish(self) {
        let Some(table) = self.table else { return };
        let unknown = table.keys().filter(|key| !self.known.contains(&key.get_ref().as_ref()));
        for key in unknown.take(UNKNOWN_MAX) {
            let name: &str = key.get_ref();
            let text = match closest(name, self.known.iter().copied()) {
                Some(near) => format!("there is no such key; did you mean {near:?}?"),
                None => format!("there is no such key; [{}] has {}", self.section, self.known.join(", ")),
            };
            let place = self.reader.document.place(key.span().start);
            self.reader.problem_at(place, format!("{}.{}", self.section, bare(name)), text);
        }
    }
}

/// A name that someone else chose: long or odd ones are cut and escaped.
pub(super) fn bare(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.len() <= 40 && !name.is_empty() && name.chars().all(plain) { name.to_owned() } else { echo(name) }
}

/// A key's value.
fn find<'d>(table: &'d DeTable<'d>, name: &str) -> Option<&'d Spanned<DeValue<'d>>> {
    table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value)
}
