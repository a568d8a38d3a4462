//! Packets that the standards forbid, each refused for the rule that it breaks, and what the client is told.

use super::Version::{V5, V311};
use super::*;

/// What is wrong, version, first byte, body, reason, words of the sentence.
pub(super) type Row = (&'static str, Version, u8, &'static [u8], u8, &'static str);

pub(super) const STRINGS: &[Row] = &[
    ("NUL in a topic", V311, 0x30, b"\0\x03a\0b", 0x81, "U+0000"),
    ("NUL in a topic", V5, 0x30, b"\0\x03a\0b\0", 0x81, "U+0000"),
    ("overlong NUL", V5, 0x30, b"\0\x02\xC0\x80\0", 0x81, "UTF-8"),
    ("a surrogate", V5, 0x30, b"\0\x03\xED\xA0\x80\0", 0x81, "UTF-8"),
    ("a pair of surrogates (CESU-8)", V311, 0x30, b"\0\x06\xED\xA0\xBD\xED\xB8\x80", 0x81, "UTF-8"),
    ("beyond U+10FFFF", V5, 0x30, b"\0\x04\xF4\x90\x80\x80\0", 0x81, "UTF-8"),
    ("half a character", V311, 0x30, b"\0\x02\xE2\x82", 0x81, "UTF-8"),
    ("a topic longer than the packet", V311, 0x30, b"\0\x04abc", 0x81, "beyond the end"),
    ("half a length", V311, 0x30, b"\0", 0x81, "beyond the end"),
    ("nothing", V5, 0x30, b"", 0x81, "beyond the end"),
    ("NUL in a filter", V311, 0x82, b"\0\x01\0\x02a\0\0", 0x81, "U+0000"),
    ("NUL in a filter to leave", V5, 0xA2, b"\0\x01\0\0\x02a\0", 0x81, "U+0000"),
    ("NUL in a user property's name", V5, 0x30, b"\0\x01a\x07\x26\0\x01\0\0\x01v", 0x81, "U+0000"),
    ("NUL in a user property's value", V5, 0x30, b"\0\x01a\x07\x26\0\x01k\0\x01\0", 0x81, "U+0000"),
    ("NUL in a content type", V5, 0x30, b"\0\x01a\x04\x03\0\x01\0", 0x81, "U+0000"),
    ("NUL in a reason string", V5, 0x40, b"\0\x01\x80\x04\x1F\0\x01\0", 0x81, "U+0000"),
    ("NUL in a dropped user property", V5, 0x40, b"\0\x01\x80\x06\x26\0\x01\0\0\0", 0x81, "U+0000"),
];

pub(super) const PUBLISH: &[Row] = &[
    ("a wildcard in a topic", V311, 0x30, b"\0\x03a/+", 0x90, "wildcard"),
    ("a wildcard in a topic", V5, 0x30, b"\0\x03a/#\0", 0x90, "wildcard"),
    ("a wildcard inside a level", V5, 0x30, b"\0\x03a+b\0", 0x90, "wildcard"),
    ("no topic", V311, 0x30, b"\0\0x", 0x82, "no topic name"),
    ("no topic, no alias", V5, 0x30, b"\0\0\0x", 0x82, "no topic name"),
    ("packet id 0", V311, 0x32, b"\0\x01a\0\0", 0x82, "identifier 0"),
    ("packet id 0", V5, 0x34, b"\0\x01a\0\0\0", 0x82, "identifier 0"),
    ("half a packet id", V311, 0x32, b"\0\x01a\x01", 0x81, "beyond the end"),
    ("QoS 3", V311, 0x36, b"\0\x01a\0\x01", 0x81, "QoS 3"),
    ("QoS 3", V5, 0x37, b"\0\x01a\0\x01\0", 0x81, "QoS 3"),
    ("DUP with QoS 0", V311, 0x38, b"\0\x01a", 0x81, "DUP"),
    ("DUP with QoS 0", V5, 0x39, b"\0\x01a\0", 0x81, "DUP"),
    ("no property length", V5, 0x30, b"\0\x01a", 0x81, "beyond the end"),
    ("properties longer than the packet", V5, 0x30, b"\0\x01a\x05\x23\0\x01", 0x81, "beyond the end"),
    ("a property cut by its block", V5, 0x30, b"\0\x01a\x02\x23\0\x01", 0x81, "beyond the end"),
    ("property length in too many bytes", V5, 0x30, b"\0\x01a\x80\0", 0x81, "more bytes than"),
    ("property length without end", V5, 0x30, b"\0\x01a\x80\x80\x80\x80\x01", 0x81, "fourth byte"),
    ("topic alias 0", V5, 0x30, b"\0\x01a\x03\x23\0\0", 0x94, "alias 0"),
    ("topic alias twice", V5, 0x30, b"\0\x01a\x06\x23\0\x01\x23\0\x01", 0x82, "twice"),
    ("payload format 2", V5, 0x30, b"\0\x01a\x02\x01\x02", 0x82, "0 or 1"),
    ("payload format twice", V5, 0x30, b"\0\x01a\x04\x01\x01\x01\x01", 0x82, "twice"),
    ("expiry twice", V5, 0x30, b"\0\x01a\x0A\x02\0\0\0\x01\x02\0\0\0\x01", 0x82, "twice"),
    ("content type twice", V5, 0x30, b"\0\x01a\x06\x03\0\0\x03\0\0", 0x82, "twice"),
    ("response topic twice", V5, 0x30, b"\0\x01a\x08\x08\0\x01r\x08\0\x01r", 0x82, "twice"),
    ("correlation data twice", V5, 0x30, b"\0\x01a\x06\x09\0\0\x09\0\0", 0x82, "twice"),
    ("subscription identifier", V5, 0x30, b"\0\x01a\x02\x0B\x01", 0x82, "subscription identifier"),
    ("a wildcard in a response topic", V5, 0x30, b"\0\x01a\x04\x08\0\x01#", 0x90, "wildcard"),
    ("an empty response topic", V5, 0x30, b"\0\x01a\x03\x08\0\0", 0x81, "response topic"),
    ("a property of CONNECT", V5, 0x30, b"\0\x01a\x05\x11\0\0\0\x01", 0x81, "belong"),
    ("a property of a will", V5, 0x30, b"\0\x01a\x05\x18\0\0\0\x01", 0x81, "belong"),
    ("a property that is none", V5, 0x30, b"\0\x01a\x02\x04\0", 0x81, "not exist"),
    ("a property of two bytes", V5, 0x30, b"\0\x01a\x03\x81\x01\0", 0x81, "not exist"),
];

pub(super) const OTHERS: &[Row] = &[
    ("packet id 0", V311, 0x40, b"\0\0", 0x82, "identifier 0"),
    ("packet id 0", V5, 0x50, b"\0\0", 0x82, "identifier 0"),
    ("packet id 0", V311, 0x62, b"\0\0", 0x82, "identifier 0"),
    ("packet id 0", V5, 0x70, b"\0\0\0", 0x82, "identifier 0"),
    ("half a packet id", V5, 0x40, b"\x01", 0x81, "beyond the end"),
    ("a reason in 3.1.1", V311, 0x40, b"\0\x01\0", 0x81, "behind the last"),
    ("a reason that PUBACK has not", V5, 0x40, b"\0\x01\x92", 0x82, "reason code"),
    ("a reason that PUBREC has not", V5, 0x50, b"\0\x01\x01", 0x82, "reason code"),
    ("a reason that PUBREL has not", V5, 0x62, b"\0\x01\x80", 0x82, "reason code"),
    ("a reason that PUBCOMP has not", V5, 0x70, b"\0\x01\x10", 0x82, "reason code"),
    ("a property PUBACK has not", V5, 0x40, b"\0\x01\0\x03\x23\0\x01", 0x81, "belong"),
    ("reason string twice", V5, 0x62, b"\0\x01\0\x06\x1F\0\0\x1F\0\0", 0x82, "twice"),
    ("bytes behind the properties", V5, 0x70, b"\0\x01\0\0\0", 0x81, "behind the last"),
    ("flags of PUBACK", V311, 0x42, b"\0\x01", 0x81, "flags"),
    ("flags of PUBREC", V5, 0x51, b"\0\x01", 0x81, "flags"),
    ("flags of PUBREL", V311, 0x60, b"\0\x01", 0x81, "flags"),
    ("flags of PUBREL", V5, 0x6A, b"\0\x01", 0x81, "flags"),
    ("flags of PUBCOMP", V5, 0x72, b"\0\x01", 0x81, "flags"),
    ("flags of SUBSCRIBE", V311, 0x80, b"\0\x01\0\x01a\0", 0x81, "flags"),
    ("flags of UNSUBSCRIBE", V5, 0xA0, b"\0\x01\0\0\x01a", 0x81, "flags"),
    ("flags of PINGREQ", V311, 0xC1, b"", 0x81, "flags"),
    ("flags of DISCONNECT", V5, 0xE2, b"", 0x81, "flags"),
    ("flags of AUTH", V5, 0xF1, b"\x18\x04\x15\0\x01m", 0x81, "flags"),
    ("no filter", V311, 0x82, b"\0\x01", 0x82, "no topic filter"),
    ("no filter", V5, 0x82, b"\0\x01\0", 0x82, "no topic filter"),
    ("no filter", V311, 0xA2, b"\0\x01", 0x82, "no topic filter"),
    ("no filter", V5, 0xA2, b"\0\x01\0", 0x82, "no topic filter"),
    ("an empty filter", V311, 0x82, b"\0\x01\0\0\0", 0x81, "empty topic filter"),
    ("an empty filter", V5, 0xA2, b"\0\x01\0\0\0", 0x81, "empty topic filter"),
    ("a filter without options", V311, 0x82, b"\0\x01\0\x01a", 0x81, "beyond the end"),
    ("packet id 0", V311, 0x82, b"\0\0\0\x01a\0", 0x82, "identifier 0"),
    ("packet id 0", V5, 0xA2, b"\0\0\0\0\x01a", 0x82, "identifier 0"),
    ("QoS 3", V311, 0x82, b"\0\x01\0\x01a\x03", 0x82, "QoS 3"),
    ("QoS 3", V5, 0x82, b"\0\x01\0\0\x01a\x03", 0x82, "QoS 3"),
    ("5.0's options in 3.1.1", V311, 0x82, b"\0\x01\0\x01a\x04", 0x81, "reserved bits"),
    ("reserved options", V5, 0x82, b"\0\x01\0\0\x01a\x40", 0x81, "reserved bits"),
    ("reserved options", V5, 0x82, b"\0\x01\0\0\x01a\x80", 0x81, "reserved bits"),
    ("retain handling 3", V5, 0x82, b"\0\x01\0\0\x01a\x30", 0x82, "retain handling"),
    ("no local, shared", V5, 0x82, b"\0\x01\0\0\x0A$share/g/a\x04", 0x82, "no local"),
    ("subscription identifier 0", V5, 0x82, b"\0\x01\x02\x0B\0\0\x01a\0", 0x82, "identifier 0"),
    ("two subscription identifiers", V5, 0x82, b"\0\x01\x04\x0B\x01\x0B\x02\0\x01a\0", 0x82, "twice"),
    ("an identifier in too many bytes", V5, 0x82, b"\0\x01\x03\x0B\x81\0\0\x01a\0", 0x81, "more bytes than"),
    ("a property SUBSCRIBE has not", V5, 0x82, b"\0\x01\x03\x1F\0\0\0\x01a\0", 0x81, "belong"),
    ("a property UNSUBSCRIBE has not", V5, 0xA2, b"\0\x01\x02\x0B\x01\0\x01a", 0x81, "belong"),
    ("a PINGREQ with a body", V311, 0xC0, b"\0", 0x81, "behind the last"),
    ("a DISCONNECT with a body", V311, 0xE0, b"\0", 0x81, "behind the last"),
    ("a server's reason", V5, 0xE0, b"\x8B", 0x82, "only a server"),
    ("a reason that is none", V5, 0xE0, b"\x01", 0x82, "reason code"),
    ("a server's property", V5, 0xE0, b"\0\x04\x1C\0\x01s", 0x81, "belong"),
    ("expiry twice", V5, 0xE0, b"\0\x0A\x11\0\0\0\0\x11\0\0\0\0", 0x82, "twice"),
    ("bytes behind DISCONNECT", V5, 0xE0, b"\0\0\0", 0x81, "behind the last"),
    ("AUTH in 3.1.1", V311, 0xF0, b"\x18\x04\x15\0\x01m", 0x81, "type 15"),
    ("AUTH with success", V5, 0xF0, b"", 0x82, "success"),
    ("AUTH with success", V5, 0xF0, b"\0\x04\x15\0\x01m", 0x82, "success"),
    ("AUTH without a method", V5, 0xF0, b"\x18\0", 0x82, "method"),
    ("AUTH without properties", V5, 0xF0, b"\x18", 0x82, "method"),
    ("a reason AUTH has not", V5, 0xF0, b"\x17\0", 0x82, "reason code"),
    ("packet type 0", V311, 0x00, b"", 0x81, "type 0"),
    ("packet type 0", V5, 0x00, b"", 0x81, "type 0"),
    ("CONNACK", V311, 0x20, b"\0\0", 0x82, "only a server"),
    ("SUBACK", V5, 0x90, b"\0\x01\0\0", 0x82, "only a server"),
    ("UNSUBACK", V311, 0xB0, b"\0\x01", 0x82, "only a server"),
    ("PINGRESP", V5, 0xD0, b"", 0x82, "only a server"),
];

#[test]
fn forbidden_packets_are_refused() {
    for (what, version, first, body, reason, words) in [STRINGS, PUBLISH, OTHERS].concat() {
        let answer = if version == V5 { Answer::Disconnect } else { Answer::Silence };
        refused(what, connected(version), &packet(first, body), reason, words, answer);
    }
}

fn refused(what: &str, mut decoder: Decoder, bytes: &[u8], reason: u8, words: &str, answer: Answer) {
    let mut buffer = BytesMut::from(bytes);
    let error = match decoder.next(&mut buffer) {
        Err(error) => error,
        Ok(taken) => panic!("{what}: {bytes:02x?} gave {taken:?}"),
    };
    assert_eq!((error.reason.0, error.answer), (reason, answer), "{what}: {error}");
    assert!(error.what.contains(words) && error.what.contains('§'), "{what}: {error}");
    assert_eq!(&buffer[..], bytes, "{what}: an error takes nothing");
    let told = error.answer_packet();
    assert_eq!(told.is_some(), answer != Answer::Silence, "{what}");
    if let Some((packet, version)) = told {
        assert!(encoded(&packet, version).contains(&error.reason.0) || version == V311, "{what}");
    }
}

/// What is wrong, body, reason, words, answer.
pub(super) type Connects = (&'static str, &'static [u8], u8, &'static str, Answer);

const TO_V311: Answer = Answer::Connack(V311);
const TO_V5: Answer = Answer::Connack(V5);

pub(super) const CONNECTS: &[Connects] = &[
    ("level 3", b"\0\x04MQTT\x03\x02\0\0\0\0", 0x84, "3.1.1 and 5.0", TO_V311),
    ("MQTT 3.1", b"\0\x06MQIsdp\x03\x02\0\0\0\x01c", 0x84, "3.1.1 and 5.0", TO_V311),
    ("level 6", b"\0\x04MQTT\x06\x02\0\0\0\0\0", 0x84, "3.1.1 and 5.0", TO_V5),
    ("a 5.0 bridge", b"\0\x04MQTT\x85\x02\0\0\0\0\x01c", 0x84, "3.1.1 and 5.0", TO_V5),
    ("another name", b"\0\x04mqtt\x04\x02\0\0\0\0", 0x81, "protocol name", Answer::Silence),
    ("another name", b"\0\x06MQIsdp\x04\x02\0\0\0\0", 0x81, "protocol name", Answer::Silence),
    ("no name", b"\0\0\x04\x02\0\0\0\0", 0x81, "protocol name", Answer::Silence),
    ("nothing", b"", 0x81, "beyond the end", Answer::Silence),
    ("a name alone", b"\0\x04MQTT", 0x81, "beyond the end", Answer::Silence),
    ("no flags", b"\0\x04MQTT\x05", 0x81, "beyond the end", TO_V5),
    ("no flags", b"\0\x04MQTT\x04", 0x81, "beyond the end", Answer::Silence),
    ("the reserved flag", b"\0\x04MQTT\x04\x03\0\0\0\0", 0x81, "reserved connect flag", Answer::Silence),
    ("the reserved flag", b"\0\x04MQTT\x05\x03\0\0\0\0\0", 0x81, "reserved connect flag", TO_V5),
    ("will QoS 3", b"\0\x04MQTT\x04\x1E\0\0\0\0\0\x01w\0\0", 0x81, "will QoS 3", Answer::Silence),
    ("will QoS 3", b"\0\x04MQTT\x05\x1E\0\0\0\0\0\0\0\x01w\0\0", 0x81, "will QoS 3", TO_V5),
    ("will QoS without a will", b"\0\x04MQTT\x05\x0A\0\0\0\0\0", 0x81, "without a will", TO_V5),
    ("will retain without a will", b"\0\x04MQTT\x04\x22\0\0\0\0", 0x81, "without a will", Answer::Silence),
    ("no will after all", b"\0\x04MQTT\x04\x06\0\0\0\0", 0x81, "beyond the end", Answer::Silence),
    ("a wildcard in a will topic", b"\0\x04MQTT\x05\x06\0\0\0\0\0\0\0\x01#\0\0", 0x90, "wildcard", TO_V5),
    ("a wildcard in a will topic", b"\0\x04MQTT\x04\x06\0\0\0\0\0\x01+\0\0", 0x90, "wildcard", Answer::Silence),
    ("an empty will topic", b"\0\x04MQTT\x05\x06\0\0\0\0\0\0\0\0\0\0", 0x90, "will topic", TO_V5),
    ("an alias in a will", b"\0\x04MQTT\x05\x06\0\0\0\0\0\x03\x23\0\x01\0\x01w\0\0", 0x81, "belong", TO_V5),
    ("a password alone", b"\0\x04MQTT\x04\x42\0\0\0\0\0\x01p", 0x81, "without a user name", Answer::Silence),
    ("no password after all", b"\0\x04MQTT\x04\xC2\0\0\0\0\0\x01u", 0x81, "beyond the end", Answer::Silence),
    ("bytes behind the password", b"\0\x04MQTT\x04\xC2\0\0\0\0\0\x01u\0\0x", 0x81, "behind the last", Answer::Silence),
    ("bytes behind the client id", b"\0\x04MQTT\x05\x02\0\0\0\0\0x", 0x81, "behind the last", TO_V5),
    ("no client id, a session", b"\0\x04MQTT\x04\0\0\0\0\0", 0x85, "client identifier", TO_V311),
    ("NUL in a client id", b"\0\x04MQTT\x04\x02\0\0\0\x01\0", 0x81, "U+0000", Answer::Silence),
    ("NUL in a user name", b"\0\x04MQTT\x05\x82\0\0\0\0\0\0\x01\0", 0x81, "U+0000", TO_V5),
    ("no UTF-8 in a user name", b"\0\x04MQTT\x04\x82\0\0\0\0\0\x01\xFF", 0x81, "UTF-8", Answer::Silence),
    ("receive maximum 0", b"\0\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\0", 0x82, "receive maximum 0", TO_V5),
    ("maximum packet size 0", b"\0\x04MQTT\x05\x02\0\0\x05\x27\0\0\0\0\0\0", 0x82, "packet size 0", TO_V5),
    ("problem information 2", b"\0\x04MQTT\x05\x02\0\0\x02\x17\x02\0\0", 0x82, "0 or 1", TO_V5),
    ("response information 2", b"\0\x04MQTT\x05\x02\0\0\x02\x19\x02\0\0", 0x82, "0 or 1", TO_V5),
    ("receive maximum twice", b"\0\x04MQTT\x05\x02\0\0\x06\x21\0\x01\x21\0\x01\0\0", 0x82, "twice", TO_V5),
    ("a message's property", b"\0\x04MQTT\x05\x02\0\0\x02\x01\x01\0\0", 0x81, "belong", TO_V5),
    ("a will's property", b"\0\x04MQTT\x05\x02\0\0\x05\x18\0\0\0\x01\0\0", 0x81, "belong", TO_V5),
    ("data without a method", b"\0\x04MQTT\x05\x02\0\0\x03\x16\0\0\0\0", 0x82, "without a method", TO_V5),
];

#[test]
fn forbidden_connects_are_refused() {
    for (what, body, reason, words, answer) in CONNECTS {
        refused(what, Decoder::new(1 << 20), &packet(0x10, body), *reason, words, *answer);
    }
    refused("flags of CONNECT", Decoder::new(1 << 20), &[0x11], 0x81, "flags", Answer::Silence);
}

#[test]
fn connect_comes_first_and_once() {
    for other in [&b"\xC0\0"[..], b"\x30\x03\0\x01a", b"\xF0\0", b"\xE0\0"] {
        refused("not CONNECT", Decoder::new(1 << 20), other, 0x82, "must be CONNECT", Answer::Silence);
    }
    let again = packet(0x10, b"\0\x04MQTT\x04\x02\0\0\0\0");
    refused("CONNECT again", connected(V311), &again, 0x82, "second CONNECT", Answer::Silence);
    refused("CONNECT again", connected(V5), &again, 0x82, "second CONNECT", Answer::Disconnect);
}

#[test]
fn strangers_are_refused_by_their_first_byte() {
    for (stranger, reason) in [(&b"G"[..], 0x82), (b"\x16", 0x81), (b"\0", 0x81), (b"S", 0x82), (b"\xFF", 0x82)] {
        let error = Decoder::new(1 << 20).next(&mut BytesMut::from(stranger)).unwrap_err();
        assert_eq!((error.reason.0, error.answer), (reason, Answer::Silence), "{error}");
    }
}

#[test]
fn too_large_is_refused_from_the_fixed_header_alone() {
    for (version, answer) in [(V311, Answer::Silence), (V5, Answer::Disconnect)] {
        let mut decoder = connected_with(version, 100);
        // 98 and a header of 2 bytes are 100; 99 are one too many.
        assert_eq!(decoder.next(&mut BytesMut::from(&[0x30, 98][..])), Ok(None));
        refused("99 bytes", decoder.clone(), &[0x30, 99], 0x95, "101 bytes, and at most 100", answer);
        refused("all", decoder, &[0x30, 0xFF, 0xFF, 0xFF, 0x7F], 0x95, "268435460 bytes", answer);
    }
    refused("a CONNECT", Decoder::new(100), &[0x10, 0x80, 0x01], 0x95, "131 bytes", Answer::Silence);
}

#[test]
fn a_length_is_no_longer_than_four_bytes_and_in_5_0_no_longer_than_it_must() {
    for (version, answer) in [(V311, Answer::Silence), (V5, Answer::Disconnect)] {
        let endless = [0xC0, 0x80, 0x80, 0x80, 0x80];
        refused("endless", connected(version), &endless, 0x81, "fourth byte", answer);
    }
    refused("two bytes for 0", connected(V5), &[0xC0, 0x80, 0], 0x81, "more bytes than", Answer::Disconnect);
    let mut connect = vec![0x10, 0x8D, 0];
    connect.extend_from_slice(b"\0\x04MQTT\x05\x02\0\0\0\0\0");
    refused("two bytes for 13", Decoder::new(100), &connect, 0x81, "more bytes than", TO_V5);
}

#[test]
fn counts_that_a_size_does_not_bound_are_bounded() {
    let filters = |count: usize| {
        let mut body = b"\0\x01".to_vec();
        body.extend(b"\0\x01a\0".iter().copied().cycle().take(4 * count));
        packet(0x82, &body)
    };
    assert!(decode(V311, &filters(decode::FILTERS_MAX)).is_ok());
    let error = decode(V311, &filters(decode::FILTERS_MAX + 1)).unwrap_err();
    assert_eq!(error.reason, Reason::QUOTA_EXCEEDED, "{error}");

    let user = |count: usize| {
        let mut body = b"\0\x01a".to_vec();
        let length = 5 * count;
        body.extend([(length & 0x7F) as u8 | 0x80, (length >> 7) as u8]);
        body.extend(b"\x26\0\0\0\0".iter().copied().cycle().take(length));
        packet(0x30, &body)
    };
    assert!(decode(V5, &user(properties::USER_PROPERTIES_MAX)).is_ok());
    let error = decode(V5, &user(properties::USER_PROPERTIES_MAX + 1)).unwrap_err();
    assert_eq!(error.reason, Reason::QUOTA_EXCEEDED, "{error}");
}
