//! From logged changes to a changeset: what the device's export folds together.
//!
//! Invariants:
//! * Every logged change above the watermark is counted in exactly one wire change, or in none if it was counted in an
//!   earlier, parked one.
//! * Changes never fold across the end of an earlier export that is still unanswered: the hub may have applied exactly
//!   that much, and skips by clock.
//! * A field folds only while its values are contiguous: each change starts from the value that the one before left.
//! * A difference (a field goes from number to number) travels alone, under the clock of its making: if the database was
//!   copied before, the copy delivers some of the same differences under the same clocks, and each counts once. What
//!   else folds says the same however often it is said.

use crate::clock::Hlc;
use crate::delta::{Change, FieldChange, Op};
use crate::key::Key;
use crate::value::Value;
use std::collections::HashMap;

/// One logged operation on one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// The table, by the caller's number.
    pub table: u32,
    /// Insert, update or delete.
    pub op: Op,
    /// The row.
    pub key: Key,
    /// The log's clock.
    pub clock: Hlc,
    /// 1; or 0 for a part of a change counted elsewhere, or for a parked change that is offered again.
    pub count: u32,
    /// Changed fields by ascending column with old and new value. For an insert: empty (the row tells) or all
    /// fields with `old` NULL. For a delete: the old values, `new` NULL.
    pub fields: Vec<LoggedField>,
    /// An insert of a row that the hub may have: tracking of its table began again.
    pub again: bool,
}

/// One field of a logged operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedField {
    /// Index into the table's columns.
    pub column: u16,
    /// Before.
    pub old: Value,
    /// After.
    pub new: Value,
}

/// A folded change of a row, with the table it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folded {
    /// The table, by the caller's number.
    pub table: u32,
    /// The change as it travels.
    pub change: Change,
}

struct Entry {
    table: u32,
    segment: usize,
    change: Change,
    /// Whether the row existed before this entry's first logged change.
    existed: bool,
    /// An insert whose values the row itself, or a later change's old values, will tell.
    open: bool,
    /// It begins with a change that the hub rejected before and that is offered again.
    parked: bool,
    /// An insert of a row of which an update was logged, and no deletion: a cascade, or a trigger of the application, fired before the
    /// trigger that logs the row's making. Or the row went unlogged, and is on the hub.
    after_update: bool,
}

/// Folds logged changes, which must come in the order of their clocks. `boundaries` are the last clocks of
/// earlier unanswered exports. `row` gives a row's current non-key values by column. `None`: the row is gone; where the log does not
/// say so (its table was dropped, say), it came and went.
pub fn coalesce<E>(
    log: impl IntoIterator<Item = Logged>,
    boundaries: &[Hlc],
    mut row: impl FnMut(u32, &Key) -> Result<Option<Vec<(u16, Value)>>, E>,
) -> Result<Vec<Folded>, E> {
    // A later export may end earlier than the one before (it was limited in size).
    let mut boundaries = boundaries.to_vec();
    boundaries.sort_unstable();
    let mut entries: Vec<Entry> = Vec::new();
    let mut latest: HashMap<(u32, Key), Vec<usize>> = HashMap::new();
    for logged in log {
        let segment = boundaries.partition_point(|end| *end < logged.clock);
        let history = latest.entry((logged.table, logged.key.clone())).or_default();
        let at = history.last().copied().filter(|at| entries[*at].segment == segment);
        let early = at.is_some_and(|at| entries[at].after_update && logged.op == Op::Delete);
        let unfolded = match at {
            Some(at) => fold(&mut entries[at], logged),
            None => Some(logged),
        };
        match (unfolded, at) {
            (Some(mut logged), at) => {
                if logged.op == Op::Delete {
                    continue_values(&mut logged, &entries, history);
                }
                let mut entry = Entry::new(logged, segment);
                entry.after_update = entry.change.op == Op::Insert
                    && !entry.existed
                    && at.is_some_and(|at| entries[at].change.op == Op::Update);
                history.push(entries.len());
                entries.push(entry);
            }
            (None, _) if early => take_back_updates(&mut entries, history, segment),
            (None, _) => {}
        }
    }
    for history in latest.into_values() {
        tell_open_inserts(&mut entries, &history, &mut row)?;
    }
    Ok(entries.into_iter().map(|entry| Folded { table: entry.table, change: entry.change }).collect())
}

