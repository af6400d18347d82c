//! What the log holds for the hub, written change by change.
//!
//! Most rows have one entry in what is pending: it is the change, and needs nothing of the others. So the log is read twice:
//! first only to number the rows and find those with several entries, which are read whole and folded; then, table by table,
//! to write. What is in memory at a time is a block of changes, and the folded ones.
//!
//! Invariant: the changes are those that [`coalesce`] makes of everything pending, in the order of their clocks.

use crate::conflicts::{self, Parked};
use crate::error::Result;
use crate::log::{self, LogTable, Position, Raw, RowReader, Scan};
use fieldsync_core::coalesce::{coalesce, Folded, Logged};
use fieldsync_core::delta::{Change, FieldChange, Op};
use fieldsync_core::wire::{DeltaWriter, Shape};
use fieldsync_core::{Hlc, Key, Value};
use rusqlite::Connection;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::iter::Peekable;
use std::vec::IntoIter;

/// Where a table's entries are.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// The position before the first,
    before: Position,
    /// and the place of the last.
    last: i64,
}

/// What is pending, without its values.
pub(super) struct Survey {
    /// The position of the last entry.
    pub end: Position,
    /// Logged changes.
    pub count: i64,
    /// The position of the change with the number that was asked for.
    pub cut: Option<Position>,
    /// The clock of the first entry.
    pub first: Option<Hlc>,
    /// Tables with rows that cannot be named, because a part of their key is NULL.
    pub unnamed: Vec<i64>,
    /// Rows with changes up to the place that was asked for.
    pub offered: Vec<(i64, Key)>,
    parts: BTreeMap<i64, Part>,
    /// Numbers of rows with several entries, and of those whose rejected change goes along; ascending.
    several: Vec<u64>,
    parked: Parked,
}

impl Survey {
    /// Looks through everything after a position. `most`: the number of the change to cut after; `offered_until`: the place up
    /// to which changed rows are named.
    pub(super) fn new(
        db: &Connection,
        tables: &HashMap<i64, LogTable>,
        after: Position,
        most: i64,
        offered_until: i64,
    ) -> Result<Survey> {
        let mut found = Survey {
            end: after,
            count: 0,
            cut: None,
            first: None,
            unnamed: Vec::new(),
            offered: Vec::new(),
            parts: BTreeMap::new(),
            several: Vec::new(),
            parked: conflicts::parked(db)?,
        };
        let mut numbers: Vec<u64> = Vec::new();
        let mut cut = None;
        found.end = Scan::new(db, tables).run(after, i64::MAX, |entry| {
            let table_no = entry.table.table_no;
            let rows = entry.rows()?;
            if rows == [None, None] {
                if entry.counts() && !found.unnamed.contains(&table_no) {
                    found.unnamed.push(table_no);
                }
                return Ok(());
            }
            found.count += 1;
            if found.count == most {
                cut = Some(entry.position);
            }
            if entry.position.place <= offered_until && found.count <= most {
                let rows = entry.logged()?.into_iter().flatten();
                found.offered.extend(rows.map(|logged| (table_no, logged.key)));
            }
            found.first.get_or_insert(entry.position.clock);
            numbers.extend(rows.into_iter().flatten());
            let part = Part { before: entry.before, last: entry.position.place };
            found.parts.entry(table_no).or_insert(part).last = entry.position.place;
            Ok(())
        })?;
        found.cut = cut.filter(|_| found.count > most);
        numbers.sort_unstable();
        let twice = numbers.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        found.several = twice.collect();
        found.several.extend(found.parked.keys().map(|(table, key)| log::number_of(i64::from(*table), key)));
        found.several.sort_unstable();
        found.several.dedup();
        Ok(found)
    }

    /// Whether the entry is all that there is of its rows.
    fn is_alone(&self, entry: &mut Raw<'_, '_>) -> Result<bool> {
        if self.several.is_empty() {
            return Ok(true);
        }
        let rows = entry.rows()?;
        Ok(!rows.into_iter().flatten().any(|row| self.several.binary_search(&row).is_ok()))
    }
}

/// Everything that is to be written.
pub(super) struct Changes<'a> {
    db: &'a Connection,
    tables: &'a HashMap<i64, LogTable>,
    survey: &'a Survey,
    /// The last position that travels.
    high: Position,
    folded: BTreeMap<i64, Vec<Change>>,
    /// The clock of the first change that travels again with an edit of its row.
    pub first_parked: Option<Hlc>,
}

