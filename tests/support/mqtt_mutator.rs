//! Bytes that an MQTT client might send by mistake or on purpose: valid packets of both versions, damaged in ways that reach deep.
//!
//! Blind damage mostly ends at the fixed header. So after most changes the remaining length is put right again, what is inserted
//! is often a word of the protocol (a property, a length at its limit, a forbidden string), and pieces of other packets are
//! spliced in. Case `n` of a seed is the same bytes every time, whatever came before it.

use super::random::Random;

/// What one client sends, from its first byte on.
pub struct Case {
    /// 3.1.1 or 5.0, as its CONNECT says (or said before it was damaged).
    pub v5: bool,
    /// Sent in this order; each was one packet before it was damaged.
    pub packets: Vec<Vec<u8>>,
}

impl Case {
    /// As one stream.
    pub fn bytes(&self) -> Vec<u8> {
        self.packets.concat()
    }
}

/// A packet: first byte, remaining length, body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
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

/// Valid CONNECT packets: small; with everything.
pub fn connects(v5: bool) -> Vec<Vec<u8>> {
    if !v5 {
        return vec![
            packet(0x10, b"\0\x04MQTT\x04\x02\0\x3C\0\x04dev1"),
            packet(0x10, b"\0\x04MQTT\x04\xEE\0\x0A\0\x04dev1\0\x04will\0\x03off\0\x04user\0\x06secret"),
            packet(0x10, b"\0\x04MQTT\x04\0\xFF\xFF\0\x04dev1"),
        ];
    }
    let properties = b"\x11\0\0\x0E\x10\x21\0\x14\x27\0\0\x40\0\x22\0\x0A\x19\x01\x17\0\x15\0\x05SCRAM\x16\0\x02ab\x26\0\x01k\0\x01v";
    let will = b"\x18\0\0\0\x05\x01\x01\x02\0\0\0\x3C\x03\0\x04text\x08\0\x05reply\x09\0\x02id\x26\0\x01k\0\x01v";
    let mut full = b"\0\x04MQTT\x05\xEE\0\x0A".to_vec();
    full.push(properties.len() as u8);
    full.extend_from_slice(properties);
    full.extend_from_slice(b"\0\x04dev1");
    full.push(will.len() as u8);
    full.extend_from_slice(will);
    full.extend_from_slice(b"\0\x04will\0\x03off\0\x04user\0\x06secret");
    vec![
        packet(0x10, b"\0\x04MQTT\x05\x02\0\x3C\0\0\x04dev1"),
        packet(0x10, &full),
        packet(0x10, b"\0\x04MQTT\x05\x42\0\0\0\0\0\0\x06secret"),
    ]
}

/// Valid packets that may come after CONNECT: every type, short and with everything.
pub fn packets(v5: bool) -> Vec<Vec<u8>> {
    let mut long = b"\0\x10devices/7/events\0\x07".to_vec();
    if v5 {
        long.push(0);
    }
    long.extend((0..300).map(|i| i as u8));
    let mut packets = vec![packet(0x32, &long), packet(0xC0, b""), packet(0xE0, b"")];
    packets.extend([0x40, 0x50, 0x62, 0x70].map(|first| packet(first, b"\x12\x34")));
    if !v5 {
        packets.extend([
            packet(0x30, b"\0\x03a/bhello"),
            packet(0x31, b"\0\x03a/b"),
            packet(0x3D, b"\0\x03a/b\0\x0Ahello"),
            packet(0x82, b"\0\x0A\0\x03a/b\x01\0\x05c/+/#\x02\0\x0F$share/g/x/y/#/\0"),
            packet(0xA2, b"\0\x0B\0\x03a/b\0\x05c/+/#"),
        ]);
        return packets;
    }
    let message = b"\x01\x01\x02\0\0\0\x3C\x23\0\x03\x08\0\x05reply\x09\0\x02id\x26\0\x01k\0\x01v\x26\0\x01k\0\x01w\x03\0\x04text";
    let mut full = b"\0\x03a/b\0\x0A".to_vec();
    full.push(message.len() as u8);
    full.extend_from_slice(message);
    full.extend_from_slice(b"hello");
    packets.extend([
        packet(0x30, b"\0\x03a/b\0hello"),
        packet(0x3D, &full),
        packet(0x32, b"\0\0\0\x0C\x03\x23\0\x03again"),
        packet(0x40, b"\x12\x34\x10"),
        packet(0x50, b"\x12\x34\x97\x0D\x1F\0\x03why\x26\0\x01k\0\x01v"),
        packet(0x62, b"\x12\x34\x92\0"),
        packet(0x70, b"\x12\x34\x92\x06\x1F\0\x03why"),
        packet(0x82, b"\0\x0A\0\0\x03a/b\x01"),
        packet(0x82, b"\0\x0A\x0A\x0B\x80\x01\x26\0\x01k\0\x01v\0\x03a/b\x2E\0\x0A$share/g/#\x01\0\x01#\x10"),
        packet(0xA2, b"\0\x0B\x07\x26\0\x01k\0\x01v\0\x03a/b\0\x05c/+/#"),
        packet(0xE0, b"\x04\x12\x11\0\0\0\x3C\x1F\0\x03bye\x26\0\x01k\0\x01v"),
        packet(0xE0, b"\x04"),
        packet(0xF0, b"\x18\x0D\x15\0\x05SCRAM\x16\0\x02ab"),
    ]);
    packets
}

