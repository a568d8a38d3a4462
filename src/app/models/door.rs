//! The door for an operator on this gateway: a socket that only whom the models belong to can open, so that a way back
//! needs neither a network nor a token.
//!
//! One line in, `rollback NAME`, one line of JSON out: `{"version":6}` or `{"error":"…"}`.

use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::Order;
use crate::models::manifest::{NAME_BYTES_MAX, Name};
use crate::models::store::DIR;

/// The socket, beside the models; no model has such a name.
const DOOR: &str = "door.sock";

/// Longest line that is read.
const LINE_BYTES_MAX: u64 = NAME_BYTES_MAX as u64 + 32;

/// Time for whoever knocks to say what for.
const LINE_MAX: Duration = Duration::from_secs(5);

/// Time for the answer: the version before may have to be read whole first, a gigabyte from a slow card.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// Only for the user that the gateway runs as.
const MODE: u32 = 0o600;

/// Opens the door below `data_dir`, whose models this process holds.
pub(super) fn open(data_dir: &Path) -> io::Result<UnixListener> {
    let path = path(data_dir);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(MODE))?;
    Ok(listener)
}

/// Lets one after the other in.
pub(super) async fn keep(door: UnixListener, orders: mpsc::Sender<Order>) {
    loop {
        let Ok((stream, _)) = door.accept().await else {
            tokio::time::sleep(LINE_MAX).await; // no descriptor is free
            continue;
        };
        if let Err(reason) = serve(stream, &orders).await {
            tracing::debug!(%reason, "who asked for models is gone");
        }
    }
}

async fn serve(stream: UnixStream, orders: &mpsc::Sender<Order>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    timeout(LINE_MAX, tokio::io::BufReader::new(read.take(LINE_BYTES_MAX)).read_line(&mut line)).await??;
    let answer = match line.trim_end().strip_prefix("rollback ").and_then(Name::parse) {
        None => Err("write: rollback NAME".to_owned()),
        Some(name) => {
            let (answer, answered) = oneshot::channel();
            let stopping = || Err("the gateway is stopping".to_owned());
            match orders.send(Order::Rollback(name, answer)).await {
                Ok(()) => answered.await.unwrap_or_else(|_| stopping()),
                Err(_) => stopping(),
            }
        }
    };
    let answer = answer.map_or_else(|error| json!({ "error": error }), |version| json!({ "version": version }));
    write.write_all(format!("{answer}\n").as_bytes()).await
}

/// Asks the gateway that holds the models below `data_dir` to go back; which version is in use now. Blocks.
pub fn ask(data_dir: &Path, name: &Name) -> Result<u64, String> {
    let path = path(data_dir);
    let asked = || {
        let mut stream = net::UnixStream::connect(&path)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(LINE_MAX))?;
        stream.write_all(format!("rollback {name}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream.take(64 << 10)).read_line(&mut line)?;
        Ok::<_, io::Error>(line)
    };
    let line = asked().map_err(|e| format!("the running gateway cannot be asked at {}: {e}", path.display()))?;
    let answer: Value =
        serde_json::from_str(&line).map_err(|_| "the gateway has ended before it answered".to_owned())?;
    match (answer["version"].as_u64(), answer["error"].as_str()) {
        (Some(version), _) => Ok(version),
        (None, error) => Err(error.unwrap_or("the gateway's answer has no version").to_owned()),
    }
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(DIR).join(DOOR)
}
