//! Reading a delta's changes into [`Work`]: tables, keys and values as the hub has them.
//!
//! Invariant: a change that cannot be expressed in the hub's schema is refused by itself, with table and column named; nothing
//! else in the delta suffers from it.

use crate::catalog::Table;
use crate::catch::SqlError;
use crate::convert::{self, Converter, Target};
use crate::copies;
use crate::feed::Xxh3;
use crate::schema::Ruled;
use crate::work::{Homeless, Item, Lost, Merged, Prepared, Sender, TableWork, Work};
use fieldsync_core::coalesce::keep_last_words;
use fieldsync_core::delta::{Change, DeltaBody, FieldChange, Op, TableChanges};
use fieldsync_core::merge::IncomingField;
use fieldsync_core::rules::{FieldStrategy, TableRules};
use fieldsync_core::value::Kind;
use fieldsync_core::{Hlc, Key, Snapshot, Value};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::rc::Rc;

/// Brings a delta's changes into the hub's terms. `find` gives a table and its rules by the name that travels.
pub fn read(
    body: &DeltaBody,
    tables: Vec<TableChanges>,
    sender: &Sender<'_>,
    find: &dyn Fn(&str) -> Option<Ruled>,
) -> Result<Work, SqlError> {
    let mut work = Work { tables: Vec::new(), homeless: Vec::new() };
    for changes in tables {
        let Some((table, rules, priority_field)) = find(&changes.table) else {
            let error = SqlError {
                table: Some(changes.table.clone()),
                ..SqlError::new("42P01", format!("the hub has no enabled table \"{}\"", changes.table))
            };
            refuse_all(changes, sender, &error, &mut work.homeless);
            continue;
        };
        if (sender.no_push)(&changes.table) {
            let error = SqlError {
                table: Some(changes.table.clone()),
                ..SqlError::new(
                    "42501",
                    format!("sync_direction lets this client send nothing to table \"{}\"", changes.table),
                )
            };
            refuse_all(changes, sender, &error, &mut work.homeless);
            continue;
        }
        let Some(key_places) = key_places(&table, &changes) else {
            let error = SqlError {
                table: Some(changes.table.clone()),
                ..SqlError::new(
                    "42P10",
                    format!(
                        "table \"{}\" has the key ({}) on the device and ({}) on the hub",
                        changes.table,
                        changes
                            .columns
                            .iter()
                            .take(usize::from(changes.key_len))
                            .cloned()
                            .collect::<Vec<_>>()
                            .join(", "),
                        table.key.iter().map(|at| table.columns[*at].name.clone()).collect::<Vec<_>>().join(", ")
                    ),
                )
            };
            refuse_all(changes, sender, &error, &mut work.homeless);
            continue;
        };
        let read = read_table(body, changes, (&table, &rules), &key_places, sender)?;
        match work.tables.iter_mut().find(|known| known.table.oid == table.oid) {
            Some(known) => {
                known.take_in(read.0);
                known.touched.extend(read.1);
            }
            None => work.tables.push(TableWork { table, rules, priority_field, items: read.0, touched: read.1 }),
        }
    }
    for table in &mut work.tables {
        sort_by_key(&mut table.items);
        table.touched.sort_unstable();
        table.touched.dedup();
    }
    Ok(work)
}

/// Sorts by ascending key. Items are large and each key is there once, so the places are sorted first and each item is moved once.
fn sort_by_key(items: &mut [Item]) {
    let mut from: Vec<usize> = (0..items.len()).collect();
    from.sort_unstable_by(|one, other| items[*one].key.0.cmp(&items[*other].key.0));
    for start in 0..items.len() {
        let mut at = start;
        while from[at] != start {
            let next = from[at];
            items.swap(at, next);
            from[at] = at;
            at = next;
        }
        from[at] = at;
    }
}

/// Where the hub's key columns stand in the delta's key, in the hub's order.
pub fn key_places(table: &Table, changes: &TableChanges) -> Option<Vec<usize>> {
    let sent = changes.columns.get(..usize::from(changes.key_len))?;
    if sent.len() != table.key.len() {
        return None;
    }
    table.key.iter().map(|at| sent.iter().position(|name| *name == table.columns[*at].name)).collect()
}

/// What the hub's records call the rows of these changes, one by one: in the hub's order and spelling. None: it cannot tell.
pub fn row_ids(table: &Table, changes: &TableChanges) -> Result<Option<Vec<String>>, SqlError> {
    let Some(places) = key_places(table, changes) else { return Ok(None) };
    let converter = Converter::of(table, &convert::targets(table, &changes.columns), changes)?;
    let key = |change: &Change| {
        let parts = key_parts(table, &places, &converter, change);
        Key(parts.map(|(_, part)| part.unwrap_or_else(|(_, sent)| sent)).collect())
    };
    Ok(Some(changes.changes.iter().map(|change| table.row_id(&key(change))).collect()))
}

