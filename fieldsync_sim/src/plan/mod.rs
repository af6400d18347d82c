//! A history as data: everything that chance decides, drawn before anything happens.
//!
//! One plan, two worlds. [`crate::history`] carries it out over the core, in memory; the full histories (`tests/histories`)
//! carry out the same plan with real SQLite files and a real Postgres, from its JSON. A plan knows nothing of what will be
//! there when a step's turn comes: numbers named `pick` choose among what there is then (the n-th of m is `pick % m`), and a
//! step without an object does nothing. So a plan stays a plan when steps are taken out of it, which is how a failure is
//! made small. Where a world has no counterpart for something (wall clocks in the real one, statements' forms in the
//! simulated one) it passes over that part.

mod draw;
mod rules;

use crate::schema::{self, Table};
use serde::{Serialize, Serializer};

pub use draw::plan;
pub use rules::TablePlan;

/// A whole history.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// What it was drawn from.
    pub seed: u64,
    /// What it may contain.
    pub troubles: Troubles,
    /// Rules and deletion by table.
    pub tables: Vec<TablePlan>,
    /// Whether attendance goes with its person, by ON DELETE CASCADE.
    pub cascades: bool,
    /// Whether the hub has the late column from the beginning.
    pub wide: bool,
    /// Whether ALTER TABLE on the hub gives the late column a DEFAULT.
    pub late_default: bool,
    /// The devices at the beginning.
    pub phones: Vec<Phone>,
    /// What happens, one after the other.
    pub steps: Vec<Timed>,
}

/// What a history may contain, so that every kind of trouble also comes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Troubles {
    /// Devices are copied, and restored from backups.
    pub copies: bool,
    /// The hub loses its last days.
    pub restored_hub: bool,
    /// Somebody settles conflicts on either side, and throws away what is not needed any more.
    pub persons: bool,
}

impl Troubles {
    /// A seed's.
    pub fn of(seed: u64) -> Troubles {
        Troubles { copies: seed % 3 == 1, restored_hub: seed % 3 == 2, persons: seed % 3 == 0 }
    }
}

/// A device at the beginning.
#[derive(Debug, Clone, Serialize)]
pub struct Phone {
    /// How far its clock is off.
    pub offset_ms: i64,
    /// Whether its application switches the enforcement of foreign keys on.
    pub enforces: bool,
}

/// A step and when it comes.
#[derive(Debug, Clone, Serialize)]
pub struct Timed {
    /// Its place in the plan, also where others were taken out.
    pub at: usize,
    /// Milliseconds since the step before.
    pub after_ms: u64,
    /// What happens.
    #[serde(flatten)]
    pub step: Step,
}

/// What happens. `phone` is a pick, because copies add devices.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// A device's application writes.
    Edit {
        /// Which device.
        phone: usize,
        /// What.
        edits: Vec<Edit>,
    },
    /// A device exports, and the blob leaves.
    Export {
        /// Which device.
        phone: usize,
        /// Of what is pending at most so many changes, where it goes in parts.
        most: Option<usize>,
    },
    /// A device exports, and dies before the blob leaves.
    LoseExport {
        /// Which device.
        phone: usize,
    },
    /// A blob arrives.
    Deliver {
        /// Which of those under way; None: the oldest.
        pick: Option<usize>,
        /// It comes again later.
        twice: bool,
        /// What befell it.
        damage: Damage,
        /// What becomes of it on the hub.
        hearing: Hearing,
        /// A device that it is for dies before its commit.
        dies: bool,
    },
    /// A delta that the hub had not answered yet: it does now, or never.
    Finish {
        /// Never.
        aborts: bool,
    },
    /// Blobs under way are lost.
    LoseLetters {
        /// All but the oldest so many.
        keep: usize,
    },
    /// A delta of the past arrives again.
    Replay {
        /// Which one.
        pick: usize,
        /// What becomes of it.
        hearing: Hearing,
    },
    /// The hub's own application, with transactions that stay open.
    Portal {
        /// It begins one more, if few are open.
        begins: bool,
        /// Which transaction goes on.
        pick: usize,
        /// How.
        act: Act,
    },
    /// Nothing happens for some days.
    Wait {
        /// How many.
        days: u64,
    },
    /// A device's clock is set wrong, or right.
    SetClock {
        /// Which device.
        phone: usize,
        /// How far it is off from now on.
        offset_ms: i64,
    },
    /// ALTER TABLE on the hub.
    WidenHub,
    /// ALTER TABLE on a device, if the hub has the column.
    Widen {
        /// Which device.
        phone: usize,
    },
    /// A device's file is copied, and both go on.
    Copy {
        /// Which device.
        phone: usize,
    },
    /// A device's file is put aside.
    BackUp {
        /// Which device.
        phone: usize,
    },
    /// A device goes on with what was put aside.
    Restore {
        /// Which device.
        phone: usize,
    },
    /// The hub is backed up.
    BackUpHub,
    /// The hub goes on with its backup.
    RestoreHub {
        /// It sees so by itself, and counts its histories on by so many; None: it sees so only by what devices have seen.
        noticed: Option<u32>,
    },
    /// What either end kept of the other's names is gone: a damaged table, a careless operator.
    LoseShapes {
        /// Whose.
        phone: usize,
        /// 0: the device's of replies; 1: the hub's of deltas; 2: what the hub believes the device to know.
        which: u8,
    },
    /// Copies of the hub and a device get the same letters in other orders.
    Orders {
        /// Which device.
        phone: usize,
        /// How many changes its first export has.
        most: usize,
    },
    /// A person drops on the hub all that was rejected.
    DropRejections,
    /// A person settles an entry of `fs_conflicts`, settled ones too.
    Settle {
        /// On which device.
        phone: usize,
        /// Which entry.
        pick: usize,
        /// How.
        choice: Choice,
        /// A text that nobody has written before, for a choice that writes one.
        value: String,
    },
    /// A person settles an entry of the hub's `conflicts`, settled ones too.
    SettleOnHub {
        /// Which entry.
        pick: usize,
        /// For the device's side.
        client: bool,
    },
    /// A device drops what it need not keep.
    Purge {
        /// Which device.
        phone: usize,
    },
    /// The hub drops what it need not keep.
    PurgeHub,
}

