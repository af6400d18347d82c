//! What becomes of one device change on the hub: pure, deterministic, one row at a time.
//!
//! Invariants:
//! * Concurrency is exact ([`crate::clocks`]); clocks order only what is concurrent.
//! * Every value that loses is in the decision's collisions, with the value before, both values and the winner: the
//!   caller records them, so no edit vanishes without a record.
//! * Under `field_compare` only colliding fields can lose. A field rule beats the table's rule.
//! * Repeats are kept away by the watermark, not by this module; field by field a repeat changes no value all the same.

mod fields;
pub mod values;

use crate::clock::Hlc;
use crate::clocks::{Origin, RowClocks, Stamp};
use crate::delta::Op;
use crate::rules::{OnDelete, OnSameKey, TableRules};
use crate::seen::Seen;
use crate::value::{Kind, Value};
use std::collections::HashMap;

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Written as sent.
    Applied,
    /// Combined with concurrent changes without loss.
    Merged,
    /// Nothing left to do.
    Superseded,
    /// Collided: the rule decided, or a person will.
    Conflict,
    /// Not acceptable to the hub's schema or to a rule of arithmetic.
    Rejected,
}

impl Outcome {
    /// The word that views and reports show.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Applied => "applied",
            Outcome::Merged => "merged",
            Outcome::Superseded => "superseded",
            Outcome::Conflict => "conflict",
            Outcome::Rejected => "rejected",
        }
    }
}

/// A device's change, in the hub's types and time.
#[derive(Debug, Clone)]
pub struct Incoming<'a> {
    /// What it does.
    pub op: Op,
    /// Who made it.
    pub origin: Origin,
    /// The device's clock, corrected for skew.
    pub clock: Hlc,
    /// What the device had seen when it made it.
    pub seen: Seen<'a>,
    /// The changed fields by ascending field number, canonical in the hub's types.
    pub fields: &'a [IncomingField],
    /// Whether the key is made of integers only.
    pub key_is_integer: bool,
}

/// One field of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingField {
    /// The hub column's attribute number.
    pub number: u16,
    /// What it holds.
    pub kind: Kind,
    /// The value before, where the device sent it.
    pub old: Option<Value>,
    /// The value after.
    pub new: Value,
}

/// A row on the hub, live or kept in a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubRow {
    /// Values by field number; a field that is not here is NULL.
    pub values: HashMap<u16, Value>,
    /// Its field clocks.
    pub clocks: RowClocks,
}

impl HubRow {
    /// A field's value.
    pub fn value(&self, number: u16) -> Value {
        self.values.get(&number).cloned().unwrap_or_default()
    }
}

/// What the hub has under the change's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubState {
    /// Nothing, and no tombstone.
    Absent,
    /// A live row.
    Live(HubRow),
    /// A deleted row, soft or hard, as it last was.
    Deleted {
        /// The row.
        row: HubRow,
        /// Its deletion.
        deletion: Stamp,
    },
}

/// What only the hub's transaction knows.
pub struct Context<'a> {
    /// The version under which this transaction writes.
    pub version: u64,
    /// Client ids by origin, to break ties of equal clocks; the hub's is never asked for.
    pub client_id: &'a dyn Fn(Origin) -> String,
    /// The hub's and the device's value of `priority_field` (device first), where the table's rule asks for it.
    /// None: compare the logical clocks instead.
    pub priority: Option<(Value, Value)>,
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Nothing.
    Nothing,
    /// A new row.
    Insert {
        /// All fields.
        fields: Vec<(u16, Value)>,
        /// Its clocks.
        clocks: RowClocks,
    },
    /// Some fields of a live row.
    Update {
        /// Those fields.
        fields: Vec<(u16, Value)>,
        /// The row's clocks after.
        clocks: RowClocks,
    },
    /// A deleted row comes back with these values; all of them are known.
    Revive {
        /// All fields.
        fields: Vec<(u16, Value)>,
        /// Its clocks.
        clocks: RowClocks,
    },
    /// The row goes.
    Delete {
        /// The deletion.
        deletion: Stamp,
    },
}

/// Who a collision went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Winner {
    /// The hub's value stands.
    Server,
    /// The device's value stands.
    Client,
    /// The hub's value stands until a person decides.
    Person,
}

impl Winner {
    /// The word in `conflicts.outcome`.
    pub fn word(self) -> &'static str {
        match self {
            Winner::Server => "server",
            Winner::Client => "client",
            Winner::Person => "manual",
        }
    }
}

