//! Messages to clients: windows, order, sizes, expiry, aliases (MQTT 5.0 §3.3, §4.4, §4.6, §4.9).

use super::*;

/// A client that has subscribed, and one that publishes.
fn pair(site: &mut Site, subscriber: Connect, qos: QoS) -> (ConnectionId, ConnectionId) {
    let s = site.connect(subscriber);
    site.subscribe(s, vec![filter("t/#", qos)]);
    (s, site.connect(connect("publisher")))
}

/// Paho `test_basic`.
#[test]
fn a_message_arrives_with_the_lower_of_both_qos() {
    let mut site = Site::new();
    let a = site.connect(connect("a"));
    for (granted, sent, expected) in [
        (AtMostOnce, ExactlyOnce, AtMostOnce),
        (AtLeastOnce, ExactlyOnce, AtLeastOnce),
        (ExactlyOnce, ExactlyOnce, ExactlyOnce),
        (ExactlyOnce, AtLeastOnce, AtLeastOnce),
        (ExactlyOnce, AtMostOnce, AtMostOnce),
    ] {
        site.subscribe(a, vec![filter("t", granted)]);
        site.send(a, message("t", sent, "x"));
        let received = site.receive(a);
        assert_eq!(received.iter().map(|p| (p.qos, p.dup, p.retain)).collect::<Vec<_>>(), [(expected, false, false)]);
    }
}

/// Paho `test_flow_control1`.
#[test]
fn no_more_is_under_way_than_the_client_takes() {
    let mut site = Site::new();
    let narrow = Connect { receive_maximum: NonZeroU16::new(2).unwrap(), ..connect("s") };
    let (s, p) = pair(&mut site, narrow, AtLeastOnce);
    for payload in ["1", "2", "3"] {
        site.send(p, message("t", AtLeastOnce, payload));
    }
    site.send(p, message("t", AtMostOnce, "no need to wait"));
    let first = site.taken(s);
    let payloads: Vec<_> = first.iter().map(|p| &p.payload[..]).collect();
    assert_eq!(payloads, [&b"1"[..], b"2", b"no need to wait"]);
    assert!(site.take(s).is_empty());
    site.woken.clear();
    site.acknowledge(s, &first[0]);
    assert_eq!(site.woken, [s]);
    assert_eq!(site.payloads(s), ["3"]);
}

#[test]
fn a_3_1_1_client_has_a_window_too() {
    let mut site = Site::with(Limits { max_queued: 1_000, ..limits() });
    let (s, p) = pair(&mut site, v311("s", true), AtLeastOnce);
    for _ in 0..150 {
        site.send(p, message("t", AtLeastOnce, "x"));
    }
    assert_eq!(site.taken(s).len(), usize::from(WINDOW_MAX));
}

/// Paho `test_redelivery_on_reconnect`.
#[test]
fn what_was_not_acknowledged_comes_again_first_in_its_order_and_marked() {
    let mut site = Site::new();
    let (s, p) = pair(&mut site, Connect { receive_maximum: NonZeroU16::new(3).unwrap(), ..lasting("s") }, ExactlyOnce);
    for (qos, payload) in [(AtLeastOnce, "1"), (ExactlyOnce, "2"), (ExactlyOnce, "3"), (AtLeastOnce, "4")] {
        site.send(p, message("t", qos, payload));
    }
    let before = site.taken(s);
    assert_eq!(before.len(), 3);
    site.packet(s, Packet::Pubrec(ack(before[1].packet_id.unwrap())));
    site.lose(s);
    site.send(p, message("t", AtLeastOnce, "5"));
    let (s, _) = site.resumes(Connect { receive_maximum: NonZeroU16::new(3).unwrap(), ..lasting("s") });
    assert_eq!(site.woken.last(), Some(&s));
    let again = site.take(s);
    let expected = [
        Packet::Publish(Box::new(Publish { dup: true, ..before[0].clone() })),
        Packet::Pubrel(ack(before[1].packet_id.unwrap())),
        Packet::Publish(Box::new(Publish { dup: true, ..before[2].clone() })),
    ];
    assert_eq!(again, expected);
    // An answer to the first sending would have been good as well.
    site.packet(s, Packet::Pubcomp(ack(before[1].packet_id.unwrap())));
    site.acknowledge(s, &before[0]);
    site.acknowledge(s, &before[2]);
    let rest = site.receive(s);
    assert_eq!(rest.iter().map(|p| (p.dup, &p.payload[..])).collect::<Vec<_>>(), [(false, &b"4"[..]), (false, b"5")]);
    assert_eq!(site.broker.counts().queued, 0);
    assert_eq!(site.broker.counts().queued_bytes, 0);
}

