//! SUBSCRIBE, UNSUBSCRIBE, retained messages, shared subscriptions (MQTT 5.0 §3.8, §3.10, §4.8).

use super::*;

fn retain(topic: &str, qos: QoS, payload: &str) -> Publish {
    Publish { retain: true, ..message(topic, qos, payload) }
}

fn handling(filter: FilterOptions, retain_handling: RetainHandling) -> FilterOptions {
    FilterOptions { retain_handling, ..filter }
}

/// Paho `test_subscribe_failure`.
#[test]
fn each_filter_gets_its_own_answer() {
    let mut site = Site::new();
    let (a, ..) = site.try_connect(connect("a"), who("", &["test/nosubscribe"]));
    let filters = vec![
        filter("x", ExactlyOnce),
        filter("test/nosubscribe", ExactlyOnce),
        filter("a/#/b", AtMostOnce),
        filter("$share/g", AtMostOnce),
        filter("$share/g/test/nosubscribe", AtMostOnce),
        filter("y", AtMostOnce),
    ];
    let (no, wrong) = (Reason::NOT_AUTHORIZED, Reason::TOPIC_FILTER_INVALID);
    assert_eq!(site.subscribe(a, filters), [Reason(2), no, wrong, wrong, no, Reason(0)]);
    assert_eq!(site.broker.counts().subscriptions, 2);
    let denied = ["test/nosubscribe", "$share/g/test/nosubscribe"].map(|f| Denied::Subscribe(f.to_owned()));
    assert_eq!(site.denied, denied);
}

/// Paho `test_subscribe_failure` wants one topic refused, and its other tests want `#` and `+/+`.
#[test]
fn what_is_denied_to_all_comes_through_no_wider_filter() {
    let deny_subscribe = ["test/secret".to_owned(), "devices/{device}/key".to_owned()].into();
    let mut site = Site::with(Limits { deny_subscribe, ..limits() });
    let (a, ..) = site.try_connect(lasting("a"), who("press-7", &[]));
    let b = site.connect(connect("b"));
    let topics = ["test/open", "test/secret", "devices/press-7/key", "devices/press-8/key"];
    for topic in topics {
        site.send(b, retain(topic, AtLeastOnce, topic));
    }
    assert_eq!(site.subscribe(a, vec![filter("+/#", AtLeastOnce)]), [Reason(1)]);
    let mut found = site.payloads(a);
    found.sort();
    assert_eq!(found, ["devices/press-8/key", "test/open"], "retained");
    let hidden = ["test/secret", "$share/g/test/secret", "devices/press-7/key"].map(|f| filter(f, AtLeastOnce));
    assert_eq!(site.subscribe(a, hidden.into()), [Reason::UNSPECIFIED; 3]);
    for topic in topics {
        site.send(b, message(topic, AtMostOnce, topic));
        site.send(b, message(topic, AtLeastOnce, topic));
    }
    let open = ["test/open", "test/open", "devices/press-8/key", "devices/press-8/key"];
    assert_eq!(site.payloads(a), open);
    site.lose(a);
    for topic in topics {
        site.send(b, message(topic, AtLeastOnce, topic));
    }
    let (a, ..) = site.try_connect(lasting("a"), who("press-7", &[]));
    assert_eq!(site.payloads(a), ["test/open", "devices/press-8/key"], "queued");
    // Of a group it goes to who may have it.
    let (c, ..) = site.try_connect(connect("c"), who("press-8", &[]));
    for member in [a, c] {
        site.subscribe(member, vec![filter("$share/g/devices/#", AtLeastOnce)]);
    }
    for _ in 0..4 {
        site.send(b, message("devices/press-7/key", AtLeastOnce, "k"));
    }
    assert_eq!((site.payloads(a).len(), site.payloads(c).len()), (0, 4));
}

