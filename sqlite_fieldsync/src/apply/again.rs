//! Refused changes whose reason has gone: they travel again without a person.
//!
//! Invariant: nothing is retried blindly, nor for ever. A change is offered again only
//! * when the hub says that what it has judged was not the record as it is (once: its next word is about the record), or that it has the table or
//!   column by now that it lacked (once for each time that it gets one),
//! * when something else that was refused of this device has been accepted, which it may have waited for. An accepted change is never refused
//!   later, so that each such step leaves fewer,
//! * when the hub has, by this answer, a row that it refers to and that was not there when it travelled: written later by whoever does not
//!   enforce foreign keys, or by another device. A row comes once, so that each such step is one.

use super::references::References;
use super::Apply;
use crate::conflicts;
use crate::error::Result;
use crate::log::{self, Entry, Position, Scan};
use crate::schema::Table;
use crate::state;
use fieldsync_core::delta::Op;
use fieldsync_core::reply::{ConflictNotice, Notice};
use fieldsync_core::Key;
use rusqlite::Connection;
use std::collections::{HashMap, HashSet};

/// The rule (an SQLSTATE) of an update that was refused because the hub has no such row.
const NO_SUCH_ROW: &str = "02000";
/// The end of a rule with which the hub asks for a change: see `fieldsync.ask_again` there.
const ASKED_FOR: &str = " offered again";
/// Entries of what was refused for what it refers to, or for what refers to it; or because something else in its strict table was refused, and
/// nothing there is any more.
const FOR_ANOTHER: &str = "(rule LIKE '23503%' OR rule LIKE '23000%' AND NOT EXISTS (
     SELECT 1 FROM main.fs_conflict o WHERE o.status = 'open' AND o.outcome = 'rejected' AND o.table_name = c.table_name
        AND o.rule NOT LIKE '23000%'))";
/// Entries of what was refused for what it refers to.
const FOR_ITS_PARENT: &str = "rule LIKE '23503%' AND operation <> 'delete'";

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
    conflict_id: i64,
    table: String,
    key: Key,
    operation: String,
    /// Its last place in the log.
    last: i64,
}

/// What a row refers to.
#[derive(Default)]
struct Parents {
    /// What is here of it: by which foreign key, the table (lower case), and the key.
    here: Vec<(usize, (String, Key))>,
    /// Whether anything of it is not.
    lacking: bool,
}

/// Those that can travel again, by a condition on their entries.
fn refused(db: &Connection, which: &str) -> Result<Vec<Refused>> {
    let mut statement = db.prepare(&format!(
        "SELECT table_name, row_key, operation, conflict_id, coalesce(last_clock, first_clock) FROM main.fs_conflict c
         WHERE status = 'open' AND outcome = 'rejected' AND kept IS NULL AND row_key IS NOT NULL AND first_clock IS NOT NULL
           AND ifnull(choice, 'mine') <> 'theirs' AND {which}
         ORDER BY conflict_id"
    ))?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let key = conflicts::key_from_bytes(&row.get::<_, Vec<u8>>(1)?)?;
        found.push(Refused {
            conflict_id: row.get(3)?,
            table: row.get(0)?,
            key,
            operation: row.get(2)?,
            last: row.get(4)?,
        });
    }
    Ok(found)
}

