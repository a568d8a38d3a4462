//! One connection to one broker: address, TCP, TLS, handshake, and requests while nothing else is going on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use pulsar::message::proto::{
    AuthData, BaseCommand, CommandAuthResponse, CommandConnect, CommandPong, FeatureFlags, ServerError, base_command,
};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::error::LinkError;
use super::frame;
use crate::pulsar::credentials::Credentials;
use crate::security::tls;

/// Pulsar's protocol version we speak: 19 is the newest of the crate's PulsarApi.proto.
const PROTOCOL_VERSION: i32 = 19;

/// What a broker takes that does not say so itself (Pulsar's default).
const MESSAGE_MAX_DEFAULT: usize = 5 << 20;

/// Data that is not acknowledged by the other machine for this long ends the connection (TCP_USER_TIMEOUT):
/// a half-open connection is found while events wait for receipts, and a slow one that moves is kept.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// While a connection attempt hangs, another is started beside it every so often: the kernel repeats a lost SYN only
/// after 1, 3, 7, 15 s, and the first byte should leave within a second after the link is back.
const DIAL_AGAIN: Duration = Duration::from_millis(800);

/// Most attempts at once.
const DIALS_MAX: usize = 8;

/// Time for a broker to answer a lookup or to open a producer: it may have to load the topic from disk first.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Pulsar's default ports.
const PORT: u16 = 6650;
const PORT_TLS: u16 = 6651;

/// A byte stream, secure or not.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Name or IP address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS.
    pub tls: bool,
}

impl Address {
    /// Reads a service URL.
    pub fn parse(url: &str) -> Result<Self, LinkError> {
        let unfit = |reason| LinkError::Url { url: url.to_owned(), reason };
        let (tls, rest) = match url.split_once("://") {
            Some(("pulsar", rest)) => (false, rest),
            Some(("pulsar+ssl", rest)) => (true, rest),
            _ => return Err(unfit("it begins with neither pulsar:// nor pulsar+ssl://")),
        };
        let rest = rest.trim_end_matches('/');
        // An IPv6 address stands in brackets; what follows its end, or the last colon, is the port.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| unfit("what follows the last colon is no port"))?)
            }
            _ => (rest, if tls { PORT_TLS } else { PORT }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(['/', ',', ' ', '@']) {
            return Err(unfit("it has no single host"));
        }
        Ok(Self { host: host.to_owned(), port, tls })
    }

    /// `host:port`.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// As a service URL that reads as the same address.
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", if self.tls { "pulsar+ssl" } else { "pulsar" }, self.authority())
    }
}

/// What connecting needs, besides an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connector {
    /// The token.
    pub credentials: Credentials,
    /// Authorities to trust.
    pub ca_file: Option<PathBuf>,
    /// Time for TCP, TLS and the handshake together.
    pub connect_timeout: Duration,
}

/// A connection after the handshake.
pub struct Connection {
    /// The stream.
    pub io: Box<dyn Io>,
    /// Bytes read and not yet decoded.
    pub input: BytesMut,
    /// Host and port, for messages.
    pub broker: String,
    /// Largest message this broker takes.
    pub message_max: usize,
    next_request: u64,
}

impl Connector {
    /// Connects to `address`; through it to the broker at `proxied`, if it is a proxy.
    pub async fn connect(&self, address: &Address, proxied: Option<&str>) -> Result<Connection, LinkError> {
        let broker = address.authority();
        let limit = self.connect_timeout;
        timeout(limit, self.connect_unbounded(address, proxied)).await.map_err(|_| LinkError::Slow {
            broker,
            step: "connecting",
            limit,
        })?
    }

    async fn connect_unbounded(&self, address: &Address, proxied: Option<&str>) -> Result<Connection, LinkError> {
        let broker = address.authority();
        let stream = dial(address).await?;
        let io: Box<dyn Io> = if address.tls { self.secure(stream, address).await? } else { Box::new(stream) };
        let input = BytesMut::new();
        let mut connection = Connection { io, input, broker, message_max: MESSAGE_MAX_DEFAULT, next_request: 0 };
        connection.handshake(&self.credentials, proxied).await?;
        Ok(connection)
    }

    async fn secure(&self, stream: TcpStream, address: &Address) -> Result<Box<dyn Io>, LinkError> {
        let config = tls::client(self.ca_file.as_deref())?;
        let name = ServerName::try_from(address.host.clone())
            .map_err(|_| LinkError::Url { url: address.host.clone(), reason: "TLS cannot verify such a host name" })?;
        let secured = TlsConnector::from(config).connect(name, stream).await.map_err(|reason| LinkError::Tls {
            broker: address.authority(),
            advice: tls_advice(&reason),
            reason,
        })?;
        Ok(Box::new(secured))
    }
}

