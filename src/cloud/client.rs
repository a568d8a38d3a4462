//! A client of the `pulsar` crate with our credentials and limits.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use pulsar::error::AuthenticationError;
use pulsar::{ConnectionRetryOptions, OperationRetryOptions, Pulsar, TokioExecutor};

use crate::config::cloud;
use crate::pulsar::credentials::{Credentials, CredentialsError};
use crate::security::tls::{self, TlsError};

/// Time for one address of the broker to answer a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for the broker to answer one command.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Pings that keep a quiet connection alive, and find out that it is dead.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file with the authorities to trust is unfit.
    #[error("{0}; check pulsar.ca_file")]
    Trust(#[from] TlsError),
    /// It cannot be read after all.
    #[error("cannot read [pulsar] ca_file {}: {source}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The broker could not be reached.
    #[error("cannot connect to {service}: {source}")]
    Connect {
        /// The service URL.
        service: String,
        /// The crate's words.
        source: pulsar::Error,
    },
}

/// Connects. Every consumer has a client, and so a connection, of its own: one that fails disturbs no other.
///
/// The crate adds the authorities of `ca_file` to the public ones instead of trusting only them (6.9.1, `connection.rs`:
/// the root store starts with `webpki_roots`), and offers no way around it. Host names are checked.
pub async fn connect(config: &cloud::Pulsar) -> Result<Pulsar<TokioExecutor>, ClientError> {
    // Retries are ours (see consume.rs): the crate's would block for minutes and reset nothing.
    let connection = ConnectionRetryOptions {
        max_retries: 0,
        connection_timeout: CONNECT_TIMEOUT,
        keep_alive: KEEP_ALIVE,
        ..ConnectionRetryOptions::default()
    };
    let operation = OperationRetryOptions {
        operation_timeout: OPERATION_TIMEOUT,
        retry_delay: Duration::from_millis(500),
        max_retries: Some(4),
    };
    let mut builder = Pulsar::builder(&config.service, TokioExecutor)
        .with_connection_retry_options(connection)
        .with_operation_retry_options(operation);
    if let Some(path) = &config.ca_file {
        // The crate takes the bytes and names no file in its errors.
        tls::authorities(path)?;
        let chain = std::fs::read(path).map_err(|source| ClientError::CaFile { path: path.clone(), source })?;
        builder = builder.with_certificate_chain(chain);
    }
    match Credentials::from(config) {
        Credentials::None => {}
        shown => builder = builder.with_auth_provider(Box::new(shown)),
    }
    builder.build().await.map_err(|source| ClientError::Connect { service: config.service.clone(), source })
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, AuthenticationError>> + Send + 'a>>;

// The crate's trait is made by async_trait; these are the signatures it expands to.
// It asks for the token at every connection: the file may have been replaced in the meantime.
impl pulsar::authentication::Authentication for Credentials {
    fn auth_method_name(&self) -> String {
        "token".to_owned()
    }

    fn initialize<'life0, 'async_trait>(&'life0 mut self) -> Answer<'async_trait, ()>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async { Ok(()) })
    }

    fn auth_data<'life0, 'async_trait>(&'life0 mut self) -> Answer<'async_trait, Vec<u8>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async {
            let failed = |e: CredentialsError| format!("{e}; check pulsar.{}", e.key());
            let token = self.token().await.map_err(|e| AuthenticationError::Custom(failed(e)))?;
            Ok(token.map(|t| t.reveal().into()).unwrap_or_default())
        })
    }
}

#[cfg(test)]
mod tests {
    use pulsar::authentication::Authentication;

    use super::*;
    use crate::config::CloudConfig;
    use crate::config::edge::Secret;

    #[tokio::test]
    async fn a_token_file_is_read_for_every_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let mut config = CloudConfig::default().pulsar;
        config.token = Some(Secret::new("given"));
        assert_eq!(Credentials::from(&config).auth_data().await.unwrap(), b"given");
        config.token_file = Some(path.clone());
        let mut token = Credentials::from(&config);
        assert_eq!(token.auth_method_name(), "token");
        assert!(token.auth_data().await.unwrap_err().to_string().contains("token_file"));
        for text in ["first", "second"] {
            std::fs::write(&path, format!("{text}\n")).unwrap();
            assert_eq!(token.auth_data().await.unwrap(), text.as_bytes());
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_named() {
        let mut config = CloudConfig::default().pulsar;
        config.ca_file = Some("/no/such/ca.pem".into());
        let error = connect(&config).await.err().unwrap().to_string();
        assert!(error.contains("/no/such/ca.pem") && error.contains("pulsar.ca_file"), "{error}");
    }
}
