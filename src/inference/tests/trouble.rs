//! Models that fail, hang or say nonsense: the event goes on, in time, and a metric says why.

use std::time::{Duration, Instant};

use super::*;
use crate::inference::engine::FILE_BYTES_MAX;

async fn with(file: &[u8], config: Config) -> Site {
    let site = Site::new(vec![config]);
    site.switch("current", 1, file);
    site.set().await;
    site
}

#[tokio::test]
async fn a_model_that_says_nan_scores_nothing() {
    let site = with(b"nan", anomaly()).await;
    let sent = event("1", 1.0, 2.0);
    let scored = site.score(vec![sent.clone()]).await;
    assert_eq!(scored.events, [sent], "as it came");
    assert_eq!((site.unscored("active", "not-finite"), site.scored("active")), (1, 0));
}

#[tokio::test]
async fn what_a_sender_says_in_our_words_does_not_stay() {
    let site = with(b"nan", anomaly()).await;
    let mut forged = event("1", 1.0, 2.0);
    forged.extensions.push((SCORE.to_owned(), "0".to_owned()));
    assert_eq!(said(&site.score(vec![forged]).await.events[0]), [None; 4]);
}

#[tokio::test]
async fn one_bad_event_spoils_it_for_no_other() {
    let site = with(b"limit 5", anomaly()).await;
    let broken = Event { data: "{".into(), ..event("x", 0.0, 0.0) };
    let events = vec![event("1", 1.0, 2.0), event("2", 9.0, 0.0), broken, event("3", 0.5, 1.0)];
    let scored = site.score(events).await.events;
    let scores: Vec<_> = scored.iter().map(|event| attribute(event, SCORE)).collect();
    assert_eq!(scores, [Some("3"), None, None, Some("1.5")]);
    assert_eq!((site.unscored("active", "model"), site.unscored("active", "not-json")), (1, 1));
}

#[tokio::test]
async fn panics_and_too_few_scores_are_failures_like_others() {
    for file in [&b"panic"[..], b"few"] {
        let site = with(file, anomaly()).await;
        for _ in 0..3 {
            assert_eq!(said(&site.score_one(1.0, 2.0).await), [None; 4]);
        }
        assert_eq!(site.unscored("active", "model"), 3);
    }
}

#[tokio::test]
async fn a_slow_model_holds_events_for_their_time_and_is_then_left_alone() {
    let site = with(b"sleep 400", Config { latency_max: Duration::from_millis(30), ..anomaly() }).await;
    let begun = Instant::now();
    for _ in 0..50 {
        assert_eq!(said(&site.score_one(1.0, 2.0).await), [None; 4]);
    }
    // Fifty times the limit would be 1.5 s. Nothing is asserted about this machine but that it is not that slow.
    let (late, resting) = (site.unscored("active", "late"), site.unscored("active", "resting"));
    println!("{late} late, {resting} passed at once, {:?} in all", begun.elapsed());
    assert_eq!(late + resting, 50);
    assert!(late >= 3 && resting > 0);
}

#[tokio::test]
async fn a_slow_candidate_does_not_cost_the_active_score() {
    let site = Site::new(vec![Config { latency_max: Duration::from_millis(200), ..anomaly() }]);
    site.switch("current", 1, b"times 1");
    site.switch("shadow", 2, b"sleep 2000");
    site.set().await;
    for _ in 0..10 {
        assert_eq!(said(&site.score_one(1.0, 2.0).await), [Some("anomaly@1"), Some("3"), None, None]);
    }
    assert_eq!(site.scored("active"), 10);
    assert_eq!(site.unscored("shadow", "late") + site.unscored("shadow", "resting"), 10);
}

#[tokio::test]
async fn what_cannot_be_loaded_leaves_the_one_before_at_work() {
    let site = with(b"times 1", anomaly()).await;
    let huge = vec![b'x'; FILE_BYTES_MAX as usize + 1];
    for (version, file) in [(2, &b"broken"[..]), (3, b"panics"), (4, b"\xff\xff"), (5, &huge)] {
        site.switch("current", version, file);
        site.set().await;
        assert_eq!(said(&site.score_one(1.0, 2.0).await)[0], Some("anomaly@1"));
    }
    fs::remove_file(site.path().join("models/anomaly/5/model")).unwrap();
    assert_eq!(site.metric("load_failures_total{model=\"anomaly\",role=\"active\"}"), 4);
    site.switch("current", 6, b"times 2");
    site.set().await;
    assert_eq!(said(&site.score_one(1.0, 2.0).await)[..2], [Some("anomaly@6"), Some("6")]);
}

