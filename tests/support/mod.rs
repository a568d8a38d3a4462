//! What end-to-end tests share. Each test starts its servers on free ports in its own directories and cleans up.

#![allow(dead_code)] // each test binary uses a part of it

pub mod files;
pub mod fleet;
pub mod oracle;
pub mod process;
pub mod random;
pub mod witness;

/// A number from the environment, for the long versions of tests.
pub fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")),
        Err(_) => default,
    }
}

/// Lets this process open `files` files, if the hard limit allows it.
pub fn raise_open_files(files: u64) -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|c| c >= files) {
        return true;
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: limit.maximum }).is_ok()
}
