//! `tidegate config keyring`: which keys gateways trust besides those of their files.

use std::path::PathBuf;

use super::{CliError, deliver, secret_key};
use crate::config::overlay::VERSION_MAX;
use crate::downlink::artefact::{KeyId, Keyring, PublicKey, Trust};
use crate::event::time::Timestamp;
use crate::sys::clock::Clock;

pub(super) const AFTER: &str = "\
A keyring is the full list, not a change: the newest replaces the one before, and a key that it no longer names is no \
longer trusted, unless a gateway's own file has it. Root keys stand in gateways' files alone; a keyring can revoke one \
root key if another has signed it.

Anna's key was stolen, Ben's takes its place:
  tidegate config keyring --version 2 --artefact-key tidegate-pub-ed25519:… --revoke 0123456789abcdef \\
      --key root.key --out keyring.signed
  tidegate config verify keyring.signed --config edge.toml";

/// What is in it, and who signs it.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Version of the keyring; must be higher than that of the one before
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=VERSION_MAX))]
    version: u64,
    /// Public key that signs documents; may be given several times
    #[arg(long, value_name = "PUBLIC KEY")]
    artefact_key: Vec<String>,
    /// Public key that signs assignments; may be given several times
    #[arg(long, value_name = "PUBLIC KEY")]
    controller_key: Vec<String>,
    /// Id of a key that is no longer trusted; may be given several times
    #[arg(long, value_name = "KEY ID")]
    revoke: Vec<String>,
    /// File with the secret key of a root
    #[arg(short, long, value_name = "FILE")]
    key: PathBuf,
    /// File to write, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<String, CliError> {
    let keys = |option: &str, texts: &[String]| -> Result<Vec<PublicKey>, CliError> {
        let read = texts.iter().map(|text| PublicKey::parse(text));
        read.collect::<Result<_, _>>().map_err(|e| CliError::usage(format!("{option}: {e}")))
    };
    let revoked = args.revoke.iter().map(|text| KeyId::parse(text)).collect::<Result<_, _>>();
    let key = secret_key(&args.key)?;
    let keyring = Keyring {
        version: args.version,
        issued_at: Timestamp::from_unix_ms(Clock::system().unix_ms() / 1000 * 1000),
        artefact_keys: keys("--artefact-key", &args.artefact_key)?,
        controller_keys: keys("--controller-key", &args.controller_key)?,
        revoked: revoked.map_err(|e| CliError::usage(format!("--revoke: {e}")))?,
    };
    let envelope = keyring.to_envelope().signed_by(&key);
    // By the rules of a gateway that trusts this root: too many keys, or the root's own id among the revoked.
    Trust::of_root(key.public()).with_keyring(envelope.clone()).map_err(CliError::usage)?;
    deliver(&envelope.encode(), args.out.as_deref(), &format!("signed by {}", key.public().id()))
}
