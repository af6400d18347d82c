//! Texts and byte strings of a column: those that are no repetition go to the pool.

use super::classes::{self, Class};
use super::error::WireError;
use super::model::{Index, QuickMap, ENTRIES_MAX};
use super::parts::{In, Out};
use super::range::Coder;
use super::repeats::has_repeats;
use crate::value::Value;

pub(super) fn write_strings(out: &mut Out, class: Class, strings: &[&[u8]]) {
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

pub(super) fn read_strings(
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
