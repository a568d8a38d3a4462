//! Changes of the commands' state as they go to the journal: applied in order they give the state again. [pure]
//!
//! ```text
//! record  version u8 · kind u8 · fields
//! text    length u16 · UTF-8        (an absent content type is an empty one)
//! bytes   length u32 · bytes
//! ```
//! All numbers are little-endian. The journal's frames carry the checksum.

use std::sync::Arc;

use bytes::Bytes;

use super::command::{Closed, Command, Config, Digest, Millis, Outcome, Status};
use crate::journal::time_line::{READING_LEN, Reading};

/// The version written; a reader refuses others.
pub const VERSION: u8 = 1;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A command waits; also written again when the journal is tidied.
    Added(Arc<Command>),
    /// A command is over.
    Ended {
        /// Whose.
        device: Arc<str>,
        /// Which.
        id: Arc<str>,
        /// How.
        outcome: Outcome,
        /// When.
        closed: Millis,
        /// Whether that has gone upstream.
        reported: bool,
    },
    /// The end of a command has gone upstream.
    Reported {
        /// Whose.
        device: Arc<str>,
        /// Which.
        id: Arc<str>,
    },
    /// The whole of a command that is over: written when the journal is tidied.
    Closed(Arc<Closed>),
    /// A device's configuration.
    Config(Arc<Config>),
    /// A device has none any more.
    NoConfig {
        /// Whose.
        device: Arc<str>,
    },
    /// How far the time line and the wall clock are; written now and then.
    Time(Reading),
    /// A command that waits was published by MQTT: sessions that subscribe to it have it.
    Published {
        /// Whose.
        device: Arc<str>,
        /// Which.
        id: Arc<str>,
    },
    /// The same of a device's configuration.
    ConfigPublished {
        /// Whose.
        device: Arc<str>,
        /// Which one.
        version: u64,
    },
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a version of Tidegate that this one cannot read.
    #[error("the record has version {0}; this Tidegate reads version {VERSION}")]
    Version(u8),
    /// The content does not fit together.
    #[error("the record of a command is malformed")]
    Malformed,
}

const ADDED: u8 = 1;
const ENDED: u8 = 2;
const REPORTED: u8 = 3;
const CLOSED: u8 = 4;
const CONFIG: u8 = 5;
const NO_CONFIG: u8 = 6;
const TIME: u8 = 7;
const PUBLISHED: u8 = 8;
const CONFIG_PUBLISHED: u8 = 9;

