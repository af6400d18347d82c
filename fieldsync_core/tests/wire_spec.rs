//! Goal: docs/wire.md tells the truth about the bytes. Method: its vectors are read, shown as JSON and compared, and written
//! again to the same bytes. A vector that has been released never changes; `REWRITE=1` writes the section anew before that.

mod support;

use fieldsync_core::delta::{
    client_tag, Base, Change, Delta, DeltaBody, FieldChange, Op, Recovery, Settled, TableChanges, Want,
};
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::inspect;
use fieldsync_core::limits::Limits;
use fieldsync_core::reply::{ConflictNotice, Notice, Outcomes, Reply, ReplyBody, RowChange, TableRows};
use fieldsync_core::value::{hex, Kind};
use fieldsync_core::wire::{self, BlobKind, Shape, Shapes};
use fieldsync_core::{Hlc, Key, Snapshot, Value};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/wire.md");
const HEADING: &str = "## Test vectors\n";
const NOW_MS: u64 = 1_767_225_600_000;

fn key() -> MacKey {
    MacKey(std::array::from_fn(|at| at as u8))
}

fn visit() -> TableChanges {
    let clock = Hlc((NOW_MS - 1000) << 16);
    let field = |column, old: Option<Value>, new: Value| FieldChange { column, old, new };
    let decimal = |text: &str| Value::Text(text.into());
    TableChanges {
        table: "visits".into(),
        columns: ["id", "weight", "fee", "seen_at", "note", "photo"].map(String::from).to_vec(),
        key_len: 1,
        changes: vec![
            Change {
                op: Op::Insert,
                key: Key(vec!["3f2504e0-4f89-41d3-9a0c-0305e82c3301".into()]),
                clock,
                first_clock: clock,
                count: 1,
                fields: vec![
                    field(1, None, Value::Real(3.45)),
                    field(2, None, decimal("12.50")),
                    field(3, None, "2025-12-31T23:59:00Z".into()),
                    field(4, None, "will come back next week".into()),
                    field(5, None, Value::Blob(vec![1, 2, 3])),
                ],
            },
            Change {
                op: Op::Update,
                key: Key(vec!["9b2c6a3e-7d54-4e0a-8f6b-2f1d0c9e8a77".into()]),
                clock: Hlc(clock.0 + 1),
                first_clock: clock,
                count: 2,
                fields: vec![
                    field(1, Some(Value::Real(3.5)), Value::Real(4.25)),
                    field(2, Some(Value::Null), decimal("7.00")),
                    field(4, Some("no problems".into()), Value::Null),
                ],
            },
        ],
    }
}

fn delta() -> Delta {
    let body = DeltaBody {
        parent: 0x9e37_79b9,
        cursor: Some(Snapshot { xmin: 1000, xmax: 1005, xip: vec![1001, 1003] }),
        watermark: Hlc((NOW_MS - 86_400_000) << 16),
        high: Hlc(((NOW_MS - 1000) << 16) + 1),
        tables: vec![visit()],
        ..DeltaBody::default()
    };
    Delta { client: client_tag("tablet-01"), history: 0x1234_5678, device_now_ms: NOW_MS, body }
}

fn empty_delta() -> Delta {
    let full = delta();
    let body = DeltaBody { tables: Vec::new(), high: full.body.watermark, ..full.body };
    Delta { body, ..full }
}

