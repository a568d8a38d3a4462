//! `tidegate keys signing`: a secret key in a file that only its owner can read, and its public text.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use clap::ValueEnum;
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::super::CliError;
use crate::downlink::artefact::SecretKey;
use crate::downlink::artefact::keys::SEED_BYTES;

pub(super) const AFTER: &str = "\
There are three kinds of keys, each for one thing:
  artefact    signs documents; its secret is an operator's, and the cloud must not have it
  controller  signs assignments, which gateway runs which document; its secret is the cloud's
  root        signs keyrings, which add and revoke the others; its secret lies in a safe

Have two root keys in every gateway's file from the start, so that one can revoke the other without a visit.

  tidegate keys signing anna.key
  tidegate config sign press.toml --key anna.key --version 1 --out press.signed

The file is PKCS#8 in PEM, readable by its owner only. A file that is there is never overwritten.";

/// What a key is for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// Signs documents
    Artefact,
    /// Signs assignments
    Controller,
    /// Signs keyrings
    Root,
}

/// Where to, and what for.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// File for the secret key; must not be there yet
    file: PathBuf,
    /// What the key is for
    #[arg(long, value_enum, default_value_t = Role::Artefact)]
    role: Role,
}

pub(super) fn run(args: &Args) -> Result<String, CliError> {
    let mut seed = Zeroizing::new([0_u8; SEED_BYTES]);
    SystemRandom::new()
        .fill(seed.as_mut())
        .map_err(|_| CliError::temporary("this machine gives no random numbers now; try again"))?;
    let key = SecretKey::from_seed(&seed).map_err(CliError::internal)?;
    write_new(args, SecretKey::pem_of_seed(&seed).as_bytes())?;
    let public = key.public();
    let (setting, signs) = match args.role {
        Role::Artefact => ("artefact_keys", "documents"),
        Role::Controller => ("controller_keys", "assignments"),
        Role::Root => ("roots", "keyrings"),
    };
    Ok(format!(
        "Made {}, which signs {signs}. Keep it secret, and a copy of it safe.\n\npublic key  {public}\nkey id      {}\n\n\
         Gateways that shall trust it have it in edge.toml:\n\n[downlink]\n{setting} = [\"{public}\"]\n",
        args.file.display(),
        public.id(),
    ))
}

fn write_new(args: &Args, pem: &[u8]) -> Result<(), CliError> {
    let name = args.file.display();
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.file).map_err(|e| match e
        .kind()
    {
        std::io::ErrorKind::AlreadyExists => {
            CliError::usage(format!("{name}: is there already, and a key is never overwritten; name another file"))
        }
        std::io::ErrorKind::NotFound => CliError::usage(format!("{name}: there is no such directory; make it first")),
        _ => CliError::temporary(format!("{name}: cannot be written: {e}")),
    })?;
    file.write_all(pem).and_then(|()| file.sync_all()).map_err(|e| {
        // Half a key would be in the way of the next attempt.
        let _ = std::fs::remove_file(&args.file);
        CliError::temporary(format!("{name}: cannot be written: {e}"))
    })
}
