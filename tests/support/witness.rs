//! The independent witness: Pulsar's official Python client writes down what is in a topic.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::oracle::Arrival;
use super::python::python;

/// One message as the witness saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// CloudEvents id.
    pub id: String,
    /// Partition key.
    pub key: String,
    /// Property `tg_stream`.
    pub stream: String,
    /// Property `tg_seq`.
    pub seq: u64,
    /// CRC32 of the payload.
    pub crc: u32,
    /// Partition's topic name.
    pub topic: String,
}

/// A running witness; killed when dropped.
pub struct Witness {
    child: Child,
    output: PathBuf,
}

impl Witness {
    /// Starts to write down `topic` from its first message on.
    pub fn start(service_url: &str, topic: &str, output: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/witness.py");
        let child = Command::new(python())
            .arg(script)
            .args([service_url, topic])
            .arg(output)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("start the witness");
        Self { child, output: output.to_owned() }
    }

    /// Everything seen so far.
    pub fn seen(&self) -> Vec<Seen> {
        let text = fs::read_to_string(&self.output).unwrap_or_default();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().filter_map(parse).collect()
    }

    /// Waits until at least `count` messages were seen and none came for 2 s, at most `bound`.
    pub fn settle(&self, count: u64, bound: Duration) -> Vec<Seen> {
        let end = Instant::now() + bound;
        let (mut length, mut since) = (0, Instant::now());
        loop {
            let now = fs::metadata(&self.output).map_or(0, |m| m.len());
            if now != length {
                (length, since) = (now, Instant::now());
            }
            let quiet = since.elapsed() > Duration::from_secs(2);
            if Instant::now() > end || (quiet && self.seen().len() as u64 >= count) {
                return self.seen();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// What the oracle needs of it.
pub fn arrivals(seen: &[Seen]) -> Vec<Arrival> {
    seen.iter().map(|s| Arrival { id: s.id.clone(), crc: s.crc }).collect()
}

fn parse(line: &str) -> Option<Seen> {
    let mut fields = line.split('\t');
    let mut next = || fields.next();
    let (id, key, stream) = (next()?.to_owned(), next()?.to_owned(), next()?.to_owned());
    Some(Seen {
        id,
        key,
        stream,
        seq: next()?.parse().unwrap_or(0),
        crc: next()?.parse().ok()?,
        topic: next()?.to_owned(),
    })
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
