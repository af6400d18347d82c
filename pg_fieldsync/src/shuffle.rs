//! Rows that swap UNIQUE values: no order of single writes works, so their old values are moved out of the way first.
//!
//! Invariant: what is written here never outlives the subtransaction in which the final values follow.

use crate::applying::Engine;
use crate::arrays::Array;
use crate::catalog::{Column, Table};
use crate::catch::SqlError;
use crate::guards::AsOwner;
use crate::sql::{self, ident, Cells, Param};
use crate::state::{key_arrays, key_join};
use crate::work::{TableWork, Work};
use fieldsync_core::merge::HubState;
use fieldsync_core::value::Kind;
use fieldsync_core::{Key, Value};
use pgrx::pg_sys;

/// The columns of a unique index or constraint, by number: also those that it has in an expression, such as lower(code).
pub fn columns(work: &Work, table: usize, constraint: &str) -> Result<Vec<u16>, SqlError> {
    let _owner = AsOwner::new();
    let rows = sql::run(
        "SELECT k.attnum FROM pg_catalog.pg_class c JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
         CROSS JOIN LATERAL unnest(i.indkey::int2[]) AS k(attnum)
         WHERE i.indrelid = $1::oid AND c.relname = $2 AND i.indisunique AND k.attnum > 0
         UNION
         SELECT d.refobjsubid::int2 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
         JOIN pg_catalog.pg_depend d ON d.objid = c.oid AND d.refobjid = i.indrelid AND d.refobjsubid > 0
              AND d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = d.classid
         WHERE i.indrelid = $1::oid AND c.relname = $2 AND i.indisunique AND i.indexprs IS NOT NULL",
        &[crate::catalog::oid_param(work.tables[table].table.oid), Param::Text(constraint)],
    )?;
    Ok(rows.rows.iter().map(|row| row.int(0) as u16).collect())
}

/// What a row has in some columns before the merge; None where there is nothing that could block another row. Columns that the
/// delta does not touch are not read, and left out.
pub fn values_before(work: &Work, table: usize, item: usize, numbers: &[u16]) -> Option<Key> {
    let work = &work.tables[table];
    let Some(HubState::Live(before)) = &work.items[item].merged.before else { return None };
    values(work, numbers, |number| before.values.get(&number))
}

/// What a row is to have in the same columns.
pub fn values_after(work: &Work, table: usize, item: usize, numbers: &[u16]) -> Option<Key> {
    let work = &work.tables[table];
    values(work, numbers, |number| work.items[item].value_after(number))
}

fn values<'a>(work: &TableWork, numbers: &[u16], value: impl Fn(u16) -> Option<&'a Value>) -> Option<Key> {
    let touched = numbers.iter().filter(|number| work.touched.contains(number));
    let values: Option<Vec<Value>> =
        touched.map(|number| value(*number).filter(|value| !value.is_null()).cloned()).collect();
    values.filter(|values| !values.is_empty()).map(Key)
}

/// Gives rows that are in each other's way (tables' places and items), in a unique constraint of a table, values that nobody
/// has. `way`: which of several kinds of values, for a CHECK may refuse one of them.
pub fn clear_the_way(
    work: &Work,
    table: usize,
    constraint: &str,
    rows: &[(usize, usize)],
    way: usize,
) -> Result<(), SqlError> {
    let described = &work.tables[table].table;
    let items = &work.tables[table].items;
    let goes =
        |item: usize| matches!(items[item].merged.after, Some(HubState::Deleted { .. })) && !described.soft_delete;
    // One column moved aside is enough to free the combination; one that the delta writes anyway.
    let writes = |item: usize, number: u16| goes(item) || items[item].merged.fields.contains(number);
    let there = |item: usize| matches!(items[item].merged.before, Some(HubState::Live(_)));
    let of_table = || rows.iter().filter(|(place, item)| *place == table && there(*item)).map(|(_, item)| *item);
    let blocking = |number: u16| of_table().filter(move |item| writes(*item, number));
    let numbers = columns(work, table, constraint)?;
    let Some(column) = numbers
        .iter()
        .filter(|number| !described.key.iter().any(|at| described.columns[*at].number == **number))
        .max_by_key(|number| blocking(**number).count())
        .and_then(|number| described.by_number(*number))
    else {
        return Ok(());
    };
    let keys: Vec<&Key> = blocking(column.number).map(|item| &items[item].key).collect();
    if keys.is_empty() {
        return Ok(());
    }
    let Some(aside) = aside(described, column, way, keys.len()) else { return Ok(()) };
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
    Ok(())
}

/// A value for each of `count` rows that nobody has, as SQL: NULL where that is allowed, then beyond what there is, then far below.
fn aside(table: &Table, column: &Column, way: usize, count: usize) -> Option<String> {
    let way = match (column.not_null, way) {
        (false, 0) => return Some("NULL".to_owned()),
        (false, way) => way - 1,
        (true, way) => way,
    };
    let of_all = |what: &str| format!("(SELECT {what}(x.{}) FROM ONLY {} AS x)", ident(&column.name), table.qualified);
    let random = "pg_catalog.md5(pg_catalog.random()::pg_catalog.text || u.place::pg_catalog.text)";
    Some(match column.column_type.kind {
        Kind::Int | Kind::Numeric | Kind::Real => match way {
            0 => format!("{} + 1000000 + u.place", of_all("pg_catalog.max")),
            1 => "(-2000000000 - u.place)".to_owned(),
            2 => format!("{} + {count} + u.place", of_all("pg_catalog.max")),
            _ => format!("{} - {count} - u.place", of_all("pg_catalog.min")),
        },
        Kind::Instant => format!("{} + u.place * interval '1000 days'", of_all("pg_catalog.max")),
        Kind::Uuid => "pg_catalog.gen_random_uuid()".to_owned(),
        Kind::Text => match column.column_type.base {
            pg_sys::DATEOID => format!("{} + 10000 + u.place::pg_catalog.int4", of_all("pg_catalog.max")),
            pg_sys::TIMESTAMPOID => format!("{} + u.place * interval '1000 days'", of_all("pg_catalog.max")),
            // A limit counts four bytes of header too.
            pg_sys::VARCHAROID | pg_sys::BPCHAROID if column.column_type.typmod > 4 => {
                format!("pg_catalog.left({random}, {})", column.column_type.typmod - 4)
            }
            _ if way == 0 => format!("pg_catalog.concat('~', {random})"),
            _ => random.to_owned(),
        },
        _ => return None,
    })
}
