//! What must hold of every merge, whatever the rules, clocks and histories.
//!
//! Method: random rows with random histories of writers, random changes under random rules. The oracle compares values;
//! these properties compare promises: nothing is lost without a record, a repeat writes nothing, order of clocks does not
//! matter where causality decides.

use fieldsync_core::clocks::{Origin, RowClocks, Stamp};
use fieldsync_core::delta::Op;
use fieldsync_core::merge::{
    decide, Collision, Context, Decision, HubRow, HubState, Incoming, IncomingField, Outcome, Winner, Write,
};
use fieldsync_core::rules::{Detection, FieldStrategy, OnDelete, OnReject, OnSameKey, Strategy as Rule, TableRules};
use fieldsync_core::seen::Seen;
use fieldsync_core::value::Kind;
use fieldsync_core::{Hlc, Snapshot, Value};
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::HashMap;

const FIELDS: u16 = 3;
const DEVICE: Origin = 1;
const NOW: u64 = 1000;

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), (-3i64..4).prop_map(Value::Int)]
}

fn rules() -> impl Strategy<Value = TableRules> {
    (
        select(Detection::ALL),
        select(Rule::ALL),
        prop::option::of(prop::collection::vec(1..=FIELDS, 0..3)),
        select(OnDelete::ALL),
        prop::option::of(select(OnSameKey::ALL)),
        prop::collection::hash_map(1..=FIELDS, select(FieldStrategy::ALL), 0..3),
    )
        .prop_map(|(detection, strategy, merge_fields, on_delete, on_same_key, fields)| TableRules {
            detection,
            strategy,
            merge_fields,
            on_delete,
            on_reject: OnReject::Park,
            on_same_key,
            fields,
        })
}

/// Writes after the row's making: field, version, clock, origin.
type History = Vec<(u16, u64, u64, Origin)>;

fn rows() -> impl Strategy<Value = HubRow> {
    let writes: BoxedStrategy<History> =
        prop::collection::vec((1..=FIELDS, 1u64..40, 1u64..100, 0u32..4), 0..6).boxed();
    (prop::collection::vec(values(), usize::from(FIELDS)), 1u64..40, 0u32..4, writes).prop_map(
        |(values, made, maker, mut writes)| {
            writes.sort_by_key(|write| write.1);
            let mut clocks = RowClocks::new(Stamp::first(made, Hlc(1), maker));
            for (field, version, clock, origin) in writes {
                clocks.touch(field, made + version, Hlc(clock), origin);
            }
            HubRow { values: (1..=FIELDS).zip(values).collect::<HashMap<_, _>>(), clocks }
        },
    )
}

fn states() -> impl Strategy<Value = HubState> {
    prop_oneof![
        1 => Just(HubState::Absent),
        4 => rows().prop_map(HubState::Live),
        // Later than all that the row lived through (rows end before 80), as row locks see to.
        2 => (rows(), 80u64..100, 0u32..4).prop_map(|(row, version, origin)| {
            let deletion = row.clocks.latest().followed_by(version, Hlc(version), origin);
            HubState::Deleted { row, deletion }
        }),
    ]
}

#[derive(Debug, Clone)]
struct Case {
    op: Op,
    clock: u64,
    base: Option<Snapshot>,
    fields: Vec<IncomingField>,
    integer: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    (
        select(&[Op::Insert, Op::Update, Op::Delete][..]),
        1u64..120,
        prop::option::of((0u64..120).prop_map(|xmax| Snapshot { xmin: xmax, xmax, xip: vec![] })),
        prop::collection::btree_map(1..=FIELDS, (values(), values()), 1..4),
        any::<bool>(),
    )
        .prop_map(|(op, clock, base, fields, integer)| {
            // A value that went there and back is no edit.
            let fields = fields
                .into_iter()
                .filter(|(_, (old, new))| op != Op::Update || old != new)
                .map(|(number, (old, new))| IncomingField {
                    number,
                    kind: Kind::Int,
                    old: (op == Op::Update).then_some(old),
                    new,
                })
                .collect();
            Case { op, clock, base, fields: if op == Op::Delete { vec![] } else { fields }, integer }
        })
}

fn run(case: &Case, hub: &HubState, rules: &TableRules) -> Decision {
    let change = Incoming {
        op: case.op,
        origin: DEVICE,
        clock: Hlc(case.clock),
        seen: case.base.as_ref().into(),
        fields: &case.fields,
        key_is_integer: case.integer,
    };
    let context = Context { version: NOW, client_id: &|origin| format!("{origin:04}"), priority: None };
    decide(&change, hub, rules, &context)
}

