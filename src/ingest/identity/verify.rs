//! Secrets at rest: tokens as SHA-256, passwords as Argon2id; making them, and telling a right one from a wrong one.

use std::collections::{HashSet, VecDeque};
use std::sync::{LazyLock, Mutex, PoisonError};

use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};
use subtle::ConstantTimeEq as _;

/// What a token begins with, so that people and scanners of secrets recognise one.
pub const TOKEN_PREFIX: &str = "tgd_";

/// Longest secret that is looked at, in bytes: a JSON web token with many claims has a few KiB.
pub const SECRET_BYTES_MAX: usize = 16 << 10;

/// Longest password: no person types more, and every byte of a longer one would be hashed.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// Argon2id with 7 MiB, 5 passes: of OWASP's equally strong settings (Password Storage Cheat Sheet) the one with the
/// least memory, for two at a time must fit a small gateway.
const MEMORY_KIB: u32 = 7 << 10;
const PASSES: u32 = 5;

/// What a hash in the devices file may ask for at most: more would let one login take the gateway's memory or a core.
const MEMORY_KIB_MAX: u32 = 64 << 10;
const PASSES_MAX: u32 = 10;
const LANES_MAX: u32 = 4;

/// The system has no randomness to give.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no randomness (getrandom): check the kernel and the sandbox that this runs in")]
pub struct NoRandomness;

fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// A new token: 256 random bits.
pub fn new_token() -> Result<String, NoRandomness> {
    Ok(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(random::<32>()?)))
}

/// A new password, for those that a program keeps: 144 random bits.
pub fn new_password() -> Result<String, NoRandomness> {
    Ok(URL_SAFE_NO_PAD.encode(random::<18>()?))
}

/// What is kept of a token. Its 256 bits need no slow hash: nobody can try them all.
pub fn token_hash(token: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, token).as_ref());
    out
}

/// A hash in hexadecimal, as the devices file has it.
pub fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads what [`hex`] writes.
pub fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

/// Whether two hashes are equal, in a time that does not tell where they differ.
pub fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.ct_eq(b).into()
}

fn hasher() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).unwrap_or_default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// The PHC string of `password` with a salt of its own. Takes tens of milliseconds.
pub fn password_hash(password: &[u8]) -> Result<String, NoRandomness> {
    let hash = hasher().hash_password_with_salt(password, &random::<16>()?).map_err(|_| NoRandomness)?;
    Ok(hash.to_string())
}

/// Whether `text` is a hash that this gateway can afford to check. The error says what is wrong.
pub fn check_password_hash(text: &str) -> Result<(), String> {
    let hash = PasswordHash::new(text)
        .map_err(|_| "is no hash in PHC format ($argon2id$v=19$…); \"tidegate devices add\" makes one".to_owned())?;
    if hash.algorithm.as_str() != "argon2id" || hash.hash.is_none() || hash.salt.is_none() {
        return Err("is no Argon2id hash ($argon2id$…) with salt and hash; no other kind is taken".to_owned());
    }
    let params = Params::try_from(&hash).map_err(|e| format!("has parameters that Argon2id does not take: {e}"))?;
    if params.m_cost() > MEMORY_KIB_MAX || params.t_cost() > PASSES_MAX || params.p_cost() > LANES_MAX {
        return Err(format!(
            "asks for m={},t={},p={}; at most m={MEMORY_KIB_MAX},t={PASSES_MAX},p={LANES_MAX} is taken, or a login \
             would take this gateway's memory",
            params.m_cost(),
            params.t_cost(),
            params.p_cost()
        ));
    }
    Ok(())
}

/// A hash of nothing anybody knows, for users that do not exist.
static NOBODY: LazyLock<String> = LazyLock::new(|| {
    let secret = random::<32>().unwrap_or_default();
    password_hash(&secret).unwrap_or_default()
});

/// Whether `password` belongs to `stored` (a PHC string). Without one, because there is no such user, it takes as long
/// and says no. Tens of milliseconds and megabytes: for a thread that may block, few at a time.
pub fn password_is(password: &[u8], stored: Option<&str>) -> bool {
    let hash = PasswordHash::new(stored.unwrap_or(&NOBODY));
    let right = hash.is_ok_and(|hash| hasher().verify_password(password, &hash).is_ok());
    right && stored.is_some()
}

