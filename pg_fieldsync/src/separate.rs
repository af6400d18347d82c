//! Rows that refer to a record of the device's own, which waits for a person beside the hub's record of the same key.
//!
//! Invariant: no row comes to refer to a record that its author did not mean. The foreign key would be satisfied, by somebody
//! else's record; so what depends on a record that waits is parked, until it is known under which key that record is to be had.

use crate::catalog::{self, ForeignKey, Table};
use crate::catch::SqlError;
use crate::decide::{Deciding, SEPARATE};
use crate::parents;
use crate::work::{Item, TableWork, Work};
use fieldsync_core::Key;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Records of one client that wait, by table and row id.
pub type Separate = HashMap<(i32, String), Record>;

/// A record that waits.
pub struct Record {
    /// The version under which the client was told.
    pub told: u64,
    /// Whether it is not the same as the hub's, value for value: then it matters which one is meant.
    pub differs: bool,
}

/// Parks rows that refer to the device's own records.
pub fn park_dependents(work: &mut Work, deciding: &Deciding<'_>) -> Result<(), SqlError> {
    let here: HashSet<(i32, Key)> = work
        .tables
        .iter()
        .flat_map(|table| {
            table.items.iter().filter(|item| waits(item)).map(|item| (table.table.table_id, item.key.clone()))
        })
        .collect();
    if here.is_empty() && !deciding.separate.values().any(|record| record.differs) {
        return Ok(());
    }
    for place in 0..work.tables.len() {
        let table = Rc::clone(&work.tables[place].table);
        for reference in &table.references {
            let Some(parent) = catalog::table(reference.parent)? else { continue };
            for (at, key) in parents::referring_items(work, place, reference, &parent) {
                let item = &mut work.tables[place].items[at];
                if here.contains(&(parent.table_id, key.clone())) || meant(item, &parent, &key, reference, deciding) {
                    let what = format!(
                        "refers to {} {}, which waits for a person: the hub has another record of that key",
                        parent.name,
                        parent.row_id(&key)
                    );
                    let error = SqlError { table: Some(table.name.clone()), ..SqlError::new("23503", what) };
                    item.merged.rejected = Some(Box::new(error));
                }
            }
        }
    }
    Ok(())
}

/// Whether any record of a table is one of the device's own, be it of this delta or of an earlier one.
pub fn any_of(table: &Table, work: &[TableWork], waiting: &Separate) -> bool {
    let of_table = |work: &&TableWork| work.table.oid == table.oid;
    work.iter().filter(of_table).any(|work| work.items.iter().any(waits))
        || waiting.iter().any(|((of, _), record)| *of == table.table_id && record.differs)
}

/// Whether a row was found to be a record of the device's own, other than the hub's.
fn waits(item: &Item) -> bool {
    let mut separate = item.merged.collisions.iter().filter(|(_, collision)| collision.rule == SEPARATE);
    separate.any(|(_, collision)| collision.client != collision.server)
}

/// Whether the device referred to its own record, before it learnt that this one waits.
fn meant(item: &Item, parent: &Table, key: &Key, reference: &ForeignKey, deciding: &Deciding<'_>) -> bool {
    let Some(record) = deciding.separate.get(&(parent.table_id, parent.row_id(key))).filter(|record| record.differs)
    else {
        return false;
    };
    let refers = |number: u16| reference.child_columns.contains(&number);
    let last = item.changes.iter().rev().find(|change| change.fields.iter().any(|field| refers(field.number)));
    let last = last.or(item.changes.last());
    last.is_some_and(|change| change.base.as_ref().is_none_or(|base| !base.visible(record.told)))
}
