//! Merging a delta: every row by the core's rules, again without the rows that turn out to be refused.

use super::{Client, Hub, Record, State, MARK};
use crate::schema::{self, RowName};
use fieldsync_core::clocks::{Origin, RowClocks, HUB};
use fieldsync_core::delta::{Change, Delta, Op};
use fieldsync_core::merge::{
    decide, Answer, Collision, Context, HubRow, HubState, Incoming, IncomingField, Outcome, Write,
};
use fieldsync_core::reply::Outcomes;
use fieldsync_core::rules::{OnDelete, OnReject};
use fieldsync_core::{Hlc, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(super) struct Work<'a> {
    pub(super) client: &'a Client,
    pub(super) xid: u64,
    pub(super) delta: &'a Delta,
    pub(super) clocks: BTreeMap<Hlc, Hlc>,
    pub(super) excluded: BTreeMap<RowName, Exclusion>,
}

#[derive(Clone)]
pub(super) struct Exclusion {
    pub(super) outcome: Outcome,
    pub(super) rule: String,
    pub(super) record: &'static str,
}

#[derive(Default)]
pub(super) struct Merged {
    pub(super) writes: BTreeMap<RowName, State>,
    pub(super) outcomes: Outcomes,
    pub(super) records: Vec<Record>,
    pub(super) whole: BTreeSet<RowName>,
    /// Tables in which something was rejected.
    pub(super) rejected: BTreeSet<usize>,
    pub(super) accepted: BTreeSet<RowName>,
    /// Parents that came back for a child, with that child.
    pub(super) revived: BTreeMap<RowName, RowName>,
    /// Rows of which something was rejected.
    pub(super) refused: BTreeSet<RowName>,
    /// Values of rows that were there and that the same delta took away.
    pub(super) taken_away: Vec<Value>,
}

impl Hub {
    /// A rejected change of a strict table parks all of that table's changes in the delta.
    pub(super) fn park_strict(&self, work: &mut Work<'_>, merged: &Merged, changes: &[(usize, &Change)]) -> bool {
        let strict = |table: usize| self.rules[table].on_reject == OnReject::Strict;
        let tables: BTreeSet<usize> = merged.rejected.iter().copied().filter(|table| strict(*table)).collect();
        let mut learnt = false;
        for (table, change) in changes.iter().filter(|(table, _)| tables.contains(table)) {
            work.excluded.entry((*table, change.key.clone())).or_insert_with(|| {
                learnt = true;
                Exclusion { outcome: Outcome::Rejected, rule: "strict".to_owned(), record: "rejected" }
            });
        }
        learnt
    }

    /// One try at the whole delta, without the rows that are known to be refused.
    pub(super) fn attempt(&self, work: &Work<'_>, changes: &[(usize, &Change)]) -> Merged {
        let mut merged = Merged::default();
        let inserts_first = changes.iter().filter(|(_, change)| change.op != Op::Delete);
        let deletes_last = changes.iter().rev().filter(|(_, change)| change.op == Op::Delete);
        let mut done: BTreeSet<RowName> = BTreeSet::new();
        for (table, change) in inserts_first.chain(deletes_last) {
            let name: RowName = (*table, change.key.clone());
            if !done.insert(name.clone()) {
                continue;
            }
            // All changes of one row, in their order.
            for (_, change) in changes.iter().filter(|(table, change)| (*table, &change.key) == (name.0, &name.1)) {
                self.apply(work, &name, change, &mut merged);
            }
        }
        self.revive_parents(work, &mut merged);
        merged
    }

