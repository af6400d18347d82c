//! Turning points that the hub announces: this database is a copy, or the hub's own history has changed.
//!
//! Invariant: nothing unsent is lost. After either turn the next export offers again whatever the hub does not have.

use super::kept;
use super::unanswered::Unanswered;
use super::Report;
use crate::conflicts::{self, key_to_bytes, Unseen};
use crate::emptied;
use crate::error::{Error, Result};
use crate::log::{self, LogTable, RowReader};
use crate::made_anew;
use crate::shapes;
use crate::state::{self, Standing};
use fieldsync_core::coalesce::LoggedField;
use fieldsync_core::overlay::Offer;
use fieldsync_core::reply::{Notice, Reply, RowChange, TableRows};
use fieldsync_core::{Hlc, Key, Value};
use rusqlite::{Connection, OptionalExtension};
use std::collections::{HashMap, HashSet};

/// The turning point in a reply, if it announces one.
pub(super) fn notice(reply: &Reply) -> Option<&Notice> {
    reply.body.notices.iter().find(|notice| matches!(notice, Notice::NewIdentity { .. } | Notice::NewHistory { .. }))
}

/// Takes the turn.
pub(super) fn turn(db: &Connection, standing: &Standing, reply: &Reply, notice: &Notice) -> Result<Report> {
    let last = log::mark(db, log::last(db)?, Hlc::default())?;
    let text = match notice {
        Notice::NewIdentity { client_id, reason } => {
            state::set(db, "client_id", &Value::Text(client_id.clone()))?;
            if let Some(key) = &standing.key {
                state::set(db, "mac_key", &Value::Blob(key.derive(client_id).0.to_vec()))?;
            }
            state::set_integer(db, "parent", 0)?;
            // The original may have delivered any of these; the hub knows each by its clock, so none may fold into another.
            state::set_integer(db, "copied_until", last)?;
            state::set_integer(db, "history", i64::from(reply.history))?;
            conflicts::inherit(db)?;
            format!(
                "this database is a copy of client '{}' and is now client '{client_id}': {reason}",
                standing.client_id
            )
        }
        Notice::NewHistory { watermark, last_batch, reason } => {
            state::set_integer(db, "history", i64::from(reply.history))?;
            state::set(db, "cursor", &Value::Null)?;
            // A batch that this file never made: it is a copy that has not heard so. A chain that begins anew lets the hub see it;
            // going on from the original's batch it would pass for the original, with a watermark over changes that nobody has.
            let made_here: bool = db.query_row(
                "SELECT EXISTS (SELECT 1 FROM main.fs_batch WHERE batch = ?1)",
                [*last_batch as i64],
                |row| row.get(0),
            )?;
            state::set_integer(db, "parent", if made_here { *last_batch as i64 } else { 0 })?;
            let remembered = (*watermark).min(standing.watermark);
            let place = log::place_of(db, remembered)?;
            state::set_watermark(db, remembered, place)?;
            // Whatever is pending from here on was written without having seen the new history.
            db.execute("DELETE FROM main.fs_base", [])?;
            db.execute("INSERT INTO main.fs_base(until, snapshot) VALUES (?1, NULL)", [last])?;
            kept::forget_history(db)?;
            state::set_integer(db, "recovery_as_of", Hlc::from_ms(state::integer(db, "hub_now_ms")? as u64).as_i64())?;
            state::set_integer(db, "reconciling", 1)?;
            // Rows may show what became of these changes in the lost history: exports ask for them along with the changes.
            state::set_integer(db, "offered_again", last)?;
            emptied::compare_after_lost_history(db)?;
            conflicts::forget_numbers(db, place, last)?;
            format!("the hub has a new history: {reason}")
        }
        Notice::Conflict(_) | Notice::Warning(_) | Notice::NamesWanted => String::new(),
    };
    shapes::forget(db)?;
    state::set_integer(db, "names_wanted", 0)?;
    // The chain starts anew: exports made before will not be answered.
    let sequence: i64 = db.query_row("SELECT ifnull(max(sequence), 0) FROM main.fs_batch", [], |row| row.get(0))?;
    state::set_integer(db, "parent_sequence", sequence)?;
    state::note(db, &text)?;
    Ok(Report { more: true, warnings: vec![text], ..Report::default() })
}

/// Notes that the hub has a row, of this key in the order of the device's, and what it has where this device has something else.
pub(super) fn arrived(db: &Connection, table: &TableRows, key: &Key, row: &RowChange, differs: bool) -> Result<()> {
    let differing = if differs {
        let alone = TableRows { rows: vec![row.clone()], ..kept::head(table) };
        Some(postcard::to_allocvec(&alone).map_err(|error| Error::OwnData(error.to_string()))?)
    } else {
        None
    };
    db.prepare_cached("INSERT OR REPLACE INTO main.fs_arrived(table_name, row_key, differing) VALUES (?1, ?2, ?3)")?
        .execute((&table.table, key_to_bytes(key)?, differing))?;
    Ok(())
}

