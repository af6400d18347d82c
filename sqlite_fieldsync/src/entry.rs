//! The C entry points: `sqlite3_sqlitefieldsync_init` of the loadable extension, and one call for static builds.
//!
//! Invariant: an SQLite that is too old is refused with a sentence before anything of it is used that it may not have.

/// The oldest SQLite that the bindings fit: 3.34.1.
pub const SQLITE_VERSION_MIN: std::os::raw::c_int = 3_034_001;

#[cfg(feature = "loadable")]
mod loadable {
    use super::SQLITE_VERSION_MIN;
    use rusqlite::{ffi, Connection};
    use std::ffi::CString;
    use std::os::raw::{c_char, c_int};
    use std::panic::{catch_unwind, AssertUnwindSafe};

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
    use rusqlite::{ffi, Connection};
    use std::os::raw::c_int;
    use std::panic::{catch_unwind, AssertUnwindSafe};

    /// For programs that link SQLite and this library statically: makes the functions known to a connection.
    ///
    /// # Safety
    /// `db` is an open connection of the SQLite that this library is linked with.
    #[no_mangle]
    pub unsafe extern "C" fn sqlite_fieldsync_register(db: *mut ffi::sqlite3) -> c_int {
        if db.is_null() || rusqlite::version_number() < super::SQLITE_VERSION_MIN {
            return ffi::SQLITE_ERROR;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: as promised by the caller; the wrapper does not close the connection.
            let db = unsafe { Connection::from_handle(db) }?;
            crate::register(&db)
        }));
        match outcome {
            Ok(Ok(())) => ffi::SQLITE_OK,
            Ok(Err(error)) => error.code(),
            Err(_) => ffi::SQLITE_INTERNAL,
        }
    }
}
