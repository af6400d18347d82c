//! The capture triggers of one table, as plain SQL.
//!
//! Invariants:
//! * One operation on one row is one row of `fs_log`, whatever conflict clause, cascade or trigger caused it.
//! * Nothing here needs the extension, and everything that names the application's table is a trigger *on* that table: when a
//!   program rebuilds a table (create, copy, drop, rename) SQLite drops them with it, and nothing is left that would make
//!   the rename fail.
//! * The statements inside inherit the conflict clause of the statement that fires them (SQLite's rule). None of them can
//!   violate a constraint, except the probe below, which is made for it.
//!
//! Rows that disappear without a delete trigger are the matter of `replace`.
//!
//! Measured on 100,000 rows of nine columns, each statement by itself, in units of the plain statement: an insert costs 1.7, of
//! which the log entry 0.3 and the look for a row in the way 0.35 (a BEFORE trigger at all 0.15, its search 0.2); an update of
//! one column 2.3, of which the entry 1.0, the comparison with the columns before it 0.15 and the look at those after it 0.15.
//! The time of day costs nothing that can be measured; a whole clock, with an own place in the log, cost 0.1 and 0.5
//! ([`crate::log`]). Roads not taken: a unique log row per record (an upsert: 4.8 times the insert), JSON values (2.4 times), one update
//! trigger for all columns (it compares every column even where one is set: +30 % on a one-column update), logging in BEFORE
//! triggers (they fire for rows that OR IGNORE drops), `IN` for `EXISTS` in the look for a row in the way (no difference), one log row per
//! changed column (0.15 less for one column, a row with key and time more for each other one).

mod replace;

use crate::error::Result;
use crate::schema::{Affinity, Column, Table};
use crate::sql::quote;
use rusqlite::Connection;
use std::collections::{HashMap, HashSet};

/// Operations in `fs_log.what`, below the table's number.
pub mod what {
    /// A row was made.
    pub const INSERT: i64 = 1;
    /// Fields of a row changed.
    pub const UPDATE: i64 = 2;
    /// A row went.
    pub const DELETE: i64 = 3;
    /// A row's key changed: its old key went, its new key came.
    pub const REKEY: i64 = 4;
    /// Alone, without a table: the place and time of an entry that is taken out.
    pub const FORGOTTEN: i64 = 7;
}

/// The time of a log entry, from which its clock follows when the log is read ([`crate::log`]).
const NOW: &str = "julianday()";
/// The place of the log entry that the trigger has just made.
const LATEST: &str = "last_insert_rowid()";

/// Update triggers per table at most; wider tables have several columns per trigger.
const UPDATE_TRIGGERS_MAX: usize = 16;

/// A column as triggers see it.
#[derive(Debug)]
struct Field {
    quoted: String,
    slot: i64,
    /// Holds any type as it is: 1 and 1.0 are then different values that SQLite compares as equal.
    any_type: bool,
    /// Of a part of the key: the collation by which the key's index finds it, as SQL after a value.
    collation: String,
}

/// What the triggers of one table are made from.
pub struct Plan {
    table_no: i64,
    /// The table, quoted, not qualified: inside triggers SQLite allows no other.
    table: String,
    label: String,
    key: Vec<Field>,
    fields: Vec<Field>,
    key_is_rowid: bool,
    /// Conditions under which a row of the table is in the way of NEW, one per unique thing.
    in_the_way: Vec<String>,
    /// Columns whose change can bring a row in the way of another; none: any column.
    unique_columns: Option<Vec<String>>,
    replaces_by_itself: bool,
}

impl Plan {
    /// Prepares the triggers. `slot` gives a column's number in the log.
    pub fn new(db: &Connection, table: &Table, table_no: i64, slot: impl Fn(&str) -> i64) -> Result<Plan> {
        let field = |column: &&Column| -> Result<Field> {
            Ok(Field {
                quoted: quote(db, &column.name)?,
                slot: slot(&column.name),
                any_type: column.affinity() == Affinity::Blob || column.declared == "ANY",
                collation: table.key_collation(db, column)?,
            })
        };
        let key = table.key().iter().map(field).collect::<Result<Vec<_>>>()?;
        let fields = table
            .columns
            .iter()
            .filter(|column| column.key_part == 0 && !column.generated)
            .map(|column| field(&column))
            .collect::<Result<Vec<_>>>()?;
        let mut plan = Plan {
            table_no,
            table: quote(db, &table.name)?,
            label: table.name.clone(),
            key,
            fields,
            key_is_rowid: table.key_is_rowid,
            in_the_way: Vec::new(),
            unique_columns: None,
            replaces_by_itself: table.replaces_by_itself,
        };
        plan.find_unique_things(db, table)?;
        Ok(plan)
    }

