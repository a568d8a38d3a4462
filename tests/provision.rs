//! `tidegate provision` against a real broker.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use support::broker::{Broker, Options};
use support::certificates::certificates;
use support::provision::{api, config_for, everything, failure, provision};
use support::pulsar_client::{client, receive, send};
use tidegate::cli::provision::{ProvisionArgs, run};
use tidegate::config::cloud::{Cluster, Lane};
use tidegate::pulsar::admin::{Change, Verb};

fn lane(name: &str, partitions: u32) -> Lane {
    Lane { name: name.into(), partitions }
}

#[test]
fn a_second_run_finds_nothing_to_do() {
    let broker = Broker::shared();
    let mut config = config_for(&broker, "twice");
    config.lanes = vec![lane("alarms", 1), lane("telemetry", 3)];
    let first = provision(&config, false).unwrap();
    assert!(first.contains("done: 14 steps"), "{first}");

    let api = api(&broker);
    let before = everything(&api);
    assert_eq!(before["topics"]["persistent://twice/telemetry/telemetry-partition-2"], json!(["tidegate-cloud"]));
    assert_eq!(before["topics"]["persistent://twice/telemetry/alarms-dead"], json!(["tidegate-cloud"]));
    assert_eq!(before["namespaces"]["twice/telemetry"]["retention_policies"]["retentionTimeInMinutes"], 7 * 1440);
    for namespace in ["telemetry", "control", "reports", "rollouts", "models"] {
        assert_eq!(api.namespace_deduplication("twice", namespace).unwrap(), Some(true), "{namespace}");
    }
    // The log is kept for ever, reports are not; topics that appear by themselves have no partitions.
    let policies = |namespace: &str| before["namespaces"][format!("twice/{namespace}")].clone();
    let kept =
        |minutes: i64, megabytes: i64| json!({ "retentionTimeInMinutes": minutes, "retentionSizeInMB": megabytes });
    assert_eq!(policies("rollouts")["retention_policies"], kept(-1, -1));
    assert_eq!(policies("reports")["retention_policies"], kept(3 * 1440, 2048));
    assert_eq!(policies("control")["retention_policies"], kept(-1, 1024));
    assert_eq!(policies("control")["bundles"]["numBundles"], 64);
    assert_eq!(policies("rollouts")["autoTopicCreationOverride"]["topicType"], "non-partitioned");

    let second = provision(&config, false).unwrap();
    assert!(second.contains("nothing to do"), "{second}");
    for namespace in ["twice/telemetry", "twice/control", "twice/reports", "twice/rollouts", "twice/models"] {
        assert_eq!(everything(&api)["namespaces"][namespace], before["namespaces"][namespace]);
    }
}

#[test]
fn a_dry_run_prints_the_plan_and_changes_nothing() {
    let broker = Broker::start_with(Options { name: Some("dry"), ..Options::default() }); // of its own: other tests would change what is compared
    let config = config_for(&broker, "dry");
    let api = api(&broker);
    let empty = everything(&api);
    let plan = provision(&config, true).unwrap();
    assert_eq!(everything(&api), empty);
    assert!(plan.contains("1. dry: create tenant dry, allowed in dry\n"), "{plan}");
    assert!(plan.contains("create topic telemetry with 4 partitions"), "{plan}");
    assert!(plan.contains("10 steps to do; --dry-run: nothing was changed"), "{plan}");

    let done = provision(&config, false).unwrap();
    assert!(done.contains("done: 10 steps"), "{done}");
    let full = everything(&api);
    assert_ne!(full, empty);
    let mut wider = config.clone();
    wider.lanes[0].partitions = 6;
    assert!(provision(&wider, true).unwrap().contains("grow topic telemetry from 4 to 6 partitions"));
    assert_eq!(everything(&api), full);
}

