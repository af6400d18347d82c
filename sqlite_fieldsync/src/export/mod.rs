//! `fs_export_delta`: everything that the hub has not confirmed, and what this device has seen.
//!
//! Invariants:
//! * Everything above the confirmed watermark is in the delta (with a limit on bytes: the oldest part of it).
//! * A batch is recorded before its blob leaves, in the same transaction: an answer that nobody remembers asking for is refused.
//! * Changes do not fold across the ends of earlier unanswered exports ([`fieldsync_core::coalesce`]).

mod changes;
mod cuts;

use crate::call::{self, Function};
use crate::error::{Error, Result};
use crate::log::{self, LogTable, Position};
use crate::shapes::{self, Direction};
use crate::sql::{atomically, now_ms};
use crate::state::{self, Standing};
use crate::{conflicts, emptied, made_anew, track};
use changes::{Changes, Survey};
use fieldsync_core::delta::{cut_at_ends, Base, BatchId, Delta, DeltaBody, Recovery, Settled, Want};
use fieldsync_core::wire::DeltaWriter;
use fieldsync_core::{Hlc, Key, Value};
use rusqlite::Connection;
use std::collections::{HashMap, HashSet};

/// Exports remembered without an answer. Older ones are forgotten: eight bytes each travel in every delta.
const UNANSWERED_MAX: i64 = 128;
/// Exports remembered at all, to recognise late answers.
const BATCHES_MAX: i64 = 1000;
/// Logged changes in one delta at most: the hub and this process hold them in memory.
const CHANGES_MAX: i64 = 500_000;
/// Settled conflicts and wanted rows in one delta at most.
const EXTRAS_MAX: i64 = 10_000;

pub(crate) fn register(db: &Connection) -> Result<()> {
    Function { name: "fs_export_delta", arities: &[0, 1], writes: true, deterministic: false, body: fs_export_delta }
        .register(db)
}

fn fs_export_delta(db: &Connection, arguments: &[Value]) -> Result<Value> {
    let bytes_max = match call::optional_integer(arguments, 0, "max_bytes")? {
        None => usize::MAX,
        Some(bytes) => usize::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| Error::argument("max_bytes must be greater than 0"))?,
    };
    atomically(db, || {
        let standing = Standing::load(db)?;
        track::renew(db)?;
        emptied::strike(db)?;
        let export = Export { db, tables: LogTable::all(db)?, now_ms: now_ms(db)?, standing };
        let blob = export.fit(bytes_max)?;
        conflicts::drop_deleted(db)?; // told by the next export: this one still says that the insert was taken back
        Ok(Value::Blob(blob))
    })
}

struct Export<'a> {
    db: &'a Connection,
    standing: Standing,
    tables: HashMap<i64, LogTable>,
    now_ms: u64,
}

