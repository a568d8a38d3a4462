//! Our encoder, our decoder and the mqtt-protocol-core crate agree; and where the crate's parser does not do.

use bytes::BytesMut;
use mqtt_protocol_core::mqtt::Arc as CrateArc;
use mqtt_protocol_core::mqtt::packet::{v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::MqttError;
use proptest::collection::vec;
use proptest::prelude::*;

use super::any::{client_packet, server_packet, version};
use super::forbidden::{CONNECTS, OTHERS, PUBLISH, STRINGS};
use super::*;

/// What the crate makes of a packet, written by the crate again.
macro_rules! crate_says {
    ($packet:expr, $version:expr, $($first:literal => $type:ident $(($shared:ident))?),+) => {{
        let packet: &[u8] = $packet;
        let header = 2 + packet[1..].iter().take_while(|b| **b & 0x80 != 0).count();
        let body = &packet[header..];
        match ($version, packet[0] >> 4) {
            $(
                (Version::V311, $first) => crate_says!(@parse v3_1_1 $type packet body $($shared)?),
                (Version::V5, $first) => crate_says!(@parse v5_0 $type packet body $($shared)?),
            )+
            (Version::V5, 15) => crate_says!(@parse v5_0 Auth packet body),
            _ => Err(MqttError::ProtocolError),
        }
    }};
    (@parse $module:ident $type:ident $packet:ident $body:ident) => {
        $module::$type::parse($body).and_then(|(parsed, taken)| whole($body, taken, parsed.to_continuous_buffer()))
    };
    (@parse $module:ident $type:ident $packet:ident $body:ident shared) => {
        $module::$type::parse($packet[0] & 0x0F, CrateArc::from($body))
            .and_then(|(parsed, taken)| whole($body, taken, parsed.to_continuous_buffer()))
    };
}

/// The crate says how much it took, and leaves it to its caller to mind the rest.
fn whole(body: &[u8], taken: usize, written: Vec<u8>) -> Result<Vec<u8>, MqttError> {
    if taken == body.len() { Ok(written) } else { Err(MqttError::MalformedPacket) }
}

fn crate_says(packet: &[u8], version: Version) -> Result<Vec<u8>, MqttError> {
    crate_says!(packet, version, 1 => Connect, 2 => Connack, 3 => Publish(shared), 4 => Puback, 5 => Pubrec, 6 => Pubrel,
        7 => Pubcomp, 8 => Subscribe, 9 => Suback, 10 => Unsubscribe, 11 => Unsuback, 12 => Pingreq, 13 => Pingresp,
        14 => Disconnect)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn what_is_encoded_is_decoded((version, packet) in version().prop_flat_map(|v| (Just(v), client_packet(v)))) {
        let bytes = encoded(&packet, version);
        prop_assert_eq!(decode(version, &bytes), Ok(packet));
    }

    /// The crate reads our bytes and writes the same ones: properties in our order, nothing left over.
    #[test]
    fn the_crate_reads_a_clients_packets((version, packet) in version().prop_flat_map(|v| (Just(v), client_packet(v)))) {
        let password_alone = matches!(&packet, Packet::Connect(c) if c.password.is_some() && c.user_name.is_none());
        prop_assume!(!password_alone);
        let bytes = encoded(&packet, version);
        prop_assert_eq!(crate_says(&bytes, version), Ok(bytes));
    }

    #[test]
    fn the_crate_reads_a_servers_packets((version, packet) in version().prop_flat_map(|v| (Just(v), server_packet(v)))) {
        let bytes = encoded(&packet, version);
        prop_assert_eq!(crate_says(&bytes, version), Ok(bytes));
    }

    /// Values, not only bytes: a decoder and an encoder that swap two fields agree with each other.
    #[test]
    fn the_crate_sees_the_same_values((version, packet) in version().prop_flat_map(|v| (Just(v), client_packet(v)))) {
        let bytes = encoded(&packet, version);
        let body = &bytes[2 + bytes[1..].iter().take_while(|b| **b & 0x80 != 0).count()..];
        match (&packet, version) {
            (Packet::Publish(ours), Version::V5) => {
                let theirs = v5_0::Publish::parse(bytes[0] & 0x0F, CrateArc::from(body)).unwrap().0;
                prop_assert_eq!(theirs.topic_name(), &*ours.topic);
                prop_assert_eq!(theirs.packet_id(), ours.packet_id.map(NonZeroU16::get));
                prop_assert_eq!((theirs.dup(), theirs.retain(), theirs.qos() as u8), (ours.dup, ours.retain, ours.qos.bits()));
                prop_assert_eq!(theirs.payload().as_slice(), &ours.payload[..]);
            }
            (Packet::Connect(ours), Version::V311) => {
                let theirs = v3_1_1::Connect::parse(body).unwrap().0;
                prop_assert_eq!(theirs.client_id(), &ours.client_id);
                prop_assert_eq!((theirs.clean_session(), theirs.keep_alive()), (ours.clean_start, ours.keep_alive_s));
                prop_assert_eq!(theirs.user_name(), ours.user_name.as_deref());
                prop_assert_eq!(theirs.password(), ours.password.as_deref());
                let will = ours.will.as_ref().map(|w| &w.message);
                prop_assert_eq!(theirs.will_topic(), will.map(|w| &*w.topic));
                prop_assert_eq!(theirs.will_payload(), will.map(|w| &w.payload[..]));
                prop_assert_eq!(theirs.will_qos() as u8, will.map_or(0, |w| w.qos.bits()));
                prop_assert_eq!(theirs.will_retain(), will.is_some_and(|w| w.retain));
            }
            (Packet::Subscribe(ours), Version::V5) => {
                let theirs = v5_0::Subscribe::parse(body).unwrap().0;
                prop_assert_eq!(theirs.packet_id(), ours.packet_id.get());
                for (theirs, ours) in theirs.entries().iter().zip(&ours.filters) {
                    let options = theirs.sub_opts();
                    prop_assert_eq!(theirs.topic_filter(), &ours.filter);
                    prop_assert_eq!((options.nl(), options.rap()), (ours.no_local, ours.retain_as_published));
                    prop_assert_eq!((options.qos() as u8, options.rh() as u8), (ours.qos.bits(), ours.retain_handling as u8));
                }
            }
            _ => {}
        }
    }

    #[test]
    fn pieces_give_what_the_whole_gives(
        (version, packets) in version().prop_flat_map(|v| (Just(v), vec(client_packet(v), 1..6))),
        cuts in vec(1usize..40, 1..60),
    ) {
        let packets: Vec<_> = packets.into_iter().filter(|p| !matches!(p, Packet::Connect(_))).collect();
        let stream: Vec<u8> = packets.iter().flat_map(|p| encoded(p, version)).collect();
        let mut decoder = connected(version);
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        let (mut rest, mut cuts) = (&stream[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            buffer.extend_from_slice(piece);
            rest = later;
            while let Some(packet) = decoder.next(&mut buffer).unwrap() {
                found.push(packet);
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(found, packets);
    }

    #[test]
    fn any_bytes_are_refused_or_taken(bytes in vec(any::<u8>(), 0..200), connected in proptest::option::of(version())) {
        let mut decoder = connected.map_or_else(|| Decoder::new(100), super::connected);
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = decoder.next(&mut buffer) {}
        prop_assert!(bytes.ends_with(&buffer));
    }
}

/// Why the parsing is ours: with every new version of the crate, look again.
#[test]
fn the_crates_parser_is_no_base_for_a_strict_one() {
    let rows = [STRINGS, PUBLISH, OTHERS].concat();
    // Fixed header and direction are its callers' to check.
    let rows =
        rows.iter().filter(|row| !matches!(row.2 >> 4, 0 | 2 | 9 | 11 | 13) && !["flags", "type 15"].contains(&row.5));
    let packets = rows.map(|(what, version, first, body, ..)| (*what, *version, packet(*first, body)));
    let connects =
        CONNECTS.iter().filter(|row| row.1.len() > 6 && matches!(row.1[6], 4 | 5)).map(|(what, body, ..)| {
            let version = if body[6] == 5 { Version::V5 } else { Version::V311 };
            (*what, version, packet(0x10, body))
        });
    let all: Vec<_> = packets.chain(connects).collect();
    let taken: Vec<_> = all.iter().filter(|(_, version, bytes)| crate_says(bytes, *version).is_ok()).collect();
    println!("{} of {}", taken.len(), all.len());
    for (what, version, _) in &taken {
        println!("the crate takes: {what} ({version:?})");
    }
    assert!(taken.len() * 3 > all.len(), "{} of {}: does it do better now?", taken.len(), all.len());

    // It refuses what 5.0 allows, so that checking before or after it is not enough: a password without a user name (§3.1.2.9),
    let password = packet(0x10, b"\0\x04MQTT\x05\x42\0\0\0\0\0\0\x01p");
    assert_eq!(crate_says(&password, Version::V5), Err(MqttError::ProtocolError));
    // and ends the connection where SUBACK can say which of the filters is wrong.
    let share = packet(0x82, b"\0\x01\0\0\x06$share\x01\0\x07$share/\x01");
    assert_eq!(crate_says(&share, Version::V5), Err(MqttError::MalformedPacket));
    // It cannot tell a property that does not belong (0x81, §2.2.2.2) from one that is there twice (0x82),
    let foreign = packet(0x40, b"\0\x01\0\x03\x23\0\x01");
    let twice = packet(0x40, b"\0\x01\0\x06\x1F\0\0\x1F\0\0");
    assert_eq!(crate_says(&foreign, Version::V5), crate_says(&twice, Version::V5));
    // and lengths that take more bytes than they need are gone once they are parsed.
    let overlong = packet(0x30, b"\0\x01a\x80\0x");
    assert_eq!(crate_says(&overlong, Version::V5), Ok(packet(0x30, b"\0\x01a\0x")));
}
