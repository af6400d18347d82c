//! Tables that a client does not get for the time being, and those that it gets whole.
//!
//! A login has its grants as ever, and an operator may set a direction: what a client may not read is left out of its answers,
//! and the rest travels. A table whose rows got values that no row trigger saw (ALTER TABLE ... DEFAULT, ... USING) goes
//! whole to every device that has not seen the transaction which did that.
//!
//! Invariant: nothing is skipped for good. The cursor of an answer calls everything seen, also what was left out; so what was
//! left out is on record, and the table travels whole from the first answer that may hold it until the device has applied one
//! that did.

use crate::catalog::{oid_param, Table};
use crate::catch::SqlError;
use crate::guards::AsOwner;
use crate::sql::{self, Cells, Param};
use fieldsync_core::rules::TableRules;
use fieldsync_core::Snapshot;
use std::collections::HashMap;
use std::rc::Rc;

/// How a table is given to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// Not at all.
    Nothing,
    /// What the cursor has not seen.
    News {
        /// Each row whole: row-level security may have hidden from this login what was written to it before.
        whole: bool,
        /// And how its columns are called now, also if there is no news.
        renamed: bool,
    },
    /// All of it.
    Everything,
}

/// Says of each table how it is given in an answer of transaction `own`, and puts on record what changes by it.
pub fn given(
    tables: &[(Rc<Table>, Rc<TableRules>)],
    client: u32,
    cursor: Option<&Snapshot>,
    own: u64,
    no_pull: &dyn Fn(&str) -> bool,
) -> Result<HashMap<i32, Given>, SqlError> {
    let mut known = on_record(client)?;
    let altered = altered()?;
    let unseen = |version: u64| version > 0 && cursor.is_some_and(|cursor| !cursor.visible(version));
    let news = |table_id: i32, sees: Sees| match altered.get(&table_id) {
        Some(altered) if unseen(altered.remade) => Given::Everything,
        altered => Given::News {
            whole: sees == Sees::SomeRows,
            renamed: altered.is_some_and(|altered| unseen(altered.renamed)),
        },
    };
    let mut all = HashMap::new();
    for (table, _) in tables {
        let before = known.remove(&table.table_id);
        let sees = sees(table)?;
        let given = if no_pull(&table.name) || sees == Sees::Nothing {
            if before != Some(None) {
                note(client, table.table_id, None)?;
            }
            Given::Nothing
        } else {
            match (before, cursor) {
                (None, _) => news(table.table_id, sees),
                // What is on record stays: a copy of the device may come with an older cursor.
                (Some(Some(since)), Some(cursor)) if cursor.visible(since) => news(table.table_id, sees),
                (Some(_), _) => {
                    note(client, table.table_id, Some(own))?;
                    Given::Everything
                }
            }
        };
        all.insert(table.table_id, given);
    }
    Ok(all)
}

/// What the caller is let see of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sees {
    /// It may not read all columns.
    Nothing,
    /// What row-level security shows it.
    SomeRows,
    All,
}

fn sees(table: &Table) -> Result<Sees, SqlError> {
    let rows = sql::run(
        "SELECT pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE')
            AND (pg_catalog.has_table_privilege(c.oid, 'SELECT')
                 OR NOT EXISTS (SELECT 1 FROM pg_catalog.pg_attribute AS a
                                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                                  AND NOT pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT'))),
            c.relrowsecurity AND pg_catalog.row_security_active(c.oid)
         FROM pg_catalog.pg_class AS c WHERE c.oid = $1::pg_catalog.oid",
        &[oid_param(table.oid)],
    )?;
    Ok(match rows.rows.first().map(|row| (row.truth(0), row.truth(1))) {
        Some((true, false)) => Sees::All,
        Some((true, true)) => Sees::SomeRows,
        _ => Sees::Nothing,
    })
}

/// What is on record of a client: by table, since when it is given all of it.
fn on_record(client: u32) -> Result<HashMap<i32, Option<u64>>, SqlError> {
    let _owner = AsOwner::new();
    let rows = sql::run(
        "SELECT table_id, given_since FROM fieldsync.withheld WHERE client_no = $1",
        &[Param::Int(i64::from(client))],
    )?;
    Ok(rows.rows.iter().map(|row| (row.int(0) as i32, (!row.is_null(1)).then(|| row.int(1) as u64))).collect())
}

/// What ALTER TABLE did to a table that no row trigger saw: versions of the last transactions that did so, 0 for none.
struct Altered {
    /// Gave rows values.
    remade: u64,
    /// Gave columns other names.
    renamed: u64,
}

fn altered() -> Result<HashMap<i32, Altered>, SqlError> {
    let _owner = AsOwner::new();
    // By the snapshot that the new cursor is, whatever the transaction's own: what that calls seen has to be seen here.
    let rows = sql::read(
        "SELECT table_id, remade_version, renamed_version FROM fieldsync.tracked_table
         WHERE enabled AND (remade_version > 0 OR renamed_version > 0)",
        &[],
    )?;
    let version = |number: i64| number.max(0) as u64;
    let altered = rows.rows.iter().map(|row| {
        let altered = Altered { remade: version(row.int(1)), renamed: version(row.int(2)) };
        (row.int(0) as i32, altered)
    });
    Ok(altered.collect())
}

fn note(client: u32, table_id: i32, since: Option<u64>) -> Result<(), SqlError> {
    let _owner = AsOwner::new();
    let since = [since.map(|since| since as i64)];
    sql::run(
        "INSERT INTO fieldsync.withheld (client_no, table_id, given_since) VALUES ($1, $2, ($3::bigint[])[1])
         ON CONFLICT (client_no, table_id) DO UPDATE SET given_since = EXCLUDED.given_since",
        &[Param::Int(i64::from(client)), Param::Int(i64::from(table_id)), Param::Ints(&since)],
    )
    .map(|_| ())
}
