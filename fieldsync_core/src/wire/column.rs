//! A column of values: classes first, then what the values of each class need, class by class.

use super::budget::{Budget, VALUE_BYTES};
use super::classes::{self, Class, Form};
use super::error::WireError;
use super::model::{Index, Number, QuickMap, Symbol, ENTRIES_MAX};
use super::numbers::{self, Plans};
use super::pool::{PoolReader, PoolWriter};
use super::range::{Bit, Coder, Reader, Writer};
use crate::value::Value;

/// What is learned from column to column of a blob.
pub(super) struct Shared {
    class_count: Number,
    class: Symbol,
    scale: Symbol,
    plans: Plans,
    differences: Plans,
    repeats: [Bit; 2],
    /// Sixteen-byte keys that are in the blob already: a reference to such a row needs no sixteen bytes.
    sixteens: Vec<[u8; 16]>,
}

impl Shared {
    pub(super) fn new() -> Shared {
        Shared {
            class_count: Number::small(),
            // Neither instants, nor times, nor decimals, but one of the first eight classes.
            class: Symbol::expecting(&[(1, 232), (2, 246), (4, 250), (8, 216)]),
            scale: Symbol::new(),
            plans: Plans::new(),
            differences: Plans::new(),
            repeats: [Bit::default(); 2],
            sixteens: Vec::new(),
        }
    }

    /// Plans for the differences between old and new numbers.
    pub(super) fn differences(&mut self) -> &mut Plans {
        &mut self.differences
    }
}

/// The writer's parts.
pub(super) struct Out {
    pub(super) coder: Writer,
    pub(super) pool: PoolWriter,
    pub(super) shared: Shared,
    pub(super) budget: Budget,
    index_of_sixteen: QuickMap<[u8; 16], u32>,
}

impl Out {
    pub(super) fn new() -> Out {
        Out {
            coder: Writer::new(),
            pool: PoolWriter::new(),
            shared: Shared::new(),
            budget: Budget::unlimited(),
            index_of_sixteen: QuickMap::default(),
        }
    }
}

/// The reader's parts.
pub(super) struct In<'a> {
    pub(super) coder: Reader<'a>,
    pub(super) pool: PoolReader,
    pub(super) shared: Shared,
    pub(super) budget: Budget,
}

/// What was written or read of a column, for the differences that may follow.
pub(super) struct Done {
    /// Each value's class.
    pub(super) classes: Vec<Class>,
    /// Each value's number, where its class is one.
    pub(super) numbers: Vec<i64>,
    /// Digits after the point of the column's floats.
    pub(super) scale: u8,
}

/// The scale that writes a column's floats in the fewest bits.
pub(super) fn scale_of<'v>(mut values: impl Iterator<Item = &'v Value> + Clone) -> u8 {
    if !values.clone().any(|value| matches!(value, Value::Real(_))) {
        return 0;
    }
    let values = values.by_ref();
    let mut counts = [0usize; classes::REAL_SCALE_MAX as usize + 1];
    let mut likely = 0;
    for value in values {
        if let Value::Real(number) = value {
            // Most floats of a column have its scale: look there before counting up.
            let one_less = likely == 0 || classes::scaled(*number, likely - 1).is_none();
            let least = if one_less && classes::scaled(*number, likely).is_some() {
                Some(likely)
            } else {
                classes::least_scale(*number)
            };
            if let Some(least) = least {
                counts[usize::from(least)] += 1;
                likely = likely.max(least);
            }
        }
    }
    let total: usize = counts.iter().sum();
    let mut best = (0, f64::INFINITY);
    let mut within = 0;
    for (scale, count) in counts.iter().enumerate() {
        within += count;
        // A digit is worth log2(10) bits; a float that does not fit the scale takes 66.
        let bits = within as f64 * (6.0 + 3.32 * scale as f64) + (total - within) as f64 * 66.0;
        if bits < best.1 {
            best = (scale as u8, bits);
        }
    }
    best.0
}

struct Group<'v> {
    class: Class,
    numbers: Vec<i64>,
    sixteens: Vec<[u8; 16]>,
    strings: Vec<&'v [u8]>,
}

