//! How many MQTT packets one core decodes and encodes, beside the mqtt-protocol-core crate's own types in the same run.
//!
//! Decoding: PUBLISH with QoS 1 and 256 bytes of payload, from a buffer filled as a connection fills it. Encoding: PUBACK, and the
//! same PUBLISH. And what a payload costs when it is copied out of the read buffer or split off it.
//!
//! `cargo bench --bench mqtt_packet -- [milliseconds per run] [rounds]`

#![allow(clippy::unwrap_used)] // a bench ends where it fails

use std::hint::black_box;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use mqtt_protocol_core::mqtt::packet::{DecodeResult, VariableByteInteger, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::{Arc as CrateArc, ArcPayload};
use tidegate::ingest::mqtt::packet::{Ack, Decoder, Packet, Publish, QoS, Reason, Version, encode};

const TOPIC: &str = "devices/press-7/telemetry";
const PAYLOAD: usize = 256;
/// About as much as one read gives.
const PACKETS_PER_READ: usize = 200;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let number = |i: usize, default: u64| args.get(i).map_or(default, |a| a.parse().expect("a number"));
    let (run, rounds) = (Duration::from_millis(number(0, 1_000)), number(1, 5) as usize);
    println!("median of {rounds} runs of {run:?}, packets/s");
    for version in [Version::V311, Version::V5] {
        let publish = publish(version);
        let ours = median(rounds, || decode_ours(version, &publish, run));
        let theirs = median(rounds, || decode_crate(version, &publish, run));
        row(&format!("decode PUBLISH {version:?}, QoS 1, {PAYLOAD} B"), ours, theirs);
        let shim = median(rounds, || decode_shim(version, &publish, run));
        row("  crate, checked and converted", ours, shim);
    }
    let id = NonZeroU16::new(0x1234).unwrap();
    let ack = Packet::Puback(Ack { packet_id: id, reason: Reason::SUCCESS, reason_string: None });
    let ours = median(rounds, || encode_ours(&ack, run));
    let theirs = median(rounds, || {
        measure(run, 1, || {
            let ack = v5_0::Puback::builder().packet_id(0x1234).build().unwrap();
            black_box(ack.to_continuous_buffer());
        })
    });
    row("encode PUBACK V5", ours, theirs);
    let publish = Packet::Publish(Box::new(message()));
    let ours = median(rounds, || encode_ours(&publish, run));
    let theirs = median(rounds, || {
        measure(run, 1, || {
            let publish = v5_0::Publish::builder().topic_name(TOPIC).unwrap();
            let publish = publish.qos(mqtt_protocol_core::mqtt::packet::Qos::AtLeastOnce).packet_id(0x1234);
            let publish = publish.payload(vec![7; PAYLOAD]).build().unwrap();
            black_box(publish.to_continuous_buffer());
        })
    });
    row(&format!("encode PUBLISH V5, QoS 1, {PAYLOAD} B"), ours, theirs);
    for size in [256, 4_096, 65_536] {
        let copied = median(rounds, || payloads(size, run, |buffer| Bytes::copy_from_slice(&buffer[..size])));
        let split = median(rounds, || payloads(size, run, |buffer| buffer.split_to(size).freeze()));
        println!(
            "payload of {size:6} B      copied {copied:12.0}  split off {split:12.0}  ratio {:.2}",
            copied / split
        );
    }
}

fn row(what: &str, ours: f64, theirs: f64) {
    println!("{what:38} ours {ours:12.0}  crate {theirs:12.0}  ratio {:.2}", ours / theirs);
}

fn median(rounds: usize, mut run: impl FnMut() -> f64) -> f64 {
    let mut rates: Vec<f64> = (0..rounds).map(|_| run()).collect();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Rate of `each` with which `step` does `count` of them.
fn measure(run: Duration, count: usize, mut step: impl FnMut()) -> f64 {
    let (begun, mut done) = (Instant::now(), 0);
    while begun.elapsed() < run {
        for _ in 0..64 {
            step();
        }
        done += 64 * count;
    }
    done as f64 / begun.elapsed().as_secs_f64()
}

fn message() -> Publish {
    Publish {
        qos: QoS::AtLeastOnce,
        topic: TOPIC.into(),
        packet_id: NonZeroU16::new(0x1234),
        payload: vec![7; PAYLOAD].into(),
        ..Publish::default()
    }
}

fn publish(version: Version) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    encode(&Packet::Publish(Box::new(message())), version, &mut bytes).unwrap();
    bytes.repeat(PACKETS_PER_READ)
}

