//! A log of records on disk: appended by many, synced in groups, read once at the start, tidied by writing what is
//! still alive again at its end.
