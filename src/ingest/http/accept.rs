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
    connections_wanted: usize,
    connections_elsewhere: usize,
}

impl Listener {
    /// Binds `http.listen`. Needs no runtime, so that a taken port is known before anything slow begins.
    pub fn bind(http: &Http) -> Result<Self, BindError> {
        let socket = Bound::bind("HTTP", "http.listen", http.listen)?;
        Ok(Self { socket, connections_wanted: http.max_connections, connections_elsewhere: 0 })
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

    /// Accepts and answers until `tasks` stops; then finishes what is in flight, each connection within
    /// [`connection::SHUTDOWN_GRACE`].
    pub fn start(self, tasks: &Tasks, gateway: Gateway) {
        let group = tasks.clone();
        let connections_max =
            connections_max("http.max_connections", self.connections_wanted, self.connections_elsewhere);
        tracing::info!(address = %self.local_addr(), connections_max, "HTTP ingest listens");
        tasks.spawn("http accept", async move {
            let shared = Shared::new(gateway, group.stopping().clone());
            let serve = connection::Server::new(shared.clone());
            let permits = Arc::new(Semaphore::new(connections_max));
            let errors = &shared.counters.accept_errors;
            let connection = |stream, peer, permit| {
                let connection = serve.connection(stream, peer);
                group.spawn_contained("http connection", async move {
                    let _permit = permit;
                    connection.await;
                });
            };
            self.socket.accept(permits, &shared.stopping, errors, connection).await
        });
    }
}
