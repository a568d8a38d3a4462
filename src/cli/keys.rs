//! `tidegate keys`: a private authority, the certificate of this gateway, certificates of devices; keys that sign what is
//! pushed.

mod list;
mod signing;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Datelike as _, Duration, Utc};
use clap::{Args, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::CliError;
use crate::ingest::identity::rules::is_name;
use crate::security::certificates::Expiry;
use crate::sys::clock::Clock;
use crate::sys::{files, random};

/// How long the private authority is valid: longer than the machines that trust it.
const AUTHORITY_DAYS: i64 = 20 * 365;

/// A clock before this (2024-01-01) was never set: certificates made by it would be over before they begin.
const CLOCK_MIN_S: i64 = 1_704_067_200;

/// Days of a certificate unless others are asked for: Apple's TLS takes none of a private authority that is valid for longer.
const DAYS_DEFAULT: i64 = 825;

/// Most days of a certificate: ten years, for devices that nobody will visit.
const DAYS_MAX: i64 = 3650;

const AFTER_SERVER: &str = "\
Makes in DIR:
  ca.pem       the authority: devices and browsers must trust it; nothing secret
  ca.key       its key: keep it off this gateway if you can, it makes certificates that all of them trust
  server.pem   this gateway's certificate for the names and addresses given
  server.key   its key

Keys are readable by their owner alone (0600), who is the owner of DIR: make DIR as the user that runs the gateway.
With the same DIR again it keeps the authority and the gateway's key and renews the certificate; a running gateway takes
the new one within seconds. Files that it did not make are never overwritten without --force.

  tidegate keys server --name gw.plant.example --ip 192.168.1.5 --dir /etc/tidegate/tls";

const AFTER_DEVICE: &str = "\
Makes NAME.pem and NAME.key in DIR, signed by the authority that \"tidegate keys server\" made there. The certificate's common
name is NAME, which identity.certificate_name = \"common-name\" (the default) takes for the device's name.

  tidegate keys device press-7 --dir /etc/tidegate/tls
  tidegate devices add press-7 --certificate --file /etc/tidegate/devices.toml";

/// Commands on keys.
#[derive(Subcommand, Clone, Debug)]
pub enum KeysCommand {
    /// Make or renew this gateway's certificate, and a private authority for it
    #[command(after_long_help = AFTER_SERVER)]
    Server(ServerArgs),
    /// Make or renew a device's certificate
    #[command(after_long_help = AFTER_DEVICE)]
    Device(DeviceArgs),
    /// Show the certificates in a directory and when they end
    List(ListArgs),
    /// Make a key that signs documents, keyrings or assignments (tidegate config)
    #[command(after_long_help = signing::AFTER)]
    Signing(signing::Args),
}

/// Which directory.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Directory with the files
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// This gateway's certificate.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// Host name that devices connect to; may be given several times
    #[arg(long, value_name = "HOST")]
    name: Vec<String>,
    /// Address that devices connect to; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,
    #[command(flatten)]
    place: Place,
}

/// A device's certificate.
#[derive(Args, Clone, Debug)]
pub struct DeviceArgs {
    /// The device
    name: String,
    #[command(flatten)]
    place: Place,
}

/// Where to, and for how long.
#[derive(Args, Clone, Debug)]
struct Place {
    /// Directory for the files
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Days for which the certificate is valid
    #[arg(long, default_value_t = DAYS_DEFAULT, value_parser = clap::value_parser!(i64).range(1..=DAYS_MAX))]
    days: i64,
    /// Overwrite files that this command did not make
    #[arg(long)]
    force: bool,
}

pub fn run(command: &KeysCommand) -> Result<(), CliError> {
    let clock = Clock::system();
    let text = match command {
        KeysCommand::Server(args) => server(args, &clock)?,
        KeysCommand::Device(args) => device(args, &clock)?,
        KeysCommand::Signing(args) => signing::run(args)?.trim_end().to_owned(),
        KeysCommand::List(args) => list::list(&args.dir, clock.unix_ms() / 1000)?,
    };
    // Whoever closed the pipe does not want to read on; the files are there.
    let _ = writeln!(io::stdout(), "{text}");
    Ok(())
}

fn server(args: &ServerArgs, clock: &Clock) -> Result<String, CliError> {
    let Some(host) = args.name.first().cloned().or_else(|| args.ip.first().map(ToString::to_string)) else {
        return Err(CliError::usage(
            "give at least one --name or --ip: what devices connect to must be in the certificate",
        ));
    };
    let now = now(clock)?;
    let mut params = CertificateParams::new(args.name.clone())
        .map_err(|e| CliError::usage(format!("--name {}: {e}; write host names", args.name.join(" "))))?;
    params.subject_alt_names.extend(args.ip.iter().map(|ip| SanType::IpAddress(*ip)));
    params.distinguished_name.push(DnType::CommonName, &host);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let authority = Authority::find_or_make(&args.place, now)?;
    let until = authority.sign("server", params, &args.place, now)?;
    Ok(next_steps(&args.place.dir, &host, &until))
}

