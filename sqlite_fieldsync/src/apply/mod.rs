//! `fs_apply_delta`: the hub's answer, as one transaction.
//!
//! Invariants:
//! * Rows, cursor, watermark and report move together or not at all.
//! * An answer that is late, or comes twice, changes nothing; one for another client, database or history is refused.
//! * Afterwards every row shows the hub's values, except where this device has changes that the hub has not answered, or
//!   that it rejected and nobody has settled.

mod again;
mod arriving;
mod beside;
mod history;
pub(crate) mod kept;
mod mute;
mod notices;
mod offences;
mod pass;
pub(crate) mod references;
mod room;
mod rows;
mod span;
mod unanswered;
mod writer;

pub(crate) use writer::or_abort;

use crate::call::{self, Function};
use crate::conflicts::{self, Pinned};
use crate::emptied;
use crate::error::{Error, Result};
use crate::log::{self, Entry, LogTable, Position, Scan};
use crate::made_anew;
use crate::schema::Table;
use crate::shapes::{self, Direction};
use crate::sql::atomically;
use crate::state::{self, Standing};
use crate::track;
use arriving::{Blob, Source};
use fieldsync_core::delta::Op;
use fieldsync_core::reply::{Notice, Reply, TableRows};
use fieldsync_core::wire::{ReplyStream, WireError};
use fieldsync_core::{Hlc, Snapshot, Value};
use rows::Applied;
use rusqlite::{Connection, OptionalExtension};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use unanswered::Unanswered;

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
        let (known, key) = (shapes::known(db, Direction::Down)?, standing.key.clone());
        let blob = Blob { bytes: blob, key: key.as_ref(), known: &known };
        let mut stream = blob.open()?;
        let reply = std::mem::take(&mut stream.reply);
        if reply.client != standing.tag() {
            return Err(Error::NotForUs("it is for another client".into()));
        }
        let Some(sequence) = sequence_of(db, &reply)? else {
            return Err(Error::NotForUs("it answers an export that this database has not made".into()));
        };
        track::renew(db)?;
        forget_notes(db)?;
        emptied::strike(db)?;
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
                if sequence <= state::integer(db, "unheard_until")? {
                    Report { more: true, ..Report::default() } // as if it had been lost: see `track::renew`
                } else if reply.body.notices.contains(&Notice::NamesWanted) {
                    names_for_the_hub(db)?
                } else {
                    unless_names_lack(db, || Apply::new(db, standing, sequence)?.run(reply, blob, stream))?
                }
            };
        Ok(Value::Text(report.to_json(db)?))
    })
}

/// The hub lacks names that this device had reason to leave out (it was restored): the next export has them again. Nothing
/// of the batch was taken, so it is no link of the chain.
fn names_for_the_hub(db: &Connection) -> Result<Report> {
    shapes::forget_up(db)?;
    Ok(Report { more: true, ..Report::default() })
}

