//! A table's rules in a plan, in the words that SQL has for them.

use crate::schema::{self, Table, TABLES};
use fastrand::Rng;
use fieldsync_core::rules::TableRules;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// How a table is enabled and ruled.
#[derive(Debug, Clone)]
pub struct TablePlan {
    /// Which table.
    pub table: Table,
    /// Its rules.
    pub rules: TableRules,
    /// The column whose greater value makes the hub's side the later one, under `timestamp_compare`.
    pub priority: Option<u16>,
    /// Whether deletion is soft.
    pub soft: bool,
}

impl TablePlan {
    /// All tables'.
    pub fn draw(rng: &mut Rng) -> Vec<TablePlan> {
        let rules = schema::rules(rng);
        let priorities = schema::priorities(rng);
        let soft = schema::soft(rng);
        let tables = rules.into_iter().zip(priorities).zip(soft).enumerate();
        tables.map(|(table, ((rules, priority), soft))| TablePlan { table, rules, priority, soft }).collect()
    }
}

impl Serialize for TablePlan {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let name = |number: &u16| schema::column_name(self.table, *number);
        let rules = &self.rules;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("table", TABLES[self.table].name)?;
        map.serialize_entry("soft", &self.soft)?;
        map.serialize_entry("detection", rules.detection.word())?;
        map.serialize_entry("strategy", rules.strategy.word())?;
        map.serialize_entry("on_delete", rules.on_delete.word())?;
        map.serialize_entry("on_reject", rules.on_reject.word())?;
        map.serialize_entry("on_same_key", &rules.on_same_key.map(|rule| rule.word()))?;
        map.serialize_entry("priority_field", &self.priority.as_ref().map(name))?;
        let merged: Option<Vec<_>> = rules.merge_fields.as_ref().map(|fields| fields.iter().map(name).collect());
        map.serialize_entry("merge_fields", &merged)?;
        let mut fields: Vec<_> = rules.fields.iter().map(|(number, rule)| (name(number), rule.word())).collect();
        fields.sort_unstable();
        map.serialize_entry("fields", &fields)?;
        map.end()
    }
}
