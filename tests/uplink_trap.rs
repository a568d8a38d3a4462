//! Pulsar's deduplication trap: the fact that the resume rule stands on, shown on a real broker with a producer that
//! does not keep the rule; and the same situation with the uplink.

#![allow(clippy::unwrap_used)]

mod support;

use bytes::BytesMut;
use pulsar::message::proto::{BaseCommand, CommandConnect, CommandLookupTopic, CommandProducer, base_command::Type};
use support::broker::Broker;
use support::count::count;
use support::edge::{Edge, config, event};
use support::eventually;
use tidegate::config::edge::Compression;
use tidegate::event::record;
use tidegate::pulsar::wire::frame::{self, Sender};
use tidegate::uplink::wire::{self, Outgoing};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A producer without any rule: sends what it is told.
struct Raw {
    stream: TcpStream,
    input: BytesMut,
    name: String,
    tg_stream: String,
    /// `last_sequence_id` when it was opened.
    last: i64,
}

impl Raw {
    async fn open(broker: &Broker, topic: &str, tg_stream: &str, name: &str) -> Self {
        let stream = TcpStream::connect(broker.service_url().trim_start_matches("pulsar://")).await.unwrap();
        let (name, tg_stream) = (name.to_owned(), tg_stream.to_owned());
        let mut raw = Self { stream, input: BytesMut::new(), name, tg_stream, last: -1 };
        let connect =
            CommandConnect { client_version: "t".into(), protocol_version: Some(19), ..CommandConnect::default() };
        raw.ask(BaseCommand { r#type: Type::Connect as i32, connect: Some(connect), ..BaseCommand::default() }).await;
        let lookup = CommandLookupTopic { topic: topic.into(), request_id: 1, ..CommandLookupTopic::default() };
        raw.ask(BaseCommand { r#type: Type::Lookup as i32, lookup_topic: Some(lookup), ..BaseCommand::default() })
            .await;
        let producer = CommandProducer {
            topic: topic.into(),
            producer_id: 0,
            request_id: 2,
            producer_name: Some(raw.name.clone()),
            user_provided_producer_name: Some(true),
            ..CommandProducer::default()
        };
        let answer = raw
            .ask(BaseCommand { r#type: Type::Producer as i32, producer: Some(producer), ..BaseCommand::default() })
            .await;
        raw.last = answer.producer_success.unwrap_or_else(|| panic!("{:?}", answer.error)).last_sequence_id();
        raw
    }

    async fn ask(&mut self, command: BaseCommand) -> BaseCommand {
        let mut out = BytesMut::new();
        frame::command(&mut out, &command);
        self.stream.write_all(&out).await.unwrap();
        self.next().await
    }

    async fn next(&mut self) -> BaseCommand {
        loop {
            match frame::next_command(&mut self.input).unwrap() {
                Some(command) if command.ping.is_none() => return command,
                Some(_) => {}
                None => assert!(self.stream.read_buf(&mut self.input).await.unwrap() > 0, "the broker hung up"),
            }
        }
    }

    /// Sends a batch of the events `lowest..=highest`; the ledger and entry of the receipt.
    async fn batch(&mut self, lowest: u64, highest: u64) -> (u64, u64) {
        let sender = Sender { producer_id: 0, name: &self.name, publish_time_ms: 1 };
        let (mut entries, mut out) = (BytesMut::new(), BytesMut::new());
        for seq in lowest..=highest {
            let mut stored = Vec::new();
            record::encode(&event(seq, 3, 50), &mut stored);
            let (event, _) = record::decode(&stored).unwrap();
            wire::batch_entry(&mut entries, &Outgoing { seq, late: false, stream: &self.tg_stream, event });
        }
        let range = (lowest, highest, (highest - lowest + 1) as usize);
        wire::batch(&mut out, &sender, range, &entries, Compression::None);
        self.receipt(out, lowest).await
    }

    async fn receipt(&mut self, out: BytesMut, seq: u64) -> (u64, u64) {
        self.stream.write_all(&out).await.unwrap();
        let answer = self.next().await;
        let receipt = answer.send_receipt.unwrap_or_else(|| panic!("{:?}", answer.send_error));
        assert_eq!(receipt.sequence_id, seq);
        let id = receipt.message_id.unwrap();
        (id.ledger_id, id.entry_id)
    }
}

/// A limit of the topic that the broker does not announce, unlike its own.
async fn limit_messages(broker: &Broker, topic: &str, bytes: u64) {
    broker.admin("POST", &format!("persistent/{topic}/maxMessageSize"), &bytes.to_string());
    let applied = || broker.admin("GET", &format!("persistent/{topic}/maxMessageSize?applied=true"), "");
    let is_set = |answer: &String| answer.trim() == bytes.to_string();
    eventually("the topic's limit", std::time::Duration::from_secs(30), applied, is_set).await;
}

const DROPPED: (u64, u64) = (u64::MAX, u64::MAX);

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_straddles_what_is_stored_is_dropped_and_acknowledged_by_pulsar() {
    let broker = Broker::shared();
    broker.create_namespace("trap/telemetry");
    broker.create_partitioned_topic("trap/telemetry/telemetry", 1);
    let partition = "persistent://trap/telemetry/telemetry-partition-0";
    let mut raw = Raw::open(&broker, partition, "n.i.raw", "n.i.raw@c").await;
    assert_eq!(raw.last, -1, "a new producer: the broker knows none");
    assert_ne!(raw.batch(1, 10).await, DROPPED);
    drop(raw);
    // A disruption before the receipt: the naive way is to send again from the first unconfirmed event.
    let mut raw = Raw::open(&broker, partition, "n.i.raw", "n.i.raw@c").await;
    assert_eq!(raw.last, 10);
    assert_eq!(raw.batch(5, 20).await, DROPPED, "the whole batch is dropped, and acknowledged");
    drop(raw);
    let counted = count(&broker.service_url(), "persistent://trap/telemetry/telemetry");
    assert_eq!(counted.highest, 10, "events 11 to 20 are lost with a success: {counted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_uplink_in_the_same_situation_loses_nothing() {
    let broker = Broker::shared();
    broker.create_namespace("rule/telemetry");
    broker.create_partitioned_topic("rule/telemetry/telemetry", 1);
    let mut config = config(&broker.service_url(), "rule");
    config.uplink.pulsar.clear();
    let mut edge = Edge::start(config.clone());
    edge.append(20, 3, 50).await;
    // The broker has 1 to 10 from a life of this edge that died before it could move its cursor.
    let stream = format!("test-node.{}.telemetry", edge.outbox.incarnation());
    let partition = "persistent://rule/telemetry/telemetry-partition-0";
    let mut raw = Raw::open(&broker, partition, &stream, &format!("{stream}@standalone")).await;
    assert_ne!(raw.batch(1, 10).await, DROPPED);
    drop(raw);
    config.uplink.pulsar = vec![broker.service_url()];
    edge.connect(&config);
    eventually("all confirmed", std::time::Duration::from_secs(30), || edge.confirmed(), |c| *c == 20).await;
    assert_eq!((edge.counter("resumed_events"), edge.counter("duplicate_events")), (10, 10));
    edge.disconnect().await;
    let counted = count(&broker.service_url(), "persistent://rule/telemetry/telemetry");
    assert_eq!((counted.messages, counted.distinct, counted.missing, counted.highest), (20, 20, 0, 20), "{counted:?}");
}

/// The other side of the same comparison: the broker refuses one unit and stores the next. The first can never be
/// stored any more, and sent again it is acknowledged. The lane must not take that for a success.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_event_that_was_overtaken_is_not_taken_for_stored() {
    let broker = Broker::shared();
    broker.create_namespace("limit/telemetry");
    broker.create_partitioned_topic("limit/telemetry/telemetry", 1);
    limit_messages(&broker, "limit/telemetry/telemetry", 3000).await;
    let mut config = config(&broker.service_url(), "limit");
    // Each event in a batch of its own, all on their way at once.
    config.uplink.batch_events = 1;
    let mut edge = Edge::start(config);
    edge.append(1, 1, 5000).await;
    edge.append(1, 1, 50).await;
    let within = std::time::Duration::from_secs(30);
    for (limit, words) in [(3000, "Exceed maximum message size"), (10_000, "stored later ones")] {
        // The broker looks at the size first: only under a wider limit does it get as far as the comparison.
        limit_messages(&broker, "limit/telemetry/telemetry", limit).await;
        let told = |e: &Option<String>| e.as_deref().is_some_and(|e| e.contains(words));
        eventually(words, within, || edge.link().last_error, told).await;
        assert_eq!(edge.confirmed(), 0);
    }
    edge.disconnect().await;
    let counted = count(&broker.service_url(), "persistent://limit/telemetry/telemetry");
    assert_eq!((counted.messages, counted.highest), (1, 2), "the second is there, the first is not: {counted:?}");
}