fn reply() -> Reply {
    let table = TableRows {
        table: "sites".into(),
        columns: ["id", "name", "stock"].map(String::from).to_vec(),
        kinds: vec![Kind::Int, Kind::Text, Kind::Int],
        key_len: 1,
        sums: vec![2],
        rows: (1..=3)
            .map(|id| RowChange {
                op: Op::Insert,
                key: Key(vec![Value::Int(id)]),
                fields: vec![(1, Value::Text(format!("well {id}"))), (2, Value::Int(100 * id))],
            })
            .chain([RowChange { op: Op::Delete, key: Key(vec![Value::Int(9)]), fields: Vec::new() }])
            .collect(),
    };
    let body = ReplyBody {
        batch: 0x0bad_cafe,
        watermark: Hlc(((NOW_MS - 1000) << 16) + 1),
        cursor: Snapshot { xmin: 1006, xmax: 1006, xip: Vec::new() },
        clock: Hlc(NOW_MS << 16),
        outcomes: Outcomes { applied: 2, merged: 1, ..Outcomes::default() },
        tables: vec![table],
        ..ReplyBody::default()
    };
    Reply { client: client_tag("tablet-01"), history: 0x1234_5678, hub_now_ms: NOW_MS, body }
}

/// Everything that a delta can say before its tables.
fn eventful_delta() -> Delta {
    let ms = |ago: u64| Hlc((NOW_MS - ago) << 16);
    let body = DeltaBody {
        unanswered: vec![0x0123_4567, 0x89ab_cdef_0123_4567],
        bases: vec![
            Base { until: ms(80_000_000), snapshot: None },
            Base { until: ms(70_000_000), snapshot: Some(Snapshot { xmin: 990, xmax: 999, xip: vec![992, 997] }) },
        ],
        more: true,
        recovery: Some(Recovery { after: ms(70_000_000), until: ms(60_000_000), as_of: ms(90_000_000) }),
        wants: vec![Want { table: "sites".into(), key: Key(vec![Value::Int(4), "north".into()]) }],
        settled: vec![Settled { conflict_id: 17, choice: "mine".into() }],
        names_wanted: true,
        ..empty_delta().body
    };
    Delta { body, ..delta() }
}

/// Every class of value, in lists long enough for the plans of numbers and for zstd.
fn readings() -> Delta {
    let rows: Vec<Vec<Value>> = (0..40i64)
        .map(|at| {
            let noise = (at * 7919 + 13) % 101;
            vec![
                Value::Int(1000 + 3 * at),
                Value::Real(1.0 / (noise + 3) as f64),
                Value::Real(if at == 7 { -0.5 } else { noise as f64 / 10.0 }),
                Value::Text(format!("{}.{:02}", at - 3, noise % 100)),
                Value::Text(format!("2025-11-{:02}", 1 + at % 28)),
                Value::Text(format!("{:02}:{:02}", at % 24, noise % 60)),
                Value::Text(format!("{:02}:{:02}:{:02}", at % 24, noise % 60, at)),
                Value::Text(format!("2025-11-20 {:02}:00:{:02}.{:03}+00", at % 24, at, noise)),
                if at % 3 == 0 { Value::Null } else { Value::Int(i64::MAX >> (at % 40)) },
                Value::Text(format!("reading {noise} of well {at}, taken by the team of village {}", at * at)),
                Value::Blob(vec![at as u8; 16]),
                Value::Text(if at % 2 == 0 { "007".into() } else { "1e3\u{0}\u{1}".to_owned() }),
            ]
        })
        .collect();
    let changes = rows.iter().enumerate().map(|(at, row)| Change {
        op: Op::Insert,
        key: Key(vec![row[0].clone()]),
        clock: Hlc(((NOW_MS - 9000) << 16) + at as u64),
        first_clock: Hlc(((NOW_MS - 9000) << 16) + at as u64),
        count: 1,
        fields: row[1..]
            .iter()
            .zip(1..)
            .map(|(new, column)| FieldChange { column, old: None, new: new.clone() })
            .collect(),
    });
    let table = TableChanges {
        table: "readings".into(),
        columns: (0..rows[0].len()).map(|at| format!("c{at}")).collect(),
        key_len: 1,
        changes: changes.collect(),
    };
    let body = DeltaBody { high: Hlc(((NOW_MS - 9000) << 16) + 39), tables: vec![table], ..empty_delta().body };
    Delta { body, ..delta() }
}

