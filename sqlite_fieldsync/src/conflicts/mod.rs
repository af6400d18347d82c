//! Conflicts and rejections on the device, and rows that stepped aside for the hub's.
//!
//! Invariant: nothing that a person entered is ever only in a log. A rejected change stays in its row ([`parked`]), a row that had to
//! make room is here whole ([`aside`]), and both can be brought back.

mod aside;
mod parked;

pub use aside::{
    aside, beside_the_hubs, came_back, keep_deleted, kept_from_bytes, key_has_gone_to_another, keys_of_made_and_aside,
    row_that_stepped_aside, step_aside, KeptRow,
};
pub use parked::{first_parked, offer_parked_again, parked, Parked, ParkedRow, Pinned};

use crate::error::{Error, Result};
use crate::schema::{Affinity, Table};
use crate::state;
use fieldsync_core::inspect::fields_to_json;
use fieldsync_core::reply::{ConflictNotice, RowChange, TableRows};
use fieldsync_core::value::hex;
use fieldsync_core::{Key, Value};
use rusqlite::Connection;
use serde_json::Value as Json;
use std::collections::{HashMap, HashSet};

const UUID_BYTES: usize = 16;

/// A key in the form in which `fs_*` tables hold it.
pub fn key_to_bytes(key: &Key) -> Result<Vec<u8>> {
    postcard::to_allocvec(key).map_err(|error| Error::OwnData(error.to_string()))
}

/// A key from the form in which `fs_*` tables hold it.
pub fn key_from_bytes(bytes: &[u8]) -> Result<Key> {
    postcard::from_bytes(bytes).map_err(|error| Error::OwnData(error.to_string()))
}

/// What an entry calls a row. How it spells reals is noted for the views, which cannot find it by themselves: not every SQLite rounds the
/// seventeenth digit right.
pub fn row_id(db: &Connection, key: &Key) -> Result<String> {
    for part in key.0.iter().filter(|part| matches!(part, Value::Real(number) if number.is_finite())) {
        state::set(db, &format!("real {}", part.to_text()), part)?;
    }
    Ok(key.row_id())
}

/// Rows whose key has a NULL in it: said once per table.
pub fn unnamed_rows(db: &Connection, table: &str) -> Result<()> {
    let known: bool = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM main.fs_conflict WHERE table_name = ?1 AND rule = 'NULL key' AND status = 'open')")?
        .query_row([table], |row| row.get(0))?;
    if !known {
        db.execute(
            "INSERT INTO main.fs_conflict(table_name, row_id, operation, rule, outcome, status, detail)
             VALUES (?1, '', 'insert', 'NULL key', 'rejected', 'open',
                     'rows of this table have no value in their primary key; they stay on this device until they get one')",
            [table],
        )?;
    }
    Ok(())
}

/// A record that was made here and refused, under a key of which the hub has another one: the table shows that one.
const IS_BESIDE_THE_HUBS: &str = "(operation = 'insert' AND ifnull(theirs, '{}') NOT IN ('', '{}'))";

/// A field by name, what this device has or had in it, and what the hub has; none: the row is gone there.
pub type Replaced = (String, Value, Option<Value>);

/// Why nobody can say whether what one side replaces was written after it.
#[derive(Debug, Clone, Copy)]
pub enum Unseen {
    /// A program had made the table anew, and the hub has changed the row.
    MadeAnew,
    /// A program had made the table anew, and this device's row replaces the hub's.
    MadeAnewHere,
    /// The hub has lost history, and knows of a deletion before.
    LostHistory,
}

impl Unseen {
    /// Rule, outcome and detail of the entry.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Unseen::MadeAnewHere => (
                "made anew",
                "client",
                "a program had made the table anew: what was found in it goes to the hub, be it an edit of the hub's record or another one",
            ),
            Unseen::MadeAnew => (
                "made anew",
                "server",
                "a program had made the table anew, so that nobody saw whether this was written there or only old",
            ),
            Unseen::LostHistory => (
                "lost history",
                "server",
                "the hub was restored and knows that this row was deleted once, but not whether it was made again since",
            ),
        }
    }
}