impl<'a> Changes<'a> {
    /// Folds what has to be folded. `boundaries` are clocks across which nothing folds; nor do entries up to the place
    /// `singly_until`, with anything.
    pub(super) fn new(
        db: &'a Connection,
        tables: &'a HashMap<i64, LogTable>,
        survey: &'a Survey,
        after: Position,
        high: Position,
        mut boundaries: Vec<Hlc>,
        singly_until: i64,
    ) -> Result<Changes<'a>> {
        let mut changes = Changes { db, tables, survey, high, folded: BTreeMap::new(), first_parked: None };
        if survey.several.is_empty() {
            return Ok(changes);
        }
        let mut entries: Vec<Logged> = Vec::new();
        // Later changes take part, so that rows are told as they were at the cut, but do not travel.
        boundaries.push(high.clock);
        Scan::new(db, tables).run(after, i64::MAX, |entry| {
            if !survey.is_alone(entry)? {
                if entry.position.place <= singly_until {
                    boundaries.push(entry.position.clock);
                }
                entries.extend(entry.logged()?.into_iter().flatten());
            }
            Ok(())
        })?;
        let parked = conflicts::offer_parked_again(db, tables, &survey.parked, &mut entries)?;
        changes.first_parked = parked.values().min().copied();
        boundaries.sort_unstable();
        boundaries.dedup();
        let mut rows = RowReader::new(db, tables);
        let folded = coalesce(entries, &boundaries, |table, key| row_of(db, tables, &mut rows, i64::from(table), key))?;
        for Folded { table, mut change } in folded {
            // What was parked was written under the base of its own time, not under that of the edit that takes it along.
            let key = (table, std::mem::take(&mut change.key));
            if let Some(first) = parked.get(&key) {
                change.first_clock = change.first_clock.min(*first);
            }
            change.key = key.1;
            if change.clock <= high.clock {
                changes.folded.entry(i64::from(table)).or_default().push(change);
            }
        }
        for folded in changes.folded.values_mut() {
            folded.sort_by_key(|change| change.clock);
        }
        Ok(changes)
    }

    /// Rows that came and went: of what the hub may have under such a key nothing was shown meanwhile.
    pub(super) fn cancelled(&self) -> impl Iterator<Item = (i64, &Key)> {
        let changes = self.folded.iter().flat_map(|(table, changes)| changes.iter().map(|change| (*table, change)));
        changes.filter(|(_, change)| change.op == Op::Cancelled).map(|(table, change)| (table, &change.key))
    }

    /// Writes all of it. Gives the shapes of the tables.
    pub(super) fn write(mut self, writer: &mut DeltaWriter<'_>) -> Result<Vec<Shape>> {
        let mut shapes = Vec::new();
        let mut folded = std::mem::take(&mut self.folded);
        let mut numbers: Vec<i64> = self.survey.parts.keys().chain(folded.keys()).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        for table_no in numbers {
            let Some(table) = self.tables.get(&table_no) else { continue };
            let folded = folded.remove(&table_no).unwrap_or_default();
            let shaped = Shaped::new(self.db, table, self.survey.parts.get(&table_no), &folded)?;
            let mut output = Output { writer, shaped, begun: false, folded: folded.into_iter().peekable() };
            self.write_table(table, &mut output)?;
            output.up_to(Hlc(u64::MAX));
            if output.begun {
                shapes.push(output.shaped.shape);
            }
        }
        Ok(shapes)
    }

    fn write_table(&self, table: &LogTable, output: &mut Output<'_, '_>) -> Result<()> {
        let Some(part) = self.survey.parts.get(&table.table_no) else { return Ok(()) };
        let mut rows = RowReader::new(self.db, self.tables);
        let until = part.last.min(self.high.place);
        Scan::new(self.db, self.tables).run(part.before, until, |entry| {
            if entry.table.table_no != table.table_no || !self.survey.is_alone(entry)? {
                return Ok(());
            }
            for Logged { mut op, key, clock, count, fields, .. } in entry.logged()?.into_iter().flatten() {
                let fields = match op {
                    Op::Insert => match row_of(self.db, self.tables, &mut rows, table.table_no, &key)? {
                        Some(row) => {
                            row.into_iter().map(|(slot, new)| FieldChange { column: slot, old: None, new }).collect()
                        }
                        // It went with its table, say: nobody knows its values any more.
                        None => {
                            op = Op::Cancelled;
                            Vec::new()
                        }
                    },
                    // Only the deletion travels: the hub has the row.
                    Op::Delete | Op::Cancelled => Vec::new(),
                    Op::Update => fields
                        .into_iter()
                        .map(|field| FieldChange { column: field.column, old: Some(field.old), new: field.new })
                        .collect(),
                };
                output.change(Change { op, key, clock, first_clock: clock, count, fields });
            }
            Ok(())
        })?;
        Ok(())
    }
}