#[test]
fn a_session_has_so_many_subscriptions_and_no_more() {
    let mut site = Site::new();
    let a = site.connect(connect("a"));
    let reasons = site.subscribe(a, (0..12).map(|n| filter(&n.to_string(), AtMostOnce)).collect());
    assert_eq!(reasons[..10], [Reason(0); 10]);
    assert_eq!(reasons[10..], [Reason::QUOTA_EXCEEDED; 2]);
    assert_eq!(site.subscribe(a, vec![filter("3", AtLeastOnce)]), [Reason(1)], "one that it has may change");
    let b = site.connect(connect("b"));
    let long = "x".repeat(60_000);
    let reasons = site.subscribe(b, (0..6).map(|n| filter(&format!("{n}{long}"), AtMostOnce)).collect());
    assert_eq!(reasons[3..], [Reason(0), Reason::QUOTA_EXCEEDED, Reason::QUOTA_EXCEEDED], "by bytes, too");
    site.unsubscribe(b, &[&format!("0{long}")]);
    assert_eq!(site.subscribe(b, vec![filter(&long, AtMostOnce)]), [Reason(0)]);
}

/// Paho `test_unsubscribe`.
#[test]
fn after_unsubscribe_nothing_new_comes() {
    let mut site = Site::new();
    let a = site.connect(connect("a"));
    site.subscribe(a, vec![filter("1", AtLeastOnce), filter("2", AtLeastOnce), filter("$share/g/3", AtLeastOnce)]);
    let none = Reason::NO_SUBSCRIPTION_EXISTED;
    assert_eq!(
        site.unsubscribe(a, &["1", "3", "$share/g/3", "x", "#/x"]),
        [Reason::SUCCESS, none, Reason::SUCCESS, none, Reason::TOPIC_FILTER_INVALID]
    );
    for topic in ["1", "2", "3"] {
        site.send(a, message(topic, AtLeastOnce, topic));
    }
    assert_eq!(site.payloads(a), ["2"]);
}

/// Paho `test_retained_message(s)`.
#[test]
fn retained_messages_come_at_subscribe_marked_and_an_empty_one_clears() {
    for version in [Version::V5, Version::V311] {
        let mut site = Site::new();
        let a = site.connect(Connect { version, ..connect("a") });
        for (topic, qos) in [("t/0", AtMostOnce), ("t/1", AtLeastOnce), ("t/2", ExactlyOnce)] {
            site.send(a, retain(topic, qos, topic));
        }
        site.subscribe(a, vec![filter("+/+", ExactlyOnce)]);
        let received = site.receive(a);
        let seen: Vec<_> = received.iter().map(|p| (&*p.topic, p.qos, p.retain)).collect();
        assert_eq!(seen, [("t/0", AtMostOnce, true), ("t/1", AtLeastOnce, true), ("t/2", ExactlyOnce, true)]);
        let b = site.connect(connect("b"));
        site.subscribe(b, vec![filter("t/1", AtMostOnce)]);
        assert_eq!(site.receive(b)[0].qos, AtMostOnce);
        for (topic, qos) in [("t/0", AtMostOnce), ("t/1", AtLeastOnce), ("t/2", ExactlyOnce)] {
            site.send(a, retain(topic, qos, ""));
        }
        let c = site.connect(connect("c"));
        site.subscribe(c, vec![filter("+/+", ExactlyOnce)]);
        assert!(site.take(c).is_empty());
        assert_eq!((site.broker.counts().retained, site.broker.counts().retained_bytes), (0, 0));
    }
}

#[test]
fn a_retained_qos_2_message_is_retained_when_it_is_stored() {
    let mut site = Site::new();
    let a = site.connect(connect("a"));
    site.publish(a, retain("t", ExactlyOnce, "x"));
    assert_eq!(site.broker.counts().retained, 0);
    site.stored(a, &[(pid(1), Ok(()))]);
    assert_eq!(site.broker.counts().retained, 1);
}

