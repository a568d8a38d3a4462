//! Edits the devices file as text, so that its owner's comments and order stay. [pure]
//!
//! Lines are found by their look, which could go wrong in a file written in an unusual way. So each edit is proved: the
//! new text must read as exactly the devices that were meant, or nothing is written.

use crate::ingest::identity::devices_file::{Device, parse};

/// Why an edit is not made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The file is not right as it is.
    #[error("{0}\nNothing was changed: correct that first.")]
    Bad(String),
    /// There is no such device.
    #[error("there is no device {0:?}; \"tidegate devices list\" shows them")]
    Unknown(String),
    /// There is one of that name.
    #[error(
        "there is a device {0:?} already; choose another name, or give this one a new credential: tidegate devices rotate {0}"
    )]
    Taken(String),
    /// The new device or value is not right.
    #[error("{0}")]
    Wrong(String),
    /// The text is written in a way that is not understood line by line.
    #[error(
        "the entry of {0:?} is written in a way that cannot be edited safely; nothing was changed: write it as [[device]] with \
         one key a line, or edit the file by hand"
    )]
    Unusual(String),
}

/// A devices file's text.
#[derive(Debug)]
pub struct Text<'a> {
    file: &'a str,
    text: &'a str,
    devices: Vec<Device>,
}

impl<'a> Text<'a> {
    /// `file`: its name, for messages.
    pub fn new(file: &'a str, text: &'a str) -> Result<Self, EditError> {
        let devices = parse(file, text).map_err(|e| EditError::Bad(e.to_string()))?;
        Ok(Self { file, text, devices })
    }

    /// What it says.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The device `name`.
    pub fn device(&self, name: &str) -> Result<&Device, EditError> {
        self.devices.iter().find(|device| device.name == name).ok_or_else(|| EditError::Unknown(name.to_owned()))
    }

    /// The text with one more device; `entries` are its keys after `name`, as TOML.
    pub fn add(&self, name: &str, entries: &[(&str, String)]) -> Result<String, EditError> {
        if self.device(name).is_ok() {
            return Err(EditError::Taken(name.to_owned()));
        }
        let mut new = self.text.to_owned();
        if !new.is_empty() && !new.ends_with('\n') {
            new.push('\n');
        }
        if !new.is_empty() {
            new.push('\n');
        }
        new.push_str("[[device]]\n");
        for (key, value) in std::iter::once(&("name", quoted(name))).chain(entries) {
            new.push_str(&format!("{key} = {value}\n"));
        }
        let read = parse(self.file, &new).map_err(|e| EditError::Wrong(e.to_string()))?;
        let (last, others) = read.split_last().ok_or_else(|| EditError::Unusual(name.to_owned()))?;
        if last.name != name || others != self.devices {
            return Err(EditError::Unusual(name.to_owned()));
        }
        Ok(new)
    }

    /// The text with `key` of one device set to `value` (TOML), or without it; `meant` is what the device is then.
    pub fn set(&self, name: &str, key: &str, value: Option<&str>, meant: &Device) -> Result<String, EditError> {
        let lines: Vec<&str> = self.text.split_inclusive('\n').collect();
        let unusual = || EditError::Unusual(name.to_owned());
        let block = self.block(&lines, name)?;
        let (at, length) = match find(&lines[block.clone()], key) {
            Some((at, length)) => (block.start + at, length),
            None => (block.start + find(&lines[block.clone()], "name").ok_or_else(unusual)?.0 + 1, 0),
        };
        let mut new = lines[..at].concat();
        if !new.ends_with('\n') {
            new.push('\n');
        }
        if let Some(value) = value {
            new.push_str(&format!("{key} = {value}\n"));
        }
        new.extend(lines[at + length..].iter().copied());
        let wanted: Vec<&Device> =
            self.devices.iter().map(|device| if device.name == name { meant } else { device }).collect();
        match parse(self.file, &new) {
            Ok(read) if read.iter().eq(wanted) => Ok(new),
            _ => Err(unusual()),
        }
    }

    /// The text without one device. Comments around it stay.
    pub fn remove(&self, name: &str) -> Result<String, EditError> {
        let lines: Vec<&str> = self.text.split_inclusive('\n').collect();
        let block = self.block(&lines, name)?;
        let blank_before = block.start > 0 && lines[block.start - 1].trim().is_empty();
        let new = [&lines[..block.start - usize::from(blank_before)], &lines[block.end..]].concat().concat();
        let wanted = self.devices.iter().filter(|device| device.name != name);
        match parse(self.file, &new) {
            Ok(read) if read.iter().eq(wanted) => Ok(new),
            _ => Err(EditError::Unusual(name.to_owned())),
        }
    }

    /// The lines of one device: from its header to its last key.
    fn block(&self, lines: &[&str], name: &str) -> Result<std::ops::Range<usize>, EditError> {
        let number = self.devices.iter().position(|device| device.name == name);
        let number = number.ok_or_else(|| EditError::Unknown(name.to_owned()))?;
        let is_header = |line: &str| line.split('#').next().is_some_and(|code| code.trim() == "[[device]]");
        let mut headers = lines.iter().enumerate().filter(|(_, line)| is_header(line)).map(|(i, _)| i).skip(number);
        let start = headers.next().ok_or_else(|| EditError::Unusual(name.to_owned()))?;
        let mut end = headers.next().unwrap_or(lines.len());
        // What stands between two devices belongs to the second one, or to nobody.
        while end > start + 1 && matches!(lines[end - 1].trim().chars().next(), None | Some('#')) {
            end -= 1;
        }
        Ok(start..end)
    }
}

