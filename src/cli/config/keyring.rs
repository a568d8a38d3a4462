//! `tidegate config keyring`: which keys gateways trust besides those of their files.

use std::path::PathBuf;

use super::super::cloud::CloudArgs;
use super::{CliError, deliver, secret_key};
use crate::config::overlay::VERSION_MAX;
use crate::downlink::artefact::assignment::NUMBER_MAX;
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
  tidegate config verify keyring.signed --config edge.toml

The cloud's key was stolen. Whoever had it may have used up the numbers of assignments: gateways then refuse what follows as
older, also from a new key. A higher epoch leaves all numbers before it behind; it needs a root key, which the cloud has not:
  tidegate keys signing controller-2.key --role controller
  tidegate config keyring --version 3 --epoch 1 --controller-key tidegate-pub-ed25519:… --revoke 89abcdef01234567 \\
      --key root.key --out keyring.signed --push
Then set control.controller_key in cloud.toml to the new file and start the cloud again. Gateways take the keyring and what is
assigned to them, without a visit. From then on every keyring says --epoch 1 or more: a lower one is refused. Gateways of a
version that knows no epochs refuse a keyring with one: update these first.";

/// What is in it, and who signs it.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Version of the keyring; must be higher than that of the one before
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=VERSION_MAX))]
    version: u64,
    /// Epoch of assignments, at least that of the keyring before; one more when somebody had a controller key, or the cloud
    /// has lost its count
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=NUMBER_MAX))]
    epoch: u64,
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
    /// Give it to the cloud, which sends it to every gateway that has an assignment
    #[arg(long)]
    push: bool,
    #[command(flatten)]
    at: CloudArgs,
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
        epoch: args.epoch,
        issued_at: Timestamp::from_unix_ms(Clock::system().unix_ms() / 1000 * 1000),
        artefact_keys: keys("--artefact-key", &args.artefact_key)?,
        controller_keys: keys("--controller-key", &args.controller_key)?,
        revoked: revoked.map_err(|e| CliError::usage(format!("--revoke: {e}")))?,
    };
    let envelope = keyring.to_envelope().signed_by(&key);
    // By the rules of a gateway that trusts this root: too many keys, or the root's own id among the revoked.
    Trust::of_root(key.public()).with_keyring(envelope.clone()).map_err(CliError::usage)?;
    let text = envelope.encode();
    let said = deliver(&text, args.out.as_deref(), &format!("signed by {}", key.public().id()))?;
    if args.push {
        args.at.client()?.post("/v1/keyrings", &text)?;
        eprintln!("the cloud has keyring {}, epoch {}", args.version, args.epoch);
    }
    Ok(said)
}
