//! `fs_track` and `fs_untrack`: starts and stops capture, and keeps it right when the application's schema changes.
//!
//! Invariant: after [`renew`] the triggers of every tracked table fit its present schema, and what was written since
//! the schema changed is in the log. It costs one PRAGMA while nothing has changed.

use crate::apply::kept;
use crate::call::{self, Function};
use crate::conflicts;
use crate::error::{Error, Result};
use crate::made_anew::{self, Why};
use crate::schema::{Affinity, Table};
use crate::sql::{atomically, quote, still_whole};
use crate::triggers::{what, Plan};
use crate::{apply, bases, drift, emptied, log, state, views};
use fieldsync_core::Value;
use rusqlite::Connection;
use serde_json::json;
use std::collections::{HashMap, HashSet};

pub(crate) fn register(db: &Connection) -> Result<()> {
    Function { name: "fs_track", arities: &[1, 2], writes: true, deterministic: false, body: fs_track }.register(db)?;
    Function { name: "fs_untrack", arities: &[1], writes: true, deterministic: false, body: fs_untrack }.register(db)
}

/// A tracked table as `fs_table` knows it.
#[derive(Debug, Clone)]
pub struct Tracked {
    /// Its number in the log.
    pub table_no: i64,
    /// Its name.
    pub name: String,
    /// tracked, untracked, missing.
    pub state: String,
    signature: Option<String>,
}

fn fs_track(db: &Connection, arguments: &[Value]) -> Result<Value> {
    let name = call::text(arguments, 0, "the table's name")?;
    let options = options(call::optional_text(arguments, 1, "options")?)?;
    atomically(db, || {
        state::Standing::load(db)?;
        renew(db)?;
        let Some(table) = Table::read(db, name)? else {
            return Err(Error::Untrackable {
                table: name.to_owned(),
                reason: "there is no such table in the main database".into(),
            });
        };
        table.check_trackable()?;
        let known = tracked(db)?.into_iter().find(|known| known.name.eq_ignore_ascii_case(&table.name));
        let mut captured = 0;
        if known.as_ref().is_none_or(|known| known.state != "tracked") {
            if let Some(known) = &known {
                apart_under_another_key(db, known.table_no, &table)?;
            }
            db.prepare_cached(
                "INSERT INTO main.fs_table(name, options) VALUES (?1, ?2)
                 ON CONFLICT(name) DO UPDATE SET name = excluded.name, state = 'tracked', options = excluded.options",
            )?
            .execute([&table.name, &options.to_string()])?;
            let table_no = number(db, &table.name)?;
            settle_in(db, &table, table_no)?;
            made_anew::go_on(db, table_no)?;
            if options["existing"] != "ignore" {
                let seen = kept::seen_before(db, &table.name, None)?;
                captured = unseen(db, seen, || capture_existing(db, &table, table_no, known.is_some()))?;
            }
            // What was deleted meanwhile, or went with the table, nobody has seen: it comes back, so that hub and device hold the same. Rows
            // that are to be ignored stay as they are: the hub's would go over what was written there, and that is nowhere else.
            if known.is_some() && (options["existing"] != "ignore" || is_empty(db, &table)?) {
                state::pull_again(db)?;
            }
            views::refresh(db)?;
            apply::deliver_kept(db, &table, &[])?;
        }
        settle(db)?;
        let mut report = json!({ "table": table.name, "captured": captured, "warnings": warnings(&table) });
        let notes = notes(db, &table)?;
        if !notes.is_empty() {
            report["notes"] = json!(notes);
        }
        Ok(Value::Text(report.to_string()))
    })
}

fn is_empty(db: &Connection, table: &Table) -> Result<bool> {
    Ok(db.query_row(&format!("SELECT NOT EXISTS (SELECT 1 FROM {})", table.qualified(db)?), [], |row| row.get(0))?)
}

fn fs_untrack(db: &Connection, arguments: &[Value]) -> Result<Value> {
    let name = call::text(arguments, 0, "the table's name")?;
    atomically(db, || {
        state::Standing::load(db)?;
        renew(db)?;
        let Some(known) = tracked(db)?.into_iter().find(|known| known.name.eq_ignore_ascii_case(name)) else {
            return Err(Error::Untrackable { table: name.to_owned(), reason: "it has never been tracked".into() });
        };
        drop_triggers(db, known.table_no)?;
        drop_scratch_tables(db, known.table_no)?;
        db.execute("UPDATE main.fs_table SET state = 'untracked', sql = NULL WHERE table_no = ?1", [known.table_no])?;
        settle(db)?;
        let pending: i64 = db.query_row(
            "SELECT count(*) FROM main.fs_log WHERE what >> 3 = ?1 AND clock > ?2",
            [known.table_no, state::integer(db, "watermark_place")?],
            |row| row.get(0),
        )?;
        Ok(Value::Text(json!({ "table": known.name, "pending": pending }).to_string()))
    })
}

