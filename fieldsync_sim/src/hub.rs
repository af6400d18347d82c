//! The hub: rows with field clocks, tombstones, clients, and transactions that overlap as Postgres lets them.
//!
//! Writers hold row locks from their first write to their end; whoever needs a locked row waits for its holder (here: the
//! holder commits first). Readers see what a Postgres snapshot shows them.

use crate::post::{self, Unreadable};
use crate::schema::{self, Row, RowName, TABLES};
use fieldsync_core::chain::{
    begins_in_a_lost_history, has_seen_another_answer, judge, next_epoch, was_told_more, Known, Standing,
};
use fieldsync_core::clock::SkewCorrection;
use fieldsync_core::clocks::{Origin, RowClocks, Stamp, HUB};
use fieldsync_core::coalesce::keep_last_words;
use fieldsync_core::delta::{history_tag, BatchId, Change, ClientTag, Delta, HistoryTag, Op};
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::merge::{
    decide, Answer, Collision, Context, HubRow, HubState, Incoming, IncomingField, Outcome, Write,
};
use fieldsync_core::reply::{ConflictNotice, Notice, Outcomes, Reply, ReplyBody, RowChange, TableRows};
use fieldsync_core::rules::{FieldStrategy, OnDelete, OnReject, TableRules};
use fieldsync_core::travel::{Reader, Sent};
use fieldsync_core::wire::{Shape, Shapes};
use fieldsync_core::{Hlc, Key, Snapshot, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

/// The field clock that carries a row's mark of deletion, where deletion is soft.
const MARK: u16 = u16::MAX;

/// An answer that was given.
#[derive(Debug, Clone)]
pub struct Answered {
    /// It, to be given again.
    pub reply: Rc<[u8]>,
    /// The cursor in it.
    pub cursor: Snapshot,
}

/// A client as the hub knows it.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its short name.
    pub number: Origin,
    /// Its id.
    pub client_id: String,
    /// Its key.
    pub key: MacKey,
    /// Answered up to here.
    pub watermark: Hlc,
    /// The last batch committed.
    pub last_batch: BatchId,
    /// Batches committed, with their answers.
    pub batches: BTreeMap<BatchId, Answered>,
    /// Batches that a later one named: when they come late they change nothing.
    pub superseded: BTreeSet<BatchId>,
    /// Verdicts.
    pub outcomes: Outcomes,
    /// Logged changes answered.
    pub acknowledged: u64,
    /// The epoch in which it was registered.
    pub since_epoch: u32,
    /// Shapes of its deltas.
    pub delta_shapes: Shapes,
    /// Shapes that it is known to know.
    pub knows: Shapes,
    /// Shapes that the answer to a batch named.
    pub named: (BatchId, Vec<Shape>),
}

/// A rejection that a person has to settle, or a collision on record.
#[derive(Debug, Clone)]
pub struct Record {
    /// Whose change.
    pub client: Origin,
    /// Which row.
    pub row: RowName,
    /// `rejected`, `server`, `client`, `manual`.
    pub outcome: String,
    /// Whether it waits.
    pub open: bool,
    /// The raw clock of the change.
    pub clock: Hlc,
    /// Version of its latest state.
    pub told: u64,
    /// Every value in it.
    pub values: Vec<Value>,
    /// The rule, or why.
    pub rule: String,
}

/// A row's state.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// It is there.
    Live(HubRow),
    /// It was.
    Gone(HubRow, Stamp),
}

/// What a transaction will do when it commits.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// Rows.
    pub writes: BTreeMap<RowName, State>,
    /// Rows that must stay, because children of them were written.
    pub holds: BTreeSet<RowName>,
    /// UNIQUE values written.
    pub codes: BTreeSet<Value>,
    /// The client whose sync this is, as it will be.
    pub client: Option<Client>,
    /// Another identity that is registered.
    pub registers: Option<Client>,
    /// Values that a device of the client's overwrote itself, knowing them, and those of rows that it took away again: a copy of
    /// the database may tell the whole life of a row in one delta, while the file it was copied from still waits with its
    /// beginning.
    pub overwritten: Vec<Value>,
    /// Deleted parents that came back because children of them were written.
    pub revived: BTreeSet<RowName>,
    /// Records written.
    pub records: BTreeMap<u64, Record>,
    /// The answer.
    pub reply: Rc<[u8]>,
}

