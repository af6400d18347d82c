//! Rows in the way of the hub's: they wait for each other, or step aside whole, and what refers to them goes first.

use super::pass::Pass;
use super::references::values_of;
use super::writer::{Writer, Written};
use crate::conflicts;
use crate::error::Result;
use crate::schema::Table;
use fieldsync_core::delta::Op;
use fieldsync_core::reply::TableRows;
use fieldsync_core::{Key, Value};
use rusqlite::Connection;
use std::collections::HashSet;

/// A writer for single rows of a table by their keys.
fn writer_by_key<'a>(db: &'a Connection, table: &str) -> Result<Option<Writer<'a>>> {
    let Some(found) = Table::read(db, table)? else { return Ok(None) };
    let names: Vec<String> = found.key().iter().map(|column| column.name.clone()).collect();
    let head = TableRows {
        table: found.name.clone(),
        kinds: vec![fieldsync_core::value::Kind::default(); names.len()],
        key_len: names.len() as u16,
        columns: names,
        ..TableRows::default()
    };
    Writer::new(db, found, &head)
}

/// A row of the device by its key.
pub fn read_row(db: &Connection, table: &str, key: &Key) -> Result<Option<Vec<(String, Value)>>> {
    match writer_by_key(db, table)? {
        Some(mut writer) => writer.read(key),
        None => Ok(None),
    }
}

/// A row leaves its table and is kept whole.
fn step_aside_for(db: &Connection, table: &str, key: &Key, reason: &str) -> Result<bool> {
    let Some(mut writer) = writer_by_key(db, table)? else { return Ok(false) };
    let Some(row) = writer.read(key)? else { return Ok(false) };
    conflicts::step_aside(db, table, key, &row, reason)?;
    writer.delete(key)?;
    Ok(true)
}

impl Pass<'_, '_> {
    /// Rows that wait for each other leave their tables together and come back together; whatever else is in the way
    /// steps aside.
    pub(super) fn make_room(&mut self) -> Result<()> {
        let blocked = std::mem::take(&mut self.done.blocked);
        let mut waiting = Vec::new();
        for (place, fields) in blocked {
            let Some(row) = self.held(place) else { continue };
            let own_key = self.device_key(place.0, &row.key);
            let Some(writer) = &mut self.tables[place.0].writer else { continue };
            let before = writer.read(&row.key)?;
            if before.is_none() && row.op == Op::Update {
                self.done.wants.push((writer.table.name.clone(), own_key));
                continue;
            }
            let after = writer.over(before.clone(), &row.key, &fields);
            if before.is_some() {
                writer.delete(&row.key)?;
            }
            waiting.push((place, row, fields, before, after));
        }
        for (place, row, fields, before, after) in waiting {
            let Some(writer) = &mut self.tables[place.0].writer else { continue };
            let blockers = writer.in_the_way(&after, &row.key)?;
            if blockers.iter().any(|blocker| self.both_are_the_hubs(place.0, &row.key, blocker)) {
                self.excluded.insert(place);
                continue;
            }
            for blocker in blockers {
                self.blocker_steps_aside(place.0, blocker, &row.key)?;
            }
            let Some(writer) = &mut self.tables[place.0].writer else { continue };
            match writer.insert_row(&after)? {
                Written::Refused { reason, .. } => {
                    if let Some(before) = before {
                        writer.insert_row(&before)?;
                    }
                    self.done.refused.push((place, reason));
                }
                _ => {
                    self.done.rows += 1;
                    self.done.removed.extend(before.map(|before| (place, before, Some(after))));
                    self.done.written.push((place, fields));
                    self.note_that_it_is_back(place, &row);
                }
            }
        }
        Ok(())
    }

    /// Whether a row comes again, with the value for which it has stepped aside, and the one in its way is none of this device's own: the
    /// hub has both, because it lacks the constraint. The one that is here stays and the other waits; they would make room for each other for
    /// ever.
    fn both_are_the_hubs(&self, table: usize, key: &Key, blocker: &Key) -> bool {
        let name = &self.tables[table].head.table;
        let blocker = self.device_key(table, blocker);
        self.aside.contains(&(name.to_ascii_lowercase(), self.device_key(table, key).row_id()))
            && self.unanswered.of(name, &blocker).is_none()
            && self.pinned.of(name, &blocker).is_none()
    }

    /// A row that holds a unique value of the hub's row `key` leaves its table and is kept whole.
    fn blocker_steps_aside(&mut self, table: usize, blocker: Key, key: &Key) -> Result<()> {
        let own_key = self.device_key(table, &blocker);
        let Some(writer) = &mut self.tables[table].writer else { return Ok(()) };
        let Some(row) = writer.read(&blocker)? else { return Ok(()) };
        let name = writer.table.name.clone();
        // Before the row itself: deleting it would take them along, or leave them without a parent.
        let mut leaving = HashSet::from([(name.to_ascii_lowercase(), own_key.clone())]);
        self.done.stepped_aside += self.dependents_step_aside(&name, &row, &mut leaving)?;
        let reason = format!("row {} of the hub has the same unique value", key.row_id());
        conflicts::step_aside(self.db, &name, &own_key, &row, &reason)?;
        if let Some(writer) = &mut self.tables[table].writer {
            writer.delete(&blocker)?;
        }
        self.done.stepped_aside += 1;
        // The hub may have it, under another value by now; or takes it, and then would leave out of its answer what is as sent.
        self.done.wants.push((name, own_key));
        Ok(())
    }

    /// Rows that refer to a row that is about to step aside do so before it, and theirs before them. Rows that the hub has
    /// are asked for again: it has them with another parent.
    pub(super) fn dependents_step_aside(
        &mut self,
        parent: &str,
        row: &[(String, Value)],
        leaving: &mut HashSet<(String, Key)>,
    ) -> Result<u64> {
        let mut left = 0;
        for at in self.references.of_parent(parent) {
            let (child_name, to) = (self.references.key(at).child.clone(), self.references.key(at).to.clone());
            let (Some(values), Some(child)) = (values_of(row, &to), Table::read(self.db, &child_name)?) else {
                continue;
            };
            for key in self.references.children_of(at, &child, &values)? {
                if !leaving.insert((child_name.to_ascii_lowercase(), key.clone())) {
                    continue; // rows may refer to each other in circles
                }
                let Some(own) = read_row(self.db, &child_name, &key)? else { continue };
                left += self.dependents_step_aside(&child_name, &own, leaving)?;
                let reason = "the row that it refers to stepped aside";
                left += u64::from(step_aside_for(self.db, &child_name, &key, reason)?);
                conflicts::ask_for(self.db, &child_name, &key)?;
            }
        }
        Ok(left)
    }

    /// A row that has lost the row that it refers to leaves its table and is kept whole, after those that refer to it. Gives how many
    /// left.
    pub(super) fn orphan_steps_aside(&mut self, table: &str, key: &Key) -> Result<u64> {
        let Some(row) = read_row(self.db, table, key)? else { return Ok(0) };
        let mut leaving = HashSet::from([(table.to_ascii_lowercase(), key.clone())]);
        let left = self.dependents_step_aside(table, &row, &mut leaving)?;
        let reason = "the row that it refers to was deleted on the hub, or has other values there";
        Ok(left + u64::from(step_aside_for(self.db, table, key, reason)?))
    }
}
