//! Wills, and the ends of connections and sessions (MQTT 5.0 §3.1.2.5, §3.14).

use super::*;

/// Somebody who hears of wills.
fn listener(site: &mut Site) -> ConnectionId {
    let listener = site.connect(connect("listener"));
    site.subscribe(listener, vec![filter("will/#", ExactlyOnce)]);
    listener
}

/// Paho `test_will_message`, `test_keepalive`.
#[test]
fn a_lost_connection_publishes_its_will_and_disconnect_takes_it_back() {
    for version in [Version::V5, Version::V311] {
        let mut site = Site::new();
        let l = listener(&mut site);
        let mut connect = with_will(Connect { version, ..connect("a") }, "will/a", 0);
        if version == Version::V5 {
            let will = connect.will.as_mut().unwrap();
            will.message = with(will.message.clone(), |p| p.user = vec![("a".into(), "2".into())]);
        }
        let a = site.connect(connect.clone());
        site.lose(a);
        let received = site.receive(l);
        assert_eq!((received.len(), received[0].qos, received[0].retain), (1, AtLeastOnce, false));
        assert_eq!(received[0].properties.as_ref().map(|p| p.user.len()), (version == Version::V5).then_some(1));
        assert_eq!(site.published.len(), 1, "it goes upstream as well");
        assert_eq!((&*site.published[0].client_id, &*site.published[0].owner), ("a", ""));
        let a = site.connect(connect);
        site.bye(a);
        assert!(site.take(l).is_empty());
        assert_eq!(site.broker.counts().wills, 1);
    }
}

#[test]
fn disconnect_with_will_publishes_it() {
    let mut site = Site::new();
    let l = listener(&mut site);
    let a = site.connect(with_will(connect("a"), "will/a", 0));
    site.disconnect(a, Reason::DISCONNECT_WITH_WILL, None);
    assert_eq!(site.payloads(l), ["gone"]);
}

/// Paho `test_will_delay`: the delay, or the end of the session, whatever comes first.
#[test]
fn a_will_waits_for_its_delay_or_the_end_of_the_session() {
    for (delay_s, expiry_s, after_s) in [(3, 5, 3), (5, 0, 0), (5, 2, 2), (0, 100, 0)] {
        let mut site = Site::new();
        let l = listener(&mut site);
        let connect = Connect { session_expiry_s: Some(expiry_s), ..with_will(connect("a"), "will/a", delay_s) };
        let a = site.connect(connect);
        site.lose(a);
        if after_s > 0 {
            site.pass(after_s - 1);
            assert!(site.take(l).is_empty(), "{delay_s} {expiry_s}");
            site.pass(1);
        }
        assert_eq!(site.payloads(l), ["gone"], "{delay_s} {expiry_s}");
        site.pass(1_000);
        assert!(site.take(l).is_empty());
        assert_eq!(site.broker.next_deadline(), None);
    }
}

#[test]
fn a_client_that_is_back_in_time_has_no_will_published() {
    let mut site = Site::new();
    let l = listener(&mut site);
    let a = site.connect(with_will(lasting("a"), "will/a", 10));
    site.lose(a);
    site.pass(5);
    let (a, _) = site.resumes(lasting("a"));
    site.pass(100);
    assert!(site.take(l).is_empty());
    // Nor is it when the session is taken over; without delay it is.
    site.bye(a);
    site.connect(with_will(lasting("a"), "will/a", 10));
    site.connect(with_will(lasting("a"), "will/a", 0));
    assert!(site.take(l).is_empty());
    site.connect(lasting("a"));
    assert_eq!(site.payloads(l), ["gone"]);
}

#[test]
fn a_clean_start_ends_the_session_and_so_publishes_the_will_that_waits() {
    let mut site = Site::new();
    let l = listener(&mut site);
    let a = site.connect(with_will(lasting("a"), "will/a", 10));
    site.lose(a);
    site.connect(connect("a"));
    assert_eq!(site.payloads(l), ["gone"]);
}

