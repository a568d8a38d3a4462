//! The whole of it: a real gateway, pushed to by a real cloud through a real broker.

use std::path::Path;

use crate::site::{Site, key};
use crate::support::process::Tidegate;

#[tokio::test(flavor = "multi_thread")]
async fn a_real_gateway_keeps_a_good_document_and_takes_a_bad_one_back() {
    let site = Site::start("real", 1, "");
    site.wait_ready(0);
    let [artefact, controller, root] = [1, 2, 3].map(|n| key(n).public().to_string());
    let dir = site.dir.path().join("edge");
    let toml = format!(
        "[node]\nid = \"press-7\"\ndata_dir = {:?}\ngroups = [\"plant-7\"]\n\n[uplink]\npulsar = [\"{}\"]\ntenant = \"real\"\n\n\
         [downlink]\nroots = [\"{root}\"]\nartefact_keys = [\"{artefact}\"]\ncontroller_keys = [\"{controller}\"]\nconfirm = \"20s\"\n",
        dir.join("data"),
        site.broker.service_url(),
    );
    let edge = Tidegate::start(Path::new(env!("CARGO_BIN_EXE_tidegate")), "edge", &dir, &toml);
    let heard = site.wait(0, "/v1/nodes/press-7", |node| node["present"] == true);
    assert_eq!(heard["groups"][0], "plant-7", "{heard:#}");
    let sign = site.dir.path().join("anna.key").display().to_string();
    let push = |name: &str, text: &str| {
        let file = site.file(name, text).display().to_string();
        site.cli(
            0,
            &[
                "config", "push", &file, "--sign", &sign, "--group", "plant-7", "--waves", "100%", "--soak", "0s",
                "--wait",
            ],
        )
    };
    let (code, out, err) = push("good.toml", "[http]\nmax_batch = 5\n");
    assert_eq!(code, 0, "{out}{err}\n{}", edge.log_tail());
    let (code, out, err) = push("bad.toml", "[uplink]\npulsar = [\"pulsar://127.0.0.1:1\"]\n");
    assert!(code == 1 && err.contains("failed: press-7"), "{out}{err}\n{}", edge.log_tail());
    let node = site.wait(0, "/v1/nodes/press-7", |node| node["assignment"]["outstanding"] == false);
    assert_eq!(node["committed"]["version"], 1, "{node:#}");
}
