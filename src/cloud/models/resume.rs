//! What a pack's topic holds already, of a publication that broke off: whether it can go on, and where. [pure]
//!
//! The head says how the rest was laid out, so who goes on needs nothing but the file and what is in the topic: the pieces
//! that are there are proven against the file's chunks, and the next ones follow from the same layout.

use std::collections::BTreeSet;

use crate::downlink::artefact::Trust;
use crate::models::chunks::Cut;
use crate::models::delta::Layout;
use crate::models::hash::Hash;
use crate::models::manifest::Signed;
use crate::models::pack::{self, Body, Head, HeadReader};

/// See the module.
pub struct Resume<'p> {
    signed: &'p Signed,
    cut: &'p Cut,
    trust: &'p Trust,
    /// Versions whose packs are complete.
    published: &'p BTreeSet<u64>,
    head: HeadReader,
    parts: Vec<Vec<u8>>,
    layout: Option<Layout>,
    places: Option<u32>,
    next: u32,
    bytes: u64,
    base_ms: Option<u64>,
}

/// How a pack goes on.
#[derive(Debug, PartialEq, Eq)]
pub struct Begun {
    /// The first place that is lacking.
    pub next: u32,
    /// Bytes of those that are there.
    pub bytes: u64,
    /// Publish time of place 0; `None`: nothing is there.
    pub base_ms: Option<u64>,
    /// How the pack is laid out, if its head says so.
    pub layout: Option<Layout>,
    /// Parts of a head that is not whole.
    pub parts: Vec<Vec<u8>>,
}

impl<'p> Resume<'p> {
    /// Of the pack of `signed`, whose file is cut as `cut`.
    pub fn new(signed: &'p Signed, cut: &'p Cut, trust: &'p Trust, published: &'p BTreeSet<u64>) -> Self {
        Self {
            signed,
            cut,
            trust,
            published,
            head: HeadReader::default(),
            parts: Vec::new(),
            layout: None,
            places: None,
            next: 0,
            bytes: 0,
            base_ms: None,
        }
    }

