//! What runs a model: rows of numbers in, a score for each out.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Largest model that is loaded, in bytes. In memory it takes a few times as much while it is prepared, and during a switch
/// there are two.
pub const FILE_BYTES_MAX: u64 = 32 << 20;

/// A model that is ready to run. It stays on the thread that has loaded it.
pub trait Engine {
    /// The scores of `count` rows, which lie one after the other; not looked at yet.
    fn run(&mut self, rows: &[f32], count: usize) -> Result<Vec<f32>, String>;
}

/// What the configuration says of the model's input and output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Columns of a row.
    pub columns: usize,
    /// Name of the output; `None`: the last one.
    pub output: Option<String>,
    /// Its column; `None`: the last one.
    pub column: Option<usize>,
}

/// Makes an engine of a file's bytes.
pub type Open = fn(&[u8], &Shape) -> Result<Box<dyn Engine>, String>;

/// The engine of this build, if it has one.
#[cfg(feature = "inference")]
pub const BUILT_IN: Open = super::onnx::open;

/// The engine of this build, if it has one.
#[cfg(not(feature = "inference"))]
pub const BUILT_IN: Open = |_, _| Err("this build of tidegate has no inference".to_owned());

/// Reads a model, and no more than [`FILE_BYTES_MAX`].
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|e| format!("{}: {e}", path.display()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{} has more than {FILE_BYTES_MAX} bytes, the most that is loaded", path.display()));
    }
    Ok(bytes)
}

/// The scores of one run, if there is a finite or other number for each row.
pub fn run(engine: &mut dyn Engine, rows: &[f32], count: usize) -> Result<Vec<f32>, String> {
    let scores = engine.run(rows, count)?;
    match scores.len() {
        given if given == count => Ok(scores),
        given => Err(format!("the model gives {given} scores for {count} rows")),
    }
}
