//! Deleted rows that row-level security would hide from the login if they were there.
//!
//! Invariant: a deletion reveals at most a key. A change brings a row back with values that its device did not send only if the
//! login could have seen the row. What the policies say of a row is for Postgres to tell: it is put back as it was, by the table's
//! owner and unseen by triggers, looked at by the login, and taken away again.

use crate::applying::Engine;
use crate::arrays::{unnest, Array};
use crate::catalog::Table;
use crate::catch::SqlError;
use crate::guards::{subtransaction, AsUser, Settings};
use crate::sql::{self, ident, Param};
use crate::state::{key_arrays, key_join};
use crate::work::{Item, TableWork};
use fieldsync_core::clocks::RowClocks;
use fieldsync_core::merge::{HubRow, HubState};
use fieldsync_core::{Key, Value};
use std::borrow::Cow;

/// The items whose rows this login may make or bring back. The others stay unwritten.
pub fn without_hidden<'a>(work: &TableWork, items: &'a [usize]) -> Result<Cow<'a, [usize]>, SqlError> {
    let revealing = |at: &&usize| revealed(&work.items[**at]).is_some();
    if !items.iter().any(|at| revealing(&at)) || !has_policies(&work.table)? {
        return Ok(Cow::Borrowed(items));
    }
    let mut allowed = Vec::with_capacity(items.len());
    for at in items {
        let item = &work.items[*at];
        match revealed(item) {
            Some(row) if !could_see(&work.table, &item.key, row)? => {}
            _ => allowed.push(*at),
        }
    }
    Ok(Cow::Owned(allowed))
}

/// The deleted row, if writing the item would show any of it.
fn revealed(item: &Item) -> Option<&HubRow> {
    let Some(HubState::Deleted { row, .. }) = &item.merged.before else { return None };
    let sent = |number: u16, value: &Value| {
        let mut fields = item.changes.iter().flat_map(|change| &change.fields);
        fields.any(|field| field.number == number && field.new == *value)
    };
    (!item.merged.marked && item.merged.fields.iter().any(|(number, value)| !sent(number, value))).then_some(row)
}

/// Whether policies hold for this login.
pub fn has_policies(table: &Table) -> Result<bool, SqlError> {
    let active =
        sql::scalar("SELECT pg_catalog.row_security_active($1::oid)", &[crate::catalog::oid_param(table.oid)])?;
    Ok(active == Value::Int(1))
}

/// What came of a look.
enum Looked {
    Seen(bool),
    Failed(SqlError),
}

impl From<SqlError> for Looked {
    fn from(error: SqlError) -> Self {
        Looked::Failed(error)
    }
}

fn could_see(table: &Table, key: &Key, row: &HubRow) -> Result<bool, SqlError> {
    let looked = subtransaction(|| -> Result<(), Looked> {
        {
            let _quiet = Settings::pin_as_superuser(c"session_replication_role", c"replica");
            let _owner = AsUser::owner_of_oid(table.oid);
            put_back(table, key, row, &row.clocks)?;
        }
        let arrays = key_arrays(table, &[key])?;
        let params: Vec<Param<'_>> = arrays.iter().map(Array::param).collect();
        let join = key_join(table, 1);
        let found = sql::run_set(
            &format!("SELECT 1 FROM ONLY {} AS t JOIN {} ON {}", table.qualified, join.source, join.condition),
            &params,
        )?;
        Err(Looked::Seen(!found.rows.is_empty()))
    });
    match looked {
        Ok(()) => Ok(false),
        Err(Looked::Seen(seen)) => Ok(seen),
        Err(Looked::Failed(error)) => Err(error),
    }
}

/// Inserts a deleted row whole, as it was.
pub fn put_back(table: &Table, key: &Key, row: &HubRow, clocks: &RowClocks) -> Result<(), SqlError> {
    let keys = [key];
    let mut arrays = key_arrays(table, &keys)?;
    let mut types: Vec<&str> = table.key.iter().map(|at| table.columns[*at].column_type.param_type()).collect();
    let mut names: Vec<String> = (0..table.key.len()).map(|at| format!("k{at}")).collect();
    let mut targets: Vec<String> = table.key.iter().map(|at| ident(&table.columns[*at].name)).collect();
    let mut sources: Vec<String> = table
        .key
        .iter()
        .enumerate()
        .map(|(place, at)| table.columns[*at].column_type.param_to_sql(&format!("u.k{place}")))
        .collect();
    for (at, column) in table.travelling() {
        if table.key.contains(&at) {
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
    let clocks = clocks.to_bytes();
    let blob = [Some(clocks.as_slice())];
    let mut params: Vec<Param<'_>> = arrays.iter().map(Array::param).collect();
    params.push(Param::Blobs(&blob));
    let _engine = Engine::writes();
    sql::run_set(
        &format!(
            "INSERT INTO {} ({}, fieldsync_clocks, sync_deleted) OVERRIDING SYSTEM VALUE SELECT {}, u.clocks, false FROM {}{}",
            table.qualified,
            targets.join(", "),
            sources.join(", "),
            unnest(&types, &names, 1),
            table.passes_over_taken_keys()
        ),
        &params,
    )?;
    Ok(())
}
