//! A deletion of a row that somebody else's rows refer to, which the device did not know of when it deleted; or to which its own
//! delta's rows refer, for a device need not enforce foreign keys.
//!
//! Invariant: no row that its deleter has not seen goes with a parent, be it by a cascade; nor does one that the same delta writes, or
//! that on the device refers to another row by the same unique value. By the parent table's `on_delete` the
//! parent stays, or waits for a person; under `delete_wins` it goes, and what used it is on record. A row that would only be marked
//! goes nowhere as far as its foreign keys know: what they would have refused is refused here.

use crate::catalog::{self, ForeignKey, Table};
use crate::catch::SqlError;
use crate::decide::Deciding;
use crate::guards::{AsUser, LatestSnapshot};
use crate::parents;
use crate::referring::Referring;
use crate::sql::{self, ident, Cells};
use crate::unseen;
use crate::work::{Item, TableWork, Work};
use crate::write::{self, Action};
use fieldsync_core::delta::Op;
use fieldsync_core::merge::{Collision, HubState, Outcome, Winner};
use fieldsync_core::rules::OnDelete;
use fieldsync_core::seen::Seen;
use fieldsync_core::{Key, Snapshot, Value};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Takes back deletions of rows that are still in use.
pub fn keep(work: &mut Work, deciding: &Deciding<'_>) -> Result<(), SqlError> {
    if !work.tables.iter().any(|table| table.items.iter().any(goes)) {
        return Ok(());
    }
    let tables = catalog::tables()?;
    // A parent that stays uses its own parents.
    loop {
        while pass(work, &tables, deciding, false)? {}
        if !pass(work, &tables, deciding, true)? {
            return Ok(());
        }
    }
}

/// Whether the delta deletes this row.
fn goes(item: &Item) -> bool {
    item.merged.rejected.is_none()
        && matches!(item.merged.before, Some(HubState::Live(_)))
        && matches!(item.merged.after, Some(HubState::Deleted { .. }))
        && item.changes.last().is_some_and(|change| change.op == Op::Delete)
}

/// One look at all deletions; `only_noted`: at those of tables whose rule lets them stand. Whether any was taken back or refused.
fn pass(work: &mut Work, tables: &[Rc<Table>], deciding: &Deciding<'_>, only_noted: bool) -> Result<bool, SqlError> {
    let mut kept = false;
    for place in 0..work.tables.len() {
        let parent = Rc::clone(&work.tables[place].table);
        let rule = work.tables[place].rules.on_delete;
        if (rule == OnDelete::DeleteWins) != only_noted {
            continue;
        }
        for child in tables {
            for reference in child.references.iter().filter(|reference| reference.parent == parent.oid) {
                for (at, user) in users(work, place, child, reference, deciding)? {
                    let item = &mut work.tables[place].items[at];
                    kept |= if only_noted && parent.soft_delete {
                        refuse(item, &parent, &child.name, &user)
                    } else {
                        note(item, &child.name, &user, rule)
                    };
                }
            }
        }
    }
    Ok(kept)
}

/// A column of a row as it was.
pub fn value_before<'a>(table: &Table, item: &'a Item, number: u16) -> Option<&'a Value> {
    if let Some(place) = table.key.iter().position(|at| table.columns[*at].number == number) {
        return item.key.0.get(place);
    }
    match &item.merged.before {
        Some(HubState::Live(row)) => row.values.get(&number),
        _ => None,
    }
}

