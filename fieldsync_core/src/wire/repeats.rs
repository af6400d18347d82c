//! Whether a dictionary pays.

use super::model::QuickMap;

/// Whether enough values repeat for a dictionary to pay. A long column is judged by its beginning, middle and end.
pub(super) fn has_repeats<T: Eq + std::hash::Hash>(values: impl ExactSizeIterator<Item = T> + Clone) -> bool {
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
