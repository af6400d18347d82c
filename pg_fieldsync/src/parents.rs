//! A child whose parent was deleted meanwhile: a conflict by the parent table's rule, never an orphan.
//!
//! Invariant: after a merge every row that the delta wrote has its parents, by whatever rule: they come back from their
//! tombstones (`update_wins`), or the child goes to the conflicts (`delete_wins`, `manual`). Where a parent cannot come back
//! (somebody else has its unique value by now), its children are parked with the reason, and nothing else is held up.

use crate::applying::Engine;
use crate::arrays::Array;
use crate::by_code;
use crate::catalog::{self, Column, ForeignKey, Table};
use crate::catch::SqlError;
use crate::decide::Deciding;
use crate::guards::{subtransaction, AsUser};
use crate::hidden;
use crate::merge::not_taken;
use crate::sql::{self, ident, Cells, Param};
use crate::state;
use crate::work::{Item, TableWork, Work};
use fieldsync_core::clocks::{RowClocks, Stamp};
use fieldsync_core::merge::{Collision, HubRow, HubState, Outcome, Winner};
use fieldsync_core::rules::OnDelete;
use fieldsync_core::{Key, Value};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// The value of a column of a row after the merge (of one that goes: before it), key columns included.
pub fn value(table: &Table, item: &Item, number: u16) -> Option<Value> {
    if let Some(place) = table.key.iter().position(|at| table.columns[*at].number == number) {
        return item.key.0.get(place).cloned();
    }
    match (&item.merged.after, &item.merged.before) {
        (Some(HubState::Deleted { .. }), Some(HubState::Live(row))) => row.values.get(&number).cloned(),
        _ => item.value_after(number).cloned(),
    }
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

/// The rows of tables of the delta that a row refers to, or referred to if it goes: places of tables, and keys.
pub fn referred_to(work: &Work, place: usize, at: usize) -> Vec<(usize, Key)> {
    let (table, item) = (&work.tables[place].table, &work.tables[place].items[at]);
    let of = |reference: &ForeignKey| {
        let parent = work.tables.iter().position(|other| other.table.oid == reference.parent)?;
        Some((parent, parent_key(table, item, reference, &work.tables[parent].table)?))
    };
    table.references.iter().filter_map(of).collect()
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
            let (wanted, buried) = if by_code::is_by_key(reference, &parent) {
                let wanted = referring_items(work, place, reference, &parent);
                if wanted.is_empty() {
                    continue;
                }
                let missing = missing_parents(work, &parent, &wanted)?;
                if missing.is_empty() {
                    continue;
                }
                let buried = buried(&parent, &missing)?;
                (wanted, buried)
            } else {
                by_code::deleted_parents(work, place, reference, &parent)?
            };
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
                    let gone = Gone { table: Rc::clone(&parent), key: key.clone(), row, deletion, marked };
                    if let Some(error) = revive_line(work, gone, deciding)? {
                        orphaned(&mut work.tables[place], &children, &parent, &key, &error);
                        continue;
                    }
                    revived_any = true;
                }
                record(work, place, &children, &parent, &key, deletion, rules);
            }
        }
    }
    Ok(revived_any)
}

