//! What must not be published is refused, with the reason, and nobody sees it.

use serde_json::Value;
use tidegate::models::hash::Hash;
use tidegate::models::manifest::{Format, Manifest};

use crate::site::{REVOKED, STRANGER, Site, TRUSTED, key, manifest, signed, weights};

fn expect(answer: (u16, Value), status: u16, code: &str) {
    let detail = answer.1["detail"].as_str().unwrap_or_default();
    assert!(answer.0 == status && detail.starts_with(code), "{status} {code}: {} {detail}", answer.0);
}

#[test]
fn what_is_not_signed_whole_and_new_is_refused_with_its_reason() {
    let site = Site::start("models-refusing", "max_bytes = \"1MiB\"\n");
    let file = weights(300_000, 1);
    let good = signed("press", 5, &file);
    let upload = |envelope: &str, file: &[u8]| site.upload("press", envelope, file);

    for (by, code) in [(STRANGER, "unknown-key"), (REVOKED, "revoked-key")] {
        let envelope = manifest("press", 5, &file).sign(&key(by)).unwrap().encode();
        expect(upload(&envelope, &file), 422, code);
    }
    // The trusted key's signature for another manifest.
    let mut forged: Value = serde_json::from_str(&good).unwrap();
    let other: Value = serde_json::from_str(&signed("press", 6, &file)).unwrap();
    forged["payload"] = other["payload"].clone();
    expect(upload(&forged.to_string(), &file), 422, "bad-signature");
    forged["signatures"] = serde_json::json!([]);
    expect(upload(&forged.to_string(), &file), 422, "unsigned");
    expect(upload("{}", &file), 422, "malformed-manifest");
    expect(site.post("/v1/models/press/versions", "application/octet-stream", &[b'x'; 200_000]), 400, "the body");

    let mut flipped = file.clone();
    flipped[150_000] ^= 1;
    expect(upload(&good, &flipped), 422, "wrong-digest");
    expect(upload(&good, &file[..299_999]), 422, "wrong-size");
    expect(upload(&good, &[&file[..], b"x"].concat()), 422, "wrong-size");
    let large = Manifest { size: (1 << 20) + 1, ..manifest("press", 5, &file) };
    expect(upload(&large.sign(&key(TRUSTED)).unwrap().encode(), &file), 413, "too-large");
    let onnx = Manifest { format: Format::Onnx, ..manifest("press", 5, &file) };
    expect(upload(&onnx.sign(&key(TRUSTED)).unwrap().encode(), &file), 422, "wrong-format");
    expect(site.upload("saw", &good, &file), 422, "other-name");
    let plain = [good.as_bytes(), b"\n", &file].concat();
    expect(site.post("/v1/models/press/versions", "text/plain", &plain), 415, "a model is sent");
    assert_eq!(site.versions("press"), [] as [u64; 0]);
    assert!(site.entries("press", 5).is_empty(), "nothing of it was written");

    assert_eq!(upload(&good, &file).0, 201);
    // The same again is the same; anything else under this number, or a lower one, is too late.
    assert_eq!(upload(&good, &file).0, 200);
    let other = weights(300_000, 2);
    expect(upload(&signed("press", 5, &other), &other), 409, "version-not-higher");
    expect(upload(&signed("press", 4, &other), &other), 409, "version-not-higher");
    assert_eq!(site.versions("press"), [5]);
    assert_eq!(site.pack("press", 5).signed.manifest().blake3, Hash::of(&file));

    let metrics =
        ureq::get(format!("{}/metrics", site.cloud.url())).call().unwrap().into_body().read_to_string().unwrap();
    for (reason, count) in [("unknown-key", 1), ("wrong-size", 2), ("version-not-higher", 2), ("wrong-digest", 1)] {
        let line = format!("tidegate_cloud_models_refused_total{{reason=\"{reason}\"}} {count}");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    assert!(site.cloud.log().contains("wrong-digest"));
}
