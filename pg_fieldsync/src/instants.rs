//! `timestamptz` as the wire has it: read and written without Postgres, where every calendar agrees.
//!
//! Invariant: what is written here is what [`instant`] reads, and what Postgres makes of the same text.

use fieldsync_core::calendar::{civil_from_days, days_from_civil};

const MICROSECONDS_PER_DAY: i64 = 86_400_000_000;
/// Days from 1970-01-01 to 2000-01-01, Postgres' epoch.
const EPOCH_DAYS: i64 = 10_957;

/// `timestamptz` as the wire has it: UTC, ISO-8601, always six digits of microseconds.
pub fn instant_text(microseconds: i64) -> String {
    match microseconds {
        i64::MAX => return "infinity".to_owned(),
        i64::MIN => return "-infinity".to_owned(),
        _ => {}
    }
    let days = microseconds.div_euclid(MICROSECONDS_PER_DAY) + EPOCH_DAYS;
    let rest = microseconds.rem_euclid(MICROSECONDS_PER_DAY);
    let (year, month, day) = civil_from_days(days);
    // Postgres has no year 0: what is year 0 here is 1 BC there.
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    let (second, fraction) = (rest / 1_000_000, rest % 1_000_000);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{fraction:06}Z{era}",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Whether text is exactly what [`instant_text`] gives for a date that every calendar agrees on; then it needs no
/// round trip through Postgres. Days beyond the 28th are left to Postgres to judge.
pub fn is_canonical_instant(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = b"dddd-dd-ddTdd:dd:dd.ddddddZ";
    if bytes.len() != shape.len()
        || !bytes.iter().zip(shape).all(|(byte, want)| if *want == b'd' { byte.is_ascii_digit() } else { byte == want })
    {
        return false;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<u32>().unwrap_or(u32::MAX);
    number(0, 4) >= 1
        && (1..=12).contains(&number(5, 7))
        && (1..=28).contains(&number(8, 10))
        && number(11, 13) < 24
        && number(14, 16) < 60
        && number(17, 19) < 60
}

/// What such a text says, in Postgres' own count. `None`: only Postgres can read it.
pub fn instant(text: &str) -> Option<i64> {
    if !is_canonical_instant(text) {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().unwrap_or_default();
    let days = days_from_civil(number(0, 4), number(5, 7), number(8, 10)) - EPOCH_DAYS;
    let seconds = number(11, 13) * 3600 + number(14, 16) * 60 + number(17, 19);
    Some(days * MICROSECONDS_PER_DAY + seconds * 1_000_000 + number(20, 26))
}
