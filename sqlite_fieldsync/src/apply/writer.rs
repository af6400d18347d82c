//! Writes rows of the hub into the application's tables.
//!
//! Invariants: every value goes in by its key with statements prepared once, so that the cost depends on the rows that
//! arrive and never on the size of the table; a row that cannot be written yet, or ever, never stops the others.

use super::mute;
use crate::conflicts::{KeptRow, Replaced};
use crate::error::Result;
use crate::schema::{tokens, Affinity, Table};
use crate::sql::{self, bind, is_refusal, quote};
use fieldsync_core::reply::TableRows;
use fieldsync_core::value::{hex, Kind};
use fieldsync_core::{Key, Value};
use rusqlite::{Connection, Statement};
use std::collections::HashMap;

/// One column of an arriving table, matched with the device's.
#[derive(Debug, Clone)]
pub struct Matched {
    /// The device's name for it, quoted; none: the device does not have it.
    pub quoted: Option<String>,
    /// Its place in the device's table.
    pub position: usize,
    /// uuid on the hub: stored as bytes (true) or as text (false).
    uuid_as_bytes: Option<bool>,
}

/// Writes rows of one arriving table.
pub struct Writer<'a> {
    db: &'a Connection,
    /// The device's table.
    pub table: Table,
    /// The arriving columns.
    pub columns: Vec<Matched>,
    /// How many of them are the key.
    pub key_len: usize,
    name: String,
    or_abort: &'static str,
    key_condition: String,
    upserts: HashMap<Vec<u16>, Option<Statement<'a>>>,
    updates: HashMap<Vec<u16>, Statement<'a>>,
    /// The upsert used last, with its columns: rows of one reply mostly have the same.
    last: Option<(Vec<u16>, Statement<'a>)>,
    delete: Option<Statement<'a>>,
    find: Option<Statement<'a>>,
    blockers: Option<Vec<Statement<'a>>>,
}

/// What became of a write.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// Done.
    Yes,
    /// There is no such row.
    Missing,
    /// A constraint of the device is against it.
    Refused {
        /// It is a UNIQUE or PRIMARY KEY: another row is in the way.
        in_the_way: bool,
        /// SQLite's words.
        reason: String,
    },
}

