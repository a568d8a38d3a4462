//! The window against a broker that keeps a session, on a line that is cut at any point.

use std::collections::{BTreeMap, HashMap, VecDeque};

use proptest::prelude::*;

use super::*;

fn handle(packet_id: u16, exactly_once: bool) -> Handle {
    Handle { packet_id, exactly_once }
}

#[test]
fn acknowledgements_keep_the_order_of_arrival() {
    let mut window = Window::default();
    let Arrival::New(first) = window.arrived(handle(1, false), false, 1) else { panic!() };
    let Arrival::New(second) = window.arrived(handle(2, true), false, 2) else { panic!() };
    window.stored(second);
    assert_eq!(window.next_ack(), None);
    window.stored(first);
    assert_eq!(window.next_ack(), Some(handle(1, false)));
    window.acked();
    assert_eq!(window.next_ack(), Some(handle(2, true)));
    window.acked();
    assert_eq!((window.next_ack(), window.len()), (None, 0));
}

#[test]
fn what_was_never_acknowledged_is_known_again() {
    let mut window = Window::default();
    let Arrival::New(ticket) = window.arrived(handle(7, false), false, 1) else { panic!() };
    window.connected(true);
    assert_eq!(window.arrived(handle(7, false), true, 1), Arrival::Again);
    assert_eq!(window.next_ack(), None);
    window.stored(ticket);
    assert_eq!(window.next_ack(), Some(handle(7, false)));
    // Without DUP, with another content, or without the session, it is another message.
    window.connected(true);
    assert!(matches!(window.arrived(handle(7, false), false, 1), Arrival::New(_)));
    window.connected(true);
    assert!(matches!(window.arrived(handle(7, false), true, 2), Arrival::New(_)));
    window.connected(false);
    assert!(matches!(window.arrived(handle(7, false), true, 2), Arrival::New(_)));
}

/// A broker's side: what it sent and has no answer to, in order. Content is the message's number modulo 2, so that
/// equal messages are common.
struct Peer {
    next: u64,
    free: Vec<u16>,
    /// Packet id, number, QoS 2, sent before.
    unanswered: VecDeque<(u16, u64, bool, bool)>,
    /// PUBREC has come, PUBREL goes out at every connect until PUBCOMP.
    releasing: Vec<u16>,
}

#[derive(Clone, Debug)]
enum Step {
    Send(bool),
    Store(usize),
    Ack,
    /// Acknowledgements on their way are lost from this one on.
    Cut(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(Step::Send),
        4 => (0..4usize).prop_map(Step::Store),
        4 => Just(Step::Ack),
        1 => (0..4usize).prop_map(Step::Cut),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Every message is stored. It is stored twice only if it is of QoS 1 and its acknowledgement was lost on the way.
    #[test]
    fn nothing_is_lost_and_only_a_lost_puback_doubles(steps in prop::collection::vec(step(), 1..200)) {
        let mut window = Window::default();
        let mut peer = Peer { next: 0, free: vec![3, 2, 1], unanswered: VecDeque::new(), releasing: Vec::new() };
        let mut storing: Vec<(Ticket, u64)> = Vec::new();
        let mut stores: BTreeMap<u64, u32> = BTreeMap::new();
        let mut lost_acks: HashMap<u64, u32> = HashMap::new();
        let mut flying: VecDeque<Handle> = VecDeque::new();
        window.connected(false);
        let arrive = |window: &mut Window, storing: &mut Vec<(Ticket, u64)>, id, number, qos2, dup| {
            if let Arrival::New(ticket) = window.arrived(handle(id, qos2), dup, number % 2) {
                storing.push((ticket, number));
            }
        };
        for step in steps.into_iter().chain([Step::Cut(0), Step::Cut(9)]) {
            match step {
                Step::Send(qos2) => {
                    let Some(id) = peer.free.pop() else { continue };
                    peer.next += 1;
                    peer.unanswered.push_back((id, peer.next, qos2, true));
                    arrive(&mut window, &mut storing, id, peer.next, qos2, false);
                }
                Step::Store(which) => {
                    if storing.is_empty() { continue }
                    let (ticket, number) = storing.remove(which % storing.len());
                    *stores.entry(number).or_default() += 1;
                    window.stored(ticket);
                }
                Step::Ack => {
                    let Some(ack) = window.next_ack() else { continue };
                    let (id, ..) = peer.unanswered[flying.len()];
                    prop_assert_eq!(ack.packet_id, id, "out of order");
                    window.acked();
                    flying.push_back(ack);
                }
                Step::Cut(delivered) => {
                    for (i, ack) in flying.drain(..).enumerate() {
                        if i >= delivered {
                            let (_, number, qos2, _) = peer.unanswered[i - delivered];
                            if !qos2 { *lost_acks.entry(number).or_default() += 1; }
                            continue;
                        }
                        peer.unanswered.pop_front();
                        if ack.exactly_once { peer.releasing.push(ack.packet_id) } else { peer.free.push(ack.packet_id) }
                    }
                    window.connected(true);
                    for id in peer.releasing.drain(..) {
                        window.released(id);
                        peer.free.push(id);
                    }
                    for (id, number, qos2, sent) in peer.unanswered.clone() {
                        arrive(&mut window, &mut storing, id, number, qos2, sent);
                    }
                }
            }
        }
        for (ticket, number) in storing {
            *stores.entry(number).or_default() += 1;
            window.stored(ticket);
        }
        for number in 1..=peer.next {
            let times = stores.get(&number).copied().unwrap_or(0);
            let lost = lost_acks.get(&number).copied().unwrap_or(0);
            prop_assert!(times >= 1 && times <= 1 + lost, "message {number}: stored {times} times, {lost} PUBACKs lost");
        }
    }
}