    fn find_unique_things(&mut self, db: &Connection, table: &Table) -> Result<()> {
        // OR REPLACE puts a NOT NULL column's default in the place of a NULL, after the BEFORE triggers.
        let mut defaults = HashMap::new();
        for column in table.columns.iter().filter(|column| column.not_null) {
            if let Some(default) = column.default_value() {
                defaults.insert(quote(db, &column.name)?, default);
            }
        }
        let found = table.in_the_way(db, |column| match defaults.get(column) {
            Some(default) => format!("ifnull(NEW.{column}, {default})"),
            None => format!("NEW.{column}"),
        })?;
        self.in_the_way = found.iter().map(|way| way.condition.clone()).collect();
        let mut columns = Vec::new();
        for way in &found {
            match &way.columns {
                Some(named) => columns.extend(named.iter().cloned()),
                None => return Ok(()),
            }
        }
        if self.key_is_rowid || columns.iter().any(|column| column == "\"rowid\"") {
            // The rowid has three more names, by which SET changes the key without naming the key's column.
            columns.extend(["rowid", "oid", "_rowid_"].map(str::to_owned));
        }
        let mut seen = HashSet::new();
        columns.retain(|column| seen.insert(column.clone()));
        self.unique_columns = Some(columns);
        Ok(())
    }

    fn side(&self) -> String {
        format!("fs_side_{}", self.table_no)
    }

    fn what(&self, operation: i64) -> i64 {
        self.table_no * 8 + operation
    }

    fn composite(&self) -> bool {
        self.key.len() > 1
    }

    /// `k1, k2`
    fn key_names(&self, prefix: &str) -> Vec<String> {
        (1..=self.key.len()).map(|part| format!("{prefix}{part}")).collect()
    }

    /// `OLD."a", OLD."b"`
    fn key_values(&self, row: &str) -> Vec<String> {
        self.key.iter().map(|part| format!("{row}.{}", part.quoted)).collect()
    }

    fn differs(field: &Field) -> String {
        let name = &field.quoted;
        if field.any_type {
            format!("(OLD.{name} COLLATE BINARY IS NOT NEW.{name} OR typeof(OLD.{name}) <> typeof(NEW.{name}))")
        } else {
            format!("OLD.{name} COLLATE BINARY IS NOT NEW.{name}")
        }
    }

    fn same_key(&self) -> String {
        let parts: Vec<String> =
            self.key.iter().map(|part| format!("OLD.{0} COLLATE BINARY IS NEW.{0}", part.quoted)).collect();
        parts.join(" AND ")
    }

    /// Log entry with key only; for composite keys the key is in the side table.
    fn log(&self, operation: i64, row: &str) -> String {
        let what = self.what(operation);
        if self.composite() {
            format!("INSERT INTO fs_log(what, at) VALUES ({what}, {NOW});")
        } else {
            format!("INSERT INTO fs_log(what, key, at) VALUES ({what}, {}, {NOW});", self.key_values(row)[0])
        }
    }

    /// Side entry for the latest log entry.
    fn side_entry(&self, columns: &[String], values: &[String], condition: &str) -> String {
        format!(
            "INSERT INTO {}(clock, {}) SELECT {LATEST}, {}{condition};",
            self.side(),
            columns.join(", "),
            values.join(", ")
        )
    }

    /// Key columns of a side entry: none for simple keys, which are in the log itself.
    fn side_key(&self, row: &str) -> (Vec<String>, Vec<String>) {
        if self.composite() {
            (self.key_names("k"), self.key_values(row))
        } else {
            (Vec::new(), Vec::new())
        }
    }

    fn old_names(&self) -> Vec<String> {
        self.fields.iter().map(|field| format!("o{}", field.slot)).collect()
    }

    fn old_values(&self) -> Vec<String> {
        self.fields.iter().map(|field| format!("OLD.{}", field.quoted)).collect()
    }

    fn trigger(&self, name: &str, when: &str, condition: &str, body: &[String]) -> String {
        self.trigger_on(&self.table, name, when, condition, body)
    }

    fn trigger_on(&self, table: &str, name: &str, when: &str, condition: &str, body: &[String]) -> String {
        self.trigger_named(&format!("fs_{}_{name}", self.table_no), table, when, condition, body)
    }

    fn trigger_named(&self, name: &str, table: &str, when: &str, condition: &str, body: &[String]) -> String {
        let condition = if condition.is_empty() { String::new() } else { format!("\nWHEN {condition}") };
        format!(
            "CREATE TRIGGER main.{name} {when} ON {table} FOR EACH ROW{condition}\nBEGIN\n  {}\nEND",
            body.join("\n  ")
        )
    }

    /// Everything, in order. The side table must exist and have a column for every field.
    pub fn statements(&self, db: &Connection) -> Result<Vec<String>> {
        let mut all = self.scratch_tables(db)?;
        all.push(self.after_insert(db)?);
        all.push(self.on_insert());
        all.extend(self.on_update());
        all.push(self.on_delete());
        all.push(self.on_rekey());
        all.extend(self.before_replace());
        all.extend(self.after_replace());
        Ok(all)
    }

