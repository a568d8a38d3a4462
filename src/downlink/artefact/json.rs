//! Reading JSON that others wrote: within a size, and with errors that never repeat what was in it. [pure]

use serde::Deserialize;

/// Reads at most `bytes_max` bytes of JSON. The error is a part of a sentence: "is not …, at line 1 column 7".
pub fn read<'de, T: Deserialize<'de>>(bytes: &'de [u8], bytes_max: usize) -> Result<T, JsonError> {
    if bytes.len() > bytes_max {
        return Err(JsonError::TooLarge { bytes: bytes.len(), bytes_max });
    }
    serde_json::from_slice(bytes).map_err(|e| JsonError::Malformed {
        // Its words for wrong data repeat the data, which may hold credentials.
        what: match e.classify() {
            serde_json::error::Category::Data => "has a field that is missing, unknown, given twice or wrong",
            serde_json::error::Category::Eof => "ends too early",
            _ => "is no JSON",
        },
        line: e.line(),
        column: e.column(),
    })
}

/// Why it cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// More bytes than there may be.
    #[error("has {bytes} bytes, at most {bytes_max} are taken")]
    TooLarge {
        /// As many as there are.
        bytes: usize,
        /// As many as there may be.
        bytes_max: usize,
    },
    /// It is something else.
    #[error("{what} (line {line}, column {column})")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// From 1.
        line: usize,
        /// From 1; 0 where the line has none.
        column: usize,
    },
}

/// Bytes as base64 text, for `#[serde(with)]`.
pub mod base64 {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer};

    /// As text.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    /// From text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Times as RFC 3339 text, for `#[serde(with)]`.
pub mod time {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::event::time::Timestamp;

    /// As text.
    pub fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    /// From text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        Timestamp::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Times that may be missing, for `#[serde(with, default)]`.
pub mod optional_time {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::event::time::Timestamp;

    /// As text, or null.
    pub fn serialize<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => serializer.collect_str(time),
            None => serializer.serialize_none(),
        }
    }

    /// From text, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| Timestamp::parse(&text).map_err(serde::de::Error::custom)).transpose()
    }
}
