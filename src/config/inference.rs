//! `[[inference]]`: models that score events on the gateway.

use std::time::Duration;

use serde_json::Value as Json;
use toml::de::DeValue;

use super::edge::EdgeConfig;
use super::kinds::{Count, Fault, Kind, List, Optional, Text, Time, echo, quoted, wrong_type};
use super::models::MODEL_NAME;
use super::names::TypePattern;
use super::reader::{KeyPath, Reader};
use super::table::{key, section};
use crate::event::ATTRIBUTE_BYTES_MAX;

/// Most models that score on one gateway: each has a thread, and one more while a candidate runs beside it.
pub const INFERENCES_MAX: usize = 8;

/// Most fields of one model: a row of them is copied for each event.
const FIELDS_MAX: usize = 256;

/// Most levels of a pointer: the parser itself gives up at 128.
const POINTER_LEVELS_MAX: usize = 16;

section! {
    /// `[[inference]]`: a model of `<data_dir>/models` that scores events before they are stored: attributes `tgmodel`, `tgscore`
    /// and, while a candidate runs beside it, `tgshadowmodel`, `tgshadowscore`. An event that cannot be scored, or not in time,
    /// is stored without. The first that takes an event's type counts. In builds with the feature "inference".
    "inference" => Inference {
        /// Name of the model, an ONNX file.
        model: String = "model".into(), key(MODEL_NAME).required().example("\"anomaly\"");
        /// Event types that it scores; `*` matches any run of characters.
        types: Vec<String> = Vec::new(), key(List(TypePattern, 256)).required().example("[\"*.telemetry\"]");
        /// JSON pointers (RFC 6901) into the event's data, in the order of the model's columns. Numbers, and true and false
        /// as 1 and 0.
        fields: Vec<String> = Vec::new(),
            key(List(Pointer, FIELDS_MAX)).required().example("[\"/temperature\", \"/vibration/rms\"]");
        /// What stands in for a field that is not there or null. Not set: such an event is not scored.
        missing: Option<f64> = None, key(Optional(Number)).example("0.0");
        /// Name of the model's output that has the score; by default its last one.
        output: Option<String> = None, key(Optional(Text(256))).example("\"probabilities\"");
        /// Column of that output, counted from 0; by default its last one.
        column: Option<usize> = None, key(Optional(Count(0, 65_535))).example("1");
        /// A score above this makes an event of its own, with the event's subject. Not set: none.
        alarm_above: Option<f64> = None, key(Optional(Number)).example("0.8");
        /// Type of that event; its lane is that of the type.
        alarm_type: String = "tidegate.inference.alarm".into(), key(Text(ATTRIBUTE_BYTES_MAX));
        /// Longest time for which an event is held for its score.
        latency_max: Duration = Duration::from_millis(100),
            key(Time(Duration::from_millis(1), Duration::from_secs(10)));
        /// Most events that are scored in one run of the model.
        batch_max: usize = 64, key(Count(1, 4096));
        /// Percent of the events that a candidate scores too: 100 all of them, 10 every tenth, chosen by source and id.
        shadow_share: u8 = 100, key(Count(0_u8, 100));
    }
}

/// A finite number that a 32-bit float can hold.
struct Number;

impl Kind for Number {
    type Value = f64;

    fn takes(&self) -> String {
        "a number such as 0.8, without quotes".to_owned()
    }

    fn text(&self, text: &str) -> Result<f64, String> {
        let number = text.trim().parse::<f64>().ok();
        number.filter(|n| n.abs() <= f64::from(f32::MAX)).ok_or_else(|| {
            let text = echo(text);
            format!("{text} is no number that fits; write {}", self.takes())
        })
    }

    fn toml(&self, value: &DeValue<'_>) -> Result<f64, Vec<Fault>> {
        let text = match value {
            DeValue::Float(number) => number.as_str(),
            DeValue::Integer(number) => number.as_str(),
            other => return Err(wrong_type(other, &self.takes())),
        };
        self.text(text).map_err(|text| vec![Fault { span: None, text }])
    }

    fn show(&self, value: &f64) -> Option<String> {
        // With a point: TOML tells floats by it.
        Some(format!("{value:?}"))
    }

    fn json(&self, value: &f64) -> Json {
        Json::from(*value)
    }
}

/// A JSON pointer (RFC 6901).
struct Pointer;

impl Kind for Pointer {
    type Value = String;