/// Notes that the hub has changed a row after all rows were compared: what comes of it is written, and differs no more.
pub(super) fn overtaken(db: &Connection, table: &TableRows, key: &Key, row: &RowChange) -> Result<()> {
    let noted: Option<Option<Vec<u8>>> = db
        .prepare_cached("SELECT differing FROM main.fs_arrived WHERE table_name = ?1 AND row_key = ?2")?
        .query_row((&table.table, key_to_bytes(key)?), |row| row.get(0))
        .optional()?;
    let Some(content) = noted.flatten().filter(|content| !content.is_empty()) else {
        return arrived(db, table, key, row, false); // the hub has it, now if not before
    };
    let mut before: TableRows = postcard::from_bytes(&content).map_err(|error| Error::OwnData(error.to_string()))?;
    let name = |table: &TableRows, at: u16| table.columns.get(usize::from(at)).map(|name| name.to_ascii_lowercase());
    let written: HashSet<Option<String>> = row.fields.iter().map(|(at, _)| name(table, *at)).collect();
    let head = kept::head(&before);
    for compared in &mut before.rows {
        compared.fields.retain(|(at, _)| !written.contains(&name(&head, *at)));
    }
    match before.rows.pop() {
        Some(compared) => arrived(db, &head, key, &compared, true),
        None => Ok(()),
    }
}

/// Tables (lower case) whose rows are compared with the hub's as they come, not overwritten. None until a full pull has
/// been asked for: only then all rows come.
pub(super) fn reconciling(db: &Connection, repulled: bool) -> Result<HashSet<String>> {
    let all = state::integer(db, "reconciling")? != 0;
    made_anew::comparing(db, repulled, all)
}

/// When all of the hub's rows have arrived: logs what this device holds and the hub does not have. After the hub lost
/// history it gets one run of clocks, which the delta names, so that the hub can tell it from fresh changes.
pub(super) fn offer_what_differs(
    db: &Connection,
    tables: &HashMap<i64, LogTable>,
    unanswered: &Unanswered,
    reconciling: &HashSet<String>,
) -> Result<()> {
    let after_lost_history = state::integer(db, "reconciling")? != 0;
    let after = log::mark(db, log::last(db)?, Hlc::default())?;
    let mut clock = log::next_clock(db)?;
    let mut rows = RowReader::new(db, tables);
    let mut numbers: Vec<&i64> = tables.keys().collect();
    numbers.sort_unstable();
    for table in numbers.into_iter().filter_map(|number| tables.get(number)).filter(|table| table.live) {
        if !reconciling.contains(&table.name.to_ascii_lowercase()) {
            continue;
        }
        let mut statement =
            db.prepare("SELECT differing FROM main.fs_arrived WHERE table_name = ?1 AND differing <> x''")?;
        let differing: Vec<Vec<u8>> =
            statement.query_map([&table.name], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        for content in differing {
            let hub: TableRows = postcard::from_bytes(&content).map_err(|error| Error::OwnData(error.to_string()))?;
            for row in &hub.rows {
                let key = own_order(table, &hub, &row.key);
                if unanswered.offer(&table.name, &key, true) != Offer::Differences {
                    continue;
                }
                let Some(own) = rows.read(table.table_no, &key)? else { continue };
                let (mut fields, mut replaced) = (Vec::new(), Vec::new());
                for (slot, value) in own {
                    let Some(column) = table.columns.iter().find(|column| column.slot == i64::from(slot)) else {
                        continue;
                    };
                    let place = hub.columns.iter().position(|name| name.eq_ignore_ascii_case(&column.name));
                    let Some((_, old)) = row.fields.iter().find(|(at, _)| Some(usize::from(*at)) == place) else {
                        continue;
                    };
                    if *old != value && !unanswered.has_field(&table.name, &key, &column.name) {
                        replaced.push((column.name.clone(), value.clone(), Some(old.clone())));
                        fields.push(LoggedField { column: slot, old: old.clone(), new: value });
                    }
                }
                if !fields.is_empty() {
                    // Of what a hub has lost it keeps a record itself.
                    let is_any_lost = fields.iter().any(|field| !field.old.is_null());
                    if is_any_lost && !after_lost_history {
                        conflicts::replaced_unseen(db, &table.name, &key, &replaced, Unseen::MadeAnewHere)?;
                    }
                    log::append_update(db, table, clock, &key, &fields)?;
                    clock += 1;
                }
            }
        }
        for key in offered_whole(db, table, unanswered)? {
            log::append_insert(db, table, clock, &key)?;
            clock += 1;
        }
        db.execute("DELETE FROM main.fs_arrived WHERE table_name = ?1", [&table.name])?;
    }
    let until = log::mark(db, log::last(db)?, Hlc::default())?;
    if until > after && after_lost_history {
        state::set_integer(db, "recovery_after", after)?;
        state::set_integer(db, "recovery_until", until)?;
    }
    made_anew::compared(db, after_lost_history)?;
    state::set_integer(db, "reconciling", 0)
}

/// The hub's key in the order of the device's.
pub(super) fn own_order(table: &LogTable, hub: &TableRows, key: &Key) -> Key {
    let part = |name: &str| {
        let place = hub.columns.iter().position(|column| column.eq_ignore_ascii_case(name))?;
        key.0.get(place).cloned()
    };
    Key(table.columns[..table.key_len].iter().map(|column| part(&column.name).unwrap_or_default()).collect())
}

/// Keys of rows that are offered whole.
fn offered_whole(db: &Connection, table: &LogTable, unanswered: &Unanswered) -> Result<Vec<Key>> {
    let arrived = emptied::arrived_of_late(db, table.table_no)?;
    let mut found = Vec::new();
    log::each_key(db, table, |key| {
        let named = !key.0.iter().any(Value::is_null);
        if named && unanswered.offer(&table.name, &key, arrived.contains(&key)) == Offer::Whole {
            found.push(key);
        }
        Ok(())
    })?;
    Ok(found)
}
