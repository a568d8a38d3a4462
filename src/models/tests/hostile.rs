//! Indexes and pack messages that anybody may have written: refused or within their bounds, never a panic.

use proptest::prelude::*;

use super::travel::file;
use super::*;
use crate::models::chunks::Sizes;
use crate::models::pack::{Body, HeadReader, PIECE_BYTES_MAX, PIECE_CHUNKS_MAX, PackError};
use crate::models::plan::Plan;

/// Everything that is done with bytes from a topic.
fn swallow(bytes: &[u8]) {
    match pack::decode(bytes) {
        Ok(message) => {
            assert!(message.place < message.places);
            match message.body {
                Body::Head(part) => {
                    if let Ok(Some(head)) = HeadReader::default().push(0, part) {
                        swallow_index(&head.index);
                        let _ = Signed::verify(&head.manifest, &trust());
                    }
                }
                Body::Piece(piece) => {
                    let total: usize = piece.chunks().map(|(_, bytes)| bytes.len()).sum();
                    assert!(total <= PIECE_BYTES_MAX && piece.chunks().count() <= PIECE_CHUNKS_MAX);
                    assert!(piece.chunks().all(|(hash, bytes)| hash == Hash::of(bytes)));
                }
            }
        }
        Err(e) => assert!(!e.to_string().is_empty()),
    }
    if let Ok(index) = Index::decode(bytes) {
        swallow_index(&index);
    }
}

fn swallow_index(index: &Index) {
    assert_eq!(index.entries().iter().map(|e| u64::from(e.length)).sum::<u64>(), index.size());
    assert!(index.entries().iter().all(|e| (1..=Sizes::STANDARD.max).contains(&(e.length as usize))));
    let plan = Plan::of(index, |_| false);
    assert!(plan.bytes <= index.size() && plan.messages() <= index.entries().len());
    assert!(plan.packs.values().all(|wanted| wanted.lacking.iter().all(|place| *place < wanted.places)));
    assert_eq!(Index::decode(&index.encode()).as_ref(), Ok(index));
}

fn mend_crc(bytes: &mut [u8]) {
    let end = bytes.len() - 4;
    let crc = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_le_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::models::tests::cases(1000)))]

    #[test]
    fn any_bytes_are_swallowed(
        start in prop::sample::select(vec![&b""[..], b"TGMP\x01", b"TGMP\x01\x01", b"TGMP\x01\x02", b"TGMI\x01"]),
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        swallow(&[start, &rest].concat());
    }

    /// What was a good message or index before one stretch of it was changed, cut out or put in twice; the CRC is mended.
    #[test]
    fn any_changed_message_is_swallowed(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        length in 0_usize..50,
        put in prop::collection::vec(any::<u8>(), 0..50),
        number in prop::option::of(prop::sample::select(vec![0_u32, 1, 0xffff, 0x7fff_ffff, u32::MAX])),
    ) {
        let published = publish(1, &file(3, 3000, 500), &[]);
        let mut messages = published.messages;
        messages.push(published.index.encode());
        let mut bytes = messages[which.index(messages.len())].clone();
        let at = at.index(bytes.len());
        let end = (at + length).min(bytes.len());
        match number {
            Some(number) if bytes.len() >= at + 4 => bytes[at..at + 4].copy_from_slice(&number.to_le_bytes()),
            _ => drop(bytes.splice(at..end, put)),
        }
        swallow(&bytes);
        if bytes.len() > 9 && bytes.starts_with(b"TGMI") {
            mend_crc(&mut bytes);
            swallow(&bytes);
        }
    }
}

fn piece(lengths: &[u32], body: &[u8]) -> Vec<u8> {
    let mut bytes = [&b"TGMP\x01\x02"[..], &0_u32.to_le_bytes(), &1_u32.to_le_bytes()].concat();
    bytes.extend((lengths.len() as u16).to_le_bytes());
    lengths.iter().for_each(|length| bytes.extend(length.to_le_bytes()));
    bytes.extend_from_slice(body);
    bytes
}

#[test]
fn a_piece_that_inflates_beyond_what_it_says_or_may_is_refused() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    assert!(bomb.len() < 10_000);
    for lengths in [&[100][..], &[PIECE_BYTES_MAX as u32]] {
        assert!(matches!(pack::decode(&piece(lengths, &bomb)), Err(PackError::Damaged(_))));
    }
    assert!(matches!(pack::decode(&piece(&[PIECE_BYTES_MAX as u32 + 1], &bomb)), Err(PackError::TooMany { .. })));
    assert!(matches!(pack::decode(&piece(&[u32::MAX; 4096], &bomb)), Err(PackError::TooMany { .. })));
    assert!(matches!(pack::decode(&piece(&[1; 4097], &bomb)), Err(PackError::TooMany { .. })));
    let short = zstd::bulk::compress(&[0; 10], 3).unwrap();
    for lengths in [&[11][..], &[], &[10, 0]] {
        assert!(matches!(pack::decode(&piece(lengths, &short)), Err(PackError::Damaged(_))), "{lengths:?}");
    }
    assert!(pack::decode(&piece(&[4, 6], &short)).is_ok());
}