/// The hub's database.
#[derive(Debug, Clone)]
pub struct Hub {
    /// Its identity.
    pub id: [u8; 16],
    /// Its history.
    pub epoch: u32,
    /// Committed rows.
    pub rows: BTreeMap<RowName, State>,
    /// Transactions under way.
    pub running: BTreeMap<u64, Transaction>,
    next_xid: u64,
    latest_completed: u64,
    /// Clients by tag.
    pub clients: BTreeMap<ClientTag, Client>,
    next_client: Origin,
    /// Records by number.
    pub records: BTreeMap<u64, Record>,
    next_record: u64,
    /// Rules by table.
    pub rules: Vec<TableRules>,
    /// How many columns each table has.
    pub width: [u16; TABLES.len()],
    clock: Hlc,
    /// `priority_field` by table.
    pub priorities: [Option<u16>; TABLES.len()],
    /// Tables whose rows are marked as deleted, and stay.
    pub soft: [bool; TABLES.len()],
    /// Whether blobs are written plainly.
    pub plain: bool,
    /// Counts commits.
    pub commits: u64,
    /// Every value that was ever a field's.
    pub ever: BTreeSet<Value>,
}

/// Why a delta is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It cannot be read.
    Damaged,
    /// Nobody knows its sender.
    Unknown,
    /// It is for another hub.
    OtherHub,
    /// The server went away before the commit.
    Killed,
}

struct Work<'a> {
    client: &'a Client,
    xid: u64,
    delta: &'a Delta,
    clocks: BTreeMap<Hlc, Hlc>,
    excluded: BTreeMap<RowName, Exclusion>,
}

#[derive(Clone)]
struct Exclusion {
    outcome: Outcome,
    rule: String,
    record: &'static str,
}

#[derive(Default)]
struct Merged {
    writes: BTreeMap<RowName, State>,
    outcomes: Outcomes,
    records: Vec<Record>,
    whole: BTreeSet<RowName>,
    /// Tables in which something was rejected.
    rejected: BTreeSet<usize>,
    accepted: BTreeSet<RowName>,
    /// Parents that came back for a child, with that child.
    revived: BTreeMap<RowName, RowName>,
    /// Rows of which something was rejected.
    refused: BTreeSet<RowName>,
    /// Values of rows that were there and that the same delta took away.
    taken_away: Vec<Value>,
}

impl Hub {
    /// A new hub.
    pub fn new(rules: Vec<TableRules>, columns_of_place: u16) -> Hub {
        let mut width = [0; TABLES.len()];
        (0..TABLES.len()).for_each(|table| width[table] = schema::width(table));
        width[schema::PLACE] = columns_of_place;
        Hub {
            id: [7; 16],
            epoch: 1,
            rows: BTreeMap::new(),
            running: BTreeMap::new(),
            next_xid: 100,
            latest_completed: 99,
            clients: BTreeMap::new(),
            next_client: 1,
            records: BTreeMap::new(),
            next_record: 1,
            rules,
            width,
            clock: Hlc::default(),
            priorities: [None; TABLES.len()],
            soft: [false; TABLES.len()],
            plain: true,
            commits: 0,
            ever: BTreeSet::new(),
        }
    }

    /// The tag of its history.
    pub fn history(&self) -> HistoryTag {
        history_tag(&self.id, self.epoch)
    }

    /// sync_control.register.
    pub fn register(&mut self, client_id: &str, key: MacKey) {
        let client = self.client(client_id, key);
        self.clients.insert(fieldsync_core::delta::client_tag(client_id), client);
    }

    fn client(&mut self, client_id: &str, key: MacKey) -> Client {
        let number = self.next_client;
        self.next_client += 1;
        Client {
            number,
            client_id: client_id.to_owned(),
            key,
            watermark: Hlc::default(),
            last_batch: 0,
            batches: BTreeMap::new(),
            superseded: BTreeSet::new(),
            outcomes: Outcomes::default(),
            acknowledged: 0,
            since_epoch: self.epoch,
            delta_shapes: Shapes::none(),
            knows: Shapes::none(),
            named: (0, Vec::new()),
        }
    }

    // ---- transactions ----------------------------------------------------------------------------------------------

    /// A transaction gets its id.
    pub fn begin(&mut self) -> u64 {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.running.insert(xid, Transaction::default());
        xid
    }

