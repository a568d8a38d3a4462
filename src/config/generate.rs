//! Writes `config/edge.toml` and `config/cloud.toml` from the tables of keys: every key, explained.
//!
//! A unit test compares the files with what is written here;
//! `TIDEGATE_REWRITE_CONFIG=1 cargo test --lib config` rewrites them.

use std::fmt::Write as _;

use super::table::{Key, Section};
use super::{cloud, edge};
use crate::config::log::Log;

/// How a section's header stands in the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Header {
    /// `[http]`
    Table,
    /// `[[lane]]`
    Array,
    /// `#[[cluster]]`: with all of its keys behind a `#`.
    ArrayInComment,
}

/// A whole `edge.toml`: the defaults, every key explained.
pub fn edge() -> String {
    let mut out = head("a gateway", "edge");
    section::<edge::Node>(&mut out, Header::Table);
    section::<edge::Http>(&mut out, Header::Table);
    section::<edge::Mqtt>(&mut out, Header::Table);
    section::<edge::Tls>(&mut out, Header::Table);
    section::<edge::Identity>(&mut out, Header::Table);
    section::<edge::Mapping>(&mut out, Header::ArrayInComment);
    section::<edge::Bridge>(&mut out, Header::ArrayInComment);
    section::<edge::Inference>(&mut out, Header::ArrayInComment);
    section::<edge::Commands>(&mut out, Header::Table);
    section::<edge::Outbox>(&mut out, Header::Table);
    section::<edge::Uplink>(&mut out, Header::Table);
    out.push_str(concat!(
        "\n# Lanes that take some of the events stand before the one that takes the rest, such as:\n",
        "#[[lane]]\n#name = \"alarms\"\n#types = [\"*.alarm\"]\n",
    ));
    section::<edge::Lane>(&mut out, Header::Array);
    section::<edge::Downlink>(&mut out, Header::Table);
    section::<edge::Models>(&mut out, Header::Table);
    section::<edge::Model>(&mut out, Header::ArrayInComment);
    section::<Log>(&mut out, Header::Table);
    out
}

/// A whole `cloud.toml`: the defaults, every key explained.
pub fn cloud() -> String {
    let mut out = head("the cloud side", "cloud");
    section::<cloud::Pulsar>(&mut out, Header::Table);
    section::<cloud::Cluster>(&mut out, Header::ArrayInComment);
    section::<cloud::Http>(&mut out, Header::Table);
    section::<cloud::Lane>(&mut out, Header::Array);
    keys::<cloud::FilesSink>(&mut out, Header::Array, &cloud::sink_keys());
    section::<cloud::Control>(&mut out, Header::Table);
    section::<cloud::Models>(&mut out, Header::Table);
    section::<Log>(&mut out, Header::Table);
    out
}

fn head(what: &str, mode: &str) -> String {
    format!(
        "\
# Tidegate on {what}: tidegate {mode} --config {mode}.toml
#
# Every key is here. A line \"#key = value\" shows the default, or an example where that is said:
# take the # away and change it. Unknown keys are errors; \"tidegate check {mode}.toml\" shows them all.
#
# Sizes:      \"64KiB\" \"512MB\" \"2GiB\", or a plain number of bytes.
# Durations:  \"500ms\" \"30s\" \"10min\" \"1h\" \"7d\".
# Paths:      relative ones count from the directory that tidegate is started in.
# Variables:  TIDEGATE_HTTP_LISTEN sets http.listen, and so on for every key outside of [[ ]]; lists
#             have commas between their items. A variable wins over the file; an empty one counts as not set.
#
# Generated from src/config/{mode}.rs by: TIDEGATE_REWRITE_CONFIG=1 cargo test --lib config
"
    )
}

fn section<S: Section>(out: &mut String, header: Header) {
    keys::<S>(out, header, &S::keys());
}

fn keys<S: Section>(out: &mut String, header: Header, keys: &[Key]) {
    out.push('\n');
    for (i, line) in S::DOC.iter().enumerate() {
        // The first line starts with the section's own name, which stands below.
        let line = if i == 0 { line.split_once(": ").map_or(*line, |(_, rest)| rest) } else { line };
        comment(out, &if i == 0 { capitalised(line) } else { line.to_owned() });
    }
    let name = S::NAME;
    out.push_str(&match header {
        Header::Table => format!("[{name}]\n"),
        Header::Array => format!("[[{name}]]\n"),
        Header::ArrayInComment => format!("#[[{name}]]\n"),
    });
    for key in keys {
        out.push('\n');
        write_key(out, key, header != Header::ArrayInComment);
    }
}

fn write_key(out: &mut String, key: &Key, live: bool) {
    for line in &key.doc {
        comment(out, line);
    }
    let mut facts: Vec<String> = key.bounds.iter().cloned().collect();
    let nothing = key.default.as_deref().is_none_or(|default| default == "[]");
    match (key.default_note, key.required) {
        (Some(note), _) => facts.push(format!("Default: {note}.")),
        (None, true) => facts.push("Must be set.".to_owned()),
        (None, false) if nothing => facts.push("Not set by default; an example:".to_owned()),
        (None, false) => {}
    }
    if !facts.is_empty() {
        comment(out, &facts.join(" "));
    }
    let value = key.example.or(key.default.as_deref()).unwrap_or("\"\"");
    let mark = if live && key.required { "" } else { "#" };
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{mark}{} = {value}", key.name);
}

fn comment(out: &mut String, line: &str) {
    let _ = writeln!(out, "# {}", line.trim());
}

