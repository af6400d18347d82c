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
            parts => serde_json::Value::Array(parts.iter().map(Value::to_json).collect()).to_string(),
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
}
