//! Models travel in pieces, are verified, and become what a gateway uses in one step, or not at all.
//!
//! ```text
//! publisher              cloud                                            gateway
//! file ─ manifest ─► chunks ─► delta ─► pack ══ topic per version ══► pack ─► plan ─► store ─► current/model
//!        signed      cut by    what no   head: manifest, index        only what is     whole and verified,
//!                    content   kept one  then pieces                  lacking          or the one before
//!                              has
//! ```
//!
//! A publisher signs a [`manifest`]: it proves the whole file. The file is cut by content into [`chunks`], each named by
//! its hash; the [`index`] lists them in the file's order and says which pack carries each. A [`pack`] carries what no
//! kept earlier version has ([`delta`]), in pieces that are fetched and proven one by one. [`plan`] says which of them a
//! gateway lacks, and [`store`] assembles, proves and activates on disk.
//!
//! Only the manifest is signed. An index or a piece that lies costs bytes and is found out: a chunk is proven by its
//! hash, the whole by the manifest's.

pub mod chunks;
pub mod delta;
pub mod desired;
pub mod fetch;
pub mod hash;
pub mod index;
pub mod manifest;
pub mod pack;
pub mod plan;
pub mod store;
pub mod turns;

#[cfg(test)]
mod tests;

/// Largest model, in bytes: what a gateway's disk and an index of a few megabytes in memory carry.
pub const MODEL_BYTES_MAX: u64 = 1 << 30;

/// Most chunks of a model: all as short as they may be, and the last one, which may be shorter.
pub const CHUNKS_MAX: usize = (MODEL_BYTES_MAX / chunks::Sizes::STANDARD.min as u64) as usize + 1;
