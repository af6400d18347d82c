//! What programs did to a tracked table since the triggers were made, as the schema itself tells it.

use crate::conflicts;
use crate::emptied;
use crate::error::Result;
use crate::made_anew;
use crate::schema::{tokens, unquoted, Table};
use crate::sql;
use crate::state;
use fieldsync_core::Key;
use rusqlite::{Connection, OptionalExtension};
use std::collections::HashMap;

/// The table's columns (lower case) by the slots under which its triggers, as they stand, log them. None if they do not stand.
pub fn slots_by_trigger(db: &Connection, table: &Table, table_no: i64) -> Result<HashMap<String, i64>> {
    // The one that sets every field: `k1 IS NEW."key"`, `n3 = NEW."field"` (see [`crate::triggers`]).
    let sql: Option<String> = db
        .prepare_cached(
            "SELECT sql FROM main.sqlite_master WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE AND name LIKE ?2 ESCAPE '\\'",
        )?
        .query_row([&table.name, &format!("fs\\_{table_no}\\_after\\_insert%")], |row| row.get(0))
        .optional()?;
    let mut parts = db.prepare_cached(
        "SELECT key_part, slot FROM main.fs_column WHERE table_no = ?1 AND key_part > 0 AND position IS NOT NULL",
    )?;
    let parts: HashMap<i64, i64> =
        parts.query_map([table_no], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let sql = sql.unwrap_or_default();
    let mut found = HashMap::new();
    for window in tokens(&sql).windows(5) {
        let [logged, is, "NEW", ".", name] = window else { continue };
        let slot = match *is {
            "=" => logged.strip_prefix('n').and_then(|slot| slot.parse().ok()),
            "IS" => logged.strip_prefix('k').and_then(|part| parts.get(&part.parse().ok()?).copied()),
            _ => None,
        };
        if let Some(slot) = slot {
            found.insert(unquoted(name).to_ascii_lowercase(), slot);
        }
    }
    Ok(found)
}

/// Whether the table was made after what its triggers need: a program made it anew, and may have made the triggers again as well, as
/// SQLite's own recipe for ALTER TABLE has it. Nothing was logged in between. (VACUUM and copies keep the order.)
pub fn made_with_its_triggers(db: &Connection, table: &Table, table_no: i64) -> Result<bool> {
    Ok(db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM main.sqlite_master t, main.sqlite_master s
                            WHERE t.type = 'table' AND t.name = ?1 COLLATE NOCASE
                              AND s.type = 'table' AND s.name = ?2 AND t.rowid > s.rowid)",
        )?
        .query_row([&table.name, &format!("fs_gone_{table_no}")], |row| row.get(0))?)
}

/// Whether a program made triggers on the table since the capture triggers were made: SQLite fires those first, so what they write is
/// logged before the change that fired them.
pub fn has_younger_triggers(db: &Connection, table: &Table, table_no: i64) -> Result<bool> {
    Ok(db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM main.sqlite_master app, main.sqlite_master ours
                            WHERE app.type = 'trigger' AND app.tbl_name = ?1 COLLATE NOCASE AND app.name NOT LIKE 'fs\\_%' ESCAPE '\\'
                              AND ours.type = 'trigger' AND ours.name = ?2 AND app.rowid > ours.rowid)",
        )?
        .query_row([&table.name, &format!("fs_{table_no}_insert")], |row| row.get(0))?)
}

/// Whether rows may have gone by way of a unique index that the triggers do not know: under OR REPLACE, by something that was written
/// since `mark`, when they were last looked at.
pub fn may_have_replaced(
    db: &Connection,
    known: Option<&str>,
    table: &Table,
    table_no: i64,
    mark: i64,
) -> Result<bool> {
    // An index without SQL of its own came with the table, or the table is made anew.
    let is_new = |index: &str| !index.is_empty() && known.is_some_and(|known| !known.contains(index));
    if !table.signature.split(";\n").skip(1).any(is_new) {
        return Ok(false);
    }
    Ok(db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM main.fs_log WHERE clock > ?1 AND what >> 3 = ?2 AND what & 7 IN (1, 2, 4))",
        )?
        .query_row([mark, table_no], |row| row.get(0))?)
}

/// Whether the table has another primary key than the one by which the log names its rows. (A renamed column is the same while the triggers
/// stand, which tell; the order of the parts does not matter.)
pub fn has_another_key(db: &Connection, table: &Table, table_no: i64) -> Result<bool> {
    let mut parts = db.prepare_cached(
        "SELECT slot, name FROM main.fs_column WHERE table_no = ?1 AND key_part > 0 AND position IS NOT NULL",
    )?;
    let mut parts: HashMap<i64, String> =
        parts.query_map([table_no], |row| Ok((row.get(0)?, sql::folded(row, 1)?)))?.collect::<rusqlite::Result<_>>()?;
    if parts.is_empty() {
        return Ok(false);
    }
    let told = slots_by_trigger(db, table, table_no)?;
    for part in table.key() {
        let name = part.name.to_ascii_lowercase();
        let slot = told.get(&name).or_else(|| parts.iter().find(|(_, known)| **known == name).map(|(slot, _)| slot));
        if slot.copied().and_then(|slot| parts.remove(&slot)).is_none() {
            return Ok(true);
        }
    }
    Ok(!parts.is_empty())
}

