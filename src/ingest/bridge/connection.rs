//! One connection to the other broker: made within a bound, read, written and pinged, all of it so that a caller may stop waiting
//! at any point and come back.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use super::codec::{Bad, Codec, Incoming, Login, PACKET_BYTES_MAX};
use super::error::BridgeError;
use super::window::Window;

/// Time for name, TCP, TLS and CONNACK.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// While so much waits for the other broker to read it, nothing is read from there: who does not take
/// acknowledgements gets no more of them. (A window of acknowledgements may come on top.)
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Read at once.
const READ_BYTES: usize = 16 << 10;

/// Data that the other machine does not acknowledge for so long ends the connection (TCP_USER_TIMEOUT): a dead link is found
/// also while nothing is read.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// Where to and how.
pub struct Target {
    /// `bridge.url`, for errors.
    pub url: String,
    /// Without brackets.
    pub host: String,
    pub port: u16,
    /// `None`: plain TCP.
    pub tls: Option<Arc<ClientConfig>>,
    pub codec: Codec,
    pub login: Login,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that the other broker has let in.
pub struct Connection {
    url: String,
    codec: Codec,
    reader: ReadHalf<Box<dyn Stream>>,
    input: BytesMut,
    writer: Writer,
    /// The other broker has kept our session.
    pub session_present: bool,
    keep_alive: Option<Duration>,
    ping_due: Instant,
    /// When something came last, or reading began again.
    heard: Instant,
}

struct Writer {
    half: WriteHalf<Box<dyn Stream>>,
    output: BytesMut,
}

impl Writer {
    /// Cancelled, it goes on where it was.
    async fn flush(&mut self) -> std::io::Result<()> {
        while !self.output.is_empty() {
            self.half.write_buf(&mut self.output).await?;
        }
        self.half.flush().await
    }
}

impl Connection {
    /// Connects and is let in, or says why not, within [`CONNECT_MAX`].
    pub async fn open(target: Target) -> Result<Self, BridgeError> {
        let url = target.url.clone();
        let opened = timeout(CONNECT_MAX, Self::opened(target)).await;
        let late = || unreachable(&url, format!("no answer within {} s", CONNECT_MAX.as_secs()));
        opened.unwrap_or_else(|_| Err(late()))
    }