    /// COMMIT; the answer, if it was a sync.
    pub fn commit(&mut self, xid: u64) -> Rc<[u8]> {
        let Some(done) = self.running.remove(&xid) else { return Rc::default() };
        self.commits += 1;
        self.latest_completed = self.latest_completed.max(xid);
        self.ever.extend(done.overwritten);
        for (name, state) in done.writes {
            // A tombstone keeps the row whole.
            let (State::Live(row) | State::Gone(row, _)) = &state;
            self.ever.extend(row.values.values().cloned());
            self.rows.insert(name, state);
        }
        if let Some(client) = done.client {
            self.clients.insert(fieldsync_core::delta::client_tag(&client.client_id), client);
        }
        if let Some(client) = done.registers {
            // Whoever comes second finds the identity registered, and perhaps in use.
            self.clients.entry(fieldsync_core::delta::client_tag(&client.client_id)).or_insert(client);
        }
        self.records.extend(done.records);
        done.reply
    }

    /// ROLLBACK, or the backend's death.
    pub fn abort(&mut self, xid: u64) {
        self.running.remove(&xid);
        self.latest_completed = self.latest_completed.max(xid);
    }

    /// pg_current_snapshot().
    pub fn snapshot(&self) -> Snapshot {
        let xmax = self.latest_completed + 1;
        let xip: Vec<u64> = self.running.keys().copied().filter(|xid| *xid < xmax).collect();
        Snapshot { xmin: xip.first().copied().unwrap_or(xmax), xmax, xip }
    }

    fn state(&self, xid: u64, name: &RowName) -> Option<&State> {
        self.running.get(&xid).and_then(|own| own.writes.get(name)).or_else(|| self.rows.get(name))
    }

    fn live(&self, xid: u64, name: &RowName) -> Option<&HubRow> {
        match self.state(xid, name) {
            Some(State::Live(row)) => Some(row),
            _ => None,
        }
    }

    /// Waits for whoever has the row: its holder commits.
    fn wait_for(&mut self, xid: u64, blocks: impl Fn(&Transaction) -> bool) {
        let holders: Vec<u64> = self
            .running
            .iter()
            .filter(|(other, held)| **other != xid && blocks(held))
            .map(|(other, _)| *other)
            .collect();
        for holder in holders {
            self.commit(holder);
        }
    }

    fn lock(&mut self, xid: u64, name: &RowName) {
        self.wait_for(xid, |held| held.writes.contains_key(name) || held.holds.contains(name));
    }

    /// TRUNCATE of a table that nothing refers to: a deletion of every row, also where deletion is soft.
    pub fn truncate(&mut self, xid: u64, now_ms: u64, table: usize) {
        self.wait_for(xid, |held| held.writes.keys().any(|name| name.0 == table));
        let own = self.running.get(&xid).map(|own| own.writes.clone()).unwrap_or_default();
        let names: BTreeSet<RowName> = self.rows.keys().chain(own.keys()).filter(|name| name.0 == table).cloned().collect();
        let soft = std::mem::take(&mut self.soft);
        for name in names {
            self.write(xid, now_ms, &name, None);
        }
        self.soft = soft;
    }

    /// Whether the application may write the row now without breaking a rule, given what is committed and its own.
    pub fn write(&mut self, xid: u64, now_ms: u64, name: &RowName, wanted: Option<Row>) -> bool {
        self.lock(xid, name);
        if let Some(row) = &wanted {
            for parent in schema::parents_of(name, row) {
                self.wait_for(xid, |held| held.writes.contains_key(&parent));
            }
            if let Some(code) = schema::code_of(name.0, row) {
                let code = code.clone();
                self.wait_for(xid, |held| held.codes.contains(&code));
            }
        } else {
            let children = |held: &Transaction| held.holds.contains(name);
            self.wait_for(xid, children);
        }
        self.clock = self.clock.tick(now_ms);
        let clock = self.clock;
        let before = self.state(xid, name).cloned();
        let after = match (before, &wanted) {
            (None | Some(State::Gone(..)), None) => return false,
            (Some(State::Live(mut row)), None) if self.soft[name.0] => {
                row.clocks.touch(MARK, xid, clock, HUB);
                let deletion = row.clocks.field(MARK);
                State::Gone(row, deletion)
            }
            (Some(State::Live(row)), None) => {
                let last = row.clocks.latest();
                let deletion = last.followed_by(xid, clock.max(last.clock), HUB);
                State::Gone(row, deletion)
            }
            // A marked row is there: who wants it back unmarks it.
            (Some(State::Gone(mut row, deletion)), Some(values)) if is_marked(&row, deletion) => {
                row.clocks.touch(MARK, xid, clock, HUB);
                for column in schema::fields(name.0, self.width[name.0]) {
                    let value = &values[usize::from(column)];
                    if row.value(column) != *value {
                        row.values.insert(column, value.clone());
                        row.clocks.touch(column, xid, clock, HUB);
                    }
                }
                State::Live(row)
            }
            (Some(State::Live(mut row)), Some(values)) => {
                let mut changed = false;
                for column in schema::fields(name.0, self.width[name.0]) {
                    let value = &values[usize::from(column)];
                    if row.value(column) != *value {
                        row.values.insert(column, value.clone());
                        row.clocks.touch(column, xid, clock, HUB);
                        changed = true;
                    }
                }
                if !changed {
                    return false;
                }
                State::Live(row)
            }
            (before, Some(values)) => {
                let stamp = match before {
                    Some(State::Gone(_, deletion)) => deletion.followed_by(xid, clock.max(deletion.clock), HUB),
                    _ => Stamp::first(xid, clock, HUB),
                };
                let values = schema::fields(name.0, self.width[name.0])
                    .map(|column| (column, values[usize::from(column)].clone()))
                    .collect();
                State::Live(HubRow { values, clocks: RowClocks::new(stamp) })
            }
        };
        let mut writes = self.running.get(&xid).map(|own| own.writes.clone()).unwrap_or_default();
        writes.insert(name.clone(), after);
        if !self.violations(&writes).is_empty() {
            return false;
        }
        let Some(own) = self.running.get_mut(&xid) else { return false };
        own.writes = writes;
        if let Some(row) = wanted {
            own.holds.extend(schema::parents_of(name, &row));
            own.codes.extend(schema::code_of(name.0, &row).cloned());
        }
        true
    }

