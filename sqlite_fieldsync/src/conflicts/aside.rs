//! Rows that made room for the hub's.
//!
//! Invariant: such a row is here whole until a person decides, or the hub brings it back. What becomes of another record that got its key
//! since is an entry of that record's own.

use super::{by_name, is_in_its_table, key_from_bytes, key_to_bytes, row_id, IS_BESIDE_THE_HUBS};
use crate::error::{Error, Result};
use crate::log::{self, LogTable};
use crate::sql;
use fieldsync_core::inspect::fields_to_json;
use fieldsync_core::reply::{RowChange, TableRows};
use fieldsync_core::{Key, Value};
use rusqlite::{Connection, OptionalExtension};
use std::collections::{HashMap, HashSet};

/// A row as it is kept while it is aside: column names and values, key included.
pub type KeptRow = Vec<(String, Value)>;

/// The values of a row that had to make room, by slot.
pub fn row_that_stepped_aside(
    db: &Connection,
    tables: &HashMap<i64, LogTable>,
    table_no: i64,
    key: &Key,
) -> Result<Option<Vec<(u16, Value)>>> {
    let Some(table) = tables.get(&table_no) else { return Ok(None) };
    let kept: Option<Vec<u8>> = db
        .prepare_cached(
            "SELECT kept FROM main.fs_conflict WHERE table_name = ?1 AND row_id = ?2 AND status = 'open' AND kept IS NOT NULL
             ORDER BY conflict_id DESC LIMIT 1",
        )?
        .query_row([&table.name, &key.row_id()], |row| row.get(0))
        .optional()?;
    let Some(kept) = kept else { return Ok(None) };
    let row = kept_from_bytes(&kept)?;
    let mut values = Vec::new();
    for column in table.fields().iter().filter(|column| column.present) {
        if let Some((_, value)) = row.iter().find(|(name, _)| name.eq_ignore_ascii_case(&column.name)) {
            values.push((column.slot as u16, value.clone()));
        }
    }
    values.sort_by_key(|(slot, _)| *slot);
    Ok(Some(values))
}

/// A kept row from its stored form.
pub fn kept_from_bytes(bytes: &[u8]) -> Result<KeptRow> {
    postcard::from_bytes(bytes).map_err(|error| Error::OwnData(error.to_string()))
}

/// A kept row, in its stored form, with its columns' present names.
pub(super) fn with_columns_renamed(bytes: &[u8], names: &HashMap<String, String>) -> Result<Vec<u8>> {
    let mut row = kept_from_bytes(bytes)?;
    for (name, _) in &mut row {
        if let Some(present) = names.get(&name.to_ascii_lowercase()) {
            present.clone_into(name);
        }
    }
    kept_to_bytes(&row)
}

fn kept_to_bytes(row: &KeptRow) -> Result<Vec<u8>> {
    postcard::to_allocvec(row).map_err(|error| Error::OwnData(error.to_string()))
}

/// Keeps a row that makes room for one of the hub's.
pub fn step_aside(db: &Connection, table: &str, key: &Key, row: &KeptRow, reason: &str) -> Result<()> {
    let bytes = kept_to_bytes(row)?;
    let mine = fields_to_json(row.iter().map(|(name, value)| (name.as_str(), value))).to_string();
    // Whatever is open about the row already: a person decides once. If a row is aside under this key, that is another record.
    let open: Option<i64> = db
        .prepare_cached(&format!(
            "SELECT conflict_id FROM main.fs_conflict WHERE table_name = ?1 AND row_id = ?2 AND status = 'open'
             AND outcome <> 'refused_here' AND kept IS NULL AND NOT (outcome = 'rejected' AND {IS_BESIDE_THE_HUBS})
             ORDER BY conflict_id DESC LIMIT 1"
        ))?
        .query_row([table, &key.row_id()], |row| row.get(0))
        .optional()?;
    if let Some(open) = open {
        db.execute("UPDATE main.fs_conflict SET kept = ?2, mine = ?3 WHERE conflict_id = ?1", (open, bytes, mine))?;
        return Ok(());
    }
    // A record made under the key from here on is another one.
    db.execute(
        "INSERT INTO main.fs_conflict(table_name, row_id, row_key, operation, mine, rule, outcome, status, detail, kept, last_clock)
         VALUES (?1, ?2, ?3, 'insert', ?4, 'in the way', 'in_the_way', 'open', ?5, ?6, ?7)",
        (table, row_id(db, key)?, key_to_bytes(key)?, mine, reason, bytes, log::last(db)?.place),
    )?;
    Ok(())
}

