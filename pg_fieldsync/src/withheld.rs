//! Tables that a client does not get for the time being, and those that it gets whole.
//!
//! A login has its grants as ever, and an operator may set a direction: what a client may not read is left out of its answers,
//! and the rest travels. A table whose rows got values that no row trigger saw (ALTER TABLE ... DEFAULT, ... USING) goes
//! whole to every device that has not seen the transaction which did that. Where row-level security has shown a login only some rows,
//! and does not hold for it any more, the table travels whole, too.
//!
//! Invariant: nothing is skipped for good. The cursor of an answer calls everything seen, also what was left out; so what was
//! left out is on record, and the table travels whole from the first answer that may hold it until the device has applied one
//! that did.

use crate::catalog::{oid_param, Table};
use crate::catch::SqlError;
use crate::guards::AsOwner;
use crate::sql::{self, Cells, Param};
use crate::unseen;
use fieldsync_core::rules::TableRules;
use fieldsync_core::{Snapshot, Value};
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
            if before.is_none_or(|before| before.since.is_some()) {
                note(client, table.table_id, None, false)?;
            }
            unseen::begin(client, table.table_id, cursor)?;
            Given::Nothing
        } else {
            let partly = sees == Sees::SomeRows;
            let before = before.unwrap_or(Had { since: Some(ALWAYS), partly: false });
            match before.since {
                // What is on record stays: a copy of the device may come with an older cursor.
                Some(since)
                    if (partly || !before.partly)
                        && (since == ALWAYS || cursor.is_some_and(|cursor| cursor.visible(since))) =>
                {
                    if partly && !before.partly {
                        note(client, table.table_id, Some(since), true)?;
                    }
                    news(table.table_id, sees)
                }
                _ => {
                    if before.partly {
                        sql::forget_plans();
                    }
                    note(client, table.table_id, Some(own), partly)?;
                    unseen::end(client, table.table_id, own)?;
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

/// How a client has had a table.
#[derive(Debug, Clone, Copy)]
struct Had {
    /// The version of the first answer with all that its login was shown; None: it is withheld.
    since: Option<u64>,
    /// Since then row-level security may have hidden some of it.
    partly: bool,
}

/// Nothing was ever withheld: a version that every cursor holds.
const ALWAYS: u64 = 0;

/// What is on record of a client, by table.
fn on_record(client: u32) -> Result<HashMap<i32, Had>, SqlError> {
    let _owner = AsOwner::new();
    let rows = sql::run(
        "SELECT table_id, given_since, partly FROM fieldsync.withheld WHERE client_no = $1",
        &[Param::Int(i64::from(client))],
    )?;
    let had = |row: &Vec<Value>| Had { since: (!row.is_null(1)).then(|| row.int(1) as u64), partly: row.truth(2) };
    Ok(rows.rows.iter().map(|row| (row.int(0) as i32, had(row))).collect())
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

fn note(client: u32, table_id: i32, since: Option<u64>, partly: bool) -> Result<(), SqlError> {
    let _owner = AsOwner::new();
    let since = [since.map(|since| since as i64)];
    sql::run(
        "INSERT INTO fieldsync.withheld (client_no, table_id, given_since, partly) VALUES ($1, $2, ($3::bigint[])[1], $4)
         ON CONFLICT (client_no, table_id) DO UPDATE SET given_since = EXCLUDED.given_since, partly = EXCLUDED.partly",
        &[Param::Int(i64::from(client)), Param::Int(i64::from(table_id)), Param::Ints(&since), Param::Bool(partly)],
    )
    .map(|_| ())
}
