//! A child whose parent was deleted meanwhile: a conflict by the parent table's rule, never an orphan.
//!
//! Invariant: after a merge every row that the delta wrote has its parents, by whatever rule: they come back from their
//! tombstones (`update_wins`), or the child goes to the conflicts (`delete_wins`, `manual`).

use crate::applying::Engine;
use crate::arrays::{unnest, Array};
use crate::catalog::{self, ForeignKey, Table};
use crate::catch::SqlError;
use crate::decide::Deciding;
use crate::sql::{self, ident, Cells, Param};
use crate::state;
use crate::work::{Item, Work};
use fieldsync_core::clocks::{RowClocks, Stamp};
use fieldsync_core::merge::{Collision, HubRow, HubState, Outcome, Winner};
use fieldsync_core::rules::OnDelete;
use fieldsync_core::{Key, Value};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// The value of a column of a row after the merge, key columns included.
fn value(table: &Table, item: &Item, number: u16) -> Option<Value> {
    if let Some(place) = table.key.iter().position(|at| table.columns[*at].number == number) {
        return item.key.0.get(place).cloned();
    }
    item.value_after(number).cloned()
}

/// The key of the parent that a row refers to, if the reference is to the parent's primary key and not NULL.
fn parent_key(table: &Table, item: &Item, reference: &ForeignKey, parent: &Table) -> Option<Key> {
    let mut parts = Vec::with_capacity(parent.key.len());
    for at in &parent.key {
        let number = parent.columns[*at].number;
        let place = reference.parent_columns.iter().position(|column| *column == number)?;
        let part = value(table, item, reference.child_columns[place])?;
        if part.is_null() {
            return None;
        }
        parts.push(part);
    }
    (parts.len() == reference.parent_columns.len()).then_some(Key(parts))
}

/// Whether a row refers to another row of the delta.
pub fn refers(work: &Work, child: (usize, usize), parent: (usize, usize)) -> bool {
    let (table, target) = (&work.tables[child.0], &work.tables[parent.0]);
    table.table.references.iter().filter(|reference| reference.parent == target.table.oid).any(|reference| {
        parent_key(&table.table, &table.items[child.1], reference, &target.table)
            .is_some_and(|key| key == target.items[parent.1].key)
    })
}

/// Sees to it that parents of rows that the delta writes are there.
pub fn keep(work: &mut Work, deciding: &Deciding<'_>) -> Result<(), SqlError> {
    // A parent that comes back may itself have lost its parent; each round climbs one step.
    for _ in 0..16 {
        if !climb(work, deciding)? {
            return Ok(());
        }
    }
    Ok(())
}

fn climb(work: &mut Work, deciding: &Deciding<'_>) -> Result<bool, SqlError> {
    let mut revived_any = false;
    for place in 0..work.tables.len() {
        let table = Rc::clone(&work.tables[place].table);
        for reference in &table.references {
            let Some(parent) = catalog::table(reference.parent)? else { continue };
            let wanted = referring_items(work, place, reference, &parent);
            if wanted.is_empty() {
                continue;
            }
            let missing = missing_parents(work, &parent, &wanted)?;
            if missing.is_empty() {
                continue;
            }
            let buried = buried(&parent, &missing)?;
            let rules = work
                .tables
                .iter()
                .find(|candidate| candidate.table.oid == parent.oid)
                .map(|candidate| candidate.rules.on_delete)
                .map_or_else(|| on_delete_of(&parent), Ok)?;
            for (key, (state, marked)) in buried {
                let HubState::Deleted { row, deletion } = state else { continue };
                let children: Vec<usize> =
                    wanted.iter().filter(|(_, wanted)| *wanted == key).map(|(item, _)| *item).collect();
                if rules == OnDelete::UpdateWins {
                    revive(work, &parent, &key, &row, deletion, marked, deciding)?;
                    revived_any = true;
                    record(work, place, &children, &parent, &key, deletion, rules);
                } else {
                    record(work, place, &children, &parent, &key, deletion, rules);
                }
            }
        }
    }
    Ok(revived_any)
}

/// Rows that get or keep a reference to a parent, with the parent's key.
fn referring_items(work: &Work, place: usize, reference: &ForeignKey, parent: &Table) -> Vec<(usize, Key)> {
    let table = &work.tables[place];
    table
        .items
        .iter()
        .enumerate()
        .filter(|(_, item)| {
            item.merged.rejected.is_none()
                && matches!(item.merged.after, Some(HubState::Live(_)))
                && (!matches!(item.merged.before, Some(HubState::Live(_)))
                    || reference.child_columns.iter().any(|number| item.merged.fields.contains(*number)))
        })
        .filter_map(|(at, item)| Some((at, parent_key(&table.table, item, reference, parent)?)))
        .collect()
}

