//! What the hub says beside rows: verdicts, warnings.
//!
//! Invariant: what it says of a record is never taken for another one that has the same key by now, nor for one that came and went
//! before it could hear of it.

use super::{span, Apply, Report};
use crate::conflicts::{self, ParkedRow};
use crate::error::Result;
use crate::log::{self, Entry, Position};
use crate::schema::Table;
use crate::state;
use fieldsync_core::delta::Op;
use fieldsync_core::reply::Notice;
use fieldsync_core::Key;
use std::collections::{HashMap, HashSet};

impl Apply<'_> {
    /// Records what the hub says, and gives the changes that it has not answered.
    pub(super) fn notices(&self, notices: &[Notice], answered: Position, report: &mut Report) -> Result<Vec<Entry>> {
        let rejections = notices.iter().any(|notice| matches!(notice, Notice::Conflict(_)));
        let inherited = conflicts::has_inherited(self.db)?;
        let aside = conflicts::keys_of_made_and_aside(self.db)?;
        let after =
            if rejections || inherited || !aside.is_empty() { state::told(self.db, &self.standing)? } else { answered };
        let mut entries = log::read(self.db, &self.tables, after)?;
        // As it was when the delta left: this answer may close what went along with it.
        let parked = if rejections { conflicts::parked(self.db)? } else { HashMap::default() };
        let ends = if rejections || !aside.is_empty() { self.ends_of_exports()? } else { Vec::new() };
        let given_away = self.given_away(&aside, &entries, &ends, answered)?;
        let mut schemas: HashMap<String, Option<Table>> = HashMap::new();
        for notice in notices {
            match notice {
                // What the hub takes for corrected waits here as a record of its own.
                Notice::Conflict(conflict)
                    if conflict.status == "resolved" && given_away.contains(&conflict.conflict_id) => {}
                Notice::Conflict(conflict) => {
                    let mut conflict = conflict.clone();
                    if !schemas.contains_key(&conflict.table) {
                        schemas.insert(conflict.table.clone(), Table::read_plain(self.db, &conflict.table)?);
                    }
                    if let Some(Some(table)) = schemas.get(&conflict.table) {
                        conflicts::own_form(self.db, table, &mut conflict.key)?;
                    }
                    let conflict = &conflict;
                    let span = self.table_named(&conflict.table).and_then(|table| {
                        let parked = parked.get(&(table.table_no as u32, conflict.key.clone())).map(ParkedRow::first);
                        span::span_of(&entries, &ends, table, conflict, conflict.clock.max(answered.clock), parked)
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
        for Entry { logged, .. } in entries.iter().filter(|entry| inherited && entry.place <= answered.place) {
            if let Some(table) = self.tables.get(&i64::from(logged.table)) {
                conflicts::close_inherited(self.db, &table.name, &logged.key)?;
            }
        }
        entries.retain(|entry| entry.place > answered.place);
        Ok(entries)
    }

    /// The hub's numbers of entries whose key another record has got by now; `aside`: the keys of what is aside.
    fn given_away(
        &self,
        aside: &HashSet<(String, String)>,
        entries: &[Entry],
        ends: &[i64],
        answered: Position,
    ) -> Result<HashSet<u64>> {
        let mut given_away = HashSet::new();
        if aside.is_empty() {
            return Ok(given_away);
        }
        for ((table_no, key), made) in makings_heard_of(entries, ends, answered.place) {
            let Some(table) = self.tables.get(&i64::from(table_no)) else { continue };
            if aside.contains(&(table.name.to_ascii_lowercase(), key.row_id())) {
                given_away.extend(conflicts::key_has_gone_to_another(self.db, &table.name, key, made)?);
            }
        }
        Ok(given_away)
    }

    /// The places at which exports ended, ascending.
    pub(super) fn ends_of_exports(&self) -> Result<Vec<i64>> {
        let mut statement = self.db.prepare_cached("SELECT DISTINCT high_place FROM main.fs_batch ORDER BY 1")?;
        let places = statement.query_map([], |row| row.get(0))?;
        Ok(places.collect::<rusqlite::Result<_>>()?)
    }
}

/// For each row (table and key) that was made here and has travelled, the place of its latest such making up to `answered`. One that came
/// and went between two exports has not. `ends`: the places at which exports ended, ascending.
fn makings_heard_of<'e>(entries: &'e [Entry], ends: &[i64], answered: i64) -> HashMap<(u32, &'e Key), i64> {
    let export_of = |place: i64| ends.partition_point(|end| *end < place);
    let mut makings: HashMap<(u32, &Key), Vec<i64>> = HashMap::new();
    for Entry { place, logged } in entries.iter().filter(|entry| entry.place <= answered) {
        let row = (logged.table, &logged.key);
        match logged.op {
            Op::Insert => makings.entry(row).or_default().push(*place),
            Op::Delete => {
                if let Some(made) = makings.get_mut(&row) {
                    made.retain(|made| export_of(*made) != export_of(*place));
                }
            }
            Op::Update | Op::Cancelled => {}
        }
    }
    makings.into_iter().filter_map(|(row, made)| Some((row, *made.last()?))).collect()
}
