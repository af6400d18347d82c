//! What this device had seen of the hub when it wrote: `fs_base`, up to which clock it was which cursor. Where it says nothing, the
//! present cursor holds.
//!
//! Invariant: a base never says more than was seen. A value of the hub that is kept for want of a place here has not been seen, though
//! the cursor counts it.

use crate::error::{Error, Result};
use crate::log;
use crate::sql::Bound;
use crate::state;
use fieldsync_core::{Hlc, Snapshot, Value};
use rusqlite::Connection;

/// What is logged so far was written with this in sight (NULL: nothing), unless it is said already.
pub fn until_now(db: &Connection, snapshot: &Value) -> Result<()> {
    let until = log::mark(db, log::last(db)?, Hlc::default())?;
    db.prepare_cached("INSERT OR IGNORE INTO main.fs_base(until, snapshot) VALUES (?1, ?2)")?
        .execute((until, Bound(snapshot)))?;
    Ok(())
}

/// Of what is logged so far nothing was written with more in sight than `seen` (none: nothing).
pub fn at_most(db: &Connection, seen: Option<&str>) -> Result<()> {
    until_now(db, &state::get(db, "cursor")?)?;
    let parsed = |text: &str| text.parse::<Snapshot>().map_err(|_| Error::OwnData(format!("base {text}")));
    let limit = seen.map(parsed).transpose()?;
    let mut statement = db.prepare("SELECT until, snapshot FROM main.fs_base WHERE snapshot IS NOT NULL")?;
    let bases: Vec<(i64, String)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    for (until, snapshot) in bases {
        let snapshot = parsed(&snapshot)?;
        if limit.as_ref().is_none_or(|limit| snapshot.covers(limit)) {
            db.prepare_cached("UPDATE main.fs_base SET snapshot = ?2 WHERE until = ?1")?.execute((until, seen))?;
        }
    }
    Ok(())
}
