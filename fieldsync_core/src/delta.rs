//! A changeset on its way up: what a device changed, and what it had seen when it did.

use crate::clock::Hlc;
use crate::key::Key;
use crate::snapshot::Snapshot;
use crate::value::Value;
use serde::{Deserialize, Serialize};

/// Names a client in five bytes: the lower forty bits of xxh3-64 of its id.
pub type ClientTag = u64;
/// Names a hub's history in four bytes: of hub id and epoch. 0: the device has never heard from a hub.
pub type HistoryTag = u32;
/// Names a batch: the checksum of its blob. 0: none.
pub type BatchId = u64;

/// The tag of a client id.
pub fn client_tag(client_id: &str) -> ClientTag {
    xxhash_rust::xxh3::xxh3_64(client_id.as_bytes()) & ((1 << 40) - 1)
}

/// The tag of a history; never 0.
pub fn history_tag(hub_id: &[u8; 16], epoch: u32) -> HistoryTag {
    let mut bytes = hub_id.to_vec();
    bytes.extend(epoch.to_le_bytes());
    (xxhash_rust::xxh3::xxh3_64(&bytes) as u32).max(1)
}

/// Everything a device sends in one blob.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// Who sends it.
    pub client: ClientTag,
    /// The history its cursor and watermark belong to.
    pub history: HistoryTag,
    /// The device's own wall clock when it exported, in milliseconds since 1970.
    pub device_now_ms: u64,
    /// What travels in the body.
    pub body: DeltaBody,
}

/// The part of a delta behind the header.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeltaBody {
    /// The last batch whose answer the device has applied.
    pub parent: BatchId,
    /// Batches exported since, oldest first. They also tell two batches apart that hold the same.
    pub unanswered: Vec<BatchId>,
    /// What the device has applied up to now: its cursor. None: nothing yet.
    pub cursor: Option<Snapshot>,
    /// What the device had seen when it wrote earlier changes, ascending: a change with a clock up to `until` was written
    /// under that base. Changes later than all of them were written under `cursor`. A stretch also ends where an export ended
    /// whose answer is awaited ([`cut_at_ends`]), so that the hub can tell what may have been said by itself.
    pub bases: Vec<Base>,
    /// The watermark that the hub last confirmed; every change in here is above it.
    pub watermark: Hlc,
    /// Everything up to this clock is in here (or below the watermark): the next watermark.
    pub high: Hlc,
    /// Whether the device has more to send.
    pub more: bool,
    /// Changes in here that the device found by comparing after the hub had lost history, not made itself.
    pub recovery: Option<Recovery>,
    /// Rows that the device lacks and asks for whole.
    pub wants: Vec<Want>,
    /// Conflicts that a person settled on the device.
    pub settled: Vec<Settled>,
    /// Whether the device lacks a shape that the hub took for known: the answer shall name all of its tables.
    pub names_wanted: bool,
    /// The changes.
    pub tables: Vec<TableChanges>,
}

/// What had been seen by changes up to a clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The last clock written under it.
    pub until: Hlc,
    /// The cursor at that time. None: nothing had been seen.
    pub snapshot: Option<Snapshot>,
}

/// Bases for a delta whose changes lie between `first` and `high`: those given, cut where earlier exports ended that the hub may
/// have applied by themselves. What is said on both sides of such an end was said twice, whether that export came through or
/// not; else its loss would decide what a value that went there and back counts for.
pub fn cut_at_ends(
    bases: Vec<Base>,
    cursor: Option<&Snapshot>,
    ends: impl IntoIterator<Item = Hlc>,
    (first, high): (Hlc, Hlc),
) -> Vec<Base> {
    let mut ends: Vec<Hlc> = ends.into_iter().filter(|end| (first..high).contains(end)).collect();
    ends.sort_unstable();
    ends.dedup();
    let mut ends = ends.into_iter().peekable();
    let mut cut = Vec::with_capacity(bases.len());
    for base in bases {
        while let Some(end) = ends.next_if(|end| *end < base.until) {
            cut.push(Base { until: end, snapshot: base.snapshot.clone() });
        }
        ends.next_if_eq(&base.until);
        cut.push(base);
    }
    cut.extend(ends.map(|end| Base { until: end, snapshot: cursor.cloned() }));
    cut
}

