//! A gateway's own file as it was read: alone, and with pushed documents over it.

use std::path::Path;

use super::document::Document;
use super::edge::EdgeConfig;
use super::env::Env;
use super::overlay::{self, CheckedOn, Overlaid, Pushed};
use super::problem::{ConfigErrors, Warning};

/// What the gateway's own file said when it was read last. A document is laid over this text and not over the file, which
/// somebody may be writing just now; and going back to it needs no file at all.
#[derive(Clone)]
pub struct OwnFile {
    document: Document,
    env: Env,
    config: EdgeConfig,
    warnings: Vec<Warning>,
}

impl OwnFile {
    /// Reads `path` (without one: the defaults) and what `env` overrides. It must be right alone.
    pub fn load(path: Option<&Path>, env: Env) -> Result<Self, ConfigErrors> {
        Self::of(Document::load(path)?, env)
    }

    pub(super) fn of(document: Document, env: Env) -> Result<Self, ConfigErrors> {
        let (config, warnings) = EdgeConfig::read(&document, &env)?;
        Ok(Self { document, env, config, warnings })
    }

    /// Alone.
    pub fn alone(&self) -> &EdgeConfig {
        &self.config
    }

    /// What should be known of it although it is used.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// With `document` over it. Looks at the files that are named.
    pub fn with(&self, document: Pushed<'_>) -> Result<Overlaid, ConfigErrors> {
        overlay::read(self.document.clone(), document, &self.env, CheckedOn::Gateway)
    }
}

/// No text: it may hold a token.
impl std::fmt::Debug for OwnFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnFile").field("node", &self.config.node.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_as_it_was_read_whatever_becomes_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge.toml");
        std::fs::write(&path, "[node]\nid = \"press-7\"\n[uplink]\nbatch_events = 7\n").unwrap();
        let own = OwnFile::load(Some(&path), Env::empty()).unwrap();
        std::fs::write(&path, "half of a li").unwrap();
        assert_eq!(own.alone().uplink.batch_events, 7);
        let text = "[uplink]\nretry_max = \"1s\"\n";
        let config = own.with(Pushed { name: "document", text }).unwrap().config;
        assert_eq!((config.uplink.batch_events, config.uplink.retry_max.as_secs()), (7, 1));
        let refused = own.with(Pushed { name: "document", text: "[uplink]\ntenant = \"other\"\n" }).unwrap_err();
        assert!(refused.to_string().contains("document:2:1: uplink.tenant"), "{refused}");
        assert!(OwnFile::load(Some(&path), Env::empty()).is_err());
    }
}
