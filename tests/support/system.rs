//! Configuration and set-up that most end-to-end tests begin with.

use std::path::Path;

use super::broker::Broker;
use super::process::run;

/// `tidegate provision` for one lane, "telemetry".
pub fn provision(binary: &Path, dir: &Path, broker: &Broker, partitions: u32) {
    provision_lanes(binary, dir, broker, &["telemetry"], partitions);
}

/// `tidegate provision` for several lanes.
pub fn provision_lanes(binary: &Path, dir: &Path, broker: &Broker, lanes: &[&str], partitions: u32) {
    let file = dir.join("provision.toml");
    std::fs::write(&file, cloud_toml(broker, lanes, partitions)).expect("write the configuration");
    let (code, out, err) = run(binary, &["provision", "--config", &file.to_string_lossy()]);
    assert_eq!(code, 0, "tidegate provision: {out}{err}");
}

/// A cloud's configuration without its `[http]` and `[[sink]]` sections.
pub fn cloud_toml(broker: &Broker, lanes: &[&str], partitions: u32) -> String {
    let mut toml = format!(
        "[pulsar]\nservice = \"{}\"\nadmin = \"{}\"\nclusters = [\"{}\"]\n",
        broker.service_url(),
        broker.admin_url(),
        broker.cluster()
    );
    for lane in lanes {
        toml += &format!("\n[[lane]]\nname = \"{lane}\"\npartitions = {partitions}\n");
    }
    toml
}

/// An edge's configuration with one lane and this broker, its data in `dir/data`.
pub fn edge_toml(dir: &Path, broker: &Broker) -> String {
    edge_toml_in(&dir.join("data"), "edge-1", broker)
}

/// The same with a data directory and a node id of one's own.
pub fn edge_toml_in(data: &Path, node: &str, broker: &Broker) -> String {
    format!(
        "[node]\nid = \"{node}\"\ndata_dir = {data:?}\n\n[[lane]]\nname = \"telemetry\"\n\n[uplink]\npulsar = [\"{}\"]\n",
        broker.service_url()
    )
}
