//! Rows of the hub for a table that a program dropped and made again, empty, where this device may have another record under their key: see
//! [`crate::emptied`].

use super::history;
use super::pass::{Pass, Place};
use crate::conflicts;
use crate::emptied;
use crate::error::Result;
use fieldsync_core::delta::Op;
use fieldsync_core::reply::RowChange;
use fieldsync_core::Key;
use std::collections::HashSet;

impl Pass<'_, '_> {
    /// Whether a row is to be written, or deleted. Not if its key is here another record's: that one makes room for the whole row, if this is
    /// it, and knows nothing of less.
    pub(super) fn is_to_be_written(&mut self, place: Place, row: &RowChange) -> Result<bool> {
        let own_key = self.device_key(place.0, &row.key);
        let table = &mut self.tables[place.0];
        let Some(writer) = &mut table.writer else { return Ok(true) };
        if !emptied::is_integer(&own_key) || emptied::has_arrived(self.db, &table.head.table, &own_key)? {
            return Ok(true);
        }
        let name = writer.table.name.clone();
        // One that was made before, and never sent, has taken this one along under its key, and is judged by the hub.
        let before = self.unanswered.of(&name, &own_key);
        if before.is_some_and(|before| before.made) {
            return Ok(true);
        }
        let own = writer.read(&row.key)?;
        match row.op {
            Op::Insert if own.is_none() || table.reconciling || table.last_news => {}
            Op::Update => return Ok(own.is_none()),
            // What is deleted was never in this table; nor is it what somebody may make here yet, before all rows have come.
            _ => return Ok(false),
        }
        if let Some(own) = own {
            if writer.over(Some(own.clone()), &row.key, &row.fields) != own {
                let itself = (name.to_ascii_lowercase(), own_key.clone());
                let mut leaving = HashSet::from([itself.clone()]);
                self.done.stepped_aside += 1 + self.dependents_step_aside(&name, &own, &mut leaving)?;
                leaving.remove(&itself);
                self.come_back_by_themselves(leaving)?;
                conflicts::beside_the_hubs(self.db, &self.tables[place.0].head, &own_key, &own, row)?;
                if let Some(writer) = &mut self.tables[place.0].writer {
                    writer.delete(&row.key)?;
                }
            }
        }
        if before.is_some() {
            self.done.wants.push((name, own_key.clone())); // without what this device has yet to send it is not whole
        }
        history::arrived(self.db, &self.tables[place.0].head, &own_key, row, false)?;
        Ok(true)
    }

    /// Dependents that this device has not written since refer to the hub's: they come back, and nobody has to decide about them.
    fn come_back_by_themselves(&mut self, dependents: HashSet<(String, Key)>) -> Result<()> {
        if dependents.is_empty() {
            return Ok(());
        }
        if self.written_since.is_none() {
            self.written_since = Some(emptied::written_since(self.db)?);
        }
        for dependent in dependents {
            let (table, key) = &dependent;
            let may_be_of_the_other = self.written_since.as_ref().is_some_and(|written| written.contains(&dependent))
                || emptied::is_emptied(self.db, table)? && !emptied::has_arrived(self.db, table, key)?;
            if !may_be_of_the_other {
                self.aside.insert((table.clone(), key.row_id()));
            }
        }
        Ok(())
    }
}