/// Passwords that were right before, so that thousands of devices that come back at once need no new Argon2 each.
///
/// Keeps a keyed hash of (stored hash, password); the key is made at start and leaves nobody. A changed password has
/// another stored hash, so nothing has to be taken out.
#[derive(Debug)]
pub struct Known {
    key: hmac::Key,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    tags: HashSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

/// Most passwords remembered: all devices of a large site, in some 6 MB.
const KNOWN_MAX: usize = 65_536;

impl Known {
    /// An empty one with a key of its own.
    pub fn new() -> Result<Self, NoRandomness> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?);
        Ok(Self { key, kept: Mutex::default() })
    }

    fn tag(&self, stored: &str, password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        // A PHC string has no zero byte, so no two pairs run together.
        context.update(stored.as_bytes());
        context.update(&[0]);
        context.update(password);
        let mut out = [0; 32];
        out.copy_from_slice(context.sign().as_ref());
        out
    }

    /// Whether this pair was right before. (The look-up's time tells nothing: nobody knows the key of the tags.)
    pub fn has(&self, stored: &str, password: &[u8]) -> bool {
        let tag = self.tag(stored, password);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).tags.contains(&tag)
    }

    /// Remembers a pair that was right.
    pub fn add(&self, stored: &str, password: &[u8]) {
        let tag = self.tag(stored, password);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.tags.insert(tag) {
            kept.order.push_back(tag);
        }
        if kept.order.len() > KNOWN_MAX
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.tags.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_differ_and_hash_to_what_is_kept() {
        let (a, b) = (new_token().unwrap(), new_token().unwrap());
        assert_ne!(a, b);
        assert!(a.starts_with(TOKEN_PREFIX) && a.len() == 4 + 43 && !a.contains('.'));
        let hash = token_hash(a.as_bytes());
        assert_eq!(from_hex(&hex(&hash)), Some(hash));
        assert_eq!(from_hex(&hex(&hash).to_uppercase()), Some(hash));
        assert!(same(&hash, &token_hash(a.as_bytes())) && !same(&hash, &token_hash(b.as_bytes())));
        // FIPS 180-4, the hash of "abc".
        assert!(hex(&token_hash(b"abc")).starts_with("ba7816bf8f01cfea414140de5dae2223"));
        for wrong in ["", "00", &"g".repeat(64), &"é".repeat(32), &"+1".repeat(32)] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_password_is_told_from_another_and_nobody_has_one() {
        let stored = password_hash(b"right").unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=7168,t=5,p=1$"), "{stored}");
        check_password_hash(&stored).unwrap();
        assert!(password_is(b"right", Some(&stored)) && !password_is(b"wrong", Some(&stored)));
        assert!(!password_is(b"right", None) && !password_is(b"", None));
        assert_ne!(stored, password_hash(b"right").unwrap(), "each has its salt");
    }

    #[test]
    fn hashes_that_would_take_the_gateway_are_refused() {
        let with = |params: &str| format!("$argon2id$v=19${params}$c29tZXNhbHRzYWx0${}", "A".repeat(43));
        check_password_hash(&with("m=65536,t=2,p=1")).unwrap();
        for wrong in [
            with("m=1048576,t=2,p=1"),
            with("m=7168,t=1000,p=1"),
            with("m=7168,t=1,p=200"),
            with("m=7168,t=5,p=1").replace("argon2id", "argon2i"),
            "$2b$12$abcdefghijklmnopqrstuv".to_owned(),
            "secret".to_owned(),
            "$argon2id$v=19$m=7168,t=5,p=1".to_owned(),
        ] {
            let reason = check_password_hash(&wrong).unwrap_err();
            assert!(!reason.contains("secret"), "{reason}");
        }
    }

    #[test]
    fn what_was_right_is_known_and_the_oldest_is_forgotten() {
        let known = Known::new().unwrap();
        known.add("$a", b"x");
        assert!(known.has("$a", b"x") && !known.has("$a", b"y") && !known.has("$b", b"x"));
        for n in 0..KNOWN_MAX {
            known.add("$n", &n.to_be_bytes());
            known.add("$n", &n.to_be_bytes());
        }
        assert!(!known.has("$a", b"x") && known.has("$n", &0_usize.to_be_bytes()));
        assert_eq!(known.kept.lock().unwrap().tags.len(), KNOWN_MAX);
    }
}
