//! Provisioning in this process, with the configuration as a value, and everything it could have changed.

use serde_json::{Value, json};
use tidegate::cli::provision::{ProvisionArgs, RunError, run};
use tidegate::config::CloudConfig;
use tidegate::pulsar::admin::Admin;
use tidegate::pulsar::credentials::Credentials;

use super::broker::Broker;

/// A configuration for `broker`.
pub fn config_for(broker: &Broker, tenant: &str) -> CloudConfig {
    let mut config = CloudConfig::default();
    config.pulsar.service = broker.service_url();
    config.pulsar.admin = broker.admin_url();
    config.pulsar.clusters = vec![broker.cluster().to_owned()];
    config.pulsar.tenant = tenant.to_owned();
    config
}

/// The broker's administration, through Tidegate's own client.
pub fn api(broker: &Broker) -> Admin {
    Admin::new(&broker.admin_url(), &Credentials::None, None).unwrap()
}

/// Runs `tidegate provision` and returns what it printed.
pub fn provision(config: &CloudConfig, dry_run: bool) -> Result<String, RunError> {
    let mut out = Vec::new();
    run(&ProvisionArgs { config: None, dry_run, grow_partitions: true, wait: 0 }, config, &mut out)?;
    let text = String::from_utf8(out).unwrap();
    println!("{text}");
    Ok(text)
}

/// The error of a run that must fail, and its exit code.
pub fn failure(config: &CloudConfig) -> (String, u8) {
    let error = provision(config, false).unwrap_err();
    println!("{error}");
    (error.to_string(), error.exit_code())
}

/// Everything about a cluster that provisioning could change.
pub fn everything(api: &Admin) -> Value {
    let get = |path: String| api.get::<Value>(&path).unwrap().unwrap_or_default();
    let names = |v: &Value| -> Vec<String> { serde_json::from_value(v.clone()).unwrap_or_default() };
    let mut all = json!({});
    for cluster in names(&get("clusters".into())) {
        all["clusters"][&cluster] = get(format!("clusters/{cluster}"));
    }
    for tenant in names(&get("tenants".into())) {
        all["tenants"][&tenant] = get(format!("tenants/{tenant}"));
        for namespace in names(&get(format!("namespaces/{tenant}"))) {
            all["namespaces"][&namespace] = get(format!("namespaces/{namespace}"));
            all["partitioned"][&namespace] = get(format!("persistent/{namespace}/partitioned"));
            for topic in names(&get(format!("persistent/{namespace}"))) {
                let path = topic.replace("persistent://", "persistent/");
                all["topics"][&topic] = get(format!("{path}/subscriptions"));
            }
        }
    }
    all
}
