//! `tidegate keys list`: the certificates in a directory, and when they end.

use std::fs;
use std::path::Path;

use chrono::DateTime;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::failed_to_read;
use crate::cli::CliError;
use crate::security::certificates::Expiry;

/// One line for each `.pem` in `dir`, by name.
pub fn list(dir: &Path, now_s: i64) -> Result<String, CliError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| failed_to_read(dir, &e))? {
        names.push(entry.map_err(|e| failed_to_read(dir, &e))?.file_name());
    }
    names.sort();
    let rows: Vec<Row> = names
        .iter()
        .map(Path::new)
        .filter(|name| name.extension().is_some_and(|e| e == "pem"))
        .filter_map(|name| row(&dir.join(name), name, now_s))
        .collect();
    if rows.is_empty() {
        let dir = dir.display();
        return Err(CliError::usage(format!("no certificate in {dir}: tidegate keys server --dir {dir} --name HOST")));
    }
    let width = rows.iter().map(|row| row.file.chars().count()).max().unwrap_or(0).max(4);
    let mut out = format!("{:width$}  {:9}  {:10}  {:>9}  subject", "file", "kind", "until", "days left");
    for Row { file, kind, until, days, subject } in rows {
        out.push_str(&format!("\n{file:width$}  {kind:9}  {until:10}  {days:>9}  {subject}"));
    }
    Ok(out)
}

struct Row {
    file: String,
    kind: &'static str,
    until: String,
    days: i64,
    subject: String,
}

/// `None`: the file holds no certificate.
fn row(path: &Path, name: &Path, now_s: i64) -> Option<Row> {
    let der = CertificateDer::from_pem_file(path).ok()?;
    let expiry = Expiry::of(path, std::slice::from_ref(&der))?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    let usage = certificate.extended_key_usage().ok().flatten();
    let kind = match usage.map(|usage| (usage.value.server_auth, usage.value.client_auth)) {
        _ if certificate.is_ca() => "authority",
        Some((true, _)) => "server",
        Some((_, true)) => "device",
        _ => "other",
    };
    let until = DateTime::from_timestamp(expiry.not_after_s, 0)?;
    Some(Row {
        file: name.display().to_string(),
        kind,
        until: until.format("%Y-%m-%d").to_string(),
        days: expiry.days_left(now_s),
        // Control characters of somebody else's certificate are not for a terminal.
        subject: certificate.subject().to_string().replace(char::is_control, "?"),
    })
}