/// Records what one side has replaced, or the hub's deleted, though it may be the later one. It is settled; whoever knows better takes it
/// back.
pub fn replaced_unseen(db: &Connection, table: &str, key: &Key, fields: &[Replaced], why: Unseen) -> Result<()> {
    let mine = fields_to_json(fields.iter().map(|(name, before, _)| (name.as_str(), before)));
    let theirs = fields_to_json(fields.iter().filter_map(|(name, _, now)| Some((name.as_str(), now.as_ref()?))));
    let (rule, outcome, detail) = why.words();
    db.prepare_cached(
        "INSERT INTO main.fs_conflict(table_name, row_id, row_key, operation, mine, theirs, rule, outcome, status, detail, resolved_at)
         VALUES (?1, ?2, ?3, 'update', ?4, ?5, ?6, ?7, 'resolved', ?8, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
    )?
    .execute((table, row_id(db, key)?, key_to_bytes(key)?, mine.to_string(), theirs.to_string(), rule, outcome, detail))?;
    Ok(())
}

/// Whether anything is recorded at all: only then a row has to be looked up.
pub fn any(db: &Connection) -> Result<bool> {
    Ok(db.prepare_cached("SELECT EXISTS (SELECT 1 FROM main.fs_conflict)")?.query_row([], |row| row.get(0))?)
}

/// Closes what was said of rows of the hub that a rule of this database refused, and that it does not refuse any more.
pub fn close_taken(db: &Connection) -> Result<()> {
    db.prepare_cached(
        "UPDATE main.fs_conflict SET status = 'resolved', resolved_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
         WHERE status = 'open' AND outcome = 'refused_here' AND NOT EXISTS
           (SELECT 1 FROM main.fs_later l WHERE l.table_name = fs_conflict.table_name AND l.row_id = fs_conflict.row_id
            AND l.waits_for = 'rows')",
    )?
    .execute([])?;
    Ok(())
}

/// Asks the hub for a row, whole, with the next export.
pub fn ask_for(db: &Connection, table: &str, key: &Key) -> Result<()> {
    db.prepare_cached("INSERT OR IGNORE INTO main.fs_want(table_name, row_key) VALUES (?1, ?2)")?
        .execute((table, key_to_bytes(key)?))?;
    Ok(())
}

/// Whether a table has a row of this key; none where the table, or its key, is not what it was.
pub fn is_in_its_table(db: &Connection, table: &str, key: &Key) -> Result<Option<bool>> {
    match Table::read(db, table)? {
        Some(table) => table.has(db, key),
        None => Ok(None),
    }
}

/// Columns of a table got other names (`names`: from lower-case ones): what is recorded of their values goes with them. By name what was
/// refused stays as it was entered, and by name a row that is aside comes back.
pub fn rename_columns(db: &Connection, table: &str, names: &HashMap<String, String>) -> Result<()> {
    let mut statement =
        db.prepare("SELECT conflict_id, base, mine, theirs, kept FROM main.fs_conflict WHERE table_name = ?1")?;
    let mut rows = statement.query([table])?;
    let mut update =
        db.prepare("UPDATE main.fs_conflict SET base = ?2, mine = ?3, theirs = ?4, kept = ?5 WHERE conflict_id = ?1")?;
    while let Some(row) = rows.next()? {
        let renamed = |text: Option<String>| text.map(|text| with_fields_renamed(&text, names));
        let kept = match row.get::<_, Option<Vec<u8>>>(4)? {
            Some(kept) => Some(aside::with_columns_renamed(&kept, names)?),
            None => None,
        };
        update.execute((
            row.get::<_, i64>(0)?,
            renamed(row.get(1)?),
            renamed(row.get(2)?),
            renamed(row.get(3)?),
            kept,
        ))?;
    }
    Ok(())
}

/// One side of a conflict, JSON, with its fields' present names.
fn with_fields_renamed(text: &str, names: &HashMap<String, String>) -> String {
    let Ok(Json::Object(fields)) = serde_json::from_str(text) else { return text.to_owned() };
    let name = |name: String| names.get(&name.to_ascii_lowercase()).cloned().unwrap_or(name);
    Json::Object(fields.into_iter().map(|(field, value)| (name(field), value)).collect()).to_string()
}

/// Drops rejected inserts whose rows somebody has deleted since: there is nothing left to decide. The hub is told.
pub fn drop_deleted(db: &Connection) -> Result<()> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT conflict_id, table_name, row_key FROM main.fs_conflict
         WHERE status = 'open' AND outcome = 'rejected' AND operation = 'insert' AND kept IS NULL AND row_key IS NOT NULL
           AND NOT {IS_BESIDE_THE_HUBS}"
    ))?;
    let found: Vec<(i64, String, Vec<u8>)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<rusqlite::Result<_>>()?;
    for (id, name, key) in found {
        if is_in_its_table(db, &name, &key_from_bytes(&key)?)? == Some(false) {
            db.execute(
                "UPDATE main.fs_conflict SET status = 'resolved', choice = 'theirs', told = 0,
                        resolved_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE conflict_id = ?1",
                [id],
            )?;
        }
    }
    Ok(())
}

