//! How long the wire takes for 100,000 rows of nine columns, and how much memory: the synthetic twin of the benchmarks.
//!
//! Prints JSON: milliseconds of processor time to encode and decode (the best of a few runs; a busy machine does not
//! count), bytes, and by how much the resident memory rose at most (Linux).

use fieldsync_core::delta::{Change, Delta, DeltaBody, FieldChange, Op, TableChanges};
use fieldsync_core::limits::Limits;
use fieldsync_core::{wire, Hlc, Key, Value};
use std::time::Instant;

/// Milliseconds that this thread has been running, or wall time where the system does not say.
fn cpu_ms(begun: Instant) -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split(' ').next().and_then(|number| number.parse::<f64>().ok());
    nanoseconds.map_or(begun.elapsed().as_secs_f64() * 1e3, |number| number / 1e6)
}

/// Kilobytes of resident memory: now, or at most since the last reset.
fn resident_kb(what: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

fn reset_peak() -> f64 {
    // 5: sets the peak to what is resident now.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    resident_kb("VmRSS")
}

const WORDS: [&str; 16] = [
    "north", "river", "school", "maize", "clinic", "upper", "market", "well", "stone", "green", "hill", "camp", "old",
    "new", "east", "lake",
];

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn uuid(state: &mut u64) -> String {
    let (a, b) = (random(state), random(state));
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b >> 48 & 0x3fff | 0x8000,
        b & 0xffff_ffff_ffff
    )
}

fn twin(rows: usize, op: Op) -> Delta {
    let mut state = 0x1234_5678_9abc_def1;
    let state = &mut state;
    let changes = (0..rows)
        .map(|row| {
            let word = |state: &mut u64| WORDS[random(state) as usize % WORDS.len()];
            let values = [
                Value::Text(format!("{} {} {}", word(state), word(state), random(state) % 10_000)),
                Value::Text(word(state).to_owned()),
                Value::Text(format!("{}-{:06}", word(state), row)),
                Value::Text(format!("{} {} {} {}", word(state), word(state), word(state), word(state))),
                Value::Int((random(state) % 100) as i64),
                Value::Int((random(state) % 1_000_000) as i64),
                Value::Real((random(state) % 100_000) as f64 / 100.0),
                Value::Text(format!(
                    "2025-{:02}-{:02}T{:02}:{:02}:{:02}Z",
                    random(state) % 12 + 1,
                    random(state) % 28 + 1,
                    random(state) % 24,
                    random(state) % 60,
                    random(state) % 60
                )),
            ];
            let fields =
                values.into_iter().enumerate().map(|(at, new)| FieldChange { column: at as u16 + 1, old: None, new });
            let mut change = Change {
                op,
                key: Key(vec![Value::Text(uuid(state))]),
                clock: Hlc(1_767_225_600_000 << 16 | row as u64),
                first_clock: Hlc(1_767_225_600_000 << 16 | row as u64),
                count: 1,
                fields: fields.collect(),
            };
            if op == Op::Update {
                change.fields.retain(|field| field.column == 6);
                for field in &mut change.fields {
                    field.old = Some(Value::Int(5));
                }
            }
            change
        })
        .collect();
    let columns = ["id", "name", "kind", "code", "notes", "age", "amount", "score", "seen_at"];
    let table = TableChanges { table: "twin".into(), columns: columns.map(String::from).to_vec(), key_len: 1, changes };
    let body = DeltaBody { tables: vec![table], ..DeltaBody::default() };
    Delta { client: 1, history: 1, device_now_ms: 1_767_225_700_000, body }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let begun = Instant::now();
    let op = if std::env::args().nth(1).as_deref() == Some("update") { Op::Update } else { Op::Insert };
    let rows = std::env::args().nth(2).map_or(Ok(100_000), |rows| rows.parse())?;
    let delta = twin(rows, op);
    let held = reset_peak();
    let mut blob = wire::encode_delta(&delta, None).0;
    let encode_mb = (resident_kb("VmHWM") - held) / 1e3;
    let mut encode = f64::INFINITY;
    for _ in 0..7 {
        let from = cpu_ms(begun);
        blob = wire::encode_delta(&delta, None).0;
        encode = encode.min(cpu_ms(begun) - from);
    }
    // With the first changeset still there, what is decoded comes on top of it.
    let held = reset_peak();
    let back = wire::decode_delta(&blob, None, &Limits::default())?;
    let decoded_mb = (resident_kb("VmRSS") - held) / 1e3;
    let decode_mb = (resident_kb("VmHWM") - held) / 1e3 - decoded_mb;
    drop(back);
    let mut decode = f64::INFINITY;
    for _ in 0..7 {
        let from = cpu_ms(begun);
        let back = wire::decode_delta(&blob, None, &Limits::default())?;
        decode = decode.min(cpu_ms(begun) - from);
        drop(back);
    }
    println!(
        r#"{{"op": "{}", "rows": {rows}, "bytes": {}, "encode_ms": {encode:.1}, "decode_ms": {decode:.1}, "encode_mb": {encode_mb:.1}, "decoded_mb": {decoded_mb:.1}, "decode_mb": {decode_mb:.1}}}"#,
        op.word(),
        blob.len(),
    );
    Ok(())
}