/// Paho `test_offline_message_queueing`.
#[test]
fn an_absent_client_gets_its_qos_1_and_2_messages_when_it_is_back() {
    for (connect_s, gone) in [(lasting("s"), lasting("s")), (v311("s", false), v311("s", false))] {
        let mut site = Site::new();
        let (s, p) = pair(&mut site, connect_s, ExactlyOnce);
        site.bye(s);
        for qos in [AtMostOnce, AtLeastOnce, ExactlyOnce] {
            site.send(p, message("t", qos, "x"));
        }
        let (s, present) = site.resumes(gone);
        assert!(present);
        assert_eq!(
            site.receive(s).iter().map(|p| (p.qos, p.dup)).collect::<Vec<_>>(),
            [(AtLeastOnce, false), (ExactlyOnce, false)]
        );
    }
}

#[test]
fn packet_ids_under_way_differ_also_after_all_have_been_used() {
    let mut site = Site::new();
    let (s, p) = pair(&mut site, connect("s"), ExactlyOnce);
    site.send(p, message("t", ExactlyOnce, "stays"));
    let stays = site.taken(s)[0].packet_id;
    let mut last = stays;
    for n in 0..65_600 {
        let qos = if n % 2 == 0 { AtLeastOnce } else { ExactlyOnce };
        site.records.clear();
        site.send(p, message("t", qos, "x"));
        let received = site.receive(s);
        assert!(received.len() == 1 && received[0].packet_id != stays && received[0].packet_id != last);
        last = received[0].packet_id;
    }
}

#[test]
fn a_slow_client_loses_the_oldest_qos_0_messages_and_hurts_nobody() {
    let mut site = Site::new();
    let (slow, p) = pair(&mut site, connect("slow"), AtMostOnce);
    let other = site.connect(connect("other"));
    site.subscribe(other, vec![filter("t", AtMostOnce)]);
    for n in 0..UNRELIABLE_QUEUED_MAX + 5 {
        site.send(p, message("t", AtMostOnce, &n.to_string()));
        assert_eq!(site.payloads(other), [n.to_string()]);
    }
    assert_eq!(site.broker.counts().dropped.slow, 5);
    let payloads = site.payloads(slow);
    assert_eq!((payloads.len(), &payloads[0][..]), (UNRELIABLE_QUEUED_MAX, "5"));
    // By bytes, too.
    let large = "x".repeat(60_000);
    for _ in 0..40 {
        site.send(p, message("t", AtMostOnce, &large));
        site.receive(other);
    }
    assert!(site.broker.counts().queued_bytes <= limits().max_queued_bytes);
    assert_eq!(site.receive(slow).len(), (1 << 20) / 60_130);
}

#[test]
fn a_full_queue_takes_no_more_and_counts_it() {
    let mut site = Site::new();
    let (s, p) = pair(&mut site, lasting("s"), AtLeastOnce);
    site.bye(s);
    for n in 0..105 {
        site.send(p, message("t", AtLeastOnce, &n.to_string()));
    }
    assert_eq!(site.broker.counts().dropped.full, 5);
    assert_eq!(site.broker.counts().queued, 100);
    let (s, _) = site.resumes(lasting("s"));
    let payloads = site.payloads(s);
    assert_eq!((payloads.len(), &payloads[99][..]), (100, "99"), "the oldest stay");
    site.bye(s);
    for _ in 0..40 {
        site.send(p, message("t", AtLeastOnce, &"x".repeat(60_000)));
    }
    assert!(site.broker.counts().queued_bytes <= 1 << 20);
    assert_eq!(site.broker.counts().queued, (1 << 20) / 60_130);
}

