//! PUBLISH from clients (MQTT 5.0 §3.3, §4.3, §4.6, §4.9).

use super::*;

fn storing(published: &Published) -> bool {
    matches!(published, Published::New { .. })
}

#[test]
fn nothing_is_acknowledged_before_it_is_stored() {
    let mut site = Site::new();
    let a = site.connect(connect("a"));
    for qos in [AtLeastOnce, ExactlyOnce] {
        let (published, reaction) = site.publish(a, message("t", qos, "x"));
        assert!(storing(&published));
        assert!(reaction.replies.is_empty());
        assert_eq!(site.stored(a, &[(pid(1), Ok(()))]).replies.len(), 1);
        site.packet(a, Packet::Pubrel(ack(pid(1))));
    }
    let (published, reaction) = site.publish(a, message("t", AtMostOnce, "x"));
    assert!(storing(&published) && reaction.replies.is_empty());
}

#[test]
fn answers_come_in_the_order_of_arrival() {
    let mut site = Site::new();
    let (a, ..) = site.try_connect(connect("a"), who("", &["no"]));
    let publish = |id, qos, topic| Publish { packet_id: Some(pid(id)), ..message(topic, qos, "x") };
    site.publish(a, publish(7, AtLeastOnce, "t"));
    site.publish(a, publish(3, ExactlyOnce, "t"));
    assert!(site.publish(a, publish(4, AtLeastOnce, "no")).1.replies.is_empty(), "a refusal waits for its turn");
    site.publish(a, publish(5, AtLeastOnce, "t"));
    assert!(site.stored(a, &[(pid(5), Ok(()))]).replies.is_empty());
    assert!(site.stored(a, &[(pid(3), Ok(()))]).replies.is_empty());
    let replies = site.stored(a, &[(pid(7), Ok(()))]).replies;
    assert_eq!(
        replies,
        [
            Packet::Puback(ack(pid(7))),
            Packet::Pubrec(ack(pid(3))),
            Packet::Puback(packets::ack(pid(4), Reason::NOT_AUTHORIZED)),
            Packet::Puback(ack(pid(5))),
        ]
    );
}

#[test]
fn what_may_not_be_published_is_refused_and_reaches_nobody() {
    let mut site = Site::new();
    let (a, ..) = site.try_connect(connect("a"), who("", &["no"]));
    assert_eq!(site.send(a, message("no", AtLeastOnce, "x")), Some(Reason::NOT_AUTHORIZED));
    assert_eq!(site.send(a, message("no", ExactlyOnce, "x")), Some(Reason::NOT_AUTHORIZED));
    assert_eq!(site.send(a, message("no", AtMostOnce, "x")), None);
    let (b, ..) = site.try_connect(v311("b", true), who("", &["no"]));
    assert_eq!(site.send(b, message("no", AtMostOnce, "x")), None);
    // It cannot be told: cut off, it would come back with the same message, before all others.
    assert_eq!(site.send(b, message("no", AtLeastOnce, "x")), Some(Reason::SUCCESS));
    assert_eq!(site.broker.counts().dropped.not_allowed, 5);
    assert_eq!(site.denied, vec![Denied::Publish("no".into()); 5], "each is told to the log of refusals");
}

#[test]
fn a_connection_whose_records_were_not_taken_is_answered_nothing_more() {
    let mut site = Site::new();
    for connect in [lasting("a"), v311("b", false)] {
        let (a, _) = site.resumes(connect);
        let (first, _) = site.publish(a, Publish { packet_id: Some(pid(1)), ..message("t", AtLeastOnce, "x") });
        let (second, _) = site.publish(a, Publish { packet_id: Some(pid(2)), ..message("t", ExactlyOnce, "x") });
        assert!(storing(&first) && storing(&second));
        site.broker.unkept(a, false);
        assert!(site.stored(a, &[(pid(1), Ok(())), (pid(2), Ok(()))]).replies.is_empty());
        assert!(site.packet(a, Packet::Pubrel(ack(pid(2)))).replies.is_empty());
        assert!(!storing(&site.publish(a, message("t", AtLeastOnce, "x")).0));
        site.lose(a);
    }
}