/// Parents that are neither in the table, live, nor made by this delta.
fn missing_parents(work: &Work, parent: &Table, wanted: &[(usize, Key)]) -> Result<Vec<Key>, SqlError> {
    let made: HashMap<&Key, bool> = work
        .tables
        .iter()
        .filter(|table| table.table.oid == parent.oid)
        .flat_map(|table| &table.items)
        .filter(|item| item.merged.after.is_some() && item.merged.rejected.is_none())
        .map(|item| (&item.key, matches!(item.merged.after, Some(HubState::Live(_)))))
        .collect();
    let mut asked: HashSet<&Key> = HashSet::new();
    let keys: Vec<&Key> =
        wanted.iter().map(|(_, key)| key).filter(|key| made.get(key) != Some(&true) && asked.insert(key)).collect();
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let arrays = state::key_arrays(parent, &keys)?;
    let params: Vec<Param<'_>> = arrays.iter().map(Array::param).collect();
    let join = state::key_join(parent, 1);
    let there = sql::run_set(
        &format!(
            "SELECT u.place FROM ONLY {} AS t JOIN {} ON {} WHERE NOT t.sync_deleted",
            parent.qualified, join.source, join.condition
        ),
        &params,
    )?;
    let there: HashSet<usize> = there.rows.iter().map(|row| row.int(0) as usize - 1).collect();
    Ok(keys
        .into_iter()
        .enumerate()
        // A parent that this very delta deletes is its own affair: the foreign key will say so.
        .filter(|(at, key)| !there.contains(at) && !made.contains_key(*key))
        .map(|(_, key)| key.clone())
        .collect())
}

/// Missing parents that the hub remembers: marked rows and tombstones.
fn buried(parent: &Table, keys: &[Key]) -> Result<HashMap<Key, (HubState, bool)>, SqlError> {
    let mut found: HashMap<Key, (HubState, bool)> = HashMap::new();
    let refs: Vec<&Key> = keys.iter().collect();
    let arrays = state::key_arrays(parent, &refs)?;
    let params: Vec<Param<'_>> = arrays.iter().map(Array::param).collect();
    let join = state::key_join(parent, 1);
    let marked = sql::run_set(
        &format!(
            "SELECT u.place, t.fieldsync_clocks FROM ONLY {} AS t JOIN {} ON {} WHERE t.sync_deleted",
            parent.qualified, join.source, join.condition
        ),
        &params,
    )?;
    for row in &marked.rows {
        let clocks = parent.clocks(row.bytes(1))?;
        let deletion = clocks.field(parent.deleted_number);
        let state = HubState::Deleted { row: HubRow { values: HashMap::new(), clocks }, deletion };
        found.insert(keys[row.int(0) as usize - 1].clone(), (state, true));
    }
    let absent: Vec<&Key> = keys.iter().filter(|key| !found.contains_key(*key)).collect();
    for (key, state) in state::tombstones(parent, absent.into_iter())? {
        found.insert(key, (state, false));
    }
    Ok(found)
}

fn on_delete_of(parent: &Table) -> Result<OnDelete, SqlError> {
    let _owner = crate::guards::AsOwner::new();
    let word = sql::scalar(
        "SELECT on_delete FROM fieldsync.table_rule WHERE table_id = $1",
        &[Param::Int(i64::from(parent.table_id))],
    )?;
    Ok(word.to_text().parse().unwrap_or(OnDelete::UpdateWins))
}

/// Brings a parent back, whole, as the device's own doing: it still uses the record.
fn revive(
    work: &mut Work,
    parent: &Rc<Table>,
    key: &Key,
    row: &HubRow,
    deletion: Stamp,
    marked: bool,
    deciding: &Deciding<'_>,
) -> Result<(), SqlError> {
    let clocks = RowClocks::new(deletion.followed_by(deciding.version, deletion.clock, deciding.origin)).to_bytes();
    let blob = [Some(clocks.as_slice())];
    let _engine = Engine::writes();
    let keys = [key];
    let mut arrays = state::key_arrays(parent, &keys)?;
    if marked {
        let join = state::key_join(parent, 1);
        let mut params: Vec<Param<'_>> = arrays.iter().map(Array::param).collect();
        params.push(Param::Blobs(&blob));
        sql::run_set(
            &format!(
                "UPDATE ONLY {} AS t SET sync_deleted = false, fieldsync_clocks = (${})[1] FROM {} WHERE {}",
                parent.qualified,
                params.len(),
                join.source,
                join.condition
            ),
            &params,
        )?;
        work_knows(work, parent, key);
        return Ok(());
    }
    let mut types: Vec<&str> = parent.key.iter().map(|at| parent.columns[*at].column_type.param_type()).collect();
    let mut names: Vec<String> = (0..parent.key.len()).map(|at| format!("k{at}")).collect();
    let mut targets: Vec<String> = parent.key.iter().map(|at| ident(&parent.columns[*at].name)).collect();
    let mut sources: Vec<String> = parent
        .key
        .iter()
        .enumerate()
        .map(|(place, at)| parent.columns[*at].column_type.param_to_sql(&format!("u.k{place}")))
        .collect();
    for (at, column) in parent.travelling() {
        if parent.key.contains(&at) {
            continue;
        }
        let Some(value) = row.values.get(&column.number) else { continue };
        arrays.push(Array::of(&column.column_type, std::iter::once(value))?);
        types.push(column.column_type.param_type());
        names.push(format!("c{}", column.number));
        targets.push(ident(&column.name));
        sources.push(column.column_type.param_to_sql(&format!("u.c{}", column.number)));
    }
    types.push("pg_catalog.bytea");
    names.push("clocks".to_owned());
    let mut params: Vec<Param<'_>> = arrays.iter().map(Array::param).collect();
    params.push(Param::Blobs(&blob));
    let key_names: Vec<String> = parent.key.iter().map(|at| ident(&parent.columns[*at].name)).collect();
    ancestors(work, parent, key, row, deciding)?;
    sql::run_set(
        &format!(
            "INSERT INTO {} ({}, fieldsync_clocks, sync_deleted) OVERRIDING SYSTEM VALUE SELECT {}, u.clocks, false FROM {}
             ON CONFLICT ({}) DO NOTHING",
            parent.qualified,
            targets.join(", "),
            sources.join(", "),
            unnest(&types, &names, 1),
            key_names.join(", ")
        ),
        &params,
    )?;
    work_knows(work, parent, key);
    Ok(())
}

