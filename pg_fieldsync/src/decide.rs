//! Deciding about rows: the core's rules over the hub's rows, change by change.

use crate::catalog::Table;
use crate::catch::SqlError;
use crate::instants::instant_text;
use crate::separate::Separate;
use crate::state;
use crate::unseen::{self, Unseen};
use crate::work::{Item, Merged, TableWork};
use fieldsync_core::clocks::{Origin, RowClocks, Stamp};
use fieldsync_core::delta::Op;
use fieldsync_core::merge::{
    decide, Answer, Collision, Context, HubRow, HubState, Incoming, Outcome, Rejection, Winner, Write,
};
use fieldsync_core::rules::OnDelete;
use fieldsync_core::seen::Seen;
use fieldsync_core::{Hlc, Snapshot, Value};
use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

/// What deciding needs to know beside rows and rules.
pub struct Deciding<'a> {
    /// The client that sent the delta.
    pub origin: Origin,
    /// The version under which is written.
    pub version: u64,
    /// Whether the device knew an earlier history, of which no cursor means anything now.
    pub lost_history: bool,
    /// Client ids by origin.
    pub names: &'a HashMap<Origin, String>,
    /// Records of the client's own that wait since an earlier delta.
    pub separate: &'a Separate,
    /// What the client has not seen of tables that were withheld from it.
    pub unseen: &'a Unseen,
}

/// Locks, reads and decides the given items (all of them: `None`).
pub fn table(work: &mut TableWork, only: Option<&[usize]>, deciding: &Deciding<'_>) -> Result<(), SqlError> {
    let wanted: Vec<usize> = match only {
        Some(only) => only.to_vec(),
        None => (0..work.items.len()).collect(),
    };
    for at in &wanted {
        let item = &mut work.items[*at];
        let strict = item.merged.parked_by_strict;
        item.merged = Merged { parked_by_strict: strict, ..Merged::default() };
        item.merged.rejected = match &item.refused {
            Some(error) => Some(error.clone()),
            None if strict && !item.changes.is_empty() => Some(Box::new(crate::merge::parked_by_strict(&work.table))),
            None => None,
        };
    }
    let wanted: Vec<usize> = wanted
        .into_iter()
        .filter(|at| {
            let item = &work.items[*at];
            item.merged.rejected.is_none() && item.changes.iter().any(|change| change.op != Op::Cancelled)
        })
        .collect();
    let mut heard = deciding.unseen.told(&work.table, wanted.iter().map(|at| &work.items[*at].key))?;
    if !heard.is_empty() {
        for at in &wanted {
            let item = &mut work.items[*at];
            item.heard = heard.remove(&work.table.row_id(&item.key)).unwrap_or_default();
        }
    }
    let key_is_integer = work.key_is_integer();
    let (described, rules, priority_field) =
        (Rc::clone(&work.table), Rc::clone(&work.rules), work.priority_field.clone());
    let read = state::read(work, &wanted, &mut |item, found| {
        let priority = Priority::of(&described, priority_field.as_deref(), &found.modified_at);
        row(item, found.state, (described.table_id, &rules), &priority, key_is_integer, deciding);
        item.merged.marked = found.marked;
    });
    match read {
        // A login that may not even read the table changes nothing in it, which is no matter of the others.
        Err(error) if error.sqlstate == "42501" => {
            for at in &wanted {
                work.items[*at].merged.rejected = Some(Box::new(error.clone()));
            }
        }
        other => other?,
    }
    // Rows whose changes only count.
    for item in &mut work.items {
        if item.merged.outcomes.is_empty() && item.merged.rejected.is_none() {
            item.merged.outcomes = item.changes.iter().map(|_| Outcome::Superseded).collect();
        }
    }
    Ok(())
}

/// The rule under which a second record of one integer key waits.
pub const SEPARATE: &str = "on_same_key/separate";

/// Where a table's `priority_field` is found on each side.
enum Priority {
    /// The rules name none.
    None,
    /// The hub's time of the last change, against the device's corrected clock.
    ModifiedAt(Value),
    /// A field of the application's.
    Field(u16),
}

