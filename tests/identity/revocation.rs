//! Who is taken out, shut out or changed is out at once, on every way in; nobody else notices.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Http, Site, bearer, device, hang_up, publish, with_password, with_token};
use crate::http::{jwt, site};
use crate::support::mqtt::{Options, Reply};

#[tokio::test(flavor = "multi_thread")]
async fn sessions_streams_polls_and_connections_of_a_revoked_device_end() {
    let (boss, others) = (device("boss", "role = \"operator\""), device("b", ""));
    let mut site = Site::required(&(boss.clone() + &others + &device("a", "")));
    let listen = async |name: &str| {
        let mut http = site.connect().await;
        http.send(&format!("GET /v1/devices/{name}/commands"), &bearer(name), "").await;
        http.until(": listening\n\n").await;
        http
    };
    let (mut stream, mut stream_b) = (listen("a").await, listen("b").await);
    let mut poll = site.connect().await;
    poll.send("GET /v1/devices/a/commands?wait=60s", &bearer("a"), "").await;
    let mut config = site.connect().await;
    config.send("GET /v1/devices/a/config?wait=60s", &bearer("a"), "").await;
    let mut kept = site.connect().await;
    assert_eq!(kept.call("POST /v1/devices/a/events", &bearer("a"), "{}").await.status, 202);
    let mut new = site.client(with_token(Options::new("new"), "a").stays()).await;
    let mut old = site.client(with_token(Options::v311("old"), "a")).await;
    let mut secure =
        crate::support::mqtt::Client::over(site.tls(site.mqtts, None).await, with_token(Options::new("secure"), "a"))
            .await;
    let mut unchanged = site.client(with_token(Options::new("b"), "b")).await;
    site.write_devices(&(boss + &others));
    for client in [&mut new, &mut secure] {
        assert_eq!(client.next().await, Reply::Disconnect { reason: 0x98 }, "administrative action");
        assert!(client.ends().await);
    }
    assert!(old.ends().await);
    stream.until("\r\n0\r\n\r\n").await;
    for http in [&mut poll, &mut config] {
        assert_eq!(http.answer().await.status, 401);
    }
    for http in [&mut stream, &mut poll, &mut kept] {
        assert_eq!(http.call("POST /v1/devices/a/events", &bearer("a"), "{}").await.status, 401);
    }
    assert_eq!(site.connack(with_token(Options::new("new"), "a")).await, 0x86);
    // The others go on with what they had.
    unchanged.publish_and_wait("devices/b/x", "{}").await;
    let command = json!({ "id": "c", "name": "open" }).to_string();
    assert_eq!(site.call("POST /v1/devices/b/commands", &bearer("boss"), &command).await.status, 201);
    stream_b.until("event: command").await;
    assert!(site.metric("tidegate_identity_revoked_total") >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_and_a_rotated_device_are_judged_anew() {
    let mut site = Site::required(&device("a", ""));
    let mut first = site.client(with_token(Options::new("1"), "a")).await;
    let rotated = site.devices(&["rotate", "a"]);
    site.reload("the devices file was read again");
    assert_eq!(first.next().await, Reply::Disconnect { reason: 0x98 });
    assert_eq!(site.connack(with_token(Options::new("1"), "a")).await, 0, "both are right until the end of the change");
    assert_eq!(site.connack(with_password(Options::new("1"), "a", &rotated)).await, 0);
    site.devices(&["rotate", "a", "--finish"]);
    site.reload("the devices file was read again");
    assert_eq!(site.connack(with_token(Options::new("1"), "a")).await, 0x86);
    let mut second = site.client(with_password(Options::new("2"), "a", &rotated)).await;
    site.devices(&["disable", "a"]);
    site.reload("the devices file was read again");
    assert_eq!(second.next().await, Reply::Disconnect { reason: 0x98 });
    assert_eq!(site.connack(with_password(Options::new("2"), "a", &rotated)).await, 0x8A);
    site.devices(&["enable", "a"]);
    site.reload("the devices file was read again");
    let mut third = site.client(with_password(Options::new("3"), "a", &rotated)).await;
    site.devices(&["remove", "a"]);
    // Without being asked: within two seconds.
    assert_eq!(third.next().await, Reply::Disconnect { reason: 0x98 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_runs_out_and_a_certificate_that_is_shut_out_end_their_connections() {
    let (mut site, key) = site();
    // A minute is allowed for clocks that differ.
    let soon = chrono::Utc::now().timestamp() - 60 + 6;
    let token = jwt(&key, "signed", soon);
    let mut signed = site.client(with_password(Options::new("signed"), "", &token)).await;
    assert_eq!(publish(&mut signed, "devices/signed/x", "{}").await, 0);
    let files = site.certificate("guest");
    let mut guest =
        crate::support::mqtt::Client::over(site.tls(site.mqtts, Some(&files)).await, Options::new("guest")).await;
    let mut https = Http::over(site.tls(site.https, Some(&files)).await);
    assert_eq!(https.call("POST /v1/devices/guest/events", "", "{}").await.status, 202);
    site.devices(&["add", "guest", "--certificate"]);
    site.devices(&["disable", "guest"]);
    hang_up(&site.process);
    assert_eq!(guest.next().await, Reply::Disconnect { reason: 0x98 });
    assert_eq!(https.call("POST /v1/devices/guest/events", "", "{}").await.status, 403);
    assert_eq!(signed.next().await, Reply::Disconnect { reason: 0x98 }, "once it has run out");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(site.connack(with_password(Options::new("signed"), "", &token)).await, 0x86);
    site.refusals("the old token", |line| line["reason"] == "credential-not-taken");
}