    fn takes(&self) -> String {
        "a JSON pointer such as \"/motor/temperature\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        let levels = text.matches('/').count();
        let escapes = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
        if !text.starts_with('/') || !escapes || text.len() > ATTRIBUTE_BYTES_MAX || text.chars().any(char::is_control)
        {
            let text = echo(text);
            return Err(format!("{text} is no JSON pointer; write {}", self.takes()));
        }
        if levels > POINTER_LEVELS_MAX {
            return Err(format!("{} has {levels} levels; at most {POINTER_LEVELS_MAX} are followed", echo(text)));
        }
        Ok(text.to_owned())
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }
}

/// Checks all of `[[inference]]`.
pub(super) fn check(config: &EdgeConfig, reader: &mut Reader<'_>) {
    let all = &config.inferences;
    if reader.is_wrong_in::<Inference>() || all.is_empty() {
        return;
    }
    if cfg!(not(feature = "inference")) && reader.files_are_here() {
        let text = "this build of tidegate has no inference; take the section out, or use a build with the feature \
                    \"inference\" (cargo build --release --features inference)";
        return reader.wrong(KeyPath::in_table::<Inference>(0, "model"), text);
    }
    if all.len() > INFERENCES_MAX {
        let text = format!("is there {} times; write at most {INFERENCES_MAX}", all.len());
        reader.wrong(KeyPath::in_table::<Inference>(INFERENCES_MAX, "model"), text);
    }
    for (index, inference) in all.iter().enumerate() {
        if all[..index].iter().any(|earlier| earlier.model == inference.model) {
            let text = format!("{:?} is the model of an earlier [[inference]]; write it once", inference.model);
            reader.wrong(KeyPath::in_table::<Inference>(index, "model"), text);
        }
        for (key, list) in [("types", &inference.types), ("fields", &inference.fields)] {
            if list.is_empty() {
                reader.wrong(
                    KeyPath::in_table::<Inference>(index, key),
                    "is empty: nothing could be scored; write at least one",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_rfc_6901s_and_bounded() {
        for good in ["/a", "/", "/a/0/b~1c~0d", "/ä b"] {
            assert_eq!(Pointer.text(good).as_deref(), Ok(good));
        }
        for bad in ["", "a", "a/b", "/a~2", "/a~", "/a\nb", &"/a".repeat(17), &format!("/{}", "x".repeat(1024))] {
            assert!(Pointer.text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mistakes_are_told_and_other_builds_refuse_it_all() {
        use crate::config::Env;
        use crate::config::document::Document;

        let good = "[[inference]]\nmodel = \"a\"\ntypes = [\"*\"]\nfields = [\"/x\"]\n";
        let read = |text: &str| {
            let document = Document::new("edge.toml", text.to_owned());
            EdgeConfig::read(&document, &Env::empty().on_host("edge")).map(|(config, _)| config.inferences)
        };
        if cfg!(not(feature = "inference")) {
            let refused = read(good).unwrap_err().to_string();
            assert!(
                refused.contains("edge.toml:2:9: inference.model: this build of tidegate has no inference"),
                "{refused}"
            );
            return;
        }
        assert_eq!(read(good).unwrap().len(), 1);
        for (text, told) in [
            (good.repeat(2), "inference.model: \"a\" is the model of an earlier [[inference]]"),
            (good.replace("[\"/x\"]", "[]"), "inference.fields: is empty"),
            (good.replace("[\"*\"]", "[]"), "inference.types: is empty"),
            (good.replace("fields = [\"/x\"]\n", ""), "inference.fields"),
            (good.replace("/x", "x"), "is no JSON pointer"),
            (format!("{good}missing = nan\n"), "inference.missing"),
            (format!("{good}alarm_above = \"0.8\"\n"), "inference.alarm_above: is a string"),
            ((0..9).map(|i| good.replace("\"a\"", &format!("\"a{i}\""))).collect(), "write at most 8"),
        ] {
            let refused = read(&text).unwrap_err().to_string();
            assert!(refused.contains(told), "{refused}");
        }
    }

    #[test]
    fn numbers_are_finite_and_shown_as_toml() {
        assert_eq!((Number.text("0.8"), Number.text("-3"), Number.text("1e3")), (Ok(0.8), Ok(-3.0), Ok(1000.0)));
        for bad in ["nan", "inf", "-inf", "1e39", "", "x"] {
            assert!(Number.text(bad).is_err(), "{bad}");
        }
        assert_eq!(Number.show(&3.0).as_deref(), Some("3.0"));
    }
}