impl Export<'_> {
    /// The blob, if need be of only the oldest changes, so that it keeps the limit; one change at least.
    fn fit(&self, bytes_max: usize) -> Result<Vec<u8>> {
        // Rows may show what became of such changes in the history that was lost: they are asked for along with them.
        let offered_until = state::integer(self.db, "offered_again")?;
        let mut most = if offered_until > self.standing.watermark_place { EXTRAS_MAX } else { CHANGES_MAX };
        let mut last_high = None;
        loop {
            let survey = Survey::new(self.db, &self.tables, self.standing.answered(), most, offered_until)?;
            for table in survey.unnamed.iter().filter_map(|table_no| self.tables.get(table_no)) {
                conflicts::unnamed_rows(self.db, &table.name)?;
            }
            // What is not in here comes after a mark, so that clocks and places can be told apart at the watermark to be.
            let end = Position::mark(log::mark(self.db, survey.end, Hlc::default())?);
            let high = match survey.cut {
                Some(wished) => cuts::cut(self.db, &self.tables, self.standing.answered(), wished)?,
                None => end,
            };
            let high = if high.place < survey.end.place { high } else { end };
            let (blob, batch, carried) = self.write(&survey, high, end)?;
            let count = survey.count.min(most);
            if blob.len() <= bytes_max || count <= 1 || last_high == Some(high) {
                self.remember(batch, high, &carried)?;
                return Ok(blob);
            }
            // Compressed sizes cannot be known before: aim a little low and try again.
            let share = bytes_max as f64 / blob.len() as f64 * 0.85;
            most = ((count as f64 * share) as i64).clamp(1, count - 1);
            last_high = survey.cut.map(|_| high);
        }
    }

    /// What travels, up to a position; `end` is the last one there is. With the tags of the tables whose names are in it.
    fn write(&self, survey: &Survey, high: Position, end: Position) -> Result<(Vec<u8>, BatchId, Vec<u8>)> {
        let (boundaries, singly_until) = self.boundaries()?;
        let answered = self.standing.answered();
        // As many as are told apart by their batches; of more lost answers than that only the latest are.
        let ends = boundaries[boundaries.len().saturating_sub(UNANSWERED_MAX as usize)..].to_vec();
        let changes = Changes::new(self.db, &self.tables, survey, answered, high, boundaries, singly_until)?;
        let first = survey.first.into_iter().chain(changes.first_parked).min();
        let repull = self.asks_for_all()?;
        let mut bases = match first {
            Some(first) => self.bases(first)?,
            None => Vec::new(),
        };
        if repull && self.standing.cursor.is_some() && first.is_some() {
            bases.push(Base { until: end.clock, snapshot: self.standing.cursor.clone() });
        }
        if let Some(first) = first {
            bases = cut_at_ends(bases, self.standing.cursor.as_ref(), ends, (first, high.clock));
        }
        let body = DeltaBody {
            parent: self.standing.parent,
            unanswered: self.unanswered()?,
            cursor: self.standing.cursor.clone().filter(|_| !repull),
            bases,
            watermark: self.standing.watermark,
            high: high.clock,
            more: high.place < end.place,
            recovery: self.recovery()?,
            wants: self.wants(survey, &changes)?,
            settled: self.settled()?,
            names_wanted: state::integer(self.db, "names_wanted")? != 0,
            tables: Vec::new(),
        };
        let head =
            Delta { client: self.standing.tag(), history: self.standing.history, device_now_ms: self.now_ms, body };
        let known = shapes::known(self.db, Direction::Up)?;
        let mut writer = DeltaWriter::begin(&head, &known);
        let travelling = changes.write(&mut writer)?;
        let (blob, batch) = writer.finish(high.clock, self.standing.key.as_ref());
        Ok((blob, batch, shapes::carried(self.db, &travelling, &known)?))
    }

    /// Clocks across which changes do not fold: the ends of earlier exports. And the place up to which none folds with any:
    /// what was logged before this database, a copy, got an identity of its own.
    fn boundaries(&self) -> Result<(Vec<Hlc>, i64)> {
        let mut statement =
            self.db.prepare_cached("SELECT high FROM main.fs_batch WHERE sequence > ?1 AND high > ?2 ORDER BY 1")?;
        let rows = statement
            .query_map([state::integer(self.db, "parent_sequence")?, self.standing.watermark.as_i64()], |row| {
                row.get(0)
            })?;
        let highs = rows.map(|high| Ok(Hlc::from_i64(high?))).collect::<rusqlite::Result<_>>()?;
        Ok((highs, state::integer(self.db, "copied_until")?))
    }

    fn unanswered(&self) -> Result<Vec<BatchId>> {
        let mut statement = self.db.prepare_cached(
            "SELECT batch FROM main.fs_batch WHERE sequence > max(?1, (SELECT max(sequence) FROM main.fs_batch) - ?2)
             ORDER BY sequence",
        )?;
        let rows =
            statement.query_map([state::integer(self.db, "parent_sequence")?, UNANSWERED_MAX], |row| row.get(0))?;
        Ok(rows.map(|batch: rusqlite::Result<i64>| Ok(batch? as BatchId)).collect::<rusqlite::Result<_>>()?)
    }

    fn bases(&self, first: Hlc) -> Result<Vec<Base>> {
        let mut statement =
            self.db.prepare_cached("SELECT until, snapshot FROM main.fs_base WHERE until >= ?1 ORDER BY until")?;
        let mut rows = statement.query([first.as_i64()])?;
        let mut bases = Vec::new();
        while let Some(row) = rows.next()? {
            let text: Option<String> = row.get(1)?;
            let snapshot =
                text.map(|text| text.parse().map_err(|_| Error::OwnData(format!("base {text}")))).transpose()?;
            bases.push(Base { until: Hlc::from_i64(row.get(0)?), snapshot });
        }
        Ok(bases)
    }

    fn recovery(&self) -> Result<Option<Recovery>> {
        let until = Hlc::from_i64(state::integer(self.db, "recovery_until")?);
        if until <= self.standing.watermark {
            return Ok(None);
        }
        Ok(Some(Recovery {
            after: Hlc::from_i64(state::integer(self.db, "recovery_after")?),
            until,
            as_of: Hlc::from_i64(state::integer(self.db, "recovery_as_of")?),
        }))
    }

    fn wants(&self, survey: &Survey, changes: &Changes<'_>) -> Result<Vec<Want>> {
        let mut statement = self.db.prepare_cached("SELECT table_name, row_key FROM main.fs_want LIMIT ?1")?;
        let mut rows = statement.query([EXTRAS_MAX])?;
        let mut wants = Vec::new();
        while let Some(row) = rows.next()? {
            let key: Vec<u8> = row.get(1)?;
            wants.push(Want { table: row.get(0)?, key: conflicts::key_from_bytes(&key)? });
        }
        let mut asked: HashSet<(i64, &Key)> = HashSet::new();
        let offered = survey.offered.iter().map(|(table_no, key)| (*table_no, key));
        for (table_no, key) in offered.chain(changes.cancelled()) {
            if let Some(table) = self.tables.get(&table_no).filter(|_| asked.insert((table_no, key))) {
                wants.push(Want { table: table.name.clone(), key: key.clone() });
            }
        }
        Ok(wants)
    }

    fn settled(&self) -> Result<Vec<Settled>> {
        let mut statement = self.db.prepare_cached(
            "SELECT hub_id, choice FROM main.fs_conflict WHERE told <= 0 AND hub_id IS NOT NULL ORDER BY conflict_id LIMIT ?1",
        )?;
        let rows = statement.query_map([EXTRAS_MAX], |row| {
            Ok(Settled { conflict_id: row.get::<_, i64>(0)? as u64, choice: row.get(1)? })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Whether all rows of the hub are asked for: not before what it has changed has come to tables that were made anew.
    fn asks_for_all(&self) -> Result<bool> {
        Ok(state::integer(self.db, "repull")? != 0 && !made_anew::any_waits_for_news(self.db)?)
    }

    /// Records the batch before its blob leaves.
    fn remember(&self, batch: BatchId, high: Position, carried: &[u8]) -> Result<()> {
        let sequence = self.standing.sequence as i64 + 1;
        state::set_integer(self.db, "sequence", sequence)?;
        self.db
            .prepare_cached(
                "INSERT INTO main.fs_batch(sequence, batch, high, high_place, history, shapes)
                 VALUES (?1, ?2, ?3, ?4, ?5, nullif(?6, x''))",
            )?
            .execute((
                sequence,
                batch as i64,
                high.clock.as_i64(),
                high.place,
                i64::from(self.standing.history),
                carried,
            ))?;
        self.db.execute("UPDATE main.fs_conflict SET told = -?1 WHERE told = 0", [sequence])?;
        if self.asks_for_all()? && state::integer(self.db, "repull_sequence")? == 0 {
            // All rows come in answer to this export: from then on they are compared.
            state::set_integer(self.db, "repull_sequence", sequence)?;
            made_anew::asked(self.db)?;
        }
        self.db
            .prepare_cached(
                "UPDATE main.fs_want SET asked = ?1 WHERE asked IS NULL
                   AND (table_name, row_key) IN (SELECT table_name, row_key FROM main.fs_want LIMIT ?2)",
            )?
            .execute([sequence, EXTRAS_MAX])?;
        self.db
            .prepare_cached("DELETE FROM main.fs_batch WHERE sequence <= ?1 AND high <= ?2")?
            .execute([sequence - BATCHES_MAX, self.standing.watermark.as_i64()])?;
        Ok(())
    }
}
