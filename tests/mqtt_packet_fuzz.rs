//! The MQTT decoder under damaged packets: it never panics, never hangs, and what it lets through is what the standards allow.
//!
//! `TIDEGATE_FUZZ_CASES` sets how many; a failure names the seed and the number that repeat it.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::time::Instant;

use bytes::BytesMut;
use mqtt_protocol_core::mqtt::Arc as CrateArc;
use mqtt_protocol_core::mqtt::packet::{v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::MqttError;
use support::mqtt_mutator::{self, Case, case};
use support::random::Random;
use support::setting;
use tidegate::ingest::mqtt::packet::decode::FILTERS_MAX;
use tidegate::ingest::mqtt::packet::{Decoder, Packet, PacketError, Properties, Publish, QoS, Version, encode};

/// Smaller than some of the damaged packets claim to be.
const MAX_PACKET: u32 = 4_096;

/// Rules that 100,000 cases must break at least once: nearly all that there are.
const RULES: usize = 40;

/// What a client's bytes came to, with the bytes of each packet.
#[derive(Debug, PartialEq)]
struct Outcome {
    packets: Vec<(Packet, Vec<u8>)>,
    error: Option<PacketError>,
    left: usize,
}

/// Names the case when a check or the decoder panics.
struct Named(u64, u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(seed, number) = self;
            eprintln!(
                "case {number} of seed {seed}, alone: TIDEGATE_TEST_SEED={seed} TIDEGATE_FUZZ_FIRST={number} TIDEGATE_FUZZ_CASES=1"
            );
        }
    }
}

#[test]
fn damaged_packets_are_refused_or_valid() {
    let seed = Random::from_environment().seed();
    let (first, cases) = (setting("TIDEGATE_FUZZ_FIRST", 0), setting("TIDEGATE_FUZZ_CASES", 200_000));
    let begun = Instant::now();
    let (mut accepted, mut refused, mut reasons) = (0u64, 0u64, std::collections::BTreeMap::new());
    for number in first..first + cases {
        let named = Named(seed, number);
        let outcome = check(&case(seed, number), number);
        accepted += outcome.packets.len() as u64;
        if let Some(error) = outcome.error {
            refused += 1;
            // Sizes are in the sentence; it is one rule all the same.
            let rule = error.what.trim_start_matches(|c: char| c.is_ascii_digit()).to_owned();
            *reasons.entry((error.reason.0, rule)).or_insert(0u64) += 1;
        }
        drop(named);
    }
    println!("{cases} cases in {:?}: {accepted} packets taken, {refused} connections refused", begun.elapsed());
    for ((reason, what), count) in &reasons {
        println!("{reason:#04x} {count:>9} {what}");
    }
    assert!(cases < 100_000 || reasons.len() >= RULES, "the mutator reaches only {} rules", reasons.len());
    assert!(cases < 10_000 || (accepted > cases / 2 && refused > cases / 2), "the mutator misses its aim");
}

/// The seeds themselves go through, so that what is damaged was valid.
#[test]
fn the_seeds_are_valid() {
    for v5 in [false, true] {
        for connect in mqtt_mutator::connects(v5) {
            for packet in mqtt_mutator::packets(v5) {
                let bytes = [connect.clone(), packet].concat();
                let outcome = whole(&bytes);
                assert_eq!((outcome.packets.len(), &outcome.error, outcome.left), (2, &None, 0), "{bytes:02x?}");
            }
        }
    }
}

fn check(case: &Case, number: u64) -> Outcome {
    let bytes = case.bytes();
    let outcome = whole(&bytes);
    assert_eq!(in_pieces(&bytes, &mut Random::seeded(number)), outcome, "in pieces {bytes:02x?}");
    let mut version = None;
    for (packet, bytes) in &outcome.packets {
        if let Packet::Connect(connect) = packet {
            version = Some(connect.version);
        }
        let version = version.expect("a CONNECT first");
        allowed(packet, version);
        again(packet, version);
        witness(bytes, version);
    }
    if let Some(error) = &outcome.error {
        assert!(error.reason.is_error() && !error.what.is_empty(), "{error:?}");
        if let Some((packet, version)) = error.answer_packet() {
            let mut answer = BytesMut::new();
            encode(&packet, version, &mut answer).unwrap();
            witness(&answer, version);
        }
    }
    outcome
}

fn whole(bytes: &[u8]) -> Outcome {
    let mut decoder = Decoder::new(MAX_PACKET);
    let mut buffer = BytesMut::from(bytes);
    let mut outcome = Outcome { packets: Vec::new(), error: None, left: 0 };
    take(&mut decoder, &mut buffer, &mut outcome);
    outcome.left = buffer.len();
    outcome
}

