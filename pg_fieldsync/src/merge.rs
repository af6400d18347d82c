//! Merging a delta: decide, write as sets, and find out who is to blame only if a set fails.
//!
//! Invariants:
//! * An attempt is one internal subtransaction: it stands as a whole or leaves nothing behind.
//! * The final state counts: a row is rejected only if it cannot be written after everything else that can be was, alone
//!   and together with the other rows that wait.
//! * What lies in the moment (deadlocks, locks, resources) is retried or raised, and never becomes a verdict.

use crate::arrays::Array;
use crate::blame;
use crate::catalog::Table;
use crate::catch::SqlError;
use crate::decide::{self, Deciding};
use crate::guards::{subtransaction, AsUser};
use crate::in_use;
use crate::parents;
use crate::separate;
use crate::sql::{self, Cells, Param};
use crate::state::key_join;
use crate::work::Work;
use crate::write::{self, Action, Group};
use fieldsync_core::merge::HubState;
use fieldsync_core::rules::OnReject;
use fieldsync_core::Key;
use std::collections::HashSet;

/// Attempts before a transient error is given to the caller.
const ATTEMPTS_MAX: u32 = 6;
/// Attempts that may end because parents of rows were deleted in the middle.
const RACES_MAX: u32 = 3;
/// Rounds in which rows that others were faster with are decided again.
const ROUNDS_MAX: u32 = 4;

/// Why an attempt ended.
enum Ended {
    /// By an error.
    Sql(SqlError),
    /// Something was learnt (a strict table has to wait, deferred checks fail) and it has to be done again.
    Again,
}

impl From<SqlError> for Ended {
    fn from(error: SqlError) -> Self {
        Ended::Sql(error)
    }
}

/// How carefully rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// As sets; any error ends the attempt.
    Sets,
    /// As sets that are halved where they fail ([`blame`]).
    Blame,
    /// The same, each part with its deferred checks.
    Checked,
}

/// Merges everything. Afterwards each row has its outcomes or its rejection. `patient`: lost races are run again; otherwise
/// the first one is given to the caller, who holds locks that would have to go first.
pub fn merge(work: &mut Work, deciding: &Deciding<'_>, patient: bool) -> Result<(), SqlError> {
    let attempts_max = if patient { ATTEMPTS_MAX } else { 0 };
    let mut mode = Mode::Sets;
    let mut failures = 0;
    let mut races = RACES_MAX;
    loop {
        let ended = match subtransaction(|| attempt(work, deciding, mode, &mut races)) {
            Ok(()) => return Ok(()),
            Err(ended) => ended,
        };
        match ended {
            Ended::Again if mode == Mode::Sets => mode = Mode::Blame,
            Ended::Again => {
                failures += 1;
                if failures > 4 {
                    mode = Mode::Checked;
                }
                if failures > 1000 {
                    return Err(SqlError::new("XX000", "the merge does not come to an end"));
                }
            }
            Ended::Sql(error) if error.is_worth_retrying() && failures < attempts_max => {
                failures += 1;
                wait(failures);
            }
            Ended::Sql(error) if error.is_transient() => return Err(error),
            Ended::Sql(_) if mode == Mode::Sets => {
                // What the transaction owed before this merge is no fault of the delta's.
                probe()?;
                mode = Mode::Blame;
            }
            Ended::Sql(_) if mode == Mode::Blame => mode = Mode::Checked,
            Ended::Sql(error) => return Err(error),
        }
    }
}

/// A moment's rest after a lost race, longer each time; cancelling the query ends it.
fn wait(failures: u32) {
    // SAFETY: both are ordinary calls of a backend.
    unsafe {
        let own = i64::from(pgrx::pg_sys::MyProcPid) * 7 % 10;
        pgrx::pg_sys::pg_usleep((5_000 << failures.min(6)) + own * 1_000);
    }
    pgrx::check_for_interrupts!();
}

fn attempt(work: &mut Work, deciding: &Deciding<'_>, mode: Mode, races: &mut u32) -> Result<(), Ended> {
    for table in &mut work.tables {
        decide::table(table, None, deciding)?;
    }
    park_strict(work)?;
    separate::park_dependents(work, deciding)?;
    park_strict(work)?;
    in_use::keep(work, deciding)?;
    parents::keep(work, deciding)?;
    let groups = write::groups(work);
    let without_parent = match mode {
        Mode::Sets => {
            for group in &groups {
                write_group(work, group, deciding)?;
            }
            Vec::new()
        }
        Mode::Blame => blame::blame(work, &groups, deciding, false)?,
        Mode::Checked => blame::blame(work, &groups, deciding, true)?,
    };
    // A parent that was there when it was looked for, and is deleted now, is a matter of its table's rule.
    if *races > 0 && parents::went_meanwhile(work, &without_parent)? {
        *races -= 1;
        return Err(Ended::Again);
    }
    park_strict(work)?;
    // Whatever the tables: a trigger of the application's, or a cascade, may have written others with deferred checks.
    if mode != Mode::Checked {
        probe()?;
    }
    Ok(())
}

/// The error of rows that wait because of another row of their table.
pub fn parked_by_strict(table: &Table) -> SqlError {
    SqlError {
        table: Some(table.name.clone()),
        ..SqlError::new(
            "23000",
            format!(
                "parked with the other changes of table \"{}\", one of which was rejected: its rule is strict",
                table.name
            ),
        )
    }
}