#[test]
fn all_queues_together_have_a_bound() {
    let mut site = Site::with(Limits { max_total_bytes: 200_000, ..limits() });
    let p = site.connect(connect("p"));
    for name in ["a", "b", "c"] {
        let s = site.connect(lasting(name));
        site.subscribe(s, vec![filter("t", AtLeastOnce), filter("u", AtMostOnce)]);
    }
    for _ in 0..10 {
        site.send(p, message("t", AtLeastOnce, &"x".repeat(10_000)));
        site.send(p, message("u", AtMostOnce, &"x".repeat(10_000)));
        assert!(site.broker.counts().pot_bytes <= 200_000);
        assert!(site.broker.counts().queued_bytes <= 203_000);
    }
    assert!(site.broker.counts().dropped.slow > 0 && site.broker.counts().dropped.total > 0);
}

/// What waits for all clients that were there once, in a pot of 200 kB: that of `names`, as much of each.
fn full_pot(names: &[&str]) -> (Site, ConnectionId) {
    let mut site = Site::with(Limits { max_total_bytes: 200_000, guaranteed_bytes: 3_000, ..limits() });
    let p = site.connect(connect("p"));
    for &name in names {
        let s = site.connect(lasting(name));
        site.subscribe(s, vec![filter("all", ExactlyOnce), filter(name, ExactlyOnce)]);
        site.lose(s);
    }
    for n in 0..100 {
        site.send(p, message("all", AtLeastOnce, &format!("{n} {}", "x".repeat(2_000))));
    }
    assert!((195_000..=200_000).contains(&site.broker.counts().pot_bytes), "{:?}", site.broker.counts());
    (site, p)
}

#[test]
fn what_waits_for_the_absent_takes_nothing_from_those_who_are_there() {
    let (mut site, p) = full_pot(&["a", "b"]);
    let before = site.broker.counts();
    let s = site.connect(connect("s"));
    site.subscribe(s, vec![filter("t", AtLeastOnce), filter("u", AtMostOnce)]);
    for n in 0..50 {
        site.send(p, message("t", AtLeastOnce, &n.to_string()));
        site.send(p, message("u", AtMostOnce, &n.to_string()));
        assert_eq!(site.payloads(s), [n.to_string(), n.to_string()]);
    }
    site.send(p, Publish { retain: true, ..message("t", AtLeastOnce, "command") });
    assert_eq!(site.payloads(s), ["command"]);
    site.subscribe(s, vec![filter("t", AtLeastOnce)]);
    assert_eq!(site.payloads(s), ["command"], "retained");
    assert_eq!(site.broker.counts().pot_bytes, before.pot_bytes);
    // Also what is more than its share: the absent lose their oldest for it.
    site.send(p, message("t", AtLeastOnce, &"x".repeat(20_000)));
    assert_eq!(site.receive(s).len(), 1);
    let after = site.broker.counts();
    assert_eq!((after.dropped.full, after.dropped.slow), (0, 0));
    assert!((8..=10).contains(&(after.dropped.total - before.dropped.total)), "{after:?}");
    site.restart();
    let (a, _) = site.resumes(lasting("a"));
    let left = site.payloads(a);
    assert!(left.len() >= 40 && left.last().unwrap().starts_with("99 "), "{}", left.len());
}

#[test]
fn who_has_the_most_loses_the_oldest_and_is_named_once_a_minute() {
    let (mut site, p) = full_pot(&["a", "b"]);
    let c = site.connect(lasting("c"));
    site.subscribe(c, vec![filter("c", ExactlyOnce)]);
    site.lose(c);
    site.notices.clear();
    for n in 0..30 {
        assert_eq!(
            site.send(p, message("c", ExactlyOnce, &format!("{n} {}", "x".repeat(1_000)))),
            Some(Reason::SUCCESS)
        );
    }
    let names: Vec<_> = site.notices.iter().map(|n| format!("{n:?}")).collect();
    assert_eq!(names, [""; 0], "they were named when the pot was filled");
    site.now += 60_000;
    site.send(p, message("c", ExactlyOnce, &"x".repeat(3_000)));
    assert!(matches!(&site.notices[..], [Notice::Evicted { messages: 2.., .. }, ..]), "{:?}", site.notices);
    let (c, _) = site.resumes(lasting("c"));
    assert_eq!(site.receive(c).len(), 31, "nothing of the smallest queue");
    // Who has the most of all loses its own.
    for n in 0..90 {
        site.send(p, message("a", AtLeastOnce, &format!("{n} {}", "x".repeat(4_000))));
    }
    let (b, _) = site.resumes(lasting("b"));
    assert!(site.receive(b).len() > 20, "no less than half of it");
    let (a, _) = site.resumes(lasting("a"));
    let left = site.payloads(a);
    assert!(left[0].starts_with("6") && left.last().unwrap().starts_with("89 "), "{}", &left[0][..9]);
}

