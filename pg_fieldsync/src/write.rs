//! Writing what was decided: as few statements as there are kinds of change, by the caller's privileges.
//!
//! Invariants:
//! * The clocks that the merge decided are written with the fields; the row trigger believes them only while
//!   [`Engine::writes`] holds.
//! * An insert never overwrites: ON CONFLICT (key) DO NOTHING where the table can have it, and whoever was faster is merged with.
//! * Parents before children; deletions after everything else, children first.
//! * Who deletes needs the DELETE privilege and passes the DELETE policies, whether the row goes or is marked.

use crate::applying::{self, Engine, Question};
use crate::arrays::{unnest, Array};
use crate::catalog::Table;
use crate::catch::SqlError;
use crate::guards::{subtransaction, AsUser};
use crate::hidden;
use crate::keys;
use crate::sql::{self, ident, Param};
use crate::state::{key_arrays, key_condition, key_join};
use crate::work::{Item, TableWork, Work};
use fieldsync_core::merge::HubState;
use fieldsync_core::{Key, Value};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

/// What one statement does to its rows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// New rows with these fields.
    Insert(Vec<u16>),
    /// Changes of these fields.
    Update(Vec<u16>),
    /// Rows of a table with soft deletion that are marked, or come back with these fields.
    Mark(bool, Vec<u16>),
    /// Rows that go.
    Delete,
}

/// Rows of one table that one statement can write.
#[derive(Debug, Clone)]
pub struct Group {
    /// The table's place in the work.
    pub table: usize,
    /// What is done.
    pub action: Action,
    /// The rows.
    pub items: Vec<usize>,
}

/// What has to be done to a row; nothing if it stays as it is.
pub fn action(table: &Table, item: &Item) -> Option<Action> {
    let merged = &item.merged;
    if merged.rejected.is_some() {
        return None;
    }
    let numbers = || merged.fields.numbers().collect::<Vec<u16>>();
    match (merged.before.as_ref()?, merged.after.as_ref()?) {
        (HubState::Absent, HubState::Live(_)) => Some(Action::Insert(numbers())),
        (HubState::Deleted { .. }, HubState::Live(_)) if merged.marked => Some(Action::Mark(false, numbers())),
        (HubState::Deleted { .. }, HubState::Live(_)) => Some(Action::Insert(numbers())),
        (HubState::Live(_), HubState::Live(_)) if merged.fields.is_empty() => None,
        (HubState::Live(_), HubState::Live(_)) => Some(Action::Update(numbers())),
        (HubState::Live(_), HubState::Deleted { .. }) if table.soft_delete => Some(Action::Mark(true, Vec::new())),
        (HubState::Live(_), HubState::Deleted { .. }) => Some(Action::Delete),
        _ => None,
    }
}

/// All statements that the work needs, in their order.
pub fn groups(work: &Work) -> Vec<Group> {
    let mut upserts = Vec::new();
    let mut deletes = Vec::new();
    for (place, table) in work.tables.iter().enumerate() {
        let mut by_action: BTreeMap<Action, Vec<usize>> = BTreeMap::new();
        for (at, item) in table.items.iter().enumerate() {
            if let Some(action) = action(&table.table, item) {
                by_action.entry(action).or_default().push(at);
            }
        }
        for (action, items) in by_action {
            let group = Group { table: place, action, items };
            if group.action == Action::Delete {
                deletes.insert(0, group);
            } else {
                upserts.push(group);
            }
        }
    }
    upserts.extend(deletes);
    upserts
}