    // ---- constraints -----------------------------------------------------------------------------------------------

    fn as_row(&self, name: &RowName, row: &HubRow) -> Row {
        let mut values = schema::blank(name.0);
        for column in schema::fields(name.0, self.width[name.0]) {
            values[usize::from(column)] = row.value(column);
        }
        values
    }

    /// The live rows as they would be with some writes.
    pub fn with(&self, writes: &BTreeMap<RowName, State>) -> BTreeMap<RowName, Row> {
        let mut rows = BTreeMap::new();
        for (name, state) in self.rows.iter().filter(|(name, _)| !writes.contains_key(*name)).chain(writes) {
            if let State::Live(row) = state {
                rows.insert(name.clone(), self.as_row(name, row));
            }
        }
        rows
    }

    /// What would not hold: the violated constraint, and the rows that are part of it.
    pub fn violations(&self, writes: &BTreeMap<RowName, State>) -> Vec<(&'static str, Vec<RowName>)> {
        let rows = self.with(writes);
        let mut found = Vec::new();
        let mut codes: BTreeMap<&Value, &RowName> = BTreeMap::new();
        for (name, row) in &rows {
            if schema::is_refused(name.0, row) {
                found.push(("check", vec![name.clone()]));
            }
            if let Some(code) = schema::code_of(name.0, row) {
                if let Some(twin) = codes.insert(code, name) {
                    found.push(("unique", vec![name.clone(), twin.clone()]));
                }
            }
            for parent in schema::parents_of(name, row) {
                if !rows.contains_key(&parent) {
                    found.push(("foreign", vec![name.clone(), parent]));
                }
            }
        }
        found
    }

