//! The control link against a real broker: the newest inbox message wins, commands come until they are taken, reports
//! are stored; whatever happens to broker, topic or connection.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use support::broker::{Broker, Options};
use support::certificates::certificates;
use support::control::{Node, settings};
use support::pulsar_client::{Client, client, send};
use support::{eventually, topic};
use tidegate::downlink::link::{COMMANDS_MAX, Heard, Settings};
use tidegate::pulsar::credentials::Credentials;
use tidegate::pulsar::wire::Connector;

/// As `tidegate provision` makes it: topics come with whoever asks for them.
fn create_namespace(broker: &Broker, tenant: &str) {
    // A broker that is asked by two at once fails one of them.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let topics = r#"{"allowAutoTopicCreation":true,"topicType":"non-partitioned"}"#;
    for namespace in ["control", "reports"] {
        broker.create_namespace(&format!("{tenant}/{namespace}"));
        broker.admin("POST", &format!("namespaces/{tenant}/{namespace}/autoTopicCreation"), topics);
    }
}

async fn shared() -> (Arc<Broker>, Client) {
    let broker = tokio::task::spawn_blocking(Broker::shared).await.unwrap();
    create_namespace(&broker, "link");
    let client = client(&broker.service_url()).await;
    (broker, client)
}

fn inbox(node: &str) -> String {
    format!("persistent://link/control/inbox-{node}")
}

fn commands(node: &str) -> String {
    format!("persistent://link/control/commands-{node}")
}

const REPORTS: &str = "persistent://link/reports/nodes";

fn numbered(range: std::ops::Range<usize>) -> Vec<(String, String)> {
    range.map(|n| ("key".to_owned(), n.to_string())).collect()
}

