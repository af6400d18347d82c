//! Goal: docs/wire.md tells the truth about the bytes. Method: its vectors are read, shown as JSON and compared, and written
//! again to the same bytes. A vector that has been released never changes; `REWRITE=1` writes the section anew before that.

mod support;

use fieldsync_core::delta::{client_tag, Change, Delta, DeltaBody, FieldChange, Op, TableChanges};
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::inspect;
use fieldsync_core::limits::Limits;
use fieldsync_core::reply::{Outcomes, Reply, ReplyBody, RowChange, TableRows};
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
        sequence: 7,
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
    serde_json::to_string_pretty(&json).unwrap()
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
