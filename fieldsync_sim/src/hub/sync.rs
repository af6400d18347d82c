//! sync_control.sync: judges a delta, merges it in a transaction, and answers.

use super::merging::Work;
use super::pull::said;
use super::{Answered, Client, Hub, Record, Refusal, State};
use crate::post::{self, Unreadable};
use crate::schema::{self, RowName, TABLES};
use fieldsync_core::chain::{
    begins_in_a_lost_history, has_seen_another_answer, judge, next_epoch, was_told_more, Known, Standing,
};
use fieldsync_core::clock::SkewCorrection;
use fieldsync_core::coalesce::keep_last_words;
use fieldsync_core::delta::{BatchId, Change, Delta};
use fieldsync_core::reply::{Notice, Outcomes, Reply, ReplyBody};
use fieldsync_core::rules::FieldStrategy;
use fieldsync_core::wire::{Shape, Shapes};
use fieldsync_core::{Hlc, Key};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

impl Hub {
    /// sync_control.sync up to its commit: the transaction, or a stored answer.
    pub fn sync(&mut self, blob: &[u8], now_ms: u64) -> Result<Result<u64, Rc<[u8]>>, Refusal> {
        let header = post::peek(blob).map_err(|_| Refusal::Damaged)?;
        let tag = header.client;
        self.wait_for(0, |held| {
            held.client.as_ref().is_some_and(|client| fieldsync_core::delta::client_tag(&client.client_id) == tag)
        });
        let client = self.clients.get(&header.client).cloned().ok_or(Refusal::Unknown)?;
        let (delta, complete) =
            post::read_delta(blob, &client.key, &client.delta_shapes).map_err(|_: Unreadable| Refusal::Damaged)?;
        let batch = header.batch;
        if let Some(answered) = client.batches.get(&batch) {
            if delta.history == 0 || delta.history == self.history() {
                return Ok(Err(answered.reply.clone()));
            }
        }
        let superseded = client.superseded.contains(&batch);
        let known = Known {
            hub_id: &self.id,
            epoch: self.epoch,
            last_batch: client.last_batch,
            knows_parent: client.batches.contains_key(&delta.body.parent),
            highest_version: self.next_xid - 1,
        };
        let answered_with = client.batches.get(&delta.body.parent).map(|answered| &answered.cursor);
        let standing = if begins_in_a_lost_history(&delta, client.since_epoch < self.epoch) {
            Standing::EarlierEpoch
        } else {
            match judge(&delta, &known) {
                Standing::Continues | Standing::Copy
                    if has_seen_another_answer(&delta, answered_with)
                        || was_told_more(&delta, client.last_batch, client.watermark) =>
                {
                    Standing::HubLostHistory
                }
                standing => standing,
            }
        };
        if standing == Standing::OtherHub {
            return Err(Refusal::OtherHub);
        }
        let xid = self.begin();
        match standing {
            Standing::EarlierEpoch | Standing::HubLostHistory => {
                if standing == Standing::HubLostHistory {
                    self.epoch = next_epoch(&self.id, self.epoch, delta.history);
                }
                let notice = Notice::NewHistory {
                    watermark: client.watermark,
                    last_batch: client.last_batch,
                    reason: String::new(),
                };
                self.answer_with(xid, &client, batch, now_ms, notice, &delta);
            }
            Standing::Copy if superseded => {
                let reply = self.short(&client, &delta, batch, now_ms);
                let cursor = reply.body.cursor.clone();
                let reply: Rc<[u8]> = post::write_reply(&reply, &client.key, &Shapes::none(), self.plain).into();
                let mut after = client;
                after.batches.insert(batch, Answered { reply: reply.clone(), cursor });
                if let Some(own) = self.running.get_mut(&xid) {
                    own.client = Some(after);
                    own.reply = reply;
                }
            }
            Standing::Copy => {
                let new_id = format!("{}+{:x}", client.client_id, batch);
                let key = client.key.derive(&new_id);
                // The same copy asking again gets the same name, once.
                let known = self.clients.contains_key(&fieldsync_core::delta::client_tag(&new_id));
                let new = (!known).then(|| self.client(&new_id, key));
                let notice = Notice::NewIdentity { client_id: new_id, reason: String::new() };
                self.answer_with(xid, &client, batch, now_ms, notice, &delta);
                if let Some(own) = self.running.get_mut(&xid) {
                    own.registers = new;
                }
            }
            _ if !complete => self.answer_with(xid, &client, batch, now_ms, Notice::NamesWanted, &delta),
            _ => self.merge(xid, client, &delta, batch, now_ms),
        }
        Ok(Ok(xid))
    }

