//! CONNECT, and whose session it is (MQTT 5.0 §3.1, §3.2, §4.1).

use super::*;

#[test]
fn a_clean_start_finds_nothing_and_a_session_of_zero_seconds_leaves_nothing() {
    let mut site = Site::new();
    let a = site.connect(connect("a"));
    site.subscribe(a, vec![filter("t", AtLeastOnce)]);
    site.bye(a);
    assert!(!site.resumes(lasting("a")).1);
    assert_eq!(site.broker.counts().sessions, 1);
    assert_eq!(site.broker.counts().subscriptions, 0);
}

/// Paho `test_session_expiry`.
#[test]
fn a_session_lasts_as_long_as_was_asked_for_and_disconnect_may_change_it() {
    let mut site = Site::new();
    let expiring = |s| Connect { session_expiry_s: Some(s), ..lasting("a") };
    let a = site.connect(expiring(5));
    site.bye(a);
    site.pass(2);
    let (a, present) = site.resumes(expiring(5));
    assert!(present);
    site.bye(a);
    site.pass(6);
    let (a, present) = site.resumes(expiring(1));
    assert!(!present);
    assert_eq!(site.broker.counts().sessions_expired, 1);
    site.disconnect(a, Reason::SUCCESS, Some(5));
    site.pass(3);
    let (a, present) = site.resumes(expiring(1));
    assert!(present);
    site.disconnect(a, Reason::SUCCESS, Some(0));
    assert!(!site.resumes(expiring(1)).1);
}

#[test]
fn disconnect_may_not_make_a_session_last_that_was_not_to() {
    let mut site = Site::new();
    let a = site.connect(connect("a"));
    let reaction = site.disconnect(a, Reason::SUCCESS, Some(5));
    assert_eq!(reaction.close.map(|c| c.0), Some(Reason::PROTOCOL_ERROR));
}

#[test]
fn a_second_connection_takes_the_session_over_and_the_first_is_told() {
    let mut site = Site::new();
    let first = site.connect(lasting("a"));
    site.subscribe(first, vec![filter("t", AtLeastOnce)]);
    let (second, present) = site.resumes(lasting("a"));
    assert!(present);
    assert_eq!(site.kicked, [(first, Reason::SESSION_TAKEN_OVER)]);
    // What the first still says counts for nothing.
    assert!(
        matches!(site.publish(first, message("t", AtLeastOnce, "old")), (Published::Answered, r) if r.replies.is_empty())
    );
    site.lose(first);
    assert_eq!(site.broker.counts().connections, 1);
    site.send(second, message("t", AtLeastOnce, "new"));
    assert_eq!(site.payloads(second), ["new"]);
}

#[test]
fn a_session_of_zero_seconds_ends_when_it_is_taken_over() {
    let mut site = Site::new();
    site.connect(connect("a"));
    assert!(!site.resumes(lasting("a")).1);
    assert_eq!(site.kicked.len(), 1);
}

#[test]
fn another_identity_cannot_take_a_session_nor_end_it() {
    let mut site = Site::new();
    let (mine, ..) = site.try_connect(lasting("a"), who("press-7", &[]));
    assert!(site.broker.takes_over("a", "press-7") && !site.broker.takes_over("a", "press-8"));
    assert_eq!(site.refused(connect("a"), who("press-8", &[])), Reason::NOT_AUTHORIZED);
    assert!(site.kicked.is_empty());
    assert_eq!(site.denied, [Denied::Session("a".to_owned())]);
    site.bye(mine);
    assert!(!site.broker.takes_over("a", "press-7"), "there is no connection");
    assert_eq!(site.refused(connect("a"), anybody()), Reason::NOT_AUTHORIZED);
    assert!(site.try_connect(lasting("a"), who("press-7", &[])).1.session_present);
}

