//! Brings the rows of a reply into the application's tables.
//!
//! Invariants: local changes that the hub has not seen stay on top; a row in the way of the hub's steps aside whole;
//! what cannot be written is kept and named, and never stops the rest. In memory is a block of rows at a time, and those that
//! something has to be done about at the end.

use super::arriving::Source;
use super::kept::{self, WaitsFor};
use super::mute::Muted;
use super::offences::Offence;
use super::pass::{Pass, Place};
use super::references::References;
use super::unanswered::Unanswered;
use crate::conflicts::{self, Pinned};
use crate::error::Result;
use crate::{shapes, track};
use fieldsync_core::wire::Shape;
use rusqlite::Connection;
use std::collections::HashSet;

/// Rounds of putting rows off before what is left is refused.
const ROUNDS_MAX: usize = 50;

/// What an apply did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Rows written or removed.
    pub rows: u64,
    /// Rows kept for later.
    pub kept: u64,
    /// Rows of the device that made room.
    pub stepped_aside: u64,
}

/// Writes rows; their tables come parents first.
pub fn write(
    db: &Connection,
    mut source: Source<'_>,
    unanswered: &Unanswered,
    pinned: &Pinned,
    reconciling: &HashSet<String>,
) -> Result<Applied> {
    let mut applied = Applied::default();
    source.bring_kept_up_to_date()?;
    if source.is_empty() {
        return Ok(applied);
    }
    let known = track::tracked(db)?;
    let tracked: HashSet<String> =
        known.iter().filter(|known| known.state == "tracked").map(|known| known.name.to_ascii_lowercase()).collect();
    let references = References::load(db)?;
    let muted = Muted::new(db, &tracked, || {
        // What refers to their rows may have to step aside, or to follow.
        Ok(references.reach(source.names()?.into_iter().filter(|name| tracked.contains(name)).collect()))
    })?;
    let mut pass = Pass::new(db, unanswered, pinned, reconciling, &tracked, references)?;
    let mut aside = 0;
    for round in 0.. {
        db.execute_batch("SAVEPOINT fs_rows")?;
        pass.begin();
        source.each(|number, table, first, rows| pass.block(number, table, first, rows))?;
        pass.finish()?;
        let offences = if round < ROUNDS_MAX { pass.offences()? } else { Vec::new() };
        if offences.is_empty() {
            db.execute_batch("RELEASE fs_rows")?;
            break;
        }
        db.execute_batch("ROLLBACK TO fs_rows; RELEASE fs_rows")?;
        for offence in offences {
            match offence {
                Offence::Wait(place) => {
                    pass.excluded.insert(place);
                }
                Offence::StepAside { table, key } => aside += pass.orphan_steps_aside(&table, &key)?,
            }
        }
    }
    for table in pass.tables.iter().skip(source.kept.len()) {
        shapes::arrived(db, &Shape::of_rows(&table.head))?;
        for key in kept::give_up_renamed(db, &table.head)? {
            conflicts::ask_for(db, &table.head.table, &table.own_order(&key))?;
        }
    }
    settle(db, pass, &mut applied)?;
    conflicts::close_taken(db)?;
    applied.stepped_aside += aside;
    if muted.restore()? {
        track::settle(db)?;
    }
    Ok(applied)
}

/// Writes down what could not be written.
fn settle(db: &Connection, pass: Pass<'_, '_>, applied: &mut Applied) -> Result<()> {
    let Pass { done, tables, excluded, .. } = pass;
    applied.rows += done.rows;
    applied.kept += done.kept;
    applied.stepped_aside += done.stepped_aside;
    for (table, key) in done.wants {
        conflicts::ask_for(db, &table, &key)?;
    }
    for (table, row_id) in done.back {
        conflicts::came_back(db, &table, &row_id)?;
    }
    let mut refused = done.refused;
    refused.sort_by_key(|(place, _)| *place);
    for (place, reason) in refused {
        let (Some(table), Some(row)) = (tables.get(place.0), done.held.get(&place)) else { continue };
        kept::keep(db, &table.head, row, WaitsFor::Rows)?;
        conflicts::refused_here(db, &table.head, row, &reason)?;
        applied.kept += 1;
    }
    let mut excluded: Vec<Place> = excluded.into_iter().collect();
    excluded.sort_unstable();
    for place in excluded {
        let (Some(table), Some(row)) = (tables.get(place.0), done.held.get(&place)) else { continue };
        kept::keep(db, &table.head, row, WaitsFor::Rows)?;
        applied.kept += 1;
    }
    Ok(())
}
