//! References between rows, checked when all rows of a reply are there: SQLite's own enforcement is off meanwhile.

use super::pass::{Arriving, Pass, Place};
use super::references::values_of;
use crate::error::Result;
use crate::schema::Table;
use crate::track;
use fieldsync_core::delta::Op;
use fieldsync_core::reply::RowChange;
use fieldsync_core::{Key, Value};

/// What breaks a reference.
pub enum Offence {
    /// The row has to wait: its parent is not here, or others still need it.
    Wait(Place),
    /// A row of the device refers to a removed one, and was not accepted by the hub: it steps aside.
    StepAside { table: String, key: Key },
}

impl Pass<'_, '_> {
    /// References that do not hold after the pass.
    pub fn offences(&mut self) -> Result<Vec<Offence>> {
        let mut found = Vec::new();
        for (place, fields) in std::mem::take(&mut self.done.written) {
            let Some(row) = self.held(place) else { continue };
            if self.lacks_parent(place, &row, &fields)?.is_some() {
                found.push(Offence::Wait(place));
            }
        }
        for (place, before) in std::mem::take(&mut self.done.removed) {
            let parent = self.tables[place.0].head.table.clone();
            self.check_children(place, &parent, &before, &mut found)?;
        }
        Ok(found)
    }

    /// The first reference of a written row whose parent is not there, if there is one.
    pub(super) fn lacks_parent(
        &mut self,
        place: Place,
        row: &RowChange,
        fields: &[(u16, Value)],
    ) -> Result<Option<usize>> {
        for at in self.references.of_child(&self.tables[place.0].head.table) {
            let from = self.references.key(at).from.clone();
            if let Some(values) = self.values(place, row, fields, &from)? {
                if !self.references.parent_is_there(at, &values)? {
                    return Ok(Some(at));
                }
            }
        }
        Ok(None)
    }

    /// Values of the columns that a row refers by; none if this write did not touch them.
    fn values(
        &mut self,
        place: Place,
        row: &RowChange,
        fields: &[(u16, Value)],
        from: &[String],
    ) -> Result<Option<Vec<Value>>> {
        let Arriving { head: table, writer, .. } = &mut self.tables[place.0];
        let arriving = |name: &str| -> Option<Value> {
            let column = table.columns.iter().position(|column| column.eq_ignore_ascii_case(name))?;
            match row.key.0.get(column) {
                Some(part) => Some(part.clone()),
                None => fields.iter().find(|(at, _)| usize::from(*at) == column).map(|(_, value)| value.clone()),
            }
        };
        let touched = row.op == Op::Insert
            || from.iter().any(|name| {
                fields.iter().any(|(at, _)| {
                    table.columns.get(usize::from(*at)).is_some_and(|column| column.eq_ignore_ascii_case(name))
                })
            });
        if !touched {
            return Ok(None);
        }
        let given: Option<Vec<Value>> = from.iter().map(|name| arriving(name)).collect();
        if given.is_some() {
            return Ok(given);
        }
        let Some(writer) = writer else { return Ok(None) };
        let stored = writer.read(&row.key)?.unwrap_or_default();
        Ok(values_of(&stored, from))
    }

    fn check_children(
        &mut self,
        place: Place,
        parent: &str,
        before: &[(String, Value)],
        found: &mut Vec<Offence>,
    ) -> Result<()> {
        for at in self.references.of_parent(parent) {
            let (child_name, to) = (self.references.key(at).child.clone(), self.references.key(at).to.clone());
            let Some(values) = values_of(before, &to) else { continue };
            // Another write may have brought a row with these values back.
            self.references.forget();
            if self.references.parent_is_there(at, &values)? {
                continue;
            }
            let Some(child) = Table::read(self.db, &child_name)? else { continue };
            let children = self.references.children_of(at, &child, &values)?;
            if children.is_empty() {
                continue;
            }
            let tracked = track::tracked(self.db)?
                .iter()
                .any(|known| known.state == "tracked" && known.name.eq_ignore_ascii_case(&child_name));
            if !tracked {
                if !self.references.act(at, &values)? {
                    found.push(Offence::Wait(place));
                }
                continue;
            }
            for key in children {
                if self.unanswered.of(&child_name, &key).is_some() || self.pinned.of(&child_name, &key).is_some() {
                    // The hub will hear of the child, or a person decides about it: until then the parent stays.
                    found.push(Offence::Wait(place));
                    break;
                }
                found.push(Offence::StepAside { table: child_name.clone(), key });
            }
        }
        Ok(())
    }
}
