//! `fs_export_delta`: everything that the hub has not confirmed, and what this device has seen.
//!
//! Invariants:
//! * Everything above the confirmed watermark is in the delta (with a limit on bytes: the oldest part of it).
//! * A batch is recorded before its blob leaves, in the same transaction: an answer that nobody remembers asking for is refused.
//! * Changes do not fold across the ends of earlier unanswered exports ([`fieldsync_core::coalesce`]).

use crate::call::{self, Function};
use crate::error::{Error, Result};
use crate::log::{self, LogTable, RowReader};
use crate::sql::{atomically, now_ms};
use crate::state::{self, Standing};
use crate::{conflicts, track};
use fieldsync_core::coalesce::{coalesce, Folded};
use fieldsync_core::delta::{Base, BatchId, Delta, DeltaBody, Recovery, Settled, TableChanges, Want};
use fieldsync_core::wire::encode_delta;
use fieldsync_core::{Hlc, Value};
use rusqlite::{Connection, OptionalExtension};
use std::collections::{BTreeMap, BTreeSet, HashMap};

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
        let export = Export { db, tables: LogTable::all(db)?, now_ms: now_ms(db)?, standing };
        let (blob, batch, high) = export.fit(bytes_max)?;
        export.remember(batch, high)?;
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
    fn fit(&self, bytes_max: usize) -> Result<(Vec<u8>, BatchId, Hlc)> {
        let mut count = self.count()?;
        let mut cut = if count > CHANGES_MAX { self.clock_at(CHANGES_MAX)? } else { None };
        count = count.min(CHANGES_MAX);
        loop {
            let body = self.body(cut)?;
            let high = body.high;
            let delta =
                Delta { client: self.standing.tag(), history: self.standing.history, device_now_ms: self.now_ms, body };
            let (blob, batch) = encode_delta(&delta, self.standing.key.as_ref());
            if blob.len() <= bytes_max || count <= 1 {
                return Ok((blob, batch, high));
            }
            // Compressed sizes cannot be known before: aim a little low and try again.
            let share = bytes_max as f64 / blob.len() as f64 * 0.85;
            count = ((count as f64 * share) as i64).clamp(1, count - 1);
            cut = self.clock_at(count)?;
        }
    }

    fn count(&self) -> Result<i64> {
        Ok(self.db.query_row(
            "SELECT count(*) FROM main.fs_log WHERE clock > ?1 AND what > 0",
            [self.standing.watermark.as_i64()],
            |row| row.get(0),
        )?)
    }

    /// The clock of the n-th pending change.
    fn clock_at(&self, number: i64) -> Result<Option<Hlc>> {
        let clock: Option<i64> = self
            .db
            .query_row(
                "SELECT clock FROM main.fs_log WHERE clock > ?1 AND what > 0 ORDER BY clock LIMIT 1 OFFSET ?2",
                [self.standing.watermark.as_i64(), number - 1],
                |row| row.get(0),
            )
            .optional()?;
        Ok(clock.map(Hlc::from_i64))
    }

    /// What travels, up to a clock.
    fn body(&self, cut: Option<Hlc>) -> Result<DeltaBody> {
        let watermark = self.standing.watermark;
        let mut read = log::read(self.db, &self.tables, watermark, Hlc::from_i64(i64::MAX))?;
        let high = cut.unwrap_or(read.high);
        for table_no in &read.unnamed {
            if let Some(table) = self.tables.get(table_no) {
                conflicts::unnamed_rows(self.db, &table.name)?;
            }
        }
        let parked = conflicts::offer_parked_again(self.db, &self.tables, &mut read.entries)?;
        let first = read.entries.first().map(|entry| entry.clock).into_iter().chain(parked.values().copied()).min();
        let mut boundaries = self.boundaries()?;
        if let Some(cut) = cut {
            // Later changes take part, so that rows are told as they were at the cut, but do not travel.
            boundaries.push(cut);
            boundaries.sort_unstable();
            boundaries.dedup();
        }
        let mut rows = RowReader::new(self.db, &self.tables);
        let mut folded = coalesce(read.entries, &boundaries, |table, key| match rows.read(i64::from(table), key)? {
            Some(row) => Ok(Some(row)),
            None => conflicts::row_that_stepped_aside(self.db, &self.tables, i64::from(table), key),
        })?;
        for folded in &mut folded {
            // What was parked was written under the base of its own time, not under that of the edit that takes it along.
            let key = (folded.table, std::mem::take(&mut folded.change.key));
            if let Some(first) = parked.get(&key) {
                folded.change.first_clock = folded.change.first_clock.min(*first);
            }
            folded.change.key = key.1;
        }
        let repull = state::integer(self.db, "repull")? != 0;
        let mut bases = match first {
            Some(first) => self.bases(first)?,
            None => Vec::new(),
        };
        if repull && self.standing.cursor.is_some() && first.is_some() {
            bases.push(Base { until: read.high, snapshot: self.standing.cursor.clone() });
        }
        Ok(DeltaBody {
            parent: self.standing.parent,
            unanswered: self.unanswered()?,
            cursor: self.standing.cursor.clone().filter(|_| !repull),
            bases,
            watermark,
            high,
            more: cut.is_some(),
            recovery: self.recovery()?,
            wants: self.wants()?,
            settled: self.settled()?,
            names_wanted: false,
            tables: self.travelling(folded.into_iter().filter(|folded| folded.change.clock <= high)),
        })
    }

    /// Folded changes by table, columns cut down to those in use.
    fn travelling(&self, folded: impl Iterator<Item = Folded>) -> Vec<TableChanges> {
        let mut by_table: BTreeMap<u32, TableChanges> = BTreeMap::new();
        for Folded { table, change } in folded {
            by_table.entry(table).or_default().changes.push(change);
        }
        for (table_no, changes) in &mut by_table {
            let Some(table) = self.tables.get(&i64::from(*table_no)) else { continue };
            let used: BTreeSet<u16> =
                changes.changes.iter().flat_map(|change| change.fields.iter().map(|field| field.column)).collect();
            changes.table.clone_from(&table.name);
            changes.key_len = table.key_len as u16;
            changes.columns = table.columns[..table.key_len].iter().map(|column| column.name.clone()).collect();
            let mut places = HashMap::new();
            for column in table.fields().iter().filter(|column| used.contains(&(column.slot as u16))) {
                places.insert(column.slot as u16, changes.columns.len() as u16);
                changes.columns.push(column.name.clone());
            }
            for change in &mut changes.changes {
                change.fields.retain_mut(|field| match places.get(&field.column) {
                    Some(place) => {
                        field.column = *place;
                        true
                    }
                    None => false,
                });
                change.fields.sort_by_key(|field| field.column);
            }
            changes.changes.sort_by_key(|change| change.clock);
        }
        by_table.into_values().collect()
    }

    /// Clocks across which changes do not fold: the ends of earlier exports, and every edit that was logged before this
    /// database, a copy, got an identity of its own.
    fn boundaries(&self) -> Result<Vec<Hlc>> {
        let mut statement = self.db.prepare_cached(
            "SELECT high FROM main.fs_batch WHERE sequence > ?1 AND high > ?2
             UNION SELECT clock FROM main.fs_log WHERE clock > ?2 AND clock <= ?3
             ORDER BY 1",
        )?;
        let rows = statement.query_map(
            [
                state::integer(self.db, "parent_sequence")?,
                self.standing.watermark.as_i64(),
                state::integer(self.db, "copied_until")?,
            ],
            |row| row.get(0),
        )?;
        Ok(rows.map(|high| Ok(Hlc::from_i64(high?))).collect::<rusqlite::Result<_>>()?)
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

    fn wants(&self) -> Result<Vec<Want>> {
        let mut statement = self.db.prepare_cached("SELECT table_name, row_key FROM main.fs_want LIMIT ?1")?;
        let mut rows = statement.query([EXTRAS_MAX])?;
        let mut wants = Vec::new();
        while let Some(row) = rows.next()? {
            let key: Vec<u8> = row.get(1)?;
            wants.push(Want { table: row.get(0)?, key: conflicts::key_from_bytes(&key)? });
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

    /// Records the batch before its blob leaves.
    fn remember(&self, batch: BatchId, high: Hlc) -> Result<()> {
        let sequence = self.standing.sequence as i64 + 1;
        state::set_integer(self.db, "sequence", sequence)?;
        self.db
            .prepare_cached("INSERT INTO main.fs_batch(sequence, batch, high, history) VALUES (?1, ?2, ?3, ?4)")?
            .execute((sequence, batch as i64, high.as_i64(), i64::from(self.standing.history)))?;
        self.db.execute("UPDATE main.fs_conflict SET told = -?1 WHERE told = 0 AND hub_id IS NOT NULL", [sequence])?;
        if state::integer(self.db, "repull")? != 0 && state::integer(self.db, "repull_sequence")? == 0 {
            // All rows come in answer to this export: from then on they are compared.
            state::set_integer(self.db, "repull_sequence", sequence)?;
            self.db.execute("UPDATE main.fs_table SET rebuilt = 2 WHERE rebuilt = 1", [])?;
        }
        self.db.execute("UPDATE main.fs_want SET asked = ?1 WHERE asked IS NULL", [sequence])?;
        self.db
            .prepare_cached("DELETE FROM main.fs_batch WHERE sequence <= ?1 AND high <= ?2")?
            .execute([sequence - BATCHES_MAX, self.standing.watermark.as_i64()])?;
        Ok(())
    }
}