fn capitalised(line: &str) -> String {
    let mut chars = line.trim().chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::document::Document;
    use super::super::{CloudConfig, EdgeConfig, Env};
    use super::*;

    fn compare(name: &str, generated: &str) {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
        if std::env::var_os("TIDEGATE_REWRITE_CONFIG").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, generated).unwrap();
        }
        let file = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            file == generated,
            "config/{name} is not what src/config generates; rewrite it: TIDEGATE_REWRITE_CONFIG=1 cargo test --lib config"
        );
    }

    #[test]
    fn the_files_are_what_the_tables_say() {
        compare("edge.toml", &edge());
        compare("cloud.toml", &cloud());
    }

    #[test]
    fn the_files_are_the_defaults() {
        let env = Env::empty().on_host("edge");
        let (edge, warnings) = EdgeConfig::read(&Document::new("edge.toml", edge()), &env).unwrap();
        assert_eq!((edge.effective(), warnings), (EdgeConfig::default().effective(), vec![]));
        let (cloud, warnings) = CloudConfig::read(&Document::new("cloud.toml", cloud()), &env).unwrap();
        assert_eq!((cloud.effective(), warnings), (CloudConfig::default().effective(), vec![]));
    }

    /// Takes away the # of each setting in turn: it loads, and a default changes nothing.
    fn each_setting_loads(text: &str, load: impl Fn(&str) -> Result<Vec<String>, String>, default: &[String]) {
        let lines: Vec<&str> = text.lines().collect();
        let mut tried = 0;
        for (i, line) in lines.iter().enumerate() {
            let Some(setting) = line.strip_prefix('#').filter(|l| l.starts_with(|c: char| c.is_ascii_lowercase()))
            else {
                continue;
            };
            // Its example names a file that is not here, or needs another key; the lines after #[[ need each other.
            let together = [
                "ca_file",
                "tls_listen",
                "wss_listen",
                "certificate_file",
                "key_file",
                "password_file",
                "controller_key ",
                "policy ",
                "operators_file",
            ];
            if together.iter().any(|key| setting.starts_with(key)) || text[..text.find(line).unwrap()].ends_with("]]\n")
            {
                continue;
            }
            let mut changed = lines.clone();
            changed[i] = setting;
            let effective = load(&changed.join("\n"));
            assert!(effective.is_ok(), "{setting}: {effective:?}");
            let example = lines[i - 1].contains("example") || lines[i - 1].contains("Default:");
            assert!(example || effective.as_deref() == Ok(default), "{setting}: {effective:?}");
            tried += 1;
        }
        assert!(tried > 10, "{tried}");
    }

    /// A build without the feature refuses all of it.
    fn without_inference(text: &str) -> String {
        let (before, rest) = text.split_once("#[[inference]]").unwrap();
        let (_, after) = rest.split_once("\n[commands]").unwrap();
        format!("{before}\n[commands]{after}")
    }

    #[test]
    fn every_setting_loads_when_its_mark_is_taken_away() {
        let env = Env::empty().on_host("edge");
        let text = edge().replace("#[[lane]]\n#name = \"alarms\"\n#types = [\"*.alarm\"]\n", "");
        // A lane that takes only some events needs another for the rest.
        let text = text + "\n[[lane]]\nname = \"rest\"\n";
        let text = text.replace("#types = [\"*.alarm\"]", "types = [\"*.alarm\"]");
        // What must be set in a table that is wholly in comments.
        let mapping = ("#[[mapping]]", "#topic = ", "[[mapping]]\ntopic = \"{plant}/{device}\"");
        let bridge_url =
            ("#[[bridge]]", "#url = \"mqtt", "[[bridge]]\nurl = \"mqtt://b\"\nname = \"b\"\nuser_name = \"u\"");
        let model = ("#[[model]]", "#name = \"press-anomaly", "[[model]]\nname = \"m\"");
        let inference =
            ("#[[inference]]", "#model = ", "[[inference]]\nmodel = \"m\"\ntypes = [\"x\"]\nfields = [\"/x\"]");
        let text = if cfg!(feature = "inference") { text } else { without_inference(&text) };
        let text = [mapping, bridge_url, inference, model].iter().fold(text, |text, (header, required, set)| {
            text.replacen(header, set, 1).replacen(required, &format!("#- {required}"), 1)
        });
        let text = text
            .replacen("#name = \"old", "#- name = \"old", 1)
            .replacen("#user_name", "#- user_name", 1)
            .replacen("#types = [\"*.telemetry", "#- types = [\"*.telemetry", 1)
            .replacen("#fields = ", "#- fields = ", 1)
            .replace("#lane = \"telemetry\"", "#lane = \"rest\"");
        let load = |text: &str| {
            let read = EdgeConfig::read(&Document::new("edge.toml", text.to_owned()), &env);
            read.map(|(config, _)| config.effective()).map_err(|e| e.to_string())
        };
        each_setting_loads(&text, load, &load(&text).unwrap());

        let text = cloud().replace("#[[cluster]]", "[[cluster]]").replace("\"east\"", "\"standalone\"");
        let text = ["name", "service", "admin"].iter().fold(text, |text, key| {
            text.replacen(&format!("#{key} = \"standalone\""), &format!("{key} = \"standalone\""), 1)
                .replace(&format!("#{key} = \"pulsar://east"), &format!("{key} = \"pulsar://east"))
                .replace(&format!("#{key} = \"http://east"), &format!("{key} = \"http://east"))
        });
        let load = |text: &str| {
            let read = CloudConfig::read(&Document::new("cloud.toml", text.to_owned()), &env);
            read.map(|(config, _)| config.effective()).map_err(|e| e.to_string())
        };
        each_setting_loads(&text, load, &load(&text).unwrap());
    }
}