/// The parts of a change's key in the hub's order: the column, and its value in the hub's form, or why it has none, with what was sent.
fn key_parts<'c>(
    table: &'c Table,
    places: &'c [usize],
    converter: &'c Converter<'_>,
    change: &'c Change,
) -> impl Iterator<Item = (usize, Result<Value, (SqlError, Value)>)> + 'c {
    table.key.iter().zip(places).map(|(key_at, place)| {
        let sent = change.key.0.get(*place).cloned().unwrap_or_default();
        (*key_at, converter.value(*key_at, sent))
    })
}

fn refuse_all(changes: TableChanges, sender: &Sender<'_>, error: &SqlError, homeless: &mut Vec<Homeless>) {
    let named = |column: u16| changes.columns.get(usize::from(column)).cloned().unwrap_or_default();
    for change in changes.changes {
        if change.clock <= sender.watermark {
            continue;
        }
        homeless.push(Homeless {
            table: changes.table.clone(),
            key_fields: change.key.0.iter().enumerate().map(|(at, part)| (named(at as u16), part.clone())).collect(),
            op: change.op,
            count: change.count,
            raw_clock: change.clock,
            base: change.fields.iter().filter_map(|field| Some((named(field.column), field.old.clone()?))).collect(),
            fields: change.fields.into_iter().map(|field| (named(field.column), field.new)).collect(),
            key: change.key,
            error: error.clone(),
        });
    }
}

/// What a device says of a field several times in one delta is what it says last; counters keep every difference.
fn say_once(body: &DeltaBody, changes: &mut TableChanges, watermark: Hlc, is_counter: impl Fn(u16) -> bool) {
    let mut once: HashSet<&Key> = HashSet::with_capacity(changes.changes.len());
    let news = changes.changes.iter().filter(|change| change.clock > watermark);
    let repeated: HashSet<Key> =
        news.filter(|change| !once.insert(&change.key)).map(|change| change.key.clone()).collect();
    if repeated.is_empty() {
        return;
    }
    let mut rows: HashMap<Key, Vec<&mut Change>> = HashMap::new();
    for change in changes.changes.iter_mut().filter(|change| change.clock > watermark && repeated.contains(&change.key))
    {
        rows.entry(change.key.clone()).or_default().push(change);
    }
    for row in rows.values_mut() {
        keep_last_words(row, &is_counter, |one, other| body.said_together(one, other));
    }
}

/// One of the few snapshots that all changes of a delta share.
fn shared(known: &mut Vec<Rc<Snapshot>>, base: &Snapshot) -> Rc<Snapshot> {
    if let Some(known) = known.iter().rev().find(|known| ***known == *base) {
        return Rc::clone(known);
    }
    known.push(Rc::new(base.clone()));
    Rc::clone(&known[known.len() - 1])
}

type ReadTable = (Vec<Item>, Vec<u16>);

