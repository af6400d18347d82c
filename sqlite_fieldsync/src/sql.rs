//! Small helpers around SQL: values, quoting, and the one transaction that every call is.

use crate::error::{Error, Result};
use fieldsync_core::{Key, Value};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{ffi, Connection, OptionalExtension, Row, Statement, ToSql};
use std::cell::Cell;

/// A value as SQLite holds it, copied. Text that is not UTF-8 (SQLite does not check) travels as the bytes that it is: the hub
/// refuses those by name where it wants text, and nothing is altered on the way.
pub fn value_from(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Blob(text.to_vec()),
        },
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

/// A column of a result row.
pub fn column(row: &Row<'_>, at: usize) -> Result<Value> {
    Ok(value_from(row.get_ref(at)?))
}

/// A name from a result row, in the case in which names are compared. SQLite folds ASCII letters in names and no others, and so does
/// `to_ascii_lowercase`; its own `lower()` may have been replaced by one that folds more (ICU).
pub fn folded(row: &Row<'_>, at: usize) -> rusqlite::Result<String> {
    Ok(row.get::<_, String>(at)?.to_ascii_lowercase())
}

/// A value as SQLite refers to it.
pub fn reference_to(value: &Value) -> ValueRef<'_> {
    match value {
        Value::Null => ValueRef::Null,
        Value::Int(number) => ValueRef::Integer(*number),
        Value::Real(number) => ValueRef::Real(*number),
        Value::Text(text) => ValueRef::Text(text.as_bytes()),
        Value::Blob(bytes) => ValueRef::Blob(bytes),
    }
}

/// A value on its way into a statement, borrowed.
pub struct Bound<'a>(pub &'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(reference_to(self.0)))
    }
}

/// Binds values to a statement's parameters from number `first` on (numbers start at 1).
pub fn bind<'a>(
    statement: &mut Statement<'_>,
    first: usize,
    values: impl IntoIterator<Item = &'a Value>,
) -> Result<()> {
    for (at, value) in values.into_iter().enumerate() {
        statement.raw_bind_parameter(first + at, Bound(value))?;
    }
    Ok(())
}

/// Binds a key a second time, where no row was found under it as it is: bytes that are not UTF-8 stand for text that is none (see
/// [`value_from`]), as well as for bytes. Gives whether there is any such part.
pub fn bind_as_text(statement: &mut Statement<'_>, key: &Key) -> Result<bool> {
    let is_no_text = |part: &Value| matches!(part, Value::Blob(bytes) if std::str::from_utf8(bytes).is_err());
    if !key.0.iter().any(is_no_text) {
        return Ok(false);
    }
    for (at, part) in key.0.iter().enumerate() {
        match part {
            Value::Blob(bytes) if is_no_text(part) => {
                statement.raw_bind_parameter(1 + at, ToSqlOutput::Borrowed(ValueRef::Text(bytes)))?;
            }
            _ => statement.raw_bind_parameter(1 + at, Bound(part))?,
        }
    }
    Ok(true)
}

/// An identifier, quoted by SQLite's own function.
pub fn quote(db: &Connection, name: &str) -> Result<String> {
    Ok(db.prepare_cached("SELECT printf('\"%w\"', ?1)")?.query_row([name], |row| row.get(0))?)
}

/// A string literal, quoted by SQLite's own function.
pub fn literal(db: &Connection, text: &str) -> Result<String> {
    Ok(db.prepare_cached("SELECT printf('%Q', ?1)")?.query_row([text], |row| row.get(0))?)
}

/// Milliseconds since 1970 by the host's clock; 0 for a clock before that.
pub fn now_ms(db: &Connection) -> Result<u64> {
    let now: i64 = db
        .prepare_cached("SELECT CAST((julianday('now') - 2440587.5) * 86400000.0 + 0.5 AS INTEGER)")?
        .query_row([], |row| row.get(0))?;
    Ok(u64::try_from(now).unwrap_or(0))
}

/// A writing statement that hardly writes when it runs. Interrupted, it takes the whole transaction back.
pub const TAKE_BACK: &str = "PRAGMA main.incremental_vacuum(1)";

