//! Shared subscriptions: a member that does not read, one that leaves, and what others get of its messages (MQTT 5.0 §4.8.2).

use super::*;

const SHARED: &str = "$share/g/t";

fn member(site: &mut Site, connect: Connect, qos: QoS) -> ConnectionId {
    let member = site.connect(connect);
    assert_eq!(site.subscribe(member, vec![filter(SHARED, qos)]), [Reason(qos as u8)]);
    member
}

/// One at a time, so that the others wait.
fn slow(client_id: &str) -> Connect {
    Connect { receive_maximum: NonZeroU16::MIN, ..lasting(client_id) }
}

fn send_all(site: &mut Site, qos: QoS, payloads: &[&str]) {
    let p = site.connect(connect("p"));
    for payload in payloads {
        site.send(p, message("t", qos, payload));
    }
    site.bye(p);
}

/// Who does not read gets no more than it has room for; the others get the rest.
#[test]
fn a_member_that_does_not_read_swallows_nothing() {
    for qos in [AtLeastOnce, ExactlyOnce, AtMostOnce] {
        let mut site = Site::with(Limits { max_queued: 10, ..limits() });
        let [_hung, good] = ["hung", "good"].map(|name| member(&mut site, lasting(name), qos));
        let p = site.connect(connect("p"));
        let mut got = 0;
        for _ in 0..2_000 {
            site.send(p, message("t", qos, "x"));
            got += site.receive(good).len();
        }
        let dropped = site.broker.counts().dropped;
        assert_eq!((dropped.full, dropped.slow), (0, 0), "{qos:?}");
        assert!(got >= 1_990, "{qos:?}: {got}: the one with less waiting is next");
    }
}

/// Also an absent one, which can keep it, before one that cannot take it.
#[test]
fn a_member_without_room_comes_last() {
    let mut site = Site::with(Limits { max_queued: 2, ..limits() });
    let absent = member(&mut site, lasting("absent"), AtLeastOnce);
    site.bye(absent);
    let hung = member(&mut site, lasting("hung"), AtLeastOnce);
    send_all(&mut site, AtLeastOnce, &["1", "2", "3", "4"]);
    assert_eq!(site.broker.counts().dropped.full, 0);
    assert_eq!(site.payloads(hung), ["1", "2"]);
    let (absent, _) = site.resumes(lasting("absent"));
    assert_eq!(site.payloads(absent), ["3", "4"]);
}

/// What the others get of what waited for one whose session ends, the first of which it was sent.
fn inherited(published: QoS, subscribed: QoS, end: impl FnOnce(&mut Site, ConnectionId)) -> Vec<String> {
    let mut site = Site::new();
    let leaver = member(&mut site, slow("leaver"), subscribed);
    send_all(&mut site, published, &["1", "2", "3"]);
    assert_eq!(site.taken(leaver).len(), 1);
    let other = member(&mut site, lasting("other"), subscribed);
    end(&mut site, leaver);
    let got = site.receive(other);
    assert!(got.iter().all(|p| !p.dup && p.qos == published.min(subscribed)));
    // The same after a crash that follows.
    site.restart();
    let (other, _) = site.resumes(lasting("other"));
    assert_eq!(site.payloads(other), [""; 0], "once");
    got.iter().map(|p| String::from_utf8_lossy(&p.payload).into_owned()).collect()
}

#[test]
fn a_member_whose_session_ends_leaves_its_messages_to_the_others() {
    let ended = |site: &mut Site, leaver| drop(site.disconnect(leaver, Reason::SUCCESS, Some(0)));
    assert_eq!(inherited(AtLeastOnce, AtLeastOnce, ended), ["1", "2", "3"], "SHOULD, also what was sent");
    assert_eq!(inherited(ExactlyOnce, ExactlyOnce, ended), ["2", "3"], "[MQTT-4.8.2-5]: what was sent MUST NOT");
    assert_eq!(
        inherited(ExactlyOnce, AtLeastOnce, ended),
        ["1", "2", "3"],
        "it is the QoS of the delivery that counts"
    );
}

#[test]
fn a_session_ends_by_time_or_a_clean_start_as_well() {
    let expires = |site: &mut Site, leaver| {
        site.broker.stop(); // nothing is given away before
        site.lose(leaver);
        site.pass(3_599);
        assert_eq!(site.broker.counts().queued, 3);
        site.pass(1);
    };
    assert_eq!(inherited(AtLeastOnce, AtLeastOnce, expires), ["1", "2", "3"]);
    assert_eq!(inherited(ExactlyOnce, ExactlyOnce, expires), ["2", "3"]);
    let begins_anew = |site: &mut Site, _| assert!(!site.resumes(connect("leaver")).1);
    assert_eq!(inherited(ExactlyOnce, ExactlyOnce, begins_anew), ["2", "3"]);
}