/// Paho `test_subscribe_options`.
#[test]
fn retain_handling_says_when_retained_messages_come() {
    let mut site = Site::new();
    let a = site.connect(lasting("a"));
    site.send(a, retain("t", AtLeastOnce, "x"));
    let t = || filter("t", AtLeastOnce);
    for (how, expected) in [
        (RetainHandling::DoNotSend, 0),
        (RetainHandling::SendIfNew, 0), // known since then
        (RetainHandling::Send, 1),
        (RetainHandling::Send, 1),
    ] {
        site.subscribe(a, vec![handling(t(), how)]);
        assert_eq!(site.receive(a).len(), expected, "{how:?}");
    }
    site.unsubscribe(a, &["t"]);
    site.subscribe(a, vec![handling(t(), RetainHandling::SendIfNew)]);
    assert_eq!(site.receive(a).len(), 1);
    site.bye(a);
    let (a, _) = site.resumes(lasting("a"));
    site.subscribe(a, vec![handling(t(), RetainHandling::SendIfNew)]);
    assert_eq!(site.receive(a).len(), 0, "a resumed session has it");
}

/// Paho `test_subscribe_options`, `test_request_response`.
#[test]
fn no_local_and_retain_as_published() {
    let mut site = Site::new();
    let a = site.connect(connect("a"));
    let b = site.connect(connect("b"));
    let own = FilterOptions { no_local: true, ..filter("t", ExactlyOnce) };
    site.subscribe(a, vec![own.clone()]);
    site.subscribe(b, vec![own]);
    site.send(a, message("t", AtLeastOnce, "from a"));
    assert!(site.take(a).is_empty());
    assert_eq!(site.payloads(b), ["from a"]);
    site.subscribe(
        b,
        vec![FilterOptions { retain_as_published: true, ..filter("u", ExactlyOnce) }, filter("v", ExactlyOnce)],
    );
    for (topic, retained) in [("u", false), ("u", true), ("v", false), ("v", true)] {
        site.send(a, Publish { retain: retained, ..message(topic, AtLeastOnce, "x") });
    }
    assert_eq!(site.receive(b).iter().map(|p| p.retain).collect::<Vec<_>>(), [false, true, false, false]);
    let shared = FilterOptions { no_local: true, ..filter("$share/g/t", AtMostOnce) };
    let subscribe = Subscribe { packet_id: pid(1), subscription_id: None, filters: vec![shared] };
    let close = site.packet(a, Packet::Subscribe(Box::new(subscribe))).close;
    assert_eq!(close.map(|c| c.0), Some(Reason::PROTOCOL_ERROR));
}

/// Paho `test_overlapping_subscriptions`, `test_subscribe_identifiers`.
#[test]
fn overlapping_subscriptions_give_one_message_with_the_highest_qos_and_all_identifiers() {
    let mut site = Site::new();
    let a = site.connect(connect("a"));
    let ids = |publish: &Publish| publish.properties.as_ref().map(|p| p.subscription_ids.clone()).unwrap_or_default();
    site.subscribe_as(a, vec![filter("t/#", ExactlyOnce)], Some(2));
    site.subscribe_as(a, vec![filter("t/+", AtLeastOnce)], Some(456_789));
    site.subscribe(a, vec![filter("t/c", AtMostOnce)]);
    site.send(a, message("t/c", ExactlyOnce, "x"));
    let received = site.receive(a);
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].qos, ExactlyOnce);
    let mut seen = ids(&received[0]);
    seen.sort_unstable();
    assert_eq!(seen, [2, 456_789]);
    site.subscribe(a, vec![filter("t/#", ExactlyOnce)]);
    site.send(a, message("t", AtMostOnce, "x"));
    assert!(ids(&site.receive(a)[0]).is_empty(), "subscribed again without identifier");
    site.send(a, retain("t/r", AtLeastOnce, "x"));
    site.receive(a);
    site.subscribe_as(a, vec![filter("t/+", AtLeastOnce)], Some(7));
    assert_eq!(ids(&site.receive(a)[0]), [7], "of the subscription that asked for it");
}

