//! The records: what is promised is in them, and they give the state again.

use super::*;

/// A subscriber that has been away, with two messages waiting; its publisher.
fn waiting(site: &mut Site) -> ConnectionId {
    let s = site.connect(lasting("s"));
    site.subscribe_as(s, vec![filter("t", ExactlyOnce)], Some(5));
    site.bye(s);
    let p = site.connect(lasting("p"));
    site.send(p, message("t", AtLeastOnce, "1"));
    site.send(p, message("t", ExactlyOnce, "2"));
    p
}

#[test]
fn a_session_that_ends_with_its_connection_makes_no_records() {
    let mut site = Site::new();
    let a = site.connect(with_will(connect("a"), "w", 5));
    site.subscribe(a, vec![filter("t", ExactlyOnce)]);
    site.send(a, message("t", ExactlyOnce, "x"));
    site.receive(a);
    site.unsubscribe(a, &["t"]);
    site.lose(a);
    assert_eq!(site.records, []);
}

#[test]
fn each_promise_comes_with_its_record() {
    let mut site = Site::new();
    let a = site.connect(lasting("a"));
    assert!(matches!(site.records[..], [Record::Session(_)]));
    let records = |reaction: &Reaction| reaction.records.clone();
    let subscribe = Subscribe { packet_id: pid(1), subscription_id: None, filters: vec![filter("t", ExactlyOnce)] };
    let suback = site.packet(a, Packet::Subscribe(Box::new(subscribe)));
    assert!(matches!(records(&suback)[..], [Record::Subscribed { .. }]));
    let (_, taken) = site.publish(a, message("t", AtLeastOnce, "x"));
    assert!(matches!(records(&taken)[..], [Record::Queued { .. }]));
    assert!(site.stored(a, &[(pid(1), Ok(()))]).records.is_empty());
    let (_, intent) = site.publish(a, message("t", ExactlyOnce, "x"));
    assert!(matches!(records(&intent)[..], [Record::Intent { .. }]));
    let pubrec = site.stored(a, &[(pid(1), Ok(()))]);
    assert!(matches!(records(&pubrec)[..], [Record::Queued { received: Some(_), .. }]));
    let pubcomp = site.packet(a, Packet::Pubrel(ack(pid(1))));
    assert!(matches!(records(&pubcomp)[..], [Record::Released { .. }]));
    let out = site.broker.take(site.now, a, 10_000, usize::MAX);
    assert_eq!(out.replies.len(), 2);
    assert!(
        matches!(records(&out)[..], [Record::OutgoingSent { .. }]),
        "QoS 2 does not leave before it is on disk that it waits"
    );
    let Packet::Publish(second) = &out.replies[1] else { panic!() };
    let pubrel = site.packet(a, Packet::Pubrec(ack(second.packet_id.unwrap())));
    assert!(matches!(records(&pubrel)[..], [Record::OutgoingReceived { .. }]));
    let done = site.packet(a, Packet::Pubcomp(ack(second.packet_id.unwrap())));
    assert!(matches!(records(&done)[..], [Record::OutgoingDone { .. }]));
    let (_, retained) = site.publish(a, Publish { retain: true, ..message("r", AtMostOnce, "x") });
    assert!(matches!(records(&retained)[..], [Record::Retained { message: Some(_), .. }]));
    let unsuback = Packet::Unsubscribe(Box::new(Unsubscribe { packet_id: pid(1), filters: vec!["t".into()] }));
    assert!(matches!(records(&site.packet(a, unsuback))[..], [Record::Unsubscribed { .. }]));
    assert!(matches!(
        records(&site.broker.closed(site.now, a))[..],
        [Record::SessionExpiry { expires_at: Some(_), .. }]
    ));
}

#[test]
fn after_a_crash_everything_is_there_again() {
    let mut site = Site::new();
    waiting(&mut site);
    let p = site.resumes(lasting("p")).0;
    site.send(p, Publish { retain: true, ..message("r", AtLeastOnce, "kept") });
    site.restart();
    let counts = site.broker.counts();
    assert_eq!((counts.sessions, counts.connections, counts.subscriptions), (2, 0, 1));
    assert_eq!((counts.queued, counts.retained), (2, 1));
    let (s, present) = site.resumes(lasting("s"));
    assert!(present);
    let received = site.receive(s);
    assert_eq!(received.iter().map(|p| &p.payload[..]).collect::<Vec<_>>(), [b"1", b"2"]);
    assert!(received.iter().all(|p| p.properties.as_ref().unwrap().subscription_ids == [5]));
    let dup: Vec<_> = received.iter().map(|p| (p.qos, p.dup)).collect();
    assert_eq!(dup, [(AtLeastOnce, true), (ExactlyOnce, false)], "of QoS 1 nobody knows whether it was sent");
    site.subscribe(s, vec![filter("r", AtMostOnce)]);
    assert_eq!(site.payloads(s), ["kept"]);
}

#[test]
fn a_qos_2_message_keeps_its_packet_id_through_a_crash_and_is_released_not_repeated() {
    let mut site = Site::new();
    waiting(&mut site);
    let (s, _) = site.resumes(lasting("s"));
    let id = site.taken(s)[1].packet_id.unwrap();
    site.restart();
    let (s, _) = site.resumes(lasting("s"));
    assert_eq!(site.taken(s)[1].packet_id, Some(id));
    site.packet(s, Packet::Pubrec(ack(id)));
    site.restart();
    let (s, _) = site.resumes(lasting("s"));
    assert!(site.take(s).contains(&Packet::Pubrel(ack(id))));
    site.packet(s, Packet::Pubcomp(ack(id)));
    site.restart();
    assert_eq!(site.broker.counts().queued, 1);
}

