//! Values of some fields of a row.
//!
//! A list in the order of the field numbers: a delta has one of these per row, and a tree or a hash table would take several
//! times its memory and its time.

use fieldsync_core::Value;

/// Values by field number.
#[derive(Debug, Default)]
pub struct FieldValues(Vec<(u16, Value)>);

impl FieldValues {
    /// A field's value, if the field is among these.
    pub fn get(&self, number: u16) -> Option<&Value> {
        let at = self.0.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(&self.0[at].1)
    }

    /// Whether the field is among these.
    pub fn contains(&self, number: u16) -> bool {
        self.get(number).is_some()
    }

    /// Sets fields; those that are here already get the new values.
    pub fn extend(&mut self, fields: Vec<(u16, Value)>) {
        if self.0.is_empty() {
            self.0 = fields;
            self.0.sort_by_key(|(number, _)| *number);
            return;
        }
        for (number, value) in fields {
            match self.0.binary_search_by_key(&number, |(number, _)| *number) {
                Ok(at) => self.0[at].1 = value,
                Err(at) => self.0.insert(at, (number, value)),
            }
        }
    }

    /// Takes all of them out.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Their numbers, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().map(|(number, _)| *number)
    }

    /// All of them, by ascending number.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Value)> + '_ {
        self.0.iter().map(|(number, value)| (*number, value))
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
