//! `tidegate devices`: who may come in, with which credential. Edits the devices file; a running gateway reads it again
//! within seconds.

mod edit;

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::{CliError, print_warnings};
use crate::config::{EdgeConfig, Env};
use crate::ingest::identity::devices_file::{Device, Role};
use crate::ingest::identity::verify::{self, NoRandomness};
use crate::sys::files;
use edit::{EditError, Text, quoted};

const AFTER: &str = "\
The file: --file, else identity.devices_file of --config (or TIDEGATE_CONFIG, TIDEGATE_IDENTITY_DEVICES_FILE).
A running gateway reads it again within two seconds; connections of devices that were changed end, all others stay.

  tidegate devices add press-7 --file devices.toml           prints a token, once
  curl -H \"authorization: Bearer $TOKEN\" …                   HTTP
  mosquitto_pub -u press-7 -P \"$TOKEN\" …                     MQTT: the token is the password

  tidegate devices rotate press-7        a second token; both are right until
  tidegate devices rotate press-7 --finish   ends the older ones
  tidegate devices disable press-7       shuts it out, also if it shows a certificate or a JSON web token

Tokens are the better choice for machines: nobody can guess one, and checking it costs nothing. A password costs the
gateway some 30 ms and 7 MiB whenever it is seen for the first time.

Exit codes: 0 done, 64 command line or file, 70 internal, 75 temporary.";

/// Commands on devices.
#[derive(Subcommand, Clone, Debug)]
#[command(after_long_help = AFTER)]
pub enum DevicesCommand {
    /// Add a device; prints its token or password, once
    Add(AddArgs),
    /// List the devices, without secrets
    List(WhichFile),
    /// Shut a device out; its connections end
    Disable(NameArgs),
    /// Let a disabled device in again
    Enable(NameArgs),
    /// Take a device out of the file
    Remove(NameArgs),
    /// Give a device a new token (or password); prints it, once
    Rotate(RotateArgs),
}

/// Where the devices are.
#[derive(Args, Clone, Debug)]
pub struct WhichFile {
    /// The devices file
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The gateway's configuration, which names the devices file
    #[arg(short, long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
}

/// Which device.
#[derive(Args, Clone, Debug)]
pub struct NameArgs {
    /// The device
    name: String,
    #[command(flatten)]
    which: WhichFile,
}

/// A new device.
#[derive(Args, Clone, Debug)]
pub struct AddArgs {
    /// The device: {device} in topics, the subject of its events
    name: String,
    #[command(flatten)]
    credential: CredentialArgs,
    /// Name in its certificate, where it is not the device's
    #[arg(long, value_name = "NAME", requires = "certificate")]
    certificate_name: Option<String>,
    /// What it is for
    #[arg(long, value_enum, default_value_t = RoleArg::Device)]
    role: RoleArg,
    #[command(flatten)]
    which: WhichFile,
}

/// What it shows.
#[derive(Args, Clone, Debug)]
#[group(multiple = false)]
pub struct CredentialArgs {
    /// A token (the default)
    #[arg(long)]
    token: bool,
    /// A password, made up and printed
    #[arg(long)]
    password: bool,
    /// A password, read from the first line of standard input
    #[arg(long)]
    password_stdin: bool,
    /// A client certificate (see: tidegate keys device)
    #[arg(long)]
    certificate: bool,
}

