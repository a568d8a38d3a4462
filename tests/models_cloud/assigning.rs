//! Which gateways have which version: what is assigned is in their inboxes, signed, and stays there whatever else changes.

use serde_json::{Value, json};
use tidegate::downlink::artefact::{Assignment, Digest, Message};

use crate::site::{CONTROLLER, PATIENCE, Site, key, signed, weights};

fn newest(site: &Site, node: &str) -> Option<Assignment> {
    let entry = site.inbox(node).pop()?;
    let message = Message::decode(&entry.payload.unwrap()).unwrap();
    let signed = message.assignment.signed_bytes();
    let signatures = message.assignment.signatures();
    assert!(signatures.iter().any(|signature| key(CONTROLLER).public().verifies(&signed, &signature.bytes)));
    Some(serde_json::from_slice(message.assignment.unverified_payload()).unwrap())
}

/// Waits until the inbox's newest message lists exactly these models.
fn wait(site: &Site, node: &str, models: &[(&str, u64, &str)]) -> Assignment {
    let begun = std::time::Instant::now();
    let wanted: Vec<(String, u64, String)> =
        models.iter().map(|(name, version, mode)| ((*name).to_owned(), *version, (*mode).to_owned())).collect();
    loop {
        let newest = newest(site, node);
        if let Some(assignment) = &newest {
            let found = assignment.models.iter().map(|m| (m.name.to_string(), m.version, m.mode.text().to_owned()));
            if found.collect::<Vec<_>>() == wanted {
                return assignment.clone();
            }
        }
        assert!(begun.elapsed() < PATIENCE, "{wanted:?} is not in {newest:#?}\n{}", site.cloud.log_tail());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_version_that_is_published_can_be_assigned_and_goes_out_signed() {
    let site = Site::start("models-assigning", "");
    for (name, version) in [("press", 1), ("press", 2), ("saw", 1)] {
        let file = weights(50_000, version);
        assert_eq!(site.upload(name, &signed(name, version, &file), &file).0, 201);
    }
    let assign = |args: &[&str]| site.cli(&[&["assign"], args].concat());
    assert_eq!(assign(&["press", "--version", "1", "--node", "press-7"]).0, 0);
    let first = wait(&site, "press-7", &[("press", 1, "active")]);
    let digest = |version: u64| {
        let payload: Value = serde_json::from_str(&signed("press", version, &weights(50_000, version))).unwrap();
        use base64::Engine as _;
        let payload = base64::engine::general_purpose::STANDARD.decode(payload["payload"].as_str().unwrap()).unwrap();
        Digest::of(&payload)
    };
    assert_eq!((first.models[0].digest, first.document.is_none()), (digest(1), true));

    assert_eq!(assign(&["press", "--version", "2", "--node", "press-7", "--shadow"]).0, 0);
    assert_eq!(assign(&["saw", "--version", "1", "--node", "press-7", "--reason", "a test"]).0, 0);
    let with_shadow = [("press", 1, "active"), ("press", 2, "shadow"), ("saw", 1, "active")];
    let second = wait(&site, "press-7", &with_shadow);
    assert!(second.number > first.number);
    // The same again is the same: nothing new is sent.
    assert_eq!(assign(&["press", "--version", "2", "--node", "press-7", "--shadow"]).0, 0);
    assert_eq!(newest(&site, "press-7").unwrap().number, second.number);

    assert_eq!(assign(&["press", "--version", "2", "--node", "press-7"]).0, 0);
    wait(&site, "press-7", &[("saw", 1, "active"), ("press", 2, "active")]);
    assert_eq!(assign(&["saw", "--off", "--node", "press-7"]).0, 0);
    wait(&site, "press-7", &[("press", 2, "active"), ("saw", 1, "off")]);

    let node = site.cloud.get("/v1/nodes/press-7").unwrap();
    assert_eq!(node["models"]["assigned"][0], json!({"name":"press","version":2,"digest":digest(2),"mode":"active"}));
    let lines = site.cloud.get("/v1/history?node=press-7").unwrap()["lines"].clone();
    let reasons: Vec<&str> = lines.as_array().unwrap().iter().filter_map(|line| line["reason"].as_str()).collect();
    assert!(reasons.contains(&"saw version 1 active: a test"), "{reasons:?}");

    for (args, code, words) in [
        (&["press", "--version", "3", "--node", "press-7"][..], 64, "is not published"),
        (&["none", "--version", "1", "--node", "press-7"], 64, "there is no model"),
        (&["press", "--version", "1", "--group", "nobody"], 64, "for nobody"),
        (&["press", "--version", "1", "--node", "a b"], 64, "no name of a gateway"),
        (&["press", "--node", "press-7"], 64, "--version"),
    ] {
        let (found, _, err) = assign(args);
        assert!(found == code && err.contains(words), "{args:?}: {found} {err}");
    }
}
