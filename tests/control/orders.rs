//! What the interface takes and refuses: signatures, mistakes, vetoes, orders that are given twice, who gives them.

use serde_json::json;

use crate::site::{Site, document, plan, sha256, signed};

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_stored_once_and_what_no_gateway_would_take_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.rego");
    std::fs::write(&policy, include_str!("../../config/policy.rego")).unwrap();
    let site = Site::start("orders-documents", 1, &format!("policy = {policy:?}"));
    site.wait_ready(0);
    let post = |body: &str| site.ask(0, "POST", "/v1/documents", body);
    let refused = |body: &str, words: &str| {
        let (status, answer) = post(body);
        assert_eq!(status, 422, "{answer:#}");
        assert!(answer["detail"].as_str().unwrap().contains(words), "{answer:#}");
    };
    let good = document(7, "max_batch = 5");
    let (status, answer) = post(&signed(&good, 1));
    assert_eq!((status, &answer["version"], answer["sha256"].as_str()), (201, &json!(7), Some(&*sha256(&good))));
    let (status, again) = post(&signed(&good, 1));
    assert_eq!((status, again["sha256"].as_str()), (200, answer["sha256"].as_str()));
    refused(&signed(&good, 9), "unknown-key");
    refused(&signed(&good, 2), "wrong-role");
    refused(&signed(&good, 1).replacen("\"payload\":\"", "\"payload\":\"AAAA", 1), "bad-signature");
    refused(&signed("[http]\nmax_batch = 5\n", 1), "no [document] version");
    refused(&signed(&document(8, "max_batch = \"five\"\nmax_bach = 5"), 1), "max_bach");
    refused(&signed("[node]\nid = \"x\"\n[document]\nversion = 9\n", 1), "is the gateway's own");
    refused(&signed("[document]\nversion = 9\nexpires = \"2020-01-01T00:00:00Z\"\n", 1), "expired");
    refused(&signed("[uplink]\npulsar = [\"pulsar://evil.example\"]\n[document]\nversion = 9\n", 1), "has no TLS");
    refused("{}", "no signed document");
    let other = document(7, "max_batch = 6");
    let (status, answer) = post(&signed(&other, 1));
    assert_eq!(status, 201);
    assert!(answer["warnings"][0].as_str().unwrap().contains("version 7 is also that of another"), "{answer:#}");
    let list = site.get(0, "/v1/documents?limit=1");
    assert_eq!(list["items"][0]["sha256"].as_str(), Some(&*sha256(&other)));
    assert_eq!(list["items"][0]["by"], "anna (unverified)");
    let list = site.get(0, &format!("/v1/documents?after={}", list["next"].as_str().unwrap()));
    assert_eq!((list["items"].as_array().unwrap().len(), &list["next"]), (1, &json!(null)));
    let envelope = site.get(0, &format!("/v1/documents/{}", sha256(&good)));
    assert_eq!(envelope["payloadType"], "application/vnd.tidegate.config.v1+toml");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_taken_once_and_refused_in_words() {
    let mut site = Site::start("orders-rollouts", 1, "");
    site.wait_ready(0);
    let text = document(1, "max_batch = 5");
    let digest = site.store(0, &text);
    let order = |change: serde_json::Value| {
        let mut order = json!({ "id": "r1", "document": digest, "nodes": ["press-7"], "plan": plan(&[100], 0) });
        for (name, value) in change.as_object().unwrap() {
            order[name] = value.clone();
        }
        site.ask(0, "POST", "/v1/rollouts", &order.to_string())
    };
    let refused = |change: serde_json::Value, status: u16, words: &str| {
        let (is, answer) = order(change);
        assert_eq!(is, status, "{answer:#}");
        assert!(answer["detail"].as_str().unwrap().contains(words), "{answer:#}");
    };
    refused(json!({ "nodes": [] }), 422, "for nobody");
    refused(json!({ "nodes": ["press 7"] }), 422, "no name of a gateway");
    refused(json!({ "id": "a b" }), 422, "no id");
    refused(json!({ "document": sha256("x") }), 404, "there is no document");
    refused(json!({ "document": "x" }), 400, "cannot be read");
    refused(json!({ "plan": plan(&[50], 0) }), 422, "last wave");
    refused(json!({ "extra": 1 }), 400, "extra");
    let (status, answer) = order(json!({}));
    assert_eq!((status, &answer["rollout"]["stage"]), (201, &json!("draft")), "{answer:#}");
    assert!(answer["warnings"][0].as_str().unwrap().contains("never heard"), "{answer:#}");
    assert_eq!(order(json!({})).0, 200, "the same again");
    refused(json!({ "plan": plan(&[10, 100], 0) }), 409, "take another id");
    let act = |action: &str, body: &str| site.ask(0, "POST", &format!("/v1/rollouts/r1/{action}"), body).0;
    assert_eq!((act("start", ""), act("start", "{}")), (200, 200));
    assert_eq!((act("pause", r#"{"reason":"lunch"}"#), act("pause", "")), (200, 200));
    assert_eq!(site.get(0, "/v1/rollouts/r1")["paused"], "lunch");
    assert_eq!((act("resume", ""), act("resume", ""), act("dance", ""), act("abort", "")), (200, 200, 404, 200));
    assert_eq!((act("abort", ""), act("pause", "")), (200, 409));
    assert_eq!(site.ask(0, "POST", "/v1/rollouts/r2/start", "{}").0, 404);
    assert_eq!(site.ask(0, "PUT", "/v1/rollouts", "{}").0, 405);
    assert_eq!(site.ask(0, "POST", "/v1/nodes", "{}").0, 405);

    // Everything is in the log, and read again after kill -9.
    let lines = |site: &Site| {
        let history = site.get(0, "/v1/history");
        let lines = history["lines"].as_array().unwrap().iter().filter(|line| line["what"] != "claimed");
        lines.map(|line| format!("{} {} {}", line["what"], line["by"], line["void"])).collect::<Vec<_>>()
    };
    let before = lines(&site);
    assert!(before.iter().any(|line| line.starts_with("\"paused\" \"anna (unverified)\"")), "{before:#?}");
    let rollout = site.get(0, "/v1/rollouts/r1");
    site.clouds[0].kill9();
    site.clouds[0].restart();
    site.wait_ready(0);
    assert_eq!(lines(&site), before);
    assert_eq!(site.get(0, "/v1/rollouts/r1"), rollout);
    assert_eq!(site.get(0, "/v1/documents")["items"][0]["sha256"].as_str(), Some(&*digest));
}
