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
    /// There is no file, and who is on this machine may have sent it for somebody who is not.
    #[error(
        "orders are taken from this machine only, because control.operators_file is not set, and {0}: give the order with \
         tidegate there, or set that file"
    )]
    Relayed(&'static str),
    /// The file cannot be used.
    #[error("control.operators_file {0}; nobody can give orders until that is mended")]
    File(String),
}

/// The way of an order: a browser and a proxy on this machine speak for others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way<'r> {
    /// Header `host`.
    pub host: Option<&'r str>,
    /// Header `origin`: sent by browsers.
    pub origin: Option<&'r str>,
    /// Header `sec-fetch-site`: sent by browsers.
    pub fetch_site: Option<&'r str>,
    /// Whether there is a header that proxies add ([`PROXY_HEADERS`]).
    pub by_proxy: bool,
}

/// Headers that proxies add (RFC 7239, RFC 9110 §7.6.3, and what was usual before).
pub const PROXY_HEADERS: [&str; 5] = ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];

impl Way<'_> {
    /// A page of any site whose name was made to lead to this machine (DNS rebinding) sends that name as `host`; other
    /// pages send their `origin`.
    fn is_direct(&self) -> Result<(), Denied> {
        let relayed = |why| Err(Denied::Relayed(why));
        if self.by_proxy {
            return relayed("this one came through a proxy");
        }
        if !self.host.is_some_and(is_this_machine) {
            return relayed("this one was not sent to localhost or a loopback address");
        }
        let origin = self.origin.map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
        if origin.is_some_and(|host| !is_this_machine(host))
            || self.fetch_site.is_some_and(|site| !["same-origin", "none"].contains(&site))
        {
            return relayed("this one was sent by a page of another site");
        }
        Ok(())
    }
}

/// Whether `host`, perhaps with a port, is a name of this machine that no DNS can give away.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Who gives the order; with `file`, the name of the token in `authorization`, else what `claimed` says.
pub fn author(
    file: Option<&Path>,
    from: IpAddr,
    way: Way<'_>,
    authorization: Option<&str>,
    claimed: Option<&str>,
) -> Result<String, Denied> {
    let Some(path) = file else {
        if !from.to_canonical().is_loopback() {
            return Err(Denied::Remote);
        }
        way.is_direct()?;
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

    const LOCAL: Way<'static> = Way { host: Some("localhost:8900"), origin: None, fetch_site: None, by_proxy: false };

    #[test]
    fn a_browser_or_a_proxy_on_this_machine_gives_no_orders() {
        let ask = |way| author(None, HERE, way, None, None);
        for host in ["localhost", "LOCALHOST:8900", "127.0.0.1:8900", "127.8.0.1", "[::1]:8900", "[::1]"] {
            assert!(ask(Way { host: Some(host), ..LOCAL }).is_ok(), "{host}");
        }
        let hosts =
            ["evil.example:8900", "127.0.0.1.evil.example", "localhost.evil.example", "192.0.2.1", "[2001:db8::1]", ""];
        for host in hosts {
            assert!(matches!(ask(Way { host: Some(host), ..LOCAL }), Err(Denied::Relayed(_))), "{host}");
        }
        assert!(ask(Way { origin: Some("http://localhost:8900"), fetch_site: Some("same-origin"), ..LOCAL }).is_ok());
        for bad in [
            Way { host: None, ..LOCAL },
            Way { by_proxy: true, ..LOCAL },
            Way { origin: Some("http://evil.example"), ..LOCAL },
            Way { origin: Some("null"), ..LOCAL },
            Way { fetch_site: Some("cross-site"), ..LOCAL },
            Way { fetch_site: Some("same-site"), ..LOCAL },
        ] {
            assert!(matches!(ask(bad), Err(Denied::Relayed(_))), "{bad:?}");
        }
    }

    #[test]
    fn without_a_file_orders_come_from_this_machine_and_say_that_nobody_was_asked() {
        assert_eq!(author(None, HERE, LOCAL, None, Some("anna")), Ok("anna (unverified)".into()));
        assert_eq!(
            author(None, "::ffff:127.0.0.1".parse().unwrap(), LOCAL, None, None),
            Ok("somebody (unverified)".into())
        );
        assert_eq!(author(None, HERE, LOCAL, None, Some("a\nb")), Ok("somebody (unverified)".into()));
        assert_eq!(author(None, THERE, LOCAL, Some("Bearer x"), Some("anna")), Err(Denied::Remote));
    }

    fn hash_of(token: &str) -> String {
        let hash = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        crate::config::key_text::show_hex(hash.as_ref())
    }

    #[test]
    fn with_a_file_the_token_says_who_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operators.toml");
        let ask = |authorization| author(Some(&path), THERE, Way::default(), authorization, Some("eve"));
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
