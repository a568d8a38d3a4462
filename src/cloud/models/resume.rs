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
