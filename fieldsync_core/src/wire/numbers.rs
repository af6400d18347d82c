//! A column's numbers: the writer tries several plans and keeps the cheapest, the reader is told which.
//!
//! Integers, scaled decimals, timestamps and the upper bits of UUIDs and raw floats all come here as 64-bit integers.

use super::error::WireError;
use super::model::{bucket, Index, Number, QuickMap, Signed, Symbol, BUCKET_MAX, ENTRIES_MAX};
use super::range::{Bit, Coder, Writer};

/// How many of a long column's numbers are tried out to choose a plan.
const SAMPLE_MAX: usize = 320;

const UNIFORM: u8 = 0;
const ADAPTIVE: u8 = 1;
const DELTA: u8 = 2;
const SIGNED: u8 = 3;
const DICTIONARY: u8 = 4;
const RAW: u8 = 5;
const PLANS: u8 = 6;

/// How a column's numbers are written. All arithmetic wraps: every plan holds every column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    kind: u8,
    /// What is taken off each number first (all but SIGNED and RAW).
    base: i64,
    /// What the differences are multiples of.
    step: u64,
    /// UNIFORM: the largest number; else the largest bit length.
    most: u64,
}

/// What is learned about plans from column to column of a blob.
#[derive(Debug, Clone)]
pub(super) struct Plans {
    kind: Symbol,
    base: Signed,
    stepped: Bit,
    step: Number,
    span: Number,
    most: Symbol,
}

impl Plans {
    pub(super) fn new() -> Plans {
        Plans {
            kind: Symbol::new(),
            base: Signed::new(Number::value(), Bit::default()),
            stepped: Bit::expecting_false(230),
            step: Number::modest(),
            span: Number::small(),
            most: Symbol::new(),
        }
    }

    /// The plan for a single number is the number.
    fn code<C: Coder>(&mut self, coder: &mut C, plan: Plan, count: usize) -> Plan {
        if count == 1 {
            let base = self.base.code(coder, plan.base);
            return Plan { kind: UNIFORM, base, step: 1, most: 0 };
        }
        let kind = self.kind.code(coder, plan.kind, PLANS);
        let based = !matches!(kind, SIGNED | RAW);
        let base = if based { self.base.code(coder, plan.base) } else { 0 };
        let most = match kind {
            UNIFORM => self.span.code(coder, plan.most),
            _ => u64::from(self.most.code(coder, plan.most as u8, BUCKET_MAX as u8 + 1)),
        };
        let one = kind == RAW || most == 0;
        let step = if !one && coder.bit(&mut self.stepped, plan.step > 1) {
            self.step.code(coder, plan.step.wrapping_sub(2)).wrapping_add(2)
        } else {
            1
        };
        Plan { kind, base, step, most }
    }
}

/// Writes a column's numbers.
pub(super) fn write(writer: &mut Writer, plans: &mut Plans, numbers: &[i64]) {
    if let Some(plan) = choose(plans, numbers) {
        let plan = plans.code(writer, plan, numbers.len());
        let mut copy = Numbers::Write(numbers);
        // A writer cannot fail.
        let _ = run(writer, plan, &mut copy, numbers.len());
    }
}

/// Reads as many numbers as are known to be there. The caller has paid for them.
pub(super) fn read<C: Coder>(reader: &mut C, plans: &mut Plans, count: usize) -> Result<Vec<i64>, WireError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let plan = plans.code(reader, Plan { kind: 0, base: 0, step: 1, most: 0 }, count);
    let mut numbers = Numbers::Read(Vec::with_capacity(count));
    run(reader, plan, &mut numbers, count)?;
    match numbers {
        Numbers::Read(numbers) => Ok(numbers),
        Numbers::Write(_) => Ok(Vec::new()),
    }
}

/// The two directions of one loop.
enum Numbers<'a> {
    Write(&'a [i64]),
    Read(Vec<i64>),
}

impl Numbers<'_> {
    #[inline(always)]
    fn at(&self, at: usize) -> i64 {
        match self {
            Numbers::Write(numbers) => numbers[at],
            Numbers::Read(_) => 0,
        }
    }

    #[inline(always)]
    fn put(&mut self, number: i64) {
        if let Numbers::Read(numbers) = self {
            numbers.push(number);
        }
    }
}

