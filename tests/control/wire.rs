//! The control topics on Pulsar's own protocol, against a real broker: order and places, nothing twice after the broker
//! was killed, one lead, and how long messages to many inboxes take.
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::broker::Broker;
use crate::support::eventually;
use crate::support::provision::{config_for, provision};
use tidegate::cloud::control::wire::{Cluster, Entry, Heard, Lead, Outgoing, Writer, fetch, follow};
use tidegate::config::CloudConfig;
use tidegate::pulsar::names;
use tidegate::sys::clock::Clock;
use tidegate::sys::tasks::Tasks;

pub fn ready(broker: &Broker, tenant: &str) -> (CloudConfig, Cluster) {
    let config = config_for(broker, tenant);
    provision(&config, false).unwrap();
    let cluster = Cluster::of(&config.pulsar).unwrap();
    (config, cluster)
}

pub fn message(payload: &str) -> Outgoing {
    Outgoing { key: "k".into(), properties: vec![("p", payload.to_owned())], payload: payload.to_owned().into() }
}

pub fn reader(tasks: &Tasks, cluster: &Cluster, topic: &str) -> mpsc::Receiver<Heard> {
    let (heard, hears) = mpsc::channel();
    let work = follow(cluster.clone(), topic.to_owned(), tasks.stopping().clone(), move |h| drop(heard.send(h)));
    tasks.spawn_contained("reader", work);
    hears
}

fn writer(tasks: &Tasks, cluster: &Cluster, topic: &str) -> Writer {
    let (writer, work) = Writer::new(cluster.clone(), topic.to_owned(), Clock::system(), tasks.stopping().clone());
    tasks.spawn_contained("writer", work);
    writer
}

/// All messages that come until the reader has caught up and `n` are there.
pub fn take(hears: &mpsc::Receiver<Heard>, n: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut caught_up = false;
    while entries.len() < n || !caught_up {
        match hears.recv_timeout(Duration::from_secs(60)).expect("too few messages") {
            Heard::Message(entry) => entries.push(entry),
            Heard::CaughtUp => caught_up = true,
            Heard::Problem(why) => println!("{why}"),
        }
    }
    entries
}

pub fn texts(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|e| String::from_utf8(e.payload.clone().unwrap()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_sees_the_same_messages_in_the_same_order_also_when_the_broker_is_killed() {
    let broker = Broker::start();
    let (_, cluster) = ready(&broker, "order");
    let topic = names::rollouts_topic("order");
    let tasks = Tasks::new();
    let early = reader(&tasks, &cluster, &topic);
    let (a, b) = (writer(&tasks, &cluster, &topic), writer(&tasks, &cluster, &topic));
    for i in 0..50 {
        let (x, y) = (message(&format!("a{i}")), message(&format!("b{i}")));
        let (x, y) = tokio::join!(a.write(x), b.write(y));
        x.unwrap();
        y.unwrap();
    }
    let first = take(&early, 100);
    assert_eq!(first.len(), 100);
    assert!(first.iter().all(|e| e.key.as_deref() == Some("k") && e.property("p").is_some()));

    broker.kill9();
    broker.restart();
    let begun = Instant::now();
    while a.write(message("after")).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(120));
    }
    let found = fetch(&cluster, &topic, first[7].place).await.unwrap().unwrap();
    assert_eq!(found.payload, first[7].payload);
    // A write whose receipt was lost may be there twice: read until the last one is.
    let more = take(&early, 1);
    let late = reader(&tasks, &cluster, &topic);
    let all = take(&late, 100 + more.len());
    let seen: Vec<Entry> = first.into_iter().chain(more).collect();
    assert_eq!(texts(&all)[..seen.len()], texts(&seen)[..]);
    assert!(all.windows(2).all(|pair| pair[0].place < pair[1].place));
    assert!(tasks.stop(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_whose_messages_were_trimmed_is_read_to_its_end_at_once() {
    let broker = Broker::shared();
    let (_, cluster) = ready(&broker, "trimmed");
    let topic = names::rollouts_topic("trimmed");
    let tasks = Tasks::new();
    let writer = writer(&tasks, &cluster, &topic);
    for i in 0..10 {
        writer.write(message(&format!("a{i}"))).await.unwrap();
    }
    assert_eq!(take(&reader(&tasks, &cluster, &topic), 10).len(), 10);
    // All of it is deleted; the broker names the last message still. The ledger in use is not deleted: it begins another first.
    broker.unload("trimmed/rollouts/config");
    broker.truncate("trimmed/rollouts/config");
    let heard = reader(&tasks, &cluster, &topic);
    let first = heard.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(matches!(first, Heard::CaughtUp), "{first:?}");
    writer.write(message("after")).await.unwrap();
    assert_eq!(texts(&take(&reader(&tasks, &cluster, &topic), 1)), ["after"]);
    tasks.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_has_the_lead_and_the_next_one_gets_it_when_it_is_gone() {
    let broker = Broker::shared();
    let (_, cluster) = ready(&broker, "lead");
    let compete = || {
        let (tasks, (held, holds)) = (Tasks::new(), mpsc::channel());
        let lead = Lead::new(cluster.clone(), names::lead_topic("lead"));
        let work = lead.run(tasks.stopping().clone(), move |h| drop(held.send(h)), |why| println!("waits: {why:?}"));
        tasks.spawn_contained("lead", work);
        (tasks, holds)
    };
    let (first, holds) = compete();
    let held = holds.recv_timeout(Duration::from_secs(30)).unwrap();
    let (second, waits) = compete();
    assert!(waits.recv_timeout(Duration::from_secs(5)).is_err(), "two have the lead");
    assert!(held.is_certain() && !held.over().is_cancelled());
    let begun = Instant::now();
    first.stop(Duration::from_secs(5)).await;
    assert!(held.over().is_cancelled() && !held.is_certain());
    let next = waits.recv_timeout(Duration::from_secs(30)).unwrap();
    println!("the next one had the lead after {:?}", begun.elapsed());
    // The topic moves: the broker closes the producer.
    broker.unload("lead/rollouts/lead");
    eventually("the lead is lost", Duration::from_secs(30), || next.over().is_cancelled(), |over| *over).await;
    assert!(waits.recv_timeout(Duration::from_secs(30)).is_ok(), "and asked for again");
    second.stop(Duration::from_secs(5)).await;
}
