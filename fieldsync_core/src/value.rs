//! A value as SQLite stores it: the five storage classes are also what travels.
//!
//! Invariant: a value that went to the other end and back is equal to itself. Reals are compared and hashed by their
//! bits, except that `-0.0` equals `0.0`; text is compared byte for byte.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

/// One field's value, in its exact SQLite storage class.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub enum Value {
    /// SQL NULL.
    #[default]
    Null,
    /// A 64-bit integer.
    Int(i64),
    /// A 64-bit float, bit-exact. Never NaN (SQLite has none; the hub's NaN travels as the text `NaN`).
    Real(f64),
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

/// A real as SQLite can spell it, too, by `printf('%!.15g')`, or `'%!.17g'` where fifteen digits are another number: entries and views
/// have to call a row by one name. (Not all SQLites round the seventeenth digit right: what entries call a row, devices note.)
fn real_text(number: f64) -> String {
    if !number.is_finite() {
        return if number < 0.0 { "-Infinity" } else { "Infinity" }.to_owned();
    }
    let short = general(number, 15);
    if short.parse() == Ok(number) {
        short
    } else {
        general(number, 17)
    }
}

/// C's `%g` with a number of significant digits, and at least one digit after the point.
fn general(number: f64, digits: usize) -> String {
    let scientific = format!("{number:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let trimmed = |text: &str| {
        let text = text.trim_end_matches('0');
        if text.ends_with('.') {
            format!("{text}0")
        } else {
            text.to_owned()
        }
    };
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs());
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    let plain = format!("{number:.decimals$}");
    if plain.contains('.') {
        trimmed(&plain)
    } else {
        format!("{plain}.0")
    }
}

impl Value {
    /// Whether this is SQL NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The value as text, as the device's views show it for keys (reals: fifteen digits, or seventeen where fifteen are another
    /// number); blobs as lower-case hex.
    pub fn to_text(&self) -> String {
        match self {
            Value::Null => String::new(),
            Value::Int(number) => number.to_string(),
            Value::Real(number) => real_text(*number),
            Value::Text(text) => text.clone(),
            Value::Blob(bytes) => hex(bytes),
        }
    }

    /// The value as JSON for people: numbers as numbers, blobs as `\x` and lower-case hex (as Postgres shows them).
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Null => serde_json::Value::Null,
            Value::Int(number) => (*number).into(),
            Value::Real(number) => serde_json::Number::from_f64(*number)
                .map_or_else(|| number.to_string().into(), serde_json::Value::Number),
            Value::Text(text) => text.clone().into(),
            Value::Blob(bytes) => format!("\\x{}", hex(bytes)).into(),
        }
    }

    /// The value as JSON text, as the device's views show it for keys.
    pub fn to_json_text(&self) -> String {
        match self {
            Value::Real(number) if number.is_finite() => real_text(*number),
            Value::Real(number) => format!("\"{}\"", real_text(*number)),
            other => other.to_json().to_string(),
        }
    }

    /// The value of a JSON scalar; arrays and objects become their JSON text.
    pub fn from_json(json: &serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(truth) => Value::Int(i64::from(*truth)),
            serde_json::Value::Number(number) => number
                .as_i64()
                .map(Value::Int)
                .or_else(|| number.as_f64().map(Value::Real))
                .unwrap_or_else(|| Value::Text(number.to_string())),
            serde_json::Value::String(text) => Value::Text(text.clone()),
            other => Value::Text(other.to_string()),
        }
    }

    /// Bytes of content, for limits and for deciding what is large.
    pub fn size(&self) -> usize {
        match self {
            Value::Null => 0,
            Value::Int(_) | Value::Real(_) => 8,
            Value::Text(text) => text.len(),
            Value::Blob(bytes) => bytes.len(),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Value::Null => 0,
            Value::Int(_) => 1,
            Value::Real(_) => 2,
            Value::Text(_) => 3,
            Value::Blob(_) => 4,
        }
    }
}

/// Bits that identify a real, with one zero.
fn real_bits(number: f64) -> u64 {
    if number == 0.0 {
        0
    } else {
        number.to_bits()
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Real(a), Value::Real(b)) => real_bits(*a) == real_bits(*b),
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Blob(a), Value::Blob(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rank().hash(state);
        match self {
            Value::Null => {}
            Value::Int(number) => number.hash(state),
            Value::Real(number) => real_bits(*number).hash(state),
            Value::Text(text) => text.hash(state),
            Value::Blob(bytes) => bytes.hash(state),
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A total order for sorting keys and for `max`/`min` within one class: NULL, integers, reals, text, blobs.
impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Value::Int(a), Value::Int(b)) => a.cmp(b),
            (Value::Real(a), Value::Real(b)) if a == b => Ordering::Equal,
            (Value::Real(a), Value::Real(b)) => a.total_cmp(b),
            (Value::Text(a), Value::Text(b)) => a.cmp(b),
            (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Int(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

/// What a hub column holds, so that a device can store a value in the form its own column wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub enum Kind {
    /// Text by the type's own input and output (also enum, interval, date, time, ranges, …).
    #[default]
    Text,
    /// int2, int4, int8.
    Int,
    /// float4, float8.
    Real,
    /// numeric: exact text.
    Numeric,
    /// bool as 0 or 1.
    Bool,
    /// timestamptz: UTC, ISO-8601, microseconds; compared as instants.
    Instant,
    /// uuid: lower-case text, or 16 bytes where the device's column holds blobs.
    Uuid,
    /// bytea.
    Bytes,
    /// json: text, byte for byte.
    Json,
    /// jsonb: text, compared by meaning.
    Jsonb,
    /// SQL arrays as JSON text.
    Array,
}

impl Kind {
    /// All of them, by their numbers in the wire format.
    pub const ALL: [Kind; 11] = [
        Kind::Text,
        Kind::Int,
        Kind::Real,
        Kind::Numeric,
        Kind::Bool,
        Kind::Instant,
        Kind::Uuid,
        Kind::Bytes,
        Kind::Json,
        Kind::Jsonb,
        Kind::Array,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_zero_is_zero_and_reals_never_equal_integers() {
        assert_eq!(Value::Real(-0.0), Value::Real(0.0));
        assert_ne!(Value::Real(1.0), Value::Int(1));
        assert_eq!(Value::Real(-0.0).cmp(&Value::Real(0.0)), Ordering::Equal);
    }
}
