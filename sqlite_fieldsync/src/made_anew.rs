//! Tables that a program has made anew: no trigger stood for a while, so what was written meanwhile is nowhere in the log. It is found
//! by comparing the table with the hub's rows, all of them.
//!
//! Invariant: an old value never passes for an edit of this device's, and none that may be one goes without a record. So what the hub
//! has changed comes first, and what it replaces goes on record ([`crate::conflicts`]); whatever differs from then on is this device's.
//!
//! `fs_table.rebuilt` says how far it has come: [`NEWS`], [`TO_ASK`], [`COMPARING`], [`BUT_KEPT`], or 0.

use crate::error::Result;
use crate::sql;
use crate::state;
use rusqlite::Connection;
use std::collections::HashSet;

/// What the hub has changed meanwhile has not come yet.
const NEWS: i64 = 1;
/// It has come; all rows are to be asked for.
const TO_ASK: i64 = 2;
/// They are asked for, and compared as they come.
const COMPARING: i64 = 3;
/// They are compared, but for values that are kept for want of their column. It may have another name here.
const BUT_KEPT: i64 = 4;

/// A table was made anew, or may have lost rows by way of what no trigger knew; `why` in words.
pub fn begin(db: &Connection, table_no: i64, name: &str, why: &str) -> Result<()> {
    state::note(db, &format!("table '{name}' {why} is found when the hub's rows have come"))?;
    db.execute("UPDATE main.fs_table SET rebuilt = ?2 WHERE table_no = ?1", [table_no, NEWS])?;
    if state::integer(db, "repull_sequence")? > 0 {
        // All rows are under way. None of them would be news, and each would go over what was written unseen: asked for once more.
        state::set_integer(db, "repull_sequence", 0)?;
        state::set_integer(db, "unheard_until", state::integer(db, "sequence")?)?;
    }
    Ok(())
}

/// Whether what arrives for a table may go over what was written there unseen.
pub fn waits_for_news(db: &Connection, table: &str) -> Result<bool> {
    Ok(db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM main.fs_table WHERE name = ?1 AND rebuilt = ?2)")?
        .query_row((table, NEWS), |row| row.get(0))?)
}

/// Whether any table does.
pub fn any_waits_for_news(db: &Connection) -> Result<bool> {
    let mut any = db.prepare_cached("SELECT EXISTS (SELECT 1 FROM main.fs_table WHERE rebuilt = ?1)")?;
    Ok(any.query_row([NEWS], |row| row.get(0))?)
}

/// What the hub had changed has come: all of its rows are to be asked for.
pub fn news_have_come(db: &Connection) -> Result<()> {
    if db.execute("UPDATE main.fs_table SET rebuilt = ?2 WHERE rebuilt = ?1", [NEWS, TO_ASK])? > 0 {
        state::pull_again(db)?;
    }
    Ok(())
}

/// An export has asked for all rows.
pub fn asked(db: &Connection) -> Result<()> {
    db.execute("UPDATE main.fs_table SET rebuilt = ?2 WHERE rebuilt = ?1", [TO_ASK, COMPARING])?;
    Ok(())
}

/// Tables (lower case) whose rows are compared with the hub's as they come, not overwritten: these, once all rows have been asked
/// for (`repulled`), or `all` tables.
pub fn comparing(db: &Connection, repulled: bool, all: bool) -> Result<HashSet<String>> {
    let mut names =
        db.prepare_cached("SELECT name FROM main.fs_table WHERE state = 'tracked' AND (?1 OR (?2 AND rebuilt = ?3))")?;
    let names = names.query_map((all, repulled, COMPARING), |row| sql::folded(row, 0))?;
    Ok(names.collect::<rusqlite::Result<_>>()?)
}

/// All rows of these tables, or of `all`, have been compared.
pub fn compared(db: &Connection, all: bool) -> Result<()> {
    done(db, "rebuilt = ?2 OR ?1", (all, COMPARING))
}

/// Writes values of a table that were kept. What they replace goes on record if they were kept when all was compared.
pub fn with_kept(db: &Connection, table: &str, write: impl FnOnce() -> Result<()>) -> Result<()> {
    let marked =
        db.execute("UPDATE main.fs_table SET rebuilt = ?2 WHERE name = ?1 AND rebuilt = ?3", (table, NEWS, BUT_KEPT))?;
    write()?;
    if marked == 0 {
        return Ok(());
    }
    done(db, "name = ?1", [table])
}

/// Nothing is left to compare, but for what is kept.
fn done(db: &Connection, which: &str, params: impl rusqlite::Params) -> Result<()> {
    db.execute(
        &format!(
            "UPDATE main.fs_table SET rebuilt = CASE WHEN EXISTS (SELECT 1 FROM main.fs_later l
                    WHERE l.table_name = fs_table.name COLLATE NOCASE AND l.waits_for = 'schema') THEN {BUT_KEPT} ELSE 0 END
             WHERE {which}"
        ),
        params,
    )?;
    Ok(())
}
