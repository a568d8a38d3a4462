//! Why the store does not do what it was asked: what it is about, the reason, the way out.

use std::io;
use std::path::{Path, PathBuf};

use crate::models::index::IndexError;
use crate::models::manifest::{ManifestError, Name};

/// Why the store does not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the messages say
pub enum StoreError {
    /// The system refuses.
    #[error("cannot use {}: {source}; mend that, it is tried again", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Another process holds it.
    #[error("{} is in use by another running process; stop it, or give this one its own node.data_dir", _0.display())]
    InUse(PathBuf),
    /// The index is not the manifest's.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The manifest on disk is not one that is trusted now.
    #[error("version {version} of {name} on this disk: {source}")]
    Manifest { name: Name, version: u64, source: ManifestError },
    /// The version is here, and it is another one.
    #[error("version {version} of {name} is here with another manifest; publish the new one with a higher version")]
    VersionReused { name: Name, version: u64 },
    /// Too large for the budget.
    #[error(
        "version {version} of {name} needs {needed} bytes, and {staying} of models.max_bytes = {bytes_max} are in use by \
         models that stay; make that larger, or use fewer models"
    )]
    NoRoom { name: Name, version: u64, needed: u64, staying: u64, bytes_max: u64 },
    /// It is being assembled.
    #[error("version {version} of {name} is being assembled already; wait for it")]
    Busy { name: Name, version: u64 },
    /// Some chunks are not here.
    #[error("version {version} of {name} is not whole: {messages} messages of its packs are lacking; fetch them")]
    Lacking { name: Name, version: u64, messages: usize },
    /// It is not here.
    #[error("version {version} of {name} is not on this disk; assign it, so that it is fetched")]
    Missing { name: Name, version: u64 },
    /// What is on disk is not what was written.
    #[error(
        "version {version} of {name} is damaged on this disk; what is lacking is fetched anew; look after the disk"
    )]
    Damaged { name: Name, version: u64 },
    /// All chunks are there, and they are not the model.
    #[error(
        "the chunks that the index of version {version} of {name} lists are not the model that its manifest signs; \
         publish the version again"
    )]
    NotTheModel { name: Name, version: u64 },
    /// There is no way back.
    #[error("{name} has no version before the one in use; assign the one that it should be")]
    NothingBefore { name: Name },
}

/// Says which path an error is about.
pub(super) trait At<T> {
    /// With the path.
    fn at(self, path: &Path) -> Result<T, StoreError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io { path: path.to_owned(), source })
    }
}