/// Where `key` is set, and how many lines that takes.
fn find(lines: &[&str], key: &str) -> Option<(usize, usize)> {
    let at = lines
        .iter()
        .position(|line| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('=')))?;
    // A list may have a line for each item.
    let mut depth = 0_i64;
    for (i, line) in lines[at..].iter().enumerate() {
        let code = line.split('#').next().unwrap_or_default();
        for c in code.chars() {
            depth += i64::from(c == '[') - i64::from(c == ']');
        }
        if depth <= 0 {
            return Some((at, i + 1));
        }
    }
    None
}

/// `text` as a TOML string.
pub fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "\
# The site's devices.

# The press
[[device]]   # line 3
name = \"press-7\" # by the door
speaks_for = [
  \"press-7-*\", # its sensors
]
disabled = true
# end of the press

[[device]]
name = \"gate\"
";

    #[test]
    fn comments_and_order_stay() {
        let text = Text::new("f", FILE).unwrap();
        let new = text.add("saw", &[("role", quoted("operator"))]).unwrap();
        assert_eq!(new, format!("{FILE}\n[[device]]\nname = \"saw\"\nrole = \"operator\"\n"));
        let on = Device { disabled: false, ..text.device("press-7").unwrap().clone() };
        assert_eq!(text.set("press-7", "disabled", None, &on).unwrap(), FILE.replace("disabled = true\n", ""));
        let off = Device { disabled: true, ..text.device("gate").unwrap().clone() };
        assert_eq!(text.set("gate", "disabled", Some("true"), &off).unwrap(), format!("{FILE}disabled = true\n"));
        let silent = Device { speaks_for: vec![], ..text.device("press-7").unwrap().clone() };
        let new = text.set("press-7", "speaks_for", Some("[]"), &silent).unwrap();
        assert_eq!(new, FILE.replace("[\n  \"press-7-*\", # its sensors\n]", "[]"));
        let new = text.remove("press-7").unwrap();
        assert_eq!(new, "# The site's devices.\n\n# The press\n# end of the press\n\n[[device]]\nname = \"gate\"\n");
        assert_eq!(text.remove("gate").unwrap(), FILE.strip_suffix("\n[[device]]\nname = \"gate\"\n").unwrap());
    }

    #[test]
    fn the_first_device_and_a_file_without_an_end_of_line_are_no_trouble() {
        assert_eq!(Text::new("f", "").unwrap().add("a", &[]).unwrap(), "[[device]]\nname = \"a\"\n");
        let text = Text::new("f", "[[device]]\nname = \"a\"").unwrap();
        let off = Device { disabled: true, ..text.devices()[0].clone() };
        let new = text.set("a", "disabled", Some("true"), &off).unwrap();
        assert_eq!(new, "[[device]]\nname = \"a\"\ndisabled = true\n");
        assert_eq!(text.add("b", &[]).unwrap(), "[[device]]\nname = \"a\"\n\n[[device]]\nname = \"b\"\n");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let inline = Text::new("f", "device = [ { name = \"a\" } ]\n").unwrap();
        let off = Device { disabled: true, ..inline.devices()[0].clone() };
        assert_eq!(inline.set("a", "disabled", Some("true"), &off), Err(EditError::Unusual("a".into())));
        assert_eq!(inline.remove("a"), Err(EditError::Unusual("a".into())));
        assert!(matches!(inline.add("b", &[]), Err(EditError::Wrong(_))));
        let text = Text::new("f", FILE).unwrap();
        assert_eq!(text.add("gate", &[]), Err(EditError::Taken("gate".into())));
        assert_eq!(text.remove("saw"), Err(EditError::Unknown("saw".into())));
        assert!(matches!(text.add("#", &[]), Err(EditError::Wrong(_))));
        assert!(matches!(Text::new("f", "[[device]]\nnam = 1"), Err(EditError::Bad(_))));
        // A header in a text is no header.
        let tricky =
            "[[device]]\nname = \"a\"\ncertificate = \"\"\"\n[[device]]\nname = \"\"\"\n[[device]]\nname = \"b\"\n";
        let text = Text::new("f", tricky).unwrap();
        assert_eq!(text.remove("b"), Err(EditError::Unusual("b".into())));
    }

    proptest! {
        /// Whatever the file looks like: the edit that was meant, or none.
        #[test]
        fn an_edit_is_the_one_that_was_meant_or_none(
            lines in proptest::collection::vec(
                prop_oneof![
                    Just("[[device]]"), Just("name = \"a\""), Just("name = \"b\""), Just("name = 'c'"), Just(""),
                    Just("# [[device]]"), Just("disabled = true"), Just("speaks_for = ["), Just("]"), Just("'x', # ]"),
                    Just("certificate = '''"), Just("'''"), Just("speaks_for = ['[[device]]']"),
                ],
                0..14,
            ),
        ) {
            let whole = lines.join("\n");
            if let Ok(text) = Text::new("f", &whole) {
                for device in text.devices() {
                    let changed = Device { disabled: !device.disabled, ..device.clone() };
                    let value = changed.disabled.then_some("true");
                    if let Ok(new) = text.set(&device.name, "disabled", value, &changed) {
                        let read = parse("f", &new).unwrap();
                        prop_assert!(read.contains(&changed) && read.len() == text.devices().len());
                    }
                    if let Ok(new) = text.remove(&device.name) {
                        let read = parse("f", &new).unwrap();
                        prop_assert!(read.iter().eq(text.devices().iter().filter(|d| d.name != device.name)));
                    }
                }
                let new = text.add("new", &[("disabled", "true".into())]);
                prop_assert!(new.is_err() || parse("f", &new.unwrap()).unwrap().len() == text.devices().len() + 1);
            }
        }
    }
}
