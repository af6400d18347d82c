//! Encodes changesets given as JSON, one per line, and says how large they are: the size benchmark's way into the crate.
//!
//! In: `{"now_ms", "client", "table", "columns", "key_len", "known", "changes": [{"op", "clock", "key": [...],
//! "fields": [[column, old, new], ...]}]}` (`old` absent in inserts: `[column, new]`). Out, per line: `{"bytes", "named"}`, without
//! and with the tables' names, both decoded again and compared.

use fieldsync_core::delta::{client_tag, Change, Delta, DeltaBody, FieldChange, Op, TableChanges};
use fieldsync_core::limits::Limits;
use fieldsync_core::wire::{self, Shape, Shapes};
use fieldsync_core::{Hlc, Key, Snapshot, Value};
use serde_json::{json, Value as Json};
use std::io::{BufRead, Write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let delta = delta_of(&serde_json::from_str(&line?)?).ok_or("this is not a changeset")?;
        let known: Shapes = delta.body.tables.iter().map(Shape::of_changes).collect();
        let begun = std::time::Instant::now();
        let (blob, _) = wire::encode_delta_for(&delta, None, &known);
        let encoded = begun.elapsed();
        let (named, _) = wire::encode_delta(&delta, None);
        let begun = std::time::Instant::now();
        let back = wire::decode_delta_with(&blob, None, &Limits::default(), &known)?;
        let decoded = begun.elapsed();
        if back != delta || wire::decode_delta(&named, None, &Limits::default())? != delta {
            return Err("a changeset did not come back".into());
        }
        let answer = json!({
            "bytes": blob.len(), "named": named.len(),
            "encode_us": encoded.as_micros() as u64, "decode_us": decoded.as_micros() as u64,
        });
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn delta_of(json: &Json) -> Option<Delta> {
    let columns: Vec<String> =
        json["columns"].as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<_>>()?;
    let changes: Vec<Change> = json["changes"].as_array()?.iter().map(change_of).collect::<Option<_>>()?;
    let now_ms = json["now_ms"].as_u64()?;
    let high = changes.iter().map(|change| change.clock).max().unwrap_or_default();
    let table = TableChanges {
        table: json["table"].as_str()?.to_owned(),
        columns,
        key_len: u16::try_from(json["key_len"].as_u64()?).ok()?,
        changes,
    };
    let body = DeltaBody {
        parent: 0x9e37_79b9,
        cursor: Some(Snapshot { xmin: 812_345, xmax: 812_345, xip: Vec::new() }),
        // Synced yesterday.
        watermark: Hlc::from_ms(now_ms - 86_391_234),
        high,
        tables: if table.changes.is_empty() { Vec::new() } else { vec![table] },
        ..DeltaBody::default()
    };
    let body = DeltaBody { high: body.high.max(body.watermark), ..body };
    Some(Delta { client: client_tag(json["client"].as_str()?), history: 0x5bd1_e995, device_now_ms: now_ms, body })
}

fn change_of(json: &Json) -> Option<Change> {
    let op = match json["op"].as_str()? {
        "insert" => Op::Insert,
        "update" => Op::Update,
        _ => Op::Delete,
    };
    let fields = json["fields"].as_array()?.iter().map(|field| match field.as_array()?.as_slice() {
        [column, new] => {
            Some(FieldChange { column: u16::try_from(column.as_u64()?).ok()?, old: None, new: Value::from_json(new) })
        }
        [column, old, new] => Some(FieldChange {
            column: u16::try_from(column.as_u64()?).ok()?,
            old: Some(Value::from_json(old)),
            new: Value::from_json(new),
        }),
        _ => None,
    });
    let clock = Hlc(json["clock"].as_u64()?);
    Some(Change {
        op,
        key: Key(json["key"].as_array()?.iter().map(Value::from_json).collect()),
        clock,
        first_clock: clock,
        count: 1,
        fields: fields.collect::<Option<_>>()?,
    })
}
