//! What a client can make the gateway keep, besides messages that wait, is bounded before it is kept.

use super::*;

/// Everybody has little, and there is hardly anything for all.
fn tight() -> Site {
    let held_bytes = Share { own: 1_000, shared: 2_000 };
    let held_levels = Share { own: 10, shared: 20 };
    Site::with(Limits { held_bytes, held_levels, max_subscriptions: 100, receive_max: 100, ..limits() })
}

fn large_will(connect: Connect, bytes: usize) -> Connect {
    let message = Publish { payload: vec![b'x'; bytes].into(), ..message("will", AtLeastOnce, "") };
    Connect { will: Some(Will { message, delay_s: 3600 }), ..connect }
}

/// Takes all that there is for all.
fn hog(site: &mut Site) -> ConnectionId {
    let hog = site.connect(large_will(lasting("hog"), 2_600));
    assert!(site.broker.pot.held.bytes > 1_500, "{:?}", site.broker.pot.held);
    hog
}

fn check_books(site: &Site) {
    let [booked, there] = site.broker.books();
    assert_eq!(booked, there);
    assert!(booked.3.bytes <= site.broker.limits.held_bytes.shared);
    assert!(booked.3.levels <= site.broker.limits.held_levels.shared);
}

#[test]
fn a_will_that_has_no_room_is_refused_and_nothing_is_changed() {
    let mut site = tight();
    let a = site.connect(large_will(lasting("a"), 700));
    site.subscribe(a, vec![filter("t", AtLeastOnce)]);
    let hog = hog(&mut site);
    let (records, ended) = (site.records.len(), site.kicked.len());
    for connect in [lasting("a"), connect("a"), lasting("new"), connect("new")] {
        assert_eq!(site.refused(large_will(connect, 1_500), anybody()), Reason::QUOTA_EXCEEDED);
    }
    assert_eq!(site.refused(large_will(v311("new", false), 1_500), anybody()), Reason::SERVER_UNAVAILABLE);
    assert_eq!((site.records.len(), site.kicked.len(), site.broker.counts().sessions), (records, ended, 2));
    assert!(site.published.is_empty());
    // A small one everybody may have, also in place of a large one.
    site.connect(large_will(lasting("new"), 300));
    let (a, resumed) = site.resumes(large_will(lasting("a"), 600));
    assert!(resumed);
    site.bye(a);
    assert!(site.resumes(lasting("a")).1);
    check_books(&site);
    assert_eq!(site.notices.len(), 1, "it is said once a minute: {:?}", site.notices);
    site.bye(hog);
    site.connect(large_will(lasting("new"), 2_000));
    check_books(&site);
}

#[test]
fn a_will_has_64_kib() {
    let mut site = Site::new();
    let mut large = large_will(connect("a"), 10);
    let properties = Properties { user: vec![("n".repeat(100), "v".repeat(65_500))], ..Properties::default() };
    large.will.as_mut().unwrap().message.properties = Some(Box::new(properties));
    assert_eq!(site.refused(large.clone(), anybody()), Reason::PACKET_TOO_LARGE);
    let v311 = Connect { version: Version::V311, ..large_will(v311("a", true), 65_535) };
    assert_eq!(site.refused(v311, anybody()), Reason::NOT_AUTHORIZED);
    site.connect(large_will(connect("a"), 65_000));
}

#[test]
fn a_subscription_that_has_no_room_is_refused_and_who_takes_none_of_the_rest_has_his() {
    let mut site = tight();
    let hog = hog(&mut site);
    let a = site.connect(lasting("a"));
    let names = ["1", "2", "3", "4", "5", "6", "7", "8"];
    let reasons = site.subscribe(a, names.map(|name| filter(name, AtLeastOnce)).to_vec());
    let granted = reasons.iter().filter(|reason| !reason.is_error()).count();
    assert!((4..8).contains(&granted), "{reasons:?}");
    assert!(reasons[granted..].iter().all(|reason| *reason == Reason::QUOTA_EXCEEDED), "{reasons:?}");
    assert_eq!(site.broker.counts().subscriptions, granted);
    check_books(&site);
    // The same again needs nothing, and what goes makes room.
    assert_eq!(site.subscribe(a, vec![filter("1", ExactlyOnce)]), [Reason(2)]);
    assert_eq!(site.unsubscribe(a, &["2"]), [Reason::SUCCESS]);
    assert_eq!(site.subscribe(a, vec![filter("8", AtLeastOnce)]), [Reason(1)]);
    site.bye(hog);
    site.connect(connect("hog"));
    assert_eq!(site.subscribe(a, vec![filter("7", AtLeastOnce)]), [Reason(1)]);
    check_books(&site);
}

