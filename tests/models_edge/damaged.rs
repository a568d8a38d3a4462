//! What a disk loses while a gateway is off.

use std::fs;

use tidegate::downlink::artefact::Mode;
use tidegate::downlink::report::ModelOutcome;

use crate::site::{MIB, SOON, Site, active};
use crate::support::eventually;
use crate::support::models::{messages_out, noise};

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_damaged_is_out_of_use_told_of_and_fetched_again_as_far_as_it_was() {
    let mut site = Site::start("models-damaged", "").await;
    let one = site.version("anomaly", 1, noise(400, MIB), &[]);
    let two = site.version("anomaly", 2, noise(401, 2 * MIB), &[&one]);
    assert_eq!(site.try_out(&one).await, active());
    site.publish(&two).await;
    let number = site.assign(vec![two.assigned(Mode::Active)]).await;
    assert_eq!(site.outcome(number, &two).await, active());
    let all = two.messages.len() as u64;
    let out = |site: &Site| messages_out(&site.broker, &two.topic(&site.node.name));
    assert!(out(&site) <= all);

    // One byte, and the end of it. What is told, and how often: fetched, active, reverted, fetched, active, …
    let path = site.node.models().join("anomaly/2/model");
    let flipped = || {
        let mut bytes = fs::read(&path).unwrap();
        bytes[MIB] ^= 1;
        bytes
    };
    let shortened = || fs::read(&path).unwrap()[..MIB].to_vec();
    for (round, damaged) in [(1, &flipped as &dyn Fn() -> Vec<u8>), (2, &shortened)] {
        assert_eq!(site.node.process.terminate(SOON), Some(0));
        let (bytes, before) = (damaged(), out(&site));
        fs::write(&path, bytes).unwrap();
        site.node.restart();
        let told = || site.told(number, 2);
        eventually("it is fetched again", SOON, told, |told| {
            let outcomes: Vec<_> = told.iter().map(|(outcome, _, _)| *outcome).collect();
            outcomes.ends_with(&[ModelOutcome::Reverted, ModelOutcome::Fetched, ModelOutcome::Active])
                && outcomes.len() == 2 + 3 * round
        })
        .await;
        let reverted = told().into_iter().rev().nth(2).unwrap();
        assert!(reverted.1 == "damaged" && reverted.2.contains("look after the disk"), "{reverted:?}");
        assert!(site.current("anomaly").as_ref() == Some(&two.file));
        // The head is here; of the pieces only what was damaged comes again.
        let again = out(&site).saturating_sub(before);
        println!("{again} of {all} messages came again");
        assert!(again < all, "{again} messages came again, of {all}");
    }
}
