//! Arbitrary structures for the wire's tests, and equality down to the bits of floats.
#![allow(dead_code)]

use fieldsync_core::delta::{Base, Change, Delta, DeltaBody, FieldChange, Op, Recovery, Settled, TableChanges, Want};
use fieldsync_core::reply::{ConflictNotice, Notice, Outcomes, Reply, ReplyBody, RowChange, TableRows};
use fieldsync_core::value::Kind;
use fieldsync_core::{Hlc, Key, Snapshot, Value};
use proptest::prelude::*;
use proptest::sample::{subsequence, Index};

/// Values of every class the wire knows, of those just beside one, and of none.
pub fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        2 => Just(Value::Null),
        2 => any::<i64>().prop_map(Value::Int),
        3 => (-100i64..100).prop_map(Value::Int),
        1 => prop::sample::select(vec![i64::MIN, i64::MAX, 0, -1]).prop_map(Value::Int),
        2 => any::<u64>().prop_map(|bits| Value::Real(f64::from_bits(bits))).prop_filter("NaN never travels", |value| {
            !matches!(value, Value::Real(number) if number.is_nan())
        }),
        1 => any::<f32>().prop_filter("NaN never travels", |number| !number.is_nan()).prop_map(|n| Value::Real(n.into())),
        3 => (-10_000i64..10_000, 0i32..6).prop_map(|(units, scale)| Value::Real(units as f64 / 10f64.powi(scale))),
        1 => prop::sample::select(vec![0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE, 5e-324, f64::MAX])
            .prop_map(Value::Real),
        3 => texts().prop_map(Value::Text),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Blob),
        1 => any::<[u8; 16]>().prop_map(|bytes| Value::Blob(bytes.to_vec())),
    ]
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a-c]{0,3}",
        "[\\x00-\\x03]{0,6}",
        "-?[0-9]{1,22}(\\.[0-9]{0,8})?",
        any::<[u8; 16]>().prop_map(uuid),
        any::<[u8; 16]>().prop_map(|bytes| uuid(bytes).to_uppercase()),
        "[0-2][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]",
        "[0-2][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9][ T][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,7})?(Z|\\+00|\\+00:00|\\+01)?",
        "[0-2][0-9]:[0-6][0-9](:[0-6][0-9])?",
    ]
}