fn run<C: Coder>(coder: &mut C, plan: Plan, numbers: &mut Numbers<'_>, count: usize) -> Result<(), WireError> {
    let Plan { kind, base, step, most } = plan;
    let off = |number: i64, from: i64| (number.wrapping_sub(from) as u64).checked_div(step).unwrap_or(0);
    let on = |units: u64, from: i64| from.wrapping_add(units.wrapping_mul(step) as i64);
    let off_signed = |number: i64, from: i64| zigzag(divide(number.wrapping_sub(from), step));
    let on_signed = |units: u64, from: i64| from.wrapping_add(unzigzag(units).wrapping_mul(step as i64));
    let length = most.min(u64::from(BUCKET_MAX)) as u32;
    let mut model = Number::new();
    match kind {
        UNIFORM => {
            let low_width = bucket(most).saturating_sub(16);
            let size = (most >> low_width) as u32 + 1;
            for at in 0..count {
                let units = off(numbers.at(at), base);
                let high = coder.below(size, (units >> low_width) as u32);
                let low = coder.direct(low_width, units & ((1 << low_width) - 1));
                numbers.put(on(u64::from(high) << low_width | low, base));
                if coder.failed() {
                    return Err(WireError::Damaged("it ends early"));
                }
            }
        }
        ADAPTIVE => {
            for at in 0..count {
                let units = model.code_up_to(coder, off(numbers.at(at), base), length);
                numbers.put(on(units, base));
                if coder.failed() {
                    return Err(WireError::Damaged("it ends early"));
                }
            }
        }
        DELTA => {
            let mut last = base;
            for at in 0..count {
                let units = model.code_up_to(coder, off_signed(numbers.at(at), last), length);
                last = on_signed(units, last);
                numbers.put(last);
                if coder.failed() {
                    return Err(WireError::Damaged("it ends early"));
                }
            }
        }
        SIGNED => {
            for at in 0..count {
                let units = model.code_up_to(coder, off_signed(numbers.at(at), 0), length);
                numbers.put(on_signed(units, 0));
                if coder.failed() {
                    return Err(WireError::Damaged("it ends early"));
                }
            }
        }
        DICTIONARY => {
            let mut index = Index::new();
            let mut known: QuickMap<i64, usize> = QuickMap::default();
            let mut entries: Vec<i64> = Vec::new();
            for at in 0..count {
                let number = numbers.at(at);
                let found = if C::READS { None } else { known.get(&number).copied() };
                let number = match index.code(coder, found, entries.len()) {
                    Some(at) => entries.get(at).copied().unwrap_or(0),
                    None => {
                        let number = on(model.code_up_to(coder, off(number, base), length), base);
                        if entries.len() < ENTRIES_MAX {
                            if !C::READS {
                                known.insert(number, entries.len());
                            }
                            entries.push(number);
                        }
                        number
                    }
                };
                numbers.put(number);
                if coder.failed() {
                    return Err(WireError::Damaged("it ends early"));
                }
            }
        }
        _ => {
            for at in 0..count {
                let number = coder.direct(length, numbers.at(at) as u64);
                numbers.put(number as i64);
                if coder.failed() {
                    return Err(WireError::Damaged("it ends early"));
                }
            }
        }
    }
    Ok(())
}

/// The cheapest plan, tried on a sample.
fn choose(plans: &Plans, numbers: &[i64]) -> Option<Plan> {
    let (first, lowest, highest) = match (numbers.first(), numbers.iter().min(), numbers.iter().max()) {
        (Some(first), Some(lowest), Some(highest)) => (*first, *lowest, *highest),
        _ => return None,
    };
    if lowest == highest {
        return Some(Plan { kind: UNIFORM, base: lowest, step: 1, most: 0 });
    }
    let step = common_step(numbers, first);
    let span = (highest.wrapping_sub(lowest) as u64) / step;
    let mut candidates = Vec::with_capacity(6);
    candidates.push(Plan { kind: UNIFORM, base: lowest, step, most: span });
    candidates.push(Plan { kind: ADAPTIVE, base: lowest, step, most: u64::from(bucket(span)) });
    candidates.push(Plan { kind: DICTIONARY, base: lowest, step, most: u64::from(bucket(span)) });
    let mut signed_step = step;
    let mut longest = 0;
    let mut longest_delta = 0;
    let mut last = first;
    let mut wraps = false;
    for number in numbers {
        wraps |= number.checked_sub(last).is_none();
        signed_step = gcd(signed_step, number.unsigned_abs());
        longest = longest.max(bucket(zigzag(*number)));
        longest_delta = longest_delta.max(bucket(zigzag(divide(number.wrapping_sub(last), step))));
        last = *number;
    }
    // A difference that wraps is a multiple of nothing but 1.
    if step == 1 || !wraps {
        candidates.push(Plan { kind: DELTA, base: first, step, most: u64::from(longest_delta) });
    }
    if let Ok(signed_step @ 1..) = i64::try_from(signed_step) {
        let longest = if signed_step == 1 {
            longest
        } else {
            numbers.iter().map(|number| bucket(zigzag(number / signed_step))).max().unwrap_or(0)
        };
        candidates.push(Plan { kind: SIGNED, base: 0, step: signed_step as u64, most: u64::from(longest) });
    }
    if lowest >= 0 {
        candidates.push(Plan { kind: RAW, base: 0, step: 1, most: u64::from(bucket(highest as u64)) });
    }
    let sample = if numbers.len() > SAMPLE_MAX {
        let middle = (numbers.len() - SAMPLE_MAX) / 2;
        &numbers[middle..middle + SAMPLE_MAX]
    } else {
        numbers
    };
    candidates
        .into_iter()
        .map(|plan| {
            let mut scratch = Writer::new();
            let mut header = plans.clone();
            header.code(&mut scratch, plan, numbers.len());
            let header_bits = scratch.bits();
            let fixed = match plan.kind {
                UNIFORM => Some((plan.most as f64 + 1.0).log2()),
                RAW => Some(plan.most as f64),
                _ => None,
            };
            if let Some(bits) = fixed {
                return (header_bits + bits * numbers.len() as f64, plan);
            }
            // In a sample from the middle the first difference would be a jump that the column does not have.
            let sampled = if plan.kind == DELTA { Plan { base: sample[0], ..plan } } else { plan };
            let _ = run(&mut scratch, sampled, &mut Numbers::Write(sample), sample.len());
            let per_number = (scratch.bits() - header_bits) / sample.len() as f64;
            (header_bits + per_number * numbers.len() as f64, plan)
        })
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, plan)| plan)
}

