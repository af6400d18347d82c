//! Refused changes whose reason has gone: they travel again without a person.
//!
//! Invariant: nothing is retried blindly, nor for ever. A change is offered again only
//! * when the hub says that what it has judged was not the record as it is (once: its next word is about the record), or that it has the table or
//!   column by now that it lacked (once for each time that it gets one),
//! * when something else that was refused of this device has been accepted, which it may have waited for. An accepted change is never refused
//!   later, so that each such step leaves fewer.

use super::references::References;
use super::Apply;
use crate::conflicts;
use crate::error::Result;
use crate::log::{self, Entry};
use crate::schema::Table;
use fieldsync_core::reply::{ConflictNotice, Notice};
use fieldsync_core::Key;
use rusqlite::Connection;
use std::collections::HashSet;

/// The rule (an SQLSTATE) of an update that was refused because the hub has no such row.
const NO_SUCH_ROW: &str = "02000";
/// The end of a rule with which the hub asks for a change: see `fieldsync.ask_again` there.
const ASKED_FOR: &str = " offered again";
/// Entries of what was refused for what it refers to, or for what refers to it; or because something else in its strict table was refused, and
/// nothing there is any more.
const FOR_ANOTHER: &str = "(rule LIKE '23503%' OR rule LIKE '23000%' AND NOT EXISTS (
     SELECT 1 FROM main.fs_conflict o WHERE o.status = 'open' AND o.outcome = 'rejected' AND o.table_name = c.table_name
        AND o.rule NOT LIKE '23000%'))";

/// What waits for a person, by the numbers of its entries.
pub(super) fn rejected(db: &Connection) -> Result<HashSet<i64>> {
    let mut statement =
        db.prepare_cached("SELECT conflict_id FROM main.fs_conflict WHERE status = 'open' AND outcome = 'rejected'")?;
    let ids = statement.query_map([], |row| row.get(0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

/// Whether the hub's word about a refused change is not its last one. A record was refused, the answer was lost, and its correction went by
/// itself to a hub that had no such row; or the hub asks.
fn is_wanted_again(conflict: &ConflictNotice) -> bool {
    let corrected_unheard = conflict.operation == "insert" && conflict.rule == NO_SUCH_ROW;
    conflict.status == "open"
        && conflict.outcome == "rejected"
        && (corrected_unheard || conflict.rule.ends_with(ASKED_FOR))
}

/// A refused change.
struct Refused {
    table: String,
    key: Key,
    operation: String,
}

/// Those that can travel again, by a condition on their entries.
fn refused(db: &Connection, which: &str) -> Result<Vec<Refused>> {
    let mut statement = db.prepare(&format!(
        "SELECT table_name, row_key, operation FROM main.fs_conflict c
         WHERE status = 'open' AND outcome = 'rejected' AND kept IS NULL AND row_key IS NOT NULL AND first_clock IS NOT NULL
           AND ifnull(choice, 'mine') <> 'theirs' AND {which}
         ORDER BY conflict_id"
    ))?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let key = conflicts::key_from_bytes(&row.get::<_, Vec<u8>>(1)?)?;
        found.push(Refused { table: row.get(0)?, key, operation: row.get(2)? });
    }
    Ok(found)
}

impl Apply<'_> {
    /// Lets travel again what may be taken by now. `before`: what waited before this answer; `unanswered`: what was written since.
    pub(super) fn offer_again(&self, before: &HashSet<i64>, notices: &[Notice], unanswered: &[Entry]) -> Result<()> {
        for notice in notices {
            if let Notice::Conflict(conflict) = notice {
                if is_wanted_again(conflict) {
                    for change in refused(self.db, &format!("hub_id = {}", conflict.conflict_id as i64))? {
                        self.offer(&change, unanswered)?;
                    }
                }
            }
        }
        if before.is_subset(&rejected(self.db)?) {
            return Ok(());
        }
        let dependent = refused(self.db, FOR_ANOTHER)?;
        if dependent.is_empty() {
            return Ok(());
        }
        let records = refused(self.db, "operation = 'insert'")?;
        let waiting = records.into_iter().map(|record| (record.table.to_ascii_lowercase(), record.key)).collect();
        let references = References::load(self.db)?;
        for change in dependent {
            if !self.waits_still(&change, &references, &waiting)? {
                self.offer(&change, unanswered)?;
            }
        }
        Ok(())
    }

    /// Whether a row refers to a record that waits itself.
    fn waits_still(
        &self,
        change: &Refused,
        references: &References<'_>,
        waiting: &HashSet<(String, Key)>,
    ) -> Result<bool> {
        let Some(table) = Table::read(self.db, &change.table)? else { return Ok(false) };
        if table.has(self.db, &change.key)? != Some(true) {
            return Ok(false);
        }
        for at in references.of_child(&change.table) {
            if let Some(key) = references.parent_of(at, &table, &change.key)? {
                if waiting.contains(&(references.key(at).parent.to_ascii_lowercase(), key)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// A change of no field takes along what was refused; what was written since does so anyway.
    fn offer(&self, change: &Refused, unanswered: &[Entry]) -> Result<()> {
        let Some(known) = self.table_named(&change.table) else { return Ok(()) };
        let travels = |entry: &Entry| i64::from(entry.logged.table) == known.table_no && entry.logged.key == change.key;
        let is_there = conflicts::is_in_its_table(self.db, &change.table, &change.key)?;
        if unanswered.iter().any(travels) || is_there != Some(change.operation != "delete") {
            return Ok(());
        }
        log::append_update(self.db, known, log::next_clock(self.db)?, &change.key, &[])
    }
}
