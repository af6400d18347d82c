//! Classes: the forms in which a value can travel. Text that is the canonical form of a number, an instant or a UUID
//! travels as that; text in any other form stays text. So every value comes back bit for bit.

use crate::calendar::{civil_from_days, days_from_civil};
use crate::value::Value;

/// What is written of a value of a class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form<'a> {
    /// Nothing.
    Null,
    /// A number for [`super::numbers`].
    Number(i64),
    /// The bits of a float.
    Bits(u64),
    /// Sixteen bytes, by nature random.
    Sixteen([u8; 16]),
    /// Text or bytes for the pool.
    Bytes(&'a [u8]),
}

pub(super) type Class = u8;

pub(super) const NULL: Class = 0;
pub(super) const INT: Class = 1;
/// A float that is a decimal of the column's scale.
pub(super) const REAL: Class = 2;
/// Any other float.
pub(super) const REAL_BITS: Class = 3;
/// Text: a UUID in its lower-case form with hyphens.
pub(super) const UUID: Class = 4;
pub(super) const TEXT: Class = 5;
pub(super) const BLOB: Class = 6;
/// A blob of sixteen bytes.
pub(super) const SIXTEEN: Class = 7;
/// Text: a plain decimal; the scale (digits after the point) is added to it.
pub(super) const DECIMAL: Class = 8;
pub(super) const DECIMAL_SCALE_MAX: u8 = 18;
/// Text: `YYYY-MM-DD`, as days since 1970.
pub(super) const DATE: Class = 32;
/// Text: `HH:MM`, as minutes.
pub(super) const MINUTES: Class = 33;
/// Text: `HH:MM:SS`, as seconds.
pub(super) const SECONDS: Class = 34;
/// Text: date and time; `separator + 2 * (zone + 4 * digits of the fraction)` is added to it.
pub(super) const INSTANT: Class = 64;
/// One above the largest.
pub(super) const CLASSES: u8 = INSTANT + 2 * 4 * 7;

const ZONES: [&str; 4] = ["", "Z", "+00", "+00:00"];
const SEPARATORS: [u8; 2] = [b' ', b'T'];

/// Whether values of a class are numbers, so that an old one can travel as a difference.
pub(super) fn is_number(class: Class) -> bool {
    matches!(class, INT | REAL) || (DECIMAL..=DECIMAL + DECIMAL_SCALE_MAX).contains(&class) || is_time(class)
}

fn is_time(class: Class) -> bool {
    matches!(class, DATE | MINUTES | SECONDS) || (INSTANT..CLASSES).contains(&class)
}

/// Whether a reader knows this class.
pub(super) fn is_known(class: Class) -> bool {
    class <= SIXTEEN || is_number(class)
}

/// The class of a value and what is written of it; `scale` is the column's for floats.
pub(super) fn classify(value: &Value, scale: u8) -> (Class, Form<'_>) {
    match value {
        Value::Null => (NULL, Form::Null),
        Value::Int(number) => (INT, Form::Number(*number)),
        // No sender has one: SQLite has no NaN, and the hub's travels as this text.
        Value::Real(number) if number.is_nan() => (TEXT, Form::Bytes(b"NaN")),
        Value::Real(number) => match scaled(*number, scale) {
            Some(scaled) => (REAL, Form::Number(scaled)),
            None => (REAL_BITS, Form::Bits(number.to_bits())),
        },
        Value::Text(text) => classify_text(text),
        Value::Blob(bytes) => match <[u8; 16]>::try_from(bytes.as_slice()) {
            Ok(sixteen) => (SIXTEEN, Form::Sixteen(sixteen)),
            Err(_) => (BLOB, Form::Bytes(bytes)),
        },
    }
}

fn classify_text(text: &str) -> (Class, Form<'_>) {
    let bytes = text.as_bytes();
    let as_text = (TEXT, Form::Bytes(bytes));
    match bytes {
        [b'0'..=b'9' | b'a'..=b'f', ..] if bytes.len() == 36 => {
            parse_uuid(bytes).map_or(as_text, |sixteen| (UUID, Form::Sixteen(sixteen)))
        }
        [b'0'..=b'9' | b'-', ..] if bytes.len() <= 32 => parse_decimal(bytes)
            .map(|(number, scale)| (DECIMAL + scale, Form::Number(number)))
            .or_else(|| parse_time(bytes).map(|(class, number)| (class, Form::Number(number))))
            .unwrap_or(as_text),
        _ => as_text,
    }
}

