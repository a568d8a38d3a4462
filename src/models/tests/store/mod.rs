//! The store: whatever stops it, a gateway has the whole new model or the old one.

mod budget;
mod damage;
mod files;
mod power;
mod sim;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use self::sim::Sim;
use super::travel::file;
use super::*;
use crate::models::pack::{Body, Piece};
use crate::models::store::{Assembling, Disk, Proven, Store, StoreError, Version};

pub const DIR: &str = "/models";
pub const ROOMY: u64 = 1 << 30;

pub fn name() -> Name {
    Name::parse("anomaly").unwrap()
}

/// Versions that follow each other, each with most of the one before.
pub static FAMILIES: LazyLock<Vec<Vec<Published>>> = LazyLock::new(|| {
    let family = |seed: u64| {
        let mut bytes = file(seed * 7919 + 1, 1000 + (seed as usize * 613) % 1500, seed as usize * 100 % 900);
        let mut versions = vec![publish(1, &bytes, &[])];
        for version in 2..=4 {
            let at = (seed as usize * 131 + version as usize * 977) % bytes.len();
            bytes.splice(at..at, file(seed + version, 200, 0));
            let end = (at / 2 + 150).min(bytes.len());
            bytes.drain(at / 2..end);
            let kept: Vec<&Published> = versions.iter().collect();
            versions.push(publish(version, &bytes, &kept));
        }
        versions
    };
    (0..16).map(family).collect()
});

/// Every version of a family.
pub fn all(family: &[Published]) -> BTreeSet<Version> {
    family.iter().map(|published| (name(), published.signed.manifest().version)).collect()
}

pub fn sim_store(sim: &Sim, bytes_max: u64) -> Store<Sim> {
    sim.create_dir(Path::new(DIR)).unwrap();
    sim.sync_dir(Path::new("/")).unwrap();
    Store::start(sim.clone(), Path::new(DIR), bytes_max, None).unwrap().0
}

pub fn begin<D: Disk>(
    store: &mut Store<D>,
    of: &Published,
    keep: &BTreeSet<Version>,
) -> Result<Option<Assembling<D>>, StoreError> {
    store.begin(&of.signed, &Arc::new(of.index.clone()), keep)
}

pub fn piece(family: &[Published], version: u64, place: u32) -> Piece {
    let message = &family[version as usize - 1].messages[place as usize];
    let Body::Piece(piece) = pack::decode(message).unwrap().body else { panic!("place {place} is a piece") };
    piece
}

/// The places that are lacking.
pub fn lacking<D: Disk>(assembling: &Assembling<D>) -> Vec<(u64, u32)> {
    let plan = assembling.plan();
    plan.packs.iter().flat_map(|(version, wanted)| wanted.lacking.iter().map(|place| (*version, *place))).collect()
}

/// Fetches whatever is lacking, and makes it whole; how many pieces that took.
pub fn fetch<D: Disk>(store: &mut Store<D>, family: &[Published], version: u64) -> Result<(Proven, usize), StoreError> {
    let mut assembling = match begin(store, &family[version as usize - 1], &all(family))? {
        None => return Ok((store.verify(&name(), version, &trust())?, 0)),
        Some(assembling) => assembling,
    };
    let places = lacking(&assembling);
    for (pack, place) in &places {
        assert!(assembling.write(&piece(family, *pack, *place)).unwrap() > 0);
    }
    assembling.commit().unwrap();
    Ok((store.finish(assembling)?, places.len()))
}

pub fn version_dir(version: u64) -> PathBuf {
    Path::new(DIR).join("anomaly").join(version.to_string())
}
