//! The one table: `section!` writes a section's keys once, with doc comment, type, default, bounds
//! and example. From it come the struct, its default, its reading with validation, the environment
//! variables, the known keys and the generated file.

use super::kinds::Kind;
use super::reader::Fields;

/// For the values that have no effect in this version: what happens instead.
pub(super) type Later<V> = fn(&V) -> Option<&'static str>;

/// How one key is read; see [`key`].
pub(super) struct Spec<K: Kind> {
    pub(super) kind: K,
    pub(super) required: bool,
    pub(super) example: Option<&'static str>,
    pub(super) default_note: Option<&'static str>,
    pub(super) later: Option<Later<K::Value>>,
}

/// A key that takes `kind`.
pub(super) fn key<K: Kind>(kind: K) -> Spec<K> {
    Spec { kind, required: false, example: None, default_note: None, later: None }
}

impl<K: Kind> Spec<K> {
    /// There is no default.
    pub(super) fn required(self) -> Self {
        Self { required: true, ..self }
    }

    /// What the generated file shows (TOML) where the default says too little.
    pub(super) fn example(self, toml: &'static str) -> Self {
        Self { example: Some(toml), ..self }
    }

    /// The default in words, where it depends on the machine.
    pub(super) fn default_note(self, words: &'static str) -> Self {
        Self { default_note: Some(words), ..self }
    }

    /// This version does not act on it: for the values where `note` says something,
    /// a warning says that and what happens instead.
    pub(super) fn later(self, note: Later<K::Value>) -> Self {
        Self { later: Some(note), ..self }
    }
}

/// One key as the generated file and the list of variables show it.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) doc: Vec<&'static str>,
    pub(super) bounds: Option<String>,
    /// The default as TOML; `None`: not set.
    pub(super) default: Option<String>,
    pub(super) default_note: Option<&'static str>,
    pub(super) example: Option<&'static str>,
    pub(super) required: bool,
}

impl Key {
    pub(super) fn new<K: Kind>(
        name: &'static str,
        doc: Vec<&'static str>,
        spec: &Spec<K>,
        default: Option<&K::Value>,
    ) -> Self {
        Self {
            name,
            doc,
            bounds: spec.kind.bounds(),
            default: default.and_then(|value| spec.kind.show(value)),
            default_note: spec.default_note,
            example: spec.example,
            required: spec.required,
        }
    }
}

/// A section: a TOML table, or each table of an array of tables.
pub(super) trait Section: Sized {
    /// Its name in the file.
    const NAME: &'static str;
    /// Its doc comment.
    const DOC: &'static [&'static str];

    /// All its keys, in the order of the table.
    fn keys() -> Vec<Key>;

    /// Reads it; what is missing or wrong becomes its default (and an error).
    fn read(fields: &mut Fields<'_, '_>) -> Self;

    /// The values as TOML; `None`: not set. Secrets are hidden.
    fn values(&self) -> Vec<(&'static str, Option<String>)>;

    /// To tell the values from those of another section, secrets too, in the order of [`Self::values`]; never shown.
    fn compared(&self) -> Vec<Option<String>>;

    /// The values as a policy sees them; what is not set is left out.
    fn json(&self) -> serde_json::Map<String, serde_json::Value>;
}

/// The key's name without Rust's mark for reserved words.
pub(super) fn plain(name: &'static str) -> &'static str {
    name.strip_prefix("r#").unwrap_or(name)
}

/// Names of the environment variables of a section.
pub(super) fn variables_of<S: Section>() -> Vec<String> {
    S::keys().iter().map(|key| variable(S::NAME, key.name)).collect()
}

/// `TIDEGATE_HTTP_LISTEN` for `http.listen`.
pub(super) fn variable(section: &str, key: &str) -> String {
    format!("{}{}_{}", super::env::PREFIX, section.to_uppercase(), key.to_uppercase())
}

/// The values of `now` that differ from those of `before`, as `section.key = value`.
pub(super) fn changes<S: Section>(now: &S, before: &S) -> Vec<String> {
    now.values()
        .into_iter()
        .zip(before.values())
        .filter(|(new, old)| new != old)
        .map(|((key, value), _)| match value {
            Some(value) => format!("{}.{key} = {value}", S::NAME),
            None => format!("{}.{key} is not set", S::NAME),
        })
        .collect()
}

/// Writes a section's struct, `Default` and [`Section`]. `later` lists keys that are accepted but have
/// no effect in this version, and therefore no field.
macro_rules! section {
    (
        $(#[doc = $doc:literal])*
        $name:literal => $Type:ident {
            $( $(#[doc = $key_doc:literal])* $key:ident: $KeyType:ty = $default:expr, $spec:expr; )*
        }
        $( later { $( $(#[doc = $later_doc:literal])* $later:ident: $later_spec:expr; )* } )?
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Type {
            $( $(#[doc = $key_doc])* pub $key: $KeyType, )*
        }

        impl Default for $Type {
            fn default() -> Self {
                Self { $( $key: $default, )* }
            }
        }

        impl $crate::config::table::Section for $Type {
            const NAME: &'static str = $name;
            const DOC: &'static [&'static str] = &[$($doc),*];

            fn keys() -> Vec<$crate::config::table::Key> {
                vec![
                    $( $crate::config::table::Key::new($crate::config::table::plain(stringify!($key)), vec![$($key_doc),*], &$spec, Some(&$default)), )*
                    $( $(
                        $crate::config::table::Key::new(stringify!($later), vec![$($later_doc),*], &$later_spec, None),
                    )* )?
                ]
            }

            fn read(fields: &mut $crate::config::reader::Fields<'_, '_>) -> Self {
                $( $( let _ = fields.take(stringify!($later), &$later_spec); )* )?
                Self { $( $key: fields.take($crate::config::table::plain(stringify!($key)), &$spec).unwrap_or_else(|| $default), )* }
            }

            fn values(&self) -> Vec<(&'static str, Option<String>)> {
                vec![ $( ($crate::config::table::plain(stringify!($key)), $crate::config::kinds::Kind::show(&$spec.kind, &self.$key)), )* ]
            }

            fn compared(&self) -> Vec<Option<String>> {
                vec![ $( $crate::config::kinds::Kind::compared(&$spec.kind, &self.$key), )* ]
            }

            fn json(&self) -> serde_json::Map<String, serde_json::Value> {
                let all = [ $( ($crate::config::table::plain(stringify!($key)), $crate::config::kinds::Kind::json(&$spec.kind, &self.$key)), )* ];
                all.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.to_owned(), value)).collect()
            }
        }
    };
}
pub(super) use section;