fn device(args: &DeviceArgs, clock: &Clock) -> Result<String, CliError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let reserved = matches!(args.name.as_str(), "ca" | "server");
    if !is_name(&args.name) || !args.name.chars().all(plain) || args.name.starts_with('.') || reserved {
        return Err(CliError::usage(format!(
            "{:?} cannot be a file's and a device's name; write letters, digits, - _ . (and not \"ca\" or \"server\")",
            args.name
        )));
    }
    let now = now(clock)?;
    let authority = Authority::find(&args.place.dir)?.ok_or_else(|| {
        let dir = args.place.dir.display();
        CliError::usage(format!(
            "there is no authority (ca.pem) in {dir}; make one first: tidegate keys server --dir {dir} --name HOST"
        ))
    })?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, &args.name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let until = authority.sign(&args.name, params, &args.place, now)?;
    let (dir, name) = (absolute(&args.place.dir), &args.name);
    Ok(format!(
        "Made {dir}/{name}.pem and {dir}/{name}.key, valid until {until}. Both go to the device, with ca.pem; keep no copy of the key.

The gateway must ask for certificates; set in edge.toml:

[tls]
client_ca_file = \"{dir}/ca.pem\"
client_certificates = \"optional\"

and know the device, if it is to be shut out again or to have rights of its own:

  tidegate devices add {name} --certificate --config edge.toml

Try:
  mosquitto_pub --cafile {dir}/ca.pem --cert {dir}/{name}.pem --key {dir}/{name}.key -h HOST -p 8883 -t devices/{name}/hello -m hi
  curl --cacert {dir}/ca.pem --cert {dir}/{name}.pem --key {dir}/{name}.key -H 'content-type: application/json' -d '{{}}' \\
       https://HOST:8843/v1/devices/{name}/events"
    ))
}

fn next_steps(dir: &Path, host: &str, until: &str) -> String {
    let dir = absolute(dir);
    // Beside the directory of keys, as in /etc/tidegate.
    let devices = absolute(&Path::new(&dir).parent().unwrap_or(Path::new("/")).join("devices.toml"));
    // An IPv6 address stands in brackets in a URL.
    let in_url = if host.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() };
    format!(
        "Made {dir}/server.pem and {dir}/server.key, signed by {dir}/ca.pem, valid until {until}.

Set in edge.toml (a [section] may be there only once):

[tls]
certificate_file = \"{dir}/server.pem\"
key_file = \"{dir}/server.key\"

[http]
tls_listen = \"0.0.0.0:8843\"

[mqtt]
tls_listen = \"0.0.0.0:8883\"

[identity]
mode = \"required\"
devices_file = \"{devices}\"

Make a device, start the gateway with that file, and try:
  TOKEN=$(tidegate devices add press-7 --config edge.toml)
  curl --cacert {dir}/ca.pem -H \"authorization: Bearer $TOKEN\" -H 'content-type: application/json' -d '{{\"temperature\":21.5}}' \\
       https://{in_url}:8843/v1/devices/press-7/events
  mosquitto_pub --cafile {dir}/ca.pem -h {host} -p 8883 -u press-7 -P \"$TOKEN\" -t devices/press-7/reading -m '{{\"temperature\":21.5}}'"
    )
}

fn absolute(dir: &Path) -> String {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()).display().to_string()
}

fn now(clock: &Clock) -> Result<DateTime<Utc>, CliError> {
    let now = DateTime::from_timestamp_millis(clock.unix_ms()).unwrap_or_default();
    if now.timestamp() < CLOCK_MIN_S {
        return Err(CliError::temporary(format!(
            "this machine's clock says {now}; set it first, or nobody takes the certificate"
        )));
    }
    Ok(now)
}

/// From yesterday, for clocks that are behind, for so many days.
fn valid(params: &mut CertificateParams, now: DateTime<Utc>, days: i64) {
    let day = |at: DateTime<Utc>| {
        // Months and days fit their types.
        let small = |n: u32| u8::try_from(n).unwrap_or(1);
        date_time_ymd(at.year(), small(at.month()), small(at.day()))
    };
    params.not_before = day(now - Duration::days(1));
    params.not_after = day(now + Duration::days(days));
}

/// The private authority of a directory.
struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    expiry: Expiry,
}

impl Authority {
    fn find_or_make(place: &Place, now: DateTime<Utc>) -> Result<Self, CliError> {
        match Self::find(&place.dir) {
            Ok(Some(found)) => return Ok(found),
            Err(e) if !place.force => return Err(e),
            _ => {}
        }
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Two authorities of one name confuse whoever trusts both.
        params.distinguished_name.push(DnType::CommonName, format!("Tidegate authority {}", &random::hex16()[..8]));
        valid(&mut params, now, AUTHORITY_DAYS);
        let key = KeyPair::generate().map_err(CliError::internal)?;
        let made = params.self_signed(&key).map_err(CliError::internal)?;
        files::create_dir_durable(&place.dir).map_err(|e| failed(&place.dir, &e))?;
        // The key first: a certificate without its key is of no use, and would be in the way.
        write(&place.dir.join("ca.key"), &key.serialize_pem(), 0o600)?;
        write(&place.dir.join("ca.pem"), &made.pem(), 0o644)?;
        let missing = || CliError::internal("the authority that was just made is not there");
        Self::find(&place.dir)?.ok_or_else(missing)
    }

