//! From a file on this machine's disk to a version in the catalogue.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Seek as _};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::catalogue::{Event, Pack, Version, Void, What};
use super::resume::{Begun, Resume};
use super::{Models, PublishError, Publishing, TURNS, format};
use crate::cloud::control::wire::{Bulk, Outgoing, read_all};
use crate::downlink::artefact::Trust;
use crate::models::chunks::{self, Chunk, Cut, Sizes};
use crate::models::delta::Layout;
use crate::models::hash::Hash;
use crate::models::index::Index;
use crate::models::manifest::{Manifest, Signed};
use crate::models::pack::{self, Body, HeadReader, PIECE_BYTES_MAX};
use crate::pulsar::names;

/// Earlier versions whose chunks do not travel again, besides the parent: each costs the reading of its head, and a gateway
/// has the last one or two.
const KEPT_MAX: usize = 8;

/// Messages that are compressed ahead of being sent: 2 MiB at most.
const AHEAD: usize = 8;

/// Messages of a topic that was begun which may be under way while they are read.
const PERMITS: u32 = 64;

/// What a publication came to.
#[derive(Debug)]
pub struct Stored {
    /// The version.
    pub version: Version,
    /// It was published before.
    pub was_there: bool,
}

impl Models {
    /// Whether a version may be published, before its file is looked at; `Some`: the same one is published.
    pub(super) fn judge(&self, manifest: &[u8]) -> Result<(Signed, Option<Stored>), PublishError> {
        self.expect_read()?;
        let trust = self.0.control.trust().map_err(PublishError::Catalogue)?;
        let signed = Signed::verify(manifest, &trust)?;
        let Manifest { name, version, size, .. } = signed.manifest();
        if *size > self.0.config.max_bytes {
            return Err(PublishError::TooLarge { size: *size, max: self.0.config.max_bytes });
        }
        let there = self.published(&signed)?;
        tracing::debug!(%name, version, is_there = there.is_some(), "a model's manifest is good");
        Ok((signed, there))
    }

    /// The same version, if it is published; an error if it cannot be any more.
    fn published(&self, signed: &Signed) -> Result<Option<Stored>, PublishError> {
        let Manifest { name, version, .. } = signed.manifest();
        let shared = self.lock();
        match shared.catalogue.get(name, *version) {
            Some(known) if known.digest == signed.digest() => {
                Ok(Some(Stored { version: known.clone(), was_there: true }))
            }
            _ => Ok(shared.catalogue.expect_next(name, *version).map(|()| None)?),
        }
    }

    /// Publishes a version. Dropped half-way, what was written stays, and the same again goes on behind it.
    pub(super) async fn publish(&self, signed: Signed, file: File, by: &str) -> Result<Stored, PublishError> {
        let Manifest { name, version, size, format, .. } = signed.manifest().clone();
        let turn = usize::from(Hash::of(name.as_str().as_bytes()).bytes()[0]) % TURNS;
        let _turn = self.0.turns.get(turn).ok_or(PublishError::Busy)?.lock().await;
        // Somebody may have published it while this one waited.
        if let Some(stored) = self.published(&signed)? {
            return Ok(stored);
        }
        let file = Arc::new(file);
        let (reads, begun) = (file.clone(), std::time::Instant::now());
        let cut = blocking(move || {
            format::check(format, &*reads, size)?;
            (&*reads).rewind()?;
            Ok(chunks::cut(BufReader::new(&*reads), Sizes::STANDARD)?)
        });
        let cut = cut.await?;
        let kept = self.kept(signed.manifest()).await?;
        let layout = Layout::of(&signed, &cut, &kept.iter().collect::<Vec<_>>(), PIECE_BYTES_MAX)?;
        let progress = Publishing { version, places: 0, of_places: layout.places() };
        let _shown = Shown::new(self, signed.manifest(), progress);
        let pack = self.write_pack(&signed, &cut, layout, file).await?;
        let what = What::Published { manifest: signed.envelope().encode(), signer: signed.signer().to_string(), pack };
        let at_ms = u64::try_from(self.0.clock.unix_ms()).unwrap_or(0);
        let version = match self.append(&Event { at_ms, by: by.to_owned(), what }).await {
            // Of two processes that append the same the first counts, for both.
            Err(PublishError::Void(Void::NotHigher { .. })) => match self.published(&signed)? {
                Some(stored) => return Ok(stored),
                None => return Err(PublishError::Busy),
            },
            done => done?,
        };
        self.0.meters.published.inc();
        let ms = begun.elapsed().as_millis();
        tracing::info!(%name, version = version.manifest.version, by, bytes = pack.bytes, size, ms, "a model was published");
        Ok(Stored { version, was_there: false })
    }

