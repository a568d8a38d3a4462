//! TLS towards devices: not there yet.

use std::io;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// The certificate that devices see.
#[derive(Clone, Debug)]
pub struct ServerTls;

#[allow(missing_docs)]
impl ServerTls {
    #[allow(clippy::unused_async)]
    pub async fn accept(
        &self,
        _: TcpStream,
        _: Duration,
    ) -> io::Result<(TlsStream<TcpStream>, Option<CertificateDer<'static>>)> {
        Err(io::Error::other("not there yet"))
    }
}
