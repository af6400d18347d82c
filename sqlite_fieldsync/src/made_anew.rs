//! Tables that a program has made anew: no trigger stood for a while, so what was written meanwhile is nowhere in the log. It is found
//! by comparing the table with the hub's rows, all of them.
//!
//! Invariant: an old value never passes for an edit of this device's, and none that may be one goes without a record. So what the hub
//! has changed comes first, and what it replaces goes on record ([`crate::conflicts`]); whatever differs from then on is this device's.
//! Between that answer and the one with all rows the hub may have changed more. So the cursor stays where it is when all rows have come,
//! and whatever the next answer brings was changed meanwhile: it comes first, too, and is struck from what differs. That is offered then.
//!
//! `fs_table.rebuilt` says how far it has come: [`NEWS`], [`TO_ASK`], [`COMPARING`], [`LAST_NEWS`], [`BUT_KEPT`], or 0.

use crate::emptied;
use crate::error::Result;
use crate::log::Position;
use crate::sql;
use crate::state;
use fieldsync_core::Hlc;
use rusqlite::Connection;
use std::collections::HashSet;

/// What the hub has changed meanwhile has not come yet.
const NEWS: i64 = 1;
/// It has come; all rows are to be asked for.
const TO_ASK: i64 = 2;
/// They are asked for, and compared as they come.
const COMPARING: i64 = 3;
/// They have come. What the hub has changed since the news came is to come once more; then what differs is offered.
const LAST_NEWS: i64 = 5;
/// They are compared, but for values that are kept for want of their column. It may have another name here.
const BUT_KEPT: i64 = 4;

/// Whether a table has all of the hub's rows, as a condition: it was not made anew, or [`BUT_KEPT`].
pub const IS_COMPLETE: &str = "rebuilt IN (0, 4)";

/// Why a table may hold, or have lost, what no trigger has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A program has made it anew, or has dropped its triggers.
    MadeAnew,
    /// It has a unique index that its triggers did not know.
    UniqueIndex,
}

impl Why {
    fn words(self) -> &'static str {
        match self {
            Why::MadeAnew => "was made anew by a program; what was written to it meanwhile",
            Why::UniqueIndex => "has a new unique index; what was replaced by way of it meanwhile",
        }
    }
}

/// A table is to be compared with the hub's. `after`: where its log ended before.
pub fn begin(db: &Connection, table_no: i64, name: &str, why: Why, after: i64) -> Result<()> {
    state::note(db, &format!("table '{name}' {} is found when the hub's rows have come", why.words()))?;
    if why == Why::MadeAnew && emptied::begin(db, table_no, after)? {
        state::note(
            db,
            &format!(
                "table '{name}' was emptied by that; records made in it since travel when the hub's rows have come"
            ),
        )?;
    }
    start(db, table_no)?;
    if state::integer(db, "repull_sequence")? > 0 {
        // All rows are under way. None of them would be news, and each would go over what was written unseen: asked for once more.
        state::set_integer(db, "repull_sequence", 0)?;
        state::set_integer(db, "unheard_until", state::integer(db, "sequence")?)?;
    }
    Ok(())
}

fn start(db: &Connection, table_no: i64) -> Result<()> {
    db.execute("UPDATE main.fs_table SET rebuilt = ?2 WHERE table_no = ?1", [table_no, NEWS])?;
    emptied::compare_again(db, table_no)
}

/// A table has another schema or name, so that what differed is no more told by columns, or was not tracked for a while: it is compared
/// once more.
pub fn start_again(db: &Connection, table_no: i64) -> Result<()> {
    let compared: bool = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM main.fs_table WHERE table_no = ?1 AND rebuilt = ?2)")?
        .query_row([table_no, LAST_NEWS], |row| row.get(0))?;
    if compared {
        start(db, table_no)?;
    }
    Ok(())
}

/// A table is tracked again. If all rows came meanwhile, they were not compared: they are asked for once more, unless they are under way.
pub fn go_on(db: &Connection, table_no: i64) -> Result<()> {
    start_again(db, table_no)?;
    let marked = db.execute(
        "UPDATE main.fs_table SET rebuilt = ?2 WHERE table_no = ?1 AND rebuilt IN (?2, ?3)",
        [table_no, COMPARING, TO_ASK],
    )?;
    match marked {
        0 => Ok(()),
        _ => state::pull_again(db),
    }
}

/// Whether what arrives for a table goes over what may have been written there unseen.
pub fn is_unseen(db: &Connection, table: &str, reconciling: bool) -> Result<bool> {
    Ok(db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM main.fs_table WHERE name = ?1 AND (rebuilt IN (?2, ?3) OR rebuilt IN (?4, ?5) AND NOT ?6))",
        )?
        .query_row((table, NEWS, LAST_NEWS, TO_ASK, COMPARING, reconciling), |row| row.get(0))?)
}

/// Whether any table waits for what the hub has changed; for one that is tracked no more it does not come.
pub fn any_waits_for_news(db: &Connection) -> Result<bool> {
    let mut any = db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM main.fs_table WHERE state = 'tracked' AND rebuilt IN (?1, ?2))",
    )?;
    Ok(any.query_row([NEWS, LAST_NEWS], |row| row.get(0))?)
}

/// Tables (lower case) whose rows have all come, and which wait for what the hub has changed since.
pub fn with_last_news_to_come(db: &Connection) -> Result<HashSet<String>> {
    let mut names = db.prepare_cached("SELECT name FROM main.fs_table WHERE state = 'tracked' AND rebuilt = ?1")?;
    let names = names.query_map([LAST_NEWS], |row| sql::folded(row, 0))?;
    Ok(names.collect::<rusqlite::Result<_>>()?)
}

/// All rows have come, up to a cursor that this database does not take over. `answered`: what is logged from there on is none of what
/// no trigger saw.
pub fn all_rows_have_come(db: &Connection, answered: Position) -> Result<()> {
    move_on(db, COMPARING, LAST_NEWS)?;
    state::set_integer(db, "compared_clock", answered.clock.as_i64())?;
    state::set_integer(db, "compared_place", answered.place)?;
    // In answer to exports made until now all rows would come again, and pass for news.
    state::set_integer(db, "unheard_until", state::integer(db, "sequence")?)
}

/// Where the log begins that [`all_rows_have_come`] names, as long as it is needed.
pub fn compared_from(db: &Connection) -> Result<Option<Position>> {
    if with_last_news_to_come(db)?.is_empty() {
        return Ok(None);
    }
    let clock = Hlc::from_i64(state::integer(db, "compared_clock")?);
    Ok(Some(Position { place: state::integer(db, "compared_place")?, clock }))
}

/// What the hub had changed has come: all of its rows are to be asked for.
pub fn news_have_come(db: &Connection) -> Result<()> {
    if move_on(db, NEWS, TO_ASK)? > 0 {
        state::pull_again(db)?;
    }
    Ok(())
}

/// An export has asked for all rows.
pub fn asked(db: &Connection) -> Result<()> {
    move_on(db, TO_ASK, COMPARING)?;
    Ok(())
}

/// For a table that is tracked no more nothing comes: it stays where it is.
fn move_on(db: &Connection, from: i64, to: i64) -> Result<usize> {
    Ok(db.execute("UPDATE main.fs_table SET rebuilt = ?2 WHERE rebuilt = ?1 AND state = 'tracked'", [from, to])?)
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
    done(db, "state = 'tracked' AND (rebuilt IN (?2, ?3) OR ?1)", (all, COMPARING, LAST_NEWS))
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
    emptied::end(db)
}