/// A value from a number of a class. None: the number has no such form.
pub(super) fn value_of_number(class: Class, number: i64, scale: u8) -> Option<Value> {
    match class {
        INT => Some(Value::Int(number)),
        REAL => Some(Value::Real(number as f64 / power_of_ten(scale)?)),
        DECIMAL..=26 => Some(Value::Text(decimal_text(number, class - DECIMAL))),
        _ => time_text(class, number).map(Value::Text),
    }
}

/// Digits after the point with which floats can travel as integers.
pub(super) const REAL_SCALE_MAX: u8 = 15;
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
const POWERS_OF_TEN: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

fn power_of_ten(scale: u8) -> Option<f64> {
    POWERS_OF_TEN.get(usize::from(scale)).copied()
}

/// The integer that, divided by the power of ten, gives exactly this float: both are exact in a float and the division rounds
/// correctly (IEEE 754), so every machine gets the same bits back.
pub(super) fn scaled(number: f64, scale: u8) -> Option<i64> {
    let power = power_of_ten(scale)?;
    let product = number * power;
    if product.is_nan() || product.abs() > EXACT_MAX {
        return None;
    }
    // The nearest integer; a tie or an inexact sum is caught by the comparison, and so is a negative zero.
    let units = (product + 0.5f64.copysign(product)) as i64;
    (units.unsigned_abs() <= 1 << 53 && (units as f64 / power).to_bits() == number.to_bits()).then_some(units)
}

/// The fewest digits after the point with which a float can travel as an integer.
pub(super) fn least_scale(number: f64) -> Option<u8> {
    (0..=REAL_SCALE_MAX).find(|scale| scaled(number, *scale).is_some())
}

/// `-?(0|[1-9][0-9]*)(\.[0-9]+)?`, 18 digits at most, no `-0`.
fn parse_decimal(bytes: &[u8]) -> Option<(i64, u8)> {
    let (negative, digits) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, bytes),
    };
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    let mut number = 0i64;
    let mut point = None;
    for (at, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => number = number.checked_mul(10)?.checked_add(i64::from(byte - b'0'))?,
            b'.' if at > 0 && point.is_none() => point = Some(at),
            _ => return None,
        }
    }
    let whole = point.unwrap_or(digits.len());
    let scale = digits.len() - whole - usize::from(point.is_some());
    let count = whole + scale;
    let canonical = (whole == 1 || digits[0] != b'0')
        && (point.is_none() || scale > 0)
        && count <= usize::from(DECIMAL_SCALE_MAX)
        && !(negative && number == 0);
    canonical.then_some((if negative { -number } else { number }, scale as u8))
}

fn decimal_text(number: i64, scale: u8) -> String {
    let scale = usize::from(scale);
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + 3);
    if number < 0 {
        text.push('-');
    }
    if scale == 0 {
        text.push_str(&digits);
    } else if let Some(whole) = digits.len().checked_sub(scale).filter(|whole| *whole > 0) {
        text.push_str(&digits[..whole]);
        text.push('.');
        text.push_str(&digits[whole..]);
    } else {
        text.push_str("0.");
        text.extend(std::iter::repeat_n('0', scale - digits.len()));
        text.push_str(&digits);
    }
    text
}

