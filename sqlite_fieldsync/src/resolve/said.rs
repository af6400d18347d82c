//! A choice that the row shows already, while the hub has something else: its table is one that the hub does not give to this device.
//!
//! Invariant: what is logged here starts from the hub's side as the conflict told of it, so that it is an answer to that.

use super::row::{row, value_of, Row};
use super::Conflict;
use crate::error::Result;
use crate::log::{self, LogTable};
use fieldsync_core::coalesce::LoggedField;
use fieldsync_core::Value;
use rusqlite::Connection;
use serde_json::{Map, Value as Json};

/// Logs the row as made. Gives whether it is there.
pub(super) fn whole(db: &Connection, conflict: &Conflict) -> Result<bool> {
    let Some((row, logged)) = row_and_log(db, conflict)? else { return Ok(false) };
    if row.is_there(db)? {
        log::append_insert(db, &logged, log::next_clock(db)?, &row.key)?;
        return Ok(true);
    }
    Ok(false)
}

/// Logs the fields as put in place of the hub's values. Gives whether there was anything to say.
pub(super) fn instead_of_theirs(db: &Connection, conflict: &Conflict, fields: &Map<String, Json>) -> Result<bool> {
    let Some((row, logged)) = row_and_log(db, conflict)? else { return Ok(false) };
    let values = row.values(db)?;
    let theirs = theirs(conflict, &row, &logged);
    let is_chosen = |name: &str| fields.keys().any(|field| field.eq_ignore_ascii_case(name));
    let mut said = Vec::new();
    for (name, field) in theirs.into_iter().filter(|(name, _)| is_chosen(name)) {
        if let Some((_, new)) = values.iter().find(|(own, new)| own.eq_ignore_ascii_case(&name) && *new != field.old) {
            said.push(LoggedField { new: new.clone(), ..field });
        }
    }
    if said.is_empty() {
        return Ok(false);
    }
    log::append_update(db, &logged, log::next_clock(db)?, &row.key, &said)?;
    Ok(true)
}

/// Logs the deletion of a row that is gone here and not on the hub.
pub(super) fn deletion(db: &Connection, conflict: &Conflict) -> Result<bool> {
    let Some((row, logged)) = row_and_log(db, conflict)? else { return Ok(false) };
    let fields: Vec<LoggedField> = theirs(conflict, &row, &logged).into_iter().map(|(_, field)| field).collect();
    log::append_delete(db, &logged, log::next_clock(db)?, &row.key, &fields)?;
    Ok(true)
}

/// The conflict's row, and its table as the log knows it; nothing if the hub has this device's side, or is about to hear of the choice.
fn row_and_log(db: &Connection, conflict: &Conflict) -> Result<Option<(Row, LogTable)>> {
    if conflict.outcome == "client" || conflict.is_yet_to_be_told() {
        return Ok(None);
    }
    let row = row(db, conflict)?;
    let logged = LogTable::named(db, &row.table.name)?;
    Ok(logged.map(|logged| (row, logged)))
}

/// The hub's values by column, in the log's order, as fields that lose them.
fn theirs(conflict: &Conflict, row: &Row, logged: &LogTable) -> Vec<(String, LoggedField)> {
    let mut fields = Vec::new();
    for (name, value) in conflict.theirs.as_object().into_iter().flatten() {
        let column = row.table.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name));
        let slot = logged.fields().iter().find(|known| known.present && known.name.eq_ignore_ascii_case(name));
        if let (Some(column), Some(slot)) = (column.filter(|column| !column.generated), slot) {
            let old = value_of(value, column);
            fields.push((name.clone(), LoggedField { column: slot.slot as u16, old, new: Value::Null }));
        }
    }
    fields.sort_by_key(|(_, field)| field.column);
    fields
}
