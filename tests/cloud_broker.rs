//! The cloud mode against a real broker: whatever ends it or the broker, each event is stored once.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};

use pulsar::producer::Message;
use support::broker::{Broker, Options};
use support::certificates::certificates;
use support::cloud::Cloud;
use support::gateway::{BATCH, Gateway, PARTITIONS};

const TELEMETRY: &str = "t/telemetry/telemetry";
const GOOD: &str = "t/telemetry/good";
const BAD: &str = "t/telemetry/bad";
const SUBSCRIPTION: &str = "tidegate-cloud";

/// What was sent, and must be found.
#[derive(Default)]
struct Sent {
    /// By stream: the sequences.
    events: BTreeMap<String, Vec<u64>>,
    duplicates: u64,
}

impl Sent {
    fn count(&self) -> usize {
        self.events.values().map(Vec::len).sum()
    }

    /// Compares files and audit with what was sent.
    fn check(&self, cloud: &Cloud, lane: &str) {
        let mut found: BTreeMap<(String, u64), u32> = BTreeMap::new();
        let mut last: BTreeMap<(String, u64), u64> = BTreeMap::new();
        for ((stream, seq), line) in cloud.stored(lane) {
            assert_eq!(line["data"]["n"], seq as f64, "{line}");
            let before = last.insert((stream.clone(), seq % u64::from(PARTITIONS)), seq);
            assert!(before.is_none_or(|before| before < seq), "{stream}: {seq} is stored after {before:?}");
            *found.entry((stream, seq)).or_default() += 1;
        }
        let expected = self.events.iter().flat_map(|(stream, seqs)| seqs.iter().map(|seq| ((stream.clone(), *seq), 1)));
        assert_eq!(found, expected.collect());

        let audit = cloud.get(&format!("/v1/audit?lane={lane}")).unwrap();
        assert_eq!(audit["totals"]["delivered"], self.count(), "{audit:#}");
        assert_eq!(audit["totals"]["duplicates_removed"], self.duplicates, "{audit:#}");
        assert_eq!(audit["totals"]["order_violations"], 0, "{audit:#}");
        for stream in audit["streams"].as_array().unwrap() {
            let name = ["node", "incarnation", "lane"].map(|part| stream[part].as_str().unwrap()).join(".");
            let seqs = &self.events[&name];
            let last = *seqs.last().unwrap();
            let gaps: Vec<[u64; 2]> = (1..last).filter(|seq| !seqs.contains(seq)).map(|seq| [seq, seq]).collect();
            assert_eq!(stream["missing"], gaps.len(), "{stream:#}");
            assert_eq!(stream["missing_ranges"], serde_json::json!(gaps[..gaps.len().min(16)]), "{stream:#}");
            assert_eq!((&stream["first"], &stream["last"]), (&seqs[0].into(), &last.into()), "{stream:#}");
        }
    }
}

/// A listener of the live stream.
struct Listener(BufReader<Box<dyn Read>>);

impl Listener {
    /// Listens from when this returns.
    fn connect(cloud: &Cloud, path: &str) -> Self {
        let body = ureq::get(format!("{}{path}", cloud.url())).call().unwrap().into_body();
        let mut listener = Self(BufReader::new(Box::new(body.into_reader())));
        let mut line = String::new();
        listener.0.read_line(&mut line).unwrap();
        assert_eq!(line, ": listening\n");
        listener
    }

    /// Sequences of the next `count` events.
    fn events(self, count: usize) -> Vec<u64> {
        let lines = self.0.lines().map(Result::unwrap);
        let events = lines.filter_map(|line| line.strip_prefix("data: ").map(str::to_owned));
        let seq = |event: String| serde_json::from_str::<serde_json::Value>(&event).unwrap()["seq"].as_u64().unwrap();
        events.take(count).map(seq).collect()
    }
}

