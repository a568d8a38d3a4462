//! An event as it lies on disk. [pure]
//!
//! ```text
//! length u32 · crc32 u32 · version u8 · flags u8 · time i64 (ns) ·
//! id · source · type · subject · datacontenttype · dataschema   (u16 length + bytes; 0xFFFF: absent) ·
//! extensions u8 × (name, value)  · data (the rest)
//! ```
//! All numbers are little-endian; `length` counts what follows it, `crc32` (IEEE) covers what follows it.

use bytes::Bytes;

use super::{Event, Timestamp};

/// The version written; a reader refuses others.
pub const VERSION: u8 = 1;

const ABSENT: u16 = u16::MAX;
const HEAD: usize = 8;
const FLAG_ID_IS_OURS: u8 = 1;

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end before the record does.
    #[error("the record is cut short")]
    Short,
    /// The checksum does not match.
    #[error("the record's checksum is wrong: the bytes were changed after they were written")]
    Checksum,
    /// Written by a version of Tidegate that this one cannot read.
    #[error("the record has version {0}; this Tidegate reads version {VERSION}")]
    Version(u8),
    /// The checksum is right and the content is not: a defect of the writer.
    #[error("the record's fields do not fit together")]
    Malformed,
}

/// An event that borrows from its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRef<'a> {
    /// See [`Event::id`].
    pub id: &'a str,
    /// See [`Event::id_is_ours`].
    pub id_is_ours: bool,
    /// See [`Event::source`].
    pub source: &'a str,
    /// See [`Event::ty`].
    pub ty: &'a str,
    /// See [`Event::subject`].
    pub subject: Option<&'a str>,
    /// See [`Event::time`].
    pub time: Timestamp,
    /// See [`Event::datacontenttype`].
    pub datacontenttype: Option<&'a str>,
    /// See [`Event::dataschema`].
    pub dataschema: Option<&'a str>,
    extensions: &'a [u8],
    /// See [`Event::data`].
    pub data: &'a [u8],
}

impl<'a> EventRef<'a> {
    /// The key that keeps events in order: the subject; without one, the source.
    pub fn key(&self) -> &'a str {
        self.subject.unwrap_or(self.source)
    }

    /// The extension attributes, in the order given.
    pub fn extensions(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut rest = Cursor(self.extensions);
        std::iter::from_fn(move || {
            if rest.0.is_empty() {
                return None;
            }
            Some((rest.text().ok()??, rest.text().ok()??))
        })
    }

    /// A copy that owns its parts.
    pub fn to_event(&self) -> Event {
        Event {
            id: self.id.to_owned(),
            id_is_ours: self.id_is_ours,
            source: self.source.to_owned(),
            ty: self.ty.to_owned(),
            subject: self.subject.map(str::to_owned),
            time: self.time,
            datacontenttype: self.datacontenttype.map(str::to_owned),
            dataschema: self.dataschema.map(str::to_owned),
            extensions: self.extensions().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            data: Bytes::copy_from_slice(self.data),
        }
    }
}

/// Bytes that [`encode`] will append for `event`.
pub fn encoded_len(event: &Event) -> usize {
    let optional = |t: &Option<String>| 2 + t.as_ref().map_or(0, String::len);
    HEAD + 1
        + 1
        + 8
        + (2 + event.id.len())
        + (2 + event.source.len())
        + (2 + event.ty.len())
        + optional(&event.subject)
        + optional(&event.datacontenttype)
        + optional(&event.dataschema)
        + 2
        + event.extensions.iter().map(|(n, v)| 4 + n.len() + v.len()).sum::<usize>()
        + event.data.len()
}

