//! Binds early, accepts while there are permits, and survives running out of descriptors.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::{Gateway, Shared, connection};
use crate::config::edge::Http;
use crate::sys::limits;
use crate::sys::tasks::Tasks;

/// Connections the kernel keeps while all permits are taken. It cuts this to its own
/// `net.core.somaxconn` (4096 by default).
const BACKLOG: i32 = 4096;

/// Open files that are not ours to use: the outbox's stores (some 20 per lane), the uplink, logs, the runtime.
const FILES_RESERVED: u64 = 512;

/// First and longest pause after a failure to accept that will not go away by itself at once.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// At most one log line about accept errors in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Why the HTTP interface could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for HTTP on {listen}: {reason}; {way_out}")]
pub struct BindError {
    /// The address as configured.
    pub listen: SocketAddr,
    /// The system's words.
    pub reason: io::Error,
    /// What to do.
    pub way_out: &'static str,
}

/// A bound socket: devices can connect, and are answered once it is started.
#[derive(Debug)]
pub struct Listener {
    socket: StdListener,
    local: SocketAddr,
    connections_max: usize,
}

impl Listener {
    /// Binds `http.listen`. Needs no runtime, so that a taken port is known before anything slow begins.
    pub fn bind(http: &Http) -> Result<Self, BindError> {
        let bound = listen(http.listen).and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (local, socket) = bound.map_err(|reason| {
            let way_out = way_out(&reason);
            BindError { listen: http.listen, reason, way_out }
        })?;
        Ok(Self { socket, local, connections_max: connections_max(http.max_connections) })
    }

    /// The address, with the port the system chose if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Accepts and answers until `tasks` stops; then finishes what is in flight, each connection within
    /// [`connection::SHUTDOWN_GRACE`].
    pub fn start(self, tasks: &Tasks, gateway: Gateway) {
        let group = tasks.clone();
        tracing::info!(address = %self.local, connections_max = self.connections_max, "HTTP ingest listens");
        tasks.spawn("http accept", async move {
            let socket = TcpListener::from_std(self.socket)?;
            let shared = Shared::new(gateway, group.stopping().clone());
            let Ok(()) = accept(socket, self.connections_max, &group, &shared).await;
            Ok::<(), io::Error>(())
        });
    }
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted gateway must not wait for its predecessor's connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn way_out(reason: &io::Error) -> &'static str {
    match reason.kind() {
        io::ErrorKind::AddrInUse => "another program (perhaps another tidegate) has it: stop that, or set http.listen",
        io::ErrorKind::AddrNotAvailable => "no interface of this machine has this address: correct http.listen",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a privilege: set http.listen to a higher port, or grant CAP_NET_BIND_SERVICE"
        }
        _ => "correct http.listen",
    }
}

/// How many connections the limit of open files allows, after trying to raise it.
fn connections_max(wanted: usize) -> usize {
    let files = wanted as u64 + FILES_RESERVED;
    let limit = limits::raise_open_files(files).unwrap_or_else(|reason| {
        tracing::warn!(%reason, "cannot raise the limit of open files");
        // What every Linux starts a process with.
        1024
    });
    if limit >= files {
        return wanted;
    }
    // Never nothing: half of a tiny limit is better than a gateway that accepts nobody.
    let possible = usize::try_from(limit.saturating_sub(FILES_RESERVED).max(limit / 2)).unwrap_or(wanted).max(1);
    tracing::warn!(
        wanted,
        possible,
        limit,
        "fewer HTTP connections than http.max_connections: raise the hard limit of open files (LimitNOFILE=, ulimit -Hn)"
    );
    possible
}

async fn accept(
    socket: TcpListener,
    connections_max: usize,
    tasks: &Tasks,
    shared: &Arc<Shared>,
) -> Result<(), Infallible> {
    let permits = Arc::new(Semaphore::new(connections_max));
    let serve = connection::Server::new(shared.clone());
    let mut trouble = Trouble::default();
    let next = || async {
        // The permit comes first: a connection that cannot be served stays in the kernel's queue.
        let permit = permits.clone().acquire_owned().await;
        (permit, socket.accept().await)
    };
    loop {
        let (permit, accepted) = tokio::select! {
            () = shared.stopping.cancelled() => return Ok(()),
            next = next() => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                trouble.over();
                let connection = serve.connection(stream, peer);
                tasks.spawn_contained("http connection", async move {
                    let _permit = permit;
                    connection.await;
                });
            }
            Err(e) => {
                shared.counters.accept_errors.inc();
                if let Some(pause) = trouble.pause_after(&e) {
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

/// How long to wait after an error of `accept`, and when to speak of it.
#[derive(Default)]
struct Trouble {
    pause: Option<Duration>,
    logged: Option<Instant>,
    unlogged: u64,
}

impl Trouble {
    fn over(&mut self) {
        self.pause = None;
    }

    fn pause_after(&mut self, e: &io::Error) -> Option<Duration> {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        // The other side went away before we looked: nothing is wrong here.
        if matches!(e.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            return None;
        }
        self.unlogged += 1;
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            tracing::warn!(reason = %e, times = self.unlogged, "cannot accept HTTP connections; trying again");
            (self.logged, self.unlogged) = (Some(Instant::now()), 0);
        }
        // Out of descriptors or memory (EMFILE, ENFILE, ENOBUFS, ENOMEM): the connection stays in the queue and
        // accept would fail again at once, in a loop that takes a core.
        let pause = self.pause.map_or(PAUSE_MIN, |p| (p * 2).min(PAUSE_MAX));
        self.pause = Some(pause);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EdgeConfig;

    #[test]
    fn a_taken_port_is_named_with_the_way_out() {
        let mut http = EdgeConfig::default().http;
        http.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = Listener::bind(&http).unwrap();
        http.listen = first.local_addr();
        let e = Listener::bind(&http).unwrap_err().to_string();
        assert!(e.contains(&first.local_addr().to_string()) && e.contains("stop that, or set http.listen"), "{e}");
        http.listen = SocketAddr::from(([203, 0, 113, 1], 0));
        let e = Listener::bind(&http).unwrap_err().to_string();
        assert!(e.contains("no interface"), "{e}");
    }

    #[test]
    fn pauses_grow_to_a_bound_and_lost_connections_cause_none() {
        let mut trouble = Trouble::default();
        let out_of_files = io::Error::from_raw_os_error(libc::EMFILE);
        assert_eq!(trouble.pause_after(&out_of_files), Some(PAUSE_MIN));
        for _ in 0..20 {
            assert!(trouble.pause_after(&out_of_files).is_some());
        }
        assert_eq!(trouble.pause_after(&out_of_files), Some(PAUSE_MAX));
        assert_eq!(trouble.unlogged, 21, "one line was logged, the rest counted for the next");
        assert_eq!(trouble.pause_after(&io::ErrorKind::ConnectionAborted.into()), None);
        trouble.over();
        assert_eq!(trouble.pause_after(&out_of_files), Some(PAUSE_MIN));
    }
}
