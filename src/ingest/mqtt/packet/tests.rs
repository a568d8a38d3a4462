//! The packet layer against the standards' rules, the mqtt-protocol-core crate and itself.

mod allowed;
mod any;
mod examples;
mod forbidden;
mod witness;

use bytes::BytesMut;

use super::*;

/// A decoder that has taken a CONNECT of this version.
fn connected(version: Version) -> Decoder {
    connected_with(version, 1 << 20)
}

fn connected_with(version: Version, max_packet: u32) -> Decoder {
    let mut decoder = Decoder::new(max_packet);
    let connect: &[u8] = match version {
        Version::V311 => b"\x10\x0C\0\x04MQTT\x04\x02\0\0\0\0",
        Version::V5 => b"\x10\x0D\0\x04MQTT\x05\x02\0\0\0\0\0",
    };
    assert!(matches!(decoder.next(&mut BytesMut::from(connect)), Ok(Some(Packet::Connect(_)))));
    decoder
}

/// The one packet that these bytes are.
fn decode(version: Version, bytes: &[u8]) -> Result<Packet, PacketError> {
    let mut decoder =
        if bytes.first().is_some_and(|b| b >> 4 == 1) { Decoder::new(1 << 20) } else { connected(version) };
    let mut buffer = BytesMut::from(bytes);
    let packet = decoder.next(&mut buffer)?.unwrap_or_else(|| panic!("more bytes wanted after {bytes:02x?}"));
    assert!(buffer.is_empty(), "{} bytes left of {bytes:02x?}", buffer.len());
    Ok(packet)
}

fn encoded(packet: &Packet, version: Version) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    encode(packet, version, &mut bytes).unwrap();
    assert_eq!(encoded_len(packet, version), Ok(bytes.len()));
    bytes.to_vec()
}

/// A packet: first byte, remaining length, body.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    while length >= 0x80 {
        packet.push(length as u8 | 0x80);
        length >>= 7;
    }
    packet.push(length as u8);
    packet.extend_from_slice(body);
    packet
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}
