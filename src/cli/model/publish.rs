//! `tidegate model publish`: a version of a model to the cloud.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::cloud::{Cloud, CloudArgs, encode};
use super::super::config::read;
use super::manifest::{About, prove, signed};
use super::{CliError, name};
use crate::config::overlay::VERSION_MAX;
use crate::models::manifest::{ENVELOPE_BYTES_MAX, Manifest, Name};

pub(super) const AFTER: &str = "\
The file is signed on this machine and sent to the cloud, which verifies the signature, the bytes and the version, cuts the file
into chunks, and publishes those that no earlier version has. When the command ends well, gateways can fetch the version;
which of them do is another order.

  tidegate model publish press-anomaly model.onnx --sign anna.key
  tidegate model publish press-anomaly model.onnx --version 7 --sign anna.key --parent 6 --meta recall=0.91
  tidegate model publish press-anomaly model.onnx --manifest model.signed

Without --version it gets the next one after the highest that the cloud knows. A version that is published stays as it is: the
same again changes nothing, and another file needs a higher version.

When the connection or the cloud fails in the middle it is sent again, and the publication goes on where it stopped.

Exit codes: 0 published, 64 refused, with the reason, 75 the cloud or its broker cannot be reached (the same command again goes on).";

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// What to publish.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Name of the model: lower-case letters, digits and -
    #[arg(value_parser = name)]
    name: Name,
    /// The model
    file: PathBuf,
    /// Version of the model: higher than all before; without it, the next one
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=VERSION_MAX), conflicts_with = "manifest")]
    version: Option<u64>,
    /// File with the secret key that signs it
    #[arg(long, value_name = "FILE", required_unless_present = "manifest", conflicts_with = "manifest")]
    sign: Option<PathBuf>,
    /// A manifest that was signed before ("tidegate model manifest")
    #[arg(long, value_name = "FILE", conflicts_with_all = ["format", "parent", "meta"])]
    manifest: Option<PathBuf>,
    #[command(flatten)]
    about: About,
    /// Print JSON, as the cloud answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: CloudArgs,
}

pub(super) fn run(args: &Args) -> Result<String, CliError> {
    let cloud = args.at.client()?;
    let known = known(&cloud, &args.name)?;
    let highest = known["highest"].as_u64().unwrap_or(0);
    let envelope = envelope(args, highest)?;
    let manifest = Manifest::unverified(envelope.as_bytes())
        .ok_or_else(|| CliError::usage("the manifest cannot be read; \"tidegate model manifest\" makes one"))?;
    let same = |version: &&Value| version["version"] == manifest.version;
    let there = known["versions"].as_array().and_then(|versions| versions.iter().find(same));
    // Said before a long upload; the cloud decides.
    if manifest.version <= highest && there.is_none_or(|there| there["blake3"] != manifest.blake3.to_string()) {
        return Err(CliError::usage(format!(
            "version {} of model {} cannot be published: version {highest} is; give a higher --version",
            manifest.version, args.name
        )));
    }
    let path = format!("/v1/models/{}/versions", encode(args.name.as_str()));
    let body = || {
        let file = File::open(&args.file)
            .map_err(|e| CliError::usage(format!("{}: cannot be read: {e}", args.file.display())))?;
        let line = Cursor::new(format!("{envelope}\n").into_bytes());
        let size = line.get_ref().len() as u64 + manifest.size;
        Ok((Told::new(line.chain(file), size), size))
    };
    let stored = cloud.upload(&path, body)?;
    if args.json {
        return Ok(format!("{stored}\n"));
    }
    let bytes = stored["pack"]["bytes"].as_u64().unwrap_or(0);
    Ok(format!(
        "model {} version {} is published: {} of {} bytes are new\n",
        args.name, stored["version"], bytes, stored["size"]
    ))
}

/// What the cloud has of the model.
fn known(cloud: &Cloud, name: &Name) -> Result<Value, CliError> {
    let found = cloud.find(&format!("/v1/models/{}", encode(name.as_str())))?;
    Ok(found.unwrap_or_default())
}

/// The signed manifest: as it was given, or made now.
fn envelope(args: &Args, highest: u64) -> Result<String, CliError> {
    let shown = args.file.display();
    if let Some(path) = &args.manifest {
        let bytes = read(path, ENVELOPE_BYTES_MAX)?;
        let of = path.display();
        let manifest = Manifest::unverified(&bytes).ok_or_else(|| {
            CliError::usage(format!("{of}: is no signed manifest of a model; \"tidegate model manifest\" makes one"))
        })?;
        if manifest.name != args.name {
            return Err(CliError::usage(format!("{of}: is for model {}, not for {}", manifest.name, args.name)));
        }
        if prove(&args.file)? != (manifest.size, manifest.blake3) {
            return Err(CliError::usage(format!("{shown}: is not the file that {of} was made for; sign it again")));
        }
        // One line: what comes after it is the model.
        let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        return Ok(json.to_string());
    }
    let Some(key) = &args.sign else {
        return Err(CliError::usage(format!("{shown}: name the key that signs it with --sign FILE")));
    };
    let version = args.version.unwrap_or(highest + 1);
    Ok(signed((&args.name, version), &args.file, &args.about, key)?.encode())
}

/// Says now and then how much of it has been read.
struct Told<R> {
    inner: R,
    read: u64,
    of: u64,
    told: Instant,
}

impl<R> Told<R> {
    fn new(inner: R, of: u64) -> Self {
        Self { inner, read: 0, of, told: Instant::now() }
    }
}

impl<R: Read> Read for Told<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(to)?;
        self.read += read as u64;
        let is_all = self.read == self.of && read > 0;
        if self.told.elapsed() >= TELL_EVERY || (is_all && self.of > (8 << 20)) {
            self.told = Instant::now();
            let megabytes = |bytes: u64| bytes as f64 / 1e6;
            let then = if is_all { "; the cloud verifies it and publishes what is new" } else { "" };
            eprintln!("sent {:.1} of {:.1} MB{then}", megabytes(self.read), megabytes(self.of));
        }
        Ok(read)
    }
}
