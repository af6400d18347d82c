//! One way in for every SQL function: name, flags, arguments, and a body that cannot hurt the host.
//!
//! Invariants: a panic becomes an SQL error; an error's text starts with the function's name and carries SQLite's result
//! code (a busy database stays busy to the host); a function that writes is DIRECTONLY, so no trigger or view of a
//! database from elsewhere can call it. That holds for too many arguments, text that is no text and values that do not fit
//! into memory as well: SQLite's own errors for these would not name the function.

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
        self.check_count(arguments.len())?;
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

    /// An error of this function's, with its name in front.
    fn failure(&self, text: impl std::fmt::Display, code: i32) -> Failure {
        Failure { text: format!("{}: {text}", self.name), code }
    }

    fn check_count(&self, count: usize) -> std::result::Result<(), Failure> {
        if self.arities.iter().any(|arity| usize::try_from(*arity) == Ok(count)) {
            return Ok(());
        }
        let least = self.arities.iter().min().copied().unwrap_or(0);
        let most = self.arities.iter().max().copied().unwrap_or(0);
        let takes = match (least, most) {
            (0, 0) => "no argument".to_owned(),
            (1, 1) => "one argument".to_owned(),
            (least, most) if least == most => format!("{least} arguments"),
            (least, most) => format!("{least} to {most} arguments"),
        };
        Err(self.failure(format!("it takes {takes}, not {count}"), ffi::SQLITE_ERROR))
    }

    /// Makes the function known to a connection, for any number of arguments: [`Function::run`] refuses the wrong ones.
    pub fn register(&self, db: &Connection) -> Result<()> {
        backend::define(db, *self, self.flags())
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

mod boundary {
    //! Between SQLite's values and ours. Nothing unwinds, and no value is copied before there is room for it.

    use super::{Connection, Failure, Function, Value};
    use rusqlite::ffi;
    use std::panic::{catch_unwind, AssertUnwindSafe};
    use std::slice::from_raw_parts;

    type Outcome<T> = std::result::Result<T, Failure>;

    /// One call of a function by SQLite.
    ///
    /// # Safety
    /// SQLite gives the context and the values, for the length of this call.
    pub(super) unsafe fn invoke(
        function: &Function,
        context: *mut ffi::sqlite3_context,
        values: &[*mut ffi::sqlite3_value],
    ) {
        let called = AssertUnwindSafe(|| {
            // SAFETY: as promised by the caller.
            unsafe {
                let outcome = call(function, context, values);
                answer(function, context, outcome);
            }
        });
        if catch_unwind(called).is_err() {
            // SAFETY: as promised by the caller.
            unsafe { ffi::sqlite3_result_error_code(context, ffi::SQLITE_INTERNAL) };
        }
    }

    unsafe fn call(
        function: &Function,
        context: *mut ffi::sqlite3_context,
        values: &[*mut ffi::sqlite3_value],
    ) -> Outcome<Value> {
        function.check_count(values.len())?;
        let mut arguments = Vec::with_capacity(values.len());
        for (at, value) in values.iter().enumerate() {
            // SAFETY: one of SQLite's values of this call.
            arguments.push(unsafe { read(function, at, *value) }?);
        }
        // SAFETY: SQLite gives the open connection that this call runs on; the wrapper does not own it.
        let db = unsafe { Connection::from_handle(ffi::sqlite3_context_db_handle(context)) }
            .map_err(|error| function.failure(error, ffi::SQLITE_ERROR))?;
        let answer = function.run(&db, &arguments)?;
        let length = match &answer {
            Value::Text(text) => text.len(),
            Value::Blob(bytes) => bytes.len(),
            Value::Null | Value::Int(_) | Value::Real(_) => 0,
        };
        // SAFETY: the connection is open; -1 only asks.
        let length_max = unsafe { ffi::sqlite3_limit(db.handle(), ffi::SQLITE_LIMIT_LENGTH, -1) };
        if usize::try_from(length_max).is_ok_and(|most| length > most) {
            return Err(function.failure(
                format!("the answer has {length} bytes, and this connection allows {length_max} (SQLITE_LIMIT_LENGTH)"),
                ffi::SQLITE_TOOBIG,
            ));
        }
        Ok(answer)
    }

    unsafe fn read(function: &Function, at: usize, value: *mut ffi::sqlite3_value) -> Outcome<Value> {
        // SAFETY: a value of this call. Text and blobs: the pointer is asked for first, as SQLite wants it; it is null where
        // there is nothing, and where memory ran out on the way.
        unsafe {
            match ffi::sqlite3_value_type(value) {
                ffi::SQLITE_INTEGER => Ok(Value::Int(ffi::sqlite3_value_int64(value))),
                ffi::SQLITE_FLOAT => Ok(Value::Real(ffi::sqlite3_value_double(value))),
                ffi::SQLITE_TEXT => {
                    let start = ffi::sqlite3_value_text(value);
                    if start.is_null() {
                        return Err(no_memory(function, at)); // even an empty text has an address
                    }
                    let bytes = copy(function, at, start, ffi::sqlite3_value_bytes(value))?;
                    String::from_utf8(bytes).map(Value::Text).map_err(|_| {
                        function.failure(format!("argument {} is text that is not UTF-8", at + 1), ffi::SQLITE_ERROR)
                    })
                }
                ffi::SQLITE_BLOB => {
                    // Memory that runs out here (`zeroblob` is made real now) looks like an empty blob afterwards.
                    let length = ffi::sqlite3_value_bytes(value);
                    let start = ffi::sqlite3_value_blob(value).cast();
                    copy(function, at, start, length).map(Value::Blob)
                }
                _ => Ok(Value::Null),
            }
        }
    }

    fn no_memory(function: &Function, at: usize) -> Failure {
        function.failure(format!("there is no memory for argument {}", at + 1), ffi::SQLITE_NOMEM)
    }

    /// A copy of a text or a blob, if there is memory for it.
    unsafe fn copy(function: &Function, at: usize, start: *const u8, length: i32) -> Outcome<Vec<u8>> {
        let length = usize::try_from(length).unwrap_or(0);
        if start.is_null() {
            return if length == 0 { Ok(Vec::new()) } else { Err(no_memory(function, at)) };
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| no_memory(function, at))?;
        // SAFETY: SQLite says that so many bytes are there.
        bytes.extend_from_slice(unsafe { from_raw_parts(start, length) });
        Ok(bytes)
    }

    unsafe fn answer(function: &Function, context: *mut ffi::sqlite3_context, outcome: Outcome<Value>) {
        // SAFETY: SQLite's context of this call; it copies texts and blobs at once.
        unsafe {
            match outcome {
                Ok(Value::Null) => ffi::sqlite3_result_null(context),
                Ok(Value::Int(number)) => ffi::sqlite3_result_int64(context, number),
                Ok(Value::Real(number)) => ffi::sqlite3_result_double(context, number),
                Ok(Value::Text(text)) => match i32::try_from(text.len()) {
                    Ok(length) => {
                        ffi::sqlite3_result_text(context, text.as_ptr().cast(), length, ffi::SQLITE_TRANSIENT());
                    }
                    Err(_) => too_big(function, context),
                },
                Ok(Value::Blob(bytes)) => match i32::try_from(bytes.len()) {
                    Ok(length) => {
                        ffi::sqlite3_result_blob(context, bytes.as_ptr().cast(), length, ffi::SQLITE_TRANSIENT());
                    }
                    Err(_) => too_big(function, context),
                },
                Err(failure) => fail(context, &failure),
            }
        }
    }

    unsafe fn too_big(function: &Function, context: *mut ffi::sqlite3_context) {
        let failure = function.failure("the answer is too large for SQLite", ffi::SQLITE_TOOBIG);
        // SAFETY: as promised by the caller.
        unsafe { fail(context, &failure) };
    }

    unsafe fn fail(context: *mut ffi::sqlite3_context, failure: &Failure) {
        // Hosts read the text as a C string: a zero, from a name that somebody typed, would cut it.
        let text = failure.text.replace('\0', " ");
        let length = i32::try_from(text.len()).unwrap_or(i32::MAX);
        // SAFETY: SQLite copies the text at once. Text first: the code alone would put SQLite's stock phrase in its place.
        unsafe {
            ffi::sqlite3_result_error(context, text.as_ptr().cast(), length);
            ffi::sqlite3_result_error_code(context, failure.code);
        }
    }
}

#[cfg(feature = "loadable")]
mod backend {
    //! Defined through sqlite-loadable. Its helpers for values are not used: they take NULL pointers for slices.

    use super::{boundary, Connection, Function};
    use crate::error::{Error, Result};
    use sqlite_loadable::ext::{sqlite3, sqlite3_context, sqlite3_value};
    use sqlite_loadable::{define_scalar_function, FunctionFlags};

    pub(super) fn define(db: &Connection, function: Function, flags: i32) -> Result<()> {
        let body = move |context: *mut sqlite3_context, values: &[*mut sqlite3_value]| {
            // SAFETY: both crates mean SQLite's own pointers, of this call.
            unsafe {
                let values = &*(std::ptr::from_ref(values) as *const [*mut rusqlite::ffi::sqlite3_value]);
                boundary::invoke(&function, context.cast(), values);
            }
            Ok(())
        };
        // SAFETY: the handle is used for this call only, while `db` is borrowed.
        let handle = unsafe { db.handle() }.cast::<sqlite3>();
        let flags = FunctionFlags::from_bits_truncate(flags);
        define_scalar_function(handle, function.name, -1, body, flags)
            .map_err(|error| Error::argument(format!("cannot define {}: {error:?}", function.name)))
    }
}

#[cfg(not(feature = "loadable"))]
mod backend {
    //! Defined directly, where SQLite is linked into the same program. (rusqlite would lose the result codes of errors.)

    use super::{boundary, Connection, Function};
    use crate::error::{Error, Result};
    use rusqlite::ffi;
    use std::ffi::CString;
    use std::os::raw::{c_int, c_void};

    pub(super) fn define(db: &Connection, function: Function, flags: i32) -> Result<()> {
        let name = CString::new(function.name).map_err(|_| Error::argument("a function's name has a zero in it"))?;
        let body = Box::into_raw(Box::new(function)).cast::<c_void>();
        // SAFETY: the connection is open, and SQLite calls `forget` with the body when it needs it no more, also after
        // an error.
        let code = unsafe {
            ffi::sqlite3_create_function_v2(
                db.handle(),
                name.as_ptr(),
                -1,
                flags,
                body,
                Some(invoke),
                None,
                None,
                Some(forget),
            )
        };
        match code {
            ffi::SQLITE_OK => Ok(()),
            code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()),
        }
    }

    unsafe extern "C" fn invoke(
        context: *mut ffi::sqlite3_context,
        count: c_int,
        values: *mut *mut ffi::sqlite3_value,
    ) {
        // SAFETY: SQLite's own pointers, of this call; the user data is the body given in `define`.
        unsafe {
            let function = &*ffi::sqlite3_user_data(context).cast::<Function>();
            let values = match usize::try_from(count) {
                Ok(count) if count > 0 => std::slice::from_raw_parts(values, count),
                _ => &[],
            };
            boundary::invoke(function, context, values);
        }
    }

    unsafe extern "C" fn forget(body: *mut c_void) {
        // SAFETY: made by `define`, given back once.
        drop(unsafe { Box::from_raw(body.cast::<Function>()) });
    }
}
