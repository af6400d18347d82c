//! Keys of rows: as bytes in the feed, as text for people, as parameters for joins.
//!
//! Invariant: equal keys have equal bytes, and the bytes never depend on a session's settings.

use crate::catalog::Table;
use crate::catch::SqlError;
use crate::convert;
use crate::types::uuid_text;
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

/// The key as text: the part itself, or a JSON array of the parts. Uuids in their own text form. Under a key with a NUL in it there can
/// be no row here, but an entry, which Postgres has to hold.
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
    let text = shown.row_id();
    if text.contains('\0') {
        return text.replace('\0', "\u{fffd}");
    }
    text
}

/// A record's key.
pub enum Recorded {
    /// In the hub's form.
    Key(Key),
    /// As it was written down. The table's key has other types by now, so that there can be no such row.
    Former(Key),
}

/// The key of a record by its row id.
pub fn of_record(table: &Table, row_id: &str) -> Result<Recorded, SqlError> {
    let written = parts_of(table, row_id);
    let key = convert::key(table, &Key(written.clone()))?;
    Ok(key.map_or(Recorded::Former(Key(written)), Recorded::Key))
}

/// The parts of a row id, one for each part of the key if it still has as many. Blobs are shown as hexadecimal digits.
fn parts_of(table: &Table, row_id: &str) -> Vec<Value> {
    let whole = || vec![Value::Text(row_id.to_owned())];
    let parts = if table.key.len() == 1 {
        whole()
    } else {
        let parts: Option<Vec<serde_json::Value>> = serde_json::from_str(row_id).ok();
        parts.map_or_else(whole, |parts| parts.iter().map(Value::from_json).collect())
    };
    let kinds = table.key.iter().map(|at| Some(table.columns[*at].column_type.kind)).chain(std::iter::repeat(None));
    let own_form = |(part, kind)| match (part, kind) {
        (Value::Text(digits), Some(Kind::Bytes)) => {
            Value::Blob(from_hex(digits.strip_prefix("\\x").unwrap_or(&digits)))
        }
        (part, _) => part,
    };
    parts.into_iter().zip(kinds).map(own_form).collect()
}

/// The bytes that hexadecimal digits stand for.
pub fn from_hex(digits: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok();
    (0..digits.len() / 2).filter_map(byte).collect()
}
