//! Any file and any edit: from the pieces that are lacking comes the same file.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::models::pack::{Body, HeadReader};
use crate::models::plan::Plan;

/// An edit of a file.
#[derive(Clone, Debug)]
pub enum Edit {
    Overwrite(prop::sample::Index, Vec<u8>),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    /// A part of it again, somewhere else.
    Copy(prop::sample::Index, usize, prop::sample::Index),
}

impl Edit {
    pub fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Overwrite(at, bytes) => {
                let at = at.index(file.len() + 1);
                let end = (at + bytes.len()).min(file.len());
                file[at..end].copy_from_slice(&bytes[..end - at]);
            }
            Self::Insert(at, bytes) => {
                let at = at.index(file.len() + 1);
                file.splice(at..at, bytes.iter().copied());
            }
            Self::Remove(at, length) => {
                let at = at.index(file.len() + 1);
                file.drain(at..(at + length).min(file.len()));
            }
            Self::Copy(from, length, to) => {
                let from = from.index(file.len() + 1);
                let part = file[from..(from + length).min(file.len())].to_vec();
                let to = to.index(file.len() + 1);
                file.splice(to..to, part);
            }
        }
        if file.is_empty() {
            file.push(0); // a model has at least one byte
        }
    }
}

pub fn edit() -> impl Strategy<Value = Edit> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), bytes()).prop_map(|(at, bytes)| Edit::Overwrite(at, bytes)),
        (at(), bytes()).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (at(), 0_usize..2000).prop_map(|(at, length)| Edit::Remove(at, length)),
        (at(), 0_usize..2000, at()).prop_map(|(from, length, to)| Edit::Copy(from, length, to)),
    ]
}

/// A file of `length` bytes that is noise, but for a stretch of one byte.
pub fn file(seed: u64, length: usize, flat: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut noise = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    });
    let mut file: Vec<u8> = noise.by_ref().take(length.max(1)).collect();
    let flat = flat.min(file.len());
    file[..flat].fill(seed as u8);
    file
}

/// The version from what `here` has and the messages of `packs`; how many messages that took.
fn assemble(index: &Index, here: &[&Published], packs: &[Published]) -> (Vec<u8>, usize) {
    let mut chunks: HashMap<Hash, Vec<u8>> = HashMap::new();
    for published in here {
        for (offset, entry) in published.index.placed() {
            chunks.insert(entry.hash, published.file[offset as usize..][..entry.length as usize].to_vec());
        }
    }
    let has: Vec<bool> = index.entries().iter().map(|entry| chunks.contains_key(&entry.hash)).collect();
    let plan = Plan::of(index, |number| has[number as usize]);
    for (version, wanted) in &plan.packs {
        let pack = packs.iter().find(|p| p.signed.manifest().version == *version).unwrap();
        assert_eq!(wanted.places as usize, pack.messages.len());
        for place in &wanted.lacking {
            let message = pack::decode(&pack.messages[*place as usize]).unwrap();
            assert_eq!((message.place, message.places), (*place, wanted.places));
            let Body::Piece(piece) = message.body else { panic!("place {place} is a piece") };
            chunks.extend(piece.chunks().map(|(hash, bytes)| (hash, bytes.to_vec())));
        }
    }
    let whole = index.entries().iter().flat_map(|entry| chunks[&entry.hash].clone()).collect();
    (whole, plan.messages())
}

fn read_head(published: &Published) -> pack::Head {
    let mut reader = HeadReader::default();
    loop {
        let message = pack::decode(&published.messages[reader.next() as usize]).unwrap();
        let Body::Head(part) = message.body else { panic!("a head") };
        if let Some(head) = reader.push(message.place, part).unwrap() {
            return head;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::models::tests::cases(300)))]

    #[test]
    fn any_file_and_any_edits_give_the_same_file_from_the_pieces_that_are_lacking(
        seed: u64,
        length in 0_usize..5000,
        flat in 0_usize..3000,
        edits in prop::collection::vec(prop::collection::vec(edit(), 0..3), 1..3),
        here in 0_usize..3,
        kept in 1_usize..4,
    ) {
        let mut packs: Vec<Published> = Vec::new();
        let mut bytes = file(seed, length, flat);
        packs.push(publish(1, &bytes, &[]));
        for edits in edits {
            edits.iter().for_each(|edit| edit.apply(&mut bytes));
            let before: Vec<&Published> = packs.iter().rev().take(kept).collect();
            packs.push(publish(packs.len() as u64 + 1, &bytes, &before));
        }
        let newest = packs.last().unwrap();
        let head = read_head(newest);
        prop_assert_eq!(&head.index, &newest.index);
        let signed = Signed::verify(&head.manifest, &trust()).unwrap();
        prop_assert_eq!(head.index.fits(signed.manifest()), Ok(()));
        let here: Vec<&Published> = packs.iter().take(here.min(packs.len() - 1)).collect();
        let (whole, _) = assemble(&head.index, &here, &packs);
        prop_assert!(whole == bytes);
        // Who has the one before reads this pack alone, unless a chunk was gone for a while and is in an older pack.
        let before = &packs[packs.len() - 2];
        let (whole, messages) = assemble(&head.index, &[before], &packs);
        prop_assert!(whole == bytes);
        prop_assert!(kept > 1 || messages < newest.messages.len());
    }
}

#[test]
fn an_edit_in_place_travels_as_the_chunks_that_it_touches() {
    let mut bytes = file(7, 200_000, 0);
    let first = publish(1, &bytes, &[]);
    bytes[100_000..100_100].fill(0);
    let second = publish(2, &bytes, &[&first]);
    let travels: usize = second.messages.iter().skip(1).map(Vec::len).sum();
    assert!(travels < 6 * SMALL.max, "{travels}");
    let (whole, messages) = assemble(&second.index, &[&first], &[first.clone(), second.clone()]);
    assert!(whole == bytes && messages <= 3);
}

#[test]
fn the_same_file_again_travels_as_its_head_alone() {
    let bytes = file(7, 50_000, 0);
    let first = publish(1, &bytes, &[]);
    let second = publish(2, &bytes, &[&first]);
    assert_eq!(second.messages.len(), 1);
    // Also when the middle one is no longer kept.
    let third = publish(3, &bytes, &[&second]);
    assert_eq!(assemble(&third.index, &[], &[first, second, third.clone()]).0, bytes);
}

#[test]
fn a_file_that_is_not_the_manifests_is_not_laid_out() {
    let cut = chunks::cut(&b"other weights"[..], SMALL).unwrap();
    assert!(Layout::of(&signed(1, b"weights"), &cut, &[], SMALL_PIECE).is_err());
}

#[test]
fn a_version_that_would_need_too_many_packs_carries_the_oldest_ones_itself() {
    use crate::models::index::PACKS_MAX;
    let mut bytes = file(9, 600 * 300, 0);
    let mut packs = vec![publish(1, &bytes, &[])];
    for version in 2..PACKS_MAX as u64 + 20 {
        let at = (version as usize * 600) % bytes.len();
        bytes[at..at + 8].copy_from_slice(&version.to_le_bytes());
        let before = packs.last().unwrap();
        packs.push(publish(version, &bytes, &[before]));
    }
    let newest = packs.last().unwrap();
    assert!(newest.index.packs().len() <= PACKS_MAX);
    assert_eq!(Index::decode(&newest.index.encode()).as_ref(), Ok(&newest.index));
    assert!(assemble(&newest.index, &[], &packs).0 == bytes);
}
