//! Wiring only: builds edge and cloud from their configuration; order of start and stop.
