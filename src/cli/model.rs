//! `tidegate model`: models, from a file to the catalogue from which gateways get them.

mod assign;
mod here;
mod list;
mod manifest;
mod publish;
mod rollout;

use clap::Subcommand;

use super::CliError;
use crate::models::manifest::Name;

const AFTER: &str = "\
A model is signed by who made it, with a key that gateways trust (downlink.artefact_keys) and the cloud as well
(control.artefact_keys): neither the cloud nor anybody on the way can make one up or change it.

  tidegate keys signing anna.key --role artefact
  tidegate model publish press-anomaly model.onnx --version 7 --sign anna.key
  tidegate model show press-anomaly
  tidegate model assign press-anomaly --version 7 --node press-7       at once, to try it
  tidegate model rollout press-anomaly 7 --group plant-7 --wait        in waves, to many

docs/models.md tells how a training pipeline publishes, in Python.";

/// Commands on models.
#[derive(Subcommand, Clone, Debug)]
#[command(after_long_help = AFTER)]
pub enum ModelCommand {
    /// Sign a model: make the manifest that says which bytes a version is
    #[command(after_long_help = manifest::AFTER)]
    Manifest(manifest::Args),
    /// Publish a version: sign it, and send it to the cloud, which cuts it and makes it ready for gateways
    #[command(after_long_help = publish::AFTER)]
    Publish(publish::Args),
    /// Say which gateways have which version, at once
    #[command(after_long_help = assign::AFTER)]
    Assign(assign::Args),
    /// Bring a version to gateways in waves, and take it back where it is not well
    #[command(after_long_help = rollout::AFTER)]
    Rollout(Box<rollout::Args>),
    /// List the models of the catalogue, with the newest version of each
    List(list::ListArgs),
    /// Show the versions of a model: who published them, when, from what
    Show(list::ShowArgs),
    /// On a gateway: which versions it has and uses, and what it fetches
    Status(here::StatusArgs),
    /// On a gateway: go back to the version before, at once and without the network
    #[command(after_long_help = here::AFTER)]
    Rollback(here::RollbackArgs),
}

pub fn run(command: &ModelCommand) -> Result<(), CliError> {
    let out = match command {
        ModelCommand::Manifest(args) => manifest::run(args)?,
        ModelCommand::Publish(args) => publish::run(args)?,
        ModelCommand::Rollout(args) => rollout::run(args)?,
        ModelCommand::Assign(args) => assign::run(args)?,
        ModelCommand::List(args) => list::list(args)?,
        ModelCommand::Show(args) => list::show(args)?,
        ModelCommand::Status(args) => here::status(args)?,
        ModelCommand::Rollback(args) => here::rollback(args)?,
    };
    super::print(&out);
    Ok(())
}

fn name(text: &str) -> Result<Name, String> {
    let wrong = || {
        "a model's name has 1 to 64 lower-case letters, digits or -, such as press-anomaly, with no - at either end"
            .to_owned()
    };
    Name::parse(text).ok_or_else(wrong)
}
