//! placeholder, replaced by the outbox work