#[test]
fn partitions_grow_with_their_subscription_and_never_shrink() {
    let broker = Broker::shared();
    let api = api(&broker);
    let mut config = config_for(&broker, "grow");
    config.lanes = vec![lane("telemetry", 2)];
    provision(&config, false).unwrap();
    config.lanes = vec![lane("telemetry", 5)];
    let careful = ProvisionArgs { config: None, dry_run: false, grow_partitions: false, wait: 0 };
    let refused = run(&careful, &config, &mut Vec::new()).unwrap_err();
    assert!(refused.to_string().contains("--grow-partitions"), "{refused}");
    assert_eq!(refused.exit_code(), 64);
    let grown = provision(&config, false).unwrap();
    assert!(grown.contains("grow topic telemetry from 2 to 5 partitions"), "{grown}");
    for i in 0..5 {
        let path = format!("persistent/grow/telemetry/telemetry-partition-{i}/subscriptions");
        assert_eq!(api.get::<Value>(&path).unwrap(), Some(json!(["tidegate-cloud"])), "{i}");
    }

    config.lanes = vec![lane("telemetry", 3), lane("new", 1)];
    let before = everything(&api)["topics"].clone();
    let (error, code) = failure(&config);
    assert!(error.contains("lane \"telemetry\" has 5 partitions at shared and 3 in the configuration"), "{error}");
    assert!(error.contains("Set partitions = 5"), "{error}");
    assert_eq!(code, 64);
    assert_eq!(only("grow", &everything(&api)["topics"]), only("grow", &before), "nothing may change before an error");
}

/// The entries of one tenant: other tests work beside this one.
fn only(tenant: &str, topics: &Value) -> Vec<String> {
    let prefix = format!("persistent://{tenant}/");
    topics.as_object().unwrap().keys().filter(|k| k.starts_with(&prefix)).cloned().collect()
}

#[test]
fn weaker_settings_are_raised_and_stronger_ones_left_alone() {
    let broker = Broker::shared();
    let api = api(&broker);
    let put = |path: &str, body: Value| {
        api.change(&Change { verb: Verb::Put, path: path.into(), body: Some(body) }).unwrap();
    };
    put("tenants/mixed", json!({ "adminRoles": ["ops"], "allowedClusters": ["shared"] }));
    let policies = json!({
        "deduplicationEnabled": false,
        "message_ttl_in_seconds": 60,
        "retention_policies": { "retentionTimeInMinutes": -1, "retentionSizeInMB": 1 },
        "inactive_topic_policies": {
            "inactiveTopicDeleteMode": "delete_when_subscriptions_caught_up", "maxInactiveDurationSeconds": 7, "deleteWhileInactive": true },
    });
    put("namespaces/mixed/telemetry", policies);
    put("persistent/mixed/telemetry/telemetry/partitions", json!(4));
    put("persistent/mixed/telemetry/telemetry-partition-2/subscription/tidegate-cloud", json!("latest"));

    let text = provision(&config_for(&broker, "mixed"), false).unwrap();
    assert!(text.contains("turn deduplication on in mixed/telemetry"), "{text}");
    assert!(
        text.contains("raise retention of mixed/telemetry from for ever up to 1 MiB to for ever up to 10 GiB"),
        "{text}"
    );
    assert!(text.contains("note: shared: mixed/telemetry keeps for ever up to 10 GiB"), "{text}");
    assert!(
        text.contains("warning: shared: mixed/telemetry drops events that nobody has consumed after 60 s"),
        "{text}"
    );
    assert!(text.contains("create subscription tidegate-cloud on telemetry-partition-3,"), "{text}");
    assert!(!text.contains("on telemetry-partition-2,"), "{text}");

    let now = everything(&api);
    assert_eq!(now["tenants"]["mixed"]["adminRoles"], json!(["ops"]));
    let namespace = &now["namespaces"]["mixed/telemetry"];
    let inactive = &namespace["inactive_topic_policies"];
    assert_eq!(inactive["deleteWhileInactive"], false);
    assert_eq!(inactive["maxInactiveDurationSeconds"], 7);
    assert_eq!(namespace["message_ttl_in_seconds"], 60);
    assert!(provision(&config_for(&broker, "mixed"), false).unwrap().contains("nothing to do"));
}

#[test]
fn the_subscription_holds_what_came_before_any_consumer_and_before_itself() {
    let broker = Broker::shared();
    let mut config = config_for(&broker, "holds");
    config.lanes = vec![lane("telemetry", 3)];
    provision(&config, false).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = client(&broker.service_url()).await;
        let topic = "persistent://holds/telemetry/telemetry";
        let events: Vec<_> = (0..30).map(|i| (format!("device-{}", i % 7), format!("event {i}"))).collect();
        send(&client, topic, "early", &events).await;

        let mut got = receive(&client, topic, "tidegate-cloud", 30, Duration::from_millis(500)).await;
        let mut wanted = events.clone();
        got.sort();
        wanted.sort();
        assert_eq!(got, wanted);

        // All of it is consumed now. A subscription that is made later still begins at the first event: retention kept it.
        config.pulsar.subscription = "second".into();
        let config = config.clone();
        tokio::task::spawn_blocking(move || provision(&config, false).unwrap()).await.unwrap();
        let mut got = receive(&client, topic, "second", 30, Duration::from_millis(500)).await;
        got.sort();
        assert_eq!(got, wanted);
    });
}

