//! Entries that stand in the log before the change that they followed.
//!
//! SQLite fires a table's youngest trigger first. Where an application made a trigger after the capture triggers, and the trigger writes
//! to the row that it is fired for (it trims a text, say, or stamps a time), what it wrote is logged first, and the change that
//! fired it after. The hub would take the first for the outcome. From the next `fs_` call on the capture triggers are the youngest again
//! ([`crate::track::renew`]); this puts in order what was logged until then, before anything else reads it.
//!
//! Method: backwards from the rows as they are. The last entry of a row has to tell what the row holds; if it does not, and one
//! of the same statement does, that one was the last. Values that no trigger has seen make no entry fit: then all stay where they are.
//!
//! Invariant: entries only move among the places of one statement. They have one time there, so no clock changes.

use super::{LogTable, RowReader, Scan};
use crate::error::Result;
use fieldsync_core::coalesce::Logged;
use fieldsync_core::delta::Op;
use fieldsync_core::{Key, Value};
use rusqlite::Connection;
use std::collections::{BTreeMap, HashMap, HashSet};

/// An entry whose row has others.
struct Candidate {
    place: i64,
    /// Equal for all entries of a statement.
    at: Option<f64>,
    table_no: i64,
    /// Two for a change of key.
    operations: Vec<Logged>,
    settled: bool,
}

/// Puts the entries of these tables in order that were made after a place.
pub fn mend(db: &Connection, table_nos: &HashSet<i64>, after: i64) -> Result<()> {
    let tables = LogTable::all(db)?;
    let after = super::Position::mark(after);
    let mut numbers: Vec<u64> = Vec::new();
    Scan::new(db, &tables).run(after, i64::MAX, |entry| {
        if table_nos.contains(&entry.table.table_no) {
            numbers.extend(entry.rows()?.into_iter().flatten());
        }
        Ok(())
    })?;
    numbers.sort_unstable();
    let several: HashSet<u64> = numbers.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    if several.is_empty() {
        return Ok(());
    }
    let mut entries: Vec<Candidate> = Vec::new();
    Scan::new(db, &tables).run(after, i64::MAX, |entry| {
        let table_no = entry.table.table_no;
        if table_nos.contains(&table_no) && entry.rows()?.into_iter().flatten().any(|row| several.contains(&row)) {
            let operations = entry.logged()?.into_iter().flatten().collect();
            let (place, at) = (entry.position.place, entry.made_at()?);
            entries.push(Candidate { place, at, table_no, operations, settled: false });
        }
        Ok(())
    })?;
    let order = in_order(&mut entries, Rows { reader: RowReader::new(db, &tables), known: HashMap::new() })?;
    move_to_places(db, &entries, &order)
}

/// Which entry belongs to which place, by their numbers.
fn in_order(entries: &mut [Candidate], mut rows: Rows<'_>) -> Result<Vec<usize>> {
    let mut by_row: HashMap<(i64, Key), Vec<usize>> = HashMap::new();
    for (number, entry) in entries.iter().enumerate() {
        for operation in &entry.operations {
            by_row.entry((entry.table_no, operation.key.clone())).or_default().push(number);
        }
    }
    let mut order = Vec::with_capacity(entries.len());
    for last in (0..entries.len()).rev() {
        while !entries[last].settled {
            let mut next = last;
            if !rows.is_last(&entries[last])? {
                let mut others: Vec<usize> = Vec::new();
                for operation in &entries[last].operations {
                    let of_row = by_row.get(&(entries[last].table_no, operation.key.clone())).into_iter().flatten();
                    let together = |other: &&usize| {
                        **other < last && !entries[**other].settled && entries[**other].at == entries[last].at
                    };
                    others.extend(of_row.filter(together));
                }
                others.sort_unstable();
                for other in others.into_iter().rev().filter(|_| entries[last].at.is_some()) {
                    if rows.is_last(&entries[other])? {
                        next = other;
                        break;
                    }
                }
            }
            rows.take_back(&entries[next])?;
            entries[next].settled = true;
            order.push(next);
        }
    }
    order.reverse();
    Ok(order)
}

/// Rows as they were after the entries that are in order already.
struct Rows<'a> {
    reader: RowReader<'a>,
    known: HashMap<(i64, Key), Option<BTreeMap<u16, Value>>>,
}

impl Rows<'_> {
    fn row(&mut self, table_no: i64, key: &Key) -> Result<&mut Option<BTreeMap<u16, Value>>> {
        let place = (table_no, key.clone());
        if !self.known.contains_key(&place) {
            let found = self.reader.read(table_no, key)?.map(|values| values.into_iter().collect());
            self.known.insert(place.clone(), found);
        }
        Ok(self.known.entry(place).or_default())
    }

    /// The row is what the entry made of it.
    fn is_last(&mut self, entry: &Candidate) -> Result<bool> {
        for operation in &entry.operations {
            let row = self.row(entry.table_no, &operation.key)?;
            let fits = match operation.op {
                Op::Insert => row.is_some(),
                Op::Update => row.as_ref().is_some_and(|row| {
                    operation.fields.iter().all(|field| row.get(&field.column).is_none_or(|now| *now == field.new))
                }),
                Op::Delete | Op::Cancelled => row.is_none(),
            };
            if !fits {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn take_back(&mut self, entry: &Candidate) -> Result<()> {
        for operation in entry.operations.iter().rev() {
            let row = self.row(entry.table_no, &operation.key)?;
            let before = operation.fields.iter().map(|field| (field.column, field.old.clone()));
            match operation.op {
                Op::Insert => *row = None,
                Op::Update => row.iter_mut().for_each(|row| row.extend(before.clone())),
                Op::Delete | Op::Cancelled => *row = Some(before.collect()),
            }
        }
        Ok(())
    }
}

/// By way of places that no entry has, so that none is in the way of another.
fn move_to_places(db: &Connection, entries: &[Candidate], order: &[usize]) -> Result<()> {
    let mut moved_in = HashSet::new();
    let mut move_one = |in_table: String, from: i64, to: i64| -> Result<()> {
        db.prepare_cached(&format!("UPDATE main.{in_table} SET clock = ?2 WHERE clock = ?1"))?.execute([from, -to])?;
        moved_in.insert(in_table);
        Ok(())
    };
    for (entry, &from) in entries.iter().zip(order) {
        let from = &entries[from];
        if from.place != entry.place {
            move_one("fs_log".to_owned(), from.place, entry.place)?;
            move_one(format!("fs_side_{}", from.table_no), from.place, entry.place)?;
        }
    }
    for in_table in moved_in {
        db.execute(&format!("UPDATE main.{in_table} SET clock = -clock WHERE clock < 0"), [])?;
    }
    Ok(())
}
