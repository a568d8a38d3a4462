//! Where MQTT.js is.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The version that deploy/node.sh installs as well.
const MQTT_JS: &str = "mqtt@5.16.0";

/// A directory that has the package `mqtt` in its node_modules: TIDEGATE_TEST_NODE, or one made below target/.
pub fn modules() -> PathBuf {
    static MODULES: OnceLock<PathBuf> = OnceLock::new();
    MODULES.get_or_init(find_modules).clone()
}

fn find_modules() -> PathBuf {
    if let Some(given) = std::env::var_os("TIDEGATE_TEST_NODE") {
        return given.into();
    }
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("mqtt-js");
    let has_it = || dir.join("node_modules/mqtt/package.json").exists();
    if !has_it() {
        let got = Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--prefix"])
            .arg(&dir)
            .arg(MQTT_JS)
            .output();
        assert!(
            has_it(),
            "these tests need MQTT.js, which cannot be installed: {got:?}\n\
             install node and npm (Debian: apt-get install nodejs npm), make `npm install {MQTT_JS}` work, or name a \
             directory that has it in node_modules in TIDEGATE_TEST_NODE"
        );
    }
    dir
}
