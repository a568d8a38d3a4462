//! `<data_dir>/downlink`: everything of pushed configuration that must survive the process.
//!
//! ```text
//! downlink/trial, slot-a, slot-b    the trial (trial::slots)
//! downlink/accepted                 epoch, number and digest of the last assignment that was taken (JSON)
//! downlink/proven                   at which addresses the assignment of a document was found (JSON)
//! downlink/reserve                  room for the files above when the disk is full
//! downlink/keyring                  the newest keyring, as it came (a DSSE envelope)
//! downlink/lock                     held by the process that uses them
//! ```
//! Removing the directory while the gateway is stopped goes back to its own file for good; the cloud's current assignment
//! is then tried as if it were new.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::overlay::Pushed;
use crate::config::{EdgeConfig, OwnFile, Warning};
use crate::downlink::artefact::envelope::ENVELOPE_BYTES_MAX;
use crate::downlink::artefact::{Accepted, Digest, Envelope};
use crate::downlink::trial::slots::Slots;
use crate::downlink::trial::{self, Found, Number, Place, Record, Slot};
use crate::pulsar::wire::Address;
use crate::sys::files::{self, DirLock};

/// The directory in the data directory.
pub const DIR: &str = "downlink";

/// See [`RESERVE_BYTES`].
const RESERVE: &str = "reserve";

/// The name that errors give a document.
pub const DOCUMENT: &str = "document";

/// Largest file `accepted`: a number and a digest.
const ACCEPTED_BYTES_MAX: usize = 4096;

/// Largest file `proven`: sixteen long URLs for each of its documents.
const PROVEN_BYTES_MAX: usize = 64 * 1024;

/// Documents whose addresses are remembered: what two slots hold, and as many that may come again.
const PROVEN_MAX: usize = 4;

/// Taken from the disk before it is full: the largest document beside the one before it, and the small files. What cures a
/// full disk (a smaller outbox, say) must find room.
const RESERVE_BYTES: u64 = 2 << 20;

/// A document may hold tokens and passwords.
const DIR_MODE: u32 = 0o700;

/// Why pushed configuration cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refuses.
    #[error(
        "cannot use {}: {source}; mend that and start again",
        dir.display()
    )]
    Io {
        /// The directory.
        dir: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another process holds it.
    #[error(
        "{} is in use by another running process; stop it, or give this one its own node.data_dir", _0.display()
    )]
    InUse(PathBuf),
}

/// Where a document's assignment was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Proven {
    document: Digest,
    addresses: Vec<String>,
}

/// The files. One process holds them; it blocks on the disk.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    slots: Slots,
    _lock: DirLock,
}