/// Items that go although a row that their device has not seen refers to them, with that row.
fn users(
    work: &Work,
    place: usize,
    child: &Rc<Table>,
    reference: &ForeignKey,
    deciding: &Deciding<'_>,
) -> Result<Vec<(usize, String)>, SqlError> {
    let parent = &work.tables[place];
    let mut going = Vec::new();
    let mut values_of_going = Vec::new();
    for (at, item) in parent.items.iter().enumerate().filter(|(_, item)| goes(item)) {
        let values: Option<Vec<&Value>> =
            reference.parent_columns.iter().map(|number| value_before(&parent.table, item, *number)).collect();
        let Some(values) = values.filter(|values| values.iter().all(|value| !value.is_null())) else { continue };
        going.push(at);
        values_of_going.push(Key(values.into_iter().cloned().collect()));
    }
    if going.is_empty() {
        return Ok(Vec::new());
    }
    let Some(referring) = Referring::to(&parent.table, child, reference, &values_of_going)? else {
        return Ok(Vec::new());
    };
    let key: String = child
        .key
        .iter()
        .map(|at| {
            let column = &child.columns[*at];
            format!(", {}", column.column_type.to_wire(&format!("t.{}", ident(&column.name))))
        })
        .collect();
    let rows = {
        // Like the foreign key itself: what uses a row uses it, whether this login may see it or not.
        let _owner = AsUser::owner_of_oid(child.oid);
        // And whether this transaction's own snapshot shows it or not.
        let _now = LatestSnapshot::take();
        sql::read_set(
            &format!(
                "SELECT u.place, t.fieldsync_clocks{key} FROM ONLY {} AS t JOIN {} ON {} WHERE t.sync_deleted IS NOT TRUE",
                child.qualified, referring.source, referring.condition
            ),
            &referring.params(),
        )?
    };
    let mut found = Vec::new();
    let mut handed_on = HashSet::new();
    // A row that is only marked takes nothing along.
    let acts = reference.acts_on_delete() && !parent.table.soft_delete;
    if acts || parent.table.soft_delete {
        found = written_users(work, child, reference, &going, &values_of_going);
    }
    if acts {
        // Another row of the delta gets the values by which a going one is referred to: on the device, rows refer to that one now.
        handed_on.extend(written(parent, &reference.parent_columns).map(|(values, _)| values));
    }
    for row in rows.rows {
        let Some(at) = usize::try_from(row.int(0) - 1).ok().filter(|at| *at < going.len()) else {
            continue;
        };
        let (keeps_a_parent, at) = (handed_on.contains(&values_of_going[at]), going[at]);
        let user = Key(row[2..].to_vec());
        let own = item_of(work, child, &user);
        // One that the device deleted as well, and that stays: somebody else has changed it, or uses it.
        let stays = own.is_some_and(|own| own.changes.last().is_some_and(|change| change.op == Op::Delete))
            || (parent.table.soft_delete && deletion_refused(work, child, &user));
        let clocks = child.clocks(row.bytes(1))?;
        let base = base_of(&parent.items[at]);
        let withheld = deciding.unseen.shown(child.table_id, base).map(|shown| unseen::withheld(shown, &[], base));
        let unseen = Seen { base, withheld: withheld.as_ref() }.misses_any(deciding.origin, &clocks);
        // By now (new rows that nothing stands in the way of come first), or about to be.
        let written = clocks.latest().version == deciding.version
            || own.is_some_and(|own| write::action(child, own).is_some_and(|action| action != Action::Delete));
        // One that is only marked takes nothing along, and whoever refers to it stays.
        if (unseen || stays || keeps_a_parent || written && acts || parent.table.soft_delete)
            && !own.is_some_and(|own| leaves(own, reference, &parent.table, &parent.items[at]))
        {
            found.push((at, child.row_id(&user)));
        }
    }
    Ok(found)
}

/// What rows of the delta that live on are to have in some columns: by value, of those that it writes.
fn written<'w>(work: &'w TableWork, numbers: &'w [u16]) -> impl Iterator<Item = (Key, &'w Item)> {
    let table = &work.table;
    let live = work.items.iter().filter(|item| matches!(item.merged.after, Some(HubState::Live(_))));
    live.filter(|item| write::action(table, item).is_some()).filter_map(move |item| {
        let values: Option<Vec<Value>> = numbers.iter().map(|number| parents::value(table, item, *number)).collect();
        Some((Key(values?), item))
    })
}