    async fn opened(target: Target) -> Result<Self, BridgeError> {
        let Target { url, host, port, tls, codec, login } = target;
        let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(|e| unreachable(&url, e.to_string()))?;
        // Both only make it better; a system without them still works.
        let _ = tcp.set_nodelay(true);
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(&tcp).set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX));
        let handshake = |reason: String| BridgeError::Handshake { url: url.clone(), reason };
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(tcp),
            Some(config) => {
                let name = ServerName::try_from(host).map_err(|e| handshake(e.to_string()))?;
                let secure = TlsConnector::from(config).connect(name, tcp).await;
                Box::new(secure.map_err(|e| handshake(e.to_string()))?)
            }
        };
        let (reader, half) = tokio::io::split(stream);
        let (input, now) = (BytesMut::new(), Instant::now());
        let asked = Duration::from_secs(u64::from(login.keep_alive_s));
        let mut connection = Self {
            url,
            codec,
            reader,
            input,
            writer: Writer { half, output: BytesMut::new() },
            session_present: false,
            keep_alive: None,
            ping_due: now,
            heard: now,
        };
        codec.connect(login, &mut connection.writer.output).map_err(|bad| connection.bad(bad))?;
        match connection.first().await {
            Ok(Incoming::Connected { session_present, keep_alive_s }) => {
                let keep_alive = keep_alive_s.map_or(asked, |s| Duration::from_secs(u64::from(s)));
                connection.session_present = session_present;
                connection.keep_alive = Some(keep_alive).filter(|k| !k.is_zero());
                connection.pinged();
                Ok(connection)
            }
            Ok(Incoming::Refused(reason, way_out)) => {
                Err(BridgeError::Refused { url: connection.url, reason, way_out })
            }
            Ok(other) => Err(connection.lost(format!("it answers CONNECT with {other:?}"))),
            Err(e) => Err(e),
        }
    }

    /// The answer to CONNECT. What fails here is no connection that was lost.
    async fn first(&mut self) -> Result<Incoming, BridgeError> {
        let url = self.url.clone();
        let failed = |e: std::io::Error| match is_tls(&e) {
            // In TLS 1.3 the refusal of our certificate comes after the handshake.
            true => BridgeError::Handshake { url: url.clone(), reason: e.to_string() },
            false => unreachable(&url, e.to_string()),
        };
        self.writer.flush().await.map_err(failed)?;
        loop {
            if let Some(packet) = self.codec.read(&mut self.input).map_err(|bad| self.bad(bad))? {
                return Ok(packet);
            }
            self.input.reserve(READ_BYTES);
            if self.reader.read_buf(&mut self.input).await.map_err(failed)? == 0 {
                return Err(unreachable(&url, "it closed the connection before it answered CONNECT".to_owned()));
            }
        }
    }

    /// What comes next. Meanwhile it writes what is to be written, and pings.
    /// `read` false: nothing is read, so nothing comes; only an error ends it. Cancelled, nothing is lost.
    pub async fn next(&mut self, read: bool) -> Result<Incoming, BridgeError> {
        loop {
            let read = read && self.writer.output.len() < OUTPUT_BYTES_MAX;
            if !read {
                // Who does not answer cannot be told from who is not listened to.
                self.heard = Instant::now();
            }
            if read && let Some(packet) = self.codec.read(&mut self.input).map_err(|bad| self.bad(bad))? {
                if let Incoming::Released(packet_id) = packet {
                    self.codec.complete(packet_id, &mut self.writer.output).map_err(|bad| self.bad(bad))?;
                }
                return Ok(packet);
            }
            self.input.reserve(READ_BYTES);
            let silent = self.silent_at().filter(|_| read);
            tokio::select! {
                got = self.reader.read_buf(&mut self.input), if read => match got {
                    Ok(0) => return Err(self.lost("it closed the connection".to_owned())),
                    Ok(_) => self.heard = Instant::now(),
                    Err(e) => return Err(self.lost(e.to_string())),
                },
                written = self.writer.flush(), if !self.writer.output.is_empty() => {
                    written.map_err(|e| self.lost(e.to_string()))?;
                }
                () = sleep_until(self.ping_due), if self.keep_alive.is_some() => {
                    self.codec.ping(&mut self.writer.output).map_err(|bad| self.bad(bad))?;
                    self.pinged();
                }
                () = until(silent) => {
                    let seconds = self.heard.elapsed().as_secs();
                    return Err(BridgeError::Silent { url: self.url.clone(), seconds });
                }
            }
        }
    }

    /// Acknowledges what `window` says, in order. [`Connection::next`] writes it.
    pub fn acknowledge(&mut self, window: &mut Window) -> Result<(), BridgeError> {
        while let Some(handle) = window.next_ack() {
            self.codec.ack(handle, &mut self.writer.output).map_err(|bad| self.bad(bad))?;
            window.acked();
        }
        Ok(())
    }

    /// Subscribes and unsubscribes; SUBACK comes if `subscribe` is not empty.
    pub fn subscribe(
        &mut self,
        subscribe: &[String],
        exactly_once: bool,
        unsubscribe: &[String],
    ) -> Result<(), BridgeError> {
        let out = &mut self.writer.output;
        let mut done = Ok(());
        if !unsubscribe.is_empty() {
            done = self.codec.unsubscribe(unsubscribe.to_vec(), out);
        }
        if done.is_ok() && !subscribe.is_empty() {
            done = self.codec.subscribe(subscribe, exactly_once, out);
        }
        done.map_err(|bad| self.bad(bad))
    }

    /// Writes what is to be written, says good-bye, and ends. The session stays.
    pub async fn close(mut self) -> Result<(), BridgeError> {
        self.codec.disconnect(&mut self.writer.output).map_err(|bad| self.bad(bad))?;
        self.writer.flush().await.map_err(|e| self.lost(e.to_string()))?;
        self.writer.half.shutdown().await.map_err(|e| self.lost(e.to_string()))
    }

    fn pinged(&mut self) {
        self.ping_due = Instant::now() + self.keep_alive.unwrap_or_default();
    }

    /// A ping goes out at every keep-alive, so the answer should be there within the next one.
    fn silent_at(&self) -> Option<Instant> {
        self.keep_alive.map(|k| self.heard + k * 2 + Duration::from_secs(5))
    }

    /// The connection ended.
    pub fn lost(&self, reason: String) -> BridgeError {
        BridgeError::Lost { url: self.url.clone(), reason }
    }

    fn bad(&self, bad: Bad) -> BridgeError {
        match bad {
            Bad::TooLarge(bytes) => {
                BridgeError::TooLarge { url: self.url.clone(), bytes, max: PACKET_BYTES_MAX as usize }
            }
            Bad::Broken(reason) => self.lost(format!("it breaks the protocol: {reason}")),
        }
    }
}

fn unreachable(url: &str, reason: String) -> BridgeError {
    BridgeError::Unreachable { url: url.to_owned(), reason }
}

fn is_tls(e: &std::io::Error) -> bool {
    e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
