//! What must hold between the keys about devices: ports, certificates, who may come in, mappings and bridges.

use std::net::SocketAddr;

use super::edge::{Bridge, ClientCertificates, Commands, EdgeConfig, Http, Identity, Lane, Mapping, Mqtt, Tls};
use super::reader::{KeyPath, Reader};
use super::rules::{collide, is_loopback, names_differ};

/// Checks the sections about devices.
pub(super) fn check(config: &EdgeConfig, reader: &mut Reader<'_>) {
    ports(config, reader);
    certificates(config, reader);
    known(config, reader);
    mappings(config, reader);
    bridges(config, reader);
    command_topics(&config.commands, reader);
}

fn command_topics(commands: &Commands, reader: &mut Reader<'_>) {
    for (key, topic) in [("topic", &commands.topic), ("config_topic", &commands.config_topic)] {
        if !topic.split('/').any(|level| level == "{device}") || topic.contains(['+', '#']) || topic.starts_with('$') {
            let text = format!("{topic:?} must have {{device}} as a level, no + or #, and not begin with $");
            reader.wrong(KeyPath::of::<Commands>(key), text);
        }
    }
    let inside = commands.config_topic.strip_prefix(commands.topic.as_str());
    if inside.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        let text =
            format!("is below commands.topic, {:?}, where each level is a command; choose another", commands.topic);
        reader.wrong(KeyPath::of::<Commands>("config_topic"), text);
    }
}

/// Everything that listens, in the order of the file.
fn listeners(config: &EdgeConfig) -> Vec<(KeyPath, SocketAddr)> {
    let (http, mqtt) = (&config.http, &config.mqtt);
    let all = [
        (KeyPath::of::<Http>("listen"), Some(http.listen)),
        (KeyPath::of::<Http>("tls_listen"), http.tls_listen),
        (KeyPath::of::<Mqtt>("listen"), mqtt.listen),
        (KeyPath::of::<Mqtt>("tls_listen"), mqtt.tls_listen),
        (KeyPath::of::<Mqtt>("ws_listen"), mqtt.ws_listen),
        (KeyPath::of::<Mqtt>("wss_listen"), mqtt.wss_listen),
    ];
    all.into_iter().filter_map(|(key, address)| Some((key, address?))).collect()
}

fn ports(config: &EdgeConfig, reader: &mut Reader<'_>) {
    let all = listeners(config);
    for (i, (key, address)) in all.iter().enumerate() {
        let earlier = all[..i].iter().find(|(other, taken)| collide(*address, *taken) && !reader.is_wrong(*other));
        if let Some((other, taken)) = earlier {
            reader.wrong(*key, format!("wants the same port as {other} ({taken}); choose another"));
        }
    }
}

fn certificates(config: &EdgeConfig, reader: &mut Reader<'_>) {
    let tls = &config.tls;
    let (certificate, private) = (KeyPath::of::<Tls>("certificate_file"), KeyPath::of::<Tls>("key_file"));
    if tls.certificate_file.is_some() && tls.key_file.is_none() {
        reader.wrong(certificate, "needs tls.key_file as well; \"tidegate keys\" makes both".to_owned());
    }
    if tls.key_file.is_some() && tls.certificate_file.is_none() {
        reader.wrong(private, "needs tls.certificate_file as well; \"tidegate keys\" makes both".to_owned());
    }
    let wants = [
        (KeyPath::of::<Http>("tls_listen"), config.http.tls_listen),
        (KeyPath::of::<Mqtt>("tls_listen"), config.mqtt.tls_listen),
        (KeyPath::of::<Mqtt>("wss_listen"), config.mqtt.wss_listen),
    ];
    for (key, _) in wants.into_iter().filter(|(_, address)| address.is_some() && tls.certificate_file.is_none()) {
        let text = "needs tls.certificate_file and tls.key_file; \"tidegate keys\" makes a first pair".to_owned();
        reader.wrong(key, text);
    }
    if tls.client_certificates != ClientCertificates::Off && tls.client_ca_file.is_none() {
        let text = "needs tls.client_ca_file: the authorities that devices' certificates come from".to_owned();
        reader.wrong(KeyPath::of::<Tls>("client_certificates"), text);
    }
}

/// What other machines reach must say who may come in.
fn known(config: &EdgeConfig, reader: &mut Reader<'_>) {
    let mode = KeyPath::of::<Identity>("mode");
    let reached = listeners(config).into_iter().find(|(_, address)| !address.ip().is_loopback());
    if let (Some((key, address)), None) = (reached, config.identity.mode)
        && !reader.is_wrong(mode)
        && !reader.is_wrong(key)
    {
        let text = format!(
            "{address} can be reached by other machines; say who may come in: identity.mode = \"required\", or \"open\" \
             on a closed network"
        );
        reader.wrong(key, text);
    }
}