/// What is inserted and written over: lengths at their limits, properties, strings that are forbidden somewhere.
const WORDS: &[&[u8]] = &[
    b"\0",
    b"\x01",
    b"\x7F",
    b"\x80",
    b"\xFF",
    b"\0\0",
    b"\0\x01",
    b"\x7F\xFF",
    b"\x80\0",
    b"\xFF\xFF",
    b"\x80\x01",
    b"\xFF\x7F",
    b"\x80\x80\x01",
    b"\xFF\xFF\xFF\x7F",
    b"\xFF\xFF\xFF\xFF",
    b"\x80\x80\x80\x80\x01",
    b"\0\0\0\0",
    b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
    b"\x01\x01",
    b"\x01\x02",
    b"\x02\0\0\0\x01",
    b"\x03\0\x01t",
    b"\x08\0\x01r",
    b"\x08\0\x01#",
    b"\x08\0\0",
    b"\x09\0\x01c",
    b"\x0B\x01",
    b"\x0B\0",
    b"\x0B\x80\0",
    b"\x11\0\0\0\x01",
    b"\x12\0\x01i",
    b"\x13\0\x01",
    b"\x15\0\x01m",
    b"\x16\0\x01d",
    b"\x17\x01",
    b"\x17\x02",
    b"\x18\0\0\0\x01",
    b"\x19\0",
    b"\x19\xFF",
    b"\x1A\0\x01r",
    b"\x1C\0\x01s",
    b"\x1F\0\x01w",
    b"\x21\0\x01",
    b"\x21\0\0",
    b"\x22\0\x01",
    b"\x23\0\x01",
    b"\x23\0\0",
    b"\x24\x01",
    b"\x25\x01",
    b"\x26\0\x01k\0\x01v",
    b"\x26\0\0\0\0",
    b"\x27\0\0\0\x01",
    b"\x27\0\0\0\0",
    b"\x28\x01",
    b"\x29\x01",
    b"\x2A\x01",
    b"+",
    b"#",
    b"/",
    b"$share/",
    b"$share/g/",
    b"$SYS/",
    b"a/#/b",
    b"\xC0\x80",
    b"\xED\xA0\x80",
    b"\xF4\x90\x80\x80",
    b"\xEF\xBB\xBF",
    b"\xEF\xBF\xBF",
    b"\xE2\x82",
    b"\0\x04MQTT\x04",
    b"\0\x04MQTT\x05",
    b"\0\x06MQIsdp\x03",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\0",
];

/// Packets of one client are at most this many.
const PACKETS_MAX: u64 = 4;

/// Case `number` of `seed`.
pub fn case(seed: u64, number: u64) -> Case {
    let mut random = Random::seeded(seed.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    let random = &mut random;
    let v5 = random.below(2) == 1;
    let mut sent = vec![pick(random, &connects(v5)).clone()];
    let pool = packets(v5);
    for _ in 0..random.below(PACKETS_MAX) {
        sent.push(pick(random, &pool).clone());
    }
    let foreign = if random.below(8) == 0 { packets(!v5) } else { pool };
    // One in 32 is left as it is: what is valid must go through.
    if random.below(32) > 0 {
        let at = random.below(sent.len() as u64) as usize;
        damage(random, &mut sent[at], &foreign);
        if random.below(4) == 0 {
            let at = random.below(sent.len() as u64) as usize;
            damage(random, &mut sent[at], &foreign);
        }
        if random.below(16) == 0 {
            let at = random.below(sent.len() as u64 + 1) as usize;
            sent.insert(at, noise(random, 40));
        }
    }
    Case { v5, packets: sent }
}

fn pick<'a, T>(random: &mut Random, from: &'a [T]) -> &'a T {
    &from[random.below(from.len() as u64) as usize]
}

fn noise(random: &mut Random, max: u64) -> Vec<u8> {
    (0..random.below(max)).map(|_| random.below(256) as u8).collect()
}

fn damage(random: &mut Random, packet: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..=random.below(4) {
        change(random, packet, others);
    }
    match random.below(8) {
        0 => lie(random, packet),
        1 => {}
        _ => *packet = right_length(packet),
    }
}

