//! Rustls set-up: whom we trust as a client, what we show as a server, and how long that lasts.

pub mod certificates;
pub mod server;
pub mod tls;
