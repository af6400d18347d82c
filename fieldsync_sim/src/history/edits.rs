//! What the applications write, on devices and on the hub.

use super::World;
use crate::device::Device;
use crate::schema::{self, pick, Row, RowName, TABLES};
use fieldsync_core::{Key, Value};

impl World {
    pub(super) fn value(&mut self, table: usize, column: u16, before: &Value) -> Value {
        let number = self.fresh();
        if self.rng.u8(..12) == 0 && !(table == schema::VISIT && column == 1) {
            return Value::Null;
        }
        match (table, column) {
            (schema::PERSON, schema::CODE) => Value::Text(format!("c{}", self.rng.u8(..6))),
            (schema::PERSON | schema::ATTENDANCE, 3) | (schema::PLACE, schema::EXTRA) => {
                Value::Int(self.rng.i64(0..50))
            }
            (schema::PERSON, 4) => {
                let tags: Vec<String> = (0..5).filter(|_| self.rng.bool()).map(|tag| format!("\"t{tag}\"")).collect();
                Value::Text(format!("[{}]", tags.join(", ")))
            }
            (schema::VISIT, schema::AMOUNT) => Value::Text(format!("{}.{:02}", self.rng.u16(..30), self.rng.u8(..100))),
            _ if self.rng.u8(..40) == 0 && table != schema::PLACE && schema::is_checked(table, column) => {
                schema::REFUSED.into()
            }
            _ if self.rng.u8(..10) == 0 => before.clone(),
            _ => Value::Text(format!("v{number}")),
        }
    }

    /// A row's fields for an insert or an update, with parents from what the writer sees.
    pub(super) fn draw(
        &mut self,
        name: &RowName,
        width: u16,
        before: &Row,
        parents: &dyn Fn(usize) -> Vec<Key>,
    ) -> Option<Vec<(u16, Value)>> {
        let (table, _) = *name;
        let whole = before.is_empty();
        if table == schema::ATTENDANCE && whole && !parents(schema::PERSON).iter().any(|key| key.0[0] == name.1 .0[0]) {
            return None;
        }
        let mut fields = Vec::new();
        for column in schema::fields(table, width) {
            if !whole && self.rng.u8(..3) > 0 {
                continue;
            }
            let parent = TABLES[table].parents.iter().find(|(child, _)| *child == column).map(|(_, parent)| *parent);
            let value = match parent {
                Some(parent) => {
                    let known: Vec<Key> =
                        parents(parent).into_iter().filter(|key| table != parent || key < &name.1).collect();
                    match (known.is_empty(), table) {
                        (true, schema::VISIT) => return None,
                        (true, _) => Value::Null,
                        _ => pick(&mut self.rng, &known).0[0].clone(),
                    }
                }
                None => {
                    let before = before.get(usize::from(column)).cloned().unwrap_or_default();
                    self.value(table, column, &before)
                }
            };
            fields.push((column, value));
        }
        Some(fields)
    }

    pub(super) fn draw_key(&mut self, table: usize) -> Key {
        Key(vec![match table {
            schema::VISIT => Value::Int(self.rng.i64(1..7)),
            schema::ATTENDANCE => {
                return Key(vec![Value::Text(format!("p{}", self.rng.u8(..6))), Value::Int(self.rng.i64(1..4))]);
            }
            schema::PERSON => Value::Text(format!("p{}", self.rng.u8(..6))),
            _ => Value::Text(format!("l{}", self.rng.u8(..6))),
        }])
    }

