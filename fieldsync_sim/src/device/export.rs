//! fs_export_delta: what waits to be sent, folded by the core.

use super::{Device, Entry};
use crate::post::{self};
use crate::schema::{self, RowName, TABLES};
use fieldsync_core::coalesce::{coalesce, take_along, Logged};
use fieldsync_core::delta::{cut_at_ends, Delta, DeltaBody, Op, TableChanges, Want};
use fieldsync_core::{Hlc, Value};
use std::collections::BTreeSet;
use std::convert::Infallible;

impl Device {
    /// fs_export_delta. With `most`: no more than so many log entries.
    pub fn export(&mut self, wall_ms: u64, most: Option<usize>) -> (Vec<u8>, usize) {
        let fresh: Vec<&Entry> = self.log.iter().filter(|entry| self.is_pending(entry)).collect();
        let taken = most.map_or(fresh.len(), |most| most.min(fresh.len()));
        let more = taken < fresh.len();
        let high = fresh[..taken].last().map_or(self.watermark, |entry| entry.logged.clock.max(self.watermark));
        let offered = |entry: &&Entry| self.is_pending(entry) && entry.logged.clock <= high;
        let mut log: Vec<Logged> = Vec::new();
        for entry in self.log.iter().filter(offered) {
            let count = if entry.again { 0 } else { entry.logged.count };
            log.push(Logged { count, ..entry.logged.clone() });
        }
        // A rejected change goes again when its row is edited again, so that the hub gets all of it.
        let parked = self.log.iter().filter(|entry| entry.parked).map(|entry| entry.logged.clone()).collect();
        let taken_along = take_along(parked, &mut log);
        let boundaries: Vec<Hlc> = self.ends.iter().copied().chain(more.then_some(high)).collect();
        // Rows as they were at `high`: a part of the log must not tell what was written after it.
        let after: Vec<&Logged> =
            self.log.iter().map(|entry| &entry.logged).filter(|logged| logged.clock > high).collect();
        let folded = coalesce(log, &boundaries, |table, key| {
            let name = (table as usize, key.clone());
            Ok::<_, Infallible>(self.row_before(&name, &after))
        })
        .unwrap_or_else(|never| match never {});
        let mut tables: Vec<TableChanges> = Vec::new();
        let mut wants: BTreeSet<RowName> = self.wants.keys().chain(&self.waiting).cloned().collect();
        // What was refused under another identity may show otherwise than it was written.
        let refused = self.log.iter().filter(|entry| entry.again);
        let once_refused: BTreeSet<RowName> =
            refused.map(|entry| (entry.logged.table as usize, entry.logged.key.clone())).collect();
        let rows = folded.len();
        let first = folded.iter().map(|folded| folded.change.first_clock).chain(taken_along.values().copied()).min();
        for mut folded in folded {
            if let Some(first) = taken_along.get(&(folded.table, folded.change.key.clone())) {
                folded.change.first_clock = folded.change.first_clock.min(*first);
            }
            let table = folded.table as usize;
            let name = TABLES[table].name;
            if folded.change.first_clock <= self.offered_again
                || once_refused.contains(&(table, folded.change.key.clone()))
            {
                wants.insert((table, folded.change.key.clone()));
            }
            let at = tables.iter().position(|changes| changes.table == name).unwrap_or_else(|| {
                tables.push(TableChanges {
                    table: name.to_owned(),
                    columns: schema::names(table, self.width[table]),
                    key_len: schema::key_len(table),
                    changes: Vec::new(),
                });
                tables.len() - 1
            });
            tables[at].changes.push(folded.change);
        }
        let body = DeltaBody {
            parent: self.parent,
            unanswered: self.unanswered.iter().map(|(batch, _)| *batch).collect(),
            cursor: self.cursor.clone(),
            bases: cut_at_ends(
                self.bases.clone(),
                self.cursor.as_ref(),
                self.ends.iter().copied(),
                (first.unwrap_or(high), high),
            ),
            watermark: self.watermark,
            high,
            more,
            wants: wants
                .iter()
                .map(|(table, key)| Want { table: TABLES[*table].name.to_owned(), key: key.clone() })
                .collect(),
            settled: Vec::new(),
            recovery: self.recovery,
            names_wanted: self.names_wanted,
            tables,
        };
        let named = post::named_by_delta(&body.tables, &self.hub_knows);
        let delta = Delta { client: self.tag(), history: self.history, device_now_ms: wall_ms, body };
        let (blob, batch) = post::write_delta(&delta, &self.key, &self.hub_knows, self.plain);
        self.named.extend(named.into_iter().map(|shape| (batch, shape)));
        self.sequence += 1;
        self.unanswered.push((batch, self.sequence));
        self.wants.values_mut().filter(|asked| asked.is_none()).for_each(|asked| *asked = Some(self.sequence));
        self.ends.insert(high);
        (blob, rows)
    }

    /// A row's values before some later log entries.
    pub(super) fn row_before(&self, name: &RowName, after: &[&Logged]) -> Option<Vec<(u16, Value)>> {
        let mut row = self.rows.get(name).cloned();
        for logged in after.iter().rev().filter(|logged| (logged.table as usize, &logged.key) == (name.0, &name.1)) {
            match logged.op {
                Op::Insert => row = None,
                Op::Delete => {
                    let mut before = schema::blank(name.0);
                    for field in &logged.fields {
                        before[usize::from(field.column)] = field.old.clone();
                    }
                    row = Some(before);
                }
                _ => {
                    if let Some(row) = &mut row {
                        for field in &logged.fields {
                            row[usize::from(field.column)] = field.old.clone();
                        }
                    }
                }
            }
        }
        let told = schema::fields(name.0, self.width[name.0]);
        row.map(|row| told.map(|column| (column, row[usize::from(column)].clone())).collect())
    }
}