/// A clean session ends with its connection.
#[test]
fn a_clean_session_leaves_its_messages_too() {
    let mut site = Site::new();
    let clean = member(&mut site, Connect { receive_maximum: NonZeroU16::MIN, ..connect("clean") }, AtLeastOnce);
    send_all(&mut site, AtLeastOnce, &["1", "2"]);
    site.take(clean);
    let absent = member(&mut site, lasting("absent"), AtLeastOnce);
    site.bye(absent);
    site.lose(clean);
    site.restart();
    let (absent, _) = site.resumes(lasting("absent"));
    assert_eq!(site.payloads(absent), ["1", "2"], "and they are on disk there");
}

/// [MQTT-4.8.2-4]: what it was sent waits for it; what was never sent does not.
#[test]
fn a_member_that_is_away_gives_what_it_was_not_sent_to_those_that_are_there() {
    for qos in [AtLeastOnce, ExactlyOnce] {
        let mut site = Site::new();
        let leaver = member(&mut site, slow("leaver"), qos);
        let clean = member(&mut site, connect("clean"), qos);
        let absent = member(&mut site, lasting("absent"), qos);
        site.bye(absent);
        site.disconnect(clean, Reason::SUCCESS, None);
        send_all(&mut site, qos, &["1", "2", "3"]);
        assert_eq!(site.taken(leaver).len(), 1);
        let clean = member(&mut site, connect("clean"), qos);
        let other = member(&mut site, lasting("other"), qos);
        site.lose(leaver);
        assert_eq!(site.payloads(other), ["2", "3"]);
        assert!(site.take(clean).is_empty(), "a crash would lose what waited on disk");
        site.restart();
        let (leaver, _) = site.resumes(lasting("leaver"));
        let got = site.receive(leaver);
        assert_eq!(got.iter().map(|p| (p.dup, &p.payload[..])).collect::<Vec<_>>(), [(true, &b"1"[..])]);
    }
}

#[test]
fn who_is_taken_over_keeps_its_messages() {
    let mut site = Site::new();
    let leaver = member(&mut site, slow("leaver"), AtLeastOnce);
    send_all(&mut site, AtLeastOnce, &["1", "2"]);
    let other = member(&mut site, lasting("other"), AtLeastOnce);
    site.lose(leaver);
    assert_eq!(site.payloads(other), ["1", "2"], "nothing was sent");
    site.bye(other);
    site.resumes(slow("leaver"));
    send_all(&mut site, AtLeastOnce, &["3", "4"]);
    let (other, _) = site.resumes(lasting("other"));
    let (leaver, _) = site.resumes(slow("leaver"));
    assert!(site.take(other).is_empty());
    assert_eq!(site.payloads(leaver), ["3", "4"]);
}

/// When the gateway stops, the last one to be closed would get everything.
#[test]
fn nothing_moves_when_the_gateway_stops() {
    let mut site = Site::new();
    let members: Vec<_> = ["a", "b", "c"].iter().map(|name| member(&mut site, lasting(name), AtLeastOnce)).collect();
    send_all(&mut site, AtLeastOnce, &["1", "2", "3", "4", "5", "6"]);
    site.broker.stop();
    members.iter().for_each(|&member| site.lose(member));
    site.restart();
    for name in ["a", "b", "c"] {
        let (member, _) = site.resumes(lasting(name));
        assert_eq!(site.receive(member).len(), 2);
    }
}

/// They are messages of a group; who is in another one of the same name gets none.
#[test]
fn only_members_of_the_same_group_inherit() {
    let mut site = Site::new();
    let leaver = site.connect(connect("leaver"));
    site.subscribe(leaver, vec![filter("$share/g/+", AtLeastOnce), filter("own", AtLeastOnce)]);
    let others = [("$share/g/#", "a"), ("$share/h/+", "b"), ("+", "c")];
    let p = site.connect(connect("p"));
    site.send(p, message("x", AtLeastOnce, "shared"));
    site.send(p, message("own", AtLeastOnce, "both"));
    let others = others.map(|(text, name)| {
        let other = site.connect(lasting(name));
        site.subscribe(other, vec![filter(text, AtLeastOnce)]);
        other
    });
    site.lose(leaver);
    assert!(others.iter().all(|&other| site.take(other).is_empty()));
}

/// Those that have no room get nothing, and what nobody takes is counted.
#[test]
fn what_no_other_member_has_room_for_is_counted() {
    let mut site = Site::with(Limits { max_queued: 3, ..limits() });
    let leaver = member(&mut site, connect("leaver"), AtLeastOnce);
    send_all(&mut site, AtLeastOnce, &["1", "2", "3"]);
    let others = ["a", "b"].map(|name| {
        let other = member(&mut site, lasting(name), AtLeastOnce);
        site.subscribe(other, vec![filter(name, AtLeastOnce)]);
        other
    });
    let p = site.connect(connect("p"));
    for (name, n) in [("a", 2), ("b", 2)] {
        for _ in 0..n {
            site.send(p, message(name, AtLeastOnce, "own"));
        }
    }
    site.lose(leaver);
    assert_eq!(site.payloads(others[0]), ["own", "own", "1"]);
    assert_eq!(site.payloads(others[1]), ["own", "own", "2"]);
    assert_eq!(site.broker.counts().dropped.full, 1);
}
