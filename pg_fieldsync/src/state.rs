//! What the hub has under a delta's keys.
//!
//! Invariants:
//! * Rows are locked before anything of them is compared: all tables parents first, each table's rows by ascending key, so
//!   that two syncs never wait for each other in a circle.
//! * Rows that do not exist cannot be locked; their inserts say ON CONFLICT DO NOTHING and are decided again when somebody
//!   was faster ([`crate::write`]).

use crate::arrays::{unnest, Array};
use crate::catalog::Table;
use crate::catch::SqlError;
use crate::guards::{subtransaction, AsOwner};
use crate::hidden;
use crate::sql::{self, ident, Cells, Param};
use crate::tombstone;
use crate::work::{Item, TableWork};
use fieldsync_core::clocks::{RowClocks, Stamp};
use fieldsync_core::delta::Op;
use fieldsync_core::merge::{HubRow, HubState};
use fieldsync_core::value::Kind;
use fieldsync_core::{Hlc, Key, Value};
use std::collections::HashMap;

/// A row as read, with what `priority_field` may ask for.
pub struct Found {
    /// Its state.
    pub state: HubState,
    /// `sync_modified_at`.
    pub modified_at: Value,
    /// Whether a deleted row is still in the table, marked.
    pub marked: bool,
}

/// SQL for joining a table (alias `t`) with keys in `u(k0, k1, …, place)`; parameters from `$first` on.
pub struct KeyJoin {
    /// The FROM item.
    pub source: String,
    /// The condition.
    pub condition: String,
}

/// Builds the join for a table's key.
pub fn key_join(table: &Table, first: usize) -> KeyJoin {
    let names: Vec<String> = (0..table.key.len()).map(|at| format!("k{at}")).collect();
    let types: Vec<&str> = table.key.iter().map(|at| table.columns[*at].column_type.param_type()).collect();
    KeyJoin { source: unnest(&types, &names, first), condition: key_condition(table) }
}

/// The condition alone, where the keys stand in `u(k0, k1, …)`.
pub fn key_condition(table: &Table) -> String {
    table
        .key
        .iter()
        .enumerate()
        .map(|(place, at)| {
            let column = &table.columns[*at];
            format!(
                "t.{} {} {}",
                ident(&column.name),
                table.key_equals[place],
                key_value(table, *at, &format!("u.k{place}"))
            )
        })
        .collect::<Vec<_>>()
        .join(" AND ")
}

/// A key part in the column's own type, so that the primary key's index serves the comparison.
fn key_value(table: &Table, at: usize, element: &str) -> String {
    let column_type = &table.columns[at].column_type;
    format!("({})::{}", column_type.param_to_sql(element), column_type.sql)
}

/// The key columns of some keys as parameters.
pub fn key_arrays<'a>(table: &Table, keys: &[&'a Key]) -> Result<Vec<Array<'a>>, SqlError> {
    table
        .key
        .iter()
        .enumerate()
        .map(|(place, at)| {
            Array::of(&table.columns[*at].column_type, keys.iter().map(|key| key.0.get(place).unwrap_or(&Value::Null)))
        })
        .collect()
}

/// Locks and reads the rows of some items of a table, and gives each item with what was found, as they come.
pub fn read(work: &mut TableWork, wanted: &[usize], take: &mut dyn FnMut(&mut Item, Found)) -> Result<(), SqlError> {
    let columns = columns_to_read(work, wanted);
    // The items are written while their keys are still being read with.
    let keys: Vec<Key> = wanted.iter().map(|at| std::mem::take(&mut work.items[*at].key)).collect();
    let mut there = vec![false; keys.len()];
    let mut outcome = lock(&work.table, &keys, &columns, &mut |place, found| {
        if let Some(slot) = there.get_mut(place) {
            *slot = true;
            take(&mut work.items[wanted[place]], found);
        }
    });
    if outcome.is_ok() {
        let absent: Vec<usize> = (0..keys.len()).filter(|at| !there[*at]).collect();
        outcome = tombstones(&work.table, absent.iter().map(|at| &keys[*at])).map(|mut buried| {
            for at in absent {
                let state = buried.remove(&keys[at]).unwrap_or(HubState::Absent);
                take(&mut work.items[wanted[at]], Found { state, modified_at: Value::Null, marked: false });
            }
        });
    }
    for (at, key) in wanted.iter().zip(keys) {
        work.items[*at].key = key;
    }
    outcome
}