    /// A record still in use comes back, whole, from its tombstone.
    pub(super) fn revive_parents(&self, work: &Work<'_>, merged: &mut Merged) {
        loop {
            let missing = self.violations(&merged.writes).into_iter().find_map(|(constraint, rows)| {
                let [child, parent] = rows.as_slice() else { return None };
                let gone =
                    !merged.writes.contains_key(parent) && matches!(self.rows.get(parent), Some(State::Gone(..)));
                let comes_back = self.rules[parent.0].on_delete == OnDelete::UpdateWins;
                (constraint == "foreign" && gone && comes_back).then(|| (child.clone(), parent.clone()))
            });
            let Some((child, parent)) = missing else { break };
            let Some(State::Gone(row, deletion)) = self.rows.get(&parent) else { break };
            let stamp = deletion.followed_by(work.xid, self.clock.max(deletion.clock), HUB);
            let back = HubRow { values: row.values.clone(), clocks: RowClocks::new(stamp) };
            merged.writes.insert(parent.clone(), State::Live(back));
            let child = merged.revived.get(&child).cloned().unwrap_or(child);
            merged.revived.insert(parent, child);
        }
    }

    pub(super) fn apply(&self, work: &Work<'_>, name: &RowName, change: &Change, merged: &mut Merged) {
        if change.clock <= work.client.watermark {
            return;
        }
        let count = u64::from(change.count);
        let recovered = work.delta.body.recovery.filter(|recovery| recovery.covers(change.clock));
        let base = if recovered.is_some() { None } else { work.delta.body.base_of(change.first_clock) };
        // What depends on a record that was refused, or that was another one of the same key, goes where that went.
        let refused = self.records.values().chain(&merged.records).find(|record| {
            record.open
                && record.rule.starts_with("on_same_key")
                && record.client == work.client.number
                && record.row == *name
                && base.is_none_or(|base| !base.visible(record.told))
        });
        let exclusion = work.excluded.get(name).cloned().or_else(|| {
            refused.map(|record| Exclusion { outcome: Outcome::Conflict, rule: record.rule.clone(), record: "manual" })
        });
        if let Some(exclusion) = exclusion {
            merged.outcomes.count(exclusion.outcome, count);
            if exclusion.outcome == Outcome::Rejected {
                merged.rejected.insert(name.0);
            }
            merged.records.push(Record {
                client: work.client.number,
                row: name.clone(),
                outcome: exclusion.record.to_owned(),
                open: exclusion.record != "server",
                clock: change.clock,
                told: work.xid,
                values: change.fields.iter().map(|field| field.new.clone()).collect(),
                rule: exclusion.rule,
            });
            match exclusion.record {
                "rejected" => merged.refused.insert(name.clone()),
                _ => merged.whole.insert(name.clone()),
            };
            return;
        }
        let kinds = schema::kinds(name.0);
        let fields: Vec<IncomingField> = change
            .fields
            .iter()
            .filter(|field| field.column <= self.width[name.0])
            .map(|field| IncomingField {
                number: field.column,
                kind: kinds[usize::from(field.column)],
                old: field.old.clone(),
                new: field.new.clone(),
            })
            .collect();
        let state = match merged.writes.get(name).or_else(|| self.state(work.xid, name)) {
            None => HubState::Absent,
            Some(State::Live(row)) => HubState::Live(row.clone()),
            Some(State::Gone(row, deletion)) => HubState::Deleted { row: row.clone(), deletion: *deletion },
        };
        let incoming = Incoming {
            op: change.op,
            origin: work.client.number,
            clock: match recovered {
                Some(recovery) => recovery.as_of.min(self.clock),
                None => work.clocks.get(&change.clock).copied().unwrap_or_default(),
            },
            seen: base.into(),
            fields: &fields,
            key_is_integer: name.1.is_integer(),
        };
        let ids: HashMap<Origin, String> =
            self.clients.values().map(|client| (client.number, client.client_id.clone())).collect();
        let client_id = |origin: Origin| ids.get(&origin).cloned().unwrap_or_default();
        let priority = self.priorities[name.0].and_then(|column| {
            let HubState::Live(row) = &state else { return None };
            let device = fields.iter().find(|field| field.number == column)?;
            Some((device.new.clone(), row.value(column)))
        });
        let context = Context { version: work.xid, client_id: &client_id, priority };
        let decision = decide(&incoming, &state, &self.rules[name.0], &context);
        merged.outcomes.count(decision.outcome, count);
        let mut record = |outcome: &str, open: bool, rule: String, values: Vec<Value>| {
            merged.records.push(Record {
                client: work.client.number,
                row: name.clone(),
                outcome: outcome.to_owned(),
                open,
                clock: change.clock,
                told: work.xid,
                values,
                rule,
            });
        };
        if let Some(why) = &decision.rejection {
            let values = change.fields.iter().map(|field| field.new.clone()).collect();
            record("rejected", true, why.to_string(), values);
        }
        for collision in &decision.collisions {
            let Collision { client, server, winner, rule, .. } = collision;
            record(winner.word(), winner.word() == "manual", rule.clone(), vec![client.clone(), server.clone()]);
        }
        if decision.outcome == Outcome::Rejected {
            merged.rejected.insert(name.0);
            merged.refused.insert(name.clone());
        } else {
            merged.accepted.insert(name.clone());
        }
        if decision.answer == Answer::Whole {
            merged.whole.insert(name.clone());
        }
        let after = match (decision.write, state) {
            (Write::Nothing, _) => return,
            (Write::Insert { fields, clocks } | Write::Revive { fields, clocks }, _) => {
                State::Live(HubRow { values: fields.into_iter().collect(), clocks })
            }
            (Write::Update { fields, clocks }, HubState::Live(mut row)) => {
                row.values.extend(fields);
                State::Live(HubRow { clocks, ..row })
            }
            (Write::Delete { deletion }, HubState::Live(mut row)) => {
                if self.soft[name.0] {
                    row.clocks.set(MARK, deletion);
                }
                // Its tombstone is the last trace of what it held, unless the delta makes the row once more.
                merged.taken_away.extend(row.values.values().cloned());
                State::Gone(row, deletion)
            }
            (Write::Update { .. } | Write::Delete { .. }, _) => return,
        };
        merged.writes.insert(name.clone(), after);
    }

