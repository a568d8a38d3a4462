//! The MQTT ports: bound early, accepted from while there are permits.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::packet::Reason;
use super::transport::Kind;
use super::{Shared, Surroundings, connection};
use crate::config::edge::Mqtt;
use crate::ingest::accept::{BindError, Bound, connections_max};
use crate::observe::metrics::Metrics;
use crate::sys::tasks::Tasks;

/// Bound sockets: clients can connect, and are answered once it is started.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<(Kind, Bound)>,
    connections_wanted: usize,
    connections_elsewhere: usize,
}

impl Listener {
    /// Binds what `[mqtt]` names. Needs no runtime, so that a taken port is known before anything slow begins.
    /// `connections_elsewhere`: connections of other ways in, for which open files must be left.
    pub fn bind(mqtt: &Mqtt, connections_elsewhere: usize) -> Result<Self, BindError> {
        let places = [
            (Kind::Tcp, "MQTT", "mqtt.listen", mqtt.listen),
            (Kind::Tls, "MQTT over TLS", "mqtt.tls_listen", mqtt.tls_listen),
            (Kind::Ws, "MQTT over WebSocket", "mqtt.ws_listen", mqtt.ws_listen),
            (Kind::Wss, "MQTT over WebSocket and TLS", "mqtt.wss_listen", mqtt.wss_listen),
        ];
        let mut sockets = Vec::new();
        for (kind, protocol, key, address) in places {
            if let Some(address) = address {
                sockets.push((kind, Bound::bind(protocol, key, address)?));
            }
        }
        Ok(Self { sockets, connections_wanted: mqtt.max_connections, connections_elsewhere })
    }

    /// Where clients can connect, with the ports that the system chose if 0 was asked for.
    pub fn local_addrs(&self) -> impl Iterator<Item = (Kind, SocketAddr)> {
        self.sockets.iter().map(|(kind, socket)| (*kind, socket.local_addr()))
    }

    /// Accepts and serves until `tasks` stops; then each connection finishes what is in flight, and clients of 5.0 are told.
    pub fn start(self, tasks: &Tasks, around: Surroundings<'_>, metrics: &Metrics) {
        let shared = Shared::new(around, tasks, metrics);
        if self.sockets.is_empty() {
            return;
        }
        let wanted = self.connections_wanted;
        let connections_max = connections_max("mqtt.max_connections", wanted, self.connections_elsewhere);
        // Each port holds a permit while it waits for the next client: without one more for each of the others, a port
        // that nobody uses would take a client's. So there can be three connections more than configured.
        let permits = Arc::new(Semaphore::new(connections_max + self.sockets.len() - 1));
        for (kind, socket) in self.sockets {
            let address = socket.local_addr();
            tracing::info!(%address, kind = kind.name(), connections_max, "MQTT listens");
            let (group, shared, permits) = (tasks.clone(), shared.clone(), permits.clone());
            tasks.spawn("mqtt accept", async move {
                let serve = |stream, peer, permit| {
                    let connection = connection::serve(shared.clone(), kind, stream, peer);
                    group.spawn_contained("mqtt connection", async move {
                        let _permit = permit;
                        connection.await;
                    });
                };
                socket.accept(permits, group.stopping(), shared.counters.accept_errors(), serve).await
            });
        }
        let stopping = tasks.stopping().clone();
        tasks.spawn("mqtt stop", async move {
            stopping.cancelled().await;
            shared.hub.disconnect_all(Reason::SERVER_SHUTTING_DOWN);
            Ok::<(), std::convert::Infallible>(())
        });
    }
}
