//! A row's primary key.

use crate::value::Value;
use serde::{Deserialize, Serialize};

/// The parts of a primary key in the order of its columns.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
pub struct Key(pub Vec<Value>);

impl Key {
    /// The key as people and views see it: the part's text, or for a composite key a JSON array of its parts.
    pub fn row_id(&self) -> String {
        match self.0.as_slice() {
            [part] => part.to_text(),
            parts => format!("[{}]", parts.iter().map(Value::to_json_text).collect::<Vec<_>>().join(",")),
        }
    }

    /// Whether every part is an integer: then two origins that made the same key made two different records.
    pub fn is_integer(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|part| matches!(part, Value::Int(_)))
    }
}

impl From<Vec<Value>> for Key {
    fn from(parts: Vec<Value>) -> Self {
        Key(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_id_of_simple_and_composite_keys() {
        assert_eq!(Key(vec!["a b".into()]).row_id(), "a b");
        assert_eq!(Key(vec![7.into()]).row_id(), "7");
        assert_eq!(Key(vec!["a".into(), 7.into()]).row_id(), r#"["a",7]"#);
    }

    #[test]
    fn reals_are_spelt_as_sqlite_does() {
        let spelt = [
            (1e20, "1.0e+20"),
            (1e15, "1.0e+15"),
            (1e14, "100000000000000.0"),
            (-1.5e-7, "-1.5e-07"),
            (0.0001, "0.0001"),
            (0.1 + 0.2, "0.30000000000000004"),
            (12345678901234567.0, "12345678901234568.0"),
            (0.0, "0.0"),
            (100.0, "100.0"),
            (1.5e300, "1.5e+300"),
            (123456789012345.6, "123456789012345.59"),
        ];
        for (number, text) in spelt {
            assert_eq!(Key(vec![Value::Real(number)]).row_id(), text);
            assert_eq!(Key(vec![Value::Real(number), 7.into()]).row_id(), format!("[{text},7]"));
        }
        assert_eq!(Key(vec![Value::Real(f64::NEG_INFINITY)]).row_id(), "-Infinity");
        assert_eq!(Key(vec![Value::Real(f64::INFINITY), 7.into()]).row_id(), r#"["Infinity",7]"#);
    }
}
