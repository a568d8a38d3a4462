//! What must hold between the keys of `cloud.toml`.

use super::cloud::{CloudConfig, Cluster, Control, FilesSink, Lane, Models, Pulsar, Sink};
use super::reader::{KeyPath, Reader};
use super::rules::{Credentials, names_differ};

/// Checks `config` as a whole.
pub(super) fn check(config: &CloudConfig, reader: &mut Reader<'_>) {
    names_differ::<Lane>(config.lanes.iter().map(|lane| lane.name.as_str()), reader);
    names_differ::<Cluster>(config.clusters.iter().map(|cluster| cluster.name.as_str()), reader);
    clusters(config, reader);
    sinks(&config.sinks, reader);
    control(&config.control, reader);
    models(&config.models, reader);
    let pulsar = &config.pulsar;
    Credentials {
        token: pulsar.token.as_ref(),
        token_file: pulsar.token_file.as_deref(),
        ca_file: pulsar.ca_file.as_deref(),
        urls: vec![pulsar.service.as_str()],
    }
    .check::<Pulsar>(reader);
}

/// What a process could not do anything with, and what it would do otherwise than somebody thinks.
fn control(control: &Control, reader: &mut Reader<'_>) {
    if reader.files_are_here() {
        for (key, path) in [
            ("controller_key", &control.controller_key),
            ("policy", &control.policy),
            ("operators_file", &control.operators_file),
        ] {
            let Some(path) = path else { continue };
            if let Err(e) = std::fs::File::open(path) {
                let text = format!("{} cannot be read: {e}; name a file that this process can read", path.display());
                reader.wrong(KeyPath::of::<Control>(key), text);
            }
        }
    }
    if control.absent_after < control.present_for {
        let text = "is less than present_for: a gateway would be absent and present; write at least as much";
        reader.wrong(KeyPath::of::<Control>("absent_after"), text);
    }
    if control.controller_key.is_some() && control.artefact_keys.is_empty() {
        let text = "is empty, and controller_key is set: no document can be stored; name the keys that sign them";
        reader.warn(KeyPath::of::<Control>("artefact_keys"), text);
    }
}

fn models(models: &Models, reader: &mut Reader<'_>) {
    if reader.files_are_here()
        && let Some(path) = &models.ca_file
        && let Err(e) = std::fs::File::open(path)
    {
        let text = format!("{} cannot be read: {e}; name a file that this process can read", path.display());
        reader.wrong(KeyPath::of::<Models>("ca_file"), text);
    }
}

fn clusters(config: &CloudConfig, reader: &mut Reader<'_>) {
    let key = KeyPath::of::<Pulsar>("clusters");
    if reader.is_wrong(key) || reader.is_wrong_in::<Cluster>() {
        return;
    }
    let names = &config.pulsar.clusters;
    if names.is_empty() {
        reader.wrong(key, "is empty; write the name of the cluster, such as [\"standalone\"]");
    }
    if let Some((_, name)) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
        reader.wrong(key, format!("names {name:?} twice; write every cluster once"));
    }
    for (index, cluster) in config.clusters.iter().enumerate() {
        let key = KeyPath::in_table::<Cluster>(index, "name");
        if !names.contains(&cluster.name) {
            reader.wrong(
                key,
                format!("{:?} is not in pulsar.clusters; add it there, or take this [[cluster]] out", cluster.name),
            );
        }
    }
    let is_known = |name: &String| config.clusters.iter().any(|cluster| cluster.name == *name);
    if names.len() > 1
        && let Some(name) = names.iter().find(|name| !is_known(name))
    {
        let text = format!(
            "{name:?} has no [[cluster]] with its addresses; add one, or `tidegate provision` cannot tell the others of it"
        );
        reader.warn(key, text);
    }
}

/// Two sinks in one directory would rotate each other's files.
fn sinks(sinks: &[Sink], reader: &mut Reader<'_>) {
    if reader.is_wrong_in::<FilesSink>() {
        return;
    }
    for (index, Sink::Files(files)) in sinks.iter().enumerate() {
        let same = |Sink::Files(earlier): &Sink| earlier.dir == files.dir;
        if sinks[..index].iter().any(same) {
            let text = format!("{} is the directory of an earlier [[sink]]; choose another", files.dir.display());
            reader.wrong(KeyPath::in_table::<FilesSink>(index, "dir"), text);
        }
    }
}
