//! What we show to Pulsar: a token, from the configuration or from a file that may be replaced at any time.

use std::path::{Path, PathBuf};

use crate::config::edge::{Secret, Uplink};

/// Longest token taken from a file. JSON web tokens have some hundred bytes; Pulsar's frames end at 5 MiB.
pub const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// Where the token comes from.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// None is shown.
    None,
    /// Always this one.
    Token(Secret),
    /// What the file holds at the moment of each connect.
    File(PathBuf),
}

/// Why there is no token to show.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("token file {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        reason: std::io::Error,
    },
    /// The file holds no token.
    #[error("token file {} holds no token: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Credentials {
    /// As the section `[uplink]` says; a file wins over a token.
    pub fn of(uplink: &Uplink) -> Self {
        match (&uplink.token_file, &uplink.token) {
            (Some(path), _) => Self::File(path.clone()),
            (None, Some(token)) => Self::Token(token.clone()),
            (None, None) => Self::None,
        }
    }

    /// The token as it is now.
    pub async fn token(&self) -> Result<Option<Secret>, CredentialsError> {
        match self {
            Self::None => Ok(None),
            Self::Token(token) => Ok(Some(token.clone())),
            Self::File(path) => read(path).await.map(Some),
        }
    }
}

async fn read(path: &Path) -> Result<Secret, CredentialsError> {
    let failed = |reason| CredentialsError::Read { path: path.to_owned(), reason };
    let unfit = |reason| CredentialsError::Content { path: path.to_owned(), reason };
    if tokio::fs::metadata(path).await.map_err(failed)?.len() > TOKEN_BYTES_MAX {
        return Err(unfit("it has more than 64 KiB"));
    }
    let text = tokio::fs::read_to_string(path).await.map_err(failed)?;
    match text.trim() {
        "" => Err(unfit("it is empty")),
        token if token.contains(char::is_whitespace) => Err(unfit("it has more than one word")),
        token => Ok(Secret::new(token)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_replaced_file_gives_the_new_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let credentials = Credentials::File(path.clone());
        assert!(credentials.token().await.unwrap_err().to_string().contains("token: No such file"));
        for token in ["one", "two"] {
            std::fs::write(&path, format!("{token}\n")).unwrap();
            assert_eq!(credentials.token().await.unwrap().unwrap().reveal(), token);
        }
    }

    #[tokio::test]
    async fn a_file_without_a_token_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        for (content, why) in [(" \n".to_owned(), "empty"), ("a b".into(), "one word"), ("x".repeat(70_000), "64 KiB")]
        {
            std::fs::write(&path, content).unwrap();
            let error = Credentials::File(path.clone()).token().await.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        assert_eq!(format!("{:?}", Credentials::Token(Secret::new("abc"))), "Token((secret))");
    }
}