impl<'a> Writer<'a> {
    /// Matches the columns. `None`: the arriving key is not the device's, so no row can be named.
    pub fn new(db: &'a Connection, table: Table, arriving: &TableRows) -> Result<Option<Writer<'a>>> {
        let key_len = usize::from(arriving.key_len).min(arriving.columns.len());
        let mut columns = Vec::new();
        for (at, name) in arriving.columns.iter().enumerate() {
            let found =
                table.columns.iter().position(|column| !column.generated && column.name.eq_ignore_ascii_case(name));
            let kind = arriving.kinds.get(at).copied().unwrap_or_default();
            columns.push(Matched {
                quoted: found.map(|place| quote(db, &table.columns[place].name)).transpose()?,
                position: found.unwrap_or(usize::MAX),
                uuid_as_bytes: match (kind, found) {
                    (Kind::Uuid, Some(place)) => Some(table.columns[place].affinity() == Affinity::Blob),
                    _ => None,
                },
            });
        }
        let own_key = table.key();
        let same_key = own_key.len() == key_len
            && columns[..key_len]
                .iter()
                .all(|column| column.quoted.is_some() && table.columns[column.position].key_part > 0);
        if !same_key {
            return Ok(None);
        }
        let key_condition = columns[..key_len]
            .iter()
            .enumerate()
            .map(|(at, column)| table.key_part_is(db, &table.columns[column.position], &format!("?{}", at + 1)))
            .collect::<Result<Vec<_>>>()?
            .join(" AND ");
        let name = table.qualified(db)?;
        let or_abort = or_abort(db, &table)?;
        Ok(Some(Writer {
            db,
            table,
            columns,
            key_len,
            name,
            or_abort,
            key_condition,
            upserts: HashMap::new(),
            updates: HashMap::new(),
            last: None,
            delete: None,
            find: None,
            blockers: None,
        }))
    }

    /// Whether the device has the column.
    pub fn knows(&self, column: u16) -> bool {
        self.columns.get(usize::from(column)).is_some_and(|column| column.quoted.is_some())
    }

    /// The value in the form that the device's column wants.
    fn fitted(&self, column: usize, value: &Value) -> Option<Value> {
        match (self.columns.get(column)?.uuid_as_bytes?, value) {
            (true, Value::Text(text)) => {
                let digits: String = text.chars().filter(|c| *c != '-').collect();
                let bytes: Option<Vec<u8>> = (0..16)
                    .map(|at| digits.get(2 * at..2 * at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
                    .collect();
                bytes.filter(|_| digits.len() == 32).map(Value::Blob)
            }
            (false, Value::Blob(bytes)) if bytes.len() == 16 => {
                let text = hex(bytes);
                Some(Value::Text(format!(
                    "{}-{}-{}-{}-{}",
                    &text[..8],
                    &text[8..12],
                    &text[12..16],
                    &text[16..20],
                    &text[20..]
                )))
            }
            _ => None,
        }
    }

    /// Brings a whole row into the device's own forms, in place. Gives whether the key's columns hold numbers where the hub's
    /// hold text, or the other way round.
    pub fn fit(&self, key: &mut Key, fields: &mut [(u16, Value)]) -> Result<bool> {
        let mut respelled = false;
        for (part, column) in key.0.iter_mut().zip(&self.columns) {
            let Some(column) = self.table.columns.get(column.position) else { continue };
            if let Some(stored) = column.stored(self.db, part)? {
                *part = stored;
                respelled = true;
            }
        }
        if self.columns.iter().all(|column| column.uuid_as_bytes.is_none()) {
            return Ok(respelled);
        }
        for (at, part) in key.0.iter_mut().enumerate() {
            if let Some(value) = self.fitted(at, part) {
                *part = value;
            }
        }
        for (column, value) in fields {
            if let Some(fitted) = self.fitted(usize::from(*column), value) {
                *value = fitted;
            }
        }
        Ok(respelled)
    }

    fn quoted(&self, column: u16) -> &str {
        self.columns.get(usize::from(column)).and_then(|column| column.quoted.as_deref()).unwrap_or_default()
    }

    /// Makes the row, or sets its fields where it is there.
    pub fn upsert(&mut self, key: &Key, fields: &[(u16, Value)]) -> Result<Written> {
        let same = self.last.as_ref().is_some_and(|(columns, _)| {
            columns.len() == fields.len() && columns.iter().zip(fields).all(|(a, (b, _))| a == b)
        });
        if !same {
            if let Some((columns, statement)) = self.last.take() {
                self.upserts.insert(columns, Some(statement));
            }
            let columns: Vec<u16> = fields.iter().map(|(column, _)| *column).collect();
            let statement = match self.upserts.remove(&columns) {
                Some(known) => known,
                // The key's index has another collation than its column: no conflict target fits.
                None => self.db.prepare(&self.upsert_sql(&columns)).ok(),
            };
            match statement {
                Some(statement) => self.last = Some((columns, statement)),
                None => return self.update_or_insert(key, fields),
            }
        }
        match &mut self.last {
            Some((_, statement)) => match run(self.db, statement, key, fields)? {
                Written::Missing => self.without_effect(key, fields, ignored()),
                done => Ok(done),
            },
            None => Ok(Written::Missing),
        }
    }

    /// What a statement has done that says that it changed nothing: a trigger may have said RAISE(IGNORE), before the row was written,
    /// or after.
    fn without_effect(&mut self, key: &Key, fields: &[(u16, Value)], missing: Written) -> Result<Written> {
        let Some(own) = self.read(key)? else { return Ok(missing) };
        Ok(if self.replaced(own, fields)?.is_empty() { Written::Yes } else { ignored() })
    }

    fn upsert_sql(&self, columns: &[u16]) -> String {
        let insert = self.insert_sql(columns);
        let key: Vec<&str> = (0..self.key_len as u16).map(|at| self.quoted(at)).collect();
        let sets: Vec<String> = columns.iter().map(|at| format!("{0} = excluded.{0}", self.quoted(*at))).collect();
        if sets.is_empty() {
            format!("{insert} ON CONFLICT({}) DO NOTHING", key.join(", "))
        } else {
            format!("{insert} ON CONFLICT({}) DO UPDATE SET {}", key.join(", "), sets.join(", "))
        }
    }

    fn insert_sql(&self, columns: &[u16]) -> String {
        let names: Vec<&str> =
            (0..self.key_len as u16).chain(columns.iter().copied()).map(|at| self.quoted(at)).collect();
        let values: Vec<String> = (1..=names.len()).map(|at| format!("?{at}")).collect();
        format!("INSERT{} INTO {}({}) VALUES ({})", self.or_abort, self.name, names.join(", "), values.join(", "))
    }

    fn update_or_insert(&mut self, key: &Key, fields: &[(u16, Value)]) -> Result<Written> {
        match self.update(key, fields)? {
            Written::Missing => self.insert(key, fields),
            other => Ok(other),
        }
    }

    /// Makes the row.
    pub fn insert(&mut self, key: &Key, fields: &[(u16, Value)]) -> Result<Written> {
        let columns: Vec<u16> = fields.iter().map(|(column, _)| *column).collect();
        let mut statement = self.db.prepare_cached(&self.insert_sql(&columns))?;
        match run(self.db, &mut statement, key, fields)? {
            Written::Missing => self.without_effect(key, fields, ignored()),
            done => Ok(done),
        }
    }

    /// Sets fields of a row.
    pub fn update(&mut self, key: &Key, fields: &[(u16, Value)]) -> Result<Written> {
        if fields.is_empty() {
            return Ok(if self.exists(key)? { Written::Yes } else { Written::Missing });
        }
        let columns: Vec<u16> = fields.iter().map(|(column, _)| *column).collect();
        if !self.updates.contains_key(&columns) {
            let sets: Vec<String> = columns
                .iter()
                .enumerate()
                .map(|(at, column)| format!("{} = ?{}", self.quoted(*column), self.key_len + at + 1))
                .collect();
            let sql =
                format!("UPDATE{} {} SET {} WHERE {}", self.or_abort, self.name, sets.join(", "), self.key_condition);
            self.updates.insert(columns.clone(), self.db.prepare(&sql)?);
        }
        let done = match self.updates.get_mut(&columns) {
            Some(statement) => run(self.db, statement, key, fields)?,
            None => Written::Missing,
        };
        match done {
            Written::Missing => self.without_effect(key, fields, Written::Missing),
            done => Ok(done),
        }
    }

    /// Removes a row.
    pub fn delete(&mut self, key: &Key) -> Result<Written> {
        if self.delete.is_none() {
            self.delete = Some(self.db.prepare(&format!("DELETE FROM {} WHERE {}", self.name, self.key_condition))?);
        }
        match &mut self.delete {
            Some(statement) => match run(self.db, statement, key, &[])? {
                Written::Missing if sql::bind_as_text(statement, key)? => outcome(self.db, statement.raw_execute()),
                Written::Missing if self.exists(key)? => Ok(ignored()),
                done => Ok(done),
            },
            None => Ok(Written::Missing),
        }
    }

    /// The row's key as it is there, if it is: by a collation of the key's columns it may be spelled in another way.
    pub fn key_here(&self, key: &Key) -> Result<Option<Key>> {
        let parts: Vec<&str> = (0..self.key_len as u16).map(|at| self.quoted(at)).collect();
        let sql = format!("SELECT {} FROM {} WHERE {}", parts.join(", "), self.name, self.key_condition);
        let mut statement = self.db.prepare_cached(&sql)?;
        bind(&mut statement, 1, &key.0)?;
        let mut rows = statement.raw_query();
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some(Key((0..self.key_len).map(|at| sql::column(row, at)).collect::<Result<_>>()?)))
    }

    /// Spells the row's key as this one is spelled. A row that may not be spelled so stays as it is.
    pub fn respell(&self, key: &Key) -> Result<()> {
        let sets: Vec<String> =
            (0..self.key_len as u16).map(|at| format!("{} = ?{}", self.quoted(at), at + 1)).collect();
        let sql = format!("UPDATE{} {} SET {} WHERE {}", self.or_abort, self.name, sets.join(", "), self.key_condition);
        let mut statement = self.db.prepare_cached(&sql)?;
        bind(&mut statement, 1, &key.0)?;
        outcome(self.db, statement.raw_execute())?;
        Ok(())
    }

    /// Whether a column of it may have a collation of its own.
    pub fn is_collated(&self) -> bool {
        self.table.signature.to_ascii_lowercase().contains("collate")
    }

    /// Whether the row is there.
    pub fn exists(&mut self, key: &Key) -> Result<bool> {
        Ok(self.read(key)?.is_some())
    }

    /// The whole row as the device has it, generated columns left out, the arriving key's columns first.
    pub fn read(&mut self, key: &Key) -> Result<Option<KeptRow>> {
        let names: Vec<String> =
            self.table.columns.iter().filter(|column| !column.generated).map(|column| column.name.clone()).collect();
        if self.find.is_none() {
            let quoted = names.iter().map(|name| quote(self.db, name)).collect::<Result<Vec<_>>>()?;
            let sql = format!("SELECT {} FROM {} WHERE {}", quoted.join(", "), self.name, self.key_condition);
            self.find = Some(self.db.prepare(&sql)?);
        }
        let Some(statement) = &mut self.find else { return Ok(None) };
        bind(statement, 1, &key.0)?;
        let mut rows = statement.raw_query();
        let Some(row) = rows.next()? else { return Ok(None) };
        let mut found = Vec::with_capacity(names.len());
        for (at, name) in names.into_iter().enumerate() {
            found.push((name, sql::column(row, at)?));
        }
        Ok(Some(found))
    }

    /// Keys of rows that hold a unique value of this row, other than the row itself. The row is given by column name.
    pub fn in_the_way(&mut self, row: &KeptRow, key: &Key) -> Result<Vec<Key>> {
        if self.blockers.is_none() {
            let mut numbers = HashMap::new();
            for (at, column) in self.table.columns.iter().enumerate() {
                numbers.insert(quote(self.db, &column.name)?, at + 1);
            }
            let ways = self.table.in_the_way(self.db, |column| {
                numbers.get(column).map_or("NULL".into(), |number| format!("?{number}"))
            })?;
            let keys: Vec<&str> = (0..self.key_len as u16).map(|at| self.quoted(at)).collect();
            let statements = ways
                .iter()
                .map(|way| {
                    let sql = format!("SELECT {} FROM {} WHERE {}", keys.join(", "), self.name, way.condition);
                    Ok(self.db.prepare(&sql)?)
                })
                .collect::<Result<Vec<_>>>()?;
            self.blockers = Some(statements);
        }
        let key_len = self.key_len;
        let mut found = Vec::new();
        for statement in self.blockers.iter_mut().flatten() {
            for at in 1..=statement.parameter_count() {
                let name = &self.table.columns[at - 1].name;
                let value = row.iter().find(|(column, _)| column.eq_ignore_ascii_case(name)).map(|(_, value)| value);
                statement.raw_bind_parameter(at, sql::Bound(value.unwrap_or(&Value::Null)))?;
            }
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next()? {
                let blocker = Key((0..key_len).map(|at| sql::column(row, at)).collect::<Result<Vec<_>>>()?);
                if blocker != *key && !found.contains(&blocker) {
                    found.push(blocker);
                }
            }
        }
        Ok(found)
    }

    /// The arriving fields put over a row of the device.
    pub fn over(&self, row: Option<KeptRow>, key: &Key, fields: &[(u16, Value)]) -> KeptRow {
        let mut row = row.unwrap_or_default();
        let parts = key.0.iter().enumerate().map(|(at, value)| (at, value.clone()));
        let fields = fields.iter().map(|(column, value)| (usize::from(*column), value.clone()));
        for (column, value) in parts.chain(fields) {
            let Some(name) = self
                .columns
                .get(column)
                .and_then(|column| self.table.columns.get(column.position))
                .map(|column| &column.name)
            else {
                continue;
            };
            match row.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = value,
                None => row.push((name.clone(), value)),
            }
        }
        row
    }

    /// Fields of a row of the device that arriving ones replace by other values.
    pub fn replaced(&self, own: KeptRow, fields: &[(u16, Value)]) -> Result<Vec<Replaced>> {
        let mut found = Vec::new();
        for (at, value) in fields {
            let Some(column) =
                self.columns.get(usize::from(*at)).and_then(|column| self.table.columns.get(column.position))
            else {
                continue;
            };
            let value = column.stored(self.db, value)?.unwrap_or_else(|| value.clone());
            if let Some((name, before)) = own.iter().find(|(name, before)| *name == column.name && *before != value) {
                found.push((name.clone(), before.clone(), Some(value)));
            }
        }
        Ok(found)
    }

    /// Writes a whole row by column name.
    pub fn insert_row(&mut self, row: &KeptRow) -> Result<Written> {
        let names = row.iter().map(|(name, _)| quote(self.db, name)).collect::<Result<Vec<_>>>()?;
        let values: Vec<String> = (1..=names.len()).map(|at| format!("?{at}")).collect();
        let sql =
            format!("INSERT{} INTO {}({}) VALUES ({})", self.or_abort, self.name, names.join(", "), values.join(", "));
        let mut statement = self.db.prepare_cached(&sql)?;
        bind(&mut statement, 1, row.iter().map(|(_, value)| value))?;
        Ok(match outcome(self.db, statement.raw_execute())? {
            Written::Missing => ignored(),
            done => done,
        })
    }
}

/// What a constraint's own ON CONFLICT says is for the application's writes: here it refuses. REPLACE would take a row away that nobody has
/// deleted, IGNORE write nothing without a word, and ROLLBACK undo the whole reply. A statement's clause goes for those of the triggers
/// that it sets off as well, so that it is left out where one of them has another.
pub(crate) fn or_abort(db: &Connection, table: &Table) -> Result<&'static str> {
    let words = tokens(&table.signature);
    let is = |word: &str, wanted: &str| word.eq_ignore_ascii_case(wanted);
    let has_clause = words.windows(3).any(|words| {
        is(words[0], "on")
            && is(words[1], "conflict")
            && ["replace", "rollback", "ignore"].iter().any(|clause| is(words[2], clause))
    });
    Ok(if has_clause && !mute::some_trigger_has_a_clause(db)? { " OR ABORT" } else { "" })
}

