//! From an accepted socket to a session: TLS, the WebSocket upgrade, CONNECT and who it is, all within one time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use super::flights::Flights;
use super::output::Output;
use super::results::Results;
use super::{Connection, TIMER_IDLE, answers, ending, reading};
use crate::ingest::http::budget::Lease;
use crate::ingest::identity::{ConnectionGuard, Denied, Identity, Presented};
use crate::ingest::mqtt::Shared;
use crate::ingest::mqtt::broker::Who;
use crate::ingest::mqtt::hub::Effects;
use crate::ingest::mqtt::packet::{Connack, Connect, Decoder, Packet, Reason, Version, encode};
use crate::ingest::mqtt::transport::{Kind, Transport, tune};
use crate::ingest::mqtt::websocket;

/// Largest CONNECT: a will, a name, a password and an id of the largest size. Nobody knows yet who sends it.
const CONNECT_BYTES_MAX: u32 = 256 << 10;

/// A client that is about to connect.
struct Arrival {
    stream: Transport,
    certificate: Option<Vec<u8>>,
    decoder: Decoder,
    input: BytesMut,
    /// For a large CONNECT, for as long as it is here.
    lease: Lease,
}

/// Why there is no connection. Whoever can be told has been told.
#[derive(Debug, thiserror::Error)]
enum Unopened {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no CONNECT within mqtt.connect_timeout")]
    Late,
    #[error("{0}")]
    Refused(String),
}

/// Brings a client in. `None`: it did not get that far.
pub async fn open(shared: Arc<Shared>, kind: Kind, stream: TcpStream, peer: SocketAddr) -> Option<Box<Connection>> {
    tune(&stream);
    let until = Instant::now() + shared.mqtt.connect_timeout;
    let opened = tokio::select! {
        opened = timeout_at(until, enter(shared.clone(), kind, stream, peer)) => opened.unwrap_or(Err(Unopened::Late)),
        () = shared.stopping.cancelled() => Err(Unopened::Refused("the gateway is shutting down".to_owned())),
    };
    match opened {
        Ok(connection) => Some(connection),
        Err(reason) => {
            shared.counters.connect_refused();
            tracing::debug!(%peer, %reason, "no connection");
            None
        }
    }
}

async fn enter(
    shared: Arc<Shared>,
    kind: Kind,
    stream: TcpStream,
    peer: SocketAddr,
) -> Result<Box<Connection>, Unopened> {
    let mut arrival = arrive(&shared, kind, stream).await?;
    let connect = match first_packet(&shared, &mut arrival).await? {
        Ok(connect) => connect,
        Err((answer, reason)) => return Err(refuse(&mut arrival.stream, answer, reason).await),
    };
    let version = connect.version;
    let (identity, guard) = match identify(&shared, &arrival, &connect, peer).await {
        Ok(known) => known,
        Err((reason, why)) => {
            let connack = Packet::Connack(Box::new(Connack::refused(reason)));
            return Err(refuse(&mut arrival.stream, Some((connack, version)), why).await);
        }
    };
    let (client, explains) = (connect.client_id.clone(), connect.request_problem_information);
    let (asked, packet_max) = (connect.keep_alive_s, connect.maximum_packet_size.unwrap_or(u32::MAX));
    if let Some(why) = unkeepable(&shared, &connect).await {
        let connack = Packet::Connack(Box::new(Connack::refused(Reason::SERVER_UNAVAILABLE)));
        return Err(refuse(&mut arrival.stream, Some((connack, version)), why).await);
    }
    let seat = shared.hub.enter();
    let who = Who { owner: identity.name().into(), rules: Arc::new(identity.clone()) };
    let ((), effects) = seat.turn(|turn| turn.connect(connect, who));
    let Some(connack) = accepted(&effects) else {
        answers::note(&shared.gate, &identity, &effects.denied);
        let why = effects.close.map_or("the journal does not take the session", |(_, why)| why).to_owned();
        // Without a place on disk for it a session would be a promise that is not kept.
        let fallback = || Packet::Connack(Box::new(Connack::refused(Reason::SERVER_UNAVAILABLE)));
        let answer = effects.replies.into_iter().next().filter(|_| effects.unkept.is_none()).unwrap_or_else(fallback);
        return Err(refuse(&mut arrival.stream, Some((answer, version)), why).await);
    };
    let client = connack.assigned_client_id.clone().unwrap_or(client);
    let keep_alive_s = connack.server_keep_alive_s.unwrap_or(asked);
    let Arrival { stream, decoder, input, .. } = arrival;
    let mut connection = Box::new(Connection {
        origin: shared.upstream.origin(identity.name(), &client),
        seat,
        stream,
        decoder,
        explains,
        revoked: Box::pin(identity.revoked().child_token().cancelled_owned()),
        identity,
        _guard: guard,
        silence_max: (keep_alive_s > 0).then(|| Duration::from_secs(keep_alive_s.into()) * 3 / 2),
        heard: Instant::now(),
        input,
        input_lease: None,
        packet_since: None,
        paused: None,
        undecoded: false,
        flights: Flights::default(),
        results: Results::default(),
        output: Output::new(version, packet_max, &shared.going),
        promised: None,
        durable: None,
        room: None,
        refused: Vec::new(),
        wanting: true,
        delivered: false,
        timer: Box::pin(sleep(TIMER_IDLE)),
        end: None,
        gone: false,
        shared,
    });
    connection.take_effect(effects);
    connection.decode();
    // Perhaps everybody was told to end before this one was there.
    if connection.shared.stopping.is_cancelled() {
        connection.end(Reason::SERVER_SHUTTING_DOWN, "the gateway is shutting down");
    }
    Ok(connection)
}