/// A new credential.
#[derive(Args, Clone, Debug)]
pub struct RotateArgs {
    /// The device
    name: String,
    /// A new password instead of a token; the old one ends at once
    #[arg(long, conflicts_with = "finish")]
    password: bool,
    /// End all tokens but the newest
    #[arg(long)]
    finish: bool,
    #[command(flatten)]
    which: WhichFile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RoleArg {
    /// Sends events, takes commands
    Device,
    /// May also send commands to devices and read the gateway's status
    Operator,
}

impl From<EditError> for CliError {
    fn from(e: EditError) -> Self {
        Self::usage(e)
    }
}

impl From<NoRandomness> for CliError {
    fn from(e: NoRandomness) -> Self {
        Self::temporary(e)
    }
}

pub fn run(command: &DevicesCommand) -> Result<(), CliError> {
    match command {
        DevicesCommand::Add(args) => add(args),
        DevicesCommand::List(which) => list(&which.find()?),
        DevicesCommand::Disable(args) => disable(args, true),
        DevicesCommand::Enable(args) => disable(args, false),
        DevicesCommand::Remove(args) => {
            let file = args.which.find()?;
            file.edit(|text| Ok(text.remove(&args.name)?))?;
            say(&format!("{} is no longer in {}", args.name, file.path.display()));
            Ok(())
        }
        DevicesCommand::Rotate(args) => rotate(args),
    }
}

fn add(args: &AddArgs) -> Result<(), CliError> {
    let file = args.which.find()?;
    let credential = &args.credential;
    let mut entries = Vec::new();
    let mut shown = None;
    if credential.password || credential.password_stdin {
        let password = if credential.password_stdin { read_password()? } else { verify::new_password()? };
        entries.push(("password", quoted(&verify::password_hash(password.as_bytes())?)));
        shown = credential.password.then_some(password);
    } else if credential.certificate {
        entries.extend(args.certificate_name.as_ref().map(|name| ("certificate", quoted(name))));
    } else {
        let token = verify::new_token()?;
        entries.push(("token_sha256", list_of(&[verify::token_hash(token.as_bytes())])));
        shown = Some(token);
    }
    if args.role == RoleArg::Operator {
        entries.push(("role", quoted("operator")));
    }
    file.edit(|text| Ok(text.add(&args.name, &entries)?))?;
    say(&format!("{} is in {}", args.name, file.path.display()));
    if let Some(secret) = shown {
        say("what it shows; this is the only time that it can be seen:");
        print_secret(&secret)?;
    }
    file.remind();
    Ok(())
}

fn disable(args: &NameArgs, disabled: bool) -> Result<(), CliError> {
    let file = args.which.find()?;
    file.edit(|text| {
        let meant = Device { disabled, ..text.device(&args.name)?.clone() };
        Ok(text.set(&args.name, "disabled", disabled.then_some("true"), &meant)?)
    })?;
    say(&format!("{} is {}", args.name, if disabled { "shut out" } else { "let in again" }));
    Ok(())
}

fn rotate(args: &RotateArgs) -> Result<(), CliError> {
    let file = args.which.find()?;
    if args.finish {
        file.edit(|text| {
            let device = text.device(&args.name)?;
            let newest: Vec<[u8; 32]> = device.tokens.iter().take(1).copied().collect();
            let value = list_of(&newest);
            Ok(text.set(&args.name, "token_sha256", Some(&value), &Device { tokens: newest, ..device.clone() })?)
        })?;
        say(&format!("{} has one token, the newest", args.name));
        return Ok(());
    }
    let secret = if args.password { verify::new_password()? } else { verify::new_token()? };
    if args.password {
        let hash = verify::password_hash(secret.as_bytes())?;
        file.edit(|text| {
            let meant = Device { password: Some(hash.clone()), ..text.device(&args.name)?.clone() };
            Ok(text.set(&args.name, "password", Some(&quoted(&hash)), &meant)?)
        })?;
        say("the new password; this is the only time that it can be seen:");
    } else {
        file.edit(|text| {
            let device = text.device(&args.name)?;
            // The newest stands first.
            let tokens = [&[verify::token_hash(secret.as_bytes())][..], &device.tokens].concat();
            let value = list_of(&tokens);
            Ok(text.set(&args.name, "token_sha256", Some(&value), &Device { tokens, ..device.clone() })?)
        })?;
        say("the new token; the older ones stay right until: tidegate devices rotate NAME --finish");
    }
    print_secret(&secret)
}

fn list(file: &Devices) -> Result<(), CliError> {
    let text = file.read()?;
    let name = file.path.display().to_string();
    let text = Text::new(&name, &text)?;
    let mut out = String::new();
    let width = text.devices().iter().map(|d| d.name.chars().count()).max().unwrap_or(0).max(4);
    out.push_str(&format!("{:width$}  {:8}  {:8}  shows\n", "name", "role", "state"));
    for device in text.devices() {
        let role = if device.role == Role::Operator { "operator" } else { "device" };
        let state = if device.disabled { "disabled" } else { "enabled" };
        out.push_str(&format!("{:width$}  {role:8}  {state:8}  {}\n", device.name, shows(device)));
    }
    // Whoever closed the pipe does not want to read on.
    let _ = std::io::stdout().write_all(out.as_bytes());
    Ok(())
}

fn shows(device: &Device) -> String {
    let tokens = match device.tokens.len() {
        0 => None,
        1 => Some("token".to_owned()),
        n => Some(format!("{n} tokens")),
    };
    let password = device.password.as_ref().map(|_| "password".to_owned());
    let certificate = format!("certificate {}", device.certificate_name());
    let certificate = device.certificate.as_ref().map(|_| certificate.clone());
    let all: Vec<String> = [tokens, password, certificate].into_iter().flatten().collect();
    if all.is_empty() { format!("certificate {} or JSON web token", device.name) } else { all.join(", ") }
}

fn list_of(hashes: &[[u8; 32]]) -> String {
    let items: Vec<String> = hashes.iter().map(|hash| quoted(&verify::hex(hash))).collect();
    format!("[{}]", items.join(", "))
}

fn read_password() -> Result<String, CliError> {
    if std::io::stdin().is_terminal() {
        say("type the password and Enter (it is shown); or: … --password-stdin < FILE");
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|e| CliError::temporary(format!("standard input: {e}")))?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() || password.len() > verify::PASSWORD_BYTES_MAX {
        let most = verify::PASSWORD_BYTES_MAX;
        return Err(CliError::usage(format!("the password on standard input is empty or longer than {most} bytes")));
    }
    Ok(password.to_owned())
}

/// To standard output alone, so that `$(…)` gets the secret and nothing else.
fn print_secret(secret: &str) -> Result<(), CliError> {
    writeln!(std::io::stdout(), "{secret}").map_err(|e| {
        CliError::temporary(format!(
            "the secret could not be printed ({e}) and is lost: tidegate devices rotate makes another"
        ))
    })
}

fn say(text: &str) {
    eprintln!("tidegate: {text}");
}

/// The devices file that a command is about.
#[derive(Debug)]
struct Devices {
    path: PathBuf,
    /// No configuration names it yet.
    unnamed: bool,
}

impl WhichFile {
    fn find(&self) -> Result<Devices, CliError> {
        if let Some(path) = &self.file {
            return Ok(Devices { path: path.clone(), unnamed: self.config.is_none() });
        }
        let (config, warnings) =
            EdgeConfig::load(self.config.as_deref(), &Env::of_process()).map_err(CliError::usage)?;
        print_warnings(&warnings);
        let path = config.identity.devices_file.ok_or_else(|| {
            CliError::usage(
                "no devices file: give --file FILE, or name one in the configuration and give that with --config:\n\
                 [identity]\nmode = \"required\"\ndevices_file = \"/etc/tidegate/devices.toml\"",
            )
        })?;
        Ok(Devices { path, unnamed: false })
    }
}

impl Devices {
    fn read(&self) -> Result<String, CliError> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Ok(text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(e) => Err(CliError::usage(format!("devices file {}: cannot be read: {e}", self.path.display()))),
        }
    }

    fn edit(&self, change: impl FnOnce(&Text<'_>) -> Result<String, CliError>) -> Result<(), CliError> {
        let name = self.path.display().to_string();
        let failed = |e: std::io::Error| CliError::temporary(format!("devices file {name}: cannot be written: {e}"));
        let parent = self.path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        files::create_dir_durable(parent).map_err(failed)?;
        // One edit at a time. The directory's lock, for the file itself is replaced; an editor of text knows no lock, so
        // what it wrote meanwhile is looked for as well.
        let _turn = files::lock_dir(parent).map_err(failed)?;
        let old = self.read()?;
        let new = change(&Text::new(&name, &old)?)?;
        if self.read()? != old {
            return Err(CliError::temporary(format!(
                "devices file {name}: somebody else changed it just now; try again"
            )));
        }
        // Hashes are no secrets, and not for everybody either.
        files::replace_private(&self.path, new.as_bytes(), 0o640).map_err(failed)
    }

    fn remind(&self) {
        if self.unnamed {
            let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
            let path = quoted(&path.display().to_string());
            say(&format!("for a gateway to use it:\n\n[identity]\nmode = \"required\"\ndevices_file = {path}\n"));
        }
    }
}
