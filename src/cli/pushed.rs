//! What was pushed to the gateway whose own file this is: what would run with it.

use crate::config::overlay::Header;
use crate::config::{EdgeConfig, OwnFile};
use crate::downlink::artefact::Digest;
use crate::downlink::keeper::store::{self, DIR, DOCUMENT};
use crate::downlink::trial::slots::Slots;
use crate::downlink::trial::{Config, Place, Record, Stage};

/// A gateway's own file with what is committed over it.
pub struct InEffect {
    /// What would run.
    pub config: EdgeConfig,
    /// Where it comes from, one line each; empty: the file alone, and nothing else was ever pushed.
    pub notes: Vec<String>,
    /// What should be known.
    pub warnings: Vec<String>,
}

/// Looks into the data directory; the gateway may be running.
pub fn in_effect(own: &OwnFile) -> InEffect {
    let mut found = InEffect { config: own.alone().clone(), notes: Vec::new(), warnings: Vec::new() };
    let data_dir = &own.alone().node.data_dir;
    let dir = data_dir.join(DIR);
    match store::peek(data_dir) {
        Ok(None) => {}
        Ok(Some((slots, on_disk))) => match on_disk.record {
            Ok(Some(record)) => found.look(own, &slots, &record),
            Ok(None) => {}
            Err(e) => found.warnings.push(format!("{}: {e}; a start would run the file alone", dir.display())),
        },
        Err(e) => {
            let text = format!("{}: cannot be read: {e}; what was pushed is not considered here", dir.display());
            found.warnings.push(text);
        }
    }
    found
}

impl InEffect {
    fn look(&mut self, own: &OwnFile, slots: &Slots, record: &Record) {
        let committed = &record.committed;
        match store::load(own, slots, &committed.place) {
            Ok((config, warnings)) => {
                self.config = config;
                self.warnings.extend(warnings.iter().map(ToString::to_string));
                match committed.place {
                    Place::Slot { .. } => self.notes.push(format!("with {} over it", name(slots, committed))),
                    Place::Local if !committed.number.is_none() => {
                        self.notes.push(format!("alone, as assignment {} says", committed.number));
                    }
                    Place::Local => {}
                }
            }
            Err(reason) => self.warnings.push(format!(
                "{} is committed and cannot be used: {reason}; a start would run the file alone",
                name(slots, committed)
            )),
        }
        if let Some(candidate) = &record.candidate {
            let stage = match candidate.stage {
                Stage::OnTrial => "is on trial",
                Stage::Waiting => "waits for its next trial",
            };
            self.notes.push(format!("{} {stage}", name(slots, &candidate.config)));
        }
    }
}

fn name(slots: &Slots, config: &Config) -> String {
    let Place::Slot { slot, digest } = config.place else {
        return format!("the file alone (assignment {})", config.number);
    };
    let text = slots.read(slot, &digest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let version = text.and_then(|text| Header::of(DOCUMENT, &text).ok()).and_then(|header| header.version);
    let version = version.map_or_else(String::new, |version| format!(" version {version}"));
    format!("the document{version} (assignment {}, sha256 {})", config.number, Digest::from_bytes(digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Env;
    use crate::downlink::keeper::Store;
    use crate::downlink::trial::Slot;

    #[test]
    fn what_is_committed_is_shown_or_why_it_cannot_be() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("edge.toml");
        let data = dir.path().join("data");
        std::fs::write(&file, format!("[node]\nid = \"press-7\"\ndata_dir = {data:?}\n")).unwrap();
        let own = OwnFile::load(Some(&file), Env::empty()).unwrap();
        let look = || in_effect(&own);
        assert!(look().notes.is_empty() && look().warnings.is_empty() && !data.exists());
        for (text, batch) in [("[uplink]\nbatch_events = 7\n[document]\nversion = 12\n", 7), ("[uplnk]\n", 1000)] {
            let store = Store::open(&data).unwrap();
            let digest = Digest::of(text.as_bytes()).bytes();
            store.slots().write(Slot::A, 3.into(), digest, text.as_bytes()).unwrap();
            let committed = Config { number: 3.into(), place: Place::Slot { slot: Slot::A, digest } };
            store.slots().persist(&Record { committed, ..Record::default() }).unwrap();
            assert_eq!(look().config.uplink.batch_events, batch);
            let said = [look().notes, look().warnings].concat().join("\n");
            let expected = if batch == 7 { "with the document version 12 (assignment 3, sha256 " } else { "uplnk" };
            assert!(said.contains(expected), "{said}");
        }
        std::fs::write(data.join("downlink/trial"), "damaged").unwrap();
        assert!(look().warnings[0].contains("damaged"), "{:?}", look().warnings);
    }
}
