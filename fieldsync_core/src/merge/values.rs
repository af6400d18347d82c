//! Arithmetic, comparison and set union on values, exact in the hub's types.

use super::Rejection;
use crate::value::{Kind, Value};
use bigdecimal::BigDecimal;
use serde_json::value::RawValue;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::str::FromStr;

/// Digits of a numeric that are worth adding: Postgres itself stops at 131072 before the point and 16383 after.
const DECIMAL_DIGITS_MAX: usize = 131_072 + 16_383 + 2;

/// A union's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// Both sides are in it.
    Value(Value),
    /// One side is no array.
    NotArrays,
}

/// Whether two values are the same to the hub. jsonb is compared by meaning. Numerics with another scale (`1.0`, `1.00`) are
/// told apart, because exactness is what their users ask for.
pub fn same(kind: Kind, a: &Value, b: &Value) -> bool {
    match (kind, a, b) {
        (Kind::Jsonb, Value::Text(a), Value::Text(b)) if a != b => same_json(a, b, JSON_DEPTH_MAX),
        _ => a == b,
    }
}

/// Nesting to which JSON is compared by meaning; deeper parts are compared as text.
const JSON_DEPTH_MAX: usize = 64;

/// Whether two JSON texts mean the same: any order of members, any spelling of numbers and strings.
fn same_json(a: &str, b: &str, depth: usize) -> bool {
    let (a, b) = (a.trim(), b.trim());
    if a == b {
        return true;
    }
    let Some(depth) = depth.checked_sub(1) else { return false };
    match (a.as_bytes().first(), b.as_bytes().first()) {
        (Some(b'{'), Some(b'{')) => {
            let members = |text| serde_json::from_str::<BTreeMap<String, &RawValue>>(text).ok();
            matches!((members(a), members(b)), (Some(a), Some(b)) if a.len() == b.len()
            && a.iter().zip(&b).all(|((a_name, a), (b_name, b))| {
                a_name == b_name && same_json(a.get(), b.get(), depth)
            }))
        }
        (Some(b'['), Some(b'[')) => {
            let items = |text| serde_json::from_str::<Vec<&RawValue>>(text).ok();
            matches!((items(a), items(b)), (Some(a), Some(b)) if a.len() == b.len()
                && a.iter().zip(&b).all(|(a, b)| same_json(a.get(), b.get(), depth)))
        }
        (Some(b'"'), Some(b'"')) => {
            let text = |text| serde_json::from_str::<String>(text).ok();
            matches!((text(a), text(b)), (Some(a), Some(b)) if a == b)
        }
        _ => matches!((decimal(a), decimal(b)), (Some(a), Some(b)) if a == b),
    }
}

/// Orders two values of one column. None: no order (NULL, or different classes that are not both numbers).
pub fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Null, _) | (_, Value::Null) => None,
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Text(a), Value::Text(b)) => match (decimal(a), decimal(b)) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => Some(a.cmp(b)),
        },
        (Value::Blob(a), Value::Blob(b)) => Some(a.cmp(b)),
        _ => Some(number(a)?.cmp(&number(b)?)),
    }
}

/// `hub + (new - old)`, in the hub column's kind. NULL counts as 0.
pub fn add_difference(kind: Kind, hub: &Value, old: &Value, new: &Value) -> Result<Value, Rejection> {
    if let (Value::Int(_) | Value::Null, Value::Int(_) | Value::Null, Value::Int(_) | Value::Null) = (hub, old, new) {
        let int = |value: &Value| if let Value::Int(number) = value { i128::from(*number) } else { 0 };
        return i64::try_from(int(hub) + int(new) - int(old)).map(Value::Int).map_err(|_| Rejection::OutOfRange);
    }
    if kind == Kind::Real {
        let real = |value: &Value| match value {
            Value::Real(number) => Ok(*number),
            Value::Int(number) => Ok(*number as f64),
            Value::Null => Ok(0.0),
            other => Err(Rejection::NotANumber(other.to_text())),
        };
        let sum = real(hub)? + (real(new)? - real(old)?);
        return if sum.is_nan() { Err(Rejection::OutOfRange) } else { Ok(Value::Real(sum)) };
    }
    let exact = |value: &Value| {
        if value.is_null() {
            Ok(BigDecimal::from(0))
        } else {
            number(value).ok_or_else(|| Rejection::NotANumber(value.to_text()))
        }
    };
    let sum = exact(hub)? + (exact(new)? - exact(old)?);
    Ok(Value::Text(sum.to_plain_string()))
}

