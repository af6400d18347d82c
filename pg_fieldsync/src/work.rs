//! A delta, brought into the hub's terms: what the engine works on.
//!
//! Invariants:
//! * One item per row and delta: all of its changes, in the device's order.
//! * Items are found by ascending key: the order in which rows are locked, everywhere.
//! * What the merge decides stands in the item beside what was asked for; each attempt decides anew.
//! * There may be a hundred thousand items: what few of them have is kept in a box.

use crate::catalog::Table;
use crate::catch::SqlError;
use crate::field_values::FieldValues;
use crate::separate::Separate;
use crate::unseen::Heard;
use fieldsync_core::delta::Op;
use fieldsync_core::merge::{Collision, HubState, IncomingField, Outcome};
use fieldsync_core::rules::TableRules;
use fieldsync_core::value::Kind;
use fieldsync_core::{Hlc, Key, Snapshot, Value};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

/// Everything that one delta asks for.
pub struct Work {
    /// Per table of the hub, parents first.
    pub tables: Vec<TableWork>,
    /// Changes of tables that the hub does not track.
    pub homeless: Vec<Homeless>,
}

/// Changes of one tracked table.
pub struct TableWork {
    /// The table.
    pub table: Rc<Table>,
    /// Its rules.
    pub rules: Rc<TableRules>,
    /// `priority_field`, where the rules name one.
    pub priority_field: Option<String>,
    /// Its rows, by ascending key: the order in which they are locked, everywhere.
    pub items: Vec<Item>,
    /// Field numbers that any change touches.
    pub touched: Vec<u16>,
}

/// All changes of one row.
pub struct Item {
    /// The row.
    pub key: Key,
    /// The changes, in the device's order.
    pub changes: Vec<Prepared>,
    /// From which change on the fields are as the device has them: earlier ones went with a deletion.
    pub echo_from: usize,
    /// What the device last did to the row; None: all of its changes were answered before and it is a plain update.
    pub last_op: Op,
    /// Whether the device has the row whole (it inserted it in this delta).
    pub inserted: bool,
    /// Fields of changes that were answered before. The device may have missed that answer and show something else by now, so
    /// they travel whatever its cursor has seen, unless a change of this delta says what it shows.
    pub repeated: BTreeSet<u16>,
    /// Whether such a change made the row, deleted it, or both: then it travels whole.
    pub repeated_whole: bool,
    /// Fields that the hub holds in another form than the device ([`crate::convert::is_told`]).
    pub told: BTreeSet<u16>,
    /// Values in columns that the hub does not have: parked by themselves, while the rest of the row goes its way.
    pub lost: Vec<Lost>,
    /// The key as the device spells it, where the hub spells it otherwise, or cannot hold it: the device would not know its own row again.
    pub sent_as: Option<Key>,
    /// The device has deleted what no row of the hub can be, by its key: nothing of it is left to refuse, or to be looked for.
    pub is_taken_back: bool,
    /// Why the row's changes cannot even be tried.
    pub refused: Option<Box<SqlError>>,
    /// What conflicts have told the client of the row, if its table was ever withheld from it.
    pub heard: Vec<Heard>,
    /// What the merge found and decided.
    pub merged: Merged,
}

/// A value in a column that the hub does not have.
pub struct Lost {
    /// The change that it was in.
    pub raw_clock: Hlc,
    /// The column.
    pub column: String,
    /// The value before.
    pub old: Option<Value>,
    /// The value after.
    pub new: Value,
}

/// One change in the hub's terms.
pub struct Prepared {
    /// What it does.
    pub op: Op,
    /// The corrected clock.
    pub clock: Hlc,
    /// The device's clock as it sent it.
    pub raw_clock: Hlc,
    /// What the device had seen when it made it; shared, for a delta has few of them.
    pub base: Option<Rc<Snapshot>>,
    /// Logged changes in it.
    pub count: u32,
    /// Whether it belongs to a record of the device's own that waits in the conflicts under this key, beside the hub's.
    pub of_parked: bool,
    /// Whether it was found by comparing after a lost history.
    pub recovered: bool,
    /// The fields.
    pub fields: Vec<IncomingField>,
}

/// What the merge has found and decided about a row. Made anew on each attempt.
#[derive(Default)]
pub struct Merged {
    /// The row as it was.
    pub before: Option<HubState>,
    /// Whether the row, deleted, is still in the table, marked.
    pub marked: bool,
    /// The row as it shall be.
    pub after: Option<HubState>,
    /// Fields to be written.
    pub fields: FieldValues,
    /// The other fields stay as they are `before`, and are not repeated in `after`.
    pub rest_as_before: bool,
    /// The verdicts, one per change.
    pub outcomes: Vec<Outcome>,
    /// Who lost what, by change.
    pub collisions: Vec<(usize, Collision)>,
    /// The device needs the row whole.
    pub whole: bool,
    /// The row was not accepted.
    pub rejected: Option<Box<SqlError>>,
    /// Nothing was tried: another row of a strict table was rejected.
    pub parked_by_strict: bool,
}

