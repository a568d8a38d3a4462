//! Lookup as a cluster does it, with brokers played by the test: redirections, several owners, a proxy.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use pulsar::message::proto::command_lookup_topic_response::LookupType;
use pulsar::message::proto::{
    CommandConnected, CommandError, CommandLookupTopicResponse, CommandPartitionedTopicMetadataResponse,
    CommandProducerSuccess, ServerError,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::pulsar::credentials::Credentials;
use crate::pulsar::wire::frame;

/// What brokers were asked, as "who: what".
type Log = Arc<Mutex<Vec<String>>>;
/// Answers a lookup of a topic, by the word of another broker or not.
type Lookup = Arc<dyn Fn(&str, bool) -> CommandLookupTopicResponse + Send + Sync>;

struct Fake {
    name: &'static str,
    listener: TcpListener,
}

impl Fake {
    async fn bind(name: &'static str) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("pulsar://{}", listener.local_addr().unwrap());
        (Self { name, listener }, url)
    }

    /// Takes connections for ever.
    fn run(self, log: Log, lookup: Lookup) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut clients = futures_util::stream::FuturesUnordered::new();
            loop {
                tokio::select! {
                    client = self.listener.accept() => {
                        clients.push(serve(client.unwrap().0, self.name, log.clone(), lookup.clone()));
                    }
                    Some(()) = futures_util::StreamExt::next(&mut clients) => {}
                }
            }
        })
    }
}

async fn serve(mut client: TcpStream, name: &'static str, log: Log, lookup: Lookup) {
    let mut input = BytesMut::new();
    loop {
        while let Some(command) = frame::next_command(&mut input).unwrap() {
            let mut out = BytesMut::new();
            frame::command(&mut out, &answer(&command, name, &log, &lookup));
            client.write_all(&out).await.unwrap();
        }
        if client.read_buf(&mut input).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

fn answer(command: &BaseCommand, name: &str, log: &Log, lookup: &Lookup) -> BaseCommand {
    let note = |what: String| log.lock().unwrap().push(format!("{name}: {what}"));
    let mut answer = BaseCommand::default();
    if let Some(connect) = &command.connect {
        if let Some(proxied) = &connect.proxy_to_broker_url {
            note(format!("proxy to {proxied}"));
        }
        answer.r#type = Type::Connected as i32;
        answer.connected = Some(CommandConnected { server_version: "fake".into(), ..CommandConnected::default() });
    } else if let Some(asked) = &command.partition_metadata {
        answer.r#type = Type::PartitionedMetadataResponse as i32;
        answer.partition_metadata_response = Some(CommandPartitionedTopicMetadataResponse {
            request_id: asked.request_id,
            partitions: Some(2),
            ..CommandPartitionedTopicMetadataResponse::default()
        });
    } else if let Some(asked) = &command.lookup_topic {
        answer.r#type = Type::LookupResponse as i32;
        let mut found = lookup(&asked.topic, asked.authoritative());
        found.request_id = asked.request_id;
        answer.lookup_topic_response = Some(found);
    } else if let Some(asked) = &command.producer {
        note(format!("producer {} on {}", asked.producer_id, asked.topic));
        answer.r#type = Type::ProducerSuccess as i32;
        answer.producer_success = Some(CommandProducerSuccess {
            request_id: asked.request_id,
            producer_name: asked.producer_name.clone().unwrap(),
            last_sequence_id: Some(asked.producer_id as i64 * 10 - 1),
            ..CommandProducerSuccess::default()
        });
    }
    answer
}

fn found(kind: LookupType, url: &str) -> CommandLookupTopicResponse {
    CommandLookupTopicResponse {
        broker_service_url: Some(url.to_owned()),
        response: Some(kind as i32),
        authoritative: Some(true),
        ..CommandLookupTopicResponse::default()
    }
}

fn connector() -> Connector {
    Connector { credentials: Credentials::None, ca_file: None, connect_timeout: Duration::from_secs(10) }
}

async fn opened(url: &str, brokers: Vec<BoxFuture<'static, ()>>) -> Result<Session, LaneError> {
    let connector = connector();
    tokio::select! {
        outcome = open(&connector, url, "persistent://t/n/l", "me") => outcome,
        _ = futures_util::future::join_all(brokers) => unreachable!("they run for ever"),
    }
}

fn sorted(log: &Log) -> Vec<String> {
    let mut log = log.lock().unwrap().clone();
    log.sort();
    log
}

#[tokio::test]
async fn redirections_are_followed_to_each_partitions_owner() {
    let log = Log::default();
    let ((a, a_url), (b, b_url)) = (Fake::bind("a").await, Fake::bind("b").await);
    let (to_a, to_b) = (a_url.clone(), b_url);
    let at_a: Lookup = Arc::new(move |topic, authoritative| {
        assert!(!authoritative);
        // a owns partition 0, and sends to b for the other.
        if topic.ends_with('0') { found(LookupType::Connect, &to_a) } else { found(LookupType::Redirect, &to_b) }
    });
    let b_again = format!("pulsar://{}", b.listener.local_addr().unwrap());
    let at_b: Lookup = Arc::new(move |_, authoritative| {
        assert!(authoritative, "b is asked by the word of a");
        found(LookupType::Connect, &b_again)
    });
    let session = opened(&a_url, vec![a.run(log.clone(), at_a), b.run(log.clone(), at_b)]).await.unwrap();
    let last: Vec<_> = session.producers.iter().map(|p| p.last).collect();
    assert_eq!(last, [None, Some(9)], "-1 means none");
    assert_eq!(session.connections.len(), 2);
    let expected =
        ["a: producer 0 on persistent://t/n/l-partition-0", "b: producer 1 on persistent://t/n/l-partition-1"];
    assert_eq!(sorted(&log), expected);
}

#[tokio::test]
async fn a_proxy_is_told_which_broker_is_meant() {
    let log = Log::default();
    let (proxy, url) = Fake::bind("proxy").await;
    let behind: Lookup = Arc::new(|_, _| CommandLookupTopicResponse {
        proxy_through_service_url: Some(true),
        ..found(LookupType::Connect, "pulsar://broker-7.internal:6650")
    });
    let session = opened(&url, vec![proxy.run(log.clone(), behind)]).await.unwrap();
    assert_eq!((session.connections.len(), session.producers.len()), (1, 2));
    assert!(sorted(&log).contains(&"proxy: proxy to broker-7.internal:6650".to_owned()), "{log:?}");
}

#[tokio::test]
async fn brokers_that_send_in_circles_are_given_up() {
    let (a, url) = Fake::bind("a").await;
    let here = url.clone();
    let around: Lookup = Arc::new(move |_, _| found(LookupType::Redirect, &here));
    let error = opened(&url, vec![a.run(Log::default(), around)]).await.err().unwrap();
    assert!(matches!(error, LaneError::Link(LinkError::Redirects { .. })), "{error}");
}

#[test]
fn a_refused_producer_is_said_in_words() {
    let error =
        CommandError { request_id: 1, error: ServerError::ProducerBusy as i32, message: "taken\nat a.b.C".into() };
    let error =
        lookup::last_sequence("b:1", "t", BaseCommand { error: Some(error), ..BaseCommand::default() }).unwrap_err();
    assert!(error.to_string().contains("taken (ProducerBusy); another process uses"), "{error}");
}