    /// `None`: neither of its files is there.
    fn find(dir: &Path) -> Result<Option<Self>, CliError> {
        let (certificate_file, key_file) = (dir.join("ca.pem"), dir.join("ca.key"));
        let (certificate, key) = match (read(&certificate_file)?, read(&key_file)?) {
            (None, _) => return Ok(None),
            (Some(_), None) => {
                let (key, pem) = (key_file.display(), certificate_file.display());
                return Err(CliError::usage(format!(
                    "{key} is missing, the key of {pem}; put it there, or make another authority with --force"
                )));
            }
            (Some(certificate), Some(key)) => (certificate, key),
        };
        let bad = |path: &Path, e: &dyn std::fmt::Display| {
            CliError::usage(format!("{}: {e}; make another authority with --force", path.display()))
        };
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|e| bad(&certificate_file, &e))?;
        let key = KeyPair::from_pem(&key).map_err(|e| bad(&key_file, &e))?;
        if public_key(&der).is_none_or(|public| public != key.public_key_raw()) {
            return Err(bad(&key_file, &format!("is not the key of {}", certificate_file.display())));
        }
        let expiry = Expiry::of(&certificate_file, std::slice::from_ref(&der));
        let expiry = expiry.ok_or_else(|| bad(&certificate_file, &"cannot be read"))?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| bad(&certificate_file, &e))?;
        Ok(Some(Self { certificate: der, issuer, expiry }))
    }

    /// Makes or renews `{name}.pem`, and says until when it is valid; a key that is there is kept, so that no moment exists with a new certificate
    /// beside an old key.
    fn sign(
        &self,
        name: &str,
        mut params: CertificateParams,
        place: &Place,
        now: DateTime<Utc>,
    ) -> Result<String, CliError> {
        if let Some(trouble) = self.expiry.trouble(now.timestamp()) {
            return Err(CliError::usage(format!(
                "{trouble} (with --force in another directory), and tell all devices"
            )));
        }
        let (certificate_file, key_file) =
            (place.dir.join(format!("{name}.pem")), place.dir.join(format!("{name}.key")));
        let ours = match (read(&certificate_file)?, read(&key_file)?) {
            (Some(certificate), Some(key)) => self.made(&certificate, &key),
            (None, None) => None,
            _ => None,
        };
        if ours.is_none()
            && !place.force
            && let Some(file) = [&certificate_file, &key_file].into_iter().find(|file| file.exists())
        {
            let file = file.display();
            return Err(CliError::usage(format!(
                "{file} is there, and is not one that this authority made; move it away, or overwrite it with --force"
            )));
        }
        // No certificate outlives its authority.
        let days = place.days.min(self.expiry.days_left(now.timestamp()));
        valid(&mut params, now, days);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let kept = ours.is_some();
        let key = ours.map_or_else(KeyPair::generate, Ok).map_err(CliError::internal)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(CliError::internal)?;
        if !kept {
            write(&key_file, &key.serialize_pem(), 0o600)?;
        }
        write(&certificate_file, &certificate.pem(), 0o644)?;
        Ok(format!("{} ({days} days)", (now + Duration::days(days)).format("%Y-%m-%d")))
    }

    /// The key, if the pair is one that this authority signed.
    fn made(&self, certificate: &str, key: &str) -> Option<KeyPair> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).ok()?;
        let key = KeyPair::from_pem(key).ok()?;
        let (_, leaf) = x509_parser::parse_x509_certificate(&der).ok()?;
        let (_, authority) = x509_parser::parse_x509_certificate(&self.certificate).ok()?;
        let signed = leaf.verify_signature(Some(authority.public_key())).is_ok();
        (signed && public_key(&der)? == key.public_key_raw()).then_some(key)
    }
}

fn public_key(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(certificate.public_key().subject_public_key.data.to_vec())
}

fn read(path: &Path) -> Result<Option<String>, CliError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed_to_read(path, &e)),
    }
}

fn failed_to_read(path: &Path, e: &io::Error) -> CliError {
    CliError::usage(format!("{}: cannot be read: {e}", path.display()))
}

fn write(path: &Path, pem: &str, mode: u32) -> Result<(), CliError> {
    files::replace_private(path, pem.as_bytes(), mode).map_err(|e| failed(path, &e))
}

fn failed(path: &Path, e: &io::Error) -> CliError {
    CliError::temporary(format!("{}: cannot be written: {e}", path.display()))
}
