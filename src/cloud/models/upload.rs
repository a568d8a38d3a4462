//! A model as it comes in: the signed manifest on the first line, then the file, onto the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt as _};

use super::PublishError;
use crate::models::manifest::ENVELOPE_BYTES_MAX;
use crate::sys::random;

/// Nothing comes for so long: the sender is gone.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Time for all of it: a gibibyte at 300 KB/s.
const ALL_MAX: Duration = Duration::from_secs(3600);

/// What is read on of a model that is refused, so that its sender, who may look for the answer only after the last byte, gets
/// the reason and not a broken connection.
const DRAIN_BYTES_MAX: u64 = 64 << 20;
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The body.
    #[error("the body broke off: {0}; send it again")]
    Broken(String),
    /// The body comes too slowly.
    #[error("nothing came for {} s, or all of it took more than {} s; send it again", IDLE_MAX.as_secs(), ALL_MAX.as_secs())]
    Slow,
    /// There is no first line.
    #[error(
        "the body does not begin with a line of at most {ENVELOPE_BYTES_MAX} bytes with the signed manifest, before the \
         file; \"tidegate model publish\" sends both"
    )]
    NoManifest,
    /// It cannot be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// A body that is being read.
pub struct Incoming<S> {
    body: Pin<Box<S>>,
    ahead: Bytes,
    begun: Instant,
}

impl<S, B, E> Incoming<S>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
    E: std::fmt::Display,
{
    /// Nothing was read yet.
    pub fn new(body: S) -> Self {
        Self { body: Box::pin(body), ahead: Bytes::new(), begun: Instant::now() }
    }

    /// The next bytes; `None`: that was all.
    async fn next(&mut self) -> Result<Option<Bytes>, UploadError> {
        if self.ahead.has_remaining() {
            return Ok(Some(std::mem::take(&mut self.ahead)));
        }
        let left = ALL_MAX.saturating_sub(self.begun.elapsed()).min(IDLE_MAX);
        match tokio::time::timeout(left, self.body.next()).await {
            Err(_) => Err(UploadError::Slow),
            Ok(None) => Ok(None),
            Ok(Some(Ok(mut chunk))) => Ok(Some(chunk.copy_to_bytes(chunk.remaining()))),
            Ok(Some(Err(e))) => Err(UploadError::Broken(e.to_string())),
        }
    }

    /// The first line, without its end.
    pub async fn manifest(&mut self) -> Result<Vec<u8>, UploadError> {
        let mut line = Vec::new();
        while let Some(mut chunk) = self.next().await? {
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = chunk.split_to(end.unwrap_or(chunk.len()));
            if line.len() + part.len() > ENVELOPE_BYTES_MAX {
                return Err(UploadError::NoManifest);
            }
            line.extend_from_slice(&part);
            if end.is_some() {
                chunk.advance(1);
                self.ahead = chunk;
                return Ok(line);
            }
        }
        Err(UploadError::NoManifest)
    }

    /// The rest, which must be of `size` bytes, in a file without a name in `dir`.
    pub async fn file(&mut self, size: u64, dir: &Path) -> Result<File, UploadError> {
        let mut file = nameless(dir).map_err(PublishError::from)?;
        let mut found = 0;
        while let Some(chunk) = self.next().await? {
            found += chunk.len() as u64;
            if found > size {
                return Err(PublishError::Size { found, size }.into());
            }
            // A slow disk must not hold up others.
            let written = tokio::task::spawn_blocking(move || file.write_all(&chunk).map(|()| file)).await;
            file = written.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(PublishError::from)?;
        }
        if found < size {
            return Err(PublishError::Size { found, size }.into());
        }
        Ok(file)
    }

    /// Reads on for a while, and forgets it.
    pub async fn drain(&mut self) {
        let mut left = DRAIN_BYTES_MAX;
        let drained = async {
            while let Ok(Some(chunk)) = self.next().await {
                match left.checked_sub(chunk.len() as u64) {
                    Some(less) => left = less,
                    None => return,
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN_MAX, drained).await;
    }
}

/// A file in `dir`, which is made if need be, that is gone with whoever has it open, however that ends.
pub(super) fn nameless(dir: &Path) -> io::Result<File> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join(format!("taking-in-{}", random::hex16()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use futures_util::stream;

    use super::*;

    fn incoming(parts: &[&'static str]) -> Incoming<impl Stream<Item = Result<Bytes, String>> + use<>> {
        let parts: Vec<_> = parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
        Incoming::new(stream::iter(parts))
    }

    #[tokio::test]
    async fn the_first_line_is_the_manifest_and_the_rest_the_file_however_it_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        for parts in [&["{}\nab\nc"][..], &["{", "}", "\n", "ab\n", "c"], &["{}\n", "", "ab\nc"]] {
            let mut incoming = incoming(parts);
            assert_eq!(incoming.manifest().await.unwrap(), b"{}");
            let mut file = incoming.file(4, dir.path()).await.unwrap();
            let mut text = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "ab\nc");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "its files have no names");
    }

    #[tokio::test]
    async fn a_longer_and_a_shorter_file_and_no_manifest_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (size, found) in [(2, 4), (5, 4)] {
            let mut incoming = incoming(&["{}\nab", "cd"]);
            incoming.manifest().await.unwrap();
            let error = incoming.file(size, dir.path()).await.unwrap_err();
            assert!(
                matches!(error, UploadError::Publish(PublishError::Size { found: f, .. }) if f == found),
                "{error}"
            );
        }
        assert!(matches!(incoming(&["{}"]).manifest().await, Err(UploadError::NoManifest)));
        let long: &'static str = Box::leak("x".repeat(ENVELOPE_BYTES_MAX + 1).into_boxed_str());
        assert!(matches!(incoming(&[long, "\n"]).manifest().await, Err(UploadError::NoManifest)));
    }
}
