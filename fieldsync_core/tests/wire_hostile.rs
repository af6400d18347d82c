//! Goal: no blob does harm. Method: every truncation and every single flipped bit of fifty blobs is refused; the same with a
//! right checksum never panics; named blobs that once did (or would have) are refused; and what claims to be large is
//! refused before memory is taken for it.

#[path = "support/hostile.rs"]
mod hostile;
mod support;

use fieldsync_core::delta::{Change, Delta, DeltaBody, FieldChange, Op, TableChanges};
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::limits::Limits;
use fieldsync_core::wire::{self, BlobKind, DeltaStream, Shapes, WireError, HEADER_BYTES};
use fieldsync_core::{Hlc, Key, Value};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

fn signed_blobs(count: usize) -> Vec<Vec<u8>> {
    let mut runner = TestRunner::deterministic();
    let deltas = support::deltas();
    let replies = support::replies();
    (0..count)
        .map(|at| {
            let key = (at % 3 == 0).then_some(&KEY);
            if at % 2 == 0 {
                wire::encode_delta(&deltas.new_tree(&mut runner).unwrap().current(), key).0
            } else {
                wire::encode_reply(&replies.new_tree(&mut runner).unwrap().current(), key)
            }
        })
        .collect()
}

static KEY: MacKey = MacKey([9; 32]);

/// Opens a blob as both kinds, with the key if it was signed.
fn is_refused(blob: &[u8], signed: bool) -> bool {
    let key = signed.then_some(&KEY);
    wire::decode_delta(blob, key, &Limits::default()).is_err()
        && wire::decode_reply(blob, key, &Limits::default()).is_err()
}

