//! Rules that both files share: names given twice, tokens, certificate files.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;

use super::reader::{KeyPath, Reader};
use super::secret::Secret;
use super::table::Section;

/// Largest certificate file: the public authorities together are about 220 KiB.
const CA_BYTES_MAX: u64 = 1 << 20;

/// The keys of a section that has a token and authorities.
pub(super) struct Credentials<'c> {
    pub(super) token: Option<&'c Secret>,
    pub(super) token_file: Option<&'c Path>,
    pub(super) ca_file: Option<&'c Path>,
    /// The service URLs they are for.
    pub(super) urls: Vec<&'c str>,
}

impl Credentials<'_> {
    pub(super) fn check<S: Section>(&self, reader: &mut Reader<'_>) {
        if self.token.is_some() && self.token_file.is_some() {
            reader.wrong(KeyPath::of::<S>("token"), "is set, and token_file too; keep one of them (better token_file)");
        }
        if let Some(path) = self.token_file
            && reader.files_are_here()
        {
            check_token_file(KeyPath::of::<S>("token_file"), path, reader);
        }
        let ca_key = KeyPath::of::<S>("ca_file");
        if let Some(path) = self.ca_file {
            if let Some(why) = reader.files_are_here().then(|| read_ca(path).err()).flatten() {
                reader.wrong(ca_key, format!("{} {why}", path.display()));
            }
            if !self.urls.is_empty() && self.urls.iter().all(|url| !url.starts_with("pulsar+ssl://")) {
                reader.warn(ca_key, "is not used: no address is pulsar+ssl://; write pulsar+ssl:// to have TLS");
            }
        }
        let in_the_clear = |url: &&&str| url.starts_with("pulsar://") && !is_loopback(url);
        if (self.token.is_some() || self.token_file.is_some())
            && let Some(url) = self.urls.iter().find(in_the_clear)
        {
            let key = if self.token.is_some() { "token" } else { "token_file" };
            reader.warn(KeyPath::of::<S>(key), format!("goes to {url} unencrypted; write pulsar+ssl:// to have TLS"));
        }
    }
}

/// Only a warning: a secret may be mounted after the gateway starts, and it is read at every connect.
fn check_token_file(key: KeyPath, path: &Path, reader: &mut Reader<'_>) {
    let mut first = [0_u8; 1];
    match File::open(path).and_then(|mut file| file.read(&mut first)) {
        Ok(0) => reader.warn(key, format!("{} is empty; nothing is delivered until it holds a token", path.display())),
        Ok(_) => {}
        Err(e) => {
            reader.warn(key, format!("{} cannot be read now: {e}; nothing is delivered until it can", path.display()))
        }
    }
}

fn read_ca(path: &Path) -> Result<(), String> {
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CA_BYTES_MAX).read_to_end(&mut pem))
        .map_err(|e| format!("cannot be read: {e}; give the path of a PEM file with the authority's certificate"))?;
    let marker = b"-----BEGIN CERTIFICATE-----";
    if pem.windows(marker.len()).any(|window| window == marker) {
        return Ok(());
    }
    Err("holds no certificate in PEM form; it must have a line -----BEGIN CERTIFICATE-----".to_owned())
}

/// Whether `url` names this machine.
pub(super) fn is_loopback(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    ["127.", "localhost:", "[::1]"].iter().any(|start| host.starts_with(start))
}

/// `name` of the tables of `S` must differ. (Where one was wrong, stand-ins would be compared.)
pub(super) fn names_differ<'n, S: Section>(names: impl IntoIterator<Item = &'n str>, reader: &mut Reader<'_>) {
    if reader.is_wrong_in::<S>() {
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        let path = KeyPath::in_table::<S>(index, "name");
        if seen.contains(&name) {
            reader.wrong(path, format!("{name:?} is the name of an earlier [[{}]]; choose another", S::NAME));
        }
        seen.push(name);
    }
}

/// Whether two listeners would want the same port. Port 0 lets the system choose.
pub(super) fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same_address = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_address
}