/// A row that a trigger of the application keeps away without a word.
fn ignored() -> Written {
    Written::Refused { in_the_way: false, reason: "a trigger of this database ignores it (RAISE(IGNORE))".into() }
}

fn run(db: &Connection, statement: &mut Statement<'_>, key: &Key, fields: &[(u16, Value)]) -> Result<Written> {
    bind(statement, 1, key.0.iter().chain(fields.iter().map(|(_, value)| value)))?;
    outcome(db, statement.raw_execute())
}

fn outcome(db: &Connection, done: rusqlite::Result<usize>) -> Result<Written> {
    match done {
        Ok(0) => Ok(Written::Missing),
        Ok(_) => Ok(Written::Yes),
        Err(error) if is_refusal(&error) => {
            let code = sql::extended_code(db);
            if sql::taken_back(db) {
                // A constraint ON CONFLICT ROLLBACK in what a trigger writes: no transaction is open any more, and no trigger muted.
                return Err(error.into());
            }
            let in_the_way = matches!(
                code,
                rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE
                    | rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY
                    | rusqlite::ffi::SQLITE_CONSTRAINT_ROWID
            );
            Ok(Written::Refused { in_the_way, reason: crate::error::words(&error) })
        }
        Err(error) => Err(error.into()),
    }
}
