//! A device: what its database file holds, and what export and apply do to it.
//!
//! The file is a value. A crash is a step that never replaced it; a copy is a clone of it; a backup is an old one.

use crate::post::{self, Unreadable};
use crate::schema::{self, Row, RowName, Table, TABLES};
use fieldsync_core::coalesce::{coalesce, take_along, Logged, LoggedField};
use fieldsync_core::delta::{
    client_tag, cut_at_ends, Base, BatchId, ClientTag, Delta, DeltaBody, HistoryTag, Op, Recovery, TableChanges, Want,
};
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::overlay::{overlay, Action, Pending};
use fieldsync_core::reply::{Notice, Reply, TableRows};
use fieldsync_core::wire::{Shape, Shapes};
use fieldsync_core::{Hlc, Key, Snapshot, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

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
    pub fn new(client_id: &str, key: MacKey, columns_of_place: u16) -> Device {
        let mut width = [0; TABLES.len()];
        (0..TABLES.len()).for_each(|table| width[table] = schema::width(table));
        width[schema::PLACE] = columns_of_place;
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

    // ---- the application writes ------------------------------------------------------------------------------------

    fn log(&mut self, wall_ms: u64, name: &RowName, op: Op, fields: Vec<LoggedField>) {
        self.clock = self.clock.tick(wall_ms);
        let logged = Logged { table: name.0 as u32, op, key: name.1.clone(), clock: self.clock, count: 1, fields };
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
        let fields = schema::fields(name.0, self.width[name.0])
            .map(|column| LoggedField { column, old: row[usize::from(column)].clone(), new: Value::Null })
            .collect();
        self.log(wall_ms, name, Op::Delete, fields);
    }

    /// ALTER TABLE place ADD COLUMN extra: what came before the column is shown.
    pub fn add_column(&mut self) {
        self.width[schema::PLACE] = schema::width(schema::PLACE);
        for ((name, column), value) in std::mem::take(&mut self.later) {
            if let Some(row) = self.rows.get_mut(&name) {
                row[usize::from(column)] = value;
            }
        }
    }

    // ---- export ----------------------------------------------------------------------------------------------------

    /// fs_export_delta. With `most`: no more than so many log entries.
    pub fn export(&mut self, wall_ms: u64, most: Option<usize>) -> (Vec<u8>, usize) {
        let fresh: Vec<&Entry> = self.log.iter().filter(|entry| self.is_pending(entry)).collect();
        let taken = most.map_or(fresh.len(), |most| most.min(fresh.len()));
        let more = taken < fresh.len();
        let high = fresh[..taken].last().map_or(self.watermark, |entry| entry.logged.clock.max(self.watermark));
        let offered = |entry: &&Entry| self.is_pending(entry) && entry.logged.clock <= high;
        let mut log: Vec<Logged> = Vec::new();
        for entry in self.log.iter().filter(offered) {
            let count = if entry.again { 0 } else { entry.logged.count };
            log.push(Logged { count, ..entry.logged.clone() });
        }
        // A rejected change goes again when its row is edited again, so that the hub gets all of it.
        let parked = self.log.iter().filter(|entry| entry.parked).map(|entry| entry.logged.clone()).collect();
        let taken_along = take_along(parked, &mut log);
        let boundaries: Vec<Hlc> = self.ends.iter().copied().chain(more.then_some(high)).collect();
        // Rows as they were at `high`: a part of the log must not tell what was written after it.
        let after: Vec<&Logged> =
            self.log.iter().map(|entry| &entry.logged).filter(|logged| logged.clock > high).collect();
        let folded = coalesce(log, &boundaries, |table, key| {
            let name = (table as usize, key.clone());
            Ok::<_, Infallible>(self.row_before(&name, &after))
        })
        .unwrap_or_else(|never| match never {});
        let mut tables: Vec<TableChanges> = Vec::new();
        let mut wants: BTreeSet<RowName> = self.wants.keys().chain(&self.waiting).cloned().collect();
        // What was refused under another identity may show otherwise than it was written.
        let refused = self.log.iter().filter(|entry| entry.again);
        let once_refused: BTreeSet<RowName> =
            refused.map(|entry| (entry.logged.table as usize, entry.logged.key.clone())).collect();
        let rows = folded.len();
        let first = folded.iter().map(|folded| folded.change.first_clock).chain(taken_along.values().copied()).min();
        for mut folded in folded {
            if let Some(first) = taken_along.get(&(folded.table, folded.change.key.clone())) {
                folded.change.first_clock = folded.change.first_clock.min(*first);
            }
            let table = folded.table as usize;
            let name = TABLES[table].name;
            if folded.change.first_clock <= self.offered_again
                || once_refused.contains(&(table, folded.change.key.clone()))
            {
                wants.insert((table, folded.change.key.clone()));
            }
            let at = tables.iter().position(|changes| changes.table == name).unwrap_or_else(|| {
                tables.push(TableChanges {
                    table: name.to_owned(),
                    columns: schema::names(table, self.width[table]),
                    key_len: schema::key_len(table),
                    changes: Vec::new(),
                });
                tables.len() - 1
            });
            tables[at].changes.push(folded.change);
        }
        let body = DeltaBody {
            parent: self.parent,
            unanswered: self.unanswered.iter().map(|(batch, _)| *batch).collect(),
            cursor: self.cursor.clone(),
            bases: cut_at_ends(
                self.bases.clone(),
                self.cursor.as_ref(),
                self.ends.iter().copied(),
                (first.unwrap_or(high), high),
            ),
            watermark: self.watermark,
            high,
            more,
            wants: wants
                .iter()
                .map(|(table, key)| Want { table: TABLES[*table].name.to_owned(), key: key.clone() })
                .collect(),
            settled: Vec::new(),
            recovery: self.recovery,
            names_wanted: self.names_wanted,
            tables,
        };
        let named = post::named_by_delta(&body.tables, &self.hub_knows);
        let delta = Delta { client: self.tag(), history: self.history, device_now_ms: wall_ms, body };
        let (blob, batch) = post::write_delta(&delta, &self.key, &self.hub_knows, self.plain);
        self.named.extend(named.into_iter().map(|shape| (batch, shape)));
        self.sequence += 1;
        self.unanswered.push((batch, self.sequence));
        self.wants.values_mut().filter(|asked| asked.is_none()).for_each(|asked| *asked = Some(self.sequence));
        self.ends.insert(high);
        (blob, rows)
    }

    /// A row's values before some later log entries.
    fn row_before(&self, name: &RowName, after: &[&Logged]) -> Option<Vec<(u16, Value)>> {
        let mut row = self.rows.get(name).cloned();
        for logged in after.iter().rev().filter(|logged| (logged.table as usize, &logged.key) == (name.0, &name.1)) {
            match logged.op {
                Op::Insert => row = None,
                Op::Delete => {
                    let mut before = schema::blank(name.0);
                    for field in &logged.fields {
                        before[usize::from(field.column)] = field.old.clone();
                    }
                    row = Some(before);
                }
                _ => {
                    if let Some(row) = &mut row {
                        for field in &logged.fields {
                            row[usize::from(field.column)] = field.old.clone();
                        }
                    }
                }
            }
        }
        let told = schema::fields(name.0, self.width[name.0]);
        row.map(|row| told.map(|column| (column, row[usize::from(column)].clone())).collect())
    }

    // ---- apply -----------------------------------------------------------------------------------------------------

    /// fs_apply_delta: all or nothing.
    pub fn apply(&mut self, blob: &[u8]) -> Result<Report, Refusal> {
        let reply = match post::read_reply(blob, &self.key, &self.reply_shapes) {
            Ok(reply) => reply,
            Err(Unreadable::NamesUnknown) => {
                self.names_wanted = true;
                return Ok(Report { rows: 0, more: true });
            }
            Err(Unreadable::Damaged) => return Err(Refusal::Damaged),
        };
        if reply.client != self.tag() {
            return Err(Refusal::NotMine);
        }
        let place = self.unanswered.iter().position(|(batch, _)| *batch == reply.body.batch);
        let place = place.ok_or(Refusal::Stale)?;
        let has = |wanted: fn(&Notice) -> bool| reply.body.notices.iter().any(wanted);
        if has(|notice| matches!(notice, Notice::NamesWanted)) {
            self.names_wanted = false;
            self.hub_knows = Shapes::none();
            self.named.clear();
            return Ok(Report { rows: 0, more: true });
        }
        if let Some(new_id) = reply.body.notices.iter().find_map(|notice| match notice {
            Notice::NewIdentity { client_id, .. } => Some(client_id),
            _ => None,
        }) {
            self.key = self.key.derive(new_id);
            self.client_id.clone_from(new_id);
            self.parent = 0;
            self.unanswered.clear();
            self.forget_shapes();
            // The hub will speak of its rejections to whoever goes on under the old name.
            self.rejections.clear();
            for entry in self.log.iter_mut().filter(|entry| entry.parked) {
                entry.parked = false;
                entry.again = true;
            }
            return Ok(Report { rows: 0, more: true });
        }
        if let Some((watermark, last_batch)) = reply.body.notices.iter().find_map(|notice| match notice {
            Notice::NewHistory { watermark, last_batch, .. } => Some((*watermark, *last_batch)),
            _ => None,
        }) {
            if reply.history == self.history {
                return Err(Refusal::Stale); // told before
            }
            self.begin_new_history(reply.history, watermark, last_batch);
            return Ok(Report { rows: 0, more: true });
        }
        if self.history != 0 && reply.history != self.history {
            return Err(Refusal::NotMine);
        }
        if self.cursor.as_ref().is_some_and(|cursor| !reply.body.cursor.covers(cursor)) {
            return Err(Refusal::Stale);
        }
        self.history = reply.history;
        let rows = self.take(&reply, place);
        Ok(Report { rows, more: reply.body.more || !self.wants.is_empty() })
    }

    /// The hub forgot: everything above what it still knows is pending again, and nothing has been seen.
    fn begin_new_history(&mut self, history: HistoryTag, watermark: Hlc, last_batch: BatchId) {
        self.forget_shapes();
        self.history = history;
        self.watermark = watermark;
        self.told = self.told.min(watermark);
        self.cursor = None;
        // Batches of the lost history may still be on their way: they are this database's own.
        self.unanswered.insert(0, (self.parent, 0));
        self.parent = last_batch;
        let until = self.log.last().map_or(Hlc::default(), |entry| entry.logged.clock);
        self.offered_again = until;
        self.waiting.clear();
        // Who was to be deleted, and is still needed here, was so by the lost history's word. One that has left its table meanwhile
        // does not come back: nothing here needs it any more.
        for name in std::mem::take(&mut self.doomed).intersection(&self.aside) {
            self.rows.remove(name);
        }
        self.aside.retain(|name| self.rows.contains_key(name));
        self.bases = vec![Base { until, snapshot: None }];
        self.reconciling = true;
        // What the hub has forgotten that it refused goes again; of the rest it will say how it stands.
        for ((table, key), last) in std::mem::take(&mut self.rejections).into_values() {
            let of_row =
                |logged: &Logged| (logged.table as usize, &logged.key) == (table, &key) && logged.clock <= last;
            for entry in self.log.iter_mut().filter(|entry| last > watermark && of_row(&entry.logged)) {
                entry.parked = false;
            }
        }
    }

    fn forget_shapes(&mut self) {
        self.hub_knows = Shapes::none();
        self.named.clear();
        self.reply_shapes = Shapes::none();
        self.names_wanted = false;
    }

    /// What this device still has of a history that the hub lost: rows that differ go up as they are here, and rows that did
    /// not come at all. Counters don't: the logs of those who counted are offered again.
    fn reconcile(&mut self, tables: &[TableRows], hub_now_ms: u64) {
        let after = self.clock;
        let mut arrived: BTreeSet<RowName> = BTreeSet::new();
        for table in tables {
            let Some(number) = TABLES.iter().position(|shape| shape.name == table.table) else { continue };
            for row in &table.rows {
                let name: RowName = (number, row.key.clone());
                arrived.insert(name.clone());
                if row.op == Op::Delete || self.is_own(&name) {
                    continue;
                }
                let Some(mine) = self.row(&name).cloned() else { continue };
                let mut differing = Vec::new();
                for (column, theirs) in row.fields.iter().filter(|(column, _)| *column <= self.width[number]) {
                    let own = &mine[usize::from(*column)];
                    if own != theirs && !table.sums.contains(column) {
                        differing.push(LoggedField { column: *column, old: theirs.clone(), new: own.clone() });
                    }
                }
                if !differing.is_empty() {
                    self.log(hub_now_ms, &name, Op::Update, differing);
                }
            }
        }
        let kept: Vec<RowName> = self.visible().map(|(name, _)| name.clone()).collect();
        for name in kept {
            if !arrived.contains(&name) && !self.is_own(&name) {
                self.log(hub_now_ms, &name, Op::Insert, Vec::new());
            }
        }
        self.reconciling = false;
        self.recovery = (self.clock > after).then_some(Recovery { after, until: self.clock, as_of: self.last_sync });
    }

    fn take(&mut self, reply: &Reply, place: usize) -> usize {
        let body = &reply.body;
        self.parent = body.batch;
        let sequence = self.unanswered[place].1;
        let answered: Vec<BatchId> = self.unanswered.drain(..=place).map(|(batch, _)| batch).collect();
        // Earlier batches than the answered one: whether the hub has seen them is open.
        for (_, shape) in self.named.iter().filter(|(batch, _)| *batch == body.batch) {
            self.hub_knows.add(shape.clone());
        }
        self.named.retain(|(batch, _)| !answered.contains(batch));
        for table in &body.tables {
            self.reply_shapes.add(Shape::of_rows(table));
        }
        self.names_wanted = false;
        let only_confirms = body.only_confirms(self.cursor.as_ref());
        if only_confirms {
            let confirmed =
                self.log.iter().filter(|entry| self.is_pending(entry) && entry.logged.clock <= body.watermark);
            let rows: Vec<RowName> =
                confirmed.map(|entry| (entry.logged.table as usize, entry.logged.key.clone())).collect();
            for name in rows {
                self.wants.entry(name).or_insert(None);
            }
            let asked = self.wants.values_mut().filter(|asked| asked.is_some_and(|asked| asked <= sequence));
            asked.for_each(|asked| *asked = None);
        } else {
            self.wants.retain(|_, asked| asked.is_none_or(|asked| asked > sequence));
        }
        self.watermark = self.watermark.max(body.watermark);
        self.ends.retain(|end| *end > self.watermark);
        self.hear(&body.notices);
        if self.reconciling && !only_confirms {
            // All that waits was named in this answer: what was not, this history knows nothing of.
            let named: BTreeSet<&RowName> = self.rejections.values().map(|(name, _)| name).collect();
            for entry in &mut self.log {
                entry.parked &= named.contains(&(entry.logged.table as usize, entry.logged.key.clone()));
            }
        }
        if !only_confirms {
            self.told = self.watermark;
            let told = self.log.iter_mut().filter(|entry| entry.logged.clock <= body.watermark);
            told.for_each(|entry| entry.again = false);
        }
        if self.reconciling && body.cursor.xmax > 0 {
            self.reconcile(&body.tables, reply.hub_now_ms);
        }
        self.recovery = self.recovery.filter(|recovery| recovery.until > self.watermark);
        if !self.reconciling {
            self.last_sync = Hlc::from_ms(reply.hub_now_ms);
        }
        let mut rows = 0;
        for table in &body.tables {
            rows += table.rows.len();
            self.take_rows(table);
        }
        for table in body.tables.iter().rev() {
            self.take_deletions(table);
        }
        self.settle_doomed();
        let arrived = body.tables.iter().flat_map(|table| {
            let number = TABLES.iter().position(|shape| shape.name == table.table).unwrap_or(usize::MAX);
            let rows = table.rows.iter().filter(|row| row.op != Op::Delete);
            rows.map(move |row| (number, row.key.clone()))
        });
        self.make_way(&arrived.collect());
        let cursor = (body.cursor.xmax > 0).then(|| body.cursor.clone());
        self.remember_base(cursor != self.cursor);
        self.cursor = cursor;
        self.clock = self.clock.max(body.clock);
        rows
    }

    /// What was written so far was written under the old cursor, if there is another one now.
    fn remember_base(&mut self, moves: bool) {
        let oldest = self
            .log
            .iter()
            .filter(|entry| entry.parked || self.is_pending(entry))
            .map(|entry| entry.logged.clock)
            .min();
        let until = self.log.last().map_or(Hlc::default(), |entry| entry.logged.clock);
        let Some(oldest) = oldest else { return self.bases.clear() };
        if moves && self.bases.last().is_none_or(|last| last.until < until) {
            self.bases.push(Base { until, snapshot: self.cursor.clone() });
        }
        self.bases.retain(|base| base.until >= oldest);
    }

    fn hear(&mut self, notices: &[Notice]) {
        for notice in notices {
            let Notice::Conflict(conflict) = notice else { continue };
            let Some(table) = TABLES.iter().position(|shape| shape.name == conflict.table) else { continue };
            let name = (table, conflict.key.clone());
            if conflict.outcome != "rejected" {
                continue;
            }
            let of_row = |entry: &Entry| {
                (entry.logged.table as usize, &entry.logged.key) == (name.0, &name.1)
                    && entry.logged.clock <= conflict.clock
            };
            if conflict.status == "open" {
                // What was answered before is settled: the rejection is about what this answer is the first to tell of.
                let told = self.told;
                let refused =
                    self.log.iter_mut().filter(|entry| of_row(entry) && (entry.again || entry.logged.clock > told));
                refused.for_each(|entry| entry.parked = true);
                self.rejections.insert(conflict.conflict_id, (name, conflict.clock));
            } else {
                self.log.iter_mut().filter(|entry| of_row(entry)).for_each(|entry| entry.parked = false);
                self.rejections.remove(&conflict.conflict_id);
            }
        }
    }

    fn pending_of(&self, name: &RowName) -> Pending {
        let mut pending = Pending::default();
        for entry in &self.log {
            let logged = &entry.logged;
            if (logged.table as usize, &logged.key) != (name.0, &name.1) || !(entry.parked || self.is_pending(entry)) {
                continue;
            }
            pending.made |= logged.op == Op::Insert;
            pending.last = Some(logged.op);
            pending
                .fields
                .extend(logged.fields.iter().map(|field| (field.column, field.old.clone(), field.new.clone())));
        }
        pending
    }

    fn is_own(&self, name: &RowName) -> bool {
        self.pending_of(name).last.is_some()
    }

    fn take_rows(&mut self, table: &TableRows) {
        let Some(number) = TABLES.iter().position(|shape| shape.name == table.table) else { return };
        for arriving in table.rows.iter().filter(|row| row.op != Op::Delete) {
            let name: RowName = (number, arriving.key.clone());
            self.doomed.remove(&name);
            if arriving.op == Op::Insert {
                self.waiting.remove(&name);
            }
            let (known, later): (Vec<_>, Vec<_>) =
                arriving.fields.iter().cloned().partition(|(column, _)| *column <= self.width[number]);
            for (column, value) in later {
                self.later.insert((name.clone(), column), value);
            }
            let pending = self.pending_of(&name);
            let Action::Write(fields) = overlay(arriving.op, &known, &pending, &table.sums, &table.kinds) else {
                continue;
            };
            match self.rows.get_mut(&name) {
                Some(row) => fields.into_iter().for_each(|(column, value)| row[usize::from(column)] = value),
                None if arriving.op == Op::Insert => {
                    let mut row = schema::blank(number);
                    fields.into_iter().for_each(|(column, value)| row[usize::from(column)] = value);
                    self.rows.insert(name.clone(), row);
                }
                None => {
                    self.wants.entry(name).or_insert(None);
                }
            }
        }
    }

    fn take_deletions(&mut self, table: &TableRows) {
        let Some(number) = TABLES.iter().position(|shape| shape.name == table.table) else { return };
        for arriving in table.rows.iter().filter(|row| row.op == Op::Delete) {
            let name: RowName = (number, arriving.key.clone());
            self.waiting.remove(&name);
            self.later.retain(|(row, _), _| *row != name);
            if overlay(Op::Delete, &[], &self.pending_of(&name), &table.sums, &table.kinds) == Action::Delete {
                self.doomed.insert(name);
            }
        }
    }

    /// Deletes what the hub has deleted, as far as nothing here needs it.
    fn settle_doomed(&mut self) {
        loop {
            let free = self.doomed.iter().find(|name| !self.is_needed(name) || !self.rows.contains_key(*name)).cloned();
            let Some(name) = free else { break };
            self.doomed.remove(&name);
            if !self.is_own(&name) {
                self.rows.remove(&name);
            }
        }
    }

    /// Rows of the hub come first: local rows in their way, and what refers to those, step aside. Rows of the hub whose
    /// parents are deleted here wait outside, and are asked for again.
    fn make_way(&mut self, arrived: &BTreeSet<RowName>) {
        let yields = |device: &Device, name: &RowName| {
            device.is_own(name)
                || device.doomed.contains(name)
                || device.wants.contains_key(name)
                || device.waiting.contains(name)
        };
        self.aside.clear();
        loop {
            let mut step = Vec::new();
            let shown: BTreeMap<&RowName, &Row> = self.visible().collect();
            for (name, row) in &shown {
                let twins = schema::code_of(name.0, row).into_iter().flat_map(|code| {
                    shown
                        .iter()
                        .filter(move |(other, twin)| ***other != **name && schema::code_of(other.0, twin) == Some(code))
                });
                for (other, _) in twins {
                    // What the hub has deleted, and only something here still needs, gives way like a row of the device's own.
                    // So does what was acknowledged, but not yet told what became of.
                    match (yields(self, name), yields(self, other)) {
                        (true, false) => step.push((*name).clone()),
                        // Both are the device's own: one was there first, and the application has seen to it.
                        (true, true) if name > other => step.push((*name).clone()),
                        // Acknowledged, and not told of: what has just come is the hub's for sure.
                        (false, false) if !arrived.contains(*name) => step.push((*name).clone()),
                        _ => {}
                    }
                }
                if schema::parents_of(name, row).iter().any(|parent| !shown.contains_key(parent)) {
                    step.push((*name).clone());
                }
            }
            if step.is_empty() {
                break;
            }
            self.aside.extend(step);
        }
        // Not the device's own and aside: it waits for its parent on the hub's word; or it had to make room for another, and the hub
        // is asked for it (the real device keeps it in `fs_conflicts` meanwhile).
        let waiting: Vec<RowName> = self.aside.iter().filter(|name| !yields(self, name)).cloned().collect();
        for name in waiting {
            self.aside.remove(&name);
            let Some(row) = self.rows.remove(&name) else { continue };
            if schema::parents_of(&name, &row).iter().all(|parent| self.row(parent).is_some()) {
                self.wants.entry(name).or_insert(None);
            } else {
                self.waiting.insert(name);
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
