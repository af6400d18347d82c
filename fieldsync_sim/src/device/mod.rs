//! A device: what its database file holds, and what export and apply do to it.
//!
//! The file is a value. A crash is a step that never replaced it; a copy is a clone of it; a backup is an old one.

mod apply;
mod export;

use crate::schema::{self, Row, RowName, Table, TABLES};
use fieldsync_core::coalesce::{Logged, LoggedField};
use fieldsync_core::delta::{client_tag, Base, BatchId, ClientTag, HistoryTag, Op, Recovery};
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::wire::{Shape, Shapes};
use fieldsync_core::{Hlc, Key, Snapshot, Value};
use std::collections::{BTreeMap, BTreeSet};

/// One entry of the change log.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What was logged.
    pub logged: Logged,
    /// Refused by the hub, kept until a person settles it.
    pub parked: bool,
    /// Refused under an identity that this database no longer has: it goes again, counted before.
    pub again: bool,
}

/// A device's database.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its identity.
    pub client_id: String,
    /// Its key.
    pub key: MacKey,
    /// The application's rows, those that stepped aside among them.
    pub rows: BTreeMap<RowName, Row>,
    /// Rows that stepped aside for a hub row.
    pub aside: BTreeSet<RowName>,
    /// How many columns of each table it knows.
    pub width: [u16; TABLES.len()],
    /// Values of columns that it does not know yet.
    pub later: BTreeMap<(RowName, u16), Value>,
    /// The change log.
    pub log: Vec<Entry>,
    /// The last clock it gave.
    pub clock: Hlc,
    /// The hub has answered everything up to here.
    pub watermark: Hlc,
    /// Up to here it has been told what became of its changes: an answer that only confirms tells nothing.
    pub told: Hlc,
    /// What it has seen.
    pub cursor: Option<Snapshot>,
    /// Whose history.
    pub history: HistoryTag,
    /// The last batch whose answer was applied.
    pub parent: BatchId,
    /// Batches since, with their place among all exports.
    pub unanswered: Vec<(BatchId, u64)>,
    /// How many exports there were.
    pub sequence: u64,
    /// Where exports ended, above the watermark: the hub may have applied any of them, answered or not.
    pub ends: BTreeSet<Hlc>,
    /// What it had seen when it wrote up to a clock.
    pub bases: Vec<Base>,
    /// Rows it asks for, with the export that asked for them; None: none did yet.
    pub wants: BTreeMap<RowName, Option<u64>>,
    /// Rows of the hub that wait outside for what they refer to. The real device keeps them; this one asks for them again.
    pub waiting: BTreeSet<RowName>,
    /// Rows that the hub has deleted and that something here still needs.
    pub doomed: BTreeSet<RowName>,
    /// Open rejections by the hub's number: the row, and the last clock that was refused.
    pub rejections: BTreeMap<u64, (RowName, Hlc)>,
    /// The hub has lost history: what comes next is compared with what is here.
    pub reconciling: bool,
    /// What was found by comparing, while it is under way.
    pub recovery: Option<Recovery>,
    /// The hub's time of the last answer.
    pub last_sync: Hlc,
    /// Entries up to here are offered for the second time: what the rows show may be what became of them the first time.
    pub offered_again: Hlc,
    /// Shapes that the hub is known to know.
    pub hub_knows: Shapes,
    /// Shapes that batches named whose answers are awaited.
    pub named: Vec<(BatchId, Shape)>,
    /// Shapes of replies.
    pub reply_shapes: Shapes,
    /// A reply left out names that are not known here.
    pub names_wanted: bool,
    /// Whether blobs are written plainly.
    pub plain: bool,
}

/// Why a reply was not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It cannot be read.
    Damaged,
    /// It is for somebody else, or of another history.
    NotMine,
    /// It answers no batch that waits for an answer, or would take the cursor back.
    Stale,
}

/// What an apply did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Rows that came.
    pub rows: usize,
    /// Whether the hub has more.
    pub more: bool,
}