/// How a person settles a conflict on a device.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// For the device's side.
    Mine,
    /// For the hub's.
    Theirs,
    /// With a field set anew.
    Edited,
    /// As a record of its own, under a key that nobody else uses.
    Another,
}

/// One edit by a device's user.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "edit", rename_all = "snake_case")]
pub enum Edit {
    /// A counter moves.
    Count {
        /// Which counter.
        pick: usize,
        /// By how much.
        difference: i64,
        /// Milliseconds after the step's time.
        after_ms: u64,
    },
    /// A row is written.
    Row(RowEdit),
}

/// A row is written: made if it is not there, else deleted, moved or changed.
#[derive(Debug, Clone, Serialize)]
pub struct RowEdit {
    /// Of which table.
    #[serde(serialize_with = "table_name")]
    pub table: Table,
    /// Its key.
    pub key: Vec<Cell>,
    /// It is deleted if it is there.
    pub deletes: bool,
    /// By which statement it is written otherwise.
    pub way: Way,
    /// Its fields.
    pub fields: Vec<Field>,
    /// Milliseconds after the step's time.
    pub after_ms: u64,
}

/// By which statement a row is written. The simulated world knows rows, not statements; a moved key is an update to it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// INSERT or UPDATE.
    Plain,
    /// REPLACE, where the table allows it.
    Replace,
    /// INSERT … ON CONFLICT DO UPDATE, where the table allows it.
    Upsert,
    /// A row of a table that nothing refers to gets another last part of its key.
    Move(Cell),
}

/// A field of an edit.
#[derive(Debug, Clone, Serialize)]
pub struct Field {
    /// The column's number.
    #[serde(skip)]
    pub number: u16,
    /// Its name.
    pub column: &'static str,
    /// Whether an update of a row that is there writes it.
    pub changes: bool,
    /// To what.
    pub value: Cell,
}

/// A value that is known, or is found when its time comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Cell {
    /// NULL.
    Null(()),
    /// A number.
    Int(i64),
    /// A text.
    Text(String),
    /// The key of a row that it refers to, one of those that are there.
    Parent {
        /// Which one.
        parent: usize,
    },
    /// What is there already; NULL in a new row.
    Same {
        /// Always true: it makes the JSON an object of its own kind.
        same: bool,
    },
}

/// What the hub's application does in its transaction.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum Act {
    /// It commits.
    Commit,
    /// It rolls back.
    Abort,
    /// TRUNCATE of a table that nothing refers to.
    Truncate {
        /// Which table.
        #[serde(serialize_with = "table_name")]
        table: Table,
    },
    /// It writes a row.
    Write(RowEdit),
}

/// What becomes of a delta on the hub.
#[derive(Debug, Clone, Serialize)]
pub struct Hearing {
    /// Whether, and when, it commits.
    pub fate: Fate,
    /// In two phases, where the world has them.
    pub prepared: bool,
}

/// When a delta's merge commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// At once.
    Now,
    /// When a [`Step::Finish`] comes.
    Later,
    /// Never.
    Never,
}

/// What befalls a blob on its way.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// Nothing.
    None,
    /// It ends early, after as many bytes (a pick among its length).
    Truncate(usize),
    /// One bit flips (a pick among its bits).
    Flip(usize),
}

fn table_name<S: Serializer>(table: &Table, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(schema::TABLES[*table].name)
}
