//! What was written of a row while it waited for a decision, and goes with a rejected change that a person drops.
//!
//! Invariant: an entry that no export has carried can go from the log, by fields or whole, as if it had never been written: the
//! places and times of all others stay.

use crate::error::Result;
use crate::log::{self, LogTable};
use crate::state::Standing;
use fieldsync_core::delta::Op;
use fieldsync_core::Key;
use rusqlite::Connection;

/// Logged changes of a row that the hub has not answered.
pub struct Unheard<'a> {
    db: &'a Connection,
    table: LogTable,
    /// Places, and the fields that go, by slot; none: all of the entry.
    goes: Vec<(i64, Option<Vec<u16>>)>,
    /// Whether the hub may have taken one, and what was rejected with it: an export has carried it.
    pub exported: bool,
}

impl<'a> Unheard<'a> {
    /// Those that are in the log now. What goes of them: updates of some fields (lower case), as far as these are concerned, or all.
    /// None: nothing of the table is in the log.
    pub fn of(db: &'a Connection, name: &str, key: &Key, fields: Option<&[String]>) -> Result<Option<Unheard<'a>>> {
        let tables = LogTable::all(db)?;
        let Some(table) = tables.values().find(|table| table.name.eq_ignore_ascii_case(name)).cloned() else {
            return Ok(None);
        };
        let exported_until: i64 =
            db.query_row("SELECT ifnull(max(high_place), 0) FROM main.fs_batch", [], |row| row.get(0))?;
        let entries = log::read(db, &tables, Standing::load(db)?.answered())?;
        let mut found = Unheard { db, table, goes: Vec::new(), exported: false };
        for entry in &entries {
            let is_other = |other: &log::Entry| other.place == entry.place && other.logged.key != entry.logged.key;
            if i64::from(entry.logged.table) != found.table.table_no || entry.logged.key != *key {
                continue;
            }
            found.exported |= entry.place <= exported_until;
            let changed = entry.logged.fields.iter().map(|field| field.column);
            match fields {
                // Half of a change of key is a matter of another record, too.
                None if entries.iter().any(is_other) => {}
                None => found.goes.push((entry.place, None)),
                Some(fields) if entry.logged.op == Op::Update => {
                    let (go, stay): (Vec<u16>, Vec<u16>) = changed.partition(|slot| {
                        let column = found.table.columns.iter().find(|column| column.slot == i64::from(*slot));
                        column.is_some_and(|column| fields.contains(&column.name.to_ascii_lowercase()))
                    });
                    found.goes.push((entry.place, (!stay.is_empty()).then_some(go)));
                }
                Some(_) => {}
            }
        }
        Ok(Some(found))
    }

    /// Takes them out of the log.
    pub fn forget(&self) -> Result<()> {
        let side = format!("main.fs_side_{}", self.table.table_no);
        for (place, fields) in &self.goes {
            let Some(fields) = fields else {
                log::take_out(self.db, self.table.table_no, *place)?;
                continue;
            };
            for slot in fields {
                let sql = "UPDATE main.fs_log SET field = NULL, old = NULL, new = NULL WHERE clock = ?1 AND field = ?2";
                self.db.execute(sql, [*place, i64::from(*slot)])?;
                let sql = format!("UPDATE {side} SET o{slot} = NULL, n{slot} = NULL WHERE clock = ?1");
                self.db.execute(&sql, [*place])?;
            }
        }
        Ok(())
    }
}
