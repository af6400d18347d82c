//! What a device has not seen, and what it has just said of it.

use super::{Client, Hub, Record, State, MARK};
use crate::schema::{self, RowName, TABLES};
use fieldsync_core::delta::{BatchId, Change, Delta, Op};
use fieldsync_core::reply::{ConflictNotice, Notice, Reply, ReplyBody, RowChange, TableRows};
use fieldsync_core::rules::FieldStrategy;
use fieldsync_core::travel::{Reader, Sent};
use fieldsync_core::{Hlc, Value};
use std::collections::{BTreeMap, BTreeSet};

impl Hub {
    /// An answer without rows: the hub has taken more of this client than the delta at hand brings.
    pub(super) fn short(&self, client: &Client, delta: &Delta, batch: BatchId, now_ms: u64) -> Reply {
        let body = ReplyBody {
            batch,
            watermark: delta.body.answered_up_to(client.watermark),
            cursor: delta.body.cursor.clone().unwrap_or_default(),
            more: true,
            ..ReplyBody::default()
        };
        Reply { client: delta.client, history: self.history(), hub_now_ms: now_ms, body }
    }

    /// Everything that the device lacks, read under one snapshot.
    pub(super) fn pull(
        &self,
        xid: u64,
        client: &Client,
        delta: &Delta,
        deletions_too: bool,
        sent: &BTreeMap<RowName, Said>,
    ) -> ReplyBody {
        let reader = Reader { cursor: delta.body.cursor.as_ref(), deletions_too };
        let own = self.running.get(&xid);
        let records = self.records.iter().filter(|(number, _)| own.is_none_or(|own| !own.records.contains_key(number)));
        let records: Vec<(&u64, &Record)> = records.chain(own.iter().flat_map(|own| &own.records)).collect();
        // A rejection settled since: the row goes whole.
        let settled: BTreeSet<&RowName> = records
            .iter()
            .filter(|(_, record)| {
                !record.open
                    && record.outcome == "rejected"
                    && record.client == client.number
                    && reader.unseen(record.told)
            })
            .map(|(_, record)| &record.row)
            .collect();
        let waits = |name: &RowName| {
            let mut records = records.iter().map(|(_, record)| record);
            records.any(|record| record.open && record.client == client.number && record.row == *name)
        };
        let wanted: BTreeSet<RowName> = delta
            .body
            .wants
            .iter()
            .filter_map(|want| Some((TABLES.iter().position(|shape| shape.name == want.table)?, want.key.clone())))
            .collect();
        let mut names: BTreeSet<&RowName> =
            self.rows.keys().chain(own.iter().flat_map(|own| own.writes.keys())).collect();
        names.extend(settled.iter().copied());
        names.extend(&wanted);
        let mut tables: Vec<TableRows> = (0..TABLES.len()).map(|table| self.heading(table)).collect();
        let mut clock = Hlc::default();
        for name in names {
            let sent = sent.get(name);
            let named = wanted.contains(name) || settled.contains(name);
            let change = match self.state(xid, name) {
                Some(State::Live(row)) => {
                    let back = row.clocks.stamped().find(|(number, _)| *number == MARK).map(|(_, mark)| mark.version);
                    let whole = reader.needs_whole(&row.clocks, back, named, sent);
                    let fields = schema::fields(name.0, self.width[name.0]).map(|column| (column, row.value(column)));
                    let sums = &tables[name.0].sums;
                    let fields: Vec<(u16, Value)> = fields
                        .filter(|(column, value)| {
                            whole || reader.hears_of_field(&row.clocks, *column, value, sums.contains(column), sent)
                        })
                        .collect();
                    for (column, _) in &fields {
                        clock = clock.max(row.clocks.field(*column).clock);
                    }
                    let op = if whole { Op::Insert } else { Op::Update };
                    (whole || !fields.is_empty()).then_some((op, fields))
                }
                Some(State::Gone(_, deletion)) => {
                    let travels = reader.hears_of_deletion(deletion.version, named, sent);
                    clock = if travels { clock.max(deletion.clock) } else { clock };
                    travels.then_some((Op::Delete, Vec::new()))
                }
                // Repeating what was refused makes no row of it; while it waits for a person, it stays on its device.
                None => {
                    (named && !sent.is_some_and(|sent| sent.news) && !waits(name)).then_some((Op::Delete, Vec::new()))
                }
            };
            if let Some((op, fields)) = change {
                tables[name.0].rows.push(RowChange { op, key: name.1.clone(), fields });
            }
        }
        tables.retain(|table| !table.rows.is_empty());
        let notices = records
            .iter()
            .filter(|(_, record)| record.client == client.number && reader.unseen(record.told))
            .map(|(number, record)| {
                Notice::Conflict(Box::new(ConflictNotice {
                    conflict_id: **number,
                    table: TABLES[record.row.0].name.to_owned(),
                    key: record.row.1.clone(),
                    outcome: record.outcome.clone(),
                    rule: record.rule.clone(),
                    status: if record.open { "open" } else { "resolved" }.to_owned(),
                    clock: record.clock,
                    ..ConflictNotice::default()
                }))
            })
            .collect();
        ReplyBody {
            watermark: delta.body.answered_up_to(client.watermark),
            cursor: self.snapshot().with_own(xid),
            clock,
            notices,
            tables,
            ..ReplyBody::default()
        }
    }