impl Device {
    /// A fresh device.
    pub fn new(client_id: &str, key: MacKey, columns_of_memo: u16) -> Device {
        let mut width = [0; TABLES.len()];
        (0..TABLES.len()).for_each(|table| width[table] = schema::width(table));
        width[schema::MEMO] = columns_of_memo;
        Device {
            client_id: client_id.to_owned(),
            key,
            rows: BTreeMap::new(),
            aside: BTreeSet::new(),
            width,
            later: BTreeMap::new(),
            log: Vec::new(),
            clock: Hlc::default(),
            watermark: Hlc::default(),
            told: Hlc::default(),
            cursor: None,
            history: 0,
            parent: 0,
            unanswered: Vec::new(),
            sequence: 0,
            ends: BTreeSet::new(),
            bases: Vec::new(),
            wants: BTreeMap::new(),
            waiting: BTreeSet::new(),
            doomed: BTreeSet::new(),
            rejections: BTreeMap::new(),
            reconciling: false,
            recovery: None,
            last_sync: Hlc::default(),
            offered_again: Hlc::default(),
            hub_knows: Shapes::none(),
            named: Vec::new(),
            reply_shapes: Shapes::none(),
            names_wanted: false,
            plain: true,
        }
    }

    /// How blobs name it.
    pub fn tag(&self) -> ClientTag {
        client_tag(&self.client_id)
    }

    /// A row that the application sees.
    pub fn row(&self, name: &RowName) -> Option<&Row> {
        self.rows.get(name).filter(|_| !self.aside.contains(name))
    }

    /// Rows that the application sees.
    pub fn visible(&self) -> impl Iterator<Item = (&RowName, &Row)> {
        self.rows.iter().filter(|(name, _)| !self.aside.contains(name))
    }

    /// Whether anything refers to the row.
    pub fn is_needed(&self, name: &RowName) -> bool {
        self.rows.iter().any(|(child, row)| child != name && schema::refers_to(child, row, name))
    }

    /// Log entries that the hub has not answered.
    pub fn pending(&self) -> usize {
        self.log.iter().filter(|entry| self.is_pending(entry)).count()
    }

    fn is_pending(&self, entry: &Entry) -> bool {
        entry.again || entry.logged.clock > self.watermark
    }

    fn log(&mut self, wall_ms: u64, name: &RowName, op: Op, fields: Vec<LoggedField>) {
        self.clock = self.clock.tick(wall_ms);
        let logged =
            Logged { table: name.0 as u32, op, key: name.1.clone(), clock: self.clock, count: 1, fields, again: false };
        self.log.push(Entry { logged, parked: false, again: false });
    }

    /// INSERT.
    pub fn insert(&mut self, wall_ms: u64, name: &RowName, row: Row) {
        self.rows.insert(name.clone(), row);
        self.log(wall_ms, name, Op::Insert, Vec::new());
    }

    /// UPDATE of some columns; logs those that change.
    pub fn update(&mut self, wall_ms: u64, name: &RowName, changes: Vec<(u16, Value)>) {
        let Some(row) = self.rows.get_mut(name) else { return };
        let mut fields = Vec::new();
        for (column, new) in changes {
            let old = std::mem::replace(&mut row[usize::from(column)], new.clone());
            if old != new {
                fields.push(LoggedField { column, old, new });
            }
        }
        if !fields.is_empty() {
            self.log(wall_ms, name, Op::Update, fields);
        }
    }

    /// DELETE.
    pub fn delete(&mut self, wall_ms: u64, name: &RowName) {
        let Some(row) = self.rows.remove(name) else { return };
        self.doomed.remove(name); // what is made under its key from now on is another row
        let fields = schema::fields(name.0, self.width[name.0])
            .map(|column| LoggedField { column, old: row[usize::from(column)].clone(), new: Value::Null })
            .collect();
        self.log(wall_ms, name, Op::Delete, fields);
    }

    /// ALTER TABLE memo ADD COLUMN extra: what came before the column is shown.
    pub fn add_column(&mut self) {
        self.width[schema::MEMO] = schema::width(schema::MEMO);
        for ((name, column), value) in std::mem::take(&mut self.later) {
            if let Some(row) = self.rows.get_mut(&name) {
                row[usize::from(column)] = value;
            }
        }
    }

    /// Key of a row as a text.
    pub fn describe(name: &RowName) -> String {
        format!("{}/{}", TABLES[name.0].name, name.1.row_id())
    }

    /// A table's rows that the application sees.
    pub fn keys(&self, table: Table) -> Vec<Key> {
        self.visible().filter(|((at, _), _)| *at == table).map(|((_, key), _)| key.clone()).collect()
    }
}
