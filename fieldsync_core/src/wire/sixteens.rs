//! Sixteen bytes, most of them UUIDs: their repetitions, references to keys of the same blob, and what is left of each.

use super::error::WireError;
use super::model::{self, Index, QuickMap, Symbol, ENTRIES_MAX};
use super::numbers;
use super::parts::{In, Out};
use super::range::{Bit, Coder};
use super::repeats::has_repeats;

/// Models of a column of UUIDs.
struct Sixteens {
    ordered: Bit,
    known: Bit,
    version: Symbol,
    variant: Symbol,
}

impl Sixteens {
    fn new() -> Sixteens {
        Sixteens {
            ordered: Bit::expecting_false(230),
            known: Bit::default(),
            // Version 4, perhaps 7; variant 2 (RFC 9562).
            version: Symbol::expecting(&[(1, 236), (2, 20), (5, 190), (10, 236)]),
            variant: Symbol::expecting(&[(1, 20), (3, 236)]),
        }
    }

    /// The sixty-four and sixteen bits behind the first forty-eight. Version and variant are the same in all UUIDs of one making.
    fn rest<C: Coder>(&mut self, coder: &mut C, sixteen: &[u8; 16]) -> (u16, u64) {
        let middle = u16::from_be_bytes([sixteen[6], sixteen[7]]);
        let last = sixteen[8..].iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        let version = self.version.code(coder, (middle >> 12) as u8, 16);
        let middle = u16::from(version) << 12 | coder.direct(12, u64::from(middle & 0xfff)) as u16;
        let variant = self.variant.code(coder, (last >> 62) as u8, 4);
        let last = u64::from(variant) << 62 | coder.direct(62, last & (u64::MAX >> 2));
        (middle, last)
    }
}

pub(super) fn write_sixteens(out: &mut Out, sixteens: &[[u8; 16]], are_keys: bool) {
    let repeats = has_repeats(sixteens.iter());
    if sixteens.len() > 1 {
        out.coder.bit(&mut out.shared.repeats[0], repeats);
    }
    let mut index = Index::new();
    let mut known: QuickMap<[u8; 16], usize> = QuickMap::default();
    if !are_keys && out.index_of_sixteen.len() != out.shared.sixteens.len() {
        for (at, sixteen) in out.shared.sixteens.iter().enumerate() {
            out.index_of_sixteen.insert(*sixteen, at as u32);
        }
    }
    let mut references: Vec<Option<u32>> = Vec::new();
    let mut fresh: Vec<[u8; 16]> = Vec::new();
    for sixteen in sixteens {
        if repeats {
            let found = known.get(sixteen).copied();
            if index.code(&mut out.coder, found, known.len().min(ENTRIES_MAX)).is_some() {
                continue;
            }
            if known.len() < ENTRIES_MAX {
                known.insert(*sixteen, known.len());
            }
        }
        let reference = if are_keys { None } else { out.index_of_sixteen.get(sixteen).copied() };
        references.push(reference);
        if reference.is_none() {
            fresh.push(*sixteen);
        }
    }
    let mut models = Sixteens::new();
    let size = out.shared.sixteens.len();
    if !are_keys && size > 0 {
        for reference in &references {
            out.coder.bit(&mut models.known, reference.is_some());
            if let Some(at) = reference {
                code_below(&mut out.coder, size as u64, u64::from(*at));
            }
        }
    }
    // UUIDs that begin with the time (version 7) come in order; the others' first bits are as random as the rest.
    let firsts: Vec<i64> = fresh.iter().map(first_six).collect();
    let ordered = firsts.len() > 1 && firsts.is_sorted() && firsts[firsts.len() - 1] - firsts[0] < 1 << 40;
    if !fresh.is_empty() {
        out.coder.bit(&mut models.ordered, ordered);
    }
    if ordered {
        numbers::write(&mut out.coder, &mut out.shared.plans, &firsts);
    } else {
        for first in &firsts {
            out.coder.direct(48, *first as u64);
        }
    }
    for sixteen in &fresh {
        models.rest(&mut out.coder, sixteen);
    }
    if are_keys {
        let _ = out.budget.take_many(fresh.len(), 16);
        out.shared.sixteens.extend(fresh);
    }
}

