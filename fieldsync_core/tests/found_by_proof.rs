//! What the oracle and the simulator found, one test each, so that it stays found.

use fieldsync_core::clocks::{RowClocks, Stamp};
use fieldsync_core::coalesce::{coalesce, keep_last_words, Logged, LoggedField};
use fieldsync_core::delta::{cut_at_ends, Base, Change, DeltaBody, FieldChange, Op};
use fieldsync_core::merge::{decide, Context, Decision, HubRow, HubState, Incoming, IncomingField, Outcome, Write};
use fieldsync_core::rules::{FieldStrategy, OnDelete, OnSameKey, TableRules};
use fieldsync_core::value::Kind;
use fieldsync_core::{Hlc, Key, Snapshot, Value};
use std::convert::Infallible;

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
        Incoming { op, origin: DEVICE, clock: Hlc(clock), seen: base.as_ref().into(), fields, key_is_integer: integer };
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

fn logged(op: Op, clock: u64, fields: &[(u16, &str, &str)]) -> Logged {
    let fields = fields
        .iter()
        .map(|(column, old, new)| LoggedField { column: *column, old: (*old).into(), new: (*new).into() })
        .collect();
    Logged { table: 0, op, key: Key(vec![Value::Int(1)]), clock: Hlc(clock), count: 1, fields, again: false }
}

fn folded(log: Vec<Logged>, boundaries: &[Hlc], row: &[(u16, Value)]) -> Vec<Change> {
    let folded = coalesce(log, boundaries, |_, _| Ok::<_, Infallible>(Some(row.to_vec())));
    folded.unwrap_or_default().into_iter().map(|folded| folded.change).collect()
}

/// Found by the simulator (the fifth): an export that was limited ends before the one that came before it. Its end was looked
/// for in the wrong place, a change folded across it, and the hub, which had applied that much, counted it twice.
#[test]
fn nothing_folds_across_an_export_that_ended_earlier_than_the_one_before() {
    let log = || vec![logged(Op::Update, 3, &[(1, "a", "b")]), logged(Op::Update, 6, &[(1, "b", "c")])];
    for boundaries in [[Hlc(9), Hlc(4)], [Hlc(4), Hlc(9)]] {
        let changes = folded(log(), &boundaries, &[]);
        assert_eq!(changes.len(), 2, "{boundaries:?}");
        assert_eq!((changes[0].clock, changes[1].clock), (Hlc(3), Hlc(6)));
    }
    assert_eq!(folded(log(), &[Hlc(9), Hlc(7)], &[]).len(), 1);
}

/// Found by the simulator (the sixth and the seventh): the hub had applied more of a device than the delta at hand holds (an
/// earlier export, whose answer was lost, went further). Its answer confirmed all of that, and values that had lost were never
/// sent back; and it moved the cursor past changes that what was pending on the device still hid.
#[test]
fn an_answer_reaches_no_further_than_its_delta() {
    let body = DeltaBody { watermark: Hlc(5), high: Hlc(8), ..DeltaBody::default() };
    assert_eq!(body.answered_up_to(Hlc(20)), Hlc(8));
    assert!(!body.reaches(Hlc(20)), "then the cursor stays where it is");
    assert_eq!(body.answered_up_to(Hlc(7)), Hlc(7));
    assert!(body.reaches(Hlc(8)));
    let empty = DeltaBody { watermark: Hlc(5), high: Hlc::default(), ..DeltaBody::default() };
    assert_eq!(empty.answered_up_to(Hlc(20)), Hlc(5));
    assert!(empty.reaches(Hlc(5)) && !empty.reaches(Hlc(6)));
}

/// Found by the simulator (the eighth): a row deleted and made again travelled as the fields that differ from before; for the
/// others the hub kept what somebody else had written meanwhile, and the device did not learn of it.
#[test]
fn a_row_made_again_travels_whole() {
    let log = vec![logged(Op::Delete, 3, &[(1, "a", ""), (2, "b", "")]), logged(Op::Insert, 4, &[])];
    let row = [(1, "a".into()), (2, "c".into())];
    let changes = folded(log, &[], &row);
    assert_eq!(changes.len(), 1);
    let told: Vec<_> = changes[0].fields.iter().map(|field| (field.column, field.new.clone())).collect();
    assert_eq!(told, row, "also the field that is as it was");
}

/// Found by the simulator's comparison of orders: two wrote the same value, and the later clock was forgotten, so that a third
/// writer between the two won or lost by who came first. The same under `max` for one who knew of only one of the two.
#[test]
fn the_same_value_written_later_is_as_late_as_that() {
    let touched = |rules: &TableRules, clock: u64, origin: u32| {
        let hub = HubState::Live(row(Value::Int(7), 20, 50, origin));
        let decision = run(Op::Update, clock, false, &[field(Some(Value::Int(1)), Value::Int(7))], &hub, rules);
        assert!(decision.collisions.is_empty(), "nobody loses");
        match decision.write {
            Write::Update { fields, clocks } => {
                assert_eq!(fields, [(1, Value::Int(7))]);
                Some((clocks.field(1).clock, clocks.field(1).origin))
            }
            _ => None,
        }
    };
    let by_clock = TableRules::default();
    assert_eq!(touched(&by_clock, 60, OTHER), Some((Hlc(60), DEVICE)));
    assert_eq!(touched(&by_clock, 40, OTHER), None, "the earlier word says nothing new");
    assert_eq!(touched(&by_clock, 50, HUB), Some((Hlc(50), DEVICE)), "equal clocks: the greater id");
    assert_eq!(touched(&by_clock, 50, OTHER), None);
    let greatest = TableRules { fields: [(1, FieldStrategy::Max)].into(), ..TableRules::default() };
    assert_eq!(touched(&greatest, 40, OTHER), Some((Hlc(50), DEVICE)));
    let by_hand = TableRules { fields: [(1, FieldStrategy::Manual)].into(), ..TableRules::default() };
    assert_eq!(touched(&by_hand, 60, OTHER), None, "a rule that asks no clock");
}