#[test]
fn the_levels_of_filters_are_counted_and_not_their_text_alone() {
    let mut site = tight();
    let deep = |n: usize, name: &str| filter(&[&vec!["a"; n - 1].join("/"), name].join("/"), AtMostOnce);
    let a = site.connect(lasting("a"));
    assert_eq!(
        site.subscribe(a, vec![deep(25, "1"), deep(6, "1"), deep(5, "2")]),
        [Reason(0), Reason::QUOTA_EXCEEDED, Reason(0)]
    );
    let b = site.connect(lasting("b"));
    assert_eq!(site.subscribe(b, vec![deep(10, "1"), deep(2, "1")]), [Reason(0), Reason::QUOTA_EXCEEDED]);
    check_books(&site);
    site.unsubscribe(a, &[&deep(25, "1").filter]);
    assert_eq!(site.subscribe(b, vec![deep(20, "1")]), [Reason(0)]);
    // Of one session also where there is room.
    let held_levels = Share { own: 10, shared: 10_000 };
    let mut site = Site::with(Limits { held_levels, max_subscriptions: 20, ..limits() });
    let a = site.connect(connect("a"));
    assert_eq!(
        site.subscribe(a, vec![deep(128, "1"), deep(72, "2"), deep(1, "3")])[1..],
        [Reason(0), Reason::QUOTA_EXCEEDED]
    );
}

#[test]
fn a_client_that_never_releases_is_cut_off_also_over_several_connections() {
    for version in [Version::V311, Version::V5] {
        let mut site = Site::with(Limits { receive_max: 3, ..limits() });
        let connect = || Connect { version, ..lasting("a") };
        let publish = |id| Publish { packet_id: Some(pid(id)), ..message("t", ExactlyOnce, "x") };
        let mut a = site.connect(connect());
        for id in 1..=30 {
            assert!(matches!(site.publish(a, publish(id)).0, Published::New { .. }), "{id}");
            site.stored(a, &[(pid(id), Ok(()))]);
            if id % 3 == 0 {
                site.lose(a);
                a = site.connect(connect());
            }
        }
        // What is there is answered again, and may be released.
        assert_eq!(site.publish(a, publish(7)).1.replies, [Packet::Pubrec(ack(pid(7)))]);
        let (_, reaction) = site.publish(a, publish(31));
        assert_eq!(reaction.close.map(|c| c.0), Some(Reason::RECEIVE_MAXIMUM_EXCEEDED), "{version:?}");
        site.lose(a);
        let a = site.connect(connect());
        assert_eq!(site.packet(a, Packet::Pubrel(ack(pid(7)))).replies, [Packet::Pubcomp(ack(pid(7)))]);
        assert!(matches!(site.publish(a, publish(31)).0, Published::New { .. }));
        check_books(&site);
    }
}

