//! Where a delta that is limited in size may end.
//!
//! Invariant: no part names a parent that only the next one brings, nor takes one away whose children only the next one
//! takes away. (Deferred foreign keys allow either order within a transaction, and the hub would refuse such a part for good.)
//! Where such a stretch is longer than the limit, the part is longer too.

use super::changes::row_of;
use crate::apply::references::References;
use crate::error::Result;
use crate::log::{LogTable, Position, RowReader, Scan};
use fieldsync_core::coalesce::Logged;
use fieldsync_core::delta::Op;
use fieldsync_core::{Key, Value};
use rusqlite::Connection;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

/// A foreign key between tracked tables, by the child's slots, in the order of the parent's key.
struct Link {
    parent: i64,
    slots: Vec<Slot>,
}

/// Where a child has a part of its parent's key.
enum Slot {
    /// In its own key.
    Key(usize),
    /// In a field.
    Field(u16),
}

/// The position nearest to the wished one at which the log after `after` may be cut; rather before it than after it.
pub(super) fn cut(
    db: &Connection,
    tables: &HashMap<i64, LogTable>,
    after: Position,
    wished: Position,
) -> Result<Position> {
    let links = links(db, tables)?;
    if links.is_empty() {
        return Ok(wished);
    }
    let stretches = joined(stretches(db, tables, after, &links)?);
    let torn = stretches.iter().find(|(from, to)| *from <= wished.place && wished.place < *to);
    let Some((from, to)) = torn else { return Ok(wished) };
    // Before what would be torn, if there is anything; else after it.
    let before = Scan::new(db, tables).run(after, from - 1, |_| Ok(()))?;
    if before.place > after.place {
        return Ok(before);
    }
    Scan::new(db, tables).run(after, *to, |_| Ok(()))
}

/// Stretches that overlap become one.
fn joined(mut stretches: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    stretches.sort_unstable();
    let mut joined: Vec<(i64, i64)> = Vec::new();
    for (from, to) in stretches {
        match joined.last_mut().filter(|(_, last)| from < *last) {
            Some((_, last)) => *last = (*last).max(to),
            None => joined.push((from, to)),
        }
    }
    joined
}

/// The links of every child table.
fn links(db: &Connection, tables: &HashMap<i64, LogTable>) -> Result<HashMap<i64, Vec<Link>>> {
    let references = References::load(db)?;
    let mut links: HashMap<i64, Vec<Link>> = HashMap::new();
    for child in tables.values().filter(|table| table.live) {
        for at in references.of_child(&child.name) {
            let key = references.key(at);
            let Some(parent) = tables.values().find(|table| table.live && table.name.eq_ignore_ascii_case(&key.parent))
            else {
                continue;
            };
            // The log knows rows by their primary keys; parents known by another unique value are not looked for.
            let slots: Option<Vec<Slot>> = parent.columns[..parent.key_len]
                .iter()
                .map(|part| {
                    let place = key.to.iter().position(|name| name.eq_ignore_ascii_case(&part.name))?;
                    let from = &key.from[place];
                    let column = child.columns.iter().position(|column| column.name.eq_ignore_ascii_case(from))?;
                    Some(match column < child.key_len {
                        true => Slot::Key(column),
                        false => Slot::Field(child.columns[column].slot as u16),
                    })
                })
                .collect();
            if let Some(slots) = slots {
                links.entry(child.table_no).or_default().push(Link { parent: parent.table_no, slots });
            }
        }
    }
    Ok(links)
}

/// Stretches of the log, first and last place, inside of which no cut may fall.
fn stretches(
    db: &Connection,
    tables: &HashMap<i64, LogTable>,
    after: Position,
    links: &HashMap<i64, Vec<Link>>,
) -> Result<Vec<(i64, i64)>> {
    let parents: HashSet<i64> = links.values().flatten().map(|link| link.parent).collect();
    let mut made: HashMap<(i64, Key), i64> = HashMap::new();
    let mut gone: HashMap<(i64, Key), i64> = HashMap::new();
    Scan::new(db, tables).run(after, i64::MAX, |entry| {
        if parents.contains(&entry.table.table_no) {
            for Logged { op, key, .. } in entry.logged()?.into_iter().flatten() {
                match op {
                    Op::Insert => made.insert((entry.table.table_no, key), entry.position.place),
                    Op::Delete => Some(*gone.entry((entry.table.table_no, key)).or_insert(entry.position.place)),
                    Op::Update | Op::Cancelled => None,
                };
            }
        }
        Ok(())
    })?;
    let mut found = Vec::new();
    if made.is_empty() && gone.is_empty() {
        return Ok(found);
    }
    let mut operations: Vec<(i64, Logged)> = Vec::new();
    Scan::new(db, tables).run(after, i64::MAX, |entry| {
        if links.contains_key(&entry.table.table_no) {
            let place = entry.position.place;
            operations.extend(entry.logged()?.into_iter().flatten().map(|logged| (place, logged)));
        }
        Ok(())
    })?;
    // Backwards from what the rows are now, so that it is known what each was after each operation.
    let mut rows = RowReader::new(db, tables);
    let mut states: HashMap<(i64, Key), Fields> = HashMap::new();
    for (place, logged) in operations.into_iter().rev() {
        let table_no = i64::from(logged.table);
        let state = match states.entry((table_no, logged.key.clone())) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let now = row_of(db, tables, &mut rows, table_no, &logged.key)?.unwrap_or_default();
                vacant.insert(now.into_iter().collect())
            }
        };
        let after = if logged.op == Op::Delete { Fields::new() } else { state.clone() };
        state.extend(logged.fields.into_iter().map(|field| (field.column, field.old)));
        let before = if logged.op == Op::Insert { &Fields::new() } else { &*state };
        for link in links.get(&table_no).into_iter().flatten() {
            for parent in [parent_of(link, &logged.key, before), parent_of(link, &logged.key, &after)] {
                let Some(parent) = parent.map(|key| (link.parent, key)) else { continue };
                if let Some(last) = made.get(&parent).filter(|last| **last > place) {
                    found.push((place, *last));
                }
                if let Some(first) = gone.get(&parent).filter(|first| **first < place) {
                    found.push((*first, place));
                }
            }
        }
    }
    Ok(found)
}

/// Values by slot.
type Fields = HashMap<u16, Value>;

/// The parent that a row names, if it names one.
fn parent_of(link: &Link, key: &Key, fields: &Fields) -> Option<Key> {
    if fields.is_empty() && link.slots.iter().any(|slot| matches!(slot, Slot::Field(_))) {
        return None;
    }
    let parts: Option<Vec<Value>> = link
        .slots
        .iter()
        .map(|slot| match slot {
            Slot::Key(at) => key.0.get(*at).cloned(),
            Slot::Field(slot) => fields.get(slot).cloned(),
        })
        .collect();
    parts.filter(|parts| !parts.iter().any(Value::is_null)).map(Key)
}
