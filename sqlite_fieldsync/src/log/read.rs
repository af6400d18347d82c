//! Reads entries back, with their clocks and exact values.

use super::LogTable;
use crate::error::Result;
use crate::sql;
use crate::triggers::what;
use fieldsync_core::coalesce::{Logged, LoggedField};
use fieldsync_core::delta::Op;
use fieldsync_core::{Hlc, Key, Value};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, Statement};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The latest time of day that becomes a clock; the year 4199. One beyond would leave no room to count on.
const MS_MAX: f64 = ((1u64 << 62) >> 16) as f64;

/// How far entries made while the wall clock is behind may be apart: their own time, in milliseconds, up to this. Only counted on, what
/// is written in a copy of the file and in its original would get the same clocks, and the hub knows by its clock what both copies hold.
const APART: u64 = (1 << 13) - 1;

/// So far a clock is counted ahead by a statement that writes millions of rows: the wall clock is not behind for that.
const BULK_MS: u64 = 100;

/// A point of the log: a place, and the clock of the entry there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The rowid.
    pub place: i64,
    /// The clock.
    pub clock: Hlc,
}

impl Position {
    /// A mark.
    pub fn mark(place: i64) -> Position {
        Position { place, clock: Hlc::from_i64(place) }
    }

    /// The entry after this one.
    fn next(self, place: i64, at: Option<f64>) -> Position {
        let counted = Hlc(self.clock.0.saturating_add(1)).max(Hlc::from_i64(place));
        let clock = match at {
            // Julian days, as the trigger has them: exact to the millisecond in a float.
            Some(day) => {
                let ms = ((day - 2_440_587.5) * 86_400_000.0).round();
                let now = Hlc::from_ms(ms.clamp(0.0, MS_MAX) as u64);
                if self.clock.ms() > now.ms().saturating_add(BULK_MS) {
                    Hlc(counted.0.saturating_add(ms as i64 as u64 & APART))
                } else {
                    counted.max(now)
                }
            }
            None => counted,
        };
        Position { place, clock }
    }
}

/// The last entry.
pub fn last(db: &Connection) -> Result<Position> {
    let (place, what): (i64, i64) = db
        .prepare_cached("SELECT clock, what FROM main.fs_log ORDER BY clock DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if what == 0 {
        return Ok(Position::mark(place));
    }
    fold(db, |_| true)
}

/// The place of the last entry whose clock is not beyond the one given; 0 if there is none.
pub fn place_of(db: &Connection, clock: Hlc) -> Result<i64> {
    let exported: Option<i64> = db
        .prepare_cached("SELECT high_place FROM main.fs_batch WHERE high = ?1 LIMIT 1")?
        .query_row([clock.as_i64()], |row| row.get(0))
        .optional()?;
    match exported {
        Some(place) => Ok(place),
        None => Ok(fold(db, |position| position.clock <= clock)?.place),
    }
}

/// The position before the entry at a place.
pub fn before(db: &Connection, place: i64) -> Result<Position> {
    fold(db, |position| position.place < place)
}

/// Goes through the entries from the last suitable mark on, and gives the last suitable one.
fn fold(db: &Connection, suits: impl Fn(Position) -> bool) -> Result<Position> {
    let mut marks = db.prepare_cached("SELECT clock FROM main.fs_log WHERE what = 0 ORDER BY clock DESC")?;
    let mut marks = marks.query([])?;
    let mut found = Position::default();
    while let Some(row) = marks.next()? {
        let mark = Position::mark(row.get(0)?);
        if suits(mark) {
            found = mark;
            break;
        }
    }
    let mut statement = db.prepare_cached("SELECT clock, at FROM main.fs_log WHERE clock > ?1 ORDER BY clock")?;
    let mut rows = statement.query([found.place])?;
    while let Some(row) = rows.next()? {
        let next = found.next(row.get(0)?, row.get(1)?);
        if !suits(next) {
            break;
        }
        found = next;
    }
    Ok(found)
}

/// One operation that the log tells of, and the place of its entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it stands.
    pub place: i64,
    /// What it says.
    pub logged: Logged,
}

/// Everything after a position.
pub fn read(db: &Connection, tables: &HashMap<i64, LogTable>, after: Position) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    Scan::new(db, tables).run(after, i64::MAX, |entry| {
        for logged in entry.logged()?.into_iter().flatten() {
            found.push(Entry { place: entry.position.place, logged });
        }
        Ok(())
    })?;
    Ok(found)
}

