//! Deletions as the row trigger sees them: a row that goes is kept whole, or marked.
//!
//! Invariant: the tombstone of a row is written in the (sub)transaction of its deletion, before the row goes.

use crate::catalog;
use crate::catch::SqlError;
use crate::error::report_sql;
use crate::feed;
use crate::guards::{AsUser, Settings};
use crate::keys;
use crate::pull::Reading;
use crate::sql::{self, ident, Cells, Param};
use crate::tombstone;
use crate::trigger::{hub_clock, note, Tracked};
use crate::tuple::{self, Row};
use fieldsync_core::clocks::{RowClocks, Stamp, HUB};
use fieldsync_core::Key;
use pgrx::pg_sys;

/// Writes a tombstone with the whole row and notes the key.
///
/// # Safety
/// The tuple is of the relation.
pub unsafe fn bury(
    tracked: &Tracked,
    relation: pg_sys::Relation,
    tuple: pg_sys::HeapTuple,
    row: &Row,
    stamp: Stamp,
    clocks: &RowClocks,
) {
    let key = tracked.key(row);
    note(tracked, &key);
    // SAFETY: as promised; the composite datum is of the relation's row type.
    let json = unsafe { row_json(relation, tuple) };
    let written = tombstone::write(tracked.table_id, &keys::row_id(&key, &tracked.key_kinds), stamp, &json, clocks);
    if let Err(error) = written {
        report_sql(&error);
    }
}

/// The row as JSON text; the same whatever the session's settings are.
///
/// # Safety
/// The tuple is of the relation.
unsafe fn row_json(relation: pg_sys::Relation, tuple: pg_sys::HeapTuple) -> String {
    let _settings = Settings::for_text();
    // SAFETY: as promised.
    let (datum, row_type) =
        unsafe { (pg_sys::heap_copy_tuple_as_datum(tuple, (*relation).rd_att), (*(*relation).rd_rel).reltype) };
    // As whoever deletes, not as fieldsync's owner: a type's cast to json may be a function of an application's.
    let json = sql::scalar(&format!("SELECT {}", row_as_json("$1")), &[Param::Datum(row_type, datum)]);
    match json {
        Ok(value) => value.to_text(),
        Err(error) => report_sql(&error),
    }
}

/// SQL for a row as JSON text. Qualified, because it runs under a caller's search_path. Not by way of jsonb: that takes no NUL in a value
/// of type json, and the row could not be deleted by anybody.
fn row_as_json(row: &str) -> String {
    format!("pg_catalog.to_json({row})::pg_catalog.text")
}

/// Turns a DELETE into the marking of its row, as the table's owner (like the actions of foreign keys): DELETE is what was
/// granted and what happens, so nobody needs the UPDATE privilege for it.
///
/// # Safety
/// The row is of the relation.
pub unsafe fn mark_deleted(relation: pg_sys::Relation, row: &Row, tracked: &Tracked) {
    // SAFETY: as promised.
    unsafe { as_owner(relation, row, tracked, "UPDATE ONLY {table} SET sync_deleted = true WHERE {key}") }
}

/// Locks a row that an application marks by an UPDATE, as a DELETE would: whoever makes a row that refers to it waits, or is waited for.
///
/// # Safety
/// The row is of the relation.
pub unsafe fn lock_as_delete(relation: pg_sys::Relation, row: &Row, tracked: &Tracked) {
    // SAFETY: as promised.
    unsafe { as_owner(relation, row, tracked, "SELECT FROM ONLY {table} WHERE {key} FOR UPDATE") }
}

/// Runs a statement about one row, as the table's owner.
///
/// # Safety
/// The row is of the relation.
unsafe fn as_owner(relation: pg_sys::Relation, row: &Row, tracked: &Tracked, statement: &str) {
    // SAFETY: an open relation has a name and a descriptor.
    let (name, attributes) = unsafe { (pgrx::PgRelation::from_pg(relation), tuple::attributes((*relation).rd_att)) };
    let mut conditions = Vec::new();
    let mut params = Vec::new();
    let table = match catalog::table(tracked.relation) {
        Ok(Some(table)) => table,
        Ok(None) => return,
        Err(error) => report_sql(&error),
    };
    for (place, (at, _)) in tracked.key.iter().enumerate() {
        conditions.push(format!(
            "{} {} ${}",
            ident(pgrx::name_data_to_str(&attributes[*at].attname)),
            table.key_equals[place],
            place + 1
        ));
        params.push(Param::Datum(attributes[*at].atttypid, row.values[*at]));
    }
    let _owner = AsUser::owner_of(relation);
    let statement = statement
        .replace("{table}", &format!("{}.{}", ident(name.namespace()), ident(name.name())))
        .replace("{key}", &conditions.join(" AND "));
    if let Err(error) = sql::run(&statement, &params) {
        report_sql(&error);
    }
}

/// Rows of a TRUNCATE are buried in portions, so that a large table does not fill memory.
const TRUNCATE_PORTION: i64 = 5_000;

/// Buries every row of a table.
pub fn truncate(tracked: &Tracked, relation: pg_sys::Relation) -> Result<(), SqlError> {
    let Some(table) = catalog::table(tracked.relation)? else { return Ok(()) };
    // As the table's owner: every row is deleted, whatever the truncating role may see.
    let _owner = AsUser::owner_of(relation);
    if table.key.is_empty() {
        return Err(catalog::without_key(&table));
    }
    let key_columns: Vec<String> = table.key.iter().map(|at| ident(&table.columns[*at].name)).collect();
    let order = key_columns.join(", ");
    let version = feed::own_version();
    let mut offset = 0i64;
    // TRUNCATE takes every row there is, also those that a transaction of REPEATABLE READ does not see; its lock keeps them as they are.
    let _reading = Reading::begin();
    loop {
        let rows = {
            let _settings = Settings::for_text();
            sql::read_set(
                &format!(
                    "SELECT t.fieldsync_clocks, {}, {} FROM ONLY {} t ORDER BY {order} LIMIT {TRUNCATE_PORTION} OFFSET $1",
                    row_as_json("t"),
                    key_columns.iter().map(|column| format!("t.{column}")).collect::<Vec<_>>().join(", "),
                    table.qualified
                ),
                &[Param::Int(offset)],
            )?
        };
        for row in &rows.rows {
            let key = Key(row[2..].to_vec());
            let clocks = table.clocks(row.bytes(0))?;
            let (clock, _) = hub_clock(clocks.latest().clock);
            note(tracked, &key);
            let stamp = tombstone::stamp_on(&clocks, version, clock, HUB);
            tombstone::write(tracked.table_id, &table.row_id(&key), stamp, row.text(1), &clocks)?;
        }
        if (rows.rows.len() as i64) < TRUNCATE_PORTION {
            return Ok(());
        }
        offset += TRUNCATE_PORTION;
    }
}