#[test]
fn a_qos_2_message_that_was_begun_is_not_dropped_for_others() {
    let mut site = Site::with(Limits { max_total_bytes: 30_000, ..limits() });
    let (s, p) = pair(&mut site, lasting("s"), ExactlyOnce);
    site.send(p, message("t", ExactlyOnce, "begun"));
    assert_eq!(site.taken(s).len(), 1);
    site.lose(s);
    for n in 0..90 {
        site.send(p, message("t", ExactlyOnce, &format!("{n} {}", "x".repeat(1_000))));
    }
    let (s, _) = site.resumes(lasting("s"));
    let left = site.payloads(s);
    assert!(left.len() > 20 && left[0] == "begun" && left.last().unwrap().starts_with("89 "));
    let numbers: Vec<u32> = left[1..].iter().map(|p| p.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|w| w[0] + 1 == w[1]), "{numbers:?}");
}

#[test]
fn who_leaves_takes_no_share_along() {
    let (mut site, p) = full_pot(&["a"]);
    let s = site.connect(lasting("s"));
    site.subscribe(s, vec![filter("t", AtLeastOnce)]);
    site.send(p, message("t", AtLeastOnce, &"x".repeat(2_500)));
    site.notices.clear();
    site.now += 60_000;
    site.lose(s);
    let counts = site.broker.counts();
    assert!(counts.pot_bytes <= 200_000, "{counts:?}");
    assert!(
        matches!(&site.notices[..], [Notice::Evicted { client_id, .. }] if **client_id == *"a"),
        "{:?}",
        site.notices
    );
    let (s, _) = site.resumes(lasting("s"));
    assert_eq!(site.receive(s).len(), 1);
}

#[test]
fn an_empty_queue_takes_one_message_of_any_size() {
    let mut site = Site::with(Limits { max_queued_bytes: 1_000, ..limits() });
    let (s, p) = pair(&mut site, lasting("s"), AtLeastOnce);
    for _ in 0..2 {
        site.send(p, message("t", AtLeastOnce, &"x".repeat(50_000)));
    }
    assert_eq!((site.receive(s).len(), site.broker.counts().dropped.full), (1, 1));
}

#[test]
fn a_pot_that_is_nearly_full_is_said_once() {
    let mut site = Site::with(Limits { max_total_bytes: 100_000, max_queued: 1_000, ..limits() });
    let (s, p) = pair(&mut site, lasting("s"), AtLeastOnce);
    site.lose(s);
    let fill = |site: &mut Site, bytes: usize| {
        while site.broker.counts().pot_bytes + 1_200 < bytes {
            site.send(p, message("t", AtLeastOnce, &"x".repeat(1_000)));
        }
    };
    fill(&mut site, 80_000);
    assert_eq!(site.notices, []);
    fill(&mut site, 95_000);
    assert!(matches!(site.notices[..], [Notice::NearlyFull { bytes: 80_000..82_000, bytes_max: 100_000 }]));
    let (s, _) = site.resumes(lasting("s"));
    site.receive(s);
    site.lose(s);
    fill(&mut site, 95_000);
    assert_eq!(site.notices.len(), 2);
}

#[test]
fn what_expired_makes_room() {
    let mut site = Site::with(Limits { max_queued: 2, ..limits() });
    let (s, p) = pair(&mut site, lasting("s"), AtLeastOnce);
    site.bye(s);
    for _ in 0..2 {
        site.send(p, with(message("t", AtLeastOnce, "old"), |p| p.message_expiry_s = Some(1)));
    }
    site.pass(2);
    site.send(p, message("t", AtLeastOnce, "new"));
    assert_eq!((site.broker.counts().dropped.expired, site.broker.counts().dropped.full), (2, 0));
    site.restart();
    let (s, _) = site.resumes(lasting("s"));
    assert_eq!(site.payloads(s), ["new"]);
}