impl Priority {
    fn of(table: &Table, priority_field: Option<&str>, modified_at: &Value) -> Priority {
        match priority_field {
            None => Priority::None,
            Some("sync_modified_at") => Priority::ModifiedAt(modified_at.clone()),
            Some(name) => table.column(name).map_or(Priority::None, |at| Priority::Field(table.columns[at].number)),
        }
    }

    /// Device's value first, then the hub's.
    fn pair(
        &self,
        change: &crate::work::Prepared,
        seen: &Seen<'_>,
        origin: Origin,
        hub: &HubState,
    ) -> Option<(Value, Value)> {
        match self {
            Priority::None => None,
            Priority::ModifiedAt(hub) => {
                Some((Value::Text(instant_text(microseconds(change.clock))), hub.clone())).filter(|_| !hub.is_null())
            }
            Priority::Field(number) => {
                let HubState::Live(row) = hub else { return None };
                Some(match change.fields.iter().find(|field| field.number == *number) {
                    Some(device) => (device.new.clone(), row.value(*number)),
                    // The device left it as it was. What somebody else has set since is later; else both sides have the same.
                    None if seen.misses_field(origin, &row.clocks, *number) => (Value::Int(0), Value::Int(1)),
                    None => (row.value(*number), row.value(*number)),
                })
            }
        }
    }
}

/// A clock as Postgres counts: microseconds since 2000.
pub fn microseconds(clock: Hlc) -> i64 {
    (clock.ms() as i64).saturating_mul(1000).saturating_sub(946_684_800_000_000)
}

fn row(
    item: &mut Item,
    before: HubState,
    (table_id, rules): (i32, &fieldsync_core::rules::TableRules),
    priority: &Priority,
    key_is_integer: bool,
    deciding: &Deciding<'_>,
) {
    let name = |origin: Origin| deciding.names.get(&origin).cloned().unwrap_or_default();
    let mut current = Cow::Borrowed(&before);
    let last = item.changes.len().saturating_sub(1);
    let mut merged = Merged { parked_by_strict: item.merged.parked_by_strict, ..Merged::default() };
    // Once the device has made a record of its own under this key, what it goes on to do is done to that one.
    let mut is_own = false;
    for (place, change) in item.changes.iter().enumerate() {
        if (change.of_parked || is_own) && change.op != Op::Cancelled {
            merged.outcomes.push(Outcome::Conflict);
            let stamp = match &*current {
                HubState::Live(row) => row.clocks.insert,
                HubState::Deleted { deletion, .. } => *deletion,
                HubState::Absent => Stamp::default(),
            };
            let fields = change.fields.iter().map(|field| Collision {
                number: Some(field.number),
                base: field.old.clone().filter(|_| !is_own),
                client: field.new.clone(),
                server: match &*current {
                    HubState::Live(row) => row.value(field.number),
                    _ => Value::Null,
                },
                server_stamp: stamp,
                winner: Winner::Person,
                rule: SEPARATE.to_owned(),
                quiet: false,
            });
            merged.collisions.extend(fields.map(|collision| (place, collision)));
            if change.op == Op::Delete {
                // It came and went: nothing waits, and the hub's record is not its.
                merged.collisions.retain(|(_, collision)| collision.rule != SEPARATE);
                is_own = false;
            }
            merged.whole = true;
            continue;
        }
        // Fields of a row that the hub does not have, and that the device gives whole later in this delta.
        let is_none = match &*current {
            HubState::Absent => true,
            HubState::Deleted { .. } => rules.on_delete != OnDelete::UpdateWins,
            HubState::Live(_) => false,
        };
        if change.op == Op::Update && is_none && is_told_later(&item.changes[place + 1..]) {
            merged.outcomes.push(Outcome::Applied);
            continue;
        }
        // Where a history was lost there is no cursor to tell what the device had seen. Fields that still hold what it started
        // from were changed by nobody, in effect.
        let all_seen = Snapshot { xmin: u64::MAX, xmax: u64::MAX, xip: Vec::new() };
        let as_it_was =
            deciding.lost_history && change.base.is_none() && !change.recovered && starts_from(change, &current);
        let base = change.base.as_deref();
        let withheld = deciding.unseen.shown(table_id, base).map(|shown| unseen::withheld(shown, &item.heard, base));
        let incoming = Incoming {
            op: change.op,
            origin: deciding.origin,
            clock: change.clock,
            seen: if as_it_was { Some(&all_seen).into() } else { Seen { base, withheld: withheld.as_ref() } },
            fields: &change.fields,
            key_is_integer,
        };
        let priority = priority.pair(change, &incoming.seen, deciding.origin, &current);
        let context = Context { version: deciding.version, client_id: &name, priority };
        let decision = decide(&incoming, &current, rules, &context);
        if let Some(why) = &decision.rejection {
            merged.rejected = Some(Box::new(rejection(why)));
            break;
        }
        is_own = change.op == Op::Insert && decision.collisions.iter().any(|collision| collision.rule == SEPARATE);
        merged.outcomes.push(decision.outcome);
        merged.collisions.extend(decision.collisions.into_iter().map(|collision| (place, collision)));
        merged.whole |= decision.answer == Answer::Whole;
        current = match (current, decision.write) {
            (Cow::Borrowed(HubState::Live(_)), Write::Update { fields, clocks }) if place == last => {
                merged.fields.extend(fields);
                merged.rest_as_before = true;
                Cow::Owned(HubState::Live(HubRow { values: HashMap::new(), clocks }))
            }
            (current, Write::Nothing) => current,
            (current, write) => Cow::Owned(after(current.into_owned(), write, &mut merged, place == last)),
        };
    }
    merged.after = Some(current.into_owned());
    merged.before = Some(before);
    item.merged = merged;
}