fn tls_advice(error: &std::io::Error) -> &'static str {
    use rustls::CertificateError as C;
    match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => match why {
            // A wrong authority of the same name shows as a bad signature.
            C::UnknownIssuer | C::BadSignature => {
                "its authority is not trusted: give its certificate in uplink.ca_file"
            }
            C::NotValidForName | C::NotValidForNameContext { .. } => {
                "its certificate is for another name: use that name in uplink.pulsar"
            }
            C::Expired | C::ExpiredContext { .. } => "renew the broker's certificate, or check this machine's clock",
            C::NotValidYet | C::NotValidYetContext { .. } => "check this machine's clock",
            _ => "check the broker's certificate",
        },
        _ => "check that this port speaks TLS (usually 6651)",
    }
}

/// Finds the host and connects to whichever of its addresses answers first.
async fn dial(address: &Address) -> Result<TcpStream, LinkError> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host((address.host.as_str(), address.port))
        .await
        .map_err(|e| LinkError::Dns { host: address.host.clone(), reason: e.to_string() })?
        .collect();
    let mut failed = 0;
    let mut attempts = FuturesUnordered::new();
    let mut candidates = found.iter().cycle();
    loop {
        if attempts.len() < DIALS_MAX
            && let Some(candidate) = candidates.next()
        {
            attempts.push(TcpStream::connect(*candidate));
        }
        let outcome = tokio::select! {
            outcome = attempts.next() => outcome,
            () = sleep(DIAL_AGAIN) => continue,
        };
        let reason = match outcome {
            Some(Ok(stream)) => {
                // Both only make it better; a system without them still works.
                let _ = stream.set_nodelay(true);
                #[cfg(target_os = "linux")]
                let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX));
                return Ok(stream);
            }
            Some(Err(reason)) => reason,
            None => std::io::Error::other("the name has no address"),
        };
        failed += 1;
        if failed >= found.len() {
            return Err(LinkError::Connect { broker: address.authority(), reason });
        }
    }
}

impl Connection {
    async fn handshake(&mut self, credentials: &Credentials, proxied: Option<&str>) -> Result<(), LinkError> {
        let token = credentials.token().await?;
        let connect = CommandConnect {
            client_version: concat!("Tidegate-", env!("CARGO_PKG_VERSION")).to_owned(),
            protocol_version: Some(PROTOCOL_VERSION),
            auth_method_name: token.as_ref().map(|_| "token".to_owned()),
            auth_data: token.map(|t| t.reveal().as_bytes().to_vec()),
            proxy_to_broker_url: proxied.map(str::to_owned),
            feature_flags: Some(FeatureFlags { supports_auth_refresh: Some(true), ..FeatureFlags::default() }),
            ..CommandConnect::default()
        };
        self.send(&BaseCommand {
            r#type: base_command::Type::Connect as i32,
            connect: Some(connect),
            ..BaseCommand::default()
        })
        .await?;
        loop {
            let answer = self.next(credentials).await?;
            if let Some(connected) = answer.connected {
                if let Some(max) = connected.max_message_size.and_then(|m| usize::try_from(m).ok()).filter(|m| *m > 0) {
                    self.message_max = max;
                }
                return Ok(());
            }
            if let Some(error) = answer.error {
                return Err(self.refused("the connection", error.error, error.message));
            }
        }
    }

    /// A number for the next request.
    pub fn request_id(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }

    /// Sends all of `requests`, and returns their answers in the same order. `what` is for messages.
    pub async fn ask(
        &mut self,
        credentials: &Credentials,
        what: &'static str,
        requests: Vec<(u64, BaseCommand)>,
    ) -> Result<Vec<BaseCommand>, LinkError> {
        let exchange = async {
            let mut frames = BytesMut::new();
            requests.iter().for_each(|(_, command)| frame::command(&mut frames, command));
            self.write(&frames).await?;
            let mut answers: Vec<Option<BaseCommand>> = vec![None; requests.len()];
            while answers.iter().any(Option::is_none) {
                let answer = self.next(credentials).await?;
                let id = answered(&answer);
                if let Some(i) = requests.iter().position(|(request, _)| Some(*request) == id) {
                    answers[i] = Some(answer);
                }
            }
            Ok(answers.into_iter().flatten().collect())
        };
        let outcome = timeout(REQUEST_TIMEOUT, exchange).await;
        let slow = || LinkError::Slow { broker: self.broker.clone(), step: what, limit: REQUEST_TIMEOUT };
        outcome.map_err(|_| slow())?
    }

    /// The next command that is not housekeeping.
    async fn next(&mut self, credentials: &Credentials) -> Result<BaseCommand, LinkError> {
        loop {
            while let Some(command) =
                frame::next_command(&mut self.input).map_err(|e| LinkError::protocol(&self.broker, e))?
            {
                if command.ping.is_some() {
                    self.send(&pong()).await?;
                } else if command.auth_challenge.is_some() {
                    let answer = auth_response(credentials).await?;
                    self.send(&answer).await?;
                } else {
                    return Ok(command);
                }
            }
            match self.io.read_buf(&mut self.input).await {
                Ok(0) => return Err(self.lost("closed by the other end")),
                Ok(_) => {}
                Err(e) => return Err(self.lost(e)),
            }
        }
    }

