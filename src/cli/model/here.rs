//! `tidegate model status` and `rollback`: the models of this gateway, running or stopped, without any network.

use std::path::PathBuf;

use super::super::cloud::table;
use super::super::{ConfigArgs, print_warnings};
use super::{CliError, name};
use crate::app::models::door;
use crate::config::{EdgeConfig, Env};
use crate::downlink::keeper;
use crate::downlink::trial::Number;
use crate::models::manifest::Name;
use crate::models::store::shelf::Shelf;
use crate::models::store::{DIR, Files, Store, StoreError, disk};

/// Which gateway's models.
#[derive(clap::Args, Clone, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The data directory, instead of the configuration's
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Which model.
#[derive(clap::Args, Clone, Debug)]
pub struct RollbackArgs {
    /// Name of the model
    #[arg(value_parser = name)]
    name: Name,
    #[command(flatten)]
    config: ConfigArgs,
    /// The data directory, instead of the configuration's
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(super) const AFTER: &str = "\
On the gateway itself. A running gateway is asked at the socket in its data directory, so run this as the user that the
gateway runs as; a stopped one's files are changed. The gateway stays with the older version until a newer assignment
says otherwise, and tells the cloud.";

fn load(config: &ConfigArgs, data_dir: Option<&PathBuf>) -> Result<(EdgeConfig, PathBuf), CliError> {
    let (config, warnings) = EdgeConfig::load(config.config.as_deref(), &Env::of_process()).map_err(CliError::usage)?;
    print_warnings(&warnings);
    let dir = data_dir.unwrap_or(&config.node.data_dir).clone();
    if !dir.join(DIR).is_dir() {
        let text = format!("there are no models in {}; give --config or --data-dir of the gateway", dir.display());
        return Err(CliError::usage(text));
    }
    Ok((config, dir))
}

/// What the disk says: a running gateway changes it in single steps.
pub(super) fn status(args: &StatusArgs) -> Result<String, CliError> {
    let (_, dir) = load(&args.config, args.data_dir.as_ref())?;
    let models = dir.join(DIR);
    let names = disk::Disk::names(&Files, &models).map_err(CliError::temporary)?;
    let mut names: Vec<Name> = names.iter().filter_map(|name| Name::parse(name)).collect();
    names.retain(|name| models.join(name.as_str()).is_dir());
    names.sort();
    let shelves = names.into_iter().map(|name| {
        let shelf = Shelf::read(&Files, &models.join(name.as_str())).map_err(CliError::temporary)?;
        Ok((name, shelf))
    });
    let shelves = shelves.collect::<Result<Vec<_>, CliError>>()?;
    if args.json {
        let model = |(name, shelf): &(Name, Shelf)| {
            let active = shelf.active();
            serde_json::json!({
                "name": name, "version": active.current, "previous": active.previous, "shadow": shelf.shadow,
                "versions": shelf.versions.keys().collect::<Vec<_>>(),
                "fetching": shelf.partials.keys().collect::<Vec<_>>(), "bytes": shelf.bytes(),
            })
        };
        return Ok(format!("{}\n", shelves.iter().map(model).collect::<serde_json::Value>()));
    }
    if shelves.is_empty() {
        return Ok("no model was assigned to this gateway yet\n".to_owned());
    }
    let version = |version: Option<u64>| version.map_or_else(|| "-".to_owned(), |version| version.to_string());
    let all = |versions: Vec<u64>| match versions.is_empty() {
        true => "-".to_owned(),
        false => versions.iter().map(u64::to_string).collect::<Vec<_>>().join(","),
    };
    let row = |(name, shelf): &(Name, Shelf)| {
        let active = shelf.active();
        vec![
            name.to_string(),
            version(active.current),
            version(active.previous),
            version(shelf.shadow),
            all(shelf.partials.keys().copied().collect()),
            all(shelf.versions.keys().copied().collect()),
            format!("{:.1} MB", shelf.bytes() as f64 / 1e6),
        ]
    };
    let header = ["MODEL", "IN USE", "BEFORE", "SHADOW", "FETCHING", "ON DISK", "BYTES"];
    Ok(table(&header, &shelves.iter().map(row).collect::<Vec<_>>()))
}

pub(super) fn rollback(args: &RollbackArgs) -> Result<String, CliError> {
    let (config, dir) = load(&args.config, args.data_dir.as_ref())?;
    let version = match Store::open(&dir, config.models.max_bytes) {
        Ok((mut store, found)) => {
            found.iter().for_each(|found| eprintln!("{found}"));
            let pushed = keeper::Store::open(&dir).map_err(CliError::temporary)?;
            let inbox = keeper::open_inbox(&config, Some(&pushed), Number::default()).map_err(CliError::usage)?;
            store.rollback(&args.name, inbox.trust()).map_err(CliError::temporary)?
        }
        Err(StoreError::InUse(_)) => door::ask(&dir, &args.name).map_err(CliError::temporary)?,
        Err(e) => return Err(CliError::temporary(e)),
    };
    Ok(format!("version {version} of {} is in use\n", args.name))
}
