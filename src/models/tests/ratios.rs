//! How much travels when a part of a model changes.

use std::time::Instant;

use super::travel::file;
use super::*;
use crate::models::chunks::Sizes;
use crate::models::pack::{LEVEL, PIECE_BYTES_MAX};

/// Megabytes of the model; the whole size that the promise is about is 50.
const SIZE: &str = "TIDEGATE_TEST_MODEL_MB";
const MEGABYTES: usize = 6;

/// Tensors of f32 weights around zero, with all the bits of their mantissas, as trained ones are.
fn weights(bytes: usize, seed: u64) -> Vec<u8> {
    let noise = file(seed, bytes * 2, 0);
    let (pairs, _) = noise.as_chunks::<8>();
    let weight = |pair: &[u8; 8]| {
        let [a, b] = [0, 4].map(|at| u32::from_le_bytes(std::array::from_fn(|n| pair[at + n])));
        (((f64::from(a) + f64::from(b)) / f64::from(u32::MAX) - 1.0) as f32 * 0.1).to_le_bytes()
    };
    pairs.iter().flat_map(weight).collect()
}

/// The same with few different values, as after quantising: here one frame for the whole file finds more that is the
/// same than one for each piece does.
fn quantised(bytes: usize, seed: u64) -> Vec<u8> {
    let noise = file(seed, bytes * 2, 0);
    let (quads, _) = noise.as_chunks::<8>();
    let weight = |quad: &[u8; 8]| {
        let sum: f32 =
            quad.as_chunks::<2>().0.iter().map(|pair| f32::from(u16::from_le_bytes(*pair)) / 65536.0 - 0.5).sum();
        (sum * 0.05).to_le_bytes()
    };
    quads.iter().flat_map(weight).collect()
}

/// Bytes of one of 100 tensors of the file.
fn tensor(file: &[u8]) -> usize {
    file.len() / 100 / 4 * 4
}

type Change = fn(&mut Vec<u8>);

const CHANGES: [(&str, Change); 5] = [
    ("in place: one run of 5 %", |file| {
        let (at, length) = (file.len() / 3, file.len() / 20);
        let new = weights(length, 77);
        file[at..at + new.len()].copy_from_slice(&new);
    }),
    ("inserted: 5 % more in the middle", |file| {
        let at = file.len() / 2 + 1;
        let new = weights(file.len() / 20, 78);
        file.splice(at..at, new);
    }),
    ("weights perturbed everywhere in 5 of 100 tensors", |file| {
        let tensor = tensor(file);
        for n in [3, 21, 50, 77, 98] {
            for quad in file[n * tensor..(n + 1) * tensor].as_chunks_mut::<4>().0 {
                *quad = (f32::from_le_bytes(*quad) * 1.01 + 1e-5).to_le_bytes();
            }
        }
    }),
    ("moved: 5 % from the front to the end", |file| {
        let length = file.len() / 20;
        file.rotate_left(length);
    }),
    ("metadata in front grows by 100 bytes, 5 % of tensors new", |file| {
        let tensor = tensor(file);
        let new = weights(5 * tensor, 79);
        let at = 40 * tensor;
        file[at..at + new.len()].copy_from_slice(&new);
        file.splice(0..0, [b'm'; 100]);
    }),
];

/// Bytes that travel, against one frame of the same level for the whole file.
fn first_version(what: &str, bytes: &[u8]) -> (Published, f64) {
    let begin = Instant::now();
    let first = publish_as(1, bytes, &[], Sizes::STANDARD, PIECE_BYTES_MAX);
    let took = begin.elapsed();
    let whole = zstd::bulk::compress(bytes, LEVEL).unwrap().len();
    let ratio = travels(&first) as f64 / whole as f64;
    println!(
        "{what}, {} bytes: {} chunks, {} messages, {} bytes; as one zstd frame {whole}: {ratio:.4} ({took:?})",
        bytes.len(),
        first.index.entries().len(),
        first.messages.len(),
        travels(&first)
    );
    (first, ratio)
}

fn travels(published: &Published) -> usize {
    published.messages.iter().map(Vec::len).sum()
}

#[test]
fn a_model_of_which_five_percent_changed_travels_as_at_most_fifteen() {
    let megabytes = std::env::var(SIZE).ok().and_then(|text| text.parse().ok()).unwrap_or(MEGABYTES);
    let bytes = weights(megabytes * 1_000_000, 1);
    let (first, ratio) = first_version("weights", &bytes);
    assert!(ratio <= 1.02, "the first version: {ratio}");
    // Over the promise: what pieces cost a model that repeats itself over more than 256 KiB.
    let (_, ratio) = first_version("quantised weights", &quantised(bytes.len(), 2));
    assert!(ratio <= 1.10, "the first version: {ratio}");
    for (what, change) in CHANGES {
        let mut changed = bytes.clone();
        change(&mut changed);
        let second = publish_as(2, &changed, &[&first], Sizes::STANDARD, PIECE_BYTES_MAX);
        let of_file = travels(&second) as f64 / changed.len() as f64;
        let of_first = travels(&second) as f64 / travels(&first) as f64;
        println!("{what}: {:.2} % of the file, {:.2} % of the first version's pack", of_file * 100.0, of_first * 100.0);
        assert!(of_first <= 0.15, "{what}: {of_first}");
    }
}