/// Applies a reply, unless names are left out of it that this database does not know: then nothing of it is applied, and the
/// next export asks for them.
fn unless_names_lack(db: &Connection, apply: impl FnOnce() -> Result<Report>) -> Result<Report> {
    db.execute_batch("SAVEPOINT fs_names")?;
    let outcome = apply();
    match outcome {
        Err(Error::Wire(WireError::UnknownShape(_))) => {
            db.execute_batch("ROLLBACK TO fs_names; RELEASE fs_names")?;
            state::set_integer(db, "names_wanted", 1)?;
            let text = "the reply leaves out names that this database does not know; the next export asks for them";
            state::note(db, text)?;
            Ok(Report { more: true, warnings: vec![text.into()], ..Report::default() })
        }
        Ok(report) => {
            db.execute_batch("RELEASE fs_names")?;
            state::set_integer(db, "names_wanted", 0)?;
            Ok(report)
        }
        Err(error) => Err(error), // everything is undone
    }
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
        let answered = state::integer(db, "watermark_place")?;
        let pending: bool = db
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM main.fs_log WHERE clock > ?1 AND what >= 8)")?
            .query_row([answered], |row| row.get(0))?;
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
            "more": self.more || pending || to_tell || state::integer(db, "repull")? != 0 || made_anew::any_waits_for_news(db)?,
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

    /// `reply` is the front of what is in the blob.
    fn run<'b>(&self, reply: Reply, blob: Blob<'b>, stream: ReplyStream<'b>) -> Result<Report> {
        let body = reply.body;
        let watermark = self.standing.watermark.max(body.watermark);
        let answered = match watermark == self.standing.watermark {
            true => self.standing.answered(),
            false => Position { place: log::place_of(self.db, watermark)?, clock: watermark },
        };
        let mut report = Report {
            acknowledged: body.outcomes.total(),
            conflicts: body.outcomes.conflict,
            rejected: body.outcomes.rejected,
            more: body.more,
            ..Report::default()
        };
        let rejected = again::rejected(self.db)?;
        let pending = self.notices(&body.notices, answered, &mut report)?;
        if state::integer(self.db, "reconciling")? != 0 && self.standing.cursor.is_none() && body.cursor.xmax > 0 {
            let named = body.notices.iter().filter_map(|notice| match notice {
                Notice::Conflict(conflict) => Some(conflict.conflict_id),
                _ => None,
            });
            conflicts::close_unknown(self.db, &named.collect())?;
        }
        let unanswered = self.unanswered(&pending);
        let pinned = Pinned::load(self.db)?;
        let kept = self.kept_rows()?;
        let source = Source::new(kept, blob, stream)?;
        let only_confirms = body.only_confirms(self.standing.cursor.as_ref());
        let without_parent = if only_confirms { HashSet::new() } else { self.without_parent(answered)? };
        if only_confirms {
            self.ask_again(answered)?;
            state::set_told(self.db, state::told(self.db, &self.standing)?)?;
        } else {
            state::set_told(self.db, answered)?;
            self.db.execute("DELETE FROM main.fs_want WHERE asked <= ?1", [self.sequence])?;
        }
        let reconciling = history::reconciling(self.db, self.answers_repull()?)?;
        let last_news = made_anew::with_last_news_to_come(self.db)?;
        let compared_from = made_anew::compared_from(self.db)?;
        report.applied = rows::write(self.db, source, &unanswered, &pinned, &reconciling)?;
        shapes::answered(self.db, self.sequence)?;
        // Where tables were made anew what is newer than their news comes with the next answer, and goes before what differs.
        let lost_history = state::integer(self.db, "reconciling")? != 0;
        let stays = !reconciling.is_empty() && !lost_history && self.standing.cursor.is_some();
        self.advance((!stays).then_some((&body.cursor, body.batch)), answered, body.clock)?;
        state::set_integer(self.db, "history", i64::from(reply.history))?;
        self.succeed(reply.hub_now_ms, body.cursor.xmax)?;
        if !reconciling.is_empty() && !body.more {
            match stays {
                true => made_anew::all_rows_have_come(self.db, answered)?,
                false => history::offer_what_differs(self.db, &self.tables, &unanswered, &reconciling)?,
            }
        }
        if !only_confirms && !body.more {
            if let Some(from) = compared_from {
                let logged_since = self.unanswered(&log::read(self.db, &self.tables, from)?);
                history::offer_what_differs(self.db, &self.tables, &logged_since, &last_news)?;
            }
            made_anew::news_have_come(self.db)?;
        }
        self.offer_again(&rejected, &without_parent, &body.notices, &pending)?;
        emptied::remember_witnesses(self.db, &self.tables)?;
        Ok(report)
    }

    /// After an answer that only confirms: see [`fieldsync_core::reply::ReplyBody::only_confirms`].
    fn ask_again(&self, answered: Position) -> Result<()> {
        Scan::new(self.db, &self.tables).run(self.standing.answered(), answered.place, |entry| {
            for logged in entry.logged()?.into_iter().flatten() {
                if let Some(table) = self.tables.get(&i64::from(logged.table)) {
                    conflicts::ask_for(self.db, &table.name, &logged.key)?;
                }
            }
            Ok(())
        })?;
        self.db.execute("UPDATE main.fs_want SET asked = NULL WHERE asked <= ?1", [self.sequence])?;
        Ok(())
    }

    /// Rows kept from earlier replies, without what this device has changed since, answered or not: what came before an edit
    /// never goes over it, and where the hub decided otherwise about the edit, its answer says so.
    fn kept_rows(&self) -> Result<Vec<TableRows>> {
        let mut kept = kept::take_rows(self.db)?;
        if kept.is_empty() {
            return Ok(kept);
        }
        let own = self.unanswered(&log::read(self.db, &self.tables, self.standing.answered())?);
        for table in &mut kept {
            let Some(known) = self.table_named(&table.table) else { continue };
            let head = kept::head(table);
            table.rows.retain_mut(|row| {
                let key = history::own_order(known, &head, &row.key);
                let Some(own) = own.of(&head.table, &key) else { return true };
                if own.made || own.last != Some(Op::Update) {
                    return false;
                }
                if row.op == Op::Delete {
                    return true; // had the edit won, the row would come whole, and that counts
                }
                row.fields.retain(|(at, _)| {
                    let name = head.columns.get(usize::from(*at)).map(|name| name.to_ascii_lowercase());
                    !own.fields.iter().any(|(field, _, _)| Some(field) == name.as_ref())
                });
                row.op = Op::Update; // the row is there: this device has changed it
                !row.fields.is_empty()
            });
        }
        kept.retain(|table| !table.rows.is_empty());
        Ok(kept)
    }

    fn table_named(&self, name: &str) -> Option<&LogTable> {
        self.tables.values().find(|table| table.name.eq_ignore_ascii_case(name))
    }

    fn unanswered(&self, entries: &[Entry]) -> Unanswered {
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

    /// Cursor and chain (`to`: the answer's cursor and batch), watermark and clock after an answer. Without `to` cursor and chain stay, as
    /// if the answer had been lost: a cursor goes with the batch whose answer it came with.
    fn advance(&self, to: Option<(&Snapshot, u64)>, answered: Position, clock: Hlc) -> Result<()> {
        let db = self.db;
        // What comes later is later than everything that the hub has shown, and than everything that is pending now.
        let shown = if clock.0 <= CLOCK_MAX { clock } else { Hlc::default() };
        let last = log::last(db)?;
        let pending = last.place > answered.place;
        let last = log::mark(db, last, shown)?;
        let parked = conflicts::first_parked(db)?;
        let moves = to.is_some_and(|(cursor, _)| Some(cursor) != self.standing.cursor.as_ref());
        if moves && (pending || parked.is_some()) {
            // What is pending or parked was written without this answer.
            db.prepare_cached("INSERT OR IGNORE INTO main.fs_base(until, snapshot) VALUES (?1, ?2)")?
                .execute((last, self.standing.cursor.as_ref().map(ToString::to_string)))?;
        }
        let watermark = answered.clock.as_i64();
        db.prepare_cached("DELETE FROM main.fs_base WHERE until <= ?1")?
            .execute([parked.map_or(watermark, |first| watermark.min(first - 1))])?;
        state::set_watermark(db, answered.clock, answered.place)?;
        if let Some((cursor, batch)) = to {
            state::set(db, "cursor", &Value::Text(cursor.to_string()))?;
            state::set_integer(db, "parent", batch as i64)?;
            state::set_integer(db, "parent_sequence", self.sequence)?;
        }
        if self.answers_repull()? {
            state::set_integer(db, "repull", 0)?;
            state::set_integer(db, "repull_sequence", 0)?;
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

/// Writes what was kept for a table that is there now, or for columns (lower case) that are new in it.
pub fn deliver_kept(db: &Connection, table: &Table, new_columns: &[String]) -> Result<()> {
    let tables = kept::take_table(db, &table.name)?;
    if !tables.is_empty() {
        made_anew::with_kept(db, &table.name, || write_kept(db, tables, new_columns))?;
    }
    let columns = table.columns.iter().filter(|column| !column.generated);
    kept::forget_seen(db, &table.name, columns.map(|column| column.name.as_str()))
}

fn write_kept(db: &Connection, mut tables: Vec<TableRows>, new_columns: &[String]) -> Result<()> {
    let standing = Standing::load(db)?;
    let apply = Apply::new(db, standing, 0)?;
    let pending = log::read(db, &apply.tables, apply.standing.answered())?;
    let mut unanswered = apply.unanswered(&pending);
    // A row that this device has made is all its own, but for columns that it did not have: what it wrote into these since is logged
    // apart, and the rest it did not say, so that no answer will come to it.
    for table in &mut tables {
        let Some(known) = apply.table_named(&table.table) else { continue };
        let head = kept::head(table);
        for row in table.rows.iter_mut().filter(|row| row.op == Op::Update) {
            let key = history::own_order(known, &head, &row.key);
            if unanswered.of(&head.table, &key).is_some_and(|own| own.made) {
                let name = |at: u16| head.columns.get(usize::from(at)).map(|name| name.to_ascii_lowercase());
                row.fields.retain(|(at, _)| name(*at).is_some_and(|name| new_columns.contains(&name)));
                unanswered.tell_apart(&head.table, &key);
            }
        }
        table.rows.retain(|row| row.op != Op::Update || !row.fields.is_empty());
    }
    let pinned = Pinned::load(db)?;
    let source = Source::of_kept(tables);
    rows::write(db, source, &unanswered, &pinned, &HashSet::new())?;
    Ok(())
}
