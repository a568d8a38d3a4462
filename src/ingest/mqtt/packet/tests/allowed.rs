//! Packets that look odd and are allowed: a strict decoder must not be stricter than the standards.

use super::Version::{V5, V311};
use super::*;

fn publish(version: Version, bytes: &[u8]) -> Publish {
    match decode(version, bytes) {
        Ok(Packet::Publish(publish)) => *publish,
        other => panic!("{bytes:02x?} gave {other:?}"),
    }
}

fn connect(body: &[u8]) -> Connect {
    match decode(V311, &packet(0x10, body)) {
        Ok(Packet::Connect(connect)) => *connect,
        other => panic!("{body:02x?} gave {other:?}"),
    }
}

#[test]
fn a_bridge_of_3_1_1_says_so() {
    let connect = |level: u8| {
        let connect = connect(&[b"\0\x04MQTT", &[level][..], b"\x02\0\0\0\x01c"].concat());
        (connect.version, connect.bridge)
    };
    assert_eq!((connect(0x84), connect(0x04)), ((V311, true), (V311, false)));
}

#[test]
fn a_password_needs_no_user_name_in_5_0() {
    let connect = connect(b"\0\x04MQTT\x05\x42\0\0\0\0\0\0\x01p");
    assert_eq!((connect.user_name, connect.password.as_deref()), (None, Some(&b"p"[..])));
}

#[test]
fn a_client_without_a_name_may_have_a_session_in_5_0() {
    let connect = connect(b"\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\x3C\0\0");
    assert_eq!((connect.client_id.as_str(), connect.clean_start, connect.session_expiry_s), ("", false, Some(60)));
}

#[test]
fn a_3_1_1_session_lasts_unless_it_is_clean() {
    assert_eq!(connect(b"\0\x04MQTT\x04\0\0\0\0\x01c").session_expiry_s, Some(u32::MAX));
    assert_eq!(connect(b"\0\x04MQTT\x04\x02\0\0\0\x01c").session_expiry_s, None);
}

#[test]
fn empty_user_name_password_and_will_are_values() {
    let connect = connect(b"\0\x04MQTT\x04\xC6\0\0\0\0\0\x01w\0\0\0\0\0\0");
    assert_eq!(connect.user_name.as_deref(), Some(""));
    assert_eq!(connect.password, Some(Bytes::new()));
    assert!(connect.will.is_some_and(|will| will.message.payload.is_empty() && will.message.properties.is_none()));
}

#[test]
fn a_3_1_1_length_may_take_more_bytes_than_it_needs() {
    assert_eq!(decode(V311, &[0xC0, 0x80, 0]), Ok(Packet::Pingreq));
    assert_eq!(&publish(V311, b"\x30\x84\x80\x80\0\0\x01ax").payload[..], b"x");
}