/// Writes values. Keys become known to later references.
pub(super) fn write(out: &mut Out, values: &[&Value], scale: u8, are_keys: bool) -> Done {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut members: Vec<u8> = Vec::with_capacity(values.len());
    let mut done = Done { classes: Vec::with_capacity(values.len()), numbers: Vec::with_capacity(values.len()), scale };
    for value in values {
        let (class, form) = classes::classify(value, scale);
        let at = match groups.iter().position(|group| group.class == class) {
            Some(at) => at,
            None => {
                groups.push(Group { class, numbers: Vec::new(), sixteens: Vec::new(), strings: Vec::new() });
                groups.len() - 1
            }
        };
        members.push(at as u8);
        let group = &mut groups[at];
        let mut number = 0;
        match form {
            Form::Null => {}
            Form::Number(form) => {
                number = form;
                group.numbers.push(form);
            }
            Form::Bits(bits) => group.numbers.push(bits as i64),
            Form::Sixteen(sixteen) => group.sixteens.push(sixteen),
            Form::Bytes(bytes) => group.strings.push(bytes),
        }
        done.classes.push(class);
        done.numbers.push(number);
    }
    if values.is_empty() {
        return done;
    }
    let list: Vec<Class> = groups.iter().map(|group| group.class).collect();
    code_classes(&mut out.coder, &mut out.shared, &list, scale, values.len());
    code_members(&mut out.coder, groups.len(), &mut members);
    let _ = out.budget.take_many(values.len(), VALUE_BYTES);
    for group in &groups {
        match group.class {
            classes::NULL => {}
            classes::REAL_BITS => write_bits(out, &group.numbers),
            classes::UUID | classes::SIXTEEN => {
                let _ = out.budget.take_many(group.sixteens.len(), 36);
                write_sixteens(out, &group.sixteens, are_keys);
            }
            classes::TEXT | classes::BLOB => {
                let _ = out.budget.take(group.strings.iter().map(|bytes| bytes.len()).sum());
                write_strings(out, group.class, &group.strings);
            }
            class => {
                let _ = out.budget.take_many(group.numbers.len(), text_bytes(class));
                numbers::write(&mut out.coder, &mut out.shared.plans, &group.numbers);
            }
        }
    }
    done
}

/// Reads values, with their classes and numbers.
pub(super) fn read(input: &mut In<'_>, count: usize, are_keys: bool) -> Result<(Vec<Value>, Done), WireError> {
    let mut done = Done { classes: Vec::new(), numbers: Vec::new(), scale: 0 };
    if count == 0 {
        return Ok((Vec::new(), done));
    }
    input.budget.take_many(count, VALUE_BYTES)?;
    let (list, scale) = read_classes(input, count)?;
    done.scale = scale;
    let mut members = vec![0; count];
    code_members(&mut input.coder, list.len(), &mut members);
    input.coder.check()?;
    done.classes = members.iter().map(|member| list[usize::from(*member)]).collect();
    done.numbers = vec![0; count];
    let mut values = vec![Value::Null; count];
    for (at, class) in list.iter().enumerate() {
        let places =
            || members.iter().enumerate().filter(|(_, member)| usize::from(**member) == at).map(|(row, _)| row);
        let count = if list.len() == 1 { count } else { places().count() };
        match *class {
            classes::NULL => {}
            classes::REAL_BITS => {
                for (row, bits) in places().zip(read_bits(input, count)?) {
                    let number = f64::from_bits(bits);
                    if number.is_nan() {
                        return Err(WireError::Damaged("a float is no number"));
                    }
                    values[row] = Value::Real(number);
                }
            }
            classes::UUID | classes::SIXTEEN => {
                input.budget.take_many(count, 36)?;
                for (row, sixteen) in places().zip(read_sixteens(input, count, are_keys)?) {
                    values[row] = if *class == classes::UUID {
                        Value::Text(classes::uuid_text(&sixteen))
                    } else {
                        Value::Blob(sixteen.to_vec())
                    };
                }
            }
            classes::TEXT | classes::BLOB => read_strings(input, *class, count, places(), &mut values)?,
            class => {
                input.budget.take_many(count, text_bytes(class))?;
                let numbers = numbers::read(&mut input.coder, &mut input.shared.plans, count)?;
                for (row, number) in places().zip(numbers) {
                    values[row] = classes::value_of_number(class, number, scale)
                        .ok_or(WireError::Damaged("a number does not fit its form"))?;
                    done.numbers[row] = number;
                }
            }
        }
    }
    Ok((values, done))
}

/// What the text of a number may take.
fn text_bytes(class: Class) -> usize {
    if matches!(class, classes::INT | classes::REAL) {
        0
    } else {
        32
    }
}

fn code_classes<C: Coder>(
    coder: &mut C,
    shared: &mut Shared,
    list: &[Class],
    scale: u8,
    values: usize,
) -> (Vec<Class>, u8) {
    // One value has one class.
    let count = if values == 1 { 0 } else { shared.class_count.code(coder, list.len() as u64 - 1) };
    let count = count.min(u64::from(classes::CLASSES)) as usize + 1;
    let list: Vec<Class> =
        (0..count).map(|at| shared.class.code(coder, list.get(at).copied().unwrap_or(0), classes::CLASSES)).collect();
    let scale =
        if list.contains(&classes::REAL) { shared.scale.code(coder, scale, classes::REAL_SCALE_MAX + 1) } else { 0 };
    (list, scale)
}

fn read_classes(input: &mut In<'_>, values: usize) -> Result<(Vec<Class>, u8), WireError> {
    let (list, scale) = code_classes(&mut input.coder, &mut input.shared, &[0], 0, values);
    input.coder.check()?;
    let known = list.iter().enumerate().all(|(at, class)| classes::is_known(*class) && !list[..at].contains(class));
    if known {
        Ok((list, scale))
    } else {
        Err(WireError::Damaged("a column's classes are wrong"))
    }
}

