//! Floods of valid packets: each is bounded by a limit of the configuration, and slows others down only a little.

use std::time::Duration;

use crate::gateway::{Flooder, Gateway};
use crate::support::eventually;
use crate::support::mqtt::{Client, Options, Reply, packet, publish_bytes, text};

/// Honest clients wait less than this for one exchange in any flood. In a debug build on a busy machine it is some hundred
/// milliseconds.
const WAIT_MAX: Duration = Duration::from_secs(5);

fn subscribe(id: u16, filters: &[&str], qos: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.push(0);
    for filter in filters {
        body.extend(text(filter));
        body.push(qos);
    }
    packet(0x82, &body)
}

fn unsubscribe(id: u16, filter: &str) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.push(0);
    body.extend(text(filter));
    packet(0xA2, &body)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_qos_0_and_a_subscriber_that_never_reads() {
    let gateway = Gateway::start();
    let tcp = gateway.tcp;
    let (good, waited) = gateway
        .under(async move {
            let mut deaf = Client::connect(tcp, Options::new("deaf").stays()).await;
            deaf.subscribe("flood/#", 1).await;
            let mut deaf0 = Client::connect(tcp, Options::new("deaf-0")).await;
            deaf0.subscribe("flood/#", 0).await;
            let mut good = Client::connect(tcp, Options::new("good")).await;
            good.subscribe("flood/important", 1).await;
            let floods = (0..4).map(|n| async move {
                let mut flooder = Flooder::connect(tcp, Options::new(&format!("flooder-{n}"))).await;
                let publish = publish_bytes(true, &format!("flood/{n}"), &[0; 1000], 0, false, false, 0);
                let many = publish.repeat(500);
                for _ in 0..40 {
                    assert!(flooder.write(&many).await, "a flood of QoS 0 is no fault");
                }
                flooder.end().await
            });
            let important = async {
                let mut publisher = Client::connect(tcp, Options::new("publisher")).await;
                for n in 0..100_u32 {
                    publisher.publish_and_wait("flood/important", n.to_be_bytes()).await;
                    let Reply::Publish { id, payload, .. } = good.next().await else { panic!("not a message") };
                    assert_eq!(payload, n.to_be_bytes());
                    good.answer(0x40, id).await;
                }
                100
            };
            let (_, important) = tokio::join!(futures_util::future::join_all(floods), important);
            drop((deaf, deaf0));
            important
        })
        .await;
    assert!(good == 100 && waited < WAIT_MAX, "{waited:?}");
    assert!(gateway.metric("dropped_total{reason=\"slow\"}") > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_that_come_and_go() {
    let gateway = Gateway::start();
    let tcp = gateway.tcp;
    let (heard, waited) = gateway
        .under(async move {
            let mut flooder = Flooder::connect(tcp, Options::new("flooder").stays()).await;
            for round in 0..100 {
                let mut bytes = Vec::new();
                for n in 0..100 {
                    bytes.extend(subscribe(1, &[&format!("flood/{round}/{n}/+/x")], 1));
                    if n % 2 == 0 {
                        bytes.extend(unsubscribe(2, &format!("flood/{round}/{n}/+/x")));
                    }
                }
                assert!(flooder.write(&bytes).await);
            }
            flooder.hear(11, 5_000).await;
            flooder.end().await
        })
        .await;
    // Beyond a hundred they are refused one by one, and the client stays.
    assert_eq!((heard.packets[9], heard.packets[11]), (10_000, 5_000));
    assert!(waited < WAIT_MAX, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_on_ever_new_topics_and_subscriptions_that_fetch_them_again_and_again() {
    let gateway = Gateway::start();
    let tcp = gateway.tcp;
    let ((), waited) = gateway
        .under(async move {
            let mut flooder = Flooder::connect(tcp, Options::new("flooder")).await;
            for round in 0..30 {
                let mut bytes = Vec::new();
                for n in 0..1000 {
                    bytes.extend(publish_bytes(true, &format!("flood/{round}/{n}"), &[1; 20], 0, true, false, 0));
                }
                assert!(flooder.write(&bytes).await);
            }
            flooder.end().await;
        })
        .await;
    assert!(waited < WAIT_MAX, "{waited:?}");
    let retained = gateway.metric("retained_messages");
    assert!((5_000.0..=10_000.0).contains(&retained), "{retained}");
    // Each filter asks for all of them.
    for qos in [0, 1] {
        let (heard, waited) = gateway
            .under(async move {
                let mut flooder = Flooder::connect(tcp, Options::new("flooder")).await;
                flooder.write(&subscribe(1, &["#"; 5000], qos)).await;
                flooder.write(&subscribe(1, &["#"], qos).repeat(300)).await;
                flooder.hear(9, 301).await;
                flooder.end().await
            })
            .await;
        println!("{} answers, {} messages", heard.packets[9], heard.packets[3]);
        assert!(waited < WAIT_MAX, "{waited:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_with_ever_new_names_and_sessions_that_stay() {
    let gateway = Gateway::start();
    let tcp = gateway.tcp;
    let ((taken, refused), waited) = gateway
        .under(async move {
            let waves = (0..8).map(|wave| async move {
                let (mut taken, mut refused) = (0, 0);
                for n in 0..200 {
                    let stream = tokio::net::TcpStream::connect(tcp).await.unwrap();
                    let mut client = Client::raw(stream, true);
                    let options = Options::new(&format!("name-{wave}-{n}")).stays().will("flood/will", "gone");
                    client.write(&options.bytes()).await;
                    match client.next().await {
                        Reply::Connack { reason: 0, .. } => taken += 1,
                        Reply::Connack { reason: 0x97, .. } => refused += 1,
                        other => panic!("{other:?}"),
                    }
                }
                (taken, refused)
            });
            let all = futures_util::future::join_all(waves).await;
            all.into_iter().fold((0, 0), |sum, each| (sum.0 + each.0, sum.1 + each.1))
        })
        .await;
    println!("{taken} taken, {refused} refused");
    assert!(taken >= 399 && taken + refused == 1600, "{taken} {refused}");
    assert!(waited < WAIT_MAX, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_name_for_many_clients() {
    let gateway = Gateway::start();
    let tcp = gateway.tcp;
    let (_, waited) = gateway
        .under(async move {
            let storm = (0..16).map(|n| async move {
                for i in 0..100 {
                    let options =
                        Options { v5: (n + i) % 2 == 0, clean: (n + i) % 5 == 0, ..Options::new("same").stays() };
                    let mut flooder = Flooder::connect(tcp, options).await;
                    flooder.write(&publish_bytes((n + i) % 2 == 0, "flood/storm", b"1", 2, false, false, 1)).await;
                    if i % 3 == 0 {
                        flooder.end().await;
                    }
                }
            });
            futures_util::future::join_all(storm).await
        })
        .await;
    assert!(waited < WAIT_MAX, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_aliases() {
    let gateway = Gateway::start();
    let tcp = gateway.tcp;
    let with_alias = |topic: &str, alias: u16| {
        let mut body = text(topic);
        body.extend([3, 0x23]);
        body.extend(alias.to_be_bytes());
        packet(0x30, &body)
    };
    // Above the maximum, and never taught.
    for (topic, alias) in [("flood/x", 17), ("", 3), ("", 17), ("flood/x", 65_535)] {
        let mut client = Client::connect(tcp, Options::new("a")).await;
        client.write(&with_alias(topic, alias)).await;
        assert_eq!(client.next().await, Reply::Disconnect { reason: 0x94 }, "{topic} {alias}");
    }
    let (_, waited) = gateway
        .under(async move {
            // Taught anew again and again: the last topic is all that stays.
            let mut flooder = Flooder::connect(tcp, Options::new("flooder")).await;
            for round in 0..40 {
                let mut bytes = Vec::new();
                for n in 0..1000_u16 {
                    bytes.extend(with_alias(&format!("flood/{round}/{n}/{}", "x".repeat(200)), n % 16 + 1));
                }
                assert!(flooder.write(&bytes).await);
            }
            flooder.end().await
        })
        .await;
    assert!(waited < WAIT_MAX, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_of_what_was_never_sent_and_exchanges_that_are_never_ended() {
    let gateway = Gateway::start();
    let tcp = gateway.tcp;
    let ((answered, open), waited) = gateway
        .under(async move {
            let mut flooder = Flooder::connect(tcp, Options::new("flooder").stays()).await;
            for first in [0x40, 0x50, 0x62, 0x70] {
                let bytes: Vec<u8> = (1..=10_000_u16).flat_map(|id| packet(first, &id.to_be_bytes())).collect();
                assert!(flooder.write(&bytes).await, "{first:#x}");
            }
            flooder.hear(6, 10_000).await;
            flooder.hear(7, 10_000).await;
            let answered = flooder.end().await;
            // 3.1.1 knows no receive maximum, but what is never released ends at ten times ours.
            let mut flooder = Flooder::connect(tcp, Options::v311("open").stays()).await;
            // Heard before the end: what lies unread when the connection is reset is lost.
            let mut id = 0;
            while id < 150 {
                id += 1;
                assert!(flooder.write(&publish_bytes(false, "flood/open", b"1", 2, false, false, id)).await);
            }
            flooder.hear(5, 150).await;
            while id < u16::MAX
                && flooder.write(&publish_bytes(false, "flood/open", b"1", 2, false, false, id + 1)).await
            {
                id += 1;
            }
            (answered, flooder.end().await)
        })
        .await;
    // PUBREC is answered with PUBREL, PUBREL with PUBCOMP (both "packet identifier not found").
    assert_eq!((answered.packets[6], answered.packets[7]), (10_000, 10_000));
    assert!((150..=200).contains(&open.packets[5]), "{:?}", open.packets);
    assert!(waited < WAIT_MAX, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_and_never_reads_the_answers() {
    let gateway = Gateway::start();
    let tcp = gateway.tcp;
    let ((), waited) = gateway
        .under(async move {
            let mut clients = Vec::new();
            for n in 0..20 {
                clients.push(Client::connect(tcp, Options::new(&format!("mute-{n}"))).await);
            }
            let ask = |mut client: Client| async move {
                let pings = [0xC0, 0].repeat(1 << 20);
                // It is not read any more once nothing more fits into its socket.
                let _ = tokio::time::timeout(Duration::from_secs(3), client.write(&pings)).await;
            };
            futures_util::future::join_all(clients.into_iter().map(ask)).await;
        })
        .await;
    assert!(waited < WAIT_MAX, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_absent_is_given_no_more_than_may_wait() {
    let gateway = Gateway::start();
    let tcp = gateway.tcp;
    let mut absent = Client::connect(tcp, Options::new("absent").stays()).await;
    absent.subscribe("flood/#", 2).await;
    drop(absent);
    let mut flooder = Flooder::connect(tcp, Options::new("flooder")).await;
    for id in 1..=2000_u16 {
        assert!(flooder.write(&publish_bytes(true, "flood/x", &[0; 100], 1, false, false, id % 20 + 1)).await);
        if id % 20 == 0 {
            let done = || gateway.metric("messages_total{qos=\"1\",fate=\"local\"}");
            eventually("twenty are answered", WAIT_MAX, done, |n| *n >= f64::from(id)).await;
        }
    }
    assert!(gateway.metric("queued_messages") <= 200.0);
    flooder.end().await;
    let ((), _) = gateway.under(async {}).await;
}