    /// Takes the next message that is there; the error says why the pack cannot be this one's.
    pub fn take(&mut self, bytes: &[u8], published_ms: u64) -> Result<(), String> {
        let message = pack::decode(bytes).map_err(|e| e.to_string())?;
        if message.place != self.next || *self.places.get_or_insert(message.places) != message.places {
            return Err(format!("it has place {} of {} where {} is due", message.place, message.places, self.next));
        }
        match message.body {
            Body::Head(part) if self.layout.is_none() => {
                let head = self.head.push(message.place, part).map_err(|e| e.to_string())?;
                self.parts.push(bytes.to_vec());
                if let Some(head) = head {
                    self.layout = Some(self.layout_of(&head, message.places)?);
                    self.parts.clear();
                }
            }
            Body::Piece(piece) => {
                let layout = self.layout.as_ref().ok_or("it has a piece before the end of its head")?;
                let wanted = layout.pieces.get((message.place - layout.heads.min(message.place)) as usize);
                let wanted: Vec<Hash> = wanted.into_iter().flatten().map(|chunk| chunk.hash).collect();
                if !piece.chunks().map(|(hash, _)| hash).eq(wanted) {
                    return Err(format!("the piece at place {} has other chunks than its head says", message.place));
                }
            }
            Body::Head(_) => return Err("it has two heads".to_owned()),
        }
        self.base_ms.get_or_insert(published_ms.saturating_sub(u64::from(message.place)));
        self.next += 1;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn layout_of(&self, head: &Head, places: u32) -> Result<Layout, String> {
        let other = || "it was begun with another file or manifest".to_owned();
        let begun = Signed::verify(&head.manifest, self.trust).map_err(|e| e.to_string())?;
        if begun.digest() != self.signed.digest() || head.index.fits(self.signed.manifest()).is_err() {
            return Err(other());
        }
        let cut = self.cut.chunks.iter().map(|chunk| (chunk.hash, chunk.length));
        if !head.index.entries().iter().map(|entry| (entry.hash, entry.length)).eq(cut) {
            return Err("it was cut in another way".to_owned());
        }
        let own = self.signed.manifest().version;
        let is_there = |version: u64| version == own || self.published.contains(&version);
        if let Some(pack) = head.index.packs().iter().find(|pack| !is_there(pack.version)) {
            return Err(format!("it needs the pack of version {}, which is not published", pack.version));
        }
        let layout = Layout::again(&head.index).filter(|layout| layout.places() == places);
        layout.ok_or_else(|| "its head does not say where all of its chunks are".to_owned())
    }

    /// After the last message that is there.
    pub fn begun(self) -> Begun {
        let Self { next, bytes, base_ms, layout, parts, .. } = self;
        Begun { next, bytes, base_ms, layout, parts }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::edge::Downlink;
    use crate::downlink::artefact::SecretKey;
    use crate::models::chunks::{self, Sizes};
    use crate::models::index::Index;
    use crate::models::manifest::{Format, Manifest, Name};

    const SMALL: Sizes = Sizes { min: 64, avg: 256, max: 1024 };

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32]).unwrap()
    }

    fn trust(n: u8) -> Trust {
        let artefact_keys = vec![key(n).public().to_string()];
        Trust::new(&Downlink { artefact_keys, ..Downlink::default() }).unwrap()
    }

    struct Version {
        signed: Signed,
        cut: Cut,
        layout: Layout,
        messages: Vec<Vec<u8>>,
    }

    fn version(version: u64, file: &[u8], kept: &[&Index]) -> Version {
        let manifest = Manifest {
            name: Name::parse("press").unwrap(),
            version,
            format: Format::Opaque,
            size: file.len() as u64,
            blake3: Hash::of(file),
            parent: None,
            metadata: Default::default(),
        };
        let signed = Signed::verify(manifest.sign(&key(1)).unwrap().encode().as_bytes(), &trust(1)).unwrap();
        let cut = chunks::cut(file, SMALL).unwrap();
        let layout = Layout::of(&signed, &cut, kept, 2048).unwrap();
        let mut messages = layout.head(&signed);
        for (place, piece) in (layout.heads..).zip(&layout.pieces) {
            let piece: Vec<&[u8]> = piece.iter().map(|c| &file[c.offset as usize..][..c.length as usize]).collect();
            messages.push(pack::encode_piece(place, layout.places(), &piece).unwrap());
        }
        Version { signed, cut, layout, messages }
    }

    /// What is there of `there`, in the eyes of who publishes `of`.
    fn resumed(of: &Version, there: &[Vec<u8>], trust: &Trust, published: &[u64]) -> Result<Begun, String> {
        let published = published.iter().copied().collect();
        let mut resume = Resume::new(&of.signed, &of.cut, trust, &published);
        for (place, message) in (0_u64..).zip(there) {
            resume.take(message, 1_000 + place)?;
        }
        Ok(resume.begun())
    }

    fn file(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let noise = std::iter::repeat_with(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        });
        noise.take(length).collect()
    }

    proptest! {
        /// Wherever it broke off: the same publisher goes on behind it, with the layout of whoever began.
        #[test]
        fn a_publication_goes_on_wherever_it_broke_off(seed: u64, length in 1_usize..20_000, at: prop::sample::Index) {
            let bytes = file(seed, length);
            let first = version(1, &bytes[..length / 2 + 1], &[]);
            let began = version(2, &bytes, &[&first.layout.index]);
            // Who goes on knows of no earlier version, and would lay it out in another way.
            let goes_on = version(2, &bytes, &[]);
            let there = at.index(began.messages.len() + 1);
            let begun = resumed(&goes_on, &began.messages[..there], &trust(1), &[1]).unwrap();
            prop_assert_eq!(begun.next as usize, there);
            prop_assert_eq!(begun.bytes as usize, began.messages[..there].iter().map(Vec::len).sum::<usize>());
            prop_assert_eq!(begun.base_ms, (there > 0).then_some(1_000));
            prop_assert_eq!(begun.layout, (there > 0).then_some(began.layout));
        }

        /// Whatever was changed in it: it is not taken for this one's, or the change is in what was read as it is.
        #[test]
        fn what_is_not_this_one_s_is_not_gone_on_with(seed: u64, at: prop::sample::Index, bit in 0..8_u32) {
            let began = version(2, &file(seed, 5_000), &[]);
            let mut there = began.messages.clone();
            let total: usize = there.iter().map(Vec::len).sum();
            let mut at = at.index(total);
            let changed = there.iter_mut().find_map(|message| {
                let found = at < message.len();
                if found { Some((message, at)) } else { at -= message.len(); None }
            });
            if let Some((message, at)) = changed {
                message[at] ^= 1 << bit;
            }
            match resumed(&began, &there, &trust(1), &[]) {
                Err(_) => {}
                // Compressed bytes have some bits to spare; what they hold is what it was.
                Ok(begun) => prop_assert_eq!(begun.layout, Some(began.layout)),
            }
        }
    }

    #[test]
    fn another_file_another_key_and_a_pack_that_is_not_there_are_told() {
        let bytes = file(7, 9_000);
        let first = version(1, &bytes[..5_000], &[]);
        let began = version(2, &bytes, &[&first.layout.index]);
        let whole = &began.messages;
        assert!(resumed(&began, whole, &trust(1), &[1]).is_ok());
        let other = version(2, &file(8, 9_000), &[]);
        assert!(resumed(&other, whole, &trust(1), &[1]).unwrap_err().contains("another file"));
        assert!(resumed(&began, whole, &trust(2), &[1]).unwrap_err().contains("signed by"));
        assert!(resumed(&began, whole, &trust(1), &[]).unwrap_err().contains("version 1, which is not published"));
        assert!(resumed(&began, &whole[1..], &trust(1), &[1]).unwrap_err().contains("where 0 is due"));
        let twice = [&whole[..], &whole[whole.len() - 1..]].concat();
        assert!(resumed(&began, &twice, &trust(1), &[1]).is_err());
        assert!(resumed(&began, &[b"x".to_vec()], &trust(1), &[1]).is_err());
    }
}
