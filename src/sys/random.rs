//! Identifiers made of randomness, all from the operating system's generator.

use uuid::Uuid;

/// 16 hexadecimal characters: 64 random bits.
pub fn hex16() -> String {
    let (high, _) = Uuid::new_v4().as_u64_pair();
    // Two nibbles of a version-4 UUID's upper half are fixed (RFC 9562 §5.4): fold the lower half in.
    let (_, low) = Uuid::new_v4().as_u64_pair();
    format!("{:016x}", high ^ low.rotate_left(32))
}

/// 64 random bits, for jitter.
pub fn bits() -> u64 {
    // The lower half of a version-4 UUID has two fixed bits at its top: the rest is random.
    Uuid::new_v4().as_u64_pair().1
}

/// A UUIDv7 (RFC 9562 §5.7): sorts by time, unique without coordination.
pub fn uuid_v7() -> String {
    Uuid::now_v7().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_have_their_length_and_differ() {
        assert_eq!(hex16().len(), 16);
        assert_ne!(hex16(), hex16());
        assert_eq!(uuid_v7().len(), 36);
    }
}
