//! The change log: what it says, with which clocks, and how rows are read to go with it.
//!
//! # Places and clocks
//!
//! A trigger logs a change with the time of day and lets SQLite count the rowid up; that rowid is the change's *place*. Its
//! *clock*, which travels, is worked out when the log is read:
//!
//! ```text
//! clock = max(clock of the entry before + 1, place, milliseconds since 1970 * 65536)
//! ```
//!
//! or, where the wall clock is behind the entry before, the first two and the lowest bits of the entry's own milliseconds: a copy of the file
//! goes on from the same clock, and what it writes must not pass for what the original writes.
//!
//! (A clock in the trigger itself costs a second cursor into the log and a search for the place: half of a one-column update.)
//!
//! Invariants:
//! * Places and clocks are strictly increasing, whatever the wall clock does: back, 30 years ahead, or not at all while many
//!   changes are logged.
//! * No clock is below its place. A *mark* is an entry that only carries a clock: its place. The log begins with one, and one
//!   is put wherever a clock has to be compared with places that come later: after what an export carries (and so at the
//!   watermark that the hub will confirm), at the end of each apply, and over every clock that the hub has shown. So a mark
//!   compares alike with places and with clocks.
//! * An entry's clock is the same whenever it is read, on this database and on every copy of it: it depends on what is
//!   before it, back to the last mark, and on its own time, and that never changes. Entries go only in whole runs, up to a mark
//!   ([`crate::purge`]); one that a person deletes from `sync_queue` leaves its place and its time behind.
//! * A watermark that is not at a mark (an export was cut short by `max_bytes`) is kept with its place; [`place_of`] finds the
//!   place of any other.
//!
//! One entry of `fs_log` is one logged change. A key change is two wire operations, of which the second counts.

mod append;
mod order;
mod read;
mod rows;
#[cfg(test)]
mod tests;

pub use append::{append_delete, append_insert, append_update, mark, next_clock, take_out};
pub use order::mend;
pub use read::{before, last, number_of, place_of, read, Entry, Position, Raw, Scan};
pub use rows::{each_key, greatest_keys, RowReader};

use crate::error::Result;
use rusqlite::Connection;
use std::collections::HashMap;

/// A column as the log knows it.
#[derive(Debug, Clone)]
pub struct LogColumn {
    /// Its number in the log.
    pub slot: i64,
    /// Its name now, or when it was last there.
    pub name: String,
    /// 1 and up for the key's parts.
    pub key_part: usize,
    /// Whether the table still has it.
    pub present: bool,
}

/// A table as the log knows it.
#[derive(Debug, Clone)]
pub struct LogTable {
    /// Its number in the log.
    pub table_no: i64,
    /// Its name.
    pub name: String,
    /// Whether it is tracked and there.
    pub live: bool,
    /// Its columns: the key's first, in the key's order.
    pub columns: Vec<LogColumn>,
    /// How many of them are the key.
    pub key_len: usize,
}

impl LogTable {
    /// All tables that the log may speak of.
    pub fn all(db: &Connection) -> Result<HashMap<i64, LogTable>> {
        let mut tables = HashMap::new();
        for known in crate::track::tracked(db)? {
            let mut statement = db.prepare_cached(
                "SELECT slot, name, key_part, position IS NOT NULL FROM main.fs_column WHERE table_no = ?1
                 ORDER BY key_part = 0 OR position IS NULL, key_part, position IS NULL, position, slot",
            )?;
            let columns = statement
                .query_map([known.table_no], |row| {
                    Ok(LogColumn {
                        slot: row.get(0)?,
                        name: row.get(1)?,
                        key_part: row.get::<_, i64>(2)? as usize,
                        present: row.get(3)?,
                    })
                })?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let key_len = columns.iter().filter(|column| column.key_part > 0 && column.present).count();
            let live = known.state == "tracked";
            tables.insert(
                known.table_no,
                LogTable { table_no: known.table_no, name: known.name, live, columns, key_len },
            );
        }
        Ok(tables)
    }

    /// The tracked table of a name, however that is spelled.
    pub fn named(db: &Connection, name: &str) -> Result<Option<LogTable>> {
        let mut tables = LogTable::all(db)?.into_values();
        Ok(tables.find(|table| table.live && table.name.eq_ignore_ascii_case(name)))
    }

    /// The columns that are not the key.
    pub fn fields(&self) -> &[LogColumn] {
        &self.columns[self.key_len.min(self.columns.len())..]
    }

    fn composite(&self) -> bool {
        self.key_len > 1
    }
}
