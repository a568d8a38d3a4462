//! Roll-outs of models to real gateways: waves, what is taken back and where, late joiners; and gates, where models score.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate::downlink::artefact::{Assignment, Message};
use tidegate::models::manifest::{Format, Manifest};

use crate::site::{CONTROLLER, PATIENCE, Site, TRUSTED, key, manifest, weights};
use crate::support::process::Tidegate;

struct Plant {
    site: Site,
    edges: Vec<Tidegate>,
    more: String,
}

fn name(n: usize) -> String {
    format!("press-{n}")
}

impl Plant {
    /// Gateways with `more` of their own files, all in the group `plant-7`.
    fn start(tenant: &str, gateways: usize, more: &str) -> Self {
        let mut plant = Self { site: Site::start(tenant, ""), edges: Vec::new(), more: more.to_owned() };
        (0..gateways).for_each(|_| plant.add());
        (0..gateways).for_each(|n| plant.wait(n, "there", |node| node["present"] == true));
        plant
    }

    fn add(&mut self) {
        let name = name(self.edges.len());
        let [artefact, controller] = [TRUSTED, CONTROLLER].map(|n| key(n).public().to_string());
        let dir = self.dir(self.edges.len());
        let toml = format!(
            "[node]\nid = \"{name}\"\ndata_dir = {:?}\ngroups = [\"plant-7\"]\n\n[uplink]\npulsar = [\"{}\"]\n\
             tenant = \"{}\"\n\n[downlink]\nartefact_keys = [\"{artefact}\"]\ncontroller_keys = [\"{controller}\"]\n\
             confirm = \"20s\"\n{}",
            dir.join("data"),
            self.site.broker.service_url(),
            self.site.tenant,
            self.more,
        );
        self.edges.push(Tidegate::start(Path::new(env!("CARGO_BIN_EXE_tidegate")), "edge", &dir, &toml));
    }

    fn dir(&self, n: usize) -> PathBuf {
        self.site.dir.path().join(name(n))
    }

