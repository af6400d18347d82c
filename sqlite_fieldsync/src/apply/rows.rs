//! Brings the rows of a reply into the application's tables.
//!
//! Invariants: local changes that the hub has not seen stay on top; a row in the way of the hub's steps aside whole;
//! what cannot be written is kept and named, and never stops the rest.

use super::history;
use super::kept::{self, WaitsFor};
use super::mute::Muted;
use super::references::References;
use super::writer::{Writer, Written};
use crate::conflicts::{self, Pinned};
use crate::error::Result;
use crate::schema::Table;
use crate::track;
use fieldsync_core::coalesce::Logged;
use fieldsync_core::delta::Op;
use fieldsync_core::overlay::{overlay, Action, Pending};
use fieldsync_core::reply::{RowChange, TableRows};
use fieldsync_core::{Key, Value};
use rusqlite::Connection;
use std::collections::{HashMap, HashSet};

/// Rounds of putting rows off before what is left is refused.
const ROUNDS_MAX: usize = 50;

/// This device's unanswered changes, by table (lower case) and key in the device's order.
#[derive(Debug, Default)]
pub struct Unanswered {
    rows: HashMap<(String, Key), PendingRow>,
}

/// Unanswered changes of one row, by column name.
#[derive(Debug, Default, Clone)]
struct PendingRow {
    made: bool,
    last: Option<Op>,
    fields: Vec<(String, Value, Value)>,
}

impl Unanswered {
    /// From log entries in the order of their clocks; `name` gives table and column names.
    pub fn new<'t>(
        entries: &[Logged],
        table_name: impl Fn(u32) -> Option<&'t str>,
        column_name: impl Fn(u32, u16) -> Option<&'t str>,
    ) -> Unanswered {
        let mut unanswered = Unanswered::default();
        for entry in entries {
            let Some(table) = table_name(entry.table) else { continue };
            let pending = unanswered.rows.entry((table.to_lowercase(), entry.key.clone())).or_default();
            match entry.op {
                Op::Insert => {
                    // Made again over a deletion that the hub has not seen either: all of it is the device's own.
                    pending.made = true;
                    pending.fields.clear();
                }
                Op::Delete => pending.fields.clear(),
                _ => {}
            }
            pending.last = Some(entry.op);
            if entry.op == Op::Update {
                for field in &entry.fields {
                    if let Some(name) = column_name(entry.table, field.column) {
                        pending.fields.push((name.to_lowercase(), field.old.clone(), field.new.clone()));
                    }
                }
            }
        }
        unanswered
    }

    /// Whether the hub has not answered a change of this row.
    pub fn has(&self, table: &str, key: &Key) -> bool {
        self.of(table, key).is_some()
    }

    /// Whether the hub has not answered a change of this field of this row, or of the row as such.
    pub fn has_field(&self, table: &str, key: &Key, field: &str) -> bool {
        self.of(table, key).is_some_and(|own| {
            own.made
                || own.last != Some(Op::Update)
                || own.fields.iter().any(|(name, _, _)| *name == field.to_lowercase())
        })
    }

    fn of(&self, table: &str, key: &Key) -> Option<&PendingRow> {
        if self.rows.is_empty() {
            return None;
        }
        self.rows.get(&(table.to_lowercase(), key.clone()))
    }
}

/// What an apply did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Rows written or removed.
    pub rows: u64,
    /// Rows kept for later.
    pub kept: u64,
    /// Rows of the device that made room.
    pub stepped_aside: u64,
}

/// A row of the reply: table and place.
type Place = (usize, usize);

/// Everything that one pass over the rows needs and leaves behind.
struct Pass<'a, 'p> {
    db: &'a Connection,
    unanswered: &'p Unanswered,
    pinned: &'p Pinned,
    /// Tables (lower case) in which what this device holds is not overwritten but offered: the hub has lost history, or a
    /// program has rebuilt the table unseen.
    reconciling: &'p HashSet<String>,
    writers: Vec<Option<Writer<'a>>>,
    /// From the arriving key's order to the device's, where they differ.
    key_orders: Vec<Option<Vec<usize>>>,
    references: References<'a>,
    excluded: HashSet<Place>,
    done: Done,
}