/// The largest number that divides all differences; at most what an `i64` holds, so that signed plans can use it.
fn common_step(numbers: &[i64], first: i64) -> u64 {
    let mut step = 0;
    for number in numbers {
        // Differences that wrap are no multiples of anything.
        match number.checked_sub(first) {
            Some(difference) => step = gcd(step, difference.unsigned_abs()),
            None => return 1,
        }
        if step == 1 {
            break;
        }
    }
    if step > i64::MAX as u64 {
        1
    } else {
        step.max(1)
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn divide(number: i64, step: u64) -> i64 {
    i64::try_from(step).ok().and_then(|step| number.checked_div(step)).unwrap_or(0)
}

use crate::number::{unzigzag, zigzag};

#[cfg(test)]
mod tests {
    use super::super::range::Reader;
    use super::*;
    use proptest::prelude::*;

    fn round_trip(numbers: &[i64]) -> usize {
        let mut writer = Writer::new();
        write(&mut writer, &mut Plans::new(), numbers);
        let bytes = writer.finish();
        let mut reader = Reader::new(&bytes);
        let read = read(&mut reader, &mut Plans::new(), numbers.len()).unwrap();
        assert_eq!(read, numbers);
        reader.finish().unwrap();
        bytes.len()
    }

    #[test]
    fn every_plan_goes_there_and_back_at_the_extremes() {
        let extremes = [i64::MIN, i64::MAX, 0, -1, 1, i64::MIN + 1, i64::MAX - 1, 0, 0, i64::MIN];
        round_trip(&extremes);
        for kind in 0..PLANS {
            for step in [1, 3, i64::MAX as u64] {
                let plan = Plan { kind, base: i64::MIN, step, most: if kind == UNIFORM { u64::MAX } else { 64 } };
                let fitting: Vec<i64> = extremes
                    .iter()
                    .map(|number| match kind {
                        RAW | SIGNED if step > 1 => 0,
                        _ if step > 1 => i64::MIN,
                        _ => *number,
                    })
                    .collect();
                let mut writer = Writer::new();
                run(&mut writer, plan, &mut Numbers::Write(&fitting), fitting.len()).unwrap();
                let bytes = writer.finish();
                let mut numbers = Numbers::Read(Vec::new());
                run(&mut Reader::new(&bytes), plan, &mut numbers, fitting.len()).unwrap();
                assert!(matches!(numbers, Numbers::Read(read) if read == fitting), "plan {kind} step {step}");
            }
        }
    }

    #[test]
    fn differences_that_wrap_come_back() {
        let step = i64::MAX - 67;
        round_trip(&[0, -step, step]);
        round_trip(&[-step, step, 0, step, -step]);
    }

    #[test]
    fn what_can_be_told_in_few_bytes_is() {
        assert!(round_trip(&vec![77; 10_000]) < 8);
        assert!(round_trip(&(0..10_000).map(|n| 1_700_000_000_000 + n * 3_600_000).collect::<Vec<_>>()) < 24);
        assert!(round_trip(&(0..10_000).map(|n| (n * n) % 7).collect::<Vec<_>>()) < 10_000 * 3 / 8);
    }

    proptest! {
        #[test]
        fn any_numbers_go_there_and_back(numbers in prop::collection::vec(any::<i64>(), 0..100)) {
            round_trip(&numbers);
        }

        #[test]
        fn multiples_go_there_and_back(
            base in any::<i64>(), step in 1i64..1_000_000, units in prop::collection::vec(-1_000i64..1_000, 0..200),
        ) {
            round_trip(&units.iter().map(|unit| base.wrapping_add(unit.wrapping_mul(step))).collect::<Vec<_>>());
        }
    }
}
