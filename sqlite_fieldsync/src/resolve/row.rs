//! The row of a conflict, read and written as a person's choice wants it.
//!
//! Invariants: no choice leaves a reference open, whether the connection enforces foreign keys or not; none takes another record away; and
//! none that this database ignores passes for made.

use super::{over, still_here, write_back, Conflict};
use crate::apply::or_abort;
use crate::apply::references::{values_of, References};
use crate::conflicts;
use crate::error::{Error, Result};
use crate::log::{self, LogTable};
use crate::schema::{Affinity, Column, Table};
use crate::sql::{self, bind, bind_as_text, quote};
use fieldsync_core::{Key, Value};
use rusqlite::Connection;
use serde_json::{Map, Value as Json};

/// A conflict's row.
pub(super) struct Row {
    pub table: Table,
    /// The table's name, quoted.
    pub name: String,
    /// The condition of its key.
    pub condition: String,
    pub key: Key,
}

impl Row {
    /// What is in it; nothing if it is not there.
    pub fn values(&self, db: &Connection) -> Result<conflicts::KeptRow> {
        let mut statement = db.prepare(&format!("SELECT * FROM {} WHERE {}", self.name, self.condition))?;
        bind(&mut statement, 1, &self.key.0)?;
        let names: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
        if statement.raw_query().next()?.is_none() && !bind_as_text(&mut statement, &self.key)? {
            return Ok(Vec::new());
        }
        let mut found = statement.raw_query();
        let Some(found) = found.next()? else { return Ok(Vec::new()) };
        names.into_iter().enumerate().map(|(at, name)| Ok((name, sql::column(found, at)?))).collect()
    }

    /// The columns that a person's fields name, with the values as the columns want them; not the key's, nor generated ones.
    pub fn fields(&self, fields: &Map<String, Json>) -> Result<conflicts::KeptRow> {
        let mut found = Vec::new();
        for (field, value) in fields {
            let Some(column) = self.table.columns.iter().find(|column| column.name.eq_ignore_ascii_case(field)) else {
                return Err(Error::argument(format!("table '{}' has no column '{field}'", self.table.name)));
            };
            if !column.generated && column.key_part == 0 {
                found.push((column.name.clone(), value_of(value, column)));
            }
        }
        Ok(found)
    }

    /// A key by column.
    pub fn key_fields(&self, key: &Key) -> conflicts::KeptRow {
        self.table.key().iter().zip(&key.0).map(|(part, value)| (part.name.clone(), value.clone())).collect()
    }

    /// Sets these columns; a logged update.
    pub fn update(&self, db: &Connection, fields: &conflicts::KeptRow) -> Result<()> {
        let first = self.key.0.len() + 1;
        let sets =
            fields.iter().enumerate().map(|(at, (name, _))| Ok(format!("{} = ?{}", quote(db, name)?, first + at)));
        let sets = sets.collect::<Result<Vec<_>>>()?.join(", ");
        let or_abort = or_abort(db, &self.table)?;
        let mut statement =
            db.prepare(&format!("UPDATE{or_abort} {} SET {sets} WHERE {}", self.name, self.condition))?;
        bind(&mut statement, 1, self.key.0.iter().chain(fields.iter().map(|(_, value)| value)))?;
        let mut changed = statement.raw_execute()?;
        if changed == 0 && bind_as_text(&mut statement, &self.key)? {
            changed = statement.raw_execute()?;
        }
        match changed == 0 && !self.shows(db, fields)? {
            true => Err(self.is_ignored()),
            false => Ok(()),
        }
    }

    /// Whether it has these values already: then a trigger that ignores what changes nothing is right.
    fn shows(&self, db: &Connection, fields: &conflicts::KeptRow) -> Result<bool> {
        let first = self.key.0.len() + 1;
        let mut sql = format!("SELECT 1 FROM {} WHERE {}", self.name, self.condition);
        for (at, (name, _)) in fields.iter().enumerate() {
            sql.push_str(&format!(" AND {} COLLATE BINARY IS ?{}", quote(db, name)?, first + at));
        }
        let mut statement = db.prepare(&sql)?;
        bind(&mut statement, 1, self.key.0.iter().chain(fields.iter().map(|(_, value)| value)))?;
        let found = statement.raw_query().next()?.is_some();
        Ok(found || (bind_as_text(&mut statement, &self.key)? && statement.raw_query().next()?.is_some()))
    }

    fn is_ignored(&self) -> Error {
        Error::argument(format!(
            "a rule of this database ignores what is to be written to table '{}' (RAISE(IGNORE), ON CONFLICT IGNORE)",
            self.table.name
        ))
    }

    /// Makes a row of these columns; a logged insert.
    pub fn insert(&self, db: &Connection, fields: &conflicts::KeptRow) -> Result<()> {
        let names = fields.iter().map(|(name, _)| quote(db, name)).collect::<Result<Vec<_>>>()?.join(", ");
        let marks = (1..=fields.len()).map(|at| format!("?{at}")).collect::<Vec<_>>().join(", ");
        let or_abort = or_abort(db, &self.table)?;
        let mut statement = db.prepare(&format!("INSERT{or_abort} INTO {}({names}) VALUES ({marks})", self.name))?;
        bind(&mut statement, 1, fields.iter().map(|(_, value)| value))?;
        match statement.raw_execute()? {
            0 => Err(self.is_ignored()),
            _ => Ok(()),
        }
    }

