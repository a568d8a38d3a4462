//! What must hold between the keys about devices: ports, certificates, who may come in, mappings and bridges.

use std::net::SocketAddr;

use super::edge::{Bridge, ClientCertificates, Commands, EdgeConfig, Http, Identity, Lane, Mapping, Mqtt, Tls};
use super::reader::{KeyPath, Reader};
use super::rules::{collide, names_differ};

/// Checks the sections about devices.
pub(super) fn check(config: &EdgeConfig, reader: &mut Reader<'_>) {
    ports(config, reader);
    certificates(config, reader);
    known(config, reader);
    mappings(config, reader);
    bridges(&config.bridges, reader);
    let topic = &config.commands.topic;
    if !topic.split('/').any(|level| level == "{device}") || topic.contains(['+', '#']) {
        let text = format!("{topic:?} must have {{device}} as a level, and no + or #");
        reader.wrong(KeyPath::of::<Commands>("topic"), text);
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
        for (key, template) in [("type", &mapping.r#type), ("subject", &mapping.subject)] {
            let unknown = template.as_deref().and_then(|template| unknown_name(template, &mapping.topic, key));
            if let Some(name) = unknown {
                let text =
                    format!("{{{name}}} is not a level of the topic {:?}; name a level {{{name}}}", mapping.topic);
                reader.wrong(KeyPath::in_table::<Mapping>(index, key), text);
            }
        }
    }
}

/// The first `{name}` in `template` that `topic` does not have.
fn unknown_name<'t>(template: &'t str, topic: &str, key: &str) -> Option<&'t str> {
    let names = template.split('{').skip(1).filter_map(|part| part.split('}').next());
    let given = |name: &str| {
        name == "client"
            || (name == "topic" && key == "type")
            || topic.split('/').any(|level| level == format!("{{{name}}}"))
    };
    names.into_iter().find(|name| !given(name))
}

fn bridges(bridges: &[Bridge], reader: &mut Reader<'_>) {
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
        let tls = bridge.ca_file.is_some() || bridge.certificate_file.is_some();
        if tls && bridge.url.starts_with("mqtt://") {
            reader.wrong(key("url"), "has no TLS, but files for it are given; write mqtts://".to_owned());
        }
    }
}
