//! The device end of fieldsync: a SQLite extension.
//!
//! Invariant: capture needs nothing of this crate. The triggers that it writes are plain SQL and work in any program with
//! any SQLite from 3.34.1 on; only the sync itself loads the extension.
//!
//! One module per SQL feature, each with `register(db)`; [`register`] is apart from the C entry point, so that unit tests and
//! static builds reuse it.

mod apply;
mod bases;
mod call;
mod conflicts;
mod drift;
mod dropped;
mod emptied;
mod entry;
mod error;
mod export;
mod init;
mod inspect;
mod log;
mod made_anew;
mod purge;
mod resolve;
mod schema;
mod shapes;
mod sql;
mod state;
mod status;
mod track;
mod triggers;
mod views;

pub use error::{Error, Result};

use rusqlite::Connection;

/// Makes every function known to a connection.
pub fn register(db: &Connection) -> Result<()> {
    init::register(db)?;
    track::register(db)?;
    export::register(db)?;
    apply::register(db)?;
    status::register(db)?;
    resolve::register(db)?;
    purge::register(db)?;
    inspect::register(db)
}
