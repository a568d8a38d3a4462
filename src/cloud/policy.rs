//! Policy in Rego that can veto a document, whoever signed it: evaluated before the document goes to anybody. [pure]
//!
//! A policy is a package `tidegate` with a set of messages, `deny`; a document passes when there is none. It sees what the
//! document sets (`config::diff::policy_input`), and nothing of any gateway. Whatever goes wrong is a veto.

use regorus::{Engine, Value};

use crate::config::diff::policy_input;
use crate::config::overlay::Overlaid;

/// Largest policy. A real one has a few hundred lines.
pub const POLICY_BYTES_MAX: usize = 64 * 1024;

/// Deepest brackets within brackets: regorus 0.5.0 parses and evaluates them on the stack, without a limit of its own
/// (1000 overflowed a stack of 2 MiB in a debug build, which ends the process).
const NESTING_MAX: usize = 64;

/// Most reasons that are told.
const REASONS_MAX: usize = 50;

/// The rule that lists the reasons.
const DENY: &str = "data.tidegate.deny";

/// Why a policy says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It is too large.
    #[error("{name}: has {bytes} bytes; a policy has at most {POLICY_BYTES_MAX}")]
    TooLarge {
        /// The policy.
        name: String,
        /// As many as there are.
        bytes: usize,
    },
    /// Its brackets are too deep.
    #[error("{name}:{line}: more than {NESTING_MAX} brackets within each other; split the rule")]
    TooDeep {
        /// The policy.
        name: String,
        /// From 1.
        line: usize,
    },
    /// It is no Rego.
    #[error("{name}: is no policy: {why}")]
    Syntax {
        /// The policy.
        name: String,
        /// The interpreter's words.
        why: String,
    },
    /// It has no `deny`, or something else under that name.
    #[error(
        "{name}: has no set \"deny\" in package tidegate; write: package tidegate, and rules such as: deny contains \"why\" if {{ … }}"
    )]
    NoDeny {
        /// The policy.
        name: String,
    },
    /// It failed.
    #[error("{name}: cannot be evaluated, so nothing passes: {why}")]
    Failed {
        /// The policy.
        name: String,
        /// The interpreter's words.
        why: String,
    },
}

/// A policy that has been read.
pub struct Policy {
    name: String,
    // Parsed once; a clone of it is evaluated, so that no document sees another.
    engine: Engine,
}

impl Policy {
    /// Reads the policy in `text`; errors call it `name`.
    pub fn read(name: &str, text: &str) -> Result<Self, PolicyError> {
        let named = || name.to_owned();
        if text.len() > POLICY_BYTES_MAX {
            return Err(PolicyError::TooLarge { name: named(), bytes: text.len() });
        }
        if let Some(line) = too_deep(text) {
            return Err(PolicyError::TooDeep { name: named(), line });
        }
        let mut engine = Engine::new();
        let package = engine
            .add_policy(named(), text.to_owned())
            .map_err(|e| PolicyError::Syntax { name: named(), why: e.to_string() })?;
        if package != "data.tidegate" {
            return Err(PolicyError::NoDeny { name: named() });
        }
        let policy = Self { name: named(), engine };
        // With nothing to deny it must come to a set.
        policy.evaluate(Value::new_object())?;
        Ok(policy)
    }

    /// The reasons why `document` must not go to anybody; none: it may.
    pub fn reasons(&self, document: &Overlaid) -> Result<Vec<String>, PolicyError> {
        let input = Value::from_json_str(&policy_input(document).to_string())
            .map_err(|e| PolicyError::Failed { name: self.name.clone(), why: e.to_string() })?;
        self.evaluate(input)
    }

    fn evaluate(&self, input: Value) -> Result<Vec<String>, PolicyError> {
        let mut engine = self.engine.clone();
        engine.set_input(input);
        // A builtin that gets what it cannot take is an error, not a rule that does not hold: it would let pass.
        engine.set_strict_builtin_errors(true);
        let denied = engine.eval_rule(DENY.to_owned()).map_err(|e| match e.to_string() {
            why if why == "not a valid rule path" => PolicyError::NoDeny { name: self.name.clone() },
            why => PolicyError::Failed { name: self.name.clone(), why },
        })?;
        let Value::Set(reasons) = denied else { return Err(PolicyError::NoDeny { name: self.name.clone() }) };
        let reason = |value: &Value| match value {
            Value::String(text) => text.to_string(),
            other => other.to_string(),
        };
        Ok(reasons.iter().take(REASONS_MAX).map(reason).collect())
    }
}

