//! JSON text that Postgres takes for jsonb, which has no form for some of what json has, and devices' texts.
//!
//! Invariant: what is made to fit differs from what was given in nothing but what jsonb has no form for.

use std::borrow::Cow;

/// Valid JSON text, with U+FFFD where it says NUL or half of a surrogate pair, and as texts numbers that are beyond `numeric`. The six
/// characters of an escape, written out in a text, are none.
pub fn fitting(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    let mut fitted = String::new();
    let mut taken = 0;
    let mut replace = |from: usize, to: usize, by: &[&str]| {
        fitted.push_str(&json[taken..from]);
        fitted.extend(by.iter().copied());
        taken = to;
    };
    let mut at = 0;
    let mut in_text = false;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => in_text = !in_text,
            // Each backslash goes with what it escapes, so that an escaped backslash before "u0000" is not taken for an escape of it.
            b'\\' if in_text => {
                let length = escape_length(&json[at..]);
                match length {
                    Ok(length) => at += length,
                    Err(length) => {
                        replace(at, at + length, &["\u{fffd}"]);
                        at += length;
                    }
                }
                continue;
            }
            b'-' | b'0'..=b'9' if !in_text => {
                let is_of_number =
                    |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E');
                let end = at + bytes[at..].iter().take_while(|byte| is_of_number(byte)).count();
                let number = &json[at..end];
                if is_beyond_numeric(number) {
                    replace(at, end, &["\"", number, "\""]);
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    if taken == 0 {
        return Cow::Borrowed(json);
    }
    fitted.push_str(&json[taken..]);
    Cow::Owned(fitted)
}

/// The length of the escape that a text begins with; as an error where jsonb does not know what it stands for.
fn escape_length(text: &str) -> Result<usize, usize> {
    let unit = |text: &str| u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok();
    match unit(text) {
        None => Ok(2),
        Some(0 | 0xdc00..=0xdfff) => Err(6),
        Some(0xd800..=0xdbff) => match text.get(6..).and_then(unit) {
            Some(0xdc00..=0xdfff) => Ok(12),
            _ => Err(6),
        },
        Some(_) => Ok(6),
    }
}

/// Whether `numeric` has not so many digits: 131072 before the point, and 16383 after it.
fn is_beyond_numeric(number: &str) -> bool {
    let (digits, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let length = |digits: &str| i64::try_from(digits.len()).unwrap_or(i64::MAX);
    let Ok(exponent) = exponent.parse::<i32>().map(i64::from) else { return true };
    length(whole.trim_start_matches('-')) + exponent > 131_072 || length(fraction) - exponent > 16_383
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_jsonb_has_no_form_for_is_replaced() {
        for (json, fitted) in [
            (r#"{"a": [1, -2.5e-3, "x\"1e999999\\", null]}"#, r#"{"a": [1, -2.5e-3, "x\"1e999999\\", null]}"#),
            (r#"{"a\u0000": "\u0000\u0000"}"#, "{\"a\u{fffd}\": \"\u{fffd}\u{fffd}\"}"),
            (r#""\\u0000 \\\u0000 \u0001""#, "\"\\\\u0000 \\\\\u{fffd} \\u0001\""),
            (
                r#""\ud83d\ude00 \ud83d \ude00 \ud83d\u0041 \ud83d\ud83d\ude00""#,
                "\"\\ud83d\\ude00 \u{fffd} \u{fffd} \u{fffd}\\u0041 \u{fffd}\\ud83d\\ude00\"",
            ),
            ("[1e131071, 1e131072, -1E+99999999999]", r#"[1e131071, "1e131072", "-1E+99999999999"]"#),
            ("[1e-16383, 1e-16384, 0.5e-16382, 0.5e-16383]", r#"[1e-16383, "1e-16384", 0.5e-16382, "0.5e-16383"]"#),
        ] {
            assert_eq!(fitting(json), fitted, "{json}");
        }
    }
}