#[test]
fn a_will_may_be_retained_and_expire() {
    let mut site = Site::new();
    let mut connect = with_will(lasting("a"), "will/a", 10);
    let will = connect.will.as_mut().unwrap();
    will.message = with(Publish { retain: true, ..will.message.clone() }, |p| p.message_expiry_s = Some(7));
    let a = site.connect(connect);
    site.lose(a);
    site.pass(10);
    let l = listener(&mut site);
    let received = site.receive(l);
    assert_eq!((received[0].retain, received[0].properties.as_ref().unwrap().message_expiry_s), (true, Some(7)));
    site.pass(7);
    assert_eq!(site.broker.counts().retained, 0);
}

#[test]
fn after_a_crash_wills_are_published_as_if_the_connections_had_been_lost_then() {
    let mut site = Site::new();
    for (name, delay) in [("now", 0), ("soon", 10), ("back", 10)] {
        site.connect(with_will(lasting(name), &format!("will/{name}"), delay));
    }
    let (waits, ..) = site.try_connect(with_will(lasting("waits"), "will/waits", 20), who("plant", &[]));
    site.lose(waits);
    let gone = site.connect(with_will(lasting("gone"), "will/gone", 0));
    site.bye(gone);
    site.pass(15);
    site.restart();
    let topics = |site: &Site| site.published.iter().map(|w| w.message.topic.to_string()).collect::<Vec<_>>();
    assert_eq!(topics(&site), ["will/now"]);
    site.resumes(lasting("back"));
    site.pass(5);
    assert_eq!(topics(&site), ["will/now", "will/waits"]);
    site.pass(5);
    assert_eq!(topics(&site), ["will/now", "will/waits", "will/soon"]);
    site.restart();
    site.pass(100);
    assert_eq!(site.published.len(), 3, "once");
    assert_eq!((&*site.published[1].client_id, &*site.published[1].owner), ("waits", "plant"), "known from the disk");
}

#[test]
fn after_a_crash_sessions_expire_as_if_the_connections_had_been_lost_then() {
    let mut site = Site::new();
    let expiring = |name, s| Connect { session_expiry_s: Some(s), ..lasting(name) };
    site.connect(expiring("a", 10));
    let b = site.connect(expiring("b", 10));
    site.lose(b);
    let c = site.connect(expiring("c", 10));
    site.lose(c);
    site.resumes(expiring("c", 100)); // what it asked for last counts
    site.pass(8);
    site.restart();
    site.pass(2);
    assert_eq!(site.broker.counts().sessions, 2, "b was gone before");
    site.pass(8);
    assert_eq!(site.broker.counts().sessions, 1);
    site.restart();
    assert!(site.resumes(expiring("c", 100)).1);
    assert!(!site.resumes(expiring("a", 10)).1);
}

#[test]
fn nothing_is_left_of_a_session_that_has_ended() {
    let mut site = Site::new();
    let p = site.connect(connect("p"));
    for round in 0..3 {
        let s = site.connect(with_will(lasting("s"), "t", 500));
        site.subscribe(s, vec![filter("t", AtLeastOnce), filter("$share/g/t", AtMostOnce), filter("#", ExactlyOnce)]);
        site.send(p, message("t", ExactlyOnce, "x"));
        site.taken(s);
        site.publish(s, message("x", ExactlyOnce, "x"));
        site.lose(s);
        match round {
            0 => site.pass(3_600),
            1 => drop(site.connect(connect("s"))),
            _ => {
                let (s, _) = site.resumes(lasting("s"));
                site.disconnect(s, Reason::SUCCESS, Some(0));
            }
        }
        let s = site.connect(connect("s"));
        site.bye(s);
        let counts = site.broker.counts();
        assert_eq!(
            (counts.sessions, counts.subscriptions, counts.queued, counts.queued_bytes),
            (1, 0, 0, 0),
            "{round}"
        );
        assert_eq!(site.broker.next_deadline(), None);
        site.restart();
        assert_eq!(site.broker.counts().sessions, 0);
        site.connect(connect("p"));
    }
}
