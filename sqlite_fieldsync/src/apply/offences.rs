//! References between rows, checked when all rows of a reply are there: SQLite's own enforcement is off meanwhile.

use super::pass::{Arriving, Pass, Place};
use super::references::values_of;
use super::room::read_row;
use crate::conflicts::KeptRow;
use crate::error::Result;
use crate::log::{self, LogTable};
use crate::schema::Table;
use crate::track;
use fieldsync_core::coalesce::LoggedField;
use fieldsync_core::delta::Op;
use fieldsync_core::reply::RowChange;
use fieldsync_core::{Key, Value};
use std::collections::HashSet;

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
        for (place, before, after) in std::mem::take(&mut self.done.removed) {
            let parent = self.tables[place.0].head.table.clone();
            self.check_children(place, &parent, (&before, after.as_ref()), &mut found)?;
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

    /// Rows of the device go on referring to a row that has other values (`after`) in the columns that they refer to, if their foreign
    /// key says how: a change like any other, which the hub hears of. (It has no such rows, or would have said the same of them.)
    /// Gives whether it does; a key does not change so.
    fn follow(&mut self, at: usize, child: &Table, children: &[Key], after: &[Value]) -> Result<bool> {
        let foreign = self.references.key(at).clone();
        let values: Vec<Value> = match foreign.on_update.as_str() {
            "CASCADE" => after.to_vec(),
            "SET NULL" => vec![Value::Null; after.len()],
            _ => return Ok(false),
        };
        let is_key = |name: &String| child.key().iter().any(|part| part.name.eq_ignore_ascii_case(name));
        if foreign.from.iter().any(is_key) {
            return Ok(false);
        }
        let Some(logged) = LogTable::named(self.db, &child.name)? else { return Ok(false) };
        for key in children {
            let Some(own) = read_row(self.db, &child.name, key)? else { continue };
            let mut fields = Vec::new();
            for (name, new) in foreign.from.iter().zip(&values) {
                let column =
                    logged.columns.iter().find(|column| column.present && column.name.eq_ignore_ascii_case(name));
                let old = own.iter().find(|(column, _)| column.eq_ignore_ascii_case(name));
                let (Some(column), Some((_, old))) = (column, old) else { return Ok(false) };
                fields.push(LoggedField { column: column.slot as u16, old: old.clone(), new: new.clone() });
            }
            fields.sort_by_key(|field| field.column);
            log::append_update(self.db, &logged, log::next_clock(self.db)?, key, &fields)?;
            self.references.set(at, child, key, &values)?;
        }
        Ok(true)
    }

    /// Whether the hub will hear of a row, or of one that refers to it, by however many steps, or a person decides about one: until
    /// then it stays, and so does what it refers to.
    fn somebody_waits_for(&mut self, table: &str, key: &Key) -> Result<bool> {
        let mut seen = HashSet::from([(table.to_ascii_lowercase(), key.clone())]);
        let mut left = vec![(table.to_owned(), key.clone())];
        while let Some((table, key)) = left.pop() {
            if self.unanswered.of(&table, &key).is_some() || self.pinned.of(&table, &key).is_some() {
                return Ok(true);
            }
            let referring = self.references.of_parent(&table);
            let Some(row) = (if referring.is_empty() { None } else { read_row(self.db, &table, &key)? }) else {
                continue;
            };
            for at in referring {
                let (child_name, to) = (self.references.key(at).child.clone(), self.references.key(at).to.clone());
                let (Some(values), Some(child)) = (values_of(&row, &to), Table::read_plain(self.db, &child_name)?)
                else {
                    continue;
                };
                for key in self.references.children_of(at, &child, &values)? {
                    if seen.insert((child_name.to_ascii_lowercase(), key.clone())) {
                        left.push((child_name.clone(), key));
                    }
                }
            }
        }
        Ok(false)
    }

    fn check_children(
        &mut self,
        place: Place,
        parent: &str,
        (before, after): (&KeptRow, Option<&KeptRow>),
        found: &mut Vec<Offence>,
    ) -> Result<()> {
        for at in self.references.of_parent(parent) {
            let (child_name, to) = (self.references.key(at).child.clone(), self.references.key(at).to.clone());
            let Some(values) = values_of(before, &to) else { continue };
            let after = after.map(|after| values_of(after, &to).unwrap_or_default());
            if after.as_ref() == Some(&values) {
                continue;
            }
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
                if !self.references.act(at, &values, after.as_deref())? {
                    found.push(Offence::Wait(place));
                }
                continue;
            }
            if let Some(after) = &after {
                if !self.follow(at, &child, &children, after)? {
                    found.extend(children.into_iter().map(|key| Offence::StepAside { table: child_name.clone(), key }));
                }
                continue;
            }
            for key in children {
                if self.somebody_waits_for(&child_name, &key)? {
                    found.push(Offence::Wait(place));
                    break;
                }
                found.push(Offence::StepAside { table: child_name.clone(), key });
            }
        }
        Ok(())
    }
}