/// One field (or, without a field, the whole row) where one side lost or waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collision {
    /// The field; None for a row that was deleted on one side, or made twice.
    pub number: Option<u16>,
    /// The value before, where known.
    pub base: Option<Value>,
    /// The device's value.
    pub client: Value,
    /// The hub's value.
    pub server: Value,
    /// The hub's stamp.
    pub server_stamp: Stamp,
    /// Who has it.
    pub winner: Winner,
    /// The rule, as `conflicts.rule` names it.
    pub rule: String,
    /// On record, but not called a conflict: `timestamp_compare` let the device overwrite what it had not seen, or it has made anew what
    /// it had seen.
    pub quiet: bool,
}

/// What the device has to be sent of this row, beyond what its cursor lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Fields whose value differs from what it sent.
    Differences,
    /// The row, whole: the device has deleted or replaced it.
    Whole,
}

/// The decision about one change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What to write.
    pub write: Write,
    /// The verdict.
    pub outcome: Outcome,
    /// Who lost what.
    pub collisions: Vec<Collision>,
    /// What goes back.
    pub answer: Answer,
    /// Why, where the outcome is [`Outcome::Rejected`].
    pub rejection: Option<Rejection>,
}

/// Why the core itself refuses a change (the database's own refusals come from the database).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// An update of a row that the hub neither has nor remembers. SQLSTATE 02000.
    #[error("the hub has no such row, and no record of its deletion")]
    NoSuchRow,
    /// A sum left the range of its type. SQLSTATE 22003.
    #[error("the sum leaves the range of the column's type")]
    OutOfRange,
    /// A field under an arithmetic rule holds something else. SQLSTATE 22023.
    #[error("the field's rule adds numbers, and {0} is none")]
    NotANumber(String),
}

impl Decision {
    fn nothing(outcome: Outcome) -> Decision {
        Decision {
            write: Write::Nothing,
            outcome,
            collisions: Vec::new(),
            answer: Answer::Differences,
            rejection: None,
        }
    }

    fn rejected(why: Rejection) -> Decision {
        Decision { rejection: Some(why), ..Decision::nothing(Outcome::Rejected) }
    }
}

/// Decides what becomes of a change.
pub fn decide(change: &Incoming<'_>, hub: &HubState, rules: &TableRules, context: &Context<'_>) -> Decision {
    match (change.op, hub) {
        (Op::Cancelled, _) => Decision::nothing(Outcome::Superseded),
        (Op::Insert, HubState::Absent) => insert(change, None, context),
        (Op::Insert, HubState::Live(row)) => insert_on_live(change, row, rules, context),
        (Op::Insert, HubState::Deleted { row, deletion }) => {
            // Its own deletion a device knows, whatever others had done to the row before.
            let unseen = deletion.origin != change.origin && change.seen.misses_deletion(change.origin, *deletion);
            match rules.on_delete {
                // A new record under a key that used to be somebody's: nobody's edit is overwritten.
                _ if !unseen || !same_record(change, rules) => insert(change, Some((row, *deletion)), context),
                OnDelete::UpdateWins => insert(change, Some((row, *deletion)), context),
                rule => stays_deleted(change, row, *deletion, rule),
            }
        }
        (Op::Update, HubState::Absent) => Decision::rejected(Rejection::NoSuchRow),
        (Op::Update, HubState::Live(row)) => fields::update(change, row, rules, context),
        (Op::Update, HubState::Deleted { row, deletion }) => match rules.on_delete {
            OnDelete::UpdateWins => revive(change, row, *deletion, rules, context),
            rule => stays_deleted(change, row, *deletion, rule),
        },
        (Op::Delete, HubState::Absent) => Decision::nothing(Outcome::Superseded),
        (Op::Delete, HubState::Deleted { deletion, .. }) => {
            let both = deletion.origin != change.origin;
            Decision::nothing(if both { Outcome::Merged } else { Outcome::Superseded })
        }
        (Op::Delete, HubState::Live(row)) => delete(change, row, rules, context),
    }
}

/// A new row, possibly where a deleted one was.
fn insert(change: &Incoming<'_>, before: Option<(&HubRow, Stamp)>, context: &Context<'_>) -> Decision {
    let stamp = match before {
        None => Stamp::first(context.version, change.clock, change.origin),
        Some((_, deletion)) => deletion.followed_by(context.version, change.clock.max(deletion.clock), change.origin),
    };
    let fields = change.fields.iter().map(|field| (field.number, field.new.clone())).collect();
    let clocks = RowClocks::new(stamp);
    let write = if before.is_some() { Write::Revive { fields, clocks } } else { Write::Insert { fields, clocks } };
    Decision { write, ..Decision::nothing(Outcome::Applied) }
}

