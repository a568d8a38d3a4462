//! HTTP: every kind of credential, and that a device speaks for itself alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use tidegate::ingest::identity::verify;

use crate::harness::{Http, Site, bearer, device, subscribe, token};
use crate::support::mqtt::{Options, Reply};

/// In this many seconds.
fn at(seconds: i64) -> i64 {
    chrono::Utc::now().timestamp() + seconds
}

fn basic(user: &str, password: &str) -> String {
    format!("authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
}

/// A site with a device for each kind of credential, and the key that signs its tokens.
pub fn site() -> (Site, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let public = dir.keep().join("jwt.pem");
    std::fs::write(&public, key.public_key_pem()).unwrap();
    let hash = verify::password_hash(b"open sesame").unwrap();
    let devices = device("press-7", "speaks_for = [\"press-7-*\"]")
        + &device("gone", "disabled = true")
        + &format!("[[device]]\nname = \"typed\"\npassword = \"{hash}\"\n\n")
        + "[[device]]\nname = \"shown\"\n";
    let identity = format!("mode = \"required\"\njwt_key_file = {public:?}\nlockout_after = 100");
    (Site::start(&identity, &devices, ""), key)
}

/// A JSON web token.
pub fn jwt(key: &rcgen::KeyPair, device: &str, expires_s: i64) -> String {
    let key = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).unwrap();
    encode(&Header::new(Algorithm::ES256), &json!({ "sub": device, "exp": expires_s }), &key).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_credential_is_the_device_and_nobody_else() {
    let (mut site, key) = site();
    let signed = |device: &str| format!("authorization: Bearer {}\r\n", jwt(&key, device, at(600)));
    for (name, shown) in [
        ("press-7", bearer("press-7")),
        ("press-7", basic("anything", &token("press-7"))),
        ("typed", basic("typed", "open sesame")),
        ("typed", signed("typed")),
        ("only-signed", signed("only-signed")),
    ] {
        assert_eq!(site.post(name, &shown).await.status, 202, "{name}: {shown}");
        assert_eq!(site.post("other", &shown).await.problem().0, 403, "{name}: {shown}");
    }
    let certificate = site.certificate("shown");
    let mut https = Http::over(site.tls(site.https, Some(&certificate)).await);
    assert_eq!(https.call("POST /v1/devices/shown/events", "", "{}").await.status, 202);
    // What is shown wins over the certificate of the connection.
    assert_eq!(https.call("POST /v1/devices/press-7/events", &bearer("press-7"), "{}").await.status, 202);
    assert_eq!(https.call("POST /v1/devices/typed/events", "", "{}").await.status, 403);
    let wrong_key = rcgen::KeyPair::generate().unwrap();
    for (shown, status) in [
        // First, for of those whom nobody knows one is written down in ten seconds.
        (basic("nobody", "open sesame"), 401),
        (String::new(), 401),
        (bearer("press-8"), 401),
        (basic("typed", "open"), 401),
        ("authorization: Digest x\r\n".to_owned(), 401),
        (format!("authorization: Bearer {}\r\n", jwt(&key, "typed", at(-600))), 401),
        (format!("authorization: Bearer {}\r\n", jwt(&wrong_key, "typed", at(600))), 401),
        (bearer("gone"), 403),
        (signed("gone"), 403),
    ] {
        let answer = site.post("typed", &shown).await;
        assert_eq!(answer.status, status, "{shown}: {answer:?}");
        if status == 401 {
            assert!(answer.head.contains("www-authenticate: "), "{answer:?}");
        }
    }
    site.was_refused("subject", "press-7", "other");
    site.was_refused("disabled", "gone", "");
    let log = site.refusals("somebody unknown", |line| line["unknown"] == "nobody");
    let log = serde_json::to_string(&log).unwrap();
    assert!(!log.contains("sesame") && !log.contains("tgd_"), "no secret is written down: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_speaks_for_itself_whatever_the_event_says() {
    let (site, _) = site();
    let event =
        |subject: &str| json!({ "specversion": "1.0", "id": "1", "source": "s", "type": "t", "subject": subject });
    let shown = bearer("press-7");
    for (subject, status) in [("press-7", 202), ("press-7-left", 202), ("press-70", 403), ("typed", 403)] {
        let structured = format!("{shown}content-type: application/cloudevents+json\r\n");
        let answer = site.call("POST /v1/events", &structured, &event(subject).to_string()).await;
        assert_eq!(answer.status, status, "{subject}: {answer:?}");
        // Inside of a batch it is no better.
        let batch = format!("{shown}content-type: application/cloudevents-batch+json\r\n");
        let two = json!([event("press-7"), event(subject)]).to_string();
        assert_eq!(site.call("POST /v1/events", &batch, &two).await.status, status, "{subject}");
        let head = format!("POST /v1/events?subject={subject}");
        assert_eq!(site.call(&head, &shown, "{}").await.status, status, "{subject}");
        let ce = format!(
            "{shown}ce-specversion: 1.0\r\nce-id: {subject}\r\nce-source: s\r\nce-type: t\r\nce-subject: {subject}\r\n"
        );
        assert_eq!(site.call("POST /v1/events", &ce, "{}").await.status, status, "{subject}");
        assert_eq!(site.call(&format!("POST /v1/devices/{subject}/events"), &shown, "{}").await.status, status);
    }
    for (head, status) in [
        ("GET /v1/devices/press-7/commands?wait=0s", 200),
        ("GET /v1/devices/typed/commands?wait=0s", 403),
        ("GET /v1/devices/typed/config", 403),
        ("POST /v1/devices/typed/commands/1/result", 403),
        ("POST /v1/devices/press-7/commands", 403),
        ("PUT /v1/devices/press-7/config", 403),
        ("DELETE /v1/devices/press-7/commands/1", 403),
    ] {
        assert_eq!(site.call(head, &shown, "{}").await.status, status, "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_open_mode_everybody_may_but_nobody_is_a_device_without_its_secret() {
    let devices = device("press-7", "");
    let site = Site::start("mode = \"open\"\ndeny_subscribe = [\"secret/#\"]", &devices, "");
    assert_eq!(site.post("anything", "").await.status, 202);
    assert_eq!(site.post("anything", &basic("grafana", "whatever")).await.status, 202, "that nobody asked for");
    assert_eq!(site.post("press-7", &bearer("press-7")).await.status, 202);
    assert_eq!(site.post("press-7", &basic("press-7", "wrong")).await.status, 401, "it claims to be a device");
    assert_eq!(site.status()["identity"]["mode"], "open");
    // What is denied is denied by its name, and left out of what a wider filter brings: at once, retained, shared.
    let mut publisher = site.client(Options::new("p")).await;
    let secret = publisher.retain("secret/kept", "s").await;
    publisher.puback(secret).await;
    let mut anybody = site.client(Options::new("a")).await;
    for denied in ["secret/x", "secret/#", "$share/g/secret/+"] {
        assert_eq!(subscribe(&mut anybody, denied).await, 0x87, "{denied}");
    }
    for wide in ["#", "+/x", "$share/g/#"] {
        assert_eq!(subscribe(&mut anybody, wide).await, 1, "{wide}");
    }
    for topic in ["secret/x", "secret", "open/x"] {
        publisher.publish_and_wait(topic, topic).await;
    }
    for _ in 0..2 {
        match anybody.next().await {
            Reply::Publish { topic, .. } => assert_eq!(topic, "open/x"),
            other => panic!("{other:?}"),
        }
    }
}
