//! What the applications write, on devices and on the hub.

use super::World;
use crate::device::Device;
use crate::plan::{Act, Cell, Edit, RowEdit, Way};
use crate::schema::{self, Row, RowName, Table, TABLES};
use fieldsync_core::{Key, Value};

fn known(cell: &Cell) -> Value {
    match cell {
        Cell::Int(number) => Value::Int(*number),
        Cell::Text(text) => Value::Text(text.clone()),
        Cell::Null(()) | Cell::Parent { .. } | Cell::Same { .. } => Value::Null,
    }
}

fn name_of(edit: &RowEdit) -> RowName {
    (edit.table, Key(edit.key.iter().map(known).collect()))
}

/// An edit's fields for an insert or an update, with parents among those that its writer sees; None where it needs one and
/// there is none.
fn fields_of(
    edit: &RowEdit,
    width: u16,
    before: Option<&Row>,
    parents: &dyn Fn(Table) -> Vec<Key>,
) -> Option<Vec<(u16, Value)>> {
    let (table, key) = name_of(edit);
    let makes = before.is_none();
    if table == schema::ATTENDANCE && makes && !parents(schema::PERSON).iter().any(|parent| parent.0[0] == key.0[0]) {
        return None;
    }
    let mut fields = Vec::new();
    for field in edit.fields.iter().filter(|field| field.number <= width) {
        let replaces = matches!(edit.way, Way::Replace);
        if !makes && !field.changes {
            if replaces {
                fields.push((field.number, Value::Null));
            }
            continue;
        }
        let value = match &field.value {
            Cell::Parent { parent: pick } => {
                let parent = schema::parent_table(table, field.number)?;
                let known: Vec<Key> = parents(parent).into_iter().filter(|at| table != parent || *at < key).collect();
                match (known.len(), table) {
                    (0, schema::VISIT) => return None,
                    (0, _) => Value::Null,
                    (several, _) => known[pick % several].0[0].clone(),
                }
            }
            Cell::Same { .. } => before.map(|row| row[usize::from(field.number)].clone()).unwrap_or_default(),
            cell => known(cell),
        };
        fields.push((field.number, value));
    }
    Some(fields)
}

impl World {
    pub(super) fn edit(&mut self, phone: usize, edits: &[Edit]) {
        self.touched.insert(phone);
        for edit in edits {
            match edit {
                Edit::Count { pick, difference, after_ms } => {
                    let wall = self.wall(phone) + after_ms;
                    self.count(phone, wall, *pick, *difference);
                }
                Edit::Row(row) => self.edit_row(phone, row),
            }
        }
    }

    fn edit_row(&mut self, phone: usize, edit: &RowEdit) {
        let wall = self.wall(phone) + edit.after_ms;
        let name = name_of(edit);
        let file = &self.phones[phone].file;
        let before = file.row(&name).cloned();
        if before.is_none() && file.rows.contains_key(&name) {
            return; // stepped aside: the application cannot write it
        }
        self.figures.edits += 1;
        if before.is_some() && edit.deletes {
            if !file.is_needed(&name) {
                self.trace(|| format!("phone {phone}: delete {}", Device::describe(&name)));
                self.phones[phone].file.delete(wall, &name);
                self.last_edits.retain(|(editor, row, _), _| *editor != phone || *row != name);
            }
            return;
        }
        if let (Some(row), Way::Move(last)) = (&before, &edit.way) {
            let mut key = name.1.clone();
            key.0.pop();
            key.0.push(known(last));
            return self.move_row(phone, wall, name, (edit.table, key), row.clone());
        }
        let parents = |table: Table| file.keys(table);
        let Some(fields) = fields_of(edit, file.width[edit.table], before.as_ref(), &parents) else { return };
        let mut row = before.clone().unwrap_or_else(|| schema::blank(edit.table));
        fields.iter().for_each(|(column, value)| row[usize::from(*column)] = value.clone());
        let taken = schema::code_of(edit.table, &row).is_some_and(|code| {
            file.visible().any(|(other, twin)| *other != name && schema::code_of(other.0, twin) == Some(code))
        });
        if taken {
            return;
        }
        self.trace(|| format!("phone {phone} ({wall}): write {} {fields:?}", Device::describe(&name)));
        for (column, value) in &fields {
            if before.as_ref().is_none_or(|before| before[usize::from(*column)] != *value) {
                self.last_edits.insert((phone, name.clone(), *column), value.clone());
            }
        }
        if before.is_some() {
            self.phones[phone].file.update(wall, &name, fields);
        } else {
            self.phones[phone].file.insert(wall, &name, row);
        }
    }

