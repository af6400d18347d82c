//! One pass over all rows of an apply. If references do not hold at its end, it is rolled back and another one is made.

use super::history;
use super::kept::{self, WaitsFor};
use super::references::References;
use super::unanswered::Unanswered;
use super::writer::{Writer, Written};
use crate::conflicts::{self, KeptRow, Pinned, Replaced, Unseen};
use crate::emptied;
use crate::error::Result;
use crate::made_anew;
use crate::schema::Table;
use crate::state;
use fieldsync_core::delta::Op;
use fieldsync_core::overlay::{overlay, Action, Pending};
use fieldsync_core::reply::{RowChange, TableRows};
use fieldsync_core::{Key, Value};
use rusqlite::Connection;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// A row of the apply: its table's number and its own.
pub type Place = (usize, usize);

/// Fields of a row as they are written.
pub type Fields = Vec<(u16, Value)>;

/// Everything that one pass over the rows needs and leaves behind.
pub struct Pass<'a, 'p> {
    pub(super) db: &'a Connection,
    pub(super) unanswered: &'p Unanswered,
    pub(super) pinned: &'p Pinned,
    /// Tables (lower case) in which what this device holds is not overwritten but offered: the hub has lost history, or a
    /// program has rebuilt the table unseen.
    reconciling: &'p HashSet<String>,
    /// Tables (lower case) of which what comes now was changed after all of their rows were compared.
    last_news: HashSet<String>,
    /// What is compared is what the hub's lost history left behind.
    lost_history: bool,
    tracked: &'p HashSet<String>,
    pub(super) tables: Vec<Arriving<'a>>,
    pub(super) references: References<'a>,
    /// Rows that wait for others.
    pub(super) excluded: HashSet<Place>,
    pub(super) done: Done,
    /// Nothing of this device's own has to be looked at.
    quiet: bool,
    /// Rows that stepped aside, by table (lower case) and row id, and wait for a person.
    pub(super) aside: HashSet<(String, String)>,
    /// What this device has written since a table was emptied, once somebody has asked.
    pub(super) written_since: Option<HashSet<(String, Key)>>,
}

/// A table of the apply.
pub struct Arriving<'a> {
    /// As it arrives, without its rows.
    pub head: TableRows,
    /// None: this device does not track it, or it has another key here.
    pub writer: Option<Writer<'a>>,
    /// From the arriving key's order to the device's, where they differ.
    key_order: Option<Vec<usize>>,
    /// Whether the device has all of its columns.
    all_known: bool,
    pub(super) reconciling: bool,
    /// Whether a program made it anew, unseen: what goes under the hub's values may be nowhere else.
    made_anew: bool,
    /// Whether what arrives was changed after all of its rows were compared.
    pub(super) last_news: bool,
    /// Whether a program had dropped it and made it again, empty, and its rows have yet to come.
    pub(super) emptied: bool,
    /// Whether its key may be found under another spelling (COLLATE NOCASE).
    is_collated: bool,
    /// Whether its rows refer to others.
    pub watched: bool,
    /// Columns, other than its key, by which others refer to its rows.
    referred_to_by: HashSet<u16>,
    /// Rows of it that have come in this pass.
    seen: usize,
}

impl Arriving<'_> {
    /// An arriving key in the order of the device's: the order of its own log and of its conflicts.
    pub fn own_order(&self, key: &Key) -> Key {
        in_order(self.key_order.as_deref(), key)
    }
}

fn in_order(order: Option<&[usize]>, key: &Key) -> Key {
    match order {
        None => key.clone(),
        Some(order) => Key(order.iter().map(|at| key.0[*at].clone()).collect()),
    }
}

