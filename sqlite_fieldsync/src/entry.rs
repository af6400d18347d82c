//! The C entry point, `sqlite3_sqlitefieldsync_init`, in two kinds: of the loadable extension, and of the static library.
//!
//! Invariants: an SQLite that is too old is refused with a sentence before anything of it is used that it may not have. The
//! loadable extension works through one SQLite library per process, and refuses a second one before it mixes the two up.

/// The oldest SQLite that the bindings fit: 3.34.1.
pub const SQLITE_VERSION_MIN: std::os::raw::c_int = 3_034_001;

#[cfg(feature = "loadable")]
mod loadable {
    use super::SQLITE_VERSION_MIN;
    use rusqlite::{ffi, Connection};
    use std::ffi::CString;
    use std::os::raw::{c_char, c_int};
    use std::panic::{catch_unwind, AssertUnwindSafe};
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicPtr, Ordering};

    /// The API table of the SQLite library that this one was loaded by first.
    static API: AtomicPtr<ffi::sqlite3_api_routines> = AtomicPtr::new(null_mut());

    /// SQLite calls this for `.load sqlite_fieldsync`.
    ///
    /// # Safety
    /// Only SQLite calls it, with an open connection, a place for an error text, and its API table.
    #[no_mangle]
    pub unsafe extern "C" fn sqlite3_sqlitefieldsync_init(
        db: *mut ffi::sqlite3,
        error: *mut *mut c_char,
        api: *mut ffi::sqlite3_api_routines,
    ) -> c_int {
        // SAFETY: as promised by SQLite; see above.
        let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { start(db, api) }));
        let text = match outcome {
            Ok(Ok(())) => return ffi::SQLITE_OK,
            Ok(Err(text)) => text,
            Err(_) => "sqlite_fieldsync: internal error while loading".to_owned(),
        };
        // SAFETY: the API table is SQLite's own; `error`, where given, is a place for a string from sqlite3_malloc.
        unsafe { say(error, api, &text) };
        ffi::SQLITE_ERROR
    }

    unsafe fn start(db: *mut ffi::sqlite3, api: *mut ffi::sqlite3_api_routines) -> Result<(), String> {
        if db.is_null() || api.is_null() {
            return Err("sqlite_fieldsync: SQLite gave no connection".into());
        }
        // SAFETY: `api` is not null; libversion_number stands in every version of the table.
        let version = unsafe { (*api).libversion_number.map_or(0, |version| version()) };
        if version < SQLITE_VERSION_MIN {
            return Err(format!(
                "sqlite_fieldsync needs SQLite 3.34.1 or later, and this is {}.{}.{}; the database itself can still be used",
                version / 1_000_000,
                version / 1000 % 1000,
                version % 1000
            ));
        }
        // A process can hold two SQLite libraries (Python's sqlite3 and apsw, say). There is one place for the table, and the
        // connections of the first would be worked on with the code of the second.
        match API.compare_exchange(null_mut(), api, Ordering::SeqCst, Ordering::SeqCst) {
            Err(first) if first != api => {
                return Err("sqlite_fieldsync: another SQLite library of this process has loaded this file already; \
                            load a copy of it under another name"
                    .into());
            }
            Ok(_) | Err(_) => {}
        }
        // SAFETY: both keep the table for the life of the process, which is how long SQLite keeps it.
        unsafe {
            sqlite_loadable::ext::faux_sqlite_extension_init2(api.cast());
            ffi::rusqlite_extension_init2(api).map_err(|error| format!("sqlite_fieldsync: {error}"))?;
        }
        // SAFETY: the connection is open, and not closed by the wrapper.
        let db = unsafe { Connection::from_handle(db) }.map_err(|error| format!("sqlite_fieldsync: {error}"))?;
        crate::register(&db).map_err(|error| format!("sqlite_fieldsync: {error}"))
    }

    /// Hands SQLite an error text in memory of its own, which it frees.
    unsafe fn say(place: *mut *mut c_char, api: *mut ffi::sqlite3_api_routines, text: &str) {
        if place.is_null() || api.is_null() {
            return;
        }
        let Ok(text) = CString::new(text.replace('\0', " ")) else { return };
        // SAFETY: mprintf stands in every version of the table; "%s" takes one C string.
        unsafe {
            if let Some(mprintf) = (*api).mprintf {
                *place = mprintf(c"%s".as_ptr(), text.as_ptr());
            }
        }
    }
}

#[cfg(not(feature = "loadable"))]
mod linked {
    use super::SQLITE_VERSION_MIN;
    use rusqlite::{ffi, Connection};
    use std::ffi::CString;
    use std::os::raw::{c_char, c_int, c_void};
    use std::panic::{catch_unwind, AssertUnwindSafe};

    /// For programs that link SQLite and this library: makes the functions known to a connection. It has the form that
    /// `sqlite3_auto_extension` takes; the API table may be NULL and is not looked at. See `include/fieldsync.h`.
    ///
    /// # Safety
    /// `db` is an open connection of the SQLite that this library is linked with, `error` NULL or a place for a text.
    #[no_mangle]
    pub unsafe extern "C" fn sqlite3_sqlitefieldsync_init(
        db: *mut ffi::sqlite3,
        error: *mut *mut c_char,
        _api: *const c_void,
    ) -> c_int {
        // SAFETY: as promised by the caller.
        let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { start(db) }));
        let (text, code) = match outcome {
            Ok(Ok(())) => return ffi::SQLITE_OK,
            Ok(Err(failed)) => failed,
            Err(_) => ("internal error while starting".to_owned(), ffi::SQLITE_INTERNAL),
        };
        if let (false, Ok(text)) = (error.is_null(), CString::new(format!("sqlite_fieldsync: {text}"))) {
            // SAFETY: "%s" takes one C string; the place was given for it, and its owner frees with sqlite3_free.
            unsafe { *error = ffi::sqlite3_mprintf(c"%s".as_ptr(), text.as_ptr()) };
        }
        code
    }

    unsafe fn start(db: *mut ffi::sqlite3) -> Result<(), (String, c_int)> {
        if db.is_null() {
            return Err(("there is no connection".into(), ffi::SQLITE_MISUSE));
        }
        let version = rusqlite::version_number();
        if version < SQLITE_VERSION_MIN {
            return Err((
                format!("it needs SQLite 3.34.1 or later, and this is {}", rusqlite::version()),
                ffi::SQLITE_ERROR,
            ));
        }
        // SAFETY: the connection is open, and not closed by the wrapper.
        let db = unsafe { Connection::from_handle(db) }.map_err(|error| (error.to_string(), ffi::SQLITE_ERROR))?;
        crate::register(&db).map_err(|error| (error.to_string(), error.code()))
    }
}
