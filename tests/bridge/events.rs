//! What becomes of messages: attributes, qualities of service, retained ones.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Gateway, PATIENCE, extension};
use crate::support::mosquitto::Mosquitto;

#[tokio::test]
async fn a_message_becomes_the_event_that_its_topic_says() {
    let broker = Mosquitto::start();
    let mapping = "[[mapping]]\ntopic = \"plants/{plant}/{device}/#\"\ntype = \"{topic}.{client}\"\n\
                   subject = \"{plant}.{device}\"\ncontent_type = \"text/plain\"\n\
                   [[mapping]]\ntopic = \"noise/#\"\nupstream = false\n";
    let mut gateway = Gateway::start(&broker.url(), "", mapping);
    gateway.wait_connected();
    broker.publish(&["-t", "noise/x", "-m", "no", "-q", "1"]);
    broker.publish(&["-t", "devices/press/motor/alarm", "-m", "{\"v\":1}", "-q", "1"]);
    broker.publish(&["-t", "plants/7/press/speed", "-m", "12", "-q", "2"]);
    broker.publish(&["-t", "anything", "-n", "-q", "0"]);
    gateway.wait_stored(3);
    let events = gateway.events().await;
    assert_eq!(events.len(), 3);
    let [alarm, speed, anything] = &events[..] else { panic!() };
    assert_eq!((alarm.ty.as_str(), alarm.subject.as_deref()), ("motor.alarm", Some("press")));
    assert_eq!((alarm.source.as_str(), &alarm.data[..]), ("/nodes/edge/mqtt/old", &b"{\"v\":1}"[..]));
    assert_eq!(extension(alarm, "mqtttopic"), Some("devices/press/motor/alarm"));
    assert_eq!((speed.ty.as_str(), speed.subject.as_deref()), ("plants.7.press.speed.old", Some("7.press")));
    assert_eq!(speed.datacontenttype.as_deref(), Some("text/plain"));
    assert_eq!((anything.ty.as_str(), anything.subject.as_deref()), ("mqtt.message", Some("anything")));
    assert!(anything.data.is_empty());
}

#[tokio::test]
async fn in_5_0_a_message_may_be_a_cloud_event_and_a_bad_one_is_kept_as_data() {
    let broker = Mosquitto::start();
    let mut gateway = Gateway::start(&broker.url(), "version = \"5.0\"", "");
    gateway.wait_connected();
    let property = |text: &'static str| text.split(' ').collect::<Vec<_>>();
    let publish = |more: &str, payload: &str| {
        let mut arguments = vec!["-V", "mqttv5", "-q", "1", "-t", "devices/a/t", "-m", payload];
        let owned = more.to_owned().leak();
        arguments.extend(property(owned));
        broker.publish(&arguments);
    };
    publish(
        "-D publish user-property specversion 1.0 -D publish user-property id 7 -D publish user-property site x",
        "1",
    );
    let structured = "-D publish content-type application/cloudevents+json";
    publish(structured, r#"{"specversion":"1.0","id":"8","source":"urn:s","type":"z","data":2}"#);
    publish(structured, "{");
    gateway.wait_stored(3);
    let events = gateway.events().await;
    let [binary, structured, bad] = &events[..] else { panic!("{events:?}") };
    assert_eq!((binary.id.as_str(), binary.ty.as_str(), extension(binary, "site")), ("7", "t", Some("x")));
    assert_eq!((structured.id.as_str(), structured.ty.as_str(), &structured.data[..]), ("8", "z", &b"2"[..]));
    assert_eq!((bad.ty.as_str(), bad.datacontenttype.as_deref(), &bad.data[..]), ("t", None, &b"{"[..]));
}

#[tokio::test]
async fn a_retained_message_is_stored_once_in_3_1_1() {
    retained("3.1.1").await;
}

#[tokio::test]
async fn a_retained_message_is_stored_once_in_5_0() {
    retained("5.0").await;
}

/// Over restarts, cut connections, and a broker that has forgotten everything but what it retains.
async fn retained(version: &str) {
    let mut broker = Mosquitto::start();
    broker.publish(&["-t", "devices/a/mode", "-m", "auto", "-q", "1", "-r"]);
    let mut gateway = Gateway::start(&broker.url(), &format!("version = \"{version}\""), "");
    gateway.wait_stored(1);
    for _ in 0..3 {
        assert_eq!(gateway.process.terminate(PATIENCE), Some(0));
        gateway.process.restart();
        gateway.wait_connected();
    }
    broker.stop();
    std::fs::remove_file(broker.dir().join("mosquitto.db")).unwrap();
    broker.restart();
    broker.publish(&["-t", "devices/a/mode", "-m", "auto", "-q", "1", "-r"]);
    let arrived = Instant::now();
    while gateway.stored() < 2 && arrived.elapsed() < PATIENCE {
        broker.publish(&["-t", "devices/a/mode", "-m", "manual", "-q", "1"]);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(gateway.counter("sessions_lost"), 1, "{}", gateway.process.log_tail());
    let events = gateway.events().await;
    let times = events.iter().filter(|e| &e.data[..] == b"auto").count();
    // Once as retained. Once more if the bridge was back before the publisher: then it was live, and another message.
    println!("version {version}: the retained message is there {times} times");
    assert!((1..=2).contains(&times), "{times}");
    assert!(events.iter().any(|e| &e.data[..] == b"manual"));
}

#[test]
fn with_local_our_own_subscribers_get_what_comes_from_there() {
    let broker = Mosquitto::start();
    let port = crate::support::ports::free_port();
    let mut gateway =
        Gateway::start(&broker.url(), "local = true", &format!("[mqtt]\nlisten = \"127.0.0.1:{port}\"\n"));
    gateway.wait_connected();
    let subscriber = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-t", "devices/#", "-q", "1", "-v", "-C", "1", "-W", "30"])
        .stdout(Stdio::piped())
        .spawn();
    let mut subscriber = subscriber.unwrap();
    while subscriber.try_wait().unwrap().is_none() {
        broker.publish(&["-t", "devices/a/t", "-m", "1", "-q", "1"]);
        std::thread::sleep(Duration::from_millis(100));
    }
    let out = subscriber.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "devices/a/t 1\n", "{}", gateway.process.log_tail());
}