/// Whether some rows (places of tables, and of items) refer to rows that the hub remembers as deleted: by somebody who was faster, for
/// [`keep`] has seen to those that it found. What the delta has to do with itself is its own affair.
pub fn went_meanwhile(work: &Work, rows: &[(usize, usize)]) -> Result<bool, SqlError> {
    for (place, at) in rows {
        let (table, item) = (&work.tables[*place].table, &work.tables[*place].items[*at]);
        for reference in &table.references {
            let Some(parent) = catalog::table(reference.parent)? else { continue };
            let Some(key) = parent_key(table, item, reference, &parent) else { continue };
            let own =
                |other: &TableWork| other.table.oid == parent.oid && other.items.iter().any(|item| item.key == key);
            if work.tables.iter().any(own) {
                continue;
            }
            let missing = missing_parents(work, &parent, &[(*at, key)])?;
            if !missing.is_empty() && !buried(&parent, &missing)?.is_empty() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Rows that get or keep a reference to a parent, with the parent's key.
pub fn referring_items(work: &Work, place: usize, reference: &ForeignKey, parent: &Table) -> Vec<(usize, Key)> {
    let table = &work.tables[place];
    referring(table, reference, |item| parent_key(&table.table, item, reference, parent))
}

/// Rows that get or keep a reference, each with what tells its parent.
pub fn referring(
    table: &TableWork,
    reference: &ForeignKey,
    parent: impl Fn(&Item) -> Option<Key>,
) -> Vec<(usize, Key)> {
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
        .filter_map(|(at, item)| Some((at, parent(item)?)))
        .collect()
}

/// SQL that keeps rows of a parent's table (alias `t`) from being marked until this transaction ends, and waits for whoever is marking
/// them: its foreign key would take a marked row for a parent. Where rows go for good it does this by itself.
pub fn stays(parent: &Table) -> &'static str {
    if parent.soft_delete {
        " FOR KEY SHARE OF t"
    } else {
        ""
    }
}

/// Parents that are neither in the table, live, nor made by this delta.
pub fn missing_parents(work: &Work, parent: &Table, wanted: &[(usize, Key)]) -> Result<Vec<Key>, SqlError> {
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
    // Like the foreign key itself: a parent is there, whether this login may see it or not.
    let owner = AsUser::owner_of_oid(parent.oid);
    let there = sql::run_set(
        &format!(
            "SELECT u.place FROM ONLY {} AS t JOIN {} ON {} WHERE t.sync_deleted IS NOT TRUE{}",
            parent.qualified,
            join.source,
            join.condition,
            stays(parent)
        ),
        &params,
    )?;
    drop(owner);
    let there: HashSet<usize> = there.rows.iter().map(|row| row.int(0) as usize - 1).collect();
    Ok(keys
        .into_iter()
        .enumerate()
        // A parent that this very delta deletes is its own affair: the foreign key will say so.
        .filter(|(at, key)| !there.contains(at) && !made.contains_key(*key))
        .map(|(_, key)| key.clone())
        .collect())
}

/// Deleted rows by key, each with whether it is still there, marked.
pub type Found = HashMap<Key, (HubState, bool)>;

/// Missing parents that the hub remembers: marked rows and tombstones.
pub fn buried(parent: &Table, keys: &[Key]) -> Result<Found, SqlError> {
    let mut found = Found::new();
    let refs: Vec<&Key> = keys.iter().collect();
    let arrays = state::key_arrays(parent, &refs)?;
    let params: Vec<Param<'_>> = arrays.iter().map(Array::param).collect();
    let join = state::key_join(parent, 1);
    // What a marked row refers to tells which of its own parents it needs.
    let mut referring: Vec<u16> =
        parent.references.iter().flat_map(|reference| &reference.child_columns).copied().collect();
    referring.sort_unstable();
    referring.dedup();
    let referring: Vec<&Column> = referring.into_iter().filter_map(|number| parent.by_number(number)).collect();
    let shown: String = referring
        .iter()
        .map(|column| format!(", {}", column.column_type.to_wire(&format!("t.{}", ident(&column.name)))))
        .collect();
    let owner = AsUser::owner_of_oid(parent.oid);
    let marked = sql::run_set(
        &format!(
            "SELECT u.place, t.fieldsync_clocks{shown} FROM ONLY {} AS t JOIN {} ON {} WHERE t.sync_deleted",
            parent.qualified, join.source, join.condition
        ),
        &params,
    )?;
    drop(owner);
    for row in marked.rows {
        let clocks = parent.clocks(row.bytes(1))?;
        let deletion = clocks.field(parent.deleted_number);
        let key = keys[row.int(0) as usize - 1].clone();
        let values = referring.iter().map(|column| column.number).zip(row.into_iter().skip(2)).collect();
        found.insert(key, (HubState::Deleted { row: HubRow { values, clocks }, deletion }, true));
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

/// A row that was deleted, as the hub remembers it.
struct Gone {
    table: Rc<Table>,
    key: Key,
    row: HubRow,
    deletion: Stamp,
    /// Still in the table, marked.
    marked: bool,
}

/// Brings a parent back with its own parents, which may have been deleted with it. The error, if it cannot come back.
fn revive_line(work: &mut Work, parent: Gone, deciding: &Deciding<'_>) -> Result<Option<SqlError>, SqlError> {
    let line = line(work, parent)?;
    let revived = subtransaction(|| revive_all(&line, deciding));
    match revived {
        Ok(()) => {
            line.iter().for_each(|gone| work_knows(work, &gone.table, &gone.key));
            Ok(None)
        }
        Err(error) if error.is_transient() => Err(error),
        Err(error) => Ok(Some(error)),
    }
}

/// Brings rows back, in an order in which each can: in a circle it is the deferred checks that allow one.
fn revive_all(line: &[Gone], deciding: &Deciding<'_>) -> Result<(), SqlError> {
    let mut waiting: Vec<&Gone> = line.iter().collect();
    loop {
        let (before, mut first) = (waiting.len(), None);
        let mut still = Vec::new();
        for gone in waiting {
            match subtransaction(|| revive(gone, deciding)) {
                Ok(()) => {}
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => {
                    first.get_or_insert(error);
                    still.push(gone);
                }
            }
        }
        match first {
            None => return Ok(()),
            Some(error) if still.len() == before => return Err(error),
            Some(_) => waiting = still,
        }
    }
}

/// A row and all its deleted ancestors that may come back, those first that others refer to. Rows can be in a line of any
/// length, and in a circle.
fn line(work: &Work, first: Gone) -> Result<Vec<Gone>, SqlError> {
    enum Step {
        Look(Gone),
        Take(Gone),
    }
    let mut line = Vec::new();
    let mut seen: HashSet<(pgrx::pg_sys::Oid, Key)> = HashSet::new();
    let mut steps = vec![Step::Look(first)];
    while let Some(step) = steps.pop() {
        match step {
            Step::Take(gone) => line.push(gone),
            Step::Look(gone) => {
                if !seen.insert((gone.table.oid, gone.key.clone())) {
                    continue;
                }
                let parents = gone_parents(work, &gone)?;
                steps.push(Step::Take(gone));
                steps.extend(parents.into_iter().map(Step::Look));
            }
        }
    }
    Ok(line)
}

/// The deleted rows that a deleted row refers to.
fn gone_parents(work: &Work, gone: &Gone) -> Result<Vec<Gone>, SqlError> {
    let table = &gone.table;
    let value = |number: u16| -> Option<Value> {
        match table.key.iter().position(|at| table.columns[*at].number == number) {
            Some(place) => gone.key.0.get(place).cloned(),
            None => gone.row.values.get(&number).cloned(),
        }
    };
    let mut found = Vec::new();
    for reference in &table.references {
        let Some(parent) = catalog::table(reference.parent)? else { continue };
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
        let missing = missing_parents(work, &parent, &[(0, Key(parts))])?;
        if missing.is_empty() || on_delete_of(&parent)? != OnDelete::UpdateWins {
            continue;
        }
        for (key, (state, marked)) in buried(&parent, &missing)? {
            if let HubState::Deleted { row, deletion } = state {
                found.push(Gone { table: Rc::clone(&parent), key, row, deletion, marked });
            }
        }
    }
    Ok(found)
}

/// Parks rows whose deleted parent cannot come back.
fn orphaned(work: &mut TableWork, children: &[usize], parent: &Table, key: &Key, error: &SqlError) {
    for at in children {
        let what = format!(
            "refers to {} {}, which is deleted and cannot come back: {}",
            parent.name,
            parent.row_id(key),
            error.message
        );
        work.items[*at].merged.rejected = Some(Box::new(SqlError { message: what, ..error.clone() }));
    }
}

/// Brings a row back, whole, as the device's own doing: it still uses the record.
fn revive(gone: &Gone, deciding: &Deciding<'_>) -> Result<(), SqlError> {
    let Gone { table: parent, key, row, deletion, marked } = gone;
    let clocks = RowClocks::new(deletion.followed_by(deciding.version, deletion.clock, deciding.origin));
    if *marked {
        let bytes = clocks.to_bytes();
        let blob = [Some(bytes.as_slice())];
        let _engine = Engine::writes();
        let keys = [key];
        let arrays = state::key_arrays(parent, &keys)?;
        let join = state::key_join(parent, 1);
        let mut params: Vec<Param<'_>> = arrays.iter().map(Array::param).collect();
        params.push(Param::Blobs(&blob));
        let written = sql::run_set(
            &format!(
                "UPDATE ONLY {} AS t SET sync_deleted = false, fieldsync_clocks = (${})[1] FROM {} WHERE {}",
                parent.qualified,
                params.len(),
                join.source,
                join.condition
            ),
            &params,
        )?;
        if written.processed == 0 {
            return Err(not_taken(parent, &parent.row_id(key)));
        }
        return Ok(());
    }
    hidden::put_back(parent, key, row, &clocks)
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