/// Over the sender's quota, for one.
#[test]
fn what_the_shell_refuses_is_answered_in_its_turn_and_reaches_nobody() {
    let mut site = Site::new();
    let a = site.connect(lasting("a"));
    site.subscribe(a, vec![filter("t", AtLeastOnce)]);
    let refuse = |site: &mut Site, publish: Publish| {
        let (published, reaction) = site.broker.publish_refused(site.now, a, publish, Reason::QUOTA_EXCEEDED);
        assert!(!storing(&published));
        site.shell(reaction)
    };
    let (first, _) = site.publish(a, Publish { packet_id: Some(pid(1)), ..message("u", AtLeastOnce, "x") });
    assert!(storing(&first));
    let second = Publish { packet_id: Some(pid(2)), ..message("t", AtLeastOnce, "x") };
    assert!(refuse(&mut site, second).replies.is_empty(), "it waits for the first");
    assert!(refuse(&mut site, message("t", AtMostOnce, "x")).replies.is_empty());
    let over = packets::ack(pid(3), Reason::QUOTA_EXCEEDED);
    let third = Publish { packet_id: Some(pid(3)), ..message("t", ExactlyOnce, "x") };
    refuse(&mut site, third.clone());
    let reaction = site.broker.stored(site.now, a, &[(pid(1), Ok(()))]);
    let expected = [
        Packet::Puback(ack(pid(1))),
        Packet::Puback(packets::ack(pid(2), Reason::QUOTA_EXCEEDED)),
        Packet::Pubrec(over.clone()),
    ];
    assert_eq!(reaction.replies, expected);
    assert!(site.take(a).is_empty() && site.denied.is_empty());
    assert_eq!(site.broker.counts().dropped.not_allowed, 0);
    // Its id is free again, and so is the window.
    assert_eq!(refuse(&mut site, third).replies, [Packet::Pubrec(over)]);
}

/// Paho `test_dollar_topics`: the 3.1.1 client waits for its PUBACK.
#[test]
fn topics_that_begin_with_a_dollar_are_the_gateways_own() {
    let mut site = Site::new();
    let a = site.connect(connect("a"));
    site.subscribe(a, vec![filter("$t", AtLeastOnce), filter("#", AtLeastOnce)]);
    assert_eq!(site.send(a, message("$t", AtLeastOnce, "x")), Some(Reason::TOPIC_NAME_INVALID));
    assert_eq!(site.send(a, message("$t", ExactlyOnce, "x")), Some(Reason::TOPIC_NAME_INVALID));
    assert_eq!(site.send(a, message("$t", AtMostOnce, "x")), None);
    let b = site.connect(v311("b", true));
    assert_eq!(site.send(b, message("$t", AtLeastOnce, "x")), Some(Reason::SUCCESS));
    assert_eq!(site.send(b, message("$t", ExactlyOnce, "x")), Some(Reason::SUCCESS));
    assert!(site.take(a).is_empty());
    assert_eq!(site.broker.counts().dropped.not_allowed, 5);
}

#[test]
fn what_cannot_be_stored_is_refused_with_the_reason_and_its_packet_id_is_free() {
    let mut site = Site::new();
    let a = site.connect(lasting("a"));
    for qos in [AtLeastOnce, ExactlyOnce] {
        site.publish(a, message("t", qos, "x"));
        let replies = site.stored(a, &[(pid(1), full())]).replies;
        let answer = packets::ack(pid(1), Reason::QUOTA_EXCEEDED);
        assert_eq!(replies, [if qos == AtLeastOnce { Packet::Puback(answer) } else { Packet::Pubrec(answer) }]);
        assert!(storing(&site.publish(a, message("t", qos, "y")).0));
        site.stored(a, &[(pid(1), Ok(()))]);
        site.packet(a, Packet::Pubrel(ack(pid(1))));
    }
    assert!(site.records.iter().any(|r| matches!(r, Record::Released { .. })));
}