impl Entry {
    fn new(logged: Logged, segment: usize) -> Entry {
        let open = logged.op == Op::Insert && logged.fields.is_empty();
        let fields = match logged.op {
            // The hub has the row; only the deletion travels. Old values stay until the end: an insert before may need them.
            Op::Delete => logged.fields.into_iter().map(|field| FieldChange::gone(field.column, field.old)).collect(),
            Op::Insert => logged.fields.into_iter().map(|field| FieldChange::made(field.column, field.new)).collect(),
            _ => logged.fields.into_iter().map(FieldChange::from).collect(),
        };
        Entry {
            table: logged.table,
            segment,
            existed: logged.op != Op::Insert || logged.again,
            open,
            parked: logged.count == 0 && logged.op != Op::Delete,
            after_update: false,
            change: Change {
                op: logged.op,
                key: logged.key,
                clock: logged.clock,
                first_clock: logged.clock,
                count: logged.count,
                fields,
            },
        }
    }

    /// It came to nothing: only what it counts travels.
    fn cancel(&mut self) {
        self.change.op = Op::Cancelled;
        self.change.fields.clear();
        self.open = false;
    }
}

impl FieldChange {
    fn gone(column: u16, old: Value) -> FieldChange {
        FieldChange { column, old: Some(old), new: Value::Null }
    }

    fn made(column: u16, new: Value) -> FieldChange {
        FieldChange { column, old: None, new }
    }
}

impl From<LoggedField> for FieldChange {
    fn from(field: LoggedField) -> FieldChange {
        FieldChange { column: field.column, old: Some(field.old), new: field.new }
    }
}

/// A deleted row held what was written to it last. Its delete trigger may have been told what it held before: a BEFORE DELETE trigger of
/// the application writes to the row in between.
fn continue_values(logged: &mut Logged, entries: &[Entry], history: &[usize]) {
    let is_told = |entry: &Entry| entry.change.op == Op::Update && !entry.open;
    let updates = history.iter().rev().take_while(|at| is_told(&entries[**at])).count();
    for &at in &history[history.len() - updates..] {
        for field in &entries[at].change.fields {
            if let Some(deleted) = logged.fields.iter_mut().find(|deleted| deleted.column == field.column) {
                deleted.old = field.new.clone();
            }
        }
    }
}

/// What was logged of a row before it was made, and the row is gone: the hub could do it to nothing.
fn take_back_updates(entries: &mut [Entry], history: &[usize], segment: usize) {
    let Some((_, before)) = history.split_last() else { return };
    for &at in before.iter().rev() {
        let entry = &mut entries[at];
        if entry.segment != segment || entry.change.op != Op::Update {
            break;
        }
        entry.cancel();
    }
}

