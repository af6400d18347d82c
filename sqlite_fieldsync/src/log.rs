//! Reads the change log back: logged operations with their exact values, and rows by key.
//!
//! Invariant: one entry of `fs_log` is one logged change. A key change is two wire operations, of which the second counts.

use crate::error::{Error, Result};
use crate::sql::{self, bind, quote};
use crate::triggers::what;
use fieldsync_core::coalesce::{Logged, LoggedField};
use fieldsync_core::delta::Op;
use fieldsync_core::{Hlc, Key, Value};
use rusqlite::{Connection, Row, Statement};
use std::collections::HashMap;

/// A column as the log knows it.
#[derive(Debug, Clone)]
pub struct LogColumn {
    /// Its number in the log.
    pub slot: i64,
    /// Its name now, or when it was last there.
    pub name: String,
    /// 1 and up for the key's parts.
    pub key_part: usize,
    /// Whether the table still has it.
    pub present: bool,
}

/// A table as the log knows it.
#[derive(Debug, Clone)]
pub struct LogTable {
    /// Its number in the log.
    pub table_no: i64,
    /// Its name.
    pub name: String,
    /// Whether it is tracked and there.
    pub live: bool,
    /// Its columns: the key's first, in the key's order.
    pub columns: Vec<LogColumn>,
    /// How many of them are the key.
    pub key_len: usize,
}

impl LogTable {
    /// All tables that the log may speak of.
    pub fn all(db: &Connection) -> Result<HashMap<i64, LogTable>> {
        let mut tables = HashMap::new();
        for known in crate::track::tracked(db)? {
            let mut statement = db.prepare_cached(
                "SELECT slot, name, key_part, position IS NOT NULL FROM main.fs_column WHERE table_no = ?1
                 ORDER BY key_part = 0 OR position IS NULL, key_part, position IS NULL, position, slot",
            )?;
            let columns = statement
                .query_map([known.table_no], |row| {
                    Ok(LogColumn {
                        slot: row.get(0)?,
                        name: row.get(1)?,
                        key_part: row.get::<_, i64>(2)? as usize,
                        present: row.get(3)?,
                    })
                })?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let key_len = columns.iter().filter(|column| column.key_part > 0 && column.present).count();
            let live = known.state == "tracked";
            tables.insert(
                known.table_no,
                LogTable { table_no: known.table_no, name: known.name, live, columns, key_len },
            );
        }
        Ok(tables)
    }

    /// The columns that are not the key.
    pub fn fields(&self) -> &[LogColumn] {
        &self.columns[self.key_len.min(self.columns.len())..]
    }

    fn composite(&self) -> bool {
        self.key_len > 1
    }
}

/// What the log says, in the order of its clocks.
pub struct LogRead {
    /// The operations.
    pub entries: Vec<Logged>,
    /// Numbers of tables with rows that cannot be named, because a part of their key is NULL.
    pub unnamed: Vec<i64>,
    /// The last clock seen, marks included.
    pub high: Hlc,
}

/// Reads entries with a clock above `after` and up to `until`.
pub fn read(db: &Connection, tables: &HashMap<i64, LogTable>, after: Hlc, until: Hlc) -> Result<LogRead> {
    let mut sides: HashMap<i64, Side<'_>> = HashMap::new();
    for table in tables.values() {
        sides.insert(table.table_no, Side::open(db, table)?);
    }
    let mut found = LogRead { entries: Vec::new(), unnamed: Vec::new(), high: after };
    let mut statement = db.prepare_cached(
        "SELECT clock, what, key, field, old, new FROM main.fs_log WHERE clock > ?1 AND clock <= ?2 ORDER BY clock",
    )?;
    let mut rows = statement.query([after.as_i64(), until.as_i64()])?;
    while let Some(row) = rows.next()? {
        let clock: i64 = row.get(0)?;
        found.high = Hlc::from_i64(clock);
        let what: i64 = row.get(1)?;
        let table_no = what >> 3;
        let Some((table, side)) = tables.get(&table_no).zip(sides.get_mut(&table_no)) else { continue };
        let entry = Entry { table, clock, row };
        let logged = entry.read(what & 7, side)?;
        if logged.is_empty() && what & 7 != 0 && !found.unnamed.contains(&table_no) {
            found.unnamed.push(table_no);
        }
        found.entries.extend(logged);
    }
    Ok(found)
}