/// Whether one key, made by two, means one record.
fn same_record(change: &Incoming<'_>, rules: &TableRules) -> bool {
    rules.on_same_key.map_or(!change.key_is_integer, |rule| rule == OnSameKey::Merge)
}

/// The key is taken: the same record, or another one?
fn insert_on_live(change: &Incoming<'_>, row: &HubRow, rules: &TableRules, context: &Context<'_>) -> Decision {
    let made_twice = change.seen.misses_making(change.origin, &row.clocks);
    if !made_twice || same_record(change, rules) {
        return fields::update(change, row, rules, context);
    }
    let collisions = change
        .fields
        .iter()
        .map(|field| Collision {
            number: Some(field.number),
            base: None,
            client: field.new.clone(),
            server: row.value(field.number),
            server_stamp: row.clocks.field(field.number),
            winner: Winner::Person,
            rule: format!("on_same_key/{}", OnSameKey::Separate.word()),
            quiet: false,
        })
        .collect();
    Decision { collisions, answer: Answer::Whole, ..Decision::nothing(Outcome::Conflict) }
}

/// An update brings a deleted record back, whole, with the device's fields merged into it as into a live row.
fn revive(change: &Incoming<'_>, row: &HubRow, deletion: Stamp, rules: &TableRules, context: &Context<'_>) -> Decision {
    let merged = fields::update(change, row, rules, context);
    if merged.outcome == Outcome::Rejected {
        return merged;
    }
    let mut values = row.values.clone();
    // Fields keep the stamps they had; the new making of the row is what makes it travel whole.
    let mut clocks = row.clocks.clone();
    if let Write::Update { fields, clocks: merged_clocks } = merged.write {
        values.extend(fields);
        clocks = merged_clocks;
    }
    clocks.insert = deletion.followed_by(context.version, change.clock.max(deletion.clock), change.origin);
    let mut fields: Vec<_> = values.into_iter().collect();
    fields.sort_unstable_by_key(|(number, _)| *number);
    let mut collisions = merged.collisions;
    collisions.insert(0, deletion_collision(change, deletion, Winner::Client, OnDelete::UpdateWins));
    Decision {
        write: Write::Revive { fields, clocks },
        outcome: Outcome::Conflict,
        collisions,
        answer: Answer::Whole,
        rejection: None,
    }
}

/// The deletion stands (or waits for a person), and the device's fields are kept on record.
fn stays_deleted(change: &Incoming<'_>, row: &HubRow, deletion: Stamp, rule: OnDelete) -> Decision {
    let winner = if rule == OnDelete::Manual { Winner::Person } else { Winner::Server };
    let mut collisions = vec![deletion_collision(change, deletion, winner, rule)];
    collisions.extend(change.fields.iter().map(|field| Collision {
        number: Some(field.number),
        base: field.old.clone(),
        client: field.new.clone(),
        server: row.value(field.number),
        server_stamp: deletion,
        winner,
        rule: on_delete_name(rule),
        quiet: false,
    }));
    Decision { collisions, ..Decision::nothing(Outcome::Conflict) }
}

/// A delete meets a live row: somebody else may still need it.
fn delete(change: &Incoming<'_>, row: &HubRow, rules: &TableRules, context: &Context<'_>) -> Decision {
    let last = row.clocks.latest();
    let deletion = |clock: Hlc| last.followed_by(context.version, clock.max(last.clock), change.origin);
    if !change.seen.misses_any(change.origin, &row.clocks) {
        let write = Write::Delete { deletion: deletion(change.clock) };
        return Decision { write, ..Decision::nothing(Outcome::Applied) };
    }
    let winner = match rules.on_delete {
        OnDelete::UpdateWins => Winner::Server,
        OnDelete::DeleteWins => Winner::Client,
        OnDelete::Manual => Winner::Person,
    };
    let collisions = vec![deletion_collision(change, last, winner, rules.on_delete)];
    let decision = Decision { collisions, ..Decision::nothing(Outcome::Conflict) };
    if winner == Winner::Client {
        Decision { write: Write::Delete { deletion: deletion(change.clock) }, ..decision }
    } else {
        Decision { answer: Answer::Whole, ..decision }
    }
}

fn deletion_collision(change: &Incoming<'_>, server_stamp: Stamp, winner: Winner, rule: OnDelete) -> Collision {
    let (client, server) = if change.op == Op::Delete { ("deleted", "present") } else { ("present", "deleted") };
    Collision {
        number: None,
        base: None,
        client: client.into(),
        server: server.into(),
        server_stamp,
        winner,
        rule: on_delete_name(rule),
        quiet: false,
    }
}

fn on_delete_name(rule: OnDelete) -> String {
    format!("on_delete/{}", rule.word())
}
