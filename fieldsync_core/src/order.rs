//! Parents before children.

/// Orders `count` tables so that every parent stands before its children. `edges` are `(child, parent)` pairs;
/// self-references are ignored. Tables of a cycle stand together, in their given order, after the cycle's other parents:
/// their rows rely on deferred checks. Stable: tables without a tie between them keep their order.
///
/// Kahn's algorithm; where only cycles are left, the first remaining table that the fewest unplaced parents hold back.
pub fn parents_first(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut placed = vec![false; count];
    let mut order = Vec::with_capacity(count);
    let waiting = |table: usize, placed: &[bool]| {
        let mut parents: Vec<usize> = edges
            .iter()
            .filter(|(child, parent)| *child == table && *parent != table && *parent < count && !placed[*parent])
            .map(|(_, parent)| *parent)
            .collect();
        parents.sort_unstable();
        parents.dedup();
        parents.len()
    };
    while order.len() < count {
        let next = (0..count).filter(|table| !placed[*table]).min_by_key(|table| (waiting(*table, &placed), *table));
        match next {
            Some(table) => {
                placed[table] = true;
                order.push(table);
            }
            None => break,
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cycle_and_its_child() {
        // 0 -> 1 -> 2 -> 1 (1 and 2 form a cycle, 0 is their child)
        let order = parents_first(3, &[(0, 1), (1, 2), (2, 1)]);
        assert_eq!(order.last(), Some(&0));
    }

    proptest! {
        #[test]
        fn without_cycles_every_parent_comes_first(pairs in prop::collection::vec((0usize..12, 0usize..12), 0..40)) {
            let edges: Vec<_> = pairs.into_iter().filter(|(child, parent)| child > parent).collect();
            let shuffled: Vec<_> = edges.iter().map(|(c, p)| (11 - c, 11 - p)).collect();
            let order = parents_first(12, &shuffled);
            prop_assert_eq!(order.len(), 12);
            let place = |table| order.iter().position(|at| *at == table).unwrap();
            for (child, parent) in shuffled {
                prop_assert!(place(parent) < place(child));
            }
        }
    }
}
