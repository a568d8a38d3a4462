//! `[models]` and `[[model]]`: how much of models a gateway takes, and who on it hears of a new version.

use std::time::Duration;

use super::edge::EdgeConfig;
use super::kinds::{List, Optional, Size, Text, Time};
use super::names::{Name, TopicFilter};
use super::reader::{KeyPath, Reader};
use super::rules::names_differ;
use super::table::{key, section};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A model's name, as its manifest has it (`downlink::artefact::model::Name`; a test compares).
pub(super) const MODEL_NAME: Name = Name::new(
    64,
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
    "1 to 64 lower-case letters, digits or -",
    |name| match name {
        _ if name.starts_with('-') || name.ends_with('-') => Some("starts or ends with -"),
        _ if name.contains("-partition-") => Some("has -partition- in it, which Pulsar keeps for itself"),
        "lock" => Some("is the name of a file beside the models"),
        _ => None,
    },
);

section! {
    /// `[models]`: the models that central operations assign to this gateway. A signed document cannot change this section.
    "models" => Models {
        /// Most disk space, in bytes, for all of them: the versions in use, the ones before, and what is on its way.
        max_bytes: u64 = 256 * MIB, key(Size(MIB, 64 * GIB));
        /// Most bytes per second to fetch them with, so that events keep the link.
        rate: Option<u64> = None, key(Optional(Size(KIB, 64 * GIB))).default_note("no limit").example("\"256KiB\"");
    }
}

section! {
    /// `[[model]]`: who on this gateway hears of a model's new version, and who says that it is well. Without one a program
    /// follows node.data_dir/models/NAME/current/model by itself. A signed document cannot change this section.
    "model" => Model {
        /// The model's name.
        name: String = "model".into(), key(MODEL_NAME).required().example("\"press-anomaly\"");
        /// Program and arguments that are run when another version is in use, without a shell. TIDEGATE_MODEL_NAME,
        /// TIDEGATE_MODEL_VERSION and TIDEGATE_MODEL_PATH are set; without a version in use the last two are empty.
        hook: Vec<String> = Vec::new(),
            key(List(Text(4096), 64)).example("[\"/usr/bin/systemctl\", \"reload\", \"press-vision\"]");
        /// URL on this machine that gets the same as JSON by POST, and answers with 2xx.
        http: Option<String> = None, key(Optional(Text(1024))).example("\"http://127.0.0.1:9000/model\"");
        /// MQTT topic of this gateway's own broker on which the same is published, with the version before (`previous`), QoS 1
        /// and retained. Nobody else can publish on it.
        topic: Option<String> = None, key(Optional(TopicFilter)).example("\"models/press-anomaly\"");
        /// Program and arguments that must succeed (exit code 0) before a new version is kept; the same variables are set.
        /// Again every second until `health_timeout` is over; then the version before is in use again.
        health: Vec<String> = Vec::new(), key(List(Text(4096), 64)).example("[\"/usr/local/bin/vision-check\"]");
        /// Time for hook, URL, topic and health together.
        health_timeout: Duration = Duration::from_secs(30),
            key(Time(Duration::from_millis(100), Duration::from_secs(600)));
    }
}

/// What must hold between the keys.
pub(super) fn check(config: &EdgeConfig, reader: &mut Reader<'_>) {
    if reader.is_wrong_in::<Model>() {
        return;
    }
    names_differ::<Model>(config.model.iter().map(|model| model.name.as_str()), reader);
    for (index, model) in config.model.iter().enumerate() {
        for (key, command) in [("hook", &model.hook), ("health", &model.health)] {
            if let Some(program) = command.first().filter(|program| !program.starts_with('/')) {
                let text = format!("{program:?} is looked for nowhere; write the program's whole path, from /");
                reader.wrong(KeyPath::in_table::<Model>(index, key), text);
            }
        }
        if let Some(url) = model.http.as_deref().filter(|url| !is_here(url)) {
            let text = format!("{url:?} is not on this machine; write http://127.0.0.1:PORT/…");
            reader.wrong(KeyPath::in_table::<Model>(index, "http"), text);
        }
        let Some(topic) = model.topic.as_deref() else { continue };
        let earlier = config.model.iter().take(index).any(|other| other.topic.as_deref() == Some(topic));
        if topic.contains(['+', '#']) || topic.starts_with('$') {
            let text = format!("{topic:?} must have no + or #, and not begin with $: it is the topic of one message");
            reader.wrong(KeyPath::in_table::<Model>(index, "topic"), text);
        } else if earlier {
            let text = format!("{topic:?} is another model's already; choose another");
            reader.wrong(KeyPath::in_table::<Model>(index, "topic"), text);
        }
    }
}

/// Whether a URL leads to this machine and nowhere else.
fn is_here(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once(':').map_or(authority, |(host, port)| {
        // An IPv6 address without a port ends with a bracket.
        if port.ends_with(']') { authority } else { host }
    });
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::kinds::Kind as _;
    use crate::downlink::artefact::model;

    #[test]
    fn a_model_has_here_the_names_that_it_has_elsewhere() {
        let long = ["a".repeat(64), "a".repeat(65)];
        for name in ["a", "press-anomaly", "", "-a", "a-", "A", "lock", "a-partition-1", "ä", &long[0], &long[1]] {
            assert_eq!(MODEL_NAME.text(name).is_ok(), model::Name::parse(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_hook_s_url_is_on_this_machine() {
        for here in
            ["http://127.0.0.1:9000/model", "http://localhost/", "http://[::1]:80", "http://127.1.2.3", "http://[::1]"]
        {
            assert!(is_here(here), "{here}");
        }
        for away in [
            "https://127.0.0.1/",
            "http://10.0.0.1/",
            "http://127.0.0.1@evil/",
            "http://evil:80/127.0.0.1",
            "http://",
            "",
        ] {
            assert!(!is_here(away), "{away}");
        }
    }
}