fn decode_ours(version: Version, stream: &[u8], run: Duration) -> f64 {
    let connect: &[u8] = match version {
        Version::V311 => b"\x10\x0C\0\x04MQTT\x04\x02\0\0\0\0",
        Version::V5 => b"\x10\x0D\0\x04MQTT\x05\x02\0\0\0\0\0",
    };
    let mut decoder = Decoder::new(1 << 20);
    let mut buffer = BytesMut::from(connect);
    decoder.next(&mut buffer).unwrap();
    measure(run, PACKETS_PER_READ, || {
        buffer.extend_from_slice(stream);
        while let Some(packet) = decoder.next(&mut buffer).unwrap() {
            black_box(packet);
        }
    })
}

/// What the crate's own connection does: the fixed header, a copy of the body, `parse`. None of the rules that it leaves out, and
/// not our type.
fn decode_crate(version: Version, stream: &[u8], run: Duration) -> f64 {
    with_crate(stream, run, |flags, body| match version {
        Version::V311 => drop(black_box(v3_1_1::Publish::parse(flags, body).unwrap())),
        Version::V5 => drop(black_box(v5_0::Publish::parse(flags, body).unwrap())),
    })
}

/// The same as a base for ours: what it leaves out is checked, as far as these packets go, and the packet becomes ours.
fn decode_shim(version: Version, stream: &[u8], run: Duration) -> f64 {
    let convert = |flags: u8, topic: &str, packet_id: Option<u16>, payload: ArcPayload| {
        assert!(flags & 0x06 != 0x06 && (flags & 0x08 == 0 || flags & 0x06 != 0));
        assert!(
            !topic.is_empty() && !topic.bytes().fold(false, |found, b| found | (b == 0) | (b == b'+') | (b == b'#'))
        );
        let packet_id = packet_id.map(|id| NonZeroU16::new(id).unwrap());
        let payload = Bytes::copy_from_slice(payload.as_slice());
        let publish = Publish { qos: QoS::AtLeastOnce, topic: topic.into(), packet_id, payload, ..Publish::default() };
        Packet::Publish(Box::new(publish))
    };
    with_crate(stream, run, |flags, body| match version {
        Version::V311 => {
            let parsed = v3_1_1::Publish::parse(flags, body).unwrap().0;
            black_box(convert(flags, parsed.topic_name(), parsed.packet_id(), parsed.payload().clone()));
        }
        Version::V5 => {
            let parsed = v5_0::Publish::parse(flags, body).unwrap().0;
            assert!(parsed.props().is_empty());
            black_box(convert(flags, parsed.topic_name(), parsed.packet_id(), parsed.payload().clone()));
        }
    })
}

fn with_crate(stream: &[u8], run: Duration, parse: impl Fn(u8, CrateArc<[u8]>)) -> f64 {
    let mut buffer = BytesMut::new();
    measure(run, PACKETS_PER_READ, || {
        buffer.extend_from_slice(stream);
        while let Some(&first) = buffer.first() {
            let DecodeResult::Ok(length, taken) = VariableByteInteger::decode_stream(&buffer[1..]) else { panic!() };
            let end = 1 + taken + length.to_u32() as usize;
            parse(first & 0x0F, CrateArc::from(&buffer[1 + taken..end]));
            buffer.advance(end);
        }
    })
}

fn encode_ours(packet: &Packet, run: Duration) -> f64 {
    let mut buffer = BytesMut::new();
    measure(run, PACKETS_PER_READ, || {
        buffer.clear();
        for _ in 0..PACKETS_PER_READ {
            encode(black_box(packet), Version::V5, &mut buffer).unwrap();
        }
        black_box(&buffer);
    })
}

/// A read of 64 KiB, and payloads taken off it one by one.
fn payloads(size: usize, run: Duration, take: impl Fn(&mut BytesMut) -> Bytes) -> f64 {
    let read = vec![7; 65_536];
    let mut buffer = BytesMut::new();
    measure(run, read.len() / size, || {
        buffer.extend_from_slice(&read);
        while buffer.len() >= size {
            let before = buffer.len();
            black_box(take(&mut buffer));
            if buffer.len() == before {
                buffer.advance(size);
            }
        }
    })
}