fn read_table(
    body: &DeltaBody,
    mut changes: TableChanges,
    (table, rules): (&Rc<Table>, &TableRules),
    key_places: &[usize],
    sender: &Sender<'_>,
) -> Result<ReadTable, SqlError> {
    let targets = convert::targets(table, &changes.columns);
    // As they were made, before several words about one field become one.
    let already = |change: &Change, clock: Hlc| {
        !sender.already_made.is_empty() && copies::is_made(sender.already_made, &changes, change, clock)
    };
    let made: Vec<(bool, bool)> = changes
        .changes
        .iter()
        .map(|change| (already(change, change.clock), already(change, change.first_clock)))
        .collect();
    say_once(body, &mut changes, sender.watermark, |column| match targets.get(usize::from(column)) {
        Some(Target::Field(at)) => rules.fields.get(&table.columns[*at].number) == Some(&FieldStrategy::Sum),
        _ => false,
    });
    let converter = Converter::of(table, &targets, &changes)?;
    let canonical = |at: usize, value: Value| converter.value(at, value);
    let mut items: Vec<Item> = Vec::with_capacity(changes.changes.len());
    let mut places: HashMap<Key, usize, BuildHasherDefault<Xxh3>> = HashMap::default();
    places.reserve(changes.changes.len());
    let mut touched: HashSet<u16> = HashSet::new();
    let mut bases: Vec<Rc<Snapshot>> = Vec::new();
    for (change, (is_made, begin_is_made)) in changes.changes.into_iter().zip(made) {
        let mut refused = None;
        let mut lost = Vec::new();
        let mut respelled = false;
        let mut is_nowhere = false;
        let mut parts = Vec::with_capacity(key_places.len());
        for ((key_at, part), place) in key_parts(table, key_places, &converter, &change).zip(key_places) {
            match part {
                Ok(part) => {
                    let kind = table.columns[key_at].column_type.kind;
                    respelled |= change.key.0.get(*place).is_some_and(|sent| convert::is_told(kind, sent, &part));
                    parts.push(part);
                }
                Err((error, raw)) => {
                    refused.get_or_insert(error);
                    is_nowhere = true;
                    parts.push(raw);
                }
            }
        }
        let key = Key(parts);
        let repeated = change.clock <= sender.watermark;
        // What was refused for its key has left no row that the device could be told of, and cannot be looked for.
        if repeated && is_nowhere {
            continue;
        }
        let mut fields = Vec::with_capacity(change.fields.len());
        let mut told = Vec::new();
        for FieldChange { column, old, new } in change.fields {
            match targets.get(usize::from(column)) {
                Some(Target::Field(at)) if !table.key.contains(at) => {
                    let column = &table.columns[*at];
                    let old = match old.map(|old| canonical(*at, old)) {
                        // What the device had before may be nothing that the hub could hold; then it is no base for anything.
                        Some(Err(_)) | None => None,
                        Some(Ok(old)) => Some(old),
                    };
                    let sent = (!column.column_type.holds(&new)).then(|| new.clone());
                    match canonical(*at, new) {
                        Ok(new) => {
                            touched.insert(column.number);
                            let kind = column.column_type.kind;
                            told.push((column.number, sent.is_some_and(|sent| convert::is_told(kind, &sent, &new))));
                            fields.push(IncomingField { number: column.number, kind, old, new });
                        }
                        Err((error, new)) => {
                            refused.get_or_insert(error);
                            fields.push(IncomingField { number: column.number, kind: Kind::Text, old, new });
                        }
                    }
                }
                Some(Target::Field(_) | Target::Ignored) => {}
                // An additive change of the device's schema blocks nothing as long as there is nothing in it.
                Some(Target::Unknown) if new.is_null() && old.as_ref().is_none_or(Value::is_null) => {}
                _ => {
                    let column = changes.columns.get(usize::from(column)).cloned().unwrap_or_default();
                    lost.push(Lost { raw_clock: change.clock, column, old, new });
                }
            }
        }
        fields.sort_unstable_by_key(|field| field.number);
        let at = *places.entry(key.clone()).or_insert_with(|| {
            items.push(Item {
                key: key.clone(),
                changes: Vec::new(),
                echo_from: 0,
                last_op: Op::Update,
                inserted: false,
                repeated: BTreeSet::new(),
                told: BTreeSet::new(),
                repeated_whole: false,
                lost: Vec::new(),
                sent_as: None,
                is_taken_back: false,
                refused: None,
                heard: Vec::new(),
                merged: Merged::default(),
            });
            items.len() - 1
        });
        let item = &mut items[at];
        if is_nowhere || (respelled && change.op != Op::Delete) {
            // In the order of the hub's key columns.
            item.sent_as = Some(Key(key_places.iter().filter_map(|place| change.key.0.get(*place).cloned()).collect()));
        }
        if repeated {
            item.repeated.extend(fields.iter().map(|field| field.number));
            item.repeated_whole |= change.op != Op::Update;
            continue;
        }
        for (number, is_told) in told {
            if is_told {
                item.told.insert(number);
            } else {
                item.told.remove(&number);
            }
        }
        item.last_op = change.op;
        match change.op {
            Op::Insert => item.inserted = true,
            Op::Delete | Op::Cancelled => item.inserted = false,
            Op::Update => {}
        }
        if change.op == Op::Delete {
            item.echo_from = item.changes.len() + 1;
        }
        if item.refused.is_none() {
            item.refused = refused.map(Box::new);
        }
        item.lost.append(&mut lost);
        item.is_taken_back = is_nowhere && matches!(change.op, Op::Delete | Op::Cancelled);
        let op = match change.op {
            // Made before the device was copied, and delivered by the other copy: it only counts.
            _ if is_made => Op::Cancelled,
            // The other copy has delivered the row, but not the edits since.
            Op::Insert if begin_is_made => Op::Update,
            op => op,
        };
        let recovery = body.recovery.filter(|recovery| recovery.covers(change.clock));
        item.changes.push(Prepared {
            op,
            clock: recovery.map_or_else(|| (sender.correct)(change.clock), |recovery| (sender.correct)(recovery.as_of)),
            raw_clock: change.clock,
            base: if recovery.is_some() {
                None
            } else {
                body.base_of(change.first_clock).map(|base| shared(&mut bases, base))
            },
            count: change.count,
            of_parked: false,
            recovered: recovery.is_some(),
            fields,
        });
    }
    for item in items.iter_mut().filter(|item| item.is_taken_back) {
        item.take_back();
    }
    Ok((items, touched.into_iter().collect()))
}
