//! What is published can be put together from the packs alone, and little of a new version travels.

use std::time::Instant;

use crate::site::{Site, weights};
use crate::support::setting;

/// Megabytes of the model; the promise is about 50.
const SIZE: &str = "TIDEGATE_TEST_MODEL_MB";

#[test]
fn versions_travel_as_what_is_new_and_outlive_the_cloud_that_published_them() {
    let mut site = Site::start("models-publishing", "");
    let bytes = usize::try_from(setting(SIZE, 4)).unwrap() * 1_000_000;
    let first = weights(bytes, 1);
    let file = site.file("model.bin", &first);
    let (file, key) = (file.to_str().unwrap().to_owned(), site.dir.path().join("anna.key"));
    let publish = |site: &Site, more: &[&str]| {
        let begun = Instant::now();
        let args = [&["publish", "press-anomaly", &file, "--sign", key.to_str().unwrap()], more].concat();
        let (code, out, err) = site.cli(&args);
        assert_eq!(code, 0, "{out}{err}\n{}", site.cloud.log_tail());
        println!("published within {:.1} s", begun.elapsed().as_secs_f64());
    };
    publish(&site, &["--meta", "trained_on=lake/2026-10"]);

    // 5 % of it is new, in two places, and 100 bytes more in front.
    let mut second = first.clone();
    for (n, at) in [bytes / 5, bytes / 2].into_iter().enumerate() {
        let new = weights(bytes / 40, 7 + n as u64);
        second[at..at + new.len()].copy_from_slice(&new);
    }
    second.splice(0..0, [b'm'; 100]);
    std::fs::write(&file, &second).unwrap();
    publish(&site, &["--parent", "1", "--meta", "recall=0.91"]);

    site.lose_cloud();
    let model = site.cloud.get("/v1/models/press-anomaly").unwrap();
    assert_eq!(site.versions("press-anomaly"), [2, 1]);
    let newest = &model["versions"][0];
    assert_eq!((newest["parent"].as_u64(), newest["metadata"]["recall"].as_str()), (Some(1), Some("0.91")));
    assert!(newest["by"].as_str().unwrap().ends_with("(unverified)"), "{newest:#}");
    assert_eq!(newest["size"], second.len());

    assert!(site.assemble("press-anomaly", 1) == (first.clone(), 1));
    assert!(site.assemble("press-anomaly", 2) == (second, 2));
    let packs = [1, 2].map(|version| site.pack("press-anomaly", version));
    assert_eq!(newest["pack"]["bytes"], packs[1].bytes());
    assert_eq!(newest["sha256"], packs[1].signed.digest().to_string());
    let compressed = zstd::bulk::compress(&first, tidegate::models::pack::LEVEL).unwrap().len();
    let [of_compressed, of_first] =
        [packs[0].bytes() as f64 / compressed as f64, packs[1].bytes() as f64 / packs[0].bytes() as f64];
    println!(
        "{bytes} bytes, {compressed} compressed: the first version travels as {} bytes ({of_compressed:.4}), the second, \
         of which 5 % changed, as {} ({:.2} %)",
        packs[0].bytes(),
        packs[1].bytes(),
        of_first * 100.0
    );
    assert!(of_compressed <= 1.02 && of_first <= 0.15);

    // Back to what was, as a new version: nothing but the head travels. It is another process that knows what there is.
    std::fs::write(&file, &first).unwrap();
    publish(&site, &["--version", "9"]);
    let third = site.pack("press-anomaly", 9);
    assert_eq!(third.messages.len(), 1);
    assert!(site.assemble("press-anomaly", 9).0 == first);

    let (code, out, _) = site.cli(&["list"]);
    assert!(code == 0 && out.contains("press-anomaly") && out.contains('9'), "{out}");
    let (code, out, _) = site.cli(&["show", "press-anomaly"]);
    assert!(code == 0 && out.lines().count() == 4 && out.contains("recall=0.91"), "{out}");
}