/// Goes through the log, entry by entry.
pub struct Scan<'c> {
    db: &'c Connection,
    tables: &'c HashMap<i64, LogTable>,
    sides: HashMap<i64, Side<'c>>,
}

/// An entry as it stands in the log.
pub struct Raw<'s, 'c> {
    /// The position before it.
    pub before: Position,
    /// Its own.
    pub position: Position,
    /// Its table.
    pub table: &'c LogTable,
    operation: i64,
    row: &'s Row<'s>,
    side: &'s mut Side<'c>,
}

impl<'c> Scan<'c> {
    /// Over the log of these tables.
    pub fn new(db: &'c Connection, tables: &'c HashMap<i64, LogTable>) -> Scan<'c> {
        Scan { db, tables, sides: HashMap::new() }
    }

    /// Visits the entries of all known tables after a position and up to a place. Gives the last position there is.
    pub fn run(
        &mut self,
        after: Position,
        until: i64,
        mut visit: impl FnMut(&mut Raw<'_, 'c>) -> Result<()>,
    ) -> Result<Position> {
        let mut statement = self.db.prepare_cached(
            "SELECT clock, what, key, field, old, new, at FROM main.fs_log WHERE clock > ?1 AND clock <= ?2 ORDER BY clock",
        )?;
        let mut rows = statement.query([after.place, until])?;
        let mut position = after;
        while let Some(row) = rows.next()? {
            let before = position;
            position = before.next(row.get(0)?, row.get(6)?);
            let what: i64 = row.get(1)?;
            let table_no = what >> 3;
            let Some(table) = self.tables.get(&table_no) else { continue };
            let side = match self.sides.entry(table_no) {
                std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::hash_map::Entry::Vacant(place) => place.insert(Side::open(self.db, table)?),
            };
            visit(&mut Raw { before, position, table, operation: what & 7, row, side })?;
        }
        Ok(position)
    }
}

/// Up to two operations.
type Pair = [Option<Logged>; 2];

impl Raw<'_, '_> {
    /// The operations of the entry: none if its row cannot be named, two for a change of key.
    pub fn logged(&mut self) -> Result<Pair> {
        let needs_side = self.table.composite() || self.operation != what::INSERT;
        let values = if needs_side { self.side.at(self.position.place)? } else { None };
        let key = if self.table.composite() {
            values.as_ref().map(|values| values.key.clone()).unwrap_or_default()
        } else {
            vec![sql::column(self.row, 2)?]
        };
        let named = |key: &[Value]| key.len() == self.table.key_len && !key.iter().any(Value::is_null);
        let logged = |op, key: Vec<Value>, count, fields| {
            Some(Logged {
                table: self.table.table_no as u32,
                op,
                key: Key(key),
                clock: self.position.clock,
                count,
                fields,
                again: false,
            })
        };
        Ok(match self.operation {
            what::INSERT if named(&key) => {
                let again = self.row.get::<_, Option<i64>>(3)?.is_some();
                [logged(Op::Insert, key, 1, Vec::new()).map(|insert| Logged { again, ..insert }), None]
            }
            what::DELETE if named(&key) => {
                [logged(Op::Delete, key, 1, values.map(SideRow::deleted).unwrap_or_default()), None]
            }
            what::UPDATE if named(&key) => {
                let mut fields = values.map(SideRow::changed).unwrap_or_default();
                if let Some(slot) = self.row.get::<_, Option<i64>>(3)? {
                    let first = LoggedField {
                        column: slot as u16,
                        old: sql::column(self.row, 4)?,
                        new: sql::column(self.row, 5)?,
                    };
                    fields.push(first);
                    fields.sort_by_key(|field| field.column);
                }
                [logged(Op::Update, key, 1, fields), None]
            }
            what::REKEY => {
                let Some(values) = values else { return Ok([None, None]) };
                let new_key = values.new_key.clone();
                let (old_named, new_named) = (named(&key), named(&new_key));
                [
                    old_named.then(|| logged(Op::Delete, key, u32::from(!new_named), values.deleted())).flatten(),
                    new_named.then(|| logged(Op::Insert, new_key, 1, Vec::new())).flatten(),
                ]
            }
            _ => [None, None],
        })
    }

    /// The time of day, as the trigger has it: one for all that a statement does.
    pub fn made_at(&self) -> Result<Option<f64>> {
        Ok(self.row.get(6)?)
    }