fn options(text: Option<&str>) -> Result<serde_json::Value> {
    let options: serde_json::Value = match text {
        None => json!({}),
        Some(text) => {
            serde_json::from_str(text).map_err(|error| Error::argument(format!("options are not JSON: {error}")))?
        }
    };
    let Some(object) = options.as_object() else {
        return Err(Error::argument("options must be a JSON object, such as {\"existing\": \"ignore\"}"));
    };
    for (name, value) in object {
        match (name.as_str(), value.as_str()) {
            ("existing", Some("capture" | "ignore")) => {}
            ("existing", _) => return Err(Error::argument("option 'existing' must be \"capture\" or \"ignore\"")),
            _ => return Err(Error::argument(format!("there is no option '{name}'; known: existing"))),
        }
    }
    Ok(options)
}

/// All tables that fieldsync knows, whatever their state.
pub fn tracked(db: &Connection) -> Result<Vec<Tracked>> {
    let mut statement = db.prepare_cached("SELECT table_no, name, state, sql FROM main.fs_table ORDER BY table_no")?;
    let rows = statement.query_map([], |row| {
        Ok(Tracked { table_no: row.get(0)?, name: row.get(1)?, state: row.get(2)?, signature: row.get(3)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn number(db: &Connection, name: &str) -> Result<i64> {
    Ok(db.query_row("SELECT table_no FROM main.fs_table WHERE name = ?1", [name], |row| row.get(0))?)
}

/// The columns of a table as the log numbers them.
#[derive(Debug, Default)]
pub struct Slots {
    /// Slot by lower-case name, of the columns that the table has now.
    by_name: HashMap<String, i64>,
}

impl Slots {
    /// The column's number.
    pub fn slot(&self, column: &str) -> i64 {
        self.by_name.get(&column.to_ascii_lowercase()).copied().unwrap_or(-1)
    }

    /// Whether the table has the column with this number.
    pub fn has(&self, slot: i64) -> bool {
        self.by_name.values().any(|known| *known == slot)
    }
}

/// Brings `fs_column` in line with the table and gives every column its slot, the same as ever for a known one.
fn remember(db: &Connection, table: &Table, table_no: i64) -> Result<Slots> {
    let mut slots = Slots::default();
    let mut renamed = HashMap::new();
    let mut highest = -1;
    let mut known: Vec<(i64, String)> = Vec::new();
    // Where a name was borne by several, the one that was there last.
    let mut statement = db.prepare_cached(
        "SELECT slot, name FROM main.fs_column WHERE table_no = ?1 ORDER BY position IS NULL, slot DESC",
    )?;
    let mut rows = statement.query([table_no])?;
    while let Some(row) = rows.next()? {
        known.push((row.get(0)?, row.get(1)?));
        highest = highest.max(row.get::<_, i64>(0)?);
    }
    // Where the triggers stand, they tell: RENAME COLUMN rewrites them, DROP COLUMN refuses while they name the column. A name in them
    // is the column's now, whoever bore it before. Without them a name is all there is.
    let told = drift::slots_by_trigger(db, table, table_no)?;
    db.execute("UPDATE main.fs_column SET position = NULL WHERE table_no = ?1", [table_no])?;
    for (position, column) in table.columns.iter().enumerate().filter(|(_, column)| !column.generated) {
        let name = column.name.to_ascii_lowercase();
        let same_name = known.iter().find(|(slot, known)| {
            known.eq_ignore_ascii_case(&name) && !told.iter().any(|(other, told)| told == slot && *other != name)
        });
        let slot = match told.get(&name).copied().or(same_name.map(|(slot, _)| *slot)) {
            Some(slot) => {
                let before = known.iter().find(|(known, _)| *known == slot).map(|(_, name)| name.to_ascii_lowercase());
                if let Some(before) = before.filter(|before| *before != name) {
                    renamed.insert(before, column.name.clone());
                }
                slot
            }
            None => {
                highest += 1;
                highest
            }
        };
        db.prepare_cached(
            "INSERT INTO main.fs_column(table_no, slot, name, key_part, position) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT(table_no, slot) DO UPDATE
             SET name = excluded.name, key_part = excluded.key_part, position = excluded.position",
        )?
        .execute((table_no, slot, &column.name, column.key_part as i64, position as i64))?;
        slots.by_name.insert(name, slot);
    }
    follow_columns(db, table, &renamed)?;
    Ok(slots)
}

/// Columns have got other names here (from lower-case ones). If the hub's values under such a name have come before, and are kept, what was
/// written into the column until now was written without having seen them.
fn follow_columns(db: &Connection, table: &Table, renamed: &HashMap<String, String>) -> Result<()> {
    if renamed.is_empty() {
        return Ok(());
    }
    conflicts::rename_columns(db, &table.name, renamed)?;
    for to in renamed.values() {
        if let Some(seen) = kept::seen_before(db, &table.name, Some(to))? {
            bases::at_most(db, seen.as_deref())?;
        }
    }
    Ok(())
}

/// Makes the triggers for the table as it is. Gives its columns as they were known, and as they are now.
fn settle_in(db: &Connection, table: &Table, table_no: i64) -> Result<(drift::Before, Slots)> {
    let before = drift::Before::of(db, table_no)?;
    let columns = remember(db, table, table_no)?;
    let plan = Plan::new(db, table, table_no, |column| columns.slot(column))?;
    install(db, table, table_no, &plan)?;
    let key: Vec<i64> = table.key().iter().map(|part| columns.slot(&part.name)).collect();
    if let Some(order) = before.order_of_key(&key) {
        drift::follow_key_order(db, table, table_no, &order)?;
    }
    Ok((before, columns))
}

/// The names of a table's capture triggers that are there.
fn trigger_names(db: &Connection, table_no: i64) -> Result<Vec<String>> {
    let mut statement =
        db.prepare_cached("SELECT name FROM main.sqlite_master WHERE type = 'trigger' AND name LIKE ?1 ESCAPE '\\'")?;
    let names = statement.query_map([format!("fs\\_{table_no}\\_%")], |row| row.get(0))?;
    Ok(names.collect::<rusqlite::Result<_>>()?)
}

/// Whether the capture triggers are there.
fn stands(db: &Connection, table_no: i64) -> Result<bool> {
    Ok(db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM main.sqlite_master WHERE type = 'trigger' AND name = ?1)")?
        .query_row([format!("fs_{table_no}_insert")], |row| row.get(0))?)
}

/// Whether all of them are there.
fn all_stand(db: &Connection, known: &Tracked, table: &Table) -> Result<bool> {
    let plan = Plan::new(db, table, known.table_no, |_| 0)?.statements(db)?;
    let wanted = plan.iter().filter(|statement| statement.starts_with("CREATE TRIGGER")).count();
    Ok(trigger_names(db, known.table_no)?.len() == wanted)
}

fn drop_triggers(db: &Connection, table_no: i64) -> Result<()> {
    for name in trigger_names(db, table_no)? {
        db.execute_batch(&format!("DROP TRIGGER IF EXISTS main.{}", quote(db, &name)?))?;
    }
    Ok(())
}

/// The tables that only its triggers need.
fn drop_scratch_tables(db: &Connection, table_no: i64) -> Result<()> {
    let both = format!("DROP TABLE IF EXISTS main.fs_gone_{table_no}; DROP TABLE IF EXISTS main.fs_probe_{table_no};");
    Ok(db.execute_batch(&both)?)
}

fn install(db: &Connection, table: &Table, table_no: i64, plan: &Plan) -> Result<()> {
    drop_triggers(db, table_no)?;
    db.execute_batch(&format!("CREATE TABLE IF NOT EXISTS main.fs_side_{table_no}(clock INTEGER PRIMARY KEY)"))?;
    let mut statement = db.prepare_cached("SELECT name FROM pragma_table_info(?1, 'main')")?;
    let present: Vec<String> =
        statement.query_map([format!("fs_side_{table_no}")], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    still_whole(db)?;
    for column in plan.side_columns().iter().filter(|column| !present.contains(column)) {
        db.execute_batch(&format!("ALTER TABLE main.fs_side_{table_no} ADD COLUMN {column}"))?;
    }
    for statement in plan.statements(db)? {
        db.execute_batch(&statement)?;
    }
    db.execute(
        "UPDATE main.fs_table SET name = ?2, state = 'tracked', sql = ?3 WHERE table_no = ?1",
        (table_no, &table.name, &table.signature),
    )?;
    Ok(())
}

/// Logs every row of the table as an insert. `again`: of rows that the hub may have.
fn capture_existing(db: &Connection, table: &Table, table_no: i64, again: bool) -> Result<i64> {
    let key = table.key().iter().map(|column| quote(db, &column.name)).collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = (1..=key.len()).map(|part| format!("k{part}")).collect();
    let (extra, values): (&[&str], &[String]) = if again { (&["field"], &["-1".to_owned()]) } else { (&[], &[]) };
    log_rows(db, table, table_no, what::INSERT, extra, values, &key, &names, "")
}

/// Logs an operation for every row of the table that fits the condition. `extra` are further columns of the log.
#[allow(clippy::too_many_arguments)]
fn log_rows(
    db: &Connection,
    table: &Table,
    table_no: i64,
    operation: i64,
    extra: &[&str],
    values: &[String],
    key: &[String],
    names: &[String],
    condition: &str,
) -> Result<i64> {
    let base = log::next_clock(db)?;
    let from = table.qualified(db)?;
    let what = table_no * 8 + operation;
    let (keys, condition) = (key.join(", "), if condition.is_empty() { "1" } else { condition });
    let clock = format!("{base} + row_number() OVER (ORDER BY {keys}) - 1");
    let simple = key.len() == 1;
    let mut columns = vec!["clock", "what"];
    let mut picked = vec![clock.clone(), what.to_string()];
    if simple {
        columns.push("key");
        picked.push(key[0].clone());
    }
    columns.extend(extra);
    picked.extend(values.iter().cloned());
    let count = db.execute(
        &format!(
            "INSERT INTO main.fs_log({}) SELECT {} FROM {from} WHERE {condition}",
            columns.join(", "),
            picked.join(", ")
        ),
        [],
    )?;
    if !simple {
        db.execute(
            &format!(
                "INSERT INTO main.fs_side_{table_no}(clock, {}) SELECT {clock}, {keys} FROM {from} WHERE {condition}",
                names.join(", ")
            ),
            [],
        )?;
    }
    Ok(count as i64)
}

/// Logs what programs wrote to a column between its ALTER TABLE and now: values that are not its default.
fn capture_new_column(db: &Connection, table: &Table, table_no: i64, column: &str, slot: i64) -> Result<()> {
    let Some(found) = table.columns.iter().find(|candidate| candidate.name.eq_ignore_ascii_case(column)) else {
        return Ok(());
    };
    let key = table.key().iter().map(|column| quote(db, &column.name)).collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = (1..=key.len()).map(|part| format!("k{part}")).collect();
    let quoted = quote(db, column)?;
    let default = found.default_value().unwrap_or_else(|| "NULL".into());
    let condition = format!("{quoted} COLLATE BINARY IS NOT {default}");
    let values = [slot.to_string(), default, quoted.clone()];
    unseen(db, kept::seen_before(db, &table.name, Some(column))?, || {
        log_rows(db, table, table_no, what::UPDATE, &["field", "old", "new"], &values, &key, &names, &condition)
    })?;
    Ok(())
}

/// Logs what was written here before the hub's rows or values, which are kept, could be in their place: what had been `seen` of
/// them is not what the cursor says.
fn unseen(db: &Connection, seen: Option<Option<String>>, log: impl FnOnce() -> Result<i64>) -> Result<i64> {
    let Some(seen) = seen else { return log() };
    bases::until_now(db, &state::get(db, "cursor")?)?; // of what is pending already
    let logged = log()?;
    bases::until_now(db, &seen.map_or(Value::Null, Value::Text))?;
    Ok(logged)
}

/// Compares the schema with what the triggers were made for, and makes them again where it changed.
pub fn renew(db: &Connection) -> Result<()> {
    let version: i64 = db.query_row("PRAGMA main.schema_version", [], |row| row.get(0))?;
    if state::get(db, "schema_version")? == Value::Int(version) {
        return Ok(());
    }
    let mark: i64 =
        db.query_row("SELECT ifnull(max(clock), 0) FROM main.fs_log WHERE what = 0", [], |row| row.get(0))?;
    let mut changed = drift::follow_renames(db)?;
    let mut overtaken = HashSet::new();
    for known in tracked(db)?.into_iter().filter(|known| known.state != "untracked") {
        let found = match Table::read(db, &known.name) {
            Ok(found) => found.filter(|table| table.check_trackable().is_ok()),
            Err(Error::Untrackable { .. }) => None,
            Err(error) => return Err(error),
        };
        match found {
            None => {
                if known.state == "tracked" {
                    state::note(db, &format!("table '{}' is gone; its unsent changes still travel, but rows made since the last sync went with it", known.name))?;
                    if Table::read_plain(db, &known.name)?.is_none() {
                        emptied::keep_former_keys(db, known.table_no)?;
                    }
                    db.execute("UPDATE main.fs_table SET state = 'missing' WHERE table_no = ?1", [known.table_no])?;
                    changed = true;
                }
            }
            Some(table) => {
                let same = known.signature.as_deref() == Some(&table.signature);
                // Some programs drop triggers that are not theirs.
                let stand = stands(db, known.table_no)?
                    && (!same || all_stand(db, &known, &table)?)
                    && !drift::made_with_its_triggers(db, &table, known.table_no)?;
                let younger = stand && drift::has_younger_triggers(db, &table, known.table_no)?;
                if same && stand && !younger {
                    continue;
                }
                if younger {
                    overtaken.insert(known.table_no);
                }
                let signature = known.signature.as_deref();
                let differs = if !stand {
                    Some(Why::MadeAnew)
                } else if drift::may_have_replaced(db, signature, &table, known.table_no, mark)? {
                    Some(Why::UniqueIndex)
                } else {
                    None
                };
                renew_table(db, &known, &table, differs)?;
                changed = true;
            }
        }
    }
    if !overtaken.is_empty() {
        // What was exported stays as it went.
        let exported: i64 =
            db.query_row("SELECT ifnull(max(high_place), 0) FROM main.fs_batch", [], |row| row.get(0))?;
        log::mend(db, &overtaken, mark.max(exported))?;
    }
    if changed {
        views::refresh(db)?;
    }
    settle(db)
}

/// What is known of a table stays with its rows: under another primary key they are others. Gives the number under which the table goes on.
fn apart_under_another_key(db: &Connection, table_no: i64, table: &Table) -> Result<i64> {
    if !drift::has_another_key(db, table, table_no)? {
        return Ok(table_no);
    }
    drop_triggers(db, table_no)?;
    drop_scratch_tables(db, table_no)?;
    drift::set_apart(db, table_no, table)
}

/// `differs`: why it may hold what no trigger has seen.
fn renew_table(db: &Connection, known: &Tracked, table: &Table, differs: Option<Why>) -> Result<()> {
    let end = log::last(db)?.place;
    let table_no = apart_under_another_key(db, known.table_no, table)?;
    let (before, columns) = settle_in(db, table, table_no)?;
    let mut new_columns = Vec::new();
    // Of rows that nothing is known of every column is new: they are compared whole.
    let known_columns =
        table.columns.iter().filter(|column| column.key_part == 0 && !column.generated && !before.is_empty());
    for column in known_columns {
        let (name, slot) = (column.name.to_ascii_lowercase(), columns.slot(&column.name));
        let lacked = before.lacked(slot);
        // What the hub has under the column's name was sent to another column, or to one that has gone.
        if before.is_another(slot, &name) || lacked && before.lost_one(|slot| columns.has(slot)) {
            state::pull_again(db)?;
        }
        if lacked {
            capture_new_column(db, table, table_no, &column.name, slot)?;
            new_columns.push(name);
        }
    }
    made_anew::start_again(db, table_no)?;
    if let Some(why) = differs {
        made_anew::begin(db, table_no, &table.name, why, end)?;
    }
    apply::deliver_kept(db, table, &new_columns)
}

/// Remembers the schema that everything fits now.
pub fn settle(db: &Connection) -> Result<()> {
    let version: i64 = db.query_row("PRAGMA main.schema_version", [], |row| row.get(0))?;
    state::set_integer(db, "schema_version", version)
}

/// Declared types that damage values at the application's own INSERT.
fn warnings(table: &Table) -> Vec<String> {
    let mut found = Vec::new();
    for column in &table.columns {
        let boolean = column.declared.contains("BOOL");
        if column.affinity() == Affinity::Numeric && !boolean && column.declared != "ANY" {
            found.push(format!(
                "column '{}': SQLite treats the type {} as NUMERIC and alters text that looks like a number ('007' becomes 7, a long decimal becomes a float); declare it TEXT",
                column.name, column.declared
            ));
        }
    }
    found
}

/// What else a developer should know of a table. Apart from the warnings: a key that may be NULL is the commonest schema there is.
fn notes(db: &Connection, table: &Table) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let nullable: Vec<&str> = table
        .key()
        .iter()
        .filter(|column| !(column.not_null || table.key_is_rowid && column.key_part == 1))
        .map(|column| column.name.as_str())
        .collect();
    let without_rowid = db.prepare(&format!("SELECT rowid FROM {} LIMIT 0", table.qualified(db)?)).is_err();
    if !nullable.is_empty() && !without_rowid {
        found.push(format!(
            "key column '{}' may be NULL; rows with a NULL in their key have no identity and stay on this device (declare it NOT NULL)",
            nullable.join("', '")
        ));
    }
    Ok(found)
}
