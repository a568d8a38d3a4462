//! `tidegate config sign`: a document in its envelope.

use std::path::{Path, PathBuf};

use super::check::refusal;
use super::{CliError, Given, deliver, secret_key};
use crate::config::overlay::{Header, Pushed, VERSION_MAX, check_alone};
use crate::config::units::parse_duration;
use crate::downlink::artefact::{Envelope, Kind, SecretKey};
use crate::event::time::Timestamp;
use crate::sys::clock::Clock;

pub(super) const AFTER: &str = "\
The document is checked first; one with mistakes is not signed. What --version and --expires say is put at its end as \
[document], which is signed with it; a document that has that already is signed as it is.

A file that is signed already gets one more signature: then either key can be revoked and the file still holds.

  tidegate config sign press.toml --key anna.key --version 12 --expires 90d --out press.signed
  tidegate config verify press.signed --config edge.toml

The envelope is DSSE (github.com/secure-systems-lab/dsse) with Ed25519, so other tools can make and check it.";

/// What to sign, and with what.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The document: TOML, or signed already
    file: PathBuf,
    /// File with the secret key
    #[arg(short, long, value_name = "FILE")]
    key: PathBuf,
    /// Version of the document; must be higher than that of the one before
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=VERSION_MAX))]
    version: Option<u64>,
    /// When gateways no longer take it: a time (2027-01-31T12:00:00Z) or how long from now (90d)
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// File to write, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<String, CliError> {
    let key = secret_key(&args.key)?;
    let envelope = envelope(&args.file, args.version, args.expires.as_deref())?;
    finish(envelope, &key, args)
}

/// The document in `file`, checked, as it is to be signed (once more).
pub(super) fn envelope(file: &Path, version: Option<u64>, expires: Option<&str>) -> Result<Envelope, CliError> {
    let name = file.display().to_string();
    match Given::read(file)? {
        Given::Signed(_) if version.is_some() || expires.is_some() => Err(CliError::usage(format!(
            "{name}: is signed already, so its version and expiry cannot change; sign the document itself"
        ))),
        Given::Signed(envelope) => {
            let text = std::str::from_utf8(envelope.unverified_payload())
                .map_err(|_| CliError::usage(format!("{name}: the signed document is not UTF-8")))?;
            if envelope.kind() != Some(Kind::Config) {
                return Err(CliError::usage(format!("{name}: is not a configuration document")));
            }
            check_alone(Pushed { name: &name, text }).map_err(|errors| refusal(&name, &errors))?;
            Ok(envelope)
        }
        Given::Text(text) => {
            let text = with_header((version, expires), &name, text)?;
            let checked = check_alone(Pushed { name: &name, text: &text }).map_err(|errors| refusal(&name, &errors))?;
            checked.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            Ok(Envelope::new(Kind::Config, text.into_bytes()))
        }
    }
}

/// The document with its `[document]`.
fn with_header(
    (version, expires): (Option<u64>, Option<&str>),
    name: &str,
    mut text: String,
) -> Result<String, CliError> {
    let header = Header::of(name, &text).map_err(|errors| refusal(name, &errors))?;
    let expires = expires.map(time).transpose()?;
    let clash = |what: &str, given: String| {
        CliError::usage(format!(
            "{name}: its [document] says another {what} than {given}; change it there, or leave that out"
        ))
    };
    let has_header = header.version.is_some() || header.expires.is_some();
    if has_header {
        if let (None, Some(version)) = (header.version, version) {
            return Err(CliError::usage(format!(
                "{name}: its [document] has no version; write version = {version} there, and leave out --version"
            )));
        }
        if let Some(given) = version.filter(|given| Some(*given) != header.version) {
            return Err(clash("version", format!("--version {given}")));
        }
        if let Some(given) = expires.filter(|given| Some(*given) != header.expires) {
            return Err(clash("expiry", format!("--expires {given}")));
        }
    } else if let Some(version) = version {
        // At the end: lines keep their numbers, and what follows a [[lane]] is no part of it.
        text.push_str(if text.is_empty() || text.ends_with('\n') { "" } else { "\n" });
        text.push_str(&format!("\n[document]\nversion = {version}\n"));
        if let Some(expires) = expires {
            text.push_str(&format!("expires = {expires}\n"));
        }
    }
    if version.or(header.version).is_none() {
        return Err(CliError::usage(format!(
            "{name}: has no version; give --version, or write [document] version = 1 into it"
        )));
    }
    Ok(text)
}

/// A time, or how long from now.
pub(super) fn time(text: &str) -> Result<Timestamp, CliError> {
    if let Ok(time) = Timestamp::parse(text) {
        return Ok(time);
    }
    let from_now = parse_duration(text).map_err(|e| {
        CliError::usage(format!("--expires: {e}; or write a time with its offset such as 2027-01-31T12:00:00Z"))
    })?;
    // Whole seconds: people read it.
    let seconds =
        i64::try_from(from_now.as_secs()).unwrap_or(i64::MAX).saturating_add(Clock::system().unix_ms() / 1000);
    Ok(Timestamp::from_unix_ms(seconds.saturating_mul(1000)))
}

fn finish(envelope: Envelope, key: &SecretKey, args: &Args) -> Result<String, CliError> {
    let signed = envelope.signed_by(key);
    // A gateway must be able to read it: too many signatures would be noticed only there.
    let json = signed.encode();
    Envelope::decode(json.as_bytes()).map_err(|e| CliError::usage(format!("{}: {e}", args.file.display())))?;
    deliver(&json, args.out.as_deref(), &format!("signed by {}", key.public().id()))
}
