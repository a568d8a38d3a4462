//! Rustls set-up: trust, credentials.

pub mod tls;