/// What a device still held of a history that the hub lost. Such changes were somebody's, once: they count as of the last
/// sync of the lost history, so that they beat what was restored and lose to what was written since; each is listed as
/// recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// They have clocks above this,
    pub after: Hlc,
    /// up to this,
    pub until: Hlc,
    /// and count as made at this time: the hub's, at the last sync of the lost history.
    pub as_of: Hlc,
}

impl Recovery {
    /// Whether a change with this clock is a recovered one.
    pub fn covers(&self, clock: Hlc) -> bool {
        self.after < clock && clock <= self.until
    }
}

/// A row that the device asks for, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Its table.
    pub table: String,
    /// Its key, in the order of the hub's key columns.
    pub key: Key,
}

/// A conflict settled on the device. A choice that changes a row travels as a fresh change beside this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The hub's number for it.
    pub conflict_id: u64,
    /// `mine`, `theirs` or `edited`.
    pub choice: String,
}

/// Changes of one table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TableChanges {
    /// The table's bare name.
    pub table: String,
    /// Column names, the key's first.
    pub columns: Vec<String>,
    /// How many of the columns are the key.
    pub key_len: u16,
    /// Its changes, in the order of their clocks.
    pub changes: Vec<Change>,
}

/// What a change does to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Op {
    /// A new row; all fields travel.
    Insert,
    /// Changed fields of a row.
    Update,
    /// The row is gone.
    Delete,
    /// A row that came and went between two exports: nothing to do, but its logged changes count.
    Cancelled,
}

impl Op {
    /// The word that views show.
    pub fn word(self) -> &'static str {
        match self {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Delete => "delete",
            Op::Cancelled => "cancelled",
        }
    }
}

/// One row's change: one or more logged changes that fold into one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What it does.
    pub op: Op,
    /// The row.
    pub key: Key,
    /// The device's raw clock of the last logged change in it.
    pub clock: Hlc,
    /// The device's raw clock of the first logged change in it: its base is the one that held then.
    pub first_clock: Hlc,
    /// How many logged changes it stands for. 0: a part of a change counted elsewhere, or one counted before (parked, sent again).
    pub count: u32,
    /// The changed fields, by ascending column.
    pub fields: Vec<FieldChange>,
}

/// One field's change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Index into the table's columns; never a key column.
    pub column: u16,
    /// The value before, where there was one.
    pub old: Option<Value>,
    /// The value after.
    pub new: Value,
}

impl DeltaBody {
    /// What the device had seen when it made a change with this clock.
    pub fn base_of(&self, clock: Hlc) -> Option<&Snapshot> {
        self.bases.get(self.stretch_of(clock)).map_or(self.cursor.as_ref(), |base| base.snapshot.as_ref())
    }

    /// Whether the device said both in one breath: it had seen nothing in between, and no export had ended.
    pub fn said_together(&self, one: Hlc, other: Hlc) -> bool {
        self.stretch_of(one) == self.stretch_of(other)
    }

    fn stretch_of(&self, clock: Hlc) -> usize {
        self.bases.partition_point(|base| base.until < clock)
    }

    /// Up to which clock a reply to this delta answers, given what the hub has applied of the client. No further than this
    /// delta goes: the hub may have applied more (an export whose answer was lost went further), but only for what is in
    /// here it can tell what differs, so that only that may stop being pending on the device.
    pub fn answered_up_to(&self, hub_watermark: Hlc) -> Hlc {
        hub_watermark.min(self.high.max(self.watermark))
    }

    /// Whether everything that the hub has applied of the client is in here or confirmed. If not (an earlier export, whose
    /// answer was lost, went further than this one), the hub answers without rows and leaves the cursor where it is: it could
    /// not tell the device what differs, and a cursor must not claim to have seen what pending changes still hide.
    pub fn reaches(&self, hub_watermark: Hlc) -> bool {
        hub_watermark <= self.high.max(self.watermark)
    }

    /// Logged changes in here.
    pub fn logged_changes(&self) -> u64 {
        self.tables.iter().flat_map(|table| &table.changes).map(|change| u64::from(change.count)).sum()
    }
}
