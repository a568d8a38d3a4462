//! TLS with a private authority, and tokens: each missing piece is named, and mended without a restart.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;
use std::time::Duration;

use support::broker::{Broker, Options};
use support::certificates::certificates;
use support::edge::{Edge, config};
use support::eventually;
use support::python::python;

const WITHIN: Duration = Duration::from_secs(30);
/// For this test only.
const SIGNING_KEY: &str = "bm90IGEgc2VjcmV0LCBidXQgbG9uZyBlbm91Z2ggZm9yIEhTMjU2IHRvIHRha2U=";

/// A JSON web token for `role`, made with Python's standard library; it expires after so many seconds.
fn token(role: &str, seconds: u32) -> String {
    let script = "import sys,hmac,hashlib,base64,json,time\n\
        b=lambda d: base64.urlsafe_b64encode(d).rstrip(b'=').decode()\n\
        h=b(b'{\"alg\":\"HS256\"}')+'.'+b(json.dumps({'sub':sys.argv[1],'exp':int(time.time())+int(sys.argv[2])}).encode())\n\
        print(h+'.'+b(hmac.new(base64.b64decode(sys.argv[3]),h.encode(),hashlib.sha256).digest()))";
    let out = Command::new(python()).args(["-c", script, role, &seconds.to_string(), SIGNING_KEY]).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

async fn says(edge: &Edge, words: &str) {
    let told = |e: &Option<String>| e.as_deref().is_some_and(|e| e.contains(words));
    eventually(words, WITHIN, || edge.link().last_error, told).await;
    assert_eq!(edge.confirmed(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_tokens_are_named_when_wrong_and_work_once_right() {
    let dir = tempfile::tempdir().unwrap();
    let tls = certificates(dir.path(), &["localhost", "127.0.0.1"]);
    let admin = token("admin", 3600);
    let conf = [
        "authenticationEnabled=true".to_owned(),
        "authorizationEnabled=true".to_owned(),
        "authenticationProviders=org.apache.pulsar.broker.authentication.AuthenticationProviderToken".to_owned(),
        format!("tokenSecretKey=data:;base64,{SIGNING_KEY}"),
        "superUserRoles=admin".to_owned(),
        "authenticationRefreshCheckSeconds=1".to_owned(),
        "brokerClientAuthenticationPlugin=org.apache.pulsar.client.impl.auth.AuthenticationToken".to_owned(),
        format!("brokerClientAuthenticationParameters=token:{admin}"),
    ];
    let options =
        Options { conf: conf.to_vec(), tls: Some(tls.clone()), admin_token: Some(admin), ..Options::default() };
    let broker = Broker::start_with(options);
    broker.create_namespace("secure/telemetry");
    broker.create_partitioned_topic("secure/telemetry/telemetry", 2);

    let (ca_file, token_file) = (dir.path().join("edge-ca.pem"), dir.path().join("edge.token"));
    let mut config = config(&broker.tls_url(), "secure");
    (config.uplink.ca_file, config.uplink.token_file) = (Some(ca_file.clone()), Some(token_file.clone()));
    let mut edge = Edge::start(config);
    edge.append(100, 5, 100).await;
    says(&edge, "edge-ca.pem").await;
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(&certificates(other.path(), &["localhost"])[2], &ca_file).unwrap();
    says(&edge, "its authority is not trusted: give its certificate in uplink.ca_file").await;
    std::fs::copy(&tls[2], &ca_file).unwrap();
    says(&edge, "check uplink.token_file").await;
    std::fs::write(&token_file, "not.a.token").unwrap();
    says(&edge, "check uplink.token or uplink.token_file").await;
    std::fs::write(&token_file, token("gateway", 3600)).unwrap();
    says(&edge, "grant it (docs/security.md)").await;
    std::fs::write(&token_file, token("gateway", 5)).unwrap();
    broker.admin("POST", "namespaces/secure/telemetry/permissions/gateway", r#"["produce"]"#);
    eventually("all confirmed", WITHIN, || (edge.confirmed(), edge.link()), |s| s.0 == 100).await;

    // The token on the connection expires; the broker asks for it again and gets what the file holds by then.
    std::fs::write(&token_file, token("gateway", 3600)).unwrap();
    let connects = edge.counter("connects");
    tokio::time::sleep(Duration::from_secs(8)).await;
    edge.append(100, 5, 100).await;
    eventually("all confirmed", WITHIN, || (edge.confirmed(), edge.link()), |s| s.0 == 200).await;
    assert!(edge.counter("connects") <= connects + 1, "the connection should have survived the token");
    edge.disconnect().await;
}
