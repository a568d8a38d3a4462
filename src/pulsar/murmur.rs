//! Murmur3 (x86, 32 bit, seed 0) as Pulsar's clients compute it for partitions. [pure]
//!
//! Clients differ by default (Java: `String.hashCode`; Python, C++: `boost::hash`), but all of them
//! offer this one as `Murmur3_32Hash`; a producer in another language that is to share a lane's order
//! per key must choose it. The `pulsar` crate's own hash lacks the sign mask.

/// The hash of `key`, with Java's sign bit cleared.
pub fn java(key: &[u8]) -> u32 {
    const C1: u32 = 0xcc9e_2d51;
    const C2: u32 = 0x1b87_3593;
    let mix = |k: u32| k.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2);
    let mut hash = 0u32;
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        hash = (hash ^ mix(k)).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash ^= mix(rest.iter().rev().fold(0, |k, byte| (k << 8) | u32::from(*byte)));
    }
    hash ^= key.len() as u32; // the algorithm takes the length modulo 2^32
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    (hash ^ (hash >> 16)) & 0x7fff_ffff
}

#[cfg(test)]
mod tests {
    use super::java;

    /// From `org.apache.pulsar.common.util.Murmur3_32Hash` of 4.0.7, called with the keys' UTF-8 bytes.
    const JAVA_SAYS: &[(&str, u32)] = &[
        ("", 0),
        ("a", 1009084850),
        ("ab", 465557343),
        ("abc", 870159354),
        ("dev-1", 358709930),
        ("dev-17", 1814705820),
        ("dev-4711", 511398794),
        ("dev-00000001", 1860908285),
        ("press-7/axis-3", 871797596),
        ("Gerät-ü", 429757628),
        ("温度计", 1180408211),
        ("😀", 1051995898),
        ("urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66", 1165691429),
    ];

    #[test]
    fn keys_hash_as_javas_client_hashes_them() {
        for (key, hash) in JAVA_SAYS {
            assert_eq!(java(key.as_bytes()), *hash, "{key:?}");
        }
        assert_eq!(java("x".repeat(100).as_bytes()), 477687954);
    }
}