/// A parent that comes back needs its own parents, which may have been deleted with it.
fn ancestors(
    work: &mut Work,
    table: &Rc<Table>,
    key: &Key,
    row: &HubRow,
    deciding: &Deciding<'_>,
) -> Result<(), SqlError> {
    for reference in &table.references {
        if reference.parent == table.oid {
            continue;
        }
        let Some(parent) = catalog::table(reference.parent)? else { continue };
        let value = |number: u16| -> Option<Value> {
            match table.key.iter().position(|at| table.columns[*at].number == number) {
                Some(place) => key.0.get(place).cloned(),
                None => row.values.get(&number).cloned(),
            }
        };
        let parts: Option<Vec<Value>> = parent
            .key
            .iter()
            .map(|at| {
                let number = parent.columns[*at].number;
                let place = reference.parent_columns.iter().position(|column| *column == number)?;
                value(reference.child_columns[place]).filter(|part| !part.is_null())
            })
            .collect();
        let Some(parts) = parts.filter(|parts| parts.len() == reference.parent_columns.len()) else { continue };
        let wanted = [(0, Key(parts))];
        let missing = missing_parents(work, &parent, &wanted)?;
        if missing.is_empty() || on_delete_of(&parent)? != OnDelete::UpdateWins {
            continue;
        }
        for (key, (state, marked)) in buried(&parent, &missing)? {
            if let HubState::Deleted { row, deletion } = state {
                revive(work, &parent, &key, &row, deletion, marked, deciding)?;
            }
        }
    }
    Ok(())
}

/// The device deleted nothing and has perhaps been told of the deletion: it gets the parent whole.
fn work_knows(work: &mut Work, parent: &Table, key: &Key) {
    for table in &mut work.tables {
        if table.table.oid == parent.oid {
            for item in &mut table.items {
                if item.key == *key {
                    item.merged.whole = true;
                }
            }
        }
    }
}

/// Puts the meeting of child and deleted parent on record. Where the deletion stands, the child is not written.
fn record(
    work: &mut Work,
    place: usize,
    children: &[usize],
    parent: &Table,
    key: &Key,
    deletion: Stamp,
    rule: OnDelete,
) {
    let winner = match rule {
        OnDelete::UpdateWins => Winner::Client,
        // The parent stays deleted, and what becomes of the child is for a person to say.
        OnDelete::DeleteWins | OnDelete::Manual => Winner::Person,
    };
    let row_id = parent.row_id(key);
    for at in children {
        let item = &mut work.tables[place].items[*at];
        let Some(last) = item.changes.len().checked_sub(1) else { continue };
        let before = item.merged.before.clone();
        let mut collisions = vec![Collision {
            number: None,
            base: None,
            client: Value::Text(format!("refers to {} {row_id}", parent.name)),
            server: Value::Text(format!("{} {row_id} is deleted", parent.name)),
            server_stamp: deletion,
            winner,
            rule: format!("on_delete/{}", rule.word()),
            quiet: false,
        }];
        if rule != OnDelete::UpdateWins {
            collisions.extend(item.merged.fields.iter().map(|(number, value)| Collision {
                number: Some(number),
                base: None,
                client: value.clone(),
                server: match &before {
                    Some(HubState::Live(row)) => row.value(number),
                    _ => Value::Null,
                },
                server_stamp: deletion,
                winner,
                rule: format!("on_delete/{}", rule.word()),
                quiet: false,
            }));
            item.merged.after = before;
            item.merged.fields.clear();
            item.merged.collisions.clear();
            item.merged.outcomes = item.changes.iter().map(|_| Outcome::Conflict).collect();
        } else if let Some(outcome) = item.merged.outcomes.last_mut() {
            *outcome = Outcome::Conflict;
        }
        item.merged.collisions.extend(collisions.into_iter().map(|collision| (last, collision)));
    }
}