    pub(super) fn heading(&self, table: usize) -> TableRows {
        let width = self.width[table];
        TableRows {
            table: TABLES[table].name.to_owned(),
            columns: schema::names(table, width),
            kinds: schema::kinds(table)[..=usize::from(width)].to_vec(),
            key_len: schema::key_len(table),
            sums: schema::fields(table, width)
                .filter(|column| self.rules[table].fields.get(column) == Some(&FieldStrategy::Sum))
                .collect(),
            rows: Vec::new(),
        }
    }
}

/// What a delta has to do with a row.
#[derive(Default)]
pub(super) struct Said {
    /// It says something that had not been answered before.
    news: bool,
    inserted: bool,
    taken_away: bool,
    /// The merge wants the device to have it whole.
    whole: bool,
    /// Values, by changes that had not been answered before and that stand.
    fields: BTreeMap<u16, Value>,
    /// Fields of changes that had been answered before.
    repeated: BTreeSet<u16>,
    repeated_whole: bool,
}

impl Sent for Said {
    fn says_anything(&self) -> bool {
        self.news || self.repeated_whole || !self.repeated.is_empty()
    }

    fn made_it(&self) -> bool {
        self.inserted && !self.taken_away
    }

    fn took_it_away(&self) -> bool {
        self.taken_away
    }

    fn needs_it_whole(&self) -> bool {
        self.whole || self.repeated_whole
    }

    fn says(&self, field: u16) -> Option<&Value> {
        self.fields.get(&field)
    }

    fn repeats(&self, field: u16) -> bool {
        self.repeated.contains(&field)
    }

    fn must_hear(&self, _: u16) -> bool {
        false // every value is written in the hub's own form
    }
}

/// What a delta has to do with each row; up to `answered` it was answered before.
pub(super) fn said(changes: &[(usize, &Change)], answered: Hlc, whole: &BTreeSet<RowName>) -> BTreeMap<RowName, Said> {
    let mut found: BTreeMap<RowName, Said> = BTreeMap::new();
    for (table, change) in changes {
        let said = found.entry((*table, change.key.clone())).or_default();
        if change.clock <= answered {
            said.repeated.extend(change.fields.iter().map(|field| field.column));
            said.repeated_whole |= change.op != Op::Update;
            continue;
        }
        said.news = true;
        said.taken_away = matches!(change.op, Op::Delete | Op::Cancelled);
        match change.op {
            Op::Insert => said.inserted = true,
            Op::Delete | Op::Cancelled => said.inserted = false,
            Op::Update => {}
        }
        if change.op == Op::Delete {
            said.fields.clear();
        }
        said.fields.extend(change.fields.iter().map(|field| (field.column, field.new.clone())));
    }
    for name in whole {
        found.entry(name.clone()).or_default().whole = true;
    }
    found
}