#[test]
fn topics_hold_any_character_but_three() {
    let odd = "/a b//\u{FEFF}\u{FFFF}\u{1}\u{1F600}$/";
    let mut body = (odd.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(odd.as_bytes());
    assert_eq!(&*publish(V311, &packet(0x30, &body)).topic, odd, "U+FEFF is not skipped (MQTT 5.0 §1.5.4)");
    let longest = "t".repeat(65_535);
    body = b"\xFF\xFF".to_vec();
    body.extend_from_slice(longest.as_bytes());
    assert_eq!(&*publish(V311, &packet(0x30, &body)).topic, longest);
}

#[test]
fn an_empty_topic_with_an_alias_and_a_topic_with_one_are_both_fine() {
    let alias = |p: Publish| p.properties.and_then(|p| p.topic_alias).map(NonZeroU16::get);
    assert_eq!(alias(publish(V5, &packet(0x30, b"\0\0\x03\x23\0\x07x"))), Some(7));
    assert_eq!(alias(publish(V5, &packet(0x30, b"\0\x01a\x03\x23\xFF\xFFx"))), Some(65_535));
}

#[test]
fn a_payload_may_be_empty_and_anything() {
    assert_eq!(publish(V311, &packet(0x31, b"\0\x01a")).payload, Bytes::new());
    assert_eq!(publish(V5, &packet(0x30, b"\0\x01a\0")).payload, Bytes::new());
    assert_eq!(&publish(V5, &packet(0x30, b"\0\x01a\0\0\xFF+#")).payload[..], b"\0\xFF+#");
}

#[test]
fn user_properties_repeat_and_keep_their_order() {
    let publish = publish(V5, &packet(0x30, b"\0\x01a\x15\x26\0\x01k\0\x011\x26\0\x01k\0\x012\x26\0\x01a\0\x013"));
    let found = publish.properties.unwrap().user;
    let wanted = [("k", "1"), ("k", "2"), ("a", "3")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(found, wanted);
}

#[test]
fn acknowledgements_come_short_and_long() {
    let ack = |bytes: &[u8]| match decode(V5, bytes) {
        Ok(Packet::Puback(ack)) => (ack.packet_id.get(), ack.reason.0, ack.reason_string),
        other => panic!("{bytes:02x?} gave {other:?}"),
    };
    assert_eq!(ack(b"\x40\x02\x12\x34"), (0x1234, 0, None));
    assert_eq!(ack(b"\x40\x03\x12\x34\x10"), (0x1234, 0x10, None));
    assert_eq!(ack(b"\x40\x04\x12\x34\x10\0"), (0x1234, 0x10, None));
    assert_eq!(ack(b"\x40\x08\x12\x34\x97\x04\x1F\0\x01w"), (0x1234, 0x97, Some("w".to_owned())));
}

#[test]
fn disconnect_comes_short_and_long() {
    let disconnect = |bytes: &[u8]| match decode(V5, bytes) {
        Ok(Packet::Disconnect(d)) => (d.reason.0, d.session_expiry_s, d.reason_string),
        other => panic!("{bytes:02x?} gave {other:?}"),
    };
    assert_eq!(disconnect(b"\xE0\0"), (0, None, None));
    assert_eq!(disconnect(b"\xE0\x01\x04"), (4, None, None));
    assert_eq!(disconnect(b"\xE0\x02\x04\0"), (4, None, None));
    assert_eq!(disconnect(b"\xE0\x07\0\x05\x11\0\0\0\x09"), (0, Some(9), None));
}

#[test]
fn filters_of_a_wrong_form_are_left_to_suback() {
    for filter in ["a/#/b", "a+", "#a", "$share", "$share/", "$share//a", "$share/g", "$share/g+/a", "$share/g/"] {
        let mut body = b"\0\x01\0\0".to_vec();
        body.push(filter.len() as u8);
        body.extend_from_slice(filter.as_bytes());
        body.push(1);
        assert!(matches!(decode(V5, &packet(0x82, &body)), Ok(Packet::Subscribe(s)) if s.filters[0].filter == filter));
        body.pop();
        assert!(matches!(decode(V5, &packet(0xA2, &body)), Ok(Packet::Unsubscribe(u)) if u.filters[0] == filter));
    }
}

#[test]
fn authentication_is_decoded_and_left_to_be_refused() {
    assert_eq!(decode(V5, b"\xF0\x06\x19\x04\x15\0\x01m"), Ok(Packet::Auth(Reason(0x19))));
    let connect = connect(b"\0\x04MQTT\x05\x02\0\0\x07\x16\0\0\x15\0\x01m\0\0");
    assert_eq!(connect.authentication_method.as_deref(), Some("m"));
}

#[test]
fn the_packet_after_next_waits_in_the_buffer() {
    let mut decoder = connected(V5);
    let mut buffer = BytesMut::from(&b"\xC0\0\xE0\0\x30"[..]);
    assert_eq!(decoder.next(&mut buffer), Ok(Some(Packet::Pingreq)));
    assert!(matches!(decoder.next(&mut buffer), Ok(Some(Packet::Disconnect(_)))));
    assert_eq!(decoder.next(&mut buffer), Ok(None));
    assert_eq!(&buffer[..], b"\x30");
}

/// A part split off the read buffer would keep 64 KiB alive for it.
#[test]
fn a_payload_does_not_hold_on_to_the_read_buffer() {
    let mut decoder = connected(V311);
    let mut buffer = BytesMut::with_capacity(65_536);
    buffer.extend_from_slice(&packet(0x30, b"\0\x01apayload"));
    let start = buffer.as_ptr();
    let kept = decoder.next(&mut buffer).unwrap();
    buffer.reserve(65_536); // all of it again, without a new allocation: nobody else has a part
    assert_eq!(buffer.as_ptr(), start);
    assert!(matches!(kept, Some(Packet::Publish(_))));
}
