//! fs_apply_delta: the hub's answer goes under what this device has not been answered for.

use super::{Device, Entry, Refusal, Report};
use crate::post::{self, Unreadable};
use crate::schema::{self, Row, RowName, TABLES};
use fieldsync_core::coalesce::{Logged, LoggedField};
use fieldsync_core::delta::{Base, BatchId, HistoryTag, Op, Recovery};
use fieldsync_core::overlay::{offer, overlay, Action, Offer, Pending};
use fieldsync_core::reply::{Notice, Reply, TableRows};
use fieldsync_core::wire::{Shape, Shapes};
use fieldsync_core::Hlc;
use std::collections::{BTreeMap, BTreeSet};

impl Device {
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
    pub(super) fn begin_new_history(&mut self, history: HistoryTag, watermark: Hlc, last_batch: BatchId) {
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

    pub(super) fn forget_shapes(&mut self) {
        self.hub_knows = Shapes::none();
        self.named.clear();
        self.reply_shapes = Shapes::none();
        self.names_wanted = false;
    }

    /// What this device still has of a history that the hub lost: rows that differ go up as they are here, and rows that did
    /// not come at all. Counters don't: the logs of those who counted are offered again.
    pub(super) fn reconcile(&mut self, tables: &[TableRows], hub_now_ms: u64) {
        let after = self.clock;
        let mut arrived: BTreeSet<RowName> = BTreeSet::new();
        for table in tables {
            let Some(number) = TABLES.iter().position(|shape| shape.name == table.table) else { continue };
            for row in &table.rows {
                let name: RowName = (number, row.key.clone());
                arrived.insert(name.clone());
                let own = self.pending_of(&name);
                if row.op == Op::Delete || offer(own.made, own.unmade, true) != Offer::Differences {
                    continue;
                }
                let Some(mine) = self.row(&name).cloned() else { continue };
                let mut differing = Vec::new();
                for (column, theirs) in row.fields.iter().filter(|(column, _)| *column <= self.width[number]) {
                    let value = &mine[usize::from(*column)];
                    let goes_anyway = table.sums.contains(column) || own.fields.iter().any(|(at, _, _)| at == column);
                    if value != theirs && !goes_anyway {
                        differing.push(LoggedField { column: *column, old: theirs.clone(), new: value.clone() });
                    }
                }
                if !differing.is_empty() {
                    self.log(hub_now_ms, &name, Op::Update, differing);
                }
            }
        }
        // Those that are aside, too: here they come back by themselves, where a device has them in its list of conflicts.
        let kept: Vec<RowName> = self.rows.keys().cloned().collect();
        for name in kept {
            let own = self.pending_of(&name);
            if offer(own.made, own.unmade, arrived.contains(&name)) == Offer::Whole {
                self.log(hub_now_ms, &name, Op::Insert, Vec::new());
            }
        }
        self.reconciling = false;
        self.recovery = (self.clock > after).then_some(Recovery { after, until: self.clock, as_of: self.last_sync });
    }

    pub(super) fn take(&mut self, reply: &Reply, place: usize) -> usize {
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
    pub(super) fn remember_base(&mut self, moves: bool) {
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

    pub(super) fn hear(&mut self, notices: &[Notice]) {
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

    pub(super) fn pending_of(&self, name: &RowName) -> Pending {
        let mut pending = Pending::default();
        for entry in &self.log {
            let logged = &entry.logged;
            if (logged.table as usize, &logged.key) != (name.0, &name.1) || !(entry.parked || self.is_pending(entry)) {
                continue;
            }
            match logged.op {
                Op::Insert => pending = Pending { made: true, ..Pending::default() },
                Op::Delete => pending = Pending { unmade: true, ..Pending::default() },
                _ => {
                    let differences = logged.fields.iter();
                    pending
                        .fields
                        .extend(differences.map(|field| (field.column, field.old.clone(), field.new.clone())));
                }
            }
            pending.last = Some(logged.op);
        }
        pending
    }

    pub(super) fn is_own(&self, name: &RowName) -> bool {
        self.pending_of(name).last.is_some()
    }

    pub(super) fn take_rows(&mut self, table: &TableRows) {
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

    pub(super) fn take_deletions(&mut self, table: &TableRows) {
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
    pub(super) fn settle_doomed(&mut self) {
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
    pub(super) fn make_way(&mut self, arrived: &BTreeSet<RowName>) {
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
}