async fn arrive(shared: &Shared, kind: Kind, stream: TcpStream) -> Result<Arrival, Unopened> {
    let no_tls = || io::Error::other("no certificate is configured");
    let (stream, certificate) = match kind {
        Kind::Tcp => (Transport::Tcp(stream), None),
        Kind::Ws => (Transport::Ws(Box::new(websocket::accept(stream).await?)), None),
        Kind::Tls | Kind::Wss => {
            let tls = shared.tls.as_ref().ok_or_else(no_tls)?;
            let (stream, certificate) = tls.accept(stream, shared.mqtt.connect_timeout).await?;
            let stream = match kind {
                Kind::Wss => Transport::Wss(Box::new(websocket::accept(stream).await?)),
                _ => Transport::Tls(Box::new(stream)),
            };
            (stream, certificate.map(|c| c.to_vec()))
        }
    };
    let decoder = Decoder::new(shared.max_packet().min(CONNECT_BYTES_MAX));
    Ok(Arrival { stream, certificate, decoder, input: BytesMut::new(), lease: shared.coming.lease() })
}

type Answer = Option<(Packet, Version)>;

/// Reads CONNECT. The inner error is for the client.
async fn first_packet(shared: &Shared, arrival: &mut Arrival) -> Result<Result<Connect, (Answer, String)>, Unopened> {
    let mut counted = reading::INPUT_FREE_BYTES;
    loop {
        match arrival.decoder.next(&mut arrival.input) {
            Ok(Some(packet)) => {
                shared.counters.packet_in(&packet);
                return match packet {
                    Packet::Connect(connect) => {
                        arrival.decoder.set_max_packet(shared.max_packet());
                        Ok(Ok(*connect))
                    }
                    // The decoder lets nothing else through.
                    _ => Ok(Err((None, "the first packet is not CONNECT".to_owned()))),
                };
            }
            Ok(None) => {}
            Err(fault) => return Ok(Err((fault.answer_packet(), fault.to_string()))),
        }
        let Arrival { stream, input, .. } = &mut *arrival;
        let n = std::future::poll_fn(|cx| reading::poll_read(stream, cx, input)).await?;
        if n == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        shared.counters.bytes_in(n);
        if let Some(more) = input.len().checked_sub(counted).filter(|more| *more > 0) {
            let busy = |_| Unopened::Refused("too many large packets at once".to_owned());
            arrival.lease.grow(more).map_err(busy)?;
            counted += more;
        }
    }
}

async fn identify(
    shared: &Shared,
    arrival: &Arrival,
    connect: &Connect,
    peer: SocketAddr,
) -> Result<(Identity, ConnectionGuard), (Reason, String)> {
    let denied = |denied: Denied| (reason_of(&denied), denied.to_string());
    let presented = Presented {
        peer: peer.ip(),
        certificate: arrival.certificate.as_deref(),
        user: connect.user_name.as_deref(),
        secret: connect.password.as_deref(),
        bearer: None,
    };
    let identity = shared.gate.identify(presented).await.map_err(denied)?;
    let instead = shared.hub.takes_over(&connect.client_id, identity.name());
    let guard = shared.gate.enter(&identity, instead).map_err(denied)?;
    Ok((identity, guard))
}

/// Waits until the journal has room for a new session. Why a session cannot be kept is found out before anything is changed:
/// the old connection, its session and its will stay.
async fn unkeepable(shared: &Shared, connect: &Connect) -> Option<String> {
    let (new, kept) = (connect.session_expiry_s.is_some_and(|s| s > 0), shared.hub.keeps(&connect.client_id));
    let journal = shared.hub.journal();
    if new && !kept {
        // Who resumes one takes from what is alive.
        journal.room().await;
    }
    let reason = journal.trouble().filter(|_| new || kept)?;
    Some(format!("the journal does not take the session: {reason}"))
}

/// MQTT 5.0 §3.2.2.2, table 3-1.
fn reason_of(denied: &Denied) -> Reason {
    match denied {
        Denied::NoCredential => Reason::NOT_AUTHORIZED,
        Denied::BadCredential | Denied::NotTaken(_) => Reason::BAD_USER_NAME_OR_PASSWORD,
        Denied::Disabled => Reason::BANNED,
        Denied::LockedOut { .. } => Reason::CONNECTION_RATE_EXCEEDED,
        Denied::TooManyConnections { .. } => Reason::QUOTA_EXCEEDED,
        Denied::Busy { .. } => Reason::SERVER_BUSY,
    }
}

/// CONNACK, if the broker took the client.
fn accepted(effects: &Effects) -> Option<&Connack> {
    if effects.unkept.is_some() || effects.close.is_some() {
        return None;
    }
    effects.replies.iter().find_map(|reply| match reply {
        Packet::Connack(connack) if !connack.reason.is_error() => Some(&**connack),
        _ => None,
    })
}

async fn refuse(stream: &mut Transport, answer: Answer, why: String) -> Unopened {
    if let Some((packet, version)) = answer {
        let mut bytes = BytesMut::new();
        if encode(&packet, version, &mut bytes).is_ok() {
            let told = async {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
                ending::linger(stream).await
            };
            let _ = Pin::from(Box::new(told)).await;
        }
    }
    Unopened::Refused(why)
}
