//! Who is to blame when a delta cannot be written as sets.
//!
//! What is written is halved until what fails stands alone, parents first: so a bad row takes with it what depends on it, and
//! nothing else.
//!
//! Invariants:
//! * Rows that refer to each other in a circle stand or fall together; all others are tried by themselves before they are
//!   rejected.
//! * The order inside a delta does not matter: a row is rejected only if it fails after everything else that can be written was,
//!   alone and together with the rows that it is entangled with (it wants a unique value that another one still has, or refers to
//!   it).
//! * Nothing goes that would take along, by the hub's own ON DELETE, a row that is to be written and waits: it would then be merged with
//!   its own deletion.

use crate::catch::SqlError;
use crate::decide::Deciding;
use crate::guards::subtransaction;
use crate::in_use;
use crate::merge::{not_taken, not_written, probe, write_group};
use crate::parents;
use crate::shuffle;
use crate::work::Work;
use crate::write::{self, Action, Group};
use fieldsync_core::merge::HubState;
use fieldsync_core::order::circles;
use fieldsync_core::{Key, Value};
use pgrx::pg_sys;
use std::collections::{BTreeMap, HashMap};

/// Attempts to move unique values out of the way: a failed one names a further constraint, or asks for other values to wait under.
const WAYS_MAX: usize = 6;

/// A row that is written: which group it is of, and its place in the table's items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Row {
    group: usize,
    item: usize,
}

/// Rows that were tried together, and why they failed.
struct Failure {
    rows: Vec<Row>,
    error: SqlError,
}

/// Failures by what their rows refer to: table and columns, values.
type Held = HashMap<(pg_sys::Oid, Vec<u16>), HashMap<Key, Vec<usize>>>;

/// Everything that is to be written.
struct Blame<'a> {
    groups: &'a [Group],
    deciding: &'a Deciding<'a>,
    /// Whether deferred checks are made with each write.
    checked: bool,
}

/// Writes what can be written; what cannot is rejected. Gives the rejected rows whose foreign keys were violated: places of tables, and
/// of items.
pub fn blame(
    work: &mut Work,
    groups: &[Group],
    deciding: &Deciding<'_>,
    checked: bool,
) -> Result<Vec<(usize, usize)>, SqlError> {
    let blame = Blame { groups, deciding, checked };
    let mut failed = Vec::new();
    let units = blame.units(work);
    let (stay, go) = units.split_at(units.partition_point(|unit| !blame.goes(unit[0])));
    blame.halve(work, stay, &mut failed)?;
    let held = blame.held(work, &failed);
    let (held, free): (Vec<_>, Vec<_>) =
        go.iter().cloned().partition(|unit| unit.iter().any(|row| !blame.holders(work, *row, &held).is_empty()));
    blame.halve(work, &free, &mut failed)?;
    failed.extend(held.into_iter().map(|rows| Failure { error: blame.still_in_use(work, rows[0]), rows }));
    while !failed.is_empty() {
        let before = failed.len();
        failed = blame.together(work, failed)?;
        failed = blame.alone(work, failed)?;
        if failed.len() == before {
            break;
        }
    }
    let mut without_parent = Vec::new();
    for failure in failed {
        for row in failure.rows {
            let table = groups[row.group].table;
            work.tables[table].items[row.item].merged.rejected = Some(Box::new(failure.error.clone()));
            if failure.error.is_foreign_key() {
                without_parent.push((table, row.item));
            }
        }
    }
    Ok(without_parent)
}