    /// The indexes of earlier versions, from the heads of their packs.
    async fn kept(&self, manifest: &Manifest) -> Result<Vec<Index>, PublishError> {
        let kept = self.lock().catalogue.kept(manifest, KEPT_MAX);
        let mut indexes = Vec::with_capacity(kept.len());
        for version in kept {
            let (name, number) = (&version.manifest.name, version.manifest.version);
            let topic = names::pack_topic(&self.0.tenant, name.as_str(), number);
            let (mut reader, mut found) = (HeadReader::default(), None);
            let take = |entry: crate::cloud::control::wire::Entry| {
                let message = pack::decode(entry.payload.as_deref().unwrap_or_default());
                match message.map(|message| (message.place, message.body)) {
                    Ok((place, Body::Head(part))) => found = reader.push(place, part).ok().flatten(),
                    _ => return ControlFlow::Break(()),
                }
                if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            read_all(&self.0.cluster, &topic, version.pack.heads, take).await?;
            match found.map(|head| head.index) {
                Some(index) if Hash::of(&index.encode()) == version.pack.index => indexes.push(index),
                // More travels, and that is all.
                _ => tracing::error!(%name, version = number, topic, "the head of a pack is not what was published"),
            }
        }
        Ok(indexes)
    }

    /// Writes the pack's topic, from where it ends.
    async fn write_pack(
        &self,
        signed: &Signed,
        cut: &Cut,
        layout: Layout,
        file: Arc<File>,
    ) -> Result<Pack, PublishError> {
        let Manifest { name, version, .. } = signed.manifest();
        let topic = names::pack_topic(&self.0.tenant, name.as_str(), *version);
        let mut bulk = Bulk::open(&self.0.cluster, &topic).await.map_err(|e| match e {
            e if e.is_taken() => PublishError::Busy,
            e => e.into(),
        })?;
        let Begun { next, bytes, base_ms, layout, .. } = self.begun(signed, cut, layout, &topic).await?;
        // It is there: `begun` gives this one's where the topic has none.
        let layout = Arc::new(layout.ok_or(PublishError::Busy)?);
        if next > 0 {
            tracing::info!(%name, version, place = next, of = layout.places(), "a publication goes on where it broke off");
        }
        let base_ms = base_ms.unwrap_or_else(|| u64::try_from(self.0.clock.unix_ms()).unwrap_or(0));
        let head = layout.head(signed);
        let (made, mut ready) = mpsc::channel(AHEAD);
        let (making, whole) = (layout.clone(), head);
        // Ends by itself when nobody takes what it makes.
        let maker = tokio::task::spawn_blocking(move || make(&making, &whole, next, &file, &made));
        let (mut place, mut sent) = (next, bytes);
        while let Some(payload) = ready.recv().await {
            let size = payload.len();
            if size > bulk.message_max {
                return Err(PublishError::Message { bytes: size, max: bulk.message_max });
            }
            let message = Outgoing { key: name.to_string(), properties: Vec::new(), payload: payload.into() };
            bulk.write(base_ms.saturating_add(u64::from(place)), &message).await?;
            (place, sent) = (place + 1, sent + size as u64);
            self.0.meters.bytes.inc_by(size as u64);
            if let Some(publishing) = self.lock().publishing.get_mut(name) {
                publishing.places = place;
            }
        }
        maker.await.map_err(|e| PublishError::Disk(io::Error::other(e)))??;
        bulk.finish().await?;
        Ok(Pack {
            heads: layout.heads,
            pieces: u32::try_from(layout.pieces.len()).unwrap_or(u32::MAX),
            bytes: sent,
            chunks: u32::try_from(layout.index.entries().len()).unwrap_or(u32::MAX),
            index: Hash::of(&layout.index.encode()),
        })
    }

    /// What the pack's topic holds already. The only producer asks, so nothing comes after it.
    async fn begun(&self, signed: &Signed, cut: &Cut, layout: Layout, topic: &str) -> Result<Begun, PublishError> {
        let trust: Trust = self.0.control.trust().map_err(PublishError::Catalogue)?;
        let Manifest { name, version, .. } = signed.manifest();
        let published: BTreeSet<u64> = {
            let shared = self.lock();
            shared.catalogue.versions(name).into_iter().flatten().map(|known| known.manifest.version).collect()
        };
        let mut resume = Resume::new(signed, cut, &trust, &published);
        let mut wrong = None;
        let take = |entry: crate::cloud::control::wire::Entry| {
            let payload = entry.payload.as_deref().unwrap_or_default();
            wrong = resume.take(payload, entry.published_ms).err();
            if wrong.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        read_all(&self.0.cluster, topic, PERMITS, take).await?;
        let other = |why: String| PublishError::Begun { name: name.clone(), version: *version, why };
        if let Some(why) = wrong {
            return Err(other(why));
        }
        let mut begun = resume.begun();
        if begun.layout.is_none() {
            let head = layout.head(signed);
            if !begun.parts.iter().zip(&head).all(|(there, own)| there == own) {
                return Err(other("its head broke off".to_owned()));
            }
            begun.layout = Some(layout);
        }
        Ok(begun)
    }
}

/// Makes the messages from place `next` on, until nobody takes them.
fn make(layout: &Layout, head: &[Vec<u8>], next: u32, file: &File, made: &mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    let pieces = (layout.heads..).zip(&layout.pieces);
    for message in head.iter().skip(next as usize) {
        if made.blocking_send(message.clone()).is_err() {
            return Ok(());
        }
    }
    for (place, chunks) in pieces.skip_while(|(place, _)| *place < next) {
        let read = |chunk: &Chunk| {
            let mut bytes = vec![0; chunk.length as usize];
            file.read_exact_at(&mut bytes, chunk.offset).map(|()| bytes)
        };
        let chunks = chunks.iter().map(read).collect::<io::Result<Vec<_>>>()?;
        let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        if made.blocking_send(pack::encode_piece(place, layout.places(), &chunks)?).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Runs `work` where it may take its time.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PublishError> + Send + 'static,
) -> Result<T, PublishError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| PublishError::Disk(io::Error::other(e)))?
}

/// A publication that answers tell of, until it is over.
struct Shown<'m> {
    models: &'m Models,
    manifest: &'m Manifest,
}

impl<'m> Shown<'m> {
    fn new(models: &'m Models, manifest: &'m Manifest, progress: Publishing) -> Self {
        models.lock().publishing.insert(manifest.name.clone(), progress);
        Self { models, manifest }
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.models.lock().publishing.remove(&self.manifest.name);
    }
}