#[test]
fn a_qos_2_message_that_has_no_room_is_refused_and_qos_1_goes_on() {
    let mut site = tight();
    let hog = hog(&mut site);
    let (a, b) = (site.connect(lasting("a")), site.connect(v311("b", false)));
    let publish = |id| Publish { packet_id: Some(pid(id)), ..message("t", ExactlyOnce, "x") };
    let mut refused = None;
    for id in 1..=100 {
        let (published, reaction) = site.publish(a, publish(id));
        if let [Packet::Pubrec(answer)] = &reaction.replies[..] {
            assert_eq!((answer.reason, reaction.words.len()), (Reason::QUOTA_EXCEEDED, 1));
            refused = Some(id);
            break;
        }
        assert!(matches!(published, Published::New { .. }));
        site.stored(a, &[(pid(id), Ok(()))]);
    }
    let refused = refused.expect("an end");
    assert!(refused > 5, "{refused}: a session has room for some");
    assert_eq!(site.send(a, message("t", AtLeastOnce, "x")), Some(Reason::SUCCESS));
    check_books(&site);
    let mut closed = None;
    for id in 1..=100 {
        closed = site.publish(b, publish(id)).1.close;
        if closed.is_some() {
            break;
        }
        site.stored(b, &[(pid(id), Ok(()))]);
    }
    assert_eq!(closed.map(|c| c.0), Some(Reason::QUOTA_EXCEEDED));
    site.bye(hog);
    site.connect(connect("hog"));
    assert!(matches!(site.publish(a, publish(refused)).0, Published::New { .. }));
}

#[test]
fn topic_aliases_are_for_topics_of_1024_bytes_and_are_counted() {
    let alias = |topic: &str, n| with(message(topic, AtMostOnce, "x"), |p| p.topic_alias = NonZeroU16::new(n));
    let mut site = Site::new();
    let a = site.connect(connect("a"));
    assert!(site.publish(a, alias(&"t".repeat(1_024), 1)).1.close.is_none());
    let close = site.publish(a, alias(&"t".repeat(1_025), 1)).1.close;
    assert_eq!(close.map(|c| c.0), Some(Reason::QUOTA_EXCEEDED));

    let mut site = tight();
    let hog = hog(&mut site);
    let a = site.connect(connect("a"));
    assert!(site.publish(a, alias(&"t".repeat(500), 1)).1.close.is_none());
    for _ in 0..10 {
        assert!(site.publish(a, alias(&"u".repeat(500), 1)).1.close.is_none(), "in place of another");
    }
    check_books(&site);
    let close = site.publish(a, alias(&"t".repeat(900), 2)).1.close;
    assert_eq!(close.map(|c| c.0), Some(Reason::QUOTA_EXCEEDED));
    site.lose(a);
    site.bye(hog);
    check_books(&site);
}

#[test]
fn a_long_topic_gets_no_alias_towards_a_client() {
    let mut site = Site::new();
    let a = site.connect(connect("a"));
    let s = site.connect(Connect { topic_alias_maximum: 4, ..connect("s") });
    site.subscribe(s, vec![filter("#", AtMostOnce)]);
    let long = "t".repeat(1_025);
    for topic in [long.as_str(), "short"] {
        site.send(a, message(topic, AtMostOnce, "x"));
        let sent = site.taken(s);
        assert_eq!(sent[0].properties.as_ref().and_then(|p| p.topic_alias).is_some(), topic == "short");
    }
    check_books(&site);
}

#[test]
fn what_is_retained_has_a_topic_of_1024_bytes_and_a_refusal_is_said() {
    let mut site = Site::new();
    let long = Publish { retain: true, ..message(&"t".repeat(1_025), AtLeastOnce, "x") };
    let a = site.connect(connect("a"));
    let (_, reaction) = site.publish(a, long.clone());
    assert!(matches!(&reaction.replies[..], [Packet::Puback(answer)] if answer.reason == Reason::QUOTA_EXCEEDED));
    assert_eq!(reaction.words.len(), 1);
    let b = site.connect(v311("b", true));
    site.pass(60);
    assert_eq!(site.send(b, long), Some(Reason::SUCCESS), "3.1.1 cannot be told");
    assert_eq!(site.broker.counts().retained, 0);
    let client = |name: &str| Notice::NoRoom { what: "a retained message", client_id: name.into() };
    assert_eq!(site.notices, [client("a"), client("b")]);
}