#[tokio::test]
async fn only_what_is_proven_is_run_and_only_the_bytes_that_were() {
    let site = with(b"times 1", anomaly()).await;
    site.inference.settle().await;
    site.switch("current", UNPROVEN, b"times 2");
    site.switch("shadow", UNPROVEN + 1, b"times 3");
    site.set().await;
    assert_eq!(said(&site.score_one(1.0, 2.0).await), [Some("anomaly@1"), Some("3"), None, None]);
    assert_eq!(site.metric("load_failures_total{model=\"anomaly\",role=\"active\"}"), 0, "it may be proven yet");
    let unproven = site.inference.check("anomaly", UNPROVEN, Duration::ZERO).await.unwrap_err();
    assert!(unproven.contains("not proven"), "{unproven}");
    // What was proven, and is another file now.
    site.switch("current", 2, FORGED);
    site.set().await;
    assert_eq!(said(&site.score_one(1.0, 2.0).await)[0], Some("anomaly@1"));
    assert_eq!(site.inference.check("anomaly", 2, Duration::ZERO).await, Err("it is forged".to_owned()));
    // Before anybody says what is proven nothing is.
    let silent = Inference::with(words, &site.config, &Metrics::default());
    silent.set(&site.config).await;
    assert_eq!(said(&silent.begin(vec![event("1", 1.0, 2.0)]).finish().await.events[0]), [None; 4]);
}

#[tokio::test]
async fn models_that_hang_cost_a_bounded_number_of_threads() {
    let site = with(b"times 1", Config { latency_max: Duration::from_millis(5), ..anomaly() }).await;
    for version in 2..12 {
        site.switch("current", version, b"sleep 6000");
        site.set().await;
        site.score_one(1.0, 2.0).await;
    }
    let refused = site.metric("load_failures_total{model=\"anomaly\",role=\"active\"}");
    assert!((3..=6).contains(&refused), "{refused} of 10 versions were not loaded");
    assert_eq!(said(&site.score_one(1.0, 2.0).await), [None; 4], "and the event goes on");
}

#[tokio::test]
async fn an_event_without_room_goes_on_as_it_is() {
    let site = with(b"times 1", anomaly()).await;
    let pad = "x".repeat(site.config.outbox.max_event as usize);
    let full: Vec<_> = (0..31).map(|i| (format!("e{i}"), String::new())).collect();
    let sent = vec![
        Event { extensions: full, ..event("1", 1.0, 2.0) },
        Event { data: format!("{{\"a\":1,\"b\":2,\"pad\":\"{pad}\"}}").into(), ..event("2", 0.0, 0.0) },
    ];
    assert_eq!(site.score(sent.clone()).await.events, sent);
    assert_eq!((site.unscored("active", "no-room"), site.unscored("active", "too-large")), (1, 1));
}

/// What the check says of `file`, while events come, which is all that a gateway has to go by.
async fn checked(file: &[u8], config: Config) -> Result<(), String> {
    let site = with(b"times 1", config).await;
    assert_eq!(
        site.inference.check("anomaly", 1, Duration::ZERO).await,
        Ok(()),
        "without events nothing speaks against it"
    );
    site.switch("current", 2, file);
    let events = async {
        loop {
            site.score_one(1.0, 2.0).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        result = site.inference.check("anomaly", 2, Duration::from_millis(700)) => result,
        never = events => never,
    }
}

#[tokio::test]
async fn a_version_that_is_not_well_is_told_with_its_reason() {
    let config = || Config { latency_max: Duration::from_millis(50), ..anomaly() };
    assert_eq!(checked(b"times 2", Config { latency_max: Duration::from_secs(5), ..anomaly() }).await, Ok(()));
    assert_eq!(checked(b"broken", config()).await, Err("it is broken".to_owned()));
    let nan = checked(b"nan", config()).await.unwrap_err();
    assert!(nan.contains("no finite score"), "{nan}");
    let slow = checked(b"sleep 500", config()).await.unwrap_err();
    assert!(slow.contains("within 50 ms"), "{slow}");
    let site = with(b"times 1", config()).await;
    assert_eq!(site.inference.check("other", 5, Duration::ZERO).await, Ok(()), "nobody uses it here");
    assert!(site.inference.check("anomaly", 5, Duration::ZERO).await.is_err());
}
