//! What foreign keys do when the row that they refer to is deleted, where a deletion only marks it.
//!
//! Invariant: a DELETE by an application means what its foreign keys say, whether the table keeps its deleted rows or not. What refers to
//! the row goes too (ON DELETE CASCADE), refers to something else (SET NULL, SET DEFAULT), or the DELETE is refused, at the end of the
//! statement or of the transaction, as Postgres does. Rows of tracked tables count: what devices have and could not show. And a row whose
//! parent is gone for good goes for good: as a marked one it would break its foreign key.
//!
//! `UPDATE … SET sync_deleted = true` marks that one row: so do sites that have always marked by themselves. What the engine marks, it
//! has compared with its users before ([`crate::in_use`]).

use crate::applying;
use crate::catalog::{self, ForeignKey, OnDelete, Table};
use crate::catch::SqlError;
use crate::error::report_sql;
use crate::guards::{AsUser, LatestSnapshot};
use crate::referring::Referring;
use crate::sql::{self, ident, Cells, Param};
use crate::state;
use crate::trigger::Tracked;
use crate::tuple::Row;
use crate::types::Reader;
use fieldsync_core::Key;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Foreign keys that refer to one table: each with its own table, and its place there.
type Users = Rc<Vec<(Rc<Table>, usize)>>;

/// Rows that were marked although something referred to them, under a foreign key that refuses that: where it is asked again once the
/// statement or the transaction is over. By parent table, child table and the key's name: keys of the rows, and what is referred to.
type Pending = HashMap<(pg_sys::Oid, pg_sys::Oid, String), Vec<(Key, Key)>>;

thread_local! {
    /// For the tables' descriptions of one generation.
    static USERS: RefCell<(u64, HashMap<pg_sys::Oid, Users>)> = RefCell::new((0, HashMap::new()));
    static PENDING: RefCell<Pending> = RefCell::new(Pending::new());
}

fn users(parent: pg_sys::Oid) -> Result<Users, SqlError> {
    let generation = catalog::generation();
    let known = USERS.with_borrow(|(at, known)| known.get(&parent).filter(|_| *at == generation).cloned());
    if let Some(known) = known {
        return Ok(known);
    }
    let mut found = Vec::new();
    for (_, relation, _, _) in catalog::enabled()? {
        let Some(child) = catalog::table(relation)? else { continue };
        let places: Vec<usize> =
            (0..child.references.len()).filter(|at| child.references[*at].parent == parent).collect();
        found.extend(places.into_iter().map(|at| (Rc::clone(&child), at)));
    }
    let found = Rc::new(found);
    USERS.with_borrow_mut(|(at, known)| {
        if *at != generation {
            known.clear();
            *at = generation;
        }
        known.insert(parent, Rc::clone(&found));
    });
    Ok(found)
}

/// What a row has in some columns. `None`: a NULL among them, to which nothing refers.
///
/// # Safety
/// The row is of the relation.
unsafe fn values_of(relation: pg_sys::Relation, row: &Row, columns: &[u16]) -> Option<Key> {
    // SAFETY: as promised; column numbers are attribute numbers.
    let attributes = unsafe { crate::tuple::attributes((*relation).rd_att) };
    let value = |number: &u16| {
        let at = usize::from(*number) - 1;
        // SAFETY: the reader is made for the attribute's type.
        (!row.nulls[at]).then(|| unsafe { Reader::new(attributes[at].atttypid).read(row.values[at]) })
    };
    columns.iter().map(value).collect::<Option<Vec<_>>>().map(Key)
}

