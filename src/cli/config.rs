//! `tidegate config`: documents that are pushed to gateways, from the first draft to the last wave, and back.

mod check;
mod diff;
mod history;
mod keyring;
pub(super) mod push;
mod rollback;
mod sign;
mod verify;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use clap::Subcommand;
use zeroize::Zeroizing;

use super::CliError;
use crate::downlink::artefact::envelope::ENVELOPE_BYTES_MAX;
use crate::downlink::artefact::keys::SECRET_KEY_FILE_BYTES_MAX;
use crate::downlink::artefact::{Envelope, Kind, SecretKey};

/// Commands on configuration documents.
#[derive(Subcommand, Clone, Debug)]
pub enum ConfigCommand {
    /// Check a document: every mistake at once, with its line
    #[command(after_long_help = check::AFTER)]
    Check(check::Args),
    /// Show what differs between two documents, or what a document changes on a gateway
    #[command(after_long_help = diff::AFTER)]
    Diff(diff::Args),
    /// Sign a document
    #[command(after_long_help = sign::AFTER)]
    Sign(sign::Args),
    /// Make and sign a keyring, which adds and revokes keys on gateways without a visit
    #[command(after_long_help = keyring::AFTER)]
    Keyring(keyring::Args),
    /// Check a signed file as a gateway would
    #[command(after_long_help = verify::AFTER)]
    Verify(verify::Args),
    /// Push a document to gateways: check, sign, store, roll out in waves
    #[command(after_long_help = push::AFTER)]
    Push(Box<push::Args>),
    /// Put gateways back to what they ran before, or to a version
    #[command(after_long_help = rollback::AFTER)]
    Rollback(Box<rollback::Args>),
    /// Show who changed what and when
    #[command(after_long_help = history::AFTER)]
    History(history::Args),
}

pub fn run(command: &ConfigCommand) -> Result<(), CliError> {
    let out = match command {
        ConfigCommand::Check(args) => check::run(args)?,
        ConfigCommand::Diff(args) => diff::run(args)?,
        ConfigCommand::Sign(args) => sign::run(args)?,
        ConfigCommand::Keyring(args) => keyring::run(args)?,
        ConfigCommand::Verify(args) => verify::run(args)?,
        ConfigCommand::Push(args) => push::run(args)?,
        ConfigCommand::Rollback(args) => rollback::run(args)?,
        ConfigCommand::History(args) => history::run(args)?,
    };
    super::print(&out);
    Ok(())
}

/// Reads a file of at most `bytes_max` bytes.
pub(super) fn read(path: &Path, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, CliError> {
    // With its room from the start: no copy of a key is left behind in a smaller one.
    let mut bytes = Zeroizing::new(Vec::with_capacity(bytes_max.saturating_add(1)));
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|e| CliError::usage(format!("{}: cannot be read: {e}", path.display())))?;
    if bytes.len() > bytes_max {
        return Err(CliError::usage(format!("{}: has more than {bytes_max} bytes", path.display())));
    }
    Ok(bytes)
}

/// A document as it is in a file: as text, or signed.
enum Given {
    Text(String),
    Signed(Envelope),
}

impl Given {
    fn read(path: &Path) -> Result<Self, CliError> {
        let name = path.display();
        let bytes = read(path, ENVELOPE_BYTES_MAX)?;
        // No TOML begins with a brace.
        if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') {
            let envelope = Envelope::decode(&bytes).map_err(|e| {
                CliError::usage(format!("{name}: is no signed file: {e}; \"tidegate config sign\" makes one"))
            })?;
            return Ok(Self::Signed(envelope));
        }
        let text = String::from_utf8(bytes.to_vec())
            .map_err(|_| CliError::usage(format!("{name}: is not UTF-8; save the file as UTF-8 text")))?;
        Ok(Self::Text(text))
    }

    /// The document's text, whoever signed it.
    fn document(path: &Path) -> Result<String, CliError> {
        match Self::read(path)? {
            Self::Text(text) => Ok(text),
            Self::Signed(envelope) if envelope.kind() == Some(Kind::Config) => {
                String::from_utf8(envelope.unverified_payload().to_vec())
                    .map_err(|_| CliError::usage(format!("{}: the signed document is not UTF-8", path.display())))
            }
            Self::Signed(envelope) => {
                let kind = envelope.kind().map_or_else(|| "something unknown".to_owned(), |kind| format!("a {kind}"));
                Err(CliError::usage(format!("{}: is {kind}, not a configuration document", path.display())))
            }
        }
    }
}

pub(super) fn secret_key(path: &Path) -> Result<SecretKey, CliError> {
    let pem = read(path, SECRET_KEY_FILE_BYTES_MAX)?;
    SecretKey::from_pem(&pem).map_err(|e| CliError::usage(format!("{}: {e}", path.display())))
}

/// Writes what was made: to a file, or to standard output.
pub(super) fn deliver(json: &str, out: Option<&Path>, note: &str) -> Result<String, CliError> {
    let Some(path) = out else {
        eprintln!("{note}");
        return Ok(format!("{json}\n"));
    };
    crate::sys::files::replace(path, format!("{json}\n").as_bytes())
        .map_err(|e| CliError::temporary(format!("{}: cannot be written: {e}", path.display())))?;
    Ok(format!("{}: {note}\n", path.display()))
}