struct Entry<'a, 'r> {
    table: &'a LogTable,
    clock: i64,
    row: &'a Row<'r>,
}

impl Entry<'_, '_> {
    /// The operations of one entry: none if its row cannot be named, two for a change of key.
    fn read(&self, operation: i64, side: &mut Side<'_>) -> Result<Vec<Logged>> {
        let needs_side = self.table.composite() || operation != what::INSERT;
        let values = if needs_side { side.at(self.clock)? } else { None };
        let key = if self.table.composite() {
            values.as_ref().map(|values| values.key.clone()).unwrap_or_default()
        } else {
            vec![sql::column(self.row, 2)?]
        };
        let named = |key: &[Value]| key.len() == self.table.key_len && !key.iter().any(Value::is_null);
        let logged = |op, key: Vec<Value>, count, fields| Logged {
            table: self.table.table_no as u32,
            op,
            key: Key(key),
            clock: Hlc::from_i64(self.clock),
            count,
            fields,
        };
        Ok(match operation {
            what::INSERT if named(&key) => vec![logged(Op::Insert, key, 1, Vec::new())],
            what::DELETE if named(&key) => {
                vec![logged(Op::Delete, key, 1, values.map(SideRow::deleted).unwrap_or_default())]
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
                vec![logged(Op::Update, key, 1, fields)]
            }
            what::REKEY => {
                let Some(values) = values else { return Ok(Vec::new()) };
                let new_key = values.new_key.clone();
                let mut parts = Vec::new();
                if named(&key) {
                    parts.push(logged(Op::Delete, key, u32::from(!named(&new_key)), values.deleted()));
                }
                if named(&new_key) {
                    parts.push(logged(Op::Insert, new_key, 1, Vec::new()));
                }
                parts
            }
            _ => Vec::new(),
        })
    }
}

