//! `fs_purge`: drops what the hub has answered and nobody needs any more.
//!
//! Invariants: nothing goes that is pending, or of which the hub has not told what became, or of a rejected change that waits for a
//! person; and the log goes on to begin with a mark: whole runs go, so that no clock of what stays changes ([`crate::log`]).

use crate::call::{self, Function};
use crate::error::{Error, Result};
use crate::sql::{atomically, now_ms};
use crate::state::{self, Standing};
use crate::{conflicts, made_anew, track};
use fieldsync_core::{Hlc, Value};
use rusqlite::Connection;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

pub(crate) fn register(db: &Connection) -> Result<()> {
    Function { name: "fs_purge", arities: &[0, 1], writes: true, deterministic: false, body: fs_purge }.register(db)
}

fn fs_purge(db: &Connection, arguments: &[Value]) -> Result<Value> {
    let days = call::optional_integer(arguments, 0, "days")?;
    if days.is_some_and(|days| days < 0) {
        return Err(Error::argument("days must be 0 or more"));
    }
    atomically(db, || {
        let standing = Standing::load(db)?;
        track::renew(db)?;
        let days = days.map_or_else(|| state::integer(db, "retention_days"), Ok)?;
        let age = now_ms(db)?.saturating_sub(u64::try_from(days).unwrap_or(0).saturating_mul(DAY_MS));
        // A rejection that is still to be told of needs its change.
        let told = state::told(db, &standing)?.clock;
        // With 0 days everything told goes, also what a fast clock stamped ahead of now.
        let until = if days == 0 { told } else { told.min(Hlc::from_ms(age)) };
        Ok(Value::Int(purge(db, until)?))
    })
}

/// Drops log entries up to a clock, which must not be beyond what the hub has told of.
pub fn purge(db: &Connection, until: Hlc) -> Result<i64> {
    let parked = conflicts::first_parked(db)?;
    let mut most = until.as_i64();
    if let Some(parked) = parked {
        most = most.min(parked);
    }
    // Nor does what was logged since a table that was made anew was compared: what differs for it is not offered.
    if let Some(from) = made_anew::compared_from(db)? {
        most = most.min(from.clock.as_i64());
    }
    // At a mark clocks and places are alike: everything before it is older than it.
    let begin: i64 =
        db.query_row("SELECT ifnull(max(clock), 0) FROM main.fs_log WHERE what = 0 AND clock <= ?1", [most], |row| {
            row.get(0)
        })?;
    let count: i64 =
        db.query_row("SELECT count(*) FROM main.fs_log WHERE clock < ?1 AND what >= 8", [begin], |row| row.get(0))?;
    for known in track::tracked(db)? {
        let present: bool = db
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = ?1)")?
            .query_row([format!("fs_side_{}", known.table_no)], |row| row.get(0))?;
        if present {
            db.execute(&format!("DELETE FROM main.fs_side_{} WHERE clock < ?1", known.table_no), [begin])?;
        }
    }
    db.execute("DELETE FROM main.fs_log WHERE clock < ?1", [begin])?;
    db.execute(
        "DELETE FROM main.fs_conflict WHERE status = 'resolved' AND told = 1 AND kept IS NULL
         AND resolved_at < strftime('%Y-%m-%dT%H:%M:%fZ', ?1 / 86400000.0 + 2440587.5)",
        [until.ms() as f64],
    )?;
    Ok(count)
}