    pub fn is_there(&self, db: &Connection) -> Result<bool> {
        Ok(self.table.has(db, &self.key)? == Some(true))
    }
}

pub(super) fn row(db: &Connection, conflict: &Conflict) -> Result<Row> {
    if conflict.status != "open" && conflict.key.is_none() {
        return Err(Error::argument(format!("conflict {} has no row", conflict.id)));
    }
    let Some(key) = conflict.key.clone() else {
        return Err(Error::argument(format!(
            "conflict {} is about a whole table; correct its rows instead",
            conflict.id
        )));
    };
    let Some(table) = Table::read(db, &conflict.table)? else {
        return Err(Error::argument(format!("table '{}' is not there any more", conflict.table)));
    };
    if table.key().len() != key.0.len() {
        return Err(Error::argument(format!("the key of table '{}' is not what it was", conflict.table)));
    }
    let condition = table.key_condition(db)?;
    let name = table.qualified(db)?;
    Ok(Row { table, name, condition, key })
}

/// A value as the column wants it: `\x` and hexadecimal digits are bytes only where the column holds bytes.
pub(super) fn value_of(json: &Json, column: &Column) -> Value {
    let bytes = column.affinity() == Affinity::Blob || column.declared == "ANY";
    match json {
        Json::String(text) => match text.strip_prefix("\\x").filter(|digits| bytes && digits.len() % 2 == 0) {
            Some(digits) => (0..digits.len() / 2)
                .map(|at| digits.get(2 * at..2 * at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
                .collect::<Option<Vec<u8>>>()
                .map_or_else(|| Value::Text(text.clone()), Value::Blob),
            None => match text.parse::<f64>() {
                Ok(number) if number.is_infinite() && column.affinity() == Affinity::Real => Value::Real(number),
                _ => Value::Text(text.clone()),
            },
        },
        Json::Number(number) if column.affinity() == Affinity::Text => Value::Text(number.to_string()),
        Json::Bool(truth) if column.affinity() == Affinity::Text => Value::Text(truth.to_string()),
        other => Value::from_json(other),
    }
}

/// Writes the fields into the row, or makes it; the capture triggers log it.
pub(super) fn write_fields(db: &Connection, conflict: &Conflict, fields: &Map<String, Json>) -> Result<bool> {
    let row = row(db, conflict)?;
    let fields = row.fields(fields)?;
    let before_it = row.values(db)?;
    let before: i64 = db.query_row("SELECT max(clock) FROM main.fs_log", [], |row| row.get(0))?;
    if !before_it.is_empty() {
        if fields.is_empty() {
            return Ok(false);
        }
        row.update(db, &fields)?;
    } else if conflict.operation == "update" {
        return Err(Error::argument(format!(
            "row {} of table '{}' is gone, so that the change cannot be made to it; make the record again, or settle it with 'theirs'",
            row.key.row_id(),
            row.table.name
        )));
    } else {
        row.insert(db, &[row.key_fields(&row.key), fields].concat())?;
    }
    references_hold(db, &row.table, &before_it, &row.values(db)?)?;
    let after: i64 = db.query_row("SELECT max(clock) FROM main.fs_log", [], |row| row.get(0))?;
    Ok(after > before)
}

/// The change becomes a record of its own, under another key: a record that was made here and that the hub did not take moves there;
/// one that lost its key to another record, or that was dropped, comes back there, whole.
pub(super) fn write_under(db: &Connection, conflict: &Conflict, fields: &Map<String, Json>, key: &Key) -> Result<bool> {
    let row = row(db, conflict)?;
    let is_its_own = conflict.was_refused() && conflict.theirs_is_none() && !conflict.is_dropped();
    let before = if is_its_own { row.values(db)? } else { Vec::new() };
    if conflict.was_refused() && !conflict.theirs_is_none() && row.is_there(db)? {
        // What stays under the former key is the hub's, also where a person had put this one in its place before.
        if conflict.was_put_in_its_place() {
            write_back(db, conflict, &conflict.theirs)?;
        }
        conflicts::ask_for(db, &conflict.table, &row.key)?;
    }
    let whole = match before.is_empty() {
        true => over(&still_here(db, conflict, &conflict.mine)?.0, fields),
        false => fields.clone(),
    };
    let all = [row.key_fields(key), row.fields(&whole)?].concat();
    if before.is_empty() {
        row.insert(db, &all)?;
    } else {
        row.update(db, &all)?;
    }
    let rest = before.iter().filter(|(name, _)| !all.iter().any(|(other, _)| other == name)).cloned();
    let after = rest.chain(all.clone()).collect();
    references_hold(db, &row.table, &before, &after)?;
    Ok(true)
}

/// Brings a row that made room back into its table, corrected; a logged insert.
pub(super) fn bring_back(
    db: &Connection,
    conflict: &Conflict,
    kept: &conflicts::KeptRow,
    corrections: &Map<String, Json>,
) -> Result<bool> {
    let row = row(db, conflict)?;
    let mut fields = Vec::new();
    for (name, value) in kept {
        let is_it = |other: &str| other.eq_ignore_ascii_case(name);
        let Some(column) = row.table.columns.iter().find(|column| !column.generated && is_it(&column.name)) else {
            continue;
        };
        let corrected = corrections.iter().find(|(field, _)| is_it(field)).map(|(_, value)| value_of(value, column));
        fields.push((name.clone(), corrected.unwrap_or_else(|| value.clone())));
    }
    for field in corrections.keys() {
        if !kept.iter().any(|(name, _)| name.eq_ignore_ascii_case(field)) {
            return Err(Error::argument(format!("table '{}' has no column '{field}'", row.table.name)));
        }
    }
    row.insert(db, &fields)?;
    references_hold(db, &row.table, &Vec::new(), &fields)?;
    Ok(true)
}

/// An error if a choice leaves a reference open, given the row before (nothing: it was not there) and after it, whether the connection
/// enforces foreign keys or not; where it does, their actions have been taken. The row refers to one that is not here, most often because
/// that one has stepped aside, too; or others refer to what it has no more.
fn references_hold(
    db: &Connection,
    table: &Table,
    before: &conflicts::KeptRow,
    after: &conflicts::KeptRow,
) -> Result<()> {
    let mut references = References::load(db)?;
    for at in references.of_child(&table.name) {
        let key = references.key(at).clone();
        let now = values_of(after, &key.from).filter(|now| values_of(before, &key.from).as_ref() != Some(now));
        let Some(values) = now else { continue };
        if !references.parent_is_there(at, &values)? {
            let id = Key(values).row_id();
            return Err(Error::argument(format!(
                "the row refers to {id} in table '{}', which is not here; settle that first if it has stepped aside, too",
                key.parent
            )));
        }
    }
    for at in references.of_parent(&table.name) {
        let key = references.key(at).clone();
        let gone = values_of(before, &key.to).filter(|was| values_of(after, &key.to).as_ref() != Some(was));
        let (Some(values), Some(child)) = (gone, Table::read(db, &key.child)?) else { continue };
        if references.parent_is_there(at, &values)? {
            continue;
        }
        if let Some(other) = references.children_of(at, &child, &values)?.first() {
            return Err(is_referred_to(&child, other));
        }
    }
    Ok(())
}

fn is_referred_to(child: &Table, key: &Key) -> Error {
    Error::argument(format!(
        "row {} of table '{}' refers to this record; settle or delete that first",
        key.row_id(),
        child.name
    ))
}

/// An error if other rows refer to one that is about to go, whether the connection enforces foreign keys or not, unless an action
/// of their foreign key will see to them: most often the hub refused those, too.
fn nothing_refers_to(db: &Connection, row: &Row) -> Result<()> {
    let enforced: bool = db.query_row("PRAGMA foreign_keys", [], |row| row.get(0))?;
    let mut references = References::load(db)?;
    for at in references.of_parent(&row.table.name) {
        let key = references.key(at).clone();
        if enforced && matches!(key.on_delete.as_str(), "CASCADE" | "SET NULL" | "SET DEFAULT") {
            continue;
        }
        let Some(child) = Table::read(db, &key.child)? else { continue };
        let names = key.to.iter().map(|name| quote(db, name)).collect::<Result<Vec<_>>>()?.join(", ");
        let mut statement = db.prepare(&format!("SELECT {names} FROM {} WHERE {}", row.name, row.condition))?;
        bind(&mut statement, 1, &row.key.0)?;
        let mut found = statement.raw_query();
        let Some(referred) = found.next()? else { continue };
        let values = (0..key.to.len()).map(|place| sql::column(referred, place)).collect::<Result<Vec<_>>>()?;
        let children = references.children_of(at, &child, &values)?;
        let is_itself = |other: &Key| child.name == row.table.name && *other == row.key;
        if let Some(other) = children.iter().find(|other| !is_itself(other)) {
            return Err(is_referred_to(&child, other));
        }
    }
    Ok(())
}

pub(super) fn delete_row(db: &Connection, conflict: &Conflict) -> Result<bool> {
    let row = row(db, conflict)?;
    nothing_refers_to(db, &row)?;
    let mut statement = db.prepare(&format!("DELETE FROM {} WHERE {}", row.name, row.condition))?;
    bind(&mut statement, 1, &row.key.0)?;
    Ok(statement.raw_execute()? > 0 || (bind_as_text(&mut statement, &row.key)? && statement.raw_execute()? > 0))
}

/// A logged change of no field: it takes the parked change along once more.
pub(super) fn touch(db: &Connection, conflict: &Conflict) -> Result<bool> {
    let Some(key) = &conflict.key else { return Ok(false) };
    let Some(table) = LogTable::named(db, &conflict.table)? else { return Ok(false) };
    log::append_update(db, &table, log::next_clock(db)?, key, &[])?;
    Ok(true)
}