/// Writes a group. Gives how many rows were written: fewer than asked for means that somebody was faster, that a row is
/// hidden from this login, or that an application's trigger has suppressed the write.
pub fn group(work: &TableWork, action: &Action, items: &[usize]) -> Result<u64, SqlError> {
    let items = match action {
        Action::Insert(_) => hidden::without_hidden(work, items)?,
        _ => Cow::Borrowed(items),
    };
    if items.is_empty() {
        return Ok(0);
    }
    let _engine = Engine::writes();
    // For memory's sake. What one row needs of another is not of these kinds.
    let slice = match action {
        // New rows may refer to each other, and deletions meet cascades: those are for one statement to get right.
        Action::Insert(_) if work.table.references.iter().any(|reference| reference.parent == work.table.oid) => {
            usize::MAX
        }
        Action::Delete => usize::MAX,
        // No smaller: each statement may look through the whole table.
        _ => items.len().div_ceil(4).max(5_000),
    };
    items.chunks(slice).try_fold(0, |written, items| {
        Ok(written
            + match action {
                Action::Insert(numbers) => insert(work, numbers, items),
                Action::Update(numbers) => update(work, numbers, None, items),
                Action::Mark(true, _) => mark(work, items),
                Action::Mark(false, numbers) => update(work, numbers, Some(false), items),
                Action::Delete => delete(work, items),
            }?)
    })
}

/// Columns as arrays, their types and names in `u`.
struct Parameters<'a> {
    arrays: Vec<Array<'a>>,
    types: Vec<&'static str>,
    names: Vec<String>,
}

fn field_parameters<'a>(
    work: &'a TableWork,
    numbers: &[u16],
    items: &[usize],
    parameters: &mut Parameters<'a>,
) -> Result<Vec<usize>, SqlError> {
    const NULL: &Value = &Value::Null;
    let mut columns = Vec::new();
    for number in numbers {
        let Some(at) = work.table.columns.iter().position(|column| column.number == *number) else { continue };
        let column_type = &work.table.columns[at].column_type;
        let values = items.iter().map(|item| work.items[*item].merged.fields.get(*number).unwrap_or(NULL));
        parameters.arrays.push(Array::of(column_type, values)?);
        parameters.types.push(column_type.param_type());
        parameters.names.push(format!("c{number}"));
        columns.push(at);
    }
    Ok(columns)
}

fn clocks(work: &TableWork, items: &[usize]) -> Vec<Vec<u8>> {
    items
        .iter()
        .map(|at| match &work.items[*at].merged.after {
            Some(HubState::Live(row)) => row.clocks.to_bytes(),
            Some(HubState::Deleted { row, deletion }) => {
                let mut clocks = row.clocks.clone();
                clocks.set(work.table.deleted_number, *deletion);
                clocks.to_bytes()
            }
            _ => Vec::new(),
        })
        .collect()
}

/// A statement, and what its parameters are.
struct Statement<'a> {
    sql: String,
    arrays: Vec<Array<'a>>,
    /// The last parameter; none where rows go.
    clocks: Vec<Vec<u8>>,
}

impl Statement<'_> {
    fn params(&self) -> usize {
        self.arrays.len() + usize::from(!self.clocks.is_empty())
    }

    fn run(&self) -> Result<u64, SqlError> {
        Ok(run(&self.sql, std::slice::from_ref(self))?.processed)
    }
}

