//! One way in for every SQL function: name, flags, arguments, and a body that cannot hurt the host.
//!
//! Invariants: a panic becomes an SQL error; an error's text starts with the function's name and carries SQLite's result
//! code (a busy database stays busy to the host); a function that writes is DIRECTONLY, so no trigger or view of a
//! database from elsewhere can call it.

use crate::error::{Error, Result};
use fieldsync_core::Value;
use rusqlite::ffi;
use rusqlite::Connection;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// The body of a function: the host's connection, the arguments, the answer.
pub type Body = fn(&Connection, &[Value]) -> Result<Value>;

/// One SQL function.
#[derive(Clone, Copy)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// The numbers of arguments that it takes.
    pub arities: &'static [i32],
    /// Whether it writes: then DIRECTONLY.
    pub writes: bool,
    /// Whether equal arguments give equal answers for ever.
    pub deterministic: bool,
    /// What it does.
    pub body: Body,
}

/// What went wrong, ready for SQLite.
pub struct Failure {
    /// For people; starts with the function's name.
    pub text: String,
    /// SQLite's result code.
    pub code: i32,
}

impl Function {
    /// Runs the body.
    pub fn run(&self, db: &Connection, arguments: &[Value]) -> std::result::Result<Value, Failure> {
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.body)(db, arguments)));
        match outcome {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Failure { text: format!("{}: {error}", self.name), code: error.code() }),
            Err(_) => Err(Failure {
                text: format!("{}: internal error (please report it); nothing was changed", self.name),
                code: ffi::SQLITE_INTERNAL,
            }),
        }
    }

    /// SQLite's flags, always spelled out.
    fn flags(&self) -> i32 {
        let mut flags = ffi::SQLITE_UTF8;
        if self.writes {
            flags |= ffi::SQLITE_DIRECTONLY;
        } else {
            flags |= ffi::SQLITE_INNOCUOUS;
        }
        if self.deterministic {
            flags |= ffi::SQLITE_DETERMINISTIC;
        }
        flags
    }

    /// Makes the function known to a connection.
    pub fn register(&self, db: &Connection) -> Result<()> {
        for arity in self.arities {
            backend::define(db, *self, *arity, self.flags())?;
        }
        Ok(())
    }
}

/// The argument as text; `what` names it in the error.
pub fn text<'a>(arguments: &'a [Value], at: usize, what: &str) -> Result<&'a str> {
    match arguments.get(at) {
        Some(Value::Text(text)) => Ok(text),
        _ => Err(Error::argument(format!("{what} must be text"))),
    }
}

/// The argument as text, or none if it is absent or NULL.
pub fn optional_text<'a>(arguments: &'a [Value], at: usize, what: &str) -> Result<Option<&'a str>> {
    match arguments.get(at) {
        None | Some(Value::Null) => Ok(None),
        _ => text(arguments, at, what).map(Some),
    }
}

/// The argument as bytes; `what` names it in the error.
pub fn blob<'a>(arguments: &'a [Value], at: usize, what: &str) -> Result<&'a [u8]> {
    match arguments.get(at) {
        Some(Value::Blob(bytes)) => Ok(bytes),
        _ => Err(Error::argument(format!("{what} must be a BLOB"))),
    }
}

/// The argument as an integer, or none if it is absent or NULL.
pub fn optional_integer(arguments: &[Value], at: usize, what: &str) -> Result<Option<i64>> {
    match arguments.get(at) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Int(number)) => Ok(Some(*number)),
        _ => Err(Error::argument(format!("{what} must be an integer"))),
    }
}

#[cfg(feature = "loadable")]
mod backend {
    //! Through sqlite-loadable. Its faults are fenced in here: types and lengths are looked at before a value is read,
    //! and nothing unwinds or fails through it.

    use super::{Connection, Failure, Function, Value};
    use crate::error::{Error, Result};
    use sqlite_loadable::api::{self, ValueType};
    use sqlite_loadable::ext::{sqlite3, sqlite3_context, sqlite3_value};
    use sqlite_loadable::{define_scalar_function, FunctionFlags};