/// Paho `test_shared_subscriptions`.
#[test]
fn a_shared_subscription_gives_each_message_to_one_member_in_turn() {
    let mut site = Site::new();
    let members: Vec<_> = ["a", "b", "c"].iter().map(|name| site.connect(connect(name))).collect();
    site.send(members[0], retain("t", AtLeastOnce, "retained"));
    for &member in &members {
        site.subscribe(member, vec![filter("$share/g/t", ExactlyOnce), filter("$share/h/+", AtMostOnce)]);
        assert!(site.take(member).is_empty(), "no retained messages (§4.8.2)");
    }
    let p = site.connect(connect("p"));
    for _ in 0..30 {
        site.send(p, message("t", AtLeastOnce, "x"));
    }
    let each: Vec<_> = members.iter().map(|&m| site.receive(m)).collect();
    assert_eq!(each.iter().map(Vec::len).sum::<usize>(), 60, "one of each group");
    for qos in [AtLeastOnce, AtMostOnce] {
        let counts: Vec<_> = each.iter().map(|got| got.iter().filter(|p| p.qos == qos).count()).collect();
        assert!(counts.iter().all(|n| (7..=13).contains(n)), "{counts:?}");
    }
}

#[test]
fn a_shared_message_goes_to_whom_can_take_it_now() {
    let mut site = Site::new();
    let shared = || vec![filter("$share/g/t", AtLeastOnce)];
    let p = site.connect(connect("p"));
    let absent = site.connect(lasting("absent"));
    site.subscribe(absent, shared());
    site.bye(absent);
    site.send(p, message("t", AtLeastOnce, "kept"));
    let busy = site.connect(Connect { receive_maximum: NonZeroU16::MIN, ..connect("busy") });
    let free = site.connect(connect("free"));
    site.subscribe(busy, shared());
    site.subscribe(free, shared());
    for n in 0..10 {
        site.send(p, message("t", AtLeastOnce, &n.to_string()));
        site.payloads(free);
    }
    assert_eq!(site.taken(busy).len(), 1);
    assert_eq!(site.broker.counts().queued, 2, "one of them is that of the absent");
    let (absent, _) = site.resumes(lasting("absent"));
    assert_eq!(site.payloads(absent), ["kept"]);
    // QoS 0 is not for the absent.
    for c in [absent, busy, free] {
        site.bye(c);
    }
    site.send(p, message("t", AtMostOnce, "x"));
    let (absent, _) = site.resumes(lasting("absent"));
    let left = site.payloads(absent);
    assert!(left.len() == 1 && left[0] != "x", "{left:?}: what the busy one has left");
}

#[test]
fn a_client_can_get_all_retained_messages_although_its_queue_is_short() {
    let mut site = Site::with(Limits { max_queued: 3, max_retained: 50, ..limits() });
    let p = site.connect(connect("p"));
    for n in 0..50 {
        site.send(p, retain(&format!("t/{n}"), AtLeastOnce, "x"));
    }
    let a = site.connect(lasting("a"));
    for _ in 0..3 {
        site.subscribe(a, vec![filter("t/#", AtLeastOnce); 3]);
    }
    assert_eq!(site.broker.counts().queued, 0, "they are fetched when it takes them");
    site.take(a);
    assert!(site.broker.counts().queued <= 3);
    site.lose(a);
    let (a, _) = site.resumes(lasting("a"));
    assert_eq!(site.receive(a).len(), 50, "all of them, and once however often it asks");
    site.unsubscribe(a, &["t/#"]);
    site.subscribe(a, vec![filter("t/#", AtLeastOnce)]);
    site.unsubscribe(a, &["t/#"]);
    assert_eq!(site.receive(a).len(), 0, "what it no longer wants does not come");
}

