//! Ports for servers of tests: free, each given once in this process, and outside the range from which Linux takes those of
//! outgoing connections (32768 to 60999 unless told otherwise), which would otherwise take one between its choice and its use.

use std::hash::{BuildHasher as _, RandomState};
use std::net::TcpListener;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// Begins somewhere else in every process, so that tests that run beside one another seldom look at the same ones.
static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| {
    let begin = RandomState::new().hash_one(std::process::id()) % u64::from(COUNT);
    AtomicU32::new(u32::try_from(begin).unwrap())
});

/// A port at which nobody listened a moment ago.
pub fn free_port() -> u16 {
    for _ in 0..COUNT {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed) % u32::from(COUNT);
        let port = FIRST + u16::try_from(turn).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} on")
}

/// Several.
pub fn free_ports<const N: usize>() -> [u16; N] {
    std::array::from_fn(|_| free_port())
}
