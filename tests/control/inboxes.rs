//! Inboxes against a real broker and a false one: many at a time, one that cannot be written, one that never answers, and a
//! connection that nobody has used for long.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::StreamExt as _;
use futures_util::stream;
use pulsar::message::Codec;
use pulsar::message::proto::{self, BaseCommand, base_command::Type};
use tidegate::cloud::control::wire::{Cluster, Inboxes, NotSent, Outgoing};
use tidegate::config::CloudConfig;
use tidegate::pulsar::names;
use tidegate::pulsar::wire::frame;
use tidegate::sys::clock::Clock;
use tidegate::sys::tasks::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::Decoder as _;

use crate::support::broker::{Broker, Options};
use crate::support::setting;
use crate::wire::{message, reader, ready, take, texts};

/// As many at a time as the controller sends.
const WINDOW: usize = 256;

const ALWAYS: fn() -> bool = || true;

async fn send_all(inboxes: &Inboxes, messages: Vec<(String, Outgoing)>) -> Vec<Result<(), NotSent>> {
    let sent =
        stream::iter(messages).map(|(topic, message)| async move { inboxes.send(&topic, &message, ALWAYS).await });
    sent.buffered(WINDOW).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_inboxes_get_their_messages_and_one_that_is_terminated_holds_nobody_up() {
    let broker = Broker::shared();
    let (_, cluster) = ready(&broker, "many");
    let nodes = usize::try_from(setting("TIDEGATE_TEST_INBOXES", 300)).unwrap();
    let tasks = Tasks::new();
    let inboxes = Inboxes::new(&tasks, cluster.clone(), Clock::system());
    let messages = |round: usize| {
        let message = move |n| (names::inbox_topic("many", &format!("node-{n}")), message(&format!("{round}-{n}")));
        (0..nodes).map(message).collect::<Vec<_>>()
    };
    for round in 0..3 {
        let begun = Instant::now();
        let sent = send_all(&inboxes, messages(round)).await;
        assert!(sent.iter().all(Result::is_ok), "{:?}", sent.iter().find(|s| s.is_err()));
        println!("{nodes} inboxes, round {round}: {:?}", begun.elapsed());
    }
    broker.admin("POST", "persistent/many/control/inbox-node-0/terminate", "");
    let begun = Instant::now();
    let sent = send_all(&inboxes, messages(3)).await;
    println!("one of them is terminated: {:?}", begun.elapsed());
    assert!(matches!(&sent[0], Err(NotSent::Topic(why)) if why.contains("erminated")), "{:?}", sent[0]);
    assert!(sent[1..].iter().all(Result::is_ok), "{:?}", sent[1..].iter().find(|s| s.is_err()));

    let not_due = inboxes.send(&names::inbox_topic("many", "node-1"), &message("late"), || false).await;
    assert_eq!(not_due, Err(NotSent::Stale));
    for n in [1, nodes / 2, nodes - 1] {
        let heard = reader(&tasks, &cluster, &names::inbox_topic("many", &format!("node-{n}")));
        let expected: Vec<String> = (0..4).map(|round| format!("{round}-{n}")).collect();
        assert_eq!(texts(&take(&heard, 4)), expected);
    }
    tasks.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_quiet_time_the_next_message_goes_out_at_once() {
    let conf = vec!["keepAliveIntervalSeconds=1".to_owned()];
    let broker = Broker::start_with(Options { conf, proxied: true, ..Options::default() });
    let (_, cluster) = ready(&broker, "quiet");
    let tasks = Tasks::new();
    let inboxes = Inboxes::new(&tasks, cluster, Clock::system());
    let topic = names::commands_topic("quiet", "press-7");
    let send = async |text: &str| inboxes.send(&topic, &message(text), ALWAYS).await;
    assert_eq!(send("first").await, Ok(()));
    // Several keep-alives: a broker closes a connection on which it was not answered.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(send("second").await, Ok(()));
    // It is cut without a word.
    broker.proxy().cut();
    assert_eq!(send("third").await, Ok(()));
    tasks.stop(Duration::from_secs(5)).await;
}

/// A broker that never says whether the producer of this topic is open.
const MUTE: &str = "persistent://false/control/inbox-mute";

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_that_never_answers_holds_nobody_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("pulsar://{}", listener.local_addr().unwrap());
    let (tasks, stored) = (Tasks::new(), Arc::new(AtomicUsize::new(0)));
    let (of, at, counts) = (tasks.clone(), url.clone(), stored.clone());
    tasks.spawn_contained("false broker", async move {
        while let Ok((stream, _)) = listener.accept().await {
            of.spawn_contained("false connection", serve(stream, at.clone(), counts.clone()));
        }
    });
    let pulsar = tidegate::config::cloud::Pulsar { service: url, ..CloudConfig::default().pulsar };
    let inboxes = Inboxes::new(&tasks, Cluster::of(&pulsar).unwrap(), Clock::system());
    let (told, tells) = mpsc::channel();
    let mute = inboxes.clone();
    tasks.spawn_contained("mute", async move {
        let _ = told.send(mute.send(MUTE, &message("x"), ALWAYS).await);
    });
    let others = (0..2_000).map(|n| (names::inbox_topic("false", &format!("node-{n}")), message("x")));
    let begun = Instant::now();
    let sent = send_all(&inboxes, others.collect()).await;
    println!("2000 others: {:?}", begun.elapsed());
    assert!(sent.iter().all(Result::is_ok), "{:?}", sent.iter().find(|s| s.is_err()));
    assert_eq!(stored.load(Ordering::Relaxed), 2_000);
    let outcome = tokio::task::spawn_blocking(move || tells.recv_timeout(Duration::from_secs(90))).await.unwrap();
    assert!(matches!(&outcome, Ok(Err(NotSent::Topic(why))) if why.contains("30 s")), "{outcome:?}");
    tasks.stopping().cancel();
}

/// Says yes to everything but [`MUTE`].
async fn serve(mut stream: TcpStream, url: String, stored: Arc<AtomicUsize>) {
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    while stream.read_buf(&mut input).await.is_ok_and(|n| n > 0) {
        while let Some(asked) = Codec.decode(&mut input).unwrap() {
            let Some(answer) = answer(asked.command, &url, &stored) else { continue };
            frame::command(&mut output, &answer);
        }
        stream.write_all(&output.split()).await.unwrap();
    }
}

fn answer(asked: BaseCommand, url: &str, stored: &AtomicUsize) -> Option<BaseCommand> {
    let mut answer = BaseCommand::default();
    if asked.connect.is_some() {
        answer.r#type = Type::Connected as i32;
        answer.connected = Some(proto::CommandConnected::default());
    } else if let Some(lookup) = asked.lookup_topic {
        answer.r#type = Type::LookupResponse as i32;
        answer.lookup_topic_response = Some(proto::CommandLookupTopicResponse {
            broker_service_url: Some(url.to_owned()),
            response: Some(proto::command_lookup_topic_response::LookupType::Connect as i32),
            request_id: lookup.request_id,
            ..Default::default()
        });
    } else if let Some(producer) = asked.producer.filter(|producer| producer.topic != MUTE) {
        answer.r#type = Type::ProducerSuccess as i32;
        let (request_id, producer_name) = (producer.request_id, producer.producer_name.unwrap());
        answer.producer_success =
            Some(proto::CommandProducerSuccess { request_id, producer_name, ..Default::default() });
    } else if let Some(send) = asked.send {
        stored.fetch_add(1, Ordering::Relaxed);
        answer.r#type = Type::SendReceipt as i32;
        let (producer_id, sequence_id) = (send.producer_id, send.sequence_id);
        answer.send_receipt = Some(proto::CommandSendReceipt { producer_id, sequence_id, ..Default::default() });
    } else if let Some(close) = asked.close_producer {
        answer.r#type = Type::Success as i32;
        answer.success = Some(proto::CommandSuccess { request_id: close.request_id, schema: None });
    } else if asked.ping.is_some() {
        answer.r#type = Type::Pong as i32;
        answer.pong = Some(proto::CommandPong {});
    } else {
        return None;
    }
    Some(answer)
}
