//! Rows of the hub that cannot be written yet: their table or a column is not there, or a row that they need is not.
//!
//! Invariant: what travelled is either in its table or here; the next apply, or `fs_track`, tries again.

use crate::bases;
use crate::error::{Error, Result};
use fieldsync_core::delta::Op;
use fieldsync_core::reply::{RowChange, TableRows};
use fieldsync_core::Key;
use rusqlite::{Connection, OptionalExtension};
use std::collections::HashSet;

/// What a kept row waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    /// Its table or column: tried again when the schema changes.
    Schema,
    /// Other rows, or a rule of the application: tried at every apply.
    Rows,
}

impl WaitsFor {
    fn word(self) -> &'static str {
        match self {
            WaitsFor::Schema => "schema",
            WaitsFor::Rows => "rows",
        }
    }
}

/// Keeps one row, with the columns that give its fields a meaning. Later fields go over those kept before.
pub fn keep(db: &Connection, table: &TableRows, row: &RowChange, waits_for: WaitsFor) -> Result<()> {
    let row_id = row.key.row_id();
    let mut row = row.clone();
    if row.op == Op::Update {
        let before: Option<(i64, Vec<u8>)> = db
            .prepare_cached(
                "SELECT later_no, content FROM main.fs_later WHERE table_name = ?1 AND row_id = ?2 AND waits_for = ?3
                 ORDER BY later_no DESC LIMIT 1",
            )?
            .query_row([&table.table, &row_id, waits_for.word()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((later_no, content)) = before {
            let mut kept = from_bytes(&content)?;
            let same_head = kept.columns == table.columns && kept.kinds == table.kinds;
            if let (true, Some(known)) = (same_head, kept.rows.pop().filter(|known| known.op != Op::Delete)) {
                let mut fields = known.fields;
                for (column, value) in row.fields {
                    match fields.iter_mut().find(|(at, _)| *at == column) {
                        Some((_, old)) => *old = value,
                        None => fields.push((column, value)),
                    }
                }
                fields.sort_by_key(|(column, _)| *column);
                row = RowChange { op: known.op, key: row.key, fields };
                db.prepare_cached("DELETE FROM main.fs_later WHERE later_no = ?1")?.execute([later_no])?;
            }
        }
    } else {
        db.prepare_cached("DELETE FROM main.fs_later WHERE table_name = ?1 AND row_id = ?2")?
            .execute([&table.table, &row_id])?;
    }
    let alone = TableRows { rows: vec![row], ..head(table) };
    let content = postcard::to_allocvec(&alone).map_err(|error| Error::OwnData(error.to_string()))?;
    db.prepare_cached("INSERT INTO main.fs_later(table_name, row_id, waits_for, content) VALUES (?1, ?2, ?3, ?4)")?
        .execute((&table.table, row_id, waits_for.word(), content))?;
    Ok(())
}

/// Under which name of `fs_state` it stands what this device had seen before the first row of a table, or field of a column, was kept.
fn seen_name(table: &str, column: Option<&str>) -> String {
    let names: Vec<String> = std::iter::once(table).chain(column).map(str::to_ascii_lowercase).collect();
    format!("unseen {}", serde_json::json!(names))
}

/// The hub's rows of this table, or its values of this column, begin to be kept for want of a place: the cursor will count them as
/// seen, and whatever this device writes into that place before they are in it, it writes without having seen them.
pub fn remember_seen(db: &Connection, table: &str, column: Option<&str>) -> Result<()> {
    db.prepare_cached(
        "INSERT OR IGNORE INTO main.fs_state(name, value)
         VALUES (?1, (SELECT value FROM main.fs_state WHERE name = 'cursor'))",
    )?
    .execute([seen_name(table, column)])?;
    Ok(())
}

/// The cursor from before any of it was kept: none in a database that had seen nothing, nothing if none is kept.
pub fn seen_before(db: &Connection, table: &str, column: Option<&str>) -> Result<Option<Option<String>>> {
    Ok(db
        .prepare_cached("SELECT value FROM main.fs_state WHERE name = ?1")?
        .query_row([seen_name(table, column)], |row| row.get(0))
        .optional()?)
}

/// What was kept has been delivered: a table has its place, and these columns have.
pub fn forget_seen<'n>(db: &Connection, table: &str, columns: impl Iterator<Item = &'n str>) -> Result<()> {
    let mut all = std::iter::once(None).chain(columns.map(Some));
    all.try_for_each(|column| forget_name(db, &seen_name(table, column)))
}

fn forget_name(db: &Connection, name: &str) -> Result<()> {
    db.prepare_cached("DELETE FROM main.fs_state WHERE name = ?1")?.execute([name])?;
    Ok(())
}

/// The hub's table is as `head` says. Rows that are kept with a field which the hub does not have under its name are given up: it was
/// dropped there, or has another name by now, under which they are to be asked for. Gives their keys, in the hub's order. What was
/// written here meanwhile was written without having seen them.
pub fn give_up_renamed(db: &Connection, head: &TableRows) -> Result<Vec<Key>> {
    // What is stored begins with the table's name and columns: rows kept under the same ones need no second look.
    let same =
        postcard::to_allocvec(&(&head.table, &head.columns)).map_err(|error| Error::OwnData(error.to_string()))?;
    let mut statement = db.prepare_cached(
        "SELECT later_no, content FROM main.fs_later
         WHERE table_name = ?1 AND waits_for = 'schema' AND substr(content, 1, length(?2)) <> ?2",
    )?;
    let kept: Vec<(i64, Vec<u8>)> = statement
        .query_map((&head.table, same), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let is_there = |name: &&String| head.columns.iter().any(|known| known.eq_ignore_ascii_case(name));
    let mut keys = Vec::new();
    let mut gone = HashSet::new();
    for (later_no, content) in kept {
        let table = from_bytes(&content)?;
        for row in &table.rows {
            let names = row.fields.iter().filter_map(|(at, _)| table.columns.get(usize::from(*at)));
            let unknown: Vec<&String> = names.filter(|name| !is_there(name)).collect();
            if unknown.is_empty() {
                continue;
            }
            gone.extend(unknown.into_iter().cloned());
            keys.push(row.key.clone());
            db.prepare_cached("DELETE FROM main.fs_later WHERE later_no = ?1")?.execute([later_no])?;
        }
    }
    for name in gone {
        if let Some(seen) = seen_before(db, &head.table, Some(&name))? {
            bases::at_most(db, seen.as_deref())?;
            forget_name(db, &seen_name(&head.table, Some(&name)))?;
        }
    }
    Ok(keys)
}

/// The history of which something had been seen is gone.
pub fn forget_history(db: &Connection) -> Result<()> {
    db.execute("UPDATE main.fs_state SET value = NULL WHERE name LIKE 'unseen %'", [])?;
    Ok(())
}

fn from_bytes(content: &[u8]) -> Result<TableRows> {
    postcard::from_bytes(content).map_err(|error| Error::OwnData(error.to_string()))
}

/// A table without its rows.
pub fn head(table: &TableRows) -> TableRows {
    TableRows {
        table: table.table.clone(),
        columns: table.columns.clone(),
        kinds: table.kinds.clone(),
        key_len: table.key_len,
        sums: table.sums.clone(),
        rows: Vec::new(),
    }
}

/// Takes out what waits for rows in all tracked tables, oldest first. What cannot be written this time is kept again.
pub fn take_rows(db: &Connection) -> Result<Vec<TableRows>> {
    take(
        db,
        "waits_for = 'rows' AND table_name COLLATE NOCASE IN (SELECT name FROM main.fs_table WHERE state = 'tracked') AND ?1 IS NULL",
        None,
    )
}

/// Takes out everything that is kept for one table, oldest first.
pub fn take_table(db: &Connection, table: &str) -> Result<Vec<TableRows>> {
    take(db, "table_name = ?1", Some(table))
}

fn take(db: &Connection, condition: &str, table: Option<&str>) -> Result<Vec<TableRows>> {
    let any: bool =
        db.prepare_cached("SELECT EXISTS (SELECT 1 FROM main.fs_later)")?.query_row([], |row| row.get(0))?;
    if !any {
        return Ok(Vec::new());
    }
    let mut statement =
        db.prepare_cached(&format!("SELECT content FROM main.fs_later WHERE {condition} ORDER BY later_no"))?;
    let mut rows = statement.query([table])?;
    let mut taken: Vec<TableRows> = Vec::new();
    while let Some(row) = rows.next()? {
        let content: Vec<u8> = row.get(0)?;
        let one = from_bytes(&content)?;
        match taken.last_mut() {
            Some(last) if last.table == one.table && last.columns == one.columns && last.kinds == one.kinds => {
                last.rows.extend(one.rows);
            }
            _ => taken.push(one),
        }
    }
    db.prepare_cached(&format!("DELETE FROM main.fs_later WHERE {condition}"))?.execute([table])?;
    Ok(taken)
}