    /// A row gets another key: what its device wrote into it is under that one from now on.
    fn move_row(&mut self, phone: usize, wall: u64, from: RowName, to: RowName, row: Row) {
        let file = &mut self.phones[phone].file;
        if file.rows.contains_key(&to) {
            return;
        }
        file.delete(wall, &from);
        file.insert(wall, &to, row);
        self.trace(|| format!("phone {phone} ({wall}): move {} to {}", Device::describe(&from), Device::describe(&to)));
        let mine: Vec<_> =
            self.last_edits.keys().filter(|(editor, row, _)| *editor == phone && *row == from).cloned().collect();
        for edit in mine {
            if let Some(value) = self.last_edits.remove(&edit) {
                self.last_edits.insert((phone, to.clone(), edit.2), value);
            }
        }
    }

    fn count(&mut self, phone: usize, wall: u64, pick: usize, difference: i64) {
        let keys = self.phones[phone].file.keys(schema::STOCK);
        if keys.is_empty() {
            return;
        }
        let key = keys[pick % keys.len()].clone();
        let name = (schema::STOCK, key.clone());
        let Some(Value::Int(before)) = self.phones[phone].file.row(&name).map(|row| row[1].clone()) else { return };
        self.trace(|| format!("phone {phone} ({wall}): {} {before} {difference:+}", Device::describe(&name)));
        self.phones[phone].file.update(wall, &name, vec![(schema::QUANTITY, Value::Int(before + difference))]);
        *self.stock.entry(key).or_default() += difference;
        self.figures.edits += 1;
    }

    /// The hub's own application writes, slowly.
    pub(super) fn portal(&mut self, begins: bool, pick: usize, act: &Act) {
        if self.writers_open.len() < 2 && begins {
            let xid = self.hub.begin();
            self.writers_open.push(xid);
        }
        if self.writers_open.is_empty() {
            return;
        }
        let at = pick % self.writers_open.len();
        let xid = self.writers_open[at];
        if !self.hub.running.contains_key(&xid) {
            self.writers_open.remove(at); // somebody waited for it
            return;
        }
        match act {
            Act::Commit => {
                self.hub.commit(xid);
                self.writers_open.remove(at);
            }
            Act::Abort => {
                self.hub.abort(xid);
                self.writers_open.remove(at);
            }
            Act::Truncate { table } => {
                self.hub.truncate(xid, self.now_ms, *table);
                self.trace(|| format!("portal {xid}: TRUNCATE {}", TABLES[*table].name));
            }
            Act::Write(edit) => self.write_on_hub(xid, edit),
        }
    }

    fn write_on_hub(&mut self, xid: u64, edit: &RowEdit) {
        let name = name_of(edit);
        let before = self.hub.row(&name);
        let wanted = if before.is_some() && edit.deletes {
            None
        } else {
            let parents = |table: Table| self.hub.keys(table);
            let Some(fields) = fields_of(edit, self.hub.width[edit.table], before.as_ref(), &parents) else { return };
            let mut row = before.unwrap_or_else(|| schema::blank(edit.table));
            fields.into_iter().for_each(|(column, value)| row[usize::from(column)] = value);
            Some(row)
        };
        let done = self.hub.write(xid, self.now_ms, &name, wanted.clone());
        self.trace(|| format!("portal {xid}: {} {wanted:?} {done}", Device::describe(&name)));
    }
}