#[test]
fn too_long_a_session_is_shortened_and_said() {
    let mut site = Site::with(Limits { session_expiry_max_s: 100, ..limits() });
    let (a, connack, _) = site.try_connect(lasting("a"), anybody());
    assert_eq!(connack.session_expiry_s, Some(100));
    // 3.1.1 cannot be told.
    let (b, connack, _) = site.try_connect(v311("b", false), anybody());
    assert_eq!(connack.session_expiry_s, None);
    site.disconnect(a, Reason::SUCCESS, Some(u32::MAX));
    site.bye(b);
    site.pass(99);
    assert_eq!(site.broker.counts().sessions, 2);
    site.pass(1);
    assert_eq!(site.broker.counts().sessions, 0);
    assert_eq!(site.broker.next_deadline(), None);
}

#[test]
fn a_session_may_last_for_ever() {
    let mut site = Site::with(Limits { session_expiry_max_s: u32::MAX, ..limits() });
    let a = site.connect(v311("a", false));
    site.bye(a);
    assert_eq!(site.broker.next_deadline(), None);
    site.restart();
    site.pass(u64::from(u32::MAX) * 2);
    assert!(site.resumes(v311("a", false)).1);
}

/// Paho `test_assigned_clientid`, `test_zero_length_clientid`.
#[test]
fn a_client_without_id_gets_one_of_its_own() {
    let mut site = Site::new();
    let (_, first, _) = site.try_connect(connect(""), anybody());
    let (_, second, _) = site.try_connect(Connect { clean_start: false, ..connect("") }, anybody());
    let (first, second) = (first.assigned_client_id.unwrap(), second.assigned_client_id.unwrap());
    assert!(!first.is_empty() && first != second);
    // 3.1.1: only with a clean session, and nobody is told [MQTT-3.1.3-8].
    assert_eq!(site.refused(v311("", false), anybody()), Reason::CLIENT_ID_NOT_VALID);
    assert_eq!(site.try_connect(v311("", true), anybody()).1.assigned_client_id, None);
    assert_eq!(site.broker.counts().sessions, 3);
}

/// Paho `test_server_keep_alive`.
#[test]
fn the_server_keep_alive_is_for_those_who_ask_for_more_or_for_none() {
    let mut site = Site::new();
    for (asked, told) in [(120, Some(60)), (0, Some(60)), (61, Some(60)), (60, None), (1, None)] {
        let (_, connack, _) = site.try_connect(Connect { keep_alive_s: asked, ..connect("a") }, anybody());
        assert_eq!(connack.server_keep_alive_s, told, "{asked}");
    }
    assert_eq!(site.try_connect(Connect { keep_alive_s: 0, ..v311("b", true) }, anybody()).1.server_keep_alive_s, None);
}

#[test]
fn the_limits_are_announced_in_5_0() {
    let mut site = Site::new();
    let (_, connack, _) = site.try_connect(connect("a"), anybody());
    assert_eq!(connack.receive_maximum, Some(10));
    assert_eq!(connack.maximum_packet_size, Some(65_536));
    assert_eq!(connack.topic_alias_maximum, Some(4));
    let (_, connack, _) = site.try_connect(v311("b", true), anybody());
    assert_eq!((connack.receive_maximum, connack.maximum_packet_size, connack.topic_alias_maximum), (None, None, None));
}

#[test]
fn no_more_sessions_than_there_may_be_and_no_connection_is_ended_for_a_new_one() {
    let mut site = Site::with(Limits { max_sessions: 2, ..limits() });
    site.connect(lasting("a"));
    site.connect(connect("b"));
    assert_eq!(site.refused(connect("c"), anybody()), Reason::QUOTA_EXCEEDED);
    assert_eq!(site.refused(v311("c", true), anybody()), Reason::SERVER_UNAVAILABLE);
    assert!(site.kicked.is_empty());
    // Who has one may come back, also for a new one.
    assert!(site.resumes(lasting("a")).1);
    site.connect(connect("b"));
}

