//! `tidegate model manifest`: which bytes a version of a model is, signed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;

use super::super::config::{deliver, secret_key};
use super::{CliError, name};
use crate::config::overlay::VERSION_MAX;
use crate::downlink::artefact::Envelope;
use crate::models::MODEL_BYTES_MAX;
use crate::models::hash::{Hash, Hasher};
use crate::models::manifest::{Format, Manifest, Name};

pub(super) const AFTER: &str = "\
The manifest has the name, the version, the size and the BLAKE3 of the file, and is signed: whoever has it can prove the file.
A version is published once, and the next one is higher.

  tidegate model manifest press-anomaly model.onnx --version 7 --sign anna.key --out model.signed \\
      --parent 6 --meta trained_on=lake/2026-10 --meta recall=0.91
  tidegate model publish press-anomaly model.onnx --manifest model.signed

So the key can be on another machine than the one that publishes. The envelope is DSSE
(github.com/secure-systems-lab/dsse) with Ed25519, so other tools can make it: docs/models.md has it in Python.";

/// Bytes that are read at a time.
const PART: usize = 1 << 20;

/// Longer reading is worth a word.
const WORTH_A_WORD_MS: u128 = 2_000;

/// What to sign, and with what.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Name of the model: lower-case letters, digits and -
    #[arg(value_parser = name)]
    name: Name,
    /// The model
    file: PathBuf,
    /// Version of the model: higher than all before
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=VERSION_MAX))]
    version: u64,
    /// File with the secret key that signs it
    #[arg(long, value_name = "FILE")]
    sign: PathBuf,
    #[command(flatten)]
    about: About,
    /// File to write, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What is said of a model.
#[derive(clap::Args, Clone, Debug)]
pub struct About {
    /// What the file is; without it, a file that ends in .onnx is ONNX, and any other one opaque
    #[arg(long, value_name = "FORMAT", value_enum)]
    format: Option<FormatArg>,
    /// The version that it was made from
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..=VERSION_MAX))]
    parent: Option<u64>,
    /// Something to be known about it, such as trained_on=lake/2026-10; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    meta: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatArg {
    /// Gateways can run it themselves
    Onnx,
    /// Some program on the gateway knows
    Opaque,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    if key.is_empty() { Err("write KEY=VALUE".to_owned()) } else { Ok((key.to_owned(), value.to_owned())) }
}

pub(super) fn run(args: &Args) -> Result<String, CliError> {
    let envelope = signed((&args.name, args.version), &args.file, &args.about, &args.sign)?;
    deliver(&envelope.encode(), args.out.as_deref(), &format!("version {} of model {}", args.version, args.name))
}

/// Reads the file and signs what it is.
pub(super) fn signed(
    (name, version): (&Name, u64),
    file: &Path,
    about: &About,
    key: &Path,
) -> Result<Envelope, CliError> {
    let key = secret_key(key)?;
    let (size, blake3) = prove(file)?;
    let metadata: BTreeMap<String, String> = about.meta.iter().cloned().collect();
    if metadata.len() < about.meta.len() {
        return Err(CliError::usage("--meta: a key is given twice; give each once"));
    }
    let is_onnx = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"));
    let format = match about.format {
        Some(FormatArg::Onnx) => Format::Onnx,
        None if is_onnx => Format::Onnx,
        Some(FormatArg::Opaque) | None => Format::Opaque,
    };
    let manifest = Manifest { name: name.clone(), version, format, size, blake3, parent: about.parent, metadata };
    manifest.sign(&key).map_err(|e| CliError::usage(format!("{}: {e}", file.display())))
}

/// Size and hash of a file.
pub(super) fn prove(path: &Path) -> Result<(u64, Hash), CliError> {
    let failed = |e: std::io::Error| CliError::usage(format!("{}: cannot be read: {e}", path.display()));
    let mut from = BufReader::with_capacity(PART, File::open(path).map_err(failed)?);
    let (mut hasher, mut size, mut part, begun) = (Hasher::default(), 0_u64, vec![0; PART], Instant::now());
    loop {
        let read = from.read(&mut part).map_err(failed)?;
        let Some(bytes) = part.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hasher.update(bytes);
        size += read as u64;
        if size > MODEL_BYTES_MAX {
            let text = format!("{}: has more than {MODEL_BYTES_MAX} bytes, which is the most", path.display());
            return Err(CliError::usage(text));
        }
    }
    if size == 0 {
        return Err(CliError::usage(format!("{}: is empty; name the file of the model", path.display())));
    }
    if begun.elapsed().as_millis() > WORTH_A_WORD_MS {
        eprintln!("read {size} bytes in {:.1} s", begun.elapsed().as_secs_f64());
    }
    Ok((size, hasher.hash()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::edge::Downlink;
    use crate::downlink::artefact::{SecretKey, Trust};
    use crate::models::manifest::Signed;

    #[test]
    fn what_is_signed_is_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (file, key) = (dir.path().join("m.ONNX"), dir.path().join("k"));
        std::fs::write(&file, b"weights").unwrap();
        std::fs::write(&key, SecretKey::pem_of_seed(&[1; 32]).as_bytes()).unwrap();
        let about = About { format: None, parent: Some(2), meta: vec![("recall".into(), "0.9".into())] };
        let name = Name::parse("press").unwrap();
        let envelope = signed((&name, 3), &file, &about, &key).unwrap();
        let artefact_keys = vec![SecretKey::from_seed(&[1; 32]).unwrap().public().to_string()];
        let trust = Trust::new(&Downlink { artefact_keys, ..Downlink::default() }).unwrap();
        let manifest = Signed::verify(envelope.encode().as_bytes(), &trust).unwrap().manifest().clone();
        assert_eq!((manifest.size, manifest.blake3), (7, Hash::of(b"weights")));
        assert_eq!((manifest.version, manifest.parent, manifest.format), (3, Some(2), Format::Onnx));
        let twice = About { meta: vec![("a".into(), "1".into()), ("a".into(), "2".into())], ..about.clone() };
        assert!(signed((&name, 3), &file, &twice, &key).unwrap_err().message.contains("twice"));
        std::fs::write(&file, b"").unwrap();
        assert!(signed((&name, 3), &file, &about, &key).unwrap_err().message.contains("is empty"));
        assert!(pair("a").is_err() && pair("=b").is_err());
    }
}