/// Entries of one side table, looked up by clock.
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

    fn at(&mut self, clock: i64) -> Result<Option<SideRow>> {
        let Some(statement) = &mut self.statement else { return Ok(None) };
        let mut rows = statement.query([clock])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let mut place = 0;
        let mut take = |count: usize| -> Result<Vec<Value>> {
            let values = (place..place + count).map(|at| sql::column(row, at)).collect();
            place += count;
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

/// Logs an update as a trigger would, at a given clock.
pub fn append_update(db: &Connection, table: &LogTable, clock: i64, key: &Key, fields: &[LoggedField]) -> Result<()> {
    let (first, rest) = match fields {
        [first, rest @ ..] => (Some(first), rest),
        [] => (None, fields),
    };
    let none = Value::Null;
    let slot = first.map_or(Value::Null, |field| Value::Int(i64::from(field.column)));
    let mut statement = db
        .prepare_cached("INSERT INTO main.fs_log(clock, what, key, field, old, new) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    let (clock_value, what) = (Value::Int(clock), Value::Int(table.table_no * 8 + what::UPDATE));
    let part = if table.composite() { &none } else { key.0.first().unwrap_or(&none) };
    let (old, new) = first.map_or((&none, &none), |field| (&field.old, &field.new));
    bind(&mut statement, 1, [&clock_value, &what, part, &slot, old, new])?;
    statement.raw_execute()?;
    append_side(db, table, &clock_value, key, rest)
}

/// Logs an insert as a trigger would, at a given clock.
pub fn append_insert(db: &Connection, table: &LogTable, clock: i64, key: &Key) -> Result<()> {
    let none = Value::Null;
    let mut statement = db.prepare_cached("INSERT INTO main.fs_log(clock, what, key) VALUES (?1, ?2, ?3)")?;
    let (clock, what) = (Value::Int(clock), Value::Int(table.table_no * 8 + what::INSERT));
    let part = if table.composite() { &none } else { key.0.first().unwrap_or(&none) };
    bind(&mut statement, 1, [&clock, &what, part])?;
    statement.raw_execute()?;
    append_side(db, table, &clock, key, &[])
}

fn append_side(db: &Connection, table: &LogTable, clock: &Value, key: &Key, fields: &[LoggedField]) -> Result<()> {
    if fields.is_empty() && !table.composite() {
        return Ok(());
    }
    let mut columns = vec!["clock".to_owned()];
    let mut values = vec![clock];
    if table.composite() {
        columns.extend((1..=key.0.len()).map(|part| format!("k{part}")));
        values.extend(&key.0);
    }
    for field in fields {
        columns.extend([format!("o{}", field.column), format!("n{}", field.column)]);
        values.extend([&field.old, &field.new]);
    }
    let marks: Vec<String> = (1..=columns.len()).map(|at| format!("?{at}")).collect();
    let sql =
        format!("INSERT INTO main.fs_side_{}({}) VALUES ({})", table.table_no, columns.join(", "), marks.join(", "));
    let mut statement = db.prepare_cached(&sql)?;
    bind(&mut statement, 1, values)?;
    statement.raw_execute()?;
    Ok(())
}

/// Reads rows of tracked tables by key, with statements that are prepared once.
pub struct RowReader<'a> {
    db: &'a Connection,
    tables: &'a HashMap<i64, LogTable>,
    statements: HashMap<i64, (Statement<'a>, Vec<u16>)>,
}

impl<'a> RowReader<'a> {
    /// A reader with nothing prepared yet.
    pub fn new(db: &'a Connection, tables: &'a HashMap<i64, LogTable>) -> RowReader<'a> {
        RowReader { db, tables, statements: HashMap::new() }
    }

    /// A row's values that are not its key, by slot; none if the row is not there.
    pub fn read(&mut self, table_no: i64, key: &Key) -> Result<Option<Vec<(u16, Value)>>> {
        let Some(table) = self.tables.get(&table_no).filter(|table| table.live && table.key_len == key.0.len()) else {
            return Ok(None);
        };
        if !self.statements.contains_key(&table_no) {
            let mut names = Vec::new();
            let mut slots = Vec::new();
            for column in table.fields().iter().filter(|column| column.present) {
                names.push(quote(self.db, &column.name)?);
                slots.push(column.slot as u16);
            }
            let mut conditions = Vec::new();
            for (at, part) in table.columns[..table.key_len].iter().enumerate() {
                // The index finds it by the column's own collation; the key is exact.
                let name = quote(self.db, &part.name)?;
                conditions.push(format!("{name} = ?{0} AND {name} COLLATE BINARY = ?{0}", at + 1));
            }
            let columns = if names.is_empty() { "1".to_owned() } else { names.join(", ") };
            let statement = self.db.prepare(&format!(
                "SELECT {columns} FROM main.{} WHERE {}",
                quote(self.db, &table.name)?,
                conditions.join(" AND ")
            ))?;
            self.statements.insert(table_no, (statement, slots));
        }
        let Some((statement, slots)) = self.statements.get_mut(&table_no) else {
            return Err(Error::OwnData(format!("table {table_no}")));
        };
        bind(statement, 1, &key.0)?;
        let mut rows = statement.raw_query();
        let Some(row) = rows.next()? else { return Ok(None) };
        let mut values = Vec::with_capacity(slots.len());
        for (at, slot) in slots.iter().enumerate() {
            values.push((*slot, sql::column(row, at)?));
        }
        values.sort_by_key(|(slot, _)| *slot);
        Ok(Some(values))
    }
}