/// Sends sequences `from..to` of three streams, without every 997th, every 50th twice.
async fn send(gateway: &mut Gateway, lane: &str, from: u64, to: u64, sent: &mut Sent) {
    for seq in from..to {
        for node in ["press-1", "press-2", "oven"] {
            let stream = format!("{node}.00ff00ff00ff00ff.{lane}");
            if seq % 997 == 0 {
                continue;
            }
            gateway.send(&stream, seq).await;
            // Twice in a row, and once more much later: as a producer that the broker forgot would.
            for again in [seq % 50 == 0, seq > 800 && seq % 50 == 25] {
                if again {
                    let earlier = if seq % 50 == 0 { seq } else { seq - 800 };
                    gateway.send(&stream, earlier).await;
                    sent.duplicates += 1;
                }
            }
            sent.events.entry(stream).or_default().push(seq);
        }
    }
    gateway.flush().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_stored_once_across_kill_nine_of_cloud_and_broker() {
    let broker = Broker::start();
    broker.create_namespace("t/telemetry");
    broker.create_partitioned_topic(TELEMETRY, PARTITIONS);
    let dir = tempfile::tempdir().unwrap();
    let mut cloud = Cloud::start(&broker, "t", &["telemetry"], dir.path());
    cloud.wait_for("/v1/status", |status| status["ready"] == true);

    let mut gateway = Gateway::connect(&broker, "t", "telemetry").await;
    let mut sent = Sent::default();
    for round in 0..6 {
        let from = round * 1000 + 1;
        send(&mut gateway, "telemetry", from, from + 1000, &mut sent).await;
        // Not when all of it is stored, but in the midst of it.
        let some = sent.count() - 1500;
        cloud.wait_for("/v1/audit", |audit| audit["totals"]["delivered"].as_u64().unwrap_or(0) > some as u64);
        cloud.kill9();
        cloud.restart();
    }
    cloud.wait_delivered(sent.count());
    sent.check(&cloud, "telemetry");

    println!("stopping in order");
    cloud.stop();
    assert_eq!(broker.backlog(TELEMETRY, SUBSCRIPTION), 0, "what is stored is acknowledged");
    cloud.restart();
    cloud.wait_delivered(sent.count());

    println!("killing the broker");
    broker.kill9();
    broker.restart();
    let mut gateway = Gateway::connect(&broker, "t", "telemetry").await;
    send(&mut gateway, "telemetry", 6001, 7001, &mut sent).await;
    cloud.wait_delivered(sent.count());
    sent.check(&cloud, "telemetry");
    cloud.stop();
    assert_eq!(broker.backlog(TELEMETRY, SUBSCRIPTION), 0);
    assert!(
        cloud.stored("telemetry").len() > 10_000 && fs::read_dir(cloud.events.join("telemetry")).unwrap().count() > 3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_cannot_store_acknowledges_nothing_says_so_and_disturbs_no_other() {
    let broker = Broker::start();
    broker.create_namespace("t/telemetry");
    broker.create_partitioned_topic(GOOD, PARTITIONS);
    let dir = tempfile::tempdir().unwrap();
    let mut cloud = Cloud::start(&broker, "t", &["good", "bad"], dir.path());

    // The topic of a lane is not there yet: told, and found when it comes.
    let lane = |value: &serde_json::Value, name: &str| {
        value["lanes"].as_array().unwrap().iter().find(|lane| lane["lane"] == name).unwrap().clone()
    };
    let status = cloud.wait_for("/v1/status", |s| {
        lane(s, "bad")["problems"]["topic"].is_object() && lane(s, "good")["ready"] == true
    });
    let text = lane(&status, "bad")["problems"]["topic"]["text"].to_string();
    assert!(text.contains("tidegate provision"), "{text}");
    broker.create_partitioned_topic(BAD, PARTITIONS);
    cloud.wait_for("/v1/status", |status| status["ready"] == true);

    // A directory in the place of the file that a commit writes: every commit fails.
    fs::create_dir(cloud.events.join("bad/state.new")).unwrap();
    let (mut bad, mut good) = (Sent::default(), Sent::default());
    let listener = Listener::connect(&cloud, "/v1/stream?lane=good&node=oven&device=dev-1&type=reading");
    send(&mut Gateway::connect(&broker, "t", "bad").await, "bad", 1, 500, &mut bad).await;
    send(&mut Gateway::connect(&broker, "t", "good").await, "good", 1, 500, &mut good).await;
    cloud.wait_for("/v1/audit?lane=good", |audit| audit["totals"]["delivered"] == good.count());
    let status = cloud.wait_for("/v1/status", |s| lane(s, "bad")["problems"]["files"].is_object());
    assert_eq!(lane(&status, "good")["ready"], true);
    let stream = "oven.00ff00ff00ff00ff.good";
    let mut heard = listener.events(good.events[stream].len());
    heard.sort_unstable(); // partitions come in any order
    assert_eq!(heard, good.events[stream], "duplicates are not shown, nor other nodes");
    let ready = cloud.get("/readyz").unwrap();
    assert!(ready["detail"].to_string().contains("state"), "{ready}");
    assert_eq!(cloud.get("/healthz").unwrap()["status"], "alive");
    // The backlog counts entries.
    assert!(broker.backlog(BAD, SUBSCRIPTION) * BATCH >= bad.count() as u64);
    assert_eq!(cloud.get("/v1/audit?lane=bad").unwrap()["totals"]["delivered"], 0);

    fs::remove_dir(cloud.events.join("bad/state.new")).unwrap();
    cloud.wait_for("/v1/audit?lane=bad", |audit| audit["totals"]["delivered"] == bad.count());
    cloud.wait_for("/v1/status", |status| status["ready"] == true);
    bad.check(&cloud, "bad");
    good.check(&cloud, "good");

    // An event of another producer is stored with what it has.
    let foreign = Message { payload: b"hello".to_vec(), ..Message::default() };
    let mut gateway = Gateway::connect(&broker, "t", "good").await;
    gateway.message(0, foreign).await;
    gateway.flush().await;
    cloud.wait_for("/v1/audit?lane=good", |audit| audit["totals"]["without_stream"] == 1);
    cloud.stop();
    assert!(cloud.stored("good").iter().any(|(_, line)| line["data_base64"] == "aGVsbG8="));
    assert_eq!(broker.backlog(GOOD, SUBSCRIPTION) + broker.backlog(BAD, SUBSCRIPTION), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_tls_is_trusted_by_its_own_authority_and_by_no_other() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tls = certificates(dir.path(), &["localhost", "127.0.0.1"]);
    let broker = Broker::start_with(Options { tls: Some(tls.clone()), ..Options::default() });
    broker.create_namespace("t/telemetry");
    broker.create_partitioned_topic(TELEMETRY, PARTITIONS);
    let [.., wrong] = certificates(other.path(), &["localhost", "127.0.0.1"]);
    let mut cloud = Cloud::start_with_ca(&broker, "t", &["telemetry"], dir.path(), &wrong);
    let problem = |status: &serde_json::Value| status["lanes"][0]["problems"]["topic"]["text"].to_string();
    let status = cloud.wait_for("/v1/status", |status| problem(status).contains("cannot connect"));
    assert_eq!(status["ready"], false);
    cloud.kill9();

    let mut cloud = Cloud::start_with_ca(&broker, "t", &["telemetry"], dir.path(), &tls[2]);
    cloud.wait_for("/v1/status", |status| status["ready"] == true);
    let mut sent = Sent::default();
    send(&mut Gateway::connect(&broker, "t", "telemetry").await, "telemetry", 1, 100, &mut sent).await;
    cloud.wait_delivered(sent.count());
    cloud.stop();
}
