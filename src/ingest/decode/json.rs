//! What every JSON body goes through before its content is looked at. [pure]

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};

use crate::ingest::refusal::{Kind, Refusal};

/// Deepest nesting taken. Skipping over `data` needs no stack, but whoever parses it later has limits
/// (serde_json's is 128 as well): what is acknowledged here must not be poison there.
pub const DEPTH_MAX: usize = 128;

/// What a first look at a JSON text shows.
#[derive(Clone, Copy, Debug)]
pub struct Peek {
    /// It is an object with the key that every CloudEvent has.
    pub has_specversion: bool,
}

/// Checks that `body` is one JSON text, not too deep, and looks at its keys.
pub fn peek(body: &[u8]) -> Result<Peek, Refusal> {
    let text = text(body)?;
    let mut json = serde_json::Deserializer::from_str(text);
    let found = if text.trim_start().starts_with('{') {
        json.deserialize_map(Keys)
    } else {
        json.deserialize_ignored_any(IgnoredAny).map(|_| false)
    };
    let has_specversion = found.and_then(|found| json.end().map(|()| found)).map_err(|e| refusal(&e))?;
    Ok(Peek { has_specversion })
}

/// `body` as text that is not nested too deep.
pub fn text(body: &[u8]) -> Result<&str, Refusal> {
    let text = std::str::from_utf8(body).map_err(|e| {
        Refusal::new(Kind::MalformedBody, format!("not UTF-8 after byte {}; JSON is UTF-8 (RFC 8259)", e.valid_up_to()))
    })?;
    if too_deep(body) {
        return Err(Refusal::new(Kind::MalformedBody, format!("JSON nested deeper than {DEPTH_MAX}; flatten it")));
    }
    Ok(text)
}

/// A refusal in serde_json's words and with its position.
pub fn refusal(e: &serde_json::Error) -> Refusal {
    let kind = if e.is_data() { Kind::InvalidEvent } else { Kind::MalformedBody };
    let words = e.to_string();
    // Display ends with the position; it is put in front of the reason's end in our own form.
    let reason = words.split(" at line ").next().unwrap_or(&words);
    if e.line() == 0 {
        return Refusal::new(kind, reason.to_owned());
    }
    let what = if e.is_data() { "" } else { "not valid JSON: " };
    Refusal::new(kind, format!("{what}{reason} (line {}, column {})", e.line(), e.column()))
}

fn too_deep(text: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &b in text {
        if in_string {
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match b {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Walks an object's keys and skips the values.
struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = bool;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut found = false;
        while let Some(key) = map.next_key_seed(super::structured::Key)? {
            found |= key == "specversion";
            map.next_value::<IgnoredAny>()?;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specversion_counts_only_at_the_top() {
        assert!(peek(br#"{"a":1,"specversion":"1.0"}"#).unwrap().has_specversion);
        assert!(peek(br#"{"spec\u0076ersion":"1.0"}"#).unwrap().has_specversion);
        assert!(!peek(br#"{"a":{"specversion":"1.0"}}"#).unwrap().has_specversion);
        assert!(!peek(br#"["specversion"]"#).unwrap().has_specversion);
        assert!(!peek(b" 12.5 ").unwrap().has_specversion);
    }

    #[test]
    fn what_is_not_json_says_where() {
        let refused = |body: &[u8]| peek(body).unwrap_err();
        assert_eq!(refused(b"").kind, Kind::MalformedBody);
        let e = refused(b"{\"a\":1,\n\"b\":}");
        assert_eq!((e.kind, e.detail.contains("line 2, column 5")), (Kind::MalformedBody, true), "{e}");
        assert!(refused(b"{} {}").detail.contains("trailing"));
        assert!(refused(b"\"\xff\"").detail.contains("UTF-8 after byte 1"));
    }

    #[test]
    fn depth_is_bounded_and_brackets_in_strings_do_not_count() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(peek(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(peek(nested(DEPTH_MAX + 1).as_bytes()).unwrap_err().detail.contains("deeper than 128"));
        assert!(peek(nested(1_000_000).as_bytes()).is_err());
        assert!(peek(format!("\"\\\"{}\"", "[".repeat(1000)).as_bytes()).is_ok());
    }
}
