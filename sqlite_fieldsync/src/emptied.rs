//! Tables that a program has dropped and made again, empty, and the records that are made in them before the hub's rows are back.
//!
//! Invariant: such a record is never taken for the hub's of the same integer key, nor what is written to it for an edit of that one, be it
//! logged or not. So nothing of it travels until all of the hub's rows have come ([`strike`]): then it is offered whole, as what no trigger
//! saw in a table that was made anew ([`crate::made_anew`]), or it is beside the hub's record and a person decides
//! ([`crate::conflicts::beside_the_hubs`]). Rows that have arrived since (`fs_arrived`) are the hub's, and what is written to them is logged
//! and travels as ever.
//!
//! That a table was emptied, and not copied into its new form, its *witnesses* tell: the rows with the greatest keys at the last sync, the
//! upper half of a small table. All of them are gone, and not everyone was deleted. In doubt the table was copied: new records count from 1,
//! and may have come that far before anybody looked.

use crate::conflicts::{is_in_its_table, key_from_bytes, key_to_bytes};
use crate::error::{Error, Result};
use crate::log::{self, LogTable, Scan};
use crate::made_anew::IS_COMPLETE;
use crate::schema::Table;
use crate::state::{self, Standing};
use fieldsync_core::delta::Op;
use fieldsync_core::{Key, Value};
use rusqlite::Connection;
use std::collections::{HashMap, HashSet};

/// Whether two records of this key may be two: see `on_same_key`.
pub fn is_integer(key: &Key) -> bool {
    !key.0.is_empty() && key.0.iter().all(|part| matches!(part, Value::Int(_)))
}

/// Rows that are looked at for witnesses: the greater half of them.
const LOOKED_AT: usize = 16;

/// Remembers the witnesses of all tables, but for those whose rows have yet to come.
pub fn remember_witnesses(db: &Connection, tables: &HashMap<i64, LogTable>) -> Result<()> {
    let mut complete =
        db.prepare_cached(&format!("SELECT table_no FROM main.fs_table WHERE state = 'tracked' AND {IS_COMPLETE}"))?;
    let complete = complete.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
    for table in complete.iter().filter_map(|table_no| tables.get(table_no)).filter(|table| table.key_len > 0) {
        let keys = greater_half(log::greatest_keys(db, table, LOOKED_AT)?);
        let witnesses = if keys.iter().all(is_integer) { keys } else { Vec::new() };
        if witnesses_of(db, table.table_no)? != witnesses {
            remember(db, table.table_no, &witnesses)?;
        }
    }
    Ok(())
}

fn greater_half(mut descending: Vec<Key>) -> Vec<Key> {
    descending.truncate(descending.len().min(LOOKED_AT).div_ceil(2));
    descending
}

fn remember(db: &Connection, table_no: i64, witnesses: &[Key]) -> Result<()> {
    let bytes = postcard::to_allocvec(witnesses).map_err(|error| Error::OwnData(error.to_string()))?;
    state::set(db, &format!("witnesses {table_no}"), &Value::Blob(bytes))
}

fn witnesses_of(db: &Connection, table_no: i64) -> Result<Vec<Key>> {
    match state::get(db, &format!("witnesses {table_no}"))? {
        Value::Blob(bytes) => postcard::from_bytes(&bytes).map_err(|error| Error::OwnData(error.to_string())),
        _ => Ok(Vec::new()),
    }
}

/// The keys of a table have another form.
pub fn change_witnesses(db: &Connection, table_no: i64, change: impl Fn(Key) -> Key) -> Result<()> {
    let witnesses: Vec<Key> = witnesses_of(db, table_no)?.into_iter().map(change).collect();
    if witnesses.is_empty() {
        return Ok(());
    }
    remember(db, table_no, &witnesses)
}

/// Whether a table that was made anew has lost its witnesses.
fn has_lost(db: &Connection, table_no: i64, witnesses: Vec<Key>) -> Result<bool> {
    let mut gone = witnesses;
    let tables = LogTable::all(db)?;
    let Some(table) = tables.get(&table_no) else { return Ok(false) };
    for witness in &gone {
        if is_in_its_table(db, &table.name, witness)? != Some(false) {
            return Ok(false);
        }
    }
    Scan::new(db, &tables).run(Standing::load(db)?.answered(), i64::MAX, |entry| {
        if entry.table.table_no == table_no {
            for logged in entry.logged()?.into_iter().flatten().filter(|logged| logged.op == Op::Delete) {
                gone.retain(|witness| *witness != logged.key);
            }
        }
        Ok(())
    })?;
    Ok(!gone.is_empty())
}