/// Also more bytes than may wait, at any QoS, and one message that is larger than that alone.
#[test]
fn all_retained_messages_arrive_however_many_bytes_they_are() {
    for qos in [AtMostOnce, AtLeastOnce, ExactlyOnce] {
        let small = Limits { max_queued_bytes: 10_000, max_total_bytes: 20_000, ..limits() };
        let mut site = Site::with(Limits { max_retained: 200, ..small });
        let p = site.connect(connect("p"));
        for n in 0..100 {
            site.send(p, retain(&format!("t/{n}"), AtLeastOnce, &"x".repeat(if n == 50 { 30_000 } else { 2_000 })));
        }
        let a = site.connect(lasting("a"));
        site.subscribe(a, vec![filter("#", qos)]);
        assert_eq!(site.receive(a).len(), 100, "{qos:?}");
        assert_eq!(site.broker.counts().dropped, counts::Dropped::default());
    }
}

#[test]
fn ten_thousand_retained_messages_for_a_thousand_filters_come_in_small_turns() {
    let many = Limits { max_retained: 10_000, max_subscriptions: 1_000, ..limits() };
    let mut site = Site::with(Limits { max_retained_bytes: 8 << 20, ..many });
    let p = site.connect(connect("p"));
    for n in 0..10_000 {
        site.send(p, retain(&format!("{}/{n}", n % 100), AtMostOnce, "x"));
    }
    site.records.clear();
    let a = site.connect(lasting("a"));
    let filters: Vec<_> = (0..1_000).map(|n| filter(["#", "+/#"][n % 2], AtLeastOnce)).collect();
    let others: Vec<_> = (0..998).map(|n| filter(&format!("+/{n}/none"), AtLeastOnce)).collect();
    site.subscribe(a, filters.into_iter().chain(others).collect());
    assert_eq!(site.records.len(), 1_001, "a session, and each filter once");
    assert_eq!(site.broker.counts().queued, 0);
    let (mut seen, mut turns) = (0, 0);
    loop {
        let reaction = site.broker.take(site.now, a, 64 << 10, usize::MAX);
        assert!(reaction.replies.len() <= pull::STEPS_MAX && site.broker.counts().queued <= 100);
        if reaction.replies.is_empty() && !reaction.wake.contains(&a) {
            break;
        }
        seen += reaction.replies.len();
        turns += 1;
    }
    assert_eq!(seen, 20_000);
    // 1,000 filters look at all of them, but for where they can see that there is nothing.
    assert!((20..20_000).contains(&turns), "{turns}");
}

mod pulls {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::ingest::mqtt::topic::filter::matches;

    const FILTERS: [&str; 4] = ["#", "a/#", "+/1", "b/2"];

    #[derive(Clone, Debug)]
    enum Op {
        Retain { topic: usize, empty: bool },
        Subscribe { filters: Vec<usize>, qos: QoS },
        Unsubscribe { filter: usize },
        Take { max_bytes: usize },
        Acknowledge,
        Reconnect,
    }

    fn op() -> impl Strategy<Value = Op> {
        let qos = || prop_oneof![Just(AtMostOnce), Just(AtLeastOnce), Just(ExactlyOnce)];
        prop_oneof![
            4 => (0..12_usize, prop::bool::weighted(0.2)).prop_map(|(topic, empty)| Op::Retain { topic, empty }),
            3 => (prop::collection::vec(0..4_usize, 1..4), qos())
                .prop_map(|(filters, qos)| Op::Subscribe { filters, qos }),
            1 => (0..4_usize).prop_map(|filter| Op::Unsubscribe { filter }),
            4 => prop_oneof![Just(1), Just(100), Just(10_000)].prop_map(|max_bytes| Op::Take { max_bytes }),
            4 => Just(Op::Acknowledge),
            1 => Just(Op::Reconnect),
        ]
    }