#[test]
fn a_3_1_1_client_whose_message_cannot_be_stored_is_cut_off_and_sends_it_again() {
    let mut site = Site::new();
    let a = site.connect(v311("a", false));
    for id in 1..=3 {
        site.publish(a, Publish { packet_id: Some(pid(id)), ..message("t", ExactlyOnce, "x") });
    }
    let reaction = site.stored(a, &[(pid(1), Ok(())), (pid(2), full()), (pid(3), Ok(()))]);
    assert_eq!(reaction.replies, [Packet::Pubrec(ack(pid(1)))], "what was before it is answered, nothing after");
    assert_eq!(reaction.close.map(|c| c.0), Some(Reason::QUOTA_EXCEEDED));
    site.lose(a);
    let (a, present) = site.resumes(v311("a", false));
    assert!(present);
    let again = |id| Publish { packet_id: Some(pid(id)), dup: true, ..message("t", ExactlyOnce, "x") };
    assert_eq!(site.publish(a, again(1)).1.replies, [Packet::Pubrec(ack(pid(1)))]);
    assert!(storing(&site.publish(a, again(2)).0));
}

#[test]
fn what_can_never_be_stored_does_not_hold_up_a_3_1_1_client() {
    let mut site = Site::new();
    let s = site.connect(connect("s"));
    site.subscribe(s, vec![filter("t", ExactlyOnce)]);
    let a = site.connect(v311("a", false));
    let publish = |id, qos| Publish { packet_id: Some(pid(id)), ..message("t", qos, &id.to_string()) };
    for (id, qos) in [(1, AtLeastOnce), (2, ExactlyOnce), (3, AtLeastOnce)] {
        assert!(storing(&site.publish(a, publish(id, qos)).0));
    }
    let reaction = site.stored(a, &[(pid(1), unfit()), (pid(2), unfit()), (pid(3), Ok(()))]);
    assert!(reaction.close.is_none());
    assert_eq!(
        reaction.replies,
        [Packet::Puback(ack(pid(1))), Packet::Pubrec(ack(pid(2))), Packet::Puback(ack(pid(3)))]
    );
    assert_eq!(site.packet(a, Packet::Pubrel(ack(pid(2)))).replies, [Packet::Pubcomp(ack(pid(2)))]);
    let mut got = site.payloads(s);
    got.sort();
    assert_eq!(got, ["1", "2", "3"], "the site has it all the same");
    // 5.0 is told.
    let b = site.connect(lasting("b"));
    site.publish(b, publish(1, AtLeastOnce));
    let replies = site.stored(b, &[(pid(1), unfit())]).replies;
    assert_eq!(replies, [Packet::Puback(packets::ack(pid(1), Reason::PAYLOAD_FORMAT_INVALID))]);
}

#[test]
fn what_comes_again_because_the_outbox_was_full_is_not_handed_out_again() {
    for clean in [true, false] {
        let mut site = Site::new();
        let s = site.connect(lasting("s"));
        site.subscribe(s, vec![filter("t", AtLeastOnce)]);
        let publish =
            |id, dup, payload: &str| Publish { packet_id: Some(pid(id)), dup, ..message("t", AtLeastOnce, payload) };
        for round in 0..20 {
            let (a, _) = site.resumes(v311("a", clean));
            for id in [1, 2] {
                let (published, reaction) = site.publish(a, publish(id, round > 0, "x"));
                assert!(storing(&published));
                assert!(!reaction.records.is_empty(), "what the acknowledgement waits for");
            }
            let reaction = site.stored(a, &[(pid(2), Ok(())), (pid(1), full())]);
            assert!(reaction.replies.is_empty() && reaction.close.is_some());
            site.lose(a);
        }
        let (a, _) = site.resumes(v311("a", clean));
        for id in [1, 2] {
            site.publish(a, publish(id, true, "x"));
        }
        assert_eq!(site.stored(a, &[(pid(1), Ok(())), (pid(2), Ok(()))]).replies.len(), 2);
        assert_eq!(site.payloads(s), ["x", "x"]);
        // What is new is handed out, and so is what only looks like one that was refused.
        for (id, dup, payload) in [(1, false, "x"), (2, true, "y")] {
            site.publish(a, publish(id, dup, payload));
            site.stored(a, &[(pid(id), Ok(()))]);
        }
        assert_eq!(site.payloads(s), ["x", "y"]);
        site.publish(a, publish(1, false, "z"));
        site.stored(a, &[(pid(1), full())]);
        site.lose(a);
        let (a, _) = site.resumes(v311("a", clean));
        site.publish(a, publish(1, false, "z"));
        assert_eq!(site.payloads(s), ["z", "z"], "without DUP it is another one");
    }
}

