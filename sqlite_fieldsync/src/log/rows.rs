//! Rows of tracked tables by their keys, as they are now.
//!
//! Rows that were made one after the other are asked for one after the other: from the second of such a run on they are read
//! ahead in the order of the table, several at a time, instead of one by one through the index of the key.

use super::LogTable;
use crate::error::Result;
use crate::schema::Table;
use crate::sql::{self, bind, quote};
use fieldsync_core::{Key, Value};
use rusqlite::{Connection, Statement};
use std::collections::{HashMap, VecDeque};

/// Rows read ahead at most.
const AHEAD_MAX: usize = 128;
/// How far from the row before the next one may be and still count as following it.
const GAP_MAX: i64 = 4;

/// A row's values by slot, ascending.
type Values = Vec<(u16, Value)>;

/// Reads rows with statements that are prepared once.
pub struct RowReader<'a> {
    db: &'a Connection,
    tables: &'a HashMap<i64, LogTable>,
    readers: HashMap<i64, Option<Reader<'a>>>,
}

/// Reads rows of one table.
struct Reader<'a> {
    key_len: usize,
    slots: Vec<u16>,
    /// One row by its key.
    seek: Statement<'a>,
    /// Rows after a rowid; none: the table has no rowid, or columns stand in the way of its names.
    walk: Option<Statement<'a>>,
    ahead: VecDeque<(i64, Vec<Value>, Values)>,
    last_rowid: i64,
    width: usize,
}

impl<'a> RowReader<'a> {
    /// A reader with nothing prepared yet.
    pub fn new(db: &'a Connection, tables: &'a HashMap<i64, LogTable>) -> RowReader<'a> {
        RowReader { db, tables, readers: HashMap::new() }
    }

    /// A row's values that are not its key, by slot; none if the row is not there.
    pub fn read(&mut self, table_no: i64, key: &Key) -> Result<Option<Values>> {
        let Some(table) = self.tables.get(&table_no).filter(|table| table.key_len == key.0.len()) else {
            return Ok(None);
        };
        if !self.readers.contains_key(&table_no) {
            self.readers.insert(table_no, Reader::prepare(self.db, table)?);
        }
        match self.readers.get_mut(&table_no) {
            Some(Some(reader)) => reader.read(key),
            _ => Ok(None),
        }
    }
}

impl<'a> Reader<'a> {
    /// None if the table is not there, or has another key by now. (One that is not tracked any more is not watched, either.)
    fn prepare(db: &'a Connection, table: &LogTable) -> Result<Option<Reader<'a>>> {
        let Some(taken) = Table::read_plain(db, &table.name)?.map(|table| table.columns) else { return Ok(None) };
        let has = |name: &str| taken.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        if !table.columns[..table.key_len].iter().all(|part| has(&part.name)) {
            return Ok(None);
        }
        let mut fields: Vec<(u16, String)> = Vec::new();
        for column in table.fields().iter().filter(|column| column.present && has(&column.name)) {
            fields.push((column.slot as u16, quote(db, &column.name)?));
        }
        fields.sort_by_key(|(slot, _)| *slot);
        let mut columns = Vec::new();
        let mut conditions = Vec::new();
        for (at, part) in table.columns[..table.key_len].iter().enumerate() {
            // The index finds it by the column's own collation; the key is exact.
            let name = quote(db, &part.name)?;
            conditions.push(format!("{name} = ?{0} AND {name} COLLATE BINARY = ?{0}", at + 1));
            columns.push(name);
        }
        columns.extend(fields.iter().map(|(_, name)| name.clone()));
        let from = format!("main.{}", quote(db, &table.name)?);
        let free = ["rowid", "_rowid_", "oid"].into_iter().find(|name| !has(name));
        let rows = |rowid: &str, rest: &str| format!("SELECT {rowid}, {} FROM {from} WHERE {rest}", columns.join(", "));
        let walk = free.and_then(|rowid| {
            let sql = rows(rowid, &format!("{rowid} > ?1 ORDER BY {rowid} LIMIT ?2"));
            db.prepare(&sql).ok() // WITHOUT ROWID
        });
        let rowid = if walk.is_some() { free.unwrap_or("0") } else { "0" };
        Ok(Some(Reader {
            key_len: table.key_len,
            slots: fields.iter().map(|(slot, _)| *slot).collect(),
            seek: db.prepare(&rows(rowid, &conditions.join(" AND ")))?,
            walk,
            ahead: VecDeque::new(),
            last_rowid: i64::MIN,
            width: 0,
        }))
    }

    fn read(&mut self, key: &Key) -> Result<Option<Values>> {
        if let Some(values) = self.ahead_of(key)? {
            return Ok(Some(values));
        }
        bind(&mut self.seek, 1, &key.0)?;
        let mut found = self.sought()?;
        if found.is_none() && sql::bind_as_text(&mut self.seek, key)? {
            found = self.sought()?;
        }
        let Some((rowid, values)) = found else { return Ok(None) };
        let follows = rowid > self.last_rowid && rowid.saturating_sub(self.last_rowid) <= GAP_MAX;
        self.last_rowid = rowid;
        self.width = usize::from(follows) * 8;
        self.ahead.clear();
        Ok(Some(values))
    }

    /// The row of the key that is bound, with its rowid.
    fn sought(&mut self) -> Result<Option<(i64, Values)>> {
        let mut rows = self.seek.raw_query();
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some((row.get(0)?, values(row, self.key_len, &self.slots)?)))
    }