/// What one pass leaves behind, forgotten when it is rolled back.
#[derive(Default)]
struct Done {
    rows: u64,
    stepped_aside: u64,
    deletions: Vec<Place>,
    blocked: Vec<(Place, Vec<(u16, Value)>)>,
    written: Vec<(Place, Vec<(u16, Value)>)>,
    removed: Vec<(Place, Vec<(String, Value)>)>,
    wants: Vec<(String, Key)>,
    refused: Vec<(Place, String)>,
    arrived: Vec<(Place, bool)>,
}

/// What breaks a reference.
enum Offence {
    /// The row has to wait: its parent is not here, or others still need it.
    Wait(Place),
    /// A row of the device refers to a removed one, and was not accepted by the hub: it steps aside.
    StepAside { table: String, key: Key },
}

/// Writes rows; `tables` come parents first.
pub fn write(
    db: &Connection,
    mut tables: Vec<TableRows>,
    unanswered: &Unanswered,
    pinned: &Pinned,
    reconciling: &HashSet<String>,
) -> Result<Applied> {
    let known = track::tracked(db)?;
    let tracked: HashSet<String> =
        known.iter().filter(|known| known.state == "tracked").map(|known| known.name.to_lowercase()).collect();
    let mut writers = Vec::new();
    let mut applied = Applied::default();
    let mut arriving = Vec::new();
    let mut written = HashSet::new();
    for table in tables.drain(..) {
        let found = if tracked.contains(&table.table.to_lowercase()) { Table::read(db, &table.table)? } else { None };
        let writer = match found {
            Some(found) => Writer::new(db, found, &table)?,
            None => None,
        };
        match writer {
            Some(writer) => {
                written.insert(writer.table.name.to_lowercase());
                writers.push(Some(writer));
                arriving.push(table);
            }
            None => {
                for row in &table.rows {
                    kept::keep(db, &table, row, WaitsFor::Schema)?;
                    applied.kept += 1;
                }
            }
        }
    }
    if arriving.is_empty() {
        return Ok(applied);
    }
    let muted = Muted::new(db, &written, &tracked)?;
    let key_orders = writers.iter().map(|writer| writer.as_ref().and_then(key_order)).collect();
    for (table, writer) in arriving.iter_mut().zip(&writers) {
        if let Some(writer) = writer {
            table.rows.iter_mut().for_each(|row| writer.fit(&mut row.key, &mut row.fields));
        }
    }
    let mut pass = Pass {
        db,
        unanswered,
        pinned,
        reconciling,
        writers,
        key_orders,
        references: References::load(db)?,
        excluded: HashSet::new(),
        done: Done::default(),
    };
    let mut aside = 0;
    for round in 0.. {
        db.execute_batch("SAVEPOINT fs_rows")?;
        pass.done = Done::default();
        pass.references.forget();
        pass.run(&arriving)?;
        let offences = if round < ROUNDS_MAX { pass.offences(&arriving)? } else { Vec::new() };
        if offences.is_empty() {
            db.execute_batch("RELEASE fs_rows")?;
            break;
        }
        db.execute_batch("ROLLBACK TO fs_rows; RELEASE fs_rows")?;
        for offence in offences {
            match offence {
                Offence::Wait(place) => {
                    pass.excluded.insert(place);
                }
                Offence::StepAside { table, key } => {
                    let reason = "the row that it refers to was deleted on the hub";
                    aside += u64::from(step_aside_for(db, &table, &key, reason)?);
                }
            }
        }
    }
    pass.settle(&arriving, &mut applied)?;
    applied.stepped_aside += aside;
    drop(pass);
    if muted.restore()? {
        track::settle(db)?;
    }
    Ok(applied)
}

fn key_order(writer: &Writer<'_>) -> Option<Vec<usize>> {
    let key = writer.table.key();
    let order: Vec<usize> = key
        .iter()
        .filter_map(|part| {
            writer.columns[..writer.key_len].iter().position(|column| {
                writer.table.columns.get(column.position).is_some_and(|column| column.name == part.name)
            })
        })
        .collect();
    let straight = order.iter().enumerate().all(|(at, place)| at == *place);
    (!straight && order.len() == writer.key_len).then_some(order)
}

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