#[test]
fn a_retained_qos_2_message_that_may_be_stored_is_not_refused_when_it_comes_again() {
    let retain = |topic: &str| Publish { retain: true, ..message(topic, ExactlyOnce, "x") };
    let mut site = Site::with(Limits { max_retained: 1, ..limits() });
    let a = site.connect(lasting("a"));
    let (Published::New { name, .. }, _) = site.publish(a, retain("1")) else { panic!() };
    site.lose(a);
    // Another one has taken the place meanwhile.
    let b = site.connect(connect("b"));
    assert_eq!(site.send(b, retain("2")), Some(Reason::SUCCESS));
    let (a, _) = site.resumes(lasting("a"));
    let (published, reaction) = site.publish(a, Publish { dup: true, ..retain("1") });
    assert!(matches!(published, Published::New { name: again, .. } if again == name), "{reaction:?}");
    assert_eq!(site.stored(a, &[(pid(1), Ok(()))]).replies, [Packet::Pubrec(ack(pid(1)))]);
    assert_eq!((site.broker.counts().retained, site.broker.counts().dropped.not_retained), (1, 1));
}

/// A smaller limit than what the disk has: all of it is there, and only what makes more of it is refused.
#[test]
fn what_is_restored_may_be_more_than_fits_now() {
    let mut site = Site::new();
    let mut absent = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let client = site.connect(large_will(lasting(name), 5_000));
        site.subscribe(client, vec![filter("x/#", AtLeastOnce)]);
        absent.push(client);
    }
    site.broker.limits.held_bytes = Share { own: 1_000, shared: 2_000 };
    site.restart();
    assert_eq!(site.broker.counts().sessions, 4);
    assert_eq!(site.refused(large_will(lasting("e"), 1_500), anybody()), Reason::QUOTA_EXCEEDED);
    let (a, resumed) = site.resumes(lasting("a"));
    assert!(resumed);
    assert_eq!(site.unsubscribe(a, &["x/#"]), [Reason::SUCCESS]);
    site.connect(connect("a"));
    for name in ["b", "c", "d"] {
        site.connect(connect(name));
    }
    check_books(&site);
    site.connect(large_will(lasting("e"), 1_500));
}

/// Retained messages need no queue, but what is under way is in the pot and on disk.
#[test]
fn retained_messages_for_many_who_do_not_answer_stay_within_the_pot() {
    let mut site =
        Site::with(Limits { max_total_bytes: 20_000, max_sessions: 100, max_retained_bytes: 1 << 20, ..limits() });
    let a = site.connect(connect("a"));
    for topic in ["1", "2", "3"] {
        site.send(a, Publish { retain: true, ..message(topic, AtLeastOnce, &"x".repeat(5_000)) });
    }
    let mut got = 0;
    for n in 0..20 {
        let s = site.connect(lasting(&n.to_string()));
        site.subscribe(s, vec![filter("#", AtLeastOnce)]);
        got += site.taken(s).len();
        assert!(site.broker.counts().pot_bytes <= 20_000, "{}", site.broker.counts().pot_bytes);
    }
    assert!((3..60).contains(&got), "{got}");
    check_books(&site);
    // The others wait, and get theirs when there is room.
    let last = site.connect(lasting("last"));
    site.subscribe(last, vec![filter("#", AtLeastOnce)]);
    let reaction = site.broker.take(site.now, last, 1_000, usize::MAX);
    assert!(reaction.later && reaction.replies.is_empty(), "{reaction:?}");
    for n in 0..20 {
        site.connect(connect(&n.to_string()));
    }
    assert_eq!(site.payloads(last).len(), 3);
    assert_eq!(site.broker.counts().dropped, counts::Dropped::default());
    // What waits for the absent gives way: one at a time gets through.
    let mut site = Site::with(Limits { max_total_bytes: 20_000, ..limits() });
    let a = site.connect(connect("a"));
    let absent = site.connect(lasting("absent"));
    site.subscribe(absent, vec![filter("queue", AtLeastOnce)]);
    site.bye(absent);
    for _ in 0..30 {
        site.send(a, message("queue", AtLeastOnce, &"x".repeat(1_000)));
    }
    for topic in ["1", "2", "3"] {
        site.send(a, Publish { retain: true, ..message(topic, AtLeastOnce, &"x".repeat(5_000)) });
    }
    let s = site.connect(lasting("s"));
    site.subscribe(s, vec![filter("+", AtLeastOnce)]);
    assert_eq!(site.payloads(s).len(), 3);
}