/// A change of a table that the hub does not track.
pub struct Homeless {
    /// The table's name as it was sent.
    pub table: String,
    /// The row.
    pub key: Key,
    /// What the change does.
    pub op: Op,
    /// Logged changes in it.
    pub count: u32,
    /// The device's clock as it sent it.
    pub raw_clock: Hlc,
    /// Key and fields by name.
    pub key_fields: Vec<(String, Value)>,
    /// Fields before.
    pub base: Vec<(String, Value)>,
    /// Fields after.
    pub fields: Vec<(String, Value)>,
    /// Why.
    pub error: SqlError,
}

/// Changes that are not to be merged again: known by table, row and clock, and by what they say of their fields.
pub type AlreadyMade = HashMap<(String, Key, Hlc), Vec<Said>>;

/// What a change says of its fields: column, before, after.
pub type Said = Vec<(String, Option<Value>, Value)>;

/// What the sync knows of its client when it reads a delta.
pub struct Sender<'a> {
    /// The greatest clock that was answered; changes up to it are repeats.
    pub watermark: Hlc,
    /// Corrected clocks by raw ones.
    pub correct: &'a dyn Fn(Hlc) -> Hlc,
    /// Changes that an identity of the same device has delivered.
    pub already_made: &'a AlreadyMade,
    /// Tables whose changes this client may not send.
    pub no_push: &'a dyn Fn(&str) -> bool,
}

impl Item {
    /// What the device has in a field after the changes that this delta brings, if they touch it: for leaving out of the answer
    /// what it knows.
    pub fn echo(&self, number: u16) -> Option<&Value> {
        let changes = self.changes.get(self.echo_from..)?;
        changes.iter().rev().find_map(|change| {
            let at = change.fields.binary_search_by_key(&number, |field| field.number).ok()?;
            Some(&change.fields[at].new)
        })
    }

    /// Whether the device has no such row (any more): it deleted it, or what it made under this key came and went unseen.
    pub fn took_it_away(&self) -> bool {
        matches!(self.last_op, Op::Delete | Op::Cancelled)
    }

    /// Takes back what was refused for its key: its changes only count from now on.
    pub fn take_back(&mut self) {
        self.refused = None;
        self.lost.clear();
        for change in &mut self.changes {
            change.op = Op::Cancelled;
            change.fields.clear();
        }
    }

    /// Whether another copy of the device has delivered all of this before, so that nothing is merged; and the device has the row.
    pub fn is_a_copys(&self) -> bool {
        let merges_nothing = self.changes.iter().all(|change| change.op == Op::Cancelled);
        merges_nothing && !self.changes.is_empty() && !self.took_it_away()
    }

    /// A field's value after the merge, where the delta has anything to do with it.
    pub fn value_after(&self, number: u16) -> Option<&Value> {
        let Some(HubState::Live(after)) = &self.merged.after else { return None };
        let rest = match &self.merged.before {
            Some(HubState::Live(before)) if self.merged.rest_as_before => before,
            _ => after,
        };
        self.merged.fields.get(number).or_else(|| rest.values.get(&number))
    }
}

impl TableWork {
    /// Adds rows; a row that is here already gets the changes on top.
    pub fn take_in(&mut self, items: Vec<Item>) {
        let mut places: HashMap<Key, usize> =
            self.items.iter().enumerate().map(|(at, item)| (item.key.clone(), at)).collect();
        for mut item in items {
            let Some(at) = places.get(&item.key) else {
                places.insert(item.key.clone(), self.items.len());
                self.items.push(item);
                continue;
            };
            let known = &mut self.items[*at];
            if known.echo_from > 0 || item.echo_from > 0 {
                // Which of them came after the deletion is not known any more: all of it is sent back.
                known.echo_from = usize::MAX;
            }
            known.changes.append(&mut item.changes);
            known.changes.sort_by_key(|change| change.raw_clock);
            known.lost.append(&mut item.lost);
            known.repeated.extend(item.repeated);
            known.told.extend(item.told);
            known.repeated_whole |= item.repeated_whole;
            known.sent_as = item.sent_as.or(known.sent_as.take());
            known.last_op = item.last_op;
            known.inserted |= item.inserted;
            known.refused = known.refused.take().or(item.refused);
            known.is_taken_back = item.is_taken_back;
            if known.is_taken_back {
                known.take_back();
            }
        }
    }

    /// Marks changes that a device made to its own record of a key before it learnt that the record waits in the conflicts.
    pub fn mark_separate(&mut self, parked: &Separate) {
        if parked.is_empty() {
            return;
        }
        for item in &mut self.items {
            let Some(record) = parked.get(&(self.table.table_id, self.table.row_id(&item.key))) else { continue };
            for change in &mut item.changes {
                change.of_parked = change.base.as_ref().is_none_or(|base| !base.visible(record.told));
            }
        }
    }

    /// A device that takes a record back which the hub has not taken deletes nothing: the hub may have another one of that key by now.
    pub fn take_back(&mut self, not_taken: &HashSet<(i32, String)>) {
        if not_taken.is_empty() {
            return;
        }
        for item in &mut self.items {
            let Some(last) = item.changes.iter().rposition(|change| change.op == Op::Delete) else { continue };
            if not_taken.contains(&(self.table.table_id, self.table.row_id(&item.key))) {
                for change in &mut item.changes[..=last] {
                    change.op = Op::Cancelled;
                    change.fields.clear();
                }
            }
        }
    }

    /// Whether all parts of the key are integers.
    pub fn key_is_integer(&self) -> bool {
        self.table.key_kinds().iter().all(|kind| *kind == Kind::Int)
    }
}