/// Paho's default, `mosquitto_pub -c`: the session is kept here, and the client's own state is not.
#[test]
fn a_client_that_lost_its_state_loses_no_message_under_a_packet_id_that_is_in_use() {
    for (connect, crash) in [(lasting("a"), false), (lasting("a"), true), (v311("a", false), false)] {
        let mut site = Site::new();
        let new = |site: &mut Site, a, payload: &str| match site.publish(a, message("t", ExactlyOnce, payload)).0 {
            Published::New { name: Some(name), .. } => name,
            other => panic!("{payload}: {other:?}"),
        };
        let again = |site: &mut Site| {
            if crash {
                site.restart();
            }
            site.resumes(connect.clone()).0
        };
        let a = again(&mut site);
        let first = new(&mut site, a, "1");
        let a = again(&mut site);
        let second = new(&mut site, a, "2");
        assert_ne!(first, second, "the outbox would take it for the first");
        site.stored(a, &[(pid(1), Ok(()))]);
        let a = again(&mut site);
        let third = new(&mut site, a, "3");
        assert_ne!(second, third);
        assert_eq!(site.stored(a, &[(pid(1), Ok(()))]).replies, [Packet::Pubrec(ack(pid(1)))]);
        // The same one is the same one.
        let a = again(&mut site);
        assert!(matches!(site.publish(a, message("t", ExactlyOnce, "3")).0, Published::Answered));
        assert_eq!(site.packet(a, Packet::Pubrel(ack(pid(1)))).replies, [Packet::Pubcomp(ack(pid(1)))]);
    }
}

/// The outbox knows a name for as long as its window; a client may be away for longer.
#[test]
fn what_is_stored_when_its_connection_is_gone_is_not_stored_again() {
    for crash in [false, true] {
        for how in ["taken over", "disconnected", "cut off", "waiting for its turn"] {
            let mut site = Site::new();
            let s = site.connect(lasting("s"));
            site.subscribe(s, vec![filter("t", ExactlyOnce)]);
            let a = site.connect(lasting("a"));
            let publish = |id| Publish { packet_id: Some(pid(id)), ..message("t", ExactlyOnce, &id.to_string()) };
            assert!(storing(&site.publish(a, publish(1)).0) && storing(&site.publish(a, publish(2)).0));
            let done = [(pid(2), Ok(()))];
            match how {
                "taken over" => drop(site.resumes(lasting("a"))),
                "disconnected" => drop(site.disconnect(a, Reason::SUCCESS, None)),
                "cut off" => site.broker.unkept(a, false),
                _ => assert!(site.stored(a, &done).replies.is_empty()),
            }
            if how != "waiting for its turn" {
                let late = site.stored(a, &done);
                assert!(late.replies.is_empty() && late.records.len() == 1, "{how}: {late:?}");
            }
            site.lose(a);
            assert!(site.broker.past.is_empty());
            if crash {
                site.restart();
            }
            let (a, present) = site.resumes(lasting("a"));
            assert!(present && storing(&site.publish(a, publish(1)).0), "{how}: nobody knows of this one");
            let (again, reaction) = site.publish(a, publish(2));
            assert!(matches!(again, Published::Answered) && reaction.replies.is_empty(), "{how}: it has its turn");
            let replies = site.stored(a, &[(pid(1), Ok(()))]).replies;
            assert_eq!(replies, [Packet::Pubrec(ack(pid(1))), Packet::Pubrec(ack(pid(2)))]);
            let (s, _) = site.resumes(lasting("s"));
            assert_eq!(site.payloads(s), ["1", "2"], "{how}: subscribers get it, once");
        }
    }
}

