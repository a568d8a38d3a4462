//! What differs between two configurations, or two documents: key by key, whatever the files look like. [pure]

use std::fmt;

use serde_json::{Map, Value as Json};

use super::edge::{self, Bridge, EdgeConfig, Inference, Lane, Mapping, TAKES_NOTHING};
use super::overlay::{Header, Overlaid};
use super::table::Section;

/// What stands for a key that a document does not name.
const NOT_NAMED: &str = "(not in the document)";

/// What stands for a key without a value, or a table that is not there.
const NOT_SET: &str = "(not set)";

/// One key, or one table of `[[lane]]` and the like, that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `uplink.window`, `lane alarms.types`, `lane alarms`, `lane order`.
    pub key: String,
    /// As TOML; secrets are hidden.
    pub old: String,
    /// As TOML; secrets are hidden.
    pub new: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} → {}", self.key, self.old, self.new)
    }
}

/// What differs between two configurations of a gateway, in the order of the file.
pub fn configurations(old: &EdgeConfig, new: &EdgeConfig) -> Vec<Change> {
    compare(&entries(old), &entries(new), NOT_SET)
}

/// What differs between two documents: also whether they name a key at all.
pub fn documents(old: &Overlaid, new: &Overlaid) -> Vec<Change> {
    compare(&named(old), &named(new), NOT_NAMED)
}

/// One value. In an array of tables with the table's name; the tables' order is an entry of its own.
#[derive(Clone, Debug)]
struct Entry {
    section: &'static str,
    /// The name of the table, where there are several.
    table: Option<String>,
    key: &'static str,
    shown: Option<String>,
    compared: Option<String>,
    /// Has the value that it has when nobody sets it.
    is_default: bool,
}

impl Entry {
    fn name(&self) -> String {
        match &self.table {
            Some(table) => format!("{} {table}.{}", self.section, self.key),
            None => format!("{}.{}", self.section, self.key),
        }
    }

    fn is(&self, other: &Self) -> bool {
        (self.section, &self.table, self.key) == (other.section, &other.table, other.key)
    }

    fn is_of_table(&self, other: &Self) -> bool {
        self.table.is_some() && (self.section, &self.table) == (other.section, &other.table)
    }
}

/// The key of the entry that holds the order of tables; no key of ours has a blank.
const ORDER: &str = "in this order";

fn entries(config: &EdgeConfig) -> Vec<Entry> {
    let mut all = plain(&config.node);
    all.extend(plain(&config.http));
    all.extend(plain(&config.mqtt));
    all.extend(plain(&config.tls));
    all.extend(plain(&config.identity));
    all.extend(tables(&config.mappings, |mapping: &Mapping| &mapping.topic));
    all.extend(tables(&config.bridges, |bridge: &Bridge| &bridge.name));
    all.extend(tables(&config.inferences, |inference: &Inference| &inference.model));
    all.extend(plain(&config.commands));
    all.extend(plain(&config.outbox));
    all.extend(tables(&config.lanes, |lane: &Lane| &lane.name));
    all.extend(plain(&config.uplink));
    all.extend(plain(&config.downlink));
    all.extend(plain(&config.log));
    // What a lane with MQTT topics alone is given in place of types is not what somebody wrote.
    let nothing = format!("[{TAKES_NOTHING:?}]");
    all.retain(|entry| entry.key != "types" || entry.shown.as_ref() != Some(&nothing));
    all
}

fn named(document: &Overlaid) -> Vec<Entry> {
    let is_named = |entry: &Entry| match entry.table {
        Some(_) => document.sets.contains(entry.section),
        None => document.sets.contains(&format!("{}.{}", entry.section, entry.key)),
    };
    let header = plain(&document.header).into_iter().filter(|entry| entry.shown.is_some());
    header.chain(entries(&document.config).into_iter().filter(is_named)).collect()
}

fn plain<S: Section + Default>(section: &S) -> Vec<Entry> {
    table(section, None)
}

fn table<S: Section + Default>(section: &S, name: Option<&str>) -> Vec<Entry> {
    let values = section.values().into_iter().zip(section.compared()).zip(S::default().compared());
    values
        .map(|(((key, shown), compared), default)| Entry {
            section: S::NAME,
            table: name.map(str::to_owned),
            key,
            is_default: compared == default,
            shown,
            compared,
        })
        .collect()
}