#[test]
fn every_truncation_and_every_flipped_bit_is_refused() {
    for (at, blob) in signed_blobs(50).into_iter().enumerate() {
        let signed = at % 3 == 0;
        assert!(!is_refused(&blob, signed));
        for length in 0..blob.len() {
            assert!(is_refused(&blob[..length], signed), "blob {at} cut to {length}");
        }
        let mut flipped = blob.clone();
        for bit in 0..blob.len() * 8 {
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(is_refused(&flipped, signed), "blob {at}, bit {bit}");
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn every_truncation_and_flipped_bit_with_a_right_checksum_does_no_harm() {
    let corpus = hostile::Corpus::new(40, 300);
    for blob in &corpus.blobs {
        for length in HEADER_BYTES..blob.len() {
            let mut forged = blob[..length].to_vec();
            hostile::forge(&mut forged);
            let _ = hostile::open(&forged, &corpus.shapes, &Limits::default());
        }
        for bit in HEADER_BYTES * 8..blob.len() * 8 {
            let mut forged = blob.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            hostile::forge(&mut forged);
            let _ = hostile::open(&forged, &corpus.shapes, &Limits::default());
        }
    }
}

#[test]
fn mutants_do_no_harm() {
    let corpus = hostile::Corpus::new(120, 400);
    let mut dice = hostile::Dice::new(7);
    let mut blob = Vec::new();
    for _ in 0..40_000 {
        hostile::mutant(&corpus, &mut dice, &mut blob);
        let _ = hostile::open(&blob, &corpus.shapes, &Limits::default());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_behind_a_right_header_do_no_harm(body in prop::collection::vec(any::<u8>(), 0..300), flags in any::<u8>()) {
        let mut blob = vec![0; HEADER_BYTES];
        blob[3] = flags;
        blob.extend(body);
        hostile::forge(&mut blob);
        let _ = hostile::open(&blob, &Shapes::none(), &Limits::default());
    }

    #[test]
    fn any_bytes_at_all_do_no_harm(blob in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(is_refused(&blob, false));
        prop_assert!(is_refused(&blob, true));
    }
}

/// Each was found by the harness or by cargo-fuzz, or is what somebody would try first.
#[test]
fn crashers_are_refused() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/crashers");
    let mut files = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let blob = std::fs::read(&path).unwrap();
        assert!(wire::peek(&blob).is_ok(), "{}: its checksum is wrong, so it tests nothing", path.display());
        assert!(is_refused(&blob, false), "{}", path.display());
        files += 1;
    }
    assert!(files > 0, "no crashers in {directory}");
}

fn regular(rows: u64) -> Delta {
    let changes = (0..rows).map(|row| Change {
        op: Op::Delete,
        key: Key(vec![Value::Int(row as i64)]),
        clock: Hlc(row + 1),
        first_clock: Hlc(row + 1),
        count: 1,
        fields: Vec::new(),
    });
    let table = TableChanges { table: "t".into(), columns: vec!["id".into()], key_len: 1, changes: changes.collect() };
    Delta { body: DeltaBody { tables: vec![table], ..DeltaBody::default() }, ..Delta::default() }
}

#[test]
fn the_most_regular_changeset_is_padded_and_comes_back() {
    let delta = regular(400_000);
    let (blob, _) = wire::encode_delta(&delta, None);
    assert!(blob.len() > 40_000 && blob.len() < 80_000, "{} bytes", blob.len());
    assert_eq!(wire::decode_delta(&blob, None, &Limits::default()).unwrap(), delta);
    let small = regular(20_000);
    let (blob, _) = wire::encode_delta(&small, None);
    assert!(blob.len() < 1000, "{} bytes", blob.len());
    assert_eq!(wire::decode_delta(&blob, None, &Limits::default()).unwrap(), small);
}

#[test]
fn other_regular_changesets_come_back_too() {
    for (text, columns) in
        [("x".repeat(2000), 3), ("the same".into(), 200), ("2024-01-01".into(), 40), ("7".into(), 1900)]
    {
        let rows = 40_000_000 / (columns * (64 + text.len()));
        let mut delta = regular(rows as u64);
        for table in &mut delta.body.tables {
            table.columns.extend((0..columns).map(|column| format!("c{column}")));
            for change in &mut table.changes {
                let field = |column| FieldChange { column, old: None, new: Value::Text(text.clone()) };
                change.op = Op::Insert;
                change.fields = (1..=columns as u16).map(field).collect();
            }
        }
        let (blob, _) = wire::encode_delta(&delta, None);
        assert!(wire::decode_delta(&blob, None, &Limits::default()).unwrap() == delta, "{columns} columns");
    }
}

/// The padding is what allows the expansion: without it the same rows are refused, before they take memory.
#[test]
fn a_small_blob_cannot_become_large() {
    let (blob, _) = wire::encode_delta(&regular(400_000), None);
    let mut rest = &blob[HEADER_BYTES..];
    let padding = fieldsync_core::number::read_varint(&mut rest).unwrap() as usize;
    let mut small = blob[..HEADER_BYTES].to_vec();
    small[3] &= !(1 << 5);
    small.extend(&rest[padding..]);
    assert!(small.len() < 2000, "{} bytes", small.len());
    hostile::forge(&mut small);
    let refused = wire::decode_delta(&small, None, &Limits::default());
    assert!(matches!(refused, Err(WireError::Limit { what: "expanded bytes", .. })), "{refused:?}");
}

#[test]
fn every_limit_is_kept() {
    let delta = regular(5000);
    let (blob, _) = wire::encode_delta(&delta, None);
    let refused = |limits: Limits| wire::decode_delta(&blob, None, &limits).unwrap_err();
    let limits = Limits::default();
    assert_eq!(
        refused(Limits { blob_bytes_max: blob.len() - 1, ..limits }),
        WireError::Limit { what: "bytes", most: blob.len() - 1 }
    );
    assert_eq!(refused(Limits { rows_max: 4999, ..limits }), WireError::Limit { what: "rows", most: 4999 });
    assert_eq!(refused(Limits { tables_max: 0, ..limits }), WireError::Limit { what: "tables", most: 0 });
    assert_eq!(refused(Limits { columns_max: 0, ..limits }), WireError::Limit { what: "columns", most: 0 });
    assert_eq!(
        refused(Limits { expanded_bytes_max: 100_000, ..limits }),
        WireError::Limit { what: "expanded bytes", most: 100_000 }
    );
    assert!(wire::decode_delta(&blob, None, &Limits { rows_max: 5000, ..limits }).is_ok());
}

#[test]
fn the_envelope_is_checked_before_anything_is_parsed() {
    let delta = regular(3);
    let (plain, _) = wire::encode_delta(&delta, None);
    let (signed, _) = wire::encode_delta(&delta, Some(&KEY));
    let limits = Limits::default();
    assert_eq!(wire::decode_delta(&plain, Some(&KEY), &limits), Err(WireError::Unsigned));
    assert_eq!(wire::decode_delta(&signed, Some(&MacKey([8; 32])), &limits), Err(WireError::BadMac));
    assert_eq!(wire::decode_delta(&signed, None, &limits).as_ref(), Ok(&delta));
    assert_eq!(
        wire::decode_reply(&plain, None, &limits),
        Err(WireError::WrongKind { found: BlobKind::Delta.word(), wanted: BlobKind::Reply.word() })
    );
    let mut other = plain.clone();
    other[2] = 2;
    assert_eq!(wire::decode_delta(&other, None, &limits), Err(WireError::UnknownFormat(2)));
    other = plain.clone();
    other[0] = b'G';
    assert_eq!(wire::decode_delta(&other, None, &limits), Err(WireError::NotABlob));
}

#[test]
fn a_stream_gives_the_same_rows_block_by_block() {
    let delta = regular(10_000);
    let (blob, _) = wire::encode_delta(&delta, None);
    let known = Shapes::none();
    let mut stream = DeltaStream::open(&blob, None, &Limits::default(), &known).unwrap();
    let mut changes = Vec::new();
    let mut blocks = Vec::new();
    while let Some((table, continues)) = stream.next_block().unwrap() {
        blocks.push((table.changes.len(), continues));
        changes.extend(table.changes);
    }
    assert_eq!(blocks, [(4096, false), (4096, true), (1808, true)]);
    assert_eq!(changes, delta.body.tables[0].changes);
    assert_eq!(stream.delta.body.high, delta.body.high);
}