fn read_row(db: &Connection, table: &str, key: &Key) -> Result<Option<Vec<(String, Value)>>> {
    match writer_by_key(db, table)? {
        Some(mut writer) => writer.read(key),
        None => Ok(None),
    }
}

/// A row that has lost the row that it refers to leaves its table and is kept whole.
fn step_aside_for(db: &Connection, table: &str, key: &Key, reason: &str) -> Result<bool> {
    let Some(mut writer) = writer_by_key(db, table)? else { return Ok(false) };
    let Some(row) = writer.read(key)? else { return Ok(false) };
    conflicts::step_aside(db, table, key, &row, reason)?;
    writer.delete(key)?;
    Ok(true)
}

impl Pass<'_, '_> {
    fn device_key(&self, table: usize, key: &Key) -> Key {
        match &self.key_orders[table] {
            None => key.clone(),
            Some(order) => Key(order.iter().map(|at| key.0[*at].clone()).collect()),
        }
    }

    fn run(&mut self, tables: &[TableRows]) -> Result<()> {
        let quiet = self.unanswered.rows.is_empty() && self.pinned.is_empty() && self.reconciling.is_empty();
        for (at, table) in tables.iter().enumerate() {
            let all_known = self.writers[at]
                .as_ref()
                .is_some_and(|writer| (0..table.columns.len() as u16).all(|c| writer.knows(c)));
            let watched = !self.references.of_child(&table.table).is_empty();
            for (place, row) in table.rows.iter().enumerate() {
                if self.excluded.contains(&(at, place)) {
                    continue;
                }
                if quiet && all_known && row.op != Op::Delete {
                    self.write_fields((at, place), row, &row.fields, watched)?;
                    continue;
                }
                if self.reconciling.contains(&table.table.to_lowercase()) && self.holds_another((at, place), row)? {
                    continue;
                }
                match self.action(at, table, row) {
                    Action::Nothing => {}
                    Action::Delete => self.done.deletions.push((at, place)),
                    Action::Write(mut fields) => {
                        if let Some(writer) = &self.writers[at] {
                            fields.retain(|(column, _)| writer.knows(*column));
                        }
                        if row.op == Op::Update && fields.is_empty() {
                            continue;
                        }
                        self.write_fields((at, place), row, &fields, watched)?;
                    }
                }
            }
        }
        let mut deletions = std::mem::take(&mut self.done.deletions);
        deletions.sort_by_key(|(table, place)| (usize::MAX - table, *place)); // children before parents
        for place in deletions {
            self.delete(place, tables)?;
        }
        self.unblock(tables)
    }

    /// Notes that a row has arrived, and whether this device holds other values of it, which then stay.
    fn holds_another(&mut self, place: Place, row: &RowChange) -> Result<bool> {
        let Some(writer) = &mut self.writers[place.0] else { return Ok(false) };
        let own = if row.op == Op::Insert { writer.read(&row.key)? } else { None };
        let differs = own.is_some_and(|own| {
            let after = writer.over(Some(own.clone()), &row.key, &row.fields);
            after != own
        });
        self.done.arrived.push((place, differs));
        Ok(differs)
    }

    /// What is to be done with an arriving row, given what this device holds of its own.
    fn action(&self, at: usize, table: &TableRows, row: &RowChange) -> Action {
        let pending = match self.unanswered.of(&table.table, &self.device_key(at, &row.key)) {
            None => Pending::default(),
            Some(own) => Pending {
                made: own.made,
                last: own.last,
                fields: own
                    .fields
                    .iter()
                    .filter_map(|(name, old, new)| {
                        let column = table.columns.iter().position(|column| column.eq_ignore_ascii_case(name))?;
                        Some((column as u16, old.clone(), new.clone()))
                    })
                    .collect(),
            },
        };
        let action = overlay(row.op, &row.fields, &pending, &table.sums, &table.kinds);
        let Some(pin) = self.pinned.of(&table.table, &row.key) else { return action };
        match action {
            // A rejected deletion waits for a person, and its row stays away.
            Action::Write(_) if pin.deleted => Action::Nothing,
            Action::Write(fields) if !pin.made => Action::Write(
                fields
                    .into_iter()
                    .filter(|(column, _)| {
                        let name = table.columns.get(usize::from(*column)).map(|name| name.to_lowercase());
                        name.is_none_or(|name| !pin.fields.contains(&name))
                    })
                    .collect(),
            ),
            other => other,
        }
    }

