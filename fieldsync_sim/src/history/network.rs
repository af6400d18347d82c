//! Blobs on their way: lost, late, damaged, twice, in another order.

use super::{fail, Finding, Letter, World};
use crate::device::{self, Device};
use crate::hub;
use crate::plan::{Damage, Fate};
use crate::post;
use fieldsync_core::wire::Shapes;
use std::rc::Rc;

impl World {
    pub(super) fn export(&mut self, phone: usize, most: Option<usize>) {
        let wall = self.wall(phone);
        let (blob, _) = self.phones[phone].file.export(wall, most);
        self.trace(|| format!("phone {phone}: export"));
        let blob: Rc<[u8]> = blob.into();
        self.archive.push((phone, blob.clone()));
        self.network.push(Letter::ToHub { from: phone, blob });
    }

    /// Exported, and the blob never left.
    pub(super) fn lose_export(&mut self, phone: usize) {
        let wall = self.wall(phone);
        let _ = self.phones[phone].file.export(wall, None);
    }

    pub(super) fn deliver(
        &mut self,
        pick: Option<usize>,
        twice: bool,
        damage: Damage,
        fate: Fate,
        dies: bool,
    ) -> Result<(), Finding> {
        if self.network.is_empty() {
            return Ok(());
        }
        let letter = self.network.remove(pick.unwrap_or(0) % self.network.len());
        if twice {
            self.network.push(letter.clone());
        }
        match letter {
            Letter::ToHub { from, blob } => self.hear_of(from, &damaged(blob, damage), fate),
            Letter::ToDevice { to, blob } => self.apply(to, &damaged(blob, damage), dies),
        }
    }

    /// A delta reaches the hub; the commit may come later, or never.
    pub(super) fn hear_of(&mut self, from: usize, blob: &[u8], fate: Fate) -> Result<(), Finding> {
        match self.hub.sync(blob, self.now_ms) {
            Ok(Ok(xid)) => {
                self.trace(|| self.told(xid, from, blob));
                match fate {
                    Fate::Never => self.hub.abort(xid),
                    Fate::Later => self.syncs_open.push_back((xid, from)),
                    Fate::Now => self.commit_sync(xid, from),
                }
            }
            Ok(Err(reply)) => self.network.push(Letter::ToDevice { to: from, blob: reply }),
            Err(refusal) => {
                self.trace(|| format!("hub refuses: {refusal:?}"));
                let forgotten = self.troubles.restored_hub && refusal == hub::Refusal::Unknown;
                if !forgotten && refusal != hub::Refusal::Damaged {
                    return fail(format!("the hub refused phone {from}: {refusal:?}"));
                }
            }
        }
        Ok(())
    }

    /// A sync in words, for a trace.
    pub(super) fn told(&self, xid: u64, from: usize, blob: &[u8]) -> String {
        let mut text = format!("hub: sync {xid} of phone {from}");
        let Ok(envelope) = post::peek(blob) else { return text };
        let Some(client) = self.hub.clients.get(&envelope.client) else { return text };
        let delta = post::read_delta(blob, &client.key, &client.delta_shapes);
        for table in delta.into_iter().flat_map(|(delta, _)| delta.body.tables) {
            for change in table.changes {
                text += &format!("\n    {}/{} {change:?}", table.table, change.key.row_id());
            }
        }
        let Some(own) = self.hub.running.get(&xid) else { return text };
        let knows = own.client.as_ref().map_or(Shapes::none(), |after| after.knows.clone());
        let reply = post::read_reply(&own.reply, &client.key, &knows).ok();
        if let Some(reply) = &reply {
            text += &format!("\n    cursor {} watermark {:?}", reply.body.cursor, reply.body.watermark);
            for notice in
                reply.body.notices.iter().filter(|notice| !matches!(notice, fieldsync_core::reply::Notice::Conflict(_)))
            {
                text += &format!("\n    {notice:?}");
            }
        }
        for (name, state) in &own.writes {
            text += &format!("\n    -> {} {state:?}", Device::describe(name));
        }
        for record in own.records.values() {
            text += &format!(
                "\n    !! {} {} {} open={} {:?}",
                Device::describe(&record.row),
                record.outcome,
                record.rule,
                record.open,
                record.values
            );
        }
        for table in reply.into_iter().flat_map(|reply| reply.body.tables) {
            for row in table.rows {
                text += &format!("\n    <- {}/{} {:?} {:?}", table.table, row.key.row_id(), row.op, row.fields);
            }
        }
        text
    }

    pub(super) fn commit_sync(&mut self, xid: u64, to: usize) {
        let reply = self.hub.running.get(&xid).map(|own| own.reply.clone());
        self.hub.commit(xid);
        self.figures.syncs += 1;
        if let Some(blob) = reply {
            self.network.push(Letter::ToDevice { to, blob });
        }
    }

    pub(super) fn finish(&mut self, aborts: bool) {
        if let Some((xid, from)) = self.syncs_open.pop_front() {
            if aborts {
                self.hub.abort(xid);
            } else {
                self.commit_sync(xid, from);
            }
        }
    }

    pub(super) fn apply(&mut self, to: usize, blob: &[u8], dies: bool) -> Result<(), Finding> {
        if dies {
            return Ok(()); // it died before the commit: nothing happened
        }
        let outcome = self.phones[to].file.apply(blob);
        self.trace(|| format!("phone {to}: apply {outcome:?} watermark {:?}", self.phones[to].file.watermark));
        self.touched.insert(to);
        if outcome == Err(device::Refusal::NotMine) || outcome == Err(device::Refusal::Stale) {
            return Ok(());
        }
        let file = &self.phones[to].file;
        let back = match (&self.phones[to].cursor, &file.cursor) {
            (Some(before), Some(now)) => !now.covers(before),
            _ => false,
        };
        if back {
            return fail(format!("the cursor of phone {to} went back"));
        }
        self.phones[to].cursor = self.phones[to].file.cursor.clone();
        Ok(())
    }

    pub(super) fn replay(&mut self, pick: usize, fate: Fate) -> Result<(), Finding> {
        if self.archive.is_empty() {
            return Ok(());
        }
        let (from, blob) = self.archive[pick % self.archive.len()].clone();
        self.trace(|| format!("an old blob of phone {from} again"));
        self.hear_of(from, &blob, fate)
    }
}

fn damaged(blob: Rc<[u8]>, damage: Damage) -> Rc<[u8]> {
    match damage {
        Damage::Truncate(at) => blob[..at % blob.len().max(1)].into(),
        Damage::Flip(at) if !blob.is_empty() => {
            let mut bytes = blob.to_vec();
            bytes[at / 8 % blob.len()] ^= 1 << (at % 8);
            bytes.into()
        }
        _ => blob,
    }
}
