//! Our encoder, our decoder and the mqtt-protocol-core crate agree.

use bytes::BytesMut;
use proptest::prelude::*;

use super::any::{client_packet, version};
use super::{connected, decode, encoded};
use crate::ingest::mqtt::packet::{Decoder, Packet, Version};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn what_is_encoded_is_decoded((version, packet) in version().prop_flat_map(|v| (Just(v), client_packet(v)))) {
        let bytes = encoded(&packet, version);
        prop_assert_eq!(decode(version, &bytes), Ok(packet));
    }

    #[test]
    fn pieces_give_what_the_whole_gives(
        (version, packets) in version().prop_flat_map(|v| (Just(v), proptest::collection::vec(client_packet(v), 1..6))),
        cuts in proptest::collection::vec(1usize..40, 1..60),
    ) {
        let packets: Vec<_> = packets.into_iter().filter(|p| !matches!(p, Packet::Connect(_))).collect();
        let stream: Vec<u8> = packets.iter().flat_map(|p| encoded(p, version)).collect();
        let mut decoder: Decoder = connected(version);
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
        prop_assert_eq!(decoder.version(), Some(version));
        let _ = Version::V5;
    }
}
