//! Postgres errors as values.
//!
//! pgrx turns an `ereport(ERROR)` into a Rust panic and keeps the message, but not the constraint, table and column
//! that verdicts name. Statements of the merge therefore run under this barrier, which returns the whole error.
//!
//! Invariant: after an `Err` the transaction (or the internal subtransaction around it) must be rolled back before
//! anything else is asked of Postgres. [`crate::guards::subtransaction`] is the only place that goes on after one.

use pgrx::pg_sys;
use std::ffi::{c_char, CStr};

/// What Postgres said, whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SqlError {
    /// The five characters.
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// The detail, if any.
    pub detail: Option<String>,
    /// The hint, if any.
    pub hint: Option<String>,
    /// The constraint that was violated.
    pub constraint: Option<String>,
    /// The table that the error is about.
    pub table: Option<String>,
    /// The column that the error is about.
    pub column: Option<String>,
}

impl SqlError {
    /// An error of our own in the same shape.
    pub fn new(sqlstate: &str, message: impl Into<String>) -> SqlError {
        SqlError { sqlstate: sqlstate.to_owned(), message: message.into(), ..SqlError::default() }
    }

    /// Whether the cause lies in the moment and not in the data: such an error is retried or raised, never a verdict.
    /// 08 connection, 25 read-only or failed transaction, 40 rollback (deadlock, serialisation), 53 resources,
    /// 55P03 lock, 57 cancelled or shutting down, 58 system, F0 and XX damage and bugs.
    pub fn is_transient(&self) -> bool {
        self.sqlstate == "55P03"
            || ["08", "25", "40", "53", "57", "58", "F0", "XX"].iter().any(|class| self.sqlstate.starts_with(class))
    }

    /// Whether a foreign key was violated, by what is missing or by what still refers to a row. Since Postgres 18 ON DELETE RESTRICT says so
    /// with a code of its own.
    pub fn is_foreign_key(&self) -> bool {
        matches!(self.sqlstate.as_str(), "23503" | "23001")
    }

    /// Whether running the same again may succeed by itself in this transaction.
    pub fn is_worth_retrying(&self) -> bool {
        matches!(self.sqlstate.as_str(), "40P01" | "55P03")
            // SAFETY: a plain global that is set at transaction start.
            || (self.sqlstate == "40001" && unsafe { pg_sys::XactIsoLevel } < pg_sys::XACT_REPEATABLE_READ as i32)
    }
}

impl std::fmt::Display for SqlError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}", self.message)?;
        // A row that breaks a CHECK or a NOT NULL is shown as the hub stores it, with columns that are nobody's business.
        let is_row = matches!(self.sqlstate.as_str(), "23502" | "23514");
        if let Some(detail) = self.detail.as_ref().filter(|_| !is_row) {
            write!(out, " ({detail})")?;
        }
        Ok(())
    }
}

impl std::error::Error for SqlError {}

/// Runs a C function that may raise, and gives its error as a value.
///
/// # Safety
/// `call` must do nothing but call C: no Rust value with a destructor may live in it, because a raised error jumps over it.
pub unsafe fn catch<T: Copy>(call: impl FnOnce() -> T) -> Result<T, SqlError> {
    // SAFETY: the backend is single-threaded; the globals are put back on both ways out, as PG_TRY does.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let exception_stack = pg_sys::PG_exception_stack;
        let context_stack = pg_sys::error_context_stack;
        let mut result = std::mem::MaybeUninit::<T>::uninit();
        let jumped = cee_scape::call_with_sigsetjmp(false, |buffer| {
            pg_sys::PG_exception_stack = std::ptr::from_ref(buffer).cast_mut().cast();
            result.write(call());
            0
        });
        pg_sys::PG_exception_stack = exception_stack;
        pg_sys::error_context_stack = context_stack;
        if jumped == 0 {
            return Ok(result.assume_init());
        }
        pg_sys::CurrentMemoryContext = context;
        let copy = pg_sys::CopyErrorData();
        let error = read_error(&*copy);
        pg_sys::FreeErrorData(copy);
        pg_sys::FlushErrorState();
        Err(error)
    }
}

/// # Safety
/// `data` is an error record whose strings are NULL or NUL-terminated.
unsafe fn read_error(data: &pg_sys::ErrorData) -> SqlError {
    let text = |pointer: *const c_char| -> Option<String> {
        if pointer.is_null() {
            return None;
        }
        // SAFETY: not NULL, and Postgres terminates its strings.
        Some(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
    };
    SqlError {
        sqlstate: sqlstate_text(data.sqlerrcode),
        message: text(data.message).unwrap_or_default(),
        detail: text(data.detail),
        hint: text(data.hint),
        constraint: text(data.constraint_name),
        table: text(data.table_name),
        column: text(data.column_name),
    }
}

/// Postgres packs five characters of six bits each into an integer.
pub fn sqlstate_text(code: i32) -> String {
    (0..5).map(|at| char::from((((code >> (6 * at)) & 0x3f) as u8) + b'0')).collect()
}

/// The inverse of [`sqlstate_text`].
pub fn sqlstate_code(text: &str) -> i32 {
    text.bytes().take(5).enumerate().map(|(at, byte)| i32::from(byte.wrapping_sub(b'0') & 0x3f) << (6 * at)).sum()
}
