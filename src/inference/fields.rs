//! From an event's data to a row of the model's input. [pure]

use serde_json::Value;

use crate::config::edge::Inference;

/// Largest data that is parsed for its fields: parsing takes a millisecond per 100 KiB on a small gateway, and what machines
/// measure fits into a few.
pub const DATA_BYTES_MAX: usize = 64 << 10;

/// Why an event has no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unmapped {
    /// Larger than [`DATA_BYTES_MAX`].
    #[error("the data is larger than what is parsed for its fields")]
    TooLarge,
    /// Not JSON, or nested deeper than 128 levels.
    #[error("the data is not JSON")]
    NotJson,
    /// A field is not there, or null, and nothing stands in for it.
    #[error("a field is not there")]
    Missing,
    /// A field is a string, a list or an object.
    #[error("a field is no number")]
    WrongType,
    /// A field is a number that 32 bits cannot hold.
    #[error("a field is out of range")]
    OutOfRange,
}

/// Where the columns of a model are in the data.
#[derive(Clone, Debug)]
pub struct Fields {
    pointers: Vec<String>,
    missing: Option<f32>,
}

impl Fields {
    /// As configured.
    pub fn new(config: &Inference) -> Self {
        // The configuration takes what 32 bits hold; what they cannot tell from its neighbour is rounded.
        #[allow(clippy::cast_possible_truncation)]
        let missing = config.missing.map(|number| number as f32);
        Self { pointers: config.fields.clone(), missing }
    }

    /// How many columns a row has.
    pub fn columns(&self) -> usize {
        self.pointers.len()
    }

    /// Appends the row of `data`: finite numbers, one for each column, or nothing.
    pub fn row(&self, data: &[u8], rows: &mut Vec<f32>) -> Result<(), Unmapped> {
        if data.len() > DATA_BYTES_MAX {
            return Err(Unmapped::TooLarge);
        }
        let data: Value = serde_json::from_slice(data).map_err(|_| Unmapped::NotJson)?;
        let before = rows.len();
        for pointer in &self.pointers {
            match self.column(data.pointer(pointer)) {
                Ok(number) => rows.push(number),
                Err(why) => {
                    rows.truncate(before);
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    fn column(&self, value: Option<&Value>) -> Result<f32, Unmapped> {
        match value {
            None | Some(Value::Null) => self.missing.ok_or(Unmapped::Missing),
            Some(Value::Bool(flag)) => Ok(f32::from(u8::from(*flag))),
            Some(Value::Number(number)) => {
                #[allow(clippy::cast_possible_truncation)] // beyond its range it becomes infinite, which is looked for
                let number = number.as_f64().map(|number| number as f32);
                number.filter(|number| number.is_finite()).ok_or(Unmapped::OutOfRange)
            }
            Some(_) => Err(Unmapped::WrongType),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(pointers: &[&str], missing: Option<f64>) -> Fields {
        let fields = pointers.iter().map(|p| (*p).to_owned()).collect();
        Fields::new(&Inference { fields, missing, ..Inference::default() })
    }

    fn row(pointers: &[&str], missing: Option<f64>, data: &str) -> Result<Vec<f32>, Unmapped> {
        let mut rows = vec![7.0];
        let result = fields(pointers, missing).row(data.as_bytes(), &mut rows);
        assert_eq!(rows.remove(0), 7.0, "the rows before are left alone");
        assert!(result.is_ok() || rows.is_empty(), "half a row is left");
        result.map(|()| rows)
    }

    #[test]
    fn fields_become_columns_in_their_order() {
        let data = r#"{"t":20.5,"motor":{"rpm":[1000,-2]},"on":true,"a/b":3,"":4}"#;
        let pointers = ["/motor/rpm/1", "/t", "/on", "/a~1b", "/"];
        assert_eq!(row(&pointers, None, data), Ok(vec![-2.0, 20.5, 1.0, 3.0, 4.0]));
        assert_eq!(row(&["/0"], None, "[5]"), Ok(vec![5.0]));
    }

    #[test]
    fn what_cannot_be_a_column_has_its_reason() {
        for (data, why) in [
            ("", Unmapped::NotJson),
            ("{\"x\":1", Unmapped::NotJson),
            ("\u{0}\u{1}", Unmapped::NotJson),
            ("{\"x\":NaN}", Unmapped::NotJson),
            ("{\"x\":Infinity}", Unmapped::NotJson),
            ("{\"x\":\"1\"}", Unmapped::WrongType),
            ("{\"x\":[1]}", Unmapped::WrongType),
            ("{\"x\":1e39}", Unmapped::OutOfRange),
            ("{\"x\":-1e300}", Unmapped::OutOfRange),
            ("{}", Unmapped::Missing),
            ("{\"x\":null}", Unmapped::Missing),
            ("5", Unmapped::Missing),
        ] {
            assert_eq!(row(&["/x"], None, data), Err(why), "{data}");
        }
        // Beyond 64 bits the parser says so itself, or makes it infinite: never a score in any case.
        assert!(row(&["/x"], Some(0.0), "{\"x\":1e999}").is_err());
        assert_eq!(row(&["/x"], Some(-1.0), "{\"x\":null}"), Ok(vec![-1.0]));
        assert_eq!(row(&["/x", "/y"], None, "{\"x\":1}"), Err(Unmapped::Missing));
        assert_eq!(row(&["/x"], Some(0.0), &"[".repeat(1000)), Err(Unmapped::NotJson));
        let large = format!("{{\"x\":1,\"pad\":\"{}\"}}", "x".repeat(DATA_BYTES_MAX));
        assert_eq!(row(&["/x"], Some(0.0), &large), Err(Unmapped::TooLarge));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        /// Whatever a device sends: a row of finite numbers of the right width, or a reason.
        #[test]
        fn rows_are_whole_and_finite(data in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            "[{}\\[\\]\",:a-c0-9eE.+-]{0,64}".prop_map(String::into_bytes),
            (any::<f64>(), any::<i64>()).prop_map(|(a, b)| format!("{{\"a\":{a},\"b\":[{b}]}}").into_bytes()),
        ], missing in prop::option::of(-1e30..1e30)) {
            let mut rows = Vec::new();
            let result = fields(&["/a", "/b/0"], missing).row(&data, &mut rows);
            prop_assert_eq!(rows.len(), if result.is_ok() { 2 } else { 0 });
            prop_assert!(rows.iter().all(|number| number.is_finite()));
        }
    }
}
