//! Versions come and go while events are scored.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::sys::tasks::Tasks;

#[tokio::test]
async fn nothing_configured_changes_nothing() {
    let site = Site::new(Vec::new());
    site.set().await;
    assert!(!site.inference.wants("press.telemetry"));
    let mut marked = event("1", 1.0, 2.0);
    marked.extensions.push((SCORE.to_owned(), "5".to_owned()));
    assert_eq!(site.score(vec![marked.clone()]).await.events, [marked]);
}

#[tokio::test]
async fn a_switch_takes_effect_and_back_again() {
    let site = Site::new(vec![anomaly()]);
    site.set().await;
    assert_eq!(said(&site.score_one(1.0, 2.0).await), [None; 4]);
    assert_eq!(site.unscored("active", "no-model"), 1);
    let tasks = Tasks::new();
    site.inference.start(&tasks);
    for (version, file, score) in [(3, "times 2", "6"), (4, "times 3", "9"), (3, "times 2", "6")] {
        site.switch("current", version, file.as_bytes());
        let name = format!("anomaly@{version}");
        let begun = Instant::now();
        loop {
            let event = site.score_one(1.0, 2.0).await;
            if said(&event) == [Some(name.as_str()), Some(score), None, None] {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", said(&event));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(tasks.stop(Duration::from_secs(5)).await);
    assert_eq!(site.unscored("active", "late"), 0);
}

#[tokio::test]
async fn the_first_that_takes_a_type_scores_and_others_are_left_alone() {
    let all = Config { model: "other".to_owned(), types: vec!["*".to_owned()], ..anomaly() };
    let site = Site::new(vec![anomaly(), all]);
    site.switch("current", 1, b"times 1");
    site.set().await;
    let other = Event { ty: "press.alarm".to_owned(), ..event("2", 1.0, 1.0) };
    let scored = site.score(vec![event("1", 1.0, 1.0), other, event("3", 2.0, 2.0)]).await;
    let scores: Vec<_> = scored.events.iter().map(|event| attribute(event, SCORE)).collect();
    assert_eq!(scores, [Some("2"), None, Some("4")], "in the order in which they came");
    assert!(site.inference.wants("press.alarm"), "its model may come any time");
}

#[tokio::test]
async fn a_candidate_scores_its_share_beside_the_active_one() {
    let site = Site::new(vec![Config { shadow_share: 10, alarm_above: Some(5.0), ..anomaly() }]);
    site.switch("current", 1, b"times 1");
    site.switch("shadow", 2, b"times 100");
    site.set().await;
    let events: Vec<_> = (0..5000).map(|i| event(&i.to_string(), 1.0, 0.5)).collect();
    let first = site.score(events.clone()).await;
    let shadowed = first.events.iter().filter(|event| said(event)[2] == Some("anomaly@2")).count();
    assert!((350..650).contains(&shadowed), "{shadowed} of 5000");
    assert!(first.events.iter().all(|event| said(event)[..2] == [Some("anomaly@1"), Some("1.5")]));
    assert!(first.events.iter().all(|event| matches!(said(event)[3], None | Some("150"))));
    assert!(first.alarms.is_empty(), "the candidate raises none");
    assert_eq!(site.metric("disagreements_total{model=\"anomaly\"}"), shadowed as u64);
    assert_eq!(site.metric("compared_events_total{model=\"anomaly\"}"), shadowed as u64);
    assert_eq!(site.score(events).await.events, first.events, "the same ones when they come again");
    site.remove("shadow");
    site.set().await;
    assert_eq!(said(&site.score_one(1.0, 0.5).await)[2], None);
}

#[tokio::test]
async fn a_score_above_the_threshold_makes_one_alarm() {
    let site = Site::new(vec![Config { alarm_above: Some(0.8), alarm_type: "press.alarm".to_owned(), ..anomaly() }]);
    site.switch("current", 1, b"times 1");
    site.set().await;
    let events = vec![event("1", 0.5, 0.2), event("2", 0.5, 0.5), event("3", 0.5, 0.3)];
    let scored = site.score(events.clone()).await;
    let alarms: Vec<Event> = scored.alarms.into_iter().map(|alarm| alarm.event).collect();
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert_eq!((alarms[0].ty.as_str(), said(&alarms[0])[1]), ("press.alarm", Some("1")));
    let again: Vec<Event> = site.score(events).await.alarms.into_iter().map(|alarm| alarm.event).collect();
    assert_eq!(again, alarms, "the outbox knows it by source and id");
}

/// Events in which the scores say which version has made them, while versions change. `INFERENCE_SECONDS` and
/// `INFERENCE_RATE` make it a measurement; `cargo test --release` for figures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_lost_or_unscored_while_versions_change() {
    let site = Site::new(vec![anomaly()]);
    let report = under_load(&site, &|n| (if n % 2 == 0 { b"times 1" } else { b"times 2" }).to_vec(), 1.0, 2000.0).await;
    assert_eq!(report.unscored, 0);
    assert!(report.versions.len() >= 2, "{:?}", report.versions);
}

pub(super) struct Report {
    pub unscored: usize,
    pub versions: BTreeMap<String, usize>,
}

fn setting(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Scores events, a few of one sender at a time as the listener does, and switches ten times meanwhile. Prints what it saw.
pub(super) async fn under_load(site: &Site, file: &dyn Fn(u64) -> Vec<u8>, seconds: f64, rate: f64) -> Report {
    const TOGETHER: usize = 5;
    let (seconds, rate) = (setting("INFERENCE_SECONDS", seconds), setting("INFERENCE_RATE", rate));
    site.switch("current", 1, &file(1));
    site.set().await;
    let stop = AtomicBool::new(false);
    let switches = async {
        for version in 2..12 {
            tokio::time::sleep(Duration::from_secs_f64(seconds / 12.0)).await;
            site.switch("current", version, &file(version));
            site.set().await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let load = async {
        let (begun, mut sent, mut held) = (Instant::now(), 0_usize, Duration::ZERO);
        let mut report = Report { unscored: 0, versions: BTreeMap::new() };
        while !stop.load(Ordering::Relaxed) {
            let events: Vec<Event> = (sent..sent + TOGETHER).map(|i| event(&i.to_string(), 0.25, 0.5)).collect();
            let asked = Instant::now();
            let scored = site.score(events).await.events;
            held = held.max(asked.elapsed());
            let ids: Vec<String> = scored.iter().map(|event| event.id.clone()).collect();
            assert_eq!(ids, (sent..sent + TOGETHER).map(|i| i.to_string()).collect::<Vec<_>>(), "none lost, in order");
            for event in &scored {
                match said(event)[0] {
                    Some(version) => *report.versions.entry(version.to_owned()).or_default() += 1,
                    None => report.unscored += 1,
                }
            }
            sent += TOGETHER;
            let due = begun + Duration::from_secs_f64(sent as f64 / rate);
            tokio::time::sleep_until(due.into()).await;
        }
        let per_second = sent as f64 / begun.elapsed().as_secs_f64();
        let (unscored, versions) = (report.unscored, report.versions.len());
        println!("{sent} events, {per_second:.0}/s, {versions} versions; {unscored} unscored; longest pause {held:?}");
        report
    };
    tokio::join!(switches, load).1
}
