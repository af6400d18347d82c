//! The words of `conflict_rules` and `field_rules`, as types.

use std::collections::HashMap;

/// A word that no rule knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what}: {word:?}")]
pub struct UnknownWord {
    /// Which vocabulary.
    pub what: &'static str,
    /// The word.
    pub word: String,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal, { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every variant, in the order of the documentation.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word in SQL.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownWord;
            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                match word {
                    $($word => Ok($name::$variant),)+
                    _ => Err(UnknownWord { what: $what, word: word.to_owned() }),
                }
            }
        }
    };
}

words! {
    /// When a change counts as a conflict.
    Detection, "detection method", {
        /// Another origin changed the row since the device's base.
        VersionCompare = "version_compare",
        /// The hub's `priority_field` is later than the device's.
        TimestampCompare = "timestamp_compare",
        /// Another origin changed the same field since the device's base.
        FieldCompare = "field_compare",
    }
}

words! {
    /// Who wins a row's conflict.
    Strategy, "resolution strategy", {
        /// The hub.
        ServerWins = "server_wins",
        /// The device.
        ClientWins = "client_wins",
        /// The later logical clock, for the row.
        LastWriteWins = "last_write_wins",
        /// The later logical clock, per field.
        FieldMerge = "field_merge",
        /// A person; the hub's value stays meanwhile.
        Manual = "manual",
    }
}

words! {
    /// How one field is merged. Beats the table's rule.
    FieldStrategy, "field strategy", {
        /// The later logical clock.
        LastWriteWins = "last_write_wins",
        /// The hub.
        ServerWins = "server_wins",
        /// The device.
        ClientWins = "client_wins",
        /// Differences add up.
        Sum = "sum",
        /// The greater of concurrent values.
        Max = "max",
        /// The lesser of concurrent values.
        Min = "min",
        /// What either side added, without what either side removed.
        Union = "union",
        /// A person; the hub's value stays meanwhile.
        Manual = "manual",
    }
}

words! {
    /// An update meets a deletion.
    OnDelete, "on_delete rule", {
        /// The record comes back, whole.
        UpdateWins = "update_wins",
        /// The record stays deleted.
        DeleteWins = "delete_wins",
        /// A person decides.
        Manual = "manual",
    }
}

words! {
    /// A change that the hub cannot take.
    OnReject, "on_reject rule", {
        /// It waits for a person, the rest commits.
        Park = "park",
        /// All of its table's changes in the delta wait.
        Strict = "strict",
    }
}

words! {
    /// Two origins inserted one key, neither having seen the other.
    OnSameKey, "on_same_key rule", {
        /// They are two records; the second waits.
        Separate = "separate",
        /// They are one record.
        Merge = "merge",
    }
}

/// The rules of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRules {
    /// When a change counts as a conflict.
    pub detection: Detection,
    /// Who wins it.
    pub strategy: Strategy,
    /// Fields that merge field by field under any strategy. `None` under `field_merge`: all.
    pub merge_fields: Option<Vec<u16>>,
    /// An update meets a deletion.
    pub on_delete: OnDelete,
    /// A change that the hub cannot take.
    pub on_reject: OnReject,
    /// One key, two origins. `None`: separate for integer keys, merge for others.
    pub on_same_key: Option<OnSameKey>,
    /// Per-field rules by field number.
    pub fields: HashMap<u16, FieldStrategy>,
}

impl Default for TableRules {
    fn default() -> Self {
        TableRules {
            detection: Detection::FieldCompare,
            strategy: Strategy::FieldMerge,
            merge_fields: None,
            on_delete: OnDelete::UpdateWins,
            on_reject: OnReject::Park,
            on_same_key: None,
            fields: HashMap::new(),
        }
    }
}

impl TableRules {
    /// Whether a field without a rule of its own merges field by field.
    pub fn merges_by_field(&self, number: u16) -> bool {
        match &self.merge_fields {
            Some(fields) => fields.contains(&number),
            None => self.strategy == Strategy::FieldMerge,
        }
    }

    /// The rule as `conflicts.rule` names it.
    pub fn name(&self) -> String {
        format!("{}/{}", self.detection.word(), self.strategy.word())
    }
}