/// Found by the simulator's comparison of orders, since differences travel alone: a device raised a value to 22 and took that
/// back, both in one delta; under `max` another's 21, if it came first, met the 22 that nobody meant any more.
#[test]
fn what_a_device_took_back_itself_joins_nothing() {
    let change = |clock: u64, old: i64, new: i64| Change {
        op: Op::Update,
        key: Key(vec![Value::Int(1)]),
        clock: Hlc(clock),
        first_clock: Hlc(clock),
        count: 1,
        fields: vec![FieldChange { column: 1, old: Some(Value::Int(old)), new: Value::Int(new) }],
    };
    let told = |is_counter: bool, one_base: bool, second_old: i64| {
        let (mut first, mut second) = (change(3, 20, 22), change(5, second_old, 19));
        keep_last_words(&mut [&mut first, &mut second], |_| is_counter, |_, _| one_base);
        (first.fields.len(), second.fields[0].old.clone(), second.fields[0].new.clone())
    };
    assert_eq!(told(false, true, 22), (0, Some(Value::Int(20)), Value::Int(19)));
    assert_eq!(told(true, true, 22), (1, Some(Value::Int(22)), Value::Int(19)), "a counter keeps every difference");
    assert_eq!(told(false, false, 22), (1, Some(Value::Int(22)), Value::Int(19)), "the second word knew more");
    assert_eq!(told(false, true, 21), (1, Some(Value::Int(21)), Value::Int(19)), "something came between");
}

/// What went there and back on a device counts as unchanged, whatever others wrote meanwhile: else the same delta would win or
/// say nothing, by who came first.
#[test]
fn a_value_that_went_there_and_back_says_nothing() {
    for rules in
        [TableRules::default(), TableRules { fields: [(1, FieldStrategy::Max)].into(), ..TableRules::default() }]
    {
        for there in [7, 9] {
            let hub = HubState::Live(row(Value::Int(there), 20, 50, OTHER));
            let decision = run(Op::Update, 60, false, &[field(Some(Value::Int(7)), Value::Int(7))], &hub, &rules);
            assert_eq!((decision.write, decision.collisions.len()), (Write::Nothing, 0));
        }
    }
}

/// Found by the simulator's comparison of orders (seeds 2105880, 10013883, 10074600): a device exported a value, took it back, and
/// exported again. If the hub got both blobs, going back was a change; if the first was lost, nothing had been said, and
/// another's value stayed. Now the end of an export parts what is said, whether that export came through or not.
#[test]
fn a_value_taken_back_after_an_export_was_said_also_if_the_export_is_lost() {
    let cursor = Snapshot { xmin: 10, xmax: 10, xip: vec![] };
    let told = |ends: &[Hlc]| {
        let bases = cut_at_ends(Vec::new(), Some(&cursor), ends.iter().copied(), (Hlc(3), Hlc(5)));
        let body = DeltaBody { bases, cursor: Some(cursor.clone()), high: Hlc(5), ..DeltaBody::default() };
        assert!(
            [3, 5].iter().all(|clock| body.base_of(Hlc(*clock)) == Some(&cursor)),
            "what had been seen is the same"
        );
        let mut changes =
            folded(vec![logged(Op::Update, 3, &[(1, "a", "b")]), logged(Op::Update, 5, &[(1, "b", "a")])], ends, &[]);
        let mut changes: Vec<&mut Change> = changes.iter_mut().collect();
        keep_last_words(&mut changes, |_| false, |one, other| body.said_together(one, other));
        changes.iter().filter(|change| change.fields.iter().any(|field| field.old.as_ref() != Some(&field.new))).count()
    };
    assert_eq!(told(&[]), 0, "in one breath: nothing was said");
    assert_eq!(told(&[Hlc(4)]), 2);
    assert_eq!(told(&[Hlc(3)]), 2);
    assert_eq!(told(&[Hlc(2), Hlc(5), Hlc(9)]), 0, "ends that part nothing");
}

/// Stretches keep what had been seen in them, wherever exports ended.
#[test]
fn stretches_cut_at_ends_keep_their_bases() {
    let seen = |version| Snapshot { xmin: version, xmax: version, xip: vec![] };
    let base = |until, version: Option<u64>| Base { until: Hlc(until), snapshot: version.map(seen) };
    let bases = vec![base(10, None), base(20, Some(5))];
    let ends = [25, 7, 10, 15, 15, 40, 2].map(Hlc);
    let cut = cut_at_ends(bases, Some(&seen(9)), ends, (Hlc(3), Hlc(40)));
    let expected = [base(7, None), base(10, None), base(15, Some(5)), base(20, Some(5)), base(25, Some(9))];
    assert_eq!(cut, expected);
}
