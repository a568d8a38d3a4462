//! Log lines on standard error, for people or as JSON.

use std::io::IsTerminal;

use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::edge::{Log, LogFormat};

/// Changes how much is logged while the process runs. Cheap to clone.
#[derive(Clone)]
pub struct Logs(reload::Handle<EnvFilter, Registry>);

impl Logs {
    /// Starts logging. The error says what is wrong with `log.level`.
    pub fn start(log: &Log) -> Result<Self, String> {
        let (filter, handle) = reload::Layer::new(filter(&log.level)?);
        let lines = fmt::layer().with_writer(std::io::stderr);
        let lines = match log.format {
            LogFormat::Human => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|e| e.to_string())?;
        Ok(Self(handle))
    }

    /// From here on `log.level`.
    pub fn set(&self, log: &Log) -> Result<(), String> {
        self.0.reload(filter(&log.level)?).map_err(|e| e.to_string())
    }
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(level).map_err(|e| {
        format!("log.level {level:?}: {e}; write a level such as \"info\", or \"info,tidegate::uplink=debug\"")
    })
}