impl Store {
    /// Takes the files below `data_dir`, and makes their directory if it is not there.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let dir = data_dir.join(DIR);
        let failed = |source| StoreError::Io { dir: dir.clone(), source };
        let slots = Slots::open(&dir).map_err(failed)?;
        fs::set_permissions(&dir, Permissions::from_mode(DIR_MODE)).map_err(failed)?;
        let lock = DirLock::claim(&dir).map_err(failed)?.ok_or_else(|| StoreError::InUse(dir.clone()))?;
        let store = Self { dir, slots, _lock: lock };
        store.reserve();
        Ok(store)
    }

    /// Writes; on a full disk once more with the reserve's room.
    fn with_room(&self, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match write() {
            Ok(()) => {
                self.reserve();
                Ok(())
            }
            Err(e) if files::is_full(&e) && fs::remove_file(self.dir.join(RESERVE)).is_ok() => {
                tracing::warn!("the disk is full: pushed configuration uses the room that was kept for it");
                write()
            }
            Err(e) => Err(e),
        }
    }

    /// Without it what is pushed needs room on the disk like everything else: file systems that cannot promise any.
    fn reserve(&self) {
        let path = self.dir.join(RESERVE);
        if !path.exists()
            && let Err(reason) = files::allocate(&path, RESERVE_BYTES)
        {
            tracing::debug!(%reason, "no room is kept for pushed configuration");
        }
    }

    /// See [`Slots::write`].
    pub fn write_slot(&self, slot: Slot, number: Number, digest: trial::Digest, document: &[u8]) -> io::Result<()> {
        self.with_room(|| self.slots.write(slot, number, digest, document))
    }

    /// See [`Slots::persist`].
    pub fn persist(&self, record: &Record) -> io::Result<()> {
        self.with_room(|| self.slots.persist(record))
    }

    /// Slots and record.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What was taken last; `None`: nothing was, or it cannot be read. Then the trial's record decides what is new.
    pub fn accepted(&self) -> Option<Accepted> {
        let bytes = self.read("accepted", ACCEPTED_BYTES_MAX)?;
        let read = serde_json::from_slice(&bytes);
        read.inspect_err(|_| self.damaged("accepted")).ok()
    }

    /// Keeps what was taken, durably.
    pub fn keep_accepted(&self, accepted: &Accepted) -> io::Result<()> {
        let bytes = serde_json::to_vec(accepted)?;
        self.with_room(|| files::replace(&self.dir.join("accepted"), &bytes))
    }

    /// At which addresses the assignment of `document` was found.
    pub fn proven(&self, document: Digest) -> Vec<Address> {
        let found = self.all_proven().into_iter().find(|proven| proven.document == document);
        let urls = found.map(|proven| proven.addresses).unwrap_or_default();
        urls.iter().filter_map(|url| Address::parse(url).ok()).collect()
    }

    /// Keeps that, durably.
    pub fn keep_proven(&self, document: Digest, addresses: &[Address]) -> io::Result<()> {
        let proven = Proven { document, addresses: addresses.iter().map(ToString::to_string).collect() };
        let mut all = self.all_proven();
        if all.first() == Some(&proven) {
            return Ok(());
        }
        all.retain(|other| other.document != document);
        all.insert(0, proven);
        all.truncate(PROVEN_MAX);
        files::replace(&self.dir.join("proven"), &serde_json::to_vec(&all)?)
    }

    fn all_proven(&self) -> Vec<Proven> {
        let bytes = self.read("proven", PROVEN_BYTES_MAX).unwrap_or_default();
        if bytes.is_empty() {
            return Vec::new();
        }
        serde_json::from_slice(&bytes).inspect_err(|_| self.damaged("proven")).unwrap_or_default()
    }

    /// The newest keyring; nobody has verified it.
    pub fn keyring(&self) -> Option<Envelope> {
        let bytes = self.read("keyring", ENVELOPE_BYTES_MAX)?;
        Envelope::decode(&bytes).inspect_err(|_| self.damaged("keyring")).ok()
    }

    /// Keeps a keyring, durably.
    pub fn keep_keyring(&self, keyring: &Envelope) -> io::Result<()> {
        self.with_room(|| files::replace(&self.dir.join("keyring"), keyring.encode().as_bytes()))
    }

    /// The file's bytes, if it is there and not larger than it may be.
    fn read(&self, name: &str, bytes_max: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
        match File::open(self.dir.join(name)).and_then(|file| file.take(limit).read_to_end(&mut bytes)) {
            Ok(_) if bytes.len() <= bytes_max => Some(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            _ => {
                self.damaged(name);
                None
            }
        }
    }

    fn damaged(&self, name: &str) {
        let file = self.dir.join(name);
        tracing::error!(file = %file.display(), "cannot be read or is damaged: going on without it; look after the disk");
    }
}

/// What is in the files of a gateway that may be running; `None`: nothing was ever pushed to it.
pub fn peek(data_dir: &Path) -> io::Result<Option<(Slots, Found)>> {
    let dir = data_dir.join(DIR);
    // Also says so when the directory may not be read.
    match fs::read_dir(&dir) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    }
    let slots = Slots::open(&dir)?;
    let found = slots.find()?;
    Ok(Some((slots, found)))
}

/// The configuration of `place`. The error is a sentence.
pub fn load(own: &OwnFile, slots: &Slots, place: &Place) -> Result<(EdgeConfig, Vec<Warning>), String> {
    let Place::Slot { slot, digest } = place else { return Ok((own.alone().clone(), Vec::new())) };
    let bytes = slots.read(*slot, digest).map_err(|e| e.to_string())?;
    let text = std::str::from_utf8(&bytes).map_err(|_| "the document is not UTF-8".to_owned())?;
    let overlaid = own.with(Pushed { name: DOCUMENT, text }).map_err(|errors| one_line(&errors.to_string()))?;
    Ok((overlaid.config, overlaid.warnings))
}