impl Apply<'_> {
    /// The entries of what lacks a row that it refers to, before the rows of this answer are written: it is not here, or the hub says only
    /// now that it has taken it, and it travelled later than they did.
    pub(super) fn without_parent(&self, answered: Position) -> Result<HashSet<i64>> {
        let mut found = HashSet::new();
        let changes = refused(self.db, FOR_ITS_PARENT)?;
        if changes.is_empty() {
            return Ok(found);
        }
        let mut references = References::load(self.db)?;
        let mut children: HashMap<(String, Key), Vec<(usize, &Refused)>> = HashMap::new();
        for change in &changes {
            let parents = self.parents(change, &mut references)?;
            if parents.lacking {
                found.insert(change.conflict_id);
            }
            for (at, parent) in parents.here {
                children.entry(parent).or_default().push((at, change));
            }
        }
        let tables: HashSet<String> = children.keys().map(|(table, _)| table.clone()).collect();
        if tables.is_empty() {
            return Ok(found);
        }
        let (told, ends) = (state::told(self.db, &self.standing)?, self.ends_of_exports()?);
        Scan::new(self.db, &self.tables).run(told, answered.place, |entry| {
            let name = entry.table.name.to_ascii_lowercase();
            if !tables.contains(&name) {
                return Ok(());
            }
            let (place, table) = (entry.position.place, entry.table);
            for logged in entry.logged()?.into_iter().flatten() {
                let comes = |at: usize| match logged.op {
                    Op::Insert => true,
                    Op::Update => logged.fields.iter().any(|field| {
                        let column = table.columns.iter().find(|column| column.slot == i64::from(field.column));
                        let to = &references.key(at).to;
                        column.is_some_and(|column| to.iter().any(|name| name.eq_ignore_ascii_case(&column.name)))
                    }),
                    Op::Delete | Op::Cancelled => false,
                };
                for (at, child) in children.get(&(name.clone(), logged.key.clone())).into_iter().flatten() {
                    let travelled_before =
                        child.last <= told.place || ends.iter().any(|end| child.last <= *end && *end < place);
                    if travelled_before && comes(*at) {
                        found.insert(child.conflict_id);
                    }
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Lets travel again what may be taken by now. `before`: what waited before this answer; `without_parent`: entries of what lacked a row
    /// that it refers to; `unanswered`: what was written since.
    pub(super) fn offer_again(
        &self,
        before: &HashSet<i64>,
        without_parent: &HashSet<i64>,
        notices: &[Notice],
        unanswered: &[Entry],
    ) -> Result<()> {
        for notice in notices {
            if let Notice::Conflict(conflict) = notice {
                if is_wanted_again(conflict) {
                    for change in refused(self.db, &format!("hub_id = {}", conflict.conflict_id as i64))? {
                        self.offer(&change, unanswered)?;
                    }
                }
            }
        }
        let others_were_taken = !before.is_subset(&rejected(self.db)?);
        if !others_were_taken && without_parent.is_empty() {
            return Ok(());
        }
        let dependent = refused(self.db, FOR_ANOTHER)?;
        if dependent.is_empty() {
            return Ok(());
        }
        let records = refused(self.db, "operation = 'insert'")?;
        let waiting: HashSet<(String, Key)> =
            records.into_iter().map(|record| (record.table.to_ascii_lowercase(), record.key)).collect();
        let mut references = References::load(self.db)?;
        for change in dependent {
            let parents = self.parents(&change, &mut references)?;
            let has_got_them = without_parent.contains(&change.conflict_id)
                && !parents.lacking
                && !parents.here.iter().any(|(_, parent)| self.is_yet_to_travel(parent, unanswered));
            // What refers to a record that waits itself waits on.
            if (others_were_taken || has_got_them) && !parents.here.iter().any(|(_, parent)| waiting.contains(parent)) {
                self.offer(&change, unanswered)?;
            }
        }
        Ok(())
    }

    /// What the row of a refused change refers to; nothing if there is no such row.
    fn parents(&self, change: &Refused, references: &mut References<'_>) -> Result<Parents> {
        let mut parents = Parents::default();
        let Some(table) = Table::read_plain(self.db, &change.table)? else { return Ok(parents) };
        if table.has(self.db, &change.key)? != Some(true) {
            return Ok(parents);
        }
        for at in references.of_child(&change.table) {
            if let Some(key) = references.parent_of(at, &table, &change.key)? {
                parents.here.push((at, (references.key(at).parent.to_ascii_lowercase(), key)));
            } else if let Some(values) = references.values_in(at, &table, &change.key)? {
                parents.lacking |= !references.parent_is_there(at, &values)?;
            }
        }
        Ok(parents)
    }

    /// Whether a row was made here and the hub has not answered that.
    fn is_yet_to_travel(&self, (table, key): &(String, Key), unanswered: &[Entry]) -> bool {
        let Some(table) = self.table_named(table) else { return false };
        unanswered.iter().any(|Entry { logged, .. }| {
            logged.op == Op::Insert && i64::from(logged.table) == table.table_no && logged.key == *key
        })
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