fn tables<S: Section + Default>(tables: &[S], name: fn(&S) -> &String) -> Vec<Entry> {
    let mut names: Vec<String> = Vec::new();
    let mut all = Vec::new();
    for one in tables {
        // Two mappings may have one topic: the first that matches counts.
        let again = names.iter().filter(|known| known.split(" #").next() == Some(name(one))).count();
        let called = if again == 0 { name(one).clone() } else { format!("{} #{}", name(one), again + 1) };
        all.extend(table(one, Some(&called)));
        names.push(called);
    }
    let order = Some(names.join(", ")).filter(|order| !order.is_empty());
    let entry = |order: Option<String>| Entry {
        section: S::NAME,
        table: Some(String::new()),
        key: ORDER,
        is_default: true,
        shown: order.clone(),
        compared: order,
    };
    all.push(entry(order));
    all
}

fn compare(old: &[Entry], new: &[Entry], missing: &str) -> Vec<Change> {
    let mut changes = Vec::new();
    let gone = old.iter().filter(|entry| !new.iter().any(|other| other.is(entry)));
    let mut tables: Vec<&Entry> = Vec::new();
    for entry in new.iter().chain(gone) {
        let (before, after) = (old.iter().find(|e| e.is(entry)), new.iter().find(|e| e.is(entry)));
        if entry.key == ORDER {
            changes.extend(order(before, after));
            continue;
        }
        // A table that came or went is one change.
        let in_old = old.iter().any(|e| e.is_of_table(entry));
        let in_new = new.iter().any(|e| e.is_of_table(entry));
        if entry.table.is_some() && in_old != in_new {
            if !tables.iter().any(|table| table.is_of_table(entry)) {
                tables.push(entry);
                let whole = |of: &[Entry]| whole(of, entry).unwrap_or_else(|| missing.to_owned());
                let key = format!("{} {}", entry.section, entry.table.as_deref().unwrap_or_default());
                changes.push(Change { key, old: whole(old), new: whole(new) });
            }
            continue;
        }
        if before.map(|e| &e.compared) == after.map(|e| &e.compared) {
            continue;
        }
        let show = |entry: Option<&Entry>| match entry {
            Some(entry) => entry.shown.clone().unwrap_or_else(|| NOT_SET.to_owned()),
            None => missing.to_owned(),
        };
        let (old, mut new) = (show(before), show(after));
        if old == new {
            new = "(another secret)".to_owned();
        }
        changes.push(Change { key: entry.name(), old, new });
    }
    changes
}

/// Tables that are in both and changed places; for lanes and mappings the first that matches counts.
fn order(before: Option<&Entry>, after: Option<&Entry>) -> Option<Change> {
    let (before, after) = (before?, after?);
    let (old, new) = (before.shown.clone()?, after.shown.clone()?);
    let common = |names: &str, others: &str| -> Vec<String> {
        let others: Vec<&str> = others.split(", ").collect();
        names.split(", ").filter(|name| others.contains(name)).map(str::to_owned).collect()
    };
    let differs = common(&old, &new) != common(&new, &old);
    differs.then(|| Change { key: format!("{} {ORDER}", after.section), old, new })
}

/// What a table sets, on one line.
fn whole(entries: &[Entry], of: &Entry) -> Option<String> {
    let own: Vec<&Entry> = entries.iter().filter(|entry| entry.is_of_table(of)).collect();
    if own.is_empty() {
        return None;
    }
    let set = own.iter().filter(|entry| !entry.is_default);
    let set: Vec<String> = set.filter_map(|e| Some(format!("{} = {}", e.key, e.shown.as_ref()?))).collect();
    Some(format!("{{ {} }}", set.join(", ")))
}

/// The versions of a document, for a line about it.
pub fn version(header: &Header) -> String {
    header.version.map_or_else(|| "without a version".to_owned(), |version| format!("version {version}"))
}

/// What `document` sets, as a policy sees it: one object for each section, one list for `[[lane]]` and the like.
pub fn policy_input(document: &Overlaid) -> Json {
    let Overlaid { config, header, sets, .. } = document;
    let mut input = Map::new();
    let mut section = |name: &str, mut values: Map<String, Json>| {
        values.retain(|key, _| name == Header::NAME || sets.contains(&format!("{name}.{key}")));
        if !values.is_empty() {
            input.insert(name.to_owned(), Json::Object(values));
        }
    };
    section(Header::NAME, header.json());
    section(edge::Http::NAME, config.http.json());
    section(edge::Mqtt::NAME, config.mqtt.json());
    section(edge::Tls::NAME, config.tls.json());
    section(edge::Identity::NAME, config.identity.json());
    section(edge::Commands::NAME, config.commands.json());
    section(edge::Outbox::NAME, config.outbox.json());
    section(edge::Uplink::NAME, config.uplink.json());
    section(edge::Log::NAME, config.log.json());
    let mut list = |name: &str, tables: Vec<Map<String, Json>>| {
        if sets.contains(name) {
            input.insert(name.to_owned(), tables.into_iter().map(Json::Object).collect());
        }
    };
    list(Mapping::NAME, config.mappings.iter().map(Section::json).collect());
    list(Bridge::NAME, config.bridges.iter().map(Section::json).collect());
    list(Inference::NAME, config.inferences.iter().map(Section::json).collect());
    list(Lane::NAME, config.lanes.iter().map(Section::json).collect());
    Json::Object(input)
}