#[test]
fn a_topic_that_appeared_by_itself_is_reported_and_left_alone() {
    let broker = Broker::shared();
    let api = api(&broker);
    let mut config = config_for(&broker, "stray");
    config.lanes = vec![lane("other", 1)];
    provision(&config, false).unwrap();
    api.change(&Change { verb: Verb::Put, path: "persistent/stray/telemetry/telemetry".into(), body: None }).unwrap();
    config.lanes = vec![lane("telemetry", 4)];
    let (error, code) = failure(&config);
    assert!(error.contains("the topic stray/telemetry/telemetry at shared exists without partitions"), "{error}");
    assert_eq!(code, 64);
}

#[test]
fn a_wrong_address_is_named_with_the_way_out() {
    let broker = Broker::shared();
    let mut config = config_for(&broker, "nobody");
    let mut expect = |admin: String, parts: &[&str], code: u8| {
        config.pulsar.admin = admin;
        let (error, got) = failure(&config);
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
        assert_eq!(got, code, "{error}");
    };
    expect("http://127.0.0.1:1".into(), &["http://127.0.0.1:1/admin/v2/", "connection refused", "8080"], 75);
    expect(broker.admin_url().replace("http:", "https:"), &["write http:// in `admin`"], 64);
    expect(broker.service_url().replace("pulsar:", "http:"), &["service port (6650)"], 75);
    expect(broker.service_url(), &["this is a service URL"], 64);
    expect(format!("{}/wrong", broker.admin_url()), &["HTTP 404", "not Pulsar's admin interface"], 64);
    expect("127.0.0.1:8080".into(), &["http://"], 64);

    let mut config = config_for(&broker, "nobody");
    config.pulsar.clusters = vec!["standalone".into()];
    let (error, code) = failure(&config);
    assert!(error.contains("is the cluster shared, not \"standalone\""), "{error}");
    assert_eq!(code, 64);
}

#[test]
fn nothing_is_changed_when_one_of_the_clusters_cannot_be_reached() {
    let broker = Broker::shared();
    let mut config = config_for(&broker, "half");
    let at =
        |name: &str, admin: &str| Cluster { name: name.into(), service: broker.service_url(), admin: admin.into() };
    config.clusters = vec![at("shared", &broker.admin_url()), at("away", "http://127.0.0.1:1")];
    config.pulsar.clusters = vec!["shared".into(), "away".into()];
    let (error, code) = failure(&config);
    assert!(error.starts_with("cluster away: http://127.0.0.1:1/"), "{error}");
    assert_eq!(code, 75);
    let api = api(&broker);
    assert_eq!(api.get::<Value>("tenants/half").unwrap(), None);
    assert_eq!(api.get::<Value>("clusters/away").unwrap(), None);
}

#[test]
fn a_cluster_that_is_still_starting_is_waited_for() {
    let mut config = tidegate::config::CloudConfig::default();
    let mut out = Vec::new();
    config.pulsar.admin = "http://127.0.0.1:1".into();
    let args = ProvisionArgs { config: None, dry_run: true, grow_partitions: false, wait: 2 };
    let begun = std::time::Instant::now();
    let error = run(&args, &config, &mut out).unwrap_err();
    assert!(begun.elapsed() >= Duration::from_secs(2), "gave up early");
    assert_eq!(error.exit_code(), 75);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.matches("waiting for standalone: http://127.0.0.1:1/").count(), 1, "said once: {text}");
}

/// HS256 over `{"sub":"admin"}` and `{"sub":"nobody"}` with the key below.
const ADMIN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZG1pbiJ9.sGPzqX0VjU4tKQWYibg6dpekwIJzb9ECLG2qoFqHcP8";
const NOBODY: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJub2JvZHkifQ.OE-0HZjNYALXnnaiMaRzB0nsHPZ2cTfh3_V-FpGG0uo";
const KEY: &str = "data:;base64,YSBrZXkgZm9yIHRlc3RzIG9ubHksIDMyIGJ5dGVzISE=";