/// Folds a logged change into the entry before it, or gives it back if it has to travel by itself.
fn fold(entry: &mut Entry, logged: Logged) -> Option<Logged> {
    let alone = logged.op == Op::Update
        && logged.fields.iter().any(|field| is_difference(Some(&field.old), &field.new))
        || entry.change.op == Op::Update
            && entry.change.fields.iter().any(|field| is_difference(field.old.as_ref(), &field.new));
    // What was rejected goes with what corrects it, as one: by itself it would be rejected again.
    if alone && !entry.parked {
        return Some(logged);
    }
    match (entry.change.op, logged.op) {
        (Op::Insert, Op::Update) => {
            for field in logged.fields {
                put(&mut entry.change.fields, field.column, |slot| match slot {
                    Some(field_change) => field_change.new = field.new,
                    None => *slot = Some(FieldChange::made(field.column, field.new)),
                });
            }
        }
        (Op::Update, Op::Update) => {
            let contiguous = logged.fields.iter().all(|field| {
                let before = entry.change.fields.iter().find(|before| before.column == field.column);
                // From a number through NULL to a number is a reset, not a difference.
                before.is_none_or(|before| {
                    let difference = is_difference(before.old.as_ref(), &field.new);
                    match before.new == field.old {
                        true => !difference || entry.parked && !before.new.is_null(),
                        false => entry.parked,
                    }
                })
            });
            if !contiguous {
                return Some(logged);
            }
            for field in logged.fields {
                put(&mut entry.change.fields, field.column, |slot| match slot {
                    Some(field_change) if field_change.new == field.old => field_change.new = field.new,
                    // What was rejected, found once more by who compared the tables, against what the hub has now.
                    _ => *slot = Some(FieldChange::from(field)),
                });
            }
        }
        (Op::Insert, Op::Delete) if !entry.existed && !entry.after_update => {
            entry.cancel();
        }
        // The row may be on the hub: what is over is more than came and went.
        (Op::Insert, Op::Delete) => {
            entry.change.op = Op::Delete;
            entry.change.fields =
                logged.fields.into_iter().map(|field| FieldChange::gone(field.column, field.old)).collect();
            entry.open = false;
        }
        (Op::Update, Op::Delete) => {
            // Old values as they were before the entry began: the update's own, else the deleted row's.
            let mut fields: Vec<FieldChange> =
                logged.fields.into_iter().map(|field| FieldChange::gone(field.column, field.old)).collect();
            for before in entry.change.fields.drain(..) {
                if let Some(field) = fields.iter_mut().find(|field| field.column == before.column) {
                    field.old = before.old;
                }
            }
            entry.change.op = Op::Delete;
            entry.change.fields = fields;
            entry.open = false;
        }
        // Logged once more by who compared the tables, or the row went unlogged in between: it is told as it is now.
        (Op::Insert, Op::Insert) => {
            entry.open = logged.fields.is_empty();
            entry.change.fields =
                logged.fields.into_iter().map(|field| FieldChange::made(field.column, field.new)).collect();
        }
        // A refused deletion is offered once more.
        (Op::Delete, Op::Update) if logged.fields.is_empty() => {}
        (before, Op::Insert) if before == Op::Cancelled || before == Op::Delete && entry.after_update => {
            entry.change.op = Op::Insert;
            entry.open = logged.fields.is_empty();
            entry.change.fields =
                logged.fields.into_iter().map(|field| FieldChange::made(field.column, field.new)).collect();
        }
        // A row deleted and made again is the same row with other values; told in `tell_open_inserts` when the values are known.
        // All fields travel, also those that are as before: what arrived in between for them was not written here.
        (Op::Delete, Op::Insert) => {
            entry.change.op = Op::Update;
            entry.open = logged.fields.is_empty();
            for field in logged.fields {
                put(&mut entry.change.fields, field.column, |slot| match slot {
                    Some(field_change) => field_change.new = field.new,
                    None => *slot = Some(FieldChange::made(field.column, field.new)),
                });
            }
        }
        _ => return Some(logged),
    }
    entry.change.clock = logged.clock;
    entry.change.count = entry.change.count.saturating_add(logged.count);
    None
}

/// Parked changes travel again with the first new edit of their row: right before it, and under its clock, so that the hub takes
/// them for new; they were counted before. `entries` are the pending ones, by their clocks. Gives, by row, the clock of the first
/// change that is taken along: what was parked was written under the base of its own time.
pub fn take_along(parked: Vec<Logged>, entries: &mut Vec<Logged>) -> HashMap<(u32, Key), Hlc> {
    let mut edited: HashMap<(u32, Key), Hlc> = HashMap::new();
    for entry in entries.iter() {
        edited.entry((entry.table, entry.key.clone())).or_insert(entry.clock);
    }
    let mut first = HashMap::new();
    let mut together = Vec::with_capacity(parked.len() + entries.len());
    for logged in parked {
        let row = (logged.table, logged.key.clone());
        if let Some(clock) = edited.get(&row).copied().filter(|clock| logged.clock < *clock) {
            first.entry(row).or_insert(logged.clock);
            together.push(Logged { clock, count: 0, ..logged });
        }
    }
    together.append(entries);
    together.sort_by_key(|entry| entry.clock); // stable: parked ones stay before the edit that takes them along
    *entries = together;
    first
}