    fn write_fields(&mut self, place: Place, row: &RowChange, fields: &[(u16, Value)], watched: bool) -> Result<()> {
        let Some(writer) = &mut self.writers[place.0] else { return Ok(()) };
        let written = match row.op {
            Op::Insert => match writer.upsert(&row.key, fields)? {
                Written::Missing => Written::Yes, // nothing but a key, and it is there
                other => other,
            },
            _ => writer.update(&row.key, fields)?,
        };
        match written {
            Written::Yes => {
                self.done.rows += 1;
                if watched {
                    self.done.written.push((place, fields.to_vec()));
                }
            }
            Written::Missing => self.done.wants.push((writer.table.name.clone(), row.key.clone())),
            Written::Refused { in_the_way: true, .. } => self.done.blocked.push((place, fields.to_vec())),
            Written::Refused { reason, .. } => self.done.refused.push((place, reason)),
        }
        Ok(())
    }

    fn delete(&mut self, place: Place, tables: &[TableRows]) -> Result<()> {
        let row = &tables[place.0].rows[place.1];
        let Some(writer) = &mut self.writers[place.0] else { return Ok(()) };
        let referenced = !self.references.of_parent(&writer.table.name).is_empty();
        let before = if referenced { writer.read(&row.key)? } else { None };
        match writer.delete(&row.key)? {
            Written::Yes => {
                self.done.rows += 1;
                if let Some(before) = before {
                    self.done.removed.push((place, before));
                }
            }
            Written::Missing => {}
            Written::Refused { reason, .. } => self.done.refused.push((place, reason)),
        }
        Ok(())
    }

    /// Rows that another row was in the way of: first those that others have made room for meanwhile, then the rest together.
    fn unblock(&mut self, tables: &[TableRows]) -> Result<()> {
        loop {
            let blocked = std::mem::take(&mut self.done.blocked);
            let before = blocked.len();
            for (place, fields) in blocked {
                let table = &tables[place.0];
                let watched = !self.references.of_child(&table.table).is_empty();
                self.write_fields(place, &table.rows[place.1], &fields, watched)?;
            }
            match self.done.blocked.len() {
                0 => return Ok(()),
                left if left == before => return self.make_room(tables),
                _ => {}
            }
        }
    }

    /// Rows that wait for each other leave their tables together and come back together; whatever else is in the way
    /// steps aside.
    fn make_room(&mut self, tables: &[TableRows]) -> Result<()> {
        let blocked = std::mem::take(&mut self.done.blocked);
        let mut waiting = Vec::new();
        for (place, fields) in blocked {
            let row = &tables[place.0].rows[place.1];
            let Some(writer) = &mut self.writers[place.0] else { continue };
            let before = writer.read(&row.key)?;
            if before.is_none() && row.op == Op::Update {
                self.done.wants.push((writer.table.name.clone(), row.key.clone()));
                continue;
            }
            let after = writer.over(before.clone(), &row.key, &fields);
            if before.is_some() {
                writer.delete(&row.key)?;
            }
            waiting.push((place, fields, before, after));
        }
        for (place, fields, before, after) in waiting {
            let key = &tables[place.0].rows[place.1].key;
            let Some(writer) = &mut self.writers[place.0] else { continue };
            for blocker in writer.in_the_way(&after, key)? {
                self.blocker_steps_aside(place.0, blocker, key)?;
            }
            let Some(writer) = &mut self.writers[place.0] else { continue };
            match writer.insert_row(&after)? {
                Written::Refused { reason, .. } => {
                    if let Some(before) = before {
                        writer.insert_row(&before)?;
                    }
                    self.done.refused.push((place, reason));
                }
                _ => {
                    self.done.rows += 1;
                    self.done.written.push((place, fields));
                }
            }
        }
        Ok(())
    }