/// Under another primary key the rows of a table have other names. What is logged and recorded of them under the former one keeps its names,
/// as a table of its own that is not there any more: read with the new key it would be about other rows. Gives the table's new number.
pub fn set_apart(db: &Connection, table_no: i64, table: &Table) -> Result<i64> {
    let former = format!("{} ({table_no})", table.name);
    emptied::give_up(db, table_no)?;
    state::note(
        db,
        &format!("table '{}' has another primary key; what was not sent before is listed as of '{former}'", table.name),
    )?;
    name(db, table_no, &former, false)?;
    db.prepare_cached("UPDATE main.fs_table SET state = 'missing', sql = NULL, rebuilt = 0 WHERE table_no = ?1")?
        .execute([table_no])?;
    db.prepare_cached("DELETE FROM main.fs_want WHERE table_name = ?1")?.execute([&table.name])?;
    db.prepare_cached(
        "INSERT INTO main.fs_table(name, options) SELECT ?2, options FROM main.fs_table WHERE table_no = ?1",
    )?
    .execute((table_no, &table.name))?;
    Ok(db.last_insert_rowid())
}

/// A table is known by another name from now on; what is recorded is about rows that stand under it. `rebuilt`: it is made anew.
fn name(db: &Connection, table_no: i64, to: &str, rebuilt: bool) -> Result<()> {
    db.prepare_cached(
        "UPDATE main.fs_conflict SET table_name = ?2
         WHERE table_name = (SELECT name FROM main.fs_table WHERE table_no = ?1)",
    )?
    .execute((table_no, to))?;
    made_anew::start_again(db, table_no)?;
    db.prepare_cached(
        "UPDATE OR REPLACE main.fs_arrived SET table_name = ?2
         WHERE table_name = (SELECT name FROM main.fs_table WHERE table_no = ?1)",
    )?
    .execute((table_no, to))?;
    db.prepare_cached("UPDATE main.fs_table SET name = ?2, rebuilt = max(rebuilt, ?3) WHERE table_no = ?1")?
        .execute((table_no, to, rebuilt))?;
    Ok(())
}

/// Follows tables that were renamed; gives whether there are any. Their triggers went with them. A table under a name that another
/// was known by (that one is gone, or was renamed as well, or the table was made under the former name of that one, which an application
/// keeps) is made anew, as far as the hub's table of that name goes.
pub fn follow_renames(db: &Connection) -> Result<bool> {
    let mut statement = db.prepare_cached(
        "SELECT t.table_no, t.name, m.tbl_name FROM main.fs_table t JOIN main.sqlite_master m
           ON m.type = 'trigger' AND m.name = 'fs_' || t.table_no || '_insert'
         WHERE t.state <> 'untracked' AND m.tbl_name <> t.name COLLATE NOCASE",
    )?;
    let renamed: Vec<(i64, String, String)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<rusqlite::Result<_>>()?;
    let mut taken = Vec::new();
    for (_, _, to) in &renamed {
        let holder: Option<i64> = db
            .prepare_cached("SELECT table_no FROM main.fs_table WHERE name = ?1")?
            .query_row([to], |row| row.get(0))
            .optional()?;
        taken.push(holder.is_some());
        if let Some(table_no) = holder {
            name(db, table_no, &format!("{to} ({table_no})"), false)?;
        }
    }
    for ((table_no, from, to), taken) in renamed.iter().zip(taken) {
        state::note(db, &format!("table '{from}' was renamed to '{to}'; the hub still knows it by its old name"))?;
        name(db, *table_no, to, taken)?;
    }
    for (table_no, from, _) in &renamed {
        state::set_integer(db, &format!("former {from}"), *table_no)?;
    }
    track_under_former_names(db)?;
    Ok(!renamed.is_empty())
}

/// A table that a program makes under the name that a tracked one bore before it was renamed, at once or later, is tracked as that one is.
fn track_under_former_names(db: &Connection) -> Result<()> {
    let former = "s.name >= 'former ' AND s.name < 'former!'";
    db.execute(
        &format!(
            "INSERT INTO main.fs_table(name, options)
             SELECT m.name, t.options FROM main.fs_state s JOIN main.fs_table t ON t.table_no = s.value AND t.state <> 'untracked'
               JOIN main.sqlite_master m ON m.type = 'table' AND m.name = substr(s.name, 8) COLLATE NOCASE
             WHERE {former} AND NOT EXISTS (SELECT 1 FROM main.fs_table WHERE name = m.name)"
        ),
        [],
    )?;
    // Whoever bears the name now is known by it.
    db.execute(
        &format!("DELETE FROM main.fs_state AS s WHERE {former} AND EXISTS (SELECT 1 FROM main.fs_table WHERE name = substr(s.name, 8))"),
        [],
    )?;
    Ok(())
}

