//! What we show to Pulsar: a token, from the configuration or from a file that may be replaced at any time.
//! One set of rules for what a token is, whoever shows it: uplink, cloud, admin interface.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;

use crate::config::edge::Secret;
use crate::config::{cloud, edge};

/// Longest token taken. JSON web tokens have some hundred bytes; Pulsar's frames end at 5 MiB.
pub const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// Where the token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// None is shown.
    None,
    /// Always this one.
    Token(Secret),
    /// What the file holds at the moment of each connect.
    File(PathBuf),
}

/// Why there is no token to show. Never holds the token.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("token file {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        reason: io::Error,
    },
    /// The file holds no token.
    #[error("token file {} holds no token: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The token in the configuration is none.
    #[error("the configured token is none: {reason}")]
    Configured {
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl CredentialsError {
    /// The key of the configuration that can mend it.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Configured { .. } => "token",
            Self::Read { .. } | Self::Content { .. } => "token_file",
        }
    }
}

impl From<&edge::Uplink> for Credentials {
    fn from(uplink: &edge::Uplink) -> Self {
        Self::of(uplink.token_file.as_ref(), uplink.token.as_ref())
    }
}

impl From<&cloud::Pulsar> for Credentials {
    fn from(pulsar: &cloud::Pulsar) -> Self {
        Self::of(pulsar.token_file.as_ref(), pulsar.token.as_ref())
    }
}

impl Credentials {
    /// A file wins over a token.
    fn of(file: Option<&PathBuf>, token: Option<&Secret>) -> Self {
        match (file, token) {
            (Some(path), _) => Self::File(path.clone()),
            (None, Some(token)) => Self::Token(token.clone()),
            (None, None) => Self::None,
        }
    }

    /// The token as it is now.
    pub async fn token(&self) -> Result<Option<Secret>, CredentialsError> {
        match self {
            Self::File(path) => self.parse(&read(path).await.map_err(|e| unread(path, e))?).map(Some),
            given => given.token_blocking(),
        }
    }

    /// The token as it is now, for code that may block.
    pub fn token_blocking(&self) -> Result<Option<Secret>, CredentialsError> {
        match self {
            Self::None => Ok(None),
            Self::Token(token) => self.parse(token.reveal().as_bytes()).map(Some),
            Self::File(path) => self.parse(&read_blocking(path).map_err(|e| unread(path, e))?).map(Some),
        }
    }

    /// These hold no token, for `reason`.
    pub(super) fn unfit(&self, reason: &'static str) -> CredentialsError {
        match self {
            Self::File(path) => CredentialsError::Content { path: path.clone(), reason },
            Self::None | Self::Token(_) => CredentialsError::Configured { reason },
        }
    }

    fn parse(&self, content: &[u8]) -> Result<Secret, CredentialsError> {
        parse(content).map_err(|reason| self.unfit(reason))
    }
}

fn unread(path: &Path, reason: io::Error) -> CredentialsError {
    CredentialsError::Read { path: path.to_owned(), reason }
}

// Both stop one byte after the longest token: a file without an end, such as a device, is not read into memory.

async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    tokio::fs::File::open(path).await?.take(TOKEN_BYTES_MAX + 1).read_to_end(&mut content).await?;
    Ok(content)
}

fn read_blocking(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(TOKEN_BYTES_MAX + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// A token is one word of visible ASCII, so that it fits a header as well as a frame.
fn parse(content: &[u8]) -> Result<Secret, &'static str> {
    if content.len() as u64 > TOKEN_BYTES_MAX {
        return Err("it has more than 64 KiB");
    }
    let strange = "it holds characters that no token has";
    match std::str::from_utf8(content).map_err(|_| strange)?.trim() {
        "" => Err("it is empty"),
        token if token.contains(char::is_whitespace) => Err("it has more than one word"),
        token if !token.bytes().all(|b| b.is_ascii_graphic()) => Err(strange),
        token => Ok(Secret::new(token)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What both ways of reading say; they must agree.
    async fn both(credentials: &Credentials) -> Result<String, String> {
        let text = |r: Result<Option<Secret>, CredentialsError>| {
            r.map(|token| token.unwrap().reveal().to_owned()).map_err(|e| e.to_string())
        };
        let waited = text(credentials.token().await);
        assert_eq!(waited, text(credentials.token_blocking()));
        waited
    }

    #[tokio::test]
    async fn a_replaced_file_gives_the_new_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let credentials = Credentials::File(path.clone());
        assert!(both(&credentials).await.unwrap_err().contains("token: No such file"));
        for token in ["one", "two"] {
            std::fs::write(&path, format!("{token}\n")).unwrap();
            assert_eq!(both(&credentials).await.unwrap(), token);
        }
    }

    #[tokio::test]
    async fn what_is_no_token_is_said_wherever_it_comes_from() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let long = "x".repeat(TOKEN_BYTES_MAX as usize + 1);
        for (content, why) in [
            (" \n", "empty"),
            ("sec ret", "one word"),
            ("sec\nret", "one word"),
            ("sec\u{7f}ret", "characters"),
            ("\u{feff}secret", "characters"),
            (long.as_str(), "64 KiB"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = both(&Credentials::File(path.clone())).await.unwrap_err();
            assert!(error.contains(why) && error.contains(path.to_str().unwrap()), "{error}");
            assert!(!error.contains("sec") && !error.contains("ret"), "{error}");
            let error = both(&Credentials::Token(Secret::new(content))).await.unwrap_err();
            assert!(error.contains(why) && !error.contains("ret"), "{error}");
        }
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert!(both(&Credentials::File(path)).await.unwrap_err().contains("characters"));
        assert!(both(&Credentials::File("/dev/zero".into())).await.unwrap_err().contains("64 KiB"), "has no end");
        assert_eq!(both(&Credentials::Token(Secret::new("secret\n"))).await.unwrap(), "secret");
    }

    #[test]
    fn the_key_to_mend_is_named_and_a_file_wins() {
        let mut pulsar = crate::config::CloudConfig::default().pulsar;
        let key = |pulsar: &cloud::Pulsar| Credentials::from(pulsar).token_blocking().unwrap_err().key();
        assert!(Credentials::from(&pulsar).token_blocking().unwrap().is_none());
        pulsar.token = Some(Secret::new(""));
        assert_eq!(key(&pulsar), "token");
        pulsar.token_file = Some("/no/such/file".into());
        assert_eq!(key(&pulsar), "token_file");
    }

    #[test]
    fn secrets_do_not_show() {
        assert_eq!(format!("{:?}", Credentials::Token(Secret::new("abc"))), "Token((secret))");
    }
}