impl Record {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer(vec![VERSION]);
        match self {
            Self::Added(c) => {
                out.u8(ADDED);
                out.texts(&[&c.device, &c.id, &c.name, c.content_type.as_deref().unwrap_or_default()]);
                out.u64s(&[c.seq, c.created, c.expires]);
                out.bytes(&c.payload);
            }
            Self::Ended { device, id, outcome, closed, reported } => {
                out.u8(ENDED);
                out.texts(&[device, id]);
                out.outcome(outcome, *reported);
                out.u64s(&[*closed]);
            }
            Self::Reported { device, id } => {
                out.u8(REPORTED);
                out.texts(&[device, id]);
            }
            Self::Closed(c) => {
                out.u8(CLOSED);
                out.texts(&[&c.device, &c.id, &c.name]);
                out.outcome(&c.outcome, c.reported);
                out.u64s(&[c.seq, c.created, c.expires, c.closed]);
                out.0.extend_from_slice(&c.digest.0.to_le_bytes());
            }
            Self::Config(c) => {
                out.u8(CONFIG);
                out.texts(&[&c.device, c.content_type.as_deref().unwrap_or_default()]);
                out.u64s(&[c.version, c.updated]);
                out.bytes(&c.payload);
            }
            Self::NoConfig { device } => {
                out.u8(NO_CONFIG);
                out.texts(&[device]);
            }
            Self::Time(reading) => {
                out.u8(TIME);
                out.0.extend_from_slice(&reading.encode());
            }
            Self::Published { device, id } => {
                out.u8(PUBLISHED);
                out.texts(&[device, id]);
            }
            Self::ConfigPublished { device, version } => {
                out.u8(CONFIG_PUBLISHED);
                out.texts(&[device]);
                out.u64s(&[*version]);
            }
        }
        out.0
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut from = Reader(bytes);
        match from.u8()? {
            VERSION => {}
            other => return Err(RecordError::Version(other)),
        }
        let record = match from.u8()? {
            ADDED => Self::Added(Arc::new(Command {
                device: from.text()?.into(),
                id: from.text()?.into(),
                name: from.text()?.to_owned(),
                content_type: from.optional()?,
                seq: from.u64()?,
                created: from.u64()?,
                expires: from.u64()?,
                payload: from.bytes()?,
            })),
            ENDED => {
                let (device, id) = (from.text()?.into(), from.text()?.into());
                let (outcome, reported) = from.outcome()?;
                Self::Ended { device, id, outcome, reported, closed: from.u64()? }
            }
            REPORTED => Self::Reported { device: from.text()?.into(), id: from.text()?.into() },
            CLOSED => Self::Closed(Arc::new(from.closed()?)),
            CONFIG => Self::Config(Arc::new(Config {
                device: from.text()?.into(),
                content_type: from.optional()?,
                version: from.u64()?,
                updated: from.u64()?,
                payload: from.bytes()?,
            })),
            NO_CONFIG => Self::NoConfig { device: from.text()?.into() },
            TIME => Self::Time(Reading::decode(from.take(READING_LEN)?).ok_or(RecordError::Malformed)?),
            PUBLISHED => Self::Published { device: from.text()?.into(), id: from.text()?.into() },
            CONFIG_PUBLISHED => Self::ConfigPublished { device: from.text()?.into(), version: from.u64()? },
            _ => return Err(RecordError::Malformed),
        };
        if from.0.is_empty() { Ok(record) } else { Err(RecordError::Malformed) }
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, n: u8) {
        self.0.push(n);
    }

    fn u64s(&mut self, numbers: &[u64]) {
        numbers.iter().for_each(|n| self.0.extend_from_slice(&n.to_le_bytes()));
    }

    /// Names are far below 64 KiB: `command`'s limits.
    fn texts(&mut self, texts: &[&str]) {
        for text in texts {
            let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
            self.0.extend_from_slice(&length.to_le_bytes());
            self.0.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
        }
    }

    /// Payloads have at most 4 MiB, the largest `commands.max_command`.
    fn bytes(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn outcome(&mut self, outcome: &Outcome, reported: bool) {
        self.u8(match outcome.status {
            Status::Done => 0,
            Status::Failed => 1,
            Status::Rejected => 2,
            Status::Expired => 3,
            Status::Cancelled => 4,
        });
        self.u8(u8::from(reported));
        self.bytes(&outcome.detail);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], RecordError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(RecordError::Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        self.take(N)?.try_into().map_err(|_| RecordError::Malformed)
    }

    fn u8(&mut self) -> Result<u8, RecordError> {
        self.array::<1>().map(|[n]| n)
    }

    fn u64(&mut self) -> Result<u64, RecordError> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<&'a str, RecordError> {
        let length = u16::from_le_bytes(self.array()?);
        std::str::from_utf8(self.take(length.into())?).map_err(|_| RecordError::Malformed)
    }

    fn optional(&mut self) -> Result<Option<String>, RecordError> {
        self.text().map(|text| (!text.is_empty()).then(|| text.to_owned()))
    }

    fn bytes(&mut self) -> Result<Bytes, RecordError> {
        let length = usize::try_from(u32::from_le_bytes(self.array()?)).map_err(|_| RecordError::Malformed)?;
        self.take(length).map(Bytes::copy_from_slice)
    }

    fn outcome(&mut self) -> Result<(Outcome, bool), RecordError> {
        let status = *Status::ALL.get(usize::from(self.u8()?)).ok_or(RecordError::Malformed)?;
        let reported = match self.u8()? {
            0 => false,
            1 => true,
            _ => return Err(RecordError::Malformed),
        };
        Ok((Outcome { status, detail: self.bytes()? }, reported))
    }

    fn closed(&mut self) -> Result<Closed, RecordError> {
        let (device, id, name) = (self.text()?.into(), self.text()?.into(), self.text()?.to_owned());
        let (outcome, reported) = self.outcome()?;
        Ok(Closed {
            device,
            id,
            name,
            outcome,
            reported,
            seq: self.u64()?,
            created: self.u64()?,
            expires: self.u64()?,
            closed: self.u64()?,
            digest: Digest(u128::from_le_bytes(self.array()?)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn command() -> Arc<Command> {
        Arc::new(Command {
            device: "dev-1".into(),
            id: "c1".into(),
            seq: 7,
            name: "open".into(),
            content_type: Some("text/plain".into()),
            payload: Bytes::from_static(b"50 %"),
            created: 1,
            expires: 2,
        })
    }

    fn every() -> Vec<Record> {
        let (device, id): (Arc<str>, Arc<str>) = ("dev-1".into(), "c1".into());
        let outcome = Outcome { status: Status::Failed, detail: Bytes::from_static(b"\"stuck\"") };
        let closed = Closed {
            device: device.clone(),
            id: id.clone(),
            seq: 7,
            name: "open".into(),
            digest: Digest(0x0102_0304),
            created: 1,
            expires: 2,
            outcome: outcome.clone(),
            closed: 3,
            reported: true,
        };
        let config = Config {
            device: device.clone(),
            version: 4,
            content_type: None,
            payload: Bytes::from_static(b"{}"),
            updated: 5,
        };
        vec![
            Record::Added(command()),
            Record::Ended { device: device.clone(), id: id.clone(), outcome, closed: 3, reported: false },
            Record::Reported { device: device.clone(), id: id.clone() },
            Record::Closed(Arc::new(closed)),
            Record::Config(Arc::new(config)),
            Record::NoConfig { device: device.clone() },
            Record::Time(Reading { line_ms: 9, wall_ms: -1 }),
            Record::Published { device: device.clone(), id },
            Record::ConfigPublished { device, version: 4 },
        ]
    }

    #[test]
    fn every_record_survives_and_no_cut_or_longer_one_passes() {
        for record in every() {
            let bytes = record.encode();
            assert_eq!(Record::decode(&bytes), Ok(record.clone()));
            for end in 0..bytes.len() {
                assert!(Record::decode(&bytes[..end]).is_err(), "{record:?} cut at {end}");
            }
            assert!(Record::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        assert_eq!(Record::decode(&[2, ADDED]), Err(RecordError::Version(2)));
    }

    /// Written by version 1; every later version must read it.
    #[test]
    fn the_golden_records_are_read() {
        let golden = [
            "0101050064 65762d310200633104006f70656e0a00746578742f706c61696e070000000000000001000000000000000200000000000000040000003530 2025",
            "0102050064 65762d3102006331010007000000 22737475636b220300000000000000",
            "01030500646576 2d3102006331",
            "01040500646576 2d310200633104006f70656e 010107000000 22737475636b22 0700000000000000 0100000000000000 0200000000000000 0300000000000000 04030201000000000000000000000000",
            "01050500646576 2d310000 0400000000000000 0500000000000000 020000007b7d",
            "01060500646576 2d31",
            "0107 0900000000000000 ffffffffffffffff",
            "01080500646576 2d3102006331",
            "01090500646576 2d31 0400000000000000",
        ];
        for (record, text) in every().into_iter().zip(golden) {
            let hex: Vec<u8> = text.bytes().filter(|b| *b != b' ').collect();
            let bytes: Vec<u8> =
                hex.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
            assert_eq!(Record::decode(&bytes), Ok(record.clone()));
            assert_eq!(record.encode(), bytes, "{record:?}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..80), kind in 0..11_u8) {
            let _ = Record::decode(&noise);
            let _ = Record::decode(&[&[VERSION, kind], &noise[..]].concat());
        }
    }
}
