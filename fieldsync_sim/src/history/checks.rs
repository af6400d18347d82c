//! What must hold after every step, and when all has come to rest.

use super::{fail, Finding, World};
use crate::device::Device;
use crate::hub::{self};
use crate::schema::{self, Row, RowName};
use fieldsync_core::Value;
use std::collections::{BTreeMap, BTreeSet};

impl World {
    pub(super) fn hold(&mut self, step: usize) -> Result<(), Finding> {
        if self.hub.commits != self.hub_looked_at {
            self.hub_looked_at = self.hub.commits;
            self.hub_holds(step)?;
        }
        for at in std::mem::take(&mut self.touched) {
            self.phone_holds(at, step)?;
        }
        Ok(())
    }

    pub(super) fn hub_holds(&self, step: usize) -> Result<(), Finding> {
        if let Some((constraint, rows)) = self.hub.violations(&BTreeMap::new()).first() {
            return fail(format!("step {step}: the hub breaks {constraint}: {rows:?}"));
        }
        for client in self.hub.clients.values() {
            if client.outcomes.total() != client.acknowledged {
                return fail(format!("step {step}: the ledger of {} does not add up: {client:?}", client.client_id));
            }
        }
        Ok(())
    }

    pub(super) fn phone_holds(&self, at: usize, step: usize) -> Result<(), Finding> {
        let file = &self.phones[at].file;
        let mut codes: BTreeMap<&Value, &RowName> = BTreeMap::new();
        for (name, row) in file.visible() {
            if let Some(parent) = schema::parents_of(name, row).iter().find(|parent| file.row(parent).is_none()) {
                return fail(format!(
                    "step {step}: phone {at} has {} without {}",
                    Device::describe(name),
                    Device::describe(parent)
                ));
            }
            if let Some(twin) = schema::code_of(name.0, row).and_then(|code| codes.insert(code, name)) {
                let (name, twin) = (Device::describe(name), Device::describe(twin));
                return fail(format!("step {step}: phone {at} has a code twice: {name}, {twin}"));
            }
        }
        Ok(())
    }

    pub(super) fn exchange(&mut self, phone: usize) -> Result<usize, Finding> {
        let mut moved = 0;
        for _ in 0..40 {
            self.now_ms += 1_000;
            let wall = self.wall(phone);
            let (blob, changes) = self.phones[phone].file.export(wall, None);
            let reply = match self.hub.sync(&blob, self.now_ms) {
                Ok(Ok(xid)) => {
                    self.trace(|| self.told(xid, phone, &blob));
                    self.hub.commit(xid)
                }
                Ok(Err(reply)) => reply,
                // A restored hub has forgotten an identity that it gave since the backup: its operator registers it again.
                Err(hub::Refusal::Unknown) if self.troubles.restored_hub => {
                    let file = &self.phones[phone].file;
                    self.hub.register(&file.client_id.clone(), file.key.clone());
                    continue;
                }
                Err(refusal) => return fail(format!("at the end the hub refuses phone {phone}: {refusal:?}")),
            };
            self.figures.syncs += 1;
            let report = match self.phones[phone].file.apply(&reply) {
                Ok(report) => report,
                Err(refusal) => return fail(format!("at the end phone {phone} refuses its answer: {refusal:?}")),
            };
            self.touched.insert(phone);
            self.trace(|| format!("end: phone {phone} sent {changes} and got {}", report.rows));
            moved += changes + report.rows;
            if !report.more {
                return Ok(moved);
            }
        }
        fail(format!("phone {phone} never stops"))
    }

    pub(super) fn quiesce(&mut self) -> Result<(), Finding> {
        let open: Vec<u64> = self.hub.running.keys().copied().collect();
        open.into_iter().for_each(|xid| {
            self.hub.commit(xid);
        });
        self.hub.add_column();
        for phone in &mut self.phones {
            phone.file.add_column();
        }
        for round in 0..12 {
            let mut moved = 0;
            for phone in 0..self.phones.len() {
                moved += self.exchange(phone)?;
                self.hold(1_000_000 + round)?;
            }
            let dropped = self.hub.drop_rejections();
            self.trace(|| format!("end: round {round} moved {moved}, {dropped} rejections dropped"));
            if moved == 0 && dropped == 0 {
                return self.judge();
            }
        }
        for (at, phone) in self.phones.iter().enumerate() {
            let file = &phone.file;
            self.trace(|| {
                let parked: Vec<_> = file.log.iter().filter(|entry| entry.parked || entry.again).collect();
                format!(
                    "phone {at}: wants {:?} waiting {:?} doomed {:?} aside {:?} refused {:?} parked {parked:?}",
                    file.wants, file.waiting, file.doomed, file.aside, file.rejections
                )
            });
        }
        fail("it does not come to rest in twelve rounds")
    }

    pub(super) fn judge(&mut self) -> Result<(), Finding> {
        self.figures.records = self.hub.records.len() as u64;
        let hub = self.hub.live_rows();
        for (at, phone) in self.phones.iter().enumerate() {
            let file = &phone.file;
            let shown: BTreeMap<RowName, Row> = file.visible().map(|(name, row)| (name.clone(), row.clone())).collect();
            if shown != hub {
                let names: BTreeSet<&RowName> = hub.keys().chain(shown.keys()).collect();
                let wrong = names.into_iter().find(|name| hub.get(*name) != shown.get(*name));
                let wrong = wrong.map(|name| {
                    format!("{}: hub {:?}, phone {:?}", Device::describe(name), hub.get(name), shown.get(name))
                });
                return fail(format!("phone {at} differs: {}", wrong.unwrap_or_default()));
            }
            let asked = file.wants.len() + file.waiting.len();
            let rest = (file.pending(), asked, file.doomed.len(), file.aside.len(), file.rejections.len());
            if rest != (0, 0, 0, 0, 0) {
                return fail(format!(
                    "phone {at} has work left: pending, asked, doomed, aside, rejected = {rest:?} {:?} {:?} {:?} {:?} {:?}",
                    file.wants, file.waiting, file.doomed, file.aside, file.rejections
                ));
            }
        }
        if self.stock_exact {
            for (key, expected) in &self.stock {
                let name = (schema::STOCK, key.clone());
                let found = hub.get(&name).map(|row| row[usize::from(schema::QUANTITY)].clone());
                if found != Some(Value::Int(*expected)) {
                    return fail(format!("{} is {found:?} and should be {expected}", Device::describe(&name)));
                }
            }
        }
        if !self.troubles.restored_hub {
            self.every_edit_is_somewhere()?;
        }
        Ok(())
    }

    /// The last value that a device gave a field was written on the hub at some time, or is on record.
    pub(super) fn every_edit_is_somewhere(&self) -> Result<(), Finding> {
        let recorded: BTreeSet<&Value> = self.hub.records.values().flat_map(|record| &record.values).collect();
        for ((phone, name, column), value) in &self.last_edits {
            let unique = matches!(value, Value::Text(text) if text.starts_with('v'));
            if unique && !self.hub.ever.contains(value) && !recorded.contains(value) {
                return fail(format!(
                    "{value:?}, which phone {phone} wrote into column {column} of {}, is nowhere",
                    Device::describe(name)
                ));
            }
        }
        Ok(())
    }
}
