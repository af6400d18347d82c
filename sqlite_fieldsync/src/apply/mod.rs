//! `fs_apply_delta`: the hub's answer, as one transaction.
//!
//! Invariants:
//! * Rows, cursor, watermark and report move together or not at all.
//! * An answer that is late, or comes twice, changes nothing; one for another client, database or history is refused.
//! * Afterwards every row shows the hub's values, except where this device has changes that the hub has not answered, or
//!   that it rejected and nobody has settled.

mod history;
mod kept;
mod mute;
mod references;
mod rows;
mod writer;

use crate::call::{self, Function};
use crate::conflicts::{self, Pinned};
use crate::error::{Error, Result};
use crate::log::{self, LogTable};
use crate::sql::atomically;
use crate::state::{self, Standing};
use crate::track;
use fieldsync_core::coalesce::Logged;
use fieldsync_core::limits::Limits;
use fieldsync_core::reply::{ConflictNotice, Notice, Reply};
use fieldsync_core::wire::decode_reply;
use fieldsync_core::{Hlc, Value};
use rows::{Applied, Unanswered};
use rusqlite::{Connection, OptionalExtension};
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// The latest clock that is taken over from a hub; the year 4199. A clock beyond would leave no room to count on.
const CLOCK_MAX: u64 = 1 << 62;

pub(crate) fn register(db: &Connection) -> Result<()> {
    Function { name: "fs_apply_delta", arities: &[1], writes: true, deterministic: false, body: fs_apply_delta }
        .register(db)
}

fn fs_apply_delta(db: &Connection, arguments: &[Value]) -> Result<Value> {
    let blob = call::blob(arguments, 0, "the reply")?;
    atomically(db, || {
        let standing = Standing::load(db)?;
        let reply = decode_reply(blob, standing.key.as_ref(), &Limits::default())?;
        if reply.client != standing.tag() {
            return Err(Error::NotForUs("it is for another client".into()));
        }
        let Some(sequence) = sequence_of(db, &reply)? else {
            return Err(Error::NotForUs("it answers an export that this database has not made".into()));
        };
        track::renew(db)?;
        forget_notes(db)?;
        let behind = standing.history == reply.history
            && standing.cursor.as_ref().is_some_and(|cursor| !reply.body.cursor.covers(cursor));
        let report =
            if sequence <= state::integer(db, "parent_sequence")? || (behind && history::notice(&reply).is_none()) {
                // A later answer has been applied, and it said all that this one says; a cursor never goes back.
                Report::default()
            } else if let Some(notice) = history::notice(&reply) {
                history::turn(db, &standing, &reply, notice)?
            } else {
                if standing.history != 0 && reply.history != standing.history {
                    return Err(Error::NotForUs("it is of another hub, or of another history of this one".into()));
                }
                Apply::new(db, standing, sequence)?.run(reply)?
            };
        Ok(Value::Text(report.to_json(db)?))
    })
}

fn sequence_of(db: &Connection, reply: &Reply) -> Result<Option<i64>> {
    Ok(db
        .prepare_cached("SELECT max(sequence) FROM main.fs_batch WHERE batch = ?1")?
        .query_row([reply.body.batch as i64], |row| row.get(0))
        .optional()?
        .flatten())
}

/// Notes of rows in the way that no replacement followed (see [`crate::triggers`]) are of no use to a later one.
fn forget_notes(db: &Connection) -> Result<()> {
    for known in track::tracked(db)?.iter().filter(|known| known.state == "tracked") {
        db.prepare_cached(&format!("DELETE FROM main.fs_gone_{}", known.table_no))?.execute([])?;
    }
    Ok(())
}

/// What the caller learns.
#[derive(Debug, Default)]
struct Report {
    applied: Applied,
    acknowledged: u64,
    conflicts: u64,
    rejected: u64,
    more: bool,
    warnings: Vec<String>,
}