    /// A subscriber with a window of two and a queue of two, and what it has to get: by filter and topic, the payload.
    struct Trial {
        site: Site,
        p: ConnectionId,
        a: ConnectionId,
        retained: BTreeMap<String, String>,
        owed: BTreeMap<(usize, String), (String, QoS)>,
        under_way: Vec<Publish>,
        next: u32,
        slow: u64,
    }

    fn narrow() -> Connect {
        Connect { receive_maximum: NonZeroU16::new(2).unwrap(), ..lasting("a") }
    }

    impl Trial {
        fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
            match op {
                Op::Retain { topic, empty } => {
                    let topic = format!("{}/{}", ["a", "b", "c"][topic / 4], topic % 4);
                    self.next += 1;
                    let payload = if *empty { String::new() } else { self.next.to_string() };
                    self.site.send(self.p, retain(&topic, ExactlyOnce, &payload));
                    self.owed.retain(|(_, owed), _| *owed != topic); // it comes live, if there is room
                    if *empty {
                        self.retained.remove(&topic);
                    } else {
                        self.retained.insert(topic, payload);
                    }
                }
                Op::Subscribe { filters, qos } => {
                    for &f in filters {
                        let id = u32::try_from(f + 1).unwrap();
                        self.site.subscribe_as(self.a, vec![filter(FILTERS[f], *qos); 2], Some(id));
                        let found = self.retained.iter().filter(|(topic, _)| matches(FILTERS[f], topic));
                        self.owed.extend(found.map(|(topic, payload)| ((f, topic.clone()), (payload.clone(), *qos))));
                    }
                }
                Op::Unsubscribe { filter } => {
                    self.site.unsubscribe(self.a, &[FILTERS[*filter]]);
                    self.owed.retain(|(f, _), _| f != filter);
                }
                Op::Take { max_bytes } => {
                    let reaction = self.site.broker.take(self.site.now, self.a, *max_bytes, usize::MAX);
                    for packet in self.site.shell(reaction).replies {
                        self.got(packet);
                    }
                }
                Op::Acknowledge => {
                    for publish in std::mem::take(&mut self.under_way) {
                        self.site.acknowledge(self.a, &publish);
                    }
                }
                Op::Reconnect => {
                    self.site.lose(self.a);
                    self.under_way.clear();
                    self.owed.retain(|_, (_, qos)| *qos != AtMostOnce); // it may have been on its way
                    self.a = self.site.resumes(narrow()).0;
                }
            }
            let counts = self.site.broker.counts();
            if counts.dropped.slow > std::mem::replace(&mut self.slow, counts.dropped.slow) {
                self.owed.retain(|_, (_, qos)| *qos != AtMostOnce);
            }
            prop_assert!(counts.queued <= 3 && counts.queued_bytes <= 10 * 150, "{counts:?}");
            Ok(())
        }