/// As Postgres prints it.
pub fn uuid(bytes: [u8; 16]) -> String {
    let hex = fieldsync_core::value::hex(&bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn clocks() -> impl Strategy<Value = Hlc> {
    prop_oneof![any::<u64>(), (1_700_000_000_000u64..1_700_000_100_000, 0u64..4).prop_map(|(ms, n)| ms << 16 | n)]
        .prop_map(Hlc)
}

fn snapshots() -> impl Strategy<Value = Snapshot> {
    (0u64..1 << 50, 0u64..40, prop::collection::btree_set(0u64..40, 0..5)).prop_map(|(xmin, span, running)| Snapshot {
        xmin,
        xmax: xmin + span,
        xip: running.into_iter().filter(|offset| *offset < span).map(|offset| xmin + offset).collect(),
    })
}

fn ops() -> impl Strategy<Value = Op> {
    prop::sample::select(vec![Op::Insert, Op::Update, Op::Update, Op::Delete, Op::Cancelled])
}

/// A few values, so that some repeat.
fn palette() -> impl Strategy<Value = Vec<Value>> {
    prop::collection::vec(values(), 1..8)
}

fn pick(palette: &[Value], at: Index) -> Value {
    at.get(palette).clone()
}

/// A table's name, columns, key length.
fn shapes() -> impl Strategy<Value = (String, Vec<String>, u16)> {
    (any::<String>(), prop::collection::vec("[a-z_]{0,8}", 1..9))
        .prop_flat_map(|(table, columns)| (Just(table), 1..=columns.len() as u16, Just(columns)))
        .prop_map(|(table, key_len, columns)| (table, columns, key_len))
}

fn tables() -> impl Strategy<Value = TableChanges> {
    (shapes(), palette(), palette()).prop_flat_map(|((table, columns, key_len), some, others)| {
        let fields =
            subsequence((key_len..columns.len() as u16).collect::<Vec<_>>(), 0..=columns.len() - key_len as usize);
        let old = prop_oneof![Just(0u8), Just(1), Just(2)];
        let field = (old, any::<Index>(), any::<Index>());
        let change = (
            ops(),
            prop::collection::vec((any::<bool>(), any::<Index>()), key_len as usize),
            (clocks(), clocks(), any::<bool>(), prop_oneof![Just(1u32), any::<u32>()]),
            fields,
            prop::collection::vec(field, columns.len()),
        );
        prop::collection::vec(change, 0..30).prop_map(move |changes| TableChanges {
            table: table.clone(),
            columns: columns.clone(),
            key_len,
            changes: changes
                .into_iter()
                .map(|(op, key, (clock, first_clock, same, count), fields, field_values)| Change {
                    op,
                    key: Key(key.into_iter().map(|(a, at)| pick(if a { &some } else { &others }, at)).collect()),
                    clock,
                    first_clock: if same { clock } else { first_clock },
                    count,
                    fields: fields
                        .into_iter()
                        .zip(field_values)
                        .map(|(column, (old, a, b))| FieldChange {
                            column,
                            old: match old {
                                0 => None,
                                1 => Some(pick(&some, b)),
                                _ => Some(pick(&others, b)),
                            },
                            new: pick(&some, a),
                        })
                        .collect(),
                })
                .collect(),
        })
    })
}

pub fn deltas() -> impl Strategy<Value = Delta> {
    let base = (clocks(), prop::option::of(snapshots())).prop_map(|(until, snapshot)| Base { until, snapshot });
    let want =
        (any::<String>(), prop::collection::vec(values(), 0..3)).prop_map(|(table, key)| Want { table, key: Key(key) });
    let settled = (any::<u64>(), any::<String>()).prop_map(|(conflict_id, choice)| Settled { conflict_id, choice });
    let batch = || prop_oneof![Just(0u64), any::<u32>().prop_map(u64::from), any::<u64>()];
    let front = (
        batch(),
        prop::collection::vec(batch(), 0..4),
        prop::option::of(snapshots()),
        prop::collection::vec(base, 0..4),
        clocks(),
        clocks(),
        any::<bool>(),
        prop::option::of((clocks(), clocks(), clocks()).prop_map(|(after, until, as_of)| Recovery {
            after,
            until,
            as_of,
        })),
    );
    (
        (0u64..1 << 40, any::<u32>(), 0u64..1 << 43),
        front,
        prop::collection::vec(want, 0..3),
        prop::collection::vec(settled, 0..3),
        any::<bool>(),
        prop::collection::vec(tables(), 0..4),
    )
        .prop_map(|((client, history, device_now_ms), front, wants, settled, names_wanted, tables)| {
            let (parent, unanswered, cursor, bases, watermark, high, more, recovery) = front;
            let body = DeltaBody {
                parent,
                unanswered,
                cursor,
                bases,
                watermark,
                high,
                more,
                recovery,
                wants,
                settled,
                names_wanted,
                tables,
            };
            Delta { client, history, device_now_ms, body }
        })
}

fn notices() -> impl Strategy<Value = Notice> {
    let conflict = (any::<u64>(), any::<String>(), prop::collection::vec(values(), 0..3), any::<String>(), clocks())
        .prop_map(|(conflict_id, table, key, mine, clock)| {
            Notice::Conflict(Box::new(ConflictNotice {
                conflict_id,
                table,
                key: Key(key),
                mine,
                clock,
                ..ConflictNotice::default()
            }))
        });
    prop_oneof![
        conflict,
        (any::<String>(), any::<String>()).prop_map(|(client_id, reason)| Notice::NewIdentity { client_id, reason }),
        (clocks(), any::<u64>(), any::<String>()).prop_map(|(watermark, last_batch, reason)| Notice::NewHistory {
            watermark,
            last_batch,
            reason
        }),
        any::<String>().prop_map(Notice::Warning),
        Just(Notice::NamesWanted),
    ]
}

pub fn replies() -> impl Strategy<Value = Reply> {
    // A reply's rows are a delta's changes without what was logged.
    let table = (tables(), prop::collection::vec(prop::sample::select(Kind::ALL.to_vec()), 9), any::<u16>()).prop_map(
        |(changes, kinds, sums)| TableRows {
            kinds: kinds[..changes.columns.len()].to_vec(),
            sums: (0..changes.columns.len() as u16).filter(|column| sums >> column & 1 == 1).collect(),
            table: changes.table,
            columns: changes.columns,
            key_len: changes.key_len,
            rows: changes
                .changes
                .into_iter()
                .map(|change| RowChange {
                    op: change.op,
                    key: change.key,
                    fields: change.fields.into_iter().map(|field| (field.column, field.new)).collect(),
                })
                .collect(),
        },
    );
    (
        (0u64..1 << 40, any::<u32>(), 0u64..1 << 43),
        (prop_oneof![any::<u32>().prop_map(u64::from), any::<u64>()], clocks(), snapshots(), clocks(), any::<bool>()),
        prop::array::uniform5(prop_oneof![Just(0u64), any::<u64>()]),
        prop::collection::vec(notices(), 0..4),
        prop::collection::vec(table, 0..4),
    )
        .prop_map(
            |((client, history, hub_now_ms), (batch, watermark, cursor, clock, more), counts, notices, tables)| {
                let [applied, merged, superseded, conflict, rejected] = counts;
                let outcomes = Outcomes { applied, merged, superseded, conflict, rejected };
                let body = ReplyBody { batch, watermark, cursor, clock, outcomes, more, notices, tables };
                Reply { client, history, hub_now_ms, body }
            },
        )
}

/// Bits of all floats, in order: `==` on values takes `-0.0` for `0.0`.
pub fn delta_bits(delta: &Delta) -> Vec<u64> {
    let changes = delta.body.tables.iter().flat_map(|table| &table.changes);
    changes
        .flat_map(|change| {
            let fields = change.fields.iter().flat_map(|field| field.old.iter().chain([&field.new]));
            change.key.0.iter().chain(fields)
        })
        .filter_map(float_bits)
        .collect()
}

pub fn reply_bits(reply: &Reply) -> Vec<u64> {
    let rows = reply.body.tables.iter().flat_map(|table| &table.rows);
    rows.flat_map(|row| row.key.0.iter().chain(row.fields.iter().map(|(_, value)| value)))
        .filter_map(float_bits)
        .collect()
}

fn float_bits(value: &Value) -> Option<u64> {
    match value {
        Value::Real(number) => Some(number.to_bits()),
        _ => None,
    }
}