/// After a DELETE has marked a row: what its foreign keys do.
///
/// # Safety
/// The row is of the relation.
pub unsafe fn follow(relation: pg_sys::Relation, row: &Row, tracked: &Tracked) {
    // As foreign keys do: where rows arrive by replication, what follows from them arrives as well.
    // SAFETY: a plain global.
    if unsafe { pg_sys::SessionReplicationRole } == pg_sys::SESSION_REPLICATION_ROLE_REPLICA as i32 {
        return;
    }
    let followed = || -> Result<(), SqlError> {
        let Some(parent) = catalog::table(tracked.relation)? else { return Ok(()) };
        for (child, at) in users(parent.oid)?.iter() {
            let reference = &child.references[*at];
            // SAFETY: as promised.
            if let Some(values) = unsafe { values_of(relation, row, &reference.parent_columns) } {
                act(&parent, child, reference, tracked.key(row), values)?;
            }
        }
        Ok(())
    };
    if let Err(error) = followed() {
        report_sql(&error);
    }
}

/// What one foreign key does.
fn act(parent: &Table, child: &Table, reference: &ForeignKey, key: Key, values: Key) -> Result<(), SqlError> {
    let set = |columns: &[u16], to: &str| {
        let names = columns.iter().filter_map(|number| child.by_number(*number));
        let parts: Vec<String> = names.map(|column| format!("{} = {to}", ident(&column.name))).collect();
        format!("UPDATE ONLY {} AS t SET {} FROM", child.qualified, parts.join(", "))
    };
    let verb = match &reference.on_delete {
        OnDelete::Refuse => {
            if !referring(parent, child, reference, std::slice::from_ref(&values))?.is_empty() {
                let place = (parent.oid, child.oid, reference.name.clone());
                PENDING.with_borrow_mut(|pending| pending.entry(place).or_default().push((key, values)));
            }
            return Ok(());
        }
        OnDelete::Cascade => format!("DELETE FROM ONLY {} AS t USING", child.qualified),
        OnDelete::SetNull(columns) => set(columns, "NULL"),
        OnDelete::SetDefault(columns) => set(columns, "DEFAULT"),
    };
    let values = [values];
    let Some(join) = Referring::to(parent, child, reference, &values)? else { return Ok(()) };
    {
        let _owner = AsUser::owner_of_oid(child.oid);
        let rest = format!("{} WHERE {} AND t.sync_deleted IS NOT TRUE", join.source, join.condition);
        sql::run(&format!("{verb} {rest}"), &join.params())?;
    }
    if catalog::has_own_snapshot() && !referring(parent, child, reference, &values)?.is_empty() {
        // Rows that this transaction's snapshot does not show: a foreign key's own action ends so, too.
        return Err(SqlError::new("40001", "could not serialize access due to concurrent update"));
    }
    Ok(())
}

/// Which of these values rows that are there refer to: their places.
fn referring(parent: &Table, child: &Table, reference: &ForeignKey, values: &[Key]) -> Result<Vec<usize>, SqlError> {
    let Some(join) = Referring::to(parent, child, reference, values)? else { return Ok(Vec::new()) };
    // Like the foreign key itself: whether this login may see the rows or not, and whether its snapshot shows them or not.
    let _owner = AsUser::owner_of_oid(child.oid);
    let _now = LatestSnapshot::take();
    let sql = format!(
        "SELECT DISTINCT u.place FROM ONLY {} AS t JOIN {} ON {} WHERE t.sync_deleted IS NOT TRUE",
        child.qualified, join.source, join.condition
    );
    let rows = sql::read_set(&sql, &join.params())?;
    Ok(rows.rows.iter().filter_map(|row| usize::try_from(row.int(0) - 1).ok()).collect())
}

/// Which of these rows are still marked: their places.
fn marked(parent: &Table, keys: &[&Key]) -> Result<Vec<usize>, SqlError> {
    let arrays = state::key_arrays(parent, keys)?;
    let join = state::key_join(parent, 1);
    let _owner = AsUser::owner_of_oid(parent.oid);
    let _now = LatestSnapshot::take();
    let sql = format!(
        "SELECT u.place FROM ONLY {} AS t JOIN {} ON {} WHERE t.sync_deleted",
        parent.qualified, join.source, join.condition
    );
    let params: Vec<_> = arrays.iter().map(crate::arrays::Array::param).collect();
    let rows = sql::read_set(&sql, &params)?;
    Ok(rows.rows.iter().filter_map(|row| usize::try_from(row.int(0) - 1).ok()).collect())
}