    /// A row that holds a unique value of the hub's row `key` leaves its table and is kept whole.
    fn blocker_steps_aside(&mut self, table: usize, blocker: Key, key: &Key) -> Result<()> {
        let Some(writer) = &mut self.writers[table] else { return Ok(()) };
        let Some(row) = writer.read(&blocker)? else { return Ok(()) };
        let name = writer.table.name.clone();
        // Before the row itself: deleting it would take them along, or leave them without a parent.
        let mut leaving = HashSet::from([(name.to_lowercase(), blocker.clone())]);
        self.dependents_step_aside(&name, &row, &mut leaving)?;
        let reason = format!("row {} of the hub has the same unique value", key.row_id());
        conflicts::step_aside(self.db, &name, &blocker, &row, &reason)?;
        if let Some(writer) = &mut self.writers[table] {
            writer.delete(&blocker)?;
        }
        self.done.stepped_aside += 1;
        let own = self.unanswered.rows.contains_key(&(name.to_lowercase(), blocker.clone()))
            || self.pinned.of(&name, &blocker).is_some();
        if !own {
            self.done.wants.push((name, blocker)); // the hub may have it, under another value by now
        }
        Ok(())
    }

    /// Rows that refer to a row that is about to step aside do so before it, and theirs before them. Rows that the hub has
    /// are asked for again: it has them with another parent.
    fn dependents_step_aside(
        &mut self,
        parent: &str,
        row: &[(String, Value)],
        leaving: &mut HashSet<(String, Key)>,
    ) -> Result<()> {
        for at in self.references.of_parent(parent) {
            let (child_name, to) = (self.references.key(at).child.clone(), self.references.key(at).to.clone());
            let values: Option<Vec<Value>> = to
                .iter()
                .map(|name| {
                    row.iter().find(|(column, _)| column.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
                })
                .collect();
            let (Some(values), Some(child)) = (values, Table::read(self.db, &child_name)?) else { continue };
            for key in self.references.children_of(at, &child, &values)? {
                if !leaving.insert((child_name.to_lowercase(), key.clone())) {
                    continue; // rows may refer to each other in circles
                }
                let Some(own) = read_row(self.db, &child_name, &key)? else { continue };
                self.dependents_step_aside(&child_name, &own, leaving)?;
                if step_aside_for(self.db, &child_name, &key, "the row that it refers to stepped aside")? {
                    self.done.stepped_aside += 1;
                }
                if !self.unanswered.of(&child_name, &key).is_some_and(|pending| pending.made) {
                    self.done.wants.push((child_name.clone(), key));
                }
            }
        }
        Ok(())
    }

    /// References that do not hold after the pass.
    fn offences(&mut self, tables: &[TableRows]) -> Result<Vec<Offence>> {
        let mut found = Vec::new();
        for (place, fields) in std::mem::take(&mut self.done.written) {
            let table = &tables[place.0];
            let row = &table.rows[place.1];
            for at in self.references.of_child(&table.table) {
                let from = self.references.key(at).from.clone();
                if let Some(values) = self.values(place, table, row, &fields, &from)? {
                    if !self.references.parent_is_there(at, &values)? {
                        found.push(Offence::Wait(place));
                        break;
                    }
                }
            }
        }
        for (place, before) in std::mem::take(&mut self.done.removed) {
            self.check_children(place, &tables[place.0].table, &before, &mut found)?;
        }
        Ok(found)
    }

    /// Values of the columns that a row refers by; none if this write did not touch them.
    fn values(
        &mut self,
        place: Place,
        table: &TableRows,
        row: &RowChange,
        fields: &[(u16, Value)],
        from: &[String],
    ) -> Result<Option<Vec<Value>>> {
        let arriving = |name: &str| -> Option<Value> {
            let column = table.columns.iter().position(|column| column.eq_ignore_ascii_case(name))?;
            match row.key.0.get(column) {
                Some(part) => Some(part.clone()),
                None => fields.iter().find(|(at, _)| usize::from(*at) == column).map(|(_, value)| value.clone()),
            }
        };
        let touched = row.op == Op::Insert
            || from.iter().any(|name| {
                fields.iter().any(|(at, _)| {
                    table.columns.get(usize::from(*at)).is_some_and(|column| column.eq_ignore_ascii_case(name))
                })
            });
        if !touched {
            return Ok(None);
        }
        let given: Option<Vec<Value>> = from.iter().map(|name| arriving(name)).collect();
        if given.is_some() {
            return Ok(given);
        }
        let Some(writer) = &mut self.writers[place.0] else { return Ok(None) };
        let stored = writer.read(&row.key)?.unwrap_or_default();
        Ok(from
            .iter()
            .map(|name| {
                stored.iter().find(|(column, _)| column.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
            })
            .collect())
    }

    fn check_children(
        &mut self,
        place: Place,
        parent: &str,
        before: &[(String, Value)],
        found: &mut Vec<Offence>,
    ) -> Result<()> {
        for at in self.references.of_parent(parent) {
            let (child_name, to) = (self.references.key(at).child.clone(), self.references.key(at).to.clone());
            let values: Option<Vec<Value>> = to
                .iter()
                .map(|name| {
                    before.iter().find(|(column, _)| column.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
                })
                .collect();
            let Some(values) = values else { continue };
            // Another write may have brought a row with these values back.
            self.references.forget();
            if self.references.parent_is_there(at, &values)? {
                continue;
            }
            let Some(child) = Table::read(self.db, &child_name)? else { continue };
            let children = self.references.children_of(at, &child, &values)?;
            if children.is_empty() {
                continue;
            }
            let tracked = track::tracked(self.db)?
                .iter()
                .any(|known| known.state == "tracked" && known.name.eq_ignore_ascii_case(&child_name));
            if !tracked {
                if !self.references.act(at, &values)? {
                    found.push(Offence::Wait(place));
                }
                continue;
            }
            for key in children {
                if self.unanswered.of(&child_name, &key).is_some() || self.pinned.of(&child_name, &key).is_some() {
                    // The hub will hear of the child, or a person decides about it: until then the parent stays.
                    found.push(Offence::Wait(place));
                    break;
                }
                found.push(Offence::StepAside { table: child_name.clone(), key });
            }
        }
        Ok(())
    }

    /// Writes down what could not be written.
    fn settle(&mut self, tables: &[TableRows], applied: &mut Applied) -> Result<()> {
        let done = std::mem::take(&mut self.done);
        applied.rows += done.rows;
        applied.stepped_aside += done.stepped_aside;
        for (table, key) in done.wants {
            self.db
                .prepare_cached("INSERT OR IGNORE INTO main.fs_want(table_name, row_key) VALUES (?1, ?2)")?
                .execute((table, conflicts::key_to_bytes(&key)?))?;
        }
        for ((table, place), differs) in done.arrived {
            history::arrived(self.db, &tables[table], &tables[table].rows[place], differs)?;
        }
        for ((table, place), reason) in done.refused {
            let (table, row) = (&tables[table], &tables[table].rows[place]);
            kept::keep(self.db, table, row, WaitsFor::Rows)?;
            conflicts::refused_here(self.db, table, row, &reason)?;
            applied.kept += 1;
        }
        let mut excluded: Vec<Place> = self.excluded.iter().copied().collect();
        excluded.sort_unstable();
        for (table, place) in excluded {
            kept::keep(self.db, &tables[table], &tables[table].rows[place], WaitsFor::Rows)?;
            applied.kept += 1;
        }
        for (at, table) in tables.iter().enumerate() {
            let Some(writer) = &self.writers[at] else { continue };
            if (0..table.columns.len() as u16).all(|column| writer.knows(column)) {
                continue;
            }
            for row in table.rows.iter().filter(|row| row.op != Op::Delete) {
                let fields: Vec<(u16, Value)> =
                    row.fields.iter().filter(|(column, _)| !writer.knows(*column)).cloned().collect();
                if !fields.is_empty() {
                    // An update, so that it never makes a row by itself.
                    let row = RowChange { op: Op::Update, key: row.key.clone(), fields };
                    kept::keep(self.db, table, &row, WaitsFor::Schema)?;
                }
            }
        }
        Ok(())
    }
}
