//! MQTT: every kind of credential, topics, sessions, and whose word a command is.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::harness::{Site, bearer, connack, device, publish, subscribe, token, with_password, with_token};
use crate::http::{self, jwt};
use crate::support::mqtt::{Client, Options, Reply};

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_credential_is_let_in_and_the_others_are_told_why() {
    let (mut site, key) = http::site();
    let far = chrono::Utc::now().timestamp() + 600;
    let signed = jwt(&key, "typed", far);
    let (new, old) = (|| Options::new("c"), || Options::v311("c"));
    for (options, reason) in [
        (with_token(new(), "press-7"), 0),
        (with_password(new(), "anything", &token("press-7")), 0),
        (with_password(new(), "typed", "open sesame"), 0),
        (with_password(new(), "typed", &signed), 0),
        (new(), 0x87),
        (with_password(new(), "typed", "open"), 0x86),
        (with_password(new(), "nobody", "x"), 0x86),
        (with_token(new(), "gone"), 0x8A),
        (with_token(old(), "press-7"), 0),
        (old(), 5),
        (with_password(old(), "typed", "open"), 4),
        (with_token(old(), "gone"), 5),
    ] {
        // Each has a client id of its own, for a session belongs to an identity.
        let options = Options { client: format!("{:?}", options.user), ..options };
        assert_eq!(site.connack(options.clone()).await, reason, "{options:?}");
    }
    let certificate = site.certificate("shown");
    assert_eq!(connack(site.tls(site.mqtts, Some(&certificate)).await, Options::new("s")).await, 0);
    assert_eq!(connack(site.tls(site.mqtts, None).await, Options::new("s")).await, 0x87);
    let mut shown = Client::over(site.tls(site.mqtts, Some(&certificate)).await, Options::new("s")).await;
    assert_eq!(publish(&mut shown, "devices/shown/x", "1").await, 0);
    assert_eq!(publish(&mut shown, "devices/typed/x", "1").await, 0x87);
    site.was_refused("publish", "shown", "devices/typed/x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_taken_over_secure_websocket_too() {
    let (site, _) = http::site();
    let certificate = site.certificate("shown");
    let stream = site.tls(site.wss, Some(&certificate)).await;
    let mut request = format!("wss://localhost:{}/mqtt", site.wss.port()).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("mqtt"));
    let (mut socket, _) = client_async(request, stream).await.unwrap();
    socket.send(Message::Binary(Options::v311("w").bytes().into())).await.unwrap();
    let connack = socket.next().await.unwrap().unwrap().into_data();
    assert_eq!(&connack[..], [0x20, 2, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_wills_and_sessions_of_others_are_refused_and_written_down() {
    let devices = device("a", "") + &device("b", "");
    let mut site = Site::required(&devices);
    let mut a = site.client(with_token(Options::new("a1"), "a").stays()).await;
    assert_eq!(publish(&mut a, "devices/a/x", "1").await, 0);
    for filter in ["devices/a/#", "site/+"] {
        assert_eq!(subscribe(&mut a, filter).await, 1, "{filter}");
    }
    for filter in ["#", "devices/#", "devices/b/x", "+/a/x", "$share/g/devices/#"] {
        assert_eq!(subscribe(&mut a, filter).await, 0x87, "{filter}");
    }
    for topic in ["devices/b/x", "site/x", "devices"] {
        assert_eq!(publish(&mut a, topic, "1").await, 0x87, "{topic}");
    }
    assert_eq!(publish(&mut a, "$SYS/x", "1").await, 0x90);
    site.was_refused("publish", "a", "devices/b/x");
    site.was_refused("subscribe", "a", "#");
    assert!(site.metric("tidegate_identity_refused_total{reason=\"subscribe\"}") >= 5.0);
    // 3.1.1 has no word for it: it is dropped. To end the connection would bring it back, before all others.
    let mut old = site.client(with_token(Options::v311("b1"), "b")).await;
    old.publish_and_wait("devices/a/x", "1").await;
    site.was_refused("publish", "b", "devices/a/x");
    let other = with_token(Options::new("a1"), "b");
    assert_eq!(site.connack(other).await, 0x87, "the session is a's");
    site.was_refused("session", "b", "a1");
    let will = with_token(Options::new("b2"), "b").will("devices/a/will", "gone");
    assert_eq!(site.connack(will).await, 0x87);
    a.ping().await;
}

/// Everything that comes to somebody who watches all commands, until `last`.
async fn watched(watcher: &mut Client, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        match watcher.next().await {
            Reply::Publish { topic, id, .. } => {
                watcher.answer(0x40, id).await;
                seen.push(topic);
                if seen.last().is_some_and(|topic| topic == last) {
                    return seen;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_an_operator_gives_commands_by_any_way() {
    let wide = "publish = [\"devices/#\"]";
    let devices = device("a", "")
        + &device("b", "")
        + &device("wide", wide)
        + &device("boss", "publish = [\"devices/#\"]\nrole = \"operator\"")
        + &device("watcher", "subscribe = [\"devices/#\"]");
    let more = "[commands]\n";
    let mut site = Site::start("mode = \"required\"", &devices, more);
    let mut watcher = site.client(with_token(Options::new("watcher"), "watcher")).await;
    assert_eq!(subscribe(&mut watcher, "devices/+/commands/+").await, 1);
    assert_eq!(subscribe(&mut watcher, "devices/+/config").await, 1);
    let send = json!({ "id": "c1", "name": "open" }).to_string();
    assert_eq!(site.call("POST /v1/devices/a/commands", &bearer("boss"), &send).await.status, 201);
    assert_eq!(site.call("POST /v1/devices/a/commands", &bearer("a"), &send).await.status, 403);
    site.was_refused("operator-only", "a", "a");
    for name in ["a", "wide"] {
        let mut client = site.client(with_token(Options::new(name), name)).await;
        for topic in ["devices/a/commands/evil", "devices/a/commands", "devices/a/config", "devices/a/commands/c1/x"] {
            assert_eq!(publish(&mut client, topic, "evil").await, 0x87, "{name}: {topic}");
            let id = client.retain(topic, "evil").await;
            assert!(matches!(client.next().await, Reply::Puback { id: got, reason: 0x87, .. } if got == id));
        }
        // Not even by taking the gateway's own away.
        let id = client.retain("devices/a/commands/c1", "").await;
        assert!(matches!(client.next().await, Reply::Puback { id: got, reason: 0x87, .. } if got == id));
        client.publish("devices/a/commands/evil", "evil", 0).await;
        client.ping().await;
    }
    let will = with_token(Options::new("a"), "a").will("devices/a/commands/evil", "evil");
    assert_eq!(site.connack(will).await, 0x87);
    site.was_refused("publish", "wide", "devices/a/commands/evil");
    // Answers: each for itself.
    let mut wide = site.client(with_token(Options::new("wide"), "wide")).await;
    assert_eq!(publish(&mut wide, "devices/a/commands/c1/result", "").await, 0x87);
    let state = |answer: crate::harness::Answer| serde_json::from_str::<serde_json::Value>(&answer.body).unwrap();
    let path = "GET /v1/devices/a/commands/c1";
    assert_eq!(state(site.call(path, &bearer("boss"), "").await)["state"], "waiting");
    let mut a = site.client(with_token(Options::new("a"), "a")).await;
    assert_eq!(publish(&mut a, "devices/a/commands/c1/result", "").await, 0);
    assert_eq!(state(site.call(path, &bearer("boss"), "").await)["state"], "done");
    assert_eq!(publish(&mut a, "devices/a/data", "1").await, 0, "all else is as ever");
    // An operator may.
    let mut boss = site.client(with_token(Options::new("boss"), "boss")).await;
    boss.publish_and_wait("devices/a/commands/last", "1").await;
    assert_eq!(
        watched(&mut watcher, "devices/a/commands/last").await,
        ["devices/a/commands/c1", "devices/a/commands/last"]
    );
}

/// What devices send by HTTP comes out on a topic that is made of what they say.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_by_http_never_comes_out_as_a_command() {
    let devices = device("a", "") + &device("watcher", "subscribe = [\"devices/#\"]");
    let mut site = Site::start("mode = \"required\"", &devices, "");
    site.process.kill9();
    // The harness has written the section already.
    let file = site.path("edge.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let key = "[mqtt]\nhttp_topic = \"devices/{device}/{type}\"\n";
    std::fs::write(&file, config.replacen("[mqtt]\n", key, 1)).unwrap();
    site.process.restart();
    site.process.wait_ready(crate::harness::SOON);
    let mut watcher = site.client(with_token(Options::new("w"), "watcher")).await;
    assert_eq!(subscribe(&mut watcher, "devices/#").await, 1);
    for (ty, status) in [("config", 202), ("commands", 202), ("reading", 202)] {
        let answer = site.call(&format!("POST /v1/devices/a/events?type={ty}"), &bearer("a"), "{}").await;
        assert_eq!(answer.status, status, "an event of this type is an event like others");
    }
    assert_eq!(watched(&mut watcher, "devices/a/reading").await, ["devices/a/reading"]);
}

/// A device whose connection hangs comes back, though it may have one only.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_has_so_many_connections_and_may_take_its_own_over() {
    let devices = device("a", "") + &device("b", "");
    let mut site = Site::start("mode = \"required\"\nmax_connections = 2", &devices, "");
    let mut first = site.client(with_token(Options::new("1"), "a")).await;
    let second = site.client(with_token(Options::new("2"), "a")).await;
    assert_eq!(site.connack(with_token(Options::new("3"), "a")).await, 0x97);
    assert_eq!(site.post("a", &bearer("a")).await.problem(), (429, "too-many-connections".to_owned()));
    site.was_refused("too-many-connections", "a", "");
    assert_eq!(site.post("b", &bearer("b")).await.status, 202, "others have their own");
    let mut again = site.client(with_token(Options::new("1"), "a")).await;
    assert_eq!(first.next().await, Reply::Disconnect { reason: 0x8E });
    again.ping().await;
    second.disconnect().await;
    crate::harness::eventually("a place to be free", async || site.post("a", &bearer("a")).await.status == 202).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_guesses_waits_and_tokens_still_come_in() {
    let (user, devices) = ("typed", device("a", ""));
    let hash = tidegate::ingest::identity::verify::password_hash(b"right").unwrap();
    let devices = devices + &format!("[[device]]\nname = \"{user}\"\npassword = \"{hash}\"\n");
    let mut site = Site::start("mode = \"required\"\nlockout_after = 3\nlockout_max = \"30s\"", &devices, "");
    let guess = |n: u32| with_password(Options::new("g"), user, &format!("guess {n}"));
    for n in 0..3 {
        assert_eq!(site.connack(guess(n)).await, 0x86);
    }
    let mut waited = Duration::ZERO;
    // One second, then two, then four: until there is a wait that a request on this machine cannot miss.
    for n in 3.. {
        match site.connack(guess(n)).await {
            0x9F if waited > Duration::from_secs(4) => break,
            0x9F | 0x86 => {}
            other => panic!("{other:#x}"),
        }
        waited += Duration::from_millis(200);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(n < 200, "it is never locked out");
    }
    let credential = "authorization: Basic dHlwZWQ6cmlnaHQ=\r\n"; // typed:right
    let locked = site.post(user, credential).await;
    assert_eq!(locked.problem(), (429, "locked-out".to_owned()), "also with the right password, on every way in");
    assert!((1..=30).contains(&locked.retry_after()), "{locked:?}");
    assert_eq!(site.connack(with_token(Options::new("a"), "a")).await, 0, "a token cannot be guessed");
    assert_eq!(site.post("a", &bearer("a")).await.status, 202);
    site.refusals("a lock-out", |line| line["reason"] == "locked-out");
    site.refusals("what was left out", |line| line["left_out"].as_u64().is_some());
}
