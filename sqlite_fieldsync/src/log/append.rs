//! What this end logs by itself, where no trigger does: changes that it found by comparing, and marks. And what it takes out again.

use super::{last, LogTable, Position};
use crate::error::Result;
use crate::sql::{bind, now_ms};
use crate::triggers::what;
use fieldsync_core::coalesce::LoggedField;
use fieldsync_core::{Hlc, Key, Value};
use rusqlite::Connection;

/// The next clock of the log: later than everything in it, and not behind the wall clock. Entries put at this place, and at
/// those that follow it, have it as their clock.
pub fn next_clock(db: &Connection) -> Result<i64> {
    Ok(last(db)?.clock.tick(now_ms(db)?).as_i64())
}

/// Makes the end of the log a point at which places and clocks are the same number, not below `at_least`, and gives it.
pub fn mark(db: &Connection, last: Position, at_least: Hlc) -> Result<i64> {
    if last.clock.as_i64() == last.place && last.clock >= at_least {
        return Ok(last.place);
    }
    let clock = Hlc(last.clock.0.saturating_add(1)).max(at_least).as_i64();
    db.prepare_cached("INSERT INTO main.fs_log(clock, what) VALUES (?1, 0)")?.execute([clock])?;
    Ok(clock)
}

/// Logs an update as a trigger would, at a given clock from [`next_clock`] on.
pub fn append_update(db: &Connection, table: &LogTable, clock: i64, key: &Key, fields: &[LoggedField]) -> Result<()> {
    let (first, rest) = match fields {
        [first, rest @ ..] => (Some(first), rest),
        [] => (None, fields),
    };
    let none = Value::Null;
    let slot = first.map_or(Value::Null, |field| Value::Int(i64::from(field.column)));
    let mut statement = db
        .prepare_cached("INSERT INTO main.fs_log(clock, what, key, field, old, new) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    let (clock_value, what) = (Value::Int(clock), Value::Int(table.table_no * 8 + what::UPDATE));
    let part = if table.composite() { &none } else { key.0.first().unwrap_or(&none) };
    let (old, new) = first.map_or((&none, &none), |field| (&field.old, &field.new));
    bind(&mut statement, 1, [&clock_value, &what, part, &slot, old, new])?;
    statement.raw_execute()?;
    append_side(db, table, &clock_value, key, rest)
}

/// Takes an entry out of the log, as if it had never been written. Its place and its time stay: the clocks of those after it follow from them.
pub fn take_out(db: &Connection, table_no: i64, place: i64) -> Result<()> {
    db.prepare_cached(&format!("DELETE FROM main.fs_side_{table_no} WHERE clock = ?1"))?.execute([place])?;
    db.prepare_cached(
        "UPDATE main.fs_log SET what = ?2, key = NULL, field = NULL, old = NULL, new = NULL WHERE clock = ?1",
    )?
    .execute([place, what::FORGOTTEN])?;
    Ok(())
}

/// Logs an insert as a trigger would, at a given clock from [`next_clock`] on.
pub fn append_insert(db: &Connection, table: &LogTable, clock: i64, key: &Key) -> Result<()> {
    append_whole(db, table, what::INSERT, clock, key, &[])
}

/// Logs a deletion as a trigger would, with what is known of the row, at a given clock from [`next_clock`] on.
pub fn append_delete(db: &Connection, table: &LogTable, clock: i64, key: &Key, fields: &[LoggedField]) -> Result<()> {
    append_whole(db, table, what::DELETE, clock, key, fields)
}

fn append_whole(
    db: &Connection,
    table: &LogTable,
    operation: i64,
    clock: i64,
    key: &Key,
    fields: &[LoggedField],
) -> Result<()> {
    let none = Value::Null;
    let mut statement = db.prepare_cached("INSERT INTO main.fs_log(clock, what, key) VALUES (?1, ?2, ?3)")?;
    let (clock, what) = (Value::Int(clock), Value::Int(table.table_no * 8 + operation));
    let part = if table.composite() { &none } else { key.0.first().unwrap_or(&none) };
    bind(&mut statement, 1, [&clock, &what, part])?;
    statement.raw_execute()?;
    append_side(db, table, &clock, key, fields)
}

fn append_side(db: &Connection, table: &LogTable, clock: &Value, key: &Key, fields: &[LoggedField]) -> Result<()> {
    if fields.is_empty() && !table.composite() {
        return Ok(());
    }
    let mut columns = vec!["clock".to_owned()];
    let mut values = vec![clock];
    if table.composite() {
        columns.extend((1..=key.0.len()).map(|part| format!("k{part}")));
        values.extend(&key.0);
    }
    for field in fields {
        columns.extend([format!("o{}", field.column), format!("n{}", field.column)]);
        values.extend([&field.old, &field.new]);
    }
    let marks: Vec<String> = (1..=columns.len()).map(|at| format!("?{at}")).collect();
    let sql =
        format!("INSERT INTO main.fs_side_{}({}) VALUES ({})", table.table_no, columns.join(", "), marks.join(", "));
    let mut statement = db.prepare_cached(&sql)?;
    bind(&mut statement, 1, values)?;
    statement.raw_execute()?;
    Ok(())
}
