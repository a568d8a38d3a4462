//! What every way in shares: binds early, accepts while there are permits, and survives running out of descriptors.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::sys::limits;

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

/// Why an interface could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for {protocol} on {listen}: {reason}; {way_out}")]
pub struct BindError {
    /// What was to be listened for.
    pub protocol: &'static str,
    /// The address as configured.
    pub listen: SocketAddr,
    /// The system's words.
    pub reason: io::Error,
    /// What to do.
    pub way_out: String,
}

/// A bound socket: devices can connect, and are answered once somebody accepts.
#[derive(Debug)]
pub struct Bound {
    socket: StdListener,
    local: SocketAddr,
    protocol: &'static str,
}

impl Bound {
    /// Binds `listen`, which is the value of `key`. Needs no runtime, so that a taken port is known before anything
    /// slow begins.
    pub fn bind(protocol: &'static str, key: &str, address: SocketAddr) -> Result<Self, BindError> {
        let bound = listen(address).and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (local, socket) = bound.map_err(|reason| {
            let way_out = way_out(&reason, key);
            BindError { protocol, listen: address, reason, way_out }
        })?;
        Ok(Self { socket, local, protocol })
    }

    /// The address, with the port the system chose if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Accepts until `stopping`, and hands each connection over with its permit.
    pub async fn accept(
        self,
        permits: Arc<Semaphore>,
        stopping: &CancellationToken,
        errors: &Counter,
        mut connection: impl FnMut(TcpStream, SocketAddr, OwnedSemaphorePermit),
    ) -> io::Result<()> {
        let socket = TcpListener::from_std(self.socket)?;
        let mut trouble = Trouble::default();
        let next = || async {
            // The permit comes first: a connection that cannot be served stays in the kernel's queue.
            let permit = permits.clone().acquire_owned().await;
            (permit, socket.accept().await)
        };
        loop {
            let next = tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                next = next() => next,
            };
            match next {
                (Ok(permit), Ok((stream, peer))) => {
                    trouble.over();
                    connection(stream, peer, permit);
                }
                // Nobody closes the permits.
                (Err(_), _) => return Ok(()),
                (_, Err(e)) => {
                    errors.inc();
                    if let Some(pause) = trouble.pause_after(&e, self.protocol) {
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        }
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

fn way_out(reason: &io::Error, key: &str) -> String {
    match reason.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another program (perhaps another tidegate) has it: stop that, or set {key}")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("no interface of this machine has this address: correct {key}")
        }
        io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 need a privilege: set {key} to a higher port, or grant CAP_NET_BIND_SERVICE")
        }
        _ => format!("correct {key}"),
    }
}

/// How many of `wanted` connections (the value of `key`) the limit of open files allows, after trying to raise it.
/// `others`: connections that other ways in want.
pub fn connections_max(key: &str, wanted: usize, others: usize) -> usize {
    let all = wanted as u64 + others as u64;
    let files = all + FILES_RESERVED;
    let limit = limits::raise_open_files(files).unwrap_or_else(|reason| {
        tracing::warn!(%reason, "cannot raise the limit of open files");
        // What every Linux starts a process with.
        1024
    });
    let possible = share(limit, wanted, all);
    if possible < wanted {
        tracing::warn!(
            key,
            wanted,
            possible,
            limit,
            "fewer connections than configured: raise the hard limit of open files (LimitNOFILE=, ulimit -Hn)"
        );
    }
    possible
}

/// What of `limit` open files falls to `wanted` of `all` connections.
fn share(limit: u64, wanted: usize, all: u64) -> usize {
    if limit >= all + FILES_RESERVED {
        return wanted;
    }
    // Never nothing: half of a tiny limit is better than a gateway that accepts nobody.
    let possible = limit.saturating_sub(FILES_RESERVED).max(limit / 2);
    let possible = u128::from(possible) * wanted as u128 / u128::from(all.max(1));
    usize::try_from(possible).unwrap_or(wanted).max(1)
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

    fn pause_after(&mut self, e: &io::Error, protocol: &str) -> Option<Duration> {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        // The other side went away before we looked: nothing is wrong here.
        if matches!(e.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            return None;
        }
        self.unlogged += 1;
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            tracing::warn!(reason = %e, times = self.unlogged, "cannot accept {protocol} connections; trying again");
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

    #[test]
    fn a_taken_port_is_named_with_the_way_out() {
        let bind = |address| Bound::bind("HTTP", "http.listen", address);
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let e = bind(first.local_addr()).unwrap_err().to_string();
        assert!(e.contains(&first.local_addr().to_string()) && e.contains("stop that, or set http.listen"), "{e}");
        let e = bind(SocketAddr::from(([203, 0, 113, 1], 0))).unwrap_err().to_string();
        assert!(e.contains("no interface"), "{e}");
    }

    #[test]
    fn few_open_files_are_shared_in_proportion() {
        assert_eq!(share(100_000, 10_240, 20_480), 10_240);
        assert_eq!(share(4096, 10_000, 10_000), 4096 - 512);
        assert_eq!(share(4096, 10_000, 20_000), (4096 - 512) / 2);
        assert_eq!(share(600, 10_000, 20_000), 150, "half of a tiny limit, and of that a half");
        assert_eq!(share(0, 10, 20), 1);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_lost_connections_cause_none() {
        let mut trouble = Trouble::default();
        let out_of_files = io::Error::from_raw_os_error(libc::EMFILE);
        assert_eq!(trouble.pause_after(&out_of_files, "HTTP"), Some(PAUSE_MIN));
        for _ in 0..20 {
            assert!(trouble.pause_after(&out_of_files, "HTTP").is_some());
        }
        assert_eq!(trouble.pause_after(&out_of_files, "HTTP"), Some(PAUSE_MAX));
        assert_eq!(trouble.unlogged, 21, "one line was logged, the rest counted for the next");
        assert_eq!(trouble.pause_after(&io::ErrorKind::ConnectionAborted.into(), "HTTP"), None);
        trouble.over();
        assert_eq!(trouble.pause_after(&out_of_files, "HTTP"), Some(PAUSE_MIN));
    }
}
