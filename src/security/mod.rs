//! Rustls set-up: trust, credentials.

pub mod server;
pub mod tls;
