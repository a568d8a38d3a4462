//! Binds the HTTP interface early, and makes connections of what it accepts.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::{Gateway, Shared, connection};
use crate::config::edge::Http;
use crate::ingest::accept::{BindError, Bound, connections_max};
use crate::sys::tasks::Tasks;

/// A bound socket: devices can connect, and are answered once it is started.
#[derive(Debug)]
pub struct Listener {
    socket: Bound,
    tls_socket: Option<Bound>,
    connections_wanted: usize,
    connections_elsewhere: usize,
}

impl Listener {
    /// Binds `http.listen` and `http.tls_listen`. Needs no runtime, so that a taken port is known before anything slow begins.
    pub fn bind(http: &Http) -> Result<Self, BindError> {
        let socket = Bound::bind("HTTP", "http.listen", http.listen)?;
        let tls = |address| Bound::bind("HTTPS", "http.tls_listen", address);
        let tls_socket = http.tls_listen.map(tls).transpose()?;
        Ok(Self { socket, tls_socket, connections_wanted: http.max_connections, connections_elsewhere: 0 })
    }

    /// Leaves open files for so many connections of other ways in.
    #[must_use]
    pub fn beside(self, connections_elsewhere: usize) -> Self {
        Self { connections_elsewhere, ..self }
    }

    /// The address, with the port the system chose if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// The same of `http.tls_listen`, if that is set.
    pub fn tls_local_addr(&self) -> Option<SocketAddr> {
        self.tls_socket.as_ref().map(Bound::local_addr)
    }

    /// Accepts and answers until `tasks` stops; then finishes what is in flight, each connection within
    /// [`connection::SHUTDOWN_GRACE`].
    pub fn start(self, tasks: &Tasks, gateway: Gateway) {
        let connections_max =
            connections_max("http.max_connections", self.connections_wanted, self.connections_elsewhere);
        let tls = gateway.tls.as_ref().map(|tls| tls.speaking(&[b"http/1.1"]));
        let shared = Shared::new(gateway, tasks.stopping().clone());
        let server = connection::Server::new(shared.clone());
        let sockets = [Some((self.socket, None)), self.tls_socket.map(|socket| (socket, tls))];
        let sockets: Vec<_> = sockets.into_iter().flatten().collect();
        // Each port holds a permit while it waits for the next client; see the MQTT listener.
        let permits = Arc::new(Semaphore::new(connections_max + sockets.len() - 1));
        for (socket, tls) in sockets {
            tracing::info!(address = %socket.local_addr(), tls = tls.is_some(), connections_max, "HTTP ingest listens");
            let (group, shared, server, permits) = (tasks.clone(), shared.clone(), server.clone(), permits.clone());
            tasks.spawn("http accept", async move {
                let errors = &shared.counters.accept_errors;
                let connection = |stream, peer, permit| {
                    let connection = server.connection(stream, peer, tls.clone());
                    group.spawn_contained("http connection", async move {
                        let _permit = permit;
                        connection.await;
                    });
                };
                socket.accept(permits, &shared.stopping, errors, connection).await
            });
        }
    }
}