pub(super) fn read_sixteens(input: &mut In<'_>, count: usize, are_keys: bool) -> Result<Vec<[u8; 16]>, WireError> {
    const WHY: WireError = WireError::Damaged("a reference leads nowhere");
    let repeats = count > 1 && input.coder.bit(&mut input.shared.repeats[0], false);
    // For each value: the entry it repeats, or None for the next new one.
    let mut repeated: Vec<Option<u32>> = Vec::new();
    let mut distinct = count;
    if repeats {
        let mut index = Index::new();
        let mut entries = 0;
        distinct = 0;
        for _ in 0..count {
            let found = index.code(&mut input.coder, None, entries.min(ENTRIES_MAX));
            if found.is_none() {
                distinct += 1;
                entries += 1;
            }
            repeated.push(found.map(|at| at as u32));
            input.coder.check()?;
        }
    }
    let mut models = Sixteens::new();
    let size = input.shared.sixteens.len();
    let mut references: Vec<Option<[u8; 16]>> = Vec::new();
    let mut fresh = distinct;
    if !are_keys && size > 0 {
        for _ in 0..distinct {
            let reference = if input.coder.bit(&mut models.known, false) {
                let at = usize::try_from(code_below(&mut input.coder, size as u64, 0)).unwrap_or(usize::MAX);
                fresh -= 1;
                Some(*input.shared.sixteens.get(at).ok_or(WHY)?)
            } else {
                None
            };
            references.push(reference);
            input.coder.check()?;
        }
    }
    let ordered = fresh > 0 && input.coder.bit(&mut models.ordered, false);
    let firsts = if ordered {
        numbers::read(&mut input.coder, &mut input.shared.plans, fresh)?
    } else {
        let mut firsts = Vec::with_capacity(fresh);
        for _ in 0..fresh {
            firsts.push(input.coder.direct(48, 0) as i64);
            input.coder.check()?;
        }
        firsts
    };
    let mut made = Vec::with_capacity(fresh);
    for first in firsts {
        let (middle, last) = models.rest(&mut input.coder, &[0; 16]);
        if first < 0 || first >> 48 != 0 {
            return Err(WireError::Damaged("a UUID is wrong"));
        }
        made.push((u128::from(first as u64) << 80 | u128::from(middle) << 64 | u128::from(last)).to_be_bytes());
        input.coder.check()?;
    }
    if are_keys {
        input.budget.take_many(made.len(), 16)?;
        input.shared.sixteens.extend(&made);
    }
    let mut made = made.into_iter();
    let entries: Vec<[u8; 16]> = if references.is_empty() {
        made.collect()
    } else {
        references
            .into_iter()
            .map(|reference| reference.or_else(|| made.next()).ok_or(WHY))
            .collect::<Result<_, _>>()?
    };
    if !repeats {
        return Ok(entries);
    }
    let mut next = 0;
    let mut values = Vec::with_capacity(count);
    for repeated in repeated {
        let at = match repeated {
            Some(at) => at as usize,
            None => {
                next += 1;
                next - 1
            }
        };
        values.push(*entries.get(at).ok_or(WHY)?);
    }
    Ok(values)
}

fn first_six(sixteen: &[u8; 16]) -> i64 {
    sixteen[..6].iter().fold(0, |number, byte| number << 8 | i64::from(*byte))
}

/// One of any number of equally likely values.
fn code_below<C: Coder>(coder: &mut C, size: u64, value: u64) -> u64 {
    let most = size.saturating_sub(1);
    let low = model::bucket(most).saturating_sub(16);
    let high = coder.below((most >> low) as u32 + 1, (value >> low) as u32);
    u64::from(high) << low | coder.direct(low, value & ((1 << low) - 1))
}