    pub(super) fn edit(&mut self, phone: usize) {
        self.touched.insert(phone);
        for _ in 0..self.rng.usize(1..4) {
            let wall = self.wall(phone) + self.rng.u64(..1_000);
            let table = self.rng.usize(..TABLES.len());
            if table == schema::STOCK {
                self.count(phone, wall);
                continue;
            }
            let name: RowName = (table, self.draw_key(table));
            let file = &self.phones[phone].file;
            let width = file.width[table];
            let there = file.row(&name).cloned();
            let hidden = there.is_none() && file.rows.contains_key(&name);
            if hidden {
                continue; // stepped aside: the application cannot write it
            }
            let needed = file.is_needed(&name);
            let known: Vec<Vec<Key>> = (0..TABLES.len()).map(|table| file.keys(table)).collect();
            let parents = move |table: usize| known[table].clone();
            self.figures.edits += 1;
            match there {
                Some(_) if self.rng.u8(..5) == 0 => {
                    if needed {
                        continue;
                    }
                    self.trace(|| format!("phone {phone}: delete {}", Device::describe(&name)));
                    self.phones[phone].file.delete(wall, &name);
                    self.last_edits.retain(|(editor, row, _), _| *editor != phone || *row != name);
                }
                before => {
                    let Some(fields) = self.draw(&name, width, before.as_ref().unwrap_or(&Vec::new()), &parents) else {
                        continue;
                    };
                    let mut row = before.clone().unwrap_or_else(|| schema::blank(table));
                    fields.iter().for_each(|(column, value)| row[usize::from(*column)] = value.clone());
                    let taken = schema::code_of(table, &row).is_some_and(|code| {
                        self.phones[phone]
                            .file
                            .visible()
                            .any(|(other, twin)| *other != name && schema::code_of(other.0, twin) == Some(code))
                    });
                    if taken {
                        continue;
                    }
                    self.trace(|| format!("phone {phone} ({wall}): write {} {fields:?}", Device::describe(&name)));
                    let changed: Vec<(u16, Value)> = fields
                        .iter()
                        .filter(|(column, value)| {
                            before.as_ref().is_none_or(|before| before[usize::from(*column)] != *value)
                        })
                        .cloned()
                        .collect();
                    for (column, value) in changed {
                        self.last_edits.insert((phone, name.clone(), column), value);
                    }
                    if before.is_some() {
                        self.phones[phone].file.update(wall, &name, fields);
                    } else {
                        self.phones[phone].file.insert(wall, &name, row);
                    }
                }
            }
        }
    }

    pub(super) fn count(&mut self, phone: usize, wall: u64) {
        let keys = self.phones[phone].file.keys(schema::STOCK);
        if keys.is_empty() {
            return;
        }
        let key = pick(&mut self.rng, &keys);
        let name = (schema::STOCK, key.clone());
        let difference = self.rng.i64(-9..10);
        let Some(Value::Int(before)) = self.phones[phone].file.row(&name).map(|row| row[1].clone()) else { return };
        self.trace(|| format!("phone {phone} ({wall}): {} {before} {difference:+}", Device::describe(&name)));
        self.phones[phone].file.update(wall, &name, vec![(schema::QUANTITY, Value::Int(before + difference))]);
        *self.stock.entry(key).or_default() += difference;
        self.figures.edits += 1;
    }

    /// The hub's own application writes, slowly.
    pub(super) fn portal(&mut self) {
        if self.writers_open.len() < 2 && self.rng.bool() {
            let xid = self.hub.begin();
            self.writers_open.push(xid);
        }
        if self.writers_open.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.writers_open.len());
        let xid = self.writers_open[at];
        if !self.hub.running.contains_key(&xid) {
            self.writers_open.remove(at); // somebody waited for it
            return;
        }
        match self.rng.u8(..6) {
            0 | 1 => {
                self.hub.commit(xid);
                self.writers_open.remove(at);
            }
            2 => {
                self.hub.abort(xid);
                self.writers_open.remove(at);
            }
            _ if self.rng.u8(..60) == 0 => {
                let table = pick(&mut self.rng, &schema::LEAVES);
                self.hub.truncate(xid, self.now_ms, table);
                self.trace(|| format!("portal {xid}: TRUNCATE {}", TABLES[table].name));
            }
            _ => {
                let table = pick(&mut self.rng, &[schema::PERSON, schema::VISIT, schema::PLACE, schema::ATTENDANCE]);
                let name: RowName = (table, self.draw_key(table));
                let width = self.hub.width[table];
                let before = self.hub.row(&name);
                let known: Vec<Vec<Key>> = (0..TABLES.len()).map(|table| self.hub.keys(table)).collect();
                let parents = move |table: usize| known[table].clone();
                let wanted = if before.is_some() && self.rng.u8(..4) == 0 {
                    None
                } else {
                    let Some(fields) = self.draw(&name, width, before.as_ref().unwrap_or(&Vec::new()), &parents) else {
                        return;
                    };
                    let mut row = before.unwrap_or_else(|| schema::blank(table));
                    fields.into_iter().for_each(|(column, value)| row[usize::from(column)] = value);
                    Some(row)
                };
                let done = self.hub.write(xid, self.now_ms, &name, wanted.clone());
                self.trace(|| format!("portal {xid}: {} {wanted:?} {done}", Device::describe(&name)));
            }
        }
    }
}