    /// The row, if it is among the next ones.
    fn ahead_of(&mut self, key: &Key) -> Result<Option<Values>> {
        let Some(walk) = self.walk.as_mut().filter(|_| self.width > 0) else { return Ok(None) };
        if self.ahead.is_empty() {
            let mut rows = walk.query((self.last_rowid, self.width as i64))?;
            while let Some(row) = rows.next()? {
                let key = (1..=self.key_len).map(|at| sql::column(row, at)).collect::<Result<Vec<_>>>()?;
                self.ahead.push_back((row.get(0)?, key, values(row, self.key_len, &self.slots)?));
            }
            self.width = (self.width * 2).min(AHEAD_MAX);
        }
        let Some(at) = self.ahead.iter().take(GAP_MAX as usize).position(|(_, found, _)| *found == key.0) else {
            return Ok(None);
        };
        self.ahead.drain(..at);
        let found = self.ahead.pop_front();
        Ok(found.map(|(rowid, _, values)| {
            self.last_rowid = rowid;
            values
        }))
    }
}

/// Visits the keys of all rows of a table.
pub fn each_key(db: &Connection, table: &LogTable, visit: impl FnMut(Key) -> Result<()>) -> Result<()> {
    visit_keys(db, table, |_| String::new(), visit)
}

/// The greatest keys of a table, descending, as many as `most`.
pub fn greatest_keys(db: &Connection, table: &LogTable, most: usize) -> Result<Vec<Key>> {
    let mut keys = Vec::new();
    let descending = |names: &[String]| {
        let order: Vec<String> = names.iter().map(|name| format!("{name} DESC")).collect();
        format!("ORDER BY {} LIMIT {most}", order.join(", "))
    };
    visit_keys(db, table, descending, |key| {
        keys.push(key);
        Ok(())
    })?;
    Ok(keys)
}

/// Visits keys of a table's rows. `rest` of the statement, given the quoted names of the key's parts.
fn visit_keys(
    db: &Connection,
    table: &LogTable,
    rest: impl FnOnce(&[String]) -> String,
    mut visit: impl FnMut(Key) -> Result<()>,
) -> Result<()> {
    let parts = &table.columns[..table.key_len];
    let names = parts.iter().map(|part| quote(db, &part.name)).collect::<Result<Vec<_>>>()?;
    let from = quote(db, &table.name)?;
    let mut statement = db.prepare(&format!("SELECT {} FROM main.{from} {}", names.join(", "), rest(&names)))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        visit(Key((0..parts.len()).map(|at| sql::column(row, at)).collect::<Result<_>>()?))?;
    }
    Ok(())
}

fn values(row: &rusqlite::Row<'_>, key_len: usize, slots: &[u16]) -> Result<Values> {
    let mut found = Vec::with_capacity(slots.len());
    for (at, slot) in slots.iter().enumerate() {
        found.push((*slot, sql::column(row, 1 + key_len + at)?));
    }
    Ok(found)
}