/// Which class each value has: a symbol by the class of the value before.
fn code_members<C: Coder>(coder: &mut C, classes: usize, members: &mut [u8]) {
    if classes < 2 {
        return;
    }
    let mut models = vec![Symbol::new(); classes];
    let mut last = 0;
    for member in members {
        *member = models[last].code(coder, *member, classes as u8);
        last = usize::from(*member);
    }
}

/// Raw floats: sign, exponent and the first bits of the fraction are learned, and the rest is taken as it is, except zeros
/// that all have at their end (floats that were single once).
fn write_bits(out: &mut Out, bits: &[i64]) {
    let zeros = bits.iter().fold(0, |all, bits| all | bits).trailing_zeros().min(48);
    out.coder.direct(6, u64::from(zeros));
    let upper: Vec<i64> = bits.iter().map(|bits| (*bits as u64 >> 48) as i64).collect();
    numbers::write(&mut out.coder, &mut out.shared.plans, &upper);
    for bits in bits {
        out.coder.direct(48 - zeros, *bits as u64 >> zeros & ((1 << (48 - zeros)) - 1));
    }
}

fn read_bits(input: &mut In<'_>, count: usize) -> Result<Vec<u64>, WireError> {
    let zeros = input.coder.direct(6, 0) as u32;
    if zeros > 48 {
        return Err(WireError::Damaged("a column of floats is wrong"));
    }
    let upper = numbers::read(&mut input.coder, &mut input.shared.plans, count)?;
    let mut bits = Vec::with_capacity(count);
    for upper in upper {
        bits.push((upper as u64) << 48 | input.coder.direct(48 - zeros, 0) << zeros);
        input.coder.check()?;
    }
    Ok(bits)
}

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

fn write_sixteens(out: &mut Out, sixteens: &[[u8; 16]], are_keys: bool) {
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

fn read_sixteens(input: &mut In<'_>, count: usize, are_keys: bool) -> Result<Vec<[u8; 16]>, WireError> {
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
    let low = super::model::bucket(most).saturating_sub(16);
    let high = coder.below((most >> low) as u32 + 1, (value >> low) as u32);
    u64::from(high) << low | coder.direct(low, value & ((1 << low) - 1))
}

fn write_strings(out: &mut Out, class: Class, strings: &[&[u8]]) {
    let repeats = has_repeats(strings.iter());
    if strings.len() > 1 {
        out.coder.bit(&mut out.shared.repeats[1], repeats);
    }
    let mut index = Index::new();
    let mut known: QuickMap<&[u8], usize> = QuickMap::default();
    for string in strings {
        if repeats {
            let found = known.get(string).copied();
            if index.code(&mut out.coder, found, known.len()).is_some() {
                continue;
            }
            if known.len() < ENTRIES_MAX {
                known.insert(string, known.len());
            }
        }
        if class == classes::TEXT {
            out.pool.text(string);
        } else {
            out.pool.bytes(&mut out.coder, string);
        }
    }
}

fn read_strings(
    input: &mut In<'_>,
    class: Class,
    count: usize,
    places: impl Iterator<Item = usize>,
    values: &mut [Value],
) -> Result<(), WireError> {
    let repeats = count > 1 && input.coder.bit(&mut input.shared.repeats[1], false);
    let mut index = Index::new();
    let mut entries: Vec<usize> = Vec::new();
    for row in places.take(count) {
        if repeats {
            if let Some(at) = index.code(&mut input.coder, None, entries.len()) {
                input.coder.check()?;
                let first = entries.get(at).ok_or(WireError::Damaged("a repetition leads nowhere"))?;
                input.budget.take(values[*first].size())?;
                values[row] = values[*first].clone();
                continue;
            }
            if entries.len() < ENTRIES_MAX {
                entries.push(row);
            }
        }
        values[row] = if class == classes::TEXT {
            Value::Text(input.pool.text(&mut input.budget)?)
        } else {
            Value::Blob(input.pool.bytes(&mut input.coder, &mut input.budget)?)
        };
        input.coder.check()?;
    }
    Ok(())
}

/// Whether enough values repeat for a dictionary to pay. A long column is judged by its beginning, middle and end.
fn has_repeats<T: Eq + std::hash::Hash>(values: impl ExactSizeIterator<Item = T> + Clone) -> bool {
    const PART: usize = 700;
    let count = values.len();
    let mut seen = QuickMap::default();
    if count <= 3 * PART {
        return !values.into_iter().all(|value| seen.insert(value, ()).is_none());
    }
    let sample =
        values.clone().take(PART).chain(values.clone().skip(count / 2).take(PART)).chain(values.skip(count - PART));
    let mut repeats = 0;
    for value in sample {
        if seen.insert(value, ()).is_some() {
            repeats += 1;
        }
    }
    repeats > 3 * PART / 50
}
