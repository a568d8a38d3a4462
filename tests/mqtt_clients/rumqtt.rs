//! rumqttc, both of its clients. Each is driven by hand: nothing happens to a client while nobody waits for it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::harness::{Gate, PATIENCE, STORY};

/// Topic, payload, quality of service, retain.
type Message = (String, String, u8, bool);

/// The same words for two libraries with the same names.
macro_rules! story {
    () => {
        struct Device {
            client: AsyncClient,
            events: EventLoop,
            tag: &'static str,
            messages: VecDeque<Message>,
        }

        impl Device {
            fn new(gate: &Gate, tag: &'static str, name: &str, change: impl FnOnce(&mut MqttOptions)) -> Self {
                let mut options = MqttOptions::new(format!("{tag}-{name}"), "localhost", gate.tcp);
                options.set_keep_alive(Duration::from_secs(30));
                lasts(&mut options, false);
                change(&mut options);
                let (client, events) = AsyncClient::new(options, 100);
                Self { client, events, tag, messages: VecDeque::new() }
            }

            async fn enter(gate: &Gate, tag: &'static str, name: &str) -> Self {
                Self::new(gate, tag, name, |_| {}).entered(false).await
            }

            async fn entered(mut self, present: bool) -> Self {
                match self.poll().await.unwrap() {
                    Event::Incoming(Packet::ConnAck(connack)) => assert_eq!(connack.session_present, present),
                    other => panic!("{other:?}"),
                }
                self
            }

            async fn poll(&mut self) -> Result<Event, ConnectionError> {
                tokio::time::timeout(PATIENCE, self.events.poll()).await.expect("something happens")
            }

            /// Polls until `done`; messages that come meanwhile wait.
            async fn until(&mut self, done: impl Fn(&Event) -> bool) -> Event {
                loop {
                    let event = self.poll().await.unwrap();
                    if let Event::Incoming(Packet::Publish(p)) = &event {
                        let payload = String::from_utf8(p.payload.to_vec()).unwrap();
                        self.messages.push_back((topic_of(p), payload, p.qos as u8, p.retain));
                    }
                    if done(&event) {
                        return event;
                    }
                }
            }

            async fn subscribe(&mut self, topic: &str, qos: QoS) {
                self.client.subscribe(format!("{}/{topic}", self.tag), qos).await.unwrap();
                let answer = self.until(|e| matches!(e, Event::Incoming(Packet::SubAck(_)))).await;
                let Event::Incoming(Packet::SubAck(answer)) = answer else { unreachable!() };
                assert_eq!(format!("{:?}", answer.return_codes), format!("[Success({qos:?})]"));
            }

            async fn publish(&mut self, topic: &str, payload: &str, qos: QoS, retain: bool) {
                self.client.publish(format!("{}/{topic}", self.tag), qos, retain, payload.to_owned()).await.unwrap();
                self.until(|e| match qos {
                    QoS::AtMostOnce => matches!(e, Event::Outgoing(Outgoing::Publish(_))),
                    QoS::AtLeastOnce => matches!(e, Event::Incoming(Packet::PubAck(_))),
                    QoS::ExactlyOnce => matches!(e, Event::Incoming(Packet::PubComp(_))),
                })
                .await;
            }

            async fn expect(&mut self, topic: &str, payload: &str, qos: QoS, retain: bool) {
                if self.messages.is_empty() {
                    self.until(|e| matches!(e, Event::Incoming(Packet::Publish(_)))).await;
                }
                let wanted = (format!("{}/{topic}", self.tag), payload.to_owned(), qos as u8, retain);
                assert_eq!(self.messages.pop_front(), Some(wanted));
            }

            async fn leave(mut self) {
                self.client.disconnect().await.unwrap();
                self.until(|e| matches!(e, Event::Outgoing(Outgoing::Disconnect))).await;
                // The connection ends when the gateway has read that.
                while let Ok(event) = self.poll().await {
                    assert!(!matches!(event, Event::Incoming(Packet::ConnAck(_))), "it is in again");
                }
                assert!(self.messages.is_empty(), "{:?}", self.messages);
            }
        }

        pub async fn story(gate: &Gate, tag: &'static str) {
            let mut watcher = Device::enter(gate, tag, "watcher").await;
            watcher.subscribe("+/#", QoS::ExactlyOnce).await;
            let mut publisher = Device::enter(gate, tag, "publisher").await;
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                publisher.publish("qos/x", "m", qos, false).await;
                watcher.expect("qos/x", "m", qos, false).await;
            }

            publisher.publish("state/now", "kept", QoS::AtLeastOnce, true).await;
            watcher.expect("state/now", "kept", QoS::AtLeastOnce, false).await;
            let mut late = Device::enter(gate, tag, "late").await;
            late.subscribe("state/+", QoS::AtLeastOnce).await;
            late.expect("state/now", "kept", QoS::AtLeastOnce, true).await;
            late.leave().await;

            let mut absent = Device::new(gate, tag, "absent", |o| lasts(o, true)).entered(false).await;
            absent.subscribe("queue/#", QoS::ExactlyOnce).await;
            absent.leave().await;
            let waiting = [
                ("queue/x", "a", QoS::AtLeastOnce),
                ("queue/y/z", "b", QoS::AtLeastOnce),
                ("queue/x", "c", QoS::ExactlyOnce),
            ];
            for (topic, payload, qos) in waiting {
                publisher.publish(topic, payload, qos, false).await;
                watcher.expect(topic, payload, qos, false).await;
            }
            let mut absent = Device::new(gate, tag, "absent", |o| lasts(o, true)).entered(true).await;
            for (topic, payload, qos) in waiting {
                absent.expect(topic, payload, qos, false).await;
            }
            absent.leave().await;

            let last = will(&format!("{tag}/will/mortal"), "gone");
            let mortal = Device::new(gate, tag, "mortal", |o| {
                o.set_last_will(last);
            })
            .entered(false)
            .await;
            drop(mortal);
            watcher.expect("will/mortal", "gone", QoS::AtLeastOnce, false).await;

            let signed = |password: &'static str| {
                move |o: &mut MqttOptions| {
                    o.set_credentials("press-7", password);
                }
            };
            let mut stranger = Device::new(gate, tag, "stranger", signed("wrong"));
            match stranger.poll().await {
                Err(ConnectionError::ConnectionRefused(ConnectReturnCode::BadUserNamePassword)) => {}
                other => panic!("{other:?}"),
            }
            let mut known = Device::new(gate, tag, "known", signed("right")).entered(false).await;
            known.publish("known/x", "mine", QoS::AtLeastOnce, false).await;
            watcher.expect("known/x", "mine", QoS::AtLeastOnce, false).await;
            for device in [known, publisher, watcher] {
                device.leave().await;
            }
        }
    };
}