/// What comes late is about what was sent then.
#[test]
fn a_late_result_does_not_count_for_another_message_under_the_same_packet_id() {
    let mut site = Site::new();
    let a = site.connect(lasting("a"));
    site.publish(a, message("t", ExactlyOnce, "1"));
    let (b, _) = site.resumes(lasting("a"));
    assert!(storing(&site.publish(b, message("t", ExactlyOnce, "2")).0));
    let (c, _) = site.resumes(lasting("a"));
    assert!(site.stored(a, &[(pid(1), Ok(()))]).records.is_empty());
    assert!(storing(&site.publish(c, message("t", ExactlyOnce, "2")).0));
}

#[test]
fn a_client_that_counts_from_one_again_gets_its_window_back() {
    let mut site = Site::new();
    let a = site.connect(lasting("a"));
    for n in 0..30 {
        let payload = n.to_string();
        assert!(storing(&site.publish(a, message("t", ExactlyOnce, &payload)).0), "{n}");
        site.stored(a, &[(pid(1), Ok(()))]);
        assert!(storing(&site.publish(a, message("t", AtLeastOnce, &payload)).0), "{n}");
        site.stored(a, &[(pid(1), Ok(()))]);
    }
}

#[test]
fn a_qos_2_message_is_stored_once_however_often_it_comes() {
    let mut site = Site::new();
    let a = site.connect(lasting("a"));
    let s = site.connect(connect("s"));
    site.subscribe(s, vec![filter("t", ExactlyOnce)]);
    let (Published::New { name: Some(name), .. }, _) = site.publish(a, message("t", ExactlyOnce, "x")) else {
        panic!()
    };
    assert!(site.take(s).is_empty(), "local subscribers get it when it is stored");
    assert!(matches!(site.publish(a, message("t", ExactlyOnce, "x")).0, Published::Pending));
    site.lose(a);
    // Not answered: it comes again, under the same name, also after a crash.
    site.restart();
    let s = site.connect(connect("s"));
    site.subscribe(s, vec![filter("t", ExactlyOnce)]);
    let (a, present) = site.resumes(lasting("a"));
    assert!(present);
    match site.publish(a, message("t", ExactlyOnce, "x")).0 {
        Published::New { name: again, .. } => assert_eq!(again, Some(name)),
        other => panic!("{other:?}"),
    }
    assert_eq!(site.stored(a, &[(pid(1), Ok(()))]).replies, [Packet::Pubrec(ack(pid(1)))]);
    assert_eq!(site.payloads(s), ["x"]);
    // Answered: it is not stored again, also after a crash.
    let (published, reaction) = site.publish(a, message("t", ExactlyOnce, "x"));
    assert!(matches!(published, Published::Answered));
    assert_eq!(reaction.replies, [Packet::Pubrec(ack(pid(1)))]);
    site.restart();
    let (a, _) = site.resumes(lasting("a"));
    assert!(matches!(site.publish(a, message("t", ExactlyOnce, "x")).0, Published::Answered));
    assert_eq!(site.packet(a, Packet::Pubrel(ack(pid(1)))).replies, [Packet::Pubcomp(ack(pid(1)))]);
    // Released: the id is for another message.
    match site.publish(a, message("t", ExactlyOnce, "y")).0 {
        Published::New { name: Some(other), .. } => assert_ne!(other, name),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pubrel_for_a_packet_id_that_nobody_knows() {
    let mut site = Site::new();
    let a = site.connect(connect("a"));
    let replies = site.packet(a, Packet::Pubrel(ack(pid(5)))).replies;
    assert_eq!(replies, [Packet::Pubcomp(packets::ack(pid(5), Reason::PACKET_ID_NOT_FOUND))]);
    let b = site.connect(v311("b", true));
    assert_eq!(site.packet(b, Packet::Pubrel(ack(pid(5)))).replies, [Packet::Pubcomp(ack(pid(5)))]);
}

/// Paho `test_flow_control2`.
#[test]
fn more_under_way_than_allowed_ends_the_connection() {
    let mut site = Site::new();
    let a = site.connect(connect("a"));
    let publish = |id| Publish { packet_id: Some(pid(id)), ..message("t", ExactlyOnce, "x") };
    for id in 1..=10 {
        assert!(storing(&site.publish(a, publish(id)).0));
        site.stored(a, &[(pid(id), Ok(()))]);
    }
    let reaction = site.publish(a, publish(11)).1;
    assert_eq!(reaction.close.map(|c| c.0), Some(Reason::RECEIVE_MAXIMUM_EXCEEDED));
    assert!(!storing(&site.publish(a, publish(12)).0), "nothing more is taken from it");
}

#[test]
fn each_end_of_an_exchange_makes_room_for_the_next_and_3_1_1_has_no_such_limit() {
    let mut site = Site::new();
    let (a, ..) = site.try_connect(connect("a"), who("", &["no"]));
    for _ in 0..30 {
        site.send(a, message("t", AtLeastOnce, "x"));
        site.send(a, message("t", ExactlyOnce, "x"));
        site.send(a, message("no", ExactlyOnce, "x"));
    }
    let b = site.connect(v311("b", true));
    for id in 1..=30 {
        assert!(storing(&site.publish(b, Publish { packet_id: Some(pid(id)), ..message("t", AtLeastOnce, "x") }).0));
    }
}

#[test]
fn a_topic_with_too_many_levels_is_refused_and_reaches_nobody() {
    let levels = |n: usize| vec!["a"; n].join("/");
    let (deep, wrong) = (levels(128), levels(129));
    let mut site = Site::new();
    let a = site.connect(lasting("a"));
    let s = site.connect(connect("s"));
    site.subscribe(s, vec![filter("#", AtLeastOnce)]);
    for qos in [AtLeastOnce, ExactlyOnce] {
        assert_eq!(site.send(a, message(&deep, qos, "x")), Some(Reason::SUCCESS));
        assert_eq!(site.send(a, message(&wrong, qos, "x")), Some(Reason::TOPIC_NAME_INVALID));
        let retained = Publish { retain: true, ..message(&wrong, qos, "x") };
        assert_eq!(site.send(a, retained), Some(Reason::TOPIC_NAME_INVALID));
    }
    // By an alias, too.
    let aliased = |topic: &str| with(message(topic, AtLeastOnce, "x"), |p| p.topic_alias = NonZeroU16::new(1));
    assert_eq!(site.send(a, aliased(&wrong)), Some(Reason::TOPIC_NAME_INVALID));
    assert_eq!(site.send(a, aliased("")), Some(Reason::TOPIC_NAME_INVALID));
    // QoS 0 has no answer; the connection stays.
    assert_eq!(site.send(a, message(&wrong, AtMostOnce, "x")), None);
    assert_eq!(site.broker.counts().dropped.not_allowed, 7);
    assert_eq!(site.payloads(s), ["x"; 2]);
    assert_eq!(site.broker.counts().retained, 0);
    // 3.1.1 has no code, and the end of the connection would only bring it back.
    let b = site.connect(v311("b", true));
    assert!(!storing(&site.publish(b, message(&wrong, AtMostOnce, "x")).0));
    for qos in [AtLeastOnce, ExactlyOnce] {
        assert_eq!(site.send(b, message(&wrong, qos, "x")), Some(Reason::SUCCESS));
    }
    // What comes from a bridge.
    let own = Message {
        topic: wrong.as_str().into(),
        qos: AtLeastOnce,
        retain: true,
        payload: Bytes::new(),
        properties: None,
        expires_at: None,
    };
    assert!(site.broker.publish_own(site.now, Source::Gateway, own, true).records.is_empty());
    assert!(site.payloads(s).is_empty());
}

/// Paho `test_client_topic_alias`.
#[test]
fn topic_aliases_of_a_client_last_as_long_as_its_connection() {
    let mut site = Site::new();
    let a = site.connect(lasting("a"));
    site.subscribe(a, vec![filter("t", AtLeastOnce)]);
    let alias = |publish, n| with(publish, |p| p.topic_alias = NonZeroU16::new(n));
    site.send(a, alias(message("t", AtLeastOnce, "1"), 1));
    site.send(a, alias(message("", AtLeastOnce, "2"), 1));
    let received = site.receive(a);
    assert_eq!(received.len(), 2);
    assert!(received.iter().all(|p| &*p.topic == "t" && p.properties.is_none()));
    site.bye(a);
    let (a, _) = site.resumes(lasting("a"));
    let close = site.publish(a, alias(message("", AtLeastOnce, "3"), 1)).1.close;
    assert_eq!(close.map(|c| c.0), Some(Reason::TOPIC_ALIAS_INVALID));
    let b = site.connect(connect("b"));
    let close = site.publish(b, alias(message("t", AtLeastOnce, "3"), 5)).1.close;
    assert_eq!(close.map(|c| c.0), Some(Reason::TOPIC_ALIAS_INVALID));
    let c = site.connect(connect("c"));
    assert_eq!(site.publish(c, message("", AtMostOnce, "3")).1.close.map(|c| c.0), Some(Reason::PROTOCOL_ERROR));
}

#[test]
fn a_client_that_forgot_its_exchange_may_use_the_packet_id_for_qos_1() {
    let mut site = Site::new();
    let a = site.connect(lasting("a"));
    site.publish(a, message("t", ExactlyOnce, "x"));
    site.lose(a);
    let (a, _) = site.resumes(lasting("a"));
    assert!(storing(&site.publish(a, message("t", AtLeastOnce, "y")).0));
    assert_eq!(site.stored(a, &[(pid(1), Ok(()))]).replies, [Packet::Puback(ack(pid(1)))]);
    let close = {
        site.publish(a, message("t", AtLeastOnce, "y"));
        site.publish(a, message("t", ExactlyOnce, "y")).1.close
    };
    assert_eq!(close.map(|c| c.0), Some(Reason::PROTOCOL_ERROR), "but not while the first is being stored");
}

#[test]
fn retained_messages_have_bounds_and_beyond_them_live_subscribers_get_the_message_all_the_same() {
    let retain = |topic: &str, payload: &str| Publish { retain: true, ..message(topic, AtLeastOnce, payload) };
    let mut site = Site::with(Limits { max_retained: 2, ..limits() });
    let a = site.connect(connect("a"));
    let s = site.connect(connect("s"));
    site.subscribe(s, vec![filter("#", AtLeastOnce)]);
    assert_eq!(site.send(a, retain("1", "x")), Some(Reason::SUCCESS));
    assert_eq!(site.send(a, retain("2", "x")), Some(Reason::SUCCESS));
    assert_eq!(site.send(a, retain("3", "x")), Some(Reason::QUOTA_EXCEEDED));
    assert_eq!(site.send(a, Publish { qos: ExactlyOnce, ..retain("3", "x") }), Some(Reason::QUOTA_EXCEEDED));
    assert_eq!(site.send(a, retain("1", "y")), Some(Reason::SUCCESS), "in place of another");
    assert_eq!(site.send(a, retain("4", "")), Some(Reason::SUCCESS), "to clear needs no room");
    // 3.1.1 has no answer for it: the message is taken, and not retained.
    let b = site.connect(v311("b", true));
    assert_eq!(site.send(b, retain("3", "z")), Some(Reason::SUCCESS));
    assert_eq!(site.payloads(s), ["x", "x", "x", "y", "", "z"]);
    assert_eq!(site.broker.counts().retained, 2);
    assert_eq!(site.broker.counts().dropped.not_retained, 3);
    assert_eq!(site.send(a, retain("2", "")), Some(Reason::SUCCESS));
    assert_eq!(site.send(a, retain("3", "x")), Some(Reason::SUCCESS));

    let mut site = Site::with(Limits { max_retained_bytes: 1_000, ..limits() });
    let a = site.connect(connect("a"));
    assert_eq!(site.send(a, retain("1", &"x".repeat(500))), Some(Reason::SUCCESS));
    assert_eq!(site.send(a, retain("2", &"x".repeat(500))), Some(Reason::QUOTA_EXCEEDED));
    assert_eq!(site.send(a, retain("1", &"y".repeat(600))), Some(Reason::SUCCESS));
}
