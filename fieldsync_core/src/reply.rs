//! The hub's answer: what became of the device's changes, and everything the device has not seen.

use crate::clock::Hlc;
use crate::delta::{BatchId, ClientTag, HistoryTag, Op};
use crate::key::Key;
use crate::snapshot::Snapshot;
use crate::value::{Kind, Value};
use serde::{Deserialize, Serialize};

/// Everything the hub answers in one blob.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// Whom it is for.
    pub client: ClientTag,
    /// The history its cursor belongs to.
    pub history: HistoryTag,
    /// The hub's wall clock, in milliseconds since 1970.
    pub hub_now_ms: u64,
    /// What travels in the body.
    pub body: ReplyBody,
}

/// The part of a reply behind the header.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReplyBody {
    /// The batch that it answers.
    pub batch: BatchId,
    /// Everything up to this device clock is answered.
    pub watermark: Hlc,
    /// What the device has seen once it has applied this.
    pub cursor: Snapshot,
    /// The latest clock in what travels here; the device's clock must not stay behind it.
    pub clock: Hlc,
    /// What became of the batch's logged changes.
    pub outcomes: Outcomes,
    /// Whether the hub has more to send.
    pub more: bool,
    /// Conflicts, rejections, news.
    pub notices: Vec<Notice>,
    /// Rows, tables ordered parents first: apply inserts and updates in this order, deletes in the opposite one.
    pub tables: Vec<TableRows>,
}

impl ReplyBody {
    /// Whether the answer only confirms changes, and brings no rows (see [`crate::delta::DeltaBody::reaches`]): the hub had taken
    /// them from another export, whose answer was lost and with it what the hub decided otherwise. So the device asks for every row
    /// that is confirmed here, whole, and again for what it had asked for in exports up to the answered one; any other answer
    /// settles what was asked for up to there. `cursor`: the device's before.
    pub fn only_confirms(&self, cursor: Option<&Snapshot>) -> bool {
        self.more && cursor.map_or(self.cursor == Snapshot::default(), |cursor| self.cursor == *cursor)
    }
}

/// Verdicts, counted in logged changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outcomes {
    /// Written as sent.
    pub applied: u64,
    /// Combined with concurrent changes without loss.
    pub merged: u64,
    /// Nothing left to do.
    pub superseded: u64,
    /// Collided; the rule decided or a person will.
    pub conflict: u64,
    /// Not acceptable; parked.
    pub rejected: u64,
}

impl Outcomes {
    /// Adds one verdict.
    pub fn count(&mut self, outcome: crate::merge::Outcome, changes: u64) {
        use crate::merge::Outcome;
        match outcome {
            Outcome::Applied => self.applied += changes,
            Outcome::Merged => self.merged += changes,
            Outcome::Superseded => self.superseded += changes,
            Outcome::Conflict => self.conflict += changes,
            Outcome::Rejected => self.rejected += changes,
        }
    }

    /// All of them: what is acknowledged.
    pub fn total(&self) -> u64 {
        self.applied + self.merged + self.superseded + self.conflict + self.rejected
    }
}

/// Rows of one table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TableRows {
    /// The table's bare name.
    pub table: String,
    /// Column names, the key's first.
    pub columns: Vec<String>,
    /// What the hub holds in each column.
    pub kinds: Vec<Kind>,
    /// How many of the columns are the key.
    pub key_len: u16,
    /// Columns under a `sum` rule: pending differences are put on top of what arrives.
    pub sums: Vec<u16>,
    /// The rows.
    pub rows: Vec<RowChange>,
}

/// One row as the device shall have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowChange {
    /// Insert: the row, whole (the device may have it already). Update: some fields. Delete: gone.
    pub op: Op,
    /// The row.
    pub key: Key,
    /// Fields by ascending column.
    pub fields: Vec<(u16, Value)>,
}

impl RowChange {
    /// The row is gone.
    pub fn deletion(key: Key) -> RowChange {
        RowChange { op: Op::Delete, key, fields: Vec::new() }
    }
}

/// News that is not a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// A conflict or a rejection that this device raised, in its latest state.
    Conflict(Box<ConflictNotice>),
    /// This database is a copy of another device's. It goes on under the identity given; its MAC key is derived from the one it has.
    NewIdentity {
        /// The new client id.
        client_id: String,
        /// Why the hub thinks so, in words.
        reason: String,
    },
    /// The hub's history has changed (restored, promoted): offer again what the retained log holds above this watermark.
    NewHistory {
        /// What the hub still remembers of this client.
        watermark: Hlc,
        /// The last batch of this client that the hub remembers; the device's chain goes on from it.
        last_batch: BatchId,
        /// Why, in words.
        reason: String,
    },
    /// Something a person should read.
    Warning(String),
    /// The hub lacks a shape that the delta left out: nothing of it was merged, the next one shall name all of its tables.
    NamesWanted,
}

/// A conflict as the device shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConflictNotice {
    /// The hub's number for it.
    pub conflict_id: u64,
    /// The table's bare name.
    pub table: String,
    /// The row.
    pub key: Key,
    /// The device's operation: insert, update, delete.
    pub operation: String,
    /// Values by field before the device's change, as JSON.
    pub base: String,
    /// The device's values by field, as JSON.
    pub mine: String,
    /// The hub's values by field, as JSON.
    pub theirs: String,
    /// The rule that decided, or SQLSTATE and constraint.
    pub rule: String,
    /// server, client, manual, rejected, recovered.
    pub outcome: String,
    /// In words.
    pub detail: String,
    /// open or resolved.
    pub status: String,
    /// The device's raw clock of the change that raised it.
    pub clock: Hlc,
}