/// What one pass leaves behind, forgotten when it is rolled back.
#[derive(Default)]
pub struct Done {
    pub rows: u64,
    pub kept: u64,
    pub stepped_aside: u64,
    deletions: Vec<Place>,
    pub blocked: Vec<(Place, Fields)>,
    pub written: Vec<(Place, Fields)>,
    /// Rows that others may refer to and that are gone, or have other values in the columns they are referred to by: as they were,
    /// and as they are.
    pub removed: Vec<(Place, KeptRow, Option<KeptRow>)>,
    pub wants: Vec<(String, Key)>,
    /// Rows that had stepped aside and came from the hub.
    pub back: Vec<(String, String)>,
    pub refused: Vec<(Place, String)>,
    /// Rows whose key the hub spells otherwise, but not for this database: they have arrived, and the deletion of the former
    /// spelling is none of theirs.
    respelled: HashSet<(usize, Key)>,
    /// The rows that the places above, and the excluded ones, name.
    pub held: HashMap<Place, Rc<RowChange>>,
}

impl<'a, 'p> Pass<'a, 'p> {
    /// Nothing has come yet.
    pub fn new(
        db: &'a Connection,
        unanswered: &'p Unanswered,
        pinned: &'p Pinned,
        reconciling: &'p HashSet<String>,
        tracked: &'p HashSet<String>,
        references: References<'a>,
    ) -> Result<Pass<'a, 'p>> {
        Ok(Pass {
            db,
            unanswered,
            pinned,
            reconciling,
            last_news: made_anew::with_last_news_to_come(db)?,
            lost_history: state::integer(db, "reconciling")? != 0,
            tracked,
            tables: Vec::new(),
            references,
            excluded: HashSet::new(),
            done: Done::default(),
            quiet: unanswered.is_empty() && pinned.is_empty() && reconciling.is_empty(),
            aside: conflicts::aside(db)?,
            written_since: None,
        })
    }

    /// Begins a pass, the first or another one.
    pub fn begin(&mut self) {
        self.done = Done::default();
        self.references.forget();
        self.tables.iter_mut().for_each(|table| table.seen = 0);
    }

    /// Writes a block of rows. Deletions, and what is blocked, wait for the end.
    pub fn block(&mut self, number: usize, table: &TableRows, first: bool, rows: &mut [RowChange]) -> Result<()> {
        if first && number == self.tables.len() {
            let arriving = self.arriving(table)?;
            self.tables.push(arriving);
        }
        let arriving = &mut self.tables[number];
        let begin = arriving.seen;
        arriving.seen += rows.len();
        let Some(writer) = &arriving.writer else {
            kept::remember_seen(self.db, &table.table, None)?;
            for row in rows.iter() {
                kept::keep(self.db, table, row, WaitsFor::Schema)?;
                self.done.kept += 1;
            }
            return Ok(());
        };
        for row in rows.iter_mut() {
            let fitted = writer.fit(&mut row.key, &mut row.fields)?;
            if row.op == Op::Delete {
                continue;
            }
            if fitted {
                self.done.respelled.insert((number, row.key.clone()));
            } else if arriving.is_collated {
                let Some(own) = writer.key_here(&row.key)?.filter(|own| *own != row.key) else { continue };
                // The hub may know the former spelling as another record, deleted: what is written here from now on is not about that
                // one. What has been written already is told under the name that it has in the log.
                let key = in_order(arriving.key_order.as_deref(), &own);
                let table = &arriving.head.table;
                if self.unanswered.of(table, &key).is_none() && self.pinned.of(table, &key).is_none() {
                    writer.respell(&row.key)?;
                }
                self.done.respelled.insert((number, own));
            }
        }
        let written = self.done.written.len();
        for (at, row) in rows.iter().enumerate() {
            self.row((number, begin + at), row)?;
        }
        // References to rows that are there already need no second look.
        for (place, fields) in self.done.written.split_off(written) {
            let row = &rows[place.1 - begin];
            if self.lacks_parent(place, row, &fields)?.is_some() {
                self.done.held.insert(place, Rc::new(row.clone()));
                self.done.written.push((place, fields));
            }
        }
        Ok(())
    }

