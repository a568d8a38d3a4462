//! Public keys and key ids as an operator writes them: `tidegate-pub-ed25519:…`, 16 hexadecimal digits. [pure]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::kinds::{Kind, echo, quoted};

/// What the text of a public key starts with: says at a glance what it is, and that it is not the secret one.
pub const PUBLIC_KEY_PREFIX: &str = "tidegate-pub-ed25519:";

/// Bytes of a raw Ed25519 public key (RFC 8032 §5.1.5).
pub const PUBLIC_KEY_BYTES: usize = 32;

/// Bytes of a key id.
pub const KEY_ID_BYTES: usize = 8;

/// The encodings of points of small order, without the sign bit: for such a "key" anybody can make signatures.
/// All zeroes, a likely stand-in in a template, is one of them. (y of the points of order 4, 1, 8, 8, 2, and the
/// non-canonical forms of the orders 4 and 1; checked by adding each up to the neutral element.)
const SMALL_ORDER: [[u8; PUBLIC_KEY_BYTES]; 7] = [
    [0; PUBLIC_KEY_BYTES],
    edge_of(0x01, 0x00, 0x00),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    edge_of(0xec, 0xff, 0x7f),
    edge_of(0xed, 0xff, 0x7f),
    edge_of(0xee, 0xff, 0x7f),
];

const fn edge_of(first: u8, middle: u8, last: u8) -> [u8; PUBLIC_KEY_BYTES] {
    let mut bytes = [middle; PUBLIC_KEY_BYTES];
    bytes[0] = first;
    bytes[PUBLIC_KEY_BYTES - 1] = last;
    bytes
}

/// Reads the text of a public key. The error says what is wrong and what to write.
pub fn parse_public_key(text: &str) -> Result<[u8; PUBLIC_KEY_BYTES], String> {
    let text = text.trim();
    if text.contains("PRIVATE KEY") {
        return Err("is a secret key; write the public text that \"tidegate keys signing\" printed".to_owned());
    }
    let Some(encoded) = text.strip_prefix(PUBLIC_KEY_PREFIX) else {
        return Err(format!("{} is no public key; write {}", echo(text), TrustedKey.takes()));
    };
    let raw: [u8; PUBLIC_KEY_BYTES] =
        STANDARD.decode(encoded).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
            format!("{} has no 32 bytes in base64 after the colon; copy the whole text of the key", echo(text))
        })?;
    let mut unsigned = raw;
    unsigned[PUBLIC_KEY_BYTES - 1] &= 0x7f;
    if SMALL_ORDER.contains(&unsigned) {
        return Err(format!("{} is no key: anybody could sign for it; write a real one", echo(text)));
    }
    Ok(raw)
}

/// The text of a public key.
pub fn show_public_key(raw: &[u8; PUBLIC_KEY_BYTES]) -> String {
    format!("{PUBLIC_KEY_PREFIX}{}", STANDARD.encode(raw))
}

/// Reads a key id. The error says what is wrong and what to write.
pub fn parse_key_id(text: &str) -> Result<[u8; KEY_ID_BYTES], String> {
    parse_hex(text.trim()).ok_or_else(|| format!("{} is no key id; write {}", echo(text), RevokedId.takes()))
}

/// `N` bytes as hexadecimal digits, in lower case as we write them.
pub fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(*pair.first()?)? << 4 | digit(*pair.last()?)?;
    }
    Some(bytes)
}

/// Bytes as hexadecimal digits.
pub fn show_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A public key that is trusted.
pub(super) struct TrustedKey;

impl Kind for TrustedKey {
    type Value = String;

    fn takes(&self) -> String {
        format!("the text of a public key, \"{PUBLIC_KEY_PREFIX}…\"; \"tidegate keys signing\" prints it")
    }

    fn text(&self, text: &str) -> Result<String, String> {
        parse_public_key(text).map(|raw| show_public_key(&raw))
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }
}

/// The id of a key that is no longer trusted.
pub(super) struct RevokedId;

impl Kind for RevokedId {
    type Value = String;

    fn takes(&self) -> String {
        "a key id, 16 hexadecimal digits such as \"0123456789abcdef\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        parse_key_id(text).map(|id| show_hex(&id))
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_key_is_refused_in_words() {
        let zeroes = show_public_key(&[0; 32]);
        let short = format!("{PUBLIC_KEY_PREFIX}AAAA");
        for (text, words) in [
            ("", "is no public key"),
            ("ssh-ed25519 AAAA", "is no public key"),
            (short.as_str(), "no 32 bytes"),
            (zeroes.as_str(), "anybody could sign"),
            ("-----BEGIN PRIVATE KEY-----\nabc", "is a secret key"),
        ] {
            let error = parse_public_key(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        for weak in SMALL_ORDER {
            assert!(parse_public_key(&show_public_key(&weak)).is_err());
            let mut negative = weak;
            negative[31] |= 0x80;
            assert!(parse_public_key(&show_public_key(&negative)).is_err());
        }
        assert!(parse_key_id("0123456789ABCDEF").is_err() && parse_key_id("0123456789abcde").is_err());
    }

    proptest! {
        #[test]
        fn keys_and_ids_are_read_as_written(raw: [u8; 32], id: [u8; 8], text in ".{0,40}") {
            if let Ok(key) = parse_public_key(&show_public_key(&raw)) {
                prop_assert_eq!(key, raw);
            }
            prop_assert_eq!(parse_key_id(&show_hex(&id)), Ok(id));
            let _ = (parse_public_key(&text), parse_key_id(&text), parse_hex::<4>(&text));
        }
    }
}