/// Whether the row is given whole, before it is deleted.
fn is_told_later(changes: &[crate::work::Prepared]) -> bool {
    let next = changes.iter().find(|change| matches!(change.op, Op::Insert | Op::Delete));
    next.is_some_and(|change| change.op == Op::Insert)
}

/// Whether an update starts from exactly what the hub has.
fn starts_from(change: &crate::work::Prepared, state: &HubState) -> bool {
    let HubState::Live(row) = state else { return false };
    change.op == Op::Update
        && change.fields.iter().all(|field| field.old.as_ref().is_some_and(|old| *old == row.value(field.number)))
}

/// The row after a write. After the last one the values that are written are in `merged.fields` alone.
fn after(state: HubState, write: Write, merged: &mut Merged, is_last: bool) -> HubState {
    match write {
        Write::Nothing => state,
        Write::Insert { fields, clocks } | Write::Revive { fields, clocks } => {
            let values = if is_last { HashMap::new() } else { fields.iter().cloned().collect() };
            merged.fields.clear();
            merged.fields.extend(fields);
            HubState::Live(HubRow { values, clocks })
        }
        Write::Update { fields, clocks } => {
            let mut row = match state {
                HubState::Live(row) | HubState::Deleted { row, .. } => row,
                HubState::Absent => HubRow { values: HashMap::new(), clocks: RowClocks::new(clocks.insert) },
            };
            if !is_last {
                row.values.extend(fields.iter().cloned());
            }
            merged.fields.extend(fields);
            row.clocks = clocks;
            HubState::Live(row)
        }
        Write::Delete { deletion } => {
            merged.fields.clear();
            match state {
                HubState::Live(row) | HubState::Deleted { row, .. } => HubState::Deleted { row, deletion },
                HubState::Absent => HubState::Absent,
            }
        }
    }
}

fn rejection(why: &Rejection) -> SqlError {
    let sqlstate = match why {
        Rejection::NoSuchRow => "02000",
        Rejection::OutOfRange => "22003",
        Rejection::NotANumber(_) => "22023",
    };
    SqlError::new(sqlstate, why.to_string())
}