/// Paho `test_publication_expiry`.
#[test]
fn a_message_expires_while_it_waits_and_says_what_is_left() {
    let mut site = Site::new();
    let (s, p) = pair(&mut site, lasting("s"), ExactlyOnce);
    site.bye(s);
    let expiring = |qos, s| with(message("t", qos, "x"), |p| p.message_expiry_s = Some(s));
    for s in [1, 6] {
        site.send(p, expiring(AtLeastOnce, s));
        site.send(p, expiring(ExactlyOnce, s));
    }
    site.now += 3_200;
    let (s, _) = site.resumes(lasting("s"));
    let left: Vec<_> = site.receive(s).iter().map(|p| p.properties.as_ref().unwrap().message_expiry_s).collect();
    assert_eq!(left, [Some(3), Some(3)]);
    assert_eq!(site.broker.counts().dropped.expired, 2);
    site.send(p, expiring(AtMostOnce, 6));
    assert_eq!(site.receive(s)[0].properties.as_ref().unwrap().message_expiry_s, Some(6));
}

#[test]
fn a_qos_2_message_that_was_begun_is_ended_although_it_expired() {
    let mut site = Site::new();
    let (s, p) = pair(&mut site, lasting("s"), ExactlyOnce);
    site.send(p, with(message("t", ExactlyOnce, "x"), |p| p.message_expiry_s = Some(1)));
    assert_eq!(site.taken(s).len(), 1);
    site.lose(s);
    site.now += 5_000;
    let (s, _) = site.resumes(lasting("s"));
    assert_eq!(site.receive(s).len(), 1);
}

/// Paho `test_maximum_packet_size`.
#[test]
fn what_is_larger_than_the_client_takes_is_as_if_it_had_been_sent() {
    let mut site = Site::new();
    let small = Connect { maximum_packet_size: Some(64), ..lasting("s") };
    let (s, p) = pair(&mut site, small, AtLeastOnce);
    // 2 fixed header, 2 + 1 topic, 2 packet id, 1 properties.
    assert_eq!(site.send(p, message("t", AtLeastOnce, &"x".repeat(56))), Some(Reason::SUCCESS));
    assert_eq!(site.send(p, message("t", AtLeastOnce, &"x".repeat(57))), Some(Reason::SUCCESS));
    site.send(p, message("t", AtMostOnce, &"x".repeat(58)));
    site.send(p, message("t", AtMostOnce, &"x".repeat(59)));
    assert_eq!(site.receive(s).iter().map(|p| p.payload.len()).collect::<Vec<_>>(), [56, 58]);
    assert_eq!(site.broker.counts().dropped.too_large, 2);
    assert_eq!(site.broker.counts().queued, 0);
}

/// Paho `test_server_topic_alias`.
#[test]
fn topics_get_an_alias_where_the_client_takes_them() {
    let mut site = Site::new();
    let (s, p) = pair(&mut site, Connect { topic_alias_maximum: 1, ..connect("s") }, ExactlyOnce);
    for (qos, topic) in [(AtMostOnce, "t/1"), (AtLeastOnce, "t/1"), (ExactlyOnce, "t/1"), (AtMostOnce, "t/2")] {
        site.send(p, message(topic, qos, "x"));
    }
    let received = site.receive(s);
    let seen: Vec<_> = received
        .iter()
        .map(|p| (&*p.topic, p.properties.as_ref().and_then(|p| p.topic_alias).map_or(0, NonZeroU16::get)))
        .collect();
    assert_eq!(seen, [("t/1", 1), ("", 1), ("", 1), ("t/2", 0)]);
    let (s, p) = pair(&mut site, connect("s"), ExactlyOnce);
    site.send(p, message("t/1", AtMostOnce, "x"));
    assert_eq!(site.receive(s)[0].properties, None);
}