fn in_pieces(bytes: &[u8], random: &mut Random) -> Outcome {
    let mut decoder = Decoder::new(MAX_PACKET);
    let mut buffer = BytesMut::new();
    let mut outcome = Outcome { packets: Vec::new(), error: None, left: 0 };
    let mut rest = bytes;
    while !rest.is_empty() && outcome.error.is_none() {
        let (piece, later) = rest.split_at((1 + random.below(20) as usize).min(rest.len()));
        buffer.extend_from_slice(piece);
        rest = later;
        take(&mut decoder, &mut buffer, &mut outcome);
        assert!(buffer.len() < MAX_PACKET as usize + 20, "{} bytes held back", buffer.len());
    }
    outcome.left = buffer.len() + rest.len();
    outcome
}

fn take(decoder: &mut Decoder, buffer: &mut BytesMut, outcome: &mut Outcome) {
    loop {
        let before = buffer.clone();
        match decoder.next(buffer) {
            Ok(Some(packet)) => {
                let taken = before.len() - buffer.len();
                assert!(taken >= 2, "{packet:?} from {taken} bytes");
                assert!(before.ends_with(buffer), "what follows was touched");
                outcome.packets.push((packet, before[..taken].to_vec()));
            }
            Ok(None) => return assert_eq!(*buffer, before),
            Err(error) => {
                assert_eq!(*buffer, before, "an error takes nothing");
                assert_eq!(decoder.next(buffer), Err(error.clone()), "and stays");
                outcome.error = Some(error);
                return;
            }
        }
    }
}

/// The rules that a decoded packet itself shows to be kept.
fn allowed(packet: &Packet, version: Version) {
    match packet {
        Packet::Connect(connect) => {
            text(&connect.client_id);
            connect.user_name.iter().chain(&connect.authentication_method).for_each(|s| text(s));
            connect.user_properties.iter().for_each(|(k, v)| (text(k), text(v)).0);
            assert_ne!(connect.maximum_packet_size, Some(0));
            if let Some(will) = &connect.will {
                assert!(!will.message.dup && will.message.packet_id.is_none());
                message(&will.message);
                assert!(!will.message.topic.is_empty());
            }
            if version == Version::V311 {
                assert!(connect.user_name.is_some() || connect.password.is_none());
                assert!(connect.clean_start || !connect.client_id.is_empty());
            }
        }
        Packet::Publish(publish) => {
            assert_eq!(publish.packet_id.is_some(), publish.qos > QoS::AtMostOnce);
            assert!(!publish.dup || publish.qos > QoS::AtMostOnce);
            let alias = publish.properties.as_ref().is_some_and(|p| p.topic_alias.is_some());
            assert!(alias || !publish.topic.is_empty());
            assert!(version == Version::V5 || publish.properties.is_none());
            message(publish);
        }
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            ack.reason_string.iter().for_each(|s| text(s));
        }
        Packet::Subscribe(subscribe) => {
            assert!((1..=FILTERS_MAX).contains(&subscribe.filters.len()));
            assert!(subscribe.subscription_id.is_none_or(|n| (1..=268_435_455).contains(&n)));
            for options in &subscribe.filters {
                text(&options.filter);
                assert!(!options.filter.is_empty());
                assert!(!(options.no_local && options.filter.starts_with("$share/")));
            }
        }
        Packet::Unsubscribe(unsubscribe) => {
            assert!((1..=FILTERS_MAX).contains(&unsubscribe.filters.len()));
            unsubscribe.filters.iter().for_each(|f| text(f));
            assert!(unsubscribe.filters.iter().all(|f| !f.is_empty()));
        }
        Packet::Pingreq => {}
        Packet::Disconnect(disconnect) => disconnect.reason_string.iter().for_each(|s| text(s)),
        Packet::Auth(reason) => assert!(version == Version::V5 && [0x18, 0x19].contains(&reason.0)),
        Packet::Connack(_) | Packet::Suback(_) | Packet::Unsuback(_) | Packet::Pingresp => {
            panic!("a server's packet from a client: {packet:?}")
        }
    }
}

fn message(message: &Publish) {
    topic(&message.topic);
    if let Some(properties) = message.properties.as_deref() {
        let Properties { response_topic, user, content_type, subscription_ids, .. } = properties;
        response_topic.iter().for_each(|t| topic(t));
        assert!(response_topic.as_ref().is_none_or(|t| !t.is_empty()));
        user.iter().for_each(|(k, v)| (text(k), text(v)).0);
        content_type.iter().for_each(|s| text(s));
        assert!(subscription_ids.is_empty());
    }
}