/// A row's values by slot, wherever the row is.
pub(super) fn row_of(
    db: &Connection,
    tables: &HashMap<i64, LogTable>,
    rows: &mut RowReader<'_>,
    table_no: i64,
    key: &Key,
) -> Result<Option<Vec<(u16, Value)>>> {
    match rows.read(table_no, key)? {
        Some(row) => Ok(Some(row)),
        None => conflicts::row_that_stepped_aside(db, tables, table_no, key),
    }
}

/// A table as it travels: whole, so that it always looks the same and its names travel once. Columns that it has lost
/// come last, if something is told of them.
struct Shaped {
    shape: Shape,
    /// By slot: the place among the shape's columns.
    places: Vec<Option<u16>>,
}

impl Shaped {
    fn new(db: &Connection, table: &LogTable, part: Option<&Part>, folded: &[Change]) -> Result<Shaped> {
        let lost: Vec<u16> =
            table.fields().iter().filter(|column| !column.present).map(|column| column.slot as u16).collect();
        let mut told: HashSet<u16> = HashSet::new();
        if !lost.is_empty() {
            told.extend(folded.iter().flat_map(|change| change.fields.iter().map(|field| field.column)));
            if let Some(part) = part {
                told.extend(slots_told(db, table, &lost, part)?);
            }
        }
        let key = &table.columns[..table.key_len];
        let mut columns: Vec<String> = key.iter().map(|column| column.name.clone()).collect();
        let mut places = Vec::new();
        for column in table.fields().iter().filter(|column| column.present || told.contains(&(column.slot as u16))) {
            let slot = column.slot as usize;
            if places.len() <= slot {
                places.resize(slot + 1, None);
            }
            places[slot] = Some(columns.len() as u16);
            columns.push(column.name.clone());
        }
        let shape = Shape {
            table: table.name.clone(),
            columns,
            key_len: table.key_len as u16,
            kinds: Vec::new(),
            sums: Vec::new(),
        };
        Ok(Shaped { shape, places })
    }

    /// Slots become places.
    fn fit(&self, change: &mut Change) {
        change.fields.retain_mut(|field| match self.places.get(usize::from(field.column)).copied().flatten() {
            Some(place) => {
                field.column = place;
                true
            }
            None => false,
        });
        if !change.fields.is_sorted_by_key(|field| field.column) {
            change.fields.sort_by_key(|field| field.column);
        }
    }
}

/// Which of the slots a part of the log tells something of.
fn slots_told(db: &Connection, table: &LogTable, slots: &[u16], part: &Part) -> Result<Vec<u16>> {
    let mut told = Vec::new();
    for slot in slots {
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM main.fs_log WHERE clock > ?1 AND clock <= ?2 AND what >> 3 = {0} AND field = {slot})
                 OR EXISTS (SELECT 1 FROM main.fs_side_{0} WHERE clock > ?1 AND clock <= ?2
                            AND (o{slot} IS NOT NULL OR n{slot} IS NOT NULL))",
            table.table_no
        );
        if db.query_row(&sql, [part.before.place, part.last], |row| row.get(0))? {
            told.push(*slot);
        }
    }
    Ok(told)
}

/// Changes of one table on their way out: those of rows with one entry as they come, the folded ones between them.
struct Output<'w, 'k> {
    writer: &'w mut DeltaWriter<'k>,
    shaped: Shaped,
    begun: bool,
    folded: Peekable<IntoIter<Change>>,
}

impl Output<'_, '_> {
    fn change(&mut self, change: Change) {
        self.up_to(change.clock);
        self.put(change);
    }

    /// The folded changes up to a clock.
    fn up_to(&mut self, clock: Hlc) {
        while let Some(change) = self.folded.next_if(|change| change.clock <= clock) {
            self.put(change);
        }
    }

    fn put(&mut self, mut change: Change) {
        if !self.begun {
            self.writer.table(self.shaped.shape.clone());
            self.begun = true;
        }
        self.shaped.fit(&mut change);
        self.writer.change(change);
    }
}
