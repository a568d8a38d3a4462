//! Tidegate sits between devices and Apache Pulsar. On a gateway it puts every event on disk before
//! it answers, and delivers it to Pulsar once and in order, however often the link, the power or the
//! broker goes away. In the cloud the same binary consumes, stores and streams what arrived.
//!
//! ```text
//! device ──HTTP──► ingest ─► outbox ─► uplink ─► Pulsar ─► cloud ─┬─► sinks (files)
//!                    ▲         │ on disk   once,              │   ├─► audit
//!                    └─ 202 ◄──┘           in order           │   └─► stream (tail)
//! ```
//!
//! The modules, in the order in which an event meets them:

pub mod event;
pub mod inference;
pub mod ingest;
pub mod journal;
pub mod outbox;
pub mod pulsar;
pub mod uplink;

pub mod cloud;
pub mod downlink;
pub mod models;

pub mod app;
pub mod cli;
pub mod config;
pub mod observe;
pub mod security;
pub mod sys;
