//! What must hold between the keys of `edge.toml`.

use super::device_rules;
use super::edge::{Downlink, EdgeConfig, Http, Lane, Mqtt, Node, Outbox, TAKES_NOTHING, Uplink};
use super::env::Env;
use super::inference;
use super::reader::{KeyPath, Reader};
use super::rules::{Credentials, names_differ};
use super::units::format_size;

/// Host names that whole series of gateways have: they tell none from the other.
const COMMON_HOST_NAMES: [&str; 9] =
    ["localhost", "raspberrypi", "debian", "ubuntu", "buildroot", "openwrt", "armbian", "beaglebone", "none"];

/// Without `node.id` the node is named after its host.
pub(super) fn name_the_node(node: &mut Node, reader: &mut Reader<'_>, env: &Env) {
    let key = KeyPath::of::<Node>("id");
    if reader.is_set(key) {
        return;
    }
    match env.node_id() {
        Some(id) => node.id = id,
        None => reader.warn(key, format!("is not set and this host has no name; {:?} is used", node.id)),
    }
    if COMMON_HOST_NAMES.contains(&node.id.to_ascii_lowercase().trim_matches('-')) {
        let text = format!("is not set, and many hosts are called {:?}; write a name unique in the tenant", node.id);
        reader.warn(key, text);
    }
}

/// Checks `config` as a whole.
pub(super) fn check(config: &EdgeConfig, reader: &mut Reader<'_>) {
    device_rules::check(config, reader);
    lanes(&config.lanes, reader);
    limits(config, reader);
    mqtt(config, reader);
    uplink(&config.uplink, reader);
    downlink(&config.downlink, reader);
    super::models::check(config, reader);
    inference::check(config, reader);
}

/// A lane that gets nothing, or an event that gets no lane, is a mistake.
fn lanes(lanes: &[Lane], reader: &mut Reader<'_>) {
    if reader.is_wrong_in::<Lane>() {
        return;
    }
    names_differ::<Lane>(lanes.iter().map(|lane| lane.name.as_str()), reader);
    for (index, lane) in lanes.iter().enumerate().filter(|(_, lane)| lane.types != [TAKES_NOTHING]) {
        let taken: Vec<(&str, &str)> = patterns(lane)
            .into_iter()
            .filter_map(|pattern| Some((pattern, taker(&lanes[..index], pattern)?)))
            .collect();
        let key = KeyPath::in_table::<Lane>(index, if lane.types.is_empty() { "name" } else { "types" });
        if taken.len() == patterns(lane).len() {
            let text = format!(
                "can never match: the earlier lane {:?} takes {}; move this [[lane]] before that one",
                taken[0].1,
                if taken.iter().all(|(_, taker)| *taker == taken[0].1) { "all of it" } else { "it, with others" }
            );
            reader.wrong(key, text);
        } else if let Some((pattern, taker)) = taken.first() {
            reader.warn(key, format!("{pattern:?} can never match: the earlier lane {taker:?} takes all of it"));
        }
    }
    let last = lanes.len().saturating_sub(1);
    if !lanes.iter().any(|lane| patterns(lane).iter().any(|pattern| covers(pattern, "*"))) {
        let text = "no lane takes what the others leave; add a last [[lane]] with a name and without types";
        reader.wrong(KeyPath::in_table::<Lane>(last, "types"), text);
    }
}

/// The lane that takes every type that `pattern` matches.
fn taker<'l>(lanes: &'l [Lane], pattern: &str) -> Option<&'l str> {
    let lane = lanes.iter().find(|lane| patterns(lane).iter().any(|wider| covers(wider, pattern)))?;
    Some(&lane.name)
}

fn patterns(lane: &Lane) -> Vec<&str> {
    if lane.types.is_empty() { vec!["*"] } else { lane.types.iter().map(String::as_str).collect() }
}

