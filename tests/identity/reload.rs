//! The devices file changes under load: nobody but the changed device notices, and a bad file changes nothing.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::task::JoinSet;

use crate::harness::{Site, bearer, device, eventually, with_token};
use crate::support::mqtt::{Options, Reply};

const DEVICES: usize = 40;
const CHANGES: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_do_not_change_never_notice_that_others_do() {
    let names: Vec<String> = (0..DEVICES).map(|n| format!("d{n}")).collect();
    let devices = names.iter().map(|name| device(name, "")).collect::<String>() + &device("flip", "");
    let mut site = Site::required(&devices);
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut all = JoinSet::new();
    for name in names {
        let mut client = site.client(with_token(Options::new(&name), &name)).await;
        let mut http = site.connect().await;
        let mqtt = site.mqtt;
        let (stop, sent) = (stop.clone(), sent.clone());
        // Some come anew each time, and must never be told that they are unknown, whatever is being read just now.
        let comes_anew = all.len() % 4 == 0;
        all.spawn(async move {
            let topic = format!("devices/{name}/x");
            while !stop.load(Ordering::Relaxed) {
                client.publish_and_wait(&topic, "{}").await;
                let head = format!("POST /v1/devices/{name}/events");
                assert_eq!(http.call(&head, &bearer(&name), "{}").await.status, 202);
                sent.fetch_add(2, Ordering::Relaxed);
                if comes_anew {
                    client.disconnect().await;
                    let options = with_token(Options::new(&name), &name);
                    client = crate::support::mqtt::Client::connect(mqtt, options).await;
                }
            }
        });
    }
    for _ in 0..CHANGES {
        let before = sent.load(Ordering::Relaxed);
        let mut flip = site.client(with_token(Options::new("flip"), "flip")).await;
        site.devices(&["disable", "flip"]);
        site.reload("the devices file was read again");
        assert_eq!(flip.next().await, Reply::Disconnect { reason: 0x98 });
        site.devices(&["enable", "flip"]);
        site.reload("the devices file was read again");
        eventually("the others to go on", async || sent.load(Ordering::Relaxed) > before + 100).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    let stored = site.status()["lanes"][0]["last_seq"].as_u64().unwrap();
    assert_eq!(stored, sent.load(Ordering::Relaxed), "each of them once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing_and_is_said() {
    let mut site = Site::required(&device("a", ""));
    let mut client = site.client(with_token(Options::new("c"), "a")).await;
    fs::write(site.path("devices.toml"), "[[device]]\nnam = \"s3cret\"\n").unwrap();
    site.reload("the devices stay as they were");
    client.ping().await;
    let status = site.status();
    let error = status["identity"]["devices_file_error"].as_str().unwrap();
    assert!(error.contains("devices.toml:2: unknown key") && !error.contains("s3cret"), "{status}");
    assert_eq!(status["identity"]["devices"], 1);
    assert_eq!(site.metric("tidegate_identity_file_bad{file=\"devices\"}") as u8, 1);
    fs::remove_file(site.path("devices.toml")).unwrap();
    site.reload("the devices stay as they were");
    assert_eq!(site.connack(with_token(Options::new("d"), "a")).await, 0);
    site.write_devices(&device("a", ""));
    client.ping().await;
    assert!(site.status()["identity"].get("devices_file_error").is_none());
    assert_eq!(site.metric("tidegate_identity_file_bad{file=\"devices\"}") as u8, 0);
}