/// The columns that the rules, or the record of what they decide, may ask for.
fn columns_to_read(work: &TableWork, wanted: &[usize]) -> Vec<usize> {
    let table = &work.table;
    let whole = table.soft_delete
        || work.priority_field.is_some()
        || wanted.iter().any(|at| work.items[*at].changes.iter().any(|change| change.op == Op::Delete));
    let touched = |number: &u16| work.touched.contains(number);
    // Whom a row refers to is only known from all the columns of the foreign key, also where one of them changes.
    let refers = |number: u16| {
        let of = |columns: &[u16]| columns.contains(&number) && columns.iter().any(touched);
        table.references.iter().any(|reference| of(&reference.child_columns))
    };
    table
        .travelling()
        .filter(|(at, column)| !table.key.contains(at) && (whole || touched(&column.number) || refers(column.number)))
        .map(|(at, _)| at)
        .collect()
}

/// Locks rows in the keys' order, and gives them by the places of their keys.
fn lock(table: &Table, keys: &[Key], columns: &[usize], take: &mut dyn FnMut(usize, Found)) -> Result<(), SqlError> {
    let mut there = vec![false; keys.len()];
    let all: Vec<usize> = (0..keys.len()).collect();
    let outcome = rows_of(table, keys, &all, columns, true, &mut |place, found| {
        if let Some(slot) = there.get_mut(place) {
            *slot = true;
        }
        take(place, found);
    });
    match outcome {
        // A login that may insert and read but not update has no right to lock; nothing but inserts can succeed then, and deletions.
        Err(error) if error.sqlstate == "42501" => rows_of(table, keys, &all, columns, false, take),
        Err(error) => Err(error),
        Ok(()) => {
            // Policies for UPDATE hide from a lock what the login may see, and may perhaps delete.
            let unseen: Vec<usize> = all.into_iter().filter(|at| !there[*at]).collect();
            if unseen.is_empty() || !hidden::has_policies(table)? {
                return Ok(());
            }
            rows_of(table, keys, &unseen, columns, false, take)
        }
    }
}

/// Gives rows by the places of their keys, in the keys' order; of these places only.
fn rows_of(
    table: &Table,
    keys: &[Key],
    places: &[usize],
    columns: &[usize],
    locked: bool,
    take: &mut dyn FnMut(usize, Found),
) -> Result<(), SqlError> {
    let keys: Vec<&Key> = places.iter().map(|at| &keys[*at]).collect();
    let arrays = key_arrays(table, &keys)?;
    let params: Vec<Param<'_>> = arrays.iter().map(Array::param).collect();
    let join = key_join(table, 1);
    let shown: String = columns
        .iter()
        .map(|at| {
            let column = &table.columns[*at];
            format!(", {}", column.column_type.to_wire(&format!("t.{}", ident(&column.name))))
        })
        .collect();
    let query = format!(
        "SELECT u.place, t.fieldsync_clocks, t.sync_deleted, t.sync_modified_at{shown}
         FROM ONLY {} AS t JOIN {} ON {} ORDER BY u.place{}",
        table.qualified,
        join.source,
        join.condition,
        if locked { " FOR UPDATE OF t" } else { "" }
    );
    let each = |portion: Vec<Vec<Value>>| {
        for row in portion {
            let place = usize::try_from(row.int(0) - 1).ok().and_then(|at| places.get(at)).copied();
            let clocks = table.clocks(row.bytes(1))?;
            let marked = row.truth(2);
            let modified_at = row[3].clone();
            let values = columns
                .iter()
                .zip(row.into_iter().skip(4))
                .map(|(at, value)| (table.columns[*at].number, value))
                .collect();
            let deletion = clocks.field(table.deleted_number);
            let row = HubRow { values, clocks };
            let state = if marked { HubState::Deleted { row, deletion } } else { HubState::Live(row) };
            take(place.unwrap_or(usize::MAX), Found { state, modified_at, marked });
        }
        Ok(())
    };
    subtransaction(|| sql::lock_portions(&query, &params, each))
}

/// Whether any row of a table was ever deleted for good.
pub fn has_tombstones(table: &Table) -> Result<bool, SqlError> {
    let _owner = AsOwner::new();
    let table_id = Param::Int(i64::from(table.table_id));
    let any = sql::scalar("SELECT EXISTS (SELECT 1 FROM fieldsync.tombstone WHERE table_id = $1)", &[table_id])?;
    Ok(any != Value::Int(0))
}