/// A key as this database's own columns hold it: the hub writes a uuid as sixteen bytes, and may hold numbers where this database
/// holds text.
pub fn own_form(db: &Connection, table: &Table, key: &mut Key) -> Result<()> {
    for (part, column) in key.0.iter_mut().zip(table.key()) {
        match (&*part, column.affinity()) {
            (Value::Blob(bytes), Affinity::Text) if bytes.len() == UUID_BYTES => *part = Value::Text(uuid_text(bytes)),
            _ => {
                if let Some(stored) = column.stored(db, part)? {
                    *part = stored;
                }
            }
        }
    }
    Ok(())
}

/// A uuid as text: lower case, with dashes.
pub fn uuid_text(bytes: &[u8]) -> String {
    let text = hex(bytes);
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, text.len())];
    parts.map(|(from, to)| text.get(from..to).unwrap_or_default()).join("-")
}

/// A copy takes over what was rejected for its original: the hub's entries are the original's, and nobody will tell the copy
/// what becomes of them.
pub fn inherit(db: &Connection) -> Result<()> {
    db.execute(
        "UPDATE main.fs_conflict SET hub_id = NULL WHERE status = 'open' AND outcome = 'rejected' AND hub_id IS NOT NULL",
        [],
    )?;
    Ok(())
}

/// What a copy has taken over and the hub has no entry for.
const INHERITED: &str = "status = 'open' AND outcome = 'rejected' AND hub_id IS NULL AND row_key IS NOT NULL";

/// Whether there is any such entry.
pub fn has_inherited(db: &Connection) -> Result<bool> {
    Ok(db
        .prepare_cached(&format!("SELECT EXISTS (SELECT 1 FROM main.fs_conflict WHERE {INHERITED})"))?
        .query_row([], |row| row.get(0))?)
}

/// The hub has answered a later change of the row, which took the rejected one along, and has said nothing against it. It did not take
/// along a row that is aside: that change was another record's.
pub fn close_inherited(db: &Connection, table: &str, key: &Key) -> Result<()> {
    db.prepare_cached(&format!(
        "UPDATE main.fs_conflict SET status = 'resolved', resolved_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
         WHERE table_name = ?1 AND row_id = ?2 AND kept IS NULL AND {INHERITED}"
    ))?
    .execute((table, key.row_id()))?;
    Ok(())
}

/// Records what the hub says of a conflict or a rejection, in its latest state.
pub fn record(db: &Connection, notice: &ConflictNotice, span: Option<(i64, i64)>) -> Result<()> {
    let row_id = row_id(db, &notice.key)?;
    let resolved = notice.status == "resolved";
    // A row that made room before the hub had judged it, and what was rejected for the original of this copy, has a record of this
    // device's own: the hub's takes it over. Of several under one key the hub speaks of the first; what it has spoken of before is
    // not among them (see `key_has_gone_to_another`).
    db.prepare_cached(&format!(
        "UPDATE main.fs_conflict SET hub_id = ?1 WHERE conflict_id =
           (SELECT min(conflict_id) FROM main.fs_conflict WHERE hub_id IS NULL AND table_name = ?2 AND row_id = ?3
            AND status = 'open' AND (outcome = 'in_the_way' AND NOT {IS_BESIDE_THE_HUBS} OR (outcome = 'rejected' AND kept IS NULL))
            AND row_key IS NOT NULL)
         AND NOT EXISTS (SELECT 1 FROM main.fs_conflict WHERE hub_id = ?1)",
    ))?
    .execute((notice.conflict_id as i64, &notice.table, &row_id))?;
    db.prepare_cached(
        "INSERT INTO main.fs_conflict(hub_id, table_name, row_id, row_key, operation, base, mine, theirs, rule, outcome, status,
                                      detail, first_clock, last_clock, resolved_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,
                 CASE WHEN ?11 = 'resolved' THEN strftime('%Y-%m-%dT%H:%M:%fZ', 'now') END)
         ON CONFLICT(hub_id) DO UPDATE SET
           operation = excluded.operation, base = excluded.base, mine = coalesce(excluded.mine, mine),
           theirs = excluded.theirs, rule = excluded.rule, outcome = excluded.outcome, status = excluded.status,
           detail = excluded.detail,
           first_clock = CASE WHEN excluded.status = 'resolved' THEN NULL ELSE coalesce(first_clock, excluded.first_clock) END,
           last_clock = coalesce(excluded.last_clock, last_clock),
           kept = CASE WHEN excluded.status = 'resolved' THEN NULL ELSE kept END,
           resolved_at = coalesce(resolved_at, excluded.resolved_at)",
    )?
    .execute(rusqlite::params![
        notice.conflict_id as i64,
        notice.table,
        row_id,
        key_to_bytes(&notice.key)?,
        notice.operation,
        text_or_null(&notice.base),
        text_or_null(&notice.mine),
        text_or_null(&notice.theirs),
        notice.rule,
        notice.outcome,
        if resolved { "resolved" } else { "open" },
        notice.detail,
        span.map(|(first, _)| first),
        span.map(|(_, last)| last),
    ])?;
    Ok(())
}

