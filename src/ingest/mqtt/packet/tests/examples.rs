//! Examples from the standards, byte by byte.

use super::*;

#[test]
fn puback_is_four_bytes() {
    let ack = Ack { packet_id: PacketId::new(0x1234).unwrap(), reason: Reason::SUCCESS, reason_string: None };
    for version in [Version::V311, Version::V5] {
        assert_eq!(encoded(&Packet::Puback(ack.clone()), version), [0x40, 2, 0x12, 0x34]);
    }
}