fn number(value: &Value) -> Option<BigDecimal> {
    match value {
        Value::Int(number) => Some(BigDecimal::from(*number)),
        Value::Real(number) => BigDecimal::try_from(*number).ok(),
        Value::Text(text) => decimal(text),
        Value::Null | Value::Blob(_) => None,
    }
}

/// A plain decimal. No exponents: they claim sizes.
fn decimal(text: &str) -> Option<BigDecimal> {
    let plain = !text.is_empty()
        && text.len() <= DECIMAL_DIGITS_MAX
        && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.'));
    if plain {
        BigDecimal::from_str(text).ok()
    } else {
        None
    }
}

/// Three-way union of JSON arrays: the hub's elements without those that the device removed, then those that the device
/// added, each once. Elements are equal when their JSON text is, white space outside strings aside.
pub fn union(old: Option<&Value>, new: &Value, hub: &Value) -> Joined {
    let (Some(old), Some(new), Some(hub)) = (elements(old.unwrap_or(&Value::Null)), elements(new), elements(hub))
    else {
        return Joined::NotArrays;
    };
    let mut joined: Vec<&String> = Vec::with_capacity(hub.len() + new.len());
    let removed = |element: &String| old.contains(element) && !new.contains(element);
    let kept = hub.iter().filter(|element| !removed(element));
    let added = new.iter().filter(|element| !old.contains(element));
    for element in kept.chain(added) {
        if !joined.contains(&element) {
            joined.push(element);
        }
    }
    let texts: Vec<&str> = joined.into_iter().map(String::as_str).collect();
    Joined::Value(Value::Text(format!("[{}]", texts.join(", "))))
}

/// The elements of a JSON array as JSON text. NULL is an empty array.
fn elements(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Text(text) => {
            let raw: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            Some(raw.into_iter().map(|element| element.get().to_owned()).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact() {
        let add = |kind, hub: &str, old: &str, new: &str| add_difference(kind, &hub.into(), &old.into(), &new.into());
        assert_eq!(add(Kind::Numeric, "0.1", "0.10", "0.30"), Ok("0.30".into()));
        assert_eq!(add(Kind::Numeric, "99999999999999999999.01", "0", "0.02"), Ok("99999999999999999999.03".into()));
        assert!(matches!(add(Kind::Numeric, "1e999999999", "0", "1"), Err(Rejection::NotANumber(_))));
        assert_eq!(
            add_difference(Kind::Int, &Value::Int(i64::MAX), &Value::Int(0), &Value::Int(1)),
            Err(Rejection::OutOfRange)
        );
        assert_eq!(add_difference(Kind::Int, &Value::Null, &Value::Null, &Value::Int(3)), Ok(Value::Int(3)));
    }

    #[test]
    fn jsonb_is_compared_by_meaning() {
        let same = |a: &str, b: &str| same(Kind::Jsonb, &a.into(), &b.into());
        assert!(same(r#"{"a": 1, "b": [true, "x"]}"#, r#"{"b":[true,"\u0078"],"a":1.0}"#));
        assert!(!same(r#"{"a": 1}"#, r#"{"a": 2}"#));
        assert!(!same("[1, 2]", "[2, 1]"));
        assert!(!same("null", "0"));
    }

    #[test]
    fn unions_are_three_way() {
        let old = Value::from(r#"["a", "b"]"#);
        let new = Value::from(r#"["b", "c"]"#);
        let hub = Value::from(r#"["a", "b", "d"]"#);
        assert_eq!(union(Some(&old), &new, &hub), Joined::Value(r#"["b", "d", "c"]"#.into()));
        assert_eq!(union(Some(&old), &"x".into(), &hub), Joined::NotArrays);
    }

    #[test]
    fn numbers_compare_as_numbers_and_instants_as_text() {
        assert_eq!(compare(&"9.5".into(), &"10".into()), Some(Ordering::Less));
        assert_eq!(compare(&Value::Int(2), &Value::Real(1.5)), Some(Ordering::Greater));
        assert_eq!(compare(&Value::Null, &Value::Int(1)), None);
        assert_eq!(
            compare(&"2026-01-02T00:00:00.000000Z".into(), &"2026-01-10T00:00:00.000000Z".into()),
            Some(Ordering::Less)
        );
    }
}
