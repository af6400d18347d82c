//! What the hub's tables ask of their rows: CHECK, UNIQUE, foreign keys.

use super::{Hub, State};
use crate::schema::{self, Row, RowName};
use fieldsync_core::merge::HubRow;
use fieldsync_core::Value;
use std::collections::BTreeMap;

impl Hub {
    pub(super) fn as_row(&self, name: &RowName, row: &HubRow) -> Row {
        let mut values = schema::blank(name.0);
        for column in schema::fields(name.0, self.width[name.0]) {
            values[usize::from(column)] = row.value(column);
        }
        values
    }

    /// The live rows as they would be with some writes.
    pub fn with(&self, writes: &BTreeMap<RowName, State>) -> BTreeMap<RowName, Row> {
        let mut rows = BTreeMap::new();
        for (name, state) in self.rows.iter().filter(|(name, _)| !writes.contains_key(*name)).chain(writes) {
            if let State::Live(row) = state {
                rows.insert(name.clone(), self.as_row(name, row));
            }
        }
        rows
    }

    /// What would not hold: the violated constraint, and the rows that are part of it.
    pub fn violations(&self, writes: &BTreeMap<RowName, State>) -> Vec<(&'static str, Vec<RowName>)> {
        let rows = self.with(writes);
        let mut found = Vec::new();
        let mut codes: BTreeMap<&Value, &RowName> = BTreeMap::new();
        for (name, row) in &rows {
            if schema::is_refused(name.0, row) {
                found.push(("check", vec![name.clone()]));
            }
            if let Some(code) = schema::code_of(name.0, row) {
                if let Some(twin) = codes.insert(code, name) {
                    found.push(("unique", vec![name.clone(), twin.clone()]));
                }
            }
            for parent in schema::parents_of(name, row) {
                if !rows.contains_key(&parent) {
                    found.push(("foreign", vec![name.clone(), parent]));
                }
            }
        }
        found
    }
}