    fn wait(&self, n: usize, what: &str, is_so: impl Fn(&Value) -> bool) {
        let begun = Instant::now();
        loop {
            let node = self.site.cloud.get(&format!("/v1/nodes/{}", name(n))).unwrap_or_default();
            if is_so(&node) {
                return;
            }
            let logs = (self.site.cloud.log_tail(), self.edges[n].log_tail());
            assert!(begun.elapsed() < PATIENCE, "{n} is not {what}: {node:#}\n{}\n---\n{}", logs.0, logs.1);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the gateway says that it has come to `outcome` with this version, by its newest assignment.
    fn wait_told(&self, n: usize, version: u64, outcome: &str) {
        self.wait(n, outcome, |node| {
            let told = node["models"]["told"].as_array().cloned().unwrap_or_default();
            let is_it = |told: &Value| {
                told["version"] == version
                    && told["outcome"] == outcome
                    && told["number"] == node["assignment"]["number"]
            };
            told.iter().any(is_it)
        });
    }

    fn publish(&self, version: u64, format: Format, file: &[u8]) {
        let manifest = Manifest { format, ..manifest("press", version, file) };
        let signed = manifest.sign(&key(TRUSTED)).unwrap().encode();
        assert_eq!(self.site.upload("press", &signed, file).0, 201);
    }

    /// Rolls out to the group and waits for its end: exit code and all that is said.
    fn roll_out(&self, args: &[&str]) -> (i32, String) {
        let to = ["--group", "plant-7", "--soak", "0s", "--wait", "--timeout", "100s"];
        let (code, out, err) = self.site.cli(&[&["rollout", "press"], args, &to].concat());
        (code, out + &err)
    }

    /// The link of the model, and what it leads to.
    fn link(&self, n: usize, link: &str) -> Option<Vec<u8>> {
        std::fs::read(self.dir(n).join("data/models/press").join(link).join("model")).ok()
    }

    /// Whether a version was ever in what the gateway was sent.
    fn was_sent(&self, n: usize, version: u64) -> bool {
        self.site.inbox(&name(n)).into_iter().filter_map(|entry| entry.payload).any(|payload| {
            let message = Message::decode(&payload).unwrap();
            let assignment: Assignment = serde_json::from_slice(message.assignment.unverified_payload()).unwrap();
            assignment.models.iter().any(|model| model.version == version)
        })
    }

    /// The gateways in the order in which a roll-out reaches them.
    fn line(&self, id: &str) -> Vec<usize> {
        let mut line: Vec<usize> = (0..self.edges.len()).collect();
        line.sort_by_key(|n| *blake3::hash(format!("{id}\0{}", name(*n)).as_bytes()).as_bytes());
        line
    }
}

#[test]
fn a_good_version_goes_to_all_and_one_that_is_not_well_is_taken_back_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let sick = dir.path().join("sick");
    // Not well on those that are named in the file, with versions that have the mark in them.
    let script = format!("! {{ grep -q TRIED $TIDEGATE_MODEL_PATH && grep -q $NODE {}; }}", sick.display());
    let health = |node: &str| script.replace("$NODE", node);
    std::fs::write(&sick, "nobody\n").unwrap();
    let model = format!(
        "[[model]]\nname = \"press\"\nhealth = [\"/bin/sh\", \"-c\", {:?}]\nhealth_timeout = \"2s\"\n",
        health("$(basename $(dirname $(dirname $(dirname $(dirname $(dirname $TIDEGATE_MODEL_PATH))))))")
    );
    let mut plant = Plant::start("models-rollouts", 3, &model);
    let one = weights(300_000, 1);
    plant.publish(1, Format::Opaque, &one);
    let (code, said) = plant.roll_out(&["1", "--waves", "30%,100%"]);
    assert!(code == 0 && said.contains("press version 1, completed: 3 of 3"), "{code} {said}");
    plant.add();
    plant.wait_told(3, 1, "active");
    assert!((0..4).all(|n| plant.link(n, "current").as_ref() == Some(&one)));

    // Half of them get it. The first in the line is not well with it, the second is.
    let two = [&one[..200_000], b"TRIED"].concat();
    plant.publish(2, Format::Opaque, &two);
    let line = plant.line("second");
    std::fs::write(&sick, name(line[0])).unwrap();
    let (code, said) = plant.roll_out(&["2", "--waves", "50%,100%", "--id", "second"]);
    assert!(code == 1 && said.contains(&format!("failed: {}: unhealthy", name(line[0]))), "{code} {said}");
    assert!(said.contains("press version 2, aborted in wave 1 of 2: 2 of 4 gateways had got it"), "{said}");
    line[..2].iter().for_each(|n| plant.wait_told(*n, 1, "active"));
    assert!((0..4).all(|n| plant.link(n, "current").as_ref() == Some(&one)));
    let sent: Vec<bool> = line.iter().map(|n| plant.was_sent(*n, 2)).collect();
    assert_eq!(sent, [true, true, false, false]);

    // Beside the one in use, and taken back by an operator: the one in use stays, alone.
    let to = ["--group", "plant-7", "--waves", "30%,100%", "--soak", "0s", "--approve", "--id", "third"];
    let (code, out, err) = plant.site.cli(&[&["rollout", "press", "2", "--shadow"], &to[..]].concat());
    let said = out + &err;
    assert!(code == 0 && said.contains("press version 2 as shadow"), "{code} {said}");
    let first: Vec<usize> = (0..2).map(|n| plant.line("third")[n]).collect();
    first.iter().for_each(|n| plant.wait_told(*n, 2, "shadowing"));
    assert!(first.iter().all(|n| plant.link(*n, "shadow").as_ref() == Some(&two)));
    let url = plant.site.cloud.url();
    let run = |args: &[&str]| crate::support::process::run(Path::new(env!("CARGO_BIN_EXE_tidegate")), args);
    let (code, listed, _) = run(&["rollout", "list", "--cloud", &url]);
    assert!(
        code == 0 && listed.contains("press version 2 as shadow") && listed.contains("press version 1"),
        "{listed}"
    );
    assert_eq!(run(&["rollout", "abort", "third", "--cloud", &url]).0, 0);
    for n in first {
        plant.wait_told(n, 1, "active");
        let begun = Instant::now();
        while plant.link(n, "shadow").is_some() {
            assert!(begun.elapsed() < PATIENCE, "{}", plant.edges[n].log_tail());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(plant.link(n, "current").as_ref() == Some(&one));
    }
    for (args, words) in [
        (&["9"][..], "not published"),
        (&["2", "--gate-disagreed", "1%"], "shadow"),
        (&["--off", "--gate-alarms", "1%"], "takes one away"),
    ] {
        let (code, said) = plant.roll_out(args);
        assert!(code == 64 && said.contains(words), "{args:?}: {code} {said}");
    }
}

#[cfg(feature = "inference")]
#[test]
fn a_version_that_disagrees_or_alarms_too_much_is_stopped_by_its_gate() {
    use std::sync::atomic::{AtomicBool, Ordering};

    let scoring = "[[inference]]\nmodel = \"press\"\ntypes = [\"*.telemetry\"]\nfields = [\"/a\", \"/b\"]\nalarm_above = 10\n\
                   alarm_type = \"press.alarm\"\nlatency_max = \"5s\"\n";
    let plant = Plant::start("models-gates", 3, scoring);
    let onnx = |name: &str| std::fs::read(Path::new("tests/models").join(name)).unwrap();
    // By the sum each event is 21, by its logarithm about 3.
    let (sum, log) = (onnx("sum.onnx"), onnx("log.onnx"));
    for (version, file) in [(1, &log), (2, &sum), (3, &log)] {
        plant.publish(version, Format::Onnx, file);
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for edge in &plant.edges {
            let (url, stop) = (format!("{}/v1/events", edge.url()), &stop);
            scope.spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let body = format!(
                        "{{\"specversion\":\"1.0\",\"id\":\"{n}\",\"source\":\"urn:test\",\"type\":\"press.telemetry\",\
                         \"data\":{{\"a\":20,\"b\":1}}}}"
                    );
                    let kind = "application/cloudevents+json";
                    ureq::post(&url).header("content-type", kind).send(body).unwrap();
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
        let story = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let (code, said) = plant.roll_out(&["1", "--waves", "100%", "--gate-alarms", "5%", "--gate-errors", "1%"]);
            assert!(code == 0 && said.contains("completed: 3 of 3"), "{code} {said}");
            let waves = ["--waves", "30%,100%", "--gate-events", "20"];
            let shadow = ["2", "--shadow", "--gate-disagreed", "2%", "--id", "beside"];
            let (code, said) = plant.roll_out(&[&shadow[..], &waves].concat());
            let gate = "disagreement: 100 % of ";
            assert!(code == 1 && said.contains(gate) && said.contains("the gate is 2 %"), "{code} {said}");
            let alarming = ["2", "--gate-alarms", "5%", "--id", "used"];
            let (code, said) = plant.roll_out(&[&alarming[..], &waves].concat());
            assert!(code == 1 && said.contains("alarms: 100 % of "), "{code} {said}");
            // The same scores under another number.
            let same = ["3", "--shadow", "--gate-disagreed", "0%", "--gate-errors", "0%", "--id", "same"];
            let (code, said) = plant.roll_out(&[&same[..], &waves].concat());
            assert!(code == 0 && said.contains("completed: 3 of 3"), "{code} {said}");
        }));
        stop.store(true, Ordering::Relaxed);
        story.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    for n in 0..3 {
        plant.wait_told(n, 1, "active");
        assert!(plant.link(n, "current").as_ref() == Some(&log) && plant.link(n, "shadow").as_ref() == Some(&log));
        let was_exposed = |id: &str| plant.line(id)[0] == n;
        assert_eq!(plant.was_sent(n, 2), was_exposed("beside") || was_exposed("used"), "{n}");
        let node = plant.site.cloud.get(&format!("/v1/nodes/{}", name(n))).unwrap();
        let scores = &node["models"]["present"][0]["scores"];
        assert!(scores["active"]["scored"].as_u64() > Some(100) && scores["disagreed"].is_null(), "{scores:#}");
    }
    let (code, out, _) = plant.site.cli(&["show", "press", "--gateways"]);
    assert!(code == 0 && out.contains("press-1") && out.contains("SCORED"), "{out}");
}