    /// Whether this is an operation, not a place left by one.
    pub fn counts(&self) -> bool {
        (what::INSERT..=what::REKEY).contains(&self.operation)
    }

    /// Numbers that stand for the rows of the entry: equal rows have equal ones. The first is none if the entry's row cannot be
    /// named; the second is the row's new name, where its key changed.
    pub fn rows(&mut self) -> Result<[Option<u64>; 2]> {
        let table_no = self.table.table_no;
        if !self.table.composite() && self.operation != what::REKEY {
            let key = self.row.get_ref(2)?;
            let named = self.table.key_len == 1 && key != ValueRef::Null;
            return Ok([named.then(|| row_number(table_no, [key].into_iter())), None]);
        }
        let numbers = self.logged()?.map(|logged| logged.map(|logged| number_of(table_no, &logged.key)));
        Ok(numbers)
    }
}

/// The number that stands for a row; see [`Raw::rows`].
pub fn number_of(table_no: i64, key: &Key) -> u64 {
    row_number(table_no, key.0.iter().map(|part| sql::reference_to(part)))
}

fn row_number<'v>(table_no: i64, key: impl Iterator<Item = ValueRef<'v>>) -> u64 {
    let mut hasher = DefaultHasher::new();
    table_no.hash(&mut hasher);
    for part in key {
        match part {
            ValueRef::Null => 0u8.hash(&mut hasher),
            ValueRef::Integer(number) => (1u8, number).hash(&mut hasher),
            // -0.0 equals 0.0
            ValueRef::Real(number) => (2u8, (number + 0.0).to_bits()).hash(&mut hasher),
            ValueRef::Text(text) => (3u8, text).hash(&mut hasher),
            ValueRef::Blob(bytes) => (4u8, bytes).hash(&mut hasher),
        }
    }
    hasher.finish()
}

/// Entries of one side table, looked up by place.
struct Side<'a> {
    statement: Option<Statement<'a>>,
    key_len: usize,
    composite: bool,
    slots: Vec<u16>,
}

/// One entry of a side table.
struct SideRow {
    key: Vec<Value>,
    new_key: Vec<Value>,
    /// slot, old, new
    fields: Vec<(u16, Value, Value)>,
}

impl SideRow {
    fn deleted(self) -> Vec<LoggedField> {
        self.fields.into_iter().map(|(column, old, _)| LoggedField { column, old, new: Value::Null }).collect()
    }

    fn changed(self) -> Vec<LoggedField> {
        self.fields
            .into_iter()
            .filter(|(_, old, new)| old != new)
            .map(|(column, old, new)| LoggedField { column, old, new })
            .collect()
    }
}

impl<'a> Side<'a> {
    fn open(db: &'a Connection, table: &LogTable) -> Result<Side<'a>> {
        let mut slots: Vec<u16> = table.fields().iter().map(|column| column.slot as u16).collect();
        slots.sort_unstable();
        let names = |prefix: &str| (1..=table.key_len).map(|part| format!("{prefix}{part}")).collect::<Vec<_>>();
        let mut columns = if table.composite() { names("k") } else { Vec::new() };
        columns.extend(names("q"));
        for slot in &slots {
            columns.extend([format!("o{slot}"), format!("n{slot}")]);
        }
        let sql = format!("SELECT {} FROM main.fs_side_{} WHERE clock = ?1", columns.join(", "), table.table_no);
        // A table that was never tracked to the end has no side table, and nothing in the log.
        let statement = db.prepare(&sql).ok();
        Ok(Side { statement, key_len: table.key_len, composite: table.composite(), slots })
    }

    fn at(&mut self, place: i64) -> Result<Option<SideRow>> {
        let Some(statement) = &mut self.statement else { return Ok(None) };
        let mut rows = statement.query([place])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let mut at = 0;
        let mut take = |count: usize| -> Result<Vec<Value>> {
            let values = (at..at + count).map(|at| sql::column(row, at)).collect();
            at += count;
            values
        };
        let key = take(if self.composite { self.key_len } else { 0 })?;
        let new_key = take(self.key_len)?;
        let mut fields = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let mut pair = take(2)?;
            let new = pair.pop().unwrap_or_default();
            let old = pair.pop().unwrap_or_default();
            fields.push((*slot, old, new));
        }
        Ok(Some(SideRow { key, new_key, fields }))
    }
}