/// The line where brackets are deeper than they may be. Text and comments count as well: it errs on the safe side.
fn too_deep(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (line, code) in text.lines().enumerate() {
        for c in code.chars() {
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > NESTING_MAX {
                return Some(line + 1);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::overlay::{Pushed, check_alone};

    const EXAMPLE: &str = include_str!("../../config/policy.rego");

    fn reasons(policy: &str, text: &str) -> Vec<String> {
        let document = check_alone(Pushed { name: "p", text }).unwrap();
        Policy::read("policy.rego", policy).unwrap().reasons(&document).unwrap()
    }

    #[test]
    fn the_example_vetoes_what_it_says_and_nothing_else() {
        for good in [
            "",
            "[log]\nlevel = \"debug\"\n",
            "[uplink]\npulsar = [\"pulsar+ssl://broker.example.com\", \"pulsar+ssl://eu.example.com:7\"]\n",
            "[outbox]\nmax_bytes = \"100MiB\"\ndurability = \"disk\"\n",
            "[[bridge]]\nname = \"b\"\nurl = \"mqtts://b\"\nuser_name = \"u\"\npassword_file = \"/p\"\n",
        ] {
            assert_eq!(reasons(EXAMPLE, good), [""; 0], "{good}");
        }
        for (bad, words) in [
            (
                "[uplink]\npulsar = [\"pulsar+ssl://a.example.com\", \"pulsar://b.example.com\"]",
                "pulsar://b.example.com:6650 has no TLS",
            ),
            ("[uplink]\npulsar = [\"pulsar+ssl://evil.example\"]", "evil.example is not one of our hosts"),
            // A name that only looks like ours.
            ("[uplink]\npulsar = [\"pulsar+ssl://evilexample.com\"]", "evilexample.com is not one of our hosts"),
            ("[outbox]\nmax_bytes = 104857599", "outbox.max_bytes is less than 100 MiB"),
            ("[outbox]\ndurability = \"os\"", "outbox.durability must stay \"disk\""),
            ("[identity]\nmode = \"open\"", "identity.mode must not be \"open\""),
            ("[tls]\nclient_certificates = \"off\"", "tls.client_certificates must not be \"off\""),
            ("[uplink]\ntoken = \"abc\"", "uplink.token: write the token into a file"),
        ] {
            let found = reasons(EXAMPLE, bad);
            assert!(found.len() == 1 && found[0].contains(words), "{bad}: {found:?}");
        }
    }

    #[test]
    fn what_a_policy_sees_is_what_the_document_sets() {
        let text = "[http]\nmax_body = \"8MiB\"\nbody_timeout = \"90s\"\n[uplink]\npulsar = [\"pulsar://a\"]\ntoken = \"s3cret\"\n\
                    [mqtt]\nmax_connections = 7\n[[lane]]\nname = \"a\"\n[document]\nversion = 3\n";
        let document = check_alone(Pushed { name: "p", text }).unwrap();
        assert_eq!(
            policy_input(&document),
            serde_json::json!({
                "document": { "version": 3 },
                "http": { "max_body": 8_388_608, "body_timeout": 90.0 },
                "uplink": { "pulsar": ["pulsar://a:6650"], "token": "(secret)" },
                "mqtt": { "max_connections": 7 },
                "lane": [{ "name": "a", "types": [], "mqtt": [] }],
            })
        );
    }

    #[test]
    fn a_policy_that_says_nothing_lets_nothing_pass() {
        let read = |text: &str| Policy::read("policy.rego", text).err().map(|e| e.to_string()).unwrap_or_default();
        let no_deny = "policy.rego: has no set \"deny\" in package tidegate";
        for (text, words) in [
            ("", "policy.rego: is no policy"),
            ("package tidegate\ndeny contains", "policy.rego: is no policy"),
            ("package other\ndeny contains \"x\" if { false }", no_deny),
            ("package tidegate\nallow := true", no_deny),
            ("package tidegate\ndeny := true", no_deny),
            ("package tidegate\ndeny contains \"x\" if { allow }\nallow if { deny[_] }", "cannot be evaluated"),
        ] {
            let error = read(text);
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!(read(&" ".repeat(POLICY_BYTES_MAX + 1)).contains("has 65537 bytes"));
        let deep = |n: usize| {
            format!(
                "package tidegate\n\nx := {}1{}\ndeny contains \"x\" if {{ x == 2 }}\n",
                "(".repeat(n),
                ")".repeat(n)
            )
        };
        assert_eq!(read(&deep(NESTING_MAX)), "");
        assert_eq!(
            read(&deep(NESTING_MAX + 1)),
            "policy.rego:3: more than 64 brackets within each other; split the rule"
        );
        // An error in a builtin is a veto.
        let policy = "package tidegate\ndeny contains \"x\" if { to_number(input.log.level) > 3 }";
        let document = check_alone(Pushed { name: "p", text: "[log]\nlevel = \"warn\"" }).unwrap();
        let failed = Policy::read("p.rego", policy).unwrap().reasons(&document);
        assert!(matches!(failed, Err(PolicyError::Failed { .. })), "{failed:?}");
    }

    /// One document's answer does not depend on those before it.
    #[test]
    fn a_policy_is_used_again() {
        let policy = Policy::read("policy.rego", EXAMPLE).unwrap();
        let read = |text| check_alone(Pushed { name: "p", text }).unwrap();
        let (bad, good) = (read("[outbox]\nmax_bytes = \"16MiB\""), read("[log]\nlevel = \"warn\""));
        for _ in 0..3 {
            assert_eq!(policy.reasons(&bad).unwrap().len(), 1);
            assert_eq!(policy.reasons(&good).unwrap().len(), 0);
        }
    }
}