fn text(text: &str) {
    assert!(!text.contains('\0'), "U+0000 in {text:?}");
}

fn topic(name: &str) {
    text(name);
    assert!(!name.contains(['+', '#']), "a wildcard in {name:?}");
}

/// Encoded and decoded again it is the same packet.
fn again(packet: &Packet, version: Version) {
    if let Packet::Auth(_) = packet {
        return; // the method is not kept
    }
    let mut buffer = BytesMut::new();
    let mut decoder = Decoder::new(2 * MAX_PACKET);
    if !matches!(packet, Packet::Connect(_)) {
        buffer.extend_from_slice(&mqtt_mutator::connects(version == Version::V5)[0]);
        decoder.next(&mut buffer).unwrap();
    }
    encode(packet, version, &mut buffer).unwrap();
    assert_eq!(decoder.next(&mut buffer).unwrap().as_ref(), Some(packet));
    assert!(buffer.is_empty());
}

/// The mqtt-protocol-core crate takes it as well.
fn witness(packet: &[u8], version: Version) {
    let header = 2 + packet[1..].iter().take_while(|b| **b & 0x80 != 0).count();
    let (flags, mut body) = (packet[0] & 0x0F, packet[header..].to_vec());
    if let (Version::V311, 1, Some(level)) = (version, packet[0] >> 4, body.get_mut(6)) {
        *level &= 0x7F; // the crate knows no bridges
    }
    let body = &body[..];
    let shared = CrateArc::from(body);
    let parsed: Result<usize, MqttError> = match (version, packet[0] >> 4) {
        (Version::V311, 1) => v3_1_1::Connect::parse(body).map(|p| p.1),
        (Version::V311, 2) => v3_1_1::Connack::parse(body).map(|p| p.1),
        (Version::V311, 3) => v3_1_1::Publish::parse(flags, shared).map(|p| p.1),
        (Version::V311, 4) => v3_1_1::Puback::parse(body).map(|p| p.1),
        (Version::V311, 5) => v3_1_1::Pubrec::parse(body).map(|p| p.1),
        (Version::V311, 6) => v3_1_1::Pubrel::parse(body).map(|p| p.1),
        (Version::V311, 7) => v3_1_1::Pubcomp::parse(body).map(|p| p.1),
        (Version::V311, 8) => v3_1_1::Subscribe::parse(body).map(|p| p.1),
        (Version::V311, 10) => v3_1_1::Unsubscribe::parse(body).map(|p| p.1),
        (Version::V5, 1) => v5_0::Connect::parse(body).map(|p| p.1),
        (Version::V5, 2) => v5_0::Connack::parse(body).map(|p| p.1),
        (Version::V5, 3) => v5_0::Publish::parse(flags, shared).map(|p| p.1),
        (Version::V5, 4) => v5_0::Puback::parse(body).map(|p| p.1),
        (Version::V5, 5) => v5_0::Pubrec::parse(body).map(|p| p.1),
        (Version::V5, 6) => v5_0::Pubrel::parse(body).map(|p| p.1),
        (Version::V5, 7) => v5_0::Pubcomp::parse(body).map(|p| p.1),
        (Version::V5, 8) => v5_0::Subscribe::parse(body).map(|p| p.1),
        (Version::V5, 10) => v5_0::Unsubscribe::parse(body).map(|p| p.1),
        (Version::V5, 14) => v5_0::Disconnect::parse(body).map(|p| p.1),
        (Version::V5, 15) => v5_0::Auth::parse(body).map(|p| p.1),
        _ => Ok(body.len()), // PINGREQ, 3.1.1's DISCONNECT: the crate does not look
    };
    match parsed {
        Ok(taken) => assert_eq!(taken, body.len(), "the crate leaves bytes of {packet:02x?}"),
        Err(error) => {
            assert!(known_difference(packet[0] >> 4, body, version), "the crate says {error} to {packet:02x?}")
        }
    }
}

/// What the crate refuses and 5.0 allows, or we answer in another way.
fn known_difference(kind: u8, body: &[u8], version: Version) -> bool {
    match kind {
        // A password without a user name (§3.1.2.9).
        1 => version == Version::V5 && body[7] & 0xC0 == 0x40,
        // A bad share name is answered in SUBACK and UNSUBACK.
        8 | 10 => version == Version::V5 && body.windows(7).any(|w| w == b"$share/"),
        _ => false,
    }
}