impl Report {
    fn to_json(&self, db: &Connection) -> Result<String> {
        let watermark = state::integer(db, "watermark")?;
        let pending: bool = db
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM main.fs_log WHERE clock > ?1 AND what > 0)")?
            .query_row([watermark], |row| row.get(0))?;
        let to_tell: bool = db
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM main.fs_want)
                     OR EXISTS (SELECT 1 FROM main.fs_conflict WHERE told <= 0 AND hub_id IS NOT NULL)",
            )?
            .query_row([], |row| row.get(0))?;
        Ok(json!({
            "applied": self.applied.rows,
            "acknowledged": self.acknowledged,
            "conflicts": self.conflicts,
            "rejected": self.rejected,
            "more": self.more || pending || to_tell || state::integer(db, "repull")? != 0,
            "kept_for_later": self.applied.kept,
            "stepped_aside": self.applied.stepped_aside,
            "warnings": self.warnings,
        })
        .to_string())
    }
}

struct Apply<'a> {
    db: &'a Connection,
    standing: Standing,
    sequence: i64,
    tables: HashMap<i64, LogTable>,
}

impl<'a> Apply<'a> {
    fn new(db: &'a Connection, standing: Standing, sequence: i64) -> Result<Apply<'a>> {
        Ok(Apply { db, standing, sequence, tables: LogTable::all(db)? })
    }

    fn run(&self, reply: Reply) -> Result<Report> {
        let body = reply.body;
        let watermark = self.standing.watermark.max(body.watermark);
        let mut report = Report {
            acknowledged: body.outcomes.total(),
            conflicts: body.outcomes.conflict,
            rejected: body.outcomes.rejected,
            more: body.more,
            ..Report::default()
        };
        let pending = self.notices(&body.notices, watermark, &mut report)?;
        let unanswered = self.unanswered(&pending);
        let pinned = Pinned::load(self.db)?;
        let mut tables = kept::take_rows(self.db)?;
        tables.extend(body.tables);
        self.db.execute("DELETE FROM main.fs_want WHERE asked <= ?1", [self.sequence])?;
        let reconciling = history::reconciling(self.db, self.answers_repull()?)?;
        report.applied = rows::write(self.db, tables, &unanswered, &pinned, &reconciling)?;
        self.advance(&body.cursor, body.batch, watermark, body.clock)?;
        state::set_integer(self.db, "history", i64::from(reply.history))?;
        self.succeed(reply.hub_now_ms, body.cursor.xmax)?;
        if !reconciling.is_empty() && !body.more {
            history::offer_what_differs(self.db, &self.tables, &unanswered, &reconciling)?;
        }
        Ok(report)
    }

    /// Records what the hub says, and gives the changes that it has not answered.
    fn notices(&self, notices: &[Notice], watermark: Hlc, report: &mut Report) -> Result<Vec<Logged>> {
        let rejections = notices.iter().any(|notice| matches!(notice, Notice::Conflict(_)));
        let after = if rejections { self.standing.watermark } else { watermark };
        let mut entries = log::read(self.db, &self.tables, after, Hlc::from_i64(i64::MAX))?.entries;
        for notice in notices {
            match notice {
                Notice::Conflict(conflict) => {
                    let span = self.table_no(conflict).and_then(|table_no| {
                        conflicts::span_of(&entries, table_no, &conflict.key, conflict.clock.max(watermark))
                    });
                    conflicts::record(self.db, conflict, span)?;
                }
                Notice::Warning(text) => {
                    state::note(self.db, text)?;
                    report.warnings.push(text.clone());
                }
                Notice::NewIdentity { .. } | Notice::NewHistory { .. } | Notice::NamesWanted => {}
            }
        }
        entries.retain(|entry| entry.clock > watermark);
        Ok(entries)
    }

    fn table_no(&self, conflict: &ConflictNotice) -> Option<i64> {
        self.tables.values().find(|table| table.name.eq_ignore_ascii_case(&conflict.table)).map(|table| table.table_no)
    }

    fn unanswered(&self, entries: &[Logged]) -> Unanswered {
        let table = |table_no: u32| self.tables.get(&i64::from(table_no));
        let column = |table_no: u32, slot: u16| {
            table(table_no)?
                .columns
                .iter()
                .find(|column| column.slot == i64::from(slot))
                .map(|column| column.name.as_str())
        };
        Unanswered::new(entries, |table_no| table(table_no).map(|table| table.name.as_str()), column)
    }

    /// Whether this answers an export that asked for everything.
    fn answers_repull(&self) -> Result<bool> {
        let asked = state::integer(self.db, "repull_sequence")?;
        Ok(asked > 0 && self.sequence >= asked)
    }

    /// Cursor, watermark, chain and clock after an answer.
    fn advance(&self, cursor: &fieldsync_core::Snapshot, batch: u64, watermark: Hlc, clock: Hlc) -> Result<()> {
        let db = self.db;
        let last: i64 = db.query_row("SELECT max(clock) FROM main.fs_log", [], |row| row.get(0))?;
        let parked = conflicts::first_parked(db)?;
        if Some(cursor) != self.standing.cursor.as_ref() && (Hlc::from_i64(last) > watermark || parked.is_some()) {
            // What is pending or parked was written without this answer.
            db.prepare_cached("INSERT OR IGNORE INTO main.fs_base(until, snapshot) VALUES (?1, ?2)")?
                .execute((last, self.standing.cursor.as_ref().map(ToString::to_string)))?;
        }
        db.prepare_cached("DELETE FROM main.fs_base WHERE until <= ?1")?
            .execute([parked.map_or(watermark.as_i64(), |first| watermark.as_i64().min(first - 1))])?;
        state::set(db, "cursor", &Value::Text(cursor.to_string()))?;
        state::set_integer(db, "watermark", watermark.as_i64())?;
        state::set_integer(db, "parent", batch as i64)?;
        state::set_integer(db, "parent_sequence", self.sequence)?;
        if self.answers_repull()? {
            state::set_integer(db, "repull", 0)?;
            state::set_integer(db, "repull_sequence", 0)?;
        }
        if clock.as_i64() > last && clock.0 <= CLOCK_MAX {
            db.prepare_cached("INSERT INTO main.fs_log(clock, what) VALUES (?1, 0)")?.execute([clock.as_i64()])?;
        }
        db.execute("UPDATE main.fs_conflict SET told = 1 WHERE told < 0 AND -told <= ?1", [self.sequence])?;
        Ok(())
    }

    fn succeed(&self, hub_now_ms: u64, version: u64) -> Result<()> {
        let db = self.db;
        let now = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";
        let at: String = db.query_row(&format!("SELECT {now}"), [], |row| row.get(0))?;
        state::set(db, "last_attempt", &Value::Text(at.clone()))?;
        state::set(db, "last_sync", &Value::Text(at))?;
        if state::integer(db, "reconciling")? == 0 {
            state::set_integer(db, "hub_now_ms", hub_now_ms as i64)?;
        }
        state::set_integer(db, "attempts", 0)?;
        state::set(db, "next_attempt", &Value::Null)?;
        state::set(db, "last_error", &Value::Null)?;
        db.execute(
            &format!(
                "UPDATE main.fs_table SET last_synced_version = ?1, last_synced_at = {now} WHERE state = 'tracked'"
            ),
            [version as i64],
        )?;
        Ok(())
    }
}

/// Writes what was kept for a table that is there now.
pub fn deliver_kept(db: &Connection, table: &str) -> Result<()> {
    let tables = kept::take_table(db, table)?;
    if tables.is_empty() {
        return Ok(());
    }
    let standing = Standing::load(db)?;
    let apply = Apply::new(db, standing, 0)?;
    let pending = log::read(db, &apply.tables, apply.standing.watermark, Hlc::from_i64(i64::MAX))?.entries;
    let unanswered = apply.unanswered(&pending);
    let pinned = Pinned::load(db)?;
    rows::write(db, tables, &unanswered, &pinned, &HashSet::new())?;
    Ok(())
}