    /// The first of the delta's rows that the hub's constraints refuse. Deleted parents that a child of the delta needs, and
    /// whose rule says so, come back instead.
    pub(super) fn to_blame(&self, merged: &Merged, names: &BTreeSet<RowName>) -> Option<(RowName, Exclusion)> {
        let rejected = |name: &RowName, why: &str| {
            (name.clone(), Exclusion { outcome: Outcome::Rejected, rule: why.to_owned(), record: "rejected" })
        };
        for (constraint, rows) in self.violations(&merged.writes) {
            let written = |name: &&RowName| names.contains(*name) && merged.writes.contains_key(*name);
            if constraint != "foreign" {
                let cause = rows.iter().find_map(|row| merged.revived.get(row)).or_else(|| rows.iter().find(written));
                if let Some(name) = cause {
                    return Some(rejected(name, constraint));
                }
                continue;
            }
            // A parent that came back, and lacks one itself, is in the delta for its child's sake only.
            let (child, parent) = (merged.revived.get(&rows[0]).unwrap_or(&rows[0]), &rows[1]);
            let rule = self.rules[parent.0].on_delete;
            let conflict = |name: &RowName, record| {
                (
                    name.clone(),
                    Exclusion { outcome: Outcome::Conflict, rule: format!("on_delete/{}", rule.word()), record },
                )
            };
            let parent_goes_now = matches!(merged.writes.get(parent), Some(State::Gone(..)));
            if parent_goes_now {
                // The delta deletes a parent that the hub still has children of.
                return Some(match rule {
                    OnDelete::UpdateWins => conflict(parent, "server"),
                    _ => rejected(parent, constraint),
                });
            }
            let gone = matches!(self.rows.get(parent), Some(State::Gone(..)));
            return Some(match (gone, rule) {
                (true, OnDelete::DeleteWins) => conflict(child, "rejected"),
                (true, OnDelete::Manual) => conflict(child, "rejected"),
                _ => rejected(child, constraint),
            });
        }
        None
    }
}
