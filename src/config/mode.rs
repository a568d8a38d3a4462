//! Whether a file is for `tidegate edge` or `tidegate cloud`, by its sections.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::document::Document;
use super::env::Env;
use super::problem::{ConfigErrors, Warning};
use super::suggest::closest;
use super::{CloudConfig, OwnFile, cloud, edge};

/// The two ways to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `tidegate edge`
    Edge,
    /// `tidegate cloud`
    Cloud,
}

/// A configuration of either mode.
#[derive(Clone, Debug)]
pub enum Loaded {
    /// `edge.toml`
    Edge(Box<OwnFile>),
    /// `cloud.toml`
    Cloud(Box<CloudConfig>),
}

/// Loads the file at `path` for the mode that is `given`, or else that it tells of itself. `Ok(None)`:
/// nothing in it tells. The file is read once: it may be a pipe.
pub fn load(path: &Path, given: Option<Mode>, env: &Env) -> Result<Option<(Loaded, Vec<Warning>)>, ConfigErrors> {
    let document = Document::load(Some(path))?;
    let mode = match given {
        Some(mode) => Some(mode),
        None => detect(path, &document)?,
    };
    match mode {
        Some(Mode::Edge) => OwnFile::of(document, env.clone()).map(|own| {
            let warnings = own.warnings().to_vec();
            Some((Loaded::Edge(Box::new(own)), warnings))
        }),
        Some(Mode::Cloud) => CloudConfig::read(&document, env)
            .map(|(config, warnings)| Some((Loaded::Cloud(Box::new(config)), warnings))),
        None => Ok(None),
    }
}

fn detect(path: &Path, document: &Document) -> Result<Option<Mode>, ConfigErrors> {
    let root = document.parse().map_err(ConfigErrors::new)?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(by_sections(&root).or_else(|| by_name(&name)))
}

/// Sections that only one mode has decide, mistyped ones too: their errors are what is asked for.
fn by_sections(root: &DeTable<'_>) -> Option<Mode> {
    let only = |own: &[&'static str], others: &[&str]| -> Vec<&'static str> {
        own.iter().copied().filter(|section| !others.contains(section)).collect()
    };
    let of_edge = only(&edge::SECTIONS, &cloud::SECTIONS);
    let of_cloud = only(&cloud::SECTIONS, &edge::SECTIONS);
    let (mut edge, mut cloud) = (0, 0);
    for (key, value) in root {
        let near = closest(key.get_ref(), edge::SECTIONS.into_iter().chain(cloud::SECTIONS));
        edge += usize::from(near.is_some_and(|section| of_edge.contains(&section)));
        cloud += usize::from(near.is_some_and(|section| of_cloud.contains(&section)));
        if let (Some("lane"), DeValue::Array(lanes)) = (near, value.get_ref()) {
            let has = |key: &str| {
                let has =
                    |lane: &DeValue<'_>| lane.as_table().is_some_and(|lane| lane.keys().any(|k| k.get_ref() == key));
                lanes.iter().any(|lane| has(lane.get_ref()))
            };
            edge += usize::from(["types", "mqtt", "priority", "on_full"].into_iter().any(has));
            cloud += usize::from(has("partitions"));
        }
    }
    match edge.cmp(&cloud) {
        std::cmp::Ordering::Greater => Some(Mode::Edge),
        std::cmp::Ordering::Less => Some(Mode::Cloud),
        std::cmp::Ordering::Equal => None,
    }
}

/// A file with no more than `[http]` is told by its name.
fn by_name(name: &str) -> Option<Mode> {
    match (name.contains("edge"), name.contains("cloud")) {
        (true, false) => Some(Mode::Edge),
        (false, true) => Some(Mode::Cloud),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_sections_then_by_its_name() {
        for (name, text, mode) in [
            ("a.toml", "[uplink]\n[http]\n", Some(Mode::Edge)),
            ("a.toml", "[uplnk]\n", Some(Mode::Edge)),
            ("a.toml", "[http]\n[pulsar]\n[[sink]]\n[node]\n", Some(Mode::Cloud)),
            ("a.toml", "[[lane]]\nname = \"a\"\n[[lane]]\npartitions = 4\n", Some(Mode::Cloud)),
            ("a.toml", "[[lane]]\npriority = 4\n", Some(Mode::Edge)),
            ("edge.toml", "[pulsar]\n", Some(Mode::Cloud)),
            ("cloud.toml", "[http]\n", Some(Mode::Cloud)),
            ("press-7-edge.toml", "", Some(Mode::Edge)),
            ("a.toml", "[http]\n[log]\n", None),
            ("a.toml", "[uplink]\n[pulsar]\n", None),
        ] {
            let document = Document::new(name, text.to_owned());
            assert_eq!(detect(Path::new(name), &document).unwrap(), mode, "{name}: {text}");
        }
    }
}
