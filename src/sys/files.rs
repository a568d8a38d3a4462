//! Files as a gateway needs them: names that survive a power cut, replacement in one step,
//! free space, and one owner per directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Makes the names in `dir` durable (fsync of the directory).
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates `dir` and its missing parents, and makes every new name durable.
pub fn create_dir_durable(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = parent_of(dir);
    create_dir_durable(&parent)?;
    match fs::create_dir(dir) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    sync_dir(&parent)
}

/// Writes `bytes` under `path` so that after a power cut either the old or the new content is there,
/// never a mixture: temporary file, fsync, rename, fsync of the directory.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    sync_dir(&parent_of(path))
}

/// Makes a file of `bytes` bytes that are really taken from the disk, or none.
pub fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let allocated = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes);
    if let Err(reason) = allocated {
        let _ = fs::remove_file(path);
        return Err(reason.into());
    }
    Ok(())
}

/// Whether the disk, or what this user may have of it, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Like [`replace`], for what not everybody may read: a new file gets `mode` and belongs to whom its directory belongs to, an
/// old one keeps what it has. At no time can anybody read more than in the end.
pub fn replace_private(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let temporary = path.with_file_name(name);
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let (like, mode) = match fs::metadata(path) {
        Ok(old) => {
            let mode = old.mode() & 0o777;
            (old, mode)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => (fs::metadata(parent_of(path))?, mode),
        Err(e) => return Err(e),
    };
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
    let written = (|| {
        file.write_all(bytes)?;
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (like.uid(), like.gid()) {
            // Without the right to do so (not root) the file would change its owner: better not at all.
            let given = std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()));
            given.or_else(|e| if path.exists() { Err(e) } else { Ok(()) })?;
        }
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_dir(&parent_of(path))
}

/// Waits until nobody else holds the lock of the directory, and holds it until the result is dropped. It binds only those
/// that ask for it too. (flock(2) takes directories; [`fs::File::lock`] is that on Linux.)
pub fn lock_dir(dir: &Path) -> io::Result<File> {
    let handle = File::open(dir)?;
    handle.lock()?;
    Ok(handle)
}

/// Bytes that an unprivileged process may still write on the file system of `path`.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let s = rustix::fs::statvfs(path)?;
    Ok(s.f_bavail.saturating_mul(s.f_frsize))
}

/// The right to be the only process that uses a directory; ends when dropped, or with the process.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// A process that was just killed, or one that was forked and not yet replaced, may hold a lock for a moment.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(400);

impl DirLock {
    /// As [`DirLock::take`], but waits for who may hold it for a moment only. Blocks.
    pub fn claim(dir: &Path) -> io::Result<Option<Self>> {
        let start = Instant::now();
        loop {
            match Self::take(dir)? {
                None if start.elapsed() < LOCK_WAIT_MAX => std::thread::sleep(LOCK_WAIT_MAX / 20),
                taken => return Ok(taken),
            }
        }
    }

    /// Takes the lock on `dir` by its file `lock`. `Ok(None)`: another process holds it.
    pub fn take(dir: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_file_has_the_new_content_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_dir_durable(path.parent().unwrap()).unwrap();
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_private_file_keeps_its_mode_and_a_new_one_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
        replace_private(&path, b"one", 0o600).unwrap();
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        replace_private(&path, b"two", 0o600).unwrap();
        assert_eq!((mode(), fs::read(&path).unwrap()), (0o640, b"two".to_vec()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::take(dir.path()).unwrap();
        assert!(first.is_some());
        assert!(DirLock::take(dir.path()).unwrap().is_none());
        drop(first);
        assert!(DirLock::take(dir.path()).unwrap().is_some());
    }

    #[test]
    fn free_space_is_known() {
        assert!(free_bytes(Path::new(".")).unwrap() > 0);
    }
}
