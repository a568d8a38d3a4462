//! Rustls set-up: trust, credentials.
