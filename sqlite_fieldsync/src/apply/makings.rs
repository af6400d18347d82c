//! Which records made here the hub has heard of.
//!
//! Invariant: a record that came and went between two exports has never travelled, so that nothing the hub says is about it.

use crate::log::Entry;
use fieldsync_core::delta::Op;
use fieldsync_core::Key;
use std::collections::HashMap;

/// For each row (table and key) that was made and has travelled, the place of its latest such making up to `answered`. `ends`: the places
/// at which exports ended, ascending.
pub(super) fn heard<'e>(entries: &'e [Entry], ends: &[i64], answered: i64) -> HashMap<(u32, &'e Key), i64> {
    let export_of = |place: i64| ends.partition_point(|end| *end < place);
    let mut makings: HashMap<(u32, &Key), Vec<i64>> = HashMap::new();
    for Entry { place, logged } in entries.iter().filter(|entry| entry.place <= answered) {
        let row = (logged.table, &logged.key);
        match logged.op {
            Op::Insert => makings.entry(row).or_default().push(*place),
            Op::Delete => {
                if let Some(made) = makings.get_mut(&row) {
                    made.retain(|made| export_of(*made) != export_of(*place));
                }
            }
            Op::Update | Op::Cancelled => {}
        }
    }
    makings.into_iter().filter_map(|(row, made)| Some((row, *made.last()?))).collect()
}
