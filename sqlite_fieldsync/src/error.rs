//! What can go wrong on a device, and what a person reads then.
//!
//! Every variant says in its comment whose fault it is. The function that failed prefixes its own name
//! ([`crate::call`]); nothing was changed in any of these cases, because every call is one transaction.

use fieldsync_core::wire::WireError;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite refused something: busy, full, read-only, corrupt, or a constraint of the application's. The host decides.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A blob that cannot be read. The carrier's fault, or a forged blob.
    #[error("{}", with_hint(.0))]
    Wire(#[from] WireError),
    /// An argument that makes no sense. The caller's fault.
    #[error("{0}")]
    Argument(String),
    /// `fs_init` has not been called. The caller's fault.
    #[error("this database is not set up for syncing: call fs_init() first")]
    NotInitialised,
    /// The database belongs to another client already. The caller's fault.
    #[error("this database is client '{0}' already; a database keeps its identity")]
    OtherIdentity(String),
    /// A table that cannot be tracked, and why. The application's schema.
    #[error("table '{table}' cannot be tracked: {reason}")]
    Untrackable {
        /// The table as the caller named it.
        table: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A reply for another client, another database or another history. The carrier mixed up blobs.
    #[error("this reply is not for this database: {0}")]
    NotForUs(String),
    /// Rows of a reply that this database's own constraints refuse, even with local rows out of the way.
    #[error("row {row_id} of table '{table}' cannot be written: {reason}")]
    Row {
        /// The table.
        table: String,
        /// The row's key as text.
        row_id: String,
        /// SQLite's words.
        reason: String,
    },
    /// Foreign keys of the application that would not hold after the call.
    #[error("the rows of this reply leave table '{table}' with references to missing rows of '{parent}'")]
    Dangling {
        /// The child table.
        table: String,
        /// The parent table.
        parent: String,
    },
    /// Something that fieldsync wrote itself cannot be read back: the database was altered by hand or is damaged.
    #[error("fieldsync's own data cannot be read ({0}); restore the database, or set up a new one from the hub")]
    OwnData(String),
}

/// What is wrong with a blob, and what a person needs to know beside it.
fn with_hint(error: &WireError) -> String {
    match error {
        WireError::UnknownShape(_) => {
            format!("{error}: the names travelled in an earlier blob; look at it in the database that made it or that it is for")
        }
        _ => error.to_string(),
    }
}

impl Error {
    /// An argument error.
    pub fn argument(text: impl Into<String>) -> Error {
        Error::Argument(text.into())
    }

    /// The SQLite result code of the error. Exhaustive on purpose: a new variant does not build until it has one.
    pub fn code(&self) -> i32 {
        match self {
            Error::Sqlite(error) => {
                error.sqlite_error().map_or(rusqlite::ffi::SQLITE_ERROR, |error| error.extended_code)
            }
            Error::Wire(_) => rusqlite::ffi::SQLITE_ERROR,
            Error::Argument(_) => rusqlite::ffi::SQLITE_ERROR,
            Error::NotInitialised => rusqlite::ffi::SQLITE_ERROR,
            Error::OtherIdentity(_) => rusqlite::ffi::SQLITE_ERROR,
            Error::Untrackable { .. } => rusqlite::ffi::SQLITE_ERROR,
            Error::NotForUs(_) => rusqlite::ffi::SQLITE_ERROR,
            Error::Row { .. } => rusqlite::ffi::SQLITE_CONSTRAINT,
            Error::Dangling { .. } => rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY,
            Error::OwnData(_) => rusqlite::ffi::SQLITE_CORRUPT,
        }
    }
}

/// SQLite's own words for an error, without the wrapping that rusqlite adds.
pub fn words(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(text)) => text.clone(),
        other => other.to_string(),
    }
}