/// What stands in the way of deletions that were only marks: a foreign key's refusal.
pub struct InUse {
    /// The schema and the name of the table that refers.
    pub by: (String, String),
    /// The foreign key's name.
    pub constraint: String,
    /// In the words of Postgres.
    pub message: String,
    /// What is referred to.
    pub detail: String,
}

/// Asks the foreign keys again whose time has come: at the end of a statement, or of the transaction.
pub fn still_in_use(at_commit: bool) -> Result<Option<InUse>, SqlError> {
    for ((parent, child, name), rows) in PENDING.take() {
        let (Some(parent), Some(child)) = (catalog::table(parent)?, catalog::table(child)?) else { continue };
        let Some(reference) = child.references.iter().find(|reference| reference.name == name) else { continue };
        // While the engine writes, all at once: what would be refused at its commit would hold up the device.
        if !at_commit && reference.deferrable && !applying::is_writing() {
            PENDING.with_borrow_mut(|pending| pending.insert((parent.oid, child.oid, name), rows));
            continue;
        }
        let still = marked(&parent, &rows.iter().map(|(key, _)| key).collect::<Vec<_>>())?;
        let values: Vec<Key> = still.iter().filter_map(|at| rows.get(*at)).map(|(_, values)| values.clone()).collect();
        if let Some(first) = referring(&parent, &child, reference, &values)?.first() {
            return Ok(Some(in_use(&parent, &child, reference, &values[*first])));
        }
    }
    Ok(None)
}

fn in_use(parent: &Table, child: &Table, reference: &ForeignKey, values: &Key) -> InUse {
    let columns = reference.parent_columns.iter().filter_map(|number| parent.by_number(*number));
    let columns: Vec<&str> = columns.map(|column| column.name.as_str()).collect();
    let shown: Vec<String> = values.0.iter().map(|value| value.to_text()).collect();
    InUse {
        by: (child.schema.clone(), child.name.clone()),
        constraint: reference.name.clone(),
        message: format!(
            "update or delete on table \"{}\" violates foreign key constraint \"{}\" on table \"{}\"",
            parent.name, reference.name, child.name
        ),
        detail: format!(
            "Key ({})=({}) is still referenced from table \"{}\".",
            columns.join(", "),
            shown.join(", "),
            child.name
        ),
    }
}

/// The transaction is over, whatever way it went.
pub fn forget() {
    PENDING.with_borrow_mut(HashMap::clear);
}

/// Whether a row that is deleted by a foreign key's action refers to one that is gone for good.
///
/// # Safety
/// The row is of the relation.
pub unsafe fn lost_its_parent(relation: pg_sys::Relation, row: &Row, tracked: &Tracked) -> Result<bool, SqlError> {
    if !applying::is_nested() {
        return Ok(false);
    }
    let Some(table) = catalog::table(tracked.relation)? else { return Ok(false) };
    // SAFETY: as promised; column numbers are attribute numbers.
    let attributes = unsafe { crate::tuple::attributes((*relation).rd_att) };
    for reference in table.references.iter().filter(|reference| reference.on_delete == OnDelete::Cascade) {
        let places: Vec<usize> = reference.child_columns.iter().map(|number| usize::from(*number) - 1).collect();
        if places.iter().any(|at| row.nulls[*at]) {
            continue;
        }
        let values: Vec<Param<'_>> =
            places.iter().map(|at| Param::Datum(attributes[*at].atttypid, row.values[*at])).collect();
        let _owner = AsUser::owner_of_oid(reference.parent);
        let _now = LatestSnapshot::take();
        if !sql::read(&reference.parent_is_there, &values)?.rows.first().is_some_and(|found| found.truth(0)) {
            return Ok(true);
        }
    }
    Ok(false)
}
