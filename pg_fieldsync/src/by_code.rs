//! Deleted parents that rows refer to by other columns than their key: by a UNIQUE code, say.
//!
//! Invariant: what is found is a parent whose record is gone (a marked row, or the latest tombstone that had these values), and no
//! live row, nor one that the delta makes, has the values now.

use crate::arrays::{unnest, Array};
use crate::catalog::{ForeignKey, Table};
use crate::catch::SqlError;
use crate::guards::{AsOwner, AsUser};
use crate::keys::{self, Recorded};
use crate::parents::{self, Found};
use crate::sql::{self, ident, Cells, Param};
use crate::state;
use crate::work::Work;
use fieldsync_core::merge::HubState;
use fieldsync_core::{Key, Value};
use std::collections::HashMap;

/// Whether a reference is to the parent's key.
pub fn is_by_key(reference: &ForeignKey, parent: &Table) -> bool {
    let number = |at: &usize| parent.columns[*at].number;
    reference.parent_columns.len() == parent.key.len()
        && parent.key.iter().all(|at| reference.parent_columns.contains(&number(at)))
}

/// Rows that get or keep a reference to a deleted parent, with the parent's key; and the parents.
pub fn deleted_parents(
    work: &Work,
    place: usize,
    reference: &ForeignKey,
    parent: &Table,
) -> Result<(Vec<(usize, Key)>, Found), SqlError> {
    let table = &work.tables[place];
    let mut wanted = parents::referring(table, reference, |item| {
        let part = |number: &u16| parents::value(&table.table, item, *number).filter(|part| !part.is_null());
        reference.child_columns.iter().map(part).collect::<Option<Vec<Value>>>().map(Key)
    });
    for made in work.tables.iter().filter(|table| table.table.oid == parent.oid).flat_map(|table| &table.items) {
        if made.merged.rejected.is_none() && matches!(made.merged.after, Some(HubState::Live(_))) {
            let has = |number: &u16| parents::value(parent, made, *number);
            let has = reference.parent_columns.iter().map(has).collect::<Option<Vec<Value>>>();
            wanted.retain(|(_, values)| has.as_ref() != Some(&values.0));
        }
    }
    let mut values: Vec<&Key> = wanted.iter().map(|(_, values)| values).collect();
    values.sort_unstable();
    values.dedup();
    if values.is_empty() {
        return Ok((Vec::new(), Found::new()));
    }
    let mut keys: HashMap<Key, Key> = HashMap::new();
    for (at, marked) in rows_with(reference, parent, &values)? {
        keys.insert(values[at].clone(), marked.unwrap_or_default());
    }
    let gone: Vec<&Key> = values.iter().copied().filter(|values| !keys.contains_key(*values)).collect();
    keys.extend(tombstones_with(work, reference, parent, &gone)?);
    let wanted: Vec<(usize, Key)> = wanted
        .iter()
        .filter_map(|(at, values)| Some((*at, keys.get(values).filter(|key| !key.0.is_empty())?.clone())))
        .collect();
    let mut missing: Vec<Key> = wanted.iter().map(|(_, key)| key.clone()).collect();
    missing.sort_unstable();
    missing.dedup();
    let found = if missing.is_empty() { Found::new() } else { parents::buried(parent, &missing)? };
    Ok((wanted, found))
}

/// Rows of the parent's table that have the values, by the values' place: nothing if the row is live, its key if it is marked.
fn rows_with(reference: &ForeignKey, parent: &Table, values: &[&Key]) -> Result<Vec<(usize, Option<Key>)>, SqlError> {
    let mut arrays = Vec::new();
    let mut types = Vec::new();
    let mut conditions = Vec::new();
    for (at, number) in reference.parent_columns.iter().enumerate() {
        let Some(column) = parent.by_number(*number) else { return Ok(Vec::new()) };
        let in_key = parent.key.iter().position(|at| parent.columns[*at].number == *number);
        let equals = in_key.map_or("OPERATOR(pg_catalog.=)", |at| parent.key_equals[at].as_str());
        arrays.push(Array::of(&column.column_type, values.iter().map(|values| &values.0[at]))?);
        types.push(column.column_type.param_type());
        let value = format!("({})::{}", column.column_type.param_to_sql(&format!("u.k{at}")), column.column_type.sql);
        conditions.push(format!("t.{} {equals} {value}", ident(&column.name)));
    }
    let names: Vec<String> = (0..types.len()).map(|at| format!("k{at}")).collect();
    let of_key = parent.key.iter().map(|at| &parent.columns[*at]);
    let key: String = of_key
        .map(|column| format!(", {}", column.column_type.to_wire(&format!("t.{}", ident(&column.name)))))
        .collect();
    let params: Vec<Param<'_>> = arrays.iter().map(Array::param).collect();
    // Like the foreign key itself: a parent is there, whether this login may see it or not.
    let _owner = AsUser::owner_of_oid(parent.oid);
    let rows = sql::run_set(
        &format!(
            "SELECT u.place, t.sync_deleted IS TRUE{key} FROM ONLY {} AS t JOIN {} ON {}{}",
            parent.qualified,
            unnest(&types, &names, 1),
            conditions.join(" AND "),
            parents::stays(parent)
        ),
        &params,
    )?;
    Ok(rows.rows.iter().map(|row| (row.int(0) as usize - 1, row.truth(1).then(|| Key(row[2..].to_vec())))).collect())
}

/// Keys of deleted rows that had the values, by the values. Of several the one that was deleted last.
fn tombstones_with(
    work: &Work,
    reference: &ForeignKey,
    parent: &Table,
    values: &[&Key],
) -> Result<HashMap<Key, Key>, SqlError> {
    let Some(first) = reference.parent_columns.first().and_then(|number| parent.by_number(*number)) else {
        return Ok(HashMap::new());
    };
    if values.is_empty() {
        return Ok(HashMap::new());
    }
    let texts: Vec<String> = values.iter().map(|values| values.0[0].to_text()).collect();
    let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
    let ids = {
        let _owner = AsOwner::new();
        sql::run_set(
            "SELECT row_id FROM fieldsync.tombstone WHERE table_id = $1 AND \"row\" ->> $2 = ANY ($3::text[])",
            &[Param::Int(i64::from(parent.table_id)), Param::Text(&first.name), Param::Texts(&texts)],
        )?
    };
    let mut keys: Vec<(usize, Key)> = Vec::new();
    for row in &ids.rows {
        if let Recorded::Key(key) = keys::of_record(parent, row.text(0))? {
            keys.push((0, key));
        }
    }
    // A row that came back under its key says what is true of it, and its tombstone nothing.
    let absent = parents::missing_parents(work, parent, &keys)?;
    let mut latest: HashMap<Key, (u64, Key)> = HashMap::new();
    for (key, state) in state::tombstones(parent, absent.iter())? {
        let HubState::Deleted { row, deletion } = state else { continue };
        let had = |number: &u16| match parent.key.iter().position(|at| parent.columns[*at].number == *number) {
            Some(place) => key.0.get(place).cloned(),
            None => row.values.get(number).cloned(),
        };
        let Some(had) = reference.parent_columns.iter().map(had).collect::<Option<Vec<Value>>>().map(Key) else {
            continue;
        };
        if values.contains(&&had) && latest.get(&had).is_none_or(|(version, _)| *version < deletion.version) {
            latest.insert(had, (deletion.version, key));
        }
    }
    Ok(latest.into_iter().map(|(values, (_, key))| (values, key)).collect())
}