/// The columns of a table as they were known: slot, name (lower case), whether the table had it, and the part of the key.
pub struct Before(Vec<(i64, String, bool, i64)>);

impl Before {
    /// As they are known now.
    pub fn of(db: &Connection, table_no: i64) -> Result<Before> {
        let mut statement = db.prepare_cached(
            "SELECT slot, name, position IS NOT NULL, key_part FROM main.fs_column WHERE table_no = ?1",
        )?;
        let rows = statement.query_map([table_no], |row| {
            Ok((row.get(0)?, row.get::<_, String>(1)?.to_ascii_lowercase(), row.get(2)?, row.get(3)?))
        })?;
        Ok(Before(rows.collect::<rusqlite::Result<_>>()?))
    }

    /// Whether the table did not have the column, by whatever name.
    pub fn lacked(&self, slot: i64) -> bool {
        !self.0.iter().any(|(known, _, present, _)| *known == slot && *present)
    }

    /// Whether nothing was known of the table.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a column is gone that the table once had: the hub may have it by another name now.
    pub fn lost_one(&self, is_there: impl Fn(i64) -> bool) -> bool {
        self.0.iter().any(|(known, ..)| !is_there(*known))
    }

    /// Whether the column bears a name that another had, or that was gone: what the hub has under that name, and had sent, is
    /// not in it.
    pub fn is_another(&self, slot: i64, name: &str) -> bool {
        self.0.iter().any(|(known, bore, present, _)| bore == name && (*known != slot || !present))
    }

    /// Where the parts of the key, now in these slots, stood before, from 1 on. None: the order is as it was, or the key is another one.
    pub fn order_of_key(&self, slots: &[i64]) -> Option<Vec<usize>> {
        let mut parts: Vec<(i64, i64)> = self
            .0
            .iter()
            .filter(|(.., present, part)| *present && *part > 0)
            .map(|(slot, .., part)| (*part, *slot))
            .collect();
        parts.sort_unstable();
        let order: Option<Vec<usize>> =
            slots.iter().map(|slot| parts.iter().position(|(_, was)| was == slot).map(|at| at + 1)).collect();
        order.filter(|order| parts.len() == slots.len() && !order.is_sorted())
    }
}

/// What names rows by their keys follows the key's order, which a program has changed by making the table anew: what is in the log, and
/// what waits.
pub fn follow_key_order(db: &Connection, table: &Table, table_no: i64, order: &[usize]) -> Result<()> {
    let sets = |prefix: &str| {
        let parts = order.iter().enumerate().map(|(at, from)| format!("{prefix}{} = {prefix}{from}", at + 1));
        parts.collect::<Vec<_>>().join(", ")
    };
    db.execute_batch(&format!("UPDATE main.fs_side_{table_no} SET {}, {}", sets("k"), sets("q")))?;
    for (rows, id) in [("fs_conflict", ", row_id = ?3"), ("fs_want", ""), ("fs_arrived", "")] {
        let mut keys = db.prepare(&format!(
            "SELECT DISTINCT row_key FROM main.{rows} WHERE table_name = ?1 AND row_key IS NOT NULL"
        ))?;
        let keys: Vec<Vec<u8>> = keys.query_map([&table.name], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        // First to keys that no row has, or one would be in the way of another.
        let mut moved = Vec::new();
        for before in keys {
            let key = in_order(conflicts::key_from_bytes(&before)?, order);
            let apart = [&b"moved "[..], &before].concat();
            db.execute(
                &format!("UPDATE main.{rows} SET row_key = ?3 WHERE table_name = ?1 AND row_key = ?2"),
                (&table.name, before, &apart),
            )?;
            moved.push((apart, key));
        }
        for (apart, key) in moved {
            let sql = format!(
                "UPDATE main.{rows} SET row_key = ?4{id} WHERE table_name = ?1 AND row_key = ?2 AND ?3 IS NOT NULL"
            );
            db.execute(&sql, (&table.name, apart, conflicts::row_id(db, &key)?, conflicts::key_to_bytes(&key)?))?;
        }
    }
    emptied::change_witnesses(db, table_no, |witness| in_order(witness, order))
}

fn in_order(key: Key, order: &[usize]) -> Key {
    Key(order.iter().filter_map(|from| key.0.get(from - 1).cloned()).collect())
}
