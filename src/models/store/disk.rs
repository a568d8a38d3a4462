//! What the store asks of a file system: real files, and in tests a disk whose power can be cut.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rustix::fs::{Advice, FallocateFlags};

use crate::sys::files;

/// A file system. Nothing is durable before the sync of the file, and of the directory that has its name.
pub trait Disk: Clone {
    /// An open file.
    type File;

    /// The names in a directory, in any order.
    fn names(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes a directory; one that is there is good.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Gives another name in one step, in place of what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file or a symbolic link.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes a symbolic link.
    fn symlink(&self, target: &str, link: &Path) -> io::Result<()>;
    /// Where a symbolic link leads.
    fn read_link(&self, link: &Path) -> io::Result<String>;
    /// Makes an empty file, in place of what was there.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file to read.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file to read and write.
    fn open_to_write(&self, path: &Path) -> io::Result<Self::File>;
    /// Bytes of a file.
    fn length(&self, file: &Self::File) -> io::Result<u64>;
    /// Gives a file its length, and reserves the space where the file system can.
    fn allocate(&self, file: &Self::File, bytes: u64) -> io::Result<()>;
    /// Fills `to` from `offset`, in bytes.
    fn read_at(&self, file: &Self::File, offset: u64, to: &mut [u8]) -> io::Result<()>;
    /// Writes all of `from` at `offset`, in bytes.
    fn write_at(&self, file: &Self::File, offset: u64, from: &[u8]) -> io::Result<()>;
    /// Makes the contents of a file durable. After an error nobody knows what is: Linux takes the pages for written, and
    /// shows them to readers as long as they are in memory.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// What is read from now on comes from the disk, but for what was written after the last sync.
    fn forget(&self, file: &Self::File) -> io::Result<()>;
    /// When a file was last written, in milliseconds since 1970.
    fn modified_ms(&self, path: &Path) -> io::Result<i64>;
}

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files;

impl Disk for Files {
    type File = File;

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        // Names that are not text are none of ours.
        fs::read_dir(dir)?.filter_map(|entry| entry.map(|e| e.file_name().into_string().ok()).transpose()).collect()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        match fs::create_dir(dir) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists || !dir.is_dir() => Err(e),
            _ => Ok(()),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        files::sync_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(dir)
    }

    fn symlink(&self, target: &str, link: &Path) -> io::Result<()> {
        std::os::unix::fs::symlink(target, link)
    }

    fn read_link(&self, link: &Path) -> io::Result<String> {
        let target: PathBuf = fs::read_link(link)?;
        Ok(target.to_string_lossy().into_owned())
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        File::open(path)
    }

    fn open_to_write(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    fn length(&self, file: &File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        file.set_len(bytes)?;
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
            // Not every file system can; then it may be full later.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            result => Ok(result?),
        }
    }

    fn read_at(&self, file: &File, offset: u64, to: &mut [u8]) -> io::Result<()> {
        file.read_exact_at(to, offset)
    }

    fn write_at(&self, file: &File, offset: u64, from: &[u8]) -> io::Result<()> {
        file.write_all_at(from, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data() // with the length, where that has changed (fdatasync(2))
    }

    fn forget(&self, file: &File) -> io::Result<()> {
        // Drops pages that are not dirty (posix_fadvise(2)), also those whose writing failed.
        Ok(rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?)
    }

    fn modified_ms(&self, path: &Path) -> io::Result<i64> {
        let since = fs::metadata(path)?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Writes a whole file so that after a power cut the old or the new one is there.
pub fn replace<D: Disk>(disk: &D, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}{NEW}"));
    let file = disk.create(&temporary)?;
    disk.write_at(&file, 0, bytes)?;
    disk.sync(&file)?;
    drop(file);
    disk.rename(&temporary, &dir.join(name))?;
    disk.sync_dir(dir)
}

/// What a name ends with until the thing is whole.
pub const NEW: &str = ".new";

/// A file's bytes; `None`: there are more than `bytes_max`.
pub fn read<D: Disk>(disk: &D, path: &Path, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let file = disk.open(path)?;
    let Some(length) = usize::try_from(disk.length(&file)?).ok().filter(|length| *length <= bytes_max) else {
        return Ok(None);
    };
    let mut bytes = vec![0; length];
    disk.read_at(&file, 0, &mut bytes)?;
    Ok(Some(bytes))
}

/// `None` for what is not there, or is no directory where one is meant: it is not ours.
pub fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}
