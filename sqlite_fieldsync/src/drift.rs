//! What programs did to a tracked table since the triggers were made, as the schema itself tells it.

use crate::error::Result;
use crate::schema::{tokens, unquoted, Table};
use crate::state;
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
            found.insert(unquoted(name).to_lowercase(), slot);
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

/// Whether rows may have gone by way of a unique index that the triggers do not know: under OR REPLACE, by something that was written
/// since `mark`, when they were last looked at.
pub fn replaced_unseen(db: &Connection, known: Option<&str>, table: &Table, table_no: i64, mark: i64) -> Result<bool> {
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

/// Follows tables that were renamed; gives whether there are any. Their triggers went with them. A table under a name that another
/// was known by (that one is gone, or was renamed as well) is made anew, as far as the hub's table of that name goes.
pub fn follow_renames(db: &Connection) -> Result<bool> {
    let mut statement = db.prepare_cached(
        "SELECT t.table_no, t.name, m.tbl_name FROM main.fs_table t JOIN main.sqlite_master m
           ON m.type = 'trigger' AND m.name = 'fs_' || t.table_no || '_insert'
         WHERE t.state <> 'untracked' AND m.tbl_name <> t.name COLLATE NOCASE",
    )?;
    let renamed: Vec<(i64, String, String)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<rusqlite::Result<_>>()?;
    let name = |table_no: i64, to: &str, rebuilt: bool| -> Result<()> {
        // What waits for a person is about rows that stand under the new name.
        db.prepare_cached(
            "UPDATE main.fs_conflict SET table_name = ?2
             WHERE status = 'open' AND table_name = (SELECT name FROM main.fs_table WHERE table_no = ?1)",
        )?
        .execute((table_no, to))?;
        db.prepare_cached("UPDATE main.fs_table SET name = ?2, rebuilt = max(rebuilt, ?3) WHERE table_no = ?1")?
            .execute((table_no, to, rebuilt))?;
        Ok(())
    };
    let mut taken = Vec::new();
    for (_, _, to) in &renamed {
        let holder: Option<i64> = db
            .prepare_cached("SELECT table_no FROM main.fs_table WHERE name = ?1")?
            .query_row([to], |row| row.get(0))
            .optional()?;
        taken.push(holder.is_some());
        if let Some(table_no) = holder {
            name(table_no, &format!("{to} ({table_no})"), false)?;
        }
    }
    for ((table_no, from, to), taken) in renamed.iter().zip(taken) {
        state::note(db, &format!("table '{from}' was renamed to '{to}'; the hub still knows it by its old name"))?;
        name(*table_no, to, taken)?;
    }
    Ok(!renamed.is_empty())
}

/// The columns of a table as they were known: slot, name (lower case), and whether the table had it.
pub struct Before(Vec<(i64, String, bool)>);

impl Before {
    /// As they are known now.
    pub fn of(db: &Connection, table_no: i64) -> Result<Before> {
        let mut statement =
            db.prepare_cached("SELECT slot, name, position IS NOT NULL FROM main.fs_column WHERE table_no = ?1")?;
        let rows = statement.query_map([table_no], |row| {
            Ok((row.get(0)?, row.get::<_, String>(1)?.to_lowercase(), row.get(2)?))
        })?;
        Ok(Before(rows.collect::<rusqlite::Result<_>>()?))
    }

    /// Whether the table did not have the column, by whatever name.
    pub fn lacked(&self, slot: i64) -> bool {
        !self.0.iter().any(|(known, _, present)| *known == slot && *present)
    }

    /// Whether the column bears a name that another had, or that was gone: what the hub has under that name, and had sent, is
    /// not in it.
    pub fn is_another(&self, slot: i64, name: &str) -> bool {
        self.0.iter().any(|(known, bore, present)| bore == name && (*known != slot || !present))
    }
}
