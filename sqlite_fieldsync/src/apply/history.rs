//! Turning points that the hub announces: this database is a copy, or the hub's own history has changed.
//!
//! Invariant: nothing unsent is lost. After either turn the next export offers again whatever the hub does not have.

use super::Report;
use crate::error::Result;
use crate::state::{self, Standing};
use fieldsync_core::reply::{Notice, Reply};
use fieldsync_core::{Hlc, Value};
use rusqlite::Connection;

/// The turning point in a reply, if it announces one.
pub(super) fn notice(reply: &Reply) -> Option<&Notice> {
    reply.body.notices.iter().find(|notice| matches!(notice, Notice::NewIdentity { .. } | Notice::NewHistory { .. }))
}

/// Takes the turn.
pub(super) fn turn(db: &Connection, standing: &Standing, reply: &Reply, notice: &Notice) -> Result<Report> {
    let last: i64 = db.query_row("SELECT max(clock) FROM main.fs_log", [], |row| row.get(0))?;
    let text = match notice {
        Notice::NewIdentity { client_id, reason } => {
            state::set(db, "client_id", &Value::Text(client_id.clone()))?;
            if let Some(key) = &standing.key {
                state::set(db, "mac_key", &Value::Blob(key.derive(client_id).0.to_vec()))?;
            }
            state::set_integer(db, "parent", 0)?;
            state::set_integer(db, "history", i64::from(reply.history))?;
            format!(
                "this database is a copy of client '{}' and is now client '{client_id}': {reason}",
                standing.client_id
            )
        }
        Notice::NewHistory { watermark, last_batch, reason } => {
            state::set_integer(db, "history", i64::from(reply.history))?;
            state::set(db, "cursor", &Value::Null)?;
            state::set_integer(db, "parent", *last_batch as i64)?;
            state::set_integer(db, "watermark", watermark.as_i64().min(standing.watermark.as_i64()))?;
            // Whatever is pending from here on was written without having seen the new history.
            db.execute("DELETE FROM main.fs_base", [])?;
            db.execute("INSERT INTO main.fs_base(until, snapshot) VALUES (?1, NULL)", [last])?;
            state::set_integer(db, "recovery_as_of", Hlc::from_ms(state::integer(db, "hub_now_ms")? as u64).as_i64())?;
            state::set_integer(db, "reconciling", 1)?;
            // The numbers of conflicts that the hub has forgotten will be given again.
            db.execute(
                "UPDATE main.fs_conflict SET hub_id = NULL,
                        status = 'resolved', resolved_at = coalesce(resolved_at, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
                        detail = detail || ' (the hub was restored; the change is offered again)'
                 WHERE hub_id IS NOT NULL AND coalesce(last_clock, ?1) > ?2",
                [last, watermark.as_i64()],
            )?;
            format!("the hub has a new history: {reason}")
        }
        Notice::Conflict(_) | Notice::Warning(_) => String::new(),
    };
    // The chain starts anew: exports made before will not be answered.
    let sequence: i64 = db.query_row("SELECT ifnull(max(sequence), 0) FROM main.fs_batch", [], |row| row.get(0))?;
    state::set_integer(db, "parent_sequence", sequence)?;
    state::note(db, &text)?;
    Ok(Report { more: true, warnings: vec![text], ..Report::default() })
}
