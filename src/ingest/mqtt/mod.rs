//! The MQTT way in, and the site's own messaging: 3.1.1 and 5.0 over TCP, TLS and WebSocket.
//!
//! ```text
//! bytes ─► packet (decode, strict) ─► connection ─┬─► broker [pure]: sessions, subscriptions, retained, wills
//!                                                 │      └─► records ─► journal (fdatasync) ─► answers
//!                                                 └─► mapping ─► outbox (fdatasync) ─► PUBACK, PUBREC
//! ```
//! The broker decides and never waits; the connection moves bytes and holds each answer back until everything
//! it promises is on disk.

pub mod broker;
pub mod packet;
pub mod sys_topics;
pub mod topic;
pub mod upstream;
