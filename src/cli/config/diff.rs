//! `tidegate config diff`: what differs, key by key.

use std::path::{Path, PathBuf};

use super::check::refusal;
use super::{CliError, Given};
use crate::config::overlay::{Overlaid, Pushed, check_alone};
use crate::config::{EdgeConfig, Env, diff};

pub(super) const AFTER: &str = "\
  tidegate config diff old.toml new.toml                    what differs between two documents
  tidegate config diff new.toml --config edge.toml          what a document changes on a gateway with this file
  tidegate config diff old.toml new.toml --config edge.toml what changes on that gateway from one to the other

Values are compared by what they mean: 8388608 is \"8MiB\". Secrets are not shown. Files may be signed; signatures are not \
looked at here, but by \"tidegate config verify\".

Exit codes: 0 whether there is a difference or not, 64 for a file with mistakes.";

/// What to compare.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// One document with --config, or two
    #[arg(required = true, num_args = 1..=2, value_name = "DOCUMENT")]
    files: Vec<PathBuf>,
    /// The gateway's own file
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<String, CliError> {
    let changes = match (args.files.as_slice(), &args.config) {
        ([old, new], None) => diff::documents(&read(old, None)?, &read(new, None)?),
        ([old, new], Some(config)) => {
            diff::configurations(&read(old, Some(config))?.config, &read(new, Some(config))?.config)
        }
        ([new], Some(config)) => {
            let (own, _) = EdgeConfig::load(Some(config), &Env::of_process()).map_err(CliError::usage)?;
            diff::configurations(&own, &read(new, Some(config))?.config)
        }
        _ => return Err(CliError::usage("name two documents, or one and the gateway's own file with --config")),
    };
    if changes.is_empty() {
        return Ok("no difference\n".to_owned());
    }
    Ok(changes.iter().map(|change| format!("{change}\n")).collect())
}

fn read(path: &Path, config: Option<&PathBuf>) -> Result<Overlaid, CliError> {
    let name = path.display().to_string();
    let text = Given::document(path)?;
    let document = Pushed { name: &name, text: &text };
    let read = match config {
        Some(config) => EdgeConfig::load_with(Some(config), document, &Env::of_process()),
        None => check_alone(document),
    };
    read.map_err(|errors| refusal(&name, &errors))
}