#[test]
fn ids_of_a_later_run_are_new() {
    let mut site = Site::new();
    let p = waiting(&mut site);
    let (Published::New { name: Some(first), .. }, _) = site.publish(p, message("t", ExactlyOnce, "3")) else {
        panic!()
    };
    site.restart();
    let (p, _) = site.resumes(lasting("p"));
    let other = Publish { packet_id: Some(pid(2)), ..message("t", ExactlyOnce, "4") };
    let (Published::New { name: Some(second), .. }, _) = site.publish(p, other) else { panic!() };
    assert_eq!(first.session, second.session);
    assert_ne!(first.number, second.number);
    site.stored(p, &[(pid(2), Ok(()))]);
    let (s, _) = site.resumes(lasting("s"));
    assert_eq!(site.payloads(s), ["1", "2", "4"], "in order");
}

#[test]
fn records_of_sessions_that_are_gone_change_nothing() {
    let mut site = Site::new();
    waiting(&mut site);
    let records = site.records.clone();
    site.broker = Broker::new(limits(), 5);
    for record in records.into_iter().filter(|r| !matches!(r, Record::Session(_))) {
        site.broker.restore(record);
    }
    assert_eq!(site.broker.counts(), Counts::default());
}

#[test]
fn what_the_gateway_publishes_itself_is_kept_only_where_it_says_so() {
    let mut site = Site::new();
    let own = |topic: &str, payload: &'static str| Message {
        topic: topic.into(),
        qos: AtLeastOnce,
        retain: true,
        payload: Bytes::from_static(payload.as_bytes()),
        properties: None,
        expires_at: None,
    };
    let s = site.connect(lasting("s"));
    site.subscribe(s, vec![filter("$SYS/#", AtLeastOnce), filter("cmd", AtLeastOnce), filter("#", AtLeastOnce)]);
    for (message, keep) in [(own("$SYS/x", "1"), false), (own("cmd", "2"), true)] {
        let reaction = site.broker.publish_own(site.now, Source::Gateway, message, keep);
        site.shell(reaction);
    }
    assert_eq!(site.payloads(s), ["1", "2"]);
    assert_eq!(site.broker.counts().retained, 2);
    site.restart();
    assert_eq!(site.broker.counts().retained, 1);
    let reaction = site.broker.publish_own(site.now, Source::Gateway, own("cmd", ""), true);
    site.shell(reaction);
    site.restart();
    assert_eq!(site.broker.counts().retained, 0);
}

/// All that is alive, in pieces of so many bytes.
fn tidied(site: &Site, max_bytes: usize) -> Vec<Vec<Record>> {
    let (mut pieces, mut cursor) = (Vec::new(), Some(TidyCursor::default()));
    while let Some(at) = cursor {
        let (records, next) = site.broker.tidy(at, max_bytes);
        pieces.push(records);
        cursor = next;
    }
    pieces
}

#[test]
fn tidying_goes_in_pieces_that_give_the_same_state() {
    let mut site = Site::new();
    let p = waiting(&mut site);
    for n in 0..30 {
        site.send(p, message("t", ExactlyOnce, &"x".repeat(n)));
        site.send(p, Publish { retain: true, ..message(&format!("r/{}", n % 10), AtLeastOnce, "y") });
    }
    site.publish(p, Publish { packet_id: Some(pid(99)), ..message("t", ExactlyOnce, "intent") });
    let whole: Vec<_> = tidied(&site, usize::MAX).concat();
    for max_bytes in [1, 300, 1_000, 100_000] {
        let pieces = tidied(&site, max_bytes);
        assert!(pieces.len() > 1 || max_bytes == 100_000);
        let largest = pieces.iter().map(|p| p.iter().map(|r| store::encode(r).len()).sum::<usize>()).max();
        assert!(largest < Some(max_bytes + 400), "{largest:?} {max_bytes}");
        // Over the old records, and without them.
        for mut records in [site.records.clone(), Vec::new()] {
            records.extend(pieces.concat());
            let mut again = Site::new();
            again.records = records;
            again.broker = Broker::new(limits(), 5);
            again.records.clone().into_iter().for_each(|r| again.broker.restore(r));
            assert_eq!(tidied(&again, usize::MAX).concat(), whole, "{max_bytes}");
            assert_eq!(again.broker.counts().queued_bytes, site.broker.counts().queued_bytes);
        }
    }
}

/// A clock without battery: 2099 once, and right again. All sessions with all that waits for them would be gone.
#[test]
fn one_start_with_a_clock_far_ahead_ends_no_session() {
    let mut site = Site::new();
    let s = site.connect(lasting("s"));
    site.subscribe(s, vec![filter("t", AtLeastOnce)]);
    site.bye(s);
    let p = site.connect(connect("p"));
    site.send(p, message("t", AtLeastOnce, "kept"));
    site.send(p, with(message("t", AtLeastOnce, "late"), |p| p.message_expiry_s = Some(60)));
    site.pass(1_800);
    for away_ms in [73 * 365 * 86_400_000, 0, AWAY_DOUBTED_MS + 1] {
        site.restart_after(away_ms);
        assert_eq!(site.broker.counts().sessions, 1, "{away_ms}");
    }
    // What was left of its time is left.
    site.pass(1_799);
    let (s, present) = site.resumes(lasting("s"));
    assert!(present);
    assert_eq!(site.payloads(s), ["kept"], "a message that says until when it is wanted is not delivered after that");
    site.bye(s);
    site.restart_after(3_600_000);
    assert_eq!(site.broker.counts().sessions, 0, "a time that can be believed counts");
}