#[test]
fn an_alias_that_would_make_the_packet_too_large_is_left_out() {
    let mut site = Site::new();
    let small = Connect { topic_alias_maximum: 1, maximum_packet_size: Some(64), ..connect("s") };
    let (s, p) = pair(&mut site, small, AtMostOnce);
    site.send(p, message("t", AtMostOnce, &"x".repeat(58)));
    let received = site.receive(s);
    assert_eq!((received.len(), &received[0].properties), (1, &None));
}

/// Paho `test_user_properties`, `test_payload_format`, `test_request_response`.
#[test]
fn properties_go_through_as_they_came() {
    let mut site = Site::new();
    let (s, p) = pair(&mut site, connect("s"), ExactlyOnce);
    for qos in [AtMostOnce, AtLeastOnce, ExactlyOnce] {
        let publish = with(message("t", qos, "x"), |p| {
            p.user = vec![("a".into(), "2".into()), ("c".into(), "3".into()), ("a".into(), "1".into())];
            p.payload_is_utf8 = Some(true);
            p.content_type = Some("My name".into());
            p.response_topic = Some("reply/here".into());
            p.correlation_data = Some(Bytes::from_static(b"334"));
        });
        site.send(p, publish.clone());
        assert_eq!(site.receive(s)[0].properties, publish.properties);
    }
    // A 3.1.1 client gets none.
    let (s, p) = pair(&mut site, v311("s", true), ExactlyOnce);
    site.send(p, with(message("t", AtMostOnce, "x"), |p| p.payload_is_utf8 = Some(true)));
    assert_eq!(site.receive(s)[0].properties, None);
}

#[test]
fn a_client_may_refuse_a_message_and_is_not_asked_again() {
    let mut site = Site::new();
    let (s, p) = pair(&mut site, lasting("s"), ExactlyOnce);
    site.send(p, message("t", AtLeastOnce, "x"));
    site.send(p, message("t", ExactlyOnce, "x"));
    let taken = site.taken(s);
    let no = |publish: &Publish| packets::ack(publish.packet_id.unwrap(), Reason::UNSPECIFIED);
    assert!(site.packet(s, Packet::Puback(no(&taken[0]))).replies.is_empty());
    assert!(site.packet(s, Packet::Pubrec(no(&taken[1]))).replies.is_empty());
    assert_eq!(site.broker.counts().queued, 0);
    site.restart();
    assert_eq!(site.broker.counts().queued, 0);
}

#[test]
fn acknowledgements_that_fit_nothing() {
    let mut site = Site::new();
    let (s, p) = pair(&mut site, connect("s"), ExactlyOnce);
    assert!(site.packet(s, Packet::Puback(ack(pid(7)))).close.is_none());
    assert!(site.packet(s, Packet::Pubcomp(ack(pid(7)))).close.is_none());
    let replies = site.packet(s, Packet::Pubrec(ack(pid(7)))).replies;
    assert_eq!(replies, [Packet::Pubrel(packets::ack(pid(7), Reason::PACKET_ID_NOT_FOUND))]);
    for (qos, wrong) in [(AtLeastOnce, 0), (AtLeastOnce, 1), (ExactlyOnce, 2), (ExactlyOnce, 1)] {
        let s = site.connect(connect("s"));
        site.subscribe(s, vec![filter("t", ExactlyOnce)]);
        site.send(p, message("t", qos, "x"));
        let ack = ack(site.taken(s)[0].packet_id.unwrap());
        let packet = [Packet::Pubrec(ack.clone()), Packet::Pubcomp(ack.clone()), Packet::Puback(ack)][wrong].clone();
        assert_eq!(site.packet(s, packet).close.map(|c| c.0), Some(Reason::PROTOCOL_ERROR), "{qos:?} {wrong}");
    }
}

#[test]
fn what_is_taken_at_once_is_bounded_and_the_rest_stays() {
    let mut site = Site::new();
    let (s, p) = pair(&mut site, connect("s"), AtLeastOnce);
    for _ in 0..50 {
        site.send(p, message("t", AtLeastOnce, &"x".repeat(90)));
    }
    assert_eq!(site.woken, [s], "once, until there is nothing left");
    let reaction = site.broker.take(site.now, s, 500, usize::MAX);
    assert_eq!(reaction.replies.len(), 6, "some 98 bytes each");
    assert_eq!(site.receive(s).len(), 44);
}