/// A site that is full: `greedy` has five sessions, `modest` two, none of which is connected.
fn full_site() -> Site {
    let mut site = Site::with(Limits { max_sessions: 7, ..limits() });
    for (owner, client) in
        [("modest", "m1"), ("greedy", "g1"), ("greedy", "g2"), ("modest", "m2"), ("greedy", "g3"), ("greedy", "g4")]
    {
        let (id, ..) = site.try_connect(lasting(client), who(owner, &[]));
        site.pass(1);
        site.lose(id);
    }
    let (id, ..) = site.try_connect(lasting("g5"), who("greedy", &[]));
    site.lose(id);
    assert_eq!(site.broker.counts().sessions, 7);
    site
}

fn left(site: &Site) -> Vec<String> {
    let mut left: Vec<_> = site.broker.clients.keys().map(ToString::to_string).collect();
    left.sort();
    left
}

/// Who lets many sessions behind does not lock others out for as long as they are kept.
#[test]
fn the_longest_absent_session_of_who_has_most_goes_for_a_new_one() {
    let mut site = full_site();
    let (_, connack, _) = site.try_connect(connect("n1"), who("new", &[]));
    assert_eq!(connack.reason, Reason::SUCCESS);
    assert_eq!(left(&site), ["g2", "g3", "g4", "g5", "m1", "m2", "n1"]);
    assert!(site.records.iter().any(|r| matches!(r, Record::SessionEnded { .. })));
    let told = Notice::SessionEnded { client_id: "g1".into(), owner: "greedy".into(), sessions: 1 };
    assert_eq!(site.notices, [told]);
    site.try_connect(lasting("n2"), who("new", &[]));
    assert_eq!(site.broker.counts().sessions_evicted, 2);
    assert_eq!(site.notices.len(), 1, "not for each");
    // As many as with the new one: it is its own that goes.
    site.try_connect(lasting("m3"), who("modest", &[]));
    assert_eq!(left(&site), ["g3", "g4", "g5", "m2", "m3", "n1", "n2"]);
    // The greedy one gets no more than it has.
    for name in ["g6", "g7", "g8"] {
        site.try_connect(lasting(name), who("greedy", &[]));
    }
    assert_eq!(left(&site), ["g6", "g7", "g8", "m2", "m3", "n1", "n2"]);
    // Now only one is absent.
    site.try_connect(connect("g9"), who("greedy", &[]));
    assert_eq!(left(&site), ["g6", "g7", "g8", "g9", "m3", "n1", "n2"]);
    assert_eq!(site.refused(connect("g10"), who("greedy", &[])), Reason::QUOTA_EXCEEDED);
    assert!(site.kicked.is_empty());
}

#[test]
fn who_is_refused_takes_nobodys_place() {
    let mut site = full_site();
    assert_eq!(site.refused(with_will(connect("x"), "alarm", 0), who("", &["alarm"])), Reason::NOT_AUTHORIZED);
    assert_eq!(site.refused(connect("g1"), who("modest", &[])), Reason::NOT_AUTHORIZED);
    assert_eq!(site.broker.counts().sessions, 7);
    // Nor who has one already.
    assert!(site.try_connect(lasting("g1"), who("greedy", &[])).1.session_present);
    site.try_connect(connect("m1"), who("modest", &[]));
    assert_eq!((site.broker.counts().sessions, site.broker.counts().sessions_evicted), (7, 0));
}

/// The order in which they went away is that of their expiry.
#[test]
fn the_longest_absent_is_known_after_a_crash() {
    let mut site = full_site();
    site.restart();
    site.try_connect(connect("n1"), who("new", &[]));
    site.try_connect(connect("n2"), who("new", &[]));
    assert_eq!(left(&site), ["g3", "g4", "g5", "m1", "m2", "n1", "n2"]);
}