mod v4 {
    use rumqttc::{
        AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill, MqttOptions, Outgoing, Packet,
        Publish, QoS,
    };

    use super::*;

    fn lasts(options: &mut MqttOptions, lasts: bool) {
        options.set_clean_session(!lasts);
    }

    fn topic_of(publish: &Publish) -> String {
        publish.topic.clone()
    }

    fn will(topic: &str, payload: &str) -> LastWill {
        LastWill::new(topic, payload, QoS::AtLeastOnce, false)
    }

    story!();
}

mod v5 {
    use rumqttc::Outgoing;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, LastWill, Packet, Publish};
    use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};

    use super::*;

    fn lasts(options: &mut MqttOptions, lasts: bool) {
        options.set_clean_start(!lasts);
        options.set_session_expiry_interval(Some(if lasts { 60 } else { 0 }));
    }

    fn topic_of(publish: &Publish) -> String {
        String::from_utf8(publish.topic.to_vec()).unwrap()
    }

    fn will(topic: &str, payload: &str) -> LastWill {
        LastWill::new(topic, payload.to_owned(), QoS::AtLeastOnce, false, None)
    }

    story!();
}

#[tokio::test]
async fn rumqttc_in_both_versions() {
    let mut gate = Gate::start();
    v4::story(&gate, "r4").await;
    gate.stores(STORY);
    v5::story(&gate, "r5").await;
    gate.stores(2 * STORY);
}