    // ---- sync ------------------------------------------------------------------------------------------------------

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
    fn answer_with(&mut self, xid: u64, client: &Client, batch: BatchId, now_ms: u64, notice: Notice, delta: &Delta) {
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

    fn merge(&mut self, xid: u64, client: Client, delta: &Delta, batch: BatchId, now_ms: u64) {
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

    /// A rejected change of a strict table parks all of that table's changes in the delta.
    fn park_strict(&self, work: &mut Work<'_>, merged: &Merged, changes: &[(usize, &Change)]) -> bool {
        let strict = |table: usize| self.rules[table].on_reject == OnReject::Strict;
        let tables: BTreeSet<usize> = merged.rejected.iter().copied().filter(|table| strict(*table)).collect();
        let mut learnt = false;
        for (table, change) in changes.iter().filter(|(table, _)| tables.contains(table)) {
            work.excluded.entry((*table, change.key.clone())).or_insert_with(|| {
                learnt = true;
                Exclusion { outcome: Outcome::Rejected, rule: "strict".to_owned(), record: "rejected" }
            });
        }
        learnt
    }

    /// One try at the whole delta, without the rows that are known to be refused.
    fn attempt(&self, work: &Work<'_>, changes: &[(usize, &Change)]) -> Merged {
        let mut merged = Merged::default();
        let inserts_first = changes.iter().filter(|(_, change)| change.op != Op::Delete);
        let deletes_last = changes.iter().rev().filter(|(_, change)| change.op == Op::Delete);
        let mut done: BTreeSet<RowName> = BTreeSet::new();
        for (table, change) in inserts_first.chain(deletes_last) {
            let name: RowName = (*table, change.key.clone());
            if !done.insert(name.clone()) {
                continue;
            }
            // All changes of one row, in their order.
            for (_, change) in changes.iter().filter(|(table, change)| (*table, &change.key) == (name.0, &name.1)) {
                self.apply(work, &name, change, &mut merged);
            }
        }
        self.revive_parents(work, &mut merged);
        merged
    }

    /// A record still in use comes back, whole, from its tombstone.
    fn revive_parents(&self, work: &Work<'_>, merged: &mut Merged) {
        loop {
            let missing = self.violations(&merged.writes).into_iter().find_map(|(constraint, rows)| {
                let [child, parent] = rows.as_slice() else { return None };
                let gone =
                    !merged.writes.contains_key(parent) && matches!(self.rows.get(parent), Some(State::Gone(..)));
                let comes_back = self.rules[parent.0].on_delete == OnDelete::UpdateWins;
                (constraint == "foreign" && gone && comes_back).then(|| (child.clone(), parent.clone()))
            });
            let Some((child, parent)) = missing else { break };
            let Some(State::Gone(row, deletion)) = self.rows.get(&parent) else { break };
            let stamp = deletion.followed_by(work.xid, self.clock.max(deletion.clock), HUB);
            let back = HubRow { values: row.values.clone(), clocks: RowClocks::new(stamp) };
            merged.writes.insert(parent.clone(), State::Live(back));
            let child = merged.revived.get(&child).cloned().unwrap_or(child);
            merged.revived.insert(parent, child);
        }
    }

    fn apply(&self, work: &Work<'_>, name: &RowName, change: &Change, merged: &mut Merged) {
        if change.clock <= work.client.watermark {
            return;
        }
        let count = u64::from(change.count);
        let recovered = work.delta.body.recovery.filter(|recovery| recovery.covers(change.clock));
        let base = if recovered.is_some() { None } else { work.delta.body.base_of(change.first_clock) };
        // What depends on a record that was refused, or that was another one of the same key, goes where that went.
        let refused = self.records.values().chain(&merged.records).find(|record| {
            record.open
                && record.rule.starts_with("on_same_key")
                && record.client == work.client.number
                && record.row == *name
                && base.is_none_or(|base| !base.visible(record.told))
        });
        let exclusion = work.excluded.get(name).cloned().or_else(|| {
            refused.map(|record| Exclusion { outcome: Outcome::Conflict, rule: record.rule.clone(), record: "manual" })
        });
        if let Some(exclusion) = exclusion {
            merged.outcomes.count(exclusion.outcome, count);
            if exclusion.outcome == Outcome::Rejected {
                merged.rejected.insert(name.0);
            }
            merged.records.push(Record {
                client: work.client.number,
                row: name.clone(),
                outcome: exclusion.record.to_owned(),
                open: exclusion.record != "server",
                clock: change.clock,
                told: work.xid,
                values: change.fields.iter().map(|field| field.new.clone()).collect(),
                rule: exclusion.rule,
            });
            match exclusion.record {
                "rejected" => merged.refused.insert(name.clone()),
                _ => merged.whole.insert(name.clone()),
            };
            return;
        }
        let kinds = schema::kinds(name.0);
        let fields: Vec<IncomingField> = change
            .fields
            .iter()
            .filter(|field| field.column <= self.width[name.0])
            .map(|field| IncomingField {
                number: field.column,
                kind: kinds[usize::from(field.column)],
                old: field.old.clone(),
                new: field.new.clone(),
            })
            .collect();
        let state = match merged.writes.get(name).or_else(|| self.state(work.xid, name)) {
            None => HubState::Absent,
            Some(State::Live(row)) => HubState::Live(row.clone()),
            Some(State::Gone(row, deletion)) => HubState::Deleted { row: row.clone(), deletion: *deletion },
        };
        let incoming = Incoming {
            op: change.op,
            origin: work.client.number,
            clock: match recovered {
                Some(recovery) => recovery.as_of.min(self.clock),
                None => work.clocks.get(&change.clock).copied().unwrap_or_default(),
            },
            base,
            fields: &fields,
            key_is_integer: name.1.is_integer(),
        };
        let ids: HashMap<Origin, String> =
            self.clients.values().map(|client| (client.number, client.client_id.clone())).collect();
        let client_id = |origin: Origin| ids.get(&origin).cloned().unwrap_or_default();
        let priority = self.priorities[name.0].and_then(|column| {
            let HubState::Live(row) = &state else { return None };
            let device = fields.iter().find(|field| field.number == column)?;
            Some((device.new.clone(), row.value(column)))
        });
        let context = Context { version: work.xid, client_id: &client_id, priority };
        let decision = decide(&incoming, &state, &self.rules[name.0], &context);
        merged.outcomes.count(decision.outcome, count);
        let mut record = |outcome: &str, open: bool, rule: String, values: Vec<Value>| {
            merged.records.push(Record {
                client: work.client.number,
                row: name.clone(),
                outcome: outcome.to_owned(),
                open,
                clock: change.clock,
                told: work.xid,
                values,
                rule,
            });
        };
        if let Some(why) = &decision.rejection {
            let values = change.fields.iter().map(|field| field.new.clone()).collect();
            record("rejected", true, why.to_string(), values);
        }
        for collision in &decision.collisions {
            let Collision { client, server, winner, rule, .. } = collision;
            record(winner.word(), winner.word() == "manual", rule.clone(), vec![client.clone(), server.clone()]);
        }
        if decision.outcome == Outcome::Rejected {
            merged.rejected.insert(name.0);
            merged.refused.insert(name.clone());
        } else {
            merged.accepted.insert(name.clone());
        }
        if decision.answer == Answer::Whole {
            merged.whole.insert(name.clone());
        }
        let after = match (decision.write, state) {
            (Write::Nothing, _) => return,
            (Write::Insert { fields, clocks } | Write::Revive { fields, clocks }, _) => {
                State::Live(HubRow { values: fields.into_iter().collect(), clocks })
            }
            (Write::Update { fields, clocks }, HubState::Live(mut row)) => {
                row.values.extend(fields);
                State::Live(HubRow { clocks, ..row })
            }
            (Write::Delete { deletion }, HubState::Live(mut row)) => {
                if self.soft[name.0] {
                    row.clocks.set(MARK, deletion);
                }
                // Its tombstone is the last trace of what it held, unless the delta makes the row once more.
                merged.taken_away.extend(row.values.values().cloned());
                State::Gone(row, deletion)
            }
            (Write::Update { .. } | Write::Delete { .. }, _) => return,
        };
        merged.writes.insert(name.clone(), after);
    }

    /// The first of the delta's rows that the hub's constraints refuse. Deleted parents that a child of the delta needs, and
    /// whose rule says so, come back instead.
    fn to_blame(&self, merged: &Merged, names: &BTreeSet<RowName>) -> Option<(RowName, Exclusion)> {
        let rejected = |name: &RowName, why: &str| {
            (name.clone(), Exclusion { outcome: Outcome::Rejected, rule: why.to_owned(), record: "rejected" })
        };
        for (constraint, rows) in self.violations(&merged.writes) {
            let written = |name: &&RowName| names.contains(*name) && merged.writes.contains_key(*name);
            if constraint != "foreign" {
                let cause = rows.iter().find_map(|row| merged.revived.get(row)).or_else(|| rows.iter().find(written));
                if let Some(name) = cause {
                    return Some(rejected(name, constraint));
                }
                continue;
            }
            // A parent that came back, and lacks one itself, is in the delta for its child's sake only.
            let (child, parent) = (merged.revived.get(&rows[0]).unwrap_or(&rows[0]), &rows[1]);
            let rule = self.rules[parent.0].on_delete;
            let conflict = |name: &RowName, record| {
                (
                    name.clone(),
                    Exclusion { outcome: Outcome::Conflict, rule: format!("on_delete/{}", rule.word()), record },
                )
            };
            let parent_goes_now = matches!(merged.writes.get(parent), Some(State::Gone(..)));
            if parent_goes_now {
                // The delta deletes a parent that the hub still has children of.
                return Some(match rule {
                    OnDelete::UpdateWins => conflict(parent, "server"),
                    _ => rejected(parent, constraint),
                });
            }
            let gone = matches!(self.rows.get(parent), Some(State::Gone(..)));
            return Some(match (gone, rule) {
                (true, OnDelete::DeleteWins) => conflict(child, "rejected"),
                (true, OnDelete::Manual) => conflict(child, "rejected"),
                _ => rejected(child, constraint),
            });
        }
        None
    }

    /// An answer without rows: the hub has taken more of this client than the delta at hand brings.
    fn short(&self, client: &Client, delta: &Delta, batch: BatchId, now_ms: u64) -> Reply {
        let body = ReplyBody {
            batch,
            watermark: delta.body.answered_up_to(client.watermark),
            cursor: delta.body.cursor.clone().unwrap_or_default(),
            more: true,
            ..ReplyBody::default()
        };
        Reply { client: delta.client, history: self.history(), hub_now_ms: now_ms, body }
    }

    /// Everything that the device lacks, read under one snapshot.
    fn pull(
        &self,
        xid: u64,
        client: &Client,
        delta: &Delta,
        deletions_too: bool,
        sent: &BTreeMap<RowName, Said>,
    ) -> ReplyBody {
        let reader = Reader { cursor: delta.body.cursor.as_ref(), deletions_too };
        let own = self.running.get(&xid);
        let records = self.records.iter().filter(|(number, _)| own.is_none_or(|own| !own.records.contains_key(number)));
        let records: Vec<(&u64, &Record)> = records.chain(own.iter().flat_map(|own| &own.records)).collect();
        // A rejection settled since: the row goes whole.
        let settled: BTreeSet<&RowName> = records
            .iter()
            .filter(|(_, record)| {
                !record.open
                    && record.outcome == "rejected"
                    && record.client == client.number
                    && reader.unseen(record.told)
            })
            .map(|(_, record)| &record.row)
            .collect();
        let waits = |name: &RowName| {
            let mut records = records.iter().map(|(_, record)| record);
            records.any(|record| record.open && record.client == client.number && record.row == *name)
        };
        let wanted: BTreeSet<RowName> = delta
            .body
            .wants
            .iter()
            .filter_map(|want| Some((TABLES.iter().position(|shape| shape.name == want.table)?, want.key.clone())))
            .collect();
        let mut names: BTreeSet<&RowName> =
            self.rows.keys().chain(own.iter().flat_map(|own| own.writes.keys())).collect();
        names.extend(settled.iter().copied());
        names.extend(&wanted);
        let mut tables: Vec<TableRows> = (0..TABLES.len()).map(|table| self.heading(table)).collect();
        let mut clock = Hlc::default();
        for name in names {
            let sent = sent.get(name);
            let named = wanted.contains(name) || settled.contains(name);
            let change = match self.state(xid, name) {
                Some(State::Live(row)) => {
                    let back = row.clocks.stamped().find(|(number, _)| *number == MARK).map(|(_, mark)| mark.version);
                    let whole = reader.needs_whole(&row.clocks, back, named, sent);
                    let fields = schema::fields(name.0, self.width[name.0]).map(|column| (column, row.value(column)));
                    let sums = &tables[name.0].sums;
                    let fields: Vec<(u16, Value)> = fields
                        .filter(|(column, value)| {
                            whole || reader.hears_of_field(&row.clocks, *column, value, sums.contains(column), sent)
                        })
                        .collect();
                    for (column, _) in &fields {
                        clock = clock.max(row.clocks.field(*column).clock);
                    }
                    let op = if whole { Op::Insert } else { Op::Update };
                    (whole || !fields.is_empty()).then_some((op, fields))
                }
                Some(State::Gone(_, deletion)) => {
                    let travels = reader.hears_of_deletion(deletion.version, named, sent);
                    clock = if travels { clock.max(deletion.clock) } else { clock };
                    travels.then_some((Op::Delete, Vec::new()))
                }
                // Repeating what was refused makes no row of it; while it waits for a person, it stays on its device.
                None => {
                    (named && !sent.is_some_and(|sent| sent.news) && !waits(name)).then_some((Op::Delete, Vec::new()))
                }
            };
            if let Some((op, fields)) = change {
                tables[name.0].rows.push(RowChange { op, key: name.1.clone(), fields });
            }
        }
        tables.retain(|table| !table.rows.is_empty());
        let notices = records
            .iter()
            .filter(|(_, record)| record.client == client.number && reader.unseen(record.told))
            .map(|(number, record)| {
                Notice::Conflict(Box::new(ConflictNotice {
                    conflict_id: **number,
                    table: TABLES[record.row.0].name.to_owned(),
                    key: record.row.1.clone(),
                    outcome: record.outcome.clone(),
                    rule: record.rule.clone(),
                    status: if record.open { "open" } else { "resolved" }.to_owned(),
                    clock: record.clock,
                    ..ConflictNotice::default()
                }))
            })
            .collect();
        ReplyBody {
            watermark: delta.body.answered_up_to(client.watermark),
            cursor: self.snapshot().with_own(xid),
            clock,
            notices,
            tables,
            ..ReplyBody::default()
        }
    }

    fn heading(&self, table: usize) -> TableRows {
        let width = self.width[table];
        TableRows {
            table: TABLES[table].name.to_owned(),
            columns: schema::names(table, width),
            kinds: schema::kinds(table)[..=usize::from(width)].to_vec(),
            key_len: schema::key_len(table),
            sums: schema::fields(table, width)
                .filter(|column| self.rules[table].fields.get(column) == Some(&FieldStrategy::Sum))
                .collect(),
            rows: Vec::new(),
        }
    }

    /// A person drops every open rejection: the hub's side stands.
    pub fn drop_rejections(&mut self) -> usize {
        let xid = self.begin();
        let mut dropped = 0;
        for record in self.records.values_mut().filter(|record| record.open && record.outcome == "rejected") {
            record.open = false;
            record.told = xid;
            dropped += 1;
        }
        self.commit(xid);
        dropped
    }

    /// ALTER TABLE place ADD COLUMN extra.
    pub fn add_column(&mut self) {
        self.width[schema::PLACE] = schema::width(schema::PLACE);
    }

    /// A dump is restored, or an old standby promoted: everything since is forgotten.
    pub fn restored_from(backup: &Hub) -> Hub {
        let mut hub = backup.clone();
        let lost: Vec<u64> = hub.running.keys().copied().collect();
        lost.into_iter().for_each(|xid| hub.abort(xid));
        hub
    }

    /// Live rows.
    pub fn live_rows(&self) -> BTreeMap<RowName, Row> {
        self.with(&BTreeMap::new())
    }

    /// A live committed row's values.
    pub fn row(&self, name: &RowName) -> Option<Row> {
        self.live(0, name).map(|row| self.as_row(name, row))
    }

    /// Keys of live committed rows.
    pub fn keys(&self, table: usize) -> Vec<Key> {
        self.rows
            .iter()
            .filter(|((at, _), state)| *at == table && matches!(state, State::Live(_)))
            .map(|((_, key), _)| key.clone())
            .collect()
    }
}

/// Whether a deleted row is still there, marked.
fn is_marked(row: &HubRow, deletion: Stamp) -> bool {
    row.clocks.stamped().any(|stamped| stamped == (MARK, deletion))
}

/// What a delta has to do with a row.
#[derive(Default)]
struct Said {
    /// It says something that had not been answered before.
    news: bool,
    inserted: bool,
    taken_away: bool,
    /// The merge wants the device to have it whole.
    whole: bool,
    /// Values, by changes that had not been answered before and that stand.
    fields: BTreeMap<u16, Value>,
    /// Fields of changes that had been answered before.
    repeated: BTreeSet<u16>,
    repeated_whole: bool,
}

impl Sent for Said {
    fn says_anything(&self) -> bool {
        self.news || self.repeated_whole || !self.repeated.is_empty()
    }

    fn made_it(&self) -> bool {
        self.inserted && !self.taken_away
    }

    fn took_it_away(&self) -> bool {
        self.taken_away
    }

    fn needs_it_whole(&self) -> bool {
        self.whole || self.repeated_whole
    }

    fn says(&self, field: u16) -> Option<&Value> {
        self.fields.get(&field)
    }

    fn repeats(&self, field: u16) -> bool {
        self.repeated.contains(&field)
    }

    fn must_hear(&self, _: u16) -> bool {
        false // every value is written in the hub's own form
    }
}

/// What a delta has to do with each row; up to `answered` it was answered before.
fn said(changes: &[(usize, &Change)], answered: Hlc, whole: &BTreeSet<RowName>) -> BTreeMap<RowName, Said> {
    let mut found: BTreeMap<RowName, Said> = BTreeMap::new();
    for (table, change) in changes {
        let said = found.entry((*table, change.key.clone())).or_default();
        if change.clock <= answered {
            said.repeated.extend(change.fields.iter().map(|field| field.column));
            said.repeated_whole |= change.op != Op::Update;
            continue;
        }
        said.news = true;
        said.taken_away = matches!(change.op, Op::Delete | Op::Cancelled);
        match change.op {
            Op::Insert => said.inserted = true,
            Op::Delete | Op::Cancelled => said.inserted = false,
            Op::Update => {}
        }
        if change.op == Op::Delete {
            said.fields.clear();
        }
        said.fields.extend(change.fields.iter().map(|field| (field.column, field.new.clone())));
    }
    for name in whole {
        found.entry(name.clone()).or_default().whole = true;
    }
    found
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