/// One change. May leave nothing.
fn change(random: &mut Random, packet: &mut Vec<u8>, others: &[Vec<u8>]) {
    let length = packet.len() as u64;
    let at = random.below(length + 1) as usize;
    let end = (at as u64 + 1 + random.below(12)).min(length) as usize;
    match random.below(12) {
        0 | 1 if at < packet.len() => packet[at] ^= 1 << random.below(8),
        2 if at < packet.len() => packet[at] = random.below(256) as u8,
        3 => packet.truncate(at),
        4 if at < end => drop(packet.drain(at..end)),
        5 if at < end => {
            let again = packet[at..end].to_vec();
            packet.splice(end..end, again);
        }
        6 => {
            let other = pick(random, others);
            let from = random.below(other.len() as u64) as usize;
            let to = (from as u64 + 1 + random.below(24)).min(other.len() as u64) as usize;
            packet.splice(at..at, other[from..to].iter().copied());
        }
        // One of the first bytes: type, flags, lengths, protocol name.
        7 if at < packet.len() => {
            let early = random.below(length.min(14)) as usize;
            packet[early] = packet[early].wrapping_add([1, 0xFF, 0x10, 0x80][random.below(4) as usize]);
        }
        8 => {
            let word = *pick(random, WORDS);
            let over = (at + word.len()).min(packet.len());
            packet.splice(at..over, word.iter().copied());
        }
        9 | 10 => add_property(random, packet),
        _ => {
            let word = *pick(random, WORDS);
            packet.splice(at..at, word.iter().copied());
        }
    }
}

/// A property where 5.0's properties begin, with their length put right: whole and in its place, it is only the wrong one, or there
/// twice, or has a forbidden value.
fn add_property(random: &mut Random, packet: &mut Vec<u8>) {
    let body = body_at(packet);
    let Some(&first) = packet.first() else { return };
    let at = body
        + match first >> 4 {
            1 => 10,
            3 => {
                let topic = packet.get(body..body + 2).map_or(0, |b| usize::from(b[0]) << 8 | usize::from(b[1]));
                2 + topic + if first & 0x06 == 0 { 0 } else { 2 }
            }
            4..=7 => 3,
            8 | 10 => 2,
            _ => 1,
        };
    let word = *pick(random, WORDS);
    if let Some(length) = packet.get_mut(at)
        && usize::from(*length) + word.len() < 0x80
    {
        *length += word.len() as u8;
        packet.splice(at + 1..at + 1, word.iter().copied());
    }
}

/// Where the remaining length ends, if there is one.
fn body_at(packet: &[u8]) -> usize {
    let lengths = packet.iter().skip(1).take(4).take_while(|b| **b & 0x80 != 0).count();
    (2 + lengths).min(packet.len())
}

fn right_length(damaged: &[u8]) -> Vec<u8> {
    match damaged.split_first() {
        Some((first, _)) => packet(*first, &damaged[body_at(damaged)..]),
        None => Vec::new(),
    }
}

/// Another remaining length than there are bytes, or the right one in too many bytes.
fn lie(random: &mut Random, packet: &mut Vec<u8>) {
    let end = body_at(packet);
    if end < 2 {
        return;
    }
    let length = packet.len() - end;
    let claimed = match random.below(6) {
        0 => length + 1,
        1 => length.saturating_sub(1),
        2 => 268_435_455,
        3 => random.below(1 << 28) as usize,
        _ => length,
    };
    let mut bytes: Vec<u8> = (0..4).map(|i| (claimed >> (7 * i)) as u8 | 0x80).collect();
    let longest = 4 - random.below(3) as usize;
    bytes.truncate(longest);
    bytes[longest - 1] &= 0x7F;
    packet.splice(1..end, bytes);
}

/// The same over WebSocket: an upgrade and masked frames, now and then damaged too.
pub fn websocket(seed: u64, number: u64, bytes: &[u8]) -> Vec<u8> {
    let random = &mut Random::seeded(seed.rotate_left(17) ^ number);
    let mut sent = b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        .to_vec();
    if random.below(8) == 0 {
        change(random, &mut sent, &[b"\r\n".to_vec(), b"Sec-WebSocket-Protocol: x\r\n".to_vec(), b": ".to_vec()]);
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(1 + random.below(rest.len() as u64) as usize);
        let first = if random.below(8) == 0 { random.below(256) as u8 } else { 0x82 };
        let mut frame = frame(first, piece, random.below(16) > 0);
        if random.below(16) == 0 {
            change(random, &mut frame, &[b"\x89\x80\0\0\0\0".to_vec(), b"\x88\x82\0\0\0\0\x03\xE8".to_vec()]);
        }
        sent.extend(frame);
        rest = more;
    }
    sent
}

/// A frame of a client (RFC 6455 §5.2), `masked` as it must be.
pub fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let mut frame = vec![first];
    let bit = u8::from(masked) << 7;
    match payload.len() {
        short @ 0..=125 => frame.push(bit | short as u8),
        length => {
            frame.push(bit | 126);
            frame.extend((length as u16).to_be_bytes());
        }
    }
    if !masked {
        frame.extend(payload);
        return frame;
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}