impl Blame<'_> {
    fn table(&self, row: Row) -> usize {
        self.groups[row.group].table
    }

    fn goes(&self, row: Row) -> bool {
        self.groups[row.group].action == Action::Delete
    }

    /// What is tried together, in an order in which each can succeed by itself: parents first, and at the end what goes,
    /// children first.
    fn units(&self, work: &Work) -> Vec<Vec<Row>> {
        let rows: Vec<Row> = self
            .groups
            .iter()
            .enumerate()
            .flat_map(|(group, rows)| rows.items.iter().map(move |item| Row { group, item: *item }))
            .collect();
        let edges = self.references(work, &rows, |one, other| self.goes(one) == self.goes(other));
        let (mut going, mut units): (Vec<_>, Vec<_>) = circles(rows.len(), &edges)
            .into_iter()
            .map(|circle| circle.into_iter().map(|at| rows[at]).collect::<Vec<Row>>())
            .partition(|unit| self.goes(unit[0]));
        going.reverse();
        units.append(&mut going);
        units
    }

    /// Which rows refer to which, among some.
    fn references(&self, work: &Work, rows: &[Row], counts: impl Fn(Row, Row) -> bool) -> Vec<(usize, usize)> {
        if rows.iter().all(|row| work.tables[self.table(*row)].table.references.is_empty()) {
            return Vec::new();
        }
        let key = |row: Row| (self.table(row), &work.tables[self.table(row)].items[row.item].key);
        let places: HashMap<(usize, &Key), usize> = rows.iter().enumerate().map(|(at, row)| (key(*row), at)).collect();
        let mut edges = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            for (table, parent) in parents::referred_to(work, self.table(*row), row.item) {
                if let Some(parent) = places.get(&(table, &parent)).filter(|parent| counts(*row, rows[**parent])) {
                    edges.push((at, *parent));
                }
            }
        }
        edges
    }

    /// What failed rows refer to on the hub by references that act when it goes: which failures, by the columns and the values.
    fn held(&self, work: &Work, failed: &[Failure]) -> Held {
        let mut held = Held::new();
        for (at, row) in
            failed.iter().enumerate().flat_map(|(at, failure)| failure.rows.iter().map(move |row| (at, *row)))
        {
            let (table, item) = (&work.tables[self.table(row)].table, &work.tables[self.table(row)].items[row.item]);
            if self.goes(row) || !matches!(item.merged.before, Some(HubState::Live(_))) {
                continue;
            }
            for reference in table.references.iter().filter(|reference| reference.acts_on_delete()) {
                let values =
                    reference.child_columns.iter().map(|number| in_use::value_before(table, item, *number).cloned());
                let Some(values) = values.collect::<Option<Vec<Value>>>() else { continue };
                if !values.iter().any(Value::is_null) {
                    let parents = held.entry((reference.parent, reference.parent_columns.clone())).or_default();
                    parents.entry(Key(values)).or_default().push(at);
                }
            }
        }
        held
    }

    /// Failures whose rows a row would take along if it went.
    fn holders(&self, work: &Work, row: Row, held: &Held) -> Vec<usize> {
        let (table, item) = (&work.tables[self.table(row)].table, &work.tables[self.table(row)].items[row.item]);
        let mut found = Vec::new();
        if !self.goes(row) {
            return found;
        }
        for ((_, columns), parents) in held.iter().filter(|((parent, _), _)| *parent == table.oid) {
            let values = columns.iter().map(|number| in_use::value_before(table, item, *number).cloned());
            let holders = values.collect::<Option<Vec<Value>>>().and_then(|values| parents.get(&Key(values)));
            found.extend(holders.into_iter().flatten().copied());
        }
        found
    }

    /// Why a row stays that would take others along.
    fn still_in_use(&self, work: &Work, row: Row) -> SqlError {
        let (table, item) = (&work.tables[self.table(row)].table, &work.tables[self.table(row)].items[row.item]);
        let what = format!(
            "row {} of table \"{}\" is still used by rows whose own changes could not be written",
            table.row_id(&item.key),
            table.name
        );
        SqlError { table: Some(table.name.clone()), ..SqlError::new("23503", what) }
    }

    /// Some rows, by the groups that they are of.
    fn by_group(rows: impl Iterator<Item = Row>) -> BTreeMap<usize, Vec<usize>> {
        let mut by_group: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for row in rows {
            by_group.entry(row.group).or_default().push(row.item);
        }
        by_group.values_mut().for_each(|items| items.sort_unstable());
        by_group
    }

    /// Writes rows, in the order of their groups.
    fn write(&self, work: &mut Work, rows: impl Iterator<Item = Row>) -> Result<(), SqlError> {
        for (group, items) in Self::by_group(rows) {
            let Group { table, action, .. } = &self.groups[group];
            write_group(work, &Group { table: *table, action: action.clone(), items }, self.deciding)?;
        }
        if self.checked {
            probe()?;
        }
        Ok(())
    }

    /// Writes rows that stand or fall together: where foreign keys cannot wait for the commit, and no order of groups is right, by one
    /// statement.
    fn write_unit(&self, work: &mut Work, rows: &[Row]) -> Result<(), SqlError> {
        match subtransaction(|| self.write(work, rows.iter().copied())) {
            Err(error) if rows.len() > 1 && error.is_foreign_key() => {
                match subtransaction(|| self.write_at_once(work, rows)) {
                    Err(other) if !other.is_transient() => Err(error),
                    written => written,
                }
            }
            written => written,
        }
    }

    fn write_at_once(&self, work: &Work, rows: &[Row]) -> Result<(), SqlError> {
        let by_group = Self::by_group(rows.iter().copied());
        let parts: Vec<(usize, &Action, &[usize])> = by_group
            .iter()
            .map(|(group, items)| (self.groups[*group].table, &self.groups[*group].action, items.as_slice()))
            .collect();
        write::at_once(work, &parts)?;
        for (table, action, items) in parts {
            if let Some(at) = not_written(work, table, action, items, self.deciding)?.first() {
                let table = &work.tables[table];
                return Err(not_taken(&table.table, &table.table.row_id(&table.items[*at].key)));
            }
        }
        if self.checked {
            probe()?;
        }
        Ok(())
    }

    /// Halves a list of units until the bad ones stand alone.
    fn halve(&self, work: &mut Work, units: &[Vec<Row>], failed: &mut Vec<Failure>) -> Result<(), SqlError> {
        if units.is_empty() {
            return Ok(());
        }
        let written = match units {
            [unit] => self.write_unit(work, unit),
            _ => subtransaction(|| self.write(work, units.iter().flatten().copied())),
        };
        match written {
            Ok(()) => return Ok(()),
            Err(error) if error.is_transient() => return Err(error),
            Err(error) if units.len() == 1 => {
                failed.push(Failure { rows: units[0].clone(), error });
                return Ok(());
            }
            Err(_) => {}
        }
        let (first, second) = units.split_at(units.len().div_ceil(2));
        self.halve(work, first, failed)?;
        self.halve(work, second, failed)
    }

    /// Tries each by itself once more, after everything else.
    fn alone(&self, work: &mut Work, failed: Vec<Failure>) -> Result<Vec<Failure>, SqlError> {
        let mut still = Vec::new();
        let held = self.held(work, &failed);
        for failure in failed {
            // The next round looks again.
            if failure.rows.iter().any(|row| !self.holders(work, *row, &held).is_empty()) {
                still.push(failure);
                continue;
            }
            match self.write_unit(work, &failure.rows) {
                Ok(()) => {}
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => still.push(Failure { error, ..failure }),
            }
        }
        Ok(still)
    }

    /// Rows that only succeed together: those that move through each other's unique values, and what refers to them.
    fn together(&self, work: &mut Work, failed: Vec<Failure>) -> Result<Vec<Failure>, SqlError> {
        let edges = self.entanglements(work, &failed)?;
        let (knots, mut still) = knots(failed, &edges);
        for (mut knot, edges) in knots {
            if self.untie(work, &knot)? {
                continue;
            }
            // Without those that are bad by themselves, and without what depends on them.
            let mut bad: Vec<bool> = knot
                .iter()
                .map(|failure| !failure.error.is_foreign_key() && failure.error.sqlstate != "23505")
                .collect();
            if bad.contains(&true) {
                let mut waiting: HashMap<usize, Vec<usize>> = HashMap::new();
                edges.iter().for_each(|(one, other)| waiting.entry(*other).or_default().push(*one));
                let mut spoilt: Vec<usize> = (0..bad.len()).filter(|at| bad[*at]).collect();
                while let Some(at) = spoilt.pop() {
                    for one in waiting.remove(&at).unwrap_or_default() {
                        if !std::mem::replace(&mut bad[one], true) {
                            spoilt.push(one);
                        }
                    }
                }
                let mut bad = bad.into_iter();
                let (dropped, rest): (Vec<_>, Vec<_>) = knot.into_iter().partition(|_| bad.next() == Some(true));
                still.extend(dropped);
                if rest.len() > 1 && self.untie(work, &rest)? {
                    continue;
                }
                knot = rest;
            }
            still.extend(knot);
        }
        Ok(still)
    }

    /// Which failure waits for which: pairs of places.
    fn entanglements(&self, work: &Work, failed: &[Failure]) -> Result<Vec<(usize, usize)>, SqlError> {
        let of: Vec<(usize, Row)> = failed
            .iter()
            .enumerate()
            .flat_map(|(at, failure)| failure.rows.iter().map(move |row| (at, *row)))
            .collect();
        let rows: Vec<Row> = of.iter().map(|(_, row)| *row).collect();
        let references = self.references(work, &rows, |_, _| true);
        let mut edges: Vec<(usize, usize)> =
            references.into_iter().map(|(child, parent)| (of[child].0, of[parent].0)).collect();
        let held = self.held(work, failed);
        for (at, row) in &of {
            edges.extend(self.holders(work, *row, &held).into_iter().map(|holder| (*at, holder)));
        }
        for (table, constraint) in self.constraints(failed) {
            let numbers = shuffle::columns(work, table, &constraint)?;
            let mut owners: HashMap<Key, Vec<usize>> = HashMap::new();
            for (at, row) in of.iter().filter(|(_, row)| self.table(*row) == table) {
                if let Some(has) = shuffle::values_before(work, table, row.item, &numbers) {
                    owners.entry(has).or_default().push(*at);
                }
            }
            for (at, row) in of.iter().filter(|(_, row)| self.table(*row) == table) {
                let wants = shuffle::values_after(work, table, row.item, &numbers);
                for owner in wants.and_then(|wants| owners.get(&wants)).into_iter().flatten() {
                    edges.push((*at, *owner));
                }
            }
        }
        edges.retain(|(one, other)| one != other);
        Ok(edges)
    }

    /// The unique constraints that failures name, with their tables.
    fn constraints(&self, failed: &[Failure]) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for failure in failed {
            let named =
                failure.rows.iter().map(|row| self.table(*row)).filter_map(|table| violated(table, &failure.error));
            for name in named {
                if !found.contains(&name) {
                    found.push(name);
                }
            }
        }
        found
    }

    /// Writes entangled rows as a whole. False: they fail together, too.
    fn untie(&self, work: &mut Work, knot: &[Failure]) -> Result<bool, SqlError> {
        let rows: Vec<(usize, usize)> =
            knot.iter().flat_map(|failure| &failure.rows).map(|row| (self.table(*row), row.item)).collect();
        let mut constraints = self.constraints(knot);
        for way in 0..WAYS_MAX {
            let written = subtransaction(|| {
                for (table, constraint) in &constraints {
                    shuffle::clear_the_way(work, *table, constraint, &rows, way)?;
                }
                self.write(work, knot.iter().flat_map(|failure| &failure.rows).copied())
            });
            match written {
                Ok(()) => return Ok(true),
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => {
                    let mut tables: Vec<usize> = rows.iter().map(|(table, _)| *table).collect();
                    tables.dedup();
                    let named: Vec<_> = tables.into_iter().filter_map(|table| violated(table, &error)).collect();
                    constraints.extend(named);
                    constraints.sort_unstable();
                    constraints.dedup();
                    if constraints.is_empty() {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(false)
    }
}

/// The unique constraint that an error is about, if it may be one of this table's.
fn violated(table: usize, error: &SqlError) -> Option<(usize, String)> {
    error.constraint.clone().filter(|_| error.sqlstate == "23505").map(|constraint| (table, constraint))
}

/// Failures that are entangled, and for each the ones it waits for.
type Knot = (Vec<Failure>, Vec<(usize, usize)>);

/// Parts failures into those that are entangled and those that are not.
fn knots(failed: Vec<Failure>, edges: &[(usize, usize)]) -> (Vec<Knot>, Vec<Failure>) {
    let mut root: Vec<usize> = (0..failed.len()).collect();
    let find = |root: &mut Vec<usize>, mut at: usize| {
        while root[at] != at {
            root[at] = root[root[at]];
            at = root[at];
        }
        at
    };
    for (one, other) in edges {
        let (one, other) = (find(&mut root, *one), find(&mut root, *other));
        root[one.max(other)] = one.min(other);
    }
    let mut by_root: BTreeMap<usize, Vec<Failure>> = BTreeMap::new();
    let mut places = vec![0; failed.len()];
    for (at, failure) in failed.into_iter().enumerate() {
        let knot = by_root.entry(find(&mut root, at)).or_default();
        places[at] = knot.len();
        knot.push(failure);
    }
    let mut edges_by_root: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for (one, other) in edges {
        edges_by_root.entry(find(&mut root, *one)).or_default().push((places[*one], places[*other]));
    }
    let (mut knots, mut single) = (Vec::new(), Vec::new());
    for (root, failures) in by_root {
        if failures.len() == 1 {
            single.extend(failures);
        } else {
            knots.push((failures, edges_by_root.remove(&root).unwrap_or_default()));
        }
    }
    (knots, single)
}