async fn write(client: &Client, topic: &str, range: std::ops::Range<usize>) {
    // Deduplication is on in this namespace: each producer counts from 0 again, and needs a name of its own.
    let name = format!("cloud-{}", uuid::Uuid::new_v4());
    send(client, topic, &name, &numbered(range)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_message_comes_at_once_then_every_newer_and_nothing_older() {
    let (broker, client) = shared().await;
    write(&client, &inbox("newest"), 0..1001).await;
    let mut node = Node::connected("newest", &broker.service_url(), "link", 1).await;
    assert_eq!(node.inbox().await, "1000");
    node.quiet().await;
    for n in 1001..1005 {
        write(&client, &inbox("newest"), n..n + 1).await;
        assert_eq!(node.inbox().await, n.to_string());
    }
    // Offline: no Pulsar at all, then back.
    node.link.set(None, 2);
    assert!(matches!(node.next().await, Heard::Disconnected { generation: 2, .. }));
    write(&client, &inbox("newest"), 2000..2010).await;
    node.link.set(Some(settings(&broker.service_url(), "link", "newest")), 3);
    node.until_connected(3).await;
    assert!(matches!(node.next().await, Heard::Inbox { generation: 3, bytes, .. } if bytes == "2009"));
    node.quiet().await;
    // A broker's restart and an unload end the topic's open ledger: the last message is in one before it.
    broker.unload("link/control/inbox-newest");
    assert_eq!(node.inbox().await, "2009");
    // The same settings again: the connection stays.
    node.link.set(Some(settings(&broker.service_url(), "link", "newest")), 4);
    node.until_connected(4).await;
    node.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_need_not_exist_and_may_be_unloaded() {
    let (broker, client) = shared().await;
    let mut node = Node::connected("fresh", &broker.service_url(), "link", 1).await;
    node.quiet().await;
    write(&client, &inbox("fresh"), 7..8).await;
    assert_eq!(node.inbox().await, "7");
    for round in 0..3 {
        for topic in ["control/inbox-fresh", "control/commands-fresh", "reports/nodes"] {
            broker.unload(&format!("link/{topic}"));
        }
        let n = 10 + round;
        write(&client, &inbox("fresh"), n..n + 1).await;
        write(&client, &commands("fresh"), n..n + 1).await;
        node.report(n as u64).await;
        let (mut newest, mut command) = (false, false);
        while !(newest && command) {
            match node.next().await {
                Heard::Inbox { bytes, .. } => newest |= bytes == n.to_string(),
                Heard::Command { bytes, taken } => {
                    // The broker may forget an acknowledgement when the topic moves (4.0.7, seen once, on a busy machine): what was
                    // taken comes again then, and is known by its id (`downlink::commands`). Nothing may be left out.
                    let number: usize = String::from_utf8(bytes.to_vec()).unwrap().parse().unwrap();
                    assert!(number == n || (round > 0 && number + 1 == n), "{number} in round {round}");
                    taken.done();
                    command |= number == n;
                }
                _ => {}
            }
        }
        let backlog = || figures(&broker, "commands-fresh")["subscriptions"]["tidegate"]["msgBacklog"].as_u64();
        eventually("the acknowledgement arrives", Duration::from_secs(30), backlog, |b| *b == Some(0)).await;
    }
}

fn figures(broker: &Broker, topic: &str) -> serde_json::Value {
    let path = format!("persistent/link/control/{topic}/stats?getPreciseBacklog=true");
    serde_json::from_str(&broker.admin("GET", &path, "")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_delivered_until_they_are_taken_and_not_after() {
    let (broker, client) = shared().await;
    let url = broker.service_url();
    write(&client, &commands("taker"), 0..40).await;
    let mut node = Node::connected("taker", &url, "link", 1).await;
    let mut held = Vec::new();
    for n in 0..COMMANDS_MAX {
        let (text, taken) = node.command().await;
        assert_eq!(text, n.to_string());
        held.push(taken);
    }
    node.quiet().await;
    // One that is not taken comes again, the others in hand do not.
    drop(held.remove(3));
    let (text, again) = node.command().await;
    assert_eq!(text, "3");
    again.done();
    held.remove(0).done();
    for n in [16, 17] {
        let (text, taken) = node.command().await;
        assert_eq!(text, n.to_string());
        held.push(taken);
    }
    // A reconnect brings back what is in hand; it is not handed over twice, and may be taken through the new connection.
    broker.unload("link/control/commands-taker");
    node.quiet().await;
    held.into_iter().for_each(|taken| taken.done());
    for n in 18..40 {
        let (text, taken) = node.command().await;
        assert_eq!(text, n.to_string());
        taken.done();
    }
    let backlog = || figures(&broker, "commands-taker")["subscriptions"]["tidegate"]["msgBacklog"].as_u64();
    eventually("all are acknowledged", Duration::from_secs(30), backlog, |b| *b == Some(0)).await;
    drop(node);
    write(&client, &commands("taker"), 40..41).await;
    let mut node = Node::connected("taker", &url, "link", 1).await;
    assert_eq!(node.command().await.0, "40");
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_stored_once_confirmed_with_the_node_as_key() {
    let (broker, _) = shared().await;
    create_namespace(&broker, "reporting");
    let node = Node::start("reporter");
    assert_eq!(
        node.link.report(&support::control::report("reporter", 0)).await.unwrap_err().to_string(),
        "no uplink is configured (uplink.pulsar)"
    );
    drop(node);
    // The second life begins with the broker's last sequence: deduplication would drop what counts from 1 again.
    for life in 0..2 {
        let node = Node::connected("reporter", &broker.service_url(), "reporting", 1).await;
        let sent = join_all((0..10).map(|n| node.report(life * 10 + n))).await;
        assert_eq!(sent, [0; 10]);
        node.link.set(None, 2);
    }
    let url = broker.service_url();
    let read = tokio::task::spawn_blocking(move || topic::read(&url, "persistent://reporting/reports/nodes", 20));
    for (n, message) in read.await.unwrap().into_iter().enumerate() {
        assert_eq!((message.key.as_str(), message.producer.as_str()), ("reporter", "reporter.00ff.reports"));
        let report: serde_json::Value = serde_json::from_str(&message.data).unwrap();
        assert_eq!(report["committed"]["number"], n, "{}", message.data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_tools_send_is_read_or_refused_in_words() {
    let (broker, client) = shared().await;
    let url = broker.service_url();
    let mut node = Node::connected("tools", &url, "link", 1).await;
    let by_tool = |options: &'static str, messages: Vec<String>| {
        let url = url.clone();
        tokio::task::spawn_blocking(move || {
            topic::send(&url, &inbox("tools"), options, &messages.iter().map(String::as_str).collect::<Vec<_>>());
        })
    };
    for options in ["lz4", "zlib", "zstd", "lz4,batch", "zstd,batch", "batch"] {
        let text = format!("{options} {}", "x".repeat(3000));
        by_tool(options, vec!["older".to_owned(), text.clone()]).await.unwrap();
        node.inbox_until(&text).await;
    }
    let large = "x".repeat(2 << 20);
    for (options, text, reason) in [
        ("snappy", "y".repeat(3000), "not-as-sent-by-tidegate"),
        ("none", large.clone(), "too-large"),
        ("zstd", large.clone(), "too-large"),
        ("chunk", "z".repeat(6 << 20), "too-large"),
    ] {
        by_tool(options, vec![text]).await.unwrap();
        let heard = node.next().await;
        assert!(matches!(&heard, Heard::Unfit { reason: r, .. } if *r == reason), "{options}: {heard:?}");
        // A chunked message comes in several.
        while tokio::time::timeout(Duration::from_millis(300), node.heard.recv()).await.is_ok() {}
    }
    // It stays usable; also a connection that finds such a message as the last one.
    node.link.set(None, 2);
    while !matches!(node.next().await, Heard::Disconnected { generation: 2, .. }) {}
    node.link.set(Some(settings(&url, "link", "tools")), 3);
    node.until_connected(3).await;
    assert!(matches!(node.next().await, Heard::Unfit { generation: 3, .. }));
    by_tool("none", vec!["after".to_owned()]).await.unwrap();
    assert_eq!(node.inbox().await, "after");
    // A command that can never be taken does not stand in the way of the next.
    let payload = [("key".to_owned(), large), ("key".to_owned(), "small".to_owned())];
    send(&client, &commands("tools"), "cloud-tools", &payload).await;
    assert_eq!(node.command().await.0, "small");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_gateway_of_the_same_name_is_refused_and_both_say_so() {
    let (broker, client) = shared().await;
    let url = broker.service_url();
    let mut first = Node::connected("copied", &url, "link", 1).await;
    let mut second = Node::start("copied");
    second.link.set(Some(settings(&url, "link", "copied")), 1);
    let Heard::Disconnected { why, .. } = second.next().await else { panic!("it connected") };
    assert!(why.contains("copied disk"), "{why}");
    // The configuration still reaches it.
    write(&client, &inbox("copied"), 1..2).await;
    assert_eq!(first.inbox().await, "1");
    assert_eq!(second.inbox().await, "1");
    drop(first);
    second.until_connected(1).await;
}

/// One broker of its own behind a proxy: cut, silent, killed; and the shared one to change over to.
#[tokio::test(flavor = "multi_thread")]
async fn cuts_silence_kill_nine_and_a_change_of_brokers_are_survived() {
    let (other, other_client) = shared().await;
    let options = || Options { proxied: true, ..Options::default() };
    let broker = tokio::task::spawn_blocking(move || Broker::start_with(options())).await.unwrap();
    create_namespace(&broker, "link");
    let url = broker.service_url();
    let client = client(&url).await;
    let mut node = Node::connected("rough", &url, "link", 1).await;
    for n in 0..3 {
        broker.proxy().cut();
        write(&client, &inbox("rough"), n..n + 1).await;
        node.inbox_until(&n.to_string()).await;
        node.report(n as u64).await;
    }
    // Half-open: nothing ends, nothing comes. It is found out, and connecting fails until the line is back.
    while node.heard.try_recv().is_ok() {}
    broker.proxy().silence(true);
    assert!(matches!(node.next().await, Heard::Disconnected { why, .. } if why.contains("has said nothing")));
    let refused = node.link.report(&support::control::report("rough", 99)).await.unwrap_err();
    assert!(refused.to_string().starts_with("the control link is down: "), "{refused}");
    broker.proxy().silence(false);
    node.until_connected(1).await;
    assert_eq!(node.inbox().await, "2");
    // kill -9, with a command in hand.
    write(&client, &commands("rough"), 0..2).await;
    let (_, taken) = node.command().await;
    let (_, forgotten) = node.command().await;
    broker.kill9();
    assert!(matches!(node.next().await, Heard::Disconnected { .. }));
    taken.done();
    drop(forgotten);
    broker.restart();
    node.until_connected(1).await;
    assert_eq!(node.inbox().await, "2");
    let (first, taken) = node.command().await;
    assert_eq!(first, "0", "its acknowledgement could not arrive");
    taken.done();
    let (second, taken) = node.command().await;
    assert_eq!(second, "1");
    taken.done();
    // To the other broker and back: each has its own newest message.
    write(&other_client, &inbox("rough"), 77..78).await;
    node.link.set(Some(settings(&other.service_url(), "link", "rough")), 2);
    node.until_connected(2).await;
    assert!(matches!(node.next().await, Heard::Inbox { generation: 2, bytes, .. } if bytes == "77"));
    node.report(5).await;
    node.link.set(Some(settings(&url, "link", "rough")), 3);
    node.until_connected(3).await;
    assert!(matches!(node.next().await, Heard::Inbox { generation: 3, bytes, .. } if bytes == "2"));
    node.report(6).await;
    let metrics = node.metrics.text().unwrap();
    assert!(metrics.contains("tidegate_control_connected 1\n"), "{metrics}");
    assert!(metrics.contains("tidegate_control_errors_total{class=\"timeout\"}"), "{metrics}");
}

/// For this test only.
const SIGNING_KEY: &str = "bm90IGEgc2VjcmV0LCBidXQgbG9uZyBlbm91Z2ggZm9yIEhTMjU2IHRvIHRha2U=";

/// A broker that takes plain connections from anybody, and a token only when it is right.
#[tokio::test(flavor = "multi_thread")]
async fn over_tls_with_a_token_a_broker_that_was_gone_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let tls = certificates(dir.path(), &["localhost"]);
    let (ca_file, token_file) = (tls[2].clone(), dir.path().join("gateway.token"));
    let conf = [
        "authenticationEnabled=true".to_owned(),
        "authenticationProviders=org.apache.pulsar.broker.authentication.AuthenticationProviderToken".to_owned(),
        format!("tokenSecretKey=data:;base64,{SIGNING_KEY}"),
        "anonymousUserRole=anonymous".to_owned(),
    ];
    let options = Options { conf: conf.to_vec(), tls: Some(tls), ..Options::default() };
    let broker = tokio::task::spawn_blocking(move || Broker::start_with(options)).await.unwrap();
    create_namespace(&broker, "link");
    let cloud = client(&broker.service_url()).await;
    write(&cloud, &inbox("secure"), 0..1).await;
    let connector = Connector {
        credentials: Credentials::File(token_file.clone()),
        ca_file: Some(ca_file),
        connect_timeout: Duration::from_secs(10),
    };
    let settings = Settings { connector, ..settings(&broker.tls_url(), "link", "secure") };
    std::fs::write(&token_file, "not.a.token").unwrap();
    let mut node = Node::start("secure");
    node.link.set(Some(settings), 1);
    assert!(matches!(node.next().await, Heard::Disconnected { why, .. } if why.contains("uplink.token_file")));
    let claims = serde_json::json!({ "sub": "gateway", "exp": 4_000_000_000_u64 });
    let key = jsonwebtoken::EncodingKey::from_base64_secret(SIGNING_KEY).unwrap();
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
    std::fs::write(&token_file, token).unwrap();
    node.until_connected(1).await;
    assert_eq!(node.inbox().await, "0");
    node.report(1).await;
    broker.kill9();
    assert!(matches!(node.next().await, Heard::Disconnected { .. }));
    broker.restart();
    node.until_connected(1).await;
    assert_eq!(node.inbox().await, "0");
    node.report(2).await;
    let cloud = client(&broker.service_url()).await;
    write(&cloud, &inbox("secure"), 1..2).await;
    assert_eq!(node.inbox().await, "1");
}

/// Resident memory of this process, in KiB.
fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_links_in_one_process_all_hear_and_report() {
    let links = support::setting("TIDEGATE_LINKS", 50);
    let (broker, client) = shared().await;
    let names: Vec<String> = (0..links).map(|n| format!("many-{n}")).collect();
    for name in &names {
        write(&client, &inbox(name), 0..2).await;
    }
    let before = resident_kib();
    let mut nodes: Vec<Node> = names.iter().map(|n| Node::start(n)).collect();
    for node in &nodes {
        node.link.set(Some(settings(&broker.service_url(), "link", &node.name)), 1);
    }
    for node in &mut nodes {
        assert_eq!(node.inbox().await, "1");
    }
    join_all(nodes.iter().map(|node| node.report(1))).await;
    println!("{} KiB resident for each of {links} links", (resident_kib() - before) / links as i64);
    broker.unload(REPORTS.trim_start_matches("persistent://"));
    join_all(nodes.iter().map(|node| node.report(2))).await;
}