/// A table was made anew; gives whether it was emptied. Then what is logged of it after this place is struck until all rows have come.
pub fn begin(db: &Connection, table_no: i64, after: i64) -> Result<bool> {
    let is_the_first_time = !is_marked(db, table_no)?;
    let witnesses = match is_the_first_time {
        true => witnesses_of(db, table_no)?,
        // Nothing is left of those: what has arrived since bears witness.
        false => {
            let mut arrived: Vec<Key> = arrived(db, table_no)?.into_iter().filter(is_integer).collect();
            arrived.sort_unstable_by(|one, other| other.cmp(one));
            greater_half(arrived)
        }
    };
    let emptied = has_lost(db, table_no, witnesses)?;
    if emptied {
        // What is logged of rows that had arrived by now is about the hub's, and travels.
        strike(db)?;
        keep_former_keys(db, table_no)?;
        forget_arrived(db, table_no)?;
        state::set_integer(db, &format!("emptied {table_no}"), after)?;
    }
    Ok(emptied)
}

/// A table is gone, with its rows. Where a record had been given another key, unsent, only that its former key went would travel, and
/// the hub would delete it: it keeps the key by which the hub knows it. Not if it was deleted since.
pub fn keep_former_keys(db: &Connection, table_no: i64) -> Result<()> {
    let pending = log::read(db, &LogTable::all(db)?, Standing::load(db)?.answered())?;
    let mut entries = pending.iter().rev().filter(|entry| i64::from(entry.logged.table) == table_no).peekable();
    let mut deleted: HashSet<&Key> = HashSet::new();
    while let Some(entry) = entries.next() {
        // Backwards, so that a key change's new key comes before its former one.
        let former = entries.next_if(|former| former.place == entry.place);
        match (entry.logged.op, former) {
            (Op::Insert, Some(_)) if !deleted.remove(&entry.logged.key) => log::take_out(db, table_no, entry.place)?,
            (Op::Insert, Some(former)) => _ = deleted.insert(&former.logged.key),
            (Op::Insert, None) => _ = deleted.remove(&entry.logged.key),
            (Op::Delete, _) => _ = deleted.insert(&entry.logged.key),
            _ => {}
        }
    }
    Ok(())
}

fn is_marked(db: &Connection, table_no: i64) -> Result<bool> {
    Ok(state::get(db, &format!("emptied {table_no}"))? != Value::Null)
}

/// The rows of a table are to be compared from the start. What has arrived in one that was emptied is the hub's all the same.
pub fn compare_again(db: &Connection, table_no: i64) -> Result<()> {
    if !is_marked(db, table_no)? {
        return forget_arrived(db, table_no);
    }
    db.execute(
        &format!("UPDATE main.fs_arrived SET differing = NULL WHERE {OF_TABLE} AND differing <> x''"),
        [table_no],
    )?;
    Ok(())
}

/// The hub has lost history: all rows of all tables are to be compared. What had arrived in a table that was emptied is the hub's, be it
/// that the hub has it no more.
pub fn compare_after_lost_history(db: &Connection) -> Result<()> {
    db.execute(
        "DELETE FROM main.fs_arrived WHERE table_name NOT IN
           (SELECT t.name FROM main.fs_table t JOIN main.fs_state s ON s.name = 'emptied ' || t.table_no)",
        [],
    )?;
    db.execute("UPDATE main.fs_arrived SET differing = x''", [])?;
    Ok(())
}

const OF_TABLE: &str = "table_name = (SELECT name COLLATE NOCASE FROM main.fs_table WHERE table_no = ?1)";

fn forget_arrived(db: &Connection, table_no: i64) -> Result<()> {
    db.execute(&format!("DELETE FROM main.fs_arrived WHERE {OF_TABLE}"), [table_no])?;
    Ok(())
}

/// Whether a table was emptied, and its rows have yet to come.
pub fn is_emptied(db: &Connection, table: &str) -> Result<bool> {
    Ok(db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM main.fs_table t JOIN main.fs_state s ON s.name = 'emptied ' || t.table_no WHERE t.name = ?1)",
        )?
        .query_row([table], |row| row.get(0))?)
}

/// Whether a row of the hub has arrived since.
pub fn has_arrived(db: &Connection, table: &str, key: &Key) -> Result<bool> {
    Ok(db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM main.fs_arrived WHERE table_name = ?1 AND row_key = ?2)")?
        .query_row((table, key_to_bytes(key)?), |row| row.get(0))?)
}

/// The keys that have arrived.
fn arrived(db: &Connection, table_no: i64) -> Result<HashSet<Key>> {
    arrived_that(db, table_no, "1")
}

/// The keys that have arrived, but for what the hub had sent before it lost history.
pub fn arrived_of_late(db: &Connection, table_no: i64) -> Result<HashSet<Key>> {
    arrived_that(db, table_no, "differing IS NOT x''")
}