/// Frames that ask for a window of gigabytes: decoding writes into the bounded buffer and takes no window.
#[test]
fn a_frame_that_asks_for_a_huge_window_takes_no_memory() {
    // Magic, descriptor without single segment, window descriptor 0xf8 (2^41 bytes), one last raw block of 3 bytes.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x19, 0x00, 0x00, b'a', b'b', b'c'];
    let message = piece(&[3], &frame);
    assert!(matches!(pack::decode(&message), Err(PackError::Damaged(_))));
}

#[test]
fn an_index_says_nothing_that_is_out_of_bounds() {
    let good = publish(1, &file(3, 3000, 500), &[]).index;
    assert_eq!(Index::decode(&good.encode()).as_ref(), Ok(&good));
    let refused = |change: &dyn Fn(&mut Index)| {
        let mut index = good.clone();
        change(&mut index);
        assert!(Index::decode(&index.encode()).is_err(), "{index:?}");
    };
    refused(&|i| i.version = 0);
    refused(&|i| i.size += 1);
    refused(&|i| i.size = (1 << 30) + 1);
    refused(&|i| i.entries[0].length = 0);
    refused(&|i| i.entries[0].length = (256 << 10) + 1);
    refused(&|i| i.entries[0].pack = 1);
    refused(&|i| i.entries[0].piece = i.packs[0].pieces);
    refused(&|i| i.packs[0].pieces = u32::MAX);
    refused(&|i| i.packs[0].heads = 0);
    refused(&|i| i.packs[0].heads = u32::MAX);
    refused(&|i| i.packs[0].version = 0);
    refused(&|i| i.packs = vec![i.packs[0]; 257]);
    refused(&|i| i.entries.clear());
    // One chunk told in two ways.
    refused(&|i| {
        let mut again = i.entries[0];
        again.length -= 1;
        i.size += u64::from(again.length);
        i.entries.push(again);
    });
    let bytes = good.encode();
    assert!(Index::decode(&[&bytes[..], b"x"].concat()).is_err());
    // It says 65,535 packs, and has none.
    let mut lying = bytes;
    let at = 5 + 1 + "anomaly".len() + 8 + 8 + 32;
    lying[at..at + 2].fill(0xff);
    mend_crc(&mut lying);
    assert!(Index::decode(&lying).is_err());
}

#[test]
fn a_head_is_taken_in_order_and_within_its_bounds() {
    let mut reader = HeadReader::default();
    assert!(reader.push(1, b"x").is_err());
    assert!(reader.push(0, b"").is_err());
    assert!(reader.push(0, &u32::MAX.to_le_bytes()).is_err());
    // It says three megabytes and never comes to an end.
    let mut reader = HeadReader::default();
    let part = vec![0; 1 << 20];
    let first = [&(pack::HEAD_BYTES_MAX as u32 - 4).to_le_bytes()[..], &part[4..]].concat();
    assert!(reader.push(0, &first).unwrap().is_none());
    assert!(reader.push(1, &part).unwrap().is_none());
    assert!(matches!(reader.push(2, &part), Err(PackError::TooMany { .. })));
}

/// A model of one gigabyte cut into the shortest chunks is the largest index there is: its head has as many messages as
/// it may.
#[test]
fn the_largest_index_fits_into_a_head() {
    let count = crate::models::CHUNKS_MAX - 1;
    let mut index = publish(1, &file(3, 3000, 0), &[]).index;
    index.entries = (0..count as u64)
        .map(|n| crate::models::index::Entry { hash: Hash::of(&n.to_le_bytes()), length: 16 << 10, pack: 0, piece: 0 })
        .collect();
    index.size = 1 << 30;
    let messages = pack::encode_head(b"{}", &index, 100);
    assert!(messages.len() > 2 && messages.len() <= pack::HEADS_MAX as usize);
    let mut reader = HeadReader::default();
    let mut head = None;
    for message in &messages {
        let message = pack::decode(message).unwrap();
        let Body::Head(part) = message.body else { panic!("a head") };
        head = reader.push(message.place, part).unwrap();
    }
    assert_eq!(head.unwrap().index, index);
}
