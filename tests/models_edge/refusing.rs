//! What is refused, with which reason.

use std::time::Instant;

use tidegate::downlink::artefact::{Mode, ModelAssigned};
use tidegate::downlink::report::ModelOutcome;

use crate::site::{MIB, Site, active};
use crate::support::central::key;
use crate::support::models::{Version, noise};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_was_signed_and_assigned_is_refused_with_its_reason() {
    let mut site = Site::start("models-refused", "[models]\nmax_bytes = \"5MiB\"\n").await;
    let good = site.version("good", 1, noise(10, MIB), &[]);
    assert_eq!(site.try_out(&good).await, active());
    // As it was sent: the same would be in order again if it were not for its number.
    let first = site.central.models_message(&site.node.name, 1, vec![good.assigned(Mode::Active)]);
    let refused = |reason: &str| (ModelOutcome::Refused, reason.to_owned());

    // Two that cannot be had hold up no other; they are tried for a quarter of a minute, and with each assignment.
    let mut cut = site.version("cut", 6, noise(16, MIB), &[]);
    let last = cut.messages.pop().unwrap();
    site.publish(&cut).await;
    let missing = site.version("missing", 7, noise(17, MIB), &[]);
    let beside = site.version("beside", 8, noise(18, MIB), &[]);
    site.publish(&beside).await;
    let all = [&missing, &cut, &beside].map(|version| version.assigned(Mode::Active)).to_vec();
    let (tried, begun) = (site.assign(all).await, Instant::now());
    assert_eq!(site.outcome(tried, &beside).await, active());
    println!("in use after {:?}, beside two that cannot be had", begun.elapsed());
    assert_eq!([&cut, &missing].map(|of| site.told(tried, of.version)), [vec![], vec![]], "they are still tried");

    // Signed by somebody else.
    let foreign = Version::new(&key(9), "good", 2, noise(11, MIB), &[]);
    assert_eq!(site.try_out(&foreign).await, refused("unknown-key"));

    // Another one than was assigned, signed or not.
    let other = site.version("good", 3, noise(12, MIB), &[]);
    site.publish(&other).await;
    let number = site.assign(vec![ModelAssigned { digest: good.digest, ..other.assigned(Mode::Active) }]).await;
    assert_eq!(site.outcome(number, &other).await, refused("digest-mismatch"));

    // Chunks that the manifest does not sign: the index and the pieces of another file of the same size.
    let mut mixed = site.version("good", 4, noise(13, MIB), &[]);
    mixed.messages = site.version("good", 4, noise(14, MIB), &[]).messages;
    assert_eq!(site.try_out(&mixed).await, refused("digest-mismatch"));

    // More than there is room for.
    let large = site.version("good", 5, noise(15, 4 * MIB), &[]);
    assert_eq!(site.try_out(&large).await, refused("no-room"));

    // A pack without its end, until it is there, and one without a pack.
    assert_eq!(site.outcome(tried, &missing).await, refused("pack-missing"));
    assert_eq!(site.outcome(tried, &cut).await, refused("pack-damaged"));
    println!("given up after {:?}", begun.elapsed());
    cut.messages = vec![last];
    assert_eq!(site.try_out(&cut).await, active());
    assert!(site.current("cut").as_ref() == Some(&cut.file));

    // An assignment of before, sent again, brings no version back.
    site.central.send(&site.node.name, first).await;
    let name = site.node.name.clone();
    site.central.wait_refused(&name, "older", || site.node.alive()).await;
    assert!(site.current("good").as_ref() == Some(&good.file) && site.current("cut").as_ref() == Some(&cut.file));
}
