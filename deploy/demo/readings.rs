//! Real readings from CSV files with a header line: each row becomes a JSON object.

use std::path::PathBuf;

/// Rows of all files, in order, as JSON objects.
pub struct Readings(Vec<Vec<u8>>);

impl Readings {
    /// Row `index`; starts again after the last.
    pub fn row(&self, index: u64) -> Vec<u8> {
        self.0[(index % self.0.len() as u64) as usize].clone()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Loads `files`; `None` if there are none.
pub fn load(files: &[PathBuf]) -> Result<Option<Readings>, String> {
    if files.is_empty() {
        return Ok(None);
    }
    let mut rows = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let series = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut lines = text.lines();
        let names: Vec<&str> = lines
            .next()
            .filter(|head| head.contains(','))
            .ok_or_else(|| format!("{}: the first line must name the columns, separated by commas", file.display()))?
            .split(',')
            .collect();
        for (i, line) in lines.enumerate().filter(|(_, l)| !l.is_empty()) {
            let values: Vec<&str> = line.split(',').collect();
            if values.len() != names.len() {
                return Err(format!("{}:{}: {} columns, not {}", file.display(), i + 2, values.len(), names.len()));
            }
            let mut object = serde_json::Map::new();
            object.insert("series".into(), series.clone().into());
            for (name, value) in names.iter().zip(values) {
                let number = value.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
                object.insert((*name).into(), number.map_or_else(|| value.into(), Into::into));
            }
            rows.push(serde_json::Value::Object(object).to_string().into_bytes());
        }
    }
    if rows.is_empty() { Err("the files hold no readings".into()) } else { Ok(Some(Readings(rows))) }
}
