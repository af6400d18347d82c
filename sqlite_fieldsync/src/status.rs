//! `fs_status`, and `fs_note_failure` with its schedule: how things stand, and when to try next.
//!
//! Invariant: the schedule is in the database, so that any scheduler, or several, can ask "now?".

use crate::call::{self, Function};
use crate::conflicts;
use crate::emptied;
use crate::error::Result;
use crate::sql::atomically;
use crate::state::{self, Standing};
use fieldsync_core::Value;
use rusqlite::Connection;
use serde_json::json;

/// The wait after the first failure; each further one doubles it.
const DELAY_MIN_S: i64 = 30;
/// The longest wait.
const DELAY_MAX_S: i64 = 6 * 60 * 60;
/// Notes that the status shows.
const NOTES_SHOWN: i64 = 5;

pub(crate) fn register(db: &Connection) -> Result<()> {
    Function { name: "fs_status", arities: &[0], writes: false, deterministic: false, body: fs_status }.register(db)?;
    Function { name: "fs_note_failure", arities: &[1], writes: true, deterministic: false, body: fs_note_failure }
        .register(db)
}

fn fs_status(db: &Connection, _: &[Value]) -> Result<Value> {
    let standing = Standing::load(db)?;
    let text = |name: &str| -> Result<serde_json::Value> { Ok(state::get(db, name)?.to_json()) };
    let count = |sql: &str| -> Result<i64> { Ok(db.prepare_cached(sql)?.query_row([], |row| row.get(0))?) };
    let mut statement = db.prepare_cached(
        "SELECT t.name, t.state, t.table_no, (SELECT count(*) FROM main.fs_log l WHERE l.clock > ?1 AND l.what >> 3 = t.table_no)
         FROM main.fs_table t ORDER BY t.table_no",
    )?;
    let mut tables = Vec::new();
    let mut pending = 0;
    let mut rows = statement.query([standing.watermark_place])?;
    let waiting = emptied::waiting(db)?;
    while let Some(row) = rows.next()? {
        // Nobody is to hear that all has been sent while records wait.
        let waiting = waiting.get(&row.get(2)?).copied().unwrap_or(0);
        let changes = row.get::<_, i64>(3)?.max(waiting);
        pending += changes;
        tables
            .push(json!({ "table": row.get::<_, String>(0)?, "state": row.get::<_, String>(1)?, "pending": changes }));
    }
    let mut statement = db.prepare_cached("SELECT noted_at, text FROM main.fs_note ORDER BY note_no DESC LIMIT ?1")?;
    let notes: Vec<serde_json::Value> = statement
        .query_map([NOTES_SHOWN], |row| {
            Ok(json!({ "at": row.get::<_, String>(0)?, "text": row.get::<_, String>(1)? }))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let (now, latest): (String, String) = db.query_row(
        "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), strftime('%Y-%m-%dT%H:%M:%fZ', 'now', printf('+%d seconds', ?1))",
        [DELAY_MAX_S],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let next = state::get(db, "next_attempt")?;
    // Nobody waits longer than the longest wait: the clock was ahead when that was written down.
    let due = !matches!(&next, Value::Text(next) if *next > now && *next <= latest);
    Ok(Value::Text(
        json!({
            "client_id": standing.client_id,
            "pending": pending,
            "conflicts": conflicts::open_count(db)?,
            "last_sync": text("last_sync")?,
            "watermark": standing.watermark.0,
            "attempts": state::integer(db, "attempts")?,
            "next_attempt": next.to_json(),
            "due": due,
            "last_error": text("last_error")?,
            "signed": standing.key.is_some(),
            "history": format!("{:08x}", standing.history),
            "cursor": standing.cursor.as_ref().map(ToString::to_string),
            "logged": count("SELECT count(*) FROM main.fs_log WHERE what >= 8")?,
            "kept_for_later": count("SELECT count(*) FROM main.fs_later")?,
            "retention_days": state::integer(db, "retention_days")?,
            "tables": tables,
            "notes": notes,
        })
        .to_string(),
    ))
}

fn fs_note_failure(db: &Connection, arguments: &[Value]) -> Result<Value> {
    let reason = call::optional_text(arguments, 0, "the reason")?.unwrap_or_default().to_owned();
    atomically(db, || {
        Standing::load(db)?;
        let attempts = state::integer(db, "attempts")?.saturating_add(1);
        let delay = DELAY_MIN_S.saturating_mul(1 << (attempts - 1).clamp(0, 20)).min(DELAY_MAX_S);
        // Half of the wait is fixed, half is chance: devices that failed together do not come back together.
        let next: String = db.query_row(
            "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now', printf('+%.3f seconds', ?1 * (0.5 + (random() & 1023) / 2046.0)))",
            [delay as f64],
            |row| row.get(0),
        )?;
        state::set_integer(db, "attempts", attempts)?;
        state::set(db, "last_error", &Value::Text(reason))?;
        state::set(db, "next_attempt", &Value::Text(next.clone()))?;
        let now: String = db.query_row("SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now')", [], |row| row.get(0))?;
        state::set(db, "last_attempt", &Value::Text(now))?;
        Ok(Value::Text(next))
    })
}
