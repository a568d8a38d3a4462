//! A model that an update only names: fetched from a place that the configuration allows.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::Agent;

use super::super::PublishError;
use super::super::upload::nameless;

/// Time for all of it.
const FETCH_MAX: Duration = Duration::from_secs(3600);

/// Time for a server's answer to begin.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Why it is not here.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The configuration does not allow it.
    #[error("{0} is in none of the places of models.sources; put the model into one of them, or send it in parts")]
    NotAllowed(String),
    /// It is not there.
    #[error("{url} cannot be read: {why}; is it there, and may this process read it?")]
    Unreadable {
        /// Where it should be.
        url: String,
        /// The answer.
        why: String,
    },
    /// It may be there later.
    #[error("{url} cannot be reached: {why}")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// What happened.
        why: String,
    },
    /// It cannot be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Fetches `url`, which must have `size` bytes, into a file without a name in `dir`. Blocks.
pub fn fetch(url: &str, sources: &[String], size: u64, dir: &Path) -> Result<File, SourceError> {
    let not_allowed = || SourceError::NotAllowed(url.chars().take(200).collect());
    if !sources.iter().any(|source| url.starts_with(source.as_str())) || url.contains(['\\', '?', '#']) {
        return Err(not_allowed());
    }
    let from: Box<dyn Read> = match url.strip_prefix("file://") {
        Some(path) => Box::new(file(url, path, sources)?),
        None if url.split('/').any(|part| part == ".." || part == ".") => return Err(not_allowed()),
        None => https(url)?,
    };
    let mut to = nameless(dir).map_err(PublishError::from)?;
    let failed = |e: io::Error| SourceError::Unreachable { url: url.to_owned(), why: e.to_string() };
    let found = io::copy(&mut from.take(size.saturating_add(1)), &mut to).map_err(failed)?;
    if found == size { Ok(to) } else { Err(PublishError::Size { found, size }.into()) }
}

/// The file, wherever links lead, as long as that is below the place that is allowed.
fn file(url: &str, path: &str, sources: &[String]) -> Result<File, SourceError> {
    let failed = |e: io::Error| SourceError::Unreadable { url: url.to_owned(), why: e.to_string() };
    let real = PathBuf::from(path).canonicalize().map_err(failed)?;
    let places = sources.iter().filter_map(|source| source.strip_prefix("file://"));
    if !places.filter_map(|place| Path::new(place).canonicalize().ok()).any(|place| real.starts_with(place)) {
        return Err(SourceError::NotAllowed(url.to_owned()));
    }
    let file = File::open(real).map_err(failed)?;
    let is_file = file.metadata().map_err(failed)?.is_file();
    if is_file { Ok(file) } else { Err(failed(io::Error::other("it is no file"))) }
}

/// Follows no redirect: it could lead anywhere.
fn https(url: &str) -> Result<Box<dyn Read>, SourceError> {
    let agent: Agent = Agent::config_builder()
        .https_only(true)
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_global(Some(FETCH_MAX))
        .timeout_recv_response(Some(ANSWER_MAX))
        .build()
        .into();
    let unreachable = |why: String| SourceError::Unreachable { url: url.to_owned(), why };
    let answer = agent.get(url).call().map_err(|e| unreachable(e.to_string()))?;
    match answer.status().as_u16() {
        200 => Ok(Box::new(answer.into_body().into_reader())),
        status @ (408 | 429 | 500..) => Err(unreachable(format!("it answers {status}"))),
        status => Err(SourceError::Unreadable { url: url.to_owned(), why: format!("it answers {status}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_an_allowed_place_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        for place in [&inside, &outside] {
            std::fs::create_dir(place).unwrap();
            std::fs::write(place.join("m"), b"model").unwrap();
        }
        std::os::unix::fs::symlink(outside.join("m"), inside.join("link")).unwrap();
        let url = |path: &Path| format!("file://{}", path.display());
        let sources = [format!("{}/", url(&inside)), "https://models.example/a/".to_owned()];
        let fetched = |url: &str, size| fetch(url, &sources, size, dir.path());
        assert!(fetched(&url(&inside.join("m")), 5).is_ok());
        for refused in [
            url(&outside.join("m")),
            format!("{}/../out/m", url(&inside)),
            url(&inside.join("link")),
            "https://models.example/b".to_owned(),
            "https://models.example/a/../b".to_owned(),
            "https://models.example.evil/a/m".to_owned(),
            "http://models.example/a/m".to_owned(),
        ] {
            assert!(matches!(fetched(&refused, 5), Err(SourceError::NotAllowed(_))), "{refused}");
        }
        assert!(matches!(fetched(&url(&inside.join("none")), 5), Err(SourceError::Unreadable { .. })));
        for size in [4, 6] {
            let error = fetched(&url(&inside.join("m")), size).unwrap_err();
            assert!(matches!(error, SourceError::Publish(PublishError::Size { .. })), "{error}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left behind");
    }
}