    /// An answer that only carries news.
    pub(super) fn answer_with(
        &mut self,
        xid: u64,
        client: &Client,
        batch: BatchId,
        now_ms: u64,
        notice: Notice,
        delta: &Delta,
    ) {
        let reply = Reply {
            client: delta.client,
            history: self.history(),
            hub_now_ms: now_ms,
            body: ReplyBody {
                batch,
                cursor: delta.body.cursor.clone().unwrap_or_default(),
                notices: vec![notice],
                ..ReplyBody::default()
            },
        };
        if let Some(own) = self.running.get_mut(&xid) {
            own.reply = post::write_reply(&reply, &client.key, &Shapes::none(), self.plain).into();
        }
    }

    pub(super) fn merge(&mut self, xid: u64, client: Client, delta: &Delta, batch: BatchId, now_ms: u64) {
        let body = &delta.body;
        self.clock = self.clock.tick(now_ms);
        let mut settled: Vec<(usize, Vec<Change>)> = body
            .tables
            .iter()
            .filter_map(|table| {
                Some((TABLES.iter().position(|shape| shape.name == table.table)?, table.changes.clone()))
            })
            .collect();
        for (table, changes) in &mut settled {
            let mut rows: BTreeMap<Key, Vec<&mut Change>> = BTreeMap::new();
            for change in changes.iter_mut().filter(|change| change.clock > client.watermark) {
                rows.entry(change.key.clone()).or_default().push(change);
            }
            let is_counter = |column| self.rules[*table].fields.get(&column) == Some(&FieldStrategy::Sum);
            for row in rows.values_mut() {
                keep_last_words(row, is_counter, |a, b| body.said_together(a, b));
            }
        }
        let changes: Vec<(usize, &Change)> =
            settled.iter().flat_map(|(table, changes)| changes.iter().map(|change| (*table, change))).collect();
        // Everything that may be written or looked at is locked first, in one order.
        let mut names: BTreeSet<RowName> = changes.iter().map(|(table, change)| (*table, change.key.clone())).collect();
        names.extend(changes.iter().flat_map(|(table, change)| parents_in(*table, change)));
        // Deleted parents may come back for a child, and need their own parents then.
        loop {
            let gone = names.iter().filter_map(|name| match self.rows.get(name) {
                Some(State::Gone(row, _)) => Some(schema::parents_of(name, &self.as_row(name, row))),
                _ => None,
            });
            let more: Vec<RowName> = gone.flatten().filter(|parent| !names.contains(parent)).collect();
            if more.is_empty() {
                break;
            }
            names.extend(more);
        }
        for name in &names {
            self.lock(xid, name);
        }
        self.wait_for(xid, |held| !held.codes.is_empty());
        let mut raw: Vec<Hlc> = changes.iter().map(|(_, change)| change.clock).collect();
        raw.sort_unstable();
        let corrected = SkewCorrection::new(delta.device_now_ms, now_ms).correct_all(raw.iter().copied());
        let mut work = Work {
            client: &client,
            xid,
            delta,
            clocks: raw.into_iter().zip(corrected).collect(),
            excluded: BTreeMap::new(),
        };
        let merged = loop {
            let merged = self.attempt(&work, &changes);
            if self.park_strict(&mut work, &merged, &changes) {
                continue;
            }
            let Some((name, exclusion)) = self.to_blame(&merged, &names) else { break merged };
            let again = work.excluded.insert(name.clone(), exclusion).is_some();
            assert!(
                !again && names.contains(&name),
                "{name:?} cannot be to blame again: {:?}",
                self.violations(&merged.writes)
            );
        };
        let mut after = client.clone();
        let fresh = changes.iter().filter(|(_, change)| change.clock > client.watermark);
        after.acknowledged += fresh.map(|(_, change)| u64::from(change.count)).sum::<u64>();
        after.watermark = after.watermark.max(body.high);
        after.last_batch = batch;
        after.superseded.extend(body.unanswered.iter().copied());
        add(&mut after.outcomes, merged.outcomes);
        let mut records: BTreeMap<u64, Record> = BTreeMap::new();
        let mut next_record = self.next_record;
        for (number, record) in self.records.iter() {
            // A change of the same client went through: its rejection is settled.
            if record.open
                && record.outcome == "rejected"
                && record.client == client.number
                && merged.accepted.contains(&record.row)
            {
                records.insert(*number, Record { open: false, told: xid, ..record.clone() });
            }
        }
        for mut record in merged.records {
            let all = self.records.iter().filter(|(number, _)| !records.contains_key(*number)).chain(&records);
            let same = all.into_iter().find(|(_, old)| {
                old.open
                    && old.outcome == "rejected"
                    && record.outcome == "rejected"
                    && old.client == record.client
                    && old.row == record.row
            });
            // What is refused again joins what was refused before, and does not replace it.
            let number = match same {
                Some((number, old)) => {
                    record.values.extend(old.values.iter().cloned());
                    *number
                }
                None => {
                    next_record += 1;
                    next_record - 1
                }
            };
            records.insert(number, record);
        }
        self.next_record = next_record;
        let sent = said(&changes, client.watermark, &merged.whole);
        let sent = sent.into_iter().filter(|(name, _)| !merged.refused.contains(name)).collect();
        if let Some(own) = self.running.get_mut(&xid) {
            own.revived = merged.revived.into_keys().collect();
            own.writes = merged.writes;
            let fields = changes.iter().flat_map(|(_, change)| &change.fields);
            own.overwritten = fields.filter_map(|field| field.old.clone()).chain(merged.taken_away).collect();
            own.records = records;
            for (name, state) in &own.writes {
                if let State::Live(row) = state {
                    let mut values = schema::blank(name.0);
                    row.values.iter().for_each(|(column, value)| values[usize::from(*column)] = value.clone());
                    own.holds.extend(schema::parents_of(name, &values));
                    own.codes.extend(schema::code_of(name.0, &values).cloned());
                }
            }
        }
        let reply = if body.reaches(after.watermark) {
            let deletions_too = delta.history != 0 || client.last_batch != 0;
            let pulled = self.pull(xid, &after, delta, deletions_too, &sent);
            Reply {
                client: delta.client,
                history: self.history(),
                hub_now_ms: now_ms,
                body: ReplyBody { batch, outcomes: merged.outcomes, ..pulled },
            }
        } else {
            self.short(&after, delta, batch, now_ms)
        };
        for table in &body.tables {
            after.delta_shapes.add(Shape::of_changes(table));
        }
        let (told, shapes) = std::mem::take(&mut after.named);
        if body.names_wanted {
            after.knows = Shapes::none();
        } else if told == body.parent {
            shapes.into_iter().for_each(|shape| {
                after.knows.add(shape);
            });
        }
        after.named = (batch, post::named_by_reply(&reply.body.tables, &after.knows));
        let cursor = reply.body.cursor.clone();
        let reply: Rc<[u8]> = post::write_reply(&reply, &client.key, &after.knows, self.plain).into();
        after.batches.insert(batch, Answered { reply: reply.clone(), cursor });
        if let Some(own) = self.running.get_mut(&xid) {
            own.client = Some(after);
            own.reply = reply;
        }
    }
}

fn parents_in(table: usize, change: &Change) -> Vec<RowName> {
    let mut row = schema::blank(table);
    for field in &change.fields {
        row[usize::from(field.column)] = field.new.clone();
    }
    schema::parents_of(&(table, change.key.clone()), &row)
}

fn add(to: &mut Outcomes, more: Outcomes) {
    to.applied += more.applied;
    to.merged += more.merged;
    to.superseded += more.superseded;
    to.conflict += more.conflict;
    to.rejected += more.rejected;
}
