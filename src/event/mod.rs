//! The event: CloudEvents 1.0 context attributes and data, its limits, and its record on disk; MQTT topics as text. [pure]

pub mod pattern;
pub mod record;
pub mod time;
pub mod topic;

use bytes::Bytes;

pub use record::{EventRef, RecordError};
pub use time::Timestamp;

/// Longest attribute value (id, source, type, subject, …), in bytes of UTF-8. CloudEvents 1.0 sets no
/// limit but asks intermediaries to forward events of 64 KiB in all; Pulsar carries these as properties.
pub const ATTRIBUTE_BYTES_MAX: usize = 1024;

/// Most extension attributes one event may carry.
pub const EXTENSIONS_MAX: usize = 32;

/// Longest extension name. CloudEvents 1.0 §"Naming conventions" says names should not exceed 20.
pub const EXTENSION_NAME_BYTES_MAX: usize = 64;

/// One event. Attribute names are CloudEvents 1.0's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `id`: with `source` it identifies the event.
    pub id: String,
    /// The sender gave no id and we made one: no repetition can ever match it.
    pub id_is_ours: bool,
    /// `source`: a URI reference.
    pub source: String,
    /// `type`.
    pub ty: String,
    /// `subject`: the device.
    pub subject: Option<String>,
    /// `time`.
    pub time: Timestamp,
    /// `datacontenttype`.
    pub datacontenttype: Option<String>,
    /// `dataschema`: a URI.
    pub dataschema: Option<String>,
    /// Extension attributes in the order given: lower-case ASCII letters and digits, unique.
    pub extensions: Vec<(String, String)>,
    /// `data`, exactly the bytes that were sent.
    pub data: Bytes,
}

impl Event {
    /// The key that keeps events in order: the subject; without one, the source.
    pub fn key(&self) -> &str {
        self.subject.as_deref().unwrap_or(&self.source)
    }

    /// Checks what every way in must check: required attributes, limits, names.
    /// The error is a sentence for the sender.
    pub fn check(&self) -> Result<(), String> {
        required("id", &self.id)?;
        required("source", &self.source)?;
        required("type", &self.ty)?;
        for (name, value) in
            [("subject", &self.subject), ("datacontenttype", &self.datacontenttype), ("dataschema", &self.dataschema)]
        {
            if let Some(value) = value {
                required(name, value)?;
            }
        }
        if self.extensions.len() > EXTENSIONS_MAX {
            return Err(format!("{} extension attributes; at most {EXTENSIONS_MAX} are taken", self.extensions.len()));
        }
        for (i, (name, value)) in self.extensions.iter().enumerate() {
            extension_name(name)?;
            text(name, value)?;
            if self.extensions[..i].iter().any(|(earlier, _)| earlier == name) {
                return Err(format!("extension attribute {name:?} is given twice"));
            }
        }
        Ok(())
    }
}

fn required(name: &str, value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err(format!("attribute {name:?} is empty; CloudEvents 1.0 requires a value"));
    }
    text(name, value)
}

fn text(name: &str, value: &str) -> Result<(), String> {
    if value.len() > ATTRIBUTE_BYTES_MAX {
        return Err(format!("attribute {name:?} has {} bytes; at most {ATTRIBUTE_BYTES_MAX} are taken", value.len()));
    }
    // CloudEvents 1.0 §"Type System": no control characters in strings.
    if value.chars().any(char::is_control) {
        return Err(format!("attribute {name:?} has a control character"));
    }
    Ok(())
}

fn extension_name(name: &str) -> Result<(), String> {
    let well_formed = !name.is_empty()
        && name.len() <= EXTENSION_NAME_BYTES_MAX
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !well_formed {
        return Err(format!(
            "extension attribute {name:?}: names have 1 to {EXTENSION_NAME_BYTES_MAX} lower-case letters and digits"
        ));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(id: &str) -> Event {
        Event {
            id: id.to_owned(),
            id_is_ours: false,
            source: "urn:test".to_owned(),
            ty: "reading".to_owned(),
            subject: Some("dev-1".to_owned()),
            time: Timestamp::from_unix_ms(1_700_000_000_123),
            datacontenttype: Some("application/json".to_owned()),
            dataschema: None,
            extensions: vec![("site".to_owned(), "plant-7".to_owned())],
            data: Bytes::from_static(br#"{"value":1}"#),
        }
    }

    #[test]
    fn a_well_formed_event_passes() {
        assert_eq!(sample("1").check(), Ok(()));
        assert_eq!(sample("1").key(), "dev-1");
        assert_eq!(Event { subject: None, ..sample("1") }.key(), "urn:test");
    }

    #[test]
    fn every_limit_refuses_with_the_attribute_named() {
        let refused = |e: Event| e.check().unwrap_err();
        assert!(refused(Event { id: String::new(), ..sample("") }).contains("\"id\""));
        assert!(refused(Event { source: "x".repeat(1025), ..sample("1") }).contains("1025"));
        assert!(refused(Event { ty: "a\nb".into(), ..sample("1") }).contains("control"));
        assert!(refused(Event { subject: Some(String::new()), ..sample("1") }).contains("subject"));
        let named = |name: &str| Event { extensions: vec![(name.into(), "v".into())], ..sample("1") };
        assert!(refused(named("Upper")).contains("Upper"));
        assert!(refused(named("")).contains("names have"));
        let twice = vec![("a".into(), "1".into()), ("a".into(), "2".into())];
        assert!(refused(Event { extensions: twice, ..sample("1") }).contains("twice"));
        let many = (0..33).map(|i| (format!("e{i}"), String::new())).collect();
        assert!(refused(Event { extensions: many, ..sample("1") }).contains("33"));
    }
}
