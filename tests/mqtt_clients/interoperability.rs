//! Eclipse Paho's interoperability suites, where TIDEGATE_TEST_PAHO names a checkout of eclipse/paho.mqtt.testing:
//! its licence is not ours, we know of no package registry that has it, and it takes minutes.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Gate, Running};

/// One suite sleeps for two and a half minutes in all.
const SUITE_MAX: Duration = Duration::from_secs(600);

fn start(gate: &Gate, suite: &str, checkout: &std::path::Path) -> Running {
    let mut command = Command::new("python3");
    command.arg("tests/mqtt_clients/paho_suites.py").arg(checkout).args([suite, &gate.tcp.to_string()]);
    Running::start(&mut command, gate.dir.path(), suite)
}

#[test]
#[ignore = "takes three minutes and a checkout of eclipse/paho.mqtt.testing in TIDEGATE_TEST_PAHO"]
fn the_interoperability_suites_of_eclipse_paho() {
    let checkout = std::env::var_os("TIDEGATE_TEST_PAHO").map(PathBuf::from);
    let checkout = checkout.expect("TIDEGATE_TEST_PAHO names a checkout of eclipse/paho.mqtt.testing");
    // One gateway each: they use the same topics and client ids.
    let deny = "deny_subscribe = [\"test/nosubscribe\"]";
    let (old, new) = (Gate::with(deny), Gate::with(deny));
    let (first, second) = (start(&old, "client_test", &checkout), start(&new, "client_test5", &checkout));
    let last = |said: &str| said.lines().last().unwrap_or_default().to_owned();
    let (_, said) = first.ends(SUITE_MAX);
    assert_eq!(last(&said), "11 run, not passed: none", "{said}");
    let (_, said) = second.ends(SUITE_MAX);
    assert_eq!(last(&said), "27 run, not passed: none", "{said}");
}