/// A strict table with a rejected row parks all of them: the attempt is repeated without them.
fn park_strict(work: &mut Work) -> Result<(), Ended> {
    let mut again = false;
    for table in &mut work.tables {
        if table.rules.on_reject != OnReject::Strict {
            continue;
        }
        let rejected = table.items.iter().any(|item| item.merged.rejected.is_some() && !item.changes.is_empty());
        let all = table.items.iter().all(|item| item.merged.rejected.is_some() || item.changes.is_empty());
        if !rejected || all {
            continue;
        }
        for item in &mut table.items {
            if let (Some(error), false) = (&item.merged.rejected, item.merged.parked_by_strict) {
                item.refused.get_or_insert(error.clone());
            }
            item.merged.parked_by_strict = true;
        }
        again = true;
    }
    if again {
        Err(Ended::Again)
    } else {
        Ok(())
    }
}

/// Writes a group, and decides again about rows that somebody else was faster with.
pub fn write_group(work: &mut Work, group: &Group, deciding: &Deciding<'_>) -> Result<(), SqlError> {
    let mut pending = vec![(group.action.clone(), group.items.clone())];
    for _ in 0..ROUNDS_MAX {
        let mut missed = Vec::new();
        for (action, items) in pending.drain(..) {
            let written = write::group(&work.tables[group.table], &action, &items)?;
            if written < items.len() as u64 {
                missed.extend(not_written(work, group.table, &action, &items, deciding)?);
            }
        }
        if missed.is_empty() {
            return Ok(());
        }
        decide::table(&mut work.tables[group.table], Some(&missed), deciding)?;
        let table = &mut work.tables[group.table];
        for at in missed {
            let action = write::action(&table.table, &table.items[at]);
            match action {
                // Still not to be seen (or still not written): row-level security hides it, or a trigger has eaten it.
                Some(action) if action == group.action => {
                    let row_id = table.table.row_id(&table.items[at].key);
                    table.items[at].merged.rejected = Some(Box::new(not_taken(&table.table, &row_id)));
                }
                Some(action) => pending.push((action, vec![at])),
                None => {}
            }
        }
    }
    Err(SqlError::new("40001", "other sessions keep changing the same rows"))
}

/// The error of a row that a statement passed over.
pub fn not_taken(table: &Table, row_id: &str) -> SqlError {
    SqlError {
        table: Some(table.name.clone()),
        ..SqlError::new(
            "42501",
            format!(
                "row {row_id} of table \"{}\" was not written: this login may not see or change it, or a trigger has \
                 suppressed the write",
                table.name
            ),
        )
    }
}

/// Items of a group whose rows do not bear this transaction's mark, or no other clocks than before: this transaction may have written
/// them earlier.
pub fn not_written(
    work: &Work,
    table: usize,
    action: &Action,
    items: &[usize],
    deciding: &Deciding<'_>,
) -> Result<Vec<usize>, SqlError> {
    let work = &work.tables[table];
    let keys: Vec<&Key> = items.iter().map(|at| &work.items[*at].key).collect();
    let arrays = crate::state::key_arrays(&work.table, &keys)?;
    let mut params: Vec<Param<'_>> = arrays.iter().map(Array::param).collect();
    params.push(Param::Int(deciding.version as i64));
    let join = key_join(&work.table, 1);
    let condition = match action {
        // A deleted row is gone or, by a trigger of the site's own, marked.
        Action::Delete => "t.sync_deleted IS NOT TRUE".to_owned(),
        _ => format!("t.sync_version OPERATOR(pg_catalog.=) ${}", params.len()),
    };
    if *action == Action::Delete {
        params.pop();
    }
    // A policy may hide what is marked by now.
    let _owner = matches!(action, Action::Mark(true, _)).then(|| AsUser::owner_of_oid(work.table.oid));
    let rows = sql::run_set(
        &format!(
            "SELECT u.place, t.fieldsync_clocks FROM ONLY {} AS t JOIN {} ON {} WHERE {condition}",
            work.table.qualified, join.source, join.condition
        ),
        &params,
    )?;
    let mut found = HashSet::new();
    for row in &rows.rows {
        let place = row.int(0) as usize - 1;
        let before = work.items[items[place]].merged.before.as_ref();
        let as_before = match (before, action) {
            (Some(HubState::Live(row)), Action::Update(_) | Action::Mark(..))
            | (Some(HubState::Deleted { row, .. }), Action::Mark(..)) => Some(&row.clocks),
            _ => None,
        };
        if as_before != Some(&work.table.clocks(row.bytes(1))?) {
            found.insert(place);
        }
    }
    Ok(items
        .iter()
        .enumerate()
        .filter(|(place, _)| found.contains(place) == (*action == Action::Delete))
        .map(|(_, at)| *at)
        .collect())
}

/// Fires deferred checks, and takes the firing back: the state of constraints stays the session's own.
pub fn probe() -> Result<(), SqlError> {
    enum Fired {
        Well,
        Badly(SqlError),
    }
    impl From<SqlError> for Fired {
        fn from(error: SqlError) -> Self {
            Fired::Badly(error)
        }
    }
    let fired = subtransaction(|| -> Result<(), Fired> {
        write::check_deferred()?;
        Err(Fired::Well)
    });
    match fired {
        Ok(()) | Err(Fired::Well) => Ok(()),
        Err(Fired::Badly(error)) => Err(error),
    }
}