/// Keeps a record that was made here under a key of which the hub has had another one all along: the table shows that one from now on.
pub fn beside_the_hubs(db: &Connection, table: &TableRows, key: &Key, row: &KeptRow, hub: &RowChange) -> Result<()> {
    let is_key =
        |name: &str| table.columns[..usize::from(table.key_len)].iter().any(|part| part.eq_ignore_ascii_case(name));
    let mine = fields_to_json(row.iter().map(|(name, value)| (name.as_str(), value)).filter(|(name, _)| !is_key(name)));
    db.execute(
        "INSERT INTO main.fs_conflict(table_name, row_id, row_key, operation, mine, theirs, rule, outcome, status, detail, kept, last_clock)
         VALUES (?1, ?2, ?3, 'insert', ?4, ?5, 'on_same_key/separate', 'in_the_way', 'open',
                 'a program had dropped the table and made it again, and this record was made under a key that the hub has for another one; give it another key, or choose one of the two',
                 ?6, ?7)",
        (
            &table.table,
            row_id(db, key)?,
            key_to_bytes(key)?,
            mine.to_string(),
            by_name(table, hub).to_string(),
            kept_to_bytes(row)?,
            log::last(db)?.place,
        ),
    )?;
    Ok(())
}

/// Keeps a row that the hub has deleted against a change of this device: whoever decides for the device gets all of it back.
pub fn keep_deleted(db: &Connection, table: &str, key: &Key, row: &KeptRow) -> Result<()> {
    let bytes = kept_to_bytes(row)?;
    db.prepare_cached(
        "UPDATE main.fs_conflict SET kept = ?3 WHERE conflict_id =
           (SELECT max(conflict_id) FROM main.fs_conflict
            WHERE table_name = ?1 AND row_id = ?2 AND outcome <> 'refused_here' AND operation = 'update')",
    )?
    .execute((table, key.row_id(), bytes))?;
    Ok(())
}

/// Table (lower case) and row id of records that were made here and are aside.
pub fn keys_of_made_and_aside(db: &Connection) -> Result<HashSet<(String, String)>> {
    let mut statement =
        db.prepare_cached(&format!("SELECT table_name, row_id FROM main.fs_conflict WHERE {MADE_AND_ASIDE}"))?;
    let keys = statement.query_map([], |row| Ok((sql::folded(row, 0)?, row.get(1)?)))?;
    Ok(keys.collect::<rusqlite::Result<_>>()?)
}

/// A record that was made here, not taken by the hub, and is aside. (Not one that is beside the hub's: of that the hub never hears.)
const MADE_AND_ASIDE: &str = "status = 'open' AND kept IS NOT NULL AND operation = 'insert'
     AND (outcome = 'rejected' OR outcome = 'in_the_way' AND rule <> 'on_same_key/separate')";

/// The hub has answered the making (at this place of the log) of a row. If it was made under the key of one that was aside by then, the
/// hub's entry of this key, and its row, are the later record's from now on; what is aside waits as an entry of this device's own.
/// Gives the hub's number of the entry that it had.
pub fn key_has_gone_to_another(db: &Connection, table: &str, key: &Key, made: i64) -> Result<Option<u64>> {
    let those = format!("table_name = ?1 AND row_id = ?2 AND coalesce(last_clock, 0) < ?3 AND {MADE_AND_ASIDE}");
    let row_id = key.row_id();
    let number: Option<i64> = db
        .prepare_cached(&format!("SELECT max(hub_id) FROM main.fs_conflict WHERE {those}"))?
        .query_row((table, &row_id, made), |row| row.get(0))?;
    db.prepare_cached(&format!(
        "UPDATE main.fs_conflict SET hub_id = NULL, outcome = 'rejected', first_clock = NULL WHERE {those}"
    ))?
    .execute((table, &row_id, made))?;
    Ok(number.map(|number| number as u64))
}

/// A row that made room for one of another key, and of which the hub has said nothing.
const STEPPED_ASIDE: &str =
    "status = 'open' AND outcome = 'in_the_way' AND hub_id IS NULL AND ifnull(theirs, '{}') IN ('', '{}')";

/// Rows that stepped aside, of which the hub has said nothing and whose key no other record has got: table (lower case) and row id.
pub fn aside(db: &Connection) -> Result<HashSet<(String, String)>> {
    let mut statement =
        db.prepare_cached(&format!("SELECT table_name, row_id, row_key FROM main.fs_conflict WHERE {STEPPED_ASIDE}"))?;
    let mut rows = statement.query([])?;
    let mut aside = HashSet::new();
    while let Some(row) = rows.next()? {
        let (name, key): (String, Vec<u8>) = (sql::folded(row, 0)?, row.get(2)?);
        if is_in_its_table(db, &name, &key_from_bytes(&key)?)? == Some(false) {
            aside.insert((name, row.get(1)?));
        }
    }
    Ok(aside)
}

/// Such a row was accepted by the hub after all, and is in its table again. If several had one key, it is the last.
pub fn came_back(db: &Connection, table: &str, row_id: &str) -> Result<()> {
    db.prepare_cached(&format!(
        "UPDATE main.fs_conflict SET status = 'resolved', kept = NULL, resolved_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
         WHERE conflict_id =
           (SELECT max(conflict_id) FROM main.fs_conflict WHERE table_name = ?1 AND row_id = ?2 AND {STEPPED_ASIDE})"
    ))?
    .execute([table, row_id])?;
    Ok(())
}
