//! Changes that the hub rejected and that wait: they travel again with the next edit of their row, and their fields stay as the person
//! entered them.

use super::{key_from_bytes, IS_BESIDE_THE_HUBS};
use crate::error::Result;
use crate::log::{self, LogTable};
use crate::sql;
use fieldsync_core::coalesce::{take_along, Logged};
use fieldsync_core::delta::Op;
use fieldsync_core::{Hlc, Key};
use rusqlite::Connection;
use std::collections::HashMap;

/// Rejected changes of which the log is needed: they wait for a person, or one has decided and no answer shows yet that the hub has
/// heard of it. What was written into such a row meanwhile starts from what was rejected, and must not travel without it.
const IS_PARKED: &str = "(status = 'open' OR (told <= 0 AND outcome = 'rejected'))";

/// Rejected changes that travel again with the next edit of their row, by row.
pub type Parked = HashMap<(u32, Key), ParkedRow>;

/// What is known of a rejected change.
pub struct ParkedRow {
    /// Its first and last place in the log.
    places: (i64, i64),
    /// The hub does not have the row at all (it was here before anybody looked, or was written while no trigger was there): fields
    /// alone would be rejected for ever.
    is_unknown: bool,
}

impl ParkedRow {
    /// Its first place in the log.
    pub fn first(&self) -> i64 {
        self.places.0
    }
}

/// Reads them.
pub fn parked(db: &Connection) -> Result<Parked> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT t.table_no, c.row_key, min(c.first_clock), max(c.last_clock), max(c.rule = '02000')
         FROM main.fs_conflict c JOIN main.fs_table t ON t.name = c.table_name
         WHERE {IS_PARKED} AND c.outcome = 'rejected' AND c.first_clock IS NOT NULL AND c.row_key IS NOT NULL
           AND (c.choice IS NOT NULL OR NOT {IS_BESIDE_THE_HUBS})
         GROUP BY t.table_no, c.row_key"
    ))?;
    let mut rows = statement.query([])?;
    let mut parked = Parked::new();
    while let Some(row) = rows.next()? {
        let key = key_from_bytes(&row.get::<_, Vec<u8>>(1)?)?;
        let row_is = ParkedRow { places: (row.get(2)?, row.get(3)?), is_unknown: row.get(4)? };
        parked.insert((row.get::<_, i64>(0)? as u32, key), row_is);
    }
    Ok(parked)
}

/// Parked changes travel again with the first new edit of their row: see [`take_along`]. Where that edit tells the whole row, and of
/// a row that the hub does not have, the row itself travels instead: it shows what was parked.
pub fn offer_parked_again(
    db: &Connection,
    tables: &HashMap<i64, LogTable>,
    parked: &Parked,
    entries: &mut Vec<Logged>,
) -> Result<HashMap<(u32, Key), Hlc>> {
    let mut edited: HashMap<(u32, &Key), bool> = HashMap::new();
    for entry in entries.iter_mut() {
        let Some(((table, key), row)) = parked.get_key_value(&(entry.table, entry.key.clone())) else { continue };
        if edited.contains_key(&(*table, key)) {
            continue;
        }
        if row.is_unknown && entry.op == Op::Update {
            entry.op = Op::Insert;
            entry.fields.clear();
        }
        edited.insert((*table, key), entry.op != Op::Insert);
    }
    edited.retain(|_, takes_along| *takes_along);
    let spans = edited.keys().filter_map(|(table, key)| Some(parked.get(&(*table, (*key).clone()))?.places));
    let Some((first, last)) = spans.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) else {
        return Ok(HashMap::new());
    };
    let mut again = Vec::new();
    log::Scan::new(db, tables).run(log::before(db, first)?, last, |entry| {
        let place = entry.position.place;
        for logged in entry.logged()?.into_iter().flatten() {
            if !edited.contains_key(&(logged.table, &logged.key)) {
                continue;
            }
            let row = parked.get(&(logged.table, logged.key.clone()));
            if row.is_some_and(|row| row.places.0 <= place && place <= row.places.1) {
                again.push(logged);
            }
        }
        Ok(())
    })?;
    Ok(take_along(again, entries))
}

/// The place of the first logged change that waits for a decision: it, and the bases since, may be needed again.
pub fn first_parked(db: &Connection) -> Result<Option<i64>> {
    Ok(db
        .prepare_cached(&format!("SELECT min(first_clock) FROM main.fs_conflict WHERE {IS_PARKED}"))?
        .query_row([], |row| row.get(0))?)
}

/// Changes that the hub rejected and nobody has settled: their fields stay as the person entered them.
#[derive(Debug, Default)]
pub struct Pinned {
    rows: HashMap<(String, String), Pin>,
}

impl Pinned {
    /// Reads them.
    pub fn load(db: &Connection) -> Result<Pinned> {
        let mut statement = db.prepare_cached(&format!(
            "SELECT table_name, row_id, operation, mine, {IS_BESIDE_THE_HUBS} FROM main.fs_conflict
             WHERE status = 'open' AND outcome = 'rejected' AND kept IS NULL AND row_key IS NOT NULL"
        ))?;
        let mut pinned = Pinned::default();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let operation: String = row.get(2)?;
            let mine: Option<String> = row.get(3)?;
            let pin = pinned.rows.entry((sql::folded(row, 0)?, row.get(1)?)).or_default();
            pin.made |= operation == "insert";
            pin.beside |= row.get::<_, bool>(4)?;
            pin.deleted |= operation == "delete";
            let mine: serde_json::Value = serde_json::from_str(mine.as_deref().unwrap_or("null")).unwrap_or_default();
            if let Some(fields) = mine.as_object() {
                pin.fields.extend(fields.keys().map(|name| name.to_ascii_lowercase()));
            }
        }
        Ok(pinned)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What stays of a row.
    pub fn of(&self, table: &str, key: &Key) -> Option<&Pin> {
        if self.rows.is_empty() {
            return None;
        }
        self.rows.get(&(table.to_ascii_lowercase(), key.row_id()))
    }
}

/// What stays of one row.
#[derive(Debug, Default)]
pub struct Pin {
    /// Field names, lower case.
    pub fields: Vec<String>,
    /// The row was made here and the hub does not have it.
    pub made: bool,
    /// It was made here, and the table shows another one, of the hub, under its key.
    pub beside: bool,
    /// The row was deleted here and the hub still has it.
    pub deleted: bool,
}
