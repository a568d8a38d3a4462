//! The far end: consumes lanes, removes duplicates, stores, proves, streams.