        fn got(&mut self, packet: Packet) {
            let Packet::Publish(publish) = packet else { return };
            if publish.retain {
                let text = String::from_utf8_lossy(&publish.payload).into_owned();
                let ids = publish.properties.as_ref().map(|p| p.subscription_ids.clone());
                let key = (ids.unwrap_or_default()[0] as usize - 1, publish.topic.to_string());
                if self.owed.get(&key).is_some_and(|(payload, _)| *payload == text) {
                    self.owed.remove(&key);
                }
            }
            if publish.qos != AtMostOnce {
                self.under_way.push(*publish);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn every_retained_message_reaches_every_new_subscription(ops in prop::collection::vec(op(), 1..60)) {
            let tight = Limits { max_queued: 2, max_queued_bytes: 300, max_total_bytes: 600, ..limits() };
            let mut site = Site::with(Limits { guaranteed_bytes: 150, ..tight });
            let (p, a) = (site.connect(connect("p")), site.connect(narrow()));
            let (retained, owed, under_way) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
            let mut trial = Trial { site, p, a, retained, owed, under_way, next: 0, slow: 0 };
            for op in &ops {
                trial.step(op)?;
            }
            for _ in 0..200 {
                trial.step(&Op::Take { max_bytes: 100 })?;
                trial.step(&Op::Acknowledge)?;
            }
            prop_assert!(trial.owed.is_empty(), "never came: {:?}", trial.owed);
        }
    }
}

#[test]
fn a_retained_message_expires() {
    let mut site = Site::new();
    let a = site.connect(connect("a"));
    let expiring = |payload, s| with(retain("t", AtLeastOnce, payload), |p| p.message_expiry_s = Some(s));
    site.send(a, expiring("first", 5));
    site.send(a, expiring("second", 10));
    site.pass(5);
    site.restart();
    assert_eq!(site.broker.counts().retained, 1);
    let b = site.connect(connect("b"));
    site.subscribe(b, vec![filter("t", AtLeastOnce)]);
    let received = site.receive(b);
    assert_eq!(&received[0].payload[..], b"second");
    assert_eq!(received[0].properties.as_ref().unwrap().message_expiry_s, Some(5));
    site.pass(5);
    assert_eq!(site.broker.counts().retained, 0);
    assert_eq!(site.broker.next_deadline(), None);
    site.restart();
    assert_eq!(site.broker.counts().retained, 0);
}

/// Found by a flood: 5,000 times `#` in one packet, with 5,000 retained messages, stopped the gateway for more than twenty seconds.
#[test]
fn a_filter_that_comes_again_and_again_is_searched_for_once_and_only_while_there_is_room() {
    let mut site = Site::new();
    let b = site.connect(connect("b"));
    for n in 0..20 {
        site.send(b, retain(&format!("t/{n}"), AtLeastOnce, "x"));
    }
    let a = site.connect(connect("a"));
    site.subscribe(a, vec![filter("#", AtLeastOnce); 50]);
    assert_eq!(site.payloads(a).len(), 20);
    assert_eq!(site.broker.counts().subscriptions, 1);
    let c = site.connect(connect("c"));
    for _ in 0..50 {
        site.subscribe(c, vec![filter("#", AtMostOnce)]);
    }
    let most = super::super::UNRELIABLE_QUEUED_MAX + 20;
    assert!(site.broker.counts().queued_bytes <= most * 200, "{:?}", site.broker.counts());
    assert!(site.broker.counts().dropped.slow <= 50 * 20);
}

/// mosquitto with `topic # both` to us, and a bridge of ours with `local = true` from it: each message would go round for ever.
#[test]
fn what_came_by_a_bridge_does_not_go_to_a_bridge() {
    let mut site = Site::new();
    let bridge = Connect { bridge: true, ..v311("their-bridge", false) };
    let theirs = site.connect(bridge.clone());
    let a = site.connect(connect("a"));
    for client in [theirs, a] {
        site.subscribe(client, vec![filter("#", AtLeastOnce), filter("$share/g/+", AtLeastOnce)]);
    }
    let from_bridge = |site: &mut Site, retain: bool| {
        let (topic, payload) = ("t".into(), Bytes::from_static(b"x"));
        let message = Message { topic, qos: AtLeastOnce, retain, payload, properties: None, expires_at: None };
        let reaction = site.broker.publish_own(site.now, Source::Bridge, message, true);
        site.shell(reaction);
    };
    (0..4).for_each(|_| from_bridge(&mut site, false));
    assert_eq!((site.receive(theirs).len(), site.receive(a).len()), (0, 8));
    // Its own do not come back either, and what others retain stays retained.
    site.send(theirs, message("t", AtLeastOnce, "own"));
    assert!(site.receive(theirs).len() <= 1, "as a member of a group at most");
    site.send(a, retain("t", AtLeastOnce, "r"));
    assert!(site.receive(theirs)[0].retain);
    // Also while it is away.
    site.bye(theirs);
    from_bridge(&mut site, false);
    let (theirs, _) = site.resumes(bridge);
    assert!(site.receive(theirs).is_empty());
}