#[cfg(test)]
mod tests {
    use super::super::overlay::{Pushed, check_alone};
    use super::*;
    use crate::config::Env;

    fn between(old: &str, new: &str) -> Vec<String> {
        let read = |text| check_alone(Pushed { name: "p", text }).unwrap();
        documents(&read(old), &read(new)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_said_otherwise_is_no_difference() {
        let old = "[http]\nmax_body = 8388608\n[uplink]\npulsar = [\"pulsar://a\"]\n[log]\nlevel = \"warn\"\n";
        let new = "# turned round\nlog.level = 'warn'\n[uplink]\npulsar = [\"pulsar://a:6650\"]\n[http]\nmax_body = \"8MiB\"\n";
        assert_eq!(between(old, new), [""; 0]);
    }

    #[test]
    fn every_difference_has_its_line_and_no_secret_is_shown() {
        let old = "[http]\nmax_batch = 5\n[uplink]\ntoken = \"old-s3cret\"\nwindow = \"4MiB\"\n[document]\nversion = 3\n\
                   [[lane]]\nname = \"b\"\ntypes = [\"x\"]\n[[lane]]\nname = \"c\"\ntypes = [\"y\"]\n[[lane]]\nname = \"a\"\n";
        let new = "[http]\nmax_body = \"8MiB\"\n[uplink]\ntoken = \"new-s3cret\"\nwindow = \"8MiB\"\n[document]\nversion = 4\n\
                   [[lane]]\nname = \"c\"\ntypes = [\"y\", \"z\"]\n[[lane]]\nname = \"b\"\ntypes = [\"x\"]\n\
                   [[lane]]\nname = \"d\"\nmqtt = [\"+/alarm\"]\n[[lane]]\nname = \"a\"\n";
        assert_eq!(
            between(old, new),
            [
                "document.version: 3 → 4",
                "http.max_body: (not in the document) → \"8MiB\"",
                "lane c.types: [\"y\"] → [\"y\", \"z\"]",
                "lane d: (not in the document) → { name = \"d\", mqtt = [\"+/alarm\"] }",
                "lane in this order: b, c, a → c, b, d, a",
                "uplink.token: (secret) → (another secret)",
                "uplink.window: \"4MiB\" → \"8MiB\"",
                "http.max_batch: 5 → (not in the document)",
            ]
        );
        let bridge = |password: &str| {
            format!("[[bridge]]\nname = \"b\"\nurl = \"mqtts://b\"\nuser_name = \"u\"\npassword = \"{password}\"\n")
        };
        assert_eq!(
            between(&bridge("one-s3cret"), &bridge("two-s3cret")),
            ["bridge b.password: (secret) → (another secret)"]
        );
        let gone = between(&bridge("one-s3cret"), "");
        assert_eq!(
            gone,
            [
                "bridge b: { name = \"b\", url = \"mqtts://b:8883\", user_name = \"u\", password = (secret) } → (not in the document)"
            ]
        );
    }

    #[test]
    fn two_configurations_are_compared_by_what_is_in_effect() {
        let mut old = EdgeConfig::load(None, &Env::empty().on_host("press-7")).unwrap().0;
        let mut new = old.clone();
        assert_eq!(configurations(&old, &new), []);
        new.uplink.pulsar = vec!["pulsar://a:6650".to_owned()];
        let mapping = |topic: &str, upstream| Mapping { topic: topic.to_owned(), upstream, ..Mapping::default() };
        old.mappings = vec![mapping("a", true), mapping("a", true)];
        new.mappings = vec![mapping("a", true), mapping("a", false)];
        let lines: Vec<String> = configurations(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["mapping a #2.upstream: true → false", "uplink.pulsar: [] → [\"pulsar://a:6650\"]"]);
    }
}
