//! What the oracle and the simulator found, one test each, so that it stays found.

use fieldsync_core::clocks::{RowClocks, Stamp};
use fieldsync_core::delta::Op;
use fieldsync_core::merge::{decide, Context, Decision, HubRow, HubState, Incoming, IncomingField, Outcome, Write};
use fieldsync_core::rules::{FieldStrategy, OnDelete, OnSameKey, TableRules};
use fieldsync_core::value::Kind;
use fieldsync_core::{Hlc, Snapshot, Value};

const HUB: u32 = 0;
const DEVICE: u32 = 1;
const OTHER: u32 = 2;

fn field(old: Option<Value>, new: Value) -> IncomingField {
    IncomingField { number: 1, kind: Kind::Int, old, new }
}

fn row(value: Value, version: u64, clock: u64, origin: u32) -> HubRow {
    HubRow { values: [(1, value)].into(), clocks: RowClocks::new(Stamp::first(version, Hlc(clock), origin)) }
}

fn run(op: Op, clock: u64, integer: bool, fields: &[IncomingField], hub: &HubState, rules: &TableRules) -> Decision {
    let base = Some(Snapshot { xmin: 10, xmax: 10, xip: vec![] });
    let change =
        Incoming { op, origin: DEVICE, clock: Hlc(clock), base: base.as_ref(), fields, key_is_integer: integer };
    let context = Context { version: 100, client_id: &|origin| origin.to_string(), priority: None };
    decide(&change, hub, rules, &context)
}

/// Found by the oracle: under `max`, a NULL that met a value was lost (or overwrote it) without a record.
#[test]
fn null_under_max_is_on_record() {
    let rules = TableRules { fields: [(1, FieldStrategy::Max)].into(), ..TableRules::default() };
    let hub = HubState::Live(row(Value::Int(5), 20, 50, OTHER));
    for (clock, value) in [(40, None), (60, Some(Value::Null))] {
        let decision = run(Op::Update, clock, false, &[field(Some(Value::Int(1)), Value::Null)], &hub, &rules);
        assert_eq!(decision.outcome, Outcome::Conflict);
        assert_eq!(decision.collisions.len(), 1);
        let written = match decision.write {
            Write::Update { fields, .. } => Some(fields[0].1.clone()),
            _ => None,
        };
        assert_eq!(written, value);
    }
}

/// Found by the oracle: a device that deleted a row (and won over another's update) and made it again lost the new row to
/// its own deletion.
#[test]
fn an_own_deletion_is_no_conflict() {
    let rules = TableRules { on_delete: OnDelete::DeleteWins, ..TableRules::default() };
    let before = row(Value::Int(5), 20, 50, OTHER);
    let deletion = before.clocks.latest().followed_by(30, Hlc(60), DEVICE);
    let hub = HubState::Deleted { row: before, deletion };
    let decision = run(Op::Insert, 70, false, &[field(None, Value::Int(7))], &hub, &rules);
    assert_eq!(decision.outcome, Outcome::Applied);
    assert!(matches!(decision.write, Write::Revive { .. }));
}

/// Found by the oracle: `on_same_key` was not asked where the former record of the key was deleted.
#[test]
fn a_separate_record_is_new_under_a_deleted_key() {
    let before = row(Value::Int(5), 20, 50, OTHER);
    let deletion = before.clocks.latest().followed_by(30, Hlc(60), HUB);
    let hub = HubState::Deleted { row: before, deletion };
    let on_delete = OnDelete::DeleteWins;
    for (integer, on_same_key, outcome) in [
        (false, Some(OnSameKey::Separate), Outcome::Applied),
        (false, None, Outcome::Conflict),
        (true, None, Outcome::Applied),
        (true, Some(OnSameKey::Merge), Outcome::Conflict),
    ] {
        let rules = TableRules { on_delete, on_same_key, ..TableRules::default() };
        assert_eq!(run(Op::Insert, 70, integer, &[field(None, Value::Int(7))], &hub, &rules).outcome, outcome);
    }
}

/// Found by the oracle: an own deletion that is offered again was called merged, because of what others had done before it.
#[test]
fn an_own_deletion_again_is_superseded() {
    let before = row(Value::Int(5), 20, 50, OTHER);
    let deletion = before.clocks.latest().followed_by(30, Hlc(60), DEVICE);
    let hub = HubState::Deleted { row: before, deletion };
    assert_eq!(run(Op::Delete, 60, false, &[], &hub, &TableRules::default()).outcome, Outcome::Superseded);
}
