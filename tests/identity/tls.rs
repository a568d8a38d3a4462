//! TLS: certificates replaced under load, bad files that change nothing, ends that are shown.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use crate::harness::{Http, Site, bearer, connack, device, eventually, text, tidegate, with_token};
use crate::support::mqtt::{Client, Options};

/// Clients that publish all the time.
const CLIENTS: usize = 16;

/// Certificates one after the other.
const RENEWALS: usize = 5;

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn renew(site: &Site) -> CertificateDer<'static> {
    tidegate(&["keys", "server", "--name", "localhost", "--dir", text(&site.path("tls"))]);
    CertificateDer::from_pem_file(site.path("tls/server.pem")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_while_clients_publish_and_none_of_them_notices() {
    let mut site = Site::start("mode = \"required\"\nmax_connections = 100", &device("a", ""), "");
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut all = JoinSet::new();
    for n in 0..CLIENTS / 2 {
        let mut client =
            Client::over(site.tls(site.mqtts, None).await, with_token(Options::new(&n.to_string()), "a")).await;
        let mut https = Http::over(site.tls(site.https, None).await);
        let (stop, sent) = (stop.clone(), sent.clone());
        // A failure is a panic of the task. Both keep their connections to the end.
        all.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                client.publish_and_wait("devices/a/x", "{}").await;
                let answer = https.call("POST /v1/devices/a/events", &bearer("a"), "{}").await;
                assert_eq!(answer.status, 202, "{answer:?}");
                sent.fetch_add(2, Ordering::Relaxed);
            }
        });
    }
    let first = shown(&site.tls(site.mqtts, None).await);
    let mut last = first.clone();
    for _ in 0..RENEWALS {
        let before = sent.load(Ordering::Relaxed);
        let new = renew(&site);
        site.reload("TLS: the certificate was read");
        assert_ne!(new, last);
        for address in [site.mqtts, site.https, site.wss] {
            assert_eq!(shown(&site.tls(address, None).await), new, "new connections get the new one");
        }
        last = new;
        eventually("the clients to go on", async || sent.load(Ordering::Relaxed) > before + 100).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    let stored = site.status()["lanes"][0]["last_seq"].as_u64().unwrap();
    assert_eq!(stored, sent.load(Ordering::Relaxed), "each of them once");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_files_change_nothing_and_are_said() {
    let mut site = Site::required(&device("a", ""));
    let good = fs::read(site.path("tls/server.pem")).unwrap();
    let first = shown(&site.tls(site.mqtts, None).await);
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    for (bad, said) in
        [(b"no certificate".to_vec(), "has no certificate"), (own.cert.pem().into(), "is not the key of")]
    {
        fs::write(site.path("tls/server.pem"), bad).unwrap();
        site.reload("the changed files are not in force");
        let status = site.status();
        assert!(status["tls"]["error"].as_str().unwrap().contains(said), "{status}");
        assert_eq!(site.metric("tidegate_tls_files_bad") as u8, 1);
        assert_eq!(shown(&site.tls(site.mqtts, None).await), first);
    }
    fs::write(site.path("tls/server.pem"), good).unwrap();
    site.reload("TLS: the certificate was read");
    assert!(site.status()["tls"].get("error").is_none());
    assert_eq!(site.metric("tidegate_tls_files_bad") as u8, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_certificates_end_is_shown() {
    let site = Site::required(&device("a", ""));
    let status = site.status();
    let all = status["tls"]["certificates"].as_array().unwrap();
    let of = |name: &str| {
        let file = site.path(name);
        all.iter().find(|c| c["file"] == text(&file)).unwrap_or_else(|| panic!("no {name} in {status}")).clone()
    };
    let server = of("tls/server.pem");
    assert!((823..=825).contains(&server["days_left"].as_i64().unwrap()), "{server}");
    assert!(of("tls/ca.pem")["days_left"].as_i64().unwrap() > 7000);
    let line = format!("tidegate_tls_certificate_expiry_timestamp_seconds{{file={:?}}}", site.path("tls/server.pem"));
    assert_eq!(site.metric(&line) as i64, server["expires_unix_s"].as_i64().unwrap());
    let listed = tidegate(&["keys", "list", "--dir", text(&site.path("tls"))]);
    assert!(listed.contains("CN=localhost") && listed.contains("authority"), "{listed}");
}

/// Another authority: what it did not sign is not let in any more; who is in stays.
#[tokio::test(flavor = "multi_thread")]
async fn authorities_of_devices_are_replaced_too() {
    let mut site = Site::required("[[device]]\nname = \"shown\"\n");
    let mine = site.certificate("shown");
    let mut inside = Client::over(site.tls(site.mqtts, Some(&mine)).await, Options::new("in")).await;
    let other = site.path("other");
    tidegate(&["keys", "server", "--name", "x", "--dir", text(&other)]);
    tidegate(&["keys", "device", "shown", "--dir", text(&other)]);
    let theirs = ["pem", "key"].map(|end| other.join(format!("shown.{end}")));
    // 1.3: the client hears of it with the first answer.
    let refused = async |site: &Site, files: &[std::path::PathBuf; 2]| {
        let Ok(stream) = site.try_tls(site.mqtts, Some(files)).await else { return true };
        let mut client = Client::raw(stream, true);
        client.write(&Options::new("x").bytes()).await;
        client.ends().await
    };
    assert!(refused(&site, &theirs).await);
    // The clients go on trusting the server's authority.
    let trusted = site.path("trusted.pem");
    fs::rename(site.path("tls/ca.pem"), &trusted).unwrap();
    site.trusted = Some(trusted);
    fs::copy(other.join("ca.pem"), site.path("tls/ca.pem")).unwrap();
    site.reload("TLS: the certificate was read");
    assert!(refused(&site, &mine).await);
    assert_eq!(connack(site.tls(site.mqtts, Some(&theirs)).await, Options::new("new")).await, 0);
    inside.publish_and_wait("devices/shown/x", "{}").await;
}