/// Whether a change of a field adds to a counter, if the hub's rule says that it is one. NULL counts as 0.
pub fn is_difference(old: Option<&Value>, new: &Value) -> bool {
    is_number(new) && old.is_some_and(|old| old.is_null() || is_number(old))
}

/// Whether a value counts as a number in some column of the hub: decimals are text on the device.
fn is_number(value: &Value) -> bool {
    match value {
        Value::Int(_) | Value::Real(_) => true,
        Value::Text(text) => text.parse::<f64>().is_ok(),
        _ => false,
    }
}

/// What a delta says of one row's fields more than once, in the order of its clocks, becomes what it says last, against the
/// value before the first time: both were said in one breath (`together`, see [`crate::delta::DeltaBody::said_together`]), so a
/// maximum, or an element of a set, that the device took back itself is nobody's. Counters (`is_counter`) keep every difference.
/// For the hub, before it merges; only changes that it has not applied yet may be given.
pub fn keep_last_words(
    changes: &mut [&mut Change],
    is_counter: impl Fn(u16) -> bool,
    together: impl Fn(Hlc, Hlc) -> bool,
) {
    for later in 1..changes.len() {
        let (before, rest) = changes.split_at_mut(later);
        let change = &mut *rest[0];
        if change.op != Op::Update {
            continue;
        }
        for field in change.fields.iter_mut().filter(|field| !is_counter(field.column)) {
            for earlier in before.iter_mut().rev() {
                if earlier.op != Op::Update || !together(earlier.first_clock, change.first_clock) {
                    break;
                }
                let Some(at) = earlier.fields.iter().position(|said| said.column == field.column) else { continue };
                if field.old.as_ref() == Some(&earlier.fields[at].new) {
                    field.old = earlier.fields.remove(at).old;
                }
                break;
            }
        }
    }
}

/// Finds or makes room for a column, keeping the fields ascending.
fn put(fields: &mut Vec<FieldChange>, column: u16, set: impl FnOnce(&mut Option<FieldChange>)) {
    match fields.binary_search_by_key(&column, |field| field.column) {
        Ok(at) => {
            let mut slot = Some(std::mem::replace(&mut fields[at], FieldChange::made(column, Value::Null)));
            set(&mut slot);
            if let Some(field) = slot {
                fields[at] = field;
            }
        }
        Err(at) => {
            let mut slot = None;
            set(&mut slot);
            if let Some(field) = slot {
                fields.insert(at, field);
            }
        }
    }
}