fn parse_uuid(bytes: &[u8]) -> Option<[u8; 16]> {
    let mut sixteen = [0; 16];
    let mut at = 0;
    for (index, byte) in sixteen.iter_mut().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            if bytes[at] != b'-' {
                return None;
            }
            at += 1;
        }
        *byte = hex_digit(bytes[at])? << 4 | hex_digit(bytes[at + 1])?;
        at += 2;
    }
    Some(sixteen)
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// The UUID as Postgres prints it.
pub(super) fn uuid_text(sixteen: &[u8; 16]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(36);
    for (index, byte) in sixteen.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

fn two(bytes: &[u8], at: usize) -> Option<i64> {
    match bytes.get(at..at + 2)? {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => Some(i64::from(tens - b'0') * 10 + i64::from(ones - b'0')),
        _ => None,
    }
}

fn parse_time(bytes: &[u8]) -> Option<(Class, i64)> {
    let (class, number) = match bytes.len() {
        5 => (MINUTES, clock_of_day(bytes, false)?),
        8 => (SECONDS, clock_of_day(bytes, true)?),
        10 => (DATE, parse_date(bytes)?),
        19..=32 => parse_instant(bytes)?,
        _ => return None,
    };
    Some((class, number))
}

/// Minutes of `HH:MM`, or seconds of `HH:MM:SS`.
fn clock_of_day(bytes: &[u8], with_seconds: bool) -> Option<i64> {
    let (hours, minutes) = (two(bytes, 0)?, two(bytes, 3)?);
    if bytes[2] != b':' || hours > 23 || minutes > 59 {
        return None;
    }
    if !with_seconds {
        return Some(hours * 60 + minutes);
    }
    let seconds = two(bytes, 6)?;
    (bytes[5] == b':' && seconds <= 59).then_some(hours * 3600 + minutes * 60 + seconds)
}

fn parse_date(bytes: &[u8]) -> Option<i64> {
    let year = two(bytes, 0)? * 100 + two(bytes, 2)?;
    let (month, day) = (two(bytes, 5)?, two(bytes, 8)?);
    let fits = bytes[4] == b'-'
        && bytes[7] == b'-'
        && year >= 1
        && (1..=12).contains(&month)
        && (1..=days_of_month(year, month)).contains(&day);
    fits.then(|| days_from_civil(year, month, day))
}

fn parse_instant(bytes: &[u8]) -> Option<(Class, i64)> {
    let days = parse_date(&bytes[..10])?;
    let separator = SEPARATORS.iter().position(|separator| *separator == bytes[10])?;
    let seconds = clock_of_day(&bytes[11..19], true)?;
    let mut rest = &bytes[19..];
    let mut digits = 0;
    let mut fraction = 0;
    if let [b'.', after @ ..] = rest {
        digits = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 || digits > 6 {
            return None;
        }
        for byte in &after[..digits] {
            fraction = fraction * 10 + i64::from(byte - b'0');
        }
        rest = &after[digits..];
    }
    let zone = ZONES.iter().position(|zone| zone.as_bytes() == rest)?;
    let units = (days * 86_400 + seconds) * 10i64.pow(digits as u32) + fraction;
    Some((INSTANT + (separator + 2 * (zone + 4 * digits)) as u8, units))
}

fn time_text(class: Class, number: i64) -> Option<String> {
    match class {
        DATE => date_text(number),
        MINUTES => (0..1440).contains(&number).then(|| format!("{:02}:{:02}", number / 60, number % 60)),
        SECONDS => (0..86_400).contains(&number).then(|| clock_text(number)),
        INSTANT..CLASSES => {
            let code = usize::from(class - INSTANT);
            let (separator, zone, digits) = (code % 2, code / 2 % 4, code / 8);
            let unit = 10i64.pow(digits as u32);
            let (seconds, fraction) = (number.div_euclid(unit), number.rem_euclid(unit));
            let mut text = date_text(seconds.div_euclid(86_400))?;
            text.push(SEPARATORS[separator] as char);
            text.push_str(&clock_text(seconds.rem_euclid(86_400)));
            if digits > 0 {
                text.push_str(&format!(".{fraction:0digits$}"));
            }
            text.push_str(ZONES[zone]);
            Some(text)
        }
        _ => None,
    }
}

fn clock_text(seconds: i64) -> String {
    let mut text = String::with_capacity(27);
    push_two(&mut text, seconds / 3600);
    text.push(':');
    push_two(&mut text, seconds / 60 % 60);
    text.push(':');
    push_two(&mut text, seconds % 60);
    text
}

fn push_two(text: &mut String, number: i64) {
    text.push((b'0' + (number / 10) as u8) as char);
    text.push((b'0' + (number % 10) as u8) as char);
}

const DAYS_FIRST: i64 = -719_162; // 0001-01-01
const DAYS_LAST: i64 = 2_932_896; // 9999-12-31

fn date_text(days: i64) -> Option<String> {
    if !(DAYS_FIRST..=DAYS_LAST).contains(&days) {
        return None;
    }
    let (year, month, day) = civil_from_days(days);
    let mut text = String::with_capacity(32);
    push_two(&mut text, year / 100);
    push_two(&mut text, year % 100);
    text.push('-');
    push_two(&mut text, month);
    text.push('-');
    push_two(&mut text, day);
    Some(text)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn comes_back(value: &Value) -> Class {
        let scale = if let Value::Real(number) = value { least_scale(*number).unwrap_or(0) } else { 0 };
        let (class, form) = classify(value, scale);
        assert!(is_known(class));
        let back = match form {
            Form::Null => Value::Null,
            Form::Number(number) => value_of_number(class, number, scale).unwrap(),
            Form::Bits(bits) => Value::Real(f64::from_bits(bits)),
            Form::Sixteen(sixteen) if class == UUID => Value::Text(uuid_text(&sixteen)),
            Form::Sixteen(sixteen) => Value::Blob(sixteen.to_vec()),
            Form::Bytes(bytes) if class == TEXT => Value::Text(String::from_utf8(bytes.to_vec()).unwrap()),
            Form::Bytes(bytes) => Value::Blob(bytes.to_vec()),
        };
        match (value, &back) {
            (Value::Real(a), Value::Real(b)) => assert_eq!(a.to_bits(), b.to_bits()),
            _ => assert_eq!(value, &back),
        }
        class
    }

    #[test]
    fn canonical_forms_are_found_and_others_stay_text() {
        for (text, class) in [
            ("0", DECIMAL),
            ("-17", DECIMAL),
            ("12.50", DECIMAL + 2),
            ("-0.05", DECIMAL + 2),
            ("999999999999999999", DECIMAL),
            ("007", TEXT),
            ("-0", TEXT),
            ("-0.00", TEXT),
            ("1.", TEXT),
            (".5", TEXT),
            ("+1", TEXT),
            ("1e3", TEXT),
            ("", TEXT),
            ("1234567890123456789", TEXT),
            ("-", TEXT),
            ("01.5", TEXT),
            ("1.2.3", TEXT),
            ("NaN", TEXT),
            ("2024-02-29", DATE),
            ("2023-02-29", TEXT),
            ("1900-02-29", TEXT),
            ("2000-02-29", DATE),
            ("0000-01-01", TEXT),
            ("0001-01-01", DATE),
            ("9999-12-31", DATE),
            ("2024-13-01", TEXT),
            ("2024-1-01", TEXT),
            ("10:30", MINUTES),
            ("24:00", TEXT),
            ("23:59:59", SECONDS),
            ("23:59:60", TEXT),
            ("2013-01-01T06:00:00Z", INSTANT + 1 + 2),
            ("2013-01-01 06:00:00", INSTANT),
            ("2013-01-01 06:00:00.", TEXT),
            ("2013-01-01 06:00:00.123456+00", INSTANT + 2 * (2 + 4 * 6)),
            ("2013-01-01T06:00:00+01:00", TEXT),
            ("1969-12-31T23:59:59.999Z", INSTANT + 1 + 2 * (1 + 4 * 3)),
            ("2013-01-01T06:00:00.1234567Z", TEXT),
            ("3f2504e0-4f89-41d3-9a0c-0305e82c3301", UUID),
            ("3F2504E0-4f89-41d3-9a0c-0305e82c3301", TEXT),
            ("3f2504e0-4f89-41d3-9a0c+0305e82c3301", TEXT),
            ("3f2504e04f8941d39a0c0305e82c3301aaaa", TEXT),
        ] {
            assert_eq!(comes_back(&text.into()), class, "{text}");
        }
        assert_eq!(comes_back(&Value::Blob(vec![7; 16])), SIXTEEN);
        assert_eq!(comes_back(&Value::Real(-0.0)), REAL_BITS);
        assert_eq!(comes_back(&Value::Real(f64::INFINITY)), REAL_BITS);
        assert_eq!(comes_back(&Value::Real(7.58)), REAL);
        assert_eq!(comes_back(&Value::Real(1e300)), REAL_BITS);
    }

    #[test]
    fn every_day_of_the_calendar_comes_back() {
        for days in DAYS_FIRST..=DAYS_LAST {
            let text = date_text(days).unwrap();
            assert_eq!(parse_date(text.as_bytes()), Some(days), "{text}");
        }
        assert_eq!(date_text(DAYS_FIRST - 1), None);
        assert_eq!(date_text(DAYS_LAST + 1), None);
    }

    proptest! {
        #[test]
        fn any_value_comes_back(bits in any::<u64>(), text in "[-0-9.:T Z+a-f]{0,40}", number in any::<i64>()) {
            if !f64::from_bits(bits).is_nan() {
                comes_back(&Value::Real(f64::from_bits(bits)));
            }
            comes_back(&Value::Text(text));
            comes_back(&Value::Text(number.to_string()));
            comes_back(&Value::Real(number as f64 / 1000.0));
        }

        #[test]
        fn any_number_of_any_class_has_one_form_or_none(class in 0..CLASSES, number in any::<i64>(), scale in 0u8..=255) {
            if let Some(Value::Text(text)) = value_of_number(class, number, scale).filter(|_| is_known(class)) {
                // A decimal of 19 digits is the one case where a number has a text that is not read as a number.
                if !(DECIMAL..=26).contains(&class) || number.unsigned_abs() < 1_000_000_000_000_000_000 {
                    let _ = classify_text(&text);
                }
            }
        }
    }
}
