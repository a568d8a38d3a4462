//! The environment as a value that is handed in, so that a test can set it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

/// Prefix of all variables that are ours.
pub const PREFIX: &str = "TIDEGATE_";

/// Variables that belong to the command line, the build and the scripts, not to the configuration.
const NOT_CONFIGURATION: [&str; 8] = [
    "TIDEGATE_CLOUD",
    "TIDEGATE_CLOUD_TOKEN",
    "TIDEGATE_CLOUD_TOKEN_FILE",
    "TIDEGATE_CONFIG",
    "TIDEGATE_LOG",
    "TIDEGATE_REWRITE_CONFIG",
    "TIDEGATE_PULSAR_CACHE", // deploy/pulsar/pulsar.sh
    "TIDEGATE_PULSAR_SH",    // tests that start a broker
];

/// Variables with these prefixes are for tests and benches, and never looked at here.
const NOT_OURS: [&str; 2] = ["TIDEGATE_TEST_", "TIDEGATE_BENCH_"];

/// The variables named `TIDEGATE_…` and the host's name.
#[derive(Clone, Default)]
pub struct Env {
    variables: BTreeMap<String, OsString>,
    host_name: Option<String>,
}

impl Env {
    /// No variables and no host name.
    pub fn empty() -> Self {
        Self::default()
    }

    /// This process's variables and this machine's name.
    pub fn of_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        // The kernel's own answer: the same as uname(2) without a C call, and always there on Linux.
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        Self { variables, host_name }
    }

    /// These variables and no host name.
    pub fn of<N: Into<String>, V: Into<OsString>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables, host_name: None }
    }

    /// The same on a host called `name`.
    #[must_use]
    pub fn on_host(mut self, name: &str) -> Self {
        self.host_name = Some(name.to_owned());
        self
    }

    /// The value of `name`. An empty one counts as not set: that is what `${TOKEN:-}` in a compose
    /// file gives. `Err`: it is not UTF-8.
    pub(super) fn get(&self, name: &str) -> Option<Result<&str, &'static str>> {
        let value = self.variables.get(name).filter(|value| !value.is_empty())?;
        Some(value.to_str().ok_or("is not UTF-8; set it to plain text"))
    }

    /// Names of all variables that could be meant for the configuration.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables
            .keys()
            .map(String::as_str)
            .filter(|name| !NOT_CONFIGURATION.contains(name) && !NOT_OURS.iter().any(|prefix| name.starts_with(prefix)))
    }

    /// The host's name, first label, with everything but letters, digits, `-` and `_` replaced by `-`.
    pub(super) fn node_id(&self) -> Option<String> {
        let label = self.host_name.as_deref()?.trim().split('.').next()?;
        let id: String = label
            .chars()
            .take(super::names::NODE_ID_MAX)
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' })
            .collect();
        id.contains(|c: char| c.is_ascii_alphanumeric()).then_some(id)
    }
}

/// Names only: a value may be a token.
impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env")
            .field("variables", &self.variables.keys().collect::<Vec<_>>())
            .field("host_name", &self.host_name)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_becomes_a_node_id() {
        let id = |host: &str| Env::empty().on_host(host).node_id();
        assert_eq!(id("press-7.plant.example\n").as_deref(), Some("press-7"));
        assert_eq!(id("Küche 1").as_deref(), Some("K-che-1"));
        assert_eq!(id(&"x".repeat(70)).unwrap().len(), 64);
        assert_eq!(id("(--)"), None);
        assert_eq!(id(""), None);
    }

    #[test]
    fn values_are_never_shown() {
        let env = Env::of([("TIDEGATE_UPLINK_TOKEN", "s3cret")]);
        assert!(!format!("{env:?}").contains("s3cret"));
    }
}