fn reply_with_notices() -> Reply {
    let conflict = ConflictNotice {
        conflict_id: 17,
        table: "sites".into(),
        key: Key(vec![Value::Int(2)]),
        operation: "update".into(),
        base: r#"{"name":"well"}"#.into(),
        mine: r#"{"name":"well 2b"}"#.into(),
        theirs: r#"{"name":"well 2"}"#.into(),
        rule: "field_compare/manual".into(),
        outcome: "manual".into(),
        detail: String::new(),
        status: "open".into(),
        clock: Hlc((NOW_MS - 1000) << 16),
    };
    let body = ReplyBody {
        notices: vec![
            Notice::Conflict(Box::new(conflict)),
            Notice::NewIdentity { client_id: "tablet-01-b7".into(), reason: "a copy".into() },
            Notice::NewHistory { watermark: Hlc((NOW_MS - 5000) << 16), last_batch: 9, reason: "restored".into() },
            Notice::Warning("read this".into()),
            Notice::NamesWanted,
        ],
        more: true,
        tables: Vec::new(),
        ..reply().body
    };
    Reply { body, ..reply() }
}

fn known() -> Shapes {
    [Shape::of_changes(&visit())].into_iter().collect()
}

/// Title, bytes.
fn vectors() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("An empty delta", wire::encode_delta(&empty_delta(), None).0),
        ("The same, signed with the key 00 01 02 … 1f", wire::encode_delta(&empty_delta(), Some(&key())).0),
        ("An insert and an update", wire::encode_delta(&delta(), None).0),
        ("The same, where the hub knows the table's shape", wire::encode_delta_for(&delta(), None, &known()).0),
        ("A reply", wire::encode_reply(&reply(), None)),
        ("A delta after much has happened", wire::encode_delta(&eventful_delta(), None).0),
        ("A reply with every notice", wire::encode_reply(&reply_with_notices(), None)),
        ("Forty rows with every class of value", wire::encode_delta(&readings(), None).0),
    ]
}

fn shown(blob: &[u8]) -> String {
    let header = wire::peek(blob).unwrap();
    let key = key();
    let key = header.signed.then_some(&key);
    let mut json = match header.kind {
        BlobKind::Delta => {
            inspect::delta_to_json(&wire::decode_delta_with(blob, key, &Limits::default(), &known()).unwrap(), 0)
        }
        BlobKind::Reply => inspect::reply_to_json(&wire::decode_reply(blob, key, &Limits::default()).unwrap(), 0),
    };
    json.as_object_mut().unwrap().shift_remove("bytes");
    let pretty = serde_json::to_string_pretty(&json).unwrap();
    // Many rows: one line each.
    if pretty.lines().count() < 150 {
        pretty
    } else {
        json.to_string().replace("{\"op\"", "\n{\"op\"")
    }
}

fn wrapped(blob: &[u8]) -> String {
    let lines: Vec<String> = blob.chunks(40).map(hex).collect();
    lines.join("\n")
}

#[test]
fn the_vectors_of_the_page_hold() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (text, section) = page.split_once(HEADING).unwrap();
    let mut expected = String::from("\nThe JSON is what `fs_inspect` shows, without the number of bytes.\n");
    for (title, blob) in vectors() {
        expected += &format!(
            "\n### {title}: {} bytes\n\n```\n{}\n```\n\n```json\n{}\n```\n",
            blob.len(),
            wrapped(&blob),
            shown(&blob)
        );
    }
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(PAGE, format!("{text}{HEADING}{expected}")).unwrap();
        return;
    }
    assert_eq!(section, expected);
}

#[test]
fn an_empty_sync_is_small_both_ways() {
    let (delta, _) = wire::encode_delta(&empty_delta(), None);
    let body = ReplyBody { tables: Vec::new(), ..reply().body };
    let reply = wire::encode_reply(&Reply { body, ..reply() }, None);
    assert!(delta.len() <= 64 && reply.len() <= 64, "{} and {} bytes", delta.len(), reply.len());
    const { assert!(wire::HEADER_BYTES <= 32) };
}
