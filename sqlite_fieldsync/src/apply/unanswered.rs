//! What this device has changed and the hub has not answered yet: it stays on top of what arrives.

use crate::log::Entry;
use fieldsync_core::delta::Op;
use fieldsync_core::overlay::{self, Offer};
use fieldsync_core::Key;
use fieldsync_core::Value;
use std::collections::HashMap;

/// This device's unanswered changes, by table (lower case) and key in the device's order.
#[derive(Debug, Default)]
pub struct Unanswered {
    rows: HashMap<(String, Key), PendingRow>,
}

/// Unanswered changes of one row, by column name.
#[derive(Debug, Default, Clone)]
pub struct PendingRow {
    /// The device made the row.
    pub made: bool,
    /// The device deleted the row, and did not make it again.
    pub unmade: bool,
    /// The last operation on it.
    pub last: Option<Op>,
    /// Field (lower case), old and new value, in the order of the log.
    pub fields: Vec<(String, Value, Value)>,
}

impl Unanswered {
    /// From log entries in the order of their clocks; `name` gives table and column names.
    pub fn new<'t>(
        entries: &[Entry],
        table_name: impl Fn(u32) -> Option<&'t str>,
        column_name: impl Fn(u32, u16) -> Option<&'t str>,
    ) -> Unanswered {
        let mut unanswered = Unanswered::default();
        for Entry { logged: entry, .. } in entries {
            let Some(table) = table_name(entry.table) else { continue };
            let pending = unanswered.rows.entry((table.to_ascii_lowercase(), entry.key.clone())).or_default();
            match entry.op {
                Op::Insert => {
                    // Made again over a deletion that the hub has not seen either: all of it is the device's own.
                    (pending.made, pending.unmade) = (true, false);
                    pending.fields.clear();
                }
                Op::Delete => {
                    (pending.made, pending.unmade) = (false, true);
                    pending.fields.clear();
                }
                _ => {}
            }
            pending.last = Some(entry.op);
            if entry.op == Op::Update {
                for field in &entry.fields {
                    if let Some(name) = column_name(entry.table, field.column) {
                        pending.fields.push((name.to_ascii_lowercase(), field.old.clone(), field.new.clone()));
                    }
                }
            }
        }
        unanswered
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether the hub has not answered a change of this field of this row, or of the row as such.
    pub fn has_field(&self, table: &str, key: &Key, field: &str) -> bool {
        self.of(table, key).is_some_and(|own| {
            own.made
                || own.last != Some(Op::Update)
                || own.fields.iter().any(|(name, _, _)| *name == field.to_ascii_lowercase())
        })
    }

    /// What is known of a row.
    pub fn of(&self, table: &str, key: &Key) -> Option<&PendingRow> {
        if self.rows.is_empty() {
            return None;
        }
        self.rows.get(&(table.to_ascii_lowercase(), key.clone()))
    }

    /// From here on what the device wrote of a row that it made counts by field.
    pub fn tell_apart(&mut self, table: &str, key: &Key) {
        if let Some(own) = self.rows.get_mut(&(table.to_ascii_lowercase(), key.clone())) {
            own.made = false;
        }
    }

    /// What is offered of a row that is here, after the hub has lost history.
    pub fn offer(&self, table: &str, key: &Key, arrived: bool) -> Offer {
        let own = self.of(table, key);
        overlay::offer(own.is_some_and(|own| own.made), own.is_some_and(|own| own.unmade), arrived)
    }
}