/// Rows that the delta itself makes or changes, and that then refer to one that goes: the foreign key would take them along, or their
/// reference, after they were written; or, where that one is only marked, be content with it.
fn written_users(
    work: &Work,
    child: &Table,
    reference: &ForeignKey,
    going: &[usize],
    values_of_going: &[Key],
) -> Vec<(usize, String)> {
    let places: HashMap<&Key, usize> = values_of_going.iter().zip(going.iter().copied()).collect();
    let children = work.tables.iter().filter(|table| table.table.oid == child.oid);
    children
        .flat_map(|table| written(table, &reference.child_columns))
        .filter_map(|(values, item)| Some((*places.get(&values)?, child.row_id(&item.key))))
        .collect()
}

/// What the device had seen when it deleted the row.
fn base_of(item: &Item) -> Option<&Snapshot> {
    item.changes.last().and_then(|change| change.base.as_deref())
}

/// The user, if the delta has to do with it.
fn item_of<'w>(work: &'w Work, child: &Table, user: &Key) -> Option<&'w Item> {
    work.tables.iter().filter(|table| table.table.oid == child.oid).find_map(|table| {
        let at = table.items.binary_search_by(|own| own.key.0.cmp(&user.0)).ok()?;
        Some(&table.items[at]).filter(|own| own.merged.rejected.is_none() && own.merged.after.is_some())
    })
}

/// Whether the delta deletes the user, and may not.
fn deletion_refused(work: &Work, child: &Table, user: &Key) -> bool {
    work.tables.iter().filter(|table| table.table.oid == child.oid).any(|table| {
        let found = table.items.binary_search_by(|own| own.key.0.cmp(&user.0));
        found.is_ok_and(|at| {
            let own = &table.items[at];
            own.merged.rejected.is_some() && own.changes.last().is_some_and(|change| change.op == Op::Delete)
        })
    })
}

/// Refuses to mark a row that is in use. Whether it was not refused before.
fn refuse(item: &mut Item, parent: &Table, table: &str, user: &str) -> bool {
    if !goes(item) {
        return false;
    }
    let what = format!("row {} of table \"{}\" is still used by {table} {user}", parent.row_id(&item.key), parent.name);
    let error = SqlError { table: Some(parent.name.clone()), ..SqlError::new("23503", what) };
    item.merged.rejected = Some(Box::new(error));
    true
}

/// Whether the delta itself deletes the user, or makes it refer to another row.
fn leaves(own: &Item, reference: &ForeignKey, parent: &Table, item: &Item) -> bool {
    if !matches!(own.merged.after, Some(HubState::Live(_))) {
        return true;
    }
    reference.child_columns.iter().zip(&reference.parent_columns).any(|(number, parent_number)| {
        own.merged.fields.get(*number).is_some_and(|value| Some(value) != value_before(parent, item, *parent_number))
    })
}

/// Puts it on record, and takes the deletion back where the rule says so. Whether it did.
fn note(item: &mut Item, table: &str, user: &str, rule: OnDelete) -> bool {
    let Some(last) = item.changes.len().checked_sub(1).filter(|_| goes(item)) else { return false };
    let winner = match rule {
        OnDelete::UpdateWins => Winner::Server,
        OnDelete::DeleteWins => Winner::Client,
        OnDelete::Manual => Winner::Person,
    };
    let Some(HubState::Live(row)) = &item.merged.before else { return false };
    let collision = Collision {
        number: None,
        base: None,
        client: "deleted".into(),
        server: Value::Text(format!("used by {table} {user}")),
        server_stamp: row.clocks.latest(),
        winner,
        rule: format!("on_delete/{}", rule.word()),
        quiet: false,
    };
    item.merged.outcomes = item.changes.iter().map(|_| Outcome::Conflict).collect();
    if winner == Winner::Client {
        item.merged.collisions.push((last, collision));
        return false;
    }
    item.merged.collisions = vec![(last, collision)];
    item.merged.after = item.merged.before.clone();
    item.merged.fields.clear();
    item.merged.whole = true;
    true
}
