//! Who a connection speaks for. Only the open mode for now.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::ingest::mqtt::broker::Rules;

/// Who a connection or request speaks for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Identity(Arc<CancellationToken>);

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Wait(pub Duration);

/// What a sender presents.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Presented<'a> {
    pub peer: IpAddr,
    pub certificate: Option<&'a [u8]>,
    pub user: Option<&'a str>,
    pub secret: Option<&'a [u8]>,
    pub bearer: Option<&'a str>,
}

/// Not let in.
#[derive(Clone, Debug, thiserror::Error)]
#[error("denied")]
pub struct Denied;

/// A connection that counts.
#[derive(Debug)]
pub struct ConnectionGuard;

/// One per process.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<CancellationToken>);

#[allow(missing_docs)]
impl Gate {
    pub fn open() -> Self {
        Self::default()
    }

    #[allow(clippy::unused_async)]
    pub async fn identify(&self, _: Presented<'_>) -> Result<Identity, Denied> {
        Ok(Identity(self.0.clone()))
    }

    pub fn enter(&self, _: &Identity) -> Result<ConnectionGuard, Denied> {
        Ok(ConnectionGuard)
    }
}

#[allow(missing_docs)]
impl Identity {
    pub fn name(&self) -> &str {
        ""
    }

    pub fn revoked(&self) -> &CancellationToken {
        &self.0
    }

    pub fn admit(&self, _: usize, _: usize) -> Result<(), Wait> {
        Ok(())
    }
}

impl Rules for Identity {
    fn may_publish(&self, topic: &str) -> bool {
        !topic.starts_with('$')
    }

    fn may_subscribe(&self, _: &str) -> bool {
        true
    }
}