    async fn send(&mut self, command: &BaseCommand) -> Result<(), LinkError> {
        let mut frame = BytesMut::new();
        frame::command(&mut frame, command);
        self.write(&frame).await
    }

    async fn write(&mut self, frames: &[u8]) -> Result<(), LinkError> {
        match self.io.write_all(frames).await {
            Ok(()) => self.io.flush().await.map_err(|e| self.lost(e)),
            Err(e) => Err(self.lost(e)),
        }
    }

    fn lost(&self, reason: impl ToString) -> LinkError {
        LinkError::Lost { broker: self.broker.clone(), reason: reason.to_string() }
    }

    /// A refusal by this broker.
    pub fn refused(&self, what: impl Into<String>, code: i32, message: String) -> LinkError {
        refused(&self.broker, what, code, message)
    }
}

/// A refusal by `broker`. Its message may carry a stack trace: one line of it is enough.
pub fn refused(broker: &str, what: impl Into<String>, code: i32, message: String) -> LinkError {
    let code = ServerError::try_from(code).unwrap_or(ServerError::UnknownError);
    let message = message.lines().next().unwrap_or_default().chars().take(300).collect();
    LinkError::Refused { broker: broker.to_owned(), what: what.into(), code, message }
}

/// A refused message was certainly not stored, whatever happened to those behind it. Other codes tell of a write
/// that is still open, or of a broker that refuses everything until the producer is opened again.
pub fn is_final(code: i32) -> bool {
    use ServerError as E;
    matches!(
        ServerError::try_from(code),
        Ok(E::ChecksumError | E::NotAllowedError | E::MetadataError | E::IncompatibleSchema | E::AuthorizationError)
    )
}

/// The request that a command answers.
pub fn answered(command: &BaseCommand) -> Option<u64> {
    let c = command;
    c.partition_metadata_response
        .as_ref()
        .map(|a| a.request_id)
        .or(c.lookup_topic_response.as_ref().map(|a| a.request_id))
        // Not ready: the broker will answer once more.
        .or(c.producer_success.as_ref().filter(|a| a.producer_ready.unwrap_or(true)).map(|a| a.request_id))
        .or(c.success.as_ref().map(|a| a.request_id))
        .or(c.get_last_message_id_response.as_ref().map(|a| a.request_id))
        .or(c.error.as_ref().map(|a| a.request_id))
}

/// Answer to a ping.
pub fn pong() -> BaseCommand {
    BaseCommand { r#type: base_command::Type::Pong as i32, pong: Some(CommandPong {}), ..BaseCommand::default() }
}

/// Answer to a challenge: the token as it is now, because the one shown before has expired.
pub async fn auth_response(credentials: &Credentials) -> Result<BaseCommand, LinkError> {
    let token = credentials.token().await?;
    let response = CommandAuthResponse {
        client_version: Some(concat!("Tidegate-", env!("CARGO_PKG_VERSION")).to_owned()),
        response: Some(AuthData {
            auth_method_name: Some("token".to_owned()),
            auth_data: token.map(|t| t.reveal().as_bytes().to_vec()),
        }),
        protocol_version: Some(PROTOCOL_VERSION),
    };
    Ok(BaseCommand {
        r#type: base_command::Type::AuthResponse as i32,
        auth_response: Some(response),
        ..BaseCommand::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_urls_are_read_or_refused_in_words() {
        let address = |host: &str, port, tls| Address { host: host.into(), port, tls };
        assert_eq!(Address::parse("pulsar://a.example").unwrap(), address("a.example", 6650, false));
        assert_eq!(Address::parse("pulsar+ssl://a.example/").unwrap(), address("a.example", 6651, true));
        assert_eq!(Address::parse("pulsar://[::1]:7000").unwrap(), address("::1", 7000, false));
        assert_eq!(Address::parse("pulsar://[::1]").unwrap().authority(), "[::1]:6650");
        for bad in ["http://a", "a:6650", "pulsar://", "pulsar://a:b", "pulsar://a:1,b:2", "pulsar://a:99999"] {
            assert!(Address::parse(bad).unwrap_err().to_string().contains("pulsar://host:6650"), "{bad}");
        }
    }

    #[tokio::test]
    async fn what_does_not_answer_or_is_no_pulsar_is_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connector =
            Connector { credentials: Credentials::None, ca_file: None, connect_timeout: Duration::from_millis(300) };
        let address = Address { host: "127.0.0.1".into(), port, tls: false };
        let error = connector.connect(&address, None).await.err().unwrap();
        assert!(error.to_string().contains("connecting took longer than 300 ms"), "{error}");
        let answer = async {
            for _ in 0..2 {
                // The attempt above still waits in the queue.
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            outcome = connector.connect(&address, None) => outcome.err().unwrap(),
            () = answer => unreachable!(),
        };
        assert!(error.to_string().contains("really Pulsar's binary port"), "{error}");
        drop(listener);
        let error = connector.connect(&address, None).await.err().unwrap();
        assert!(error.to_string().contains("check that Pulsar runs there"), "{error}");
    }
}