/// The hub after the decision.
fn after(hub: &HubState, decision: &Decision) -> HubState {
    let row = |fields: &[(u16, Value)], clocks: &RowClocks, before: HashMap<u16, Value>| {
        let mut values = before;
        values.extend(fields.iter().cloned());
        HubState::Live(HubRow { values, clocks: clocks.clone() })
    };
    match (&decision.write, hub) {
        (Write::Nothing, _) => hub.clone(),
        (Write::Insert { fields, clocks } | Write::Revive { fields, clocks }, _) => row(fields, clocks, HashMap::new()),
        (Write::Update { fields, clocks }, HubState::Live(before)) => row(fields, clocks, before.values.clone()),
        (Write::Delete { deletion }, HubState::Live(before)) => {
            HubState::Deleted { row: before.clone(), deletion: *deletion }
        }
        (write, hub) => panic!("{write:?} on {hub:?}"),
    }
}

fn joins(rules: &TableRules, number: u16) -> bool {
    matches!(
        rules.fields.get(&number),
        Some(FieldStrategy::Sum | FieldStrategy::Max | FieldStrategy::Min | FieldStrategy::Union)
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// A value of the device that is not on the hub afterwards is on record, whatever the rules.
    #[test]
    fn no_edit_vanishes_without_a_record(case in cases(), hub in states(), rules in rules()) {
        let decision = run(&case, &hub, &rules);
        if decision.outcome == Outcome::Rejected {
            return Ok(());
        }
        let after = after(&hub, &decision);
        for field in &case.fields {
            if joins(&rules, field.number) {
                continue;
            }
            let there = matches!(&after, HubState::Live(row) if row.value(field.number) == field.new);
            let recorded = decision.collisions.iter().any(|collision| {
                collision.number == Some(field.number) && collision.client == field.new
            });
            prop_assert!(there || recorded, "field {} of {case:?}: {decision:?}", field.number);
        }
        if case.op == Op::Delete && matches!(after, HubState::Live(_)) {
            prop_assert!(!decision.collisions.is_empty());
        }
    }

    /// A hub value that the device had not seen and that is gone afterwards is on record.
    #[test]
    fn no_unseen_hub_value_vanishes_without_a_record(case in cases(), hub in states(), rules in rules()) {
        let HubState::Live(before) = &hub else { return Ok(()) };
        let decision = run(&case, &hub, &rules);
        match &decision.write {
            Write::Update { fields, .. } => {
                for (number, value) in fields {
                    let unseen = Seen::from(case.base.as_ref()).misses_field(DEVICE, &before.clocks, *number);
                    let changed = before.value(*number) != *value;
                    let recorded = decision.collisions.iter().any(|collision| collision.number == Some(*number));
                    prop_assert!(!unseen || !changed || recorded || joins(&rules, *number), "{decision:?}");
                }
            }
            Write::Delete { .. } => {
                let unseen = Seen::from(case.base.as_ref()).misses_any(DEVICE, &before.clocks);
                prop_assert!(!unseen || !decision.collisions.is_empty(), "{decision:?}");
            }
            _ => {}
        }
    }

    /// What the device had seen it may change, whatever the clocks say.
    #[test]
    fn causally_later_edits_always_stand(mut case in cases(), row in rows(), rules in rules(), clock in 1u64..2000) {
        case.base = Some(Snapshot { xmin: 500, xmax: 500, xip: vec![] });
        case.clock = clock;
        let hub = HubState::Live(row);
        let decision = run(&case, &hub, &rules);
        // A record that is made where one is: on record, and no conflict.
        let on_record = |collision: &Collision| case.op == Op::Insert && collision.quiet && collision.winner == Winner::Client;
        prop_assert!(decision.collisions.iter().all(on_record));
        prop_assert!(matches!(decision.outcome, Outcome::Applied | Outcome::Rejected));
        if let HubState::Live(row) = after(&hub, &decision) {
            for field in case.fields.iter().filter(|field| rules.fields.get(&field.number) != Some(&FieldStrategy::Sum)) {
                prop_assert_eq!(&row.value(field.number), &field.new);
            }
        }
    }

    /// The same change decided again after it was written changes no value, where fields are decided one by one. (Sums, and
    /// strategies that look at the whole row, rely on the watermark to keep repeats away.)
    #[test]
    fn a_repeat_changes_no_value(case in cases(), hub in states(), mut rules in rules()) {
        rules.fields.retain(|_, strategy| *strategy != FieldStrategy::Sum);
        rules.detection = Detection::FieldCompare;
        if rules.strategy == Rule::LastWriteWins {
            rules.strategy = Rule::FieldMerge;
        }
        let first = run(&case, &hub, &rules);
        let once = after(&hub, &first);
        let second = run(&case, &once, &rules);
        let twice = after(&once, &second);
        match (&once, &twice) {
            (HubState::Live(a), HubState::Live(b)) if case.op != Op::Delete => {
                for number in 1..=FIELDS {
                    prop_assert_eq!(a.value(number), b.value(number), "{:?} then {:?}", &first, &second);
                }
            }
            (a, b) => prop_assert_eq!(std::mem::discriminant(a), std::mem::discriminant(b)),
        }
    }
}
