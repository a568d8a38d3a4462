//! A cloud that dies while it publishes leaves nothing that could be fetched, and the next one goes on where it stopped.

use std::time::Instant;

use crate::site::{PATIENCE, Site, post, signed, weights};
use crate::support::setting;

/// How often it is killed; the longer campaign has more.
const KILLS: &str = "TIDEGATE_TEST_KILLS";

#[test]
fn a_publication_that_is_killed_is_not_seen_and_goes_on_where_it_broke_off() {
    let mut site = Site::start("models-killing", "");
    let kills = setting(KILLS, 2);
    let (mut resumed, mut version) = (0, 0);
    while resumed < kills {
        version += 1;
        assert!(version < 20 * kills, "too seldom killed in the middle: {resumed} of {version}");
        let file = weights(8_000_000, version);
        let manifest = signed("press", version, &file);
        let (url, body) = (site.cloud.url(), [manifest.as_bytes(), b"\n", &file].concat());
        // It is killed at another moment every time.
        let places = |site: &Site| {
            let shown = site.cloud.get("/v1/models/press").unwrap_or_default();
            shown["publishing"]["messages"].as_u64().unwrap_or(0)
        };
        let is_answered = std::thread::scope(|scope| {
            let path = "/v1/models/press/versions";
            let sent = scope.spawn(|| post(&url, path, "application/octet-stream", &body).0 == 201);
            let begun = Instant::now();
            while places(&site) <= version * 7 % 25 && !sent.is_finished() {
                assert!(begun.elapsed() < PATIENCE, "it does not begin\n{}", site.cloud.log_tail());
            }
            site.cloud.kill9();
            sent.join().unwrap()
        });
        site.cloud.restart();
        site.wait_read();
        let entries = site.entries("press", version).len();
        if is_answered {
            assert_eq!(site.versions("press").first(), Some(&version), "what was answered is there");
            continue;
        }
        if site.versions("press").first() == Some(&version) {
            continue; // killed between the catalogue and the answer
        }
        // The pack may even be whole: it counts when the catalogue says so.
        let path = site.file("press.bin", &file);
        let signed = site.file("press.signed", manifest.as_bytes());
        let args = ["publish", "press", path.to_str().unwrap(), "--manifest", signed.to_str().unwrap()];
        let (code, out, err) = site.cli(&args);
        assert_eq!(code, 0, "{out}{err}\n{}", site.cloud.log_tail());
        assert_eq!(site.versions("press").first(), Some(&version));
        assert!(site.assemble("press", version).0 == file);
        let whole = site.entries("press", version).len();
        println!("version {version}: {entries} of {whole} messages were there");
        resumed += u64::from(entries > 0 && entries < whole);
    }
    assert!(site.cloud.log().contains("goes on where it broke off"));

    // Another file under the same number cannot take the place of one that broke off; it takes the next number.
    let all = site.versions("press");
    assert!(all.windows(2).all(|pair| pair[0] > pair[1]), "{all:?}");
}
