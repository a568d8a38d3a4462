//! The whole of it: published to a real cloud, assigned, fetched by a real gateway through a real broker, and told.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::site::{CONTROLLER, PATIENCE, Site, TRUSTED, key, signed, weights};
use crate::support::process::Tidegate;

#[test]
fn a_gateway_runs_what_it_was_assigned_and_the_cloud_knows() {
    let site = Site::start("models-whole", "");
    let [artefact, controller] = [TRUSTED, CONTROLLER].map(|n| key(n).public().to_string());
    let dir = site.dir.path().join("edge");
    let toml = format!(
        "[node]\nid = \"press-7\"\ndata_dir = {:?}\ngroups = [\"plant-7\"]\n\n[uplink]\npulsar = [\"{}\"]\n\
         tenant = \"models-whole\"\n\n\
         [downlink]\nartefact_keys = [\"{artefact}\"]\ncontroller_keys = [\"{controller}\"]\nconfirm = \"20s\"\n",
        dir.join("data"),
        site.broker.service_url(),
    );
    let edge = Tidegate::start(Path::new(env!("CARGO_BIN_EXE_tidegate")), "edge", &dir, &toml);
    let wait = |what: &str, is_so: &dyn Fn(&Value) -> bool| {
        let begun = Instant::now();
        loop {
            let node = site.cloud.get("/v1/nodes/press-7").unwrap_or_default();
            if is_so(&node) {
                return;
            }
            let (cloud, edge) = (site.cloud.log_tail(), edge.log_tail());
            assert!(begun.elapsed() < PATIENCE, "not {what}: {node:#}\n{cloud}\n---\n{edge}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait("there", &|node| node["present"] == true);

    let mut files = vec![weights(2_000_000, 1)];
    let mut second = files[0].clone();
    second[900_000..1_000_000].copy_from_slice(&weights(100_000, 2));
    files.push(second);
    for (version, file) in (1..).zip(&files) {
        assert_eq!(site.upload("press", &signed("press", version, file), file).0, 201);
    }
    let current = dir.join("data/models/press/current/model");
    let steps = [
        (&["--version", "1"][..], "active", Some(0)),
        (&["--version", "2", "--shadow"], "shadowing", Some(0)),
        (&["--version", "2"], "active", Some(1)),
        (&["--version", "1"], "active", Some(0)),
        (&["--off"], "off", None),
    ];
    for (how, outcome, uses) in steps {
        let (code, out, err) = site.cli(&[&["assign", "press", "--group", "plant-7"], how].concat());
        assert_eq!(code, 0, "{out}{err}");
        let begun = Instant::now();
        let number = || site.cloud.get("/v1/nodes/press-7").unwrap_or_default()["assignment"]["number"].clone();
        let number = number();
        wait(outcome, &|node| {
            let told = node["models"]["told"].as_array().cloned().unwrap_or_default();
            told.iter().any(|told| told["outcome"] == outcome && told["number"] == number)
        });
        println!("{how:?}: {outcome} after {:.1} s", begun.elapsed().as_secs_f64());
        let used = std::fs::read(&current).ok();
        assert!(used.as_ref() == uses.map(|n| &files[n]), "{how:?}");
    }
}
