//! A TCP proxy that can cut its connections, or go silent as a dead link does.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Forwards 127.0.0.1:port to a broker.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    open: Mutex<Vec<TcpStream>>,
    silent: AtomicBool,
    ended: AtomicBool,
    forwarded: AtomicU64,
    /// Bytes per second of each connection and way; 0: as fast as they come.
    rate: AtomicU64,
    /// Of the next connections: whether they are let through.
    fates: Mutex<VecDeque<bool>>,
    refused: AtomicU64,
    closed: AtomicBool,
}

impl Proxy {
    /// Listens on `port` and forwards to `to`.
    pub fn start(port: u16, to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let state = Arc::new(State::default());
        let shared = state.clone();
        spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.ended.load(Ordering::Relaxed) {
                    return;
                }
                let fate = shared.fates.lock().unwrap().pop_front();
                if fate == Some(false) || shared.closed.load(Ordering::Relaxed) {
                    shared.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let Ok(broker) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let mut open = shared.open.lock().unwrap();
                open.retain(|s| s.peer_addr().is_ok());
                for (from, into) in [(&client, &broker), (&broker, &client)] {
                    let (from, into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                    open.push(from.try_clone().unwrap());
                    let state = shared.clone();
                    spawn(move || forward(from, into, &state));
                }
            }
        });
        Self { port, state }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts all connections at once; new ones are taken.
    pub fn cut(&self) {
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether the next connections are let through or closed at once; those after them are.
    pub fn let_through(&self, fates: &[bool]) {
        *self.state.fates.lock().unwrap() = fates.iter().copied().collect();
    }

    /// Nobody is let through any more, and who is cut off.
    pub fn close(&self) {
        self.state.closed.store(true, Ordering::Relaxed);
        self.cut();
    }

    /// Connections that were not let through.
    pub fn refused(&self) -> u64 {
        self.state.refused.load(Ordering::Relaxed)
    }

    /// Silent: what is sent is swallowed and nothing comes back, and no connection ends.
    pub fn silence(&self, silent: bool) {
        self.state.silent.store(silent, Ordering::Relaxed);
    }

    /// Each connection moves so many bytes per second each way from now on; 0: as fast as they come.
    pub fn slow(&self, bytes_per_s: u64) {
        self.state.rate.store(bytes_per_s, Ordering::Relaxed);
    }

    /// Bytes forwarded so far, both ways.
    pub fn forwarded(&self) -> u64 {
        self.state.forwarded.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        self.cut();
        let _ = TcpStream::connect_timeout(&([127, 0, 0, 1], self.port).into(), Duration::from_secs(1));
    }
}

fn forward(mut from: TcpStream, mut into: TcpStream, state: &State) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0 {
            break;
        }
        state.forwarded.fetch_add(n as u64, Ordering::Relaxed);
        // 0: as fast as it comes.
        let wait = (n as u64 * 1_000_000).checked_div(state.rate.load(Ordering::Relaxed));
        wait.into_iter().for_each(|us| std::thread::sleep(Duration::from_micros(us)));
        if !state.silent.load(Ordering::Relaxed) && into.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = into.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[allow(clippy::disallowed_methods)] // a test's helper, outside the program
fn spawn(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}