    fn on_insert(&self) -> String {
        let mut body = vec![self.log(what::INSERT, "NEW")];
        let (columns, values) = self.side_key("NEW");
        if self.composite() {
            body.push(self.side_entry(&columns, &values, ""));
        }
        self.trigger("insert", "AFTER INSERT", "", &body)
    }

    /// One trigger per group of columns. Where several columns of a row change at once, the first of them logs for all.
    fn on_update(&self) -> Vec<String> {
        let size = self.fields.len().div_ceil(UPDATE_TRIGGERS_MAX).max(1);
        (0..self.fields.len())
            .step_by(size)
            .map(|from| {
                let group = &self.fields[from..(from + size).min(self.fields.len())];
                let of: Vec<&str> = group.iter().map(|field| field.quoted.as_str()).collect();
                let any: Vec<String> = group.iter().map(Self::differs).collect();
                let mut condition = format!("({}) AND {}", any.join(" OR "), self.same_key());
                for earlier in &self.fields[..from] {
                    condition.push_str(&format!(" AND NOT ({})", Self::differs(earlier)));
                }
                let name = format!("update_{}", from / size + 1);
                let when = format!("AFTER UPDATE OF {}", of.join(", "));
                self.trigger(&name, &when, &condition, &self.update_body(from, group))
            })
            .collect()
    }

    fn update_body(&self, from: usize, group: &[Field]) -> Vec<String> {
        let what = self.what(what::UPDATE);
        let key = if self.composite() { "NULL".to_owned() } else { self.key_values("NEW")[0].clone() };
        let rest = if group.len() == 1 { &self.fields[from + 1..] } else { &self.fields[from..] };
        let mut body = vec![match group {
            [field] => format!(
                "INSERT INTO fs_log(what, key, field, old, new, at) VALUES ({what}, {key}, {}, OLD.{name}, NEW.{name}, {NOW});",
                field.slot,
                name = field.quoted
            ),
            _ => format!("INSERT INTO fs_log(what, key, at) VALUES ({what}, {key}, {NOW});"),
        }];
        let (mut columns, mut values) = self.side_key("NEW");
        for field in rest {
            let (differs, name) = (Self::differs(field), &field.quoted);
            columns.extend([format!("o{}", field.slot), format!("n{}", field.slot)]);
            values.push(format!("CASE WHEN {differs} THEN OLD.{name} END"));
            values.push(format!("CASE WHEN {differs} THEN NEW.{name} END"));
        }
        if !columns.is_empty() {
            let condition = if self.composite() || group.len() > 1 {
                String::new()
            } else {
                let any: Vec<String> = rest.iter().map(Self::differs).collect();
                format!(" WHERE {}", any.join(" OR "))
            };
            body.push(self.side_entry(&columns, &values, &condition));
        }
        body
    }

    fn on_delete(&self) -> String {
        let mut body = vec![self.log(what::DELETE, "OLD")];
        let (mut columns, mut values) = self.side_key("OLD");
        columns.extend(self.old_names());
        values.extend(self.old_values());
        if !columns.is_empty() {
            body.push(self.side_entry(&columns, &values, ""));
        }
        body.push(format!("DELETE FROM {} WHERE {};", self.gone(), self.note_is("OLD")));
        self.trigger("delete", "AFTER DELETE", "", &body)
    }

    fn on_rekey(&self) -> String {
        let mut of: Vec<String> = self.key.iter().map(|part| part.quoted.clone()).collect();
        if self.key_is_rowid {
            of.extend(["rowid", "oid", "_rowid_"].map(str::to_owned));
        }
        let mut columns = self.key_names("q");
        let mut values = self.key_values("NEW");
        let (key_columns, key_values) = self.side_key("OLD");
        columns.extend(key_columns);
        values.extend(key_values);
        columns.extend(self.old_names());
        values.extend(self.old_values());
        let body = [
            // The moved row is not one that was replaced, whatever an earlier statement noted.
            format!("DELETE FROM {} WHERE {};", self.gone(), self.note_is("OLD")),
            // A row that had the new key was replaced: it went first.
            self.fate_after_update(&format!("OR ({})", self.note_is("NEW"))),
            self.log(what::REKEY, "OLD"),
            self.side_entry(&columns, &values, ""),
        ];
        let when = format!("AFTER UPDATE OF {}", of.join(", "));
        self.trigger("rekey", &when, &format!("NOT ({})", self.same_key()), &body)
    }

    /// Columns that the side table needs, apart from the clock.
    pub fn side_columns(&self) -> Vec<String> {
        let mut columns = if self.composite() { self.key_names("k") } else { Vec::new() };
        columns.extend(self.key_names("q"));
        for field in &self.fields {
            columns.extend([format!("o{}", field.slot), format!("n{}", field.slot)]);
        }
        columns
    }
}