    pub(super) fn define(db: &Connection, function: Function, arity: i32, flags: i32) -> Result<()> {
        let body = move |context: *mut sqlite3_context, values: &[*mut sqlite3_value]| {
            answer(context, call(function, context, values));
            Ok(())
        };
        // SAFETY: the handle is used for this call only, while `db` is borrowed.
        let handle = unsafe { db.handle() }.cast::<sqlite3>();
        let flags = FunctionFlags::from_bits_truncate(flags);
        define_scalar_function(handle, function.name, arity, body, flags)
            .map_err(|error| Error::argument(format!("cannot define {}: {error:?}", function.name)))
    }

    fn call(
        function: Function,
        context: *mut sqlite3_context,
        values: &[*mut sqlite3_value],
    ) -> std::result::Result<Value, Failure> {
        let arguments: Vec<Value> = values.iter().map(read).collect();
        let handle = api::context_db_handle(context).cast::<rusqlite::ffi::sqlite3>();
        // SAFETY: SQLite gives the open connection that this call runs on; the wrapper does not own it.
        let db = unsafe { Connection::from_handle(handle) }.map_err(|error| Failure {
            text: format!("{}: {error}", function.name),
            code: rusqlite::ffi::SQLITE_ERROR,
        })?;
        function.run(&db, &arguments)
    }

    fn read(value: &*mut sqlite3_value) -> Value {
        match api::value_type(value) {
            ValueType::Null => Value::Null,
            ValueType::Integer => Value::Int(api::value_int64(value)),
            ValueType::Float => Value::Real(api::value_double(value)),
            ValueType::Text => api::value_text(value).map_or(Value::Null, Value::from),
            ValueType::Blob if api::value_bytes(value) == 0 => Value::Blob(Vec::new()),
            ValueType::Blob => Value::Blob(api::value_blob(value).to_vec()),
        }
    }

    fn answer(context: *mut sqlite3_context, outcome: std::result::Result<Value, Failure>) {
        match outcome {
            Ok(Value::Null) => api::result_null(context),
            Ok(Value::Int(number)) => api::result_int64(context, number),
            Ok(Value::Real(number)) => api::result_double(context, number),
            Ok(Value::Text(text)) => {
                if api::result_text(context, text).is_err() {
                    api::result_error_code(context, rusqlite::ffi::SQLITE_TOOBIG);
                }
            }
            Ok(Value::Blob(bytes)) if i32::try_from(bytes.len()).is_err() => {
                api::result_error_code(context, rusqlite::ffi::SQLITE_TOOBIG);
            }
            Ok(Value::Blob(bytes)) => api::result_blob(context, &bytes),
            Err(failure) => {
                // Text first: the code alone would put SQLite's stock phrase in its place.
                let text = failure.text.replace('\0', " ");
                if api::result_error(context, &text).is_ok() {
                    api::result_error_code(context, failure.code);
                } else {
                    api::result_error_code(context, rusqlite::ffi::SQLITE_INTERNAL);
                }
            }
        }
    }
}

#[cfg(not(feature = "loadable"))]
mod backend {
    //! Through rusqlite, where SQLite is linked into the same program.

    use super::{Connection, Failure, Function, Value};
    use crate::error::Result;
    use rusqlite::functions::{Context, FunctionFlags};
    use rusqlite::types::{ToSqlOutput, Value as Sql};

    pub(super) fn define(db: &Connection, function: Function, arity: i32, flags: i32) -> Result<()> {
        let body = move |context: &Context<'_>| -> rusqlite::Result<ToSqlOutput<'static>> {
            let arguments: Vec<Value> =
                (0..context.len()).map(|at| crate::sql::value_from(context.get_raw(at))).collect();
            // SAFETY: the connection is used by this call only, on the thread that SQLite runs it on.
            let db = unsafe { context.get_connection() }?;
            match function.run(&db, &arguments) {
                Ok(answer) => Ok(ToSqlOutput::Owned(owned(answer))),
                Err(Failure { text, code }) => {
                    Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(text)))
                }
            }
        };
        let flags = FunctionFlags::from_bits_truncate(flags);
        db.create_scalar_function(function.name, arity, flags, body)?;
        Ok(())
    }

    fn owned(value: Value) -> Sql {
        match value {
            Value::Null => Sql::Null,
            Value::Int(number) => Sql::Integer(number),
            Value::Real(number) => Sql::Real(number),
            Value::Text(text) => Sql::Text(text),
            Value::Blob(bytes) => Sql::Blob(bytes),
        }
    }
}