/// The hub was restored: the numbers that it has given for changes logged after a place (`last` for a change whose place is not known)
/// will be given again, for others.
pub fn forget_numbers(db: &Connection, after: i64, last: i64) -> Result<()> {
    let mut statement = db.prepare(
        "SELECT conflict_id FROM main.fs_conflict WHERE hub_id IS NOT NULL AND coalesce(last_clock, ?1) > ?2",
    )?;
    let forgotten: Vec<i64> = statement.query_map([last, after], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    forgotten.into_iter().try_for_each(|id| forget(db, id, "the hub was restored; the change is offered again"))
}

/// After a complete answer of a new history, which names all that waits for a person: what it did not name (`named`, by the hub's
/// numbers), this history knows nothing of.
pub fn close_unknown(db: &Connection, named: &HashSet<u64>) -> Result<()> {
    let mut statement =
        db.prepare("SELECT conflict_id, hub_id FROM main.fs_conflict WHERE status = 'open' AND hub_id IS NOT NULL")?;
    let open: Vec<(i64, i64)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let unknown = open.iter().filter(|(_, hub_id)| !named.contains(&(*hub_id as u64)));
    let why = "the hub was restored and has no record of it; what is here is offered again";
    unknown.into_iter().try_for_each(|(id, _)| forget(db, *id, why))
}

/// The hub knows nothing of a conflict any more. A row that is aside waits on, as if the hub had never judged it.
fn forget(db: &Connection, id: i64, why: &str) -> Result<()> {
    db.prepare_cached(
        "UPDATE main.fs_conflict SET hub_id = NULL, outcome = 'in_the_way', first_clock = NULL
         WHERE conflict_id = ?1 AND kept IS NOT NULL AND status = 'open'",
    )?
    .execute([id])?;
    db.prepare_cached(
        "UPDATE main.fs_conflict SET hub_id = NULL, status = 'resolved', detail = detail || ' (' || ?2 || ')',
                resolved_at = coalesce(resolved_at, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
         WHERE conflict_id = ?1 AND hub_id IS NOT NULL",
    )?
    .execute((id, why))?;
    Ok(())
}

fn text_or_null(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// How many wait for a person.
pub fn open_count(db: &Connection) -> Result<i64> {
    if !state::is_initialised(db)? {
        return Ok(0);
    }
    Ok(db.query_row("SELECT count(*) FROM main.fs_conflict WHERE status = 'open'", [], |row| row.get(0))?)
}

/// The hub has a row under the key of a record that was made here and refused: the table shows the hub's from now on, and the record is
/// in its entry alone, beside it.
pub fn hub_has_its_key(db: &Connection, table: &TableRows, key: &Key, row: &RowChange) -> Result<()> {
    db.prepare_cached(
        "UPDATE main.fs_conflict SET theirs = ?3 WHERE table_name = ?1 AND row_id = ?2 AND operation = 'insert'
           AND status = 'open' AND outcome = 'rejected' AND kept IS NULL",
    )?
    .execute((&table.table, key.row_id(), by_name(table, row).to_string()))?;
    Ok(())
}

/// The fields of a row of the hub, by name.
fn by_name(table: &TableRows, row: &RowChange) -> Json {
    let fields = row.fields.iter();
    fields_to_json(fields.filter_map(|(at, value)| Some((table.columns.get(usize::from(*at))?.as_str(), value))))
}

/// A row of the hub that this device's own constraints refuse: it is kept, and a person can see why.
pub fn refused_here(db: &Connection, table: &TableRows, row: &RowChange, reason: &str) -> Result<()> {
    let row_id = row_id(db, &row.key)?;
    let known: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM main.fs_conflict WHERE table_name = ?1 AND row_id = ?2 AND outcome = 'refused_here'
             AND status = 'open')",
        )?
        .query_row([&table.table, &row_id], |row| row.get(0))?;
    if known {
        return Ok(());
    }
    let theirs = by_name(table, row);
    db.execute(
        "INSERT INTO main.fs_conflict(table_name, row_id, row_key, operation, theirs, rule, outcome, status, detail)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'refused_here', 'open', 'the hub has this row, and a rule of this database refuses it; it is kept and tried again')",
        (&table.table, &row_id, key_to_bytes(&row.key)?, row.op.word(), theirs.to_string(), reason),
    )?;
    Ok(())
}