/// Gives inserts their values: a field that no later entry changed is as the row has it now; else as the first later
/// entry found it. Then strips what deletes carried along for this.
fn tell_open_inserts<E>(
    entries: &mut [Entry],
    history: &[usize],
    row: &mut impl FnMut(u32, &Key) -> Result<Option<Vec<(u16, Value)>>, E>,
) -> Result<(), E> {
    for (place, &at) in history.iter().enumerate() {
        if !entries[at].open {
            continue;
        }
        // Later entries tell first; a delete among them tells all that is left.
        let mut told: Vec<FieldChange> = Vec::new();
        let mut gone = false;
        let mut vanished = false;
        for &later in &history[place + 1..] {
            let later = &entries[later];
            for field in &later.change.fields {
                if let Some(old) = &field.old {
                    put(&mut told, field.column, |slot| {
                        slot.get_or_insert_with(|| FieldChange::made(field.column, old.clone()));
                    });
                }
            }
            let came_and_went = later.change.op == Op::Cancelled;
            vanished |= came_and_went;
            // One that was made again without having been deleted is the same row, or one of which nothing else is known.
            if later.change.op == Op::Delete || came_and_went || later.open && later.change.op != Op::Insert {
                gone = true;
                break;
            }
        }
        if !gone {
            let now = row(entries[at].table, &entries[at].change.key)?;
            vanished = now.is_none();
            for (column, value) in now.unwrap_or_default() {
                put(&mut told, column, |slot| {
                    slot.get_or_insert_with(|| FieldChange::made(column, value));
                });
            }
        }
        if vanished {
            // Nobody knows its values any more, and a row without them was made by nobody.
            let until = if gone { place + 1 } else { history.len() };
            for &at in &history[place..until] {
                entries[at].change.op = Op::Cancelled;
                entries[at].change.fields.clear();
                entries[at].open = false;
            }
            if !gone {
                break;
            }
            continue;
        }
        let entry = &mut entries[at];
        let remade = entry.change.op == Op::Update;
        for field in told {
            put(&mut entry.change.fields, field.column, |slot| match slot {
                // Made again over a deleted row: the delete told the old value, this is the new one.
                Some(known) if remade => known.new = field.new,
                Some(_) => {}
                None => *slot = Some(field),
            });
        }
        entry.open = false;
    }
    for &at in history {
        if entries[at].change.op == Op::Delete {
            entries[at].change.fields.clear();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    /// A row that went unlogged (a hub's deletion is no change of the device's), or that was logged once more by who compared the
    /// tables, is in the log as new twice.
    #[test]
    fn a_row_that_is_new_twice_is_never_told_without_its_values() {
        let logged = |op, clock, fields| Logged {
            table: 0,
            op,
            key: Key(vec![1.into()]),
            clock: Hlc(clock),
            count: 1,
            fields,
            again: false,
        };
        let old = |value: i64| vec![LoggedField { column: 0, old: value.into(), new: Value::Null }];
        let log = || {
            [
                logged(Op::Insert, 1, vec![]),
                logged(Op::Insert, 2, vec![]),
                logged(Op::Delete, 3, old(7)),
                logged(Op::Insert, 4, vec![]),
            ]
        };
        for boundaries in [vec![], vec![1], vec![2], vec![1, 3], vec![3], vec![1, 2, 3]] {
            let boundaries: Vec<Hlc> = boundaries.into_iter().map(Hlc).collect();
            let row = |_, _: &Key| Ok::<_, Infallible>(Some(vec![(0, Value::Int(9))]));
            let folded = coalesce(log(), &boundaries, row).unwrap();
            assert_eq!(folded.iter().map(|folded| folded.change.count).sum::<u32>(), 4);
            for folded in folded.iter().filter(|folded| folded.change.op == Op::Insert) {
                assert_eq!(folded.change.fields.len(), 1, "{boundaries:?}");
            }
        }
    }

    type Rows = BTreeMap<i64, Vec<Value>>;
    const COLUMNS: u16 = 3;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(i64, Vec<i64>),
        Update(i64, Vec<Option<i64>>),
        Delete(i64),
        Export,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = 0i64..3;
        let width = usize::from(COLUMNS);
        prop::collection::vec(
            prop_oneof![
                (key.clone(), prop::collection::vec(0i64..7, width)).prop_map(|(k, v)| Step::Insert(k, v)),
                (key.clone(), prop::collection::vec(prop::option::of(0i64..7), width))
                    .prop_map(|(k, v)| Step::Update(k, v)),
                key.prop_map(Step::Delete),
                Just(Step::Export),
            ],
            1..40,
        )
    }

    /// NULLs, numbers and texts, all of them common.
    fn value(number: i64) -> Value {
        match number {
            0 => Value::Null,
            1 | 2 => Value::Int(number),
            3 => "7.5".into(),
            _ => Value::Text(format!("text {number}")),
        }
    }

    /// Runs the steps on a plain table, and logs them as the triggers would.
    fn run(steps: &[Step]) -> (Rows, Vec<Logged>, Vec<(Hlc, Rows)>) {
        let mut rows = Rows::new();
        let mut log = Vec::new();
        let mut exports = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            let clock = Hlc(at as u64 + 1);
            let mut push = |op, key: i64, fields| {
                log.push(Logged { table: 0, op, key: Key(vec![key.into()]), clock, count: 1, fields, again: false });
            };
            match step {
                Step::Insert(key, values) if !rows.contains_key(key) => {
                    rows.insert(*key, values.iter().copied().map(value).collect());
                    push(Op::Insert, *key, vec![]);
                }
                Step::Update(key, changes) => {
                    let Some(row) = rows.get_mut(key) else { continue };
                    let mut fields = Vec::new();
                    for (column, change) in changes.iter().enumerate() {
                        let Some(new) = change.map(value) else { continue };
                        let old = std::mem::replace(&mut row[column], new.clone());
                        if old != new {
                            fields.push(LoggedField { column: column as u16, old, new });
                        }
                    }
                    if !fields.is_empty() {
                        push(Op::Update, *key, fields);
                    }
                }
                Step::Delete(key) => {
                    let Some(row) = rows.remove(key) else { continue };
                    let fields = row
                        .into_iter()
                        .enumerate()
                        .map(|(column, old)| LoggedField { column: column as u16, old, new: Value::Null })
                        .collect();
                    push(Op::Delete, *key, fields);
                }
                Step::Export => exports.push((clock, rows.clone())),
                Step::Insert(..) => {}
            }
        }
        (rows, log, exports)
    }

    fn replay(rows: &mut Rows, change: &Change) {
        let Value::Int(key) = change.key.0[0] else { panic!("key") };
        match change.op {
            Op::Insert => {
                assert!(!rows.contains_key(&key), "insert over a live row");
                assert_eq!(change.fields.len(), usize::from(COLUMNS), "an insert carries all fields");
                rows.insert(key, change.fields.iter().map(|field| field.new.clone()).collect());
            }
            Op::Update => {
                let row = rows.get_mut(&key).expect("update of a live row");
                for field in &change.fields {
                    let slot = &mut row[usize::from(field.column)];
                    assert_eq!(field.old.as_ref(), Some(&*slot), "old values are what was there");
                    *slot = field.new.clone();
                }
            }
            Op::Delete => assert!(rows.remove(&key).is_some(), "delete of a live row"),
            Op::Cancelled => {}
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// A hub that replays what is folded passes through exactly the states that the device exported.
        #[test]
        fn replaying_gives_every_exported_state(steps in steps()) {
            let (last, log, exports) = run(&steps);
            let boundaries: Vec<Hlc> = exports.iter().map(|(clock, _)| *clock).collect();
            let logged = log.len() as u64;
            let remade: Vec<Hlc> = log.iter().filter(|logged| logged.op == Op::Insert).map(|logged| logged.clock).collect();
            let folded = coalesce(log, &boundaries, |_, key| {
                let Value::Int(key) = key.0[0] else { panic!("key") };
                Ok::<_, Infallible>(last.get(&key).map(|row| {
                    row.iter().cloned().enumerate().map(|(column, value)| (column as u16, value)).collect()
                }))
            })
            .unwrap();
            prop_assert_eq!(folded.iter().map(|folded| u64::from(folded.change.count)).sum::<u64>(), logged);
            let mut rows = Rows::new();
            let mut changes = folded.iter().map(|folded| &folded.change).peekable();
            for (end, state) in &exports {
                let mut part: Vec<&Change> = Vec::new();
                while let Some(change) = changes.peek() {
                    if change.first_clock > *end {
                        break;
                    }
                    part.extend(changes.next());
                }
                for change in part.iter().filter(|change| change.op == Op::Update && change.first_clock != change.clock) {
                    let alone = |field: &FieldChange| !is_difference(field.old.as_ref(), &field.new);
                    prop_assert!(remade.iter().any(|made| (change.first_clock..=change.clock).contains(made)) || change.fields.iter().all(alone), "a difference folded");
                }
                for change in part {
                    prop_assert!(change.clock <= *end, "a change folds across an export");
                    replay(&mut rows, change);
                }
                prop_assert_eq!(&rows, state);
            }
            changes.for_each(|change| replay(&mut rows, change));
            prop_assert_eq!(rows, last);
        }
    }
}
