//! `tidegate config verify`: a signed file, judged as a gateway judges it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::check::{refusal, summary, takes_effect};
use super::{CliError, Given};
use crate::config::overlay::Pushed;
use crate::config::{EdgeConfig, Env};
use crate::downlink::artefact::counter::judge_document;
use crate::downlink::artefact::{Assignment, Command, Envelope, Kind, Refusal, Trust};
use crate::event::time::Timestamp;
use crate::sys::clock::Clock;

pub(super) const AFTER: &str = "\
Checks the signature against the keys in the gateway's file ([downlink]) and, if one is named, a keyring; that it is not \
expired; and a document by the rules of that gateway. It does not know what the gateway has taken before.

  tidegate config verify press.signed --config edge.toml
  tidegate config verify press.signed --config edge.toml --keyring keyring.signed

Exit codes: 0 the gateway would take it, 64 it would not.";

/// What to check, and by whose file.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The signed document, keyring or assignment
    file: PathBuf,
    /// The gateway's own file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// A signed keyring that the gateway has
    #[arg(long, value_name = "FILE")]
    keyring: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<String, CliError> {
    let (own, _) = EdgeConfig::load(Some(&args.config), &Env::of_process()).map_err(CliError::usage)?;
    let mut trust =
        Trust::new(&own.downlink).map_err(|e| CliError::usage(format!("{}: downlink: {e}", args.config.display())))?;
    if let Some(path) = &args.keyring {
        trust = trust.with_keyring(envelope(path)?).map_err(|refusal| refused(path, &refusal))?;
    }
    let envelope = envelope(&args.file)?;
    let now = Timestamp::from_unix_ms(Clock::system().unix_ms());
    let judged = match envelope.kind() {
        Some(Kind::Config) => return document(args, envelope, &trust, now),
        Some(Kind::Keyring) => keyring(envelope, &trust),
        Some(Kind::Command) => command(envelope, &trust, &own.node.id, now),
        // Anything else is refused there by its type.
        Some(Kind::Assignment) | None => assignment(envelope, &trust, &own.node.id, now),
    };
    let what = judged.map_err(|refusal| refused(&args.file, &refusal))?;
    Ok(format!("{}: ok ({what})\n", args.file.display()))
}

fn envelope(path: &Path) -> Result<Envelope, CliError> {
    match Given::read(path)? {
        Given::Signed(envelope) => Ok(envelope),
        Given::Text(_) => {
            let name = path.display();
            Err(CliError::usage(format!("{name}: is not signed; \"tidegate config sign\" signs it")))
        }
    }
}

fn refused(path: &Path, refusal: &Refusal) -> CliError {
    CliError::usage(format!("{}: {}: {refusal}", path.display(), refusal.code()))
}

fn document(args: &Args, envelope: Envelope, trust: &Trust, now: Timestamp) -> Result<String, CliError> {
    let name = args.file.display().to_string();
    let document = judge_document(envelope, trust, Some(now)).map_err(|refusal| refused(&args.file, &refusal))?;
    let pushed = Pushed { name: &name, text: &document.text };
    let overlaid = EdgeConfig::load_with(Some(&args.config), pushed, &Env::of_process())
        .map_err(|errors| refusal(&name, &errors))?;
    takes_effect(Some(&args.config), &name, &overlaid)?;
    overlaid.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let mut out = summary(&name, &overlaid);
    // Writing to a string cannot fail.
    let _ = writeln!(out, "  signed by {}\n  sha256 {}", document.signer, document.sha256);
    Ok(out)
}

fn keyring(envelope: Envelope, trust: &Trust) -> Result<String, Refusal> {
    let newer = trust.with_keyring(envelope)?;
    Ok(format!("keyring, version {}, epoch {}", newer.keyring_version(), newer.epoch()))
}

fn assignment(envelope: Envelope, trust: &Trust, node: &str, now: Timestamp) -> Result<String, Refusal> {
    let assignment = Assignment::of(&trust.verify(envelope, Kind::Assignment)?)?;
    assignment.is_for(node, Some(now))?;
    let what = match assignment.document {
        Some(document) => format!("document version {}, sha256 {}", document.version, document.sha256),
        None => "the gateway's own file alone".to_owned(),
    };
    Ok(format!("assignment {} of {node}: {what}", assignment.at()))
}

fn command(envelope: Envelope, trust: &Trust, node: &str, now: Timestamp) -> Result<String, Refusal> {
    let command = Command::of(&trust.verify(envelope, Kind::Command)?)?;
    command.waits_at(node, Some(now))?;
    Ok(format!("command {:?} for {:?} of {node}, until {}", command.name, command.device, command.expires_at))
}
