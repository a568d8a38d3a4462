//! The commands that need a configuration: load it, start logging, hand over.

use super::provision::{self, ProvisionArgs};
use super::tail::{self, TailArgs};
use super::{CliError, ConfigArgs, EdgeArgs, print_warnings};
use crate::app::{self, AppError, Source};
use crate::config::{CloudConfig, Env, OwnFile};
use crate::observe::logs::Logs;

pub fn edge(args: &EdgeArgs) -> Result<(), CliError> {
    let file = args.config.config.clone();
    let again = move || OwnFile::load(file.as_deref(), Env::of_process());
    let own = again().map_err(CliError::usage)?;
    print_warnings(own.warnings());
    let logs = Logs::start(&own.alone().log).map_err(CliError::usage)?;
    let source = Source { own, again: Box::new(again), local_only: args.local };
    app::edge(source, logs).map_err(CliError::from)
}

pub fn cloud(args: &ConfigArgs) -> Result<(), CliError> {
    let (config, warnings) = CloudConfig::load(args.config.as_deref(), &Env::of_process()).map_err(CliError::usage)?;
    print_warnings(&warnings);
    Logs::start(&config.log).map_err(CliError::usage)?;
    app::cloud(config).map_err(CliError::from)
}

pub fn provision(args: &ProvisionArgs) -> Result<(), CliError> {
    let (config, warnings) = CloudConfig::load(args.config.as_deref(), &Env::of_process()).map_err(CliError::usage)?;
    print_warnings(&warnings);
    provision::run(args, &config, &mut std::io::stdout())
        .map_err(|e| CliError { code: e.exit_code(), message: e.to_string() })
}

pub fn tail(args: &TailArgs) -> Result<(), CliError> {
    tail::run(args).map_err(|e| CliError { code: e.exit_code(), message: e.to_string() })
}

impl From<AppError> for CliError {
    fn from(e: AppError) -> Self {
        match e {
            AppError::Setup(_) => Self::usage(e),
            AppError::Unavailable(_) => Self::temporary(e),
            AppError::Failed(_) => Self::internal(e),
        }
    }
}