/// Runs SQL that is made of these statements.
fn run(sql: &str, statements: &[Statement<'_>]) -> Result<sql::Rows, SqlError> {
    let clocks: Vec<Vec<Option<&[u8]>>> = statements
        .iter()
        .map(|statement| statement.clocks.iter().map(|bytes| Some(bytes.as_slice())).collect())
        .collect();
    let mut params: Vec<Param<'_>> = Vec::new();
    for (statement, clocks) in statements.iter().zip(&clocks) {
        params.extend(statement.arrays.iter().map(Array::param));
        if !clocks.is_empty() {
            params.push(Param::Blobs(clocks));
        }
    }
    sql::run_set(sql, &params)
}

/// Writes rows of several tables by one statement. Postgres checks foreign keys that cannot wait for the commit at its end, so that rows may
/// come, and go, that refer to each other in a circle. Whether they were all written is for the caller to see.
pub fn at_once(work: &Work, parts: &[(usize, &Action, &[usize])]) -> Result<(), SqlError> {
    let _engine = Engine::writes();
    let mut statements = Vec::with_capacity(parts.len());
    let mut first = 1;
    for (table, action, items) in parts {
        let work = &work.tables[*table];
        let statement = match action {
            Action::Insert(numbers) => insert_statement(work, numbers, &hidden::without_hidden(work, items)?, first)?,
            Action::Update(numbers) => update_statement(work, numbers, None, items, first)?,
            Action::Mark(false, numbers) => update_statement(work, numbers, Some(false), items, first)?,
            Action::Delete => {
                announce(work, items);
                delete_statement(work, items, first)?
            }
            // No foreign key is in its way.
            Action::Mark(true, _) => {
                mark(work, items)?;
                continue;
            }
        };
        first += statement.params();
        statements.push(statement);
    }
    let parts: Vec<String> =
        statements.iter().enumerate().map(|(at, statement)| format!("w{at} AS ({})", statement.sql)).collect();
    if !parts.is_empty() {
        run(&format!("WITH {} SELECT 1", parts.join(", ")), &statements)?;
    }
    Ok(())
}

fn insert(work: &TableWork, numbers: &[u16], items: &[usize]) -> Result<u64, SqlError> {
    insert_statement(work, numbers, items, 1)?.run()
}

fn insert_statement<'a>(
    work: &'a TableWork,
    numbers: &[u16],
    items: &[usize],
    first: usize,
) -> Result<Statement<'a>, SqlError> {
    let table = &work.table;
    let keys: Vec<&Key> = items.iter().map(|at| &work.items[*at].key).collect();
    let mut parameters = Parameters {
        arrays: key_arrays(table, &keys)?,
        types: table.key.iter().map(|at| table.columns[*at].column_type.param_type()).collect(),
        names: (0..table.key.len()).map(|at| format!("k{at}")).collect(),
    };
    let columns = field_parameters(work, numbers, items, &mut parameters)?;
    parameters.types.push("pg_catalog.bytea");
    parameters.names.push("clocks".to_owned());
    let mut names = Vec::new();
    let mut sources = Vec::new();
    for (place, at) in table.key.iter().enumerate() {
        names.push(ident(&table.columns[*at].name));
        sources.push(table.columns[*at].column_type.param_to_sql(&format!("u.k{place}")));
    }
    for at in &columns {
        let column = &table.columns[*at];
        names.push(ident(&column.name));
        sources.push(column.column_type.param_to_sql(&format!("u.c{}", column.number)));
    }
    let sql = format!(
        "INSERT INTO {} ({}, fieldsync_clocks, sync_deleted) OVERRIDING SYSTEM VALUE
         SELECT {}, u.clocks, false FROM {} ORDER BY u.place{}",
        table.qualified,
        names.join(", "),
        sources.join(", "),
        unnest(&parameters.types, &parameters.names, first),
        table.passes_over_taken_keys()
    );
    Ok(Statement { sql, arrays: parameters.arrays, clocks: clocks(work, items) })
}

fn update(work: &TableWork, numbers: &[u16], deleted: Option<bool>, items: &[usize]) -> Result<u64, SqlError> {
    update_statement(work, numbers, deleted, items, 1)?.run()
}

