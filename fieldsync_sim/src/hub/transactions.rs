//! Transactions that overlap as Postgres lets them, and what the hub's own application writes in them.

use super::{Hub, State, Transaction, MARK};
use crate::schema::{self, Row, RowName};
use fieldsync_core::clocks::{RowClocks, Stamp, HUB};
use fieldsync_core::merge::HubRow;
use fieldsync_core::Snapshot;
use std::collections::BTreeSet;
use std::rc::Rc;

impl Hub {
    /// A transaction gets its id.
    pub fn begin(&mut self) -> u64 {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.running.insert(xid, Transaction::default());
        xid
    }

    /// COMMIT; the answer, if it was a sync.
    pub fn commit(&mut self, xid: u64) -> Rc<[u8]> {
        let Some(done) = self.running.remove(&xid) else { return Rc::default() };
        self.commits += 1;
        self.latest_completed = self.latest_completed.max(xid);
        self.ever.extend(done.overwritten);
        for (name, state) in done.writes {
            // A tombstone keeps the row whole.
            let (State::Live(row) | State::Gone(row, _)) = &state;
            self.ever.extend(row.values.values().cloned());
            self.rows.insert(name, state);
        }
        if let Some(client) = done.client {
            self.clients.insert(fieldsync_core::delta::client_tag(&client.client_id), client);
        }
        if let Some(client) = done.registers {
            // Whoever comes second finds the identity registered, and perhaps in use.
            self.clients.entry(fieldsync_core::delta::client_tag(&client.client_id)).or_insert(client);
        }
        self.records.extend(done.records);
        done.reply
    }

    /// ROLLBACK, or the backend's death.
    pub fn abort(&mut self, xid: u64) {
        self.running.remove(&xid);
        self.latest_completed = self.latest_completed.max(xid);
    }

    /// pg_current_snapshot().
    pub fn snapshot(&self) -> Snapshot {
        let xmax = self.latest_completed + 1;
        let xip: Vec<u64> = self.running.keys().copied().filter(|xid| *xid < xmax).collect();
        Snapshot { xmin: xip.first().copied().unwrap_or(xmax), xmax, xip }
    }

    pub(super) fn state(&self, xid: u64, name: &RowName) -> Option<&State> {
        self.running.get(&xid).and_then(|own| own.writes.get(name)).or_else(|| self.rows.get(name))
    }

    pub(super) fn live(&self, xid: u64, name: &RowName) -> Option<&HubRow> {
        match self.state(xid, name) {
            Some(State::Live(row)) => Some(row),
            _ => None,
        }
    }

    /// Waits for whoever has the row: its holder commits.
    pub(super) fn wait_for(&mut self, xid: u64, blocks: impl Fn(&Transaction) -> bool) {
        let holders: Vec<u64> = self
            .running
            .iter()
            .filter(|(other, held)| **other != xid && blocks(held))
            .map(|(other, _)| *other)
            .collect();
        for holder in holders {
            self.commit(holder);
        }
    }

    pub(super) fn lock(&mut self, xid: u64, name: &RowName) {
        self.wait_for(xid, |held| held.writes.contains_key(name) || held.holds.contains(name));
    }

    /// TRUNCATE of a table that nothing refers to: a deletion of every row, also where deletion is soft.
    pub fn truncate(&mut self, xid: u64, now_ms: u64, table: usize) {
        self.wait_for(xid, |held| held.writes.keys().any(|name| name.0 == table));
        let own = self.running.get(&xid).map(|own| own.writes.clone()).unwrap_or_default();
        let names: BTreeSet<RowName> =
            self.rows.keys().chain(own.keys()).filter(|name| name.0 == table).cloned().collect();
        let soft = std::mem::take(&mut self.soft);
        for name in names {
            self.write(xid, now_ms, &name, None);
        }
        self.soft = soft;
    }

    /// Whether the application may write the row now without breaking a rule, given what is committed and its own.
    pub fn write(&mut self, xid: u64, now_ms: u64, name: &RowName, wanted: Option<Row>) -> bool {
        self.lock(xid, name);
        if let Some(row) = &wanted {
            for parent in schema::parents_of(name, row) {
                self.wait_for(xid, |held| held.writes.contains_key(&parent));
            }
            if let Some(code) = schema::code_of(name.0, row) {
                let code = code.clone();
                self.wait_for(xid, |held| held.codes.contains(&code));
            }
        } else {
            let children = |held: &Transaction| held.holds.contains(name);
            self.wait_for(xid, children);
        }
        self.clock = self.clock.tick(now_ms);
        let clock = self.clock;
        let before = self.state(xid, name).cloned();
        let after = match (before, &wanted) {
            (None | Some(State::Gone(..)), None) => return false,
            (Some(State::Live(mut row)), None) if self.soft[name.0] => {
                row.clocks.touch(MARK, xid, clock, HUB);
                let deletion = row.clocks.field(MARK);
                State::Gone(row, deletion)
            }
            (Some(State::Live(row)), None) => {
                let last = row.clocks.latest();
                let deletion = last.followed_by(xid, clock.max(last.clock), HUB);
                State::Gone(row, deletion)
            }
            // A marked row is there: who wants it back unmarks it.
            (Some(State::Gone(mut row, deletion)), Some(values)) if is_marked(&row, deletion) => {
                row.clocks.touch(MARK, xid, clock, HUB);
                for column in schema::fields(name.0, self.width[name.0]) {
                    let value = &values[usize::from(column)];
                    if row.value(column) != *value {
                        row.values.insert(column, value.clone());
                        row.clocks.touch(column, xid, clock, HUB);
                    }
                }
                State::Live(row)
            }
            (Some(State::Live(mut row)), Some(values)) => {
                let mut changed = false;
                for column in schema::fields(name.0, self.width[name.0]) {
                    let value = &values[usize::from(column)];
                    if row.value(column) != *value {
                        row.values.insert(column, value.clone());
                        row.clocks.touch(column, xid, clock, HUB);
                        changed = true;
                    }
                }
                if !changed {
                    return false;
                }
                State::Live(row)
            }
            (before, Some(values)) => {
                let stamp = match before {
                    Some(State::Gone(_, deletion)) => deletion.followed_by(xid, clock.max(deletion.clock), HUB),
                    _ => Stamp::first(xid, clock, HUB),
                };
                let values = schema::fields(name.0, self.width[name.0])
                    .map(|column| (column, values[usize::from(column)].clone()))
                    .collect();
                State::Live(HubRow { values, clocks: RowClocks::new(stamp) })
            }
        };
        let mut writes = self.running.get(&xid).map(|own| own.writes.clone()).unwrap_or_default();
        writes.insert(name.clone(), after);
        if !self.violations(&writes).is_empty() {
            return false;
        }
        let Some(own) = self.running.get_mut(&xid) else { return false };
        own.writes = writes;
        if let Some(row) = wanted {
            own.holds.extend(schema::parents_of(name, &row));
            own.codes.extend(schema::code_of(name.0, &row).cloned());
        }
        true
    }
}

/// Whether a deleted row is still there, marked.
fn is_marked(row: &HubRow, deletion: Stamp) -> bool {
    row.clocks.stamped().any(|stamped| stamped == (MARK, deletion))
}
