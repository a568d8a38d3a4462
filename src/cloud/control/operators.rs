//! Who gives an order: a token of the operators' file, or, without such a file, whoever is on this machine.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;

use subtle::ConstantTimeEq as _;

use crate::config::key_text::parse_hex;

/// Largest file of operators: each has a name and a hash.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// Longest name of an operator, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Longest token that is hashed.
const TOKEN_BYTES_MAX: usize = 1024;

/// Why an order is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no token.
    #[error("an order needs a token: send authorization: Bearer …, of a name in control.operators_file")]
    NoToken,
    /// Nobody has it.
    #[error("the token is of nobody in control.operators_file; ask whoever keeps that file")]
    Unknown,
    /// There is no file, and the order came over the network.
    #[error(
        "orders are taken from this machine only, because control.operators_file is not set; set it, or give the order there"
    )]
    Remote,
    /// The file cannot be used.
    #[error("control.operators_file {0}; nobody can give orders until that is mended")]
    File(String),
}

/// Who gives the order; with `file`, the name of the token in `authorization`, else what `claimed` says.
pub fn author(
    file: Option<&Path>,
    from: IpAddr,
    authorization: Option<&str>,
    claimed: Option<&str>,
) -> Result<String, Denied> {
    let Some(path) = file else {
        if !from.to_canonical().is_loopback() {
            return Err(Denied::Remote);
        }
        let name = claimed.filter(|name| is_name(name)).unwrap_or("somebody");
        return Ok(format!("{name} (unverified)"));
    };
    let token = authorization.and_then(|text| text.strip_prefix("Bearer ")).map(str::trim);
    let token = token.filter(|token| !token.is_empty() && token.len() <= TOKEN_BYTES_MAX).ok_or(Denied::NoToken)?;
    let operators = read(path).map_err(|why| Denied::File(format!("{}: {why}", path.display())))?;
    let hash = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    // All are compared: the time does not tell where the right one stands.
    let mut found = None;
    for (name, of) in &operators {
        if bool::from(of.ct_eq(hash.as_ref())) {
            found = Some(name.clone());
        }
    }
    found.ok_or(Denied::Unknown)
}

/// Whether an operator can be called so: one word that looks the same in every list.
pub fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@+".contains(c);
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(plain)
}

fn read(path: &Path) -> Result<Vec<(String, [u8; 32])>, String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|e| format!("cannot be read: {e}"))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("has more than {FILE_BYTES_MAX} bytes"));
    }
    let lines: BTreeMap<String, String> = toml::from_str(&text).map_err(|e| {
        format!("cannot be read: {}; write lines such as anna = \"<SHA-256 of the token>\"", e.message())
    })?;
    let operator = |(name, hash): (String, String)| match parse_hex::<32>(&hash.trim().to_ascii_lowercase()) {
        _ if !is_name(&name) => Err(format!("names {name:?}, which is no name: letters, digits and -_.@+ only")),
        Some(hash) => Ok((name, hash)),
        None => {
            Err(format!("has no hash for {name}: write 64 hexadecimal digits, as printf %s TOKEN | sha256sum shows"))
        }
    };
    lines.into_iter().map(operator).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn without_a_file_orders_come_from_this_machine_and_say_that_nobody_was_asked() {
        assert_eq!(author(None, HERE, None, Some("anna")), Ok("anna (unverified)".into()));
        assert_eq!(author(None, "::ffff:127.0.0.1".parse().unwrap(), None, None), Ok("somebody (unverified)".into()));
        assert_eq!(author(None, HERE, None, Some("a\nb")), Ok("somebody (unverified)".into()));
        assert_eq!(author(None, THERE, Some("Bearer x"), Some("anna")), Err(Denied::Remote));
    }

    fn hash_of(token: &str) -> String {
        let hash = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        crate::config::key_text::show_hex(hash.as_ref())
    }

    #[test]
    fn with_a_file_the_token_says_who_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operators.toml");
        let ask = |authorization| author(Some(&path), THERE, authorization, Some("eve"));
        assert!(matches!(ask(Some("Bearer t")), Err(Denied::File(why)) if why.contains("cannot be read")));
        std::fs::write(&path, format!("anna = \"{}\"\nben = \"{}\"\n", hash_of("t1"), hash_of("t2").to_uppercase()))
            .unwrap();
        assert_eq!(ask(Some("Bearer t1")), Ok("anna".into()));
        assert_eq!(ask(Some("Bearer t2")), Ok("ben".into()));
        assert_eq!(ask(Some("Bearer t3")), Err(Denied::Unknown));
        for none in [None, Some(""), Some("Bearer "), Some("Basic t1")] {
            assert_eq!(ask(none), Err(Denied::NoToken));
        }
        for (text, words) in
            [("anna = \"x\"", "64 hexadecimal"), ("anna = 1", "cannot be read"), ("\"a b\" = \"\"", "no name")]
        {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(ask(Some("Bearer t1")), Err(Denied::File(why)) if why.contains(words)), "{text}");
        }
    }
}
