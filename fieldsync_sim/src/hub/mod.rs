//! The hub: rows with field clocks, tombstones, clients, and transactions that overlap as Postgres lets them.
//!
//! Writers hold row locks from their first write to their end; whoever needs a locked row waits for its holder (here: the
//! holder commits first). Readers see what a Postgres snapshot shows them.

mod constraints;
mod merging;
mod pull;
mod sync;
mod transactions;

use crate::schema::{self, Row, RowName, TABLES};
use fieldsync_core::clocks::{Origin, Stamp};
use fieldsync_core::delta::{history_tag, BatchId, ClientTag, HistoryTag};
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::merge::HubRow;
use fieldsync_core::reply::Outcomes;
use fieldsync_core::rules::TableRules;
use fieldsync_core::wire::{Shape, Shapes};
use fieldsync_core::{Hlc, Key, Snapshot, Value};
use std::collections::{BTreeMap, BTreeSet};
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

impl Hub {
    /// A new hub.
    pub fn new(rules: Vec<TableRules>, columns_of_memo: u16) -> Hub {
        let mut width = [0; TABLES.len()];
        (0..TABLES.len()).for_each(|table| width[table] = schema::width(table));
        width[schema::MEMO] = columns_of_memo;
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

    /// ALTER TABLE memo ADD COLUMN extra.
    pub fn add_column(&mut self) {
        self.width[schema::MEMO] = schema::width(schema::MEMO);
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