/// Runs a body as one transaction: all of it, or nothing. In a transaction of the host's it is a savepoint, and the host
/// decides about the whole.
pub fn atomically<T>(db: &Connection, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = db.is_autocommit();
    let _plain = PlainCounts::new(db)?;
    let by_force = db.prepare(TAKE_BACK)?;
    // A savepoint cannot be opened while a writing statement runs (`INSERT INTO outbox SELECT fs_export_delta()`), and a
    // transaction opened there could not be committed. Outside a transaction that statement is itself the transaction.
    if let Err(error) = db.execute_batch("SAVEPOINT fs_call") {
        if own && is_code(&error, ffi::SQLITE_BUSY) {
            return body();
        }
        return Err(Error::argument(format!(
            "this cannot run here ({}); inside a transaction call it by a SELECT of its own, not within an INSERT, UPDATE or DELETE",
            crate::error::words(&error)
        )));
    }
    let (keep, undo) =
        if own { ("COMMIT", "ROLLBACK") } else { ("RELEASE fs_call", "ROLLBACK TO fs_call; RELEASE fs_call") };
    let mut unfinished = Unfinished { db, undo: Some(undo), by_force };
    if own {
        // Writers queue at the start, where waiting is possible, and not in the middle, where it is not.
        db.execute_batch("RELEASE fs_call; BEGIN IMMEDIATE")?;
    }
    let within = Within::new();
    let answer = body()?;
    still_whole(db)?;
    drop(within);
    db.execute_batch(keep)?;
    unfinished.undo = None;
    Ok(answer)
}

thread_local! {
    /// Whether a call of this thread runs in a transaction.
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// A call that runs in a transaction.
struct Within;

impl Within {
    fn new() -> Within {
        WITHIN.set(true);
        Within
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        WITHIN.set(false);
    }
}

/// An error if SQLite has taken the transaction back by itself. It does so when memory runs out, and where that happens inside
/// of a pragma that is read like a table, the reading statement ends as if there were nothing more: whatever was written from
/// there on would stay, piece by piece. So whoever reads such a pragma asks here before going on.
pub fn still_whole(db: &Connection) -> Result<()> {
    if taken_back(db) {
        let code = ffi::Error::new(ffi::SQLITE_NOMEM);
        return Err(rusqlite::Error::SqliteFailure(code, Some("out of memory; nothing was changed".into())).into());
    }
    Ok(())
}

/// Whether the transaction of the call is no more.
pub fn taken_back(db: &Connection) -> bool {
    WITHIN.get() && db.is_autocommit()
}

/// Undoes the transaction when an error or a panic leaves it unfinished.
struct Unfinished<'a> {
    db: &'a Connection,
    undo: Option<&'static str>,
    /// After `sqlite3_interrupt` no statement runs until the host's own has ended, a ROLLBACK neither; the transaction would
    /// stay open, and the host not know. But a writing statement that is interrupted takes the whole transaction back
    /// (also the host's: SQLite's rule for every interrupted write). This is one, prepared before; it hardly writes if it runs.
    by_force: Statement<'a>,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // After some errors (full disk, no memory) SQLite has rolled back by itself, and this has nothing left to do.
        if let (Some(undo), false) = (self.undo, self.db.is_autocommit()) {
            if self.db.execute_batch(undo).is_err_and(|error| is_code(&error, ffi::SQLITE_INTERRUPT)) {
                let _ = self.by_force.raw_query().next();
            }
        }
    }
}

/// Puts the host's `PRAGMA count_changes` off for a while: with it, every write gives a row.
struct PlainCounts<'a> {
    db: &'a Connection,
    were_on: bool,
}

impl<'a> PlainCounts<'a> {
    fn new(db: &'a Connection) -> Result<PlainCounts<'a>> {
        // Builds without deprecated pragmas give no row.
        let on: Option<bool> = db.query_row("PRAGMA count_changes", [], |row| row.get(0)).optional()?;
        let were_on = on.unwrap_or(false);
        if were_on {
            db.execute_batch("PRAGMA count_changes = 0")?;
        }
        Ok(PlainCounts { db, were_on })
    }
}

impl Drop for PlainCounts<'_> {
    fn drop(&mut self) {
        if self.were_on {
            let _ = self.db.execute_batch("PRAGMA count_changes = 1");
        }
    }
}

/// Whether the error is SQLite's `code` (its primary one).
pub fn is_code(error: &rusqlite::Error, code: i32) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code & 0xff == code & 0xff)
}

/// The extended result code of the error just returned on this connection. Hosts rarely turn extended codes on, so that the
/// error itself has only the primary one.
pub fn extended_code(db: &Connection) -> i32 {
    // SAFETY: the handle is open while `db` is borrowed, and the call only reads a number from it.
    unsafe { ffi::sqlite3_extended_errcode(db.handle()) }
}

/// Whether the table does not take the row: a constraint stood in the way, or its INTEGER PRIMARY KEY would have been a text.
pub fn is_refusal(error: &rusqlite::Error) -> bool {
    is_code(error, ffi::SQLITE_CONSTRAINT) || is_code(error, ffi::SQLITE_MISMATCH)
}
