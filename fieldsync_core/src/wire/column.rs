//! A column of values: classes first, then what the values of each class need, class by class.

use super::budget::VALUE_BYTES;
use super::classes::{self, Class, Form};
use super::error::WireError;
use super::model::Symbol;
use super::numbers;
use super::parts::{In, Out, Shared};
use super::range::Coder;
use super::sixteens::{read_sixteens, write_sixteens};
use super::strings::{read_strings, write_strings};
use crate::value::Value;

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
