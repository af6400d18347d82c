//! Keys of rows: as bytes in the feed, as text for people, as parameters for joins.
//!
//! Invariant: equal keys have equal bytes, and the bytes never depend on a session's settings.

use crate::catalog::Table;
use crate::types::{uuid_text, Canonical};
use fieldsync_core::number::{read_varint, unzigzag, write_varint, zigzag};
use fieldsync_core::value::Kind;
use fieldsync_core::{Key, Value};

/// Appends one key: its parts, each with a tag.
pub fn pack<'a>(out: &mut Vec<u8>, parts: impl IntoIterator<Item = &'a Value>) {
    for part in parts {
        match part {
            Value::Null => out.push(0),
            Value::Int(number) => {
                out.push(1);
                write_varint(out, zigzag(*number));
            }
            Value::Real(number) => {
                out.push(2);
                out.extend_from_slice(&number.to_bits().to_le_bytes());
            }
            Value::Text(text) => {
                out.push(3);
                write_varint(out, text.len() as u64);
                out.extend_from_slice(text.as_bytes());
            }
            Value::Blob(bytes) => {
                out.push(4);
                write_varint(out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
        }
    }
}

/// The keys of one feed entry, each of `width` parts. `None`: damaged.
pub fn unpack(mut rest: &[u8], width: usize) -> Option<Vec<Key>> {
    let mut keys = Vec::new();
    while !rest.is_empty() && width > 0 {
        let mut parts = Vec::with_capacity(width);
        for _ in 0..width {
            let (&tag, tail) = rest.split_first()?;
            rest = tail;
            parts.push(match tag {
                0 => Value::Null,
                1 => Value::Int(unzigzag(read_varint(&mut rest)?)),
                2 => {
                    let (bits, tail) = rest.split_first_chunk::<8>()?;
                    rest = tail;
                    Value::Real(f64::from_bits(u64::from_le_bytes(*bits)))
                }
                3 => Value::Text(String::from_utf8(take(&mut rest)?.to_vec()).ok()?),
                4 => Value::Blob(take(&mut rest)?.to_vec()),
                _ => return None,
            });
        }
        keys.push(Key(parts));
    }
    Some(keys)
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(read_varint(rest)?).ok()?;
    if length > rest.len() {
        return None;
    }
    let (head, tail) = rest.split_at(length);
    *rest = tail;
    Some(head)
}

/// The key as text: the part itself, or a JSON array of the parts. Uuids in their own text form.
pub fn row_id(key: &Key, kinds: &[Kind]) -> String {
    let shown = Key(key
        .0
        .iter()
        .enumerate()
        .map(|(at, part)| match (kinds.get(at), part) {
            (Some(Kind::Uuid), Value::Blob(bytes)) => Value::Text(uuid_text(bytes)),
            _ => part.clone(),
        })
        .collect());
    shown.row_id()
}

/// The key that a row id is the text of.
pub fn from_row_id(table: &Table, row_id: &str) -> Option<Key> {
    let texts: Vec<Value> = if table.key.len() == 1 {
        vec![Value::Text(row_id.to_owned())]
    } else {
        let parts: Vec<serde_json::Value> = serde_json::from_str(row_id).ok()?;
        parts.iter().map(Value::from_json).collect()
    };
    if texts.len() != table.key.len() {
        return None;
    }
    let parts = table.key.iter().zip(texts).map(|(at, text)| {
        let column_type = &table.columns[*at].column_type;
        let text = match (column_type.kind, text) {
            // Blobs are shown as hexadecimal digits.
            (Kind::Bytes, Value::Text(digits)) => {
                let digits = digits.strip_prefix("\\x").unwrap_or(&digits).to_owned();
                Value::Blob(
                    (0..digits.len() / 2)
                        .filter_map(|at| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok())
                        .collect(),
                )
            }
            (_, text) => text,
        };
        match column_type.canonical(&text) {
            Canonical::Done(value) => Some(value),
            // Row ids are made of canonical values.
            Canonical::Ask(text) => Some(Value::Text(text)),
            Canonical::Bad(_) => None,
        }
    });
    parts.collect::<Option<Vec<_>>>().map(Key)
}