fn mappings(config: &EdgeConfig, reader: &mut Reader<'_>) {
    if reader.is_wrong_in::<Lane>() {
        return;
    }
    for (index, mapping) in config.mappings.iter().enumerate() {
        let known = |name: &String| config.lanes.iter().any(|lane| lane.name == *name);
        if let Some(lane) = mapping.lane.as_ref().filter(|name| !known(name)) {
            let text = format!("there is no lane {lane:?}; write [[lane]] name = {lane:?}, or name another");
            reader.wrong(KeyPath::in_table::<Mapping>(index, "lane"), text);
        }
        let topic = &mapping.topic;
        if let Err(why) = names_levels(topic) {
            reader.wrong(KeyPath::in_table::<Mapping>(index, "topic"), format!("{topic:?} {why}"));
            continue;
        }
        for (key, template) in [("type", &mapping.r#type), ("subject", &mapping.subject)] {
            if let Some(Err(why)) = template.as_deref().map(|template| fills(template, topic)) {
                reader.wrong(KeyPath::in_table::<Mapping>(index, key), why);
            }
        }
    }
}

/// What a mapping fills in besides the levels that its topic names.
const FILLED_IN: [&str; 2] = ["topic", "client"];

/// The name in `{name}`.
fn name_of(level: &str) -> Option<&str> {
    level.strip_prefix('{')?.strip_suffix('}')
}

/// `topic` names whole levels, each by a name of its own, and can match something.
fn names_levels(topic: &str) -> Result<(), String> {
    if topic.starts_with('$') {
        return Err(
            "never matches: topics that begin with $ are the broker's own; leave this [[mapping]] out".to_owned()
        );
    }
    let mut seen: Vec<&str> = Vec::new();
    for level in topic.split('/').filter(|level| level.contains(['{', '}'])) {
        let is_name =
            |name: &&str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
        let Some(name) = name_of(level).filter(is_name) else {
            return Err(format!(
                "has the level {level:?}; a name is a whole level such as {{device}}: letters, digits, -, _"
            ));
        };
        if FILLED_IN.contains(&name) {
            return Err(format!("names a level {level}, which has a meaning of its own; choose another name"));
        }
        if seen.contains(&name) {
            return Err(format!("has the level {level} twice; give each a name of its own, or write + for one"));
        }
        seen.push(name);
    }
    Ok(())
}

/// Every brace of `template` belongs to a name that there is.
fn fills(template: &str, topic: &str) -> Result<(), String> {
    let unpaired = || format!("{template:?} has a {{ or }} that belongs to no {{name}}; take it out");
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or_else(unpaired)?;
        if before.contains('}') || name.contains('{') {
            return Err(unpaired());
        }
        let named = topic.split('/').any(|level| name_of(level) == Some(name));
        if !named && !FILLED_IN.contains(&name) {
            return Err(format!(
                "{{{name}}} is not a level of the topic {topic:?}; name a level {{{name}}}, or use {{topic}} or {{client}}"
            ));
        }
        rest = after;
    }
    if rest.contains('}') { Err(unpaired()) } else { Ok(()) }
}

fn bridges(config: &EdgeConfig, reader: &mut Reader<'_>) {
    let bridges = &config.bridges;
    if reader.is_wrong_in::<Bridge>() {
        return;
    }
    names_differ::<Bridge>(bridges.iter().map(|bridge| bridge.name.as_str()), reader);
    for (index, bridge) in bridges.iter().enumerate() {
        let key = |name| KeyPath::in_table::<Bridge>(index, name);
        if bridge.password.is_some() && bridge.password_file.is_some() {
            reader.wrong(key("password"), "is given twice, with password_file; keep one".to_owned());
        }
        if bridge.certificate_file.is_some() != bridge.key_file.is_some() {
            let given = if bridge.key_file.is_some() { "key_file" } else { "certificate_file" };
            reader.wrong(key(given), "certificate_file and key_file belong together; write both".to_owned());
        }
        let password = if bridge.password.is_some() { "password" } else { "password_file" };
        let has_password = bridge.password.is_some() || bridge.password_file.is_some();
        if has_password && bridge.user_name.is_none() {
            // MQTT 3.1.1 §3.1.2.9.
            reader.wrong(key(password), "needs user_name as well: MQTT 3.1.1 knows no password without it".to_owned());
        }
        if has_password && in_the_clear(&bridge.url) {
            reader.warn(key(password), format!("goes to {} unencrypted; write mqtts:// to have TLS", bridge.url));
        }
        let own = [("mqtt.listen", config.mqtt.listen), ("mqtt.tls_listen", config.mqtt.tls_listen)];
        let own = own.into_iter().find(|(_, address)| address.is_some_and(|address| is_ours(&bridge.url, address)));
        if let Some((listener, _)) = own {
            let text = format!(
                "is this gateway's own {listener}: each message would come in again and again; name another broker"
            );
            reader.wrong(key("url"), text);
        }
        if bridge.topics.is_empty() {
            reader.wrong(key("topics"), "is empty; name at least one topic, or leave this [[bridge]] out".to_owned());
        }
        let twin = |other: &&Bridge| other.url == bridge.url && other.client_id == bridge.client_id;
        if bridge.client_id.is_some() && bridges[..index].iter().any(|other| twin(&other)) {
            let text =
                "is that of an earlier [[bridge]] to the same broker: they would throw each other out; choose another";
            reader.wrong(key("client_id"), text.to_owned());
        }
        let tls = bridge.ca_file.is_some() || bridge.certificate_file.is_some();
        if tls && bridge.url.starts_with("mqtt://") {
            reader.wrong(key("url"), "has no TLS, but files for it are given; write mqtts://".to_owned());
        }
    }
}

/// Whether `url` is where we listen ourselves, as far as the text tells.
fn is_ours(url: &str, listener: SocketAddr) -> bool {
    let place = url.split_once("://").map_or(url, |(_, rest)| rest);
    let Some((host, port)) = place.rsplit_once(':') else { return false };
    let (ip, any) = (listener.ip(), listener.ip().is_unspecified());
    let same_host = host.trim_matches(['[', ']']).parse() == Ok(ip) || is_loopback(url) && (any || ip.is_loopback());
    port.parse() == Ok(listener.port()) && listener.port() != 0 && same_host
}

fn in_the_clear(url: &str) -> bool {
    url.starts_with("mqtt://") && !is_loopback(url)
}