fn arrived_that(db: &Connection, table_no: i64, which: &str) -> Result<HashSet<Key>> {
    let mut arrived = HashSet::new();
    let mut statement = db.prepare(&format!("SELECT row_key FROM main.fs_arrived WHERE {OF_TABLE} AND {which}"))?;
    let mut rows = statement.query([table_no])?;
    while let Some(row) = rows.next()? {
        arrived.insert(key_from_bytes(&row.get::<_, Vec<u8>>(0)?)?);
    }
    Ok(arrived)
}

/// The tables that were emptied and wait for their rows, each with the place where its log ended before.
fn marked(db: &Connection) -> Result<Vec<(i64, i64)>> {
    let mut marked = db.prepare_cached(
        "SELECT CAST(substr(name, 9) AS INTEGER), value FROM main.fs_state WHERE name >= 'emptied ' AND name < 'emptied!'",
    )?;
    let marked = marked.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(marked.collect::<rusqlite::Result<_>>()?)
}

/// Rows that this device has written since the first of them may have been: table (lower case) and key.
pub fn written_since(db: &Connection) -> Result<HashSet<(String, Key)>> {
    let mut written = HashSet::new();
    let Some(noticed) = marked(db)?.into_iter().map(|(_, after)| after).min() else { return Ok(written) };
    // It was whole when this end last looked, which left a mark.
    let whole = "SELECT ifnull(max(clock), 0) FROM main.fs_log WHERE what = 0 AND clock <= ?1";
    let whole: i64 = db.query_row(whole, [noticed], |row| row.get(0))?;
    let tables = LogTable::all(db)?;
    Scan::new(db, &tables).run(log::before(db, whole + 1)?, i64::MAX, |entry| {
        for logged in entry.logged()?.into_iter().flatten() {
            written.insert((entry.table.name.to_ascii_lowercase(), logged.key));
        }
        Ok(())
    })?;
    Ok(written)
}

/// Takes back what is logged of records that were made in such a table.
pub fn strike(db: &Connection) -> Result<()> {
    let marked = marked(db)?;
    if marked.is_empty() {
        return Ok(());
    }
    let tables = LogTable::all(db)?;
    for (table_no, after) in marked {
        if !tables.contains_key(&table_no) {
            continue;
        }
        let arrived = arrived(db, table_no)?;
        let mut struck = Vec::new();
        Scan::new(db, &tables).run(log::before(db, after + 1)?, i64::MAX, |entry| {
            if entry.table.table_no == table_no {
                let is_own = |key: &Key| is_integer(key) && !arrived.contains(key);
                if entry.logged()?.iter().flatten().next().is_some_and(|first| is_own(&first.key)) {
                    struck.push(entry.position.place);
                }
            }
            Ok(())
        })?;
        for place in struck {
            log::take_out(db, table_no, place)?;
        }
    }
    Ok(())
}

/// How many records of a table that was emptied wait for the hub's rows, by its number: what was logged of them may be struck already.
pub fn waiting(db: &Connection) -> Result<HashMap<i64, i64>> {
    let mut waiting = HashMap::new();
    let marked = marked(db)?;
    if marked.is_empty() {
        return Ok(waiting);
    }
    let tables = LogTable::all(db)?;
    for (table_no, _) in marked {
        let Some(table) = tables.get(&table_no).filter(|table| table.live) else { continue };
        // It may have gone since, or have other columns, and nobody has looked yet.
        let Some(present) = Table::read_plain(db, &table.name)? else { continue };
        let has = |name: &str| present.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        if !table.columns[..table.key_len].iter().all(|part| has(&part.name)) {
            continue;
        }
        let arrived = arrived(db, table_no)?;
        log::each_key(db, table, |key| {
            *waiting.entry(table_no).or_default() += i64::from(is_integer(&key) && !arrived.contains(&key));
            Ok(())
        })?;
    }
    Ok(waiting)
}

/// A table goes on as another one.
pub fn give_up(db: &Connection, table_no: i64) -> Result<()> {
    forget_arrived(db, table_no)?;
    db.execute("DELETE FROM main.fs_state WHERE name = 'emptied ' || ?1", [table_no])?;
    Ok(())
}

/// Forgets about tables whose rows have come.
pub fn end(db: &Connection) -> Result<()> {
    db.execute(
        &format!(
            "DELETE FROM main.fs_state WHERE name >= 'emptied ' AND name < 'emptied!' AND NOT EXISTS
               (SELECT 1 FROM main.fs_table t WHERE t.table_no = CAST(substr(fs_state.name, 9) AS INTEGER) AND NOT {IS_COMPLETE})"
        ),
        [],
    )?;
    Ok(())
}