/// Whether `wider` matches every type that `narrower` matches: then, and only then, `wider` matches
/// `narrower` itself with its `*` taken for a letter that only another `*` can stand for.
fn covers(wider: &str, narrower: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (wider.chars().collect(), narrower.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to go on after a mismatch: just after the last star, one more letter swallowed.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&'*') {
            retry = Some((p + 1, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((after_star, swallowed)) = retry {
            retry = Some((after_star, swallowed + 1));
            p = after_star;
            t = swallowed + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Limits that make each other useless.
fn limits(config: &EdgeConfig, reader: &mut Reader<'_>) {
    let (http, outbox, uplink) = (&config.http, &config.outbox, &config.uplink);
    let body = (KeyPath::of::<Http>("max_body"), http.max_body);
    let inflated = (KeyPath::of::<Http>("max_inflated"), http.max_inflated);
    let memory = (KeyPath::of::<Http>("max_memory"), http.max_memory);
    let window = (KeyPath::of::<Uplink>("window"), uplink.window);
    let batch = (KeyPath::of::<Uplink>("batch_bytes"), uplink.batch_bytes);
    let event = (KeyPath::of::<Outbox>("max_event"), outbox.max_event);
    let mut broken = vec![
        (body, inflated, "such a body could not be taken even uncompressed"),
        (body, memory, "such a body could never be taken"),
        (batch, window, "such a batch could never be sent"),
        (event, window, "such an event could never be sent"),
    ];
    broken.retain(|(small, large, _)| small.1 > large.1 && !reader.is_wrong(small.0) && !reader.is_wrong(large.0));
    for (small, large, why) in broken {
        // Point at the one that was written.
        let (written, other, is, make) = if reader.is_set(large.0) {
            (large, small, "less", "make this larger")
        } else {
            (small, large, "more", "make this smaller")
        };
        let (given, limit) = (format_size(written.1), format_size(other.1));
        reader.wrong(written.0, format!("{given} is {is} than {} ({limit}): {why}; {make} or change that", other.0));
    }
}

/// What MQTT takes, the outbox should be able to keep.
fn mqtt(config: &EdgeConfig, reader: &mut Reader<'_>) {
    let (mqtt, outbox) = (&config.mqtt, &config.outbox);
    if mqtt.max_packet > outbox.max_event {
        let (packet, event) = (format_size(mqtt.max_packet), format_size(outbox.max_event));
        let text = format!(
            "{packet} is more than outbox.max_event ({event}): larger messages reach local subscribers and never the cloud"
        );
        reader.warn(KeyPath::of::<Mqtt>("max_packet"), text);
    }
    if outbox.dedup_window.is_zero() {
        let text = "0: an MQTT message with QoS 2 that comes again after a crash may be stored twice";
        reader.warn(KeyPath::of::<Outbox>("dedup_window"), text.to_owned());
    }
}

fn uplink(uplink: &Uplink, reader: &mut Reader<'_>) {
    Credentials {
        token: uplink.token.as_ref(),
        token_file: uplink.token_file.as_deref(),
        ca_file: uplink.ca_file.as_deref(),
        urls: uplink.pulsar.iter().map(String::as_str).collect(),
    }
    .check::<Uplink>(reader);
    let twice = uplink.pulsar.iter().enumerate().find(|(i, url)| uplink.pulsar[..*i].contains(url));
    if let Some((_, url)) = twice {
        reader.warn(KeyPath::of::<Uplink>("pulsar"), format!("names {url} twice; write every address once"));
    }
}

/// The cloud must not be able to write what it assigns.
fn downlink(downlink: &Downlink, reader: &mut Reader<'_>) {
    let both = downlink.controller_keys.iter().find(|key| downlink.artefact_keys.contains(key));
    if let Some(key) = both {
        let text = format!(
            "{key} is in artefact_keys as well: whoever holds it can write configuration and assign it; have one key for each"
        );
        reader.warn(KeyPath::of::<Downlink>("controller_keys"), text);
    }
    let Some(program) = downlink.health_command.first() else { return };
    if !program.starts_with('/') {
        let text = format!("{program:?} is looked for nowhere; write the program's whole path, from /");
        reader.wrong(KeyPath::of::<Downlink>("health_command"), text);
    }
    if downlink.health_timeout >= downlink.confirm {
        let text = "is not shorter than confirm, within which the program must have succeeded; make it shorter";
        reader.wrong(KeyPath::of::<Downlink>("health_timeout"), text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pattern_covers_what_it_always_matches() {
        for (wider, narrower) in
            [("*", "*.alarm"), ("*", "*"), ("*", ""), ("a*", "a*b"), ("*.alarm", "x*.alarm"), ("a", "a")]
        {
            assert!(covers(wider, narrower), "{wider} {narrower}");
        }
        for (wider, narrower) in [("*.alarm", "*"), ("a*b", "a*"), ("a", "*"), ("", "a"), ("a*", "*a")] {
            assert!(!covers(wider, narrower), "{wider} {narrower}");
        }
    }

    proptest! {
        /// What a covered pattern matches, the covering one matches.
        #[test]
        fn covering_is_sound(wider in "[ab*]{0,6}", narrower in "[ab*]{0,6}", fill in "[ab]{0,2}") {
            if covers(&wider, &narrower) {
                let event_type = narrower.replace('*', &fill);
                prop_assert!(covers(&wider, &event_type), "{} {} {}", wider, narrower, event_type);
            }
        }
    }
}