#[test]
fn what_a_connect_may_not_ask_for() {
    let mut site = Site::new();
    let auth = Connect { authentication_method: Some("SCRAM-SHA-1".into()), ..connect("a") };
    assert_eq!(site.refused(auth, anybody()), Reason::BAD_AUTHENTICATION_METHOD);
    assert_eq!(site.refused(connect(&"a".repeat(257)), anybody()), Reason::CLIENT_ID_NOT_VALID);
    site.connect(connect(&"a".repeat(256)));
    let denied = || who("", &["alarm"]);
    assert_eq!(site.refused(with_will(connect("a"), "alarm", 0), denied()), Reason::NOT_AUTHORIZED);
    assert_eq!(site.refused(with_will(connect("a"), "$SYS/x", 0), anybody()), Reason::TOPIC_NAME_INVALID);
    assert_eq!(site.refused(with_will(v311("a", true), "$SYS/x", 0), anybody()), Reason::NOT_AUTHORIZED);
    assert_eq!(site.broker.counts().sessions, 1);
}

/// Paho `test_basic`.
#[test]
fn a_second_connect_ends_the_connection() {
    let mut site = Site::new();
    let a = site.connect(connect("a"));
    let close = site.packet(a, Packet::Connect(Box::new(connect("a")))).close;
    assert_eq!(close.map(|c| c.0), Some(Reason::PROTOCOL_ERROR));
}

#[test]
fn subscriptions_that_are_no_longer_allowed_go_when_the_session_is_resumed() {
    let mut site = Site::new();
    let a = site.connect(lasting("a"));
    site.subscribe(a, vec![filter("open", AtLeastOnce), filter("$share/g/secret", AtLeastOnce)]);
    site.bye(a);
    let (a, connack, _) = site.try_connect(lasting("a"), who("", &["secret"]));
    assert!(connack.session_present);
    let b = site.connect(connect("b"));
    site.send(b, message("secret", AtLeastOnce, "1"));
    site.send(b, message("open", AtLeastOnce, "2"));
    assert_eq!(site.payloads(a), ["2"]);
    site.restart();
    assert_eq!(site.broker.counts().subscriptions, 1);
}

#[test]
fn a_session_that_comes_back_for_zero_seconds_is_off_the_disk() {
    let mut site = Site::new();
    let a = site.connect(lasting("a"));
    site.subscribe(a, vec![filter("t", ExactlyOnce)]);
    site.bye(a);
    let b = site.connect(connect("b"));
    site.send(b, message("t", ExactlyOnce, "kept"));
    let (a, present) = site.resumes(Connect { session_expiry_s: None, ..lasting("a") });
    assert!(present);
    assert_eq!(site.payloads(a), ["kept"]);
    site.restart();
    assert_eq!(site.broker.counts().sessions, 0);
}

#[test]
fn a_will_on_a_topic_with_too_many_levels_is_refused_at_once() {
    let levels = |n: usize| vec!["a"; n].join("/");
    let mut site = Site::new();
    site.connect(with_will(connect("a"), &levels(128), 0));
    let wrong = levels(129);
    assert_eq!(site.refused(with_will(connect("b"), &wrong, 0), anybody()), Reason::TOPIC_NAME_INVALID);
    // Of the codes of 3.1.1 "not authorized" comes nearest.
    assert_eq!(site.refused(with_will(v311("b", true), &wrong, 0), anybody()), Reason::NOT_AUTHORIZED);
}

#[test]
fn a_session_that_the_journal_does_not_take_has_never_been() {
    let mut site = Site::new();
    for connect in [lasting("a"), v311("b", false), with_will(lasting("c"), "w", 0)] {
        let a = site.connect(connect);
        site.broker.unkept(a, true);
        site.lose(a);
    }
    assert_eq!(site.broker.counts().sessions, 0);
    assert!(site.published.is_empty(), "a will of nobody");
    // One that was there before stays.
    let a = site.connect(lasting("a"));
    site.lose(a);
    let (a, present) = site.resumes(lasting("a"));
    site.broker.unkept(a, true);
    site.lose(a);
    assert!(present && site.resumes(lasting("a")).1);
    // And so does one that was taken, and something later was not.
    let b = site.connect(lasting("b"));
    site.broker.unkept(b, false);
    site.lose(b);
    assert!(site.resumes(lasting("b")).1);
}