/// Appends the record of `event`, which must have passed [`Event::check`].
pub fn encode(event: &Event, out: &mut Vec<u8>) {
    let start = out.len();
    out.reserve(encoded_len(event));
    out.extend_from_slice(&[0; HEAD]);
    out.push(VERSION);
    out.push(if event.id_is_ours { FLAG_ID_IS_OURS } else { 0 });
    out.extend_from_slice(&event.time.unix_ns().to_le_bytes());
    for required in [&event.id, &event.source, &event.ty] {
        put(out, Some(required));
    }
    for optional in [&event.subject, &event.datacontenttype, &event.dataschema] {
        put(out, optional.as_deref());
    }
    let extensions: usize = event.extensions.iter().map(|(n, v)| 4 + n.len() + v.len()).sum();
    // check() bounds extensions to 32 × (64 + 1024 + 4) bytes.
    out.extend_from_slice(&u16::try_from(extensions).unwrap_or(u16::MAX).to_le_bytes());
    for (name, value) in &event.extensions {
        put(out, Some(name));
        put(out, Some(value));
    }
    out.extend_from_slice(&event.data);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    let crc = crc32fast::hash(&out[start + HEAD..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + HEAD].copy_from_slice(&crc.to_le_bytes());
}

/// The total length of the record at the start of `bytes`, if its length field is there.
pub fn peek_len(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(..4)?;
    Some(4 + u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize)
}

/// Reads the record at the start of `bytes`; with it, the number of bytes it took.
pub fn decode(bytes: &[u8]) -> Result<(EventRef<'_>, usize), RecordError> {
    let total = peek_len(bytes).ok_or(RecordError::Short)?;
    if total < HEAD + 2 {
        return Err(RecordError::Malformed);
    }
    let record = bytes.get(..total).ok_or(RecordError::Short)?;
    let mut rest = Cursor(&record[4..]);
    let crc = u32::from_le_bytes(rest.array()?);
    if crc32fast::hash(rest.0) != crc {
        return Err(RecordError::Checksum);
    }
    let [version, flags] = rest.array()?;
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    let time = Timestamp::from_unix_ns(i64::from_le_bytes(rest.array()?));
    let mut required = || rest.text()?.ok_or(RecordError::Malformed);
    let (id, source, ty) = (required()?, required()?, required()?);
    let (subject, datacontenttype, dataschema) = (rest.text()?, rest.text()?, rest.text()?);
    let extensions_len = u16::from_le_bytes(rest.array()?);
    let extensions = rest.take(usize::from(extensions_len))?;
    let event = EventRef {
        id,
        id_is_ours: flags & FLAG_ID_IS_OURS != 0,
        source,
        ty,
        subject,
        time,
        datacontenttype,
        dataschema,
        extensions,
        data: rest.0,
    };
    Ok((event, total))
}

fn put(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => out.extend_from_slice(&ABSENT.to_le_bytes()),
        Some(t) => {
            // check() bounds attributes to ATTRIBUTE_BYTES_MAX, far below 0xFFFF.
            let length = u16::try_from(t.len()).unwrap_or(ABSENT - 1).min(ABSENT - 1);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&t.as_bytes()[..usize::from(length)]);
        }
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], RecordError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(RecordError::Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        self.take(N)?.try_into().map_err(|_| RecordError::Malformed)
    }

    fn text(&mut self) -> Result<Option<&'a str>, RecordError> {
        let length = u16::from_le_bytes(self.array()?);
        if length == ABSENT {
            return Ok(None);
        }
        let bytes = self.take(usize::from(length))?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| RecordError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_event_survives_the_disk_format() {
        let mut out = b"before".to_vec();
        encode(&sample("1"), &mut out);
        assert_eq!(out.len() - 6, encoded_len(&sample("1")));
        out.extend_from_slice(b"after");
        let (event, used) = decode(&out[6..]).unwrap();
        assert_eq!(event.to_event(), sample("1"));
        assert_eq!(used, out.len() - 11);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let mut record = Vec::new();
        encode(&sample("1"), &mut record);
        for i in 0..record.len() {
            assert!(decode(&record[..i]).is_err(), "cut at {i}");
            for bit in 0..8 {
                let mut bad = record.clone();
                bad[i] ^= 1 << bit;
                assert!(decode(&bad).is_err(), "bit {bit} of byte {i}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_event_survives(
            id in "\\PC{1,40}", subject in proptest::option::of("\\PC{1,40}"), ours in any::<bool>(),
            ns in any::<i64>(), names in proptest::collection::btree_map("[a-z0-9]{1,9}", "\\PC{0,20}", 0..5),
            data in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let event = Event {
                id, subject, id_is_ours: ours, time: Timestamp::from_unix_ns(ns),
                extensions: names.into_iter().collect(), data: data.into(), ..sample("x")
            };
            let mut out = Vec::new();
            encode(&event, &mut out);
            prop_assert_eq!(decode(&out).unwrap().0.to_event(), event);
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&noise);
        }
    }
}