/// A broker with TLS, tokens, and Pulsar's own defaults for what it remembers of producers.
fn guarded(dir: &Path) -> Broker {
    let conf = [
        "authenticationEnabled=true",
        "authorizationEnabled=true",
        "authenticationProviders=org.apache.pulsar.broker.authentication.AuthenticationProviderToken",
        &format!("tokenSecretKey={KEY}"),
        "superUserRoles=admin",
        "brokerClientAuthenticationPlugin=org.apache.pulsar.client.impl.auth.AuthenticationToken",
        &format!("brokerClientAuthenticationParameters=token:{ADMIN}"),
        "brokerDeduplicationProducerInactivityTimeoutMinutes=360",
        "brokerDeduplicationMaxNumberOfProducers=10000",
    ];
    Broker::start_with(Options {
        name: Some("guarded"),
        conf: conf.map(str::to_owned).to_vec(),
        tls: Some(certificates(dir, &["127.0.0.1"])),
        admin_token: Some(ADMIN.to_owned()),
        ..Options::default()
    })
}

#[test]
fn a_guarded_cluster_wants_its_authority_and_a_superusers_token() {
    let dir = tempfile::tempdir().unwrap();
    let broker = guarded(dir.path());
    let mut config = config_for(&broker, "guarded");
    config.pulsar.admin = broker.admin_tls_url();
    let expect = |config: &tidegate::config::CloudConfig, parts: &[&str]| {
        let (error, code) = failure(config);
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
        assert_eq!(code, 64, "{error}");
    };
    expect(&config, &["UnknownIssuer", "set ca_file"]);
    config.pulsar.ca_file = Some(dir.path().join("ca.pem"));
    config.pulsar.admin = broker.admin_tls_url().replace("127.0.0.1", "localhost");
    expect(&config, &["localhost", "write a name in `admin` that the certificate carries"]);
    config.pulsar.admin = broker.admin_tls_url();
    expect(&config, &["HTTP 401", "set token_file to a superuser's"]);
    let secret = tidegate::config::edge::Secret::new;
    config.pulsar.token = Some(secret(format!("{NOBODY}x")));
    expect(&config, &["HTTP 401", "the token is wrong, expired"]);
    config.pulsar.token = Some(secret(NOBODY.to_owned()));
    expect(&config, &["Unauthorized", "[nobody]", "superUserRoles"]);

    let token_file = dir.path().join("admin.token");
    std::fs::write(&token_file, ADMIN).unwrap();
    config.pulsar.token_file = Some(token_file); // wins over the token
    let text = provision(&config, false).unwrap();
    assert!(text.contains("warning: guarded: the broker forgets a gateway that is away for 360 minutes"), "{text}");
    assert!(text.contains("warning: guarded: the broker remembers 10000 producers per topic"), "{text}");
    assert!(provision(&config, false).unwrap().contains("nothing to do"));

    // The plain port of the same broker, with https only in the habit of the fingers; and TLS where plain was written.
    config.pulsar.admin = broker.admin_tls_url().replace("https:", "http:");
    let (error, code) = failure(&config);
    assert!(error.contains("if this port speaks TLS, write https://"), "{error}");
    assert_eq!(code, 75);
}

/// The admin interface of `to`, which refuses the first `n` tenants as a broker does that has just started.
fn just_starting(to: &str, n: usize) -> String {
    let to = to.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut left = n;
    let serve = move || {
        for mut client in listener.incoming().flatten() {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            client.read_exact(&mut body).unwrap();
            if head.starts_with("PUT /admin/v2/tenants/") && left > 0 {
                left -= 1;
                let reason = r#"{"reason":"Clusters do not exist"}"#;
                let length = reason.len();
                let head = "HTTP/1.1 412 Precondition Failed\r\ncontent-type: application/json\r\nconnection: close";
                write!(client, "{head}\r\ncontent-length: {length}\r\n\r\n{reason}").unwrap();
                continue;
            }
            let mut server = TcpStream::connect(&to).unwrap();
            let head = head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
            server.write_all(head.as_bytes()).and_then(|()| server.write_all(&body)).unwrap();
            let _ = std::io::copy(&mut server, &mut client);
        }
    };
    drop(tidegate::sys::tasks::thread("just starting", serve).unwrap());
    url
}

#[test]
fn a_cluster_that_has_just_started_is_waited_for() {
    let broker = Broker::shared();
    let mut config = config_for(&broker, "starting");
    config.pulsar.admin = just_starting(&broker.admin_url(), 1);
    let (error, code) = failure(&config);
    assert!(code == 64 && error.contains("Clusters do not exist"), "{code} {error}");
    config.pulsar.admin = just_starting(&broker.admin_url(), 2);
    let args = ProvisionArgs { config: None, dry_run: false, grow_partitions: false, wait: 60 };
    let mut out = Vec::new();
    run(&args, &config, &mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("\nwaiting for ") && out.contains("done: "), "{out}");
}
