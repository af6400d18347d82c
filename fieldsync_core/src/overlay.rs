//! What a device writes of a row that arrives, while it holds changes of its own that the hub has not answered.
//!
//! Invariant: after an apply every field shows the device's own pending value where there is one (under a `sum` rule: the
//! hub's value plus the pending differences), and the hub's value everywhere else. Pending deletions stay deletions, and
//! a row that the device has changed does not vanish under it: the hub hears of the change first and its rule decides.

use crate::delta::Op;
use crate::merge::values::add_difference;
use crate::value::{Kind, Value};

/// The device's own unanswered changes of one row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pending {
    /// Whether the device made the row itself, and the hub has not answered yet: then all of it is the device's own.
    pub made: bool,
    /// Whether it deleted the row and did not make it again. If it shows one all the same, that came from the hub afterwards.
    pub unmade: bool,
    /// The last operation on the row.
    pub last: Option<Op>,
    /// Logged differences per field, oldest first: column, old, new.
    pub fields: Vec<(u16, Value, Value)>,
}

/// What to do with the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Leave it as it is.
    Nothing,
    /// Write these fields; make the row if it is not there (then all fields of the arriving row are given).
    Write(Vec<(u16, Value)>),
    /// Remove it.
    Delete,
}

/// Decides about one arriving row. `sums` and `kinds` are as the reply gives them; `kinds` is by column.
pub fn overlay(op: Op, fields: &[(u16, Value)], pending: &Pending, sums: &[u16], kinds: &[Kind]) -> Action {
    match (op, pending.last) {
        (Op::Delete, None) => Action::Delete,
        // The hub will meet the pending change with the deletion, by rule.
        (Op::Delete, Some(_)) => Action::Nothing,
        (_, Some(Op::Delete)) => Action::Nothing,
        // Two made one key: the hub meets them by rule and sends what comes of it.
        _ if pending.made => Action::Nothing,
        _ => {
            let written: Vec<(u16, Value)> = fields
                .iter()
                .filter_map(|(column, value)| {
                    let mut differences = pending.fields.iter().filter(|(pending, _, _)| pending == column).peekable();
                    if differences.peek().is_none() {
                        return Some((*column, value.clone()));
                    }
                    if !sums.contains(column) {
                        return None;
                    }
                    let kind = kinds.get(usize::from(*column)).copied().unwrap_or_default();
                    let rebased = differences.try_fold(value.clone(), |sum, (_, old, new)| {
                        if new.is_null() {
                            Some(Value::Null) // a reset, not a difference
                        } else {
                            add_difference(kind, &sum, old, new).ok()
                        }
                    });
                    rebased.map(|value| (*column, value))
                })
                .collect();
            if written.is_empty() && op == Op::Update {
                Action::Nothing
            } else {
                Action::Write(written)
            }
        }
    }
}

/// What a device offers of a row that it shows, when all rows of a history that is new to it have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Nothing: what it has not heard an answer to goes up anyway.
    Nothing,
    /// The fields that are other than what arrived, but for those that go up anyway.
    Differences,
    /// All of it, as a row of its making.
    Whole,
}

/// Decides about one row: the hub has lost what came after some day, and what devices still hold of that comes back. `made` and
/// `unmade`: of the device's unanswered changes, as in [`Pending`]; `arrived`: whether the hub has a row of this key.
pub fn offer(made: bool, unmade: bool, arrived: bool) -> Offer {
    match (unmade, made, arrived) {
        // What arrives under its key then is another row: the one that its log begins with.
        (true, _, _) => Offer::Whole,
        (_, true, _) => Offer::Nothing,
        // Fields alone, of a row that it does not have, the hub could not take.
        (_, false, false) => Offer::Whole,
        (_, false, true) => Offer::Differences,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(number: i64) -> Value {
        Value::Int(number)
    }

    #[test]
    fn own_edits_stay_on_top_and_counters_rebase() {
        let pending = Pending {
            last: Some(Op::Update),
            fields: vec![(1, int(5), int(7)), (2, int(1), int(9))],
            ..Pending::default()
        };
        let kinds = [Kind::Int; 4];
        let arriving = [(1, int(12)), (2, int(3)), (3, int(4))];
        assert_eq!(
            overlay(Op::Update, &arriving, &pending, &[1], &kinds),
            Action::Write(vec![(1, int(14)), (3, int(4))])
        );
    }

    #[test]
    fn a_row_with_own_edits_does_not_vanish() {
        let pending = Pending { last: Some(Op::Update), fields: vec![(1, int(5), int(7))], ..Pending::default() };
        assert_eq!(overlay(Op::Delete, &[], &pending, &[], &[]), Action::Nothing);
        assert_eq!(overlay(Op::Delete, &[], &Pending::default(), &[], &[]), Action::Delete);
    }
}
