//! Rows that swap UNIQUE values: no order of single writes works, so their old values are moved out of the way first.
//!
//! Invariant: what is written here never outlives the subtransaction in which the final values follow.

use crate::applying::Engine;
use crate::arrays::Array;
use crate::catch::SqlError;
use crate::guards::AsOwner;
use crate::sql::{self, ident, Cells, Param};
use crate::state::{key_arrays, key_join};
use crate::work::Work;
use fieldsync_core::merge::HubState;
use fieldsync_core::value::Kind;
use fieldsync_core::{Key, Value};

/// The columns of a unique index or constraint, by number.
pub fn columns(work: &Work, table: usize, constraint: &str) -> Result<Vec<u16>, SqlError> {
    let _owner = AsOwner::new();
    let rows = sql::run(
        "SELECT k.attnum FROM pg_catalog.pg_class c JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
         CROSS JOIN LATERAL unnest(i.indkey::int2[]) AS k(attnum)
         WHERE i.indrelid = $1::oid AND c.relname = $2 AND i.indisunique AND k.attnum > 0",
        &[crate::catalog::oid_param(work.tables[table].table.oid), Param::Text(constraint)],
    )?;
    Ok(rows.rows.iter().map(|row| row.int(0) as u16).collect())
}

/// Whether one row is to get, in the columns of the violated constraint, what another has now.
pub fn wants_what_the_other_has(work: &Work, table: usize, one: usize, other: usize, numbers: &[u16]) -> bool {
    let items = &work.tables[table].items;
    let Some(HubState::Live(before)) = &items[other].merged.before else { return false };
    // A column that the delta does not touch in either row is not read: it may well be the same.
    let compared: Vec<Option<bool>> = numbers
        .iter()
        .map(|number| match (items[one].value_after(*number), before.values.get(number)) {
            (Some(wanted), Some(has)) => Some(wanted == has),
            (None, None) => None,
            _ => Some(false),
        })
        .collect();
    compared.contains(&Some(true)) && !compared.contains(&Some(false))
}

/// Gives the rows that block each other values that nobody has.
pub fn clear_the_way(work: &Work, rows: &[(usize, usize, &SqlError)]) -> Result<(), SqlError> {
    for table in 0..work.tables.len() {
        let described = &work.tables[table].table;
        let items = &work.tables[table].items;
        let of_table = || rows.iter().filter(|(place, _, _)| *place == table);
        let Some(constraint) = of_table()
            .filter(|(_, _, error)| error.sqlstate == "23505")
            .find_map(|(_, _, error)| error.constraint.clone())
        else {
            continue;
        };
        let goes =
            |item: usize| matches!(items[item].merged.after, Some(HubState::Deleted { .. })) && !described.soft_delete;
        let blocking: Vec<usize> = of_table()
            .filter(|(_, item, error)| goes(*item) || error.sqlstate == "23505")
            .map(|(_, item, _)| *item)
            .filter(|item| matches!(items[*item].merged.before, Some(HubState::Live(_))))
            .collect();
        if blocking.is_empty() {
            continue;
        }
        let numbers = columns(work, table, &constraint)?;
        // One column moved aside is enough to free the combination: one that every row either writes itself or goes with.
        let Some(column) = numbers.iter().find_map(|number| {
            let at = described.columns.iter().position(|column| column.number == *number)?;
            let written = |item: &usize| goes(*item) || items[*item].merged.fields.get(*number).is_some();
            (!described.key.contains(&at) && blocking.iter().all(written)).then(|| &described.columns[at])
        }) else {
            continue;
        };
        let aside = match column.column_type.kind {
            _ if !is_not_null(described.oid, column.number)? => "NULL".to_owned(),
            Kind::Int => "(-2000000000 - u.place)".to_owned(),
            Kind::Numeric | Kind::Real => "(-2000000000 - u.place)".to_owned(),
            Kind::Uuid => "pg_catalog.gen_random_uuid()".to_owned(),
            Kind::Text => "pg_catalog.concat('~', pg_catalog.md5(pg_catalog.random()::pg_catalog.text))".to_owned(),
            _ => continue,
        };
        let keys: Vec<&Key> = blocking.iter().map(|item| &items[*item].key).collect();
        let arrays = key_arrays(described, &keys)?;
        let params: Vec<Param<'_>> = arrays.iter().map(Array::param).collect();
        let join = key_join(described, 1);
        let _engine = Engine::writes();
        sql::run_set(
            &format!(
                "UPDATE ONLY {} AS t SET {} = {aside} FROM {} WHERE {}",
                described.qualified,
                ident(&column.name),
                join.source,
                join.condition
            ),
            &params,
        )?;
    }
    Ok(())
}

fn is_not_null(relation: pgrx::pg_sys::Oid, number: u16) -> Result<bool, SqlError> {
    let answer = sql::scalar(
        "SELECT attnotnull FROM pg_catalog.pg_attribute WHERE attrelid = $1::pg_catalog.oid AND attnum = $2::pg_catalog.int2",
        &[crate::catalog::oid_param(relation), Param::Int(i64::from(number))],
    )?;
    Ok(answer == Value::Int(1))
}