fn update_statement<'a>(
    work: &'a TableWork,
    numbers: &[u16],
    deleted: Option<bool>,
    items: &[usize],
    first: usize,
) -> Result<Statement<'a>, SqlError> {
    let table = &work.table;
    let keys: Vec<&Key> = items.iter().map(|at| &work.items[*at].key).collect();
    let mut parameters = Parameters {
        arrays: key_arrays(table, &keys)?,
        types: table.key.iter().map(|at| table.columns[*at].column_type.param_type()).collect(),
        names: (0..table.key.len()).map(|at| format!("k{at}")).collect(),
    };
    let columns = field_parameters(work, numbers, items, &mut parameters)?;
    parameters.types.push("pg_catalog.bytea");
    parameters.names.push("clocks".to_owned());
    let mut assignments: Vec<String> = columns
        .iter()
        .map(|at| {
            let column = &table.columns[*at];
            format!("{} = {}", ident(&column.name), column.column_type.param_to_sql(&format!("u.c{}", column.number)))
        })
        .collect();
    assignments.push("fieldsync_clocks = u.clocks".to_owned());
    if let Some(deleted) = deleted {
        assignments.push(format!("sync_deleted = {deleted}"));
    }
    let sql = format!(
        "UPDATE ONLY {} AS t SET {} FROM {} WHERE {}",
        table.qualified,
        assignments.join(", "),
        unnest(&parameters.types, &parameters.names, first),
        key_condition(table)
    );
    Ok(Statement { sql, arrays: parameters.arrays, clocks: clocks(work, items) })
}

fn delete(work: &TableWork, items: &[usize]) -> Result<u64, SqlError> {
    announce(work, items);
    delete_rows(work, items)
}

fn announce(work: &TableWork, items: &[usize]) {
    let table = &work.table;
    applying::announce_deletes(items.iter().filter_map(|at| {
        let item = &work.items[*at];
        let Some(HubState::Deleted { deletion, .. }) = &item.merged.after else { return None };
        let mut packed = Vec::new();
        keys::pack(&mut packed, &item.key.0);
        Some(((table.table_id, packed), *deletion))
    }));
}

/// What came of the question which rows may go.
enum Asked {
    /// They are gone: the row trigger is off.
    Gone,
    Failed(SqlError),
}

impl From<SqlError> for Asked {
    fn from(error: SqlError) -> Self {
        Asked::Failed(error)
    }
}

/// Marks rows as deleted: those that a DELETE by this login would take, and then as the table's owner, as for a DELETE on the hub.
fn mark(work: &TableWork, items: &[usize]) -> Result<u64, SqlError> {
    let asked = subtransaction(|| -> Result<Vec<Vec<u8>>, Asked> {
        let question = Question::about(work.table.oid);
        match delete_rows(work, items)? {
            0 => Ok(question.answer()),
            _ => Err(Asked::Gone),
        }
    });
    let may_go: HashSet<Vec<u8>> = match asked {
        Ok(keys) => keys.into_iter().collect(),
        Err(Asked::Gone) => return update(work, &[], Some(true), items),
        Err(Asked::Failed(error)) => return Err(error),
    };
    let allowed = if may_go.len() == items.len() {
        Cow::Borrowed(items)
    } else {
        let packed = |at: &usize| {
            let mut packed = Vec::new();
            keys::pack(&mut packed, &work.items[*at].key.0);
            packed
        };
        Cow::Owned(items.iter().copied().filter(|at| may_go.contains(&packed(at))).collect())
    };
    if allowed.is_empty() {
        return Ok(0);
    }
    let _owner = AsUser::owner_of_oid(work.table.oid);
    update(work, &[], Some(true), &allowed)
}

fn delete_rows(work: &TableWork, items: &[usize]) -> Result<u64, SqlError> {
    delete_statement(work, items, 1)?.run()
}

fn delete_statement<'a>(work: &'a TableWork, items: &[usize], first: usize) -> Result<Statement<'a>, SqlError> {
    let table = &work.table;
    let keys: Vec<&Key> = items.iter().map(|at| &work.items[*at].key).collect();
    let join = key_join(table, first);
    let sql = format!("DELETE FROM ONLY {} AS t USING {} WHERE {}", table.qualified, join.source, join.condition);
    Ok(Statement { sql, arrays: key_arrays(table, &keys)?, clocks: Vec::new() })
}

/// Fires deferred checks now, as the commit would.
pub fn check_deferred() -> Result<(), SqlError> {
    sql::run("SET CONSTRAINTS ALL IMMEDIATE", &[]).map(|_| ())
}
