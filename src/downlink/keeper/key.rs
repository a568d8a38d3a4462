//! The gateway's own key, with which it proves that a report is from it: made at the first start, and never sent.
//!
//! Beside `downlink` and not in it: who removes that, to go back to the gateway's own file, replaces no gateway.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use crate::downlink::artefact::SecretKey;
use crate::downlink::artefact::keys::{SECRET_KEY_FILE_BYTES_MAX, SEED_BYTES};
use crate::sys::files;

/// The file in the data directory (PKCS#8, PEM).
pub const FILE: &str = "report.key";

/// Nobody else reads it.
const MODE: u32 = 0o600;

/// The key of the gateway with this data directory; if there is none, one is made. `None`: it cannot be, and what the
/// gateway reports does not count in the cloud. Blocks on the disk.
pub fn report_key(data_dir: &Path) -> Option<SecretKey> {
    let path = data_dir.join(FILE);
    match read(&path) {
        Ok(Some(key)) => return Some(key),
        Ok(None) => {}
        Err(error) => {
            // The cloud takes no other one before an operator says so.
            tracing::error!(file = %path.display(), %error, "the gateway's key cannot be read; look after the disk");
        }
    }
    match make(&path) {
        Ok(key) => {
            tracing::info!(key = %key.public().id(), "made the key with which this gateway signs its reports");
            Some(key)
        }
        Err(error) => {
            tracing::error!(file = %path.display(), %error, "no key can be made: the cloud does not count what this gateway reports");
            None
        }
    }
}

fn read(path: &Path) -> io::Result<Option<SecretKey>> {
    let mut pem = Zeroizing::new(Vec::with_capacity(SECRET_KEY_FILE_BYTES_MAX + 1));
    let limit = u64::try_from(SECRET_KEY_FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    match File::open(path).and_then(|file| file.take(limit).read_to_end(&mut pem)) {
        Ok(_) => SecretKey::from_pem(&pem).map(Some).map_err(io::Error::other),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Durable before it is used: the cloud remembers it.
fn make(path: &Path) -> io::Result<SecretKey> {
    let mut seed = Zeroizing::new([0_u8; SEED_BYTES]);
    SystemRandom::new().fill(seed.as_mut()).map_err(|_| io::Error::other("the system has no random numbers"))?;
    let key = SecretKey::from_seed(&seed).map_err(io::Error::other)?;
    files::replace_private(path, SecretKey::pem_of_seed(&seed).as_bytes(), MODE)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_another_one_when_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        assert!(report_key(&gone).is_none());
        let key = report_key(dir.path()).unwrap();
        assert_eq!(report_key(dir.path()).unwrap().public(), key.public());
        let file = dir.path().join(FILE);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, MODE);
        fs::write(&file, "x").unwrap();
        assert_ne!(report_key(dir.path()).unwrap().public(), key.public());
    }
}