/// Deleted rows among these keys, as they last were.
pub fn tombstones<'a>(table: &Table, keys: impl Iterator<Item = &'a Key>) -> Result<HashMap<Key, HubState>, SqlError> {
    let by_row_id: HashMap<String, &Key> = keys.map(|key| (table.row_id(key), key)).collect();
    if by_row_id.is_empty() || !has_tombstones(table)? {
        return Ok(HashMap::new());
    }
    let ids: Vec<Option<&str>> = by_row_id.keys().map(|id| Some(id.as_str())).collect();
    let table_id = Param::Int(i64::from(table.table_id));
    let buried = {
        let _owner = AsOwner::new();
        sql::run_set(
            &format!(
                "SELECT d.row_id, d.version, d.clock, d.origin, d.\"foreign\", d.\"row\"::text, d.clocks
                 FROM fieldsync.tombstone d JOIN unnest($2::text[]) AS u(row_id) ON {} WHERE d.table_id = $1",
                tombstone::FOUND
            ),
            &[table_id, Param::Texts(&ids)],
        )?
    };
    let jsons: Vec<Option<&str>> = buried.rows.iter().map(|row| Some(row.text(5))).collect();
    let values = from_json(table, &jsons)?;
    let mut found = HashMap::new();
    for (row, values) in buried.rows.iter().zip(values) {
        let (Some(key), Some(values)) = (by_row_id.get(row.text(0)), values) else { continue };
        let deletion = Stamp {
            version: row.int(1) as u64,
            clock: Hlc::from_i64(row.int(2)),
            origin: row.int(3) as u32,
            foreign: row.int(4) as u64,
        };
        let clocks = RowClocks::from_bytes(row.bytes(6)).unwrap_or_else(|_| RowClocks::new(deletion));
        found.insert((*key).clone(), HubState::Deleted { row: HubRow { values, clocks }, deletion });
    }
    Ok(found)
}

/// Non-key values of a row, by field number.
type Kept = HashMap<u16, Value>;

/// Rows that were kept as JSON. None: the table has other types by now, and Postgres cannot read the row as one of it; whoever asks goes
/// on as if it had not been kept. A column that the table did not have then has no value: a row that comes back gets its default.
fn from_json(table: &Table, rows: &[Option<&str>]) -> Result<Vec<Option<Kept>>, SqlError> {
    match subtransaction(|| read_json(table, rows)) {
        Ok(read) => Ok(read.into_iter().map(Some).collect()),
        Err(error) if error.is_transient() => Err(error),
        Err(_) if rows.len() <= 1 => Ok(vec![None; rows.len()]),
        Err(_) => {
            let each = rows.iter().map(|row| from_json(table, &[*row]));
            Ok(each.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        }
    }
}

fn read_json(table: &Table, rows: &[Option<&str>]) -> Result<Vec<Kept>, SqlError> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let columns: Vec<usize> = table.travelling().filter(|(at, _)| !table.key.contains(at)).map(|(at, _)| at).collect();
    let names: Vec<Option<&str>> = columns.iter().map(|at| Some(table.columns[*at].name.as_str())).collect();
    let definitions: Vec<String> = table
        .travelling()
        .map(|(_, column)| format!("{} {}", ident(&column.name), column.column_type.sql_with_modifier))
        .collect();
    let shown: String = columns
        .iter()
        .map(|at| {
            let column = &table.columns[*at];
            let mut value = format!("r.{}", ident(&column.name));
            if column.not_null && matches!(column.column_type.kind, Kind::Json | Kind::Jsonb) {
                // JSON's null and SQL's look the same in what was kept. Where a column may not be NULL it was the former.
                value = format!("COALESCE({value}, 'null'::{})", column.column_type.sql_with_modifier);
            }
            format!(", {}", column.column_type.to_wire(&value))
        })
        .collect();
    let _settings = crate::guards::Settings::for_text();
    let found = sql::run_set(
        &format!(
            "SELECT pg_catalog.jsonb_exists_all(u.kept::pg_catalog.jsonb, $2::pg_catalog.text[]){shown}
             FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY AS u(kept, place)
             CROSS JOIN LATERAL pg_catalog.jsonb_to_record(u.kept::pg_catalog.jsonb) AS r({}) ORDER BY u.place",
            definitions.join(", ")
        ),
        &[Param::Texts(rows), Param::Texts(&names)],
    )?;
    let mut read = Vec::with_capacity(rows.len());
    for (json, row) in rows.iter().zip(found.rows) {
        let whole = row.truth(0);
        let mut values: Kept =
            columns.iter().zip(row.into_iter().skip(1)).map(|(at, value)| (table.columns[*at].number, value)).collect();
        if !whole {
            let had: serde_json::Value = serde_json::from_str(json.unwrap_or("{}")).unwrap_or_default();
            values.retain(|number, _| table.by_number(*number).is_some_and(|column| had.get(&column.name).is_some()));
        }
        read.push(values);
    }
    Ok(read)
}