/// Errors come one a line; a report's detail is one line.
pub fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Env;

    #[test]
    fn what_is_kept_is_found_again_by_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        assert!(peek(dir.path()).unwrap().is_none());
        let store = Store::open(dir.path()).unwrap();
        assert_eq!((store.accepted(), store.keyring()), (None, None));
        let accepted = Accepted::new(Number::new(1, 7), Some(Digest::of(b"x")));
        store.keep_accepted(&accepted).unwrap();
        assert_eq!(store.accepted(), Some(accepted));
        let (document, urls) = (Digest::of(b"y"), ["pulsar://a:6650", "pulsar+ssl://[::1]:7"]);
        let addresses = urls.map(|url| Address::parse(url).unwrap());
        for n in 0..10_u8 {
            store.keep_proven(Digest::of(&[n]), &addresses[..1]).unwrap();
            store.keep_proven(document, &addresses).unwrap();
        }
        assert_eq!(store.proven(document), addresses);
        assert_eq!((store.proven(Digest::of(&[9])).len(), store.proven(Digest::of(&[0])).len()), (1, 0));
        assert_eq!(store.all_proven().len(), PROVEN_MAX);
        assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse(_))));
        assert_eq!(peek(dir.path()).unwrap().unwrap().1.record, Ok(None));
        let mode = fs::metadata(store.dir()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, DIR_MODE, "a document may hold a token");
        // As the version before wrote it.
        let before = format!(r#"{{"number":7,"assignment":"{}"}}"#, Digest::of(b"x"));
        fs::write(store.dir().join("accepted"), before).unwrap();
        assert_eq!(store.accepted().map(|accepted| accepted.at()), Some(7.into()));
        for bytes in [&b"{"[..], &[b' '; ACCEPTED_BYTES_MAX + 1]] {
            fs::write(store.dir().join("accepted"), bytes).unwrap();
            assert_eq!(store.accepted(), None);
        }
    }

    #[test]
    fn a_full_disk_has_room_for_one_more_document_and_the_room_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let reserve = store.dir().join(RESERVE);
        assert_eq!(fs::metadata(&reserve).unwrap().len(), RESERVE_BYTES);
        // As a full disk does as long as the reserve is there.
        let full = || match reserve.exists() {
            true => Err(io::Error::from(io::ErrorKind::StorageFull)),
            false => Ok(()),
        };
        store.with_room(full).unwrap();
        assert!(!reserve.exists());
        assert!(store.with_room(|| Err(io::ErrorKind::StorageFull.into())).is_err(), "there is no more");
        store.keep_accepted(&Accepted::default()).unwrap();
        assert_eq!(fs::metadata(&reserve).unwrap().len(), RESERVE_BYTES);
        let other = store.with_room(|| Err(io::ErrorKind::PermissionDenied.into()));
        assert!(other.is_err() && reserve.exists(), "for a full disk alone");
    }

    #[test]
    fn a_place_is_the_own_file_or_a_document_over_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("edge.toml");
        fs::write(&file, "[node]\nid = \"press-7\"\n[uplink]\nbatch_events = 7\n").unwrap();
        let own = OwnFile::load(Some(&file), Env::empty()).unwrap();
        let store = Store::open(dir.path()).unwrap();
        let put = |text: &str| {
            let digest = Digest::of(text.as_bytes()).bytes();
            store.slots().write(Slot::A, 1.into(), digest, text.as_bytes()).unwrap();
            Place::Slot { slot: Slot::A, digest }
        };
        assert_eq!(load(&own, store.slots(), &Place::Local).unwrap().0, *own.alone());
        let place = put("[uplink]\nretry_max = \"1s\"\n");
        let (config, _) = load(&own, store.slots(), &place).unwrap();
        assert_eq!((config.uplink.batch_events, config.uplink.retry_max.as_secs()), (7, 1));
        let wrong = put("[uplink]\nretry_mux = \"1s\"\n[node]\nid = \"x\"\n");
        let error = load(&own, store.slots(), &wrong).unwrap_err();
        assert!(error.contains("retry_mux") && error.contains("; ") && !error.contains('\n'), "{error}");
        assert!(load(&own, store.slots(), &place).unwrap_err().contains("another document"));
    }
}
