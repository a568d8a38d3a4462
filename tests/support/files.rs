//! Reads back what the cloud mode's `files` sink stored, as any user would: zstd, one JSON object a line.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::oracle::Arrival;

#[derive(Deserialize)]
struct Line<'a> {
    id: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// All events below `dir`, files in the order of their names. A frame that is still being written ends its file.
pub fn read_events(dir: &Path) -> Result<Vec<Arrival>, String> {
    let mut files = Vec::new();
    collect(dir, &mut files).map_err(|e| format!("{}: {e}", dir.display()))?;
    files.sort();
    let mut events = Vec::new();
    for path in files {
        let file = File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let decoder = zstd::Decoder::new(file).map_err(|e| format!("{}: {e}", path.display()))?;
        let unfinished = path.to_string_lossy().contains(".partial");
        for line in BufReader::new(decoder).lines() {
            let line = match line {
                Ok(line) => line,
                Err(_) if unfinished => break,
                Err(e) => return Err(format!("{}: {e}", path.display())),
            };
            let parsed: Line<'_> = match serde_json::from_str(&line) {
                Ok(parsed) => parsed,
                Err(_) if unfinished => break,
                Err(e) => return Err(format!("{}: {e}: {line}", path.display())),
            };
            let data = parsed.data.map_or("", RawValue::get);
            events.push(Arrival { id: parsed.id, crc: crc32fast::hash(data.as_bytes()) });
        }
    }
    Ok(events)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.to_string_lossy().contains(".ndjson.zst") {
            files.push(path);
        }
    }
    Ok(())
}
