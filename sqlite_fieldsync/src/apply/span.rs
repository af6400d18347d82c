//! Where in the log the changes are that a notice of the hub is about.
//!
//! Invariant: what an earlier export brought, and the hub took, is no part of a rejection, though its answer was lost: taken along with
//! a correction it would count twice. The notice tells by what it says: which fields, and from which values on.

use crate::log::{Entry, LogTable};
use fieldsync_core::coalesce::is_difference;
use fieldsync_core::delta::Op;
use fieldsync_core::reply::ConflictNotice;
use fieldsync_core::{Hlc, Value};
use serde_json::{Map, Value as Json};

/// The places of the logged changes of a row up to a clock that a notice is about: first and last. `ends`: the places at which exports
/// ended, ascending. `parked`: the place from which on changes of the row were rejected before; where the notice says more than what
/// was written since, they went along.
pub(super) fn span_of(
    entries: &[Entry],
    ends: &[i64],
    table: &LogTable,
    notice: &ConflictNotice,
    until: Hlc,
    parked: Option<i64>,
) -> Option<(i64, i64)> {
    let of_row: Vec<&Entry> = entries
        .iter()
        .filter(|Entry { logged, .. }| {
            i64::from(logged.table) == table.table_no && logged.key == notice.key && logged.clock <= until
        })
        .collect();
    let (first, last) = (of_row.first()?.place, of_row.last()?.place);
    let export_of = |place: i64| ends.partition_point(|end| *end < place);
    let begins = |at: &usize| *at == 0 || export_of(of_row[*at].place) != export_of(of_row[*at - 1].place);
    let said = Said::of(notice);
    let start = (0..of_row.len()).rev().filter(begins).find(|at| said.is_all_in(&of_row[*at..], table));
    Some((start.map_or(parked.unwrap_or(first).min(first), |at| of_row[at].place), last))
}

/// What a notice says.
struct Said {
    operation: Option<Op>,
    base: Map<String, Json>,
    mine: Map<String, Json>,
}

impl Said {
    fn of(notice: &ConflictNotice) -> Said {
        let object = |text: &str| serde_json::from_str(text).unwrap_or_default();
        let operation = match notice.operation.as_str() {
            "insert" => Some(Op::Insert),
            "delete" => Some(Op::Delete),
            _ => None,
        };
        Said { operation, base: object(&notice.base), mine: object(&notice.mine) }
    }

    /// Whether these entries can be all that it speaks of.
    fn is_all_in(&self, entries: &[&Entry], table: &LogTable) -> bool {
        let mut ops = entries.iter().map(|entry| entry.logged.op);
        if let Some(operation) = self.operation {
            return ops.any(|op| op == operation);
        }
        // Deleted and made again, which is an update of all fields.
        if ops.any(|op| op == Op::Insert) {
            return entries[0].logged.op == Op::Delete;
        }
        self.mine.keys().all(|name| {
            let Some(column) = table.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)) else {
                return true;
            };
            let mut changes = entries.iter().flat_map(|entry| &entry.logged.fields);
            let first = changes.find(|field| i64::from(field.column) == column.slot);
            first.is_some_and(|first| {
                // Only a counter counts twice; what else is said again says the same.
                let base = self.base.get(name).map(Value::from_json).unwrap_or_default();
                !is_difference(Some(&first.old), &first.new) || number(&first.old) == number(&base)
            })
        })
    }
}

/// A number as far as a float goes; NULL counts as 0.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Null => Some(0.0),
        Value::Int(number) => Some(*number as f64),
        Value::Real(number) => Some(*number),
        Value::Text(text) => text.parse().ok(),
        Value::Blob(_) => None,
    }
}