    fn arriving(&self, table: &TableRows) -> Result<Arriving<'a>> {
        let found = if self.tracked.contains(&table.table.to_ascii_lowercase()) {
            Table::read(self.db, &table.table)?
        } else {
            None
        };
        let writer = match found {
            Some(found) => Writer::new(self.db, found, table)?,
            None => None,
        };
        let reconciling = self.reconciling.contains(&table.table.to_ascii_lowercase());
        Ok(Arriving {
            key_order: writer.as_ref().and_then(key_order),
            all_known: writer
                .as_ref()
                .is_some_and(|writer| (0..table.columns.len() as u16).all(|column| writer.knows(column))),
            reconciling,
            is_collated: writer.as_ref().is_some_and(Writer::is_collated),
            made_anew: writer.is_some() && made_anew::is_unseen(self.db, &table.table, reconciling)?,
            last_news: self.last_news.contains(&table.table.to_ascii_lowercase()),
            emptied: writer.is_some() && emptied::is_emptied(self.db, &table.table)?,
            watched: !self.references.of_child(&table.table).is_empty(),
            referred_to_by: self.referred_to_by(table),
            head: kept::head(table),
            writer,
            seen: 0,
        })
    }

    fn referred_to_by(&self, table: &TableRows) -> HashSet<u16> {
        let numbers = self.references.of_parent(&table.table).into_iter();
        numbers
            .flat_map(|at| &self.references.key(at).to)
            .filter_map(|name| table.columns.iter().position(|column| column.eq_ignore_ascii_case(name)))
            .filter(|at| *at >= usize::from(table.key_len))
            .map(|at| at as u16)
            .collect()
    }

    fn row(&mut self, place: Place, row: &RowChange) -> Result<()> {
        if self.tables[place.0].emptied && !self.is_to_be_written(place, row)? {
            return Ok(());
        }
        let table = &self.tables[place.0];
        if table.last_news && row.op != Op::Delete {
            history::overtaken(self.db, &table.head, &table.own_order(&row.key), row)?;
        }
        if self.excluded.contains(&place) {
            self.done.held.insert(place, Rc::new(row.clone()));
        } else if self.quiet && table.all_known && !table.made_anew && row.op != Op::Delete {
            self.write_fields(place, row, &row.fields)?;
        } else if table.reconciling {
            let (counters, rest) = self.counters_apart(place.0, row);
            let others_stay = self.holds_another(place, &rest)?;
            self.act(place, if others_stay { &counters } else { row })?;
        } else {
            self.act(place, row)?;
        }
        self.keep_unknown_fields(place.0, row)
    }

    /// Does with an arriving row what is to be done.
    fn act(&mut self, place: Place, row: &RowChange) -> Result<()> {
        match self.action(place.0, row) {
            Action::Nothing => {}
            Action::Delete => {
                self.done.held.insert(place, Rc::new(row.clone()));
                self.done.deletions.push(place);
            }
            Action::Write(mut fields) => {
                if let Some(writer) = &self.tables[place.0].writer {
                    fields.retain(|(column, _)| writer.knows(*column));
                }
                if self.tables[place.0].made_anew {
                    self.keep_what_goes(place.0, row, &fields)?;
                }
                if row.op == Op::Insert && !self.pinned.is_empty() {
                    let (head, key) = (&self.tables[place.0].head, self.device_key(place.0, &row.key));
                    if self.pinned.of(&head.table, &key).is_some_and(|pin| pin.made) {
                        conflicts::hub_has_its_key(self.db, head, &key, row)?;
                    }
                }
                if row.op != Op::Update || !fields.is_empty() {
                    self.write_fields(place, row, &fields)?;
                }
            }
        }
        Ok(())
    }

    /// A row's counters, and the row without them. After a lost history counters are no content to compare: the logs of those who
    /// counted are offered again, each by its differences, and a value from here would take the others' back.
    fn counters_apart(&self, number: usize, row: &RowChange) -> (RowChange, RowChange) {
        let sums = &self.tables[number].head.sums;
        let is_counter = |(column, _): &&(u16, Value)| self.lost_history && sums.contains(column);
        let (counters, rest) = row.fields.iter().partition::<Vec<_>, _>(is_counter);
        let of = |op: Op, fields: Vec<&(u16, Value)>| RowChange {
            op,
            key: row.key.clone(),
            fields: fields.into_iter().cloned().collect(),
        };
        (of(Op::Update, counters), of(row.op, rest))
    }

    /// What the hub's values replace in a table that was made anew is old, or was written there unseen: it is on record.
    fn keep_what_goes(&mut self, number: usize, row: &RowChange, fields: &[(u16, Value)]) -> Result<()> {
        let table = &mut self.tables[number];
        let own_key = table.own_order(&row.key);
        let Some(writer) = &mut table.writer else { return Ok(()) };
        let Some(own) = writer.read(&row.key)? else { return Ok(()) };
        let replaced = writer.replaced(own, fields)?;
        if !replaced.is_empty() {
            conflicts::replaced_unseen(self.db, &writer.table.name, &own_key, &replaced, Unseen::MadeAnew)?;
        }
        Ok(())
    }

    /// Fields that the device has no column for wait for one.
    fn keep_unknown_fields(&mut self, number: usize, row: &RowChange) -> Result<()> {
        let table = &self.tables[number];
        let Some(writer) = table.writer.as_ref().filter(|_| !table.all_known && row.op != Op::Delete) else {
            return Ok(());
        };
        let fields: Fields = row.fields.iter().filter(|(column, _)| !writer.knows(*column)).cloned().collect();
        if !fields.is_empty() {
            for name in fields.iter().filter_map(|(column, _)| table.head.columns.get(usize::from(*column))) {
                kept::remember_seen(self.db, &table.head.table, Some(name))?;
            }
            // An update, so that it never makes a row by itself.
            let row = RowChange { op: Op::Update, key: row.key.clone(), fields };
            kept::keep(self.db, &table.head, &row, WaitsFor::Schema)?;
        }
        Ok(())
    }

    /// Does what waits for all rows to have come.
    pub fn finish(&mut self) -> Result<()> {
        let mut deletions = std::mem::take(&mut self.done.deletions);
        deletions.sort_by_key(|(table, place)| (usize::MAX - table, *place)); // children before parents
        for place in deletions {
            self.delete(place)?;
        }
        self.unblock()
    }

    /// A row that a place names.
    pub(super) fn held(&self, place: Place) -> Option<Rc<RowChange>> {
        self.done.held.get(&place).cloned()
    }

    pub(super) fn device_key(&self, number: usize, key: &Key) -> Key {
        self.tables[number].own_order(key)
    }

    /// Notes that a row has arrived, and whether this device holds other values of it, which then stay.
    fn holds_another(&mut self, place: Place, row: &RowChange) -> Result<bool> {
        let table = &mut self.tables[place.0];
        let own_key = table.own_order(&row.key);
        let Some(writer) = &mut table.writer else { return Ok(false) };
        let own = if row.op == Op::Insert { writer.read(&row.key)? } else { None };
        let differs = own.is_some_and(|own| {
            let after = writer.over(Some(own.clone()), &row.key, &row.fields);
            after != own
        });
        history::arrived(self.db, &table.head, &own_key, row, differs)?;
        Ok(differs)
    }

    /// What is to be done with an arriving row, given what this device holds of its own.
    fn action(&self, number: usize, row: &RowChange) -> Action {
        let table = &self.tables[number].head;
        let pending = match self.unanswered.of(&table.table, &self.device_key(number, &row.key)) {
            None => Pending::default(),
            Some(own) => Pending {
                made: own.made,
                unmade: own.unmade,
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
        if self.pinned.is_empty() {
            return action;
        }
        let Some(pin) = self.pinned.of(&table.table, &self.device_key(number, &row.key)) else { return action };
        match action {
            // A rejected deletion waits for a person, and its row stays away.
            Action::Write(_) if pin.deleted => Action::Nothing,
            // Of the record that was refused the hub has deleted nothing: it had another one under this key before.
            Action::Delete if pin.made && !pin.beside => Action::Nothing,
            Action::Write(fields) if !pin.made => Action::Write(
                fields
                    .into_iter()
                    .filter(|(column, _)| {
                        let name = table.columns.get(usize::from(*column)).map(|name| name.to_ascii_lowercase());
                        name.is_none_or(|name| !pin.fields.contains(&name))
                    })
                    .collect(),
            ),
            other => other,
        }
    }

    fn write_fields(&mut self, place: Place, row: &RowChange, fields: &[(u16, Value)]) -> Result<()> {
        let table = &mut self.tables[place.0];
        let Some(writer) = &mut table.writer else { return Ok(()) };
        let referred = fields.iter().any(|(column, _)| table.referred_to_by.contains(column));
        let before = if referred { writer.read(&row.key)? } else { None };
        // Fields that stay as this device has them are left out: then the row is there, and what NOT NULL asks for as well.
        let held_back = row.op == Op::Insert && fields.len() < row.fields.len();
        let written = match row.op {
            Op::Insert if held_back && writer.update(&row.key, fields)? == Written::Yes => Written::Yes,
            Op::Insert => writer.upsert(&row.key, fields)?,
            _ => writer.update(&row.key, fields)?,
        };
        match written {
            Written::Yes => {
                self.done.rows += 1;
                if let Some(before) = before {
                    let after = writer.read(&row.key)?;
                    self.done.removed.push((place, before, after));
                }
                if table.watched {
                    self.done.written.push((place, fields.to_vec()));
                }
                self.note_that_it_is_back(place, row);
            }
            Written::Missing => {
                let key = in_order(table.key_order.as_deref(), &row.key);
                self.done.wants.push((writer.table.name.clone(), key));
            }
            Written::Refused { in_the_way, reason } => {
                self.done.held.insert(place, Rc::new(row.clone()));
                if in_the_way {
                    self.done.blocked.push((place, fields.to_vec()));
                } else {
                    self.done.refused.push((place, reason));
                }
            }
        }
        Ok(())
    }

    /// A row that had stepped aside is in its table again: the hub has it.
    pub(super) fn note_that_it_is_back(&mut self, place: Place, row: &RowChange) {
        if row.op == Op::Insert && !self.aside.is_empty() {
            let name =
                (self.tables[place.0].head.table.to_ascii_lowercase(), self.device_key(place.0, &row.key).row_id());
            if self.aside.contains(&name) {
                self.done.back.push(name);
            }
        }
    }

    fn delete(&mut self, place: Place) -> Result<()> {
        let Some(row) = self.held(place) else { return Ok(()) };
        if self.done.respelled.contains(&(place.0, row.key.clone())) {
            return Ok(());
        }
        let table = &mut self.tables[place.0];
        let Some(writer) = &mut table.writer else { return Ok(()) };
        let referenced = !self.references.of_parent(&writer.table.name).is_empty();
        // Where all rows are compared, deletions of long ago come as well: the row may have been made again since, unseen here, or in the
        // days that the hub has lost.
        let unseen = match (table.made_anew || table.reconciling, self.lost_history && !table.made_anew) {
            (false, _) => None,
            (true, false) => Some(Unseen::MadeAnew),
            (true, true) => Some(Unseen::LostHistory),
        };
        let before =
            if referenced || unseen.is_some() || conflicts::any(self.db)? { writer.read(&row.key)? } else { None };
        let name = writer.table.name.clone();
        if let (Some(unseen), Some(before)) = (unseen, &before) {
            let key = in_order(table.key_order.as_deref(), &row.key);
            let replaced: Vec<Replaced> =
                before.iter().map(|(name, value)| (name.clone(), value.clone(), None)).collect();
            conflicts::replaced_unseen(self.db, &name, &key, &replaced, unseen)?;
        }
        match writer.delete(&row.key)? {
            Written::Yes => {
                self.done.rows += 1;
                if let Some(before) = &before {
                    let key = in_order(table.key_order.as_deref(), &row.key);
                    conflicts::keep_deleted(self.db, &name, &key, before)?;
                }
                if let Some(before) = before.filter(|_| referenced) {
                    self.done.removed.push((place, before, None));
                }
            }
            Written::Missing => {}
            Written::Refused { reason, .. } => self.done.refused.push((place, reason)),
        }
        Ok(())
    }

    /// Rows that another row was in the way of: first those that others have made room for meanwhile, then the rest together.
    fn unblock(&mut self) -> Result<()> {
        loop {
            let blocked = std::mem::take(&mut self.done.blocked);
            let before = blocked.len();
            for (place, fields) in blocked {
                if let Some(row) = self.held(place) {
                    self.write_fields(place, &row, &fields)?;
                }
            }
            match self.done.blocked.len() {
                0 => return Ok(()),
                left if left == before => return self.make_room(),
                _ => {}
            }
        }
    }
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
